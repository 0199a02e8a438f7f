"""Plugins: tables that others can add to, and the code that adds to them.

A plugin is Python that calls ``register_ranking``, ``register_metrics``, ``register_task``, ``register_baseline`` or
``register_architecture``. It is an installed package with an entry point in the group `GROUP`, read when a table is
first looked at, or a file that ``--plugin`` names. Both run with the rights of the user, so no settings file, no
environment variable and no record of a run can name one. Knows no model, no task and no metric.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeVar

from crispr_lm.errors import CrisprError, InputError, on_one_line

GROUP = "crispr_lm.plugins"
"""Group of the entry points that installed packages offer."""

Value = TypeVar("Value")

_loaded: list[str] = []  # what was loaded, with its hash or version
_asked = False  # whether entry points were looked for
_failure: InputError | None = None  # of an installed plugin; every later look at a table must meet it too


class Registry(Mapping[str, Value]):
    """A table by name. Reading it loads the installed plugins first.

    Attributes:
        what: What an entry is, for messages.
    """

    def __init__(self, what: str, entries: Iterable[tuple[str, Value]]) -> None:
        self.what = what
        self._entries = dict(entries)

    def register(self, name: str, value: Value) -> None:
        """Add an entry.

        Raises:
            InputError: the name is taken, or is no name.
        """
        check_name(self.what, name, self._entries)
        self._entries[name] = value

    def __getitem__(self, name: str) -> Value:
        load_installed()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        load_installed()
        return iter(self._entries)

    def __len__(self) -> int:
        load_installed()
        return len(self._entries)


def check_name(what: str, name: object, taken: Iterable[str]) -> None:
    """Check the name of something new: letters, digits, ``-`` and ``_``, beginning with a letter.

    Raises:
        InputError: it is another kind of text, or is taken.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise InputError(f"{name!r} is no name for a {what}; begin with a letter, go on with letters, digits, - and _")
    if name in taken:
        raise InputError(f"there is a {what} {name!r} already; choose another name")


def load_installed() -> None:
    """Load the plugins of installed packages, in the order of their names; once.

    Raises:
        InputError: one of them fails, and all that follow from it would be wrong without a word.
    """
    global _asked, _failure
    if not _asked:
        _asked = True  # before anything is loaded: a plugin may look at the tables
        try:
            for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
                package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "an unknown package"
                found = _run(f"{entry.name} of {package}", entry.load, "mend or uninstall it")
                if callable(found):  # "module:function"; a module registers as it is imported
                    _run(f"{entry.name} of {package}", found, "mend or uninstall it")
                _loaded.append(f"{entry.name} of {package}")
        except InputError as error:
            _failure = error
    if _failure is not None:
        raise _failure


def load_file(path: Path) -> None:
    """Run a Python file that registers something. The same file again is passed over.

    Raises:
        InputError: no such file, or it fails (its line is named).
    """
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"plugin {path} is no Python file here; give the path of a .py file")
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"plugin {path} can't be read ({error.strerror}); check the path") from error
    known = f"{path.name} sha256:{digest}"
    if known in _loaded:
        return
    name = f"crispr_lm_plugin_{digest[:16]}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses and pickle look for it there
    loader = specification.loader
    try:
        _run(str(path), lambda: loader.exec_module(module), "mend it", file=path)
    except InputError:
        del sys.modules[name]
        raise
    _loaded.append(known)


def loaded() -> list[str]:
    """What was loaded: entry points with package and version, files with their hash. Results may depend on each."""
    load_installed()
    return sorted(_loaded)


def _run(plugin: str, work: Callable[[], Value], advice: str, file: Path | None = None) -> Value:
    try:
        return work()
    except (Exception, SystemExit) as error:  # whatever its author's code raises
        reason = str(error) if isinstance(error, CrisprError) else on_one_line(error)  # type: ignore[arg-type]
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if file and frame.filename == str(file)), None)
        where = f" at line {line}" if line else ""
        raise InputError(f"plugin {plugin} fails{where} ({reason}); {advice}") from error
