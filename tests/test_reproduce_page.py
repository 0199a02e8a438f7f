"""The page on the paper agrees with the code: its commands are read, and the reader takes every task in them."""

import json
import re
import shlex
from pathlib import Path

from crispr_lm import load_task
from crispr_lm.cli.commands import app
from crispr_lm.jobs.search_settings import check_search
from crispr_lm.runtime.progress import SilentProgress

from .tasks.test_bbq import row

PAGE = Path(__file__).parents[1] / "docs" / "reproduce-the-paper.md"

TABLES = {
    "mrpc": "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t11\t12\tHe said no.\tHe refused.\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n0\tIt rained.\tIt snowed.\tnot_entailment\n",
    "qnli": "index\tquestion\tsentence\tlabel\n0\tWho was late?\tAnna was late.\tentailment\n",
}
"""What GLUE's own files look like."""


def commands_of(text):
    """The words of every command line in code, with what stands for its options filled in."""
    (options,) = re.findall(r"^    (--preset .*)$", text, flags=re.MULTILINE)
    found = re.findall(r"(?:`|\$ )(crispr-lm (?:run|compare) [^`\n]+)", text)
    return [shlex.split(command.replace(" PAPER ", f" {options} "))[1:] for command in found]


def write_file_of(task):
    """Write the file that a task names, as its publishers have it."""
    kind, _, path = task.rpartition(":")
    assert Path(path).suffix, f"{task} names no file: readers of GLUE take one, not a folder"
    Path(path).parent.mkdir(exist_ok=True)
    content = TABLES[kind.removeprefix("glue:")] if kind.startswith("glue:") else json.dumps(row()) + "\n"
    Path(path).write_text(content, encoding="utf-8")


def test_every_command_on_the_page_is_taken_and_finds_its_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    tasks = set(re.findall(r"`(glue:[^`]+)`", text))
    commands = commands_of(text)
    assert len(commands) > 5
    for command in commands:
        _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
        check_search(bound.arguments["settings"], SilentProgress())
        tasks.update(bound.arguments["settings"].task)
    for task in sorted(tasks):
        write_file_of(task)
        assert load_task(task).examples
