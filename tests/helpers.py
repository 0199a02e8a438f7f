"""Tiny real models, tokenizers and questions, all made here: nothing is downloaded, everything is seeded."""

from __future__ import annotations

import functools
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from crispr_lm.model.language_model import LanguageModel
from crispr_lm.tasks.base import Example

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

EXAMPLES = (
    Example(
        context="The old man and the young woman waited at the bus stop.",
        question="Who was slow?",
        options=("the old man", "the young woman", "unknown"),
        answer=2,
        template="bus",
    ),
    Example(context="", question="Who cooks?", options=("she", "he"), answer=1, template="cook"),
    Example(
        context="A nurse and a doctor came in.",
        question="Who made the mistake at work yesterday?",
        options=("nurse", "the doctor", "both of them", "can't be known"),
        answer=0,
        template="work",
    ),
    Example(
        context="Anna met Omar.",
        question="Who was late?",
        options=("Omar", "unknown", "Anna"),
        answer=0,
        template="late",
    ),
)
"""Two to four options of one to some tokens, prompts of differing length, one without context."""

LONG_EXAMPLE = Example(
    context="Anna met Omar at the bus stop, and then the old man came in with a nurse and a doctor. " * 4,
    question="Who waited for both of them at the bus stop yesterday?",
    options=("Omar and Anna waited for the young woman at the bus stop", "she", "can't be known"),
    answer=1,
    template="long",
)

INSTRUCTIONS = ("Answer the question.", "Read the context, then choose the right option for the question about it:")

_CORPUS = [
    *[text for x in (*EXAMPLES, LONG_EXAMPLE) for text in (x.context, x.question, *x.options)] * 3,
    *INSTRUCTIONS * 3,
    *["Context: Question: Answer options: Your answer:\n, , ,"] * 5,
    *["older", " older", "younger", " younger", "unknown", " unknown", "user", "assistant"] * 30,
    *string.printable,
]

VOCABULARY = 220


