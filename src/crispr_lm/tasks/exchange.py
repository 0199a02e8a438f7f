"""Exchanging the group in a text, everything else equal: women and men, or any two groups that a user names.

Counterfactual data augmentation (Lu et al. 2018, arXiv 1807.11714), with first names as Maudslay et al. 2019 do (arXiv
1909.00871).
By words alone: no grammar is looked at but which form of a pronoun is due.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.tasks.files import text_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

PRONOUNS = (("she", "he"), ("her", "his"), ("herself", "himself"), ("hers", "his"), ("her", "him"))
"""The first pair with a word says what takes its place, but for those that `_form` decides on."""

EITHER = r"s/he|\(s\)he|(?:s?he|hers?|him|his)\s*(?:/|\bor\b)\s*(?:s?he|hers?|him|his)"
""" "s/he", "he or she", "his/her": of no group, and left as it is."""

NO_NOUN_FOLLOWS = re.compile(
    "a|an|the|this|that|these|those|and|or|but|if|when|while|because|as|so|than|then|to|in|on|at|by|for|from|with|"
    "without|of|about|after|before|during|into|over|up|off|out|down|away|back|again|today|tomorrow|yesterday|now|here|"
    "there|he|she|it|they|we|i|you|him|them|us|me|his|their|our|my|your|who|what|which|how|why|where|whether|is|was|"
    "were|are|be|been|has|had|have|does|did|do|will|would|can|could|should|may|might|must|not|never|always|also|too",
    re.IGNORECASE,
)
"""Words before which "her" is no possessive ("gave her the key"), nor "his" ("a friend of his was late")."""

FIELDS = ("name", "groups", "pairs", "pronouns")


@dataclass(frozen=True)
class Exchanged:
    """A text in which the group is another one.

    Attributes:
        text: The new text.
        side: 0 if the first word that was exchanged is of the exchange's first group, else 1.
        doubtful: Whether it held "her", which is two words in one: "her key" (his) and "saw her" (him).
    """

    text: str
    side: int
    doubtful: bool


@dataclass(frozen=True)
class Exchange:
    """Two groups, and the words that take each other's place.

    Attributes:
        name: The kind of stereotype, such as "Gender".
        groups: Names of the two groups.
        pairs: Word or phrase of the first group, and of the second.
        pronouns: Whether pronouns are exchanged too, the first group's being "she".
    """

    name: str
    groups: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    pronouns: bool = False

    @cached_property
    def _places(self) -> Mapping[str, tuple[str, int]]:
        """Word, as it is found, to what takes its place and its side."""
        found: dict[str, tuple[str, int]] = {}
        for first, second in (*(PRONOUNS if self.pronouns else ()), *self.pairs):
            found.setdefault(first, (second, 0))
            found.setdefault(second, (first, 1))
        return found

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        words = sorted(map(re.escape, self._places), key=len, reverse=True)
        either = rf"(?P<either>{EITHER})|" if self.pronouns else ""
        return re.compile(
            rf"(?<!\w)(?:{either}(?:(?P<article>an?)(?P<gap>\s+))?(?P<word>{'|'.join(words)}))(?!\w)", re.IGNORECASE
        )

    def exchanged(self, text: str) -> Exchanged | None:
        """The text with the groups exchanged; None where it names neither."""
        sides: list[int] = []
        doubtful = False

        def other(match: re.Match[str]) -> str:
            nonlocal doubtful
            word = match["word"]
            place = None if word is None else self._place(word)
            if place is None:
                return match[0]
            target, side = place
            sides.append(side)
            if self.pronouns and word.lower() in ("her", "his"):
                doubtful |= word.lower() == "her"
                target = _form(word.lower(), text[match.end() :])
            return _article(match, target) + _in_case_of(word, target)

        made = self._pattern.sub(other, text)
        return Exchanged(made, sides[0], doubtful) if sides and made != text else None

    def without_groups(self, text: str) -> str:
        """The text with the same mark for every word that would be exchanged: equal for a text and its twin."""

        def mark(match: re.Match[str]) -> str:
            known = match["word"] is not None and self._place(match["word"]) is not None
            return "[group]" if known else match[0]

        return self._pattern.sub(mark, text)

    def plurals_left(self, text: str) -> list[str]:
        """Words of a text that look like plurals of those that are exchanged, and are not exchanged themselves.

        They are no plurals for certain ("goods"), so nothing is done about them but to name them.
        """
        if self.pronouns:  # of women and men: that list has its plurals, and names such as Adam and Adams
            return []
        known = {form for pair in self.pairs for word in map(str.lower, pair) for form in _plurals(word)}
        return [word for word in re.findall(r"\w+", self.without_groups(text).lower()) if word in known]

    def _place(self, word: str) -> tuple[str, int] | None:
        """What takes the place of a word as it is written, and its side; None for another word in other case."""
        place = self._places.get(word) or self._places.get(word.lower())
        if place is None and word.isupper():
            return next((found for name, found in self._places.items() if name.upper() == word), None)
        return place


def _plurals(word: str) -> tuple[str, ...]:
    """What may be a word's regular plural."""
    return (f"{word}s", f"{word}es", *([f"{word[:-1]}ies"] if word.endswith("y") else []))


