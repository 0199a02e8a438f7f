"""Failures in a log of Inspect (``.eval`` or ``.json``), read by ``inspect_ai``: the files change with its releases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError, on_one_line
from crispr_lm.tasks.logs.entry import (
    EQUAL_OPTIONS,
    NO_ANSWER_KEY,
    NO_PROMPT,
    NO_VERDICT,
    NOT_BY_METRIC,
    PASSED,
    TOOL_ERROR,
    Entry,
    Failure,
    LeftOut,
    LogOptions,
    Question,
    check_metric,
    one_turn,
)

RIGHT, WRONG = ("C", True, 1), ("I", "P", False, 0)
"""Values of a score: correct; incorrect, partly correct. Another number has no threshold, "N" is no answer."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""How Inspect names options."""


def read_inspect(path: Path, options: LogOptions) -> Iterator[Entry]:
    """Entries of a log, one per sample and epoch.

    Raises:
        InputError: as `inspect_samples`, or nothing is scored by the scorer that is asked for.
    """
    samples = inspect_samples(path)
    check_metric(options, (name for sample in samples for name in sample.scores or ()), path)
    for sample in samples:
        yield _entry(sample, f"{path.name}: sample {sample.id} epoch {sample.epoch}", options)


def inspect_samples(path: Path) -> Sequence[Any]:
    """The samples of a log, one per question and epoch.

    Raises:
        InputError: ``inspect_ai`` is not installed or can't read it, or it holds no samples.
    """
    try:
        from inspect_ai.log import read_eval_log
    except ImportError as error:
        raise InputError(f"{path}: Inspect logs need: pip install 'crispr-lm[inspect]'") from error
    try:
        log = read_eval_log(str(path), resolve_attachments=True)
    except Exception as error:  # of many types: of zip archives, of JSON, of its own
        raise InputError(f"{path}: inspect_ai can't read it ({on_one_line(error)}); give an Inspect log") from error
    if not log.samples:
        raise InputError(f"{path}: no samples in it (status {log.status}); log them with: inspect eval --log-samples")
    samples: Sequence[Any] = log.samples
    return samples


def _entry(sample: Any, source: str, options: LogOptions) -> Entry:
    if sample.error is not None or sample.limit is not None:
        return LeftOut(TOOL_ERROR, source)
    scores = sample.scores or {}
    if options.metric is not None:
        scores = {name: score for name, score in scores.items() if name == options.metric}
    verdicts = [_right(score.value) for score in scores.values()]
    if False not in verdicts:
        if sample.scores and not scores:
            return LeftOut(NOT_BY_METRIC, source)
        return LeftOut(PASSED if True in verdicts and None not in verdicts else NO_VERDICT, source)
    prompt = _prompt(sample)
    if isinstance(prompt, LeftOut):
        return LeftOut(prompt.reason, source)
    if not prompt.strip():
        return LeftOut(NO_PROMPT, source)
    question = None
    if sample.choices:
        asked = sample.input if isinstance(sample.input, str) else prompt
        found = _question(asked, [str(choice).strip() for choice in sample.choices], sample.target)
        if isinstance(found, str):
            return LeftOut(found, source)
        question = found
    failed = next(score for score in scores.values() if _right(score.value) is False)
    reason = failed.explanation if failed.explanation != sample.output.completion else None
    return Failure(prompt.strip(), sample.output.completion, reason or "", source, question=question)


def _right(value: Any) -> bool | None:
    """Whether a score says right or wrong; None where it says neither."""
    if isinstance(value, (str, bool, int, float)):
        return True if value in RIGHT else False if value in WRONG else None
    return None


def _prompt(sample: Any) -> str | LeftOut:
    """What the model was given in one turn: a solver may have put a system message or options around the input."""
    before = []
    for message in sample.messages:
        if message.role == "assistant":
            break
        before.append({"role": message.role, "content": _content(message.content)})
    if before:
        return one_turn(before)
    if isinstance(sample.input, str):
        return sample.input
    return one_turn([{"role": one.role, "content": _content(one.content)} for one in sample.input])


def _content(content: Any) -> Any:
    """The content of a message as JSON has it."""
    if isinstance(content, str):
        return content
    return [{"type": part.type, "text": getattr(part, "text", None)} for part in content]


def _question(asked: str, options: Sequence[str], target: Any) -> Question | str:
    """The question, or why there is none."""
    targets = [target] if isinstance(target, str) else list(target)
    letter = targets[0].strip() if len(targets) == 1 else ""
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        return NO_ANSWER_KEY
    if len(set(options)) < len(options) or not all(options):
        return EQUAL_OPTIONS
    return Question("", asked.strip(), tuple(options), LETTERS.index(letter))
