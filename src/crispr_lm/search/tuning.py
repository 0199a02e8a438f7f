"""Tuning: which edits to try, one after the other, until the trials or the time are used up.

Optuna's multi-objective TPE proposes recipes (ranking, number of neurons, λ, ...), an evaluator tries them. The study
lives in memory only: what is kept of it are the finished trials, one line each. To resume, the study is played again
with the same seed; the figures of known trials are given to it, not measured. So a run that was killed and one that was
not propose the same. Knows recipes, trials and an evaluator; knows no model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args

import optuna

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.model.neuron_sites import NeuronKind
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.rankings import LAYERS, Evidence, Layers, Recipe, ranked, ranking_named
from crispr_lm.search.trial import TOLERANCE, Figures, Limits, Trial, best_within
from crispr_lm.search.trial_log import Budget, TrialLog
from crispr_lm.tasks.base import AttributeOn

logger = logging.getLogger(__name__)

Choice = TypeVar("Choice", bound=str)

SKILL_WEIGHTS = (0.5, 2.0)
PROTECTIONS = (0.2, 2.0)
"""Nats of gain given up for all the divergence allowed (`Limits.protection`), as in `STARTING_POINTS`."""
SCALES = (0.0, 0.25, 0.5)

SECOND_HALF: Layers = "second half"

STARTING_POINTS: tuple[dict[str, Any], ...] = (
    {"ranking": "pursuit", "kind": "ffn", "share": 1.0, "skill_weight": 1.25, "protection": 0.5},
    {"ranking": "pursuit", "kind": "ffn", "share": 0.5, "skill_weight": 0.85, "protection": 0.5},
    {"ranking": "pursuit", "kind": "ffn", "share": 0.35, "skill_weight": 1.0, "protection": 0.8, "layers": SECOND_HALF},
    {"ranking": "pursuit", "kind": "ffn", "share": 1.0, "skill_weight": 0.85, "protection": 0.5, "layers": SECOND_HALF},
    {
        "ranking": "contrast",
        "kind": "ffn",
        "share": 0.1,
        "skill_weight": 0.7,
        "protection": 0.5,
        "attribute_on": "both",
    },
    {"ranking": "published", "share": 0.1},
)
"""Recipes to begin with: what has worked on other models (docs/results/search.md). `share` is of the most neurons."""


@dataclass(frozen=True)
class Space:
    """What recipes are made of.

    Attributes:
        rankings: Names.
        kinds: Kinds of neurons whose effects were measured.
        most: Largest number of neurons.
        tasks: Number of tasks; with several, one ranking for all or rankings united is another choice.
        attribute_on: Conditions of examples to rank by, that of the published ranking first; one where tasks do not
            tell.
        token_aggregations: Of the published ranking, its own first.
    """

    rankings: tuple[str, ...]
    kinds: tuple[NeuronKind, ...]
    most: int
    tasks: int = 1
    attribute_on: tuple[AttributeOn, ...] = get_args(AttributeOn)
    token_aggregations: tuple[TokenAggregation, ...] = get_args(TokenAggregation)


def begin(evaluator: Evaluator, log: TrialLog) -> None:
    """Try the original model: trial 0, which all others are compared with."""
    log.run(lambda: Proposal("search", {}, ()), lambda _number, _proposal: evaluator.try_original())


def tune(
    evaluator: Evaluator,
    evidence: Callable[[], Evidence],
    space: Space,
    limits: Limits,
    budget: Budget,
    log: TrialLog,
    seed: int,
) -> None:
    """Try recipes until the budget is used up; the trials are in the log, behind those that are there (`begin`).

    What costs more than a limit is known to the sampler as infeasible.

    Args:
        evaluator: Where edits are tried.
        evidence: Gives what rankings are computed from; not called where every trial is known.
        space: What recipes are made of.
        limits: On the cost of an edit.
        budget: Of trials and time.
        log: Where trials go; holds those of an interrupted run.
        seed: The same seed proposes the same trials.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(5, budget.trials // 5))
    study = optuna.create_study(directions=["maximize"] * 3, sampler=sampler)
    for point in starting_points(space):
        study.enqueue_trial(point)
    for _ in range(budget.trials):
        if log.is_over("search"):
            logger.info("the search is over after trial %d", len(log.trials) - 1)
            break
        asked = study.ask()
        recipe, name = _recipe(asked, space, limits)

        def propose(recipe: Recipe = recipe, name: str = name) -> Proposal:
            chosen = tuple(ranked(name, evidence(), recipe))
            return Proposal("search", {"ranking": name, **_told(recipe, name)}, chosen, recipe.scale)

        trial = log.run(propose, lambda number, proposal: evaluator.attempt(number, proposal, log.complete, race=True))
        for limit, excess in _excess(trial.figures, limits).items():
            asked.set_constraint(limit, excess)
        study.tell(asked, trial.figures.objectives())


def starting_points(space: Space) -> Iterator[dict[str, Any]]:
    """The recipes to begin with that the space allows, as Optuna's parameters."""
    for point in STARTING_POINTS:
        if point["ranking"] in space.rankings and point.get("kind", space.kinds[0]) in space.kinds:
            parameters = {name: value for name, value in point.items() if name != "share"}
            if parameters.get("attribute_on") not in space.attribute_on:
                parameters["attribute_on"] = space.attribute_on[0]
            yield {
                "layers": "all",
                "token_aggregation": space.token_aggregations[0],
                **parameters,
                "neurons": max(1, round(point["share"] * space.most)),
                "scale": 0.0,
            }


def _recipe(asked: optuna.Trial, space: Space, limits: Limits) -> tuple[Recipe, str]:
    """Have the sampler fill in a recipe; parameters that the ranking does not heed are not asked for."""
    name = asked.suggest_categorical("ranking", space.rankings)
    tunes = ranking_named(name).tunes
    protection = asked.suggest_float("protection", *PROTECTIONS, log=True) if "protection" in tunes else 0.0
    recipe = Recipe(
        neurons=asked.suggest_int("neurons", 1, space.most, log=True),
        scale=asked.suggest_categorical("scale", SCALES),
        layers=asked.suggest_categorical("layers", tuple(LAYERS)),  # type: ignore[arg-type]
        kind=asked.suggest_categorical("kind", space.kinds) if "kind" in tunes else space.kinds[0],  # type: ignore[arg-type]
        skill_weight=asked.suggest_float("skill_weight", *SKILL_WEIGHTS) if "skill_weight" in tunes else 1.0,
        protection=limits.protection(protection),
        united=asked.suggest_categorical("united", (False, True)) if space.tasks > 1 and "united" in tunes else False,
        attribute_on=_one_of(asked, "attribute_on", space.attribute_on, tunes),
        token_aggregation=_one_of(asked, "token_aggregation", space.token_aggregations, tunes),
    )
    return recipe, name


def _one_of(asked: optuna.Trial, name: str, choices: Sequence[Choice], tunes: frozenset[str]) -> Choice:
    """What the sampler chooses; the first where the ranking does not heed it."""
    return asked.suggest_categorical(name, choices) if name in tunes else choices[0]  # type: ignore[return-value]


def _told(recipe: Recipe, name: str) -> dict[str, Any]:
    """The recipe without what the ranking does not heed."""
    tunes = ranking_named(name).tunes
    return {
        key: value for key, value in asdict(recipe).items() if key in ("neurons", "scale", "layers") or key in tunes
    }


def _excess(figures: Figures, limits: Limits) -> dict[str, float]:
    """By how much a trial exceeds each limit; positive where it does."""
    return {
        "kl": figures.kl - limits.kl - TOLERANCE,
        "loss": figures.loss_beyond(limits) - TOLERANCE,
        "overabstention": figures.overabstention - limits.overabstention - TOLERANCE,
    }


def best_so_far(trials: Sequence[Trial], limits: Limits) -> str:
    """One line for people: the best complete trial within the limits."""
    best = best_within(trials, limits)
    if best is None or not best.neurons:
        return "none within the limits yet"
    return f"best: trial {best.number}, {len(best.neurons)} neurons, {best.outcome()}"
