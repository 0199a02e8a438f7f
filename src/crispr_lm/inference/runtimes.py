"""Models that run elsewhere: the two things that an evaluation needs of one.

A runtime scores the options of encoded prompts, and writes text. It has no weights and no activations that could be
reached: it can be measured, but not searched, attributed or edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from crispr_lm.errors import InputError
from crispr_lm.inference.completions_endpoint import CompletionsEndpoint
from crispr_lm.inference.llama_cpp import LlamaCpp
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.inference.vllm_engine import VllmEngine
from crispr_lm.model.locate import ENDPOINT, LLAMA_CPP, VLLM


class Runtime(Protocol):
    """Something that serves a model."""

    @property
    def name(self) -> str:
        """What serves which model, for messages and results."""

    def scores(self, prompts: Sequence[EncodedPrompt]) -> list[list[float]]:
        """Summed log-probabilities of every prompt's options, in nats.

        Raises:
            CrisprError: the runtime does not answer, or gives no log-probabilities of given tokens.
        """

    def written(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[str]:
        """What the model writes after each prompt by greedy decoding, at most so many tokens.

        Raises:
            CrisprError: the runtime does not answer.
        """


def open_runtime(target: str, threads: int = 1, dtype: str = "auto") -> Runtime:
    """A runtime by its name.

    Args:
        target: ``gguf-runtime:FILE`` or ``gguf-runtime:FILE#ADAPTER`` (llama.cpp in this process), ``vllm:MODEL``
            (vLLM), or ``openai:URL`` or ``openai:URL#MODEL`` (a completions endpoint).
        threads: CPU threads for llama.cpp.
        dtype: Number format for vLLM.

    Raises:
        InputError: no such runtime, or it can't be reached.
    """
    if target.startswith(LLAMA_CPP):
        return LlamaCpp(target.removeprefix(LLAMA_CPP), threads)
    if target.startswith(ENDPOINT):
        return CompletionsEndpoint(target.removeprefix(ENDPOINT))
    if target.startswith(VLLM):
        return VllmEngine(target.removeprefix(VLLM), dtype)
    raise InputError(f"no runtime {target}; give {LLAMA_CPP}FILE, {VLLM}MODEL or {ENDPOINT}URL")
