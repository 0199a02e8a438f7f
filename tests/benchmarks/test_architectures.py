"""A sample of the walk over every architecture (benchmarks/architectures.py): each must pass all five checks."""

from dataclasses import is_dataclass

import pytest
from transformers import PretrainedConfig

import architectures
import tiny_models

SAMPLE = (
    # decoder-only: plain, fused gate-up, Conv1D, parallel blocks, ALiBi, in-place outputs, shared experts, hybrids
    "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "phi3", "gpt2", "gpt_neox", "gptj", "opt", "bloom",
    "falcon", "mpt", "stablelm", "olmo2", "granite", "cohere", "smollm3", "mixtral", "qwen2_moe", "qwen3_moe",
    "gpt_oss", "deepseek_v3", "jamba", "zamba",
    # encoder-decoder
    "t5", "umt5", "bart", "led", "m2m_100", "switch_transformers", "fsmt",
)  # fmt: skip

KNOWN = {architecture.model_type: architecture for architecture in tiny_models.architectures()}


# Older releases of transformers have configurations that the walk can't make small by itself; models work there too.
pytestmark = pytest.mark.skipif(
    not is_dataclass(PretrainedConfig), reason="transformers' configurations are no dataclasses"
)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", SAMPLE)
def test_neurons_scores_edits_and_folders_are_right(model_type):
    if model_type not in KNOWN:
        pytest.skip(f"this release of transformers has no {model_type}")
    result = architectures.check(KNOWN[model_type])
    assert result.passed, result


@pytest.mark.parametrize("model_type", ["mamba", "xlnet", "reformer"])
def test_what_can_not_be_handled_is_refused_with_the_reason(model_type):
    result = architectures.check(KNOWN[model_type])
    assert not result.passed
    assert not result.silent
    assert all(kind.reason for kind in result.kinds.values())
