"""What is printed does not steer the terminal, is no markup, and shows no secret."""

import contextlib
import io
import json
import logging
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from crispr_lm import Edit, InputError, load_task
from crispr_lm.app.chat import columns, hold_in_lines
from crispr_lm.cli.commands import main
from crispr_lm.edits.fingerprint import FINGERPRINT_DTYPES
from crispr_lm.jobs.run import run
from crispr_lm.report import inspection
from crispr_lm.report.markup import markup
from crispr_lm.report.progress import _LogHandler, terminal_progress
from crispr_lm.storage.sanitize import HIDDEN, STEERING, printable

from ..jobs.test_run import questions, settings_for
from .documents import EDIT
from .trying import trying

__all__ = ["questions"]

STEER = "\x1b]0;title\x07\x1b[2Jx\r\x9b31m\u202egnp.exe\x00\x08"
MODULE = f"layers.{STEER}[red]x[/red][link=http://evil]y[/link]:bomb:\nno edit"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"


def assert_harmless(printed):
    assert not STEERING.search(printed.replace("\n", ""))


@pytest.fixture
def hostile_edit(tmp_path):
    hashes = dict.fromkeys(FINGERPRINT_DTYPES, STEER)
    content = EDIT | {
        "neurons": [["ffn", MODULE, 1]],
        "fingerprint": {MODULE: hashes},
        "base_model": {"name": MODULE, "dtype": "float32"},
        "origin": {MODULE: MODULE},
    }
    file = tmp_path / f"{STEER.replace(chr(0), '')}[red].json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_any_text_is_printed_as_it_is_but_for_what_steers():
    @trying("printable", 200)
    @given(st.text(st.characters() | st.sampled_from("[]\\/:\x1b\x9b\n\u202e"), max_size=30))
    def check(text):
        text = text.rstrip("\\")  # rich doubles it there, for what might follow
        assert not STEERING.search(printable(text))
        assert STEERING.sub("", text) == text or printable(text) != text
        shown = io.StringIO()
        Console(file=shown, emoji=False, width=10_000).print(markup(text), soft_wrap=True, highlight=False)
        assert shown.getvalue().removesuffix("\n") == Text(printable(text)).plain

    check()


def test_tables_of_a_hostile_edit(hostile_edit, capsys, monkeypatch):
    monkeypatch.setattr(inspection, "console", Console(emoji=False, width=400, file=None))
    for command in (["inspect", str(hostile_edit)], ["edit", "diff", str(hostile_edit), str(hostile_edit)]):
        for form in ([], ["--quiet"], ["--json"]):
            with contextlib.suppress(SystemExit):
                main([*form, *command])
            printed = capsys.readouterr().out
            assert_harmless(printed)
            if form == ["--json"]:
                assert json.loads(printed)
            elif not form:
                assert "[red]x[/red]" in printed
                assert ":bomb:" in printed


def test_messages_and_the_log(hostile_edit, capsys):
    for command in (["inspect", str(hostile_edit.with_suffix(".txt"))], ["apply", f"no{STEER}", str(hostile_edit)]):
        with pytest.raises(SystemExit):
            main([*command, "--output", "x"] if command[0] == "apply" else command)
        printed = capsys.readouterr().err
        assert_harmless(printed)
        assert printed.splitlines()[-1].startswith("crispr-lm: ")
    shown = io.StringIO()
    handler = _LogHandler(console=Console(file=shown, width=200), show_time=False, show_path=False)
    handler.emit(logging.LogRecord("x", logging.INFO, "", 0, f"{MODULE} {TOKEN}", None, None))
    assert_harmless(shown.getvalue())
    assert TOKEN not in shown.getvalue()
    assert "[red]" in shown.getvalue()


