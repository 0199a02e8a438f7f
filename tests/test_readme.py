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
    assert len(crispr_lm.Edit.load(tmp_path / "edit.json").neurons) == 10
    assert names["change"].low <= names["change"].value <= names["change"].high
    # Spread over templates, as the comment says: the first 60 rows alone are of three.
    whole = names["task"].split(seed=0).test
    assert {example.template for example in names["test"]} == {example.template for example in whole}
    assert len(list(everyday_rows())) == 1728  # as the table of tasks says


def test_the_readme_names_all_commands_and_no_others():
    named = set(re.findall(r"crispr-lm ([a-z][a-z-]*)", README.read_text(encoding="utf-8")))
    there = {name for name in app if not name.startswith("-")}
    assert named == there
