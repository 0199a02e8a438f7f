"""Groups that differ in more than the group: questions whose answer may be a fact about one of them.

As far as words tell. Such a question is no test of a stereotype: "unknown" may be wrong, and an edit that makes the
model answer it takes knowledge away.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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
    """Words of ``data/fact_words.toml`` in questions and in one person's phrase alone, and words that both share."""
    if are_labelled(examples):
        return []
    found = []
    of_people = [example for example in examples if len(people(example)) > 1]
    named = {
        (match[0].lower(), topic): example
        for example in reversed(of_people)
        for topic, entry in _topics().items()
        if (match := entry.asked.search(example.question))
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
    called = {word: example for example in reversed(of_people) for word in _of_one_person(example)}
    if called:
        found.append(
            Finding(
                "facts",
                "what people are called tells more of one of them than the group: "
                + ", ".join(f"{word!r} ({topic})" for word, topic in sorted(called)),
                "name two people who differ in the group alone; a model may rightly tell these two apart",
                places_of(called.values()),
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


def _of_one_person(example: Example) -> list[tuple[str, str]]:
    """Word and topic of what one person's phrase says and another's does not, but for topics that the groups are of."""
    if example.unknown is None and example.stereotyped is None:
        return []  # its options may be no people
    found = []
    for topic, entry in _topics().items():
        if any(kind in example.category.lower() for kind in entry.kinds):
            continue
        matches = [entry.called.search(example.options[index]) for index in people(example)]
        said = [match[0].lower() for match in matches if match]
        if 0 < len(said) < len(matches):
            found.append((said[0], topic))
    return found


@dataclass(frozen=True)
class _Topic:
    """What a fact may be about.

    Attributes:
        asked: Its words in questions.
        called: Those in what people are called.
        kinds: Parts of the names of categories whose groups are called so.
    """

    asked: re.Pattern[str]
    called: re.Pattern[str]
    kinds: tuple[str, ...]


@cache
def _topics() -> dict[str, _Topic]:
    text = (resources.files("crispr_lm.tasks") / "data" / "fact_words.toml").read_text(encoding="utf-8")
    return {
        topic: _Topic(_pattern(entry["words"]), _pattern(entry.get("people", entry["words"])), tuple(entry["kinds"]))
        for topic, entry in tomllib.loads(text).items()
    }


def _pattern(listed: Sequence[str]) -> re.Pattern[str]:
    words_there = "|".join(re.escape(word).replace(r"\*", r"\w*") for word in listed)
    return re.compile(rf"\b(?:{words_there})\b", re.IGNORECASE)
