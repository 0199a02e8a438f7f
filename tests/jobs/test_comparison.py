"""The comparison job, end to end on tiny models: its figures from its files, its resumption, its tables."""

import copy
import itertools
import json
import re
import shutil

import pytest

from crispr_lm import Edit, InputError, RunSettings, evaluate, load_model, load_task, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.baselines.registry import ABLATION
from crispr_lm.jobs import comparison as job
from crispr_lm.jobs.comparison import chosen_methods, compare
from crispr_lm.jobs.run import run
from crispr_lm.report.comparison import markdown, print_comparison
from crispr_lm.report.comparison_page import _methods, _transfers, render_comparison
from crispr_lm.settings import CompareSettings

from ..baselines.questions import PEOPLE, examples
from ..browser import check_tabs, needs_browser, opened

ATTACK = "<img src=x onerror='window.hacked = 1'>"

QUICK = ("random", "weights", "instruction", "contextual-calibration")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The current folder, with two files of nine templates each and two instructions: names have no folders then."""
    folder = tmp_path_factory.mktemp("task")
    for number, name in enumerate(("first", "second")):
        rows = [
            {
                "context": example.context,
                "question": ("Who was late?", "Who was slow?")[number],
                "options": list(example.options),
                "answer": example.answer,
                "group": template,
                "condition": example.condition,
                "unknown": 2,
                "stereotyped": 0,
            }
            for template in range(9)
            for example in examples(template)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "instructions.txt").write_text("Answer the question.\nChoose the right option:\n", encoding="utf-8")
    assert len(PEOPLE) == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


FURTHER = ("builtin:knowledge", "builtin:facts", "builtin:other-kinds")
"""Measured in every run."""


def settings_for(questions, output, names=("first", "second"), **changes):
    given = {
        "task": tuple(f"choices:{name}.jsonl" for name in names),
        "instructions": str(questions / "instructions.txt"),
        "output": output,
        "examples": 2,
        "neurons": "ffn",
        "search": "sweep",
        "max_neurons": 3,
        "max_accuracy_loss": 1.0,
        "device": "cpu",
        "measure_examples": 4,
        "neutral_prompts": 2,
        "draws": 2,
        "methods": QUICK,
        "curves": False,
        "transfer": False,
    }
    if changes.get("search") == "tuned":
        given |= {"max_fact_loss": 1.0, "max_spillover": 1.0}
    return CompareSettings(**(given | changes))


def cells_of(output):
    return [json.loads(line) for line in (output / "cells.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def compared(saved_model, questions, tmp_path_factory):
    """A whole comparison of two tasks, with transfer and curves; (result, settings)."""
    settings = settings_for(questions, tmp_path_factory.mktemp("whole") / "out", transfer=True, curves=True)
    return compare(str(saved_model("llama")), settings), settings


def test_every_method_has_a_row_on_every_task(compared):
    results, settings = compared
    assert set(results["methods"]) == {"original", "search", *QUICK}
    for name in settings.task:
        rows = results["tasks"][name]["rows"]
        assert list(rows) == list(results["methods"])
        removed = rows["random"]["neurons"]
        assert removed > 0
        assert {method: row["neurons"] for method, row in rows.items()} == {
            "original": 0,
            "search": removed if rows["search"]["recommended"] else 0,
            "random": removed,
            "weights": removed,
            "instruction": 0,
            "contextual-calibration": 0,
        }
        # A forward and a backward pass at least for each of two examples under two instructions.
        assert rows["search"]["passes"] >= 8
        assert rows["original"]["passes"] == rows["weights"]["passes"] == rows["instruction"]["passes"] == 0
        assert rows["random"]["divergence"]["kl"] > 0
        assert rows["instruction"]["divergence"]["kl"] == 0
        assert set(rows["random"]["measured"]) == {name, *FURTHER}
        assert results["tasks"][name]["scoring"] == dict.fromkeys((name, *FURTHER), "sum")
    assert json.loads((settings.output / "comparison.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(results)
    )
    assert {path.name for path in settings.output.iterdir()} == {*job.ComparisonFolder.FILES, "search"}


def test_the_page_holds_no_markup_of_others_and_needs_nothing_from_elsewhere(compared):
    results, settings = compared
    hostile = json.loads(
        json.dumps(results).replace(settings.task[0], ATTACK).replace('"label": "', f'"label": "{ATTACK}')
    )
    page = render_comparison(hostile)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "<img" not in outside
    assert outside.count("<script") == len(re.findall(r'id="data-figure-', page)) > 0
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", outside)
    assert "&lt;img" in outside


def test_a_task_without_halves_is_drawn_by_its_headline(compared):
    results, settings = compared
    first, second = settings.task
    other = json.loads(json.dumps(results))
    task = other["tasks"][second]
    task["family"] = "winobias"
    difference = {"value": -0.5, "low": -0.75, "high": -0.125, "p_value": 0.0002, "p_value_holm": 0.0004}
    for row in task["rows"].values():
        for measured in row.get("measured", {}).values():
            measured["metrics"] = {"stereotype_gap": -0.25}
            measured["differences"] = {"stereotype_gap": difference}
    for of_fitted in other["transfer"]["differences"].values():
        of_fitted[second]["differences"] = {"stereotype_gap": difference}
    labels = [other["methods"][method]["label"] for method in task["rows"]]
    points = _methods(task, other["methods"])
    assert sorted(name for trace in points.data for name in trace.y) == sorted(labels)
    assert {value for trace in points.data for value in trace.x} == {-0.25}
    drawn = _transfers(other)
    assert list(drawn) == [
        "transfer-accuracy_ambiguous",
        "transfer-accuracy_disambiguated",
        "transfer-stereotype_gap",
        "transfer-overlap",
    ]
    (matrix,) = drawn["transfer-stereotype_gap"].data
    assert matrix.z == ([-0.5], [-0.5])
    assert [list(row) for row in matrix.customdata] == [["-0.500, -0.750 to -0.125, p &lt; 0.001"]] * 2
    for metric in ("accuracy_ambiguous", "accuracy_disambiguated"):  # every cell tells its own difference
        (matrix,) = drawn[f"transfer-{metric}"].data
        for fitted, row in zip(settings.task, matrix.customdata, strict=True):
            found = results["transfer"]["differences"][fitted][first]["differences"][metric]
            assert row[0].startswith(f"{found['value'] + 0.0:+.3f}, {found['low'] + 0.0:+.3f} to ")
            assert row[0].endswith(f"p = {found['p_value_holm']:.3f}")
    shares = drawn["transfer-overlap"].data[0].z
    assert (shares[0][0], shares[1][1]) == (1.0, 1.0)
    assert shares[0][1] == results["transfer"]["overlap"][first][second]["jaccard"]


@pytest.mark.browser
@needs_browser
def test_every_tab_of_the_page_works_in_a_browser(compared):
    _, settings = compared
    page = settings.output / "comparison.html"
    with opened(page.as_uri(), ["file:", "data:", "blob:"]) as (tab, problems):
        check_tabs(tab, ("tables", "transfer", "curves", "record", "methods"))
        assert "Largest weights" in tab.inner_text("#methods")
        assert problems == []


def test_figures_are_those_of_the_edited_model(compared, saved_model):
    results, settings = compared
    lm = load_model(saved_model("llama"), device="cpu")
    for name in settings.task:
        (cell,) = (
            x for x in cells_of(settings.output) if (x["part"], x["what"], x["task"]) == ("methods", "search", name)
        )
        sources = set(results["record"]["parts"][name]["test"])
        task = load_task(name, settings.instructions[0])
        report = [x for x in task.examples if x.source in sources]
        before = evaluate(lm, report, task.instructions)
        for _, module, index in cell["neurons"]:
            lm.model.get_submodule(module).weight.data[:, index] = 0
        after = evaluate(lm, report, task.instructions)
        lm = load_model(saved_model("llama"), device="cpu")
        measured = results["tasks"][name]["rows"]["search"]["measured"][name]
        assert measured["metrics"] == pytest.approx(after.metrics)
        for metric, found in after.differences_from(before, settings.seed).items():
            mine = measured["differences"][metric]
            assert (mine["value"], mine["low"], mine["high"], mine["p_value"]) == pytest.approx(
                (found.value, found.low, found.high, found.p_value)
            )


def test_draws_are_averaged_and_their_range_is_reported(compared):
    results, settings = compared
    name = settings.task[0]
    draws = [x for x in cells_of(settings.output) if (x["what"], x["task"]) == ("random", name)]
    assert [draw["number"] for draw in draws] == [0, 1]
    assert draws[0]["neurons"] != draws[1]["neurons"]
    sources = results["record"]["parts"][name]["test"]
    answers = {x.source: x.answer for x in load_task(name).examples}
    means = []
    for draw in draws:
        right = [
            row.index(max(row)) == answers[source]
            for table in draw["measured"][name]["scores"]
            for row, source in zip(table, sources, strict=True)
        ]
        means.append(sum(right) / len(right))
    measured = results["tasks"][name]["rows"]["random"]["measured"][name]
    assert measured["metrics"]["accuracy"] == pytest.approx(sum(means) / 2)
    assert measured["range"]["accuracy"] == pytest.approx([min(means), max(means)])


def test_p_values_are_corrected_over_tasks_for_each_method(compared):
    results, _ = compared
    found = [
        measured["differences"]["accuracy"]
        for task in results["tasks"].values()
        for measured in task["rows"]["weights"]["measured"].values()
    ]
    assert len(found) == 8  # two tasks, and three further ones beside each
    smallest = min(found, key=lambda one: one["p_value"])
    assert smallest["p_value_holm"] == pytest.approx(min(1, 8 * smallest["p_value"]))


def test_transfer_is_the_edit_of_one_task_measured_on_the_other(compared, saved_model):
    results, settings = compared
    first, second = settings.task
    transfer = results["transfer"]
    assert (
        transfer["differences"][first][first]["metrics"]
        == results["tasks"][first]["rows"]["search"]["measured"][first]["metrics"]
    )
    edits = {
        x["task"]: {tuple(n) for n in x["neurons"]}
        for x in cells_of(settings.output)
        if x["what"] == "search" and x["part"] == "methods"
    }
    common = len(edits[first] & edits[second])
    assert transfer["overlap"][first][second]["common"] == common
    either = len(edits[first] | edits[second])
    assert transfer["overlap"][first][second]["jaccard"] == pytest.approx(common / either if either else 1)
    lm = load_model(saved_model("llama"), device="cpu")
    for _, module, index in edits[first]:
        lm.model.get_submodule(module).weight.data[:, index] = 0
    task = load_task(second, settings.instructions[0])
    sources = set(results["record"]["parts"][second]["test"])
    after = evaluate(lm, [x for x in task.examples if x.source in sources], task.instructions)
    assert transfer["differences"][first][second]["metrics"] == pytest.approx(after.metrics)


def test_curves_over_neurons_and_examples(compared, saved_model):
    results, settings = compared
    name = settings.task[0]
    curves = results["curves"][name]
    assert [(point["point"], point["neurons"]) for point in curves["neurons"]] == [(n, n) for n in (1, 3)]
    removed = results["tasks"][name]["rows"]["random"]["neurons"]
    assert [(point["point"], point["neurons"]) for point in curves["examples"]] == [(1, removed), (2, removed)]
    assert all(point["divergence"]["kl"] > 0 for point in curves["neurons"])
    # The neurons of the last point are those attributed on all these examples at once.
    (cell,) = (x for x in cells_of(settings.output) if (x["part"], x["task"], x["number"]) == ("examples", name, 2))
    task = load_task(name, settings.instructions[0])
    fit = [x for x in task.examples if x.source in results["record"]["parts"][name]["attribution"]]
    scores = score_neurons(load_model(saved_model("llama"), device="cpu"), fit, task.instructions, BiasInfluence("ffn"))
    assert [[n.kind, n.module, n.index] for n in scores.top(removed)] == cell["neurons"]


def test_an_edit_that_was_measured_already_is_not_measured_again(saved_model, questions, tmp_path, monkeypatch):
    real, measured = job.measure, []

    def counted(lm, treatment, subject, *rest):
        measured.append((treatment.edit and frozenset(treatment.edit.neurons), subject.name))
        return real(lm, treatment, subject, *rest)

    monkeypatch.setattr(job, "measure", counted)
    settings = settings_for(questions, tmp_path / "out", ("first",), methods=("published",), removed=3, curves=True)
    results = compare(str(saved_model("llama")), settings)
    assert len(measured) == len(set(measured))
    cells = {(x["part"], x["what"], x["number"]): x for x in cells_of(settings.output)}
    (name,) = settings.task
    # As many of the published ranking as asked for: in two rows of the table and a point of each curve.
    alike = [cells[key] for key in (("methods", "search", 0), ("methods", "published", 0), ("neurons", "published", 3))]
    assert alike[0]["neurons"] == alike[1]["neurons"] == alike[2]["neurons"]
    assert alike[0]["divergence"] == alike[1]["divergence"] == alike[2]["divergence"]
    assert set(alike[1]["measured"]) == {name, *FURTHER}
    assert set(alike[2]["measured"]) == {name}
    # No search was run, so nothing bears its name.
    assert results["methods"]["search"]["label"] == "Published ranking, 3 neurons"
    # What was taken over is what measuring gives.
    edited = load_model(saved_model("llama"), device="cpu")
    for _, module, index in alike[1]["neurons"]:
        edited.model.get_submodule(module).weight.data[:, index] = 0
    task = load_task(name, settings.instructions[0])
    sources = set(results["record"]["parts"][name]["test"])
    after = evaluate(edited, [x for x in task.examples if x.source in sources], task.instructions)
    assert results["tasks"][name]["rows"]["published"]["measured"][name]["metrics"] == pytest.approx(after.metrics)


def test_more_neurons_than_the_model_has_are_refused_before_anything_is_scored(saved_model, questions, tmp_path):
    settings = settings_for(questions, tmp_path / "out", removed=97)
    with pytest.raises(InputError, match=r"--removed 97: .* has 96 ffn neurons"):
        compare(str(saved_model("llama")), settings)
    assert not (tmp_path / "out").exists()


def test_a_resumed_comparison_equals_an_uninterrupted_one(compared, saved_model, questions, tmp_path, monkeypatch):
    model, (whole, settings) = str(saved_model("llama")), compared
    given = {"transfer": True, "curves": True}
    real, count = job.append_line, 0

    def killed(path, content):
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        real(path, content)

    output = tmp_path / "killed"
    monkeypatch.setattr(job, "append_line", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(model, settings_for(questions, output, **given))
    assert len(cells_of(output)) == 4
    with (output / "cells.jsonl").open("a") as file:
        file.write('{"part": "meth')  # a line that was being written
    measured = []
    monkeypatch.setattr(job, "append_line", lambda path, content: (measured.append(content), real(path, content)))
    resumed = compare(model, settings_for(questions, output, **given, resume=True))
    assert len(measured) + 4 == len(cells_of(settings.output)) == len(cells_of(output))

    def timeless(results):
        results = copy.deepcopy(results)
        for task in results["tasks"].values():
            for row in task["rows"].values():
                del row["seconds"]
        del results["record"]["identity"]["moment"]
        return results

    assert timeless(resumed) == timeless(whole)


@pytest.fixture(scope="module")
def weights_alone(saved_model, questions, tmp_path_factory):
    """The folder of a comparison of one task with one method."""
    output = tmp_path_factory.mktemp("weights") / "out"
    compare(str(saved_model("llama")), settings_for(questions, output, ("first",), methods=("weights",)))
    return output


@pytest.fixture
def weighed(weights_alone, tmp_path):
    """A copy of it, the test's own to go on with."""
    return shutil.copytree(weights_alone, tmp_path / "out")


