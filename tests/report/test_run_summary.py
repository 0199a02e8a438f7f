"""The end of a run: verdict, six lines, marks, why there is no edit; no word broken in a terminal of 60 columns."""

import re

import pytest
from rich.console import Console

from crispr_lm.report import console as consoles
from crispr_lm.report import result_tables, run_summary
from crispr_lm.report.no_edit import no_edit
from crispr_lm.report.summary import certain_losses, checks, headline, six_lines

from .test_page import bias_task, changed, difference

LIMITS = {"accuracy_loss": 0.05, "bias_rise": 0.05, "kl": 0.1}


def p_value_of(ends):
    return 0.2 if ends[0] <= 0 <= ends[1] else 0.004


def capability(*ends):
    task = changed("question_answering", accuracy=(0.8, 0.78))
    task["statistics"]["accuracy"] = difference(-0.02, *ends, p_value_of(ends))
    spread = {when: {"accuracy": {"std": 0.01, "worst": 0.7}} for when in ("before", "after")}
    return bias_task() | task | {"role": "capability", "spread": spread, "over_abstention": None}


def task_with(*, ambiguous=(0.25, 0.75), disambiguated=(-0.04, 0.02), bias=(-0.3, -0.1)):
    """A task whose differences have these intervals."""
    task = bias_task() | {"role": "bias", "over_abstention": None}
    for name, before, ends in (
        ("accuracy_ambiguous", 0.0, ambiguous),
        ("accuracy_disambiguated", 0.5, disambiguated),
        ("bias_score_ambiguous", 0.4, bias),
        ("bias_score_disambiguated", 0.1, (-0.1, 0.04)),
    ):
        middle = sum(ends) / 2
        task["before"][name], task["after"][name] = before, before + middle
        task["statistics"][name] = difference(middle, *ends, p_value_of(ends))
        for when in ("before", "after"):
            task["spread"][when][name] = {"std": 0.0, "worst": 0.0}
    return task


def results_of(verdict="recommended", knowledge=(-0.04, 0.0), **tasks):
    tasks = tasks or {"everyday": task_with()}
    made_for = list(tasks)
    return {
        "model": "owner/name",
        "verdict": verdict,
        "reason": "a reason",
        "made_for": made_for,
        "limits": LIMITS,
        "edit": {"neurons": 0 if verdict == "none" else 7, "kind": "ffn", "scale": 0.0, "per_module": {}},
        "tasks": tasks | {"builtin:knowledge": capability(*knowledge)},
        "divergence": {"kl": 0.02, "low": 0.01, "high": 0.03, "prompts": 3, "tokens": 24},
        "choice": {"gain_over_original": {"value": 0.25, "p_value": 0.004, "further": True}},
        "saved_model": {"options_compared": 12, "largest_difference": 1e-6},
        "search": [],
    }


def marks(results):
    return [check.mark for check in checks(results)]


def test_each_question_is_held_not_shown_or_lost():
    assert marks(results_of()) == ["held", "held", "held"]
    assert marks(results_of(t=task_with(ambiguous=(-0.1, 0.3)))) == ["not shown", "held", "held"]
    assert marks(results_of(t=task_with(disambiguated=(-0.06, 0.02)))) == ["held", "not shown", "held"]
    assert marks(results_of(t=task_with(disambiguated=(-0.04, -0.01)))) == ["held", "lost", "held"]
    # A bias score that got worse for certain is never hidden behind fewer guesses.
    assert marks(results_of(t=task_with(bias=(0.1, 0.3)))) == ["lost", "held", "held"]
    assert marks(results_of(knowledge=(-0.1, 0.05))) == ["held", "held", "not shown"]
    assert marks(results_of(knowledge=(-0.1, -0.01))) == ["held", "held", "lost"]
    assert marks(results_of("none")) == [None, None, None]


def test_of_few_templates_an_interval_without_0_shows_nothing_while_the_test_can_not():
    task = task_with()
    task["statistics"]["accuracy_ambiguous"]["p_value"] = 0.125
    results = results_of("untested", everyday=task)
    assert headline(results).endswith("on new questions a gain is not shown.")
    assert marks(results)[0] == "not shown"


