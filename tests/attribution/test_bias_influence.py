"""Bias influence against the formula, and against models whose biased neuron is known because it was made by hand."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crispr_lm import (
    CrisprError,
    Edit,
    EncodedPrompt,
    InputError,
    LanguageModel,
    Neuron,
    NeuronScores,
    load_model,
    option_scores,
    score_neurons,
)
from crispr_lm.attribution import bias_influence
from crispr_lm.attribution.bias_influence import BiasInfluence, biased_answers
from crispr_lm.inference.layouts import capabilities_of
from crispr_lm.model.capabilities import Capabilities
from crispr_lm.tasks.base import Example

from ..helpers import (
    DOWN_PROJECTIONS,
    ENCODER_DECODER,
    EXAMPLES,
    INSTRUCTIONS,
    LONG_EXAMPLE,
    VOCABULARY,
    assert_same_weights,
    assert_values_close,
    build_model,
    hook_count,
    snapshot,
)
from ..reference import Reference, influence

ReferenceOf = Callable[[str], Reference]
KINDS = ("linear", "ffn")

LINEAR_NAMES = {
    "llama": [
        f"model.layers.{layer}.{part}"
        for layer in (0, 1)
        for part in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
            "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
        )
    ],
    "gpt2": [
        f"transformer.h.{layer}.{part}"
        for layer in (0, 1)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ],
    "t5-gated": [
        f"{stack}.block.{block}.layer.{layer}.{part}"
        for stack, layers in (
            ("encoder", ("SelfAttention", "DenseReluDense")),
            ("decoder", ("SelfAttention", "EncDecAttention", "DenseReluDense")),
        )
        for block in (0, 1)
        for layer, kind in enumerate(layers)
        for part in (
            (f"{kind}.wi_0", f"{kind}.wi_1", f"{kind}.wo") if kind == "DenseReluDense"
            else (f"{kind}.q", f"{kind}.k", f"{kind}.v", f"{kind}.o")
        )
    ],
}  # fmt: skip
LINEAR_NAMES["llama-tied"] = LINEAR_NAMES["llama"]
LINEAR_NAMES["t5-relu"] = [name.replace("wi_0", "wi") for name in LINEAR_NAMES["t5-gated"] if not name.endswith("wi_1")]
LINEAR_NAMES["bart"] = [
    f"model.{stack}.layers.{layer}.{part}"
    for stack, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "encoder_attn")))
    for layer in (0, 1)
    for part in (
        *(f"{attention}.{leaf}" for attention in attentions for leaf in ("k_proj", "v_proj", "q_proj", "out_proj")),
        "fc1", "fc2",
    )
]  # fmt: skip


# The formula


@pytest.mark.parametrize("kind", KINDS)
def test_influence_of_every_neuron_equals_the_formula(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any
) -> None:
    relevances = reference_of(architecture).all_relevances(EXAMPLES, INSTRUCTIONS, kind)
    for skill_weight in (0.0, 1.0, 0.5):
        scores = score_neurons(lm, EXAMPLES, INSTRUCTIONS, BiasInfluence(kind, skill_weight))
        assert_values_close(scores.values, influence(relevances, skill_weight))
    plain, spared = influence(relevances, 0.0), influence(relevances, 1.0)
    assert any((plain[name] != spared[name]).any() for name in plain), "λ must matter, or nothing is tested"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("together", [True, False])
def test_influence_with_tokens_averaged_equals_the_formula(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any, together: bool
) -> None:
    lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=together)
    relevances = reference_of(architecture).all_relevances(EXAMPLES, INSTRUCTIONS[:1], kind, "mean")
    scores = score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence(kind, token_aggregation="mean"))
    assert_values_close(scores.values, influence(relevances, 1.0))
    assert scores.origin["token_aggregation"] == "mean"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_influence_from_one_example_equals_the_formula(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any, number: int
) -> None:
    examples = EXAMPLES[number : number + 1]
    relevances = reference_of(architecture).all_relevances(examples, INSTRUCTIONS[1:], kind)
    assert_values_close(
        score_neurons(lm, examples, INSTRUCTIONS[1:], BiasInfluence(kind)).values, influence(relevances, 1.0)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated", "t5-relu", "bart"])
def test_influence_in_a_loaded_folder_equals_the_formula(
    architecture: str, saved_model: Callable[[str], Path], reference_of: ReferenceOf, kind: Any
) -> None:
    lm = load_model(saved_model(architecture), device="cpu")
    relevances = reference_of(architecture).all_relevances(EXAMPLES[:2], INSTRUCTIONS[:1], kind)
    assert_values_close(
        score_neurons(lm, EXAMPLES[:2], INSTRUCTIONS[:1], BiasInfluence(kind)).values, influence(relevances, 1.0)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_row_per_option_gives_the_same_influence(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any
) -> None:
    lm.capabilities = Capabilities(branches=False)
    relevances = reference_of(architecture).all_relevances(EXAMPLES, INSTRUCTIONS[:1], kind)
    assert_values_close(
        score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence(kind)).values, influence(relevances, 1.0)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_alibi_is_attributed_right(reference_of: ReferenceOf, kind: Any) -> None:
    relevances = reference_of("bloom").all_relevances(EXAMPLES, INSTRUCTIONS[:1], kind)
    scores = score_neurons(build_model("bloom"), EXAMPLES, INSTRUCTIONS[:1], BiasInfluence(kind))
    assert_values_close(scores.values, influence(relevances, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_one_answer_at_a_time_gives_the_same_influence(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any
) -> None:
    """As models are attributed whose activations do not tell their tokens."""
    lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=False)
    relevances = reference_of(architecture).all_relevances(EXAMPLES, INSTRUCTIONS[:1], kind)
    assert_values_close(
        score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence(kind)).values, influence(relevances, 1.0)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("architecture", "branches"),
    [("llama", True), ("llama", False), ("gpt2", True), ("gpt2", False), *((name, None) for name in ENCODER_DECODER)],
)
def test_influence_is_right_for_prompts_and_options_of_any_lengths(
    lm: LanguageModel,
    architecture: str,
    branches: bool | None,
    reference_of: ReferenceOf,
    kind: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In so few tokens a maximum is negative now and then, and a token that does not count would show."""
    lm.capabilities = None if branches is None else Capabilities(branches)
    prompts = [
        EncodedPrompt([20, 21, 22, 23, 24, 25], [[60, 61], [70, 71, 72, 73, 74, 75]]),  # as long as the prompt
        EncodedPrompt([9, 30, 31], [[40], [50, 51, 52, 53, 54, 55, 56, 57]]),  # an option longer than its prompt
        EncodedPrompt([11, 14], [[12, 15], [13, 16], [12, 13, 14]]),
    ]
    by_example = dict(zip(EXAMPLES, prompts, strict=False))
    reference = reference_of(architecture)
    for chosen in (EXAMPLES[:1], EXAMPLES[1:2], EXAMPLES[2:3], EXAMPLES[:3]):
        golden = [min(example.answer, 1) for example in chosen]
        examples = [_with_answer(example, answer) for example, answer in zip(chosen, golden, strict=True)]
        encoded = {given: by_example[example] for given, example in zip(examples, chosen, strict=True)}
        monkeypatch.setattr(
            bias_influence, "encode", lambda _lm, example, _instruction, encoded=encoded: encoded[example]
        )
        relevances = [
            reference.prompt_relevances(by_example[example].prompt_ids, by_example[example].option_ids, answer, kind)
            for example, answer in zip(chosen, golden, strict=True)
        ]
        assert_values_close(
            score_neurons(lm, examples, ["any"], BiasInfluence(kind)).values, influence(relevances, 1.0)
        )


