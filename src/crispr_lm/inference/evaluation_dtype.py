"""The format to measure in: bfloat16, where the hardware computes it faster and it gives the same answers.

Knows prompts and a model; knows no benchmark.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.model.devices import computes
from crispr_lm.runtime.distributed import on_first

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)


PROBED_PROMPTS = 24
"""Prompts that are answered in both formats before the shorter one is taken."""


def choose_evaluation_dtype(lm: LanguageModel, wanted: str, prompts: Sequence[EncodedPrompt]) -> None:
    """Set the format that the model is measured in, and say in the log why.

    Args:
        lm: The model; `evaluation_dtype` is set.
        wanted: "weights" (the weights' own), "bfloat16", or "auto": bfloat16 where the hardware has it and the answers
            to the first prompts stay the same.
        prompts: Some of those that will be measured.
    """
    lm.evaluation_dtype = None
    if wanted == "weights" or lm.dtype != torch.float32:
        return
    if wanted == "auto":
        if not on_first(lambda: computes(torch.bfloat16, lm.device)):
            logger.info("measured in float32: this hardware does not compute bfloat16 by itself")
            return
        probes = prompts[:PROBED_PROMPTS]
        exact = prompt_scores(lm, probes).argmax(dim=1)
        lm.evaluation_dtype = torch.bfloat16
        differing = int((prompt_scores(lm, probes).argmax(dim=1) != exact).sum())
        if differing:
            lm.evaluation_dtype = None
            logger.info("measured in float32: in bfloat16 %d of %d answers differ", differing, len(probes))
            return
        logger.info("measured in bfloat16: %d answers are the same as in float32", len(probes))
    lm.evaluation_dtype = torch.bfloat16
