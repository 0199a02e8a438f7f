"""Rows out of all proportion, and tokens out of the vocabulary: reported in one sentence, before they cost anything."""

import json
from dataclasses import replace

import pytest
from transformers import AddedToken

from crispr_lm import InputError, load_task
from crispr_lm.cli.commands import main
from crispr_lm.inference.prompts import check_prompts, encode, encode_conversation
from crispr_lm.inference.text_limits import CHARACTERS_PER_TOKEN, FEW_CHARACTERS, MOST_CHARACTERS
from crispr_lm.tasks.base import SENTENCES
from crispr_lm.tasks.jsonl import LONGEST_LINE

from ..helpers import EXAMPLES, build_model
from .documents import CHOICE


class Untouched:
    """A tokenizer that must not be asked."""

    chat_template = "{{ messages }}"

    def __call__(self, *_arguments, **_more):
        raise AssertionError("tokenized")

    apply_chat_template = __call__


@pytest.mark.parametrize("context_length", [512, 32_768, 10**9, None])
@pytest.mark.parametrize("field", ["context", "question", "options"])
@pytest.mark.parametrize("form", ["question", SENTENCES])
def test_a_text_that_can_not_fit_is_neither_rendered_nor_tokenized(llama, context_length, field, form):
    llama.context_length = context_length
    tokenizer, llama.tokenizer = llama.tokenizer, Untouched()
    most = min(MOST_CHARACTERS, max(FEW_CHARACTERS, CHARACTERS_PER_TOKEN * (context_length or MOST_CHARACTERS)))
    long = "word " * (most // 5 + 1)
    changed = (long, *EXAMPLES[0].options[1:]) if field == "options" else long
    example = replace(EXAMPLES[0], form=form, source="t.jsonl:7", **{field: changed})
    if form == SENTENCES and field == "question":  # is not part of it
        return
    with pytest.raises(InputError, match=rf"^t\.jsonl:7: the text has [\d,]+ characters, .* more than {most:,} "):
        encode(llama, example, "Answer.")
    with pytest.raises(InputError, match="the conversation: the text has"):
        encode_conversation(llama, [long])
    llama.tokenizer = tokenizer


def test_what_may_fit_is_tokenized(llama):
    llama.context_length = 30_000
    long = replace(EXAMPLES[0], context="unknown " * 15_000)  # more than FEW_CHARACTERS
    assert len(long.context) > FEW_CHARACTERS
    assert len(encode(llama, long, "Answer.").prompt_ids) > 15_000


def test_a_line_without_an_end_is_refused(tmp_path):
    row = json.dumps(CHOICE | {"context": "a" * LONGEST_LINE})
    (tmp_path / "t.jsonl").write_text(f"{json.dumps(CHOICE)}\n{row}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"t\.jsonl:2: more than 16,777,216 characters"):
        load_task(f"choices:{tmp_path / 't.jsonl'}")
    fits = json.dumps(CHOICE | {"context": "a" * 10_000_000})
    (tmp_path / "t.jsonl").write_text(fits, encoding="utf-8")
    assert len(load_task(f"choices:{tmp_path / 't.jsonl'}").examples[0].context) == 10_000_000


def test_a_token_without_an_embedding_is_named(llama):
    llama.tokenizer.add_tokens([AddedToken(f"<extra {number}>") for number in range(2000)])
    assert len(llama.tokenizer) > llama.embedded_tokens
    assert encode(llama, EXAMPLES[0], "Answer.")  # who does not use it has no trouble
    spoiled = replace(EXAMPLES[0], context="She wrote <extra 1999> here.", source="t.jsonl:3")
    for form in ("question", SENTENCES):
        with pytest.raises(InputError, match=r"^t\.jsonl:3: token '<extra 1999>' has number \d+ .* embeddings of \d+"):
            encode(llama, replace(spoiled, form=form), "Answer.")
    with pytest.raises(InputError, match="token '<extra 0>'"):
        encode_conversation(llama, ["<extra 0>"])


def test_it_is_reported_before_the_weights_are_read(tmp_path, capsys):
    lm = build_model("llama")
    lm.tokenizer.add_tokens([AddedToken(f"<extra {number}>") for number in range(2000)])
    lm.tokenizer.chat_template = lm.tokenizer.chat_template.replace("<|im_start|>", "<extra 1999><|im_start|>")
    lm.save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(tmp_path / "model"), "--task", "builtin:everyday", "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "token '<extra 1999>' has number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_model_is_held_to_its_embeddings_too():
    t5 = build_model("t5-relu")
    check_prompts(t5, EXAMPLES, ["Answer."])
    t5.tokenizer.add_tokens([AddedToken(f"<extra {number}>") for number in range(2000)])
    with pytest.raises(InputError, match="token '<extra 1999>'"):
        encode(t5, replace(EXAMPLES[0], options=("she", "<extra 1999>", "unknown")), "Answer.")
