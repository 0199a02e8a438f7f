"""The folder that a job leaves behind, and the rules for using one that is not empty.

Knows file names, and of their contents only what says whether a job is done.

Of ``crispr-lm run``:

run.json             settings, versions, hashes of model and data, seeds
sealed.json          hashes of all that was fixed before the test split was read
rules.toml           with --rules: the file
scores.safetensors   B of every neuron
loop.safetensors     where the search's loop stands; gone when the search is done
search.jsonl         every candidate tried
transfer/            with --transfer: the same for an edit of each task alone
edit.json            the edit
answers.jsonl        what was asked and answered, before and after
columns.json         sums behind the figures that are of no questions: perplexity, free answers, divergence
results.json         metrics before and after
report.html          all of it as one page
model/               the edited model, plain Hugging Face format

Of ``crispr-lm compare``:

comparison-run.json  settings, versions, hashes of model and data, seeds
cells.jsonl          every measurement finished
search/              what was tried to find each task's edit
comparison.json      the tables
comparison.md        the tables to read
comparison.html      all of it as one page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from crispr_lm.errors import InputError
from crispr_lm.storage.files import LOCK, PART, remove_parts, write_errors, write_json
from crispr_lm.storage.locking import check_free, held
from crispr_lm.storage.output_path import check_writable
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.untrusted import parse_json, read_bytes


@dataclass(frozen=True)
class JobFolder:
    """The folder of a job that can be resumed.

    Attributes:
        RECORD: File that settings, versions and hashes are written to.
        FILES: All files that the job writes.
        FOLDERS: All folders that it writes.
        LAST: Files that are written at the end, from all others; the first of them is the very last, and marks the job
            as finished, unless it says that something after the work has failed.
    """

    RECORD: ClassVar[str]
    FILES: ClassVar[tuple[str, ...]]
    FOLDERS: ClassVar[tuple[str, ...]] = ()
    LAST: ClassVar[tuple[str, ...]] = ()

    path: Path

    @property
    def run(self) -> Path:
        """The record: settings, versions and hashes; its presence marks the folder as this job's."""
        return self.path / self.RECORD

    @property
    def finished(self) -> bool:
        """Whether the job has written its results, and nothing that comes after them has failed (or is yet to come)."""
        results = self.path / self.LAST[0]
        if not results.exists():
            return False
        try:
            return not failures(read_object(results))
        except InputError:  # nothing that is there is replaced without being asked
            return True

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Check that a run may write here. Changes nothing.

        Raises:
            InputError: the path is no folder, can't be written to, or holds a finished run or foreign files.
        """
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other; give one of them")
        check_writable(self.path)
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise InputError(f"output {self.path} is a file; give a folder")
        for name in (LOCK, *self.FILES, *self.FOLDERS):
            if (self.path / name).is_symlink():
                # What is appended to a link, or removed behind one, is somewhere else.
                raise InputError(f"{self.path / name} is a link; give a folder whose files are its own")
        if self.run.exists():
            if self.finished and not resume and not overwrite:
                raise InputError(
                    f"output folder {self.path} holds a finished run; give --overwrite to replace it, --resume to make "
                    "its results anew from what it found, or another folder"
                )
        elif any(not _is_passing(path) for path in self.path.iterdir()):
            raise InputError(f"output folder {self.path} is not empty and holds no run; give another folder")
        check_free(self.path)

    def held(self) -> AbstractContextManager[None]:
        """Keep other processes out of the folder while the block runs; see `crispr_lm.storage.locking.held`."""
        return held(self.path)

    def start(self, record: dict[str, Any], *, overwrite: bool) -> bool:
        """Make the folder ready and write the record. A run of the same identity is resumed.

        Args:
            record: What identifies the run; ``record["identity"]`` must be equal for a run to be resumed.
            overwrite: Keep nothing of an earlier run.

        Returns:
            Whether an earlier run is resumed.

        Raises:
            InputError: the run there has other settings, model or data (the first difference is named).
        """
        resumed = self.run.exists() and not overwrite
        if resumed:
            self.check_same(record)
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.remove_parts()
            for name in self.LAST:  # until they are written anew, they may describe something else
                (self.path / name).unlink(missing_ok=True)
            if not resumed:
                self._clear()
        if not resumed:
            write_json(self.run, record)
        return resumed

    def remove_parts(self) -> None:
        """Remove what killed processes have left half-written."""
        for folder in (self.path, *(below for name in self.FOLDERS for below in _folders(self.path / name))):
            remove_parts(folder)

    def check_same(self, record: dict[str, Any]) -> None:
        """Check that the folder's job has the identity of this record.

        Raises:
            InputError: it has another one; the first difference is named.
        """
        try:
            earlier = parse_json(read_bytes(self.run))["identity"]
            if not isinstance(earlier, dict):  # a list of pairs could be made one, with names that are no text
                raise TypeError("its identity is no object")
        except (OSError, *MALFORMED) as error:
            raise InputError(f"{self.run} can't be read ({error}); give --overwrite to start anew") from error
        now = json.loads(json.dumps(record["identity"]))
        for name in sorted({*now, *earlier}):
            if now.get(name) != earlier.get(name):
                shown = name if name.isidentifier() else repr(name)  # the record may be a stranger's
                raise InputError(
                    f"the run in {self.path} had {shown} = {earlier.get(name)!r}, now it is {now.get(name)!r}; "
                    "give the same settings to resume it, --overwrite to replace it, or another folder"
                )

    def _clear(self) -> None:
        """Remove an earlier run's files, and nothing else; its record stays until there is another one.

        Without a record a folder would be taken for someone else's.
        """
        for name in self.FILES:
            if name != self.RECORD:
                (self.path / name).unlink(missing_ok=True)
        for name in self.FOLDERS:
            if (self.path / name).is_dir():
                shutil.rmtree(self.path / name)


@dataclass(frozen=True)
class RunFolder(JobFolder):
    """Paths of a run's files."""

    RECORD = "run.json"
    FILES = (
        "run.json",
        "sealed.json",
        "rules.toml",
        "scores.safetensors",
        "search.jsonl",
        "edit.json",
        "answers.jsonl",
        "columns.json",
        "results.json",
        "report.html",
    )
    FOLDERS = ("transfer", "model")
    LAST = ("results.json", "report.html")

    @property
    def sealed(self) -> Path:
        """What was fixed before the test split was read."""
        return self.path / "sealed.json"

    @property
    def rules(self) -> Path:
        """A copy of the rules that were sealed."""
        return self.path / "rules.toml"

    @property
    def scores(self) -> Path:
        """Scores of every neuron."""
        return self.path / "scores.safetensors"

    @property
    def search(self) -> Path:
        """Candidates, one per line."""
        return self.path / "search.jsonl"

    @property
    def loop(self) -> Path:
        """Where the search's loop stands."""
        return self.path / "loop.safetensors"

    def transfer(self, task: int) -> RunFolder:
        """What the search for an edit of one task alone leaves behind."""
        return RunFolder(self.path / "transfer" / str(task))

    @property
    def edit(self) -> Path:
        """The chosen edit."""
        return self.path / "edit.json"

    @property
    def answers(self) -> Path:
        """Option scores of every example measured."""
        return self.path / "answers.jsonl"

    @property
    def columns(self) -> Path:
        """What the figures that are of no questions are computed from."""
        return self.path / "columns.json"

    @property
    def results(self) -> Path:
        """Metrics; its presence marks the run as finished."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """All of it as one page."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The edited model."""
        return self.path / "model"


