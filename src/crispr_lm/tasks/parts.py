"""Parts of a task: which of its examples are used for what."""

from __future__ import annotations

from dataclasses import dataclass

from crispr_lm.tasks.base import Example, Task


@dataclass(frozen=True)
class Parts:
    """What of a task is used for what; `fit` and `effects` are drawn from the same part, the others are disjoint.

    A tuned search measures effects anew in every pass, each time on some of `effects`. The last few of its edits are
    asked `final`, further examples of the choose part.
    """

    task: Task
    fit: tuple[Example, ...]
    choose: tuple[Example, ...]
    report: tuple[Example, ...]
    effects: tuple[Example, ...] = ()
    final: tuple[Example, ...] = ()

    @property
    def searched_on(self) -> tuple[Example, ...]:
        """All that is asked before anything is told on the report part; some examples are there twice."""
        return self.fit + self.effects + self.choose + self.final
