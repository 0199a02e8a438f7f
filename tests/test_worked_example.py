"""The worked example of docs/questions.md from its twelve prompts to the report, with small settings."""

import json
import re
from pathlib import Path

import pytest

from crispr_lm.cli.commands import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "questions.md").read_text(encoding="utf-8")

SMALL = (
    *("--instructions", "1", "--examples", "4", "--neurons", "ffn", "--rounds", "1", "--max-neurons", "3"),
    *("--validation-examples", "12", "--reevaluation-examples", "18", "--test-examples", "12"),
    *("--measure-examples", "4", "--neutral-prompts", "2", "--max-fact-loss", "1", "--max-spillover", "1"),
)


def call(words):
    """Run a command, which must succeed."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert not end.value.code


@pytest.mark.slow
def test_from_twelve_prompts_to_a_report_that_shows_them(saved_model, tmp_path, monkeypatch, capsys):
    model = str(saved_model("llama"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    (section,) = re.findall(r"^## All of it\n.*?```console\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("$ crispr-lm ").split() for line in section.replace("\\\n", " ").splitlines()]
    assert [line[:2] for line in lines] == [
        ["questions", "from"],
        ["questions", "expand"],
        ["questions", "check"],
        ["run", "builtin:smollm2"],
    ]
    for line in lines:
        given = [model if word == "builtin:smollm2" else word for word in line]
        call([*given, *SMALL] if line[0] == "run" else given)
    assert "12 pairs of prompts" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    prompts = [json.loads(line) for line in (tmp_path / "complaint" / "prompts.jsonl").read_text().splitlines()]
    assert len(prompts) == len(results["prompts"]) == 12
    assert set(results["tasks"]) >= {"choices:nurses.jsonl", "twins:twins.jsonl", "builtin:other-kinds"}
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for prompt in prompts:
        assert prompt["prompt"] in report
        assert prompt["answer"] in report
