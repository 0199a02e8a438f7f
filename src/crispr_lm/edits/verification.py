"""Verification: is a saved folder, loaded by plain transformers in a fresh process, the model in memory?

Four things are compared, each so that rounding can't be mistaken for damage:

1. Weights: every tensor to the bit, by hash. This is the main check; the rest covers what is no weight.
2. Tokens: the saved tokenizer splits the prompts in the same way.
3. Scores of options, in float32 on both sides, one sequence at a time, by the same lines of code. They show
   wrong values in the configuration (base of rotary embeddings, activation function, ...) and what an adapter computes.
4. The configuration itself, where there is no memory for float32.

Scores are not compared in the weights' own format: in bfloat16 the same sum in another order (a batch, another device)
differs by some tenths of a nat, as much as damage may. float32 holds every bfloat16 and float16 weight exactly, so that
nothing of the model is lost, and its rounding stays below 1e-5 nats where damage is thousandths and more.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crispr_lm.errors import CrisprError, VerificationError
from crispr_lm.inference.prompts import encode, render_prompt
from crispr_lm.model import reload
from crispr_lm.model.classes import auto_class
from crispr_lm.model.memory import GIB, explain_out_of_memory, free_memory, place_of_copy, weight_bytes
from crispr_lm.model.older_transformers import ADDED
from crispr_lm.model.tensor_parallel import has_parts
from crispr_lm.tasks.base import Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

VERIFIED_EXAMPLES = 4
"""How many examples are compared: a wrong value of the configuration shows in any."""

TOLERANCE = 1e-3
"""Largest difference of an option score in float32, in nats, that is rounding. Between a batch and single sequences, a
harder case than the one compared here, it is 4e-6 on tiny models of six architectures."""

PASSING_SETTINGS = frozenset({"_name_or_path", "transformers_version", "quantization_config"})
"""What a configuration says of where and how it was read, not of the model."""


@dataclass(frozen=True)
class Saved:
    """A folder to verify.

    Attributes:
        folder: A model, or an adapter for the model that the one in memory was loaded from.
        adapter: Whether it holds a PEFT adapter. The weights that are compared are its base model's.
        hashes: Of the weights that were saved (`reload.hashes`), where they are not those of the model in memory.
        gguf_file: The GGUF file in the folder that is meant. In it neurons are eliminated by other weights than in
            memory, so that its weights are not compared.
    """

    folder: Path
    adapter: bool = False
    hashes: Mapping[str, str] | None = None
    gguf_file: str | None = None


def verify_saved(
    lm: LanguageModel,
    saved: Saved,
    examples: Sequence[Example],
    instruction: str,
    *,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Compare a saved folder with the model in memory as it is now, its edit baked or applied.

    Args:
        lm: The model in memory.
        saved: What was saved.
        examples: What to compare on.
        instruction: One instruction.
        trust_remote_code: As for loading.

    Returns:
        Number of tensors, all of them equal to the bit; number of options compared (0 where there was no memory for
        float32) and the largest difference of their scores in nats.

    Raises:
        CrisprError: there is no memory for a second copy.
        VerificationError: the folder does not load, or weights, tokens, scores or configuration differ.
    """
    adapter = saved.adapter
    here, there = _places(lm, adapter=adapter)
    prompts = [encode(lm, example, instruction) for example in examples]
    texts = [render_prompt(lm, example, instruction) for example in examples]
    answer = _reloaded(
        {
            **_loading(lm, saved, there),
            "trust_remote_code": trust_remote_code,
            "texts": texts,
            "prompts": [{"prompt_ids": prompt.prompt_ids, "option_ids": prompt.option_ids} for prompt in prompts],
        }
    )
    equal = 0
    if saved.gguf_file is None:
        hashes = reload.hashes(lm.model) if saved.hashes is None else saved.hashes
        equal = _compare_weights(hashes, answer["hashes"], adapter=adapter)
    _compare_tokens(lm, texts, answer["tokens"])
    if here is None:
        _compare_configurations(reload.settings(lm.model.config), answer["settings"])
        return {"tensors_equal": equal, "options_compared": 0, "largest_difference": 0.0}
    with explain_out_of_memory("while option scores are computed in float32"), _in_float32(lm.model, here):
        expected = reload.scores(lm.model, [(prompt.prompt_ids, prompt.option_ids) for prompt in prompts])
    largest = max(_differences(expected, answer["scores"]))
    if not largest <= TOLERANCE:  # NaN is no agreement
        what = "its configuration" if not adapter else "the adapter"
        raise VerificationError(
            "what was saved does not do what the edited model in memory does: option scores in float32 differ by up "
            f"to {largest:.2g} nats although the weights are the same, so {what} is wrong; do not use it"
        )
    return {
        "tensors_equal": equal,
        "options_compared": sum(len(scores) for scores in expected),
        "largest_difference": largest,
    }


