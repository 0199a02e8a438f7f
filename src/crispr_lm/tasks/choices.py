r"""The general form: any multiple-choice questions as JSON Lines.

One object per line::

    {"context": "Ann and Bob waited.", "question": "Who was late?", "options": ["Ann", "Bob", "Unknown"], "answer": 2,
     "group": "waiting-1", "condition": "ambiguous", "unknown": 2, "stereotyped": 0}

``context`` and ``question`` (one of them may be empty or left out), ``options`` (two or more, their number may vary by
row) and ``answer`` (an index) are needed. ``group`` names the template a row was made from: rows of one group are
near-copies and never part in a split; without it, rows with the same context and question are taken as one group.
``condition`` is "ambiguous" or "disambiguated"; ``unknown`` and ``stereotyped`` are the indices of the abstaining
option and of the one that agrees with the stereotype; ``category`` names the kind of bias; ``polarity`` is "negative"
for a question after what the stereotype says of its group, and "nonnegative" for the opposite question. The answer of
an ambiguous row is its ``unknown``, as in BBQ. Metrics that need a field are reported where it is given.
``language`` is the code of the language that the prompt's words and the built-in instructions are to be in ("en", "es",
...), one for all rows.

Classification is the same with labels as options, the same ones in every row; label bias is then reported too::

    {"context": "A film without a single idea.", "question": "Is this review positive or negative?",
     "options": ["positive", "negative"], "answer": 1}
    {"context": "He left early.\nHe did not stay.", "question": "Do both sentences say the same?",
     "options": ["yes", "no"], "answer": 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.jsonl import ALSO_CALLED, NUMBERED, check_options, index_field, json_rows, missing, text_field
from crispr_lm.tasks.languages import ENGLISH

FIELDS = (
    "context",
    "question",
    "options",
    "answer",
    "group",
    "condition",
    "unknown",
    "stereotyped",
    "category",
    "polarity",
    "language",
)
OPTIONAL = ("group", "condition", "unknown", "stereotyped", "polarity")
"""Fields that would be missed without a word where a row has them under another usual name."""
CONDITIONS = {
    "ambig": AMBIGUOUS,
    "ambiguous": AMBIGUOUS,
    "disambig": DISAMBIGUATED,
    "disambiguated": DISAMBIGUATED,
}
POLARITIES = {"neg": "negative", "negative": "negative", "nonneg": "nonnegative", "nonnegative": "nonnegative"}


def read_choices(path: Path) -> list[Example]:
    """Read a JSON Lines file in the general form.

    Raises:
        InputError: the file is missing or unreadable, or a row is malformed (file and line are named).
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; choices: takes one JSON Lines file")
    return [example_of(row, where) for where, row in json_rows(path)]


def example_of(row: dict[str, Any], where: str) -> Example:
    """The example that a row holds.

    Args:
        row: Fields as above.
        where: Names the row in messages.

    Raises:
        InputError: it is malformed.
    """
    for name in row:
        # Further fields (an id, a source) are welcome; a misspelt optional one would be lost without a word.
        if name not in FIELDS and not NUMBERED.fullmatch(name) and (hint := nearest(name, FIELDS, cutoff=0.8)):
            raise InputError(f"{where}: unknown field {name!r}{hint}; rename it")
    for name in OPTIONAL:
        if row.get(name) is None and (other := next((one for one in ALSO_CALLED[name] if one in row), None)):
            raise InputError(f"{where}: unknown field {other!r} (did you mean {name!r}?); rename it")
    context = text_field(row, "context", where, may_be_empty=True) if "context" in row else ""
    there = "question" in row or not context.strip()
    question = text_field(row, "question", where, may_be_empty=bool(context.strip())) if there else ""
    options = row.get("options")
    if options is None:
        raise missing(row, "options", where)
    if not isinstance(options, list) or not all(isinstance(option, str) and option.strip() for option in options):
        raise InputError(f"{where}: field 'options' must be a list of non-empty strings, not {options!r}")
    options = check_options(options, where)
    group = row.get("group")
    if group is not None and (not isinstance(group, (str, int)) or isinstance(group, bool)):
        raise InputError(f"{where}: field 'group' must be a string or an integer, not {group!r}")
    if isinstance(group, str) and not group.strip():
        raise InputError(f"{where}: field 'group' is empty; name the template, or leave the field out")
    condition = _one_of(row, "condition", CONDITIONS, where)
    category = text_field(row, "category", where, may_be_empty=True) if row.get("category") is not None else ""
    language = text_field(row, "language", where) if row.get("language") is not None else ENGLISH
    # Without a group, equal texts (often the same question with its options in another order) must not part.
    template = f"group {group}" if group is not None else " ".join(f"{context} {question}".lower().split())
    answer = index_field(row, "answer", len(options), where)
    unknown, stereotyped = (
        index_field(row, name, len(options), where) if row.get(name) is not None else None
        for name in ("unknown", "stereotyped")
    )
    _check_answer(condition, (answer, unknown, stereotyped), where)
    return Example(
        context=context,
        question=question,
        options=options,
        answer=answer,
        template=f"{category}/{template}" if category else template,
        condition=condition or None,
        unknown=unknown,
        stereotyped=stereotyped,
        category=category,
        polarity=_one_of(row, "polarity", POLARITIES, where),
        source=where,
        language=language,
    )


def _one_of(row: dict[str, Any], name: str, words: Mapping[str, str], where: str) -> str:
    """What one of two words in a field means; empty where the row has none."""
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or value not in words:
        first, second = dict.fromkeys(words.values())
        raise InputError(f"{where}: {name} is {value!r}, must be {first!r} or {second!r} (or left out)")
    return words[value]


def _check_answer(condition: str, indices: tuple[int, int | None, int | None], where: str) -> None:
    """Refuse an answer, an unknown and a stereotyped option that contradict each other."""
    answer, unknown, stereotyped = indices
    # What an edit would be rewarded for: never the stereotype where the context does not give the answer.
    if condition == AMBIGUOUS:
        if unknown is not None and answer != unknown:
            raise InputError(
                f"{where}: an ambiguous row's answer must be its unknown option ({unknown}), not {answer}; change one, "
                "or give the condition 'disambiguated'"
            )
        if answer == stereotyped:
            raise InputError(
                f"{where}: an ambiguous row's answer can't be its stereotyped option ({answer}); name the option that "
                "abstains as answer and unknown, or give the condition 'disambiguated'"
            )
    if unknown is not None and unknown == stereotyped:
        raise InputError(
            f"{where}: option {unknown} is both unknown and stereotyped; give two indices, or leave one out"
        )
