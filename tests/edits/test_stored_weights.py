"""The saved folder is the original with other numbers: files, formats and shards stay, and nothing has to be loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from crispr_lm import Edit, EditMismatchError, InputError, LanguageModel, Neuron, VerificationError, load_model
from crispr_lm.cli.commands import main
from crispr_lm.edits.export import export_folder
from crispr_lm.edits.stored_weights import OtherLayoutError, check_bytes, save_edited
from crispr_lm.model.load import open_model
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.model.source_files import copy_other_files
from crispr_lm.storage.files import whole_folder

from ..helpers import build_mixture, build_model

OTHERS = {
    "LICENSE": b"Apache\r\n",
    "merges.txt": b"#version: 0.2\na b\n",
    "special_tokens_map.json": b'{ "eos_token":"<|im_end|>" }',
    "tokenizer.model": b"\x00\xff",
    "processor_config.json": b"{}",
    "additional_chat_templates/short.jinja": b"{{ messages }}",
}
LEFT_OUT = ("pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "onnx/config.json",
            "onnx/model.onnx", ".gitattributes", "README.md", "results.json", "training_args.bin")  # fmt: skip


def folder_of(tmp_path: Path, architecture: str = "llama", dtype: torch.dtype = torch.bfloat16) -> Path:
    """A checkpoint as it lies on the hub: shards, other files, and other forms of its weights."""
    folder = tmp_path / "original"
    lm = build_model(architecture)
    lm.model.to(dtype).save_pretrained(folder, max_shard_size="20KB")
    lm.tokenizer.save_pretrained(folder)
    for name, content in {**OTHERS, **dict.fromkeys(LEFT_OUT, b"{}")}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def some_neurons(lm: LanguageModel) -> list[Neuron]:
    return [Neuron(find_sites(lm.model, kind)[n].name, 5 + n, kind) for kind in ("linear", "ffn") for n in (0, 1)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [0.0, 0.37])
def test_a_folder_is_the_original_with_other_numbers(scale: float, dtype: str, tmp_path: Path) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "edited"
    lm = load_model(folder, dtype=dtype, device="cpu")
    edit = Edit.from_neurons(lm, some_neurons(lm), scale=scale)
    formats = export_folder(lm, edit, target)
    before, after = bytes_of(folder), bytes_of(target)
    assert set(after) == set(before) - set(LEFT_OUT)
    weights = {name for name in after if name.endswith(".safetensors")}
    assert len(weights) > 2
    assert all(after[name] == before[name] for name in set(after) - weights)
    changed = {name for name in weights if after[name] != before[name]}
    assert changed
    assert changed != weights
    assert set(formats.values()) == {torch.bfloat16}
    saved = AutoModelForCausalLM.from_pretrained(target, dtype=lm.dtype).state_dict()
    with edit.baked(lm, formats):
        assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())
    found = check_bytes(lm.model, edit, folder, target)
    assert found["tensors_edited"] == 4


@pytest.mark.parametrize("architecture", ["llama-tied", "gpt2", "t5-gated", "bart"])
def test_files_are_edited_without_loading_the_model(architecture: str, tmp_path: Path) -> None:
    folder, target = folder_of(tmp_path, architecture), tmp_path / "edited"
    target.mkdir()
    lm = load_model(folder, dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, some_neurons(lm))
    empty = open_model(folder).without_weights()
    save_edited(empty, edit, folder, target)
    assert all(parameter.is_meta for parameter in empty.parameters())
    copy_other_files(folder, target)
    saved = load_model(target, dtype="bfloat16", device="cpu").model.state_dict()
    with edit.baked(lm):
        assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())


def test_names_with_another_prefix_are_found_by_the_hash_of_their_weights(tmp_path: Path) -> None:
    folder, target = folder_of(tmp_path, "gpt2", torch.float32), tmp_path / "edited"
    target.mkdir()
    lm = load_model(folder, device="cpu")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    stored = {name.removeprefix("transformer."): tensor for name, tensor in lm.model.state_dict().items()}
    del stored["lm_head.weight"]  # tied
    decoys = {f"vision.{name}": tensor + 1 for name, tensor in stored.items()}
    save_file({**stored, **decoys}, folder / "model.safetensors", metadata={"format": "pt"})
    edit = Edit.from_neurons(lm, some_neurons(lm))
    save_edited(lm.model, edit, folder, target)
    after = load_file(target / "model.safetensors")
    touched = {
        site.name.removeprefix("transformer.") for kind in ("linear", "ffn") for site in find_sites(lm.model, kind)[:2]
    }
    changed = {name for name in after if not torch.equal(after[name], {**stored, **decoys}[name])}
    assert {name.rpartition(".")[0] for name in changed} == touched
    with safe_open(target / "model.safetensors", "pt") as content:
        assert content.metadata() == {"format": "pt"}


def test_an_edit_of_other_weights_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "edited"
    target.mkdir()
    other = build_model("llama", seed=1)
    edit = Edit.from_neurons(other, some_neurons(other))
    with pytest.raises(EditMismatchError, match=r"weights of module model\.layers\.0\..* differ in the files"):
        save_edited(other.model, edit, folder, target)
    assert not any(target.iterdir())


def test_experts_that_are_stored_one_by_one_are_written_by_transformers(tmp_path: Path) -> None:
    folder, target = tmp_path / "original", tmp_path / "edited"
    mixture = build_mixture()
    mixture.save(folder)
    (folder / "LICENSE").write_bytes(b"Apache")
    lm = load_model(folder, device="cpu")
    edit = Edit.from_neurons(lm, [Neuron("model.layers.0.mlp.experts.down_proj", 5, "ffn")])
    with pytest.raises(OtherLayoutError, match=r"hold the weights of model\.layers\.0\.mlp\.experts in another way"):
        save_edited(lm.model, edit, folder, target)
    export_folder(lm, edit, target)
    assert bytes_of(target).keys() == bytes_of(folder).keys()
    assert all(
        bytes_of(target)[name] == bytes_of(folder)[name] for name in ("LICENSE", "config.json", "tokenizer.json")
    )
    saved = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).state_dict()
    with edit.baked(lm):
        assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())


def test_a_byte_that_differs_elsewhere_is_found(tmp_path: Path) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "edited"
    lm = load_model(folder, dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, some_neurons(lm))
    export_folder(lm, edit, target)
    file = sorted(target.glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(VerificationError, match=f"{file.name} differs from the original where nothing was edited"):
        check_bytes(lm.model, edit, folder, target)


def test_the_command_edits_files_without_loading_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, target = folder_of(tmp_path), tmp_path / "edited"
    lm = load_model(folder, dtype="bfloat16", device="cpu")
    edit = Edit.from_neurons(lm, some_neurons(lm))
    edit.save(tmp_path / "edit.json")
    with pytest.raises(SystemExit) as ended:
        main(["apply", str(folder), str(tmp_path / "edit.json"), "--output", str(target), "--no-load"])
    assert ended.value.code == 0
    assert "bytes equal, all but those of 4 edited tensors; no scores were computed" in " ".join(
        capsys.readouterr().out.split()
    )
    assert {"README.md", "edit.json"} <= bytes_of(target).keys()
    saved = load_model(target, dtype="bfloat16", device="cpu").model.state_dict()
    with edit.baked(lm):
        assert all(torch.equal(saved[name], tensor) for name, tensor in lm.model.state_dict().items())


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (folder / "additional_chat_templates" / "long.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link that leads out of the folder"):
        copy_other_files(folder, tmp_path / "edited")


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_have_the_permissions_of_any_new_file(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        with whole_folder(tmp_path / "out") as part:
            build_model("llama").save(part)
            (part / "own").touch(mode=0o600)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {mode}


def test_what_transformers_5_writes_anew_has_the_names_of_4_too(tmp_path: Path) -> None:
    lm = build_model("llama")
    lm.model.config.rope_parameters = {
        "rope_type": "linear", "rope_theta": 500.0, "factor": 4.0, "partial_rotary_factor": 0.5
    }  # fmt: skip
    lm.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_parameters"] == lm.model.config.rope_parameters
    assert (config["rope_theta"], config["partial_rotary_factor"]) == (500.0, 0.5)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert config["torch_dtype"] == config["dtype"] == "float32"
    tokenizer = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert load_model(tmp_path, device="cpu").model.config.rope_parameters == lm.model.config.rope_parameters