@functools.cache
def _trained(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def _byte_level(special: Sequence[str], around: str | None = None) -> Tokenizer:
    """Byte-level BPE; `around` says what is put around a text, for example ``$A </s>``."""
    tokenizer = Tokenizer.from_str(_trained(tuple(special)))
    if around is not None:
        pairs = [(token, tokenizer.token_to_id(token)) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=pairs)
    return tokenizer


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML, as SmolLM2 and Qwen have it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def plain_tokenizer(around: str | None = None) -> PreTrainedTokenizerFast:
    """Without chat template and padding token, as GPT-2 has it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(
            ["<|endoftext|>", "<s>", *(["<sep>"] if "<sep>" in (around or "") else [])], around
        ),
        bos_token="<s>",
        eos_token="<|endoftext|>",
    )


def target_tokenizer(around: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts an end token after a text, as T5 (``$A </s>``) and BART (``<s> $A </s>``) have it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<pad>", "</s>", "<s>"], around),
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
    )


_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


def build_network(architecture: str) -> Any:
    """A transformers model of that architecture, weights as transformers makes them."""
    size = {"vocab_size": VOCABULARY}
    match architecture:
        case "llama" | "llama-tied":
            return LlamaForCausalLM(LlamaConfig(**size, **_LLAMA, tie_word_embeddings=architecture == "llama-tied"))
        case "mistral":
            return MistralForCausalLM(MistralConfig(**size, **_LLAMA, sliding_window=None))
        case "gpt2" | "gpt2-untied":
            ends = {"bos_token_id": 1, "eos_token_id": 0, "tie_word_embeddings": architecture == "gpt2"}
            return GPT2LMHeadModel(
                GPT2Config(**size, **ends, n_embd=32, n_layer=2, n_head=4, n_inner=48, n_positions=512)
            )
        case "bloom":
            return BloomForCausalLM(
                BloomConfig(**size, hidden_size=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=0, pad_token_id=0)
            )
        case "t5-gated":
            config = T5Config(**size, **_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
            model = T5ForConditionalGeneration(config)
            # As in the checkpoints of Flan-T5: a head of its own, which transformers 5 does not make by itself.
            model.lm_head.weight = nn.Parameter(torch.empty(VOCABULARY, 32))
            return model
        case "t5-relu":
            return T5ForConditionalGeneration(T5Config(**size, **_T5, feed_forward_proj="relu"))
        case "bart":
            layers = {"encoder_layers": 2, "decoder_layers": 2}
            heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
            ffn = {"encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
            tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 1}
            config = BartConfig(
                **size, **layers, **heads, **ffn, **tokens, d_model=32, max_position_embeddings=512,
                forced_eos_token_id=None,
            )  # fmt: skip
            return BartForConditionalGeneration(config)
    raise AssertionError(architecture)


TOKENIZERS = {
    "llama": chat_tokenizer,
    "llama-tied": chat_tokenizer,
    "mistral": chat_tokenizer,
    "gpt2": plain_tokenizer,
    "gpt2-untied": plain_tokenizer,
    "bloom": plain_tokenizer,
    "t5-gated": lambda: target_tokenizer("$A </s>"),
    "t5-relu": lambda: target_tokenizer("$A </s>"),
    "bart": lambda: target_tokenizer("<s> $A </s>"),
}

DECODER_ONLY = ("llama", "llama-tied", "gpt2")
ENCODER_DECODER = ("t5-gated", "t5-relu", "bart")
ARCHITECTURES = (*DECODER_ONLY, *ENCODER_DECODER)

DOWN_PROJECTIONS = {
    "llama": ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"),
    "llama-tied": ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"),
    "mistral": ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"),
    "gpt2": ("transformer.h.0.mlp.c_proj", "transformer.h.1.mlp.c_proj"),
    "bloom": ("transformer.h.0.mlp.dense_4h_to_h", "transformer.h.1.mlp.dense_4h_to_h"),
    "t5-gated": (
        "encoder.block.0.layer.1.DenseReluDense.wo",
        "encoder.block.1.layer.1.DenseReluDense.wo",
        "decoder.block.0.layer.2.DenseReluDense.wo",
        "decoder.block.1.layer.2.DenseReluDense.wo",
    ),
    "t5-relu": (
        "encoder.block.0.layer.1.DenseReluDense.wo",
        "encoder.block.1.layer.1.DenseReluDense.wo",
        "decoder.block.0.layer.2.DenseReluDense.wo",
        "decoder.block.1.layer.2.DenseReluDense.wo",
    ),
    "bart": (
        "model.encoder.layers.0.fc2",
        "model.encoder.layers.1.fc2",
        "model.decoder.layers.0.fc2",
        "model.decoder.layers.1.fc2",
    ),
}
"""The last layer of every feed-forward block, in the order of the model's modules."""


def fill(model: nn.Module, seed: int, spread: float = 0.25) -> None:
    """Draw every weight anew: some ten times wider than usual, so that options differ; biases and norms vary too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.dim() == 1 and not name.endswith("bias")
            # T5 does not scale its attention's products; its queries are kept small, or softmax would be one-hot.
            width = 0.3 * spread if name.endswith((".SelfAttention.q.weight", ".EncDecAttention.q.weight")) else spread
            parameter.copy_(1 + 0.2 * noise if is_scale else width * noise)


def build_model(architecture: str, seed: int = 0) -> LanguageModel:
    """A tiny model of that architecture with its tokenizer; the same seed gives the same weights."""
    model = build_network(architecture)
    fill(model, seed)
    model.eval().requires_grad_(False)
    return LanguageModel(
        model=model,
        tokenizer=TOKENIZERS[architecture](),
        name=f"tiny-{architecture}",
        is_encoder_decoder=architecture in ENCODER_DECODER,
        context_length=None if architecture.startswith(("t5", "bloom")) else 512,
    )


def build_mixture(seed: int = 0) -> LanguageModel:
    """A tiny mixture of four experts, of which every token is given to two."""
    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=None,
    )
    model = MixtralForCausalLM(config)
    fill(model, seed)
    return LanguageModel(model.eval().requires_grad_(False), chat_tokenizer(), "mixture", context_length=512)


def hook_count(model: nn.Module) -> int:
    """Number of hooks of any kind that hang on a model and its modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_weights(model: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Equal to the bit."""
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def assert_rows_close(table: Tensor, expected: Sequence[Sequence[float]], tolerance: float = 1e-4) -> None:
    """Each row starts with the expected scores, to `tolerance` relative; what a shorter row lacks is -inf."""
    assert table.shape == (len(expected), max(map(len, expected)))
    assert table.dtype == torch.float32
    for row, values in zip(table.tolist(), expected, strict=True):
        for got, value in zip(row, values, strict=False):
            assert abs(got - value) <= tolerance * abs(value), (row, values)
        assert row[len(values) :] == [-float("inf")] * (len(row) - len(values))


def assert_values_close(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = 1e-4, noise: float = 5e-5
) -> None:
    """Every neuron to `tolerance` relative, but for rounding: `noise` of the largest value in its module."""
    assert list(actual) == list(expected)
    for name, values in expected.items():
        assert actual[name].shape == values.shape, name
        largest = values.abs().max()
        difference = (actual[name].double() - values.double()).abs()
        allowed = tolerance * values.abs() + noise * largest
        worst = int((difference - allowed).argmax())
        assert bool((difference <= allowed).all()), (
            f"{name}[{worst}]: {float(actual[name][worst])} for {float(values[worst])}, largest {float(largest)}"
        )


def cooking_questions() -> str:
    """Sixty questions of two options, right in turn, as a `choices:` file; each is a template of its own."""
    rows = [
        {"context": "", "question": f"Who cooks {n}?", "options": ["she", "he"], "answer": n % 2, "group": n}
        for n in range(60)
    ]
    return "\n".join(map(json.dumps, rows))
