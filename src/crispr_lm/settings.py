"""Every option, once: command line, environment, TOML file and documentation are all made from these classes.

An option ``--max-neurons 50`` can also be given as environment variable ``CRISPR_LM_MAX_NEURONS=50`` or as the line
``max-neurons = 50`` of a TOML file named with ``--config``. The command line overrides the environment, the
environment the file. ``--trust-remote-code`` and ``--allow-pickle`` are taken from the command line alone.

`RunSettings` has all options; the smaller commands take the groups they need.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from crispr_lm.presets import PAPER

ENVIRONMENT_PREFIX = "CRISPR_LM_"

MODEL_GROUP = Group.create_ordered("Model")
TASK_GROUP = Group.create_ordered("Task")
ATTRIBUTION_GROUP = Group.create_ordered("Attribution: which neurons")
SEARCH_GROUP = Group.create_ordered("Search: which edit")
REPORT_GROUP = Group.create_ordered("Report: what changed")
COMPARE_GROUP = Group.create_ordered("Comparison: with what")
OUTPUT_GROUP = Group.create_ordered("Output")
HUB_GROUP = Group.create_ordered("Hugging Face hub")

BatchSizeSetting = Literal["auto"] | Annotated[int, Field(ge=1)]
# The largest machines have a few hundred cores; more threads than this are a slip of the finger.
ThreadsSetting = Literal["auto"] | Annotated[int, Field(ge=1, le=1024)]

TrustRemoteCode = Annotated[
    bool,
    Parameter(group=MODEL_GROUP, negative=""),
    Field(description="Run Python code that comes with the model. Only for code you have read."),
]
AllowPickle = Annotated[
    bool,
    Parameter(group=MODEL_GROUP, negative=""),
    Field(description="Also read weights stored as pickle (.bin), which can run code hidden in the file."),
]
GroupsFile = Annotated[
    Path | None,
    Parameter(group=TASK_GROUP),
    Field(
        description="File that says which names of persons mean which group, for questions whose stereotyped person is "
        'not found: a JSON object such as {"mujer": "F"}.'
    ),
]


def _several(given: Any) -> Any:
    """A single value (of a settings file, or of an older record) as the only one of several."""
    return (str(given),) if isinstance(given, (str, int)) else given


def _numbers(given: Any) -> Any:
    """Numbers, also with commas between them."""
    if given is None:
        return None
    return ",".join(map(str, given if isinstance(given, (list, tuple)) else [given])).split(",")


def _text_of(_type: Any, tokens: Sequence[Any]) -> str:
    """What was given on the command line, as it is: pydantic reads it."""
    return ",".join(token.value for token in tokens)


class StrictSettings(BaseModel):
    """Frozen, and strict about names: a misspelt option is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@Parameter(name="*")
class PromptSettings(StrictSettings):
    """How prompts are put to the model."""

    prompt_format: Annotated[Literal["chat", "plain"], Parameter(group=MODEL_GROUP)] = Field(
        "chat",
        description="chat: prompts go through the model's chat template, if it has one; plain: they are not changed.",
    )
    prompt_date: Annotated[datetime | None, Parameter(group=MODEL_GROUP)] = Field(
        None, description="Date and time for chat templates that write them; by default the moment that the job starts."
    )


@Parameter(name="*")
class ModelSettings(PromptSettings):
    """How the model is loaded and run."""

    dtype: Annotated[Literal["float32", "bfloat16", "float16", "auto"], Parameter(group=MODEL_GROUP)] = Field(
        "float32", description="Number format; auto: as stored (GGUF: bfloat16), but float32 where hardware lacks that."
    )
    device: Annotated[str, Parameter(group=MODEL_GROUP)] = Field(
        "auto",
        description="Where to run: auto (an accelerator if there is one), cpu, cuda, cuda:1, mps, balanced (over all "
        "accelerators), offload (layers brought in from disk in turn), or tensor-parallel (with torchrun).",
    )
    quantize: Annotated[Literal["none", "8bit", "4bit"], Parameter(group=MODEL_GROUP)] = Field(
        "none",
        description="Load the weights shortened (bitsandbytes). Edits are tied to the whole weights in the files.",
    )
    batch_size: Annotated[BatchSizeSetting, Parameter(group=MODEL_GROUP)] = Field(
        "auto", description="Prompts in one forward pass, or auto. Results do not depend on it."
    )
    deterministic: Annotated[bool, Parameter(group=MODEL_GROUP, negative="")] = Field(
        False, description="Use only algorithms that give the same bits every time on one machine (slower on a GPU)."
    )
    threads: Annotated[ThreadsSetting, Parameter(group=MODEL_GROUP)] = Field(
        "auto", description="Threads to use on a CPU; auto: the number of cores that are free when the command starts."
    )
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False


