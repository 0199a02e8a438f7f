"""Greedy generation: continuing prompts, and matching what a model writes to answer options.

Knows prompts as token ids and a model; knows no benchmark. What is generated does not depend on batches but for
rounding: prompts of unlike lengths share one only where a few probes go on in it as they do alone.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches
from crispr_lm.inference.layouts import PROBES, capabilities_of, tolerance_of, within_window
from crispr_lm.inference.prompts import EncodedPrompt, encode, encode_all, portions
from crispr_lm.inference.reader import Reader
from crispr_lm.model.memory import explain_out_of_memory, is_out_of_memory
from crispr_lm.model.numerics import finite
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.languages import ENGLISH, LANGUAGES, Language

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

logger = logging.getLogger(__name__)

EXTRA_TOKENS = 8
"""Tokens that an answer may be longer than the longest option ("The answer is ...")."""


@torch.inference_mode()
def continuations(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> list[list[int]]:
    """Continue each prompt greedily by at most `tokens` tokens; without the end token and what comes after it."""
    found: list[list[int]] = [[] for _ in prompts]
    # A prompt with `tokens` tokens to come costs as much as one with an option of that length.
    encoded = [EncodedPrompt(list(prompt), [[0] * tokens]) for prompt in prompts]
    apart = (
        None
        if prompts and within_window(lm, encoded) and takes_left_padding(lm)
        else [len(prompt) for prompt in prompts]
    )

    def work(indices: list[int]) -> None:
        for index, ids in zip(indices, _generate(lm, [prompts[index] for index in indices], tokens), strict=True):
            found[index] = ids

    for batch in batches(lm, encoded, batch_size, work, apart=apart):
        if progress is not None:
            progress(len(batch))
    return found


def generated_scores(
    lm: LanguageModel,
    examples: Sequence[Example],
    instruction: str,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Let the model write an answer, and match it to the options.

    Returns:
        float32 (examples, options): 0 for the option that was written, else -inf; a row of -inf where none was.

    Raises:
        InputError: a prompt does not fit the model's context.
    """
    # Of all examples: how much is written must not depend on which portion a question is in.
    tokens = answer_tokens(lm, examples, instruction)
    texts: list[str] = []
    for some in portions(examples):
        prompts = [prompt.prompt_ids for prompt in encode_all(lm, some, instruction)]
        written = continuations(lm, prompts, tokens, batch_size, progress)
        texts += [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return matched_scores(texts, examples)


def answer_tokens(lm: Reader, examples: Sequence[Example], instruction: str) -> int:
    """How many tokens are written for an answer: those of the longest option, and some more."""
    return EXTRA_TOKENS + max(len(ids) for example in examples for ids in encode(lm, example, instruction).option_ids)


def matched_scores(texts: Sequence[str], examples: Sequence[Example]) -> Tensor:
    """Match written answers to the options of their examples; returns as `generated_scores`."""
    scores = torch.full((len(examples), max(len(example.options) for example in examples)), -torch.inf)
    for row, (text, example) in enumerate(zip(texts, examples, strict=True)):
        option = matched_answer(text, example)
        if option is not None:
            scores[row, option] = 0
    return scores


def matched_answer(text: str, example: Example) -> int | None:
    """Which option of an example a written answer is (`matched_option`).

    In another language than English, an answer that is none of them abstains where it says "unknown" in one of the
    language's other ways: benchmarks there offer one wording, or one that is not theirs.
    """
    language = LANGUAGES[example.language]
    found = matched_option(text, example.options, language)
    if found is not None or example.unknown is None or example.language == ENGLISH:
        return found
    answer = _plain(_first_line(text), language)
    return example.unknown if any(_plain(phrase, language) in answer for phrase in language.unknown) else None


def matched_option(text: str, options: Sequence[str], language: Language = LANGUAGES[ENGLISH]) -> int | None:
    """Which option a written answer is: the one it equals, begins with, or is the only one to contain.

    Compared without case, punctuation and articles, by whole words where the language parts them by spaces. Of several
    options that the answer begins with the longest is taken; an answer that contains several, and begins with none,
    matches none.
    """
    if len({_plain(option, language) for option in options}) < len(options):
        language = replace(language, articles=())  # "el joven" and "la joven" differ in their articles alone
    answer, plain = _plain(_first_line(text), language), [_plain(option, language) for option in options]
    begins = [index for index, option in enumerate(plain) if option and answer.startswith(option)]
    if begins:
        return max(begins, key=lambda index: len(plain[index]))
    contains = [index for index, option in enumerate(plain) if option and option in answer]
    if not language.spaced:  # an option that is part of a longer one is not said where only the longer one is
        contains = [index for index in contains if plain[index] in _without(answer, plain, plain[index])]
    return contains[0] if len(contains) == 1 else None


def _without(answer: str, options: Sequence[str], part: str) -> str:
    """The answer without those options that `part` is a part of."""
    for option in options:
        if part in option and part != option:
            answer = answer.replace(option, "\n")
    return answer


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]


