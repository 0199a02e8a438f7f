"""Tasks by name: ``builtin:NAME``, ``bbq:PATH``, ``choices:PATH`` and more. A new one is a file and a line here.

Others come from elsewhere (`register_task`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from crispr_lm.errors import InputError, nearest
from crispr_lm.runtime.plugins import Registry, check_name
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.tasks.base import (
    FREE,
    OPEN,
    SENTENCES,
    Example,
    Task,
    builtin_instructions,
    open_instructions,
    read_instructions,
    sample,
    sample_templates,
)
from crispr_lm.tasks.bbq import examples_from_rows, read_bbq
from crispr_lm.tasks.bbq_form import without_repeats
from crispr_lm.tasks.capability import BENCHMARKS, read_benchmark, read_from_hub
from crispr_lm.tasks.cbbq import read_cbbq
from crispr_lm.tasks.choices import read_choices
from crispr_lm.tasks.crows_pairs import read_crows_pairs
from crispr_lm.tasks.esbbq import read_catalan, read_spanish
from crispr_lm.tasks.fact_sets import read_blimp, read_difference_awareness, read_occupations
from crispr_lm.tasks.facts import fact_examples
from crispr_lm.tasks.ggbbq import read_ggbbq
from crispr_lm.tasks.glue import GLUE, glue_instructions, parted, read_glue, read_glue_from_hub
from crispr_lm.tasks.groups import GroupMap, check_found
from crispr_lm.tasks.knowledge import knowledge_examples
from crispr_lm.tasks.kobbq import read_kobbq
from crispr_lm.tasks.labels import are_labelled
from crispr_lm.tasks.languages import ENGLISH
from crispr_lm.tasks.mbbq import read_control, read_mbbq
from crispr_lm.tasks.stereoset import read_stereoset
from crispr_lm.tasks.twins import read_twin_options
from crispr_lm.tasks.winobias import read_winobias
from crispr_lm.tasks.winogender import read_winogender

HUB = "hub"
"""Where a path would stand: the benchmark is taken from the Hugging Face hub."""

TEXTS = ("wikitext", "text")
"""Kinds of running text: no questions, so that they can only be measured beside."""


def _everyday() -> list[Example]:
    from crispr_lm.tasks.everyday import everyday_rows

    return examples_from_rows((f"builtin:everyday row {number}", row) for number, row in enumerate(everyday_rows()))


UNKNOWN_LICENSE = "unknown to crispr-lm; see where the data come from"


@dataclass(frozen=True)
class Dataset:
    """What others call the data of a task.

    Attributes:
        identifier: Short, without any path of this machine.
        title: For people.
        license: Of the data.
        part: Which of its files, where there are several; two parts are never reported as one.
    """

    identifier: str
    title: str
    license: str
    part: str | None = None


@dataclass(frozen=True)
class TaskKind:
    """A kind of task: how its files are read, and the fields of `Task` that go with it.

    Attributes:
        read: From the path after ``NAME:`` to examples; raises `InputError` that names file and line. None stands for a
            row that can't be used. With `takes_groups` its second argument is the user's map of groups, or None.
        title: For people.
        license: Of the data.
        family: Name of its metrics.
        breakdowns: As in `Task`; so are the next three.
        takes_groups: Whether the stereotyped person is found by names of groups, which a map can add to.
        repeats: Whether its files hold repeated rows, which are left out.
        from_hub: Reads its examples from the hub, for ``NAME:hub``; None where they are not taken from there.
        instructions: Gives its own built-in instructions; None for those of its examples' form.
    """

    read: Callable[..., Sequence[Example | None]]
    title: str = "own questions"
    license: str = UNKNOWN_LICENSE
    family: str = "question_answering"
    breakdowns: tuple[str, ...] = ("category",)
    measured_only: bool = False
    scoring: Literal["sum", "mean"] | None = None
    whole_templates: bool = False
    takes_groups: bool = False
    repeats: bool = False
    from_hub: Callable[[], Sequence[Example]] | None = None
    instructions: Callable[[], tuple[str, ...]] | None = None


BUILTIN: dict[str, Callable[[], list[Example]]] = {
    "everyday": _everyday,
    "facts": fact_examples,
    "knowledge": knowledge_examples,
}
_KINDS: dict[str, TaskKind] = {
    "bbq": TaskKind(read_bbq, "BBQ", "CC BY 4.0", breakdowns=("category", "persons"), takes_groups=True),
    "esbbq": TaskKind(read_spanish, "EsBBQ", "Apache-2.0", takes_groups=True, repeats=True),
    "cabbq": TaskKind(read_catalan, "CaBBQ", "Apache-2.0", takes_groups=True, repeats=True),
    "kobbq": TaskKind(read_kobbq, "KoBBQ", "MIT", breakdowns=("category", "made"), repeats=True),
    "ggbbq": TaskKind(
        read_ggbbq, "GG-BBQ", "CC BY 4.0", breakdowns=("category", "target"), takes_groups=True, repeats=True
    ),
    "cbbq": TaskKind(read_cbbq, "CBBQ", "CC BY-SA 4.0", takes_groups=True, repeats=True),
    "mbbq": TaskKind(read_mbbq, "MBBQ", takes_groups=True, repeats=True),
    "mbbq_control": TaskKind(read_control, "MBBQ, control set", repeats=True),
    "choices": TaskKind(read_choices),
    "crows_pairs": TaskKind(
        read_crows_pairs,
        "CrowS-Pairs",
        "CC BY-SA 4.0",
        family="crows_pairs",
        breakdowns=("category", "direction"),
        measured_only=True,
        scoring="sum",
    ),
    # The paper compares likelihoods per token.
    "stereoset": TaskKind(
        read_stereoset,
        "StereoSet",
        "CC BY-SA 4.0",
        family="stereoset",
        breakdowns=("category", "part"),
        measured_only=True,
        scoring="mean",
        whole_templates=True,
    ),
    "winobias": TaskKind(
        read_winobias, "WinoBias", "MIT", family="winobias", breakdowns=("type",), whole_templates=True
    ),
    "winogender": TaskKind(
        read_winogender, "Winogender", "MIT", family="winogender", breakdowns=("gender",), whole_templates=True
    ),
    "blimp": TaskKind(
        read_blimp, "BLiMP", "CC BY 4.0", breakdowns=("category", "opposed"), measured_only=True, scoring="sum"
    ),
    "occupations": TaskKind(
        read_occupations, "occupation words", "MIT", family="occupations", measured_only=True, scoring="sum"
    ),
    "difference_awareness": TaskKind(
        read_difference_awareness,
        "Difference Awareness",
        "CC0 1.0",
        family="difference_awareness",
        measured_only=True,
    ),
    "twins": TaskKind(read_twin_options, "own pairs of prompts", family="twin_options", whole_templates=True),
    **{
        name: TaskKind(
            partial(read_benchmark, name),
            benchmark.title,
            benchmark.license or UNKNOWN_LICENSE,
            from_hub=partial(read_from_hub, name),
        )
        for name, benchmark in BENCHMARKS.items()
    },
    **{
        f"glue:{name}": TaskKind(
            partial(read_glue, name),
            task.title,
            "CC BY-SA 4.0" if name == "qnli" else UNKNOWN_LICENSE,  # SQuAD's; the others state none, or their own
            family="classification",
            from_hub=partial(read_glue_from_hub, name),
            instructions=partial(glue_instructions, name),
        )
        for name, task in GLUE.items()
    },
}
KINDS = Registry("kind of task", _KINDS.items())
"""Kinds of tasks by what stands before the colon."""


def register_task(name: str, kind: TaskKind) -> None:
    """Add a kind of task, which ``NAME:PATH`` then loads, in `load_task` and on the command line.

    Raises:
        InputError: the name is taken or is no name.
    """
    check_name("kind of task", name, ("builtin", *TEXTS))
    KINDS.register(name, kind)


def load_task(name: str, instructions: str | int | None = None, groups: GroupMap | None = None) -> Task:
    """Load a task.

    Args:
        name: ``builtin:everyday``, ``builtin:facts`` or ``builtin:knowledge`` (original questions that come with the
            library), ``builtin:everyday:KIND`` (those of one kind of stereotype, such as Gender), ``bbq:PATH`` (an
            official BBQ JSONL file or a folder of them), ``choices:PATH`` (the general form, see
            `crispr_lm.tasks.choices`), ``glue:mrpc:PATH``, or another benchmark of `KINDS`. Of `BENCHMARKS` and GLUE
            also ``NAME:hub``.
        instructions: A text file with one instruction per line, or how many of the ten built-in ones in the task's
            language to use (all by default); tasks of GLUE have ten of their own. Tasks of whole texts have none.
        groups: Names of persons to groups (`crispr_lm.tasks.groups.read_groups`), beside those known. With an
            empty map, any share of rows may lack a stereotyped option.

    Raises:
        InputError: unknown name, missing or malformed file, no examples, too many instructions asked for, or more than
            `crispr_lm.tasks.groups.MOST_NOT_FOUND` of the rows without a stereotyped option and no empty map.
    """
    scheme, rest = parted(name)
    if not rest:
        guess = f"choices:{name}" if name.endswith((".jsonl", ".json")) else f"builtin:{name}"
        meant = f" (did you mean {guess!r}?)" if guess.startswith("choices") or name in BUILTIN else ""
        raise InputError(f"task {name!r} is not understood{meant}; write builtin:NAME, bbq:PATH or choices:PATH")
    kind = KINDS.get(scheme, TaskKind(read_choices))
    origin: tuple[str, ...] = ()
    if scheme == "builtin":
        read: Sequence[Example | None] = _builtin(rest)
    elif kind.from_hub is not None and rest == HUB:
        read = kind.from_hub()
    elif scheme in KINDS:
        path, exists = _path(rest)
        if not exists:
            raise InputError(f"task {name}: {path} does not exist; check the path")
        read = kind.read(path, groups) if kind.takes_groups else kind.read(path)
        origin = _files_of(path)
    elif scheme in TEXTS:
        raise InputError(f"task {name} is running text, whose perplexity can only be measured; give it to --measure")
    else:
        kinds = ("builtin", *KINDS, *TEXTS)
        raise InputError(f"task {name!r}: unknown kind {scheme!r}{nearest(scheme, kinds)}; kinds: {', '.join(kinds)}")
    examples, rows = without_repeats(read) if kind.repeats else (tuple(filter(None, read)), None)
    if not examples:
        raise InputError(f"task {name} holds no examples; check the file")
    if kind.takes_groups and groups != {}:
        check_found(name, examples, mapped=groups is not None)
    return Task(
        name=without_folders(name),
        examples=examples,
        instructions=instructions_of(instructions, examples[0].form, language_of(examples), kind.instructions),
        origin=origin,
        family=family_of(kind, examples),
        breakdowns=kind.breakdowns,
        measured_only=kind.measured_only,
        scoring=kind.scoring,
        whole_templates=kind.whole_templates,
        rows=rows,
    )


def _files_of(path: Path) -> tuple[str, ...]:
    """The files that a task may have been read from: of a folder without any, those of the folders in it."""
    if not path.is_dir():
        return (str(path),)
    found = ([str(file) for file in sorted(path.glob(pattern)) if file.is_file()] for pattern in ("*", "*/*"))
    return tuple(next(filter(None, found), ()))


def _builtin(rest: str) -> list[Example]:
    """The examples of a built-in task, or with ``NAME:KIND`` those of one category."""
    name, _, kind = rest.partition(":")
    if name not in BUILTIN:
        raise InputError(f"no built-in task {name!r}{nearest(name, BUILTIN)}; there is: {', '.join(sorted(BUILTIN))}")
    examples = BUILTIN[name]()
    if not kind:
        return examples
    kinds = sorted({example.category for example in examples} - {""})
    if kind not in kinds:
        there = f"kinds: {', '.join(kinds)}" if kinds else "it has no kinds"
        raise InputError(f"builtin:{name} has no questions of kind {kind!r}{nearest(kind, kinds)}; {there}")
    return [example for example in examples if example.category == kind]


def dataset_of(name: str) -> Dataset:
    """What others call the data of the task of this name: no folder of this machine is in it."""
    scheme, rest = parted(name)
    if scheme == "builtin":
        return Dataset(name, f"crispr-lm {name}", "Apache-2.0 (comes with crispr-lm)")
    if scheme == "wikitext":
        return Dataset("wikitext", "WikiText", "CC BY-SA")
    kind = KINDS.get(scheme)
    if kind is None:
        return Dataset(scheme, "a text", UNKNOWN_LICENSE)
    if rest == HUB:
        return Dataset(scheme, kind.title, kind.license)
    return Dataset(scheme, f"{kind.title}, {Path(rest).stem}", kind.license, Path(rest).stem)


def draw(task: Task, examples: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """Draw some of a task's examples to measure on, whole templates where its metrics need them."""
    return (sample_templates if task.whole_templates else sample)(examples, size, seed)


