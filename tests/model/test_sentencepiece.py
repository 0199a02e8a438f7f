"""Tokenizers that are a SentencePiece model alone: mT5's ``spiece.model``, early Mistral's ``tokenizer.model``."""

import io
import json
import subprocess
import sys

import pytest
import sentencepiece
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
)

from crispr_lm import InputError, load_model

from ..helpers import EXAMPLES, INSTRUCTIONS

TEXTS = [text for x in EXAMPLES for text in (x.context, x.question, *x.options) if text] + list(INSTRUCTIONS)
DECODER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
ENCODER_DECODER = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}

FOLDERS = {
    "mt5": ("spiece.model", "unigram", T5_IDS, MT5ForConditionalGeneration, MT5Config, ENCODER_DECODER),
    "llama": ("tokenizer.model", "bpe", {}, LlamaForCausalLM, LlamaConfig, DECODER),
    "mistral": ("tokenizer.model", "bpe", {}, MistralForCausalLM, MistralConfig, DECODER | {"num_key_value_heads": 2}),
}


def saved(tmp_path, architecture):
    """A folder with weights and a SentencePiece model alone; the model as its bytes."""
    file, kind, ids, model_class, config_class, sizes = FOLDERS[architecture]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=trained, vocab_size=120, model_type=kind,
        hard_vocab_limit=False, minloglevel=2, **ids,
    )  # fmt: skip
    model_class(config_class(vocab_size=120, **sizes)).save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(trained.getvalue())
    return tmp_path / file, trained.getvalue()


@pytest.mark.parametrize("tokenizer_class", [None, "own"])
@pytest.mark.parametrize("architecture", FOLDERS)
def test_tokens_are_those_of_sentencepiece(tmp_path, architecture, tokenizer_class):
    _, model = saved(tmp_path / "model", architecture)
    if tokenizer_class:  # most checkpoints name it
        name = "T5Tokenizer" if architecture == "mt5" else "LlamaTokenizer"
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    lm = load_model(tmp_path / "model", device="cpu")
    expected = sentencepiece.SentencePieceProcessor(model_proto=model)
    for text in TEXTS:
        assert lm.tokenizer(text, add_special_tokens=False).input_ids == expected.encode(text)
    lm.save(tmp_path / "again")
    again = load_model(tmp_path / "again", device="cpu")
    assert [again.tokenizer(text).input_ids for text in TEXTS] == [lm.tokenizer(text).input_ids for text in TEXTS]


def test_a_damaged_file_is_not_blamed_on_a_missing_package_alone(tmp_path):
    file, model = saved(tmp_path, "llama")
    file.write_bytes(model[: len(model) // 2] + b"damaged")
    with pytest.raises(InputError, match=r"its tokenizer's \.model file can't be read as a SentencePiece model; put"):
        load_model(tmp_path, device="cpu")


WITHOUT = """
import importlib.util, sys
hidden = sys.argv[2]
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == hidden else found(name, *more)
import transformers
sys.modules[hidden] = None
from crispr_lm import load_model
load_model(sys.argv[1], device="cpu")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("module", "package"), [("sentencepiece", "sentencepiece"), ("google.protobuf", "protobuf")])
def test_the_package_that_is_missing_is_named(tmp_path, module, package):
    saved(tmp_path, "llama")
    ended = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path, module], capture_output=True, text=True)
    message = ended.stderr.strip().splitlines()[-1]
    assert message.endswith(f"a SentencePiece model, which needs more packages; pip install {package}"), message
