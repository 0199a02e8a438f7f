"""The search as a function: without a folder, the same as the command's, resumable, deterministic."""

import json
from dataclasses import fields, replace

import pytest

import crispr_lm
from crispr_lm import Checkpoint, InputError, Limits, SearchOptions, Trial, load_model, load_task, search_edit
from crispr_lm.jobs.preparation import limits_of
from crispr_lm.jobs.run import run
from crispr_lm.search import trial_log
from crispr_lm.search.loop import Loop
from crispr_lm.search.options import STEPS
from crispr_lm.search.trial_log import TrialLog
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.base import template_hashes

from ..jobs.test_run import questions, settings_for

__all__ = ["questions"]

OPTIONS = SearchOptions(
    rounds=3,
    examples=6,
    validation_examples=8,
    neutral_prompts=3,
)
LIMITS = Limits(kl=9.0, accuracy_loss=1.0, overabstention=1.0, neurons=5, fact_loss=1.0, spillover=1.0)


def rows(trials):
    return [{name: value for name, value in trial.to_dict().items() if name != "seconds"} for trial in trials]


@pytest.fixture(scope="module")
def given(saved_model, questions):
    name = f"choices:{questions / 'questions.jsonl'}"
    lm = load_model(saved_model("llama"), device="cpu")
    return lm, load_task(name, str(questions / "instructions.txt"))


@pytest.fixture(scope="module")
def whole(given):
    """A search that nothing has interrupted, and the trials that it handed over."""
    finished = []
    return search_edit(*given, LIMITS, OPTIONS, Checkpoint(on_trial=finished.append)), finished


def test_it_is_the_search_of_the_command(whole, saved_model, questions, tmp_path):
    found, _ = whole
    settings = settings_for(
        questions,
        tmp_path / "out",
        search="tuned",
        rounds=3,
        validation_examples=8,
        max_kl=9.0,
        max_overabstention=1.0,
    )
    results = run(str(saved_model("llama")), settings)
    lines = (tmp_path / "out" / "search.jsonl").read_text(encoding="utf-8").splitlines()
    assert rows(found.trials) == rows(Trial.from_dict(json.loads(line)) for line in lines)
    assert (found.verdict, found.reason) == (results["verdict"], results["reason"])
    assert [trial.number for trial in found.front] == results["choice"]["front"]
    saved = crispr_lm.Edit.load(tmp_path / "out" / "edit.json")
    assert (found.edit.neurons, found.edit.scale) == (saved.neurons, saved.scale)
    assert (found.edit.fingerprint, found.edit.made_on) == (saved.fingerprint, saved.made_on)


def test_every_trial_is_handed_over_once_and_none_touches_the_test_split(whole, given):
    found, finished = whole
    assert finished == list(found.trials)
    assert [trial.number for trial in finished] == list(range(len(finished)))
    _, task = given
    assert set(found.edit.made_on).isdisjoint(template_hashes(task.split(OPTIONS.seed).test))


@pytest.mark.parametrize("done", [1, 3, 6])
def test_resumed_from_its_first_trials_it_ends_as_one_that_was_not_interrupted(whole, given, done):
    found, finished = whole
    assert done < len(finished)
    new = []
    again = search_edit(*given, LIMITS, OPTIONS, Checkpoint(trials=finished[:done], on_trial=new.append))
    assert rows(again.trials) == rows(found.trials)
    assert [trial.number for trial in new] == list(range(done, len(finished)))
    assert (again.edit, again.reason) == (found.edit, found.reason)


def test_resumed_after_any_round_whose_edit_was_not_tried_yet_it_tries_no_other(given, monkeypatch):
    monkeypatch.setattr(Loop, "is_clear", property(lambda loop: loop.state.step > STEPS))  # not after the first round
    finished, stood = [], []
    keep = Checkpoint(on_trial=finished.append, on_round=lambda state: stood.append((state, len(finished))))
    found = search_edit(*given, LIMITS, OPTIONS, keep)
    assert [trial.recipe["round"] for trial in found.trials if trial.stage == "rounds"] == [2, 3]
    assert len(stood) == 3
    for state, done in stood:
        again = search_edit(*given, LIMITS, OPTIONS, Checkpoint(trials=finished[:done], loop=state))
        assert rows(again.trials) == rows(found.trials)


