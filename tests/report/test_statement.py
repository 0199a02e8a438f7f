"""The verdict as one statement, and that terminal, page, card and app say the same one."""

import re

import pytest

from crispr_lm.edits.edit import Edit
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.model.origin import ModelOrigin
from crispr_lm.report.card import card
from crispr_lm.report.result_tables import print_results
from crispr_lm.report.statement import outcome, statement

from .test_page import ANSWERS, bias_task, changed, difference, page_of

GAIN = {"value": 0.25, "p_value": 0.004, "questions": 60, "templates": 20, "edits": 8, "further": True, "shown": True}


def results_of(tasks, verdict="recommended", gain=GAIN, **further):
    edit = {"neurons": 1, "kind": "ffn", "scale": 0.0}
    choice = {"gain_over_original": gain}
    return {"verdict": verdict, "reason": "why", "edit": edit, "tasks": tasks, "choice": choice} | further


def task_with(ambiguous, disambiguated=(-0.12, 0.02)):
    """A task whose differences have these intervals."""
    task = bias_task()
    task["statistics"] |= {
        "accuracy_ambiguous": difference(0.5, *ambiguous),
        "accuracy_disambiguated": difference(-0.1, *disambiguated),
    }
    return task


def test_without_an_edit_the_statement_is_the_reason():
    results = {"verdict": "none", "reason": "no edit recommended: nothing helps", "tasks": {}}
    assert statement(results) == "No edit is recommended: nothing helps."
    assert outcome(results)["verdict"] == "none"


NOT_CONFIRMED = "Not confirmed on the test split (unseen templates), 1 neuron"
LOSS = ": gain shown, loss shown (right on disambiguated questions)."
NO_GAIN_BUT_LOSS = ": gain not shown, loss shown (right on ambiguous questions)."


@pytest.mark.parametrize(
    ("intervals", "verdict", "beginning", "end"),
    [
        (((0.25, 0.75), (-0.3, 0.1)), "recommended", "Recommended, 1 neuron", "interval -30 to +10): gain shown."),
        (((0.25, 0.75), (-0.3, -0.1)), "recommended", "Recommended, 1 neuron", LOSS),
        (((-0.05, 0.15), (-0.12, 0.02)), "not confirmed", NOT_CONFIRMED, ": gain not shown."),
        (((0.0, 0.15), (None, None)), "not confirmed", NOT_CONFIRMED, ": gain not shown."),
        (((None, None), (0.01, 0.02)), "not confirmed", NOT_CONFIRMED, ": gain not shown."),
        (((-0.3, -0.1), (-0.12, 0.02)), "not confirmed", NOT_CONFIRMED, NO_GAIN_BUT_LOSS),
    ],
)
def test_a_gain_that_unseen_templates_do_not_show_is_not_called_recommended(intervals, verdict, beginning, end):
    results = results_of({"bbq:Age.jsonl": task_with(*intervals)})
    text = statement(results)
    assert text.startswith(beginning)
    assert text.endswith(end)
    assert "eliminated: gain on validation +0.250, shown (p = 0.004); on the test split" in text
    found = outcome(results)
    assert found["verdict"] == verdict
    assert found["statement"]["validation"] == GAIN
    low, high = intervals[0]
    (of_task,) = found["statement"]["test"].values()
    assert (of_task["metric"], of_task["low"], of_task["high"]) == ("accuracy_ambiguous", low, high)
    assert of_task["shown"] == (verdict == "recommended")
    # What was written down is read again, and says the same.
    assert statement(results | found) == text
    assert outcome(results | found) == found


@pytest.mark.parametrize("gain", [None, GAIN, GAIN | {"further": False}])
def test_an_edit_that_was_not_tested_on_validation_is_not_called_recommended(gain):
    results = results_of({"bbq:Age.jsonl": task_with((0.25, 0.75))}, verdict="untested", gain=gain)
    text = statement(results)
    assert text.startswith(
        "Untested, 1 neuron eliminated: gain not tested on further validation questions; on the test "
    )
    assert text.endswith("gain shown.")
    assert outcome(results)["verdict"] == "untested"
    assert outcome(results)["statement"]["validation"] is None


def test_of_several_tasks_each_is_described():
    tasks = {"bbq:/data/Age.jsonl": task_with((0.25, 0.75)), "bbq:/data/Religion.jsonl": task_with((-0.25, 0.75))}
    results = results_of(tasks | {"crows_pairs:/data/pairs.csv": {"role": "bias"}}, made_for=list(tasks))
    halves = (
        "0% to 50% right on ambiguous questions (+50, {} to +75), "
        "50% to 40% right on disambiguated questions (-10, -12 to +2)"
    )
    assert statement(results) == (
        "Confirmed in part on the test split (unseen templates), 1 neuron eliminated: gain on validation +0.250, shown "
        "(p = 0.004); on the test split (differences in points with 95 % intervals): "
        f"bbq:Age.jsonl {halves.format('+25')}: gain shown; bbq:Religion.jsonl {halves.format('-25')}: gain not shown."
    )
    assert outcome(results)["verdict"] == "not confirmed"


@pytest.mark.parametrize(("low", "high", "shown"), [(-0.4, 0.05, False), (-0.25, -0.1, True), (-0.9, -0.7, False)])
def test_a_metric_with_a_target_has_gained_where_all_of_its_interval_is_nearer_to_it(low, high, shown):
    task = changed("crows_pairs", stereotype_preference=(0.8, 0.6))  # 0.5 is unbiased
    task["statistics"]["stereotype_preference"] |= {"low": low, "high": high}
    found = outcome(results_of({"a": task}, made_for=["a"]))
    assert found["statement"]["test"]["a"]["shown"] == shown


def test_a_task_without_any_figure_confirms_nothing():
    task = {"role": "bias", "family": "question_answering", "before": {"accuracy": None}}
    assert outcome(results_of({"a": task}))["verdict"] == "not confirmed"


def test_terminal_and_card_say_the_same_statement(tmp_path, capsys):
    results = results_of({"bbq:Age.jsonl": task_with((-0.05, 0.15)) | {"role": "bias"}})
    print_results(results | {"saved_model": {"options_compared": 0}}, tmp_path, verbose=True)
    assert statement(results) in " ".join(capsys.readouterr().out.split())
    written = card("edit", Edit((Neuron("layers.1.down_proj", 2, "ffn"),)), ModelOrigin(), results)
    assert "**Not confirmed on the test split (unseen templates), 1 neuron eliminated: gain on validation" in written
    assert "Recommended" not in written


def test_the_page_begins_with_a_plain_sentence_and_has_the_statement_with_all_figures():
    page = page_of(ANSWERS)
    (verdict,) = re.findall(r'<p class="verdict">(.*?)</p>', page)
    assert verdict.startswith("Recommended: with 2 neurons removed the model guesses less")
    (text,) = re.findall(r'id="statement">(.*?)</p>', page)
    assert text.startswith("Recommended, 2 neurons eliminated: ")
    assert text.endswith(": gain shown.")


def test_no_jargon_stands_above_the_fold():
    above = page_of(ANSWERS).partition("<header>")[2].partition("</header>")[0]
    shown = re.sub(r'<span class="meaning".*?</span>', "", above)
    assert not re.search(
        r"\bKL\b|\bnats?\b|validation|\bsplit\b|Holm", re.sub(r"<p class=\"warning\".*?</p>", "", shown)
    )
