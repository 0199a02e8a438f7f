"""Rankings: orders of neurons, best to remove first, all computed from what was measured once on the attribution split.

Knows effects (`attribution.effects`), neuron scores and numbers; runs no model. A new ranking is one function and one
line in `RANKINGS`, or comes from elsewhere (`register_ranking`).

Notation, for an example e whose unknown option is u and whose answer y, to first order (see `attribution.effects`):
E_i(a, b) is the effect of neuron i on s(a) − s(b), and scaling it by σ changes that contrast by (σ − 1) · E_i(a, b).
"Ambiguous" stands for every example whose context does not give the answer, and for all examples of a task that does
not tell; "disambiguated" for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice, zip_longest
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crispr_lm.attribution.activation_gradients import TokenAggregation
from crispr_lm.attribution.effects import Effects
from crispr_lm.attribution.importance import Importance
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.errors import InputError, nearest
from crispr_lm.metrics.statistics import clustered_error
from crispr_lm.model.neuron_sites import Neuron, NeuronKind
from crispr_lm.runtime.plugins import Registry
from crispr_lm.tasks.base import AttributeOn

Array = NDArray[np.float64]

Layers = Literal["all", "first half", "second half", "middle half"]

LAYERS: dict[Layers, tuple[float, float]] = {
    "all": (0.0, 1.0),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "middle half": (0.25, 0.75),
}
"""Ranges of layers by name: from where to where in the order of modules, as shares."""

CAUTION = 1.5
"""Standard errors that `pursuit` subtracts from a neuron's mean gain: effects that few templates show are noise."""

FORGIVEN = 0.5
"""Standard errors that `pursuit` subtracts from a neuron's mean loss in choices to be kept: else every neuron of large
effects would be held to lose some, since what is below 0 does not count in its favour."""

TEMPERATURE = 2.0
"""Nats over which `pursuit` takes an answer to turn: examples farther than that from turning hardly count."""

STRAYING = 5.0
"""Nats of gain that `pursuit` gives up per nat by which answers to disambiguated questions stray. Not ρ: whatever may
become of ordinary answers, of these it is asked that they stay."""

TAKEN_AT_ONCE = 2
"""Neurons that `pursuit` takes before it looks at the examples anew."""


Published = Callable[[AttributeOn, TokenAggregation], NeuronScores]
"""The published bias influence B, on examples of a condition and with tokens aggregated in a way."""


@dataclass(frozen=True)
class Evidence:
    """What was measured once on the attribution split.

    Attributes:
        published: Gives B; measures it when it is first asked for.
        effects: First-order effects by kind of neuron, on the examples of all tasks together.
        importance: What ordinary answers lose without each neuron, by kind (`measure_importance`): one for each
            group of prompts, so that many prompts of one group don't hide what a neuron does in another.
        kept: Effects on choices that are to stay as they are, by kind: of ordinary questions the contrasts of the
            option that the original chooses; empty for none.
        of_tasks: The effects on each task's examples by themselves, where there are several tasks.
    """

    published: Published
    effects: Mapping[NeuronKind, Effects]
    importance: Mapping[NeuronKind, Sequence[Importance]]
    kept: Mapping[NeuronKind, Effects] = field(default_factory=dict)
    of_tasks: Sequence[Mapping[NeuronKind, Effects]] = ()


