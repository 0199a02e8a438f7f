"""Nothing lost, no one let in: the long versions of the robustness tests, counted.

    make robust                                            # everything; hours
    python benchmarks/robust.py --only inputs kills --cases 1000 --kills 5
    python benchmarks/robust.py --only mutants --sample 200

*Inputs*, *fuzzer*, *kills*, *faults* and *memory* run `tests/robustness`, whose short versions are part of `make test`,
with many more cases, and add up what each test reports to the file named by `CRISPR_LM_TRIED`. *Mutants* lets mutmut
change attribution, relevance, gates, metrics and edits in small ways (pyproject.toml, `tool.mutmut`) in a copy of the
tree, and counts the changes that no test of theirs notices. Prints one table and writes docs/results/robustness.md from
it, a section for each part; those of parts that were not asked for stay. Knows nothing of the library: it starts
processes and reads what they leave.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "robustness.md"
SMALLEST = "crispr_lm.metrics.language.*"
"""A few mutants, with which mutmut writes all of them and finds out which tests belong to which."""

ROBUSTNESS = ROOT / "tests" / "robustness"


@dataclass(frozen=True)
class Part:
    """A part of the page, which can be made anew by itself.

    Attributes:
        heading: Over it.
        files: Of `tests/robustness`; none for those that no other part has.
        packages: It is made with, beside PyTorch and transformers.
    """

    heading: str
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ("hypothesis",)


PARTS = {
    "inputs": Part("## What comes from others"),
    "fuzzer": Part("## Fuzzed", ("test_fuzzer.py",), ("atheris",)),
    "kills": Part("## Killed and started again", ("test_kills.py",), ()),
    "faults": Part("## Faults at every place", ("test_faults.py", "test_traces.py"), ()),
    "memory": Part("## Memory", ("test_memory.py",), ()),
    "mutants": Part("## Mutants", packages=("mutmut",)),
}

IN_MEMORY = ("inputs", "fuzzer")
"""Parts whose files need no disk: to make a file there takes ten times as long as to read it."""

NOTICED = ("killed", "segfault", "caught by type check")
"""What mutmut says of a mutant that would not have gone unnoticed.

A timeout is none of these: a machine that is busy with other things looks the same as a mutant that hangs. Timeouts are
shown with the survivors, to be looked at.
"""


@dataclass(frozen=True)
class Row:
    """A line of the table: what was tried, how often, and how it ended."""

    part: str
    what: str
    tried: int
    ends: str
    passed: bool


def test_files(part: str) -> list[str]:
    """The robustness tests of a part; those that no part names are its first's."""
    named = {name for other in PARTS.values() for name in other.files}
    rest = sorted(path.name for path in ROBUSTNESS.glob("test_*.py") if path.name not in named)
    return [f"tests/robustness/{name}" for name in PARTS[part].files or rest]


def run_tests(part: str, cases: int, kills: int) -> list[Row]:
    """The robustness tests of a part; a row for each that reports, and one for them all."""
    with tempfile.TemporaryDirectory() as folder:
        report, results = Path(folder, "tried.jsonl"), Path(folder, "results.xml")
        long = {"CRISPR_LM_CASES": str(cases), "CRISPR_LM_KILLS": str(kills), "CRISPR_LM_TRIED": str(report)}
        if part in IN_MEMORY and os.access("/dev/shm", os.W_OK):
            long["TMPDIR"] = "/dev/shm"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=0"]
        command += [f"--junitxml={results}", *test_files(part)]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **long})
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
        suite = ElementTree.parse(results).find("testsuite") if results.exists() else None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "skipped")} if suite is not None else {}
    verdict = "all passed" if done.returncode == 0 else f"pytest ended with {done.returncode}"
    if counts.get("skipped"):
        verdict += f", but for {counts['skipped']} skipped"
    whole = Row(
        part, "tests in " + ", ".join(map(str, test_files(part))), counts.get("tests", 0), verdict, not done.returncode
    )
    return [*(replace(row, part=part) for row in tried_rows([json.loads(line) for line in lines])), whole]


def tried_rows(reports: Sequence[Mapping[str, object]]) -> list[Row]:
    """Rows of what tests have reported: {"what" or "parser": name, and counts}. Those of one name are added up.

    A count called `tried`, `kills`, `places` or `cases` is the whole; where there is none, the counts are parts of it.
    """
    of_name: dict[str, Counter[str]] = {}
    for report in reports:
        name = f"files: {report['parser']}" if "parser" in report else str(report["what"])
        of_name.setdefault(name, Counter()).update(
            {key: value for key, value in report.items() if isinstance(value, int)}
        )
    rows = []
    for name, counts in of_name.items():
        whole = next(
            (counts.pop(key) for key in ("tried", "kills", "places", "cases") if key in counts), sum(counts.values())
        )
        ends = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in counts.items())
        rows.append(Row("inputs", name, whole, ends, passed=True))
    return sorted(rows, key=lambda row: row.what)


