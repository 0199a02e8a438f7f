"""Options of the commands that are no whole job: single steps, checks, chat, page, logs. As `crispr_lm.settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from crispr_lm.settings import (
    HUB_GROUP,
    MODEL_GROUP,
    OUTPUT_GROUP,
    REPORT_GROUP,
    TASK_GROUP,
    AllowPickle,
    AttributionSettings,
    GroupsFile,
    ModelSettings,
    PromptSettings,
    ReportSettings,
    StrictSettings,
    TaskSettings,
    TrustRemoteCode,
)

ANSWER_GROUP = Group.create_ordered("Answers: how they are written")
APP_GROUP = Group.create_ordered("Page: where it is")
LOG_GROUP = Group.create_ordered("Log: what of it is read")


@Parameter(name="*")
class HubSettings(StrictSettings):
    """What goes to the hub."""

    push_to_hub: Annotated[str | None, Parameter(group=HUB_GROUP)] = Field(
        None, description="Upload the result to this repository (OWNER/NAME) of the Hugging Face hub; private."
    )
    public: Annotated[bool, Parameter(group=HUB_GROUP, negative="")] = Field(
        False, description="Make the repository public."
    )
    dry_run: Annotated[bool, Parameter(group=HUB_GROUP, negative="")] = Field(
        False,
        description="With --push-to-hub: upload nothing, only list what would be uploaded. `run` without it: check the "
        "input, say how long the run takes and how much memory, and end; nothing is written.",
    )


@Parameter(name="*")
class ApplySettings(ModelSettings, HubSettings):
    """All options of ``crispr-lm apply`` but its edit and output folder."""

    format: Annotated[Literal["folder", "lora", "slim", "edit"], Parameter(group=OUTPUT_GROUP)] = Field(
        "folder",
        description="folder: a plain model of the same shapes; lora: a PEFT adapter of exactly the same function; "
        "slim: feed-forward blocks physically narrower, where every block loses a neuron; edit: the edit alone with a "
        "card, to share.",
    )
    load: Annotated[bool, Parameter(group=OUTPUT_GROUP)] = Field(
        True,
        description="Compare option scores after saving, which loads the model twice. With --no-load safetensors and "
        "GGUF files of any size are edited on disk alone.",
    )
    results: Annotated[Path | None, Parameter(group=OUTPUT_GROUP)] = Field(
        None,
        description="The results.json for the model card; by default the one beside the edit, if there is one.",
    )


@Parameter(name="*")
class ScoreSettings(ModelSettings, TaskSettings, AttributionSettings):
    """All options of ``crispr-lm score`` but its output file."""


@Parameter(name="*")
class LmEvalSettings(PromptSettings, TaskSettings):
    """All options of ``crispr-lm lm-eval-task`` but its output folder."""

    split: Annotated[Literal["test", "all"], Parameter(group=REPORT_GROUP)] = Field(
        "test", description="Export the test split, which no edit of the same seed was made on, or all examples."
    )
    trust_remote_code: TrustRemoteCode = False


@Parameter(name="*")
class EvaluateSettings(ModelSettings, TaskSettings, ReportSettings):
    """All options of ``crispr-lm evaluate`` but its edit and output file."""

    split: Annotated[Literal["test", "all"], Parameter(group=REPORT_GROUP)] = Field(
        "test",
        description="Measure on the test split, which no edit of the same seed was made on, or on all examples. "
        "Results of all say how many examples are of templates that the edit was made on.",
    )
    evidence: Annotated[Path | None, Parameter(group=REPORT_GROUP)] = Field(
        None,
        description="New folder for the seal, every answer and the results, for crispr-lm evidence; `run` writes them "
        "in any case.",
    )


@Parameter(name="*")
class ExportSettings(StrictSettings):
    """All options of ``crispr-lm export`` but its folders."""

    format: Annotated[Literal["every-eval-ever", "inspect", "hub"], Parameter(group=OUTPUT_GROUP)] = Field(
        description="every-eval-ever: JSON of the shared schema; inspect: logs of Inspect; hub: the Hugging Face hub's "
        "evaluation results."
    )
    model_name: Annotated[str | None, Parameter(group=OUTPUT_GROUP)] = Field(
        None,
        pattern="^[^/]+/[^/]+$",
        description="every-eval-ever: OWNER/NAME of the base model, where the measurement has its folder's name alone.",
    )
    organization: Annotated[str, Parameter(group=OUTPUT_GROUP)] = Field(
        "unknown", min_length=1, description="every-eval-ever: who made the evaluation."
    )
    relationship: Annotated[
        Literal["first_party", "third_party", "collaborative", "other"], Parameter(group=OUTPUT_GROUP)
    ] = Field("other", description="every-eval-ever: what they are to the maker of the model.")
    dataset: Annotated[tuple[str, ...], Parameter(group=OUTPUT_GROUP, negative="")] = Field(
        (),
        description="hub: TASK=OWNER/NAME:TASK_ID, the hub's benchmark that a task is of. May be given several times.",
    )


@Parameter(name="*")
class CheckSettings(ModelSettings):
    """All options of ``crispr-lm check`` but its output files."""

    rules: Annotated[str, Parameter(group=TASK_GROUP)] = Field(
        description="TOML file of rules (docs/gate.md), or builtin:bbq, builtin:crows_pairs, builtin:stereoset, "
        "builtin:winobias; with -baseline added to the name, limits on what is lost against a baseline."
    )
    task: Annotated[tuple[str, ...], Parameter(group=TASK_GROUP, negative="")] = Field(
        (),
        description="Data for a task of the rules that names none, such as bbq:PATH. May be given several times.",
    )
    groups: GroupsFile = None
    questions: Annotated[Annotated[int, Field(ge=1)] | None, Parameter(group=TASK_GROUP)] = Field(
        None, description="Questions of each task, in place of the number that the rules give."
    )
    baseline: Annotated[str | None, Parameter(group=MODEL_GROUP)] = Field(
        None,
        description="What losses are measured against: a model, or answers that an earlier check stored (--answers).",
    )
    seed: Annotated[int, Parameter(group=TASK_GROUP)] = Field(
        0, ge=0, lt=2**32, description="Seed of which questions are drawn, and of the resamples of intervals."
    )


@Parameter(name="*")
class ReproduceSettings(StrictSettings):
    """All options of ``crispr-lm reproduce`` but its folders."""

    model: Annotated[str | None, Parameter(group=MODEL_GROUP)] = Field(
        None, description="Where the model is now, if it is not where the record says."
    )
    device: Annotated[str, Parameter(group=MODEL_GROUP)] = Field("auto", description="To run on: auto, cpu, cuda, ...")
    trust_remote_code: TrustRemoteCode = False
    allow_pickle: AllowPickle = False
    tolerance: Annotated[float, Parameter(group=OUTPUT_GROUP)] = Field(
        0.02, description="Largest difference of a figure that counts as the same."
    )


@Parameter(name="*")
class LogSettings(StrictSettings):
    """What ``crispr-lm questions from`` takes of a log, and which words it exchanges beside the user's."""

    builtin: Annotated[bool, Parameter(group=LOG_GROUP)] = Field(
        True, description="Exchange women and men, too: pronouns, nouns, common first names."
    )
    metric: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Take only what failed by this assertion, metric or scorer."
    )
    prompt_column: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Column of a table that holds the prompts; by default it is recognised by its name."
    )
    answer_column: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Column that holds the answers, likewise."
    )