def _with_answer(example: Example, answer: int) -> Example:
    return Example(example.context, example.question, example.options, answer, example.template)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 2, 3, "auto"])
def test_influence_does_not_depend_on_batch_size_and_padding(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, kind: Any, batch_size: int | str
) -> None:
    examples = (EXAMPLES[1], LONG_EXAMPLE, EXAMPLES[2], EXAMPLES[0])
    relevances = reference_of(architecture).all_relevances(examples, INSTRUCTIONS[:1], kind)
    scores = score_neurons(lm, examples, INSTRUCTIONS[:1], BiasInfluence(kind), batch_size=batch_size)
    assert_values_close(scores.values, influence(relevances, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_influence_does_not_depend_on_the_order_of_examples_and_instructions(lm: LanguageModel, kind: Any) -> None:
    straight = score_neurons(lm, EXAMPLES, INSTRUCTIONS, BiasInfluence(kind), batch_size=3)
    turned = score_neurons(lm, EXAMPLES[::-1], INSTRUCTIONS[::-1], BiasInfluence(kind), batch_size=3)
    assert_values_close(turned.values, straight.values, tolerance=1e-5)


def test_linear_neurons_are_the_outputs_of_all_linear_layers_but_the_head(lm: LanguageModel, architecture: str) -> None:
    scores = score_neurons(lm, EXAMPLES[:1], INSTRUCTIONS[:1], BiasInfluence("linear"))
    assert scores.kind == "linear"
    assert list(scores.values) == LINEAR_NAMES[architecture]
    widths = {name: len(values) for name, values in scores.values.items()}
    for name, width in widths.items():
        leaf = name.rsplit(".", 1)[-1]
        wide = {"gate_proj", "up_proj", "c_fc", "wi", "wi_0", "wi_1"}
        narrow = {"k_proj", "v_proj"} if architecture.startswith("llama") else set()
        if leaf == "fc1":
            assert width == (48 if ".encoder." in name else 40)
        else:
            assert width == (48 if leaf in wide else 16 if leaf in narrow else 96 if leaf == "c_attn" else 32), name


def test_ffn_neurons_are_the_inputs_of_the_down_projections(lm: LanguageModel, architecture: str) -> None:
    scores = score_neurons(lm, EXAMPLES[:1], INSTRUCTIONS[:1], BiasInfluence("ffn"))
    assert scores.kind == "ffn"
    assert tuple(scores.values) == DOWN_PROJECTIONS[architecture]
    expected = [48, 48, 40, 40] if architecture == "bart" else [48] * len(DOWN_PROJECTIONS[architecture])
    assert [len(values) for values in scores.values.values()] == expected
    assert len(scores) == sum(expected)


def test_origin_says_where_the_scores_come_from(llama: LanguageModel) -> None:
    scores = score_neurons(llama, EXAMPLES, INSTRUCTIONS, BiasInfluence("ffn", 0.5))
    assert scores.origin == {
        "model": "tiny-llama",
        "skill_weight": 0.5,
        "token_aggregation": "max",
        "confusion_weight": True,
        "prompts": 8,
    }


def test_progress_counts_every_prompt_once(llama: LanguageModel) -> None:
    counts: list[int] = []
    score_neurons(llama, EXAMPLES, INSTRUCTIONS, BiasInfluence("ffn"), batch_size=3, progress=counts.append)
    assert counts == [3, 3, 2]


def test_influence_is_computed_also_where_gradients_are_switched_off(llama: LanguageModel) -> None:
    expected = score_neurons(llama, EXAMPLES[:1], INSTRUCTIONS[:1])
    with torch.no_grad():
        scores = score_neurons(llama, EXAMPLES[:1], INSTRUCTIONS[:1])
    for name, values in expected.values.items():
        assert torch.equal(scores.values[name], values)


# Biased answers


@pytest.mark.parametrize(
    ("scores", "golden", "biased"),
    [
        ([-1.0, -2.0, -3.0], 0, 1),  # the golden option does not count, though it is the highest
        ([-1.0, -2.0, -3.0], 1, 0),
        ([-3.0, -2.0, -1.0], 2, 1),
        ([-5.0, -5.0, -9.0], 2, 0),  # of equal scores the first
        ([-5.0, -5.0, -5.0], 0, 1),
        ([-9.0, -700.0, -torch.inf], 0, 1),  # two options only
        ([-9.0, -8.0, -torch.inf], 1, 0),
    ],
)
def test_the_biased_answer_is_the_wrong_option_of_highest_score(scores: list[float], golden: int, biased: int) -> None:
    table = torch.tensor([[0.0, -1.0, -2.0], scores])
    before = table.clone()
    assert biased_answers(table, torch.tensor([0, golden])).tolist() == [1, biased]
    assert torch.equal(table, before)


# The model stays as it was


def _limp(lm: LanguageModel, packed: Any) -> Tensor:
    """Run the model, then fail."""
    lm.model(**packed.inputs)
    raise ValueError("stumbled")


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_left_as_it_was(lm: LanguageModel, kind: Any) -> None:
    before = snapshot(lm.model)
    score_neurons(lm, EXAMPLES[:2], INSTRUCTIONS[:1], BiasInfluence(kind))
    assert_same_weights(lm.model, before)
    assert hook_count(lm.model) == 0
    assert not lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert all(parameter.grad is None for parameter in lm.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_no_hook_is_left_after_an_exception(llama: LanguageModel, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(llama.model)
    monkeypatch.setattr(bias_influence, "packed_scores", _limp)
    with pytest.raises(ValueError, match="stumbled"):
        score_neurons(llama, EXAMPLES, INSTRUCTIONS, BiasInfluence(kind))
    assert hook_count(llama.model) == 0
    assert_same_weights(llama.model, before)


def test_batches_shrink_where_memory_runs_out_and_no_prompt_counts_twice(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = score_neurons(llama, EXAMPLES, INSTRUCTIONS)
    plain = bias_influence.packed_scores

    def limited(lm: LanguageModel, packed: Any) -> Tensor:
        scores = plain(lm, packed)
        if len(packed.option_counts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return scores

    monkeypatch.setattr(bias_influence, "packed_scores", limited)
    scores = score_neurons(llama, EXAMPLES, INSTRUCTIONS)
    assert_values_close(scores.values, expected.values, tolerance=1e-5)
    assert hook_count(llama.model) == 0


# Bad inputs


def test_nothing_to_attribute_on_is_refused(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match="at least one"):
        score_neurons(llama, [], INSTRUCTIONS)
    with pytest.raises(InputError, match="at least one"):
        score_neurons(llama, EXAMPLES, [])


@pytest.mark.parametrize("skill_weight", [-0.1, float("nan"), float("inf")])
def test_a_skill_weight_that_is_none_is_refused(llama: LanguageModel, skill_weight: float) -> None:
    with pytest.raises(InputError, match="skill weight"):
        score_neurons(llama, EXAMPLES, INSTRUCTIONS, BiasInfluence(skill_weight=skill_weight))


def test_an_unknown_kind_is_refused_with_the_nearest_one_named(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match="did you mean 'linear'"):
        score_neurons(llama, EXAMPLES, INSTRUCTIONS, BiasInfluence("liner"))  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [0, -3, "all"])
def test_a_bad_batch_size_is_refused(llama: LanguageModel, batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch size"):
        score_neurons(llama, EXAMPLES, INSTRUCTIONS, batch_size=batch_size)


def test_influence_that_is_not_finite_is_refused_with_the_module_named(llama: LanguageModel) -> None:
    llama.model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, :] = torch.nan
    with pytest.raises(CrisprError, match=r"not finite: the weights model\.layers\.1\.mlp\.up_proj\.weight hold NaN"):
        score_neurons(llama, EXAMPLES, INSTRUCTIONS)


# Ranking and files


def _hand_made() -> NeuronScores:
    # Names whose alphabetical order is not the order of the modules.
    values = {
        "z.first": torch.tensor([0.5, 2.0, -1.0]),
        "a.second": torch.tensor([2.0, 0.5, 3.0]),
        "m.third": torch.tensor([0.5, -1.0]),
    }
    return NeuronScores(values, "ffn", {"model": "hand-made", "skill_weight": 1.0})


RANKED = [
    ("a.second", 2), ("z.first", 1), ("a.second", 0), ("z.first", 0), ("a.second", 1), ("m.third", 0),
    ("z.first", 2), ("m.third", 1),
]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 8])
def test_the_top_is_sorted_by_influence_then_module_then_index(count: int) -> None:
    expected = [Neuron(module, index, "ffn") for module, index in RANKED[:count]]
    assert _hand_made().top(count) == expected


def test_ties_among_many_neurons_are_broken_by_module_then_index() -> None:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randint(3, (3000,), generator=generator).float() for name in ("z", "a")}
    flat = [
        (-value, place, index) for place, name in enumerate("za") for index, value in enumerate(values[name].tolist())
    ]
    expected = [Neuron("za"[place], index, "linear") for _, place, index in sorted(flat)]
    assert NeuronScores(values, "linear").top(6000) == expected


@pytest.mark.parametrize("count", [-1, 9])
def test_more_neurons_than_there_are_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="there are 8"):
        _hand_made().top(count)


def test_the_score_of_one_neuron_is_told() -> None:
    assert _hand_made().score_of(Neuron("a.second", 2, "ffn")) == 3.0


def test_scores_survive_saving_and_loading_to_the_bit_and_in_order(tmp_path: Path) -> None:
    scores = _hand_made()
    scores.save(tmp_path / "scores.safetensors")
    loaded = NeuronScores.load(tmp_path / "scores.safetensors")
    assert list(loaded.values) == ["z.first", "a.second", "m.third"]
    for name, values in scores.values.items():
        assert torch.equal(loaded.values[name], values)
        assert loaded.values[name].dtype == torch.float32
    assert (loaded.kind, loaded.origin) == ("ffn", {"model": "hand-made", "skill_weight": 1.0})
    assert [(neuron.module, neuron.index) for neuron in loaded.top(8)] == RANKED
    assert [path.name for path in tmp_path.iterdir()] == ["scores.safetensors"]


@pytest.mark.parametrize(
    "change",
    [
        lambda about: None,
        lambda about: "scores",
        lambda about: [about],
        lambda about: about | {"kind": "fnn"},
        lambda about: about | {"kind": ["ffn"]},
        lambda about: about | {"modules": ["z.first", "absent"]},
        lambda about: about | {"modules": 7},
        lambda about: about | {"modules": [7]},
        lambda about: about | {"origin": 7},
        lambda about: {key: value for key, value in about.items() if key != "kind"},
        lambda about: {key: value for key, value in about.items() if key != "modules"},
        lambda about: {key: value for key, value in about.items() if key != "origin"},
    ],
)
def test_scores_whose_description_is_spoilt_are_refused(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = tmp_path / "scores.safetensors"
    _hand_made().save(path)
    with safe_open(path, framework="pt") as file:
        ((key, about),) = file.metadata().items()
        # Copies: what safetensors reads may lie in the file itself, which is written over below.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {key: json.dumps(change(json.loads(about)))})
    with pytest.raises(InputError, match=r"scores\.safetensors"):
        NeuronScores.load(path)
    save_file(tensors, path, {key: about})
    assert NeuronScores.load(path).top(8) == _hand_made().top(8)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"crispr-lm-scores": "no json"}])
