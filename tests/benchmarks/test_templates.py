"""The judge of `benchmarks/templates.py`: it tells right from wrong leads, whoever found them."""

import json
from pathlib import Path
from typing import Any

import pytest

import crispr_lm
import templates
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import EncodedPrompt, prompt_text

SYNTHETIC = Path(__file__).parents[3] / "shared/data/templates_synthetic.json"

SPACE = (
    "{% for turn in messages %}{% if turn.role == 'user' %}<ask>{{ turn.content }}</ask>"
    "{% else %} {{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
THINKS = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ turn.content }}<|over|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
ALWAYS_OPEN = (
    "{% for turn in messages %}<|{{ turn.role }}|>{{ '<think>\n' if turn.role == 'assistant' }}"
    "{{ turn.content }}<|over|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
PRINTS_LISTS = "{% for turn in messages %}[{{ turn.role }}]{{ turn.content }}[/]{% endfor %}"


def scored_behind(monkeypatch: pytest.MonkeyPatch, opening: str, lead: str) -> None:
    """Let the library score options behind opening, user's words and lead, tokenized as in running text."""

    def encode(lm: Any, example: crispr_lm.Example, instruction: str) -> EncodedPrompt:
        start = opening + prompt_text(example, instruction) + lead
        together = [lm.tokenizer(start + option, add_special_tokens=False).input_ids for option in example.options]
        border = len(lm.tokenizer(start.rstrip(), add_special_tokens=False).input_ids)
        return EncodedPrompt(together[0][:border], [ids[border:] for ids in together])

    monkeypatch.setattr(crispr_lm, "encode", encode)


@pytest.mark.parametrize(
    ("template", "opening", "lead", "verdict"),
    [
        (SPACE, "<ask>", "</ask> ", "right"),
        (SPACE, "<ask>", "</ask>", "wrong, not the template's conversation"),
        (THINKS, "<|user|>", "<|over|><|assistant|>", "right"),
        (THINKS, "<|user|>", "<|over|><|assistant|><think>\n\n</think>\n\n", "right, closed block"),
        (THINKS, "<|user|>", "<|over|><|assistant|><think>\n", "wrong, in an open thinking block"),
        (
            THINKS,
            "<|user|>",
            "<|over|><|assistant|><think>hm</think>\n",
            "wrong, not the template's conversation",
        ),
        (THINKS, "<|system|>", "<|over|><|assistant|><think></think>", "wrong, other tokens than in the conversation"),
        (ALWAYS_OPEN, "<|user|>", "<|over|><|assistant|><think>\n", "wrong, in an open thinking block"),
        (ALWAYS_OPEN, "<|user|>", "<|over|><|assistant|><think></think>", "right, closed block"),
        (ALWAYS_OPEN, "<|user|>", "<|over|><|assistant|>", "right, closed block"),
        (PRINTS_LISTS, "[user]", "[/][assistant]", "right"),
        (PRINTS_LISTS, "[user]", "[/][assistant][{'type': 'text', 'text': '", "wrong, not the template's conversation"),
    ],
)
def test_a_lead_is_compared_with_the_finished_conversation(
    monkeypatch: pytest.MonkeyPatch, template: str, opening: str, lead: str, verdict: str
) -> None:
    scored_behind(monkeypatch, opening, lead)
    judged = templates.judge("a template", templates.small_tokenizer(template))
    assert (judged.verdict, judged.text) == (verdict, lead)


def test_tokens_are_compared_not_only_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(lm: Any, example: crispr_lm.Example, instruction: str) -> EncodedPrompt:
        prompt = f"<ask>{prompt_text(example, instruction)}</ask> "
        alone = [lm.tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, *example.options)]
        return EncodedPrompt(alone[0], alone[1:])

    monkeypatch.setattr(crispr_lm, "encode", encode)
    judged = templates.judge("a template", templates.small_tokenizer(SPACE))
    assert judged.verdict == "wrong, other tokens than in the conversation"


def test_what_is_refused_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(*_: Any) -> EncodedPrompt:
        raise InputError("no place for an answer")

    monkeypatch.setattr(crispr_lm, "encode", encode)
    assert templates.judge("a template", templates.small_tokenizer(SPACE)).verdict == "refused"


@pytest.mark.skipif(not SYNTHETIC.exists(), reason="shared data absent")
def test_synthetic_templates_are_judged_by_what_they_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    openings = {"parts-only": "[user]", "no-generation-prompt": "[user]", "space-before-answer": "<s><ask>"}
    for name, case in json.loads(SYNTHETIC.read_text(encoding="utf-8")).items():
        for lead in case["accept"]:
            scored_behind(monkeypatch, openings.get(name, "<|user|>"), lead)
            judged = templates.judge(name, templates.small_tokenizer(case["template"]))
            assert judged.kind == "right", judged


def test_a_folder_is_read_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.jinja").write_text(SPACE, encoding="utf-8")
    folder = tmp_path / "tokenizer"
    templates.small_tokenizer(THINKS).save_pretrained(folder)
    scored_behind(monkeypatch, "<ask>", "</ask> ")
    assert templates.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "space: right: '</ask> '"
    assert lines[1].startswith("tokenizer: wrong")
    assert lines[-1] == "1 of 2 right, 0 refused, 1 silently wrong"


def test_what_the_product_encodes_is_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, template in {"space": SPACE, "thinks": THINKS, "open": ALWAYS_OPEN, "lists": PRINTS_LISTS}.items():
        (tmp_path / f"{name}.jinja").write_text(template, encoding="utf-8")
    assert templates.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 of 4 right, 1 refused, 0 silently wrong", lines