def family_of(kind: TaskKind, examples: Sequence[Example]) -> str:
    """The kind's metrics; those of classification where every row of a general file has the same labels."""
    return "classification" if kind.read is read_choices and are_labelled(examples) else kind.family


def path_of(text: str) -> Path:
    """A path as the user wrote it.

    Raises:
        InputError: it can't be one.
    """
    return _path(text)[0]


def _path(text: str) -> tuple[Path, bool]:
    """A path as the user wrote it, and whether there is anything."""
    try:
        text.encode("utf-8")  # a name in another encoding could be read, but not written into results
        path = Path(text).expanduser()
        return path, path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, an unknown user's home, a null character
        raise InputError(f"{text} is no path that can be used ({error}); check it") from error


def instruction_count(choice: str) -> int:
    """How many instructions ``--instructions`` asks for: its number, or those of the file it names.

    Raises:
        InputError: as `read_instructions`.
    """
    return int(choice) if choice.isdecimal() else len(read_instructions(_path(choice)[0]))


def language_of(examples: Sequence[Example]) -> str:
    """The language that all of a task's examples are in.

    Raises:
        InputError: there are several; instructions are in one.
    """
    first = examples[0]
    for example in examples:
        if example.language != first.language:
            raise InputError(
                f"{example.source or 'example'}: in language {example.language!r}, but the task begins in "
                f"{first.language!r}, and so do its instructions; give each language a file of its own"
            )
    return first.language


def instructions_of(
    choice: str | int | None, form: str, language: str = ENGLISH, own: Callable[[], tuple[str, ...]] | None = None
) -> tuple[str, ...]:
    """The instructions to ask examples of a form with: of a file, as many built-in ones as asked for, or all.

    `own` gives the built-in ones of a kind of task that has its own.

    Raises:
        InputError: as `read_instructions`, or more than there are.
    """
    if form in (FREE, SENTENCES):
        return ("",)
    if isinstance(choice, str) and not choice.isdecimal():
        return read_instructions(_path(choice)[0])
    # Open questions need other words than "choose one of the options".
    available = own() if own else open_instructions() if form == OPEN else builtin_instructions(language)
    if choice is None:
        return available
    count = int(choice)
    if not 1 <= count <= len(available):
        raise InputError(f"{count} instructions asked for, but there are {len(available)} built-in ones; give 1 to "
                         f"{len(available)}, or a text file with your own, one per line")  # fmt: skip
    return available[:count]
