"""Sharing: the model card as the hub reads it, uploads (dry and to a hub that is none), edits fetched."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from huggingface_hub import ModelCard

from crispr_lm import CrisprError, Edit, InputError, Neuron
from crispr_lm.jobs import steps
from crispr_lm.jobs.run import run
from crispr_lm.jobs.sharing import check_measured_with
from crispr_lm.model.origin import ModelOrigin, origin_of
from crispr_lm.other_settings import ApplySettings, HubSettings
from crispr_lm.report.card import card
from crispr_lm.storage import hub
from crispr_lm.tasks.registry import dataset_of

from ..report.test_page import bias_task
from .test_run import questions, settings_for

__all__ = ["questions"]

ATTACK = "<script>alert(1)</script>[x](javascript:y) | `z`\n# headline"

OWN_CARD = """---
license: gemma
language: [en, de]
tags: [conversational]
---
# A model
"""


@pytest.fixture(scope="module")
def base(saved_model, tmp_path_factory):
    """A local model with a card of its own."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(saved_model("llama"), folder)
    (folder / "README.md").write_text(OWN_CARD, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def finished(base, questions, tmp_path_factory):
    """A run with an edit that is not empty."""
    output = tmp_path_factory.mktemp("finished") / "out"
    results = run(str(base), settings_for(questions, output, max_accuracy_loss=1.0))
    assert results["edit"]["neurons"] > 0
    return output


def card_in(folder):
    return ModelCard.load(folder / "README.md")


def test_two_files_of_one_benchmark_are_two_results_on_the_hub():
    task = bias_task()
    other = {**task, "after": {**task["after"], "accuracy": 0.125}}
    tasks = {"bbq:/data/Age.jsonl": task, "bbq:/data/Religion.jsonl": other}
    edit = Edit(neurons=(Neuron("layers.1.down_proj", 2, "ffn"),))
    reported = {"verdict": "recommended", "edit": {"neurons": 1, "scale": 0.0}, "tasks": tasks}
    found = ModelCard(card("edit", edit, ModelOrigin(), reported)).data
    (entry,) = found.to_dict()["model-index"]
    assert [part["dataset"]["name"] for part in entry["results"]] == ["BBQ, Age", "BBQ, Religion"]
    accuracies = {one.dataset_config: one.metric_value for one in found.eval_results if one.metric_type == "accuracy"}
    assert accuracies == {"Age": 0.45, "Religion": 0.125}


def test_a_run_writes_a_card_that_the_hub_can_read(finished):
    found = card_in(finished / "model")
    data = found.data.to_dict()
    assert data["license"] == "gemma"
    assert data["language"] == ["en", "de"]
    assert {"conversational", "crispr-lm", "arxiv:2311.09627"} <= set(data["tags"])
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert "base_model" not in data  # a folder on this machine is no id on the hub
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    reported = {(one.dataset_type, one.metric_type): one.metric_value for one in found.data.eval_results}
    for name, task in results["tasks"].items():
        for metric in ("accuracy_ambiguous", "accuracy_disambiguated", "accuracy"):
            if task["after"].get(metric) is not None:
                assert reported[dataset_of(name).identifier, metric] == pytest.approx(task["after"][metric], abs=1e-6)
    task = results["tasks"][next(iter(results["tasks"]))]
    interval = task["statistics"]["accuracy_ambiguous"]
    assert f"{interval['low']:+.3f} to {interval['high']:+.3f}" in found.text
    # Ambiguous and disambiguated stand side by side.
    rows = [line for line in found.text.splitlines() if line.startswith("| Accuracy, ")]
    assert "ambiguous" in rows[0]
    assert "disambiguated" in rows[1]


def test_no_path_of_this_machine_is_in_a_card(finished, base, questions):
    text = (finished / "model" / "README.md").read_text(encoding="utf-8")
    assert str(base.parent) not in text
    assert str(questions) not in text


@pytest.mark.parametrize("form", ["folder", "lora", "slim", "edit"])
def test_every_form_has_a_card_and_the_edit_beside_it(form, base, finished, tmp_path):
    if form == "lora":
        pytest.importorskip("peft")
    edit = finished / "edit.json"
    if form == "slim":  # every block must lose as many
        lm = steps.load(str(base), ApplySettings(device="cpu"), steps.Needs(), steps.Timings(), steps.SilentProgress())
        layers = range(lm.model.config.num_hidden_layers)
        neurons = [Neuron(f"model.layers.{layer}.mlp.down_proj", 1, "ffn") for layer in layers]
        edit = tmp_path / "edit.json"
        Edit.from_neurons(lm, neurons).save(edit)
    reported = steps.apply(str(base), edit, tmp_path / "out", ApplySettings(device="cpu", format=form))
    assert (reported["format"], reported["output"]) == (form, str(tmp_path / "out"))
    assert ("saved_model" in reported) == (form != "edit")
    assert Edit.load(tmp_path / "out" / "edit.json").neurons == Edit.load(edit).neurons
    found = card_in(tmp_path / "out")
    assert found.data.library_name == {"lora": "peft", "edit": "crispr-lm"}.get(form, "transformers")
    measured = form != "slim"  # the slim one's edit has no results beside it
    assert bool(found.data.eval_results) == measured
    assert ("No figures were measured" in found.text) == (not measured)


def test_figures_of_another_edit_are_never_reported_for_this_one(base, finished, tmp_path):
    whole = Edit.load(finished / "edit.json")
    shutil.copy(finished / "results.json", tmp_path)
    for name, other in (("fewer", replace(whole, neurons=whole.neurons[:-1])), ("damped", replace(whole, scale=0.5))):
        other.save(tmp_path / "edit.json")
        with pytest.raises(InputError, match=r"results\.json holds figures of another edit"):
            steps.apply(str(base), tmp_path / "edit.json", tmp_path / name, ApplySettings(device="cpu", format="edit"))
        assert not (tmp_path / name).exists()
    # As many neurons of the same modules, but others.
    first, *others = whole.neurons
    moved = replace(whole, neurons=(replace(first, index=first.index + 1), *others))
    with pytest.raises(InputError, match="another edit"):
        check_measured_with(moved, json.loads((finished / "results.json").read_text(encoding="utf-8")), tmp_path)


def test_hostile_text_is_shown_as_it_is(finished, base):
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    results["reason"], results["verdict"] = ATTACK, "none"
    task = next(iter(results["tasks"].values()))
    task["over_abstention"] = ATTACK
    edit = Edit((Neuron(ATTACK, 0, "ffn"),), origin={"reason": ATTACK}, base_model={"architecture": ATTACK})
    text = card("edit", edit, ModelOrigin(license="mit", license_name=ATTACK, tags=(ATTACK,)), results)
    body = text.split("\n---\n", 1)[1]
    assert "<script>" not in body
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert "\n# headline" not in body
    assert ModelCard(text).data.tags[0] == ATTACK  # YAML keeps it as the text that it is


def test_what_is_not_known_of_a_base_model_is_not_guessed(saved_model, tmp_path):
    assert origin_of(str(saved_model("llama"))) == ModelOrigin()
    assert origin_of("builtin:smollm2").license == "apache-2.0"
    assert "it is not known to crispr-lm" in card("edit", Edit(()), ModelOrigin())


def test_a_base_models_card_without_metadata_is_nothing_to_warn_of(tmp_path, caplog):
    (tmp_path / "README.md").write_text("# A model\n")
    assert origin_of(str(tmp_path)) == ModelOrigin()
    assert not caplog.records


def test_a_hub_that_can_not_be_reached_is_not_waited_for(monkeypatch):
    nowhere = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", nowhere)
    monkeypatch.setattr("time.sleep", lambda _seconds: pytest.fail("it waits, and asks again"))
    assert origin_of("somebody/model") == ModelOrigin("somebody/model")


def test_a_dry_run_tells_every_file_and_uploads_nothing(base, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", None)  # must not be needed
    settings = ApplySettings(device="cpu", format="edit", push_to_hub="someone/edit", dry_run=True)
    upload = steps.apply(str(base), finished / "edit.json", tmp_path / "out", settings)["upload"]
    there = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert upload["files"] == there
    assert set(there) == {"README.md", "edit.json", "results.json"}
    assert upload["private"]
    assert upload["url"] is None


class FakeHub:
    """Remembers what it is asked."""

    calls: ClassVar[list] = []
    fails = False

    def whoami(self):
        return {"name": "someone"}

    def create_repo(self, repository, **arguments):
        self.calls.append((repository, arguments))
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, **arguments):
        if self.fails:
            raise OSError("connection lost")
        self.calls.append(arguments)


@pytest.mark.parametrize("public", [False, True])
def test_what_is_uploaded_is_private_unless_asked_for(public, base, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    settings = ApplySettings(device="cpu", format="edit", push_to_hub="someone/edit", public=public)
    reported = steps.apply(str(base), finished / "edit.json", tmp_path / "out", settings)
    (repository, created), uploaded = FakeHub.calls
    assert repository == "someone/edit"
    assert created["private"] is not public
    assert Path(uploaded["folder_path"]) == tmp_path / "out"
    assert reported["upload"]["url"] == "https://huggingface.co/someone/edit"


def test_a_failed_upload_says_that_the_folder_is_complete(base, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "fails", True)
    settings = ApplySettings(device="cpu", format="edit", push_to_hub="someone/edit")
    reported = steps.apply(str(base), finished / "edit.json", tmp_path / "out", settings)
    assert re.search(r"is complete, but the upload .* failed \(connection lost\)", reported["failed"]["upload"])
    assert (tmp_path / "out" / "edit.json").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"push_to_hub": "no owner"}, "no repository id"),
        ({"push_to_hub": "name"}, "names no owner"),
        ({"push_to_hub": "../x/y"}, "no repository id"),
        ({"public": True}, "give --push-to-hub"),
        ({"dry_run": True}, "give --push-to-hub"),
        ({"push_to_hub": "someone/edit"}, "does not know who you are"),
    ],
)
def test_what_can_not_be_uploaded_is_reported_before_any_work(settings, message, questions, tmp_path, monkeypatch):
    def nobody():
        raise OSError("no token")

    monkeypatch.setattr(FakeHub, "whoami", lambda self: nobody())
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    with pytest.raises(InputError, match=message):
        steps.apply("nowhere", tmp_path / "no.json", tmp_path / "out", ApplySettings(**settings))
    with pytest.raises(InputError, match=message):
        run("nowhere", settings_for(questions, tmp_path / "out"), hub=HubSettings(**settings))
    assert not (tmp_path / "out").exists()


