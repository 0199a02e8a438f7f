"""What a search hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crispr_lm.edits.edit import Edit
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.presets import SEARCHES
from crispr_lm.search.rankings import PUBLISHED
from crispr_lm.search.selection import Decision, Verdict, picked_by_hand
from crispr_lm.search.trial import Trial


@dataclass(frozen=True)
class Found:
    """What `crispr_lm.search_edit` has found.

    Attributes:
        edit: The edit, with the templates it was made on; of no neurons where none is recommended.
        verdict: "recommended" where its gain is shown on further questions, "untested" where it was not tested on any,
            else "none".
        reason: Why, in one sentence.
        trials: Everything that was tried, in order: the original first, re-evaluations and random neurons last.
        front: The Pareto front of gain, loss and KL divergence among the trials, by falling gain.
        decision: The verdict with the trial it is about, and the tests behind it.
        scores_origin: How the published ranking was computed.
    """

    edit: Edit
    trials: tuple[Trial, ...]
    decision: Decision
    scores_origin: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> Verdict:  # noqa: D102
        return self.decision.verdict

    @property
    def reason(self) -> str:  # noqa: D102
        return self.decision.reason

    @property
    def ranking(self) -> str:
        """What ordered the edit's neurons, as in `Searched`."""
        return ranking_of(self.decision.trial, self.trials)

    @property
    def front(self) -> tuple[Trial, ...]:  # noqa: D102
        return self.decision.front

    def picked(self, lm: LanguageModel, number: int) -> Found:
        """The same with another trial of the front as the edit; any but the recommended one is "untested".

        Args:
            lm: The model that was searched, unedited.
            number: Of the trial.

        Raises:
            InputError: the trial is not on the front.
        """
        decision = picked_by_hand(self.decision, number)
        trial = decision.trial
        origin = edit_origin(self.scores_origin, ranking_of(trial, self.trials), decision.reason)
        edit = Edit.from_neurons(lm, trial.neurons, trial.scale, origin, self.edit.made_on)
        return replace(self, edit=edit, decision=decision)


def ranking_of(trial: Trial, trials: Sequence[Trial]) -> str:
    """What ordered the neurons of a trial: it comes from a ranking or from the rounds, by way of other trials."""
    known, fewer = {one.number: one for one in trials}, False
    while "of" in trial.recipe:
        fewer = fewer or trial.stage == "elimination"
        trial = known[trial.recipe["of"]]
    return str(trial.recipe.get("ranking", "gradient")) + ", fewer" * fewer


def edit_origin(scores_origin: Mapping[str, Any], ranking: str, reason: str) -> dict[str, Any]:
    """Where an edit of the search comes from: with how scores were computed only if it is of the published ranking.

    Args:
        scores_origin: How the published ranking was computed, and for which model and tasks.
        ranking: What ordered the edit's neurons.
        reason: Why it was taken.
    """
    kept = scores_origin if ranking.startswith(PUBLISHED) else ("model", "tasks", "instructions", "seed")
    of_scores = {name: scores_origin[name] for name in kept if name in scores_origin}
    return {**of_scores, "made_by": SEARCHES["tuned"], "ranking": ranking, "preset": None, "reason": reason}


@dataclass(frozen=True)
class Searched:
    """What the search step of a job hands on, whichever search it was.

    Attributes:
        neurons: Of the edit, in order of rank; none where no edit is recommended (or picked).
        scale: What their activations are multiplied with.
        reason: Why, in one sentence.
        verdict: "recommended", "untested" or "none" (`crispr_lm.search.selection`); "as asked" where the search keeps
            no limits and recommends nothing.
        ranking: What ordered the neurons: "published", the name of a registered ranking, or "gradient" (the search's
            rounds); with ", fewer" where backward elimination has left some of them out.
        rows: Everything that was tried, short, for ``results.json``.
        entries: Further entries of ``results.json``.
    """

    neurons: tuple[Neuron, ...]
    scale: float
    reason: str
    verdict: str
    ranking: str
    rows: list[dict[str, Any]]
    entries: Mapping[str, Any] = field(default_factory=dict)