def test_a_finished_comparison_takes_further_methods(weighed, saved_model, questions):
    model, output = str(saved_model("llama")), weighed
    before = cells_of(output)
    results = compare(model, settings_for(questions, output, ("first",), methods=("instruction",), resume=True))
    after = cells_of(output)
    assert after[: len(before)] == before
    assert [cell["what"] for cell in after[len(before) :]] == ["instruction"]
    assert set(results["methods"]) == {"original", "search", "instruction"}


def test_no_passes_are_told_of_a_search_that_was_interrupted_and_other_methods_have_the_same(
    weighed, saved_model, questions
):
    model, cells = str(saved_model("llama")), weighed / "cells.jsonl"
    settings = settings_for(questions, weighed, ("first",), methods=("weights",), resume=True)
    before, lines = cells_of(weighed), cells.read_text(encoding="utf-8").splitlines(keepends=True)
    assert [cell["what"] for cell in before[:2]] == ["original", "search"]
    cells.write_text("".join(lines[:1]), encoding="utf-8")  # all of its trials are in search.jsonl
    (weighed / "comparison.json").unlink()
    results = compare(model, settings)
    after = cells_of(weighed)
    assert [cell["passes"] for cell in after] == [
        None if cell["what"] == "search" else cell["passes"] for cell in before
    ]
    assert "of a search that was interrupted" in " ".join(markdown(results).split())
    cells.write_text("".join(lines[:2]), encoding="utf-8")  # the edit is known, the neutral prompts are read again
    (weighed / "comparison.json").unlink()
    compare(model, settings)
    assert [cell["passes"] for cell in cells_of(weighed)] == [cell["passes"] for cell in before]