@dataclass(frozen=True)
class Recipe:
    """What a ranking is asked for.

    Attributes:
        kind: Kind of neurons (the published ranking has that of its scores).
        neurons: How many; below 0, by how many the edit in place is to shrink (`pursuit`).
        skill_weight: λ, how much harm to disambiguated examples counts against a gain in ambiguous ones.
        protection: ρ, how much harm to ordinary answers counts: nats of gain given up per nat of KL divergence, and
            per nat of log-probability that the choices to be kept lose.
        scale: What the neurons' activations will be multiplied with.
        layers: Name of a range of layers, a key of `LAYERS`.
        attribute_on: Examples of which condition are heeded (where a task does not tell, all are).
        token_aggregation: What B takes of a prompt's tokens.
        united: With several tasks: rank for each by itself and unite the rankings, instead of one ranking for all.
        eliminated: What is in place already (and was when the evidence was measured), and is not proposed again.
        returned: How many of these may be given back instead, each for one more of the others.
    """

    kind: NeuronKind
    neurons: int
    skill_weight: float = 1.0
    protection: float = 5.0
    scale: float = 0.0
    layers: Layers = "all"
    attribute_on: AttributeOn = "both"
    token_aggregation: TokenAggregation = "max"
    united: bool = False
    eliminated: tuple[Neuron, ...] = ()
    returned: int = 0

    def highest(self, effects: Effects, gains: Array) -> list[Neuron]:
        """As many neurons as asked for, of the highest gains, in the layers asked for and not eliminated already.

        Args:
            effects: Of the recipe's kind of neurons.
            gains: float64 (neurons,), in the order of ``effects.values``.
        """
        allowed = _open_to(effects, self)
        order = np.argsort(-np.where(allowed, gains, -np.inf), kind="stable")
        return effects.neurons(order[: min(self.neurons, int(allowed.sum()))])


@dataclass(frozen=True)
class Ranking:
    """A way to order neurons.

    Attributes:
        name: As in records and settings.
        rank: From evidence and recipe to neurons, best first, without repetition; fewer than asked for where no more
            come into question. Eliminated ones among them are given back (`changed`).
        tunes: Fields of the recipe, beside the number of neurons, the scale and the layers, that it heeds.
    """

    name: str
    rank: Callable[[Evidence, Recipe], list[Neuron]]
    tunes: frozenset[str]


def ranking_named(name: str) -> Ranking:
    """Find a ranking.

    Raises:
        InputError: there is none of this name.
    """
    if name not in RANKINGS:
        raise InputError(f"no ranking {name!r}{nearest(name, RANKINGS)}; there are: {', '.join(RANKINGS)}")
    return RANKINGS[name]


def ranked(name: str, evidence: Evidence, recipe: Recipe) -> list[Neuron]:
    """The neurons of a recipe by the ranking of this name, best first.

    Raises:
        InputError: there is no such ranking.
    """
    rank = ranking_named(name).rank
    if not recipe.united or not evidence.of_tasks:
        return rank(evidence, recipe)
    orders = [rank(replace(evidence, effects=effects), recipe) for effects in evidence.of_tasks]
    in_turn = (neuron for of_rank in zip_longest(*orders) for neuron in of_rank if neuron is not None)
    return list(dict.fromkeys(in_turn))[: recipe.neurons]


def changed(before: Sequence[Neuron], order: Sequence[Neuron]) -> tuple[Neuron, ...]:
    """An edit's neurons after changes: those that it has are given back, the others added."""
    given_back, there = set(order), set(before)
    return (
        *(neuron for neuron in before if neuron not in given_back),
        *(neuron for neuron in order if neuron not in there),
    )


def published(evidence: Evidence, recipe: Recipe) -> list[Neuron]:
    """B = mean of A(ŷ) − λ · max(A(y), 0), the paper's, as `score_neurons` has computed it (with its own λ)."""
    scores = evidence.published(recipe.attribute_on, recipe.token_aggregation)
    widths = [len(values) for values in scores.values.values()]
    allowed = _in_layers(widths, recipe.layers)
    starts = dict(zip(scores.values, np.cumsum([0, *widths]).tolist(), strict=False))
    there = set(recipe.eliminated)
    chosen = (
        neuron
        for neuron in scores.top(len(scores))
        if allowed[starts[neuron.module] + neuron.index] and neuron not in there
    )
    return list(islice(chosen, recipe.neurons))


def contrast(evidence: Evidence, recipe: Recipe) -> list[Neuron]:
    """Gain in answers minus λ times harm to skill, every example alike, minus ρ times harm to ordinary answers.

    gain_i = (σ − 1) · [ mean over ambiguous of E_i(y, ŷ)  +  λ · mean over disambiguated of Σ over o of E_i(y, o) ]
             − ρ · Σ over groups of ordinary prompts of harm_i (`Importance.harm`)

    Fitted on one condition alone it is without the other's mean.
    """
    effects = evidence.effects[recipe.kind]
    ambiguous = effects.ambiguous
    weights = np.zeros(effects.contrasts.shape)
    nearest_wrong = effects.contrasts.argmin(axis=1)
    if recipe.attribute_on != "disambiguated":
        weights[ambiguous, nearest_wrong[ambiguous]] = 1 / max(1, ambiguous.sum())
    if recipe.attribute_on != "ambiguous":
        weights[~ambiguous] = recipe.skill_weight / max(1, (~ambiguous).sum())
    gains = (recipe.scale - 1) * _weighted(effects.values, weights) - _harm(evidence, recipe)
    return recipe.highest(effects, gains)


