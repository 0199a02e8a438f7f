"""The search strategy on an evaluator that is made up: what is proposed, kept, refined and recommended."""

import dataclasses
import math
from dataclasses import replace

import optuna
import pytest

from crispr_lm import InputError
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.evaluator import Proposal
from crispr_lm.search.rankings import Evidence, Recipe
from crispr_lm.search.reevaluation import reevaluate_best
from crispr_lm.search.refinement import refine
from crispr_lm.search.rounds import Chain, chains, follow
from crispr_lm.search.selection import decide, picked_by_hand
from crispr_lm.search.trial import CONSTANTS, Figures, Limits, Trial, best_within
from crispr_lm.search.trial_log import Budget, TrialLog
from crispr_lm.search.tuning import Space, begin, tune
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example

from .test_rankings import evidence_of, planted

SPACE = Space(("published", "contrast", "pursuit"), ("ffn",), 8)
LIMITS = Limits(neurons=8)


class MadeUpEvaluator:
    """Neurons 0 to 3 of the first module each turn two of 16 ambiguous answers; every neuron costs a little KL.

    Those of the second module do nothing. `rooms` tells by trial how many nats abstention has left, 0 where it does
    not; `losses` what it costs.
    """

    further_prompts = 0

    def __init__(self, useful=4, cost=0.01, rooms=(), losses=()):
        self.useful = useful
        self.cost = cost
        self.rooms, self.losses = (dict(enumerate(values)) for values in (rooms, losses))
        self.tried = []

    def try_original(self):
        return self.attempt(0, Proposal("search", {}, ()))

    def attempt(self, number, proposal, rivals=(), *, race=False, within_kl=False):
        self.tried.append(number)
        turned = 2 * sum(n.module == "first" and n.index < self.useful for n in proposal.neurons)
        answers = {"t": [2 if index < turned else 0 for index in range(16)] + [0] * 16}
        kl = self.cost * len(proposal.neurons)
        figures = Figures(turned / 16, self.losses.get(number, 0.0), 0.0, kl)
        room = self.rooms.get(number, 0.0)
        moved = tuple(Figures(turned / 16 + c / 64, float(c > room), float(c > room), kl) for c in CONSTANTS)
        return Trial(
            number, proposal.stage, proposal.recipe, proposal.neurons, proposal.scale, figures, {}, answers, True,
            moved, 1.0,
        )  # fmt: skip

    def random_control(self, trial, seed):
        return Proposal("control", {}, tuple(Neuron("second", index, "ffn") for index in range(len(trial.neurons))))

    def examples(self, task):
        return tuple(
            Example(
                "c", "q", ("a", "b", "unknown"), 2 if index < 16 else 0, f"template {index % 8}",
                condition=AMBIGUOUS if index < 16 else DISAMBIGUATED, unknown=2,
            )
            for index in range(32)
        )  # fmt: skip


class Reevaluates(MadeUpEvaluator):
    """Has as many further questions; `truly` tells by neurons' count what an edit gains and loses on all of them."""

    further_prompts = 32

    def __init__(self, truly, implied=(), **how):
        super().__init__(**how)
        self.truly, self.implied = truly, dict(implied)

    def reevaluate(self, number, proposal, trial, original=None):
        self.tried.append(number)
        right, loss = self.truly.get(len(proposal.neurons), (0, 0.0)) if proposal.stage == "final" else (0, 0.0)
        answers = {"t": 2 * [2 if index < right else 0 for index in range(32)]}
        implied = self.implied.get(len(proposal.neurons), 0.0)
        figures = Figures(right / 16, loss, 0.0, trial.figures.kl, implied=implied)
        return replace(
            trial,
            number=number,
            stage=proposal.stage,
            recipe=proposal.recipe,
            figures=figures,
            answers=answers,
            moved=(),
        )

    def examples(self, task):
        return 2 * super().examples(task)


class KnowsEdits(MadeUpEvaluator):
    """As an evaluator it tells where it has tried an edit before."""

    def __init__(self):
        super().__init__()
        self.before = {}

    def attempt(self, number, proposal, rivals=(), **how):
        first = self.before.setdefault(frozenset(proposal.neurons), number)
        told = {} if first == number else {"same_edit_as": first}
        return super().attempt(number, replace(proposal, recipe={**proposal.recipe, **told}), rivals, **how)


def evidence():
    return evidence_of(planted())


def undated(trials):
    """The trials without the seconds that they took."""
    return [trial.to_dict() | {"seconds": None} for trial in trials]


def tuned(known=(), trials=25, seed=0, evaluator=None, seconds=None, finished=None):
    evaluator = evaluator or MadeUpEvaluator()
    budget = Budget(trials, seconds)
    log = TrialLog(known, budget, finished or (lambda trial: None))
    begin(evaluator, log)
    tune(evaluator, evidence, SPACE, LIMITS, budget, log, seed)
    return log, evaluator


def recipes(log):
    return [dict(trial.recipe) for trial in log.trials]


def test_the_same_seed_tries_the_same_and_another_seed_something_else():
    first, second, other = tuned()[0], tuned()[0], tuned(seed=1)[0]
    assert recipes(first) == recipes(second)
    assert recipes(first) != recipes(other)
    assert len(first.trials) == 26  # with the original


@pytest.mark.parametrize("done", [0, 1, 7, 26])
def test_gone_on_with_it_is_the_run_that_was_not_interrupted(done):
    whole, _ = tuned()
    written = [Trial.from_dict(trial.to_dict()) for trial in whole.trials[:done]]
    gone_on, evaluator = tuned(known=written)
    assert undated(gone_on.trials) == undated(whole.trials)
    assert evaluator.tried == list(range(done, 26))  # nothing twice


