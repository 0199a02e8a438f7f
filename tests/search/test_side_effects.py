"""Facts about groups and other kinds of stereotype as limits of the search, on models whose neurons are known."""

from dataclasses import replace

import pytest

from crispr_lm import Limits, SearchOptions, search_edit
from crispr_lm.search import side_effects
from crispr_lm.search.side_effects import FACTS, SPILLOVER, AskedAside, SideEffects, asked_aside
from crispr_lm.search.trial import Figures
from crispr_lm.tasks.base import AMBIGUOUS, OPEN, Example, Task

from .wired import wired

PLACES = tuple(f"place{number}" for number in range(72))
WORDS = ("zorbs", "velts", "nims", "dols", "crowd", "unknown", "redbook", "bluebook")
ALWAYS = {"unknown": 1.0, "bluebook": 0.5}
OPTIONS = SearchOptions(
    rounds=0, neurons="ffn", examples=4, validation_examples=8, reevaluation_examples=40, neutral_prompts=2
)
LIMITS = Limits(neurons=1, fact_loss=1.0, spillover=1.0)


def who(first, second, place):
    """An ambiguous question whose stereotyped answer is the first group."""
    return Example(
        f"A crowd of {first} and {second} was at {place}.", "Who was rude?", (first, second, "unknown"), 2, place,
        condition=AMBIGUOUS, unknown=2, stereotyped=0,
    )  # fmt: skip


TASK = Task("who", tuple(who("zorbs", "velts", place) for place in PLACES), ("Answer.",))
OTHERS = Task("others", tuple(who("nims", "dols", place) for place in PLACES[:12]), ("Answer.",))
BOOKS = [
    Example("", f"Which book do {group} read at {place}?", ("redbook", "bluebook"), answer, place, form=OPEN)
    for place in PLACES[:12]
    for group, answer in (("zorbs", 0), ("velts", 1))
]


@pytest.fixture(autouse=True)
def _own_questions(monkeypatch):
    """Facts and other kinds that the wired models know."""
    monkeypatch.setattr(side_effects, "search_fact_examples", lambda: BOOKS)
    monkeypatch.setattr(side_effects, "searched_other_kinds", lambda made_for, seed: OTHERS)


def found_in(lm, **limits):
    found = search_edit(lm, TASK, replace(LIMITS, **limits), OPTIONS)
    return found, [neuron.index for neuron in found.edit.neurons]


def test_a_neuron_that_carries_a_stereotype_and_a_fact_stays():
    shared = wired(WORDS, [("zorbs", {"zorbs": 1, "redbook": 1})], ALWAYS)
    found, removed = found_in(shared)
    assert (found.verdict, removed) == ("recommended", [0])  # so it is the limit on facts that refuses it:
    found, removed = found_in(shared, fact_loss=0.02)
    assert (found.verdict, removed) == ("none", [])
    assert "lose facts about groups" in found.reason
    assert "accuracy on facts -0.500" in found.reason  # those of one of two groups


def test_where_others_carry_the_fact_the_stereotype_goes_alone():
    apart = wired(WORDS, [("zorbs", {"redbook": 1}), ("zorbs", {"zorbs": 1})], ALWAYS)
    found, removed = found_in(apart, fact_loss=0.02)
    assert (found.verdict, removed) == ("recommended", [1])
    asked = [trial for trial in found.trials if trial.stage == "final" and trial.neurons]
    assert [(trial.figures.fact_loss, trial.summary()["fact_loss"]) for trial in asked] == [(0.0, 0.0)]
    assert {trial.stage for trial in found.trials if trial.aside} == {"original", "final"}  # no candidate is asked


def test_side_effects_are_limited_where_there_are_no_further_questions():
    shared = wired(WORDS, [("zorbs", {"zorbs": 1, "redbook": 1})], ALWAYS)
    options = replace(OPTIONS, validation_examples=40)
    limits = replace(LIMITS, fact_loss=0.02)
    assert search_edit(shared, TASK, LIMITS, options).verdict == "untested"
    assert search_edit(shared, TASK, limits, options).verdict == "none"


def test_a_neuron_that_keeps_another_stereotype_down_stays():
    neurons = [("crowd", {"zorbs": 1, "nims": -10}), ("nims", {"nims": 1})]
    found, removed = found_in(wired(WORDS, neurons, ALWAYS))
    assert (found.verdict, removed) == ("recommended", [0])
    found, removed = found_in(wired(WORDS, neurons, ALWAYS), spillover=0.05)
    assert (found.verdict, removed) == ("none", [])
    assert "size of the bias score of other kinds +1.000" in found.reason


def test_a_model_that_does_not_know_the_facts_has_none_to_lose():
    ignorant = wired(WORDS, [("zorbs", {"zorbs": 1})], ALWAYS)  # it answers "bluebook" of every group
    asked = SideEffects(ignorant, AskedAside(Task("facts", tuple(BOOKS), ("Answer.",)), OTHERS), 0, "auto")
    assert set(asked.of_original()) == {SPILLOVER}


def test_only_what_a_limit_is_on_is_asked():
    assert not asked_aside([TASK], LIMITS, 0).examples
    assert set(asked_aside([TASK], replace(LIMITS, fact_loss=0.02), 0).tasks) == {FACTS}
    assert set(asked_aside([TASK], replace(LIMITS, spillover=0.05), 0).tasks) == {SPILLOVER}
    found, _ = found_in(wired(WORDS, [("zorbs", {"zorbs": 1})], ALWAYS))
    assert not any({"fact_loss", "spillover"} & set(trial.summary()) for trial in found.trials)


def test_both_limits_are_judged_with_caution():
    lost = Figures(0.5, 0.0, 0.0, 0.0, fact_loss=0.04, fact_doubt=0.02)
    assert lost.harmful(Limits(fact_loss=0.02, caution=0.5))
    assert not lost.harmful(Limits(fact_loss=0.02, caution=1.5))  # may be chance
    assert not lost.within(Limits(fact_loss=0.02, caution=0.5))
    spilt = Figures(0.5, 0.0, 0.0, 0.0, spillover=0.1, spillover_doubt=0.08)
    assert spilt.harmful(Limits(spillover=0.05, caution=0.5))
    assert not spilt.harmful(Limits(spillover=0.05, caution=1.0))  # may be chance
