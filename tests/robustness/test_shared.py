"""What others get to see of a run names no folder and no user of this machine, and turns no text round."""

import json
import shlex
from pathlib import Path

import pytest

from crispr_lm import load_model, load_task
from crispr_lm.jobs import steps
from crispr_lm.jobs.comparison import compare
from crispr_lm.jobs.reproduce import reproduce
from crispr_lm.jobs.run import run
from crispr_lm.other_settings import ApplySettings, EvaluateSettings, ReproduceSettings
from crispr_lm.report.page import write_report
from crispr_lm.settings import CompareSettings
from crispr_lm.storage.sanitize import STEERING, all_visible, shared_names, without_folders
from crispr_lm.tasks.registry import dataset_of

from ..jobs.test_run import questions, settings_for

__all__ = ["questions"]

SECRET = "jane.private"


@pytest.fixture
def private(saved_model, questions, tmp_path):
    """A model and questions in folders that name a user, and an empty folder there."""
    home = tmp_path / SECRET
    (home / "data").mkdir(parents=True)
    model = home / "my model"
    model.symlink_to(saved_model("llama"), target_is_directory=True)
    for file in questions.iterdir():
        (home / "data" / file.name.replace("questions", "own questions")).write_bytes(file.read_bytes())
    return model, home / "data" / "own questions.jsonl", home


def private_settings(data, output, **changes):
    """Settings of a run on these questions, every path below the private folder."""
    instructions = str(data.with_name("instructions.txt"))
    return settings_for(data.parent, output, task=(f"choices:{data}",), instructions=instructions, **changes)


def names_in(folder, *without):
    """Files that name the private folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in without]
    return [path.name for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_nothing_that_is_shared_of_a_run_names_a_folder(private, tmp_path):
    model, data, home = private
    output = tmp_path / "out"
    settings = private_settings(data, output, max_neurons=2, measure=("builtin:knowledge", f"text:{data}"))
    results = run(str(model), settings)
    assert names_in(output, "run.json") == []
    assert names_in(output / "model") == []
    assert json.loads((output / "run.json").read_text())["identity"]["model"] == str(model)
    assert results["model"] == "my model"
    assert list(results["tasks"]) == ["choices:own questions.jsonl", "builtin:knowledge", "text:own questions.jsonl"]
    page = (output / "report.html").read_text(encoding="utf-8")
    command = page.partition("<code>crispr-lm compare ")[2].partition("</code>")[0]
    words = shlex.split("compare " + command.replace("&#39;", "'"))
    assert words[1:4] == ["my model", "--task", "choices:own questions.jsonl"]
    write_report(output)  # from the files alone
    assert SECRET not in (output / "report.html").read_text(encoding="utf-8")
    for form in ("edit", "lora"):
        steps.apply(str(model), output / "edit.json", home / form, ApplySettings(format=form, device="cpu"))
        assert names_in(home / form) == []
    measured = home / "measured.json"
    again = EvaluateSettings(task=settings.task, instructions="2", device="cpu", test_examples=6, measure=())
    steps.evaluate(str(model), measured, output / "edit.json", again)
    assert SECRET not in measured.read_text(encoding="utf-8")
    assert reproduce(output, tmp_path / "again", ReproduceSettings(device="cpu"))["same"]


@pytest.mark.slow
def test_nor_does_anything_of_a_comparison(private, tmp_path):
    model, data, _ = private
    given = private_settings(data, tmp_path / "out", max_neurons=2).model_dump(exclude_unset=True)
    compare(str(model), CompareSettings(**given, methods=("random",), curves=False, draws=1))
    assert names_in(tmp_path / "out", "comparison-run.json") == []


def test_a_model_and_a_task_are_called_by_their_last_part(private, monkeypatch):
    model, data, home = private
    lm = load_model(model, device="cpu")
    assert (lm.name, lm.given) == ("my model", str(model))
    monkeypatch.chdir(model)
    assert load_model(".", device="cpu").name == Path.cwd().name
    assert load_task(f"choices:{data}").name == "choices:own questions.jsonl"
    assert str(home) in load_task(f"choices:{data}").origin[0]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/home/jane/m", "m"),
        ("/home/jane/m/", "m"),
        ("C:\\Users\\jane\\m.gguf", "m.gguf"),
        ("bbq:/home/jane/bbq/Age.jsonl", "bbq:Age.jsonl"),
        ("bbq:C:\\Users\\jane\\Age.jsonl", "bbq:Age.jsonl"),
        ("/home/jane/Age.jsonl:12", "Age.jsonl:12"),
        ("builtin:everyday", "builtin:everyday"),
        ("10", "10"),
    ],
)
def test_names_without_folders(given, shown):
    assert without_folders(given) == shown


def test_two_files_of_one_name_are_two_tasks():
    names = shared_names(["choices:a/q.jsonl", "choices:b/q.jsonl", "bbq:q.jsonl", "choices:c/q.jsonl"])
    assert list(names.values()) == ["choices:q.jsonl", "choices:q (2).jsonl", "bbq:q.jsonl", "choices:q (3).jsonl"]
    assert len({dataset_of(name) for name in names.values()}) == len(names)
    assert list(shared_names(["bbq:a/q", "bbq:b/q"]).values()) == ["bbq:q", "bbq:q (2)"]


def test_two_files_of_one_name_in_one_run(private, tmp_path):
    _, data, home = private
    (home / "other").mkdir()
    other = home / "other" / data.name
    other.write_bytes(data.read_bytes())
    settings = settings_for(data.parent, tmp_path / "out", task=(f"choices:{data}", f"choices:{other}"))
    tasks = steps.load_tasks(settings)
    assert [task.name for task in tasks] == ["choices:own questions.jsonl", "choices:own questions (2).jsonl"]


def test_json_of_a_page_turns_no_text_round():
    content = {"a\u202eb": ["x\u061cy", {"t": "\x1b[2J\nline\ttab"}], "n": [1, None, True]}
    shown = all_visible(content)
    assert shown == {"a\\u202eb": ["x\\u061cy", {"t": "\\x1b[2J\nline\ttab"}], "n": [1, None, True]}
    assert not STEERING.search(json.dumps(shown, ensure_ascii=False))
