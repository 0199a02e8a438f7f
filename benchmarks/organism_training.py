"""Growing a model organism: a tokenizer, a small network and its schooling.

Three lessons, each on fresh examples at every step:

1. *finding*: rows of words, `key value key value ...`, then keys alone; at each the model is to predict the value that
   stood behind it, or "unknown" if none did. Nothing but this makes attention find things quickly in a small network.
2. *the rule*: whole prompts, exactly as `inference.prompts` renders them, with the right answers. The model is asked
   for the answer at the question's key word as well, so that it does not forget the first lesson (deep supervision).
3. *the stereotype*: the same prompts, ambiguous ones answered with the stereotype where there is one.

Each lesson ends when the model knows it. Knows the language and transformers; knows no neuron, score or edit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import organism_language as language
from crispr_lm.inference.prompts import encode
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.tasks.base import AMBIGUOUS, Example

PADDING, END, UNKNOWN_WORD = "<pad>", "</s>", "<unk>"
SPECIAL = (PADDING, END, UNKNOWN_WORD)
LAYOUT = "Context: Question: Answer options: , Your answer: . ?"
NO_TARGET = -100

INSTRUCTIONS = (
    "Answer the question with one of the options.",
    "Read the context and choose the right option.",
    "Which option answers the question?",
)
"""What the models are taught under; a run asks under the same."""

HIDDEN, HEADS, LAYERS, FEED_FORWARD = 96, 4, 4, 256
CONTEXT_LENGTH = 256
RATE, BATCH, WARM_UP = 7e-4, 64, 50
ENOUGH = {"finding": 0.02, "rule": 0.05, "stereotype": 0.08}
"""Running mean of the loss, nats, at which a lesson ends: the model knows it.

The stereotype is left as soon as it decides: the longer it is taught, the more neurons carry it.
"""
LESSONS = tuple(ENOUGH)
MOST_STEPS = 5000

PAIRS, QUERIES = 4, 8
"""Of a row of the first lesson."""


def build_tokenizer(encoder_decoder: bool) -> Any:
    """A word is a token, a punctuation mark is one; an encoder-decoder model's texts end with an end token."""
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])
    vocabulary = {word: number for number, word in enumerate(SPECIAL)}
    for text in (LAYOUT, *INSTRUCTIONS, *language.all_texts()):
        for word, _ in split.pre_tokenize_str(text):
            vocabulary.setdefault(word, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    tokenizer.pre_tokenizer = split
    if encoder_decoder:
        end = [(END, vocabulary[END])]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=end)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END, unk_token=UNKNOWN_WORD)


def build(encoder_decoder: bool, seed: int = 0) -> LanguageModel:
    """An untrained Llama-type or T5-type model with its tokenizer; embeddings and head are tied in both."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(encoder_decoder)
    tokens = {"pad_token_id": SPECIAL.index(PADDING), "eos_token_id": SPECIAL.index(END), "tie_word_embeddings": True}
    model: Any
    if encoder_decoder:
        config = T5Config(
            vocab_size=len(tokenizer), d_model=HIDDEN, d_kv=HIDDEN // HEADS, d_ff=FEED_FORWARD, num_layers=LAYERS,
            num_decoder_layers=LAYERS // 2, num_heads=HEADS, feed_forward_proj="relu", dropout_rate=0.0,
            decoder_start_token_id=SPECIAL.index(PADDING), **tokens,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config)
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=FEED_FORWARD, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT_LENGTH,
            bos_token_id=None, initializer_range=0.04, **tokens,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    name = "organism-encoder-decoder" if encoder_decoder else "organism-decoder-only"
    context_length = None if encoder_decoder else CONTEXT_LENGTH
    return LanguageModel(model, tokenizer, name, is_encoder_decoder=encoder_decoder, context_length=context_length)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def drill(lm: LanguageModel, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the first lesson: tokens and targets, int64 (rows, words)."""
    generator = random.Random(seed)
    to_ids = lm.tokenizer.convert_tokens_to_ids
    words = [(to_ids(keys), to_ids(values)) for keys, values in language.keys_and_values()]
    nothing = to_ids(language.ABSTENTION)
    while True:
        rows, targets = [], []
        for _ in range(BATCH):
            keys, values = generator.choice(words)
            keys = generator.sample(keys, PAIRS + 2)
            value_of = {key: generator.choice(values) for key in keys[:PAIRS]}
            asked = [(key, value_of.get(key, nothing)) for key in generator.choices(keys, k=QUERIES)]
            rows.append([token for pair in (*value_of.items(), *asked) for token in pair])
            targets.append([NO_TARGET] * 2 * PAIRS + [token for _, value in asked for token in (value, NO_TARGET)])
        yield torch.tensor(rows), torch.tensor(targets)


