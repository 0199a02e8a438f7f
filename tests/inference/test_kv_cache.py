"""Scoring from the model's cache: beginnings read once, options that continue their prompt; equal to plain scores."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

from crispr_lm import EncodedPrompt, LanguageModel, option_scores, score_neurons
from crispr_lm.inference import kv_cache
from crispr_lm.inference.kv_cache import cache_name, sharing_groups
from crispr_lm.inference.layouts import capabilities_of
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.inference.streaming import Decoding, stream_answer

from ..helpers import (
    DECODER_ONLY,
    EXAMPLES,
    INSTRUCTIONS,
    LONG_EXAMPLE,
    VOCABULARY,
    assert_rows_close,
    assert_values_close,
    build_model,
    chat_tokenizer,
    fill,
)
from ..reference import Reference, influence

ReferenceOf = Callable[[str], Reference]


@pytest.fixture
def always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every beginning pay, be it ever so short."""
    monkeypatch.setattr(kv_cache, "FEWEST_SAVED", 1)


@contextmanager
def tokens_read(lm: LanguageModel) -> Iterator[list[tuple[int, ...]]]:
    """Collect the shapes (rows, tokens) of every forward pass of a decoder-only model."""
    shapes: list[tuple[int, ...]] = []

    def see(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        shapes.append(tuple(arguments[0].shape))

    handle = lm.model.get_input_embeddings().register_forward_pre_hook(see)
    try:
        yield shapes
    finally:
        handle.remove()


@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("batch_size", [2, 3, 5])
@pytest.mark.parametrize("architecture", DECODER_ONLY)
def test_scores_behind_a_beginning_read_once_equal_the_formula(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, batch_size: int
) -> None:
    examples = (*EXAMPLES, LONG_EXAMPLE)
    capabilities_of(lm)
    assert lm.capabilities.cache is True
    with tokens_read(lm) as shapes:
        scores = option_scores(lm, examples, INSTRUCTIONS[0], batch_size)
    assert_rows_close(scores, reference_of(architecture).option_scores(examples, INSTRUCTIONS[0]))
    assert any(rows == 1 for rows, _ in shapes)  # a beginning was read by itself


@pytest.mark.usefixtures("always_shared")
def test_a_beginning_that_stays_the_same_is_read_once_for_all_batches(llama: LanguageModel) -> None:
    capabilities_of(llama)
    beginning = list(range(10, 30))
    prompts = [EncodedPrompt([*beginning, 40 + n, 50 + n], [[1, 2], [3]]) for n in range(6)]
    with tokens_read(llama) as shapes:
        scores = prompt_scores(llama, prompts, batch_size=2)
    assert shapes == [(1, 20), (2, 3), (2, 3), (2, 3)]
    expected = [Reference(llama).prompt_scores(prompt.prompt_ids, prompt.option_ids) for prompt in prompts]
    assert_rows_close(scores, expected)


@pytest.mark.usefixtures("always_shared")
def test_prompts_that_are_all_alike_and_prompts_within_prompts_are_scored_right(llama: LanguageModel) -> None:
    options = [[5, 6], [7], [8, 9, 10]]
    prompts = [EncodedPrompt([20, 21, 22], options)] * 3 + [EncodedPrompt([20, 21, 22, 23], options)]
    expected = [Reference(llama).prompt_scores(prompt.prompt_ids, prompt.option_ids) for prompt in prompts]
    assert_rows_close(prompt_scores(llama, prompts, batch_size=4), expected)
    one_token = [EncodedPrompt([20], options), EncodedPrompt([20, 21], options)]
    expected = [Reference(llama).prompt_scores(prompt.prompt_ids, prompt.option_ids) for prompt in one_token]
    assert_rows_close(prompt_scores(llama, one_token, batch_size=2), expected)


@pytest.mark.usefixtures("always_shared")
def test_what_was_read_for_other_weights_is_not_used_again(llama: LanguageModel) -> None:
    option_scores(llama, EXAMPLES, INSTRUCTIONS[0])
    fill(llama.model, seed=7)
    scores = option_scores(llama, EXAMPLES, INSTRUCTIONS[0])
    assert_rows_close(scores, Reference(llama).option_scores(EXAMPLES, INSTRUCTIONS[0]))


def test_a_short_beginning_of_few_prompts_is_not_read_by_itself(llama: LanguageModel) -> None:
    capabilities_of(llama)
    with tokens_read(llama) as shapes:
        prompt_scores(llama, [EncodedPrompt([20, 21, 22, 30 + n], [[1, 2]]) for n in range(4)])
    assert shapes == [(4, 5)]


def test_prompts_are_grouped_by_instruction_where_that_saves_tokens() -> None:
    system = list(range(30))
    prompts = [EncodedPrompt([*system, *[100 + n % 2] * 40, n], [[1]]) for n in range(40)]
    groups = sharing_groups(prompts)
    assert len(set(groups[0::2])) == len(set(groups[1::2])) == 1
    assert groups[0] != groups[1]
    few = [EncodedPrompt([*system, 100 + n, n], [[1]]) for n in range(40)]
    assert set(sharing_groups(few)) == {0}


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_without_branches_continues_from_its_prompts_cache(reference_of: ReferenceOf, batch_size: int) -> None:
    lm = build_model("bloom")  # ALiBi
    capabilities_of(lm)
    assert (lm.capabilities.branches, lm.capabilities.cache) == (False, True)
    with tokens_read(lm) as shapes:
        scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size)
    assert_rows_close(scores, reference_of("bloom").option_scores(EXAMPLES, INSTRUCTIONS[0]))
    assert sum(rows for rows, tokens in shapes if tokens > 20) == len(EXAMPLES)  # each prompt once, not once per option