def run_mutants(sample: int | None, seed: int) -> tuple[list[Row], list[str]]:
    """A row for each mutated module, and the names of the mutants that nothing noticed, with what they change."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if name and (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
        _mutmut(copy, "run", "--max-children", "1", SMALLEST)
        names = sorted(_statuses(copy))
        chosen = sorted(random.Random(seed).sample(names, min(sample or len(names), len(names))))
        _mutmut(copy, "run", "--max-children", "1", *chosen)
        statuses = {name: status for name, status in _statuses(copy).items() if name in set(chosen)}
        survivors = [name for name, status in sorted(statuses.items()) if status not in NOTICED]
        changes = [_mutmut(copy, "show", name) for name in survivors]
    of_module: dict[str, Counter[str]] = {}
    for name, status in statuses.items():
        of_module.setdefault(name.rpartition(".")[0].removeprefix("crispr_lm."), Counter())[status] += 1
    rows = []
    for module, counts in sorted(of_module.items()):
        there = sum(name.startswith(f"crispr_lm.{module}.") for name in names)
        ends = ", ".join(f"{status} {count}" for status, count in counts.most_common())
        rows.append(Row("mutants", f"{module}, of {there}", counts.total(), ends, passed=True))
    noticed = len(statuses) - len(survivors)
    whole = f"of {len(names)} that mutmut makes, " + (f"drawn with seed {seed}" if sample else "all")
    rows.append(Row("mutants", whole, len(statuses), f"noticed {noticed}, not noticed {len(survivors)}", passed=True))
    return rows, changes


def _mutmut(folder: Path, *arguments: str) -> str:
    """What a command of mutmut prints."""
    # The mutated sources must be found before those of this tree; threads only wait for each other on tiny models.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).with_name("mutmut")), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"mutmut {arguments[0]} failed: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def _statuses(folder: Path) -> dict[str, str]:
    """Name of every mutant to what became of it."""
    lines = _mutmut(folder, "results", "--all", "true").splitlines()
    return dict(line.strip().split(": ", 1) for line in lines if ": " in line)


def section(part: str, rows: Sequence[Row], survivors: Sequence[str], arguments: Sequence[str], seconds: float) -> str:
    """What the page says of one part: the command, the releases it was run with, the table, unnoticed mutants."""
    command = shlex.join(["python", "benchmarks/robust.py", *arguments])
    packages = ("torch", "transformers", *PARTS[part].packages)
    versions = ", ".join(f"{package} {version(package)}" for package in packages if find_spec(package))
    took = f"{max(1, round(seconds / 60))} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
    told = f"`{command}`, {took} on {date.today()} with Python {platform.python_version()}, {versions}."
    table = ["| what | tried | how it ended |", "| --- | ---: | --- |"]
    table += [f"| {row.what} | {row.tried:,} | {row.ends} |" for row in rows]
    shown = [f"```diff\n{change.strip()}\n```" for change in survivors]
    unnoticed = (
        ["### Not noticed", "Why each of these has no test is told in [robustness](../robustness.md#mutants)."]
        if shown
        else []
    )
    return "\n\n".join([PARTS[part].heading, told, "\n".join(table), *unnoticed, *shown])


def page(sections: Mapping[str, str], before: str = "") -> str:
    """The page ``docs/results/robustness.md``: new sections, and of the page before those that are not new."""
    begun, *parts = re.split(r"^(?=## )", before, flags=re.MULTILINE)
    old = {part: text.strip() for part in PARTS for text in parts if text.startswith(PARTS[part].heading)}
    kept = {**old, **sections}
    return (
        "\n\n".join([begun.strip() or "# Fault tests in figures", *(kept[part] for part in PARTS if part in kept)])
        + "\n"
    )


def main() -> None:
    """Run the parts asked for, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="the rest of the page stays"
    )
    parser.add_argument("--cases", type=int, default=10_000, help="files of each kind, and inputs of each property")
    parser.add_argument("--kills", type=int, default=100, help="times each job is killed")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random; all of them without it")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    given = parser.parse_args()

    rows: list[Row] = []
    sections: dict[str, str] = {}
    for part in given.only:
        survivors: list[str] = []
        begun = time.monotonic()
        if part == "mutants":
            found, survivors = run_mutants(given.sample, given.seed)
        else:
            found = run_tests(part, given.cases, given.kills)
        rows += found
        sections[part] = section(part, found, survivors, sys.argv[1:], time.monotonic() - begun)
        before = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(page(sections, before), encoding="utf-8")  # hours may lie between one part and the next
    table = Table("part", "what", "tried", "how it ended", title="Nothing lost, no one let in")
    for row in rows:
        table.add_row(row.part, row.what, f"{row.tried:,}", row.ends, style=None if row.passed else "red")
    Console().print(table)
    sys.exit(0 if all(row.passed for row in rows) else 1)


if __name__ == "__main__":
    main()
