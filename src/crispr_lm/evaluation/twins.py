"""Free answers to twins: the model writes to both prompts, and its distributions along the answers are compared.

Formulas: `crispr_lm.metrics.twins`. Equal prompts are computed once, so that their divergence is exactly 0.
Knows pairs of prompts and a model; knows no edit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.evaluation.kl_divergence import next_token_distributions
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.inference.batching import BatchSize
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import EncodedPrompt, encode_text
from crispr_lm.inference.reader import Reader
from crispr_lm.metrics.twins import twin_columns, twins_family
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.tasks.twins import PRONOUNS, Twin, TwinFile

TOKENS = 32
"""Tokens of an answer: one or two sentences, enough for a pronoun and a judgement."""

PAIRS_AT_ONCE = 4
"""Their distributions are in memory together: 4 answers x 32 tokens x 150,000 words x 4 bytes are 77 MB a pair."""

Key = tuple[tuple[int, ...], tuple[int, ...]]


def measure_twins(
    lm: LanguageModel,
    twins: TwinFile,
    tokens: int = TOKENS,
    batch_size: BatchSize = "auto",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Let the model answer both prompts of every pair greedily, and compare; clustered by template.

    Args:
        lm: The model as it is now.
        twins: The pairs, and words to count.
        tokens: Longest answer.
        batch_size: Prompts in one pass.
        progress: Called with the number of pairs just finished.

    Raises:
        CrisprError: the model gives numbers that are not finite.
    """
    sums: list[float] = []
    counts: list[int] = []
    answers: list[tuple[str, str]] = []
    for start in range(0, len(twins.pairs), PAIRS_AT_ONCE):
        some = twins.pairs[start : start + PAIRS_AT_ONCE]
        prompts = [(tuple(encode_text(lm, pair.prompts[0])), tuple(encode_text(lm, pair.prompts[1]))) for pair in some]
        unique = list(dict.fromkeys(prompt for both in prompts for prompt in both))
        written = dict(zip(unique, continuations(lm, unique, tokens, batch_size), strict=True))
        # Of an answer that ends before its first token the distribution of that token is compared.
        paths = {prompt: tuple(ids) or (0,) for prompt, ids in written.items()}
        asked = [(prompt, paths[of]) for both in prompts for of in both for prompt in both]
        keys: list[Key] = list(dict.fromkeys(asked))
        encoded = [EncodedPrompt(list(prompt), [list(path)]) for prompt, path in keys]
        found = dict(zip(keys, next_token_distributions(lm, encoded, batch_size), strict=True))
        for first, second in prompts:
            along = [jensen_shannon(found[first, paths[of]], found[second, paths[of]]) for of in (first, second)]
            sums.append(sum(float(values.sum()) for values in along))
            counts.append(sum(len(values) for values in along))
            texts = [lm.tokenizer.decode(written[prompt], skip_special_tokens=True) for prompt in (first, second)]
            answers.append((texts[0], texts[1]))
        if progress is not None:
            progress(len(some))
    family = twins_family([name for name in twins.words if name not in PRONOUNS])
    columns = twin_columns(sums, counts, answers, twins.words)
    return Measurement.of(family, [columns], [pair.template for pair in twins.pairs])


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, float64 (tokens,), of log-probabilities (tokens, vocabulary)."""
    p, q = first.double().exp(), second.double().exp()
    middle = (p + q) / 2
    safe = middle.clamp_min(torch.finfo(torch.float64).tiny)  # where both are 0, so is the term
    terms = torch.special.xlogy(p, p / safe) + torch.special.xlogy(q, q / safe)
    halved: Tensor = terms.sum(dim=-1) / 2
    return halved


@dataclass(frozen=True)
class TwinsSubject:
    """Twins whose free answers are measured.

    Attributes:
        name: As the user wrote it, without folders.
        twins: The pairs that are measured, and words to count.
        origin: The file.
    """

    name: str
    twins: TwinFile
    origin: tuple[str, ...]
    role: Literal["bias", "capability"] = "bias"

    @property
    def steps(self) -> int:
        """How many pairs there are."""
        return len(self.twins.pairs)

    def check(self, reader: Reader) -> None:
        """Check that every prompt fits with its answer.

        Raises:
            InputError: one does not; file and line are named.
        """
        for pair in self.twins.pairs:
            longest = max(len(encode_text(reader, prompt)) for prompt in pair.prompts)
            needed = longest if reader.is_encoder_decoder else longest + TOKENS
            if reader.context_length is not None and needed > reader.context_length:
                raise InputError(
                    f"{pair.source}: the longer prompt and its answer take {needed} tokens, but {reader.name} reads at "
                    f"most {reader.context_length}; shorten it, or leave the pair out"
                )

    def measure(
        self, lm: LanguageModel, scoring: str, batch_size: BatchSize, advance: Callable[[int], None] | None
    ) -> Measurement:
        """Measure the model as it is now."""
        return measure_twins(lm, self.twins, TOKENS, batch_size, advance)

    def described(self, scoring: str) -> dict[str, object]:
        """How it is measured, and on which groups and words."""
        return {
            "scoring": "free answers",
            "without_stereotyped_option": 0,
            "answer_tokens": TOKENS,
            "groups": _groups(self.twins.pairs),
            "words": {name: list(words) for name, words in self.twins.words.items()},
        }


def _groups(pairs: Sequence[Twin]) -> list[list[str]]:
    """The pairs of groups that are compared."""
    return [list(groups) for groups in sorted({pair.groups for pair in pairs})]