@Parameter(name="*")
class TaskSettings(StrictSettings):
    """Questions, instructions and the seed of the split."""

    task: Annotated[tuple[str, ...], Parameter(group=TASK_GROUP, negative="")] = Field(
        min_length=1,
        description="builtin:everyday (or one kind of it, builtin:everyday:Gender), bbq:PATH (official BBQ file or "
        "folder of them), choices:PATH (any multiple-choice questions as JSON lines), glue:mrpc:PATH (also rte, qnli, "
        "sst2), winobias:PATH, winogender:PATH, ... May be given several times.",
    )
    instructions: Annotated[
        tuple[str, ...], BeforeValidator(_several), Parameter(group=TASK_GROUP, negative="", show_default=", ".join)
    ] = Field(
        ("10",),
        min_length=1,
        description="How many of the ten built-in instructions to use, or a text file with one per line. NAME=FILE "
        "(or NAME=NUMBER): for the tasks of this name alone (bbq, Age, ...). May be given several times.",
    )
    groups: GroupsFile = None
    seed: Annotated[int, Parameter(group=TASK_GROUP)] = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed of the split into attribution, validation and test splits, and of all samples.",
    )


@Parameter(name="*")
class AttributionSettings(StrictSettings):
    """How bias neurons are found."""

    examples: Annotated[int, Parameter(group=ATTRIBUTION_GROUP)] = Field(
        20,
        ge=1,
        description="Examples per task to attribute on, from the attribution split (by default fewer if it has fewer).",
    )
    neurons: Annotated[Literal["linear", "ffn", "both"], Parameter(group=ATTRIBUTION_GROUP)] = Field(
        "linear",
        description="linear: output units of every linear layer (the paper); ffn: intermediate units of feed-forward "
        "blocks; both: the tuned search may eliminate either, and linear ones are scored.",
    )
    attribute_on: Annotated[Literal["ambiguous", "disambiguated", "both"], Parameter(group=ATTRIBUTION_GROUP)] = Field(
        "ambiguous",
        description="Which questions to attribute on, where a task has both kinds. Stereotypes show in ambiguous ones.",
    )
    skill_weight: Annotated[float, Parameter(group=ATTRIBUTION_GROUP)] = Field(
        1.0, ge=0, allow_inf_nan=False, description="λ: how much of a neuron's use for the right answer is subtracted."
    )
    token_aggregation: Annotated[Literal["max", "mean"], Parameter(group=ATTRIBUTION_GROUP)] = Field(
        "max",
        description="How activation x gradient is reduced over a prompt's tokens: max (the paper), or mean (its "
        "ablation).",
    )
    confusion_weight: Annotated[bool, Parameter(group=ATTRIBUTION_GROUP)] = Field(
        True,
        description="Whether examples count the more the more likely their biased answer is (the paper), or all the "
        "same (its ablation).",
    )
    sampling: Annotated[Literal["spread", "random"], Parameter(group=ATTRIBUTION_GROUP)] = Field(
        "spread",
        description="How attribution examples are drawn: spread evenly over conditions and templates, or at random.",
    )
    seeds: Annotated[
        tuple[int, ...] | None,
        BeforeValidator(_numbers),
        Parameter(group=ATTRIBUTION_GROUP, negative="", converter=_text_of),
    ] = Field(
        None,
        description="Seeds of several draws of attribution examples, such as 0,1,2, whose scores are averaged; by "
        "default one draw, with --seed.",
    )


