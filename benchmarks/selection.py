"""How often is an edit recommended that does nothing, and how often one that gains?

    python benchmarks/selection.py --output docs/results/selection.md

Answers are drawn, not asked: every template has a chance of each answer, which the original and every edit draw from.
What chooses is the code of a run: `search.reevaluation.reevaluate_best`, `search.selection.decide`, and the
statement of `crispr_lm.report.statement`. Costs are drawn too, but the limits are off, so that the gain alone decides.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.stats import binomtest

from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.statistics import paired_differences
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.report.statement import outcome
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.reevaluation import reevaluate_best
from crispr_lm.search.selection import LEVEL, decide
from crispr_lm.search.trial import Limits, Trial, figures_of
from crispr_lm.search.trial_log import TrialLog
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

EDITS = 13
"""Edits of a search with the default options: the published ranking, 10 of 12 rounds, 2 of fewer neurons."""
FIRST, ALL, REPORTED = 96, 240, 120
"""Questions that edits are tried on, those with the further ones, and those of the test split: the defaults."""
TEMPLATES = (8, 24, 60)
"""Of the validation split, and as many others of the test split."""
GAINS = (0.05, 0.1, 0.2)
GAINING = 0.5
"""Share of the edits that gain, where any does; the others do nothing."""
COPIED = 0.8
"""Share of the draws that correlated edits have in common, and that edits which keep most answers have in common with
the original."""
MOVED = 0.1
"""Standard deviation over templates of what edits that move each of them at random do to the chance of an answer."""
RESAMPLES = 999
"""Of the interval on the test split, a tenth of a run's: its ends are less exact, its level is the same."""
LIMITS = Limits(kl=1.0, accuracy_loss=1.0, overabstention=1.0, caution=0.0)
RIGHT, OTHER, UNKNOWN = 0, 1, 2
Array = NDArray[Any]


class Setting(NamedTuple):
    """What is drawn.

    Attributes:
        templates: Number of templates of the validation split.
        correlated: Whether edits have most draws in common.
        kept: Whether edits and control keep most draws of the original, as edits of few neurons do.
        gain: What edits that gain do to the chance of a right answer to an ambiguous question.
        moved: Standard deviation over templates of what every edit does, 0 on average.
        limited: Whether no loss is allowed, by chance or not, so that most edits are beyond that limit.
    """

    templates: int
    correlated: bool
    kept: bool = False
    gain: float = 0.0
    moved: float = 0.0
    limited: bool = False


@dataclass(frozen=True)
class Counts:
    """Of how many runs.

    Attributes:
        shown: The gain over the original was shown on validation.
        searched: The search recommends an edit: also the gain over random neurons was shown.
        recommended: The test split confirms it.
    """

    runs: int = 0
    shown: int = 0
    searched: int = 0
    recommended: int = 0


