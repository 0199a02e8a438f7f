"""Measuring in bfloat16: only where the answers stay the same, and never for attribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crispr_lm import EncodedPrompt, LanguageModel, load_model, option_scores, score_neurons
from crispr_lm.edits.verification import Saved, verify_saved
from crispr_lm.inference import evaluation_dtype
from crispr_lm.inference.evaluation_dtype import choose_evaluation_dtype
from crispr_lm.inference.prompts import encode_all

from ..helpers import ARCHITECTURES, EXAMPLES, INSTRUCTIONS


@contextmanager
def formats_of(lm: LanguageModel) -> Iterator[set[torch.dtype]]:
    """Collect the number formats that the linear layers put out."""
    formats: set[torch.dtype] = set()
    layers = [module for module in lm.model.modules() if isinstance(module, torch.nn.Linear)]
    handles = [layer.register_forward_hook(lambda _m, _a, output: formats.add(output.dtype)) for layer in layers]
    try:
        yield formats
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture
def prompts(llama: LanguageModel) -> list[EncodedPrompt]:
    return encode_all(llama, EXAMPLES, INSTRUCTIONS[0])


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_dtype, "computes", lambda _dtype, _device: True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_in_bfloat16_are_those_of_float32_up_to_rounding(lm: LanguageModel, architecture: str) -> None:
    expected = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    lm.evaluation_dtype = torch.bfloat16
    scores = option_scores(lm, EXAMPLES, INSTRUCTIONS[0])
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, expected)
    torch.testing.assert_close(scores, expected, rtol=0.1, atol=0.5)


@pytest.mark.usefixtures("with_bfloat16")
def test_bfloat16_is_taken_where_the_answers_stay_the_same(
    llama: LanguageModel, prompts: list[EncodedPrompt], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="crispr_lm"):
        choose_evaluation_dtype(llama, "auto", prompts)
    assert llama.evaluation_dtype == torch.bfloat16
    assert "measured in bfloat16: 4 answers are the same" in caplog.text
    with formats_of(llama) as formats:
        option_scores(llama, EXAMPLES, INSTRUCTIONS[0])
    assert formats == {torch.bfloat16}


@pytest.mark.usefixtures("with_bfloat16")
def test_bfloat16_is_not_taken_where_an_answer_differs(
    llama: LanguageModel,
    prompts: list[EncodedPrompt],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain = evaluation_dtype.prompt_scores

    def other_answers(lm: LanguageModel, *arguments: object) -> Tensor:
        scores = plain(lm, *arguments)
        return -scores.masked_fill(scores.isinf(), torch.inf) if lm.evaluation_dtype else scores

    monkeypatch.setattr(evaluation_dtype, "prompt_scores", other_answers)
    with caplog.at_level("INFO", logger="crispr_lm"):
        choose_evaluation_dtype(llama, "auto", prompts)
    assert llama.evaluation_dtype is None
    assert "4 of 4 answers differ" in caplog.text


def test_hardware_without_bfloat16_measures_in_float32(
    llama: LanguageModel, prompts: list[EncodedPrompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_dtype, "computes", lambda _dtype, _device: False)
    choose_evaluation_dtype(llama, "auto", prompts)
    assert llama.evaluation_dtype is None
    choose_evaluation_dtype(llama, "bfloat16", prompts)  # asked for by name
    assert llama.evaluation_dtype == torch.bfloat16
    choose_evaluation_dtype(llama, "weights", prompts)
    assert llama.evaluation_dtype is None


def test_attribution_does_not_depend_on_the_format_of_evaluation(llama: LanguageModel) -> None:
    expected = score_neurons(llama, EXAMPLES, INSTRUCTIONS[:1])
    llama.evaluation_dtype = torch.bfloat16
    scores = score_neurons(llama, EXAMPLES, INSTRUCTIONS[:1])
    assert all(torch.equal(scores.values[name], values) for name, values in expected.values.items())


def test_a_saved_model_is_compared_in_its_own_format(saved_model: Callable[[str], Path]) -> None:
    lm = load_model(saved_model("llama"), device="cpu")
    lm.evaluation_dtype = torch.bfloat16
    saved = verify_saved(lm, Saved(saved_model("llama")), EXAMPLES[:2], INSTRUCTIONS[0])
    assert saved["largest_difference"] < 1e-3
    assert lm.evaluation_dtype == torch.bfloat16
