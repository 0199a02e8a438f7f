"""How often does `crispr-lm check` fail a model against itself, and how often does it fail a planted stereotype?

    python benchmarks/check.py --output docs/results/check.md

Answers are drawn, not asked: every template has a chance of each answer, which the baseline and the model draw from.
What decides is the code of a check: `evaluation.decisions.decide` with the rules that come with the library.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.stats import binomtest

from crispr_lm.evaluation.decisions import Levels, decide
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.rules import Rule, read_rules
from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

STEREOTYPED, OTHER, UNKNOWN = 0, 1, 2
KEPT = 0.8
"""Share of the answers that a model keeps which was changed a little, as by a new number format or a small edit."""
PLANTED = 0.6
"""Share of the answers to ambiguous questions that a planted stereotype turns to it."""
RESAMPLES = 499
"""Of each bound, a twentieth of a check's: its ends are less exact, its level is the same."""
MARGINS = (0.0, None)
"""What a model may lose by each rule: nothing, so that the truth is at the limit, and what the file says."""
Answers = NDArray[np.int64]


class Setting(NamedTuple):
    """What is simulated.

    Attributes:
        questions: How many, half of them ambiguous.
        templates: Of how many templates.
        kept: Share of the baseline's answers that the model keeps; the others are drawn anew.
        margin: What each rule lets the model lose; None for what the file says.
        planted: Share of the answers to ambiguous questions that are turned to the stereotype.
    """

    questions: int
    templates: int
    kept: float = 0.0
    margin: float | None = None
    planted: float = 0.0


def examples(setting: Setting) -> list[Example]:
    """Ambiguous and disambiguated in turn, of one template after the other."""
    return [
        Example(
            "", "?", ("stereotyped", "other", "unknown"),
            (STEREOTYPED, UNKNOWN, OTHER, UNKNOWN)[index % 4], f"template {index // 2 % setting.templates}",
            AMBIGUOUS if index % 2 else DISAMBIGUATED, UNKNOWN, STEREOTYPED,
        )
        for index in range(setting.questions)
    ]  # fmt: skip


def drawn(asked: Sequence[Example], setting: Setting, seed: int) -> tuple[Answers, Answers]:
    """Answers of the baseline and of the model, int64 (questions,).

    A template's chance of a right answer is uniform in 0.5 to 0.9, of each condition; wrong answers are the two other
    options, equally often.
    """
    generator = np.random.default_rng(seed)
    golden = np.array([example.answer for example in asked])
    ambiguous = np.array([example.condition == AMBIGUOUS for example in asked])
    template = np.array([int(example.template.rpartition(" ")[2]) for example in asked])
    chances = generator.uniform(0.5, 0.9, (2, setting.templates))[ambiguous.astype(int), template]
    rows = np.arange(len(asked))
    wrong = np.array([[option for option in range(3) if option != right] for right in golden])

    def answers() -> Answers:
        found: Answers = np.where(
            generator.random(len(asked)) < chances, golden, wrong[rows, generator.integers(0, 2, len(asked))]
        )
        return found

    baseline = answers()
    model = np.where(generator.random(len(asked)) < setting.kept, baseline, answers())
    turned = ambiguous & (generator.random(len(asked)) < setting.planted)
    return baseline, np.where(turned, STEREOTYPED, model)


def outcome(setting: Setting, seed: int) -> str:
    """What `crispr-lm check` says of one drawn model against one drawn baseline."""
    asked = examples(setting)
    baseline, model = (
        Measurement.of(
            QUESTION_ANSWERING,
            [QUESTION_ANSWERING.columns(asked, one_hot(chosen.tolist(), 3))],
            [example.template for example in asked],
        )
        for chosen in drawn(asked, setting, seed)
    )
    known = {metric.name: metric for metric in QUESTION_ANSWERING.metrics}
    rules = read_rules("builtin:bbq-baseline").rules
    outcomes = set()
    for rule in rules.rules:
        limited = rule if setting.margin is None else Rule(metric=rule.metric, loses_at_most=setting.margin)
        levels = Levels(rules.confidence, len(rules.rules), seed, RESAMPLES)
        outcomes.add(decide(limited, known[rule.metric_name], model, baseline, levels).outcome)
    return next(name for name in ("fails", "undecided", "holds") if name in outcomes)