def test_prompts_of_one_length_share_a_pass_from_their_cache() -> None:
    lm = build_model("bloom")
    capabilities_of(lm)
    prompts = [EncodedPrompt([20 + n, 21, 22, 23], [[1, 2, 3], [4 + n], [5, 6]][: 2 + n % 2]) for n in range(4)]
    with tokens_read(lm) as shapes:
        scores = prompt_scores(lm, prompts)
    assert shapes == [(4, 4), (10, 2)]
    expected = [Reference(lm).prompt_scores(prompt.prompt_ids, prompt.option_ids) for prompt in prompts]
    assert_rows_close(scores, expected)


def test_a_cache_that_gives_other_scores_is_found_out_and_not_used(
    reference_of: ReferenceOf, caplog: pytest.LogCaptureFixture
) -> None:
    lm = build_model("bloom")

    def forget(_module: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if keywords.get(cache_name(lm)) is not None:
            for layer in keywords[cache_name(lm)].layers:
                layer.keys[..., 0, :] = 0  # the first token is lost
        return arguments, keywords

    lm.model.register_forward_pre_hook(forget, with_kwargs=True)
    with caplog.at_level("INFO", logger="crispr_lm"):
        scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert lm.capabilities.cache is False
    assert "not scored from their prompt's cache: scores would differ" in caplog.text
    assert_rows_close(scores, reference_of("bloom").option_scores(EXAMPLES, INSTRUCTIONS[0]))


@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("architecture", ["llama", "bloom", "bart"])
def test_a_user_is_not_warned_of_names_that_transformers_gives_up(architecture: str) -> None:
    lm = build_model(architecture)
    with warnings.catch_warnings(record=True) as given:  # as errors the check at load would take them for the model's
        warnings.simplefilter("always", FutureWarning)
        option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
        list(stream_answer(lm, ["Who was late?"], Decoding(max_new_tokens=2)))
    assert [str(warning.message) for warning in given] == []


@pytest.mark.usefixtures("always_shared")
@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_frequencies_that_change_with_the_length_are_not_read_in_parts(llama: LanguageModel, rope_type: str) -> None:
    capabilities_of(llama)
    llama.model.config.rope_parameters = {"rope_type": rope_type, "original_max_position_embeddings": 24}
    prompts = [EncodedPrompt([*range(10, 30), 40 + n, *[50] * 6], [[1, 2], [3]]) for n in range(3)]
    with tokens_read(llama) as shapes:
        prompt_scores(llama, prompts)
    assert shapes == [(6, 28)]  # longer than 24: a row per option, read whole


def test_linear_attention_is_scored_and_attributed_right() -> None:
    config = Qwen3NextConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, moe_intermediate_size=16, shared_expert_intermediate_size=16, num_experts=4,
        num_experts_per_tok=2, layer_types=["linear_attention", "full_attention"], mlp_only_layers=[0, 1],
    )  # fmt: skip
    model = Qwen3NextForCausalLM(config)
    fill(model, seed=3)
    lm = LanguageModel(model.eval().requires_grad_(False), chat_tokenizer(), "tiny-hybrid", context_length=512)
    reference = Reference(lm)
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert lm.capabilities.branches is False
    assert_rows_close(scores, reference.option_scores(EXAMPLES, INSTRUCTIONS[0]), tolerance=1e-3)
    relevances = reference.all_relevances(EXAMPLES[:2], INSTRUCTIONS[:1], "linear")
    values = score_neurons(lm, EXAMPLES[:2], INSTRUCTIONS[:1]).values
    assert_values_close(values, influence(relevances, 1.0), tolerance=1e-2, noise=1e-2)


def test_groups_do_not_change_scores(monkeypatch: pytest.MonkeyPatch, llama: LanguageModel) -> None:
    monkeypatch.setattr(kv_cache, "FEWEST_SAVED", 4)
    drawn = random.Random(0)
    prompts = [
        EncodedPrompt(
            [1, 2, 3, *[10 + n % 3] * 6, *drawn.choices(range(20, 90), k=3 + n % 4)], [[4, 5], [6], [7, 8, 9]]
        )
        for n in range(15)
    ]
    scores = prompt_scores(llama, drawn.sample(prompts, k=15), batch_size=4)
    assert scores.shape == (15, 3)
    for row, prompt in zip(prompt_scores(llama, prompts, batch_size=4), prompts, strict=True):
        expected = Reference(llama).prompt_scores(prompt.prompt_ids, prompt.option_ids)
        torch.testing.assert_close(row.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)
