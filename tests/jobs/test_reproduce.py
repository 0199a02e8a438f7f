"""Reproduce: a run made again gives the same figures; what has changed since is reported before anything is run."""

import json
import shutil

import pytest

from crispr_lm import InputError
from crispr_lm.cli.commands import main
from crispr_lm.jobs.reproduce import _compared, reproduce
from crispr_lm.jobs.run import run
from crispr_lm.other_settings import ReproduceSettings

from .test_run import questions, settings_for

__all__ = ["questions"]


@pytest.fixture(scope="module")
def first(saved_model, questions, tmp_path_factory):
    output = tmp_path_factory.mktemp("first") / "out"
    run(str(saved_model("llama")), settings_for(questions, output, max_accuracy_loss=1.0))
    return output


def test_a_run_made_again_has_the_same_figures(first, tmp_path):
    reproduced = reproduce(first, tmp_path / "again", ReproduceSettings(tolerance=0.0, device="cpu"))
    assert reproduced["same"]
    assert reproduced["edit"]["same"]
    assert reproduced["versions"] == {}
    results = json.loads((first / "results.json").read_text(encoding="utf-8"))
    figures = {figure["name"]: figure for figure in reproduced["figures"]}
    for task, content in results["tasks"].items():
        for when in ("before", "after"):
            for metric, value in content[when].items():
                assert figures[f"{task}, {when}: {metric}"]["then"] == value
                assert figures[f"{task}, {when}: {metric}"]["now"] == value
    assert json.loads((tmp_path / "again" / "reproduce.json").read_text(encoding="utf-8")) == reproduced


def test_a_figure_that_differs_is_named_and_ends_with_status_1(first, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(first, folder)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    task = next(iter(results["tasks"]))
    results["tasks"][task]["after"]["accuracy_ambiguous"] -= 0.1
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", str(folder), "--output", str(tmp_path / "again"), "--tolerance", "0.05", "--device", "cpu"])
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "Not reproduced" in printed
    assert "after: accuracy_ambiguous" in printed


def test_another_edit_is_not_reproduced_even_where_all_figures_agree(first, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(first, folder)
    edit = json.loads((folder / "edit.json").read_text(encoding="utf-8"))
    edit["scale"] = 0.5
    (folder / "edit.json").write_text(json.dumps(edit), encoding="utf-8")
    results = reproduce(folder, tmp_path / "again", ReproduceSettings(device="cpu"))
    assert all(figure["same"] for figure in results["figures"])
    assert results["verdict"]["same"]
    assert not results["edit"]["same"]
    assert not results["same"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda task: task["statistics"]["accuracy_ambiguous"].update(low=-0.9), "difference: accuracy_ambiguous, low"),
        (lambda task: task["statistics"]["accuracy"].update(p_value=0.0001), "difference: accuracy, p_value"),
    ],
)
def test_a_changed_interval_or_test_is_found_out(first, change, named):
    results = json.loads((first / "results.json").read_text(encoding="utf-8"))
    changed = json.loads((first / "results.json").read_text(encoding="utf-8"))
    change(next(iter(changed["tasks"].values())))
    differing = [figure.name for figure in _compared(changed, results, 0.02) if not figure.same]
    assert len(differing) == 1
    assert differing[0].endswith(named)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused_before_anything_is_run(first, tmp_path, tolerance):
    with pytest.raises(InputError, match="tolerance"):
        reproduce(first, tmp_path / "again", ReproduceSettings(tolerance=tolerance, device="cpu"))
    assert not (tmp_path / "again").exists()


def changed_record(first, folder, change):
    shutil.copytree(first, folder)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    change(record)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["identity"].update(model_fingerprint="other"), "does not have the weights"),
        (lambda record: record["identity"]["data"].update({"/nowhere": "sha256:0"}), "does not exist here"),
        (lambda record: record["identity"]["settings"].update(unheard_of=1), "run it with that version"),
    ],
)
def test_what_has_changed_since_is_reported_first(first, tmp_path, change, message):
    changed_record(first, tmp_path / "run", change)
    with pytest.raises(InputError, match=message):
        reproduce(tmp_path / "run", tmp_path / "again", ReproduceSettings(device="cpu"))
    assert not (tmp_path / "again").exists()


def test_data_that_have_changed_are_reported_first(saved_model, questions, tmp_path):
    folder = tmp_path / "task"
    shutil.copytree(questions, folder)
    run(str(saved_model("llama")), settings_for(folder, tmp_path / "out"))
    with (folder / "questions.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(InputError, match="its hash differs"):
        reproduce(tmp_path / "out", tmp_path / "again", ReproduceSettings(device="cpu"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda record: record.update(identity={}), "run.json, identity.model: field required"),
        (lambda record: record["identity"].update(model=5), "run.json, identity.model: input should be a valid string"),
    ],
)
def test_a_record_of_another_shape_is_reported_in_one_sentence(first, tmp_path, change, problem):
    changed_record(first, tmp_path / "run", change)
    with pytest.raises(InputError) as refused:
        reproduce(tmp_path / "run", tmp_path / "again", ReproduceSettings(device="cpu"))
    assert str(refused.value) == f"{tmp_path / 'run'} is not what crispr-lm run writes ({problem}); give another folder"
    assert not (tmp_path / "again").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="folder of a finished run"):
        reproduce(tmp_path, tmp_path / "again")
