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


@pytest.mark.parametrize("left_out", ["context", "question"])
def test_the_context_or_the_question_may_be_left_out(tmp_path, left_out):
    row = {name: value for name, value in ROW.items() if name != left_out}
    (read,) = read_choices(written(tmp_path, row))
    assert getattr(read, left_out) == ""
    with pytest.raises(InputError, match="'question' is missing"):
        read_choices(written(tmp_path, {"options": ROW["options"], "answer": 0}))


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
        ({name: value for name, value in ROW.items() if name != "options"}, "'options' is missing"),
        ({name: value for name, value in ROW.items() if name != "answer"}, "'answer' is missing"),
        ({**ROW, "answer": 3}, "out of range"),
        ({**ROW, "answer": -1}, "out of range"),
        ({**ROW, "answer": True}, "an integer"),
        ({**ROW, "answer": "Ann"}, "an integer"),
        ({**ROW, "options": ["Ann"], "answer": 0}, "at least two"),
        ({**ROW, "options": [], "answer": 0}, "at least two"),
        ({**ROW, "options": ["Ann", "Ann "], "answer": 0}, "are equal"),
        ({**ROW, "options": ["Ann", 3], "answer": 0}, "'options'"),
        ({**ROW, "options": "Ann", "answer": 0}, "'options'"),
        ({**ROW, "question": "  ", "context": " "}, "'question' is empty"),
        ({**ROW, "group": " "}, "'group' is empty"),
        ({**ROW, "context": 3}, "'context'"),
        ({**ROW, "conditoin": "ambiguous"}, "did you mean 'condition'?"),
        ({**ROW, "template": "one"}, "unknown field 'template' (did you mean 'group'?)"),
        ({**ROW, "question_polarity": "neg"}, "did you mean 'polarity'?"),
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


def test_a_field_of_another_name_is_welcome_beside_the_known_one(tmp_path):
    assert len(read_choices(written(tmp_path, {**ROW, "group": "one", "template": "another"}))) == 1


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


@pytest.mark.parametrize(
    ("written_as", "read_as"),
    [
        ("ambig", "ambiguous"),
        ("ambiguous", "ambiguous"),
        ("disambig", "disambiguated"),
        ("disambiguated", "disambiguated"),
    ],
)
def test_the_condition_is_read_in_long_and_short(tmp_path, written_as, read_as):
    (read,) = read_choices(written(tmp_path, {**ROW, "condition": written_as}))
    assert read.condition == read_as


def test_optional_fields_may_be_left_out_or_null(tmp_path):
    optional = ("group", "condition", "unknown", "stereotyped", "category")
    without, null = read_choices(written(tmp_path, ROW, {**ROW, **dict.fromkeys(optional)}))
    for read in (without, null):
        assert (read.condition, read.unknown, read.stereotyped, read.category) == (None, None, None, "")
    assert without.template == null.template


def test_further_fields_are_welcome(tmp_path):
    (read,) = read_choices(written(tmp_path, {**ROW, "id": 3, "source": "mine", "notes": ["any"], "difficulty": 0.5}))
    assert read.answer == 2


def test_without_a_group_case_and_space_make_no_template(tmp_path):
    rows = [
        {**ROW, "context": "Ann met Bob.", "question": "Who was late?"},
        {**ROW, "context": "ann  met\tbob. ", "question": " WHO was late? "},
        {**ROW, "context": "Ann met Bob!", "question": "Who was late?"},
        {**ROW, "context": "", "question": "Who was late?"},
    ]
    templates = [read.template for read in read_choices(written(tmp_path, *rows))]
    assert templates[0] == templates[1]
    assert len(set(templates)) == 3


def test_a_group_named_like_a_question_is_not_that_question(tmp_path):
    rows = [{**ROW, "context": "", "question": "late"}, {**ROW, "group": "late"}]
    plain, grouped = (read.template for read in read_choices(written(tmp_path, *rows)))
    assert plain != grouped


