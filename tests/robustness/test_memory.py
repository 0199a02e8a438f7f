"""Memory does not grow with the number of examples, but for the figures of each.

`CRISPR_LM_EXAMPLES` sets how many are asked (100,000 is what is promised), `CRISPR_LM_ATTRIBUTED` on how many neurons
are attributed, `CRISPR_LM_ROWS` how many rows are read (and twice as many, in the long version).
"""

from __future__ import annotations

import gc
import json
import os
import tracemalloc

import psutil
import pytest

from crispr_lm import Task, load_task, score_neurons
from crispr_lm.evaluation.evaluation import evaluate_task
from crispr_lm.tasks.base import Example

from ..helpers import build_model
from .commands import LONG
from .documents import CHOICE, bbq_row
from .trying import tried

ASKED = int(os.environ.get("CRISPR_LM_EXAMPLES", "100000" if LONG else "800"))
ATTRIBUTED = int(os.environ.get("CRISPR_LM_ATTRIBUTED", "20000" if LONG else "600"))

ROWS = int(os.environ.get("CRISPR_LM_ROWS", "1000000" if LONG else "4000"))
TIMES = (1, 2) if LONG else (1,)

BYTES_PER_ROW = 1600
"""What a row may leave behind: an `Example` with its texts, of some 250 (choices) and 550 (BBQ) bytes on the disk."""

BYTES_IN_PASSING = 2**20
"""What reading may take beside, at any number of rows: one of them as JSON, buffers. A growing list takes 16 a row."""

BYTES_PER_EXAMPLE = 600
"""What an example may leave behind: its scores, its columns of metrics, places in lists. Its tokens would be 1,500."""

NOISE = {"python": 2**18, "process": 24 * 2**20}
"""Bytes by which memory goes up and down: of Python's objects, and of the whole process with what PyTorch allocates."""


def evaluation(lm, asked, instructions, progress):
    return evaluate_task(lm, Task("t", tuple(asked), tuple(instructions)), "sum", progress=progress)


JOBS = {"evaluation": evaluation, "attribution": score_neurons}


def examples(count):
    """Questions of some hundred tokens that differ."""
    people = ("the old man", "the young woman", "a nurse", "a doctor", "Anna", "Omar")
    return [
        Example(
            context=f"At bus stop {number} {people[number % 6]} met {people[(number + 1) % 6]} and was late. " * 3,
            question="Who was slow?",
            options=(people[number % 6], people[(number + 1) % 6], "unknown"),
            answer=2,
            template=str(number % 97),
        )
        for number in range(count)
    ]


def most_memory(work):
    """The most bytes that are taken after any batch of `work`: by Python's objects (and NumPy's), by the process."""
    process = psutil.Process()
    most = {"python": 0, "process": 0}

    def advance(_finished):
        most["python"] = max(most["python"], tracemalloc.get_traced_memory()[0])
        most["process"] = max(most["process"], process.memory_info().rss)

    gc.collect()
    work(advance)
    return most


@pytest.fixture
def _traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.timeout(0)
@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("kind", ["choices", "bbq"])
@pytest.mark.parametrize("times", TIMES)
def test_rows_are_read_one_by_one(tmp_path, kind, times):
    with (tmp_path / "t.jsonl").open("w", encoding="utf-8") as file:
        for number in range(times * ROWS):
            row = bbq_row(number, number % 3) if kind == "bbq" else CHOICE
            file.write(json.dumps(row | {"context": f"At stop {number} a nurse met a doctor. " * 3}) + "\n")
    gc.collect()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    task = load_task(f"{kind}:{tmp_path / 't.jsonl'}")
    kept, most = (size - before for size in tracemalloc.get_traced_memory())
    assert len(task.examples) == times * ROWS
    tried(f"memory of reading, {kind}", tried=times * ROWS, megabytes=round(most / 2**20))
    assert kept < BYTES_PER_ROW * times * ROWS
    assert most - kept < BYTES_IN_PASSING + 16 * times * ROWS


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize(("what", "count"), [("evaluation", ASKED), ("attribution", ATTRIBUTED)])
def test_memory_stays_flat(what, count, monkeypatch):
    # Several portions in the fewer examples, too: a whole one is what is needed at any number.
    monkeypatch.setattr("crispr_lm.inference.prompts.ENCODED_AT_ONCE", min(4096, count // 12))
    lm, asked, job = build_model("llama"), examples(count), JOBS[what]
    few, many = (
        most_memory(lambda advance, some=asked[:number]: job(lm, some, ["Answer the question."], progress=advance))
        for number in (count // 4, count)
    )
    more = count - count // 4
    growth = {of: many[of] - few[of] for of in NOISE}
    tried(
        f"memory of {what}",
        tried=count,
        megabytes=round(many["process"] / 2**20),
        megabytes_more_than_for_a_quarter=round(growth["process"] / 2**20),
    )
    for of, noise in NOISE.items():
        assert growth[of] < noise + BYTES_PER_EXAMPLE * more, (of, few, many)
