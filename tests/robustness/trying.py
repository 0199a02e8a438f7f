"""How many cases a property is tried with, and where their number is reported."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

CASES = os.environ.get("CRISPR_LM_CASES")
"""Cases of every property; by default fewer, as each test says, and the same ones every time."""

TRIED = os.environ.get("CRISPR_LM_TRIED")
"""File that a line of JSON per property is appended to."""


def tried(what: str, **counts: int | float | str) -> None:
    """Append what was tried to the file, if there is one."""
    if TRIED:
        with Path(TRIED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, **counts}) + "\n")


def settings_for(default: int, long: float = 1.0) -> settings:
    """Hypothesis's settings for a property; `long` is the part of `CRISPR_LM_CASES` that it is tried with."""
    return settings(
        max_examples=max(1, int(int(CASES) * long)) if CASES else default,
        derandomize=CASES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def trying(what: str, default: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Try a property as often as `settings_for` says, and tell how often it was."""

    def decorated(check: Callable[[], None]) -> Callable[[], None]:
        cases = 0
        inner = check.hypothesis.inner_test  # type: ignore[attr-defined]

        @functools.wraps(inner)
        def counted(*arguments: Any, **named: Any) -> None:
            nonlocal cases
            cases += 1
            inner(*arguments, **named)

        check.hypothesis.inner_test = counted  # type: ignore[attr-defined]
        checked = settings_for(default)(check)

        def run() -> None:
            checked()
            tried(what, cases=cases)

        return run

    return decorated