def test_no_recipe_leaves_the_space():
    for recipe in recipes(tuned(trials=60)[0])[1:]:
        assert 1 <= recipe["neurons"] <= 8
        assert 0 <= recipe["scale"] < 1
        assert ("skill_weight" in recipe) == (recipe["ranking"] != "published")


def test_the_time_of_an_interrupted_run_counts():
    whole, _ = tuned(trials=6)
    gone_on, evaluator = tuned(known=whole.trials[:4], trials=6, seconds=3.5)  # four trials of one second each
    assert len(gone_on.trials) == 4
    assert evaluator.tried == []


def test_the_sampler_is_told_that_what_abstention_implies_is_infeasible(monkeypatch):
    class Abstains(MadeUpEvaluator):
        """Loses nothing, by luck."""

        def attempt(self, number, proposal, rivals=(), **how):
            trial = super().attempt(number, proposal, rivals, **how)
            return replace(trial, figures=replace(trial.figures, implied=0.04, implied_doubt=0.03))

    told, real = [], optuna.Trial.set_constraint

    def noted(trial, name, value):
        told.append((name, round(value, 6)))
        real(trial, name, value)

    monkeypatch.setattr(optuna.Trial, "set_constraint", noted)
    tuned(trials=2, evaluator=Abstains())
    assert [value for name, value in told if name == "loss"] == [0.005, 0.005]  # 0.04 + 0.03 / 2 - 0.05


def test_a_search_that_was_cut_short_is_not_taken_for_a_longer_one():
    whole, _ = tuned(trials=6)
    control = dataclasses.replace(whole.trials[4], stage="control")
    known = [*whole.trials[:4], control]  # Ctrl-C after trial 3; then came the control
    gone_on, evaluator = tuned(known=known, trials=6)
    assert gone_on.trials == whole.trials[:4]
    assert gone_on.run(None, None) == control
    assert evaluator.tried == []


def test_ctrl_c_while_known_trials_are_gone_through_loses_none_of_them():
    whole, _ = tuned(trials=6)
    control = dataclasses.replace(whole.trials[6], stage="control")
    log = TrialLog([*whole.trials[:6], control], Budget(6), lambda trial: None)
    log.run(None, None)
    assert log.cut_short() == [*whole.trials[:6], control]  # the record
    assert log.trials == whole.trials[:6]  # what the decision is between


EVERYTHING = tuple(Neuron(module, index, "ffn") for module in ("first", "second") for index in range(4))
"""Four that help, and four that do nothing."""


def left_out_of(neurons, attempts, order, known=(), limits=LIMITS):
    """What refinement makes of an edit for which no change is proposed, whose neurons are missed in an order."""
    log, evaluator, asked = TrialLog(known, Budget(1), lambda trial: None), MadeUpEvaluator(), []
    begin(evaluator, log)
    start = log.run(lambda: Proposal("search", {}, neurons), evaluator.attempt)

    def following(recipe):
        asked.append(recipe)
        return [neuron for neuron in order if neuron in recipe.eliminated] if recipe.neurons < 0 else []

    return refine(evaluator, start, limits, log, attempts, following), asked, log


def left_out(log):
    return [trial.recipe["change"] for trial in log.trials if "left out" in trial.recipe.get("change", "")]


def test_refinement_leaves_out_the_neurons_that_do_nothing():
    refined, asked, log = left_out_of(EVERYTHING, 40, EVERYTHING[::-1])
    assert refined.neurons == EVERYTHING[:4]
    assert refined.figures.gain == log.trials[1].figures.gain
    # Two and two are not missed, the next two are, and so is each of the four by itself.
    assert left_out(log) == ["2 left out"] * 3 + ["1 left out"] * 4
    assert [(of.neurons, of.returned, of.eliminated) for of in asked if of.neurons < 0] == [
        (-8, 8, EVERYTHING),
        (-6, 6, EVERYTHING[:6]),
        *[(-4, 4, EVERYTHING[:4])] * 2,  # for two, and for single ones
    ]


def test_every_single_neuron_is_left_out_once_where_effects_are_wrong_about_what_is_missed():
    refined, _, log = left_out_of(EVERYTHING, 40, EVERYTHING)
    assert refined.neurons == EVERYTHING[:4]
    assert left_out(log) == ["2 left out"] + ["1 left out"] * 8


def test_leaving_out_ends_at_a_single_neuron():
    refined, _, log = left_out_of(EVERYTHING[4:6], 40, EVERYTHING[4:6])
    assert len(refined.neurons) == 1  # neither does anything, but without both it is the original
    assert left_out(log) == ["1 left out"]


def test_what_an_interrupted_run_has_left_out_is_not_ranked_again():
    whole, _, log = left_out_of(EVERYTHING, 40, EVERYTHING[::-1])
    written = [Trial.from_dict(trial.to_dict()) for trial in log.trials]
    again, asked, gone_on = left_out_of(EVERYTHING, 40, (), written)
    assert again.to_dict() == whole.to_dict()
    assert undated(gone_on.trials) == undated(log.trials)
    assert asked == []


