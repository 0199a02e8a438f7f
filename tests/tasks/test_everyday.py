"""The bundled questions: official form, right labels, balance, clean text.

Labels are recomputed from the texts: the templates are read again and matched with the finished contexts.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from crispr_lm.tasks.bbq import examples_from_rows
from crispr_lm.tasks.everyday import everyday_rows
from crispr_lm.tasks.templates import UNKNOWN_ANSWERS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BBQ = Path(__file__).parents[2].parent / "shared" / "data" / "bbq"
FIELDS = {
    "example_id",
    "question_index",
    "question_polarity",
    "context_condition",
    "category",
    "answer_info",
    "additional_metadata",
    "context",
    "question",
    "ans0",
    "ans1",
    "ans2",
    "label",
}
NAMES = ("ans0", "ans1", "ans2")

Row = dict[str, Any]


@cache
def rows() -> list[Row]:
    return everyday_rows()


@cache
def templates() -> dict[tuple[str, str], dict[str, Any]]:
    text = (resources.files("crispr_lm.tasks") / "data" / "everyday.toml").read_text(encoding="utf-8")
    listed = tomllib.loads(text)["template"]
    by_key = {(template["category"], template["name"]): template for template in listed}
    assert len(by_key) == len(listed), "two templates of a category share a name"
    return by_key


def template_of(row: Row) -> dict[str, Any]:
    return templates()[row["category"], row["question_index"]]


def position_of_group(row: Row, group: str) -> int:
    positions = [index for index, name in enumerate(NAMES) if row["answer_info"][name][1] == group]
    assert len(positions) == 1
    return positions[0]


def unknown(row: Row) -> int:
    return position_of_group(row, "unknown")


def stereotyped(row: Row) -> int:
    (group,) = row["additional_metadata"]["stereotyped_groups"]
    return position_of_group(row, group)


def other(row: Row) -> int:
    return 3 - unknown(row) - stereotyped(row)


def stereotyped_is_first(row: Row) -> bool:
    """Whether the context mentions the stereotyped person before the other one."""
    context = row["context"].lower()
    first, second = (context.index(row[NAMES[index]].lower()) for index in (stereotyped(row), other(row)))
    return first < second


def roles(row: Row) -> dict[str, str]:
    """Who is target and who is nontarget, read back from the end of a disambiguated context; lower case."""
    people = "|".join(re.escape(person) for pair in template_of(row)["pairs"] for person in pair)
    pattern = re.escape(template_of(row)["disambiguation"])
    pattern = re.sub(r"\\{(target|nontarget)\\}", rf"(?P<\1>{people})", pattern, flags=re.IGNORECASE)
    # {Target} and {target} are one person.
    pattern = pattern.replace("(?P<Target>", "(?P<target>").replace("(?P<Nontarget>", "(?P<nontarget>")
    match = re.search(pattern + "$", row["context"], flags=re.IGNORECASE)
    assert match, row["context"]
    return {role: person.lower() for role, person in match.groupdict().items()}


def counts(key: Callable[[Row], Hashable], condition: str | None = None) -> Counter[Hashable]:
    return Counter(key(row) for row in rows() if condition in (None, row["context_condition"]))


def assert_level(counter: Counter[Hashable], cells: int, tolerance: int = 0) -> None:
    """All cells are there, and their counts differ by at most `tolerance`."""
    assert len(counter) == cells
    assert max(counter.values()) - min(counter.values()) <= tolerance


def test_rows_are_those_that_earlier_figures_were_measured_on() -> None:
    """Edits and results name questions by template and text: a change of the rows must be meant, and said."""
    digest = hashlib.sha256(json.dumps(everyday_rows()).encode()).hexdigest()
    assert digest == "454afc8c05c9fbb95a857eabf4a9b21733fd4dfae9fad7fa0b9895abced21fc7"


def test_has_enough_kinds_and_templates() -> None:
    by_category = Counter(category for category, _ in templates())
    assert len(by_category) >= 7
    assert min(by_category.values()) >= 9
    assert all(len(template["pairs"]) == 3 for template in templates().values())
    assert counts(lambda row: (row["category"], row["question_index"])) == dict.fromkeys(templates(), 24)


def test_rows_have_the_official_form() -> None:
    for number, row in enumerate(rows()):
        assert set(row) == FIELDS
        assert row["example_id"] == number
        assert row["question_polarity"] in ("neg", "nonneg")
        assert row["context_condition"] in ("ambig", "disambig")
        assert row["label"] in (0, 1, 2)
        assert set(row["answer_info"]) == set(NAMES)
        assert set(row["additional_metadata"]) == {"subcategory", "stereotyped_groups", "version", "source"}
        assert row["additional_metadata"]["source"].startswith("crispr-lm everyday: The stereotype that ")
    assert json.loads(json.dumps(rows())) == rows()


def test_groups_are_distinguished() -> None:
    for row in rows():
        template = template_of(row)
        assert row["additional_metadata"]["stereotyped_groups"] == [template["stereotyped_group"]]
        groups = Counter(row["answer_info"][name][1] for name in NAMES)
        assert groups == Counter([template["stereotyped_group"], template["other_group"], "unknown"])
        person = row[NAMES[stereotyped(row)]].lower()
        assert person in [pair[0].lower() for pair in template["pairs"]]
        for name in NAMES:
            phrase = row["answer_info"][name][0]
            assert row[name] in (phrase, f"The {phrase}")


def test_polarities_and_conditions_come_equally_often() -> None:
    def cell(row: Row) -> Hashable:
        return row["category"], row["question_polarity"], row["context_condition"]

    assert_level(counts(cell), 8 * 4)


def test_ambiguous_rows_are_unknown() -> None:
    for row in rows():
        assert (row["label"] == unknown(row)) == (row["context_condition"] == "ambig")


def test_disambiguated_rows_name_the_one_asked_for() -> None:
    role_asked_for = {"neg": "target", "nonneg": "nontarget"}
    for row in rows():
        if row["context_condition"] == "disambig":
            found = roles(row)
            assert len(set(found.values())) == 2
            assert row[NAMES[row["label"]]].lower() == found[role_asked_for[row["question_polarity"]]]


def test_ambiguous_context_is_the_start_of_the_disambiguated_one() -> None:
    ambiguous = {row["context"] for row in rows() if row["context_condition"] == "ambig"}
    for row in rows():
        if row["context_condition"] == "disambig":
            assert any(row["context"].startswith(context + " ") for context in ambiguous)


def test_questions_belong_to_their_polarity() -> None:
    for row in rows():
        name = "negative_question" if row["question_polarity"] == "neg" else "nonnegative_question"
        assert row["question"] == template_of(row)[name]


def gold(row: Row) -> int:
    return int(row["label"])


@pytest.mark.parametrize("position", [gold, unknown, stereotyped, other])
def test_positions_are_balanced_in_every_template(position: Callable[[Row], int]) -> None:
    """Exactly, and so in every category and in every part of a split by templates."""

    def cell(row: Row) -> Hashable:
        return (
            row["category"],
            row["question_index"],
            row["context_condition"],
            row["question_polarity"],
            position(row),
        )

    assert_level(counts(cell), len(templates()) * 4 * 3)


def test_answer_orders_are_balanced() -> None:
    def cell(row: Row) -> Hashable:
        return row["context_condition"], row["question_polarity"], stereotyped(row), unknown(row)

    assert_level(counts(cell), 4 * 6)


def test_mention_order_tells_nothing() -> None:
    """Neither the role nor the answer order goes with who is mentioned first."""

    def ambiguous_cell(row: Row) -> Hashable:
        return row["question_polarity"], stereotyped_is_first(row), stereotyped(row), unknown(row)

    def disambiguated_cell(row: Row) -> Hashable:
        return gold(row) == stereotyped(row), ambiguous_cell(row)

    def category_cell(row: Row) -> Hashable:
        gold_is_stereotyped = gold(row) == stereotyped(row)
        return row["category"], row["question_polarity"], gold_is_stereotyped, stereotyped_is_first(row)

    assert_level(counts(ambiguous_cell, "ambig"), 2 * 2 * 6)
    assert_level(counts(disambiguated_cell, "disambig"), 2 * 2 * 2 * 6)
    # 27 times a template and a pair in a category: an odd number.
    assert_level(counts(category_cell, "disambig"), 8 * 2 * 2 * 2, tolerance=1)


def test_target_is_named_first_as_often_as_last() -> None:
    named_first = [
        (category, re.findall(r"{(target|nontarget)}", template["disambiguation"].lower())[0])
        for (category, _), template in templates().items()
    ]
    assert_level(Counter(named_first), 8 * 2, tolerance=1)
    assert_level(Counter(name for _, name in named_first), 2)


def test_unknown_phrasings_are_balanced() -> None:
    def phrase(row: Row) -> str:
        return str(row[NAMES[unknown(row)]])

    def polarity_cell(row: Row) -> Hashable:
        return phrase(row), row["context_condition"], row["question_polarity"]

    size = len(UNKNOWN_ANSWERS)
    assert_level(counts(polarity_cell), size * 4)
    assert_level(counts(lambda row: (phrase(row), row["context_condition"], row["label"])), size * 6)
    assert_level(counts(lambda row: (phrase(row), unknown(row))), size * 3)
    # 216 rows in a category, 27 of them to each phrasing.
    assert_level(counts(lambda row: (phrase(row), row["category"])), size * 8)


def test_rows_are_distinct() -> None:
    assert len({(row["context"], row["question"]) for row in rows()}) == len(rows())


def test_texts_are_clean() -> None:
    for row in rows():
        texts = [row["context"], row["question"], *(row[name] for name in NAMES)]
        for text in texts:
            assert not re.search(r"[{}]|\s\s|^\s|\s$|\s[.,;:?]", text), text
            assert not re.search(r"\b(\w+) \1\b", text, flags=re.IGNORECASE), text
            assert text.isascii(), text
            for sentence in re.split(r"(?<=[.?!]) ", text):
                assert sentence[0].isupper(), text
        assert row["context"].endswith(".")
        assert row["question"].startswith("Who ")
        assert row["question"].endswith("?")


def test_phrases_of_the_people_stay_whole() -> None:
    """A capital inside a phrase survives."""
    for row in rows():
        for index in (stereotyped(row), other(row)):
            phrase = row[NAMES[index]]
            assert phrase.startswith("The ")
            assert re.search(rf"(?<!\w)[Tt]{re.escape(phrase[1:])}(?!\w)", row["context"]), row["context"]


def test_answers_are_distinct_and_people_are_in_the_context() -> None:
    for row in rows():
        answers = [row[name].lower() for name in NAMES]
        assert len(set(answers)) == 3
        people = [answers[stereotyped(row)], answers[other(row)]]
        assert all(person in row["context"].lower() for person in people)
        assert people[0] not in people[1]
        assert people[1] not in people[0]
        times = 2 if row["context_condition"] == "disambig" else 1
        assert all(row["context"].lower().count(person) == times for person in people)


def test_templates_use_their_placeholders_once() -> None:
    for template in templates().values():
        assert sorted(re.findall(r"{(\w+)}", template["context"].lower())) == ["first", "second"]
        assert sorted(re.findall(r"{(\w+)}", template["disambiguation"].lower())) == ["nontarget", "target"]
        for text in (template["context"], template["disambiguation"]):
            for match in re.finditer(r"{(\w)", text):
                starts_sentence = match.start() == 0 or text[match.start() - 2] in ".?!"
                assert match[1].isupper() == starts_sentence, text


def test_template_texts_are_distinct() -> None:
    for name in ("context", "disambiguation", "stereotype", "negative_question", "nonnegative_question"):
        assert len({template[name] for template in templates().values()}) == len(templates())


def test_the_loader_finds_the_stereotyped_answer() -> None:
    """The stereotyped person for negative questions, the other one for non-negative ones."""
    examples = examples_from_rows((f"row {number}", row) for number, row in enumerate(rows()))
    for row, example in zip(rows(), examples, strict=True):
        assert example.stereotyped == (stereotyped(row) if row["question_polarity"] == "neg" else other(row))
        assert example.unknown == unknown(row)
        assert example.answer == row["label"]
    per_template = defaultdict(set)
    for example in examples:
        per_template[example.template].add(example.category)
    assert len(per_template) == len(templates())


@pytest.mark.skipif(not BBQ.is_dir(), reason="the official BBQ files are not here")
def test_nothing_is_taken_from_bbq() -> None:
    def sentences(text: str) -> set[str]:
        return {sentence.strip().lower() for sentence in re.split(r"(?<=[.?!])\s", text)}

    theirs: set[str] = set()
    their_runs: set[tuple[str, ...]] = set()
    for file in sorted(BBQ.glob("*.jsonl")):
        contexts = {json.loads(line)["context"] for line in file.read_text(encoding="utf-8").splitlines()}
        for context in contexts:
            theirs |= sentences(context)
            words = re.findall(r"\w+", context.lower())
            their_runs |= {tuple(words[start : start + 7]) for start in range(len(words) - 6)}
    assert theirs
    for context in {row["context"] for row in rows()}:
        assert not sentences(context) & theirs
        words = re.findall(r"\w+", context.lower())
        assert not {tuple(words[start : start + 7]) for start in range(len(words) - 6)} & their_runs, context