def pursuit(evidence: Evidence, recipe: Recipe) -> list[Neuron]:
    """Neurons that part the examples that should be answered "unknown" from those that should not, found in turn.

    Let g = min over p of s(u) − s(p) be an example's margin of abstention over its best other option p (where nothing
    abstains, the margin s(y) − s(ŷ), to be raised). The margins predicted for the neurons taken so far, g + (σ − 1) ·
    Σ E, say how much each example still matters: w = 1 / (1 + exp(±g / T)), near 0 for those that are right by far. The
    next neurons are those of the highest

        mean over examples of z − c · standard error of z − ρ · (harm_i + lost_i) − κ · strayed_i,
        z = ±w · (σ − 1) · E_i(u, p),

    with + and weight 1 in ambiguous, − and weight λ in disambiguated examples. It is a logistic regression on
    first-order effects, grown a few neurons at a time (a matching pursuit); c is `CAUTION`, T is `TEMPERATURE`, κ is
    `STRAYING`. The standard error is clustered by template: what an edit is to do it is to do on templates that nobody
    has seen.

    lost_i is what a choice that is to be kept loses, to first order, of the log-probability of the option y that the
    original chooses among the options: max(0, mean over choices of l − `FORGIVEN` · standard error of l), where
    l = Σ over o of P(o) · (1 − σ) · E_i(y, o). What a neuron's going seems to add is not counted in its favour.

    strayed_i is what the probabilities of the options other than u stray in disambiguated examples, which answer is
    given where one is given: the KL divergence of these that neuron i adds to that of those taken so far, to second
    order the mean over examples of ½ Var(d + e_i) − ½ Var(d). Options o are weighed by their probability without u; d
    and e_i are what the scores s(o) change by. Its mean over examples is near 0 for most neurons, and does not tell.

    With an edit in place its neurons may come back (`Recipe.returned` of them): where the return is worth something,
    with harm_i = 0, or together with the neuron that is best to go in its stead. The first neurons were taken
    by effects of a model that is no longer there. An edit that is to shrink gives back those first that are missed
    least, whether that is worth something or not.
    """
    effects = evidence.effects[recipe.kind]
    asked = _Margins.of_abstention(effects, recipe.scale)
    kept = _Margins.of_answers(evidence.kept[recipe.kind], recipe.scale) if evidence.kept else None
    answered = _Answered.of(effects, recipe.scale)
    importance = np.where(asked.direction > 0, 1.0, recipe.skill_weight)
    open_to, there = _open_to(effects, recipe), _eliminated(effects, recipe)
    harm = np.where(there, 0.0, _harm(evidence, recipe))
    taken: list[int] = []
    may_return = min(recipe.returned, int(there.sum()))
    room = max(recipe.neurons, -may_return)
    while room or may_return:
        gains = asked.gains(importance)
        worth = gains.mean(axis=0) - CAUTION * clustered_error(gains, asked.templates) - harm
        if kept is not None:
            losses = kept.losses()
            sure = losses.mean(axis=0) - FORGIVEN * clustered_error(losses, kept.templates)
            worth -= recipe.protection * np.maximum(sure, 0)
        if answered is not None:
            worth -= STRAYING * answered.strays()
        going = np.where(open_to, worth, -np.inf)
        coming = np.where(there, worth, -np.inf) if may_return else np.full_like(worth, -np.inf)
        # Where there is room, a return must be the better change; where there is none, it makes room for the best.
        if room < 0 or coming.max() > (max(going.max(), 0.0) if room else min(-going.max(), 0.0)):
            chosen = [int(coming.argmax())]
            room, may_return = room + 1, may_return - 1
        else:
            count = min(TAKEN_AT_ONCE, room, int(open_to.sum()))
            chosen = np.argsort(-going, kind="stable")[:count].tolist()
            room -= count
        if not chosen:
            break
        for index in chosen:
            taken.append(index)
            open_to[index] = there[index] = False
            for predicted in (asked, answered, kept):
                if predicted is not None:
                    predicted.take(index)
    return effects.neurons(taken)


