"""The general form and the names of tasks."""

import json

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.tasks.choices import read_choices

ROW = {"context": "Ann met Bob.", "question": "Who was late?", "options": ["Ann", "Bob", "Unknown"], "answer": 2}


def written(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_row_with_every_field(tmp_path):
    more = {"group": "late", "condition": "ambiguous", "unknown": 2, "stereotyped": 0, "category": "Gender", "id": 17}
    (read,) = read_choices(written(tmp_path, {**ROW, **more}))
    assert (read.context, read.question, read.options, read.answer) == (
        "Ann met Bob.", "Who was late?", ("Ann", "Bob", "Unknown"), 2,
    )  # fmt: skip
    assert (read.condition, read.unknown, read.stereotyped, read.category) == ("ambiguous", 2, 0, "Gender")


def test_the_number_of_options_may_vary_and_the_context_be_empty(tmp_path):
    rows = [ROW, {**ROW, "options": ["yes", "no"], "answer": 0, "context": ""}, {**ROW, "options": list("abcdefg")}]
    assert [len(read.options) for read in read_choices(written(tmp_path, *rows))] == [3, 2, 7]


def test_rows_of_one_group_or_of_equal_texts_have_one_template(tmp_path):
    rows = [
        {**ROW, "group": 1},
        {**ROW, "group": 1, "question": "Another?"},
        ROW,
        {**ROW, "options": ["Bob", "Ann", "Unknown"], "context": " ann  MET bob."},
        {**ROW, "question": "Another?"},
    ]
    first, second, third, fourth, fifth = (read.template for read in read_choices(written(tmp_path, *rows)))
    assert first == second
    assert third == fourth
    assert len({first, third, fifth}) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{not json", "not valid JSON"),
        ("[1, 2]", "list"),
        ("[" * 100_000, "not valid JSON"),
        *[({name: value for name, value in ROW.items() if name != gone}, f"'{gone}' is missing") for gone in ROW],
        ({**ROW, "answer": 3}, "out of range"),
        ({**ROW, "answer": -1}, "out of range"),
        ({**ROW, "answer": True}, "an integer"),
        ({**ROW, "answer": "Ann"}, "an integer"),
        ({**ROW, "options": ["Ann"], "answer": 0}, "at least two"),
        ({**ROW, "options": [], "answer": 0}, "at least two"),
        ({**ROW, "options": ["Ann", "Ann "], "answer": 0}, "are equal"),
        ({**ROW, "options": ["Ann", 3], "answer": 0}, "'options'"),
        ({**ROW, "options": "Ann", "answer": 0}, "'options'"),
        ({**ROW, "question": "  "}, "'question' is empty"),
        ({**ROW, "context": 3}, "'context'"),
        ({**ROW, "conditoin": "ambiguous"}, "did you mean 'condition'?"),
        ({**ROW, "condition": "unclear"}, "condition"),
        ({**ROW, "unknown": 5}, "out of range"),
        ({**ROW, "group": [1]}, "'group'"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(tmp_path, row, said):
    path = written(tmp_path, ROW, row)
    with pytest.raises(InputError, match=r"questions\.jsonl:2: ") as error:
        read_choices(path)
    assert said in str(error.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b'{"context": "\xff\xfe"}')
    with pytest.raises(InputError, match="UTF-8"):
        read_choices(path)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode())
    assert len(read_choices(path)) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("everyday", "builtin:NAME"),
        ("builtin:", "builtin:NAME"),
        ("builtin:everydy", "did you mean 'everyday'?"),
        ("choises:x", "did you mean 'choices'?"),
        ("bbq:/nowhere/Age.jsonl", "does not exist"),
    ],
)
def test_a_task_that_is_not_there_is_named(name, said):
    with pytest.raises(InputError) as error:
        load_task(name)
    assert said in str(error.value)


def test_a_folder_or_an_empty_file_is_no_task(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        load_task(f"choices:{tmp_path}")
    with pytest.raises(InputError, match="no examples"):
        load_task(f"choices:{written(tmp_path)}")


def test_instructions_by_number_or_file(tmp_path):
    assert len(load_task("builtin:everyday").instructions) == len(set(load_task("builtin:everyday").instructions)) == 10
    assert load_task("builtin:everyday", 2).instructions == load_task("builtin:everyday").instructions[:2]
    own = tmp_path / "own.txt"
    own.write_text("# mine\nAnswer.\n\n  Choose.  \n")
    assert load_task("builtin:everyday", str(own)).instructions == ("Answer.", "Choose.")
    for wrong in (0, 11, "0", str(tmp_path / "nowhere.txt")):
        with pytest.raises(InputError):
            load_task("builtin:everyday", wrong)
    own.write_text("# nothing\n")
    with pytest.raises(InputError, match="no instruction"):
        load_task("builtin:everyday", str(own))