def test_one_group_in_two_categories_is_two_templates(tmp_path):
    rows = [{**ROW, "group": 1, "category": name} for name in ("Age", "Gender", "Age")]
    first, second, third = (read.template for read in read_choices(written(tmp_path, *rows)))
    assert first == third != second


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("null", "one JSON object"),
        ("17", "one JSON object"),
        ('{"context": "cut', "not valid JSON"),
        ({**ROW, "answer": 2.0}, "'answer' must be the index of an option"),
        ({**ROW, "answer": None}, "'answer' is null; fill it in"),
        ({**ROW, "answer": False}, "'answer' must be the index of an option"),
        ({**ROW, "answer": 17}, "'answer' is 17, out of range for 3 options (0 to 2)"),
        ({**ROW, "options": None}, "'options' is null; fill it in"),
        ({**ROW, "options": ["Ann", " "], "answer": 0}, "'options' must be a list of non-empty strings"),
        ({**ROW, "options": {"a": "Ann", "b": "Bob"}}, "'options' must be a list of non-empty strings"),
        ({**ROW, "options": ["Ann", "Bob", "Bob"]}, "options 1 and 2 are equal ('Bob')"),
        ({**ROW, "question": ["Who?"]}, "'question' must be a string"),
        ({**ROW, "context": None}, "'context' is null; fill it in"),
        ({**ROW, "unknown": True}, "'unknown' must be the index of an option"),
        ({**ROW, "unknown": "Unknown"}, "'unknown' must be the index of an option"),
        ({**ROW, "stereotyped": 3}, "'stereotyped' is 3, out of range"),
        ({**ROW, "stereotyped": -1}, "'stereotyped' is -1, out of range"),
        ({**ROW, "stereotyped": "Ann"}, "'stereotyped' must be the index of an option"),
        ({**ROW, "category": 3}, "'category' must be a string"),
        ({**ROW, "condition": ["ambiguous"]}, "must be 'ambiguous' or 'disambiguated'"),
        ({**ROW, "condition": True}, "must be 'ambiguous' or 'disambiguated'"),
        ({**ROW, "group": 1.5}, "'group' must be a string or an integer"),
        ({**ROW, "condition": "ambig", "unknown": 2, "answer": 0}, "answer must be its unknown option (2), not 0"),
        ({**ROW, "condition": "ambiguous", "stereotyped": 0, "answer": 0}, "answer can't be its stereotyped option"),
        ({**ROW, "unknown": 2, "stereotyped": 2}, "option 2 is both unknown and stereotyped"),
        ({**ROW, "stereotypd": 0}, "did you mean 'stereotyped'?"),
        ({**ROW, "unkown": 2}, "did you mean 'unknown'?"),
        ({**ROW, "catagory": "Age"}, "did you mean 'category'?"),
        ({**ROW, "groups": "late"}, "did you mean 'group'?"),
        ({**ROW, "Condition": "ambiguous"}, "did you mean 'condition'?"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line_counting_empty_lines(tmp_path, row, said):
    path = written(tmp_path, ROW, "", ROW, row)
    with pytest.raises(InputError, match=r"questions\.jsonl:4: ") as error:
        load_task(f"choices:{path}")
    assert said in str(error.value)


def test_a_truth_value_is_no_group(tmp_path):
    path = written(tmp_path, {**ROW, "group": True})
    with pytest.raises(InputError, match=r"questions\.jsonl:1: field 'group' must be a string or an integer, not True"):
        read_choices(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.jsonl.*check the path"):
        read_choices(tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match=r"nowhere\.jsonl does not exist"):
        load_task(f"choices:{tmp_path / 'nowhere.jsonl'}")


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
def test_a_file_of_empty_lines_holds_no_examples(tmp_path, content):
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=r"questions\.jsonl holds no examples"):
        load_task(f"choices:{path}")


def test_a_file_becomes_a_task_with_its_name_and_origin(tmp_path):
    path = written(tmp_path, ROW, {**ROW, "question": "Who was early?"})
    task = load_task(f"choices:{path}", 3)
    assert (task.name, task.origin, len(task.instructions)) == ("choices:questions.jsonl", (str(path),), 3)
    assert [example.question for example in task.examples] == ["Who was late?", "Who was early?"]
    assert [example.source for example in task.examples] == [f"{path}:1", f"{path}:2"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "builtin:NAME, bbq:PATH or choices:PATH"),
        ("choices:", "builtin:NAME, bbq:PATH or choices:PATH"),
        ("Bbq:x", "did you mean 'bbq'?"),
        ("bultin:everyday", "did you mean 'builtin'?"),
        ("zzz:x", "kinds: builtin, bbq, esbbq"),
        ("builtin:zzz", "there is: everyday"),
    ],
)
def test_a_name_that_can_not_be_loaded_is_answered_with_what_can(name, said):
    with pytest.raises(InputError) as error:
        load_task(name)
    assert said in str(error.value)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/Age.jsonl", "x" * 300], ids=["unknown user", "name too long"])
def test_a_path_that_the_system_refuses_is_named(path):
    with pytest.raises(InputError) as error:
        load_task(f"bbq:{path}")
    assert path in str(error.value)


def test_instructions_of_an_unknown_user_are_named():
    with pytest.raises(InputError) as error:
        load_task("builtin:everyday", "~nobody-of-this-name/own.txt")
    assert "~nobody-of-this-name" in str(error.value)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(InputError) as error:
        load_task("zzz:x")
    assert "did you mean" not in str(error.value)


@pytest.mark.parametrize("count", [3, "3"])
def test_the_first_instructions_are_taken_by_number(count):
    assert load_task("builtin:everyday", count).instructions == load_task("builtin:everyday").instructions[:3]


@pytest.mark.parametrize(
    ("instructions", "said"),
    [
        (0, "0 instructions asked for"),
        (-1, "-1 instructions asked for"),
        (11, "11 instructions asked for, but there are 10"),
        ("11", "give 1 to 10"),
        ("nowhere.txt", "nowhere.txt can't be read"),
    ],
)
def test_instructions_that_are_not_there_are_named(instructions, said):
    with pytest.raises(InputError) as error:
        load_task("builtin:everyday", instructions)
    assert said in str(error.value)
