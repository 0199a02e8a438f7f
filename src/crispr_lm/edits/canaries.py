"""Canaries: ten prompts as token ids with the option scores of the edited and of the original model.

They go with every exported model. A runtime that serves the model must give the same scores; where it does not, a wrong
value of the configuration, an adapter that is not applied, or a cache of another model's prompts changes its answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crispr_lm.edits.verification import float32_if_it_fits
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import EncodedPrompt, encode
from crispr_lm.inference.scoring import scores_of
from crispr_lm.storage.files import write_json
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.tasks.base import Task, sample

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

FILE = "canaries.json"
FORMAT, VERSION = "crispr-lm-canaries", 1

CANARIES = 10

Scores = list[list[float]]


@dataclass(frozen=True)
class Canaries:
    """What a runtime is checked with.

    Attributes:
        model: Name of the original model.
        dtype: Number format that the scores were computed in.
        prompts: Token ids.
        edited: Option scores of the edited model, in nats, per prompt.
        original: The same of the original.
    """

    model: str
    dtype: str
    prompts: tuple[EncodedPrompt, ...]
    edited: Scores
    original: Scores

    def save(self, path: Path) -> None:
        """Write them as JSON; raises `WriteError`."""
        rows = [
            {"prompt_ids": prompt.prompt_ids, "option_ids": prompt.option_ids, "scores": edited, "original": original}
            for prompt, edited, original in zip(self.prompts, self.edited, self.original, strict=True)
        ]
        write_json(
            path, {"format": FORMAT, "version": VERSION, "model": self.model, "dtype": self.dtype, "prompts": rows}
        )

    @staticmethod
    def load(path: Path) -> Canaries:
        """Read what `save` wrote.

        Raises:
            InputError: it can't be read, or is something else.
        """
        content = read_object(path)
        try:
            if content["format"] != FORMAT or content["version"] != VERSION:
                raise ValueError("another format")
            rows = content["prompts"]
            prompts = tuple(
                EncodedPrompt(
                    [int(token) for token in row["prompt_ids"]], [[*map(int, ids)] for ids in row["option_ids"]]
                )
                for row in rows
            )
            edited, original = ([[*map(float, row[name])] for row in rows] for name in ("scores", "original"))
            shapes = [[len(values) for values in of] for of in (edited, original)]
            if not prompts or shapes != [[len(prompt.option_ids) for prompt in prompts]] * 2:
                raise ValueError("no scores for some option")
            return Canaries(str(content["model"]), str(content["dtype"]), prompts, edited, original)
        except MALFORMED as error:
            raise InputError(
                f"{path} holds no canaries that this version reads ({error}); export the model anew"
            ) from error


def canaries_file(target: Path) -> Path:
    """Where the canaries of an exported model are: in its folder, or beside a GGUF file and with its name."""
    return target.with_suffix(f".{FILE}") if target.suffix == ".gguf" else target / FILE


def make_canaries(
    lm: LanguageModel, task: Task, edited: AbstractContextManager[Any], count: int = CANARIES
) -> Canaries:
    """Score a few questions of a task, each under another of its instructions, with the original and the edited model.

    Args:
        lm: The model, unedited; scores are computed in float32 where that fits.
        task: What is asked.
        edited: Edits the model while it is entered.
        count: How many questions.
    """
    examples = sample(task.examples, count, 0)
    instructions = task.instructions
    prompts = tuple(
        encode(lm, example, instructions[number % len(instructions)]) for number, example in enumerate(examples)
    )
    original, _ = _scores(lm, prompts)
    with edited:
        after, dtype = _scores(lm, prompts)
    return Canaries(lm.name, str(dtype).removeprefix("torch."), prompts, after, original)


@torch.inference_mode()
def _scores(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> tuple[Scores, torch.dtype]:
    with float32_if_it_fits(lm):
        found = [scores_of(replace(lm, evaluation_dtype=None), [prompt])[0] for prompt in prompts]
        return [[round(float(score), 5) for score in scores] for scores in found], lm.dtype


def judged(canaries: Canaries, served: Scores, again: Scores, tolerance: float) -> dict[str, Any]:
    """Say whether a runtime serves the edited model.

    Args:
        canaries: What it should serve.
        served: What it gave, per prompt.
        again: What it gave for the first prompts when these were repeated after all others.
        tolerance: Largest mean difference in nats that is the number format's.

    Returns:
        Mean and largest difference to the edited and to the original model's scores, how far the edit moves them on
        average (``edit_moves``), and ``fault``: what is wrong, or None.
    """
    to_edited = _differences(served, canaries.edited)
    to_original = _differences(served, canaries.original)
    repeated = _differences(served[: len(again)], again)
    moves = np.concatenate(_differences(canaries.edited, canaries.original))
    of_original = [there.mean() <= tolerance < here.mean() for here, there in zip(to_edited, to_original, strict=True)]
    every, others = np.concatenate(to_edited), np.concatenate(to_original)
    found = {
        "prompts": len(canaries.prompts),
        "options": len(every),
        "mean_difference": float(every.mean()),
        "largest_difference": float(every.max()),
        "mean_difference_to_original": float(others.mean()),
        "edit_moves": float(moves.mean()),
        "largest_difference_repeated": float(np.concatenate(repeated).max()),
    }
    return {**found, "fault": _fault(found, sum(of_original), tolerance)}


def _fault(found: dict[str, Any], of_original: int, tolerance: float) -> str | None:
    mean, to_original = found["mean_difference"], found["mean_difference_to_original"]
    if not math.isfinite(mean):
        return "some of its scores are no numbers"
    if found["largest_difference_repeated"] > tolerance:
        return "it scores a prompt otherwise when asked again, so what it keeps between prompts (a cache) is wrong"
    if to_original < mean and to_original <= tolerance:
        return "it serves the original model: the edit or its adapter is not applied, or another file is served"
    if mean <= tolerance:
        return None
    if of_original:
        return (
            f"{of_original} of {found['prompts']} prompts have the original model's scores, as where a cache that the "
            "original filled is kept"
        )
    return (
        "it serves other numbers: check the rotary base and the rest of the configuration, the adapter's rank and "
        "alpha, and the number format (--tolerance for a coarse one)"
    )


def _differences(here: Scores, there: Scores) -> list[np.ndarray[Any, Any]]:
    """Absolute differences per prompt; equal infinities have none."""
    return [
        np.array([0.0 if one == other else abs(one - other) for one, other in zip(row, again, strict=True)])
        for row, again in zip(here, there, strict=True)
    ]