def test_an_edit_comes_from_the_hub(base, finished, tmp_path, monkeypatch):
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(finished / file)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    steps.apply(str(base), Path("hf:someone/edit"), tmp_path / "out", ApplySettings(device="cpu", format="edit"))
    assert asked == [("someone/edit", "edit.json")]
    assert (tmp_path / "out" / "edit.json").exists()


def test_results_that_are_none_are_refused(base, finished, tmp_path):
    (tmp_path / "wrong.json").write_text("[]", encoding="utf-8")
    for name, message in (("absent.json", "do not exist"), ("wrong.json", "holds no results")):
        settings = ApplySettings(device="cpu", format="edit", results=tmp_path / name)
        with pytest.raises(InputError, match=message):
            steps.apply(str(base), finished / "edit.json", tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_an_edit_is_saved_with_its_card_and_read_from_folder_file_and_run(finished, tmp_path):
    edit = Edit.from_pretrained(finished)
    assert edit == Edit.load(finished / "edit.json")
    edit.save_pretrained(tmp_path / "share")
    assert {path.name for path in (tmp_path / "share").iterdir()} == {"edit.json", "README.md"}
    assert "No figures were measured" in card_in(tmp_path / "share").text
    for source in (tmp_path / "share", str(tmp_path / "share"), tmp_path / "share" / "edit.json"):
        assert Edit.from_pretrained(source) == edit
    # With the run's results the card is the one that apply --format edit writes, and those are beside it.
    edit.save_pretrained(tmp_path / "share", results=finished / "results.json")
    assert card_in(tmp_path / "share").data.eval_results
    assert (tmp_path / "share" / "results.json").is_file()
    with pytest.raises(InputError, match="figures of another edit"):
        replace(edit, scale=0.5).save_pretrained(tmp_path / "other", results=finished / "results.json")
    assert not (tmp_path / "other").exists()


def test_the_card_of_an_edit_names_no_folder_of_another_machine(tmp_path):
    for name in ("/home/somebody/secret/model", "LlamaForCausalLM (in memory)", ""):
        Edit(neurons=(), base_model={"name": name}).save_pretrained(tmp_path)
        assert "base_model" not in card_in(tmp_path).data.to_dict()
        assert "secret" not in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "holds no edit.json; give a folder of Edit.save_pretrained, or of a run"),
        ("absent.json", "absent.json can't be read"),
        ("a b", "edit .*a b: no such file or folder here, and no edit.json can be had"),
    ],
)
def test_where_there_is_no_edit_it_is_said(source, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        Edit.from_pretrained(tmp_path / source)


def test_an_edit_is_read_from_the_hub_where_nothing_of_its_name_is_here(finished, monkeypatch):
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, file: str(finished / file))
    assert Edit.from_pretrained("someone/edit") == Edit.load(finished / "edit.json")
    assert Edit.from_pretrained("hf:someone/edit") == Edit.load(finished / "edit.json")