def test_refinement_adds_what_helps_and_stops_at_the_limits():
    log, evaluator = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator()
    begin(evaluator, log)
    start = log.run(
        lambda: Proposal("search", {}, (Neuron("first", 0, "ffn"), Neuron("first", 1, "ffn"))), evaluator.attempt
    )

    def following(recipe):
        assert recipe.eliminated[:2] == start.neurons
        if recipe.neurons < 0:
            return []
        return [Neuron("first", index, "ffn") for index in range(4)][len(recipe.eliminated) :][: recipe.neurons]

    refined = refine(evaluator, start, LIMITS, log, 6, following)
    assert len(refined.neurons) == 4  # one in each of two rounds, the second ranked with the first in place
    assert refined.figures.gain == start.figures.gain + 4 / 16
    full = replace(LIMITS, neurons=2)
    assert len(refine(evaluator, start, full, log, 6, following).neurons) <= 2


def one_for_one(asked):
    """A ranking by which one useless neuron goes back and a useful one comes; what is asked of changes is told."""

    def following(recipe):
        if recipe.neurons < 0:
            return []
        asked.append(recipe)
        back = [neuron for neuron in recipe.eliminated if neuron.index >= 4][:1]
        new = [Neuron("first", index, "ffn") for index in range(4)]
        return [*back, *(neuron for neuron in new if neuron not in recipe.eliminated)][: 2 * len(back)]

    return following


def tried(evaluator, *edits):
    """A log of the original and these edits, as passes, and the trials of these."""
    log = TrialLog([], Budget(1), lambda trial: None)
    begin(evaluator, log)
    return log, [
        log.run(lambda neurons=neurons: Proposal("rounds", {}, neurons), evaluator.attempt) for neurons in edits
    ]


def refined_from(evaluator, recipe, limits, attempts, useless=(4, 5, 6)):
    log, asked = TrialLog([], Budget(1), lambda trial: None), []
    begin(evaluator, log)
    start = log.run(
        lambda: Proposal("rounds", recipe, tuple(Neuron("first", index, "ffn") for index in useless)), evaluator.attempt
    )
    return refine(evaluator, start, limits, log, attempts, one_for_one(asked)), asked, log


def test_refinement_exchanges_neurons_where_there_is_no_room_for_more_and_weighs_harm_by_the_room_for_abstention():
    recipe = {"skill_weight": 2.5, "protection": 7.0}
    evaluator = MadeUpEvaluator(useful=4, rooms=(0, 1.0, -0.5))
    refined, asked, _ = refined_from(evaluator, recipe, replace(LIMITS, neurons=3), 3)
    assert [(recipe.neurons, recipe.returned) for recipe in asked] == [(0, 2), (0, 2)]
    assert [recipe.skill_weight for recipe in asked] == pytest.approx([2.5 * math.exp(-r / 2) for r in (1.0, 0.5)])
    assert {recipe.protection for recipe in asked} == {7.0}
    assert refined.figures.gain == 2 * 2 / 16
    assert len(refined.neurons) <= 3


def test_refinement_goes_on_from_what_promises_most_and_retreats_where_a_limit_is_not_kept():
    """The start has no gain and the change, which loses too much, some: it is gone on from, with more weight."""
    evaluator = MadeUpEvaluator(useful=4, losses=(0, 0, 0.2))
    refined, asked, log = refined_from(evaluator, {"skill_weight": 1.0}, replace(LIMITS, neurons=3), 3)
    assert [recipe.eliminated for recipe in asked] == [trial.neurons for trial in log.trials[1:3]]
    assert [recipe.skill_weight for recipe in asked] == pytest.approx([1.0, math.exp(0.25)])
    assert set(refined.neurons) < set(log.trials[3].neurons)  # one of which is useless still
    assert refined.figures.gain == log.trials[3].figures.gain


def test_refinement_protects_more_where_a_change_moves_the_model_too_far():
    log, evaluator, asked = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator(cost=0.03), []
    begin(evaluator, log)
    recipe = {"skill_weight": 1.5, "protection": 2.0}
    start = log.run(lambda: Proposal("rounds", recipe, tuple(in_order(Recipe("ffn", 2)))), evaluator.attempt)
    limits = replace(LIMITS, kl=0.075)  # two neurons, and no third
    refined = refine(evaluator, start, limits, log, 3, lambda recipe: asked.append(recipe) or in_order(recipe))
    assert refined is start
    changes, left_out = asked[:2], asked[2:]
    assert [(recipe.skill_weight, recipe.protection) for recipe in changes] == [(1.5, 2.0), (1.5, 6.0)]
    assert [recipe.eliminated for recipe in asked] == [start.neurons] * 3
    assert [recipe.neurons for recipe in left_out] == [-2]


def test_refinement_goes_on_behind_an_edit_that_was_tried_before():
    """The start promises most, and its change is the next pass's edit: what comes after is a change of that one."""
    evaluator, asked = KnowsEdits(), []
    useful = [Neuron("first", index, "ffn") for index in range(4)]
    first, second = tuple(useful[:3]), (*useful[:2], Neuron("first", 5, "ffn"))
    log, [_, start] = tried(evaluator, first, second)
    orders = {first: [useful[2], second[2]], second: [second[2], useful[3]]}

    def following(recipe):
        if recipe.neurons < 0:
            return []
        asked.append(recipe.eliminated)
        return orders.get(recipe.eliminated, [])

    refine(evaluator, start, replace(LIMITS, neurons=3), log, 3, following)
    assert asked == [first, second]


def test_refinement_goes_on_from_another_edit_where_three_changes_of_one_are_in_vain():
    """The best edit's changes gain nothing, whatever their size; the second best one's does."""
    evaluator, asked = MadeUpEvaluator(), []
    best, second = EVERYTHING[:2], (EVERYTHING[2], EVERYTHING[4])
    log, [_, start] = tried(evaluator, second, best)
    useless = iter(EVERYTHING[5:])

    def following(recipe):
        if recipe.neurons < 0:
            return []
        asked.append(recipe.eliminated)
        if recipe.eliminated == best:
            return [best[1], next(useless)]
        return [second[1], *best] if recipe.eliminated == second else []

    refined = refine(evaluator, start, replace(LIMITS, neurons=3), log, 6, following)
    assert asked[:4] == [best, best, best, second]
    assert set(refined.neurons) == {*best, second[0]}


