"""What the settings of a search have to say before it begins: what does not go together, and what is not used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from crispr_lm.errors import InputError
from crispr_lm.jobs.preparation import limits_of
from crispr_lm.presets import procedure_name
from crispr_lm.runtime.distributed import is_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.base import Task

LIMITS = (
    "max_kl",
    "max_accuracy_loss",
    "max_overabstention",
    "max_bias_rise",
    "max_fact_loss",
    "max_spillover",
    "caution",
)
"""Settings that say what an edit may cost; a golden-section search looks at no cost."""

OF_TUNED = ("rounds", "time_budget", "reevaluation_examples")
"""Further settings that the tuned search alone uses."""


def check_search(settings: RunSettings, progress: Progress) -> None:
    """Refuse, before anything is done, settings that a search would ignore, and say what it does not use.

    Raises:
        InputError: limits for a search without any, options that it does not use, two kinds of neurons for one that
            ranks one, a random split for one that needs three parts, or a trial to pick where there is no front or no
            one to ask.
    """
    _check_pick(settings, progress)
    if settings.neurons == "both" and settings.search != "tuned":
        raise InputError(
            f"--search {settings.search} takes neurons of the published ranking, which ranks one kind; give --neurons "
            "linear or --neurons ffn"
        )
    _check_used(settings)
    if settings.search == "golden-section":
        return
    if settings.split_by == "random":
        raise InputError(
            f"--split-by random is the split of the paper's code, for --preset paper or --search golden-section; leave "
            f"it away with --search {settings.search}"
        )
    if settings.scoring == "generate":
        progress.say(
            "The search compares the scores of options; --scoring generate counts for what is measured before and after"
        )


def unused(settings: RunSettings) -> set[str]:
    """Names of settings that the search does not look at, so that no record holds them."""
    if settings.search == "tuned":
        return set()
    return {*LIMITS, *OF_TUNED} - ({"max_accuracy_loss"} if settings.search == "sweep" else set())


def recorded_limits(settings: RunSettings) -> dict[str, float]:
    """The limits that the search keeps to, by name (see `Limits`); none for a search without limits."""
    if settings.search == "golden-section":
        return {}
    left_out = unused(settings)
    return {name: value for name, value in asdict(limits_of(settings)).items() if not {name, f"max_{name}"} & left_out}


def procedure_of(settings: RunSettings, tasks: Iterable[Task]) -> str:
    """What the search's edit is called (`procedure_name`), by as many instructions as the tasks are asked with.

    A file of fewer instructions is as far from the paper's ten as a smaller number is.
    """
    counts = dict.fromkeys(str(len(task.instructions)) for task in tasks)
    return procedure_name({**settings.model_dump(), "instructions": tuple(counts)})


def _check_used(settings: RunSettings) -> None:
    """Refuse options that the search does not use.

    Raises:
        InputError: one of them was given.
    """
    golden = settings.search == "golden-section"
    what = "--preset paper" if golden and settings.preset else f"--search {settings.search}"
    for name in (*LIMITS, *OF_TUNED):
        if name not in unused(settings) & settings.model_fields_set:
            continue
        if golden and name in LIMITS:
            raise InputError(
                f"{_option(name)} is a limit, and {what} chooses by accuracy alone; leave it away, or take "
                "--search tuned, which keeps limits"
            )
        raise InputError(f"{_option(name)} is not used by {what}; leave it away, or take --search tuned, which uses it")


def _check_pick(settings: RunSettings, progress: Progress) -> None:
    if settings.pick is not None and settings.search != "tuned":
        raise InputError(f"--pick takes a trial of the tuned search; leave it away with --search {settings.search}")
    if settings.pick == "ask" and is_first() and not progress.can_ask:
        raise InputError("--pick ask needs a terminal to ask in; leave it away, or give the number of a trial")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