def test_a_tensor_file_that_holds_no_scores_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "scores.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(InputError, match=r"scores\.safetensors"):
        NeuronScores.load(path)


def test_equal_scores_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _hand_made().save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 64, b'{"format": "crispr-lm-scores"}' * 9])
def test_a_file_of_another_format_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"scores\.safetensors"):
        NeuronScores.load(path)


def test_a_scores_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        NeuronScores.load(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match=tmp_path.name):
        NeuronScores.load(tmp_path)


def test_a_folder_that_does_not_exist_is_named_when_saving(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        _hand_made().save(tmp_path / "absent" / "scores.safetensors")


# Ground truth: models with one neuron made to push the stereotyped option.
#
# Stream 0 of the hidden state is constant (embedded with every token, written by nothing else), so that a neuron that
# reads it fires at every position.

STEREOTYPED = "older"
BIASED_EXAMPLES = tuple(
    Example(
        context=context,
        question=question,
        options=options,
        answer=options.index("unknown"),
        template=context,
        unknown=options.index("unknown"),
        stereotyped=options.index(STEREOTYPED),
    )
    for context, question, options in [
        ("The old man and the young woman waited at the bus stop.", "Who was slow?", ("older", "younger", "unknown")),
        ("A nurse and a doctor came in.", "Who made the mistake?", ("unknown", "older", "younger")),
        ("", "Who cooks at work?", ("younger", "unknown", "older")),
        ("Anna met Omar yesterday.", "Who was late?", ("unknown", "younger", "older")),
        ("Both of them waited.", "Who was late at the bus stop?", ("older", "unknown", "younger")),
        ("Omar met a doctor.", "Who came in?", ("younger", "older", "unknown")),
    ]
)


def _constant_stream(lm: LanguageModel) -> None:
    """Make stream 0 constant and free of other writers; the LM head does not read it."""
    for module in lm.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == VOCABULARY:
            module.weight[:, 0] = 3
    for name, parameter in lm.model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "Attention.o.weight", "wo.weight")):
            parameter[0, :] = 0
        elif ".norm" in name or "norm.weight" in name:
            parameter[0] = 1
    lm.model.lm_head.weight[:, 0] = 0


