"""Edits as sets: union, intersection, overlap."""

import pytest

from crispr_lm import Edit, EditMismatchError, InputError, Neuron
from crispr_lm.edits.set_operations import intersection, overlap, union

from ..helpers import build_model, fill

FIRST, SECOND = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
A, B, C, D = (Neuron(FIRST, 1, "ffn"), Neuron(FIRST, 2, "ffn"), Neuron(SECOND, 1, "ffn"), Neuron(SECOND, 1, "linear"))


def block(down):
    """The layers of a feed-forward block, to whose weights an edit of its neurons is tied."""
    return [down, down.replace("down_proj", "gate_proj"), down.replace("down_proj", "up_proj")]


@pytest.fixture
def edits(llama):
    return Edit.from_neurons(llama, [B, A]), Edit.from_neurons(llama, [C, A, D])


def test_union_names_every_neuron_once_in_the_order_they_are_first_named(llama, edits):
    both = union(edits)
    assert both.neurons == (B, A, C, D)
    assert set(both.fingerprint) == {*block(FIRST), *block(SECOND)}
    both.check(llama)


@pytest.mark.parametrize("combined", [union, intersection])
def test_what_any_of_the_edits_was_made_on_is_not_held_out_for_their_combination(llama, combined):
    edits = [Edit.from_neurons(llama, [A], made_on=hashes) for hashes in (["01", "03"], ["02", "03"])]
    assert combined(edits).made_on == ("01", "02", "03")


def test_intersection_names_the_common_neurons(llama, edits):
    common = intersection(edits)
    assert common.neurons == (A,)
    assert set(common.fingerprint) == {*block(FIRST)}
    common.check(llama)


def test_overlap_counts_in_all_and_per_module(edits):
    total, per_module = overlap(*edits)
    assert (total.first, total.second, total.common, total.jaccard) == (2, 3, 1, 0.25)
    assert {name: (part.first, part.second, part.common) for name, part in per_module.items()} == {
        FIRST: (2, 1, 1),
        SECOND: (0, 2, 0),
    }
    assert per_module[FIRST].jaccard == 0.5


def test_edits_of_other_weights_are_not_combined(llama, edits):
    other = build_model("llama")
    fill(other.model, seed=1)
    with pytest.raises(EditMismatchError, match=FIRST):
        union([edits[0], Edit.from_neurons(other, [A])])
    with pytest.raises(EditMismatchError, match=FIRST):
        overlap(edits[0], Edit.from_neurons(other, [A]))


def test_edits_of_other_architectures_are_not_combined(edits, gpt2):
    other = Edit.from_neurons(gpt2, [Neuron("transformer.h.0.mlp.c_proj", 1, "ffn")])
    with pytest.raises(EditMismatchError, match="GPT2LMHeadModel"):
        intersection([edits[0], other])


def test_edits_of_other_scales_are_not_combined(llama, edits):
    with pytest.raises(InputError, match="scales"):
        union([edits[0], Edit.from_neurons(llama, [A], scale=0.5)])


def test_one_edit_alone_is_not_combined(edits):
    with pytest.raises(InputError, match="at least two"):
        union(edits[:1])


def test_the_command_line_combines_and_compares(edits, tmp_path, capsys):
    from crispr_lm.cli.commands import main

    for name, edit in zip("ab", edits, strict=True):
        edit.save(tmp_path / f"{name}.json")
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    for command, expected in (("union", (B, A, C, D)), ("intersect", (A,))):
        with pytest.raises(SystemExit) as stop:
            main(["edit", command, *files, "--output", str(tmp_path / "c.json")])
        assert stop.value.code == 0
        assert Edit.load(tmp_path / "c.json").neurons == expected
    with pytest.raises(SystemExit) as stop:
        main(["edit", "diff", *files])
    assert stop.value.code == 0
    assert "0.250" in capsys.readouterr().out
