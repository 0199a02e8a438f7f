"""The evidence bundle: a finished measurement as files that someone else can check, and the check.

A bundle holds the seal, the rules, the edit, every answer, the results and a manifest with the hash of each file.
`verify` names what has changed since, computes every figure again from the answers, and decides the rules by them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError, on_one_line
from crispr_lm.evaluation.recomputed import Recorded, example_of, measurements_of, recomputed
from crispr_lm.evaluation.rules import read_rules
from crispr_lm.evaluation.sealed_rules import decided
from crispr_lm.jobs.preparation import seen
from crispr_lm.jobs.seal import canonical, digest, digest_of_bytes, questions_hash, read_seal
from crispr_lm.report.shared import shared_record
from crispr_lm.report.statement import outcome
from crispr_lm.storage.answers import read_answers
from crispr_lm.storage.files import whole_folder, write_bytes, write_json
from crispr_lm.storage.output_path import check_new, held_new
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.storage.untrusted import parse_json, read_bytes
from crispr_lm.version import __version__

MANIFEST = "manifest.json"
BUNDLE_FORMAT = "crispr-lm-evidence"
BUNDLE_VERSION = 1

NEEDED = ("sealed.json", "answers.jsonl", "columns.json", "results.json")
OPTIONAL = ("rules.toml", "edit.json", "search.jsonl")

NOT_SHARED = ("failed", "timings", "saved_model", "upload")
"""Entries of the results that speak of this machine: messages with paths, seconds. None is a figure."""

BLOCK = 4096
"""Bytes that have a hash of their own, so that a change can be placed: some ten answers."""

ROUNDING = 1e-9
"""Relative difference of figures that is rounding: sums of some thousand float64, by another version of NumPy."""


def evidence(source: Path, output: Path) -> dict[str, Any]:
    """Make a bundle of a finished run, or of the folder of ``evaluate --evidence``.

    Returns:
        What `verify` finds of it.

    Raises:
        InputError: the output is not empty, the measurement is not finished or was not sealed; or what was sealed has
            changed since: a setting, a limit, the rules, the edit or the questions. Nothing is written then.
    """
    check_new(output)
    folder = RunFolder(source)
    read_seal(folder.sealed)
    if missing := next((name for name in NEEDED if not (source / name).is_file()), None):
        raise InputError(f"{source} has no {missing}: the measurement is not finished; run the same command again")
    _check_record(folder)
    with held_new(output), whole_folder(output) as part:
        for name in (*NEEDED, *OPTIONAL):
            if name != "results.json" and (source / name).is_file():
                write_bytes(part / name, read_bytes(source / name))
        results = read_object(folder.results)
        write_json(part / "results.json", {name: value for name, value in results.items() if name not in NOT_SHARED})
        _check_paths(part, source)
        _write_manifest(part)
        found = verify(part)
        if not found["verified"]:
            raise InputError(f"{source} gives no evidence: {'; '.join(found['problems'][:3])}")
    return {**found, "bundle": str(output)}


def verify(bundle: Path, known: Sequence[str] = ()) -> dict[str, Any]:
    """Check a bundle: what has changed in it, and whether its figures follow from its answers.

    Args:
        bundle: Its folder.
        known: Hashes that the reader was given elsewhere: of the seal, of an edit's seal, or of the bundle.

    Returns:
        ``verified``; ``problems``, a sentence each; how many ``figures`` were computed again and how many ``files``
        were compared; and the hashes of ``seal`` and ``manifest``, with the times that the seal states. Of a verified
        bundle with rules also ``rules``, a `Decision` each, or ``rules_reason``, why they can't be decided.

    Raises:
        InputError: the folder is no bundle.
    """
    try:
        read_bytes(bundle / MANIFEST)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{bundle / MANIFEST} can't be read ({reason}); give the folder that crispr-lm evidence wrote"
        ) from error
    problems: list[str] = []
    found: dict[str, Any] = {"bundle": str(bundle), "figures": 0, "files": 0}
    try:
        manifest = _read_manifest(bundle / MANIFEST)
        problems += _changed(bundle, manifest["files"])
        found |= {"files": len(manifest["files"]), "manifest": manifest["manifest"]}
    except (InputError, OSError) as error:
        problems.append(str(error))
    try:
        sealed = read_seal(bundle / "sealed.json")
        found |= {"seal": sealed["seal"], "sealed": sealed["content"]["time"], "edits": sealed["edits"]}
        problems += _broken(bundle, sealed)
        figures, different = _figures(bundle, sealed)
        problems += different
        found["figures"] = figures
    except InputError as error:
        problems.append(str(error))
    except (OSError, *MALFORMED) as error:
        problems.append(f"the bundle's files are not what crispr-lm writes ({on_one_line(error)})")
    there = {found.get("manifest"), found.get("seal"), *(edit["seal"] for edit in found.get("edits", ()))}
    problems += [f"{given} is the hash of nothing in this bundle" for given in known if given not in there]
    if not problems:
        found |= _decided(bundle, sealed)
    return {**found, "known": list(known), "problems": problems, "verified": not problems}


def _write_manifest(folder: Path) -> None:
    files = {path.name: _hashes(read_bytes(path)) for path in sorted(folder.iterdir())}
    content = {"format": BUNDLE_FORMAT, "version": BUNDLE_VERSION, "crispr_lm": __version__, "files": files}
    write_bytes(folder / MANIFEST, canonical({**content, "manifest": digest(content)}) + b"\n")


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, if every byte of it is as it was written.

    Raises:
        InputError: it is not.
    """
    data = read_bytes(path)
    try:
        manifest: dict[str, Any] = parse_json(data)
        content = {name: value for name, value in manifest.items() if name != "manifest"}
        intact = data == canonical(manifest) + b"\n" and manifest["manifest"] == digest(content)
        intact &= (manifest["format"], manifest["version"]) == (BUNDLE_FORMAT, BUNDLE_VERSION)
    except MALFORMED:
        intact = False
    if not intact:
        raise InputError(f"{MANIFEST} has changed since it was written, so no file can be compared with it")
    return manifest


