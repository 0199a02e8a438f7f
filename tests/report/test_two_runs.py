"""Two runs beside each other: the page, the command, and what it says where they can hardly be compared."""

import json
import re

import pytest

from crispr_lm import InputError
from crispr_lm.cli.commands import main
from crispr_lm.report.two_runs import FinishedRun, both_right, render_two_runs

from ..browser import check_tabs, needs_browser, opened
from .test_page import ANSWERS, ATTACK, answer, parts_of


def finished(name, answers=ANSWERS, **settings):
    run, results, edit, answers, _ = parts_of(answers)
    run["identity"]["settings"] |= settings
    return FinishedRun(name, run, results, edit, answers)


def without_library(page):
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def test_differing_settings_common_neurons_and_first_figures_are_shown():
    other = finished("other", rounds=12)
    other.edit["neurons"][0][2] = 1
    page = without_library(render_two_runs(finished("one"), other))
    assert '<tr><td>rounds</td><td class="text">-</td><td class="text">12</td></tr>' in page
    assert "one has 2, other has 2; 1 in common." in page
    assert "Guesses where the context does not tell" in page
    assert "<img" not in page
    assert f"window.hacked = 1{ATTACK[-3:]}" not in page


def test_what_makes_runs_hard_to_compare_is_said():
    other = finished("other", answers=ANSWERS[:1])
    other.run["identity"]["model_fingerprint"] = "another"
    page = render_two_runs(finished("one"), other)
    assert "The runs are of different models" in page
    assert "did not measure the same questions" in page
    assert "did not measure the same questions" not in render_two_runs(finished("one"), finished("other"))
    other.results["tasks"] = {"another": other.results["tasks"]["builtin:knowledge"]}
    with pytest.raises(InputError, match="no task in common"):
        render_two_runs(finished("one"), other)


def test_answers_are_counted_as_right_after_both_one_or_no_edit():
    wrong, right = [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2
    pairs = [(right, right), (right, wrong), (wrong, right), (wrong, right), (wrong, wrong)]
    first, second = (
        [answer(2, wrong, pair[side], question=f"Who {number}?") for number, pair in enumerate(pairs)]
        for side in (0, 1)
    )
    assert both_right(first, second) == [{"condition": "ambiguous", "both": 1, "first": 1, "second": 2, "none": 1}]


@pytest.fixture
def folders(tmp_path):
    made = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        run, results, edit, answers, scores = parts_of(ANSWERS)
        answers = [row | {"source": "x", "template": "t"} for row in answers]
        for file, content in (("run", run), ("results", results), ("edit", edit)):
            (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
        (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
        scores.save(folder / "scores.safetensors")
        made.append(folder)
    return made


def call(*arguments):
    """Exit status of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code


def test_the_command_writes_the_page_of_one_run_or_of_two(folders, tmp_path, capsys):
    output = tmp_path / "two.html"
    assert call("report", *folders, "--output", output) == 0
    assert str(output) in capsys.readouterr().out
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert call("report", folders[0]) == 0
    assert (folders[0] / "report.html").exists()
    assert call("report", folders[0], "--output", output) == 2
    assert "--output is for two runs" in capsys.readouterr().err


def test_the_one_of_two_runs_that_is_wrong_is_named(folders, tmp_path, capsys):
    good, other = folders
    for pair in ([good, tmp_path / "nope"], [tmp_path / "nope", good]):
        assert call("report", *pair, "--output", tmp_path / "two.html") == 2
        message = capsys.readouterr().err
        assert "nope/run.json can't be read" in message.replace("\\", "/")
        assert str(good) not in message
    (other / "results.json").write_text('{"tasks": 3}', encoding="utf-8")
    for pair in ([good, other], [other, good]):
        assert call("report", *pair, "--output", tmp_path / "two.html") == 2
        message = capsys.readouterr().err
        assert f"{other} is not what" in message
        assert str(good) not in message


@pytest.mark.browser
@needs_browser
def test_every_tab_of_the_page_works_in_a_browser(tmp_path):
    file = tmp_path / "two.html"
    file.write_text(render_two_runs(finished("one"), finished("other", rounds=12)), encoding="utf-8")
    with opened(file.as_uri(), ["file:", "data:", "blob:"]) as (tab, problems):
        check_tabs(tab, ("tables", "record", "summary"))
        assert problems == []
