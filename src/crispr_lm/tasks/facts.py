"""The task ``builtin:facts``: what is true of one group and not of another, and must survive an edit.

Every template asks the same of two or more groups and has another right answer for each (or for half of them), so a
model that treats all groups alike is right by chance alone. The options are all answers of the template; over the
template each is right as often as any other, and over the task the right one takes each position equally often.
Knows nothing about models or prompts.
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib import resources

from crispr_lm.tasks.base import OPEN, Example

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def fact_examples() -> list[Example]:
    """The questions that are measured, in file order; the kind of stereotype is the category."""
    return _examples("facts.toml", "builtin:facts question")


def search_fact_examples() -> list[Example]:
    """Questions of the same form for choosing an edit; no template of theirs is in ``builtin:facts``."""
    return _examples("search_facts.toml", "fact for the search")


def _examples(file: str, source: str) -> list[Example]:
    text = (resources.files("crispr_lm.tasks") / "data" / file).read_text(encoding="utf-8")
    examples: list[Example] = []
    asked: Counter[int] = Counter()
    for template in tomllib.loads(text)["template"]:
        answers = list(dict.fromkeys(answer for _, answer in template["answers"]))
        for group, right in template["answers"]:
            place = asked[len(answers)] % len(answers)
            asked[len(answers)] += 1
            turn = answers.index(right) - place
            options = tuple(answers[turn:] + answers[:turn])
            examples.append(
                Example(
                    context="",
                    question=template["question"].format(group=group),
                    options=options,
                    answer=place,
                    template=f"{template['category']}/{template['question']}",
                    category=template["category"],
                    form=OPEN,
                    source=f"{source} {len(examples) + 1}",
                    facets=(("group", group),),
                )
            )
    return examples
