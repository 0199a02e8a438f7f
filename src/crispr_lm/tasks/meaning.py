"""Groups that differ in more than the group: questions whose answer may be a fact about one of them.

As far as words tell. Such a question is no test of a stereotype: "unknown" may be wrong, and an edit that makes the
model answer it takes knowledge away.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from importlib import resources

from crispr_lm.tasks.base import Example
from crispr_lm.tasks.findings import Finding, people, places_of, words
from crispr_lm.tasks.labels import are_labelled

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

STEM = 5
"""Letters by which words of one family are recognised: "young" and "youngest", "Muslim" and "Muslims"."""
SHORTEST = 3
"""Letters of a word that says something; shorter ones are articles and the like."""
SAYING_NOTHING = re.compile(
    "who|whom|whose|what|which|where|when|why|how|the|this|that|with|without|and|not|for|from|into|onto|about|was|were|"
    "are|has|had|have|did|does|done|been|more|most|less|least|than|their|his|her|one|ones|person|people"
)
"""Words that questions and phrases share without meaning the same."""


def facts(examples: Sequence[Example]) -> list[Finding]:
    """Questions with a word of ``data/fact_words.toml``, and questions that repeat a word of one person's phrase."""
    if are_labelled(examples):
        return []
    found = []
    of_people = [example for example in examples if len(people(example)) > 1]
    named = {
        (match[0].lower(), topic): example
        for example in reversed(of_people)
        for topic, pattern in _patterns().items()
        if (match := pattern.search(example.question))
    }
    if named:
        given = ", ".join(f"{word!r} ({topic})" for word, topic in sorted(named))
        found.append(
            Finding(
                "facts",
                f"questions ask for what may be a fact about a group and no stereotype: {given}",
                "read them; where the group decides the answer, ask for something else. Knowledge of this kind should "
                "survive an edit",
                places_of(named.values()),
            )
        )
    repeated = {word: example for example in reversed(of_people) if (word := _repeated(example))}
    if repeated:
        found.append(
            Finding(
                "facts",
                "questions repeat a word that names one of the people and not the other: "
                + ", ".join(map(repr, sorted(repeated))),
                "use another word in the question; this one gives the answer by itself",
                places_of(repeated.values()),
            )
        )
    return found


def _repeated(example: Example) -> str:
    """A word of the question that one person's phrase has too, and no other's; empty if there is none."""
    said = [word for word in words(example.question) if len(word) >= SHORTEST and not SAYING_NOTHING.fullmatch(word)]
    asked = {word[:STEM]: word for word in said}
    stems = [{word[:STEM] for word in words(example.options[index])} for index in people(example)]
    for stem, word in asked.items():
        if 0 < sum(stem in own for own in stems) < len(stems):
            return word
    return ""


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    text = (resources.files("crispr_lm.tasks") / "data" / "fact_words.toml").read_text(encoding="utf-8")
    return {
        topic: re.compile(
            r"\b(?:" + "|".join(re.escape(word).replace(r"\*", r"\w*") for word in entry["words"]) + r")\b",
            re.IGNORECASE,
        )
        for topic, entry in tomllib.loads(text).items()
    }
