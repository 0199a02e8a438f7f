"""The TOML file named with ``--config``, and which options it may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import CycloptsError
from cyclopts.config import Toml

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import check_regular

if TYPE_CHECKING:
    from pathlib import Path

    from cyclopts import App, ArgumentCollection

COMMAND_LINE_ONLY = ("config", "quiet", "json", "verbose", "plugin")
"""Options that no settings file holds: they say how to print, or run code."""

TRUST = ("--trust-remote-code", "--allow-pickle")
"""Options that let a model run code or be read as pickle. A settings file may be a stranger's, and a variable outlives
the command that it was meant for, so that these are taken from the command line alone."""


def read_settings_file(path: Path) -> Toml:
    """Read a settings file.

    Raises:
        InputError: no such file, no TOML, or options within a section.
    """
    try:
        exists = path.exists()
        check_regular(path)
    except (OSError, ValueError) as error:  # too long a name, a null character; a folder, a device or a pipe
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"settings file {path} can't be read ({reason}); give a TOML file") from error
    if not exists:
        is_not = "is a link that leads to no file" if path.is_symlink() else "does not exist"
        raise InputError(f"settings file {path} {is_not}; check the path")
    source = Toml(path, must_exist=True, search_parents=False, use_commands_as_keys=False)
    try:
        content = source.config  # read now: the message of a mistake names the file
    except (CycloptsError, ValueError, OSError) as error:
        raise InputError(f"settings file {path} can't be read as TOML: {' '.join(str(error).split())}") from error
    for name, value in content.items():
        if name in COMMAND_LINE_ONLY:  # cyclopts would ignore it silently
            raise InputError(f"settings file {path} can't set {name!r}; give --{name} on the command line")
        if isinstance(value, dict):  # its options would be ignored silently
            raise InputError(
                f"settings file {path} has a section [{name}]; write its options at the top level, one `name = value` "
                "per line"
            )
    return source


def check_trust(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse trust that is given anywhere but on the command line; called by cyclopts after the other sources."""
    for argument in arguments:
        for token in argument.tokens if argument.name in TRUST else ():
            if token.source != "cli":
                is_variable = token.source == "env"
                where = f"environment variable {token.keyword}" if is_variable else f"settings file {token.source}"
                raise InputError(
                    f"{where} gives {argument.name}, which is taken from the command line alone; remove it there, and "
                    "give the option with the command if you trust this model"
                )