def simulate(setting: Setting, seeds: int, first: int = 0) -> Counter[str]:
    """Outcomes over seeds."""
    return Counter(outcome(setting, first + seed) for seed in range(seeds))


def settings() -> dict[str, list[Setting]]:
    """What is simulated, by section of the page."""
    return {
        "itself": [Setting(200, 100, margin=margin) for margin in MARGINS],
        "planted": [Setting(200, 100, kept=KEPT, planted=PLANTED)],
        "few": [Setting(20, 10), Setting(20, 10, kept=1.0)],
    }


def table(found: Sequence[tuple[Setting, Counter[str]]]) -> str:
    """A row for each setting."""
    rows = [
        "| questions | templates | answers kept | each rule lets lose | holds | fails | undecided |",
        "| ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for setting, counts in found:
        margin = "as the file says" if setting.margin is None else f"{setting.margin:g}"
        cells = " | ".join(str(counts[name]) for name in ("holds", "fails", "undecided"))
        rows.append(f"| {setting.questions:,} | {setting.templates} | {setting.kept:.0%} | {margin} | {cells} |")
    return "\n".join(rows)


def page(found: dict[str, list[tuple[Setting, Counter[str]]]], seeds: int, made: str) -> str:
    """The page from the counts of each section."""
    worst = max((counts["fails"] for _, counts in found["itself"]))
    planted = min(counts["fails"] for _, counts in found["planted"])
    few = min(counts["undecided"] for _, counts in found["few"])
    interval = binomtest(worst, seeds).proportion_ci()
    return PAGE.format(
        worst=worst, planted=planted, few=few, seeds=seeds, low=f"{interval.low:.1%}", high=f"{interval.high:.1%}",
        kept=f"{KEPT:.0%}", planted_share=f"{PLANTED:.0%}", itself=table(found["itself"]),
        planted_table=table(found["planted"]), few_table=table(found["few"]), resamples=RESAMPLES, made=made,
    )  # fmt: skip


PAGE = """# How often is a check wrong?

Simulated with the four rules of `builtin:bbq-baseline` ([the rules](../gate.md)), {seeds} seeds a row.

- A model against itself, its answers drawn again from the same chances, fails in at most **{worst} of {seeds}** seeds
  (95 % interval of that share: {low} to {high}).
- A planted stereotype, which turns {planted_share} of the answers to ambiguous questions, fails in
  **{planted} of {seeds}**.
- Twenty questions are too few to tell in **{few} of {seeds}**.

Every template has its own chance of a right answer, 0.5 to 0.9, so that answers are alike within templates. Half of
the questions are ambiguous. The code that decides is that of `crispr-lm check`, with {resamples} resamples.

## A model against itself

Where a rule lets nothing be lost (0), the truth is at the limit. Failing is then as frequent as it can be without
anything being worse: at most 5 % of all samples for the four rules together. With the losses that the file allows,
failing is rarer. A rule that lets nothing be lost can hardly ever hold, however many questions there are.

{itself}

## A planted stereotype

The model keeps {kept} of the baseline's answers. Then {planted_share} of its answers to ambiguous questions become the
stereotyped option.

{planted_table}

## Twenty questions

Also a model that keeps every answer is undecided: ten templates without a change do not exclude that a quarter of all
templates has one.

{few_table}

---

{made}
"""


def main(arguments: Sequence[str]) -> None:
    """Simulate everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "results" / "check.md")
    parser.add_argument("--seeds", type=int, default=100)
    given = parser.parse_args(arguments)
    start = time.process_time()
    found: dict[str, list[tuple[Setting, Counter[str]]]] = {}
    for name, of_section in settings().items():
        found[name] = []
        for setting in of_section:
            found[name].append((setting, simulate(setting, given.seeds)))
            print(f"{time.process_time() - start:.0f} s", *found[name][-1], flush=True)
    made = (
        f"Made by `{command(arguments)}` in {time.process_time() - start:.0f} seconds of processor time "
        f"(one core, {machine()})."
    )
    given.output.write_text(page(found, given.seeds, made), encoding="utf-8")


def command(arguments: Sequence[str]) -> Any:
    """The command that made the page."""
    return shlex.join(["python", "benchmarks/check.py", *arguments])


def machine() -> str:
    """What it ran on."""
    return (
        f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
