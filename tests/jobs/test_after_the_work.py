"""Nothing that comes after the work may discard it: each later step fails in turn, in every job that has one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crispr_lm import CrisprError, Edit, InputError, Neuron, WriteError
from crispr_lm.cli.commands import main
from crispr_lm.jobs import steps
from crispr_lm.jobs.comparison import compare
from crispr_lm.jobs.reproduce import reproduce
from crispr_lm.jobs.run import run
from crispr_lm.other_settings import ApplySettings, EvaluateSettings, HubSettings, ReproduceSettings, ScoreSettings
from crispr_lm.storage.hub import Upload
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.storage.sanitize import without_folders

from ..helpers import DOWN_PROJECTIONS, build_model
from ..robustness.commands import arguments_of, outcome
from .test_comparison import settings_for as comparison_settings
from .test_run import questions, settings_for

__all__ = ["questions"]

VERIFIED = {"tensors_equal": 21, "options_compared": 12, "largest_difference": 0.0}


@pytest.fixture(autouse=True)
def _no_fresh_process(monkeypatch):
    """The check of what was saved starts a whole Python; tests/edits/test_verification.py has it."""
    for job in ("run", "steps"):
        monkeypatch.setattr(f"crispr_lm.jobs.{job}.verify_saved", lambda *_given, **_more: dict(VERIFIED))


def failing(error):
    def fail(*_given, **_more):
        raise error

    return fail


def ended(arguments, capsys):
    """Exit status, standard output and the last line of standard error of the command."""
    capsys.readouterr()
    status = 0
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    return status, out, (err.strip().splitlines() or [""])[-1]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


STEPS = {
    "crispr_lm.jobs.run.export_folder": OSError(28, "No space left on device"),
    "crispr_lm.jobs.run.verify_saved": RuntimeError("the check is broken"),
    "crispr_lm.jobs.run.write_card": ValueError("no such licence"),
    "crispr_lm.jobs.run.write_report": KeyError("a figure"),
}
SENTENCES = {
    "crispr_lm.jobs.run.export_folder": "the saved model is not verified: {output}/model can't be written (No "
    "space left on device); make room there, then give the same command again",
    "crispr_lm.jobs.run.verify_saved": "the saved model is not verified: RuntimeError: the check is broken",
    "crispr_lm.jobs.run.write_card": "card: ValueError: no such licence",
    "crispr_lm.jobs.run.write_report": "report: KeyError: 'a figure'",
}


@pytest.fixture(scope="module")
def whole(saved_model, questions, tmp_path_factory):
    """What a run leaves that nothing has come between."""
    output = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crispr_lm.jobs.run.verify_saved", lambda *_given, **_more: dict(VERIFIED))
        run(str(saved_model("llama")), settings_for(questions, output, neurons="ffn"))
    return outcome(output)


@pytest.fixture(scope="module")
def first(saved_model, questions, tmp_path_factory):
    """The folder of a finished run that others are made again from."""
    output = tmp_path_factory.mktemp("first") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crispr_lm.jobs.run.verify_saved", lambda *_given, **_more: dict(VERIFIED))
        run(str(saved_model("llama")), settings_for(questions, output))
    return output


@pytest.mark.parametrize("step", STEPS)
def test_a_step_after_a_run_fails_and_is_done_by_the_same_command(
    step, whole, saved_model, questions, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "out"
    arguments = arguments_of(saved_model("llama"), settings_for(questions, output, neurons="ffn"))
    with monkeypatch.context() as broken:
        broken.setattr(step, failing(STEPS[step]))
        status, out, message = ended(arguments, capsys)
    assert status == 1
    assert message == "crispr-lm: " + SENTENCES[step].format(output=output)
    said = " ".join(out.split())  # in lines as wide as the terminal
    # Figures are printed all the same; a cell of a narrow table is broken at a space.
    assert "Guesses where the context" in said
    assert "does not tell" in said
    assert f"Files: {output}" in said
    found = outcome(output)
    for name in ("answers.jsonl", "edit.json", "search.jsonl", "scores.safetensors"):
        assert found[name] == whole[name], name
    assert found["results.json"]["tasks"] == whole["results.json"]["tasks"]
    sentence = SENTENCES[step].format(output=output)
    saved = found["results.json"]["saved_model"]
    if step.endswith(("export_folder", "verify_saved")):
        assert saved == {"verified": False, "reason": sentence.removeprefix("the saved model is not verified: ")}
        assert "Not all is done" in (output / "report.html").read_text(encoding="utf-8")
        assert "The saved model is not verified" in " ".join(out.split())
    else:
        assert saved == {"verified": True, **VERIFIED}
        name, _, reason = sentence.partition(": ")
        assert found["results.json"]["failed"] == {name: reason}

    for work in ("find_edit", "measure_all", "measure_reference", "attribute", "divergence"):
        monkeypatch.setattr(f"crispr_lm.jobs.run.{work}", None)  # none of the work is done again
    assert ended(arguments, capsys)[0] == 0
    assert outcome(output) == whole
    status, _, message = ended(arguments, capsys)
    assert status == 2
    assert "holds a finished run" in message


def test_a_run_ended_while_its_model_is_saved_has_its_results_and_goes_on_with_the_saving(
    whole, saved_model, questions, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "out"
    arguments = arguments_of(saved_model("llama"), settings_for(questions, output, neurons="ffn"))
    with monkeypatch.context() as broken:
        broken.setattr("crispr_lm.jobs.run.verify_saved", failing(KeyboardInterrupt()))
        assert ended(arguments, capsys)[0] == 130
    results = read(output / "results.json")
    assert results["saved_model"]["reason"] == "it has not been saved yet; give the same command again for that"
    assert "it has not been saved yet" in (output / "report.html").read_text(encoding="utf-8")
    assert not RunFolder(output).finished
    with pytest.raises(InputError, match="had settings"):
        run(str(saved_model("llama")), settings_for(questions, output, neurons="ffn", skill_weight=0.5))
    monkeypatch.setattr("crispr_lm.jobs.run.find_edit", None)
    assert ended(arguments, capsys)[0] == 0
    assert outcome(output) == whole


def test_overwrite_keeps_nothing_of_a_run_whose_model_was_not_saved(whole, saved_model, questions, tmp_path):
    output, model = tmp_path / "out", str(saved_model("llama"))
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("crispr_lm.jobs.run.verify_saved", failing(CrisprError("no memory")))
        run(model, settings_for(questions, output, neurons="ffn"))
    (output / "search.jsonl").write_text("damaged\nlines\n", encoding="utf-8")
    run(model, settings_for(questions, output, neurons="ffn", overwrite=True))
    assert outcome(output) == whole


def test_tokens_that_can_not_be_reported_cost_nothing_else(whole, saved_model, questions, tmp_path, monkeypatch):
    monkeypatch.setattr("crispr_lm.jobs.run.promoted_tokens", failing(IndexError("piece id is out of range")))
    output = tmp_path / "out"
    results = run(str(saved_model("llama")), settings_for(questions, output, neurons="ffn"))
    assert results["failed"] == {"tokens that neurons promote": "IndexError: piece id is out of range"}
    assert results["saved_model"]["verified"]
    assert read(output / "results.json")["tasks"] == whole["results.json"]["tasks"]


def test_a_transfer_that_fails_leaves_the_run_and_is_measured_by_the_same_command(
    saved_model, questions, tmp_path, monkeypatch
):
    second = tmp_path / "second.jsonl"
    second.write_text((questions / "questions.jsonl").read_text().replace("bus stop", "market"))
    tasks = (f"choices:{questions / 'questions.jsonl'}", f"choices:{second}")
    output, model = tmp_path / "out", str(saved_model("llama"))
    settings = settings_for(questions, output, task=tasks, transfer=True)
    with monkeypatch.context() as broken:
        broken.setattr("crispr_lm.jobs.run.measure_transfer", failing(CrisprError("memory runs out")))
        results = run(model, settings)
    assert results["failed"] == {"transfer": "memory runs out"}
    assert read(output / "results.json")["saved_model"]["verified"]
    again = run(model, settings)
    assert set(again["transfer"]) == set(map(without_folders, tasks))
    assert "failed" not in again
    assert again["tasks"] == results["tasks"]
    assert RunFolder(output).finished


@pytest.mark.parametrize("verified", [True, False])
def test_an_upload_that_fails_or_must_not_be_costs_nothing_else(
    verified, saved_model, questions, tmp_path, monkeypatch
):
    monkeypatch.setattr("crispr_lm.jobs.run.check_hub", lambda _hub: None)
    uploads = []

    def refuse(folder, *_given, **_more):
        uploads.append(folder)
        raise CrisprError(f"{folder} is complete, but the hub does not answer")

    monkeypatch.setattr("crispr_lm.jobs.sharing.upload", refuse)
    if not verified:
        monkeypatch.setattr("crispr_lm.jobs.run.verify_saved", failing(CrisprError("it is another model")))
    output = tmp_path / "out"
    given = str(saved_model("llama")), settings_for(questions, output)
    results = run(*given, hub=HubSettings(push_to_hub="me/model"))
    assert uploads == [output / "model"] * verified  # what was not verified is not uploaded
    reason = f"{output}/model is complete, but the hub does not answer"
    if not verified:
        reason = "nothing was uploaded, because something before it has failed"
    assert results["failed"] == {"upload": reason}
    reason = reason.removeprefix(f"{output}/")  # no folder of this machine in what may be shared
    assert read(output / "results.json")["failed"] == {"upload": reason}
    assert f"Upload: {reason}" in (output / "report.html").read_text(encoding="utf-8")
    assert not RunFolder(output).finished

    monkeypatch.setattr("crispr_lm.jobs.run.verify_saved", lambda *_given, **_more: dict(VERIFIED))
    monkeypatch.setattr("crispr_lm.jobs.run.find_edit", None)  # nothing is searched again
    monkeypatch.setattr("crispr_lm.jobs.sharing.upload", lambda *_given, **_more: Upload("me/model", True, ()))
    assert "failed" not in run(*given, hub=HubSettings(push_to_hub="me/model"))
    assert "failed" not in read(output / "results.json")
    assert RunFolder(output).finished


@pytest.mark.parametrize("name", ["markdown", "render_comparison"])
def test_a_comparison_whose_tables_or_page_fail_has_its_figures(name, saved_model, questions, tmp_path, monkeypatch):
    output, model = tmp_path / "out", str(saved_model("llama"))
    tasks = (f"choices:{questions / 'questions.jsonl'}",)
    given = {"task": tasks, "methods": ("original",), "curves": False, "transfer": False}
    settings = comparison_settings(questions, output, **given)
    with monkeypatch.context() as broken:
        broken.setattr(f"crispr_lm.jobs.comparison.{name}", failing(ValueError("no colour is left")))
        results = compare(model, settings)
    assert list(results["failed"].values()) == ["ValueError: no colour is left"]
    assert read(output / "comparison.json") == json.loads(json.dumps(results))
    monkeypatch.setattr("crispr_lm.jobs.comparison.measure", None)  # nothing is measured again
    again = compare(model, settings)
    assert "failed" not in again
    assert {"comparison.md", "comparison.html"} <= {path.name for path in output.iterdir()}
    with pytest.raises(InputError, match="holds a finished run"):
        compare(model, settings)


def common(settings, kind):
    return kind(**{name: value for name, value in settings.model_dump().items() if name in kind.model_fields})


def full(path, *_given):
    raise WriteError(f"{path} can't be written (No space left on device); make room there")


def test_scores_and_figures_that_can_not_be_written_are_shown_and_handed_on(
    saved_model, questions, tmp_path, monkeypatch, capsys
):
    model, settings = str(saved_model("llama")), settings_for(questions, tmp_path / "unused", neurons="ffn")
    monkeypatch.setattr("crispr_lm.attribution.neuron_scores.write_bytes", full)
    monkeypatch.setattr("crispr_lm.jobs.steps.write_json", full)
    with pytest.raises(WriteError) as error:
        steps.score(model, tmp_path / "scores.safetensors", common(settings, ScoreSettings))
    assert len(error.value.result.top(3)) == 3
    with pytest.raises(WriteError) as error:
        steps.evaluate(model, tmp_path / "results.json", None, common(settings, EvaluateSettings))
    assert error.value.result["tasks"]

    given = ["--task", settings.task[0], "--instructions", settings.instructions[0], "--device", "cpu"]
    score = ["score", model, "--output", str(tmp_path / "s.safetensors"), *given, "--examples", "6"]
    evaluate = ["evaluate", model, "--output", str(tmp_path / "r.json"), *given, "--measure-examples", "4"]
    for arguments, shown in ((score, "Score"), (evaluate, "Value")):
        status, out, sentence = ended(arguments, capsys)
        assert status == 1
        assert sentence.endswith("can't be written (No space left on device); make room there")
        assert shown in out
        assert "File" not in out


@pytest.mark.parametrize("step", ["verify_saved", "write_card"])
def test_a_model_that_was_applied_stays_and_says_what_failed(step, saved_model, tmp_path, monkeypatch, capsys):
    edit, output = tmp_path / "edit.json", tmp_path / "out"
    Edit.from_neurons(build_model("llama"), [Neuron(DOWN_PROJECTIONS["llama"][0], 4, "ffn")]).save(edit)
    monkeypatch.setattr(f"crispr_lm.jobs.steps.{step}", failing(CrisprError("it can't be done")))
    results = steps.apply(str(saved_model("llama")), edit, output, ApplySettings(device="cpu"))
    assert (output / "model.safetensors").exists()
    if step == "verify_saved":
        assert results["saved_model"] == {"verified": False, "reason": "it can't be done"}
        assert "**Not verified, do not use it:** it can't be done" in (output / "README.md").read_text(encoding="utf-8")
    else:
        assert results["failed"] == {"card": "it can't be done"}
    status, out, sentence = ended(
        ["apply", str(saved_model("llama")), str(edit), "--output", str(tmp_path / "again"), "--device", "cpu"], capsys
    )
    assert status == 1
    assert sentence.endswith("it can't be done")
    assert f"Edited model: {tmp_path / 'again'}" in " ".join(out.split())  # on two lines of a narrow terminal


def test_a_run_made_again_that_could_not_be_compared_is_not_made_a_third_time(first, tmp_path, monkeypatch):
    again = tmp_path / "again"
    with monkeypatch.context() as broken:
        broken.setattr("crispr_lm.jobs.reproduce.write_json", full)
        with pytest.raises(WriteError):
            reproduce(first, again, ReproduceSettings(device="cpu"))
    monkeypatch.setattr("crispr_lm.jobs.run.attribute", None)  # the search is not made again
    assert reproduce(first, again, ReproduceSettings(device="cpu"))["same"]
    with pytest.raises(InputError, match="holds a finished run"):
        reproduce(first, again, ReproduceSettings(device="cpu"))


def test_a_run_made_again_whose_model_is_not_verified_is_compared_all_the_same(first, tmp_path, monkeypatch, capsys):
    again = tmp_path / "again"
    monkeypatch.setattr("crispr_lm.jobs.run.verify_saved", failing(CrisprError("it is another model")))
    status, out, sentence = ended(["reproduce", str(first), "--output", str(again), "--device", "cpu"], capsys)
    assert status == 1
    assert "Reproduced" in out
    assert sentence == "crispr-lm: the saved model is not verified: it is another model"
    assert read(Path(again, "reproduce.json"))["same"]
