"""Prompts of one's own in a report."""

import json

import pytest

from crispr_lm import InputError
from crispr_lm.jobs.comparison import compare
from crispr_lm.jobs.shown_prompts import ShownPrompt, prompts_fit, read_prompts
from crispr_lm.settings import CompareSettings


def test_prompts_are_rows_or_lines(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "Who?", "answer": "She.", "original": True}))
    (tmp_path / "mine.txt").write_text("Who?\n\n Why? \n")
    assert [(one.text, one.logged) for one in read_prompts(tmp_path / "mine.jsonl")] == [("Who?", "She.")]
    assert [(one.text, one.logged) for one in read_prompts(tmp_path / "mine.txt")] == [("Who?", ""), ("Why?", "")]
    assert read_prompts(None) == ()
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="no prompts in it"):
        read_prompts(tmp_path / "empty.txt")
    (tmp_path / "mine.jsonl").write_text(json.dumps({"text": "Who?", "answer": "She."}))
    with pytest.raises(InputError, match="'prompt' is missing"):
        read_prompts(tmp_path / "mine.jsonl")


def test_a_prompt_that_does_not_fit_is_refused_before_weights_are_read(llama):
    prompts_fit([ShownPrompt("Who was late?", "", "mine.txt:1")])(llama)
    with pytest.raises(InputError, match=r"mine\.txt:2"):
        prompts_fit([ShownPrompt("late " * llama.context_length, "", "mine.txt:2")])(llama)


def test_a_comparison_shows_none(tmp_path):
    settings = CompareSettings(task=("builtin:everyday",), output=tmp_path / "out", prompts=tmp_path / "mine.txt")
    with pytest.raises(InputError, match="give it to crispr-lm run"):
        compare("no model", settings)
