"""Tasks by name: ``builtin:NAME``, ``bbq:PATH``, ``choices:PATH``. A new benchmark is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crispr_lm.errors import InputError, nearest
from crispr_lm.tasks.bbq import examples_from_rows, read_bbq
from crispr_lm.tasks.choices import read_choices
from crispr_lm.tasks.knowledge import knowledge_examples
from crispr_lm.tasks.task import (
    OPEN,
    Example,
    Split,
    Task,
    builtin_instructions,
    neutral_prompts,
    open_instructions,
    read_instructions,
    sample,
)

__all__ = [
    "Example",
    "Split",
    "Task",
    "builtin_instructions",
    "load_task",
    "neutral_prompts",
    "read_instructions",
    "sample",
]


def _everyday() -> list[Example]:
    from crispr_lm.tasks.everyday import everyday_rows

    return examples_from_rows((f"builtin:everyday row {number}", row) for number, row in enumerate(everyday_rows()))


BUILTIN: dict[str, Callable[[], list[Example]]] = {"everyday": _everyday, "knowledge": knowledge_examples}
READERS: dict[str, Callable[[Path], list[Example]]] = {"bbq": read_bbq, "choices": read_choices}


def load_task(name: str, instructions: str | int | None = None) -> Task:
    """Load a task.

    Args:
        name: ``builtin:everyday`` (original questions that come with the library), ``bbq:PATH`` (an official BBQ JSONL
            file or a folder of them) or ``choices:PATH`` (the general form, see `crispr_lm.tasks.choices`).
        instructions: A text file with one instruction per line, or how many of the ten built-in ones to use (all by
            default).

    Raises:
        InputError: unknown name, missing or malformed file, no examples, or too many instructions asked for.
    """
    scheme, separator, rest = name.partition(":")
    if not separator or not rest:
        raise InputError(f"task {name!r} is not understood; write builtin:NAME, bbq:PATH or choices:PATH")
    if scheme == "builtin":
        if rest not in BUILTIN:
            raise InputError(
                f"no built-in task {rest!r}{nearest(rest, BUILTIN)}; there is: {', '.join(sorted(BUILTIN))}"
            )
        examples = BUILTIN[rest]()
        origin: tuple[str, ...] = ()
    elif scheme in READERS:
        path, exists = _path(rest)
        if not exists:
            raise InputError(f"task {name}: {path} does not exist; check the path")
        examples = READERS[scheme](path)
        origin = tuple(map(str, sorted(path.glob("*.jsonl")))) if path.is_dir() else (str(path),)
    else:
        kinds = ("builtin", *READERS)
        raise InputError(f"task {name!r}: unknown kind {scheme!r}{nearest(scheme, kinds)}; kinds: {', '.join(kinds)}")
    if not examples:
        raise InputError(f"task {name} holds no examples; check the file")
    # Open questions need other words than "choose one of the options".
    available = open_instructions() if examples[0].form == OPEN else builtin_instructions()
    return Task(name, tuple(examples), _instructions(instructions, available), origin)


def _path(text: str) -> tuple[Path, bool]:
    """A path as the user wrote it, and whether there is anything."""
    try:
        path = Path(text).expanduser()
        return path, path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, an unknown user's home, a null character
        raise InputError(f"{text} is no path that can be used ({error}); check it") from error


def _instructions(choice: str | int | None, available: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(choice, str) and not choice.isdecimal():
        return read_instructions(_path(choice)[0])
    if choice is None:
        return available
    count = int(choice)
    if not 1 <= count <= len(available):
        raise InputError(f"{count} instructions asked for, but there are {len(available)} built-in ones; give 1 to "
                         f"{len(available)}, or a text file with your own, one per line")  # fmt: skip
    return available[:count]
