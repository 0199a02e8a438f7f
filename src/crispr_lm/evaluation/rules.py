"""What a model must keep to: a TOML file of few, typed rules, read and checked. Decided in `decisions`.

    confidence = 0.95                          # of each rule
    [tasks.bbq]
    task = "bbq:data/BBQ"                      # as for --task; a path starts at this file's folder
    questions = 200
    [[rules]]
    metric = "bbq.accuracy_disambiguated"
    at_least = 0.8

A rule has one of four forms. The direction of its metric is known, so that a rule that rewards the wrong one is
refused. Knows tasks and metrics; knows no model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from crispr_lm.errors import InputError, first_problem, nearest
from crispr_lm.metrics.family import Metric, MetricFamily
from crispr_lm.tasks.base import Task
from crispr_lm.tasks.files import text_of
from crispr_lm.tasks.registry import HUB, KINDS, TEXTS, path_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

BUILTIN = "builtin:"
FORMS = ("at_least", "at_most", "within", "loses_at_most")
FITTING = {"higher": "at_least", "lower": "at_most", "target": "within"}
"""Where a metric is better: the form of a limit that does not reward the other way."""

# Below a half a "bound" would lie on the wrong side of the figure.
Confidence = Annotated[float, Field(gt=0.5, lt=1, allow_inf_nan=False, strict=True)]
# Strict, here and below: a text or `true` is no number.
Limit = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RuleTask(_Strict):
    """What is asked.

    Attributes:
        task: As for ``--task``. A kind without a path, such as "bbq:", takes it from the command line.
        questions: How many are drawn, or "all".
        instructions: How many of the built-in instructions each is asked under, or a text file with one per line.
        scoring: As ``--scoring``.
    """

    task: str = Field(min_length=1)
    questions: Literal["all"] | Count = 200
    instructions: Count | str = 1
    scoring: Literal["sum", "mean", "generate"] = "sum"


class Rule(_Strict):
    """A limit on one metric; exactly one of the four forms is given.

    Attributes:
        metric: Name of a task in the file, a dot, name of the metric.
        at_least: The figure must not be below.
        at_most: The figure must not be above.
        within: The figure must be no farther from its target, the value of an unbiased model.
        loses_at_most: The figure must be worse than the baseline's by no more than this, on the same questions.
        confidence: Of this rule, if not the file's.
    """

    metric: str = Field(pattern=r"^[^.]+\.[^.]+$")
    at_least: Limit | None = None
    at_most: Limit | None = None
    within: Distance | None = None
    loses_at_most: Distance | None = None
    confidence: Confidence | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Rule:
        given = [name for name in FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a rule needs exactly one of {', '.join(FORMS)}; this one has {len(given)}")
        return self

    @property
    def form(self) -> str:
        """Which of `FORMS` it is."""
        return next(name for name in FORMS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The number of that form."""
        value: float = getattr(self, self.form)
        return value

    @property
    def task(self) -> str:
        """Name of its task in the file."""
        return self.metric.partition(".")[0]

    @property
    def metric_name(self) -> str:
        """Name of its metric in the family of the task."""
        return self.metric.partition(".")[2]

    def allowed(self, metric: Metric) -> tuple[float, float]:
        """Least and largest value with which it holds: of the figure, or of the gain over the baseline."""
        if self.form == "within":
            return metric.target - self.limit, metric.target + self.limit
        if self.form == "at_most":
            return -math.inf, self.limit
        return (self.limit if self.form == "at_least" else -self.limit), math.inf


class RuleFile(_Strict):
    """All of a file.

    Attributes:
        confidence: Of each rule that names none.
        tasks: What is asked, by a name of the file's own.
        rules: One or more.
    """

    confidence: Confidence = 0.95
    tasks: dict[str, RuleTask] = Field(min_length=1)
    rules: tuple[Rule, ...] = Field(min_length=1)


FORM = "see docs/gate.md for the form"
IN_WORDS = {
    "missing": f"is missing; {FORM}",
    "too_short": f"there must be at least one; {FORM}",
    "tuple_type": "write each rule below a line [[rules]], in two pairs of brackets",
    "model_type": "must be a table; write a line [tasks.NAME] above what is asked, [[rules]] above each rule",
    "dict_type": "must be tables; write a line [tasks.NAME] above what is asked",
    "string_pattern_mismatch": "write the name of a task in the file, a dot and a metric, such as bbq.accuracy",
}
"""What pydantic finds, in words of the file."""

FIELDS = {"": RuleFile.model_fields, "tasks": RuleTask.model_fields, "rules": Rule.model_fields}
"""Names of fields, by where they stand."""


@dataclass(frozen=True)
class RuleSource:
    """A file of rules and where it was read.

    Attributes:
        name: As the user named it.
        text: Its content.
        rules: What it says.
        folder: Where its paths start; None for the rules that come with the library.
    """

    name: str
    text: str
    rules: RuleFile
    folder: Path | None