def test_refinement_tries_ever_smaller_changes_of_an_edit_that_promises_much_where_nothing_is_within_the_limits():
    """And weighs the disambiguated examples ever more, twice as far from step to step, to the largest λ."""
    evaluator, asked, weights = MadeUpEvaluator(losses=[0.0] + [0.2] * 9), [], []
    log, [start] = tried(evaluator, EVERYTHING)
    useless = iter(Neuron("third", index, "ffn") for index in range(9))

    def following(recipe):
        asked.append((recipe.eliminated, recipe.returned))
        weights.append(recipe.skill_weight)
        return [EVERYTHING[7], next(useless)]

    refine(evaluator, log.trials[0], LIMITS, log, 9, following)
    assert asked[:5] == [(start.neurons, count) for count in (4, 2, 1, 1, 1)]  # then less than one would be changed
    assert asked[5][0] != start.neurons
    assert weights[:5] == pytest.approx([*(math.exp(nats / 2) for nats in (0.5, 1, 2, 4)), 16])


def test_refinement_retreats_no_further_where_that_costs_more_than_there_is_to_win():
    """An edit promises much, but what still loses too much of it gains no more than the best edit: three are enough."""
    evaluator, asked = MadeUpEvaluator(losses=[0, 0] + [0.2] * 9), []
    best, promising = EVERYTHING[:1], EVERYTHING
    log, [start, _] = tried(evaluator, best, promising)

    def following(recipe):
        asked.append(recipe.eliminated)
        return EVERYTHING[1:4] if recipe.eliminated == promising else []

    refine(evaluator, start, LIMITS, log, 9, following)
    assert asked[:4] == [promising] * 3 + [best]


def test_refinement_turns_to_the_best_edit_before_others_that_promise_as_much():
    """Two edits promise most and lose too much, whatever is changed; the best one promises less, and can be grown."""
    evaluator, asked = MadeUpEvaluator(losses=[0, 0] + [0.2] * 5), []
    best, promising, sibling = EVERYTHING[:2], EVERYTHING[:5], (*EVERYTHING[:4], EVERYTHING[5])
    log, [start, *_] = tried(evaluator, best, promising, sibling)

    def following(recipe):
        asked.append(recipe.eliminated)
        return EVERYTHING[2:4] if recipe.eliminated == best else []

    refined = refine(evaluator, start, LIMITS, log, 9, following)
    assert list(dict.fromkeys(asked))[:2] == [promising, best]
    assert set(refined.neurons) == set(EVERYTHING[:4])


def test_refinement_goes_on_from_no_edit_twice():
    """Nothing comes of the first edit; a change of the second makes it the first, which promises more."""
    evaluator, asked = KnowsEdits(), []
    first, second = EVERYTHING[:3], (*EVERYTHING[:2], EVERYTHING[4])
    log, [start, _] = tried(evaluator, first, second)
    useless = iter(EVERYTHING[5:])

    def following(recipe):
        if recipe.neurons < 0:
            return []
        asked.append(recipe.eliminated)
        return [first[2], next(useless)] if recipe.eliminated == first else [second[2], first[2]]

    refine(evaluator, start, replace(LIMITS, neurons=3), log, 9, following)
    assert asked[:4] == [first, first, first, second]
    assert first not in asked[4:]


def test_refinement_ends_where_no_exchange_is_worth_it():
    _, asked, log = refined_from(MadeUpEvaluator(), {}, LIMITS, 60, useless=(4,))
    assert len(asked) == 2  # one exchange, and then none
    assert len(log.trials) == 2 + 2  # one neuron is left, so that there is nothing to leave out


def in_order(recipe):
    """The neurons in order of their numbers, as a ranking."""
    order = [Neuron(module, index, "ffn") for module in ("first", "second") for index in range(4)]
    return [neuron for neuron in order if neuron not in recipe.eliminated][: max(recipe.neurons, 0)]


def test_passes_take_a_few_neurons_at_a_time_ranked_with_the_earlier_ones_in_place():
    log, evaluator, asked = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator(), []
    begin(evaluator, log)
    (chain,) = chains(("ffn",), LIMITS.neurons, rounds=3)
    follow(evaluator, chain, lambda recipe: asked.append(recipe) or in_order(recipe), LIMITS, log)
    assert [len(trial.neurons) for trial in log.trials] == [0, 3, 6, 8]
    assert [recipe.eliminated for recipe in asked] == [trial.neurons for trial in log.trials[:-1]]
    assert [trial.figures.gain for trial in log.trials] == [0, 6 / 16, 8 / 16, 8 / 16]


def test_a_pass_that_moves_the_model_too_far_is_taken_back_and_taken_again_with_more_protection():
    log, evaluator, asked = (
        TrialLog([], Budget(1), lambda trial: None),
        MadeUpEvaluator(cost=0.03),
        [],
    )  # KL 0.1: three neurons
    begin(evaluator, log)
    follow(evaluator, Chain("ffn", 2, rounds=4), lambda recipe: asked.append(recipe) or in_order(recipe), LIMITS, log)
    assert [len(trial.neurons) for trial in log.trials] == [0, 2, 4, 4, 4]
    assert [len(recipe.eliminated) for recipe in asked] == [0, 2, 2, 2]
    assert [recipe.protection for recipe in asked[1:]] == pytest.approx([5.0, 15.0, 45.0])


