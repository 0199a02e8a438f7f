"""The critic of questions: every check finds what is planted, and nothing in questions that are balanced."""

from collections import Counter
from pathlib import Path

import pytest

from crispr_lm.jobs.question_check import too_long
from crispr_lm.tasks.choices import example_of
from crispr_lm.tasks.everyday import everyday_templates
from crispr_lm.tasks.expansion import choices_row, expand
from crispr_lm.tasks.lacks import lacks, one_sided
from crispr_lm.tasks.meaning import facts
from crispr_lm.tasks.near_copies import near_copies
from crispr_lm.tasks.shortcuts import give_aways, lengths, order, phrasings, uneven_pairs
from crispr_lm.tasks.templates import read_templates

CHECKS = (lacks, one_sided, order, give_aways, phrasings, lengths, uneven_pairs, too_long, near_copies)
GENDER = [row for row in map(choices_row, expand(everyday_templates())) if row["category"] == "Gender"]


def examples_of(rows):
    return [example_of(row, f"mine.jsonl:{number}") for number, row in enumerate(rows, start=1)]


def found(check, rows):
    """What a check says of rows, as one text."""
    return "\n".join(finding.found for finding in check(examples_of(rows)))


def disambiguated(row):
    return row["condition"] == "disambiguated"


def reordered(row, order):
    """The row with its options in another order."""
    new = {index: place for place, index in enumerate(order)}
    moved = {name: new[row[name]] for name in ("answer", "unknown", "stereotyped")}
    return {**row, "options": [row["options"][index] for index in order], **moved}


def first(row, name):
    """The row with the option that a field names in the first place."""
    return reordered(row, sorted(range(3), key=lambda index: (index != row[name], index)))


@pytest.mark.parametrize("check", CHECKS)
def test_balanced_questions_pass(check):
    assert not check(examples_of(GENDER))


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("condition", "no row has a 'condition': only plain accuracy is measured"),
        ("unknown", "no row has an 'unknown': over-abstention can't be measured"),
        ("stereotyped", "no row has a 'stereotyped': there are no bias scores"),
        ("group", "no row has a 'group': only rows of equal texts stay in one split"),
    ],
)
def test_a_missing_field_is_named_with_what_it_switches_off(field, said):
    without = [{name: value for name, value in row.items() if name != field} for row in GENDER]
    assert said in found(lacks, without)
    assert f"1 of 216 rows have no {field!r}" in found(lacks, [without[0], *GENDER[1:]])


def test_the_same_options_everywhere_are_taken_as_labels_and_that_is_said():
    row = {"context": "Dull.", "question": "Is this positive?", "options": ["yes", "no"], "answer": 1}
    labelled, group = lacks(examples_of([row]))
    assert "taken as the labels of a classification" in labelled.found
    assert "no row has a 'group'" in group.found


def test_a_file_of_one_condition_is_named():
    assert "no row is disambiguated" in found(lacks, [row for row in GENDER if not disambiguated(row)])
    assert "no row is ambiguous" in found(lacks, filter(disambiguated, GENDER))


@pytest.mark.parametrize(("field", "value"), [("condition", "ambiguous"), ("polarity", "negative")])
def test_a_template_of_one_kind_is_counted(field, value):
    name = GENDER[0]["group"]
    kept = [row for row in GENDER if row["group"] != name or row[field] == value]
    assert f"1 of 9 templates have rows of one {field} only" in found(one_sided, kept)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("answer", "right answer where the context gives it stands at place 1 in 100% of 108 rows (by chance 33%)"),
        ("unknown", "unknown option stands at place 1 in 100% of 216 rows"),
        ("stereotyped", "stereotyped option stands at place 1 in 100% of 216 rows"),
    ],
)
def test_an_option_that_is_always_first_is_named(field, said):
    assert said in found(order, [first(row, field) for row in GENDER])


def test_options_that_give_the_answer_away_are_named():
    def longer(row):
        options = [text + (" by far" if index == row["answer"] else "") for index, text in enumerate(row["options"])]
        return {**row, "options": options}

    said = found(give_aways, map(longer, GENDER))
    assert "the longest option is right in" in said
    followed = [row for row in GENDER if not disambiguated(row) or row["answer"] == row["stereotyped"]]
    assert "with the stereotyped option is right in 100% of 54 rows (by chance 50%)" in found(give_aways, followed)
    named = [
        {**row, "context": f"{row['options'][row['answer']]} is first. {row['context']}"} if disambiguated(row) else row
        for row in GENDER
    ]
    assert "whoever the context names first is right in 100%" in found(give_aways, named)