def test_other_settings_are_not_gone_on_with(weighed, saved_model, questions):
    model, output = str(saved_model("llama")), weighed
    with pytest.raises(InputError, match="settings"):
        compare(model, settings_for(questions, output, ("first",), methods=("weights",), seed=1, resume=True))


def test_a_method_that_can_not_be_run_is_reported_with_its_reason(saved_model, questions, tmp_path, capsys):
    results = compare(
        str(saved_model("llama")),
        settings_for(questions, tmp_path / "out", ("first",), methods=("contextual-calibration",), scoring="generate"),
    )
    (task,) = results["tasks"].values()
    row = task["rows"]["contextual-calibration"]
    assert row["status"] == "not run"
    assert "generated answers have none" in row["reason"]
    for text in (markdown(results), (print_comparison(results, tmp_path), capsys.readouterr().out)[1]):
        assert "Contextual calibration: not run: it corrects option scores" in " ".join(text.split())
        assert "written answers matched to the options" in " ".join(text.split())
    assert "unmatched_share" in task["rows"]["search"]["measured"][next(iter(results["tasks"]))]["metrics"]


def test_a_text_is_measured_beside_the_tasks(saved_model, questions, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The old man and the young woman waited at the bus stop. " * 30)
    settings = settings_for(
        questions, tmp_path / "out", ("first",), methods=("instruction", "weights"), measure=(f"text:{text}",)
    )
    results = compare(str(saved_model("llama")), settings)
    rows = {
        method: row["measured"][f"text:{text.name}"]
        for method, row in results["tasks"][settings.task[0]]["rows"].items()
    }
    assert rows["original"]["metrics"]["perplexity"] > 1
    assert rows["instruction"]["metrics"] == rows["original"]["metrics"]  # a text has no instruction
    assert rows["weights"]["metrics"] != rows["original"]["metrics"]
    assert f"{rows['weights']['metrics']['perplexity']:.3f}" in markdown(results)


def test_crispr_is_the_edit_that_a_run_makes(saved_model, questions, tmp_path):
    tuned = {
        "search": "tuned",
        "rounds": 2,
        "max_kl": 10.0,
        "max_overabstention": 1.0,
        "draws": 1,
    }
    settings = settings_for(questions, tmp_path / "out", ("first",), methods=("published", "random"), **tuned)
    model = str(saved_model("llama"))
    results = compare(model, settings)
    rows = results["tasks"][settings.task[0]]["rows"]
    cells = {cell["what"]: cell for cell in cells_of(settings.output)}
    assert (settings.output / "search" / "0" / "search.jsonl").exists()
    kinds = {name: sorted(kind for kind, _, _ in cell["neurons"]) for name, cell in cells.items()}
    assert kinds["published"] == kinds["random"]
    assert len(kinds["published"]) == rows["published"]["neurons"] > 0
    if not rows["search"]["recommended"]:
        # No other procedure stands under the search's name: what gives the others their size is kept beside.
        assert kinds["search"] == []
        assert cells["search"]["details"]["stand_in"] == cells["published"]["neurons"]
    else:
        assert kinds["search"] == kinds["published"]
        assert {cells[name]["scale"] for name in ("search", "published", "random")} == {cells["search"]["scale"]}
        given = {name: value for name, value in settings.model_dump().items() if name in RunSettings.model_fields}
        run(model, RunSettings(**{**given, "output": tmp_path / "run"}))
        edit = Edit.load(tmp_path / "run" / "edit.json")
        assert [[n.kind, n.module, n.index] for n in edit.neurons] == cells["search"]["neurons"]


def test_unknown_methods_are_refused_before_anything_is_done(questions, tmp_path):
    with pytest.raises(InputError, match="did you mean 'weights'"):
        compare("nowhere", settings_for(questions, tmp_path / "out", methods=("weight",)))
    assert not (tmp_path / "out").exists()
    assert [method.name for method in chosen_methods(("steering",))] == ["original", "search", "steering"]
    assert len(chosen_methods(("all",))) == 23
    assert "crispr-paper" in [method.name for method in chosen_methods(("all", "crispr-paper"))]  # takes long


def test_one_comparison_holds_both_halves_of_the_paper_and_its_ablation(saved_model, questions, tmp_path):
    """Stereotypes in questions and label bias in classification; an edit of each measured on the other."""
    names = ("Ann", "Bob", "Carol", "Dan", "Eve", "Fred", "Gil", "Hal", "Ida")
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    lines += [f"{number % 2}\t0\t0\t{name} waited .\t{name} was late ." for number, name in enumerate(names)]
    (questions / "mrpc.tsv").write_text("\n".join(lines), encoding="utf-8")
    asked = settings_for(questions, tmp_path / "out", transfer=True, ablation=True).model_dump(exclude_unset=True)
    del asked["methods"]
    tasks = ("choices:first.jsonl", "glue:mrpc:mrpc.tsv")
    results = compare(str(saved_model("llama")), CompareSettings(**(asked | {"task": tasks, "removed": 3})))
    assert list(results["methods"]) == ["original", "search", "published", "random", "biased-term", *ABLATION[1:3]]
    measured = {name: results["tasks"][tasks[1]]["rows"][name]["measured"][tasks[1]] for name in ABLATION}
    text = markdown(results).replace("\\", "")
    header, original, *_ = rows_of(text, tasks[1])
    assert header[3:6] == ["Accuracy", "Macro F1", "Label bias"]
    assert header[6:8] == ["Passes", "Per answer"]
    assert original[3].count("±") == 1
    assert float(original[7]) >= 1
    ablation = rows_of(text, "Ablation")
    assert [row[0] for row in ablation[1:]] == [results["methods"][name]["label"] for name in ("original", *ABLATION)]
    for row, name in zip(ablation[2:], ABLATION, strict=True):
        assert row[2].startswith(f"{measured[name]['metrics']['accuracy']:.3f} ± ")
    assert rows_of(text, "Transfer")[1][0] == tasks[0]
    assert {"accuracy", "label_bias"} <= set(results["transfer"]["differences"][tasks[0]][tasks[1]]["metrics"])
    assert "<table" in render_comparison(results)


def test_markdown_shows_text_as_it_is(compared):
    results = copy.deepcopy(compared[0])
    results["record"]["identity"]["model"] = "a|b*c_d<e>"
    text = markdown(results)
    assert "# Comparison on a\\|b\\*c\\_d\\<e\\>" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0].startswith("| Method | Neurons | choices:")  # all tasks at a glance
    header = next(line for line in table if line.startswith("| Method | Kind"))
    rows = table[table.index(header) + 1 : table.index(header) + 8]
    assert [row.replace("\\|", "").count("|") for row in rows] == [header.count("|")] * 7
    assert "- **published ranking, sweep**: The edit that crispr-lm run makes. With --removed no" in text
    for label in ("Original", "published ranking, sweep", "Random neurons", "Largest weights"):
        assert any(row.startswith(f"| {label} ") for row in rows)


