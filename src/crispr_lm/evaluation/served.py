"""Evaluation of a model that runs elsewhere: the same tasks and metrics, from option scores or from what it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from crispr_lm.evaluation.evaluation import Evaluation, ScoringMethod, evaluation_of
from crispr_lm.evaluation.suite import TaskSubject
from crispr_lm.inference.generation import answer_tokens, matched_scores
from crispr_lm.inference.prompts import encode_all
from crispr_lm.inference.reader import Reader
from crispr_lm.inference.runtimes import Runtime
from crispr_lm.inference.scoring import per_token
from crispr_lm.metrics.family import with_unmatched
from crispr_lm.metrics.registry import family_named
from crispr_lm.tasks.base import Example

AT_ONCE = 16
"""Prompts that are handed over at a time, so that progress shows."""


def evaluate_served(
    runtime: Runtime, reader: Reader, subject: TaskSubject, chosen: ScoringMethod, advance: Callable[[int], None]
) -> Evaluation:
    """Measure a task as `crispr_lm.evaluation.evaluate` does.

    Args:
        runtime: What serves the model.
        reader: Tokenizer and chat template of the model.
        subject: The task.
        chosen: How options are compared, where the task does not say.
        advance: Called with the number of prompts just finished.

    Raises:
        CrisprError: as the runtime.
    """
    scoring, examples = subject.scoring(chosen), subject.examples
    tables = [
        _written(runtime, reader, examples, instruction, advance)
        if scoring == "generate"
        else _scored(runtime, reader, examples, instruction, advance, mean=scoring == "mean")
        for instruction in subject.task.instructions
    ]
    family = family_named(subject.task.family)
    return evaluation_of(examples, tables, with_unmatched(family) if scoring == "generate" else family)


def _scored(
    runtime: Runtime,
    reader: Reader,
    examples: Sequence[Example],
    instruction: str,
    advance: Callable[[int], None],
    *,
    mean: bool,
) -> Tensor:
    """Option scores (examples, options) in nats, filled up with -inf."""
    scores = torch.full((len(examples), max(len(example.options) for example in examples)), -torch.inf)
    for start, some in _portions(examples):
        prompts = encode_all(reader, some, instruction)
        for row, values in enumerate(runtime.scores(prompts), start):
            scores[row, : len(values)] = torch.tensor(values)
        if mean:
            widest = max(len(prompt.option_ids) for prompt in prompts)
            part = scores[start : start + len(some), :widest]
            part.copy_(per_token(part, prompts))
        advance(len(some))
    return scores


def _written(
    runtime: Runtime, reader: Reader, examples: Sequence[Example], instruction: str, advance: Callable[[int], None]
) -> Tensor:
    tokens = answer_tokens(reader, examples, instruction)
    texts: list[str] = []
    for _, some in _portions(examples):
        texts += runtime.written([prompt.prompt_ids for prompt in encode_all(reader, some, instruction)], tokens)
        advance(len(some))
    return matched_scores(texts, examples)


def _portions(examples: Sequence[Example]) -> Iterator[tuple[int, Sequence[Example]]]:
    for start in range(0, len(examples), AT_ONCE):
        yield start, examples[start : start + AT_ONCE]