def test_another_trial_of_the_front_can_be_taken(whole, given):
    found, _ = whole
    lm, _ = given
    trial = found.front[0]
    picked = found.picked(lm, trial.number)
    assert (picked.edit.neurons, picked.edit.made_on) == (trial.neurons, found.edit.made_on)
    assert picked.reason == picked.edit.origin["reason"]
    with pytest.raises(InputError, match="is not on the Pareto front"):
        found.picked(lm, 99)


def test_after_ctrl_c_the_caller_is_given_every_trial(given):
    def interrupted(trial):
        if trial.number == 2:
            raise KeyboardInterrupt

    kept = []
    found = search_edit(*given, LIMITS, OPTIONS, Checkpoint(on_trial=interrupted, on_interrupt=kept.append))
    assert [trial.number for trial in kept[0]] == [0, 1, 2]
    assert {trial.stage for trial in found.trials[3:]} <= {"final", "control"}


def test_where_time_is_up_what_the_last_round_has_come_to_is_tried(given, monkeypatch):
    monkeypatch.setattr(Loop, "is_clear", property(lambda _: False))
    found = search_edit(*given, LIMITS, replace(OPTIONS, time_budget=1e-9))
    assert [trial.recipe for trial in found.trials if trial.stage == "rounds"] == [{"round": 1}]
    assert any(trial.recipe.get("ranking") == "published" for trial in found.trials)


def test_a_round_is_begun_only_if_it_and_what_follows_are_expected_to_end_in_time(given, monkeypatch):
    monkeypatch.setattr(Loop, "is_clear", property(lambda _: True))
    options = replace(OPTIONS, rounds=4, time_budget=1.0)
    needed = []
    monkeypatch.setattr(TrialLog, "has_time_for", lambda _, seconds: needed.append(seconds) or len(needed) < 2)
    found = search_edit(*given, LIMITS, options)
    assert [trial.recipe["round"] for trial in found.trials if trial.stage == "rounds"] == [1, 2]
    assert needed[0] > 0


def test_a_budget_counts_what_has_passed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(trial_log.time, "monotonic", lambda: now[0])
    log = TrialLog([], 60.0, lambda _: None)
    assert log.has_time_for(50)
    now[0] = 20.0
    assert log.has_time_for(30)
    assert not log.has_time_for(50)
    assert TrialLog([], None, lambda _: None).has_time_for(1e9)


def test_its_defaults_are_those_of_the_command():
    settings = RunSettings(task=("builtin:everyday",), output="out")
    assert {field.name: field.default for field in fields(SearchOptions)} == {
        field.name: getattr(settings, field.name) for field in fields(SearchOptions)
    }
    limits = Limits()
    assert limits == limits_of(settings)


def test_both_kinds_of_neurons_may_be_eliminated_together(given):
    found = search_edit(*given, replace(LIMITS, neurons=12), replace(OPTIONS, neurons="both"))
    rounds = [trial for trial in found.trials if trial.stage == "rounds"]
    assert {neuron.kind for trial in rounds for neuron in trial.neurons} == {"linear", "ffn"}
    published = [trial for trial in found.trials if trial.recipe.get("ranking") == "published"]
    assert {neuron.kind for trial in published for neuron in trial.neurons} == {"linear"}


def test_an_edit_says_what_made_it_and_of_scores_only_what_it_used(whole, given):
    found, _ = whole
    by_rounds = next(trial for trial in found.trials if trial.stage == "rounds")
    published = next(trial for trial in found.trials if trial.recipe.get("ranking") == "published")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crispr_lm.search.result.picked_by_hand", lambda decision, number: replace(
            decision, trial=found.trials[number]
        ))  # fmt: skip
        origins = [found.picked(given[0], trial.number).edit.origin for trial in (by_rounds, published)]
    assert [origin["ranking"] for origin in origins] == ["gradient", "published"]
    assert [origin["made_by"] for origin in origins] == ["crispr-lm search"] * 2
    assert ["skill_weight" in origin for origin in origins] == [False, True]
