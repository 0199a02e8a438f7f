"""Names and places that no result can be written to, or nothing be read from: one sentence, before a model is read."""

import os
import sys
from pathlib import Path

import pytest

from crispr_lm.cli.commands import main

from .trying import tried

TASK = ("--task", "builtin:everyday")
WRITING = {
    "run": ("run", "./no-model", *TASK),
    "compare": ("compare", "./no-model", *TASK),
    "score": ("score", "./no-model", *TASK),
    "evaluate": ("evaluate", "./no-model", *TASK),
    "apply": ("apply", "./no-model", "no-edit.json"),
    "lm-eval-task": ("lm-eval-task", "./no-model", *TASK),
    "evidence": ("evidence", "no-run"),
    "export": ("export", "no-run", "--format=hub"),
    "reproduce": ("reproduce", "no-run"),
    "union": ("edit", "union", "no-edit.json", "no-edit.json"),
}
"""Commands up to ``--output``. Nothing that they read is there, so that a later check would say something else."""

PLACES = {
    "not UTF-8": ("out-\udcff", "results name it in UTF-8"),
    "not UTF-8 above": ("out-\udcff/out", "results name it in UTF-8"),
    "too long a name": ("x" * 300, "File name too long"),
    "too long a temporary name": ("x" * 250, "File name too long"),
    "too long a name in what is not there": ("new/" + "x" * 300, "File name too long"),
    "too long a path": (("x" * 200 + "/") * 30, "File name too long"),
    "too long with what is inside": ("/".join(["x" * 200] * 20), "File name too long"),
    "a link to nothing": ("dangling", "dangling is a link to what does not exist"),
    "below a link to nothing": ("dangling/out", "dangling is a link to what does not exist"),
    "a link to itself": ("loop", ""),
    "below a file": ("file/out", "is a file"),
    "a pipe": ("pipe", ""),
    "a device": ("/dev/null", ""),
    **(
        {"no file system for files": ("/proc/out", "no file can be made in /proc (")} if sys.platform == "linux" else {}
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the command runs, with what stands in the way there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    Path("file").touch()
    os.mkfifo("pipe")
    return tmp_path


def ended(capsys, *arguments):
    """What a command says that ends in one sentence."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert end.value.code == 2, message
    lines = message.splitlines()
    assert lines[-1].startswith("crispr-lm: ")
    assert len([line for line in lines if line.startswith("crispr-lm: ")]) == 1
    return message


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", WRITING)
def test_what_can_not_be_written_is_reported_first(capsys, folder, command, place):
    if command == "reproduce" and place in ("a pipe", "a device"):
        pytest.skip("the record, which takes no time, is read before")
    before = sorted(os.listdir(folder))  # noqa: PTH208
    path, sentence = PLACES[place]
    message = ended(capsys, *WRITING[command], f"--output={path}")
    assert sentence in message
    assert "Loading" not in message
    assert "no-model" not in message
    assert "no-edit" not in message
    assert "no-run" not in message
    assert sorted(os.listdir(folder)) == before  # noqa: PTH208
    assert not Path("/dev/null").is_file()
    tried("outputs that can't be written", refused=1)


READING = {
    "inspect": ("inspect", "{}"),
    "inspect edit": ("inspect", "{}.json"),
    "inspect scores": ("inspect", "{}.safetensors"),
    "apply": ("apply", "./no-model", "{}", "--output=out"),
    "apply results": ("apply", "./no-model", "edit.json", "--results={}", "--output=out"),
    "evaluate": ("evaluate", "./no-model", *TASK, "--edit={}", "--output=out.json"),
    "chat": ("chat", "./no-model", "--edit={}"),
    "app": ("app", "{}"),
    "reproduce": ("reproduce", "{}", "--output=out"),
    "reproduce model": ("reproduce", "no-run", "--model={}", "--output=out"),
    "diff": ("edit", "diff", "{}", "{}"),
    "verify": ("verify", "{}"),
    "export": ("export", "{}", "--format=hub", "--output=out"),
    "rules to be sealed": ("run", "./no-model", *TASK, "--rules={}", "--output=out"),
    "task": ("run", "./no-model", "--task=choices:{}", "--output=out"),
    "instructions": ("run", "./no-model", *TASK, "--instructions={}", "--output=out"),
    "measure": ("run", "./no-model", *TASK, "--measure=text:{}", "--output=out"),
    "model": ("run", "{}", *TASK, "--output=out"),
    "doctor": ("doctor", "{}"),
    "settings": ("run", "./no-model", "--config={}"),
    "union": ("edit", "union", "{}", "{}", "--output=out.json"),
    "rules": ("check", "./no-model", "--rules={}"),
    "baseline": ("check", "./no-model", "--rules=builtin:bbq-baseline", "--task=bbq:no-data", "--baseline={}.jsonl"),
    "logs": ("difference", "{}", "{}"),
}
"""Commands with a place for what they read."""

UNREADABLE = {
    "not UTF-8": "\udcff",
    "too long": "x" * 300,
    "much too long": "x/" * 5000,
    "a link to nothing": "dangling",
    "a link to itself": "loop",
    "below a file": "file/x",
    "a pipe": "pipe",
    "a device": "/dev/zero",
    "a folder": ".",
    "no home": "~nobody-here/x",
}


@pytest.mark.parametrize("place", UNREADABLE)
@pytest.mark.parametrize("command", READING)
def test_what_can_not_be_read_is_reported(capsys, folder, command, place):
    if "." in READING[command][1] and command.startswith("inspect"):
        ending = READING[command][1].removeprefix("{}")
        if place == "a pipe":
            os.mkfifo(f"pipe{ending}")
    ended(capsys, *(argument.replace("{}", UNREADABLE[place]) for argument in READING[command]))
    tried("names that can't be read", refused=1)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/dev/zero", "settings file /dev/zero can't be read (it is a device or a pipe, not a file); give a TOML file"),
        ("pipe", "settings file pipe can't be read (it is a device or a pipe, not a file); give a TOML file"),
        (".", "settings file . can't be read (it is a folder, not a file); give a TOML file"),
        ("dangling", "settings file dangling is a link that leads to no file; check the path"),
        ("loop", "settings file loop is a link that leads to no file; check the path"),
        ("missing", "settings file missing does not exist; check the path"),
    ],
)
def test_what_is_no_settings_file_is_called_what_it_is(capsys, path, sentence):
    assert ended(capsys, "doctor", "--config", path) == f"crispr-lm: {sentence}\n"
