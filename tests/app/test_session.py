"""What the page shows of a run, without a page: probabilities that are the run's own, and what is no run."""

import json
import shutil

import numpy as np
import pytest

from crispr_lm import InputError
from crispr_lm.app import check_installed
from crispr_lm.app.session import open_session, read_run
from crispr_lm.cli.commands import main
from crispr_lm.edits.neuron_activity import ANSWER_BEGINS
from crispr_lm.inference.prompts import encode_text
from crispr_lm.inference.streaming import Decoding
from crispr_lm.jobs.run import run
from crispr_lm.other_settings import AppSettings
from crispr_lm.runtime.progress import SilentProgress

from ..jobs.test_run import settings_for

CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def session(finished):
    return open_session(finished, AppSettings(**CPU), SilentProgress())


def test_the_ends_of_the_slider_are_the_runs_own_figures(session, finished):
    rows = [json.loads(line) for line in (finished / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["task"] == rows[0]["task"]]
    assert len(session.questions) == len(rows) > 4
    for row, question in list(zip(rows, session.questions, strict=True))[:4]:
        for when, count in (("before", 0), ("after", len(session.edit.neurons))):
            shares = np.exp(np.array(row["scores"][when]))
            expected = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
            assert session.probabilities(question, count) == pytest.approx(list(expected), abs=1e-4)
    middle = session.probabilities(session.questions[0], 1)
    assert middle not in (session.probabilities(session.questions[0], n) for n in (0, len(session.edit.neurons)))


def test_the_question_it_begins_with_is_the_one_that_gains_most(session):
    gains = [question.gain for question in session.questions]
    assert session.most_changed == gains.index(max(gains))


def test_a_category_is_written_with_spaces(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps(row | {"category": "Old_age", "condition": "ambiguous"}) for row in rows]
    (folder / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert all(question.label.startswith("Old age, ambiguous") for question in read_run(folder).questions)


def test_both_are_asked_what_is_written(session):
    *_, (original, edited) = session.ask_both("Who was late?", Decoding(4))
    with session.edit.applied(session.lm):
        *_, (as_edited, _) = session.ask_both("Who was late?", Decoding(4))
    assert as_edited == edited
    assert original
    with pytest.raises(InputError, match="write a prompt"):
        next(session.ask_both("  ", Decoding(4)))


def test_neurons_fire_on_the_tokens_of_the_prompt(session):
    found = session.firing("Who was late?")
    assert found.values.shape == (len(session.edit.neurons), len(encode_text(session.lm, "Who was late?")))
    assert len(session.promoted()) == len(session.edit.neurons)
    with pytest.raises(InputError, match="write a prompt"):
        session.firing("")


def test_an_encoder_decoder_model_can_be_tried_as_well(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    results = run(str(saved_model("t5-gated")), settings_for(questions, output, neurons="ffn"))
    tried = open_session(output, AppSettings(**CPU), SilentProgress())
    row = json.loads((output / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    shares = np.exp(np.array(row["scores"]["after"]))
    expected = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
    found = tried.probabilities(tried.questions[0], results["edit"]["neurons"])
    assert found == pytest.approx(list(expected), abs=1e-4)
    *_, answers = ("", ""), *tried.ask_both("Who was late?", Decoding(4))
    assert isinstance(answers[1], str)
    assert tried.firing("Who was late?").tokens[-1] == ANSWER_BEGINS


def test_a_run_without_a_recommended_edit_can_be_looked_at(finished, tmp_path):
    pytest.importorskip("gradio")
    from crispr_lm.app.page import build

    folder = tmp_path / "none"
    shutil.copytree(finished, folder)
    for name, changes in (("edit.json", {"neurons": []}), ("results.json", {"neurons": [], "verdict": "none"})):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(content | changes), encoding="utf-8")
    nothing = open_session(folder, AppSettings(**CPU), SilentProgress())
    *_, (original, edited) = nothing.ask_both("Who was late?", Decoding(4))
    assert original == edited
    shown = json.dumps(build(nothing).get_config_file(), default=str)
    assert "No edit is recommended" in shown
    assert "there are no neurons to watch" in shown


def test_an_own_question_needs_options(session):
    own = session.own_question("Anna met Omar.", "Who was late?", ["Anna", " Omar ", ""])
    assert own.example.options == ("Anna", "Omar")
    assert sum(session.probabilities(own, 1)) == pytest.approx(1)
    for options, message in ((["Anna", ""], "at least two"), (["Anna", "Anna "], "twice")):
        with pytest.raises(InputError, match=message):
            session.own_question("", "Who?", options)


def test_a_model_that_moved_is_named_and_another_one_is_refused(finished, saved_model, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(saved_model("llama"), moved)
    assert open_session(finished, AppSettings(model=str(moved), **CPU), SilentProgress()).lm.given == str(moved)
    with pytest.raises(InputError, match="made for another model"):
        open_session(finished, AppSettings(model=str(saved_model("gpt2")), **CPU), SilentProgress())


def test_the_number_format_is_the_runs_unless_another_is_given(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["identity"]["settings"]["dtype"] = "bfloat16"
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    formats = [
        str(open_session(folder, AppSettings(**CPU, **given), SilentProgress()).lm.dtype)
        for given in ({}, {"dtype": "float32"})
    ]
    assert formats == ["torch.bfloat16", "torch.float32"]


def test_what_is_no_finished_run_is_refused_before_a_model_is_loaded(finished, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished, unfinished)
    (unfinished / "results.json").unlink()
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    (damaged / "run.json").write_text(json.dumps({"identity": {}}), encoding="utf-8")
    for folder, words in (
        (tmp_path, "finished run"),
        (unfinished, "finish it with the same command"),
        (damaged, "run it anew"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["app", str(folder)])
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert words in message
        assert "Loading" not in message


def test_without_gradio_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("crispr_lm.app.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'crispr-lm\[app\]'"):
        check_installed()
    with pytest.raises(SystemExit) as stop:
        main(["app", str(tmp_path)])
    assert stop.value.code == 2
    assert "needs gradio" in capsys.readouterr().err