def test_where_more_divergence_is_allowed_ordinary_answers_are_protected_less():
    asked = []
    for limit in (0.1, 10.0):
        log, evaluator = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator()
        begin(evaluator, log)
        limits = replace(LIMITS, kl=limit)
        follow(
            evaluator, Chain("ffn", 8, rounds=1), lambda recipe: asked.append(recipe) or in_order(recipe), limits, log
        )
    assert [recipe.protection for recipe in asked] == pytest.approx([5.0, 0.05])


@pytest.mark.parametrize(
    ("rooms", "nats"),
    [
        ((0, -1, -0.5, 0.75, 0, 2), [0, -1, -1.5, -0.75, -0.75, 1.25]),
        ((0, -3, -3, 0.5), [0, -3, -2 * math.log(16), 0.5 - 2 * math.log(16)]),  # 16 is the largest
        ((0, 3, 3, -1), [0, 3, 2 * math.log(16), 2 * math.log(16) - 1]),  # 1/16 the least
    ],
)
def test_harm_to_skill_counts_for_more_the_less_room_abstention_has(rooms, nats):
    log, evaluator, asked = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator(rooms=rooms), []
    begin(evaluator, log)
    passes = len(nats)
    follow(evaluator, Chain("ffn", 1, passes), lambda recipe: asked.append(recipe) or in_order(recipe), LIMITS, log)
    assert [recipe.skill_weight for recipe in asked] == pytest.approx([math.exp(-room / 2) for room in nats])
    assert [len(trial.neurons) for trial in log.trials] == list(range(passes + 1))  # nothing is taken back


def test_passes_end_where_there_are_no_more_neurons():
    log, evaluator = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator()
    begin(evaluator, log)
    follow(evaluator, Chain("ffn", 3, rounds=9), in_order, replace(LIMITS, neurons=100, kl=1), log)
    assert [len(trial.neurons) for trial in log.trials] == [0, 3, 6, 8, 8]


@pytest.mark.parametrize("done", [1, 2, 4])
def test_passes_go_on_where_they_were_interrupted(done):
    def whole(known):
        log, evaluator, asked = TrialLog(known, Budget(1), lambda trial: None), MadeUpEvaluator(), []
        begin(evaluator, log)
        follow(
            evaluator, Chain("ffn", 3, rounds=3), lambda recipe: asked.append(recipe) or in_order(recipe), LIMITS, log
        )
        return log.trials, asked

    trials, asked = whole([])
    again, asked_again = whole([Trial.from_dict(trial.to_dict()) for trial in trials[:done]])
    assert undated(again) == undated(trials)
    assert asked_again == asked[done - 1 :]  # nothing is measured twice


def test_without_passes_there_are_no_chains():
    assert chains(("ffn", "linear"), 100, rounds=0) == []
    assert chains(("ffn", "linear"), 5, rounds=8) == [Chain("ffn", 1, 8), Chain("linear", 1, 8)]


def test_the_last_passes_exchange_neurons_at_their_largest_number():
    """The first pass takes two neurons that do nothing; each later one gives back one of them, for one that helps."""
    log, evaluator, asked = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator(useful=4), []
    begin(evaluator, log)

    def useless_first(recipe):
        asked.append(recipe)
        back = [neuron for neuron in recipe.eliminated if neuron.index >= 4][: min(1, recipe.returned)]
        order = [Neuron("first", index, "ffn") for index in (range(4) if recipe.eliminated else (4, 5))]
        new = [neuron for neuron in order if neuron not in recipe.eliminated]
        return [*back, *new[: recipe.neurons + len(back)]]

    follow(evaluator, Chain("ffn", 2, rounds=9), useless_first, replace(LIMITS, neurons=4), log)
    assert [len(trial.neurons) for trial in log.trials] == [0, 2, 4, 4, 4]
    assert [(recipe.neurons, recipe.returned) for recipe in asked] == [(2, 0), (2, 2), (0, 2), (0, 2)]
    assert [trial.figures.gain for trial in log.trials] == [0, 0, 3 / 8, 1 / 2, 1 / 2]


def test_a_chain_ends_where_no_exchange_is_worth_it():
    log, evaluator = TrialLog([], Budget(1), lambda trial: None), MadeUpEvaluator()
    begin(evaluator, log)
    follow(evaluator, Chain("ffn", 4, rounds=9), in_order, replace(LIMITS, neurons=4), log)
    assert [len(trial.neurons) for trial in log.trials] == [0, 4, 4]


def test_refinement_takes_no_more_trials_than_it_may():
    log, evaluator = tuned(trials=2)
    start = log.run(
        lambda: Proposal("search", {}, tuple(evidence().effects["ffn"].neurons(range(8)))), evaluator.attempt
    )
    before = len(log.trials)
    refine(evaluator, start, LIMITS, log, 5, in_order)
    assert len(log.trials) - before <= 5


def test_the_best_edit_is_untested_where_no_further_questions_are_left():
    log, evaluator = tuned()
    decision = decide(evaluator, log, LIMITS, seed=0)
    assert decision.verdict == "untested"
    assert decision.trial is best_within(log.trials[:-1], LIMITS)
    assert decision.control.stage == "control"
    assert decision.over_original.shown
    assert decision.over_control.shown
    assert not decision.over_original.further
    assert f"trial {decision.trial.number}" in decision.reason
    assert "on 16 questions that it was picked on, which is no test, of 8 templates" in decision.reason


