"""Which instructions each task is asked with, where tasks of one job have different ones: ``--instructions NAME=FILE``.

Names of tasks and choices in, choices out; reads no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from crispr_lm.errors import InputError, nearest

EVERY = "10"
"""How many built-in instructions a task is asked with that none are named for."""


def instructions_for_others(given: Sequence[str]) -> str:
    """The choice that names no task: a number, or a file.

    Raises:
        InputError: there are several.
    """
    plain = [choice for choice in given if "=" not in choice]
    if len(plain) > 1:
        raise InputError(
            f"--instructions {plain[0]} and {plain[1]} are both for every task; give one, or NAME=FILE for each task"
        )
    return plain[0] if plain else EVERY


def instructions_by_task(given: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """For each task a number of built-in instructions, or a file.

    Args:
        given: A number or file for every task, and any number of ``NAME=CHOICE`` for the tasks of a name. A name is a
            whole task (``bbq:data/Age.jsonl``), a part of it between colons (``bbq``, ``mrpc``), or its file's name
            without folder and ending (``Age``).
        tasks: As the user named them.

    Raises:
        InputError: two choices for one task, or a name of none.
    """
    others = instructions_for_others(given)
    named = [choice.rpartition("=")[::2] for choice in given if "=" in choice]
    known = {task: {task, *task.split(":")[:-1], PurePath(task.rpartition(":")[2]).stem} for task in tasks}
    for name, _ in named:
        if not any(name in names for names in known.values()):
            there = sorted(set().union(*known.values()))
            raise InputError(
                f"--instructions {name}=...: no task is called {name}{nearest(name, there)}; names: {', '.join(there)}"
            )
    chosen = {}
    for task, names in known.items():
        choices = [(name, choice) for name, choice in named if name in names]
        if len(choices) > 1:
            raise InputError(
                f"--instructions {choices[0][0]}=... and {choices[1][0]}=... are both for task {task}; give one"
            )
        chosen[task] = choices[0][1] if choices else others
    return chosen