def _form(word: str, after: str) -> str:
    """Which pronoun takes the place of "her" or "his": a noun's, or one that stands alone."""
    follows = re.match(r"\s+([^\W\d_]+)", after)
    owns = follows is not None and not NO_NOUN_FOLLOWS.fullmatch(follows[1])
    if word == "his":
        return "her" if owns else "hers"
    return "his" if owns else "him"


def _article(match: re.Match[str], target: str) -> str:
    """The article before a word, "an" before a vowel where that changes with the word."""
    article = match["article"]
    if article is None:
        return ""
    before, now = (word[0].lower() in "aeiou" for word in (match["word"], target))
    if before != now:
        article = article[0] + (("N" if article.isupper() and len(article) > 1 else "n") if now else "")
    return article + str(match["gap"])


def _in_case_of(word: str, target: str) -> str:
    """The target in capitals or with a capital letter, if the word is."""
    if word.isupper() and len(word) > 1:
        return target.upper()
    return target[0].upper() + target[1:] if word[0].isupper() else target


def builtin_exchanges() -> tuple[Exchange, ...]:
    """Those that come with the library: women and men, by pronouns, nouns and first names."""
    text = (resources.files("crispr_lm.tasks") / "data" / "exchanges.toml").read_text(encoding="utf-8")
    return _parsed(text, "data/exchanges.toml")


def read_exchanges(path: Path) -> tuple[Exchange, ...]:
    """Exchanges of a TOML file, in the form of ``tasks/data/exchanges.toml``.

    Raises:
        InputError: the file can't be read, or something in it is malformed.
    """
    return _parsed(text_of(path), str(path))


def exchange_of(pairs: Sequence[str]) -> Exchange:
    """The exchange of some pairs written ``A=B``; the first pair names the groups.

    Raises:
        InputError: one is not of that form, or a word is in two of them.
    """
    split = [tuple(side.strip() for side in pair.split("=")) for pair in pairs]
    for pair, sides in zip(pairs, split, strict=True):
        if len(sides) != 2 or not all(sides) or sides[0].lower() == sides[1].lower():
            raise InputError(f"option --swap: {pair!r} is no pair of two different words; write it as old=young")
    words = [word for sides in split for word in sides]
    if (twice := next((word for word in words if words.count(word) > 1), None)) is not None:
        raise InputError(
            f"option --swap: {twice!r} is in two pairs, so what takes its place is not clear; leave one out"
        )
    first, second = split[0]
    return Exchange(f"{first} / {second}", (first, second), tuple((one, other) for one, other in split))


def _parsed(text: str, where: str) -> tuple[Exchange, ...]:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML ({error}); correct it") from error
    tables = content.get("exchange")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{where}: no table [[exchange]] in it; docs/questions-from.md shows one")
    return tuple(_exchange(table, f"{where}: exchange {number}") for number, table in enumerate(tables, start=1))


def _exchange(table: Mapping[str, Any], where: str) -> Exchange:
    for name in table:
        if name not in FIELDS:
            raise InputError(f"{where}: unknown field {name!r}{nearest(name, FIELDS)}; rename it")
    groups: Any = table.get("groups")
    pairs, pronouns = table.get("pairs", []), table.get("pronouns", False)
    if not _is_pair(groups):
        raise InputError(f"{where}: 'groups' must be the names of two different groups, not {groups!r}")
    if not isinstance(pronouns, bool):
        raise InputError(f"{where}: 'pronouns' must be true or false, not {pronouns!r}")
    if not isinstance(pairs, list) or (not pairs and not pronouns):
        raise InputError(f"{where}: 'pairs' must be a list of pairs of words, not {pairs!r}")
    if (wrong := next((pair for pair in pairs if not _is_pair(pair)), None)) is not None:
        raise InputError(
            f"{where}: {wrong!r} in 'pairs' is no pair of two different words; write it as ['old', 'young']"
        )
    # On one side a word may stand in several pairs (Ms. and Mrs. become Mr.); on both it would have two meanings.
    sides = [{pair[side].strip() for pair in pairs} for side in (0, 1)]
    if both := sorted(sides[0] & sides[1]):
        raise InputError(f"{where}: {both[0]!r} in 'pairs' stands for both groups; leave one of its pairs out")
    name = table.get("name", " / ".join(groups))
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{where}: 'name' must be a text, not {name!r}")
    return Exchange(name, (groups[0], groups[1]), _stripped(pairs), pronouns)


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, str) and one.strip() for one in value):
        return False
    return bool(value[0].strip() != value[1].strip())


def _stripped(pairs: Iterable[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((first.strip(), second.strip()) for first, second in pairs)