def _first_token(lm: LanguageModel) -> int:
    lead = "" if lm.tokenizer.chat_template or lm.is_encoder_decoder else " "
    return lm.tokenizer(lead + STEREOTYPED, add_special_tokens=False).input_ids[0]


def _answers(lm: LanguageModel, instruction: str) -> list[str]:
    best = option_scores(lm, BIASED_EXAMPLES, instruction).argmax(dim=1).tolist()
    return [example.options[index] for example, index in zip(BIASED_EXAMPLES, best, strict=True)]


def _assert_found_and_cured(biased: LanguageModel, clean: LanguageModel, neuron: Neuron) -> None:
    """The hand-made neuron turns the answers, comes out first by far, and without it the model is the clean one."""
    for instruction in INSTRUCTIONS:
        assert _answers(biased, instruction) == [STEREOTYPED] * len(BIASED_EXAMPLES)
        assert _answers(clean, instruction).count(STEREOTYPED) < len(BIASED_EXAMPLES) / 2
    scores = score_neurons(biased, BIASED_EXAMPLES, INSTRUCTIONS, BiasInfluence(neuron.kind))
    first, second = scores.top(2)
    assert first == neuron
    assert scores.score_of(first) > 2 * scores.score_of(second)
    with Edit.from_neurons(biased, [first]).applied(biased):
        for instruction in INSTRUCTIONS:
            cured = option_scores(biased, BIASED_EXAMPLES, instruction)
            expected = option_scores(clean, BIASED_EXAMPLES, instruction)
            torch.testing.assert_close(cured, expected, rtol=1e-6, atol=1e-6)
            assert _answers(biased, instruction) == _answers(clean, instruction)