def _plain(text: str, language: Language) -> str:
    """The words with a space around each of them, or without any in a language that has none or joins endings."""
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).split()
    if not language.spaced:
        return "".join(words)
    kept = [word for word in words if word not in language.articles]
    return f" {' '.join(kept)} " if kept else ""


def takes_left_padding(lm: LanguageModel) -> bool:
    """Whether prompts padded on the left go on as they do alone; tried once, on a few probes."""
    takes = capabilities_of(lm)
    if takes.left_padding is None:
        with explain_out_of_memory("on a few short prompts"):
            takes = lm.capabilities = replace(takes, left_padding=takes.branches and _goes_on_alike(lm))
    return bool(takes.left_padding)


def _goes_on_alike(lm: LanguageModel) -> bool:
    prompts = [probe.prompt_ids for probe in PROBES]
    try:
        alone = torch.cat([_first_logits(lm, [prompt]) for prompt in prompts])
        together = _first_logits(lm, prompts)
    except Exception as error:  # a model that can't take the padding may fail in any way
        if is_out_of_memory(error):
            raise
        logger.info("prompts of %s are not continued in padded batches: %s", lm.name, str(error).split("\n")[0])
        return False
    difference = float((together - alone).abs().max() / alone.abs().max())
    if not difference <= tolerance_of(lm):  # also where it is NaN
        logger.info("prompts of %s are not continued in padded batches: logits differ by %.1e", lm.name, difference)
        return False
    return True


def _first_logits(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Logits of the first two tokens that continue prompts, float32 (prompts, 2, vocabulary); an end is a token."""
    written = lm.model.generate(
        **_padded_left(lm, prompts),
        generation_config=_greedy(lm, 2, eos_token_id=None, output_logits=True, return_dict_in_generate=True),
    )
    return torch.stack(written.logits, dim=1).float()


def _generate(lm: LanguageModel, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """Continue prompts, padded on the left to the longest."""
    from transformers import LogitsProcessorList

    given, config = _padded_left(lm, prompts), _greedy(lm, tokens)

    def generate() -> tuple[Any, list[Tensor]]:
        sums = _Sums()
        return lm.model.generate(
            **given, generation_config=config, logits_processor=LogitsProcessorList([sums])
        ), sums.found

    output = finite(lm, generate, lambda found: found[1])[0].tolist()
    start = 1 if lm.is_encoder_decoder else given["input_ids"].shape[1]
    end = lm.model.generation_config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    return [_until(row[start:], ends) for row in output]


def _greedy(lm: LanguageModel, tokens: int, **changed: Any) -> Any:
    """Greedy decoding, which the model's own defaults (sampling, penalties, shortest lengths) are not."""
    from transformers import GenerationConfig

    own = lm.model.generation_config
    settings = {
        "max_new_tokens": tokens,
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": own.eos_token_id,
        "bos_token_id": own.bos_token_id,
        "pad_token_id": own.pad_token_id if own.pad_token_id is not None else 0,
        "decoder_start_token_id": own.decoder_start_token_id,
    }
    return GenerationConfig(**(settings | changed))


def _padded_left(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Prompts and their mask, (prompts, longest) each."""
    longest = max(map(len, prompts))
    filling = [longest - len(prompt) for prompt in prompts]
    rows = [[0] * more + list(prompt) for prompt, more in zip(prompts, filling, strict=True)]  # the mask hides it
    mask = torch.arange(longest) >= torch.tensor(filling)[:, None]
    return {"input_ids": torch.tensor(rows, device=lm.device), "attention_mask": mask.long().to(lm.device)}


class _Sums:
    """Notes a sum of the logits at every token: a number that is none among them shows in it."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def __call__(self, _ids: Tensor, logits: Tensor) -> Tensor:
        """Leave the logits (prompts, vocabulary) as they are."""
        self.found.append(logits.double().sum(dim=-1))
        return logits


def _until(ids: list[int], ends: Sequence[int | None]) -> list[int]:
    for position, token in enumerate(ids):
        if token in ends:
            return ids[:position]
    return ids
