"""Why a run recommends no edit: what was tried, what stood in the way, and what to try next.

Reads result dictionaries only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crispr_lm.metrics.statistics import p_value_text
from crispr_lm.report.words import has_halves, sentence
from crispr_lm.storage.stages import JUDGING

COSTS = {
    "accuracy_loss": "loses {value:.3f} of right answers where the context tells, margin for chance included",
    "overabstention": 'answers "unknown" there more often by {value:.3f}',
    "kl": "changes neutral text by {value:.3f}",
    "bias_rise": "raises a bias score by {value:.3f} beyond chance",
    "fact_loss": "loses {value:.3f} of right answers on facts about groups beyond chance",
    "spillover": "raises the bias score of other kinds of stereotype by {value:.3f} beyond chance",
}
"""Limits as what an edit does that exceeds them."""


@dataclass(frozen=True)
class NoEdit:
    """Three short texts."""

    tried: str
    obstacle: str
    following: str


def no_edit(results: Mapping[str, Any]) -> NoEdit:
    """Explain a run without an edit.

    Args:
        results: What ``results.json`` holds, with verdict "none".
    """
    choice, used_up = results.get("choice"), results.get("used_up", ())
    more_questions = USED_UP if "validation" in used_up else MORE_QUESTIONS
    if choice is None:  # a plain search over the number of neurons
        return NoEdit(tried(results["search"]), sentence(results["reason"]), TUNED)
    gain, nearest = choice.get("gain_over_original"), choice.get("nearest")
    if gain is not None:
        return NoEdit(tried(results["search"]), _not_shown(gain, choice.get("gain_over_random")), more_questions)
    if nearest is None:
        every = [row for row in results["search"] if row["neurons"] and row.get("stage") not in JUDGING]
        complete = sum(row.get("complete", False) for row in every)
        if every and not complete:
            return _too_far(results, min(every, key=lambda row: row["kl"]))
        text = f"Of the {complete} that answered all questions none answered more of them right."
        more = USED_UP if "attribution" in used_up else MORE_SEEN
        return NoEdit(tried(results["search"]), text, f"{more} {LARGER_MODEL}")
    gains = "guesses less" if has_halves(results) else "is right more often"
    begun = (
        f"The nearest one ({_neurons(nearest['neurons'])}) {gains}, by {100 * nearest['gain']:.1f} points on "
        f"{nearest['questions']} questions"
    )
    if not nearest["beyond"]:
        return NoEdit(tried(results["search"]), begun + ", but others were asked more questions.", more_questions)
    allowed = _allow(nearest["beyond"], used_up="validation" in used_up)
    return NoEdit(tried(results["search"]), f"{begun}, but {_excess(nearest['beyond'])}.", allowed)


def _too_far(results: Mapping[str, Any], nearest: Mapping[str, Any]) -> NoEdit:
    """Every edit was too far from the original to be asked anything."""
    beyond = [{"what": "kl", "value": nearest["kl"], "limit": results["limits"]["kl"], "option": "--max-kl"}]
    obstacle = (
        f"All of them are too far from the original to be asked anything. The nearest one "
        f"({_neurons(nearest['neurons'])}) {_excess(beyond)}."
    )
    return NoEdit(tried(results["search"]), obstacle, _allow(beyond, used_up=False))


ACCEPTABLE = 3.0
"""Times a limit up to which it is suggested to raise it: what costs more is not an edit but another model."""

TUNED = "The tuned search (--search tuned, the default) tries more than one ranking, and tests what it finds."

MORE_QUESTIONS = (
    "More questions show smaller gains: raise --reevaluation-examples (and --validation-examples), or give more "
    "questions of your own with --task."
)

USED_UP = (
    "All questions that there are to search and choose on were used, so add some, of further situations (crispr-lm "
    "questions new begins a file of them)."
)

MORE_SEEN = "Raise --rounds and --examples, so that the search sees more questions."

LARGER_MODEL = "A larger model that understands the contexts leaves more to gain."


def tried(search: Sequence[Mapping[str, Any]]) -> str:
    """How many edits a search has tried, in words; of a tuned one also how many were stopped early, and why."""
    edits = [row for row in search if row["neurons"] and row.get("stage") not in JUDGING]
    text = f"{len(edits)} edit{'' if len(edits) == 1 else 's'} tried"
    if sizes := sorted({row["neurons"] for row in edits}):
        text += f", of {sizes[0]} to {sizes[-1]} neurons" if len(sizes) > 1 else f", of {_neurons(sizes[0])}"
    given_up = sum(not row.get("complete", True) for row in edits)
    if given_up:
        text += f"; {given_up} of them stopped early, too far from the original on neutral text"
    return text + "."


def _not_shown(gain: Mapping[str, Any], over_random: Mapping[str, Any] | None) -> str:
    """A gain that may be chance, or that random neurons have too."""
    level = gain.get("level", 0.025)
    text = (
        f"The best one within the limits gains {100 * gain['value']:+.1f} points on {gain['questions']} "
        f"{'further ' * bool(gain['further'])}questions ({p_value_text(gain['p_value'])}; at most {level:g} is asked)"
    )
    if gain["p_value"] <= level and over_random is not None:
        return (
            f"{text}, but not clearly more than as many random neurons: {100 * over_random['value']:+.1f} points over "
            f"them ({p_value_text(over_random['p_value'])})."
        )
    return f"{text}: {'this may be chance' if gain['value'] > 0 else 'what it gained before was chance'}."


def _excess(beyond: Sequence[Mapping[str, Any]]) -> str:
    """Limits exceeded, and by how much."""
    return " and ".join(
        f"{COSTS[row['what']].format(**row)} (the limit is {row['limit']:g}: "
        f"{row['value'] - row['limit']:.3f} too much)"
        for row in beyond
    )


def _allow(beyond: Sequence[Mapping[str, Any]], *, used_up: bool) -> str:
    """How to allow what was exceeded, and what else to try."""
    text = ""
    if all(row["value"] <= ACCEPTABLE * row["limit"] for row in beyond):
        options = " and ".join(f"{row['option']} {_rounded_up(row['value']):g}" for row in beyond)
        text = f"If you accept that cost, {options} allows it. "
    if any(row["what"] == "accuracy_loss" for row in beyond):
        how = "add some, as all were used" if used_up else "--validation-examples"
        text += f"Part of the loss is its margin for chance, which shrinks with more questions: {how}. "
    return f"{text}More rounds (--rounds) look for an edit that costs less."


def _rounded_up(value: float) -> float:
    """To two digits behind the point, never below the value."""
    return int(value * 100 + 1) / 100


def _neurons(count: int) -> str:
    return "1 neuron" if count == 1 else f"{count} neurons"
