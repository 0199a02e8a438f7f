"""Failures in the samples of lm-evaluation-harness (``--log_samples``): ``samples_TASK_TIME.jsonl``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    as_text,
    at,
    check_metric,
)

RUNNING_TEXT = "a running text, no question"
SEVERAL_CONTEXTS = "its options follow different contexts"
LETTERS_ALONE = "its options are letters, whose texts are not in the log"

RIGHT_FIRST = ("exact_match", "acc", "acc_norm", "f1", "pass@1")
"""Metrics by which a sample is right or wrong, where it has several; then the first that is 0 or 1."""

CUES = ("answer:", "answer is:", "a:", "your answer:")
"""Last lines of a prompt that ask for nothing: our own prompts end with theirs."""


def read_lm_eval(rows: Sequence[tuple[str, Mapping[str, Any]]], path: Path, options: LogOptions) -> Iterator[Entry]:
    """Entries of a file of samples, one per document: it has a line for each filter, and failed if all of these did.

    Args:
        rows: Place and content of every line.
        path: The file.
        options: What is taken.

    Raises:
        InputError: no sample has the metric that is asked for.
    """
    check_metric(options, (name for _, row in rows for name in _metrics(row)), path)
    documents: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for source, row in rows:
        # Hashes: a doc_id depends on which part of the data was asked.
        key = as_text(row.get("doc_hash") or row.get("doc_id")), as_text(row.get("prompt_hash") or row.get("arguments"))
        documents[key].append((source, row))
    for lines in documents.values():
        found = [_entry(row, source, options) for source, row in lines]
        yield next((entry for entry in found if isinstance(entry, LeftOut)), found[0])


def _entry(row: Mapping[str, Any], source: str, options: LogOptions) -> Entry:
    requests = _requests(row.get("arguments"))
    if not requests:
        return LeftOut(NO_PROMPT, source)
    responses = row.get("filtered_resps")
    if not isinstance(responses, list) or not responses:
        return LeftOut(TOOL_ERROR, source)
    if len(requests) > 1:
        return _chosen(row, requests, responses, source, options)
    prompt, continuation = requests[0]
    if continuation is None:
        return LeftOut(RUNNING_TEXT, source)
    reason = _verdict(row, options.metric)
    if reason is not None:
        return LeftOut(reason, source)
    answer = responses[0]
    written = answer if isinstance(answer, str) and not isinstance(continuation, str) else ""
    return Failure(prompt.strip(), written.strip(), f"expected: {as_text(row.get('target'))}", source)


def _requests(arguments: Any) -> list[tuple[str, Any]]:
    """Context and continuation (a text, or settings of a generation) of every request of a sample."""
    if isinstance(arguments, Mapping):  # "gen_args_10" comes after "gen_args_9"
        names = sorted(arguments, key=lambda name: (len(name), name))
        found = [(at(arguments, name, "arg_0"), at(arguments, name, "arg_1")) for name in names]
    elif isinstance(arguments, list):  # before release 0.4.3
        found = [(one[0], one[1] if len(one) > 1 else None) for one in arguments if isinstance(one, list) and one]
    else:
        found = []
    return [(context, more) for context, more in found if isinstance(context, str) and context.strip()]


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Names of a sample's metrics."""
    names = row.get("metrics")
    return list(map(str, names)) if isinstance(names, list) else []


def _verdict(row: Mapping[str, Any], metric: str | None) -> str | None:
    """Why a sample is no failure by its metrics, or None if it is one."""
    values = {name: row.get(name) for name in _metrics(row)}
    if metric is not None:
        if metric not in values:
            return NOT_BY_METRIC
        values = {metric: values[metric]}
    # A list is an entry for an aggregation of its own; its numbers mean what the task's code says.
    decided = {
        name: bool(value) for name, value in values.items() if isinstance(value, (bool, int, float)) and value in (0, 1)
    }
    right = next((decided[name] for name in (*RIGHT_FIRST, *decided) if name in decided), None)
    return NO_VERDICT if right is None else PASSED if right else None


def _chosen(
    row: Mapping[str, Any],
    requests: Sequence[tuple[str, Any]],
    responses: Sequence[Any],
    source: str,
    options: LogOptions,
) -> Entry:
    """The entry of a multiple-choice sample: its likeliest option against the right one, whatever its metrics are."""
    contexts = {context for context, _ in requests}
    if len(contexts) > 1:
        return LeftOut(SEVERAL_CONTEXTS, source)
    scores = [_score(response) for response in responses]
    texts = [as_text(continuation).strip() for _, continuation in requests]
    known = [score for score in scores if score is not None]
    if len(known) < len(texts) or len(scores) != len(texts):
        return LeftOut(TOOL_ERROR, source)
    answer = _index(row.get("target"), texts)
    if answer is None:
        return LeftOut(NO_ANSWER_KEY, source)
    chosen = max(range(len(texts)), key=lambda index: (known[index], -index))
    if options.metric is None and chosen == answer:
        return LeftOut(PASSED, source)
    if options.metric is not None and (reason := _verdict(row, options.metric)):
        return LeftOut(reason, source)
    named = _named_options(row, texts)
    if named is None:
        return LeftOut(LETTERS_ALONE, source)
    if len(set(named)) < len(named) or not all(named):
        return LeftOut(EQUAL_OPTIONS, source)
    (prompt,) = contexts
    question = Question(*_parts(row, prompt), tuple(named), answer)
    return Failure(prompt.strip(), named[chosen], f"expected: {named[answer]}", source, question=question)


def _score(response: Any) -> float | None:
    """The log-likelihood of an option, which is written as a text."""
    value = response[0] if isinstance(response, list) and response else response
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _index(target: Any, texts: Sequence[str]) -> int | None:
    """Index of the right option: the target is its index, written as a text, or its text."""
    text = as_text(target).strip()
    if text in texts:  # first: an option may be a number
        return texts.index(text)
    return int(text) if text.isdecimal() and int(text) < len(texts) else None


def _named_options(row: Mapping[str, Any], texts: Sequence[str]) -> list[str] | None:
    """The options' texts; where the model scored letters, those that the document holds in a list."""
    if not all(len(text) <= 1 for text in texts):
        return list(texts)
    for name in ("choices", "options", "endings"):
        value = at(row, "doc", name)
        value = at(value, "text") if isinstance(value, Mapping) else value
        if isinstance(value, list) and len(value) == len(texts) and all(isinstance(one, str) for one in value):
            return [one.strip() for one in value]
    return None


def _parts(row: Mapping[str, Any], prompt: str) -> tuple[str, str]:
    """Context and question: the document's, if the prompt holds them; else the prompt without its cue to answer."""
    context, question = at(row, "doc", "context"), at(row, "doc", "question")
    if isinstance(question, str) and question.strip() and question.strip() in prompt:
        fits = isinstance(context, str) and context.strip() in prompt
        return (context.strip() if fits else ""), question.strip()
    lines = prompt.strip().split("\n")
    if len(lines) > 1 and lines[-1].strip().lower() in CUES:
        lines = lines[:-1]
    return "", "\n".join(lines).strip()
