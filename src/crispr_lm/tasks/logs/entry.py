"""What readers of logs find: failures, and entries that can't be used, each with the reason. Knows no tool."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, nearest

PASSED = "passed there"
TOOL_ERROR = "an error of the tool, so there is no answer to judge"
NO_PROMPT = "no text of a prompt in it"
NO_VERDICT = "neither passed nor failed there"
NOT_BY_METRIC = "did not fail by the metric named with --metric"
SEVERAL_TURNS = "a conversation of several turns"
NOT_TEXT = "holds an image, a tool call or other content than text"
NO_ANSWER_KEY = "has options, but the log does not say which one is right"
EQUAL_OPTIONS = "two of its options are equal, or one is empty"


@dataclass(frozen=True)
class Question:
    """What a failed prompt asked, where the log holds its options.

    Attributes:
        context: What stands before the question; may be empty.
        question: What is asked.
        options: Two or more different texts.
        answer: Index of the right one.
    """

    context: str
    question: str
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class Failure:
    """A prompt whose answer failed.

    Attributes:
        prompt: All of the text that the model was given.
        answer: What it wrote or chose; empty where the log does not say.
        reason: Why it failed, in the tool's words; may be empty.
        source: File and place.
        template: What the tool made the prompt from; empty where the log does not say.
        question: Its parts, if it has options.
    """

    prompt: str
    answer: str
    reason: str
    source: str
    template: str = ""
    question: Question | None = None


@dataclass(frozen=True)
class LeftOut:
    """An entry that can't be used: why, and where it stands."""

    reason: str
    source: str


Entry = Failure | LeftOut


@dataclass(frozen=True)
class LogOptions:
    """What of a log is taken.

    Attributes:
        metric: Only what failed by this assertion, metric or scorer; None for all failures.
        prompt_column: Of a table; None to recognise it by its name.
        answer_column: The same for the model's answers.
    """

    metric: str | None = None
    prompt_column: str | None = None
    answer_column: str | None = None


def check_metric(options: LogOptions, known: Iterable[str], path: Path) -> None:
    """Refuse a metric by which nothing in a log was judged.

    Args:
        options: What is taken.
        known: Names of assertions, metrics or scorers in the log.
        path: The log.

    Raises:
        InputError: it is not among them.
    """
    names = sorted(set(known))
    if options.metric is None or options.metric in names:
        return
    there = f"choose one of {', '.join(map(repr, names))}" if names else "it names none, so leave --metric away"
    raise InputError(f"{path}: nothing is judged by {options.metric!r}{nearest(options.metric, names)}; {there}")


def at(content: Any, *names: str) -> Any:
    """The value at a path of names within JSON objects; None where there is no such path."""
    for name in names:
        if not isinstance(content, Mapping):
            return None
        content = content.get(name)
    return content


def as_text(value: Any) -> str:
    """A text as it is, other JSON written out, nothing as an empty text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def one_turn(messages: Sequence[Any]) -> str | LeftOut:
    """The text of a chat of one user turn: a system message stands before it, with a blank line between.

    Args:
        messages: Objects with ``role`` and ``content``: a text, or parts with ``type`` and ``text``.

    Returns:
        The text, or why there is none (without a source).
    """
    texts = []
    for message in messages:
        content = at(message, "content")
        if isinstance(content, list):
            if any(at(part, "type") != "text" for part in content):
                return LeftOut(NOT_TEXT, "")
            content = "\n".join(as_text(at(part, "text")) for part in content)
        if not isinstance(content, str):
            return LeftOut(NOT_TEXT, "")
        texts.append((at(message, "role"), content.strip()))
    roles = [role for role, _ in texts]
    if roles.count("user") != 1 or roles[-1] != "user" or set(roles) - {"system", "developer", "user"}:
        return LeftOut(SEVERAL_TURNS if roles.count("user") else NO_PROMPT, "")
    return "\n\n".join(text for _, text in texts if text)