def _compare_tokens(lm: LanguageModel, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> None:
    if tokens != [list(lm.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]:
        raise VerificationError(
            "the tokenizer that was saved splits a prompt in another way than the one in memory; do not use it"
        )


def _loading(lm: LanguageModel, saved: Saved, there: torch.device | None) -> dict[str, Any]:
    """How the fresh process loads what was saved: fields of the request of `crispr_lm.model.reload`."""
    return {
        "folder": str(saved.folder),
        "base": lm.location if saved.adapter else str(saved.folder),
        "gguf_file": lm.gguf_file if saved.adapter else saved.gguf_file,
        "tokenizer_gguf_file": saved.gguf_file,
        "adapter": saved.adapter,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": None if there is None else str(there),
        "auto_class": auto_class(lm.model.config).__name__,
        "is_encoder_decoder": lm.is_encoder_decoder,
    }


def _places(lm: LanguageModel, *, adapter: bool) -> tuple[torch.device | None, torch.device | None]:
    """Where the model in memory, and then the saved one, fit in float32; None for both where either does not.

    The saved one is gone from memory before the other is made wider.

    Raises:
        CrisprError: the saved one does not fit even in its own format; or, for an adapter, which
            only scores can verify, not in float32.
    """
    own, wide = weight_bytes(lm.model, lm.dtype), weight_bytes(lm.model, torch.float32)
    needed = wide if adapter else own
    if place_of_copy(needed, lm.device) is None:
        raise CrisprError(
            f"{needed / GIB:.1f} GiB of memory are needed to load the saved model beside the one that is in memory, "
            f"but {free_memory(lm.device) / GIB:.1f} GiB are free; end other programs, then give the same command again"
        )
    there = place_of_copy(wide, lm.device)
    # Where it lies it takes the difference alone, elsewhere all of it.
    here = lm.device if wide - own <= free_memory(lm.device) else place_of_copy(wide, torch.device("cpu"))
    return (None, None) if here is None or there is None else (here, there)


def _reloaded(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the fresh process says of the folder."""
    finished = subprocess.run(
        [sys.executable, str(reload.__file__)], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or [_silent_end(finished.returncode)])[-1]
        raise VerificationError(f"the saved model does not load with plain transformers: {last}")
    answer: dict[str, Any] = json.loads(finished.stdout.strip().splitlines()[-1])
    return answer


def _compare_weights(here: Mapping[str, str], there: Mapping[str, str], *, adapter: bool) -> int:
    """Number of tensors, all of which are equal.

    Raises:
        VerificationError: some are not; how many, and the first of them.
    """
    differing = [name for name in dict.fromkeys([*here, *there]) if here.get(name) != there.get(name)]
    if differing:
        what = "the adapter's base model" if adapter else "what was saved"
        raise VerificationError(
            f"{what}, loaded again, does not have the weights of the model in memory: {len(differing)} of {len(here)} "
            f"tensors differ (first: {differing[0]}); do not use it"
        )
    return len(here)


def _compare_configurations(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    names = sorted({*here, *there} - PASSING_SETTINGS - (ADDED - here.keys()))
    if differing := [name for name in names if here.get(name) != there.get(name)]:
        raise VerificationError(
            f"the configuration that was saved says {differing[0]} = {there.get(differing[0])!r}, the one in memory "
            f"{here.get(differing[0])!r}, and there is no memory to compare what they do in float32; do not use it"
        )


def _differences(here: Sequence[Sequence[float]], there: Sequence[Sequence[float]]) -> Iterator[float]:
    for row, again in zip(here, there, strict=True):
        for score, other in zip(row, again, strict=True):
            yield 0.0 if score == other else abs(score - other)  # equal infinities have no difference


@contextmanager
def _in_float32(model: nn.Module, place: torch.device) -> Iterator[None]:
    """Hold a model's weights in float32 while the block runs, and then, to the bit, as they were.

    A shorter format's numbers are all among those of float32, so that there and back again is exact.

    Args:
        model: Of any format; one that is spread over several devices stays so.
        place: Where it fits in float32.
    """
    tensors = list({id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}.values())
    were = [(tensor.device, tensor.dtype) for tensor in tensors]
    spread = len({device for device, _ in were}) > 1
    try:
        for tensor, (device, dtype) in zip(tensors, were, strict=True):
            wider = torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
            tensor.data = tensor.data.to(device if spread else place, wider)
        yield
    finally:
        for tensor, (device, dtype) in zip(tensors, were, strict=True):
            tensor.data = tensor.data.to(device, dtype)


@contextmanager
def float32_if_it_fits(lm: LanguageModel) -> Iterator[None]:
    """Hold a model's weights in float32 while the block runs, where there is memory for that; not divided ones."""
    more = weight_bytes(lm.model, torch.float32) - weight_bytes(lm.model, lm.dtype)
    if has_parts(lm.model) or more > free_memory(lm.device):
        yield
        return
    with _in_float32(lm.model, lm.device):
        yield


def _silent_end(status: int) -> str:
    """Why a process may have ended without a message."""
    if status == -signal.SIGKILL:
        return "the system ended it, as it does where memory is full; free some, then give the same command again"
    return f"it ended with status {status}"