@Parameter(name="*")
class SearchSettings(StrictSettings):
    """How the edit is found, and its limits."""

    search: Annotated[Literal["tuned", "sweep", "golden-section"], Parameter(group=SEARCH_GROUP)] = Field(
        "tuned",
        description="tuned: the neurons that take most bias within the limits; "
        "sweep: growing numbers of neurons of the published ranking; golden-section: the paper's search for the number "
        "by accuracy under all instructions, without limits (--preset paper sets what else belongs to it).",
    )
    rounds: Annotated[int, Parameter(group=SEARCH_GROUP)] = Field(
        12, ge=0, description="Rounds of a tuned search: gradient steps, then one edit that is tried. 0 for none."
    )
    time_budget: Annotated[float | None, Parameter(group=SEARCH_GROUP)] = Field(
        None, gt=0, allow_inf_nan=False, description="Minutes for the run (compare: a search); ends the rounds early."
    )
    pick: Annotated[Literal["ask"] | Annotated[int, Field(ge=0)] | None, Parameter(group=SEARCH_GROUP)] = Field(
        None,
        description="Take this trial of the Pareto front instead of the recommended one; ask: show the front in the "
        "terminal and choose there. With --resume: from the search that was done.",
    )
    max_kl: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.1, ge=0, description="Largest KL divergence from the original on neutral prompts, nats per token."
    )
    max_overabstention: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.2, ge=0, le=1, description='Largest rise of the share of "unknown" answers on disambiguated questions.'
    )
    max_neurons: Annotated[int, Parameter(group=SEARCH_GROUP)] = Field(
        100, ge=1, description="Largest number of neurons to eliminate."
    )
    max_accuracy_loss: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.05,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Largest loss of accuracy on disambiguated questions, measured or implied by answering "
        '"unknown" more often. 1 sets no limit.',
    )
    max_bias_rise: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.05,
        ge=0,
        allow_inf_nan=False,
        description="Largest rise of the size of a bias score, ambiguous or disambiguated, that --caution standard "
        "errors do not explain.",
    )
    max_fact_loss: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.02,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Largest loss of accuracy on facts about groups that --caution standard errors do not explain. 1 "
        "sets no limit.",
    )
    max_spillover: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.05,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Largest rise of the size of a bias score on other kinds of stereotype than the task's, that "
        "--caution standard errors do not explain. 1 sets no limit.",
    )
    caution: Annotated[float, Parameter(group=SEARCH_GROUP)] = Field(
        0.5,
        ge=0,
        allow_inf_nan=False,
        description="Safety margin: loss plus this many clustered standard errors must stay below the limit.",
    )
    validation_examples: Annotated[Literal["all"] | Annotated[int, Field(ge=2)], Parameter(group=SEARCH_GROUP)] = Field(
        96, description="Examples per task to try edits on, from the validation split (fewer if it has fewer), or all."
    )
    reevaluation_examples: Annotated[int, Parameter(group=SEARCH_GROUP)] = Field(
        240,
        ge=0,
        description="Total validation examples for re-evaluating the best candidates, those of --validation-examples "
        "included. A number no larger than --validation-examples switches the re-evaluation off.",
    )


@Parameter(name="*")
class ReportSettings(StrictSettings):
    """What is measured before and after."""

    evaluation_dtype: Annotated[Literal["weights", "auto", "bfloat16"], Parameter(group=REPORT_GROUP)] = Field(
        "weights",
        description="Number format that answers are computed in, in search and report: the weights' own, bfloat16, or "
        "auto (bfloat16 where the hardware has it and a check gives the same answers). Attribution is not affected.",
    )
    test_examples: Annotated[Literal["all"] | Annotated[int, Field(ge=1)], Parameter(group=REPORT_GROUP)] = Field(
        120, description="Examples per task for the results, from the test split (fewer if it has fewer)."
    )
    scoring: Annotated[Literal["sum", "mean", "generate"], Parameter(group=REPORT_GROUP)] = Field(
        "sum",
        description="How answers are scored: sum or mean (per token) of the options' log-probabilities; generate: what "
        "the model writes is matched to the options, with the share that matches none.",
    )
    measure: Annotated[tuple[str, ...], Parameter(group=REPORT_GROUP, negative="")] = Field(
        ("builtin:knowledge", "builtin:facts", "builtin:other-kinds"),
        description="Further tasks to measure before and after, to show side effects (builtin:other-kinds: the kinds "
        "of builtin:everyday that the task is not of); also wikitext:PATH or text:PATH "
        "for the perplexity of a text, twins:PATH for free answers to pairs of prompts that differ in the group alone. "
        "May be given several times.",
    )
    measure_examples: Annotated[Literal["all"] | Annotated[int, Field(ge=1)], Parameter(group=REPORT_GROUP)] = Field(
        120, description="Examples of each further task (windows of 1,024 tokens of a text)."
    )
    measure_instructions: Annotated[Annotated[int, Field(ge=1)] | None, Parameter(group=REPORT_GROUP)] = Field(
        None,
        description="Built-in instructions for each further task; by default as many as --instructions. Fewer are "
        "faster, and show less of the spread.",
    )
    neutral_prompts: Annotated[int, Parameter(group=REPORT_GROUP)] = Field(
        16, ge=1, le=48, description="Bundled neutral prompts that the KL divergence from the original is measured on."
    )
    rules: Annotated[Path | None, Parameter(group=REPORT_GROUP)] = Field(
        None,
        description="File of rules (docs/gate.md), or builtin:bbq and the like, to be sealed with settings and split "
        "before the test split is read. crispr-lm evidence and crispr-lm verify decide them.",
    )