RANKINGS = Registry(
    "ranking",
    (
        (ranking.name, ranking)
        for ranking in (
            Ranking("published", published, frozenset({"attribute_on", "token_aggregation"})),
            Ranking("contrast", contrast, frozenset({"kind", "skill_weight", "protection", "united", "attribute_on"})),
            Ranking("pursuit", pursuit, frozenset({"kind", "skill_weight", "protection", "united"})),
        )
    ),
)
"""All rankings by name."""


def register_ranking(ranking: Ranking) -> None:
    """Add a ranking: the search then tries it beside the others, and finds it by its name.

    Raises:
        InputError: the name is taken or is no name, or the ranking tunes what no recipe has.
    """
    known = {field.name for field in fields(Recipe)}
    if unknown := sorted(ranking.tunes - known):
        raise InputError(f"ranking {ranking.name!r} tunes {unknown[0]!r}{nearest(unknown[0], known)}, no recipe has it")
    RANKINGS.register(ranking.name, ranking)


@dataclass(eq=False)
class _Margins:
    """Margins of some examples' answers, as predicted for the neurons taken so far.

    Attributes:
        values: float64 (examples, contrasts), very large where there is no such contrast.
        changes: float32 (examples, contrasts, neurons), what scaling each neuron does to them, to first order.
        direction: float64 (examples,), +1 where the margin should go up, −1 where down.
        templates: int64 (examples,), which examples are of one template.
    """

    values: Array
    changes: NDArray[np.float32]
    direction: Array
    templates: NDArray[np.int64]

    @staticmethod
    def of_answers(effects: Effects, scale: float) -> _Margins:
        """Margins s(y) − s(o) of the answers over the other options, to be raised."""
        values = np.minimum(effects.contrasts.astype(np.float64), 1e6)
        return _Margins(values, effects.values * np.float32(scale - 1), np.ones(len(values)), effects.templates)

    @staticmethod
    def of_abstention(effects: Effects, scale: float) -> _Margins:
        """Margins s(u) − s(p) of abstention over the other options, to be raised or lowered as the example says.

        Where nothing abstains, those of the answer.
        """
        margins = _Margins.of_answers(effects, scale)
        for example in np.flatnonzero(effects.abstaining >= 0):
            # s(u) − s(y) = −(s(y) − s(u)) in place of s(y) − s(u), and s(u) − s(o) = (s(y) − s(o)) − (s(y) − s(u)).
            unknown = effects.abstaining[example]
            margins.direction[example] = -1
            others = np.arange(margins.values.shape[1]) != unknown
            for of_example in (margins.values[example], margins.changes[example]):  # views: changed in place
                against_answer = of_example[unknown].copy()
                of_example[others] -= against_answer
                of_example[unknown] = -against_answer
        return margins

    def gains(self, importance: Array) -> NDArray[np.float32]:
        """What each neuron would do for each example, z: (examples, neurons).

        Contrasts count by how near they are to the least, examples by how near they are to turning.
        """
        least = self.values.min(axis=1)
        closeness = np.exp(-(self.values - least[:, None]) / TEMPERATURE)
        closeness /= closeness.sum(axis=1, keepdims=True)
        urgency = importance * self.direction / (1 + np.exp(np.clip(self.direction * least / TEMPERATURE, -50, 50)))
        weights = (closeness * urgency[:, None]).astype(np.float32)
        gains: NDArray[np.float32] = np.einsum("ep,epn->en", weights, self.changes)
        return gains

    def losses(self) -> NDArray[np.float32]:
        """What each answer's log-probability among the options would lose by each neuron: (examples, neurons)."""
        probabilities = _probabilities(self.values).astype(np.float32)
        lost: NDArray[np.float32] = -np.einsum("ep,epn->en", probabilities, self.changes)
        return lost

    def take(self, index: int) -> None:
        """Predict the margins with one more neuron."""
        self.values = self.values + self.changes[:, :, index]