@dataclass(frozen=True)
class ComparisonFolder(JobFolder):
    """Paths of a comparison's files."""

    RECORD = "comparison-run.json"
    FILES = ("comparison-run.json", "cells.jsonl", "comparison.json", "comparison.md", "comparison.html")
    FOLDERS = ("search",)
    LAST = ("comparison.json", "comparison.md", "comparison.html")

    def search(self, task: int) -> RunFolder:
        """What the search for one task's edit leaves behind."""
        return RunFolder(self.path / "search" / str(task))

    @property
    def cells(self) -> Path:
        """Measurements, one per line."""
        return self.path / "cells.jsonl"

    @property
    def results(self) -> Path:
        """All figures."""
        return self.path / "comparison.json"

    @property
    def tables(self) -> Path:
        """All figures to read, Markdown."""
        return self.path / "comparison.md"

    @property
    def page(self) -> Path:
        """All of it as one page."""
        return self.path / "comparison.html"


def _is_passing(path: Path) -> bool:
    """Whether a file is there only while a process of ours writes, or because one was killed."""
    return path.name == LOCK or (path.name.startswith(".") and path.name.endswith(PART))


def _folders(path: Path) -> list[Path]:
    """A folder with all that are below it; none where there is none."""
    return [path, *(below for below in path.rglob("*") if below.is_dir())] if path.is_dir() else []


def failures(results: Mapping[str, Any]) -> list[str]:
    """What a job's results say has failed after the work, a sentence each; nothing where all is done.

    Args:
        results: ``failed`` holds step to reason; ``saved_model`` whether the model is ``verified``, with the reason.
    """
    sentences = [f"{step}: {reason}" for step, reason in (results.get("failed") or {}).items()]
    saved = results.get("saved_model") or {}
    if not saved.get("verified", True):
        sentences.append(f"the saved model is not verified: {saved.get('reason')}")
    return sentences