def rows_of(text, title):
    """The rows of a Markdown table, as lists of cells; its header first."""
    lines = iter(text.splitlines())
    next(line for line in lines if line == f"## {title}")
    table = [line for line in itertools.takewhile(lambda line: not line.startswith("## "), lines) if line[:1] == "|"]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [table[0], *table[2:]]]


def test_differences_and_transfer_stand_in_the_tables_with_their_intervals(compared):
    results, settings = compared
    first, second = settings.task
    metrics = ("accuracy_ambiguous", "accuracy_disambiguated")

    def shown(measured):
        found = [measured["differences"][metric] for metric in metrics]
        assert all(one["p_value_holm"] >= one["p_value"] >= 0.001 for one in found)
        return " / ".join(
            f"{one['value']:+.3f}, {one['low']:+.3f} to {one['high']:+.3f}, p = {one['p_value_holm']:.3f}"
            for one in found
        )

    text = markdown(results).replace("\\", "")
    changes = {row[0]: row[1:] for row in rows_of(text, "All tasks: difference from the original")}
    assert "Original" not in changes
    for method, label in (("search", "published ranking, sweep"), ("random", "Random neurons")):
        assert changes[label] == [
            shown(results["tasks"][name]["rows"][method]["measured"][name]) for name in settings.task
        ]
    transfer = rows_of(text, "Transfer")
    assert transfer[1][2] == shown(results["transfer"]["differences"][first][second])
    assert transfer[2][1] == shown(results["transfer"]["differences"][second][first])
    header, *rows = rows_of(text, first)
    figures = {row[0]: row[header.index("KL")] for row in rows}
    kl = results["tasks"][first]["rows"]["weights"]["divergence"]
    assert figures["Largest weights"] == f"{kl['kl']:.3f} ({kl['low']:.3f} to {kl['high']:.3f})"
    assert figures["Fairness instruction"] == "0.000"
    assert kl["low"] < kl["kl"] < kl["high"]


