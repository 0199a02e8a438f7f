"""`crispr-lm difference`: the same questions are paired, the others counted and named, whoever has logged them."""

import json
from pathlib import Path

import numpy as np
import pytest

from crispr_lm import InputError
from crispr_lm.jobs.difference import difference
from crispr_lm.report.difference import line, print_difference

REAL = Path(__file__).parents[3] / "shared" / "data" / "logs"


def lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return str(path)


def stored(number, right, **more):
    scores = [0.0 if place == (2 if right else 0) else -1.0 for place in range(3)]
    return {
        "task": "own", "family": "question_answering", "source": f"own:{number}", "template": f"t{number // 2}",
        "category": ("Age", "Religion")[number % 2], "condition": "ambiguous",
        "context": "", "question": f"Who {number}?",
        "options": ["a", "b", "unknown"], "answer": 2, "unknown": 2, "stereotyped": 0, "facets": {},
        "instructions": ["Answer."], "scores": {"answers": [scores]}, **more,
    }  # fmt: skip


def test_our_answers_are_paired_by_question(tmp_path, capsys):
    generator = np.random.default_rng(0)
    before = generator.random(80) < 0.4
    after = before | (generator.random(80) < 0.5)
    first = lines(tmp_path / "a.jsonl", [stored(number, right) for number, right in enumerate(before)])
    rows = [stored(number, right) for number, right in enumerate(after)]
    rows[-1] = stored(99, right=True)
    second = lines(tmp_path / "b.jsonl", rows[::-1])  # their order does not matter
    found = difference(first, second)
    own = found["tasks"]["own"]
    assert (found["kind"], own["questions"], own["templates"]) == ("crispr-lm", 79, 40)
    assert (own["only_a"], own["only_b"]) == (["own:79"], ["own:99"])
    accuracy = own["metrics"]["accuracy_ambiguous"]
    expected = (after[:79].astype(float) - before[:79]).mean()
    assert accuracy["value"] == pytest.approx(expected)
    assert accuracy["a"] + accuracy["value"] == pytest.approx(accuracy["b"])
    assert accuracy["low"] < expected < accuracy["high"]
    assert accuracy["p_value"] < 0.01
    of_category = own["breakdown"]["category"]
    assert {name: part["questions"] for name, part in of_category.items()} == {"Age": 40, "Religion": 39}
    assert "condition" not in own["breakdown"]  # there is one alone
    print_difference(found)
    printed = capsys.readouterr().out
    assert "In A alone, not compared: 1 questions (own:79)." in printed
    assert "accuracy_ambiguous" in line(found)


