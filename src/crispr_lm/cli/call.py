"""The call of the command line that is under way: what was given, and how results are printed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crispr_lm.settings import ENVIRONMENT_PREFIX


@dataclass
class Call:
    """What parts of the command line need to know of the call as a whole.

    Attributes:
        tokens: The command line.
        form: How results are printed; progress and errors go to standard error.
        verbose: Whether every table of a run is printed.
        settings_file: Its path and the options in it.
        is_resumable: Whether the same command resumes this one if it is interrupted.
    """

    tokens: tuple[str, ...] = ()
    form: Literal["tables", "quiet", "json"] = "tables"
    verbose: bool = False
    settings_file: tuple[Path, frozenset[str]] | None = None
    is_resumable: bool = False

    def begin(
        self, tokens: tuple[str, ...], form: Literal["tables", "quiet", "json"], *, verbose: bool = False
    ) -> None:
        """Forget an earlier call in the same process."""
        self.tokens, self.form, self.verbose = tokens, form, verbose
        self.settings_file, self.is_resumable = None, False

    def options(self) -> list[str]:
        """Names of options on the command line, as they were written."""
        return [token.split("=")[0] for token in self.tokens if token.startswith("--")]

    def source_of(self, option: str) -> str:
        """Where an option's value comes from, fit to begin a sentence; empty for the command line.

        The command line goes before the environment, the environment before the file.
        """
        if option in self.options():
            return ""
        variable = ENVIRONMENT_PREFIX + option.removeprefix("--").replace("-", "_").upper()
        if variable in os.environ:
            return f"environment variable {variable}: "
        if self.settings_file is not None and option in self.settings_file[1]:
            return f"settings file {self.settings_file[0]}: "
        return ""


call = Call()
