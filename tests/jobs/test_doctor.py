"""The doctor, and the forms in which results are printed."""

import json
import shutil

import pytest
import torch
from transformers import AddedToken

from crispr_lm import load_model
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.cli.commands import main
from crispr_lm.jobs import doctor
from crispr_lm.model.neuron_sites import find_sites

from ..helpers import build_model


def told_by(capsys, *arguments):
    try:
        main(list(map(str, arguments)))
        status = 0
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError("no network in tests")

    monkeypatch.setattr(doctor.urllib.request, "urlopen", refuse)


def test_a_machine_is_reported_as_one_json_document(capsys):
    status, printed = told_by(capsys, "doctor", "--json")
    assert status == 0
    results = json.loads(printed.out)
    # Some builds of PyTorch name their CUDA release (2.6.0+cu124) in one of the two places only.
    assert results["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    cpu = results["devices"][0]
    assert cpu["device"] == "cpu"
    assert 0 < cpu["free"] <= 2 * cpu["memory"]
    assert cpu["largest_model"]["float32"] == cpu["free"] // 4
    assert cpu["largest_model"]["bfloat16"] == cpu["free"] // 2
    assert results["hub"] == {**results["hub"], "reachable": False, "reason": "no network in tests"}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_a_model_needs_is_recognised_from_its_configuration_alone(kind, saved_model, tmp_path):
    folder = saved_model(kind)
    lm = load_model(folder, device="cpu")
    for file in folder.iterdir():  # all but the weights
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    needs = doctor.examine_machine(str(tmp_path))["model"]
    assert needs["parameters"] == sum(parameter.numel() for parameter in lm.model.parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in lm.model.buffers())
    weights = needs["parameters"] * 4 + buffers
    assert needs["needs"]["float32"]["weights"] == weights
    assert needs["needs"]["float32"]["attribution"] > weights
    assert needs["needs"]["bfloat16"]["weights"] < weights
    assert "cpu" in needs["needs"]["float32"]["fits"]


def test_tables_for_people_name_what_is_missing(capsys, saved_model, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "nothing", ("no_such_module",))
    status, printed = told_by(capsys, "doctor", saved_model("llama"))
    assert status == 0
    assert "pip install 'crispr-lm[nothing]'" in printed.out
    assert "not reachable (no network in tests)" in printed.out
    assert "LlamaForCausalLM" in printed.out


def test_tokens_without_an_embedding_are_named(capsys, tmp_path):
    lm = build_model("llama")
    there = len(lm.tokenizer)
    spare = lm.embedded_tokens - there
    lm.tokenizer.add_tokens([AddedToken(f"<extra [{number}]>") for number in range(spare + 2)])
    lm.save(tmp_path / "model")
    status, printed = told_by(capsys, "doctor", tmp_path / "model")
    assert status == 0
    assert f"2 of its tokens (first: '<extra [{spare}]>') have no embedding in the model" in printed.out
    needs = doctor.examine_machine(str(tmp_path / "model"))["model"]
    assert needs["not_embedded"]["tokens"] == 2


def test_quiet_and_json_exclude_each_other(capsys):
    status, printed = told_by(capsys, "doctor", "--quiet", "--json")
    assert status == 2
    assert printed.err.strip() == "crispr-lm: --quiet and --json exclude each other; give one of them"


def test_quiet_prints_one_line(capsys, saved_model):
    status, printed = told_by(capsys, "inspect", saved_model("llama"), "--quiet")
    assert (status, printed.out) == (0, "model\n")
    status, printed = told_by(capsys, "doctor", "--quiet")
    assert (status, printed.out.count("\n")) == (0, 1)
    assert printed.out.startswith("cpu: ")
    model = saved_model("llama")
    status, printed = told_by(capsys, "doctor", model, "--quiet")
    assert printed.out.startswith(f"{model} fits: float32 on cpu")


def test_a_prompt_is_shown_token_by_token_without_reading_weights(capsys, saved_model, monkeypatch):
    monkeypatch.setattr("crispr_lm.model.load.ModelSource.load", lambda *_, **__: pytest.fail("weights are read"))
    folder = saved_model("llama")
    status, printed = told_by(capsys, "inspect", folder, "--prompt", "builtin:everyday", "--json")
    seen = json.loads(printed.out)
    assert status == 0
    assert "".join(seen["prompt"]).endswith("Your answer:<|im_end|>\n<|im_start|>assistant\n")
    assert ["".join(tokens) for tokens in seen["options"]][2] == "Cannot be determined"
    assert seen["format"] == "chat"
    status, printed = told_by(capsys, "inspect", folder, "--prompt", "builtin:everyday", "--prompt-format", "plain")
    assert status == 0
    assert "tokens are scored" in printed.out
    assert "plain prompt; place of the answer: plain text, without a chat template" in printed.out


def test_the_doctor_says_how_the_place_of_an_answer_was_found(capsys, saved_model):
    status, printed = told_by(capsys, "doctor", saved_model("llama"))
    assert status == 0
    assert "Place of the answer: generation prompt, as in a finished conversation" in printed.out
    assert "'<|im_end|>\\n<|im_start|>assistant\\n'" in printed.out


def test_the_doctor_exits_with_a_failure_where_no_place_is_found(capsys, saved_model, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(saved_model("llama"), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    status, printed = told_by(capsys, "doctor", folder, "--json")
    assert status == 1
    assert "leaves out the model's answer" in json.loads(printed.out)["model"]["prompt"]["refused"]
    status, _ = told_by(capsys, "doctor", folder, "--prompt-format", "plain", "--quiet")
    assert status == 0


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_a_model_can_be_checked_by_its_user(capsys, saved_model, architecture):
    status, printed = told_by(capsys, "doctor", saved_model(architecture), "--self-check", "--json")
    checked = json.loads(printed.out)["model"]["self_check"]
    assert status == 0
    assert {kind: found["passed"] for kind, found in checked.items()} == {"linear": True, "ffn": True}
    status, printed = told_by(capsys, "doctor", "--self-check")
    assert status == 2
    assert "--self-check needs a model" in printed.err


def test_a_model_that_fails_a_check_is_said_to(capsys, saved_model, monkeypatch):
    monkeypatch.setattr("crispr_lm.jobs.self_check.score_neurons", lambda lm, *asked: _wrong(lm, asked[-1].neurons))
    status, printed = told_by(capsys, "doctor", saved_model("llama"), "--self-check")
    assert status == 1
    assert "failed" in printed.out


def _wrong(lm, kind):
    return NeuronScores({site.name: torch.ones(site.width) for site in find_sites(lm.model, kind)}, kind)
