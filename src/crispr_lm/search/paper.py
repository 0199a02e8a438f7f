"""CRISPR (paper): the procedure of the paper's authors as a whole, as in their published code.

Attribution on a few random rows under all instructions; the neurons of highest bias influence B are eliminated, as many
of them as give the highest accuracy on the whole validation split, found by a golden-section search. No limits.
``docs/reproduce-the-paper.md`` lists what differs from their code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.attribution.task_scores import score_tasks, with_draws
from crispr_lm.edits.edit import Edit
from crispr_lm.evaluation.evaluation import ScoringMethod, evaluate_task
from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.metrics.family import Metrics
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import NeuronKind
from crispr_lm.presets import PAPER, procedure_name
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.search.neuron_count import Candidate, golden_section, golden_section_trials
from crispr_lm.search.rankings import PUBLISHED
from crispr_lm.tasks.base import AttributeOn, Task, template_hashes
from crispr_lm.tasks.parts import Parts, Sampling, SplitBy, attribution_candidates, check_attributable, draws, split_of


@dataclass(frozen=True)
class PaperOptions:
    """The settings of the procedure; the defaults are those of ``--preset paper``.

    Attributes:
        examples: Random rows of a draw for the attribution.
        seeds: One a draw; scores are averaged over the draws.
        neurons: Kind of neurons.
        attribute_on: Condition of the rows.
        sampling: How they are drawn.
        skill_weight: λ of B = Ã - λ A.
        token_aggregation: How activation x gradient is reduced over a prompt's tokens.
        confusion_weight: Whether A has the factor P(ŷ).
        max_neurons: Upper end of the golden-section search.
        scoring: How answers are found where n is chosen: "generate", or "sum" (their other mode).
        split_by: "template" (ours: attribution, validation and test split hold other templates) or "random" (theirs).
        seed: Of the split.
        batch_size: Prompts in one pass. Results do not depend on it.
    """

    examples: int = PAPER["examples"]
    seeds: tuple[int, ...] = PAPER["seeds"]
    neurons: NeuronKind = PAPER["neurons"]
    attribute_on: AttributeOn = PAPER["attribute_on"]
    sampling: Sampling = PAPER["sampling"]
    skill_weight: float = PAPER["skill_weight"]
    token_aggregation: TokenAggregation = PAPER["token_aggregation"]
    confusion_weight: bool = PAPER["confusion_weight"]
    max_neurons: int = PAPER["max_neurons"]
    scoring: ScoringMethod = PAPER["scoring"]
    split_by: SplitBy = "template"
    seed: int = 0
    batch_size: BatchSize = "auto"


@dataclass(frozen=True)
class PaperEdit:
    """What `crispr` has found.

    Attributes:
        edit: The neurons that are eliminated; none where no number of them was better than 0.
        scores: Bias influence B of every neuron.
        candidates: Every number of neurons that was measured, in the order of the number; 0 is the original.
        reason: Why so many, in one sentence.
        parts: What of the task was used for what; measure the edit on `Parts.test`.
    """

    edit: Edit
    scores: NeuronScores
    candidates: tuple[Candidate, ...]
    reason: str
    parts: Parts


def crispr(
    lm: LanguageModel, task: Task, options: PaperOptions | None = None, progress: Progress | None = None
) -> PaperEdit:
    """CRISPR as published: the neurons of highest bias influence, their number by golden section on accuracy.

    It looks at no cost. `crispr_lm.search_edit` is the search within limits.

    Args:
        lm: The model, unedited; left as it was.
        task: With the instructions to use: the paper has ten.
        options: The settings; by default those of the paper.
        progress: Shows how far it is.

    Raises:
        InputError: too few templates or rows, or a prompt that does not fit the model's context.
    """
    options, progress = options or PaperOptions(), progress or SilentProgress()
    parts = paper_parts(task, options)
    scores = score_tasks(lm, [(task, parts.attribution)], options, progress)
    scores = with_draws(scores, options.seeds, options.sampling)
    chosen = choose_by_accuracy(lm, scores, [parts], options, progress=progress)
    used = {**PAPER, **asdict(options), "instructions": (str(len(task.instructions)),), "preset": "paper"}
    made_by = procedure_name(used)
    origin = {**scores.origin, "made_by": made_by, "ranking": PUBLISHED, "preset": "paper", "reason": chosen.reason}
    neurons = scores.top(chosen.neurons)
    edit = Edit.from_neurons(lm, neurons, 0.0, origin, template_hashes(parts.searched_on))
    return PaperEdit(edit, scores, chosen.candidates, chosen.reason, parts)


def paper_parts(task: Task, options: PaperOptions) -> Parts:
    """Draw what the procedure uses of a task: random rows to attribute on, and the whole validation split.

    Raises:
        InputError: too few templates or rows.
    """
    check_attributable(task)
    split = split_of(task, options.seed, options.split_by)
    pool = attribution_candidates(task, options.attribute_on, options.seed, options.split_by)
    drawn = draws(pool, options.examples, options.seeds, options.sampling)
    return Parts(task, drawn, split.validation, split.test)


@dataclass(frozen=True)
class Log:
    """Numbers of neurons that were measured before, and who is told of new ones."""

    known: Sequence[Candidate] = ()
    finished: Callable[[Candidate], None] = field(default=lambda _candidate: None)


@dataclass(frozen=True)
class ByAccuracy:
    """The number that was chosen, why, and everything that was measured."""

    neurons: int
    reason: str
    candidates: tuple[Candidate, ...]


def choose_by_accuracy(
    lm: LanguageModel,
    scores: NeuronScores,
    parts: Sequence[Parts],
    options: PaperOptions,
    log: Log | None = None,
    progress: Progress | None = None,
) -> ByAccuracy:
    """Choose how many neurons of a ranking to eliminate, by accuracy on the validation split under all instructions.

    The accuracy is the mean over instructions, of several tasks the mean over tasks. The original is measured too, for
    comparison; as in the paper's code it is a candidate only where the search comes to 0.

    Args:
        lm: The model, unedited; left as it was.
        scores: The ranking.
        parts: The tasks, `Parts.validation` being what is asked.
        options: The upper end, and how answers are found.
        log: Of an interrupted search.
        progress: Shows how far it is.
    """
    log, progress = log or Log(), progress or SilentProgress()
    most = min(options.max_neurons, len(scores))
    known = {candidate.neurons: candidate for candidate in log.known}
    prompts = sum(len(part.validation) * len(part.task.instructions) for part in parts)
    with progress.step("Choosing how many", golden_section_trials(most) * prompts) as advance:

        def measured(count: int) -> Candidate:
            if count not in known:
                edit = Edit.from_neurons(lm, scores.top(count))
                known[count] = Candidate(count, _accuracies(lm, parts, edit, options, advance))
                log.finished(known[count])
            return known[count]

        before = _mean_accuracy(measured(0))
        best = golden_section(lambda count: _mean_accuracy(measured(count)), most)
    after = _mean_accuracy(known[best])
    how = "written answers" if options.scoring == "generate" else "scored options"
    reason = (
        f"{best} neuron{'' if best == 1 else 's'}: highest accuracy on the validation split that a golden-section "
        f"search in 0 to {most} has found ({100 * before:.2f} % to {100 * after:.2f} %, {how}); no limits"
    )
    return ByAccuracy(best, reason, tuple(sorted(known.values(), key=lambda candidate: candidate.neurons)))


def _accuracies(
    lm: LanguageModel, parts: Sequence[Parts], edit: Edit, options: PaperOptions, advance: ProgressCallback
) -> dict[str, Metrics]:
    """Metrics of the edited model on the validation split, by task."""
    with edit.applied(lm):
        return {
            part.task.name: evaluate_task(
                lm,
                replace(part.task, examples=part.validation),
                part.task.scoring or options.scoring,
                options.batch_size,
                advance,
            ).metrics
            for part in parts
        }


def _mean_accuracy(candidate: Candidate) -> float:
    return fmean(metrics["accuracy"] or 0.0 for metrics in candidate.metrics.values())