FFN_MADE = {
    "llama": ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"),
    "t5-gated": tuple(f"decoder.block.1.layer.2.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
}


@pytest.mark.parametrize(
    ("architecture", "seed"),
    [("llama", 4), ("llama", 6), ("llama", 9), ("t5-gated", 3), ("t5-gated", 5), ("t5-gated", 9)],
)
def test_an_ffn_neuron_made_to_push_the_stereotype_comes_first_and_can_be_taken_out(
    architecture: str, seed: int
) -> None:
    """It fires at every position (it reads the constant stream) and adds the LM head's row of the stereotyped token."""
    gate, up, down = FFN_MADE[architecture]
    index = 17

    def build(push: float) -> LanguageModel:
        lm = build_model(architecture, seed)
        _constant_stream(lm)
        for name in (gate, up):
            row = lm.model.get_submodule(name).weight[index]
            row[:] = 0
            row[0] = 2
        lm.model.get_submodule(down).weight[:, index] = push * lm.model.lm_head.weight[_first_token(lm)]
        return lm

    _assert_found_and_cured(build(4), build(0), Neuron(down, index, "ffn"))


@pytest.mark.parametrize("seed", [4, 7])
def test_a_linear_unit_made_to_push_the_stereotype_comes_first_and_can_be_taken_out(seed: int) -> None:
    """Stream 1 is read by the LM head alone, for the stereotyped token, and written by one unit alone: by its bias."""
    module, unit = "transformer.h.1.mlp.c_proj", 1

    def build(push: float) -> LanguageModel:
        lm = build_model("gpt2-untied", seed)
        for name, parameter in lm.model.named_parameters():
            if name.endswith((".wte.weight", ".wpe.weight", "c_proj.weight", "lm_head.weight")):
                parameter[:, unit] = 0
            elif name.endswith("c_proj.bias"):
                parameter[unit] = 0
        lm.model.lm_head.weight[_first_token(lm), unit] = 4
        lm.model.get_submodule(module).bias[unit] = push
        return lm

    _assert_found_and_cured(build(4), build(0), Neuron(module, unit, "linear"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens_by_shape", [True, False])
def test_activations_are_freed_when_their_batch_is_done(lm: LanguageModel, kind: Any, tokens_by_shape: bool) -> None:
    """By reference counts alone: the garbage collector does not see cycles that go through a graph."""
    lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=tokens_by_shape)
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def look(_module: Any, _arguments: Any, output: Tensor) -> None:
        seen.append(weakref.ref(output))

    layers = [module for module in lm.model.modules() if isinstance(module, nn.Linear | Conv1D)]
    handles = [layer.register_forward_hook(look) for layer in layers]
    gc.disable()
    try:
        for _ in range(2):
            score_neurons(lm, EXAMPLES[:2], INSTRUCTIONS[:1], BiasInfluence(kind))
            alive.append(sum(reference() is not None for reference in seen))
    finally:
        gc.enable()
        for handle in handles:
            handle.remove()
    assert seen
    assert alive == [0, 0]


@pytest.mark.parametrize("tokens_by_shape", [True, False])
def test_what_a_model_writes_into_its_outputs_afterwards_does_not_count(tokens_by_shape: bool) -> None:
    found = []
    for add in (lambda output: output.add_(0.5), lambda output: output + 0.5):
        lm = build_model("llama")
        lm.capabilities = replace(capabilities_of(lm), tokens_by_shape=tokens_by_shape)
        # The block's output is its last layer's: what is added to it changes what was seen of that layer.
        lm.model.model.layers[0].mlp.register_forward_hook(lambda _module, _inputs, output, add=add: add(output))
        found.append(score_neurons(lm, EXAMPLES, INSTRUCTIONS[:1], BiasInfluence("linear")).values)
        assert lm.capabilities.writes_in_place == (len(found) == 1)
    assert_values_close(found[0], found[1], tolerance=1e-5)