def of_these(evaluator, gains):
    """The original, and an edit of one, two, ... neurons for each gain and loss."""
    log = TrialLog([], Budget(1), lambda trial: None)
    begin(evaluator, log)
    for number, (gain, loss) in enumerate(gains, start=1):
        neurons = tuple(Neuron("first", index, "ffn") for index in range(number))
        trial = evaluator.attempt(number, Proposal("search", {"ranking": "made up"}, neurons))
        log.trials.append(replace(trial, figures=replace(trial.figures, gain=gain, loss=loss, kl=0.0)))
    return log


def decide_by_finals(evaluator, log, limits=LIMITS):
    return decide(evaluator, log, limits, 0, reevaluate_best(evaluator, log, limits))


def test_what_is_left_on_further_questions_decides():
    """The edit of the highest gain turns out to be dear, the next to gain little."""
    evaluator = Reevaluates({1: (12, 0.2), 2: (4, 0.0), 3: (8, 0.02)})
    log = of_these(evaluator, [(0.9, 0.04), (0.8, 0.03), (0.7, 0.02)])
    decision = decide_by_finals(evaluator, log)
    assert (decision.verdict, decision.trial.number, decision.trial.stage) == ("recommended", 3, "search")
    assert [trial.stage for trial in log.trials] == ["search"] * 4 + ["final"] * 4 + ["control"]
    assert [trial.recipe["of"] for trial in decision.reevaluated] == [0, 1, 2, 3]
    assert decision.control.figures.gain == 0.0
    assert decision.over_original.value == 0.5
    assert decision.over_original.p_value == 1 / 256  # eight templates gain alike, of which there are 2^8 swaps
    assert "(trial 3): the highest gain in accuracy among the 2 of 3 re-evaluated edits" in decision.reason
    assert (
        "+0.500 over the original (p = 0.004) and +0.500 over as many random neurons (p = 0.004) on 16 further "
        "questions of 8 templates of the validation split (one-sided, corrected for 3 re-evaluated edits)"
        in decision.reason
    )
    assert [trial.number for trial in decision.front] == [1, 2, 3, 0]  # as it was searched


def test_no_edit_is_recommended_where_none_is_left_on_further_questions():
    evaluator = Reevaluates({1: (12, 0.2), 2: (0, 0.0)})
    decision = decide_by_finals(evaluator, of_these(evaluator, [(0.9, 0.04), (0.8, 0.03)]))
    assert (decision.verdict, decision.trial.number) == ("none", 0)
    assert (
        "none of the 2 re-evaluated edits answers more questions right on 64 questions of the validation split"
        in decision.reason
    )


def test_finalists_keep_the_limits_but_for_the_margin_for_doubt():
    evaluator = Reevaluates(dict.fromkeys(range(1, 5), (8, 0.0)))
    log = of_these(evaluator, [(0.9, 0.06), (0.8, 0.05), (0.7, 0.01), (0.6, 0.0)])
    unsure, abstaining = ({"doubt": 0.1}, {"implied": 0.051})  # where less was lost than "unknown" has risen, by luck
    for number, changes in ((2, unsure), (3, abstaining)):
        trial = log.trials[number]
        log.trials[number] = replace(trial, figures=replace(trial.figures, **changes))
    decision = decide_by_finals(evaluator, log, replace(LIMITS, caution=1.0))
    assert [trial.recipe["of"] for trial in decision.reevaluated] == [0, 2, 4]


def test_the_best_trades_are_heard_before_what_gains_more_at_the_same_loss():
    """Eight that are no better than one another, and as many that are a little behind the best of these."""
    evaluator = Reevaluates(dict.fromkeys(range(1, 17), (15, 0.0)))
    trades = [(0.8 - number / 100, 0.04 - number / 250) for number in range(8)]
    log = of_these(evaluator, [*((0.795, 0.04) for _ in range(8)), *trades])
    decision = decide_by_finals(evaluator, log)
    assert [trial.recipe["of"] for trial in decision.reevaluated] == [0, *range(9, 17)]


def test_an_edit_is_heard_once_however_often_it_was_tried():
    evaluator = Reevaluates({1: (8, 0.0), 2: (8, 0.0)})
    log = of_these(evaluator, [(0.8, 0.02), (0.7, 0.01)])
    log.trials.append(replace(log.trials[1], number=3, stage="refine", recipe={"same_edit_as": 1}))
    assert [trial.recipe["of"] for trial in decide_by_finals(evaluator, log).reevaluated] == [0, 1, 2]


def test_a_finalist_is_held_to_what_its_abstention_implies():
    """The first loses nothing, and should have: what "unknown" took were wrong answers, this time."""
    evaluator = Reevaluates({1: (12, 0.0), 2: (8, 0.0)}, implied={1: 0.06})
    log = of_these(evaluator, [(0.8, 0.02), (0.7, 0.01)])
    assert decide_by_finals(evaluator, log).trial.number == 2


@pytest.mark.parametrize(
    ("truly", "reevaluated"),
    [
        (0.75, 8),  # those that are left gained less
        (0.25, 16),  # any of them may be better yet, but there is an end
    ],
)
def test_more_are_heard_only_while_they_may_gain_more(truly, reevaluated):
    evaluator = Reevaluates({number: (round(16 * truly), 0.0) for number in range(1, 25)})
    log = of_these(evaluator, [(0.8 - number / 100, 0.04 - number / 1000) for number in range(20)])
    assert len(decide_by_finals(evaluator, log).reevaluated) == 1 + reevaluated


