"""Counts of the benchmarks in other languages, as the table in docs/languages.md. Reads no model.

python benchmarks/languages.py ../shared/data
"""

from __future__ import annotations

import sys
from pathlib import Path

from crispr_lm import load_task
from crispr_lm.tasks.base import Task
from crispr_lm.tasks.groups import NOT_FOUND

FILES = {
    "esbbq": "esbbq_cabbq/data_es/*.csv",
    "cabbq": "esbbq_cabbq/data_ca/*.csv",
    "kobbq": "kobbq/KoBBQ_test_samples.tsv",
    "ggbbq": "ggbbq/subset-*",
    "cbbq": "cbbq/*",
    "mbbq": "mbbq/*[!l]_??.jsonl",  # but for *_control_??.jsonl
    "mbbq_control": "mbbq/*_control_??.jsonl",
}
"""Kind of task to where its files are below the folder given; what is not there is left out."""

HEADER = (
    "task", "rows read", "repeated", "contradictory", "rows used", "person not found", "templates",
    "attribution, validation, test",
)  # fmt: skip


def row(name: str, task: Task) -> tuple[str, ...]:
    """One line of the table."""
    rows = task.rows
    assert rows is not None  # all of these kinds count their rows
    lost = sum(bool(example.facet(NOT_FOUND)) for example in task.examples)
    templates = len({example.template for example in task.examples})
    figures = (rows.read, rows.repeated, rows.contradictory, len(task.examples), lost, templates)
    return (f"`{name}`", *(f"{figure:,}" for figure in figures), ", ".join(f"{len(part):,}" for part in task.split()))


def main() -> None:
    """Print the table of all files below a folder."""
    data = Path(sys.argv[1])
    print("|", " | ".join(HEADER), "|\n|", " | ".join(["---", *["---:"] * (len(HEADER) - 1)]), "|")
    for kind, pattern in FILES.items():
        for path in sorted(data.glob(pattern)):
            task = load_task(f"{kind}:{path}", groups={})  # rows whose person is not found are counted, not refused
            print("|", " | ".join(row(f"{kind}:{path.relative_to(data)}", task)), "|")


if __name__ == "__main__":
    main()
