"""A finished run of a tiny model, with text in it that would be markup if anybody let it."""

import json

import pytest

from crispr_lm.jobs.run import run

from ..jobs.test_run import questions, settings_for

__all__ = ["questions"]

ATTACK = "<img src=x onerror='window.hacked = 1'><b>bold</b> `code` $x$"


@pytest.fixture(scope="module")
def finished(saved_model, questions, tmp_path_factory):
    """Its folder; the edit has neurons."""
    output = tmp_path_factory.mktemp("finished") / "out"
    results = run(str(saved_model("llama")), settings_for(questions, output, neurons="ffn"))
    assert results["edit"]["neurons"] > 1
    return output


@pytest.fixture(scope="module")
def attacking(finished):
    """The same folder, with markup in a question, an option and a neuron's tokens; two answers have changed."""
    rows = [json.loads(line) for line in (finished / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["scores"]["after"] = row["scores"]["before"]
    wrong, right = [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2
    changed = [row for row in rows if row["condition"] == "ambiguous"][:2]
    changed[0] |= {"scores": {"before": wrong, "after": right}, "question": f"Who {ATTACK}?"}
    changed[0]["options"] = ["nurse", f"the {ATTACK}", "unknown"]
    changed[1] |= {"scores": {"before": right, "after": wrong}}
    (finished / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    results["neurons"][0]["promotes"] = [ATTACK]
    (finished / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return finished
