"""The seal of a job: what is fixed before a model answers a question of the test split, with hashes and the time.

``sealed.json`` holds settings and limits, the hash of the rules, the split, hashes of data, model and code, and what is
measured how. It is written before the first test question is put to the model. The edit is added once it is found, and
says whether the answers had been read by then. Each hash covers the ones before it.

The seal shows that a folder's parts belong together. The clock and the disk are its owner's: that nothing was sealed
anew is shown by the hash alone, to someone who was given it before the job ended.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.evaluation.evaluation import ScoringMethod
from crispr_lm.evaluation.rules import RuleSource
from crispr_lm.evaluation.rules import read_rules as parsed_rules
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.report.shared import shared_record
from crispr_lm.storage.files import write_bytes, write_json
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.storage.untrusted import read_bytes
from crispr_lm.tasks.base import Example, template_hashes
from crispr_lm.tasks.parts import Parts
from crispr_lm.tasks.registry import path_of

SEAL_FORMAT = "crispr-lm-seal"
SEAL_VERSION = 1

QUESTION = ("context", "question", "options", "answer", "template", "condition", "unknown", "stereotyped", "language")
"""What of a question goes into its hash: what is asked and what it is judged by. All of it is in answers.jsonl."""

PARTS = ("attribution", "gradients", "validation", "reevaluation", "test")


@dataclass(frozen=True)
class Rules:
    """A file of rules.

    Attributes:
        name: Of the file, without its folder.
        content: All of it.
        source: What it says.
    """

    name: str
    content: bytes
    source: RuleSource

    @property
    def digest(self) -> str:
        """Its SHA-256."""
        return digest_of_bytes(self.content)


def read_rules(path: Path | None) -> Rules | None:
    """Read the rules to be sealed.

    Raises:
        InputError: as `crispr_lm.evaluation.rules.read_rules`.
    """
    if path is None:
        return None
    source = parsed_rules(str(path))
    # The rules that come with the library are no file of the user's.
    content = source.text.encode("utf-8") if source.folder is None else read_bytes(path_of(source.name))
    return Rules(without_folders(source.name), content, source)


def content_of(
    command: str,
    record: Mapping[str, Any],
    parts: Sequence[Parts],
    subjects: Sequence[Subject],
    rules: Rules | None,
) -> dict[str, Any]:
    """What is sealed.

    Args:
        command: "run" or "evaluate".
        record: Of the job (`crispr_lm.jobs.record.record_of`); without the folders of this machine in what is sealed.
        parts: What of each task is used for what.
        subjects: What is measured.
        rules: To be sealed with it.
    """
    settings = record["identity"]["settings"]
    return {
        "format": SEAL_FORMAT,
        "version": SEAL_VERSION,
        "command": command,
        "time": _now(),
        "code": code_hash(),
        "packages": packages(),
        "rules": None if rules is None else {"file": rules.name, "sha256": rules.digest},
        "split": {
            part.task.name: {name: _described(getattr(part, name)) for name in PARTS if getattr(part, name)}
            for part in parts
        },
        "measured": {subject.name: _measured(subject, settings["scoring"]) for subject in subjects},
        "record": shared_record(record),
    }


def begin(folder: RunFolder, content: dict[str, Any], rules: Rules | None) -> str:
    """Write the seal, with a copy of the rules; the seal of an interrupted or finished job stays as it is.

    Args:
        folder: The job's.
        content: From `content_of`.
        rules: The same.

    Returns:
        The hash.

    Raises:
        InputError: the job was sealed with other rules, or its seal has been changed.
    """
    content = {**content, "test_split_read": folder.answers.exists()}
    if folder.sealed.exists():
        earlier = read_seal(folder.sealed)
        if rules is not None and earlier["content"]["rules"] != content["rules"]:
            raise InputError(
                f"the run in {folder.path} was sealed with other rules (or none) than {rules.name}; rules can't change "
                "after sealing: give the same file, or another folder"
            )
        return str(earlier["seal"])
    if rules is not None:
        write_bytes(folder.rules, rules.content)
    seal = digest(content)
    write_json(folder.sealed, {"content": content, "seal": seal, "edits": []})
    return seal


def add_edit(folder: RunFolder) -> None:
    """Seal the folder's edit, before it is measured; the one sealed last is not sealed twice."""
    sealed = read_seal(folder.sealed)
    edit = digest_of_bytes(folder.edit.read_bytes())
    edits = sealed["edits"]
    if edits and edits[-1]["edit"] == edit:
        return
    entry = {"edit": edit, "time": _now(), "test_split_read": folder.answers.exists()}
    entry["seal"] = digest([edits[-1]["seal"] if edits else sealed["seal"], entry])
    write_json(folder.sealed, {**sealed, "edits": [*edits, entry]})


