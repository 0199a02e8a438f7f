"""Failures in a test run of deepeval (``DEEPEVAL_RESULTS_FOLDER``, ``.deepeval/.latest_test_run.json``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.logs.entry import (
    NO_PROMPT,
    NO_VERDICT,
    NOT_BY_METRIC,
    NOT_TEXT,
    PASSED,
    SEVERAL_TURNS,
    TOOL_ERROR,
    Entry,
    Failure,
    LeftOut,
    LogOptions,
    as_text,
    at,
    check_metric,
)


def read_deepeval(content: Any, path: Path, options: LogOptions) -> Iterator[Entry]:
    """Entries of a test run.

    Raises:
        InputError: it holds no list of test cases, or nothing by the metric that is asked for.
    """
    run = at(content, "testRunData") or content
    cases, chats = at(run, "testCases"), at(run, "conversationalTestCases") or []
    if not isinstance(cases, list) or not isinstance(chats, list):
        raise InputError(f"{path}: 'testCases' is no list; give the file that deepeval writes for a test run")
    check_metric(options, (as_text(at(metric, "name")) for case in cases for metric in _metrics(case)), path)
    for number, case in enumerate(cases):
        yield _entry(case, f"{path.name}: test case {number}", options)
    for number, case in enumerate(chats):
        reason = PASSED if at(case, "success") is True else SEVERAL_TURNS
        yield LeftOut(reason, f"{path.name}: conversational test case {number}")


def _metrics(case: Any) -> list[Any]:
    """What a test case was judged by."""
    metrics = at(case, "metricsData")
    return metrics if isinstance(metrics, list) else []


def _entry(case: Any, source: str, options: LogOptions) -> Entry:
    metrics = _metrics(case)
    # Scores are no help: a low one is good for some metrics (BiasMetric), a high one for others.
    success = at(case, "success")
    if success is True:
        return LeftOut(PASSED, source)
    failed = [metric for metric in metrics if at(metric, "success") is False and not at(metric, "error")]
    if at(case, "actualOutput") is None or (metrics and not failed and any(at(metric, "error") for metric in metrics)):
        return LeftOut(TOOL_ERROR, source)
    if success is not False:
        return LeftOut(NO_VERDICT, source)
    if options.metric is not None:
        failed = [metric for metric in failed if at(metric, "name") == options.metric]
        if not failed:
            return LeftOut(NOT_BY_METRIC, source)
    prompt, answer = at(case, "input"), at(case, "actualOutput")
    if not isinstance(prompt, str) or not isinstance(answer, str):
        return LeftOut(NOT_TEXT, source)
    if not prompt.strip():
        return LeftOut(NO_PROMPT, source)
    reasons = [f"{at(metric, 'name')}: {at(metric, 'reason')}" for metric in failed if at(metric, "reason")]
    return Failure(prompt.strip(), answer, "; ".join(reasons), source)
