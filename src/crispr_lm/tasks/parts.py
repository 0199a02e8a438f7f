"""Parts of a task: which of its examples are used for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import (
    DISAMBIGUATED,
    AttributeOn,
    Example,
    Split,
    Task,
    of_condition,
    sample,
    sample_templates,
)

Sampling = Literal["spread", "random"]
"""How examples are drawn: spread over conditions and templates (`sample`), or each row as likely as any other."""

SplitBy = Literal["template", "random"]
"""How a task is split: no template in two parts (`Task.split`), or rows at random (`random_split`)."""

DEVELOPMENT_SHARE = 0.1
"""Share of the rows that the paper's code attributes and chooses on."""


@dataclass(frozen=True)
class Parts:
    """What of a task is used for what; `attribution` and `gradients` are drawn from one split, the others are disjoint.

    The published ranking is of `attribution`; the search takes gradients on some of `gradients` in every step. Its top
    candidates are re-evaluated on `reevaluation`, further examples of the validation split.
    """

    task: Task
    attribution: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    gradients: tuple[Example, ...] = ()
    reevaluation: tuple[Example, ...] = ()

    @property
    def searched_on(self) -> tuple[Example, ...]:
        """All examples that are used before the test split is measured; some are there twice."""
        return self.attribution + self.gradients + self.validation + self.reevaluation


def attribution_sample(task: Task, size: int, attribute_on: AttributeOn, seed: int) -> tuple[Example, ...]:
    """Draw so many examples of a condition from the attribution split; all it has, where it has fewer.

    Raises:
        InputError: the task can only be measured.
    """
    check_attributable(task)
    return sample(attribution_candidates(task, attribute_on, seed), size, seed)


def check_attributable(task: Task) -> None:
    """Refuse a task that can only be measured.

    Raises:
        InputError: it can.
    """
    if task.measured_only:
        raise InputError(
            f"task {task.name} can be measured, but no neurons can be attributed on it; "
            f"give it as --measure {task.name} beside a --task such as builtin:everyday"
        )


def attribution_candidates(
    task: Task, attribute_on: AttributeOn, seed: int, by: SplitBy = "template"
) -> tuple[Example, ...]:
    """All examples of a condition in the attribution split; those of the other one, where it has none."""
    split = split_of(task, seed, by).attribution
    return of_condition(split, attribute_on) or split


def further(examples: Sequence[Example], drawn: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """Those that a draw of `size` examples holds beyond a smaller one of the same seed."""
    before = set(map(id, drawn))
    return tuple(example for example in sample(examples, size, seed) if id(example) not in before)


def checked_sample(task: Task, size: int, seed: int) -> tuple[Example, ...]:
    """Draw what a check asks: whole templates where the task's metrics need them, else as `sample`, and balanced.

    Where the context gives the answer, the stereotyped option is right as often as it is wrong, within templates as far
    as they have both. Else a model with no error would have a bias score other than 0 by the draw alone. Returned in
    the order of the task; all of its examples if `size` is not smaller.

    Raises:
        InputError: a negative size.
    """
    if task.whole_templates:
        return sample_templates(task.examples, size, seed)
    sides: tuple[list[Example], list[Example]] = ([], [])
    for example in task.examples:
        if example.condition == DISAMBIGUATED and example.stereotyped is not None:
            sides[example.answer == example.stereotyped].append(example)
    to_balance = {id(example) for side in sides for example in side}
    drawn = sample(task.examples, size, seed)
    kept = {id(example) for example in drawn} - to_balance
    wanted = len(drawn) - len(kept)
    first = min(max(wanted // 2, wanted - len(sides[1])), len(sides[0]))
    # `sample` takes templates of one condition in the same order whatever else it draws from: both sides of the same.
    for side, count in zip(sides, (first, wanted - first), strict=True):
        kept |= {id(example) for example in sample(side, count, seed)}
    return tuple(example for example in task.examples if id(example) in kept)


def split_of(task: Task, seed: int, by: SplitBy) -> Split:
    """Split a task.

    Raises:
        InputError: too few templates or rows.
    """
    return random_split(task, seed) if by == "random" else task.split(seed)


def random_split(task: Task, seed: int) -> Split:
    """The split of the paper's published code: 10 % of the rows to attribute *and* choose on, the others to measure on.

    The same rows as there for the same seed, where the task holds the rows of its file in their order. Rows of one
    template are near-copies, and here they are on both sides.

    Raises:
        InputError: fewer than ten rows, so that there would be none to choose on.
    """
    size = int(len(task.examples) * DEVELOPMENT_SHARE)
    if not size:
        raise InputError(
            f"task {task.name} has {len(task.examples)} rows, and a random split puts a tenth of them aside to choose "
            "on; add rows, or leave --split-by random away"
        )
    drawn = set(np.random.RandomState(seed).choice(len(task.examples), size, replace=False).tolist())
    rows = list(enumerate(task.examples))
    development = tuple(example for index, example in rows if index in drawn)
    return Split(development, development, tuple(example for index, example in rows if index not in drawn))


def draws(
    examples: Sequence[Example], size: int, seeds: Sequence[int], sampling: Sampling = "spread"
) -> tuple[Example, ...]:
    """For each seed a draw of `size` examples (all, if there are fewer), one draw after the other.

    The mean of scores over all of them is the mean over the draws, as all are of one size. An example that is in two
    draws is here twice.

    Args:
        examples: To draw from.
        size: Of a draw.
        seeds: One a draw.
        sampling: "random" draws the same rows as the paper's published code for the same seed and rows.

    Raises:
        InputError: a seed is there twice.
    """
    for seed in seeds:
        if seeds.count(seed) > 1:
            raise InputError(
                f"--seeds: seed {seed} is named twice and would draw the same examples again; name it once"
            )
    if sampling == "spread":
        return tuple(example for seed in seeds for example in sample(examples, size, seed))
    count, rows = min(size, len(examples)), []
    for seed in seeds:
        rows += np.sort(np.random.RandomState(seed).choice(len(examples), count, replace=False)).tolist()
    return tuple(examples[row] for row in rows)
