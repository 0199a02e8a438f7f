"""`crispr-lm difference`: the same questions are paired, the others counted and named, whoever has logged them."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from crispr_lm import InputError
from crispr_lm.jobs.difference import difference
from crispr_lm.report.difference import line, print_difference
from crispr_lm.storage.sanitize import names_apart

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
    assert "In A alone, not compared: 1 question (own:79)." in printed
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


def test_other_instructions_are_said_in_whatever_order_and_a_run_has_them_in_its_seal(tmp_path, capsys):
    def log(name, instructions, **more):
        path = tmp_path / name
        path.mkdir()
        rows = [stored(number, right=bool(number % 2), **more) for number in range(20)]
        for row in rows:
            row["instructions"] = instructions
            row["scores"]["answers"] *= len(instructions)
        return lines(path / "answers.jsonl", rows)

    one, same, other = log("one", ["A.", "B."]), log("same", ["B.", "A."]), log("other", ["A.", "C."])
    assert difference(one, same)["tasks"]["own"]["instructions_differ"] is False
    found = difference(one, other)
    assert found["tasks"]["own"]["instructions_differ"]
    assert (found["a"], found["b"]) == ("one/answers.jsonl", "other/answers.jsonl")
    print_difference(found)
    assert "The instructions of A and B differ" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path(one).read_text().splitlines()]
    run = [{key: value for key, value in row.items() if key != "instructions"} for row in rows]
    for row in run:
        row["scores"] = {"before": row["scores"]["answers"]}
    (tmp_path / "run").mkdir()
    of_run = lines(tmp_path / "run" / "answers.jsonl", run)
    assert difference(one, of_run)["tasks"]["own"]["instructions_differ"] is None
    print_difference(difference(one, of_run))
    assert "may differ: they are not known of both" in " ".join(capsys.readouterr().out.split())
    seal = {"content": {"measured": {"own": {"instructions": ["A.", "B."]}}}}
    (tmp_path / "run" / "sealed.json").write_text(json.dumps(seal))
    assert difference(one, of_run)["tasks"]["own"]["instructions_differ"] is False
    assert difference(of_run, other)["tasks"]["own"]["instructions_differ"]


def test_a_condition_has_its_accuracy_once(tmp_path):
    rows = [stored(number, right=True, condition=("ambiguous", "disambiguated")[number % 2]) for number in range(40)]
    (task,) = difference(*[lines(tmp_path / f"{name}.jsonl", rows) for name in "ab"])["tasks"].values()
    assert {name: list(part["metrics"]) for name, part in task["breakdown"]["condition"].items()} == {
        "ambiguous": ["accuracy"],
        "disambiguated": ["accuracy"],
    }
    assert "accuracy_ambiguous" in task["metrics"]


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("/home/me/q1/answers.jsonl", "/home/me/q2/answers.jsonl", ("q1/answers.jsonl", "q2/answers.jsonl")),
        ("/a/x/y/answers.jsonl", "/b/x/y/answers.jsonl", ("a/.../answers.jsonl", "b/.../answers.jsonl")),
        ("/home/me/a.jsonl", "/home/me/b.jsonl", ("a.jsonl", "b.jsonl")),
        ("/home/me/out/", "/home/me/out", ("out", "out")),
        ("answers.jsonl", "/home/me/q2/answers.jsonl", ("answers.jsonl", "q2/answers.jsonl")),
    ],
)
def test_two_paths_are_shown_as_far_as_they_differ(first, second, shown):
    assert names_apart(first, second) == shown


def sample(number, value, **more):
    doc = {"question": f"Q{number}", "category": ("Age", "Race")[number % 2], "question_index": number // 4, **more}
    return {"doc_id": number, "doc": doc, "arguments": [["x", "y"]], "doc_hash": f"h{number}", "filter": "none",
            "metrics": ["acc", "text"], "acc": value, "text": "no number"}  # fmt: skip


def resampled(templates, before, after, seed=1):
    """Difference, interval and p-value by hand: templates drawn again, or swapped, in pairs."""
    generator, by_template = np.random.default_rng(seed), defaultdict(list)
    for template, old, new in zip(templates, before, after, strict=True):
        by_template[template].append(new - old)
    sums = np.array([sum(of) for of in by_template.values()])
    sizes = np.array([len(of) for of in by_template.values()])
    count, value = len(sums), sums.sum() / sizes.sum()
    drawn = generator.integers(0, count, (20_000, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = norm.cdf(-np.sqrt(count / (count - 1)) * t.ppf(0.975, count - 1))
    swapped = (generator.choice([-1, 1], (20_000, count)) * sums).sum(axis=1) / sizes.sum()
    low, high = np.quantile(means, [tail, 1 - tail])
    return value, low, high, (np.abs(swapped) >= abs(value) - 1e-12).mean()


@pytest.mark.parametrize("kind", ["ours", "lm-eval"])
def test_difference_interval_and_test_equal_a_short_computation(kind, tmp_path):
    generator = np.random.default_rng(3)
    templates = np.sort(generator.integers(0, 25, 150))
    before = generator.random(150) < generator.random(25)[templates]
    after = np.where(generator.random(150) < 0.7, before, generator.random(150) < 0.6)
    if kind == "ours":
        logs = [[stored(n, right, template=f"t{templates[n]}") for n, right in enumerate(of)] for of in (before, after)]
    else:
        logs = [[sample(n, float(right), template=int(templates[n]), category="A") for n, right in enumerate(of)]
                for of in (before, after)]  # fmt: skip
    names = [lines(tmp_path / f"samples_{number}.jsonl", rows) for number, rows in enumerate(logs)]
    (task,) = difference(*names)["tasks"].values()
    found = task["metrics"]["accuracy" if kind == "ours" else "acc"]
    value, low, high, p_value = resampled(templates, before.astype(float), after.astype(float))
    assert (found["value"], found["questions"]) == (pytest.approx(value), 150)
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=0.008), pytest.approx(high, abs=0.008))
    assert found["p_value"] == pytest.approx(p_value, abs=0.02)


def bbq_sample(number, chosen):
    """What lm-eval's task bbq logs: options 0 (stereotyped), 1, 2 (unknown); NaN for other categories' scores."""
    disambiguated = number % 2 == 1
    right = chosen == (1 if disambiguated else 2)
    counts = [float(right), float(chosen == 0), float(chosen != 2), str(disambiguated)]
    metrics = {
        "acc": float(right),
        "accuracy_amb": [float(right), str(disambiguated)],
        "amb_bias_score": counts,
        "amb_bias_score_Religion": [float(right), float("nan"), float("nan"), float("nan")],
    }
    condition = "disambig" if disambiguated else "ambig"
    row = sample(number, 0.0, context_condition=condition, category="Age") | metrics | {"prompt_hash": f"p{number}"}
    return row | {"metrics": list(metrics)}


def test_bias_scores_of_lm_eval_and_what_is_not_compared(tmp_path, capsys):
    generator = np.random.default_rng(5)
    chosen = generator.integers(0, 3, (2, 120))
    logs = [[bbq_sample(number, option) for number, option in enumerate(of)] for of in chosen]
    logs[1][0]["prompt_hash"] = "another"
    logs[1][7]["acc"] = float("nan")
    first, second = (lines(tmp_path / f"samples_{number}.jsonl", rows) for number, rows in enumerate(logs))
    assert "NaN" in Path(first).read_text()
    found = difference(first, second)
    task = found["tasks"]["all"]
    for side, options in zip("ab", chosen, strict=True):
        ambiguous, disambiguated = options[::2], options[1::2]
        share = 2 * (ambiguous == 0).sum() / (ambiguous != 2).sum() - 1
        expected = (1 - (ambiguous == 2).mean()) * share
        assert task["metrics"]["bias_score_ambiguous"][side] == pytest.approx(expected)
        expected = 2 * (disambiguated == 0).sum() / (disambiguated != 2).sum() - 1
        assert task["metrics"]["bias_score_disambiguated"][side] == pytest.approx(expected)
    assert task["metrics"]["acc"]["questions"] == 119
    assert task["no_numbers"] == ["accuracy_amb"]
    assert (task["prompts_differ"], task["clustered"]) == (1, True)
    print_difference(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "A: samples_0.jsonl B: samples_1.jsonl (lm-eval)" in printed
    for sentence in (
        "acc of 119 questions alone",
        "Not compared, no number for a question: accuracy_amb.",
        "The prompt of 1 question differs",
    ):
        assert sentence in printed


def test_questions_without_templates_count_by_themselves_and_that_is_said(tmp_path, capsys):
    rows = [sample(number, float(number % 2)) for number in range(20)]
    for row in rows:
        del row["doc"]["question_index"]
    names = [lines(tmp_path / f"samples_{number}.jsonl", rows) for number in range(2)]
    found = difference(*names)
    assert (found["tasks"]["all"]["clustered"], found["tasks"]["all"]["templates"]) == (False, 20)
    print_difference(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "20 questions in both" in printed
    assert "templates" not in printed.partition("metric")[0]
    assert "so each counts by itself" in printed


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