@pytest.mark.parametrize("done", [4, 6, 8, 9])
def test_a_decision_that_was_interrupted_asks_nothing_twice(done):
    gains, truly = [(0.9, 0.04), (0.8, 0.03), (0.7, 0.02)], {1: (12, 0.2), 2: (4, 0.0), 3: (8, 0.02)}
    whole, evaluator = of_these(Reevaluates(truly), gains), Reevaluates(truly)
    expected = decide_by_finals(evaluator, whole)
    known = [Trial.from_dict(trial.to_dict()) for trial in whole.trials[:done]]
    again, evaluator = TrialLog(known, Budget(1), lambda trial: None), Reevaluates(truly)
    again.trials = known[:4]
    assert decide_by_finals(evaluator, again).reason == expected.reason
    assert undated(again.trials) == undated(whole.trials)
    assert sorted(set(evaluator.tried)) == list(range(done, 9))


@pytest.mark.parametrize("reevaluated", [1, 2, 3])
def test_finalists_that_ctrl_c_has_cut_short_stay_so(reevaluated):
    """The original and so many re-evaluated edits less one were reevaluated; then came the control."""
    evaluator = Reevaluates({1: (12, 0.0), 2: (12, 0.0), 3: (12, 0.0)})
    log = of_these(evaluator, [(0.9, 0.04), (0.8, 0.03), (0.7, 0.02)])
    decide_by_finals(evaluator, log)
    control = replace(log.trials[-1], number=4 + reevaluated)
    if reevaluated == 1:
        control = replace(control, answers=evaluator.attempt(0, control).answers)  # not re-evaluated
    known = [*log.trials[: 4 + reevaluated], control]
    again, evaluator = TrialLog(known, Budget(1), lambda trial: None), Reevaluates({})
    again.trials = known[:4]
    decision = decide_by_finals(evaluator, again)
    assert again.trials == known
    assert evaluator.tried == []
    assert list(decision.reevaluated) == again.reevaluated == (known[4:-1] if reevaluated > 1 else [])
    assert ("re-evaluated edits" in decision.reason) == (reevaluated > 1)


def test_ctrl_c_while_known_finalists_are_gone_through_loses_none_of_them():
    evaluator = Reevaluates({1: (12, 0.0), 2: (12, 0.0)})
    log = of_these(evaluator, [(0.9, 0.04), (0.8, 0.03)])
    decide_by_finals(evaluator, log)
    again = TrialLog(log.trials, Budget(1), lambda trial: None)
    again.trials = log.trials[:4]  # the original's final is the last of them
    assert again.cut_short(reevaluating=True) == log.trials  # the record
    assert again.trials == log.trials[:-1]  # without the control


def test_what_judges_edits_is_none_of_them():
    log, evaluator = tuned(trials=6)
    figures = replace(log.trials[3].figures, gain=1.0, loss=0.0, kl=0.0)  # better than anything that was tried
    judging = [
        replace(log.trials[3], number=7 + index, stage=stage, figures=figures)
        for index, stage in enumerate(("final", "control"))
    ]
    assert best_within(judging, LIMITS) is judging[0]
    log.trials += judging
    assert {trial.stage for trial in log.complete} == {"search"}
    assert best_within(log.complete, LIMITS).stage == "search"
    assert {trial.stage for trial in decide(evaluator, log, LIMITS, seed=0).front} == {"search"}


def told(trial, number, right, overabstention, loss=0.0):
    """A trial with these ambiguous questions answered right."""
    answers = {"t": [2 if index in right else 0 for index in range(16)] + [0] * 16}
    figures = Figures(len(right) / 16, loss, overabstention, 0.01)
    return replace(trial, number=number, neurons=trial.neurons[: number + 1], figures=figures, answers=answers)


@pytest.mark.parametrize(
    ("right", "loss", "chosen"),
    [
        ({*range(9), 12}, 0.01, 2),  # two questions of different templates fewer and one more: as likely chance
        (set(range(8)), 0.01, 1),  # fewer, wherever they differ, and by more than the error
        ({*range(9), 12}, 0.03, 1),  # worse in everything but what wrong answers are
    ],
)
def test_of_edits_whose_gains_are_not_told_apart_the_widest_abstention_gap_is_recommended(right, loss, chosen):
    log, evaluator = tuned()
    original, some = log.trials[0], max(log.trials, key=lambda trial: len(trial.neurons))
    log.trials = [original, told(some, 1, set(range(11)), 0.19, 0.02), told(some, 2, right, 0.0, loss)]
    decision = decide(evaluator, log, LIMITS, seed=0)
    assert (decision.verdict, decision.trial.number) == ("untested", chosen)
    assert ("widest abstention gap of those within a standard error of the highest gain (trial 1: +0.688)"
            in decision.reason) == (chosen == 2)  # fmt: skip


def test_what_does_not_surely_gain_is_not_taken_for_its_abstention_gap():
    """What the other edit gains is of two templates of eight: their like may well not be met again."""
    log, evaluator = tuned()
    original, some = log.trials[0], max(log.trials, key=lambda trial: len(trial.neurons))
    log.trials = [original, told(some, 1, set(range(6)), 0.19), told(some, 2, {0, 8, 1, 9}, 0.0, -0.01)]
    assert decide(evaluator, log, LIMITS, seed=0).trial.number == 1


def test_where_nothing_gains_no_edit_is_recommended():
    log, evaluator = tuned(evaluator=MadeUpEvaluator(useful=0))
    decision = decide(evaluator, log, LIMITS, seed=0)
    assert (decision.verdict, decision.trial.neurons) == ("none", ())
    assert decision.reason.startswith("no edit recommended")
    assert decision.front[0].number == 0