def test_a_message_of_megabytes_is_cut(tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text(json.dumps({"context": ["x"] * 100_000}), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["lm-eval-task", "m", "--task", f"choices:{tmp_path / 't.jsonl'}", "--output", str(tmp_path / "o")])
    assert len(capsys.readouterr().err) < 3000


class Answering:
    """Stands for a chat: a model that answers with what steers a terminal."""

    def ask(self, question, stopped):
        yield MODULE, f"{question}{STEER}\nsecond line"


def test_answers_of_a_model(capsys):
    for as_json in (False, True):
        hold_in_lines(Answering(), [f"Who? {STEER}"], as_json=as_json)
        printed = capsys.readouterr().out
        assert_harmless(printed)
        assert ("\nsecond line" in printed) is not as_json
    shown = io.StringIO()
    Console(file=shown, width=400).print(columns(Edit(()), (MODULE, STEER)))
    assert_harmless(shown.getvalue())
    assert "[red]x[/red]" in shown.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        f"model {TOKEN} is not there",
        f"https://user:{TOKEN}@huggingface.co/m",
        "https://me:pass%20word1@host/x",
        f"GET /api?token={TOKEN}&x=1",
        f"Authorization: Bearer {TOKEN}",
        "api_org_AbCdEfGhIjKlMnOpQrStUvWx",
        "own-secret-of-a-gateway",
    ],
)
def test_secrets_are_left_out(text, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "own-secret-of-a-gateway")
    shown = printable(text)
    assert HIDDEN in shown
    assert not re.search(r"AbCdEf|pass%20|own-secret", shown)


@pytest.mark.parametrize("words", [["--model", "https://x"], ["a_hf_b"], ["hf_short"], ["user@host"]])
def test_what_is_no_secret_stays(words):
    assert printable(" ".join(words)) == " ".join(words)


@pytest.mark.slow
def test_no_secret_comes_into_what_a_run_leaves_or_says(saved_model, questions, tmp_path, monkeypatch, capsys):
    secrets = {
        "HF_TOKEN": TOKEN,
        "HUGGING_FACE_HUB_TOKEN": TOKEN[::-1],
        "CRISPR_LM_HUB_TOKEN": "from-the-environment",
        "AWS_SECRET_ACCESS_KEY": "of-another-program",
    }
    for name, secret in secrets.items():
        monkeypatch.setenv(name, secret)
    file = tmp_path / "token"
    file.write_text("hf_FromTheTokenFileAbCdEfGh", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(file))
    with terminal_progress() as progress:
        run(str(saved_model("llama")), settings_for(questions, tmp_path / "out", max_neurons=1), progress)
    printed = "".join(capsys.readouterr())
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    for secret in (*secrets.values(), file.read_text(encoding="utf-8")):
        assert secret.encode() not in everything
        assert secret not in printed


@pytest.mark.parametrize(
    "name", [f"https://user:{TOKEN}@huggingface.co/owner/name", f"choices:https://x?token={TOKEN}"]
)
def test_a_secret_in_a_name_is_not_said_again(name, capsys):
    for command in (["inspect", name], ["evaluate", name, "--task", name, "--output", "x.json"]):
        with pytest.raises(SystemExit):
            main(command)
        assert TOKEN not in "".join(capsys.readouterr())


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, OSError, TypeError])
def test_nor_is_one_in_the_traceback_of_a_defect(kind, monkeypatch, capsys):
    def defective(*_given):
        raise kind(f"https://me:{TOKEN}@huggingface.co {STEER}")

    monkeypatch.setattr("crispr_lm.jobs.inspection.inspect", defective)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "m"])
    message = capsys.readouterr().err
    assert ended.value.code == 1
    assert TOKEN not in message
    assert_harmless(message)
    assert message.startswith("Traceback (most recent call last):\n")
    assert ", in defective\n" in message


def test_a_secret_in_a_settings_file_is_not_said_again(tmp_path, capsys):
    file = tmp_path / "run.toml"
    for line in (f'hub-token = "{TOKEN}"', f'examples = "{TOKEN}"', f"examples = {TOKEN}"):
        file.write_text(f"{line}\n", encoding="utf-8")
        with pytest.raises(SystemExit):
            main(["score", "m", "--task", "builtin:everyday", "--output", str(tmp_path / "o"), "--config", str(file)])
        message = capsys.readouterr().err
        assert TOKEN not in message
        assert message.startswith("crispr-lm: ")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
def test_a_name_in_another_encoding_is_refused_at_once(tmp_path):
    name = f"{tmp_path}/\udcff.jsonl"
    with pytest.raises(InputError, match="is no path that can be used"):
        load_task(f"choices:{name}")
    command = [sys.executable, "-m", "crispr_lm", "inspect", name]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"crispr-lm: ")
