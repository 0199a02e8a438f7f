"""Instructions of each task, where the tasks of one job have different ones."""

import pytest

from crispr_lm import InputError
from crispr_lm.tasks.task_instructions import instructions_by_task

TASKS = ("bbq:data/Age.jsonl", "bbq:data/SES.jsonl", "choices:mine/own.jsonl")


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (("3",), ("3", "3", "3")),
        (("bbq=a.txt",), ("a.txt", "a.txt", "10")),
        (("Age=a.txt", "2"), ("a.txt", "2", "2")),
        (("choices=b.txt", "bbq=5"), ("5", "5", "b.txt")),
        (("bbq:data/SES.jsonl=c.txt", "own=1"), ("10", "c.txt", "1")),
    ],
)
def test_a_name_is_a_kind_a_file_or_a_whole_task(given, chosen):
    assert tuple(instructions_by_task(given, TASKS).values()) == chosen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("bq=a.txt",), r"no task is called bq \(did you mean 'bbq'\?\)"),
        (("bbq=a.txt", "Age=b.txt"), "are both for task bbq:data/Age.jsonl"),
        (("a.txt", "b.txt"), "are both for every task"),
    ],
)
def test_two_choices_for_a_task_or_a_name_of_none_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        instructions_by_task(given, TASKS)
