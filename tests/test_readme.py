"""The README agrees with the code: its Python runs as printed, and it names the commands that exist, all of them."""

import re
from pathlib import Path

import crispr_lm
from crispr_lm.cli.commands import app
from crispr_lm.tasks.everyday import everyday_rows

README = Path(__file__).parents[1] / "README.md"


def test_the_python_of_the_readme_runs_as_printed(saved_model, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert '"builtin:smollm2"' in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"builtin:smollm2"', repr(str(saved_model("llama")))), names)
    assert len(crispr_lm.Edit.from_pretrained(tmp_path / "edit").neurons) == 10
    assert names["change"].low <= names["change"].value <= names["change"].high
    # Spread over all templates, as the comment says: as many of the first rows are of a few.
    part = names["task"].split(seed=0).test
    everywhere = {example.template for example in part}
    assert {example.template for example in names["test"]} == everywhere
    assert len({example.template for example in part[: len(names["test"])]}) < len(everywhere) / 3
    assert len(list(everyday_rows())) == 1728  # as the table of tasks says


def test_the_readme_names_all_commands_and_no_others():
    named = set(re.findall(r"(?:`|\$ )crispr-lm ([a-z][a-z-]*)", README.read_text(encoding="utf-8")))
    there = {name for name in app if not name.startswith("-")}
    assert named == there
