"""From another tool's log to questions, twins and prompts."""

import json

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.jobs.questions_from import Groups, questions_from
from crispr_lm.report.questions_from import print_made
from crispr_lm.tasks.exchange import builtin_exchanges, exchange_of
from crispr_lm.tasks.logs.entry import Failure, LogOptions, Question
from crispr_lm.tasks.logs.twins import AGAIN, ANSWER_ALONE, NO_GROUP, make_twins

ASKED = Question("Ann met Bob. They left.", "Who was late?", ("Ann", "Bob", "It can't be determined"), 2)


def failure(prompt, answer="", question=None, source="log:1", template=""):
    return Failure(prompt, answer, "", source, template, question)


def table(tmp_path, *prompts):
    path = tmp_path / "export.csv"
    path.write_text("\n".join(["prompt,answer", *(f'"{prompt}","{answer}"' for prompt, answer in prompts)]))
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_written_can_be_read_and_the_rest_is_counted_by_reason(tmp_path, capsys):
    log = table(
        tmp_path,
        ("What will she and Fatou say?", "x"),
        ("What will  she and Fatou say?", "y"),
        ("What will he and Fatou say?", "z"),
        ("Describe a nurse.", "She is kind."),
        ("Describe a tree.", "It is tall."),
        ("", ""),
    )
    made = questions_from(log, tmp_path / "out", Groups(), LogOptions())
    assert {name: found["count"] for name, found in made["left_out"].items()} == {
        AGAIN: 1,
        "no text of a prompt in it": 1,
    }
    assert {name: found["count"] for name, found in made["without_twin"].items()} == {ANSWER_ALONE: 1, NO_GROUP: 1}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["prompts.jsonl", "twins.jsonl"]
    (twin,) = rows(tmp_path / "out" / "twins.jsonl")  # the log holds it from both sides
    assert (twin["prompt_a"], twin["prompt_b"]) == ("What will she and Fatou say?", "What will he and Fatou say?")
    assert (twin["group_a"], twin["group_b"]) == ("women", "men")
    assert set(twin) == {"id", "template", "prompt_a", "prompt_b", "group_a", "group_b"}
    kept = rows(tmp_path / "out" / "prompts.jsonl")
    assert [(row["prompt"], row["answer"], row["original"]) for row in kept][2:] == [
        ("Describe a nurse.", "She is kind.", True), ("Describe a tree.", "It is tall.", True),
    ]  # fmt: skip
    assert made["unchanged_names"] == {"Fatou": 1}
    assert made["entries"] == made["prompts"] + sum(found["count"] for found in made["left_out"].values())
    print_made(made)
    printed = capsys.readouterr().out
    assert "1  its answer names a group, the prompt itself does not (export.csv:5)" in printed
    assert "6 entries; 4 different prompts failed and can be used, 2 left out." in printed
    assert "Fatou (1)" in printed
    with pytest.raises(InputError, match="exists; give another folder"):
        questions_from(log, tmp_path / "out", Groups(), LogOptions())


def test_a_plural_of_a_word_that_is_exchanged_is_named(tmp_path, capsys):
    groups = Groups(pairs=("nurse=engineer",), builtin=False)
    made = questions_from(table(tmp_path, ("The Nurses' union met", "")), tmp_path / "out", groups, LogOptions())
    assert (made["twins"], made["unchanged_plurals"]) == (0, {"nurses": 1})
    print_made(made)
    assert "look like plurals of yours: nurses (1). Give them, too: --swap A=B." in capsys.readouterr().out


def test_a_question_and_its_twin_are_one_template_and_say_what_is_known(tmp_path):
    doc = {"context": ASKED.context, "question": ASKED.question}
    requests = {
        f"gen_args_{place}": {"arg_0": f"{ASKED.context} {ASKED.question}", "arg_1": f" {option}"}
        for place, option in enumerate(ASKED.options)
    }
    line = {
        "doc_id": 0, "doc": doc, "arguments": requests, "target": "2",
        "filtered_resps": [["-1", "True"], ["-2", "False"], ["-3", "False"]],
    }  # fmt: skip
    log = tmp_path / "samples_x.jsonl"
    log.write_text(json.dumps(line))
    made = questions_from(log, tmp_path / "out", Groups(), LogOptions())
    assert (made["questions"], made["question_templates"], made["with_unknown"]) == (2, 1, 2)
    original, twin = load_task(f"choices:{tmp_path / 'out' / 'questions.jsonl'}").examples
    assert (original.context, twin.context) == ("Ann met Bob. They left.", "Bob met Ann. They left.")
    assert twin.options == ("Bob", "Ann", "It can't be determined")
    assert [(one.condition, one.unknown, one.answer, one.category) for one in (original, twin)] == [
        ("ambiguous", 2, 2, "Gender")
    ] * 2
    assert original.template == twin.template
    assert [row.get("original") for row in rows(tmp_path / "out" / "questions.jsonl")] == [True, None]


def test_a_context_that_goes_on_is_of_the_same_template_and_a_logged_twin_stays_an_original():
    more = Question("Ann met Bob. They left. Bob was late.", *(ASKED.question, ASKED.options, 1))
    twin = Question("Bob met Ann. They left.", "Who was late?", ("Bob", "Ann", "It can't be determined"), 2)
    asked = (("one", ASKED), ("two", more), ("three", twin))
    made = make_twins([failure(name, question=one, source=name) for name, one in asked], builtin_exchanges())
    assert len({row["group"] for row in made.questions}) == 1
    assert [row.get("source") for row in made.questions] == ["one", "three", "two", None]
    assert made.questions[2]["condition"] == "disambiguated"


def test_every_exchange_gives_a_twin_and_the_template_is_the_tools_own():
    exchanges = (exchange_of(["nurse=doctor"]), *builtin_exchanges())
    label = "Describe {{who}} at work."
    entries = [
        failure("A nurse said she left.", template=label),
        failure("A man left.", source="log:2", template=label),
    ]
    made = make_twins(entries, exchanges)
    assert [(row["prompt_b"], row["group_a"]) for row in made.twins] == [
        ("A doctor said she left.", "nurse"), ("A nurse said he left.", "women"), ("A woman left.", "men"),
    ]  # fmt: skip
    assert len({row["template"] for row in made.twins}) == 1
    assert len({row["id"] for row in made.twins}) == 3


def test_a_twin_whose_options_would_be_equal_is_left_out():
    asked = Question("", "Who is it?", ("Mrs. Smith", "Ms. Smith"), 0)
    made = make_twins([failure("x", question=asked)], builtin_exchanges())
    assert not made.questions
    assert list(made.without_twin) == ["in its twin: two of its options are equal, or one is empty"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (Groups(builtin=False), "no groups to exchange"),
        (Groups(pairs=("nurse",)), "no pair of two different words"),
    ],
)
def test_groups_that_can_not_be_used(tmp_path, groups, message):
    with pytest.raises(InputError, match=message):
        questions_from(table(tmp_path, ("x", "y")), tmp_path / "out", groups, LogOptions())
    assert not (tmp_path / "out").exists()
