"""The real command in a process of its own: started, watched, sent a signal, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import crispr_lm
from crispr_lm.settings import CompareSettings, RunSettings

from .forked import ForkedProcess

LONG = int(os.environ.get("CRISPR_LM_CASES", "100")) > 100
"""Whether the long versions are asked for (`make robust`)."""

PATIENCE = 1200.0
"""Seconds after which a command that does not end, or does not come to a step, has failed."""

PASSING = ("*.part", ".lock")
"""What must be gone when a command has ended by itself."""

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(crispr_lm.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def arguments_of(model: Path, settings: RunSettings) -> list[str]:
    """What is written behind ``crispr-lm`` for these settings."""
    arguments = ["compare" if isinstance(settings, CompareSettings) else "run", str(model)]
    for name, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(option if value else f"--no-{name.replace('_', '-')}")
        else:
            arguments += [f"{option}={one}" for one in (value if isinstance(value, list) else [value])]
    return arguments


def default_signals() -> None:
    """Ctrl-C is heeded, also where the tests run in the background of a shell that has it ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Running:
    """A command in a process, with the lines that it has written so far and when."""

    process: subprocess.Popen[str] | ForkedProcess
    begun: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    @staticmethod
    def start(arguments: list[str]) -> Running:
        return Running(
            subprocess.Popen(
                [sys.executable, "-m", "crispr_lm", *arguments],
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=default_signals,
            )
        )

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((time.monotonic() - self.begun, line.rstrip("\n")))

    @property
    def stderr(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def until(self, beginning: str) -> bool:
        """Wait for a line that begins like this; False where the command ends without it."""
        deadline = time.monotonic() + PATIENCE
        while not any(line.startswith(beginning) for _, line in self.lines):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"{beginning!r} did not come:\n{self.stderr}"
            time.sleep(0.005)
        return True

    def kill(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status (the signal's negative number where it was the cause)."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        status = self.process.wait(PATIENCE)
        self.reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


def passing_files(folder: Path) -> list[str]:
    """Temporary files and locks that are there."""
    return sorted(str(path.relative_to(folder)) for pattern in PASSING for path in folder.rglob(pattern))


def outcome(folder: Path) -> dict[str, object]:
    """All that a run or a comparison has left, without what may differ from one time to another: the time it took."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"):
        name, data = str(path.relative_to(folder)), path.read_bytes()
        if path.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in data.splitlines()]
        elif path.suffix == ".json":
            content = json.loads(data)
            if path.name == "sealed.json":  # it has every edit that the folder has held: the last one is there
                content["edits"] = [sealed["edit"] for sealed in content["edits"][-1:]]
            found[name] = without_times(content)
        elif path.suffix == ".html":
            found[name] = len(data) > 100_000 and data.rstrip().endswith(b"</html>")
        else:
            found[name] = data
    return found


def picked(output: Path) -> list[str]:
    """The option that takes the trial of the highest gain of a finished run: tiny models gain nothing for sure."""
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    trial = results["choice"]["front"][0]
    assert results["search"][trial]["neurons"] > 0
    return [f"--pick={trial}"]


TIMED = ("seconds", "timings", "moment", "time", "packages", "seal")
"""Entries that are of when something was done, and of what the process had loaded then; a seal is a hash of these."""


def without_times(content: object) -> object:
    """JSON without the entries that say when something was done, and how long it took.

    And without the passes of a comparison's search: they are not told of one that was interrupted.
    """
    if isinstance(content, dict):
        timed = {*TIMED, "passes"} if content.get("what") == "search" else TIMED
        kept = {name: value for name, value in content.items() if name not in timed}
        if isinstance(rows := kept.get("rows"), dict) and isinstance(row := rows.get("search"), dict):
            kept["rows"] = {**rows, "search": {name: value for name, value in row.items() if name != "passes"}}
        return {name: without_times(value) for name, value in kept.items()}
    return [without_times(value) for value in content] if isinstance(content, list) else content
