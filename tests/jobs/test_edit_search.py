"""The search step of a run, end to end on a tiny model: ended, gone on with, interrupted, picked from."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crispr_lm
from crispr_lm import InputError, load_task
from crispr_lm.jobs.preparation import load_tasks, take_parts
from crispr_lm.jobs.run import run
from crispr_lm.jobs.search_settings import LIMITS, OF_TUNED, check_search, procedure_of, recorded_limits, unused
from crispr_lm.report.statement import statement
from crispr_lm.report.validation_rows import validation_rows
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.search.loop import Loop
from crispr_lm.settings import RunSettings
from crispr_lm.storage import files
from crispr_lm.storage.sanitize import without_folders

from ..robustness.commands import arguments_of
from .test_run import questions, read, settings_for

__all__ = ["questions"]

TUNED = {
    "search": "tuned",
    "rounds": 5,
    "validation_examples": 8,  # of 12, so that there are further ones to re-evaluate on
    "max_kl": 9.0,
    "max_overabstention": 1.0,
}


def rows_of(output):
    rows = [json.loads(line) for line in (output / "search.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(saved_model, questions, tmp_path_factory):
    """A run that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "out"
    results = run(str(saved_model("llama")), settings_for(questions, output, **TUNED))
    return output, results


def test_everything_tried_is_on_record_and_nothing_exceeds_the_limits(whole):
    output, results = whole
    rows = rows_of(output)
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert (rows[0]["neurons"], rows[0]["figures"]["gain"]) == ([], 0.0)
    assert {row["stage"] for row in rows} <= {"original", "rankings", "rounds", "elimination", "final", "control"}
    assert [row["stage"] for row in rows[:2]] == ["original", "rankings"]
    assert [row["recipe"]["round"] for row in rows if row["stage"] == "rounds"][-1] == 5
    assert all(len(row["neurons"]) <= 5 for row in rows)
    assert [row["trial"] for row in results["search"]] == [row["number"] for row in rows]
    tried = [row for row in rows if row["complete"] and row["stage"] not in ("final", "control")]
    assert set(results["choice"]["front"]) <= {row["number"] for row in tried}
    assert results["verdict"] in ("recommended", "not confirmed", "untested", "none")
    edit = crispr_lm.Edit.load(output / "edit.json")
    chosen = rows[results["choice"]["trial"]]
    assert [[neuron.kind, neuron.module, neuron.index] for neuron in edit.neurons] == chosen["neurons"]
    assert bool(edit.neurons) == (results["verdict"] != "none")
    assert not (output / "loop.safetensors").exists()


def test_re_evaluated_edits_are_asked_all_and_one_of_them_is_recommended(whole):
    output, results = whole
    rows = rows_of(output)
    finals = [row for row in rows if row["stage"] == "final"]
    assert [row["number"] for row in finals] == results["choice"]["finals"]
    assert finals[0]["recipe"]["of"] == 0
    assert len(finals) > 1
    (task,) = rows[0]["answers"]
    assert {len(row["answers"][task]) for row in finals} == {12}
    assert {len(row["answers"][task]) for row in rows if row["complete"] and row not in finals} <= {8, 12}
    for row in finals:
        tried = rows[row["recipe"]["of"]]
        assert (row["neurons"], row["scale"]) == (tried["neurons"], tried["scale"])
        assert row["answers"][task][:8] == tried["answers"][task]
    if results["verdict"] == "recommended":
        assert results["choice"]["trial"] in [row["recipe"]["of"] for row in finals[1:]]


@pytest.mark.parametrize(("final", "further"), [(0, 0), (8, 0), (11, 3), (99, 4)])
def test_re_evaluation_is_on_validation_examples_that_trials_are_not_asked(questions, tmp_path, final, further):
    settings = settings_for(questions, tmp_path / "out", **{**TUNED, "reevaluation_examples": final})
    task = load_task(settings.task[0])
    parts, choose = take_parts(task, settings), task.split(settings.seed).validation
    assert (len(parts.validation), len(parts.reevaluation)) == (8, further)
    places = {example.source: place for place, example in enumerate(task.examples)}
    first, last = ({places[example.source] for example in part} for part in (parts.validation, parts.reevaluation))
    assert first.isdisjoint(last)
    assert first | last <= {places[example.source] for example in choose}
    assert set(map(id, parts.reevaluation)) <= set(map(id, parts.searched_on))
    assert take_parts(task, settings.model_copy(update={"search": "sweep"})).reevaluation == ()