class Drawn:
    """The answers of one run, in the place of `search.evaluator.Evaluator`; the original first, the control last.

    Half of the questions are ambiguous; every beginning is balanced over conditions and templates.
    """

    further_prompts = ALL - FIRST

    def __init__(self, setting: Setting, seed: int) -> None:
        generator = np.random.default_rng(seed)
        self._examples = _examples(setting.templates, ALL, "choose")
        self._tested_on = _examples(setting.templates, REPORTED, "test")
        gains = np.zeros(EDITS + 2)
        gains[1 : 1 + round(GAINING * EDITS)] = setting.gain
        self.answers, self._reported = (
            _drawn(generator, examples, gains, setting) for examples in (self._examples, self._tested_on)
        )
        self._ambiguous = np.array([example.condition == AMBIGUOUS for example in self._examples])
        golden = np.array([example.answer for example in self._examples])
        self._right = self.answers == golden
        self._unknown = self.answers == UNKNOWN

    def examples(self, _task: str) -> Sequence[Example]:
        """As of an evaluator."""
        return self._examples

    def random_control(self, trial: Trial, _seed: int) -> Proposal:
        """The edit that gains nothing, whatever the others do."""
        return Proposal("control", {"like": trial.number}, _neurons(EDITS + 1))

    def attempt(self, number: int, proposal: Proposal, _rivals: Sequence[Trial] = ()) -> Trial:
        """Answers to the first questions."""
        return self._trial(number, proposal, FIRST)

    def reevaluate(self, number: int, proposal: Proposal, _trial: Trial, _original: Trial | None = None) -> Trial:
        """Answers to all of them."""
        return self._trial(number, proposal, ALL)

    def _trial(self, number: int, proposal: Proposal, asked: int) -> Trial:
        which = proposal.neurons[0].index if proposal.neurons else 0
        before, after = self._metrics(0, asked), self._metrics(which, asked)
        answers = {"drawn": self.answers[which, :asked].tolist()}
        return Trial(
            number, proposal.stage, proposal.recipe, proposal.neurons, 0.0,
            figures_of({"drawn": before}, {"drawn": after}, 0.0), {"drawn": after}, answers, complete=True,
        )  # fmt: skip

    def _metrics(self, which: int, asked: int) -> dict[str, float | None]:
        right, unknown, ambiguous = self._right[which, :asked], self._unknown[which, :asked], self._ambiguous[:asked]
        answered = ~ambiguous & ~unknown
        return {
            "accuracy_ambiguous": float(right[ambiguous].mean()),
            "accuracy_disambiguated": float(right[~ambiguous].mean()),
            "unknown_rate_disambiguated": float(unknown[~ambiguous].mean()),
            "answered_accuracy": float(right[answered].mean()) if answered.any() else None,
        }

    def results(self, which: int) -> dict[str, Any]:
        """Of the test split, as ``results.json`` has them."""
        examples = self._tested_on
        before, after = (
            QUESTION_ANSWERING.columns(examples, one_hot(self._reported[number].tolist(), 3)) for number in (0, which)
        )
        family = replace(
            QUESTION_ANSWERING, metrics=tuple(x for x in QUESTION_ANSWERING.metrics if x.name == "accuracy_ambiguous")
        )
        clusters = [example.template for example in examples]
        found = paired_differences([before], [after], family, clusters, resamples=RESAMPLES)
        told = {name: difference.to_dict() for name, difference in found.items()}
        accuracy = float((before["right_ambiguous"].sum() / before["ambiguous"].sum()).item())
        task = {"role": "bias", "family": "question_answering", "before": {"accuracy_ambiguous": accuracy}}
        return {"verdict": "recommended", "tasks": {"drawn": {**task, "statistics": told}}}


def _examples(templates: int, questions: int, part: str) -> list[Example]:
    """Ambiguous and disambiguated in turn, of one template after the other."""
    return [
        Example(
            "", "?", ("right", "other", "unknown"), RIGHT if index % 2 else UNKNOWN,
            f"{part} {index // 2 % templates}", DISAMBIGUATED if index % 2 else AMBIGUOUS, UNKNOWN,
        )
        for index in range(questions)
    ]  # fmt: skip


