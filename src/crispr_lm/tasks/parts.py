"""Parts of a task: which of its examples are used for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import AttributeOn, Example, Task, of_condition, sample


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
    if task.measured_only:
        raise InputError(
            f"task {task.name} can be measured, but no neurons can be attributed on it; "
            f"give it as --measure {task.name} beside a --task such as builtin:everyday"
        )
    return sample(attribution_candidates(task, attribute_on, seed), size, seed)


def attribution_candidates(task: Task, attribute_on: AttributeOn, seed: int) -> tuple[Example, ...]:
    """All examples of a condition in the attribution split; those of the other one, where it has none."""
    split = task.split(seed).attribution
    return of_condition(split, attribute_on) or split


def further(examples: Sequence[Example], drawn: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """Those that a draw of `size` examples holds beyond a smaller one of the same seed."""
    before = set(map(id, drawn))
    return tuple(example for example in sample(examples, size, seed) if id(example) not in before)