@Parameter(name="*")
class ChatSettings(ModelSettings):
    """All options of ``crispr-lm chat`` but its edit."""

    max_new_tokens: Annotated[int, Parameter(group=ANSWER_GROUP)] = Field(
        200, ge=1, description="Most tokens of an answer."
    )
    temperature: Annotated[float, Parameter(group=ANSWER_GROUP)] = Field(
        0.0, ge=0, allow_inf_nan=False, description="0 writes the likeliest words; higher values sample more widely."
    )
    seed: Annotated[int, Parameter(group=ANSWER_GROUP)] = Field(
        0, ge=0, lt=2**32, description="Seed of the sampling, the same for both answers."
    )


@Parameter(name="*")
class AppSettings(ModelSettings):
    """All options of ``crispr-lm app`` but its folder."""

    model: Annotated[str | None, Parameter(group=MODEL_GROUP)] = Field(
        None, description="Where the model is, if not where the run found it: hub id, local folder, .gguf file."
    )
    host: Annotated[str, Parameter(group=APP_GROUP)] = Field(
        "127.0.0.1", description="Address to serve on. Any other is open to everyone who can reach this machine."
    )
    port: Annotated[int, Parameter(group=APP_GROUP)] = Field(7860, ge=1, le=65535, description="Port to serve on.")
