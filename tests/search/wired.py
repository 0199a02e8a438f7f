"""A model whose neurons are wired by hand: each sees one word anywhere in the prompt and makes answers likelier.

One layer: attention takes the mean of all words, a neuron multiplies what it finds of its word, the head reads the
answers. A real Llama, so everything about it is found, scored and edited as in any other model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from crispr_lm.model.language_model import LanguageModel

NEURONS, TOKENS = 32, 128
SEEN, MADE = 10.0, 60.0
"""How much of a word the mean keeps, and what a neuron makes of it: an answer that is seen outweighs any constant."""


def wired(
    words: Sequence[str], neurons: Sequence[tuple[str, Mapping[str, float]]], always: Mapping[str, float]
) -> LanguageModel:
    """A model of these words.

    Args:
        words: All that it knows.
        neurons: Word that a neuron sees, and by how many parts of `MADE` it makes which words likelier.
        always: Scores of words before any neuron.
    """
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", "</s>", ":", *words])}
    vocabulary |= {f"<{number}>": number for number in range(len(vocabulary), TOKENS)}  # layouts are checked with these
    answers = {word: TOKENS + place for place, word in enumerate(words)}
    width = TOKENS + len(answers)
    config = LlamaConfig(
        vocab_size=TOKENS, hidden_size=width + width % 2, intermediate_size=NEURONS, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, max_position_embeddings=512, pad_token_id=0, eos_token_id=2,
        bos_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        layer = model.model.layers[0]
        seen = torch.eye(TOKENS)
        model.model.embed_tokens.weight[:, :TOKENS] = seen
        # A word is normalised to the square root of the width.
        layer.self_attn.v_proj.weight[:TOKENS, :TOKENS] = seen * SEEN / config.hidden_size**0.5
        layer.self_attn.o_proj.weight.copy_(torch.eye(config.hidden_size))
        for number, (word, made) in enumerate(neurons):
            layer.mlp.gate_proj.weight[number, vocabulary[word]] = 1.0
            layer.mlp.up_proj.weight[number, vocabulary[word]] = 1.0
            for answer, parts in made.items():
                layer.mlp.down_proj.weight[answers[answer], number] = parts * MADE
        for word, place in answers.items():
            model.lm_head.weight[vocabulary[word], place] = 1.0
            model.lm_head.weight[vocabulary[word], vocabulary[":"]] = always.get(word, 0.0)  # prompts end with a colon
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return LanguageModel(model.eval(), fast, "wired", is_encoder_decoder=False, context_length=512)
