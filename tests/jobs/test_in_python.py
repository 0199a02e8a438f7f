"""The main job as a Python function: what it returns is what is on disk; mistakes end in one sentence."""

import json
import re
from pathlib import Path

import pytest

import crispr_lm
from crispr_lm import Edit, InputError

from ..baselines.questions import TASK

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to.md"


def test_the_example_of_the_docs_runs_as_printed(saved_model, tmp_path, monkeypatch, capsys):
    examples = re.findall(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [code for code in examples if "crispr_lm.run(" in code]
    assert '"builtin:smollm2"' in code
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code.replace('"builtin:smollm2"', repr(str(saved_model("llama")))), names)
    done = names["done"]
    assert done.folder == Path("out")
    assert done.edit == Edit.load("out/edit.json")
    assert json.loads(Path("out/results.json").read_text()) == json.loads(json.dumps(done.results))
    assert (done.folder / "report.html").exists()
    assert done.results["verdict"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ("builtin:everyday", {"no_such": 1}, "option no_such: extra inputs are not permitted; see"),
        ("builtin:everyday", {"examples": "many"}, "option examples: .*; see crispr_lm.RunSettings"),
        ([TASK], {}, "a Task is no name of a task; .*search_edit"),
    ],
)
def test_a_mistake_ends_in_a_sentence_before_anything_is_loaded(tasks, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        crispr_lm.run("nowhere", tasks, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
