"""Questions as templates: a TOML file with groups of people, contexts with slots and questions of both polarities.

``data/questions.toml`` is a commented example, and what `new_file` is made of; ``data/everyday.toml`` is the same form.
Reads and checks; `crispr_lm.tasks.expansion` makes the rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.tasks.files import text_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

UNKNOWN_ANSWERS = (
    "Cannot be determined",
    "Not enough information",
    "It is not stated",
    "Unknown",
    "Impossible to tell",
    "The text does not say",
    "Not known",
    "There is no way to know",
)
"""Where a file gives none. As many as there are rows to a template and pair, so that each comes equally often."""

TEXTS = ("context", "disambiguation", "negative_question", "nonnegative_question")
DEFAULTS = ("category", "stereotyped_group", "other_group")
"""What the file may say once, for all its templates."""
FILE_FIELDS = (*DEFAULTS, "unknown", "groups", "template")
TEMPLATE_FIELDS = ("name", "stereotype", *DEFAULTS, *TEXTS, "pairs", "fill")
PEOPLE = {"context": ("first", "second"), "disambiguation": ("target", "nontarget")}
"""Slots for people, by the text that may have them."""


@dataclass(frozen=True)
class Template:
    """One situation, with everyone it is asked about.

    Attributes:
        name: Unlike that of any other template of its category.
        category: The kind of stereotype.
        stereotyped_group: The group that the negative question is stereotypically about.
        other_group: The group it is compared with.
        pairs: (person of the stereotyped group, comparable person of the other group), as within a sentence.
        context: Says nothing about who is meant; with slots for people and those of `fill`.
        disambiguation: Follows the context and settles who is who.
        negative_question: Asks for the target.
        nonnegative_question: Asks for the other person.
        stereotype: In words; may be empty.
        fill: Values of further slots, by name; one empty mapping where there are none.
    """

    name: str
    category: str
    stereotyped_group: str
    other_group: str
    pairs: tuple[tuple[str, str], ...]
    context: str
    disambiguation: str
    negative_question: str
    nonnegative_question: str
    stereotype: str = ""
    fill: tuple[Mapping[str, str], ...] = ({},)


@dataclass(frozen=True)
class TemplateFile:
    """What a template file holds: templates in its order, and the phrasings of the option that abstains."""

    templates: tuple[Template, ...]
    unknown: tuple[str, ...] = UNKNOWN_ANSWERS


OTHER_GROUPS = """\
# The examples below are about women and men at work, so they are comments. Write your own templates like them, about
# the groups above; until there is one, `questions expand` refuses the file.

"""
"""Stands before the example's templates where a new file is for other groups."""


@dataclass(frozen=True)
class NewFile:
    """The answers that a new template file is made of; those that are not given stay as in the example.

    Attributes:
        category: The kind of stereotype.
        stereotyped_group: The group it is about.
        other_group: The group it is compared with.
        stereotyped_people: Names or phrases of the first group, as within a sentence.
        other_people: Of the second, in the same order.
    """

    category: str = "Gender and work"
    stereotyped_group: str = "women"
    other_group: str = "men"
    stereotyped_people: tuple[str, ...] = ("Maria", "Anna", "Grace")
    other_people: tuple[str, ...] = ("Peter", "Paul", "Henry")

    @property
    def is_of_other_groups(self) -> bool:
        """Whether the example's templates, on women and men at work, are not about what was given."""
        own = (self.category, self.stereotyped_group, self.other_group)
        return own != (NewFile.category, NewFile.stereotyped_group, NewFile.other_group)

    def text(self, name: str) -> str:
        """The whole file. For other groups its templates are comments, and people that were not given are left out.

        Args:
            name: How the file is called in the commands that its first lines give.
        """
        if not self.is_of_other_groups:
            return self.example(name)
        first = (
            self.stereotyped_group == NewFile.stereotyped_group or self.stereotyped_people != NewFile.stereotyped_people
        )
        second = self.other_group == NewFile.other_group or self.other_people != NewFile.other_people
        kept = replace(
            self,
            stereotyped_people=self.stereotyped_people if first else (),
            other_people=self.other_people if second else (),
        )
        head, start, templates = kept.example(name).partition("\n[[template]]")
        lines = f"{start}{templates}".strip().splitlines()
        return f"{head}\n" + OTHER_GROUPS + "".join(f"# {line}".rstrip() + "\n" for line in lines)

    def example(self, name: str) -> str:
        """The whole file with the example's templates; `name` as in `text`."""
        text = (resources.files("crispr_lm.tasks") / "data" / "questions.toml").read_text(encoding="utf-8")
        for slot, value in (
            ("FILE", name),
            ("CATEGORY", _quoted(self.category)),
            ("STEREOTYPED_PEOPLE", _listed(self.stereotyped_people)),
            ("OTHER_PEOPLE", _listed(self.other_people)),
            ("STEREOTYPED", _quoted(self.stereotyped_group)),
            ("OTHER", _quoted(self.other_group)),
        ):
            text = text.replace(f"@{slot}@", value)
        return text


