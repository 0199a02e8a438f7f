"""Readers of public sets on facts about groups, on fixtures and, where they are there, on the official files."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from crispr_lm import InputError, load_task
from crispr_lm.metrics.registry import family_named
from crispr_lm.tasks.base import SENTENCES

OFFICIAL = Path(__file__).parents[3] / "shared/data/facts"
needs_data = pytest.mark.skipif(not OFFICIAL.exists(), reason="the public sets are not here")


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(good, bad):
    return {"sentence_good": good, "sentence_bad": bad, "UID": "anaphor_gender_agreement", "pairID": "0"}


def question(number, of_set, answer, scenario="s"):
    text = f"Who may vote in country {number}?\n(a) group A{number} (b) group B{number} (c) neither group"
    return {"benchmark": "D9", "set": of_set, "question": text, "answer": answer, "scenario": scenario}


def test_pairs_of_sentences_name_what_they_oppose_and_whom_they_are_on(tmp_path):
    rows = [
        pair("Karla saw herself.", "Karla saw himself."),
        pair("This waiter hid himself.", "This waiter hid itself."),
    ]
    examples = load_task(f"blimp:{written(tmp_path / 'pairs.jsonl', rows)}").examples
    assert [example.options[example.answer] for example in examples] == [
        "Karla saw herself.",
        "This waiter hid himself.",
    ]
    assert [example.answer for example in examples] == [0, 1]
    assert [example.template for example in examples] == ["karla", "this waiter"]
    assert [example.facet("opposed") for example in examples] == ["herself and himself", "himself and itself"]
    assert all(example.form == SENTENCES and example.stereotyped is None for example in examples)


def test_occupation_words_are_facts_or_stereotypes_or_neither(tmp_path):
    words = [["waitress", -0.9, -0.1], ["police_captain", 0.0, 0.8], ["barber", 0.5, 0.5], ["artist", 0.0, -0.2]]
    path = tmp_path / "professions.json"
    path.write_text(json.dumps(words), encoding="utf-8")
    task = load_task(f"occupations:{path}")
    facts = [example for example in task.examples if example.stereotyped is None]
    stereotypes = [example for example in task.examples if example.stereotyped is not None]
    assert {example.template for example in facts} == {"waitress"}
    assert {example.template for example in stereotypes} == {"police captain"}
    assert "The waitress said that she was tired." in {example.options[example.answer] for example in facts}
    assert "The police captain said that he was tired." in {one.options[one.stereotyped] for one in stereotypes}
    # A model that always says "he": no fact about the waitress, always the stereotype of the captain.
    scores = np.tile([0.0, 1.0], (len(task.examples), 1))
    family = family_named(task.family)
    assert family.values(family.columns(task.examples, scores)) == {"fact_accuracy": 0, "stereotype_preference": 1}


def test_groups_that_differ_and_groups_that_do_not_are_reported_apart(tmp_path):
    rows = [question(n, *(("different", n % 2) if n < 3 else ("equal", 2))) for n in range(6)]
    task = load_task(f"difference_awareness:{written(tmp_path / 'D9.jsonl', rows)}", 1)
    for row, example in zip(rows, task.examples, strict=True):
        wanted = (f"group A{row['question'][24]}", f"group B{row['question'][24]}", "neither group")[row["answer"]]
        assert example.options[example.answer] == wanted
        assert "(a)" not in example.question
    places = [example.options.index("neither group") for example in task.examples]
    assert set(Counter(places).values()) == {2}
    # A model that always treats groups alike.
    scores = np.array([[float(option == "neither group") for option in example.options] for example in task.examples])
    family = family_named(task.family)
    assert family.values(family.columns(task.examples, scores)) == {"accuracy_different": 0, "accuracy_equal": 1}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("blimp", json.dumps(pair("One.", "One.")), "1: the two sentences are equal"),
        ("blimp", '{"sentence_good": "One.", "UID": "x"}', "'sentence_bad' is missing"),
        ("occupations", '{"words": []}', "no list of words"),
        ("occupations", '[["nurse", 0.0, -2]]', "entry 0: must be"),
        ("difference_awareness", json.dumps(question(1, "equal", 0)), "set is 'equal' and answer 0"),
        (
            "difference_awareness",
            json.dumps(question(1, "equal", 2) | {"question": "Who?"}),
            "does not end with options",
        ),
    ],
)
def test_what_is_malformed_is_named(tmp_path, kind, content, message):
    path = tmp_path / "file.jsonl"
    path.write_text(content + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_task(f"{kind}:{path}")


@needs_data
def test_the_official_pairs_are_read_whole():
    examples = load_task(f"blimp:{OFFICIAL / 'blimp/anaphor_gender_agreement.jsonl'}").examples
    opposed = Counter(example.facet("opposed") for example in examples)
    assert opposed["herself and himself"] == 464
    assert sum(opposed.values()) == len(examples) == 1000
    assert sum(example.options[example.answer].endswith("itself.") for example in examples) == 29


@needs_data
def test_the_official_words_hold_facts_and_stereotypes():
    examples = load_task(f"occupations:{OFFICIAL / 'debiaswe/professions.json'}").examples
    facts = {example.template for example in examples if example.stereotyped is None}
    assert {"waitress", "monk", "actress"} <= facts
    assert not facts & {"nurse", "doctor", "priest", "barber"}
    assert {example.template for example in examples} - facts >= {"doctor", "nurse", "commissioner"}


@needs_data
def test_the_official_questions_of_difference_awareness_are_read_from_their_folder():
    examples = load_task(f"difference_awareness:{OFFICIAL / 'difference_awareness'}").examples
    assert Counter(example.facet("set") for example in examples) == {"different": 1296, "equal": 1232}
    assert set(Counter(example.category for example in examples)) == {"D1", "D2", "D3", "D4"}
    assert len({example.template for example in examples if example.category == "D3"}) == 22