def _drawn(generator: np.random.Generator, examples: Sequence[Example], gains: Array, setting: Setting) -> Array:
    """int64 (models, questions), the option that each model chooses; the first is the original, the last the control.

    A template's chance of a right answer is uniform in 0.1 to 0.7, of each condition: with the largest gain it stays
    below 1. Wrong answers are the two other options, equally often.
    """
    template = np.array([index // 2 % setting.templates for index in range(len(examples))])
    ambiguous = np.array([example.condition == AMBIGUOUS for example in examples])
    golden = np.array([example.answer for example in examples])
    chance = generator.uniform(0.1, 0.7, (2, setting.templates))[ambiguous.astype(int), template]
    moved = generator.normal(0, setting.moved, (len(gains), setting.templates)) if setting.moved else np.zeros((1, 1))
    moved[0] = moved[-1] = 0
    changed = gains[:, None] + (moved[:, template] if setting.moved else 0.0)
    chances = np.where(ambiguous, chance + changed, chance)
    drawn = generator.random((len(gains), len(examples)))
    if setting.correlated:
        common = generator.random(drawn[1:-1].shape) < COPIED
        drawn[1:-1] = np.where(common, generator.random(len(examples)), drawn[1:-1])
    if setting.kept:
        drawn[1:] = np.where(generator.random(drawn[1:].shape) < COPIED, drawn[0], drawn[1:])
    wrong = np.array([[option for option in (RIGHT, OTHER, UNKNOWN) if option != right] for right in golden])
    which = np.clip(2 * (drawn - chances) / np.maximum(1 - chances, 1e-9), 0, 1.999).astype(int)
    answers: Array = np.where(drawn < chances, golden, wrong[np.arange(len(golden)), which])
    return answers


def _neurons(number: int) -> tuple[Neuron, ...]:
    return (Neuron("drawn", number, "ffn"),) if number else ()


def run_once(setting: Setting, seed: int) -> tuple[bool, bool, bool]:
    """Whether the gain of one drawn search is shown, an edit recommended by it, and confirmed by the test split."""
    drawn = Drawn(setting, seed)
    evaluator = cast(Evaluator, drawn)
    log = TrialLog([], None, lambda _trial: None)
    for number in range(EDITS + 1):
        log.trials.append(drawn.attempt(number, Proposal("search", {"ranking": "drawn"}, _neurons(number))))
    limits = replace(LIMITS, accuracy_loss=0.0) if setting.limited else LIMITS
    decision = decide(evaluator, log, limits, 0, reevaluate_best(evaluator, log, limits))
    searched = decision.verdict == "recommended"
    confirmed = searched and outcome(drawn.results(decision.trial.neurons[0].index))["verdict"] == "recommended"
    return bool(decision.over_original and decision.over_original.shown), searched, confirmed


def simulate(setting: Setting, runs: int, seed: int = 0) -> Counts:
    """Count over many searches."""
    found = np.array([run_once(setting, seed + number) for number in range(runs)]).sum(axis=0)
    return Counts(runs, *map(int, found))


def share(count: int, runs: int) -> str:
    """A share with its 95 % interval (Clopper and Pearson)."""
    ends = binomtest(count, runs).proportion_ci()
    return f"{count / runs:.1%} ({ends.low:.1%} to {ends.high:.1%})"


def settings() -> dict[str, list[Setting]]:
    """What is simulated, by section of the page."""
    kinds = [Setting(*kind) for kind in itertools.product(TEMPLATES, (False, True), (False, True))]
    return {
        "nothing": kinds,
        "limited": [Setting(count, correlated=False, limited=True) for count in TEMPLATES],
        "moved": [Setting(count, correlated=False, moved=MOVED) for count in TEMPLATES],
        "gains": [kind._replace(gain=gain) for kind in kinds for gain in GAINS],
    }


def page(found: Mapping[str, Mapping[Setting, Counts]], seconds: float, arguments: Sequence[str]) -> str:
    """The page from the counts of each section."""
    nothing, moved, gaining = found["nothing"], found["moved"], found["gains"]
    without_effect = [*nothing.values(), *found["limited"].values()]
    worst = max(without_effect, key=lambda counts: counts.searched / counts.runs)
    runs = {name: next(iter(of_section.values())).runs for name, of_section in found.items()}
    kept = "at most" if worst.searched / worst.runs <= LEVEL else "more than"
    largest = {count: gaining[Setting(count, correlated=True, kept=True, gain=GAINS[1])] for count in TEMPLATES}
    power = ", ".join(f"{counts.searched / counts.runs:.0%} with {count}" for count, counts in largest.items())
    head = " | ".join(f"{gain:+g}" for gain in GAINS)
    of_gains = [
        f"| templates | edits | answers | verdict | {head} |",
        "| ---: | --- | --- | --- |" + " ---: |" * len(GAINS),
    ]
    for kind in nothing:
        for column, words in (("searched", "search recommends"), ("recommended", "test split confirms")):
            counted = [gaining[kind._replace(gain=gain)] for gain in GAINS]
            cells = " | ".join(f"{getattr(counts, column) / counts.runs:.0%}" for counts in counted)
            of_gains.append(f"| {_kind(kind)} | {words} | {cells} |")
    command = shlex.join(["python", "benchmarks/selection.py", *arguments])
    return PAGE.format(
        kept=kept,
        level=f"{100 * LEVEL:.1f} %",
        worst=share(worst.searched, worst.runs),
        gain=f"{GAINS[1]:+g}",
        power=power,
        runs=f"{runs['nothing']:,}",
        moved_runs=f"{runs['moved']:,}",
        gain_runs=f"{runs['gains']:,}",
        nothing=_table(nothing),
        limited=_table(found["limited"]),
        moved=_table(moved),
        gains="\n".join(of_gains),
        edits=EDITS,
        first=FIRST,
        reported=REPORTED,
        all=ALL,
        further=(ALL - FIRST) // 2,
        gaining=f"{GAINING:.0%}",
        copied=f"{COPIED:.0%}",
        deviation=MOVED,
        command=command,
        minutes=f"{seconds / 60:.0f}",
        machine=f"one core, {platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"scipy {scipy.__version__}",
    )


def _table(counted: Mapping[Setting, Counts]) -> str:
    """Shares of searches with their intervals, a row for each setting."""
    rows = [
        "| templates | edits | answers | gain over the original shown | search recommends | test split confirms |",
        "| ---: | --- | --- | --- | --- | --- |",
    ]
    for setting, counts in counted.items():
        cells = (share(count, counts.runs) for count in (counts.shown, counts.searched, counts.recommended))
        rows.append(f"| {_kind(setting)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _kind(setting: Setting) -> str:
    edits = "correlated" if setting.correlated else "independent"
    return f"{setting.templates} | {edits} | {f'{COPIED:.0%} kept' if setting.kept else 'redrawn'}"


PAGE = """# Is an edit recommended by luck?

**Of edits that do nothing one is recommended in {kept} {level} of searches**: in {worst} of them
where it is most often (share with its 95 % interval). Where half of the edits gain {gain} of ambiguous accuracy and
keep most of the original's answers, the search recommends one in this share of searches, by the number of validation
templates: {power}.

These are simulations. Answers are drawn; what picks and tests an edit is the code of a run
([how it decides](../method.md)). {edits} edits are tried on {first} questions, half of them ambiguous. The best are
asked {all}, and their gain is tested on those that none was picked on ({further} ambiguous ones). Limits on the cost
are off, so the gain alone decides. The test split is asked {reported} questions under one instruction; a run takes
the mean over ten, which is less noisy.

- Edits: "independent" ones draw every answer for themselves; "correlated" ones have {copied} of their draws in
  common.
- Answers: "redrawn" are drawn anew by every edit; "{copied} kept" shares so many draws with the original model, as
  edits of few neurons do. Differences are then less noisy.

## Edits that do nothing

Every edit draws from the original's own distribution within each template. {runs} searches a row.

{nothing}

The columns are three steps. First the test of the gain over the original, corrected for the re-evaluated edits. Then
the verdict of the search: the edit must also gain over as many random neurons. Then the verdict of the run,
"recommended" if the test split shows the gain, too.

## Edits that do nothing, most of them beyond a limit

More than three edits are re-evaluated while none of them keeps the limits. Here no loss of disambiguated accuracy is
allowed, not by chance either, so this is often so. {runs} searches a row.

{limited}

## Edits that change templates, but gain nothing on average

Further questions are of the same templates as those that edits are picked on. An edit that makes some templates
better and others worse (here by {deviation} in standard deviation) is picked for the templates of the validation split.
The gain there is real, but unseen templates do not have it. So the test over the original alone finds one more often
than its level says. The test split has other templates and takes most of these back, which is why the verdict needs
both. {moved_runs} searches a row.

{moved}

## Edits that gain

Share of searches in which an edit is recommended (power). {gaining} of the edits gain as much as the column says,
the others do nothing. {gain_runs} searches a cell: a share is known to within 9 points.

{gains}

Few templates can show little: the test swaps the answers of whole templates, for which 8 have 256 ways, and the
interval on the test split is widened for their number.

---

Made by `{command}` in {minutes} minutes of processor time
({machine}).
"""


def main(arguments: Sequence[str]) -> None:
    """Simulate everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "selection.md")
    parser.add_argument("--runs", type=int, default=1000, help="searches with edits that do nothing, of each kind")
    parser.add_argument("--gain-runs", type=int, default=120, help="searches with edits that gain, of each kind")
    parser.add_argument("--moved-runs", type=int, default=300, help="searches with edits that change templates")
    given = parser.parse_args(arguments)
    start = time.process_time()
    runs = {"nothing": given.runs, "limited": given.runs, "moved": given.moved_runs, "gains": given.gain_runs}
    found: dict[str, dict[Setting, Counts]] = {}
    for name, of_section in settings().items():
        found[name] = {}
        for setting in of_section:
            found[name][setting] = simulate(setting, runs[name])
            print(f"{time.process_time() - start:.0f} s", setting, found[name][setting], flush=True)
    given.output.write_text(page(found, time.process_time() - start, arguments), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