@dataclass(eq=False)
class _Answered:
    """What some examples' options other than "unknown" are given in probability, as predicted for the neurons taken.

    The answer's score is taken for the same: only differences of scores count.

    Attributes:
        probabilities: float64 (examples, contrasts), of each wrong option among those other than "unknown"; 0 for that.
        changes: float32 (examples, contrasts, neurons), what scaling each neuron does to each wrong option's score.
        alone: float64 (neurons,), the KL divergence that each neuron adds by itself, to second order.
        moved: float64 (examples, contrasts), what the neurons taken so far do to these scores.
    """

    probabilities: Array
    changes: NDArray[np.float32]
    alone: Array
    moved: Array

    @staticmethod
    def of(effects: Effects, scale: float) -> _Answered | None:
        """Of the disambiguated examples; None where there are none."""
        rows = np.flatnonzero(~effects.ambiguous)
        if not len(rows):
            return None
        contrasts, unknown = effects.contrasts[rows].astype(np.float64), effects.abstaining[rows]
        probabilities = _probabilities(contrasts, np.arange(contrasts.shape[1]) != unknown[:, None])
        changes = effects.values[rows] * np.float32(1 - scale)  # of s(o) - s(y), the other way than its effects
        weights = probabilities.astype(np.float32)
        means = np.einsum("ep,epn->en", weights, changes)
        squares = np.einsum("ep,epn,epn->en", weights, changes, changes)
        alone = (squares - means**2).mean(axis=0, dtype=np.float64) / 2
        return _Answered(probabilities, changes, alone, np.zeros(contrasts.shape))

    def strays(self) -> Array:
        """The KL divergence that each neuron adds to that of those taken so far: (neurons,)."""
        mean = (self.probabilities * self.moved).sum(axis=1, keepdims=True)
        weights = self.probabilities * (self.moved - mean) / len(self.moved)
        return self.alone + _weighted(self.changes, weights)

    def take(self, index: int) -> None:
        """Predict the probabilities with one more neuron."""
        self.moved = self.moved + self.changes[:, :, index]


def _probabilities(contrasts: Array, among: NDArray[np.bool_] | bool = True) -> Array:
    """Of the wrong options beside the answer, from its margins over them; 0, and left out, where not `among`."""
    against = np.exp(-np.clip(contrasts, -50, 50)) * among
    return np.asarray(against / (1 + against.sum(axis=1, keepdims=True)))


def _harm(evidence: Evidence, recipe: Recipe) -> Array:
    """ρ times the KL divergence that each neuron adds by itself, to second order, summed over groups of prompts."""
    harm = np.sum([of_group.harm(recipe.scale) for of_group in evidence.importance[recipe.kind]], axis=0)
    return recipe.protection * np.asarray(harm, dtype=np.float64)


def _weighted(values: NDArray[np.float32], weights: Array) -> Array:
    """Sum over examples and contrasts, (neurons,)."""
    summed = weights.reshape(-1).astype(np.float32) @ values.reshape(-1, values.shape[-1])
    return summed.astype(np.float64)


def _eliminated(effects: Effects, recipe: Recipe) -> NDArray[np.bool_]:
    """Whether each neuron is eliminated already."""
    there = np.zeros(effects.count, dtype=np.bool_)
    there[effects.indices([neuron for neuron in recipe.eliminated if neuron.kind == effects.kind])] = True
    return there


def _open_to(effects: Effects, recipe: Recipe) -> NDArray[np.bool_]:
    """Whether each neuron comes into question: in the layers asked for, and not eliminated already."""
    return _in_layers(list(effects.widths.values()), recipe.layers) & ~_eliminated(effects, recipe)


def _in_layers(widths: Sequence[int], layers: Layers) -> NDArray[np.bool_]:
    """Whether each neuron is in a range of layers, told by its module's place among all."""
    low, high = LAYERS[layers]
    places = (np.arange(len(widths)) + 0.5) / len(widths)
    return np.repeat((places >= low) & (places < high), widths)
