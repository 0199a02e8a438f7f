"""What transformers repeats with a GGUF file is done once, and the model is the same."""

import gguf
import pytest
from transformers import AutoModelForCausalLM

import crispr_lm
from crispr_lm.model import gguf_header

from ..gguf_files import write_llama
from ..helpers import assert_same_weights


@pytest.fixture
def file(tmp_path):
    write_llama(tmp_path / "model.gguf", bias=True)
    return tmp_path / "model.gguf"


def test_a_header_is_parsed_once_and_then_forgotten(file, monkeypatch):
    parsed = []
    plain = gguf_header._PlainReader
    monkeypatch.setattr(gguf_header, "_PlainReader", lambda path: parsed.append(path) or plain(path))
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    lm = crispr_lm.load_model(file)
    assert parsed == [str(file)]
    assert gguf_header._parsed_as_it_is.cache_info().currsize == 0
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (reader, names)
    alone = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    assert_same_weights(lm.model, alone.state_dict())


def test_a_file_that_changes_after_it_was_opened_is_read_again(file):
    opened = crispr_lm.model.load.open_model(file)
    before = opened.load().model.state_dict()
    write_llama(file, {}, bias=True)  # the same tensors as plain numbers
    assert_same_weights(opened.load().model, crispr_lm.load_model(file).model.state_dict())
    after = opened.load().model.state_dict()
    assert any(not before[name].equal(after[name]) for name in before)