def test_the_same_log_does_not_differ_and_a_run_has_two_sides(tmp_path):
    rows = []
    for number in range(30):
        one = stored(number, right=False)
        del one["family"], one["instructions"]
        one["scores"] = {"before": one["scores"]["answers"], "after": stored(number, right=True)["scores"]["answers"]}
        rows.append(one)
    lines(tmp_path / "answers.jsonl", rows)
    (tmp_path / "results.json").write_text(json.dumps({"tasks": {"own": {"family": "question_answering"}}}))
    folder = str(tmp_path)
    same = difference(folder, folder)["tasks"]["own"]["metrics"]["accuracy"]
    assert (same["value"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)
    both = difference(f"{folder}/answers.jsonl:before", f"{folder}/answers.jsonl:after")
    assert both["tasks"]["own"]["metrics"]["accuracy"]["value"] == 1
    (tmp_path / "results.json").unlink()
    with pytest.raises(InputError, match=r"results\.json"):
        difference(folder, folder)


def sample(number, value, **more):
    doc = {"question": f"Q{number}", "category": ("Age", "Race")[number % 2], "question_index": number // 4, **more}
    return {"doc_id": number, "doc": doc, "arguments": [["x", "y"]], "doc_hash": f"h{number}", "filter": "none",
            "metrics": ["acc", "text"], "acc": value, "text": "no number"}  # fmt: skip


def test_samples_of_lm_eval(tmp_path):
    first = lines(tmp_path / "samples_a.jsonl", [sample(number, 0.0) for number in range(40)])
    strict = {"filter": "strict-match", "metrics": ["exact_match"], "exact_match": 1.0}
    rows = [sample(number, float(number % 2)) for number in range(41)]
    second = lines(tmp_path / "samples_b.jsonl", [*rows, {**sample(0, 0.0), **strict}])
    found = difference(first, second)
    task = found["tasks"]["all"]
    assert (found["kind"], task["questions"], task["only_b"]) == ("lm-eval", 40, ["samples_b.jsonl:41"])
    assert list(task["metrics"]) == ["acc"]  # what both have
    assert task["metrics"]["acc"]["value"] == 0.5
    assert task["templates"] == 20  # ten numbers, anew in each of two categories
    values = {name: part["metrics"]["acc"]["value"] for name, part in task["breakdown"]["category"].items()}
    assert values == {"Age": 0, "Race": 1}
    assert difference(first, second, cluster="question")["tasks"]["all"]["templates"] == 40
    with pytest.raises(InputError, match="no field 'nothing'"):
        difference(first, second, cluster="nothing")


def test_logs_of_inspect(tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    from inspect_ai.scorer import Score

    def logged(name, values):
        spec = log.EvalSpec(created="2026-01-01T00:00:00Z", task="t", dataset=log.EvalDataset(), model="m",
                            config=log.EvalConfig())  # fmt: skip
        samples = [
            log.EvalSample(id=number, epoch=epoch, input=f"Q{number}", target="A", scores={"match": Score(value=value)},
                           metadata={"template": f"t{number // 2}", "condition": ("ambig", "disambig")[number % 2]})
            for number, value in enumerate(values)
            for epoch in (1, 2)
        ]  # fmt: skip
        path = tmp_path / f"{name}.json"
        log.write_eval_log(log.EvalLog(eval=spec, samples=samples, status="success"), str(path))
        return str(path)

    first, second = logged("a", ["C", "I"] * 20), logged("b", ["C", "P"] * 20)
    task = difference(first, second)["tasks"]["all"]
    assert (task["questions"], task["templates"]) == (40, 20)
    assert task["metrics"]["match"]["value"] == 0.25
    by_condition = task["breakdown"]["condition"]
    assert [by_condition[name]["metrics"]["match"]["value"] for name in ("ambiguous", "disambiguated")] == [0, 0.5]


def test_what_can_not_be_compared_is_a_sentence(tmp_path):
    ours = lines(tmp_path / "ours.jsonl", [stored(0, right=True)])
    theirs = lines(tmp_path / "theirs.jsonl", [sample(0, 1.0)])
    others = lines(tmp_path / "others.jsonl", [sample(9, 1.0)])
    unknown = lines(tmp_path / "unknown.jsonl", [{"a": 1, "b": 2}])
    for pair, sentence in (
        ((ours, theirs), "two tools"),
        ((theirs, others), "no question in common"),
        ((theirs, unknown), "neither our answers nor samples of lm-eval"),
        ((theirs, str(tmp_path / "none.jsonl")), "not there"),
        ((ours, lines(tmp_path / "o.jsonl", [stored(0, right=True, task="else")])), "no task in common"),
    ):
        with pytest.raises(InputError, match=sentence):
            difference(*pair)
    with pytest.raises(InputError, match="--cluster"):
        difference(ours, ours, cluster="x")


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data is not here")
@pytest.mark.parametrize("name", ["lm_eval/own_example.samples_multiple_choice.jsonl", "inspect_ai/log_formats.json"])
def test_real_logs_do_not_differ_from_themselves(name):
    if name.startswith("inspect"):
        pytest.importorskip("inspect_ai")
    found = difference(str(REAL / name), str(REAL / name))
    for row in found["tasks"]["all"]["metrics"].values():
        assert row["value"] == 0
