"""The task ``builtin:knowledge``: original questions of common knowledge, to see what an edit costs.

Each has four options; the right one takes each position equally often. Knows nothing about models or prompts.
"""

from __future__ import annotations

import sys
from importlib import resources

from crispr_lm.tasks.base import OPEN, Example

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def knowledge_examples() -> list[Example]:
    """All questions, in file order; the subject is the category, every question a template of its own."""
    return _examples("knowledge.toml", "builtin:knowledge question")


def ordinary_questions() -> list[Example]:
    """Questions of the same form whose answers an edit is to leave alone; none is in ``builtin:knowledge``."""
    return _examples("ordinary_questions.toml", "ordinary question")


def _examples(file: str, source: str) -> list[Example]:
    text = (resources.files("crispr_lm.tasks") / "data" / file).read_text(encoding="utf-8")
    examples: list[Example] = []
    for subject, questions in tomllib.loads(text).items():
        for question, *answers in questions:
            number = len(examples)
            right = number % len(answers)
            # The file names the right answer first; turned round, it stands at place `right`.
            options = tuple(answers[-right:] + answers[:-right]) if right else tuple(answers)
            examples.append(
                Example(
                    context="",
                    question=question,
                    options=options,
                    answer=right,
                    template=question,
                    category=subject,
                    form=OPEN,
                    source=f"{source} {number + 1}",
                )
            )
    return examples