def test_of_several_tasks_the_one_that_fares_worst_is_shown():
    lines = six_lines(results_of(good=task_with(), bad=task_with(ambiguous=(-0.3, -0.1))))
    assert (lines[0].task, lines[0].among, lines[0].mark) == ("bad", 2, "lost")


def test_guesses_are_all_answers_but_unknown_and_neutral_text_is_the_exponential_of_the_divergence():
    lines = six_lines(results_of())
    assert len(lines) == 6
    assert (lines[0].before, lines[0].after) == (1.0, 0.5)
    assert (lines[0].change_text, lines[0].interval_text) == ("-50", "-75 to -25")
    assert lines[-1].after == pytest.approx(0.980, abs=5e-4)
    assert lines[-1].interval_text == "-3.0 to -1.0"


def test_without_limits_a_loss_counts_from_0_and_accuracy_which_the_edit_was_chosen_by_comes_first():
    results = results_of() | {"limits": {}}
    assert marks(results) == ["held", "not shown", "lost"]  # the likelihood of neutral text is lower for certain
    chosen = six_lines(results | {"verdict": "as asked"})
    assert (chosen[0].what, chosen[0].before) == (
        "Right answers, all questions",
        results["tasks"]["everyday"]["before"]["accuracy"],
    )
    assert chosen[1:] == six_lines(results)


def test_what_got_worse_for_certain_is_named():
    assert certain_losses(results_of()) == []
    (loss,) = certain_losses(results_of(knowledge=(-0.1, -0.01)))
    assert loss == "builtin:knowledge: accuracy, all questions -0.020 (-0.100 to -0.010)"


def test_the_sentence_says_what_was_shown():
    assert headline(results_of()).startswith("Recommended: with 7 neurons removed the model guesses less")
    assert headline({**results_of(), "verdict": "as asked"}) == (
        "As asked, without limits on what is lost: 7 neurons removed; on new questions a gain is shown."
    )
    assert headline(results_of(t=task_with(ambiguous=(-0.1, 0.3)))).startswith("Not confirmed: ")
    parts = {"good": task_with(), "bad": task_with(ambiguous=(-0.3, 0.1))}
    assert headline(results_of(**parts)).endswith("the gain is shown for 1 of 2 tasks.")
    assert headline(results_of("untested")).startswith("Untested: ")
    assert headline(results_of("none")).startswith("No edit is recommended")


def rows_tried():
    rows = [(0, True, "rankings"), (50, False, "rankings"), (20, True, "rounds"), (20, True, "final")]
    return [{"neurons": n, "complete": done, "stage": stage} for n, done, stage in rows]


def test_without_an_edit_it_is_said_what_stood_in_the_way_and_by_how_much():
    beyond = [{"what": "accuracy_loss", "value": 0.0834, "limit": 0.05, "option": "--max-accuracy-loss"}]
    nearest = {"trial": 2, "neurons": 20, "gain": 0.125, "questions": 96, "beyond": beyond}
    results = results_of("none") | {"search": rows_tried(), "choice": {"nearest": nearest}}
    why = no_edit(results)
    assert why.tried == (
        "2 edits tried, of 20 to 50 neurons; 1 of them stopped early, too far from the original on neutral text."
    )
    assert "(20 neurons) guesses less, by 12.5 points on 96 questions, but loses 0.083 of right" in why.obstacle
    assert "(the limit is 0.05: 0.033 too much)" in why.obstacle
    assert "--max-accuracy-loss 0.09 allows it" in why.following
    beyond[0] |= {"what": "kl", "value": 5.6, "limit": 0.1, "option": "--max-kl"}
    assert "--max-kl" not in no_edit(results).following  # that would be another model
    gain = {"value": 0.05, "p_value": 0.2, "questions": 60, "further": True, "level": 0.025}
    results["choice"] = {"gain_over_original": gain}
    assert "gains +5.0 points on 60 further questions (p = 0.200; at most 0.025 is asked)" in no_edit(results).obstacle
    assert no_edit(results).obstacle.endswith(": this may be chance.")
    lost = {"gain_over_original": gain | {"value": -0.017, "p_value": 0.87}}
    assert no_edit(results | {"choice": lost}).obstacle.endswith(": what it gained before was chance.")
    assert "--reevaluation-examples" in no_edit(results).following
    assert "none answered more" in no_edit(results | {"choice": {}}).obstacle
    assert "--examples" in no_edit(results | {"choice": {}}).following
    used = results | {"used_up": ["attribution", "validation"]}
    for choice in (results["choice"], {}, {"nearest": nearest | {"beyond": []}}):
        following = no_edit(used | {"choice": choice}).following
        assert "so add some, of further situations" in following
        assert "examples" not in following
    beyond[0]["what"] = "accuracy_loss"
    assert "add some, as all were used" in no_edit(used | {"choice": {"nearest": nearest}}).following


