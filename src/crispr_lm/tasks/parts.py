"""Parts of a task: which of its examples are used for what."""

from __future__ import annotations

from dataclasses import dataclass

from crispr_lm.tasks.base import Example, Task


@dataclass(frozen=True)
class Parts:
    """What of a task is used for what; `attribution` and `effects` are drawn from one split, the others are disjoint.

    A tuned search measures effects again in every round, each time on some of `effects`. Its top candidates are
    re-evaluated on `reevaluation`, further examples of the validation split.
    """

    task: Task
    attribution: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    effects: tuple[Example, ...] = ()
    reevaluation: tuple[Example, ...] = ()

    @property
    def searched_on(self) -> tuple[Example, ...]:
        """All examples that are used before the test split is measured; some are there twice."""
        return self.attribution + self.effects + self.validation + self.reevaluation