def test_questions_of_other_forms_have_a_table_too(saved_model, questions, tmp_path):
    """Neither halves nor the same labels everywhere: their accuracy is what is results."""
    rows = [
        {"context": f"{first} met {second}.", "question": "Who met somebody?", "options": [first, second], "answer": 0}
        for first, second in itertools.permutations(("Ann", "Bob", "Carol", "Dan"), 2)
    ]
    path = tmp_path / "plain.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = settings_for(questions, tmp_path / "out", methods=("random",), task=(f"choices:{path}",), curves=True)
    results, name = compare(str(saved_model("llama")), settings), "choices:plain.jsonl"
    header, original, *_ = rows_of(markdown(results).replace("\\", ""), name)
    assert header[3] == "Accuracy, all questions"
    accuracy = results["tasks"][name]["rows"]["original"]["measured"][name]["metrics"]["accuracy"]
    assert original[3].startswith(f"{accuracy:.3f} ± ")
    assert "<table" in render_comparison(results)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "names"), [("gpt2", ("first", "second")), ("t5-gated", ("first",))])
def test_everything_runs_on_other_architectures(saved_model, questions, tmp_path, architecture, names):
    pytest.importorskip("captum")
    settings = settings_for(
        questions,
        tmp_path / "out",
        names,
        neurons="linear",
        methods=("all",),
        transfer=len(names) > 1,
        curves=True,
        draws=1,
        integration_prompts=1,
        integration_steps=2,
        calibration_texts=2,
    )
    results = compare(str(saved_model(architecture)), settings)
    for task in results["tasks"].values():
        assert all(row["status"] == "done" for row in task["rows"].values())