def test_without_further_examples_nothing_is_re_evaluated(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    given = {**TUNED, "validation_examples": 12, "rounds": 1}
    results = run(str(saved_model("llama")), settings_for(questions, output, **given))
    assert results["choice"]["finals"] == []
    assert "final" not in {row["stage"] for row in rows_of(output)}


def test_gradients_are_of_examples_of_the_attribution_split_others_in_every_step(
    saved_model, questions, tmp_path, monkeypatch
):
    real, measured = Loop._of_questions, []

    def noted(loop, openness, asked, *lost):
        measured.append([(question.example.context, question.example.template) for question in asked])
        return real(loop, openness, asked, *lost)

    monkeypatch.setattr(Loop, "_of_questions", noted)
    settings = settings_for(questions, tmp_path / "out", **{**TUNED, "rounds": 1})
    run(str(saved_model("llama")), settings)
    assert len(measured) == 8  # four steps, of either condition
    assert len({tuple(drawn) for drawn in measured}) > 2  # all there are, where there are few: in another order
    fit = {example.template for example in load_task(settings.task[0]).split(settings.seed).attribution}
    assert all({template for _, template in drawn} <= fit for drawn in measured)


class EndedError(BaseException):
    """Nothing in the library or below it catches this by its type."""


def test_ended_at_any_moment_it_goes_on_without_repeating_a_trial(whole, saved_model, questions, tmp_path, monkeypatch):
    output, model, real = tmp_path / "out", str(saved_model("llama")), files.append_line
    settings, record, measured = settings_for(questions, output, **TUNED), output / "search.jsonl", []

    def ended(path, row):
        real(path, row)
        if row["number"] == 3:
            raise EndedError

    monkeypatch.setattr("crispr_lm.jobs.edit_search.append_line", ended)
    with pytest.raises(EndedError):
        run(model, settings)
    assert record.read_text(encoding="utf-8").count("\n") == 4
    with record.open("a", encoding="utf-8") as file:
        file.write('{"number": 99, "stage": "sea')  # what a kill in the middle of a write leaves
    monkeypatch.setattr(
        "crispr_lm.jobs.edit_search.append_line", lambda path, row: (real(path, row), measured.append(row["number"]))
    )
    results = run(model, settings)
    assert measured == list(range(4, len(rows_of(whole[0]))))
    assert rows_of(output) == rows_of(whole[0])
    assert read(output / "edit.json")["neurons"] == read(whole[0] / "edit.json")["neurons"]
    assert results["tasks"] == whole[1]["tasks"]


@pytest.mark.slow
def test_terminated_it_ends_with_one_sentence_and_leaves_whole_files(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    settings = settings_for(questions, output, **TUNED)
    command = [sys.executable, "-m", "crispr_lm", *arguments_of(saved_model("llama"), settings)]
    environment = {**os.environ, "PYTHONPATH": str(Path(crispr_lm.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        record = output / "search.jsonl"
        deadline = time.monotonic() + 300
        while not (record.exists() and record.read_text().count("\n") >= 2):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        message = process.stderr.read()
        assert process.wait() == 143
    assert (
        message.splitlines()[-1] == "crispr-lm: terminated; run the same command again, without --overwrite, to resume"
    )
    assert "Traceback" not in message
    assert not [path for path in output.rglob("*") if path.name.endswith(".part") or path.name == ".lock"]
    assert not (output / "results.json").exists()
    assert rows_of(output)  # every line is whole


def test_an_interruption_ends_with_the_best_so_far(saved_model, questions, tmp_path, monkeypatch):
    real = files.append_line

    def interrupted(path, row):
        real(path, row)
        if row["number"] == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("crispr_lm.jobs.edit_search.append_line", interrupted)
    output = tmp_path / "out"
    results = run(str(saved_model("llama")), settings_for(questions, output, **TUNED))
    assert results["verdict"] in ("recommended", "not confirmed", "untested", "none")
    assert sum(row["stage"] in ("original", "rankings", "rounds") for row in rows_of(output)) == 4
    assert (output / "results.json").exists()


@pytest.mark.parametrize("recorded", [True, False])
def test_what_ctrl_c_has_cut_short_stays_so_and_every_trial_is_on_record(
    saved_model, questions, tmp_path, monkeypatch, recorded
):
    real = files.append_line

    def interrupted(path, row):
        if row["number"] == 3 and not recorded:
            raise KeyboardInterrupt
        real(path, row)
        if row["number"] == 3:
            raise KeyboardInterrupt

    output, model = tmp_path / "out", str(saved_model("llama"))
    with monkeypatch.context() as patched:
        patched.setattr("crispr_lm.jobs.edit_search.append_line", interrupted)
        results = run(model, settings_for(questions, output, **TUNED))
    written = rows_of(output)
    assert [row["number"] for row in written] == list(range(len(written)))
    assert [row["stage"] for row in written[:4]] == ["original", "rankings", "rounds", "rounds"]
    assert {row["stage"] for row in written[4:]} <= {"final", "control"}  # where an edit came into question
    if written[4:]:  # else nothing says that the search was over
        again = run(model, settings_for(questions, output, resume=True, **TUNED))
        assert rows_of(output) == written
        assert again["choice"] == results["choice"]
        assert again["search"] == results["search"]


@pytest.mark.parametrize(
    ("row", "recorded"),
    [
        (0, False),  # of the re-evaluation: the original
        (1, True),  # the first edit
        (2, False),
    ],
)
def test_ctrl_c_while_re_evaluating_goes_on_with_the_edits_re_evaluated_so_far(
    whole, saved_model, questions, tmp_path, monkeypatch, row, recorded
):
    uninterrupted = rows_of(whole[0])
    last = whole[1]["choice"]["finals"][row]
    output, model, real = tmp_path / "out", str(saved_model("llama")), files.append_line
    output.mkdir()

    def interrupted(path, row):
        if row["number"] != last or recorded:
            real(path, row)
        if row["number"] == last:
            raise KeyboardInterrupt

    settings = settings_for(questions, output, **TUNED)
    with monkeypatch.context() as patched:
        patched.setattr("crispr_lm.jobs.edit_search.append_line", interrupted)
        results = run(model, settings)
    written = rows_of(output)
    assert written[: last + 1] == uninterrupted[: last + 1]
    assert {row["stage"] for row in written[last + 1 :]} <= {"control"}
    assert results["choice"]["finals"] == (list(range(last - row, last + 1)) if row else [])
    again = run(model, settings_for(questions, output, resume=True, **TUNED))
    if written[last + 1 :]:  # else nothing says that it was over
        assert rows_of(output) == written
        assert again["choice"] == results["choice"]


def test_another_point_of_the_front_is_taken_without_trying_anything_again(
    whole, saved_model, questions, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    shutil.copytree(whole[0], output)
    model = str(saved_model("llama"))
    monkeypatch.setattr(Loop, "round", None)  # must not be needed again
    front = whole[1]["choice"]["front"]
    with pytest.raises(InputError, match="pick one of"):
        run(model, settings_for(questions, output, resume=True, pick=98, **TUNED))
    results = run(model, settings_for(questions, output, resume=True, pick=front[0], **TUNED))
    assert results["choice"]["trial"] == front[0]
    assert results["reason"].startswith(f"trial {front[0]}, picked by hand")
    chosen = rows_of(output)[front[0]]
    assert read(output / "edit.json")["neurons"] == chosen["neurons"]
    assert rows_of(output) == rows_of(whole[0])


class Asked(SilentProgress):
    """Someone who takes the first trial of the front that is shown."""

    can_ask = True

    def ask_for_trial(self, front, recommended, reason):
        self.shown = front
        return front[0]["trial"]


def test_the_front_is_shown_to_who_wants_to_be_asked(whole, saved_model, questions, tmp_path):
    output, someone = tmp_path / "out", Asked()
    shutil.copytree(whole[0], output)
    model = str(saved_model("llama"))
    with pytest.raises(InputError, match="needs a terminal"):
        run(model, settings_for(questions, output, resume=True, pick="ask", **TUNED))
    results = run(model, settings_for(questions, output, resume=True, pick="ask", **TUNED), someone)
    assert [trial["trial"] for trial in someone.shown] == results["choice"]["front"]
    first = results["choice"]["front"][0]
    assert results["choice"]["trial"] == first
    assert results["reason"].startswith(f"trial {first}, picked by hand")


def test_nothing_can_be_picked_from_a_plain_sweep(saved_model, questions, tmp_path):
    settings = settings_for(questions, tmp_path / "out", search="sweep", pick=2)
    with pytest.raises(InputError, match="--pick takes a trial of the tuned search"):
        run(str(saved_model("llama")), settings)
    assert not (tmp_path / "out").exists()


def test_the_limit_on_the_divergence_holds(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    results = run(str(saved_model("llama")), settings_for(questions, output, **{**TUNED, "max_kl": 0.0}))
    assert results["verdict"] == "none"
    assert results["edit"]["neurons"] == 0
    assert results["divergence"]["kl"] == pytest.approx(0.0, abs=1e-9)
    too_far = [row for row in rows_of(output) if row["figures"]["kl"] > 1e-6 and row["stage"] != "control"]
    assert "rankings" in {row["stage"] for row in too_far}
    assert not any(row["complete"] or any(row["answers"].values()) for row in too_far)  # nothing asked in vain


def without_limits(settings):
    """The settings of a user who has given no limit."""
    return RunSettings(**settings.model_dump(exclude=set(LIMITS), exclude_unset=True))


def test_golden_section_takes_the_count_of_highest_accuracy_and_recommends_nothing(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    given = {"search": "golden-section", "max_neurons": 6, "scoring": "generate", "measure": ()}
    results = run(str(saved_model("llama")), without_limits(settings_for(questions, output, **given)))
    (task,) = (name for name in results["search"][0]["metrics"])
    accuracy = {row["neurons"]: row["metrics"][task]["accuracy"] for row in results["search"]}
    searched = {count: value for count, value in accuracy.items() if count or not results["edit"]["neurons"]}
    assert accuracy[results["edit"]["neurons"]] == max(searched.values())
    assert len(accuracy) <= 7
    assert all("unmatched_share" in row["metrics"][task] for row in results["search"])  # of what the model wrote
    assert (results["verdict"], results["procedure"]) == ("as asked", "published ranking, golden section")
    assert "recommended" not in statement(results)
    origin = read(output / "edit.json")["origin"]
    assert (origin["ranking"], origin["preset"], origin["made_by"]) == ("published", None, results["procedure"])
    assert not {*LIMITS, *OF_TUNED} & set(read(output / "run.json")["identity"]["settings"])
    assert results["limits"] == {}
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "excludes a loss." in page
    assert "the run's limit" not in page.replace("&#39;", "'")


@pytest.mark.parametrize(
    ("search", "name", "said"),
    [
        ("golden-section", "rounds", "--rounds is not used by --search golden-section"),
        ("golden-section", "time_budget", "--time-budget is not used by --search golden-section"),
        ("sweep", "reevaluation_examples", "--reevaluation-examples is not used by --search sweep"),
        ("sweep", "max_kl", "--max-kl is not used by --search sweep"),
    ],
)
def test_an_option_that_the_search_does_not_use_is_refused_and_on_no_record(questions, tmp_path, search, name, said):
    settings = without_limits(settings_for(questions, tmp_path / "out", search=search))
    assert name in unused(settings)
    assert list(recorded_limits(settings)) == (["accuracy_loss", "neurons"] if search == "sweep" else [])
    check_search(settings, SilentProgress())
    with pytest.raises(InputError, match=said):
        check_search(RunSettings(**{**settings.model_dump(exclude_unset=True), name: 3}), SilentProgress())


def test_the_preset_is_named_where_it_does_not_use_an_option(questions, tmp_path):
    settings = RunSettings(task=("builtin:everyday",), output=tmp_path / "out", preset="paper", rounds=3)
    with pytest.raises(InputError, match="--rounds is not used by --preset paper; leave it away"):
        check_search(settings, SilentProgress())


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_for_a_search_without_limits_is_refused(saved_model, questions, tmp_path, limit):
    settings = without_limits(settings_for(questions, tmp_path / "out", search="golden-section"))
    settings = RunSettings(**{**settings.model_dump(exclude_unset=True), limit: 0.1})
    with pytest.raises(InputError, match=f"--{limit.replace('_', '-')} is a limit, and --search golden-section"):
        run(str(saved_model("llama")), settings)
    assert not (tmp_path / "out").exists()


def test_a_search_that_compares_scores_says_that_generation_is_for_the_measurements(questions, tmp_path):
    said = []
    progress = SilentProgress()
    progress.say = said.append
    check_search(settings_for(questions, tmp_path / "out", search="tuned", scoring="generate"), progress)
    assert ["--scoring generate counts for what is measured" in sentence for sentence in said] == [True]
    with pytest.raises(InputError, match="--split-by random is the split of the paper's code"):
        check_search(settings_for(questions, tmp_path / "out", search="tuned", split_by="random"), progress)
    with pytest.raises(InputError, match="--search sweep takes neurons of the published ranking, which ranks one kind"):
        check_search(settings_for(questions, tmp_path / "out", neurons="both"), progress)


@pytest.mark.parametrize(("lines", "name"), [(1, "CRISPR (paper), except for instructions 1"), (10, "CRISPR (paper)")])
def test_instructions_of_a_file_count_as_many_as_they_are(questions, tmp_path, lines, name):
    file = tmp_path / "own.txt"
    file.write_text("".join(f"Answer question {line}.\n" for line in range(lines)), encoding="utf-8")
    task = (f"choices:{questions / 'questions.jsonl'}",)
    settings = RunSettings(task=task, output=tmp_path / "out", preset="paper", instructions=str(file))
    assert procedure_of(settings, load_tasks(settings)) == name


def test_several_tasks_are_searched_together(saved_model, questions, tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_text((questions / "questions.jsonl").read_text(encoding="utf-8").replace("late", "early"))
    tasks = (f"choices:{questions / 'questions.jsonl'}", f"choices:{second}")
    output = tmp_path / "out"
    run(str(saved_model("llama")), settings_for(questions, output, **{**TUNED, "task": tasks}))
    assert all(set(row["answers"]) == set(map(without_folders, tasks)) for row in rows_of(output))


def test_a_runs_table_holds_the_published_ranking_under_its_own_name(whole):
    output, results = whole
    rows = {row["name"]: row for row in validation_rows(results)}
    searched = next(name for name in rows if name.startswith("crispr-lm search"))
    assert list(rows) == ["original", "random neurons", "published ranking", searched]
    published = rows["published ranking"]
    trial = next(row for row in rows_of(output) if row["recipe"].get("ranking") == "published" and row["complete"])
    assert (published["neurons"], published["kl"]) == (len(trial["neurons"]), pytest.approx(trial["figures"]["kl"]))
    assert not any("paper" in name for name in rows)
    assert "published ranking" in (output / "report.html").read_text(encoding="utf-8")


def test_an_edit_says_what_made_it_and_nothing_of_scores_it_did_not_use(whole):
    output, results = whole
    origin = read(output / "edit.json")["origin"]
    assert (origin["made_by"], origin["preset"]) == ("crispr-lm search", None)
    assert origin["reason"] == results["reason"]
    used = origin["ranking"].startswith("published")
    assert [name in origin for name in ("skill_weight", "attribute_on", "scores")] == [used] * 3


def test_the_preset_runs_end_to_end_and_says_which_setting_differs(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    given = {"task": (f"choices:{questions / 'questions.jsonl'}",), "instructions": str(questions / "instructions.txt")}
    given |= {"device": "cpu", "measure": (), "neutral_prompts": 2, "test_examples": 8}
    settings = RunSettings(**given, output=output, preset="paper", max_neurons=5, split_by="random", examples=3)
    results = run(str(saved_model("t5-gated")), settings)
    assert results["procedure"] == "CRISPR (paper), except for examples 3, instructions 2, max neurons 5"
    assert (results["verdict"], results["preset"]) == ("as asked", "paper")
    parts = next(iter(read(output / "run.json")["parts"].values()))
    assert len(parts["validation"]) == 3  # a tenth of 36 rows
    assert (len(parts["attribution"]), set(parts["attribution"])) == (9, set(parts["validation"]))  # three draws of all
    assert not set(parts["test"]) & set(parts["validation"])
    assert "other rows of the same templates" in statement(results)
    origin = read(output / "edit.json")["origin"]
    assert (origin["preset"], origin["ranking"], origin["seeds"]) == ("paper", "published", [0, 1, 2])
    assert "near-copies" in (output / "report.html").read_text(encoding="utf-8")
