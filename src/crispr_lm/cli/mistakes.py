"""Mistakes on the command line or in a settings file, each as one sentence that names the option."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from crispr_lm.cli.call import call
from crispr_lm.errors import first_problem, nearest

if TYPE_CHECKING:
    from cyclopts import CycloptsError
    from pydantic import ValidationError

MISSPELT = 0.7
"""How alike (difflib's ratio) an unknown option must be to the one that is missing. ``--ouput`` reaches 0.93 with
``--output``, ``--tsk`` 0.91 with ``--task``; options of another meaning stay below 0.6 (``--port``, ``--output``)."""


def usage_sentence(error: CycloptsError) -> str:
    """A sentence for what cyclopts refuses in a command line or settings file."""
    message = " ".join(str(error).split())
    if found := re.fullmatch(r'Unknown option: "\[(.+)\]" from (.+?)\.(?: Did you mean (.+)\?)?', message):
        option, file, near = found.groups()
        hint = f" (did you mean {near.removeprefix('--')!r}?)" if near else ""
        return f"settings file {file}: there is no option {option!r}{hint}; the command's --help lists them"
    if found := re.fullmatch(r"Invalid value for \[(.+)\] from (.+?): (.+)", message):
        return f"settings file {found[2]}: option --{found[1].replace('_', '-')}: {found[3]}"
    if found := re.fullmatch(r".*requires an argument\. Did you mean (\S+) instead of (\S+)\?", message):
        return _misspelt(found[2], found[1])
    if found := re.fullmatch(r'Command "(.+)" parameter (\S+) requires an argument\.', message):
        return _misspelt_in(error) or f"crispr-lm {found[1]} needs {found[2]}; crispr-lm {found[1]} --help describes it"
    if found := re.fullmatch(r'Unknown option: "?(-[^"\s]+?)"?\. Did you mean "?(-[^"\s]+?)"?\?', message):
        return _misspelt(found[1], found[2])
    if found := re.fullmatch(r"Unused Tokens: \[(.+)\]\.", message):
        return f"{found[1]} is one argument too many; options begin with --, and a value with spaces stands in quotes"
    return message


def settings_sentence(error: ValidationError) -> str:
    """A sentence for the first problem of a settings class."""
    problem = error.errors()[0]
    option = "--" + str(problem["loc"][0]).replace("_", "-") if problem["loc"] else "options"
    if problem["type"] == "missing":
        if near := difflib.get_close_matches(option, call.options(), n=1, cutoff=MISSPELT):
            return _misspelt(near[0], option)
        return f"option {option} is needed; see crispr-lm --help"
    hint = ""
    if problem["type"] == "literal_error":
        hint = nearest(str(problem["input"]), re.findall(r"'([^']+)'", problem["ctx"]["expected"]))
    if problem["type"] == "extra_forbidden":  # what it was given may be a secret meant for another program
        return f"there is no option {option}; see crispr-lm --help"
    _, message = first_problem(error.errors())
    message = message[0].lower() + message[1:]
    return f"{call.source_of(option)}option {option}: {message}, not {problem['input']!r}{hint}"


def _misspelt_in(error: CycloptsError) -> str | None:
    """A sentence for the first option given that the command lacks, where one that it has is much like it."""
    app = error.app[-1] if isinstance(error.app, list) else error.app
    known = {name for argument in app.assemble_argument_collection() for name in argument.names} if app else ()
    for option in call.options():
        if option not in known and (near := difflib.get_close_matches(option, known, n=1, cutoff=MISSPELT)):
            return _misspelt(option, near[0])
    return None


def _misspelt(option: str, meant: str) -> str:
    return f"there is no option {option}; did you mean {meant}?"