def _hashes(data: bytes) -> dict[str, Any]:
    blocks = [digest_of_bytes(data[start : start + BLOCK])[-16:] for start in range(0, len(data), BLOCK)]
    return {"bytes": len(data), "sha256": digest_of_bytes(data), "blocks": blocks}


def _changed(bundle: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each file that is not as the manifest says."""
    there = {path.name for path in bundle.iterdir()} - {MANIFEST}
    for name in sorted(there - files.keys()):
        yield f"{name} is not in the manifest"
    for name, then in files.items():
        if name not in there:
            yield f"{name} is missing"
            continue
        now = _hashes(read_bytes(bundle / name))
        if now["sha256"] == then["sha256"]:
            continue
        if now["bytes"] != then["bytes"]:
            yield f"{name} has changed: {now['bytes']} bytes, not {then['bytes']}"
            continue
        places = [
            f"{number * BLOCK + 1} to {min((number + 1) * BLOCK, now['bytes'])}"
            for number, (old, new) in enumerate(zip(then["blocks"], now["blocks"], strict=True))
            if old != new
        ]
        yield f"{name} has changed, in bytes {', '.join(places)}"


def _check_record(folder: RunFolder) -> None:
    """Refuse a run whose record is not the one that was sealed.

    Raises:
        InputError: a setting, a limit, the model or the data differ; the first difference is named.
    """
    sealed = read_seal(folder.sealed)["content"]
    if sealed["command"] != "run":
        return
    then = sealed["record"]["identity"]
    now = json.loads(json.dumps(shared_record(read_object(folder.run))["identity"]))
    for name in sorted({*then, *now} - {"settings"}):
        if then.get(name) != now.get(name):
            raise InputError(f"run.json has another {name} than was sealed; a run's record can't change after sealing")
    for name in sorted({*then["settings"], *now["settings"]}):
        old, new = then["settings"].get(name), now["settings"].get(name)
        if old != new:
            raise InputError(
                f"{name} was {old!r} when the run was sealed, run.json has {new!r}; limits and settings can't change "
                "after sealing"
            )


def _check_paths(folder: Path, source: Path) -> None:
    """Refuse to share a file that names a folder of this machine.

    Raises:
        InputError: one does.
    """
    private = {str(path) for path in (Path.home(), source.resolve(), Path.cwd()) if len(path.parts) > 2}
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8", errors="replace")
        if (named := next((place for place in private if place in text), None)) is not None:
            raise InputError(f"{path.name} names a folder of this machine, {named}; rename what it comes from")


def _broken(bundle: Path, sealed: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for everything that is not as it was sealed."""
    content, edits = sealed["content"], sealed["edits"]
    if content["test_split_read"]:
        yield "the seal was written after the test split had been read"
    rules, there = content["rules"], (bundle / "rules.toml").is_file()
    if rules is not None and (not there or digest_of_bytes(read_bytes(bundle / "rules.toml")) != rules["sha256"]):
        yield f"the rules ({rules['file']}) are not those that were sealed"
    if rules is None and there:
        yield "rules.toml was never sealed"
    edit = bundle / "edit.json"
    if edit.is_file() != bool(edits) or (edits and digest_of_bytes(read_bytes(edit)) != edits[-1]["edit"]):
        yield "the edit is not the one that was sealed"
    elif edits and edits[-1]["test_split_read"]:
        yield "the edit was chosen after the test split had been read"
    rows = read_answers(bundle / "answers.jsonl", edited=bool(edits))
    for name, how in content["measured"].items():
        asked = [row for row in rows if row["task"] == name]
        if how["examples"] is not None and questions_hash(asked) != how["questions"]:
            yield f"the questions of {name} in answers.jsonl are not those that were sealed"
    if unknown := {row["task"] for row in rows} - content["measured"].keys():
        yield f"answers.jsonl has answers of {min(unknown)}, which was not sealed"
    if edits and (content["command"] == "run" or content["record"]["identity"]["settings"]["split"] == "test"):
        measured_again = seen(map(example_of, rows), Edit.load(edit).made_on)
        if measured_again:
            yield f"{measured_again} questions are of templates that the edit was fitted or chosen on"


def _figures(bundle: Path, sealed: Mapping[str, Any]) -> tuple[int, list[str]]:
    """How many figures were computed again, and a sentence for each that differs from ``results.json``."""
    results = read_object(bundle / "results.json")
    now = recomputed(recorded_in(bundle, sealed))
    expected: dict[str, Any] = {name: now[name] for name in ("tasks", "divergence", "edit", "scoring") if name in now}
    if "verdict" in results:
        expected["statement"] = outcome({**results, **expected})["statement"]
    expected = json.loads(json.dumps(expected))
    problems = [
        f"{name} is in results.json and was not sealed" for name in results["tasks"].keys() - expected["tasks"].keys()
    ]
    compared = list(_compared(results, expected, ""))
    return len(compared), problems + [sentence for sentence in compared if sentence]


def _decided(bundle: Path, sealed: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome of every sealed rule. An older version sealed any file as rules, so that they may say nothing."""
    if sealed["content"]["rules"] is None:
        return {}
    written = recorded_in(bundle, sealed)
    try:
        source = read_rules(str(bundle / "rules.toml"))
        return {"rules": decided(source, measurements_of(written), written.scoring, written.seed)}
    except InputError as error:
        return {"rules_reason": str(error)}


def recorded_in(folder: Path, sealed: Mapping[str, Any]) -> Recorded:
    """What a run's folder or a bundle says of its measurement.

    Raises:
        InputError: a file is missing, or is not what crispr-lm writes.
    """
    content, edited = sealed["content"], bool(sealed["edits"])
    settings = content["record"]["identity"]["settings"]
    return Recorded(
        content["measured"],
        read_answers(folder / "answers.jsonl", edited=edited),
        read_object(folder / "columns.json"),
        Edit.load(folder / "edit.json") if edited else None,
        settings["scoring"],
        settings["seed"],
    )


def _compared(stored: Any, expected: Any, where: str) -> Iterator[str]:
    """For every value that was computed again an empty text, or a sentence where what is stored differs."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            place = f"{where}, {name}" if where else name
            if not isinstance(stored, dict) or name not in stored:
                yield f"{place} is missing from results.json"
            else:
                yield from _compared(stored[name], value, place)
    elif isinstance(expected, list) and isinstance(stored, list) and len(stored) == len(expected):
        for number, (old, new) in enumerate(zip(stored, expected, strict=True)):
            yield from _compared(old, new, f"{where} ({number + 1})")
    elif isinstance(expected, float) and isinstance(stored, (int, float)):
        same = math.isclose(stored, expected, rel_tol=ROUNDING, abs_tol=ROUNDING)
        yield "" if same else f"{where} is {stored} in results.json, {expected} computed from the answers"
    else:
        same = stored == expected
        yield "" if same else f"{where} is {stored!r} in results.json, {expected!r} computed from the answers"[:300]