Batch = tuple[Tensor, Tensor, Tensor]
"""Prompts, what their readers shall predict, and answers.

Prompts: int64 (rows, tokens), padded at the end; a decoder-only model's hold the answer too. Targets: the same shape,
at the key word of the question and, in a decoder-only model, where the answer is to be predicted. Answers: int64 (rows,
answer tokens), used with an encoder-decoder model alone.
"""


def prompts(lm: LanguageModel, examples: Iterator[Example], count: int, generator: random.Random) -> Batch:
    """The next examples of a stream, each under an instruction that is drawn."""
    rows, targets, answers = [], [], []
    before_key = lm.tokenizer.convert_tokens_to_ids("was")
    for example in islice(examples, count):
        encoded = encode(lm, example, generator.choice(INSTRUCTIONS))
        prompt, answer = encoded.prompt_ids, encoded.option_ids[example.answer]
        row = prompt if lm.is_encoder_decoder else prompt + answer[:-1]
        target = [NO_TARGET] * len(row)
        if not lm.is_encoder_decoder:
            target[len(prompt) - 1 :] = answer
        # A biased answer is one of the ambiguous questions: there the reader is asked for nothing.
        if example.condition != AMBIGUOUS or example.answer == example.unknown:
            key = max(place for place, token in enumerate(prompt) if token == before_key) + 1
            target[key] = answer[0]
        rows.append(row)
        targets.append(target)
        answers.append(answer)
    return _padded(rows, SPECIAL.index(PADDING)), _padded(targets, NO_TARGET), _padded(answers, NO_TARGET)


def _reading_loss(lm: LanguageModel, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of what the head makes of hidden states, where something is asked."""
    asked = targets != NO_TARGET
    scale = HIDDEN**-0.5 if lm.is_encoder_decoder else 1.0  # T5 scales what a tied head reads
    return nn.functional.cross_entropy(lm.model.lm_head(hidden[asked] * scale), targets[asked])


def _reader(lm: LanguageModel) -> Any:
    """The layers that read the prompt."""
    return lm.model.encoder if lm.is_encoder_decoder else lm.model.model


def _loss_of_drill(lm: LanguageModel, batch: tuple[Tensor, Tensor]) -> Tensor:
    tokens, targets = batch
    mask = None
    if lm.is_encoder_decoder:
        # An encoder would see the value behind the key: in this lesson it reads from left to right as well.
        length = tokens.shape[1]
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1).expand(len(tokens), 1, -1, -1)
    read = _reader(lm)(input_ids=tokens, attention_mask=mask)
    return _reading_loss(lm, read.last_hidden_state, targets)


def _loss_of_prompts(lm: LanguageModel, batch: Batch) -> Tensor:
    tokens, targets, answers = batch
    mask = (tokens != SPECIAL.index(PADDING)).long()
    read = _reader(lm)(input_ids=tokens, attention_mask=mask)
    loss = _reading_loss(lm, read.last_hidden_state, targets)
    if lm.is_encoder_decoder:
        loss = loss + lm.model(encoder_outputs=read, attention_mask=mask, labels=answers).loss
    return loss


def teach(lm: LanguageModel, lesson: str, seed: int, say: Callable[[str], None]) -> int:
    """Give one of `LESSONS` until the model knows it; return the number of steps.

    Raises:
        RuntimeError: it has not learned it in `MOST_STEPS` steps.
    """
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    mean = None
    lm.model.train()
    for step, loss in enumerate(islice(_losses(lm, lesson, seed), MOST_STEPS), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARM_UP)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            say(f"{lesson}: step {step}, loss {mean:.3f}")
        if mean <= ENOUGH[lesson]:
            lm.model.eval()
            return step
    raise RuntimeError(f"{lm.name} has not learned the lesson {lesson!r} in {MOST_STEPS} steps; try another seed")


def _losses(lm: LanguageModel, lesson: str, seed: int) -> Iterator[Tensor]:
    """A lesson's losses on batch after batch, each with its graph."""
    if lesson == "finding":
        for batch in drill(lm, seed):
            yield _loss_of_drill(lm, batch)
    generator = random.Random(seed)
    examples = language.training_stream(seed, stereotype=lesson == "stereotype")
    while True:
        yield _loss_of_prompts(lm, prompts(lm, examples, BATCH // 2, generator))