@pytest.mark.parametrize("private", [True, False])
def test_an_edit_is_pushed_with_its_card(private, finished, monkeypatch):
    sent = {}

    def upload_folder(_self, **arguments):
        sent.update({path.name: path.read_text(encoding="utf-8") for path in arguments["folder_path"].iterdir()})

    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    monkeypatch.setattr(FakeHub, "upload_folder", upload_folder)
    edit = Edit.load(finished / "edit.json")
    done = edit.push_to_hub("someone/edit", private=private, results=finished / "results.json")
    assert done.url == "https://huggingface.co/someone/edit"
    assert json.loads(sent["edit.json"]) == edit.to_dict()
    assert set(sent) == {"edit.json", "README.md", "results.json"} == {name for name, _ in done.files}
    ((_, created),) = FakeHub.calls
    assert created["private"] is private


def test_what_can_not_be_pushed_ends_in_a_sentence(finished, monkeypatch):
    edit = Edit.load(finished / "edit.json")
    monkeypatch.setattr(hub, "HfApi", None)  # must not be needed
    assert edit.push_to_hub("someone/edit", dry_run=True).url is None
    with pytest.raises(InputError, match="names no owner"):
        edit.push_to_hub("edit")
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "fails", True)
    with pytest.raises(CrisprError, match=r"^the upload to someone/edit failed \(connection lost\); try it again$"):
        edit.push_to_hub("someone/edit")