@Parameter(name="*")
class FolderSettings(StrictSettings):
    """Where results go."""

    output: Annotated[Path, Parameter(group=OUTPUT_GROUP)] = Field(
        description="Folder for the results; made if absent."
    )
    resume: Annotated[bool, Parameter(group=OUTPUT_GROUP, negative="")] = Field(
        False,
        description="Make the results of a finished run anew from what it found. (To resume an interrupted run, only "
        "run the same command again.)",
    )
    overwrite: Annotated[bool, Parameter(group=OUTPUT_GROUP, negative="")] = Field(
        False, description="Replace an earlier run in the output folder."
    )


@Parameter(name="*")
class RunSettings(ModelSettings, TaskSettings, AttributionSettings, SearchSettings, ReportSettings, FolderSettings):
    """All options of ``crispr-lm run``. The model itself is the command's argument."""

    preset: Annotated[Literal["paper"] | None, Parameter(group=SEARCH_GROUP)] = Field(
        None,
        description="paper: the whole procedure of the paper's authors (docs/reproduce-the-paper.md). Options given "
        "beside it count; the results say which of them are not the paper's.",
    )
    split_by: Annotated[Literal["template", "random"], Parameter(group=TASK_GROUP)] = Field(
        "template",
        description="template: no template is in two splits; random: the split of the paper's code, a random 10 % of "
        "the rows to attribute and choose on and 90 % to measure on, near-copies on both sides. For the published "
        "ranking alone; crispr-lm compare refuses it.",
    )
    transfer: Annotated[bool, Parameter(group=REPORT_GROUP, negative="")] = Field(
        False,
        description="With several tasks: also find an edit on each of them alone and measure it on all (a search for "
        "each). With --resume it is added to a finished run.",
    )
    prompts: Annotated[Path | None, Parameter(group=REPORT_GROUP)] = Field(
        None, description="Prompts to answer before and after, for the report alone: JSON Lines, or .txt with lines."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in_preset(cls, given: Any) -> Any:
        """What the preset says of options that were not given."""
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**PAPER, **given}
        return given


@Parameter(name="*")
class CompareSettings(RunSettings):
    """All options of ``crispr-lm compare``: those of a run, and what its edit is compared with."""

    methods: Annotated[tuple[str, ...], Parameter(group=COMPARE_GROUP, negative="")] = Field(
        ("all",),
        description="Controls and baselines to compare with, by name, or all but crispr-paper, which takes long "
        "(docs/comparison.md lists them). May be given several times.",
    )
    ablation: Annotated[bool, Parameter(group=COMPARE_GROUP, negative="")] = Field(
        False,
        description="The paper's ablation: full, tokens averaged, no confusion weight, λ = 0 and random neurons, in a "
        "table of their own. Without --methods nothing else is compared.",
    )
    removed: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], Parameter(group=COMPARE_GROUP)] = Field(
        "auto", description="Neurons to eliminate; auto: as many as the search takes. With a number no search is run."
    )
    draws: Annotated[int, Parameter(group=COMPARE_GROUP)] = Field(
        3, ge=1, description="How often controls that are random are drawn."
    )
    calibration_texts: Annotated[int, Parameter(group=COMPARE_GROUP)] = Field(
        20, ge=1, description="Texts of random words for domain-context calibration (the paper's number)."
    )
    integration_steps: Annotated[int, Parameter(group=COMPARE_GROUP)] = Field(
        8, ge=2, description="Points that integrated gradients are taken at."
    )
    integration_prompts: Annotated[int, Parameter(group=COMPARE_GROUP)] = Field(
        10, ge=1, description="Attribution prompts for integrated gradients, which cost (modules x points) passes each."
    )
    transfer: Annotated[bool, Parameter(group=COMPARE_GROUP)] = Field(
        True, description="Measure the edit made for each task on every other task."
    )
    curves: Annotated[bool, Parameter(group=COMPARE_GROUP)] = Field(
        True,
        description="Measure growing numbers of neurons (to --max-neurons) and of attribution examples (to 50).",
    )
