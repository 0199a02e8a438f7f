"""Verification: does the saved folder, loaded by plain transformers, do what the model in memory does?"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crispr_lm.errors import CrisprError, VerificationError
from crispr_lm.model import reload
from crispr_lm.model.classes import auto_class
from crispr_lm.model.memory import GIB, free_memory, place_of_copy, weight_bytes
from crispr_lm.precision import exact
from crispr_lm.prompts import encode, render_prompt
from crispr_lm.scoring import prompt_scores
from crispr_lm.tasks.task import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel

VERIFIED_EXAMPLES = 4
"""How many examples are compared: a wrong weight shows in any."""

TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""Largest difference of an option score, in nats, that is rounding between one batch and single sequences."""


def verify_saved(
    lm: LanguageModel,
    folder: Path,
    examples: Sequence[Example],
    instruction: str,
    *,
    adapter: bool = False,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Compare option scores of the model in memory (as it is now, edit applied or baked) with those of a saved folder.

    Args:
        lm: The model in memory.
        folder: What was saved: a model, or an adapter for the model that `lm` was loaded from.
        examples: What to compare on.
        instruction: One instruction.
        adapter: Whether the folder holds a PEFT adapter.
        trust_remote_code: As for loading.

    Returns:
        Number of options compared and the largest difference, for the record.

    Raises:
        CrisprError: there is no memory for a second copy.
        VerificationError: the folder does not load, or tokens or scores differ.
    """
    needed = weight_bytes(lm.model, lm.dtype)
    place = place_of_copy(needed, lm.device)
    if place is None:
        raise CrisprError(
            f"{needed / GIB:.1f} GiB of memory are needed to load the saved model beside the one that is in memory, "
            f"but {free_memory(lm.device) / GIB:.1f} GiB are free; end other programs, then give the same command again"
        )
    prompts = [encode(lm, example, instruction) for example in examples]
    texts = [render_prompt(lm, example, instruction) for example in examples]
    request = {
        "folder": str(folder),
        "base": lm.location if adapter else str(folder),
        "gguf_file": lm.gguf_file if adapter else None,
        "adapter": adapter,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": str(place),
        "auto_class": auto_class(lm.model.config).__name__,
        "is_encoder_decoder": lm.is_encoder_decoder,
        "trust_remote_code": trust_remote_code,
        "texts": texts,
        "prompts": [{"prompt_ids": prompt.prompt_ids, "option_ids": prompt.option_ids} for prompt in prompts],
    }
    finished = subprocess.run(
        [sys.executable, str(reload.__file__)], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        last = (finished.stderr.strip().splitlines() or [_silent_end(finished.returncode)])[-1]
        raise VerificationError(f"the saved model does not load with plain transformers: {last}")
    answer = json.loads(finished.stdout.strip().splitlines()[-1])
    tokens = [list(lm.tokenizer(text, add_special_tokens=False).input_ids) for text in texts]
    if answer["tokens"] != tokens:
        raise VerificationError(
            "the tokenizer that was saved splits a prompt in another way than the one in memory; do not use it"
        )
    with exact(lm):
        here = prompt_scores(lm, prompts)
    differences = [
        abs(float(here[row, column]) - score)
        for row, scores in enumerate(answer["scores"])
        for column, score in enumerate(scores)
    ]
    largest = max(differences)
    if not largest <= TOLERANCE.get(lm.dtype, TOLERANCE[torch.bfloat16]):
        raise VerificationError(
            f"the saved model does not do what the model in memory does: option scores differ by up to {largest:.2g} "
            "nats; do not use it"
        )
    return {"options_compared": len(differences), "largest_difference": largest}


def _silent_end(status: int) -> str:
    """Why a process may have ended without a word."""
    if status == -signal.SIGKILL:
        return "the system ended it, as it does where memory is full; free some, then give the same command again"
    return f"it ended with status {status}"