def test_where_everything_exceeds_a_limit_no_edit_is_recommended_but_the_front_is_kept():
    log, evaluator = tuned(evaluator=MadeUpEvaluator(cost=0.2))
    decision = decide(evaluator, log, LIMITS, seed=0)
    assert (decision.verdict, decision.trial.number) == ("none", 0)
    assert len(decision.front) > 1


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        ((False, False, False), "; all of them given up before all questions were asked"),
        ((True, False, False), "; 2 of them given up before all questions were asked"),
        ((True, True, True), ")"),
    ],
)
def test_a_verdict_of_none_says_how_many_edits_were_given_up(whole, told):
    log, evaluator = tuned(evaluator=MadeUpEvaluator(useful=0))
    first, *_ = log.trials
    neurons = evidence().effects["ffn"].neurons(range(2))
    log.trials = [
        first,
        *(replace(first, number=n + 1, neurons=tuple(neurons), complete=c) for n, c in enumerate(whole)),
    ]
    reason = decide(evaluator, log, LIMITS, seed=0).reason
    assert reason.startswith("no edit recommended: none of the 3 edits tried answers more questions right")
    assert reason.endswith(told)


def test_a_gain_that_two_templates_alone_have_is_not_recommended():
    class OneTemplate(MadeUpEvaluator):
        def examples(self, task):
            return tuple(replace(example, template=example.template if index < 2 else "the rest")
                         for index, example in enumerate(super().examples(task)))  # fmt: skip

    evaluator = OneTemplate(useful=1)
    log, _ = tuned(evaluator=evaluator)
    decision = decide(evaluator, log, LIMITS, seed=0)
    assert best_within(log.complete, LIMITS).figures.gain == pytest.approx(2 / 16)
    assert decision.verdict == "none"
    assert decision.over_original.p_value >= 1 / 8  # it gains in two templates of three
    assert decision.reason.endswith("no gain is shown: 6 templates are the fewest that can show one")


class GainsWhereItWasTried(Reevaluates):
    """Finalists gain on the questions they were tried on, and nothing on further ones."""

    def reevaluate(self, number, proposal, trial, original=None):
        reevaluated = super().reevaluate(number, proposal, trial, original)
        return replace(reevaluated, answers={"t": [*reevaluated.answers["t"][:32], *[0] * 32]})


def test_a_gain_on_the_questions_that_an_edit_was_picked_on_is_none():
    """16 of 32 questions gained, in eight templates: an interval of all of them is far above 0."""
    evaluator = GainsWhereItWasTried({1: (16, 0.0), 2: (16, 0.0)})
    decision = decide_by_finals(evaluator, of_these(evaluator, [(0.9, 0.04), (0.8, 0.03)]))
    assert (decision.verdict, decision.trial.number) == ("none", 0)
    assert (decision.over_original.value, decision.over_original.p_value) == (0.0, 1.0)
    assert decision.reason.endswith("no gain is shown")


def test_a_gain_is_corrected_for_the_edits_that_might_have_been_heard():
    """Ctrl-C after three of nine: the best of three blocks of three is no better than this by chance three times as
    often."""
    truly = dict.fromkeys(range(1, 10), (8, 0.0))
    evaluator = Reevaluates(truly)
    log = of_these(evaluator, [(0.9 - number / 100, 0.04 - number / 1000) for number in range(9)])
    reevaluated = reevaluate_best(evaluator, log, LIMITS)
    decision = decide(evaluator, log, LIMITS, 0, reevaluated[:4])
    assert (decision.over_original.edits, decision.over_original.p_value) == (9, 3 / 256)


def test_as_good_as_random_neurons_is_not_good_enough():
    class LuckyControl(MadeUpEvaluator):
        def random_control(self, trial, seed):
            return Proposal("control", {}, trial.neurons)

    evaluator = LuckyControl()
    log, _ = tuned(evaluator=evaluator)
    assert decide(evaluator, log, LIMITS, seed=0).verdict == "none"


def test_another_point_of_the_front_can_be_picked():
    log, evaluator = tuned()
    front = decide(evaluator, log, LIMITS, seed=0).front
    picked = (
        decide(evaluator, TrialLog(log.trials, Budget(1), lambda trial: None), LIMITS, 0) if not front else front[-1]
    )
    by_itself = decide(evaluator, log, LIMITS, seed=0)
    decision = picked_by_hand(by_itself, picked.number)
    assert decision.trial.number == picked.number
    assert (picked.number, decision.verdict) == (0, "none")  # the original is the last of the front
    others = [trial for trial in front[:-1] if trial.number != by_itself.trial.number]
    recommended = replace(by_itself, verdict="recommended")
    assert {picked_by_hand(recommended, trial.number).verdict for trial in others} == {"untested"}
    assert picked_by_hand(recommended, by_itself.trial.number).verdict == "recommended"
    assert "picked by hand" in decision.reason
    with pytest.raises(InputError, match="pick one of"):
        picked_by_hand(decision, 999)


def test_evidence_is_not_asked_for_where_every_trial_is_known():
    whole, _ = tuned(trials=4)

    def refused() -> Evidence:
        raise AssertionError("measured again")

    log = TrialLog(whole.trials, Budget(4), lambda trial: None)
    begin(MadeUpEvaluator(), log)
    tune(MadeUpEvaluator(), refused, SPACE, LIMITS, Budget(4), log, 0)
    assert len(log.trials) == 5
    assert math.isclose(log.trials[-1].figures.gain, whole.trials[-1].figures.gain)
