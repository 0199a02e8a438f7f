"""A model answers: prompts, batches of them, option scores, generated text. Knows no settings and no folder."""

from __future__ import annotations

from crispr_lm.inference.batching import BatchSize, ProgressCallback
from crispr_lm.inference.generation import continuations, generated_scores
from crispr_lm.inference.prompts import EncodedPrompt, encode, render_prompt
from crispr_lm.inference.scoring import option_scores, prompt_scores
from crispr_lm.inference.streaming import Decoding, stream_answer

__all__ = [
    "BatchSize",
    "Decoding",
    "EncodedPrompt",
    "ProgressCallback",
    "continuations",
    "encode",
    "generated_scores",
    "option_scores",
    "prompt_scores",
    "render_prompt",
    "stream_answer",
]
