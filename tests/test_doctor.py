"""The doctor, and the forms in which results are printed."""

import json

import pytest
import torch

from crispr_lm import doctor, load_model
from crispr_lm.cli import main


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


def test_a_machine_is_told_as_one_json_document(capsys):
    status, printed = told_by(capsys, "doctor", "--json")
    assert status == 0
    told = json.loads(printed.out)
    # Some builds of PyTorch name their CUDA release (2.6.0+cu124) in one of the two places only.
    assert told["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    cpu = told["devices"][0]
    assert cpu["device"] == "cpu"
    assert 0 < cpu["free"] <= 2 * cpu["memory"]
    assert cpu["largest_model"]["float32"] == cpu["free"] // 4
    assert cpu["largest_model"]["bfloat16"] == cpu["free"] // 2
    assert told["hub"] == {**told["hub"], "reachable": False, "reason": "no network in tests"}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_a_model_needs_is_told_from_its_configuration_alone(kind, saved_model, tmp_path):
    folder = saved_model(kind)
    lm = load_model(folder, device="cpu")
    for file in folder.iterdir():  # all but the weights
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    told = doctor.examine_machine(str(tmp_path))["model"]
    assert told["parameters"] == sum(parameter.numel() for parameter in lm.model.parameters())
    buffers = sum(buffer.numel() * buffer.itemsize for buffer in lm.model.buffers())
    weights = told["parameters"] * 4 + buffers
    assert told["needs"]["float32"]["weights"] == weights
    assert told["needs"]["float32"]["attribution"] > weights
    assert told["needs"]["bfloat16"]["weights"] < weights
    assert "cpu" in told["needs"]["float32"]["fits"]


def test_tables_for_people_name_what_is_missing(capsys, saved_model, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "nothing", ("no_such_module",))
    status, printed = told_by(capsys, "doctor", saved_model("llama"))
    assert status == 0
    assert "pip install 'crispr-lm[nothing]'" in printed.out
    assert "not reachable (no network in tests)" in printed.out
    assert "LlamaForCausalLM" in printed.out


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
