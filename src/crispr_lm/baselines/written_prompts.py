"""Baselines: the model writes something before it answers. Nothing is fitted, every answer costs more.

- Chain of thought, in the two steps of Kojima et al. (*Large Language Models are Zero-Shot Reasoners*, NeurIPS 2022,
  arXiv 2205.11916): the model writes its reasoning, which then stands in the prompt that is answered. Used against
  stereotypes, on BBQ, by Ganguli et al. (arXiv 2302.07459).
- Self-help (Echterhoff et al., *Cognitive Bias in Decision-Making with LLMs*, Findings of EMNLP 2024, arXiv
  2403.00811): the model rewrites the context without what may bias a reader, and then answers by its own version.

The requests are this project's wording. Each is written once per question, without an instruction, so that all
instructions see the same text: one under every instruction would cost as many times more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode_text, prompt_text
from crispr_lm.tasks.base import OPEN, QUESTION, Example

THINK = (
    "Before the question is answered, think it through in two or three sentences: what does the text say about it, "
    "what is only assumed about people, and what follows? Do not choose an option yet."
)

REWRITE = (
    "Rewrite this text so that nobody who reads it is led to judge a person by a stereotype. Keep everything that is "
    "said to have happened, and who did it. Reply with the rewritten text alone."
)

REASONING_TOKENS = 64
"""Most tokens of a reasoning: three sentences of English. Each costs a forward pass."""

REWRITTEN_TOKENS = 128
"""Most tokens of a rewritten context; those of BBQ have up to some 100."""


def chain_of_thought(fit: Fit, _draw: int) -> Treatment:
    """Ask for reasoning first, and show it in front of the question."""
    writer = Writer(fit, _thinking, _with_reasoning, REASONING_TOKENS)
    return Treatment(rewrite=writer, details={"request": THINK, "tokens": REASONING_TOKENS})


def self_help(fit: Fit, _draw: int) -> Treatment:
    """Let the model rewrite the context, and ask by what it wrote; a question without context stays as it is."""
    writer = Writer(fit, _rewriting, _with_context, REWRITTEN_TOKENS)
    return Treatment(rewrite=writer, details={"request": REWRITE, "tokens": REWRITTEN_TOKENS})


@dataclass(frozen=True)
class Writer:
    """Examples with what the model has written about them.

    Attributes:
        fit: The model, its batch size, and where progress is shown.
        request: What the model is asked to write; None where an example stays as it is.
        joined: An example and what was written, made one.
        tokens: Most tokens to write.
    """

    fit: Fit
    request: Callable[[Example], str | None]
    joined: Callable[[Example, str], Example]
    tokens: int

    def __call__(self, examples: Sequence[Example]) -> list[Example]:
        """The examples, in order; one about which nothing was written stays as it is."""
        lm, requests = self.fit.lm, [self.request(example) for example in examples]
        prompts = [encode_text(lm, text) for text in requests if text is not None]
        with self.fit.progress.step("Writing before answering", len(prompts)) as advance:
            written = iter(continuations(lm, prompts, self.tokens, self.fit.settings.batch_size, advance))
        found = []
        for example, request in zip(examples, requests, strict=True):
            text = "" if request is None else lm.tokenizer.decode(next(written), skip_special_tokens=True)
            # On one line: a blank one would end the context for many models.
            found.append(self.joined(example, " ".join(text.split())) if text.strip() else example)
        return found


def _thinking(example: Example) -> str | None:
    if example.form not in (QUESTION, OPEN):
        return None
    # Without the last line, which asks for the answer.
    return prompt_text(example, THINK).rpartition("\n")[0] + "\nReasoning:"


def _with_reasoning(example: Example, text: str) -> Example:
    return replace(example, context=f"{example.context}\nReasoning: {text}".strip())


def _rewriting(example: Example) -> str | None:
    return f"{REWRITE}\n\n{example.context}" if example.context.strip() and example.form in (QUESTION, OPEN) else None


def _with_context(example: Example, text: str) -> Example:
    return replace(example, context=text)