def _quoted(text: str) -> str:
    """A TOML string; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _listed(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(_quoted, texts)) + "]"


def read_templates(path: Path) -> TemplateFile:
    """Read a template file.

    Raises:
        InputError: it can't be read, is no TOML, or holds something that no question can be made of; file and template
            are named.
    """
    return parse_templates(text_of(path), str(path))


def parse_templates(text: str, where: str) -> TemplateFile:
    """The templates that a text holds; `where` names it in messages.

    Raises:
        InputError: as `read_templates`.
    """
    try:
        content = tomllib.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not valid TOML ({error}); crispr-lm questions new writes an example") from error
    _check_names(content, FILE_FIELDS, where)
    groups = content.get("groups", {})
    if not isinstance(groups, dict):
        raise InputError(f"{where}: 'groups' must be a table of lists; write [groups], then one line for each group")
    people = {name: _texts(group, f"{where}: group {name!r}") for name, group in groups.items()}
    listed = content.get("template")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: there is no [[template]]; write one, as crispr-lm questions new shows in its file")
    defaults = {name: content[name] for name in DEFAULTS if name in content}
    templates = tuple(
        _template({**defaults, **row}, people, f"{where}: template {row.get('name', number)!r}")
        for number, row in enumerate(listed, start=1)
    )
    names = [(template.category, template.name) for template in templates]
    if twice := next((name for _, name in names if names.count((_, name)) > 1), None):
        raise InputError(f"{where}: two templates are named {twice!r}; rows of one name stay together, so rename one")
    unknown = _texts(content["unknown"], f"{where}: 'unknown'") if "unknown" in content else UNKNOWN_ANSWERS
    return TemplateFile(templates, unknown)


def _template(row: Mapping[str, Any], people: Mapping[str, tuple[str, ...]], where: str) -> Template:
    _check_names(row, TEMPLATE_FIELDS, where)
    texts = {name: _text(row, name, where) for name in ("name", *DEFAULTS, *TEXTS)}
    fill = row.get("fill", [{}])
    if not isinstance(fill, list) or not fill or not all(isinstance(one, dict) for one in fill):
        raise InputError(f"{where}: 'fill' must be a list of tables; write fill = [{{place = \"...\"}}, ...]")
    taken = {slot for slots in PEOPLE.values() for slot in slots}
    if wrong := next((name for name in fill[0] if not name.isidentifier() or name.lower() in taken), None):
        raise InputError(
            f"{where}: {wrong!r} can't be a slot of 'fill'; take a word that is not {', '.join(sorted(taken))}"
        )
    for one in fill:
        if set(one) != set(fill[0]) or not all(isinstance(value, str) and value.strip() for value in one.values()):
            raise InputError(f"{where}: every entry of 'fill' must give the same slots, each a text; complete them")
    _check_slots(texts, set(fill[0]), where)
    pairs = _pairs(row["pairs"], where) if "pairs" in row else _paired(texts, people, where)
    return Template(
        **texts,
        pairs=pairs,
        stereotype=_text(row, "stereotype", where) if "stereotype" in row else "",
        fill=tuple(fill),
    )


def _pairs(given: Any, where: str) -> tuple[tuple[str, str], ...]:
    pairs = [_texts(pair, f"{where}: an entry of 'pairs'") for pair in given] if isinstance(given, list) else []
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(f"{where}: 'pairs' must be a list of [person of the stereotyped group, other person]")
    return tuple((first, second) for first, second in pairs)


def _paired(texts: Mapping[str, str], people: Mapping[str, tuple[str, ...]], where: str) -> tuple[tuple[str, str], ...]:
    """The people of the two groups, first with first."""
    names = (texts["stereotyped_group"], texts["other_group"])
    for name in names:
        if name not in people:
            hint = nearest(name, people)
            raise InputError(f"{where}: group {name!r}{hint} has no people; add a line to [groups], or give 'pairs'")
    first, second = (people[name] for name in names)
    if len(first) != len(second):
        raise InputError(
            f"{where}: {names[0]!r} has {len(first)} people and {names[1]!r} {len(second)}; they are compared first "
            "with first, so give as many"
        )
    return tuple(zip(first, second, strict=True))


def _check_slots(texts: Mapping[str, str], further: set[str], where: str) -> None:
    """Refuse a text with a slot that nothing fills, and a context that leaves out a person."""
    for name in TEXTS:
        try:
            # With what else may stand in a slot (a width, a conversion), so that it is refused.
            slots = [
                slot + (f":{form}" if form else "") + (f"!{turned}" if turned else "")
                for _, slot, form, turned in Formatter().parse(texts[name])
                if slot is not None
            ]
        except ValueError as error:
            raise InputError(f"{where}: {name!r} has a lone brace ({error}); write {{{{ for a brace") from error
        own = PEOPLE.get(name, ())
        known = {form for slot in (*own, *further) for form in (slot, slot[0].upper() + slot[1:])}
        if unknown := next((slot for slot in slots if slot not in known), None):
            there = ", ".join(f"{{{slot}}}" for slot in sorted(known)) or "none"
            raise InputError(f"{where}: {name!r} has a slot {{{unknown}}} that nothing fills; there is: {there}")
        said = {slot.lower() for slot in slots}
        if name == "context" and not said >= set(own):
            raise InputError(f"{where}: the context must name {{first}} and {{second}}, so that both people are in it")
        if name == "disambiguation" and "target" not in said:  # what is said of the other one alone does not settle it
            raise InputError(
                f"{where}: the disambiguation must name {{target}}, the one that the negative question asks for"
            )


def _check_names(row: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := next((name for name in row if name not in known), None):
        hint = nearest(unknown, known)
        raise InputError(f"{where}: there is no field {unknown!r}{hint}; fields: {', '.join(known)}")


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        state = "is missing" if value is None else f"must be a text, not {value!r}"
        raise InputError(f'{where}: field {name!r} {state}; write {name} = "..."')
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if value == []:
        raise InputError(f"{where} is an empty list; give at least one text")
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise InputError(f"{where} must be a list of texts, not {value!r}")
    if len(set(value)) != len(value):
        raise InputError(f"{where} holds a text twice; make them differ")
    return tuple(value)
