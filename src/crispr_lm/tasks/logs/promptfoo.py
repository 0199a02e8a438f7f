"""Failures in the results of promptfoo (``promptfoo eval --output results.json``).

A row is a test, a prompt and a provider.
Read from the shape of release 0.118 (``results.version`` 3); older exports hold the same list of rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.untrusted import parse_json
from crispr_lm.tasks.logs.entry import (
    NO_PROMPT,
    NO_VERDICT,
    NOT_BY_METRIC,
    PASSED,
    TOOL_ERROR,
    Entry,
    Failure,
    LeftOut,
    LogOptions,
    as_text,
    at,
    check_metric,
    one_turn,
)

NOT_ABOUT_TEXT = ("cost", "latency", "perplexity", "perplexity-score")
"""Assertions on a call, not on what was written."""
COST_ALONE = "failed for its cost, latency or perplexity alone"

ERROR = 2
"""``failureReason`` of a row without an answer."""

PLACE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)
"""A variable or a statement in a promptfoo template."""
FEWEST_WORDS = 3
"""Words of its own from which a template says what its prompts have in common; "{{question}}" has none."""


def read_promptfoo(content: Any, path: Path, options: LogOptions) -> Iterator[Entry]:
    """Entries of an export.

    Raises:
        InputError: it holds no list of results, or nothing by the metric that is asked for.
    """
    rows = at(content, "results", "results")
    if not isinstance(rows, list):
        raise InputError(
            f"{path}: no list 'results' within 'results'; write it with: promptfoo eval --output results.json"
        )
    components = [one for row in rows for one in _components(row)]
    if not any(options.metric in _names(one) for one in components):
        # What an assertion compares with may be a long text, so it is not listed.
        known = (at(one, "assertion", name) for one in components for name in ("type", "metric"))
        check_metric(options, (name for name in known if isinstance(name, str)), path)
    for number, row in enumerate(rows):
        yield _entry(row, f"{path.name}: result {number}", options)


def _entry(row: Any, source: str, options: LogOptions) -> Entry:
    if at(row, "failureReason") == ERROR or at(row, "response", "output") is None:
        return LeftOut(TOOL_ERROR, source)
    success = at(row, "success")
    if not isinstance(success, bool):
        return LeftOut(NO_VERDICT, source)
    if success:
        return LeftOut(PASSED, source)
    failed = [one for one in _components(row) if at(one, "pass") is False]
    kinds = [as_text(at(one, "assertion", "type")).removeprefix("not-") for one in failed]
    if kinds and all(kind in NOT_ABOUT_TEXT for kind in kinds):
        return LeftOut(COST_ALONE, source)
    named = [one for one in failed if options.metric in _names(one)]
    if options.metric is not None and not named:
        return LeftOut(NOT_BY_METRIC, source)
    prompt = _prompt(at(row, "prompt", "raw"))
    if isinstance(prompt, LeftOut):
        return LeftOut(prompt.reason, source)
    reason = at((named or failed or [None])[0], "reason") or at(row, "error") or at(row, "gradingResult", "reason")
    label = as_text(at(row, "prompt", "label"))
    own = len(PLACE.sub(" ", label).split()) >= FEWEST_WORDS and bool(PLACE.search(label))
    return Failure(prompt, as_text(at(row, "response", "output")), as_text(reason), source, label if own else "")


def _components(row: Any) -> list[Any]:
    """The outcomes of a row's assertions."""
    found = at(row, "gradingResult", "componentResults")
    return found if isinstance(found, list) else []


def _names(component: Any) -> list[Any]:
    """What an assertion can be named by."""
    return [at(component, "assertion", name) for name in ("type", "metric", "value")]


def _prompt(raw: Any) -> str | LeftOut:
    """The text of a prompt, which may be a list of chat messages written as JSON."""
    if not isinstance(raw, str) or not raw.strip():
        return LeftOut(NO_PROMPT, "")
    if not raw.lstrip().startswith("["):
        return raw.strip()
    try:
        messages = parse_json(raw)
    except ValueError:
        return raw.strip()
    chat = isinstance(messages, list) and messages and all(at(message, "role") for message in messages)
    return one_turn(messages) if chat else raw.strip()