def builtin_rules() -> tuple[str, ...]:
    """Names of the rules that come with the library, without ``builtin:``."""
    files = (resources.files("crispr_lm.evaluation") / "data").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def read_rules(name: str) -> RuleSource:
    """Read a file of rules, or ``builtin:NAME``.

    Raises:
        InputError: it can't be read, or is no file of rules; the place is named.
    """
    if name.startswith(BUILTIN):
        wanted, there = name.removeprefix(BUILTIN), builtin_rules()
        if wanted not in there:
            raise InputError(f"no rules {name}{nearest(wanted, there)}; there are: {', '.join(there)}")
        text = (resources.files("crispr_lm.evaluation") / "data" / f"{wanted}.toml").read_text(encoding="utf-8")
        return RuleSource(name, text, _parsed(text, name), None)
    path = path_of(name)
    text = text_of(path)
    return RuleSource(name, text, _parsed(text, name), path.parent)


def _parsed(text: str, name: str) -> RuleFile:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"rules {name}: no TOML ({error}); {FORM}") from error
    try:
        rules = RuleFile.model_validate(content)
    except ValidationError as error:
        raise InputError(f"rules {name}: {_sentence(error)}") from error
    for number, rule in enumerate(rules.rules, start=1):
        if rule.task not in rules.tasks:
            raise InputError(
                f"rules {name}: rule {number} is of task {rule.task!r}, which the file does not have"
                f"{nearest(rule.task, rules.tasks)}; its tasks are {', '.join(rules.tasks)}"
            )
    return rules


def _sentence(error: ValidationError) -> str:
    """The first problem, with its place in the words of the file."""
    problem = error.errors()[0]
    place, said = first_problem(error.errors())
    words = [f"rule {part + 1}" if isinstance(part, int) else str(part) for part in place]
    where = " ".join(word for word in words if word != "rules" or len(words) == 1) or "file"
    if problem["type"] == "extra_forbidden":
        known = FIELDS.get(str(place[0]) if len(place) > 1 else "", ())
        return f"{where}: there is no such field{nearest(str(place[-1]), known)}"
    if problem["type"] in IN_WORDS:
        return f"{where}: {IN_WORDS[problem['type']]}"
    message = said.removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f", not {str(problem['input'])[:80]!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{given}"


def task_names(source: RuleSource, given: Sequence[str]) -> dict[str, str]:
    """Name in the file to what `crispr_lm.tasks.registry.load_task` takes, with paths that can be opened.

    Args:
        source: The rules.
        given: Tasks of the command line, such as ``bbq:data/BBQ``; each fills in the tasks of its kind without a path.

    Raises:
        InputError: a path is missing, or one is given that nothing takes.
    """
    names, taken = {}, set()
    for name, task in source.rules.tasks.items():
        scheme, separator, rest = task.task.partition(":")
        if separator and not rest:
            fitting = [one for one in given if one.partition(":")[0] == scheme]
            if len(fitting) != 1:
                raise InputError(
                    f"rules {source.name}: task {name} needs its data; give --task {scheme}:PATH"
                    + (", once" if fitting else "")
                )
            names[name] = fitting[0]
            taken.update(fitting)
        elif source.folder is not None and scheme in (*KINDS, *TEXTS) and rest != HUB:
            names[name] = f"{scheme}:{source.folder / Path(rest).expanduser()}"
        else:
            names[name] = task.task
    if unused := [one for one in given if one not in taken]:
        raise InputError(f"rules {source.name}: no task takes its data from --task {unused[0]}; leave the option away")
    return names


def metric_of(rule: Rule, task: Task, family: MetricFamily) -> Metric:
    """The metric that a rule is about.

    Raises:
        InputError: the task's family has none of this name (near ones are named), the rule would reward the wrong
            direction, or every value of the metric is within its limit, or none.
    """
    known = {metric.name: metric for metric in family.metrics}
    metric = known.get(rule.metric_name)
    if metric is None:
        near = get_close_matches(rule.metric_name, list(known), n=3)
        meant = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise InputError(
            f"rule {rule.metric}: task {task.name} has no metric {rule.metric_name!r}{meant}; it has: "
            + ", ".join(known)
        )
    fitting = FITTING.get(metric.better)
    if fitting is None:
        raise InputError(f"rule {rule.metric}: neither more nor less of it is better, so no rule can be made of it")
    if rule.form not in (fitting, "loses_at_most"):
        why = f"nearer to {metric.target:g}" if metric.better == "target" else metric.better
        raise InputError(
            f"rule {rule.metric}: {why} is better, so {rule.form!r} would reward the wrong direction; write {fitting!r}"
        )
    _check_limit(rule, metric)
    return metric


def _check_limit(rule: Rule, metric: Metric) -> None:
    """Refuse a limit that says nothing: every value of the metric is within it, or none.

    Raises:
        InputError: it is such a limit; the limits that there are are named.
    """
    if metric.extent is None:
        return
    least, largest = metric.extent
    if rule.form == "within" or metric.better == "target":
        least, largest = 0.0, max(metric.target - least, largest - metric.target)
    elif rule.form == "loses_at_most":
        least, largest = 0.0, largest - least
    upwards = rule.form == "at_least"
    if (least < rule.limit <= largest) if upwards else (least <= rule.limit < largest):
        return
    always = rule.limit <= least if upwards else rule.limit >= largest
    raise InputError(
        f"rule {rule.metric}: {rule.form} = {rule.limit:g} can never {'fail' if always else 'hold'}; "
        f"give a number from {least:g} to {largest:g}, {least if upwards else largest:g} excluded (0.9 is 90 %)"
    )