def read_seal(path: Path) -> dict[str, Any]:
    """Read a seal and check that nothing in it has changed since it was written.

    Raises:
        InputError: there is none, or something has.
    """
    try:
        sealed = read_object(path)
    except InputError as error:
        raise InputError(
            f"{error} (crispr-lm run writes {path.name} before it reads the test split, and crispr-lm evaluate with "
            "--evidence)"
        ) from error
    try:
        previous = digest(sealed["content"])
        intact = sealed.keys() == {"content", "seal", "edits"} and sealed["seal"] == previous
        for entry in sealed["edits"]:
            previous = digest([previous, {name: value for name, value in entry.items() if name != "seal"}])
            intact &= entry["seal"] == previous
        intact &= sealed["content"]["format"] == SEAL_FORMAT and sealed["content"]["version"] == SEAL_VERSION
    except MALFORMED as error:
        raise InputError(f"{path} is no seal of crispr-lm") from error
    if not intact:
        raise InputError(f"{path} has changed since it was written: its hashes differ; make the measurement anew")
    return sealed


def canonical(content: Any) -> bytes:
    """The one way in which content is written to be hashed."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def digest(content: Any) -> str:
    """SHA-256 of content as JSON."""
    return digest_of_bytes(canonical(content))


def digest_of_bytes(data: bytes) -> str:
    """SHA-256."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def questions_hash(rows: Iterable[Mapping[str, Any]]) -> str:
    """Hash of questions in their order, from rows of ``answers.jsonl``."""
    return digest([[row[name] for name in QUESTION] for row in rows])


@cache
def code_hash() -> str:
    """Hash of all files of this package, as they are installed here: the version number alone can be any code's."""
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest([[path.relative_to(root).as_posix(), digest_of_bytes(path.read_bytes())] for path in files])


def packages() -> dict[str, str]:
    """Name and version of every package that this process has loaded."""
    of_module = _packages_by_module()
    names = {name for module in tuple(sys.modules) for name in of_module.get(module, ())}
    return {name: version(name) for name in sorted(names)}


@cache
def _packages_by_module() -> Mapping[str, list[str]]:
    """Module to the packages it comes from; the metadata of all that is installed are read once."""
    return packages_distributions()


def _measured(subject: Subject, scoring: ScoringMethod) -> dict[str, Any]:
    if not isinstance(subject, TaskSubject):
        return {"role": subject.role, "examples": None}
    task = subject.task
    return {
        "role": subject.role,
        "family": task.family,
        "scoring": subject.scoring(scoring),
        "breakdowns": list(task.breakdowns),
        "instructions": list(task.instructions),
        "examples": len(subject.examples),
        "questions": questions_hash(map(_row, subject.examples)),
    }


def _described(examples: Sequence[Example]) -> dict[str, Any]:
    return {
        "examples": len(examples),
        "templates": template_hashes(examples),
        "questions": questions_hash(map(_row, examples)),
    }


def _row(example: Example) -> dict[str, Any]:
    return {name: getattr(example, name) for name in QUESTION}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
