"""Option scores against the formula, computed one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crispr_lm import CrisprError, EncodedPrompt, InputError, LanguageModel, load_model, option_scores
from crispr_lm.inference import batching, scoring
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.capabilities import Capabilities

from ..helpers import (
    ARCHITECTURES,
    DECODER_ONLY,
    ENCODER_DECODER,
    EXAMPLES,
    INSTRUCTIONS,
    LONG_EXAMPLE,
    assert_rows_close,
    build_model,
)
from ..reference import Reference

ReferenceOf = Callable[[str], Reference]


@contextmanager
def rows_read(lm: LanguageModel) -> Iterator[list[int]]:
    """Collect the number of rows of every forward pass of a decoder-only model."""
    rows: list[int] = []

    def see(_module: Any, arguments: tuple[Tensor, ...]) -> None:
        rows.append(arguments[0].shape[0])

    handle = lm.model.get_input_embeddings().register_forward_pre_hook(see)
    try:
        yield rows
    finally:
        handle.remove()


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_scores_equal_the_formula(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, instruction: str
) -> None:
    expected = reference_of(architecture).option_scores(EXAMPLES, instruction)
    assert_rows_close(option_scores(lm, EXAMPLES, instruction), expected)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated", "t5-relu", "bart"])
def test_scores_of_a_loaded_folder_equal_the_formula(
    architecture: str, saved_model: Callable[[str], Path], reference_of: ReferenceOf
) -> None:
    lm = load_model(saved_model(architecture), device="cpu")
    assert lm.is_encoder_decoder is (architecture in ENCODER_DECODER)
    expected = reference_of(architecture).option_scores(EXAMPLES, INSTRUCTIONS[0])
    assert_rows_close(option_scores(lm, EXAMPLES, INSTRUCTIONS[0]), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100, "auto"])
def test_scores_do_not_depend_on_the_batch_size(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, batch_size: int | str
) -> None:
    examples = (*EXAMPLES, LONG_EXAMPLE)
    expected = reference_of(architecture).option_scores(examples, INSTRUCTIONS[0])
    assert_rows_close(option_scores(lm, examples, INSTRUCTIONS[0], batch_size), expected, tolerance=2e-5)


def test_scores_follow_the_examples_when_these_change_places(lm: LanguageModel) -> None:
    straight = option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size=2)
    turned = option_scores(lm, EXAMPLES[::-1], INSTRUCTIONS[0], batch_size=2)
    torch.testing.assert_close(turned.flip(0), straight, rtol=1e-5, atol=0)
    assert len(set(straight[:, 0].tolist())) == len(EXAMPLES)


def test_scores_do_not_depend_on_padding(lm: LanguageModel) -> None:
    short = option_scores(lm, EXAMPLES[1:2], INSTRUCTIONS[0])
    padded = option_scores(lm, (LONG_EXAMPLE, EXAMPLES[1]), INSTRUCTIONS[0], batch_size=2)
    torch.testing.assert_close(padded[1, :2], short[0], rtol=1e-5, atol=0)


def test_options_that_an_example_lacks_score_minus_infinity(lm: LanguageModel) -> None:
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert scores.shape == (4, 4)
    assert torch.isinf(scores).tolist() == [
        [False, False, False, True],
        [False, False, True, True],
        [False, False, False, False],
        [False, False, False, True],
    ]
    assert scores.max() < 0


@pytest.mark.parametrize("architecture", DECODER_ONLY)
def test_options_share_one_row_with_their_prompt_where_the_model_allows(lm: LanguageModel) -> None:
    option_scores(lm, EXAMPLES[:1], INSTRUCTIONS[0])  # the first call also checks the model
    assert lm.capabilities.branches is True
    with rows_read(lm) as rows:
        option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size=4)
    assert rows == [4]


@pytest.mark.parametrize("architecture", DECODER_ONLY)
def test_a_row_per_option_gives_the_same_scores(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf
) -> None:
    lm.capabilities = Capabilities(branches=False)
    with rows_read(lm) as rows:
        scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size=4)
    assert rows == [sum(len(example.options) for example in EXAMPLES)]
    assert_rows_close(scores, reference_of(architecture).option_scores(EXAMPLES, INSTRUCTIONS[0]), tolerance=2e-5)


def test_a_model_with_alibi_falls_back_to_a_row_per_option(reference_of: ReferenceOf) -> None:
    lm = build_model("bloom")
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert lm.capabilities.branches is False
    assert_rows_close(scores, reference_of("bloom").option_scores(EXAMPLES, INSTRUCTIONS[0]))


@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_model_that_ignores_positions_or_the_block_mask_falls_back_to_a_row_per_option(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf, ignored: str
) -> None:
    def drop(_module: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if ignored == "position_ids" or keywords["attention_mask"].dim() == 4:
            keywords = keywords | {ignored: None}
        return arguments, keywords

    lm.model.register_forward_pre_hook(drop, with_kwargs=True)
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert lm.capabilities.branches is False
    assert_rows_close(scores, reference_of(architecture).option_scores(EXAMPLES, INSTRUCTIONS[0]))


@pytest.mark.parametrize("window", [6, 40])  # shorter than the prompts; 40 is longer than those of the check
def test_a_model_with_a_short_attention_window_falls_back_to_a_row_per_option(window: int) -> None:
    lm = build_model("mistral")
    lm.model.config.sliding_window = window
    with rows_read(lm) as rows:
        scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size=4)
    assert rows[-1] == sum(len(example.options) for example in EXAMPLES)
    assert_rows_close(scores, Reference(lm).option_scores(EXAMPLES, INSTRUCTIONS[0]))
    without_window = build_model("mistral")
    assert (option_scores(without_window, EXAMPLES, INSTRUCTIONS[0])[:, 0] - scores[:, 0]).abs().min() > 1e-3


def test_an_attention_window_longer_than_every_prompt_does_not_matter() -> None:
    lm = build_model("mistral")
    expected = Reference(lm).option_scores(EXAMPLES, INSTRUCTIONS[0])
    lm.model.config.sliding_window = 400
    option_scores(lm, EXAMPLES[:1], INSTRUCTIONS[0])
    with rows_read(lm) as rows:
        scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0], batch_size=4)
    assert rows == [4]
    assert_rows_close(scores, expected)


@pytest.mark.parametrize("architecture", ["llama", *ENCODER_DECODER])
def test_prompts_and_options_of_any_lengths_are_scored_right(
    lm: LanguageModel, architecture: str, reference_of: ReferenceOf
) -> None:
    prompts = [
        EncodedPrompt([9, 30, 31], [[40, 41, 42], [50, 51, 52, 53, 54, 55]]),  # options longer than the prompt
        EncodedPrompt([20, 21, 22, 23, 24, 25], [[60, 61], [70, 71, 72, 73, 74, 75]]),  # as long as the prompt
        EncodedPrompt([11], [[12], [13], [12, 13]]),
        EncodedPrompt([11, 80, 81, 82], [[90], [91], [92], [93], [94]]),
    ]
    reference = reference_of(architecture)
    expected = [reference.prompt_scores(prompt.prompt_ids, prompt.option_ids) for prompt in prompts]
    for batch_size in (1, 2, 4):
        assert_rows_close(prompt_scores(lm, prompts, batch_size), expected)


def test_the_same_option_text_scores_the_same_wherever_it_stands() -> None:
    lm = build_model("llama")
    prompt = [9, 30, 31, 32]
    scores = prompt_scores(lm, [EncodedPrompt(prompt, [[5, 6, 7], [8], [5, 6, 7], [5, 6]])])[0]
    assert scores[0] == pytest.approx(float(scores[2]), rel=1e-6)
    assert scores[3] > scores[0]  # a beginning is never less likely than the whole


def test_progress_counts_every_example_once(llama: LanguageModel) -> None:
    counts: list[int] = []
    option_scores(llama, EXAMPLES, INSTRUCTIONS[0], batch_size=3, progress=counts.append)
    assert counts == [3, 1]


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_scoring_leaves_no_gradients_behind(lm: LanguageModel) -> None:
    lm.model.requires_grad_(True)
    assert option_scores(lm, EXAMPLES, INSTRUCTIONS[0]).requires_grad is False
    assert all(parameter.grad is None for parameter in lm.model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "t5-gated"])
def test_scores_that_are_not_finite_are_refused(lm: LanguageModel) -> None:
    next(lm.model.parameters()).data[:] = torch.nan
    with pytest.raises(CrisprError, match=f"{lm.name}.*not finite"):
        option_scores(lm, EXAMPLES, INSTRUCTIONS[0])


def test_no_examples_are_refused(llama: LanguageModel) -> None:
    with pytest.raises(InputError, match="no examples"):
        option_scores(llama, [], INSTRUCTIONS[0])


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "big", "4", None])
def test_a_batch_size_that_is_none_is_refused(llama: LanguageModel, batch_size: Any) -> None:
    with pytest.raises(InputError, match="batch size"):
        option_scores(llama, EXAMPLES, INSTRUCTIONS[0], batch_size)


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


def let_memory_run_out(monkeypatch: pytest.MonkeyPatch, most: int, error: BaseException) -> list[int]:
    """Batches of more than `most` prompts fail; returns the list that collects the sizes of all batches tried."""
    tried: list[int] = []
    plain = scoring.packed_scores

    def limited(lm: LanguageModel, packed: Any) -> Tensor:
        tried.append(len(packed.option_counts))
        if tried[-1] > most:
            raise error
        return plain(lm, packed)

    monkeypatch.setattr(scoring, "packed_scores", limited)
    return tried


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["cuda", "python", "cpu"])
@pytest.mark.parametrize(("most", "sizes"), [(2, [5, 2, 2, 1]), (1, [5, 2, 1, 1, 1, 1, 1])])
@pytest.mark.parametrize("batch_size", [5, "auto"])
def test_batches_shrink_where_memory_runs_out(
    llama: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int | str,
    most: int,
    sizes: list[int],
    error: BaseException,
) -> None:
    monkeypatch.setitem(batching.OVERHEAD_TOKENS, "cpu", 10**6)  # as few batches as possible
    examples = (*EXAMPLES, LONG_EXAMPLE)
    expected = option_scores(llama, examples, INSTRUCTIONS[0], batch_size)
    tried = let_memory_run_out(monkeypatch, most, error)
    scores = option_scores(llama, examples, INSTRUCTIONS[0], batch_size)
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)
    if batch_size == "auto":  # batches are cut anew, so that least is padded
        assert tried[0] == 5
        assert sum(size for size in tried if size <= most) == 5
        assert len(tried) == len(sizes)
    else:
        assert tried == sizes


def test_memory_that_does_not_suffice_for_one_prompt_is_an_error_with_a_message(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.capabilities = Capabilities(branches=True)
    let_memory_run_out(monkeypatch, 0, MEMORY_ERRORS[0])
    with pytest.raises(CrisprError, match="single prompt"):
        option_scores(llama, EXAMPLES, INSTRUCTIONS[0])


def test_an_error_that_is_not_about_memory_passes_through(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.capabilities = Capabilities(branches=True)
    tried = let_memory_run_out(monkeypatch, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        option_scores(llama, EXAMPLES, INSTRUCTIONS[0], batch_size=4)
    assert tried == [4]


def test_the_tiny_models_do_prefer_some_options(reference_of: ReferenceOf) -> None:
    """They would be no ground to test on if they always chose the same place, or did not care."""
    for architecture in ARCHITECTURES:
        rows = reference_of(architecture).option_scores(EXAMPLES, INSTRUCTIONS[0])
        assert len({row.index(max(row)) for row in rows}) > 1, architecture
        assert max(max(row) - min(row) for row in rows) > 5, architecture