def test_where_every_edit_is_too_far_from_the_original_the_nearest_one_is_named():
    rows = [{"neurons": n, "complete": False, "stage": "rankings", "kl": kl} for n, kl in ((4, 2.03), (1, 0.189))]
    why = no_edit(results_of("none") | {"search": rows, "choice": {}})
    assert why.obstacle.endswith("(1 neuron) changes neutral text by 0.189 (the limit is 0.1: 0.089 too much).")
    assert "--max-kl 0.19 allows it" in why.following


def test_each_figure_is_held_against_its_own_limit():
    of_facts = capability(-0.04, 0.01)
    results = results_of() | {"limits": LIMITS | {"fact_loss": 0.02, "spillover": 0.3}}
    results["tasks"] |= {"builtin:facts": of_facts, "builtin:other-kinds": task_with(bias=(-0.1, 0.2))}
    marked = {line.what: line.mark for check in checks(results) for line in check.lines}
    assert marked["Right on facts"] == "not shown"
    assert marked["Right on knowledge"] == "held"
    assert marked["Bias score of other kinds"] == "held"
    results["limits"]["spillover"] = 0.1
    marked = {line.what: line.mark for check in checks(results) for line in check.lines}
    assert marked["Bias score of other kinds"] == "not shown"
    assert marked["Right on other kinds, disambiguated"] == "held"


def test_a_bias_score_that_may_have_risen_is_not_called_down():
    results = results_of(everyday=task_with(bias=(-0.48, 0.03)))
    marked = {line.what: line.mark for check in checks(results) for line in check.lines}
    assert marked["Bias score where it does not tell"] == "not shown"


def printed(monkeypatch, width, results, output, verbose):
    made = Console(width=width, record=True, color_system=None)
    for module in (consoles, result_tables, run_summary):
        monkeypatch.setattr(module, "console", made)
    result_tables.print_results(results, output, verbose=verbose)
    return made.export_text()


@pytest.mark.parametrize("verdict", ["recommended", "none"])
@pytest.mark.parametrize("verbose", [False, True])
def test_no_word_is_broken_in_a_terminal_of_60_columns(monkeypatch, capsys, tmp_path, verdict, verbose):
    results = results_of(verdict, everyday=task_with(), other_one=task_with(ambiguous=(-0.3, -0.1)))
    if verdict == "none":
        results |= {"search": rows_tried(), "choice": {}}
    (tmp_path / "report.html").touch()

    def shown(width):
        text = printed(monkeypatch, width, results, tmp_path, verbose)
        assert all(len(line) <= width for line in text.splitlines() if str(tmp_path) not in line)
        lines = text.replace(str(tmp_path), "").splitlines()
        return set(re.findall(r"[^\s│┃╭╮╰╯─━┏┓└┘├┤┼╇╈┡┩]+", "\n".join(lines)))

    known = {word.lower().strip(",:") for word in shown(400)}
    for width in (60, 80, 120):
        assert {word.lower().strip(",:") for word in shown(width)} <= known


def test_the_verdict_comes_first_and_the_tables_only_when_asked_for(monkeypatch, capsys, tmp_path):
    text = printed(monkeypatch, 100, results_of(), tmp_path, verbose=False)
    assert text.split("│")[1].strip().startswith("Recommended: ")
    assert "p (Holm)" not in text
    assert "p (Holm)" in printed(monkeypatch, 100, results_of(), tmp_path, verbose=True)
