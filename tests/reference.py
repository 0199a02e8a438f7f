"""The method a second time, straight from its formulas: one sequence at a time, no batch, no padding, no masks.

Shares nothing with the library but `encode` (which tokens are scored). Everything is computed in float64 on a copy of
the model, with ``torch.autograd.grad`` on the captured tensors, and joined over tokens, answers and examples by loops.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crispr_lm.inference.prompts import encode
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.tasks.base import Example


@dataclass
class Relevances:
    """A(ŷ) and A(y) of every neuron for one prompt, module by module."""

    of_biased: dict[str, Tensor]
    of_golden: dict[str, Tensor]


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, computed once for every list of arguments (which must be JSON types)."""
    known: dict[str, Any] = {}

    def remembered(*arguments: Any) -> Any:
        key = json.dumps(arguments)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return remembered


class Reference:
    """A model in float64, and what the method says of it."""

    def __init__(
        self, lm: LanguageModel, down_projections: Sequence[str] = (), dtype: torch.dtype = torch.float64
    ) -> None:
        self.lm = lm
        self.down_projections = down_projections
        self.model: Any = copy.deepcopy(lm.model).to(dtype).eval().requires_grad_(True)
        # Many tests ask the same of the same prompts; the model is this object's own and does not change.
        self.prompt_scores = _remembered(self._prompt_scores)
        self.prompt_relevances = _remembered(self._prompt_relevances)

    def score(self, prompt: list[int], option: list[int]) -> Tensor:
        """s(c) of one option, with its graph."""
        if self.lm.is_encoder_decoder:
            start = self.model.config.decoder_start_token_id
            logits = self.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *option[:-1]]])
            ).logits[0]
            before = 0
        else:
            logits = self.model(input_ids=torch.tensor([prompt + option[:-1]])).logits[0]
            before = len(prompt) - 1
        total = torch.zeros((), dtype=logits.dtype)
        for step, token in enumerate(option):
            row = logits[before + step]
            total = total + row[token] - row.logsumexp(dim=0)
        return total

    def option_scores(self, examples: Sequence[Example], instruction: str) -> list[list[float]]:
        """s(c) of every option of every example."""
        rows = []
        for example in examples:
            encoded = encode(self.lm, example, instruction)
            rows.append(self.prompt_scores(encoded.prompt_ids, encoded.option_ids))
        return rows

    def _prompt_scores(self, prompt: list[int], options: Sequence[list[int]]) -> list[float]:
        """s(c) of every option of one prompt."""
        with torch.no_grad():
            return [float(self.score(prompt, option)) for option in options]

    def relevances(self, example: Example, instruction: str, kind: str, tokens: str = "max") -> Relevances:
        """A_i(ŷ) and A_i(y) of one example under one instruction."""
        encoded = encode(self.lm, example, instruction)
        return self.prompt_relevances(encoded.prompt_ids, encoded.option_ids, example.answer, kind, tokens)

    def _prompt_relevances(
        self, prompt: list[int], options: Sequence[list[int]], golden: int, kind: str, tokens: str = "max"
    ) -> Relevances:
        """A_i(ŷ) and A_i(y) of one prompt."""
        scores = self.prompt_scores(prompt, options)
        biased = None
        for index, value in enumerate(scores):
            if index != golden and (biased is None or value > scores[biased]):
                biased = index
        assert biased is not None
        confusion = float(torch.tensor(scores[biased], dtype=torch.float64).exp())
        return Relevances(
            of_biased=self._relevance(prompt, options[biased], confusion, kind, tokens),
            of_golden=self._relevance(prompt, options[golden], confusion, kind, tokens),
        )

    def _relevance(
        self, prompt: list[int], answer: list[int], confusion: float, kind: str, tokens: str
    ) -> dict[str, Tensor]:
        """A_i(a) = max (or mean) over t of h_i,t · P(ŷ) · ds(a)/dh_i,t."""
        captured: dict[str, Tensor] = {}

        def keep_output(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
                assert name not in captured
                captured[name] = output

            return hook

        def keep_input(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, arguments: Any) -> None:
                assert name not in captured
                captured[name] = arguments[0]

            return hook

        handles = []
        for name, module in self.model.named_modules():
            if kind == "ffn" and name in self.down_projections:
                handles.append(module.register_forward_pre_hook(keep_input(name)))
            elif kind == "linear" and isinstance(module, nn.Linear | Conv1D) and name != "lm_head":
                handles.append(module.register_forward_hook(keep_output(name)))
        score = self.score(prompt, answer)
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(score, list(captured.values()))
        relevance = {}
        for (name, activation), gradient in zip(captured.items(), gradients, strict=True):
            h, g = activation.detach().reshape(-1, activation.shape[-1]), gradient.reshape(-1, activation.shape[-1])
            found = h[0] * confusion * g[0]
            for t in range(1, len(h)):
                of_token = h[t] * confusion * g[t]
                found = torch.maximum(found, of_token) if tokens == "max" else found + of_token
            relevance[name] = found if tokens == "max" else found / len(h)
        # Modules may run in another order than they are named in.
        return {name: relevance[name] for name, _ in self.model.named_modules() if name in relevance}

    def all_relevances(
        self, examples: Sequence[Example], instructions: Sequence[str], kind: str, tokens: str = "max"
    ) -> list[Relevances]:
        """One for every pair of instruction and example."""
        return [self.relevances(example, text, kind, tokens) for text in instructions for example in examples]


def influence(relevances: Sequence[Relevances], skill_weight: float) -> dict[str, Tensor]:
    """B_i: the mean over prompts of A_i(ŷ) - λ · max(A_i(y), 0)."""
    mean: dict[str, Tensor] = {}
    for one in relevances:
        for name, of_biased in one.of_biased.items():
            useful = torch.maximum(one.of_golden[name], torch.zeros_like(of_biased))
            share = (of_biased - skill_weight * useful) / len(relevances)
            mean[name] = mean[name] + share if name in mean else share
    return mean