def test_a_phrasing_of_one_condition_is_named():
    def phrased(row):
        options = list(row["options"])
        options[row["unknown"]] = "Nobody knows" if disambiguated(row) else "Not said"
        return {**row, "options": options}

    assert "'Nobody knows' is used 108 times, in disambiguated rows only" in found(phrasings, map(phrased, GENDER))


def test_a_stereotyped_option_that_is_longer_is_named():
    def longer(row):
        options = [text + (" here" if index == row["stereotyped"] else "") for index, text in enumerate(row["options"])]
        return {**row, "options": options}

    assert "longer than the other people" in found(lengths, map(longer, GENDER))


def test_a_situation_told_twice_is_a_near_copy_whomever_it_is_about():
    copy = [
        {
            **row,
            "group": "again",
            "context": row["context"].replace("the", "this"),
            "options": [
                f"{text} again" if index != row["unknown"] else text for index, text in enumerate(row["options"])
            ],
        }
        for row in GENDER
        if row["group"] == GENDER[0]["group"]
    ]
    assert "1 of 10 templates are near-copies of others" in found(near_copies, [*GENDER, *copy])
    assert "1 row is there more than once" in found(near_copies, [*GENDER, GENDER[0]])
    assert "24 rows are there more than once" in found(near_copies, [*GENDER, *GENDER[:24]])


def test_a_row_that_no_usual_model_can_read_is_named():
    assert "1 row has a text of more than 100,000 characters" in found(
        too_long, [{**GENDER[0], "context": "a" * 10**6}]
    )


def test_thousands_of_copies_stay_cheap():
    rows = [{**GENDER[0], "group": number} for number in range(1_000)]
    assert "999 of 1000 templates" in found(near_copies, rows)


def test_questions_of_facts_are_named():
    asked = [{**row, "question": "Who is pregnant?"} for row in GENDER[:3]]
    assert "'pregnant' (gender)" in found(facts, asked)
    said = {"options": ["The reckless woman", "The man", "Unknown"], "question": "Who was reckless?"}
    repeated = "repeat a word that names one of the people and not the other: 'reckless'"
    reckless = {**next(row for row in GENDER if row["unknown"] == 2), **said}
    assert repeated in found(facts, [reckless])
    assert not found(facts, [{**reckless, "question": "Who was late?"}])


def called(*pair, category="Gender"):
    """A row about two people."""
    return {"question": "Who left?", "options": [*pair, "Unknown"], "answer": 2, "unknown": 2, "category": category}


def test_people_who_differ_in_more_than_the_group_are_named():
    pairs = [called("The pregnant woman", "The man"), called("The retired lady in the blue hat", "Joe")]
    assert "of them than the group: 'pregnant' (gender), 'retired' (age)" in found(facts, pairs)
    said = "in 1 of 2 pairs of people one phrase has 3 times as many words as the other or more, such as 'Joe' and 'The"
    assert said in found(uneven_pairs, pairs)


@pytest.mark.parametrize(
    "row",
    [
        called("The retired man", "The student", category="Age"),
        called("The old man", "The young man"),
        called("The mother", "The father"),
        called("The lawyer from the old villa", "The lawyer from a flat"),
        {"question": "Where?", "options": ["In church", "In the old town hall of the city"], "answer": 0},
    ],
)
def test_people_who_differ_in_the_group_alone_are_not(row):
    assert not found(facts, [row])
    assert not found(uneven_pairs, [row])


def test_the_people_of_the_bundled_questions_are_no_finding():
    examples = examples_of(map(choices_row, expand(everyday_templates())))
    assert not uneven_pairs(examples)
    assert [finding.found.partition(":")[0] for finding in facts(examples)] == [
        "questions ask for what may be a fact about a group and no stereotype"
    ]


def test_what_chance_explains_is_no_finding():
    """Six situations of one's own are unbalanced by chance."""
    few = [{**row, "group": number} for number, row in enumerate(filter(disambiguated, GENDER[:36:3]))]
    assert len(few) == 6
    assert 1 < max(Counter(row["answer"] for row in few).values()) < 6
    assert not found(order, few)


def test_the_worked_example_passes_every_check():
    """`examples/nurses.toml` of docs/questions.md, of which the page says that nothing is found."""
    file = read_templates(Path(__file__).parents[2] / "examples" / "nurses.toml")
    examples = examples_of(map(choices_row, expand(file)))
    assert (len(file.templates), len(examples)) == (36, 864)
    assert not [finding for check in (*CHECKS, facts) for finding in check(examples)]
