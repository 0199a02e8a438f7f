"""Reproduce: run the record of a run again and compare, figure by figure.

Knows result files and the main job; the figures themselves are made there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from crispr_lm.edits.edit import Edit
from crispr_lm.edits.fingerprint import weights_fingerprint
from crispr_lm.errors import InputError, first_problem, on_one_line
from crispr_lm.jobs.preparation import file_hash
from crispr_lm.jobs.run import run
from crispr_lm.model.load import open_model
from crispr_lm.other_settings import ReproduceSettings
from crispr_lm.runtime.plugins import loaded
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import write_json
from crispr_lm.storage.output_path import check_writable
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.version import __version__

DEFAULT_TOLERANCE = 0.02
"""Largest difference of a figure that counts as the same. On the machine and versions of the record figures are equal;
elsewhere sums are rounded otherwise, and of a hundred answers one or two lie so close that they turn."""

TAKE_WHAT_THERE_IS = ("examples", "attribute_on")
"""Options that a task too small for them is refused for if they are given, and not if they are left at the default."""

REPORT = "reproduce.json"


@dataclass(frozen=True)
class Figure:
    """A figure of both runs.

    Attributes:
        name: Task, when it was measured, and metric.
        then: In the record.
        now: Of the run just made.
        same: Whether they differ by no more than the tolerance.
    """

    name: str
    then: float | None
    now: float | None
    same: bool


def reproduce(
    source: Path,
    output: Path,
    options: ReproduceSettings | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run again what a folder's ``run.json`` records and compare every figure of ``results.json``.

    Args:
        source: Folder of a finished run.
        output: Folder for the new one; ``reproduce.json`` is written into it.
        options: Tolerance, device and where the model is now. That code of the model may be run, or weights stored as
            pickle be read, counts here alone: the record is untrusted input.
        progress: Shows how far it is.

    Returns:
        What ``reproduce.json`` holds: versions that differ, overlap of the edits, every figure, whether verdict, edit
        and all figures are the same, and what came of saving the new model.

    Raises:
        InputError: a tolerance below 0, no finished run, or its data or weights have changed (what and where is
            said), before anything is run.
    """
    options, progress = options or ReproduceSettings(), progress or SilentProgress()
    if not 0 <= options.tolerance < math.inf:
        raise InputError(f"tolerance {options.tolerance} can't be used; give 0 (the same figures) or a positive number")
    check_writable(output)
    recorded = read_recorded(source)
    record = recorded.record
    trusted = {"trust_remote_code": options.trust_remote_code, "allow_pickle": options.allow_pickle}
    settings = reproduced_settings(record, output, options.device, trusted)
    new = RunFolder(output)
    if new.finished and not (output / REPORT).exists():  # it was run, and could not be compared
        settings = settings.model_copy(update={"resume": True})
    new.check(resume=settings.resume, overwrite=False)  # one that was interrupted is resumed
    identity = record["identity"]
    name = options.model or identity["model"]
    _check_plugins(identity["plugins"])
    _check_data(identity["data"])
    _check_model(name, identity["model_fingerprint"], settings)
    now = run(name, settings, progress)
    report: dict[str, Any] = {
        "format": "crispr-lm-reproduce",
        "version": 1,
        "source": str(source),
        "tolerance": options.tolerance,
        "versions": _versions(record, read_object(new.run)),
        **_agreement(recorded, now, Edit.load(new.edit), options.tolerance),
        **{name: now[name] for name in ("saved_model", "failed") if name in now},
    }
    write_json(output / REPORT, report)
    return report


def _agreement(recorded: Recorded, now: Mapping[str, Any], edit_now: Edit, tolerance: float) -> dict[str, Any]:
    """Edit, verdict and figures then and now, and whether all of them are the same."""
    then, edit_then = recorded.results, recorded.edit
    figures = list(_compared(then, now, tolerance))
    common = set(edit_then.neurons) & set(edit_now.neurons)
    found: dict[str, Any] = {
        "edit": {
            "then": len(edit_then.neurons),
            "now": len(edit_now.neurons),
            "common": len(common),
            "same": set(edit_then.neurons) == set(edit_now.neurons) and edit_then.scale == edit_now.scale,
        },
        "verdict": {"then": then["verdict"], "now": now["verdict"], "same": then["verdict"] == now["verdict"]},
        "figures": [asdict(figure) for figure in figures],
    }
    same = found["edit"]["same"] and found["verdict"]["same"] and all(figure.same for figure in figures)
    return {**found, "same": same}


@dataclass(frozen=True)
class Recorded:
    """What a folder says of the run in it: ``run.json``, ``results.json`` and the edit."""

    record: Mapping[str, Any]
    results: Mapping[str, Any]
    edit: Edit


def _first_problem(error: ValidationError) -> str:
    """Where a record is not of the shape that it should have, and what is wrong there."""
    place, message = first_problem(error.errors())
    return f"run.json, {'.'.join(map(str, place))}: {message[0].lower()}{message[1:]}"


def read_recorded(source: Path) -> Recorded:
    """Read what a run is compared with, and check that it can be.

    Raises:
        InputError: no folder of a finished run, or its files are not what a run writes.
    """
    folder = RunFolder(source)
    record, results = read_object(folder.run), read_object(folder.results)
    edit = Edit.load(folder.edit)
    try:
        _Record.model_validate(record)
        # Compared with itself, so that what can't be compared is known before the run is made again.
        list(_compared(results, results, DEFAULT_TOLERANCE))
        _ = results["verdict"] == results["verdict"]
    except MALFORMED as error:
        problem = _first_problem(error) if isinstance(error, ValidationError) else on_one_line(error)
        raise InputError(f"{source} is not what crispr-lm run writes ({problem}); give another folder") from error
    return Recorded(record, results, edit)


class _Identity(BaseModel):
    model: str
    model_fingerprint: str
    settings: dict[str, Any]
    data: dict[str, str]
    moment: datetime
    crispr_lm: str
    plugins: list[str]


class _Record(BaseModel):
    """What is needed of ``run.json``."""

    identity: _Identity
    batch_size: int | str
    threads: Annotated[int, Field(ge=1)] | None = None
    versions: dict[str, str]
    device: str


def reproduced_settings(
    record: Mapping[str, Any], output: Path, device: str, trusted: Mapping[str, bool]
) -> RunSettings:
    """The record's settings, but for what the user alone may say.

    Raises:
        InputError: they are of another version, or run what came with the model without that the user says so.
    """
    given = dict(record["identity"]["settings"])
    for name in TAKE_WHAT_THERE_IS:
        if given.get(name) == RunSettings.model_fields[name].default:
            del given[name]
    for name, allowed in trusted.items():
        if given.get(name) and not allowed:
            option = "--" + name.replace("_", "-")
            raise InputError(f"the run was made with {option}, which a record alone can't switch on; give {option} too")
    # Sums are rounded as they were then, on as many threads; here there may be fewer cores.
    threads = min(record.get("threads") or 1, os.cpu_count() or 1)
    own = {"batch_size": record["batch_size"], "threads": threads, "output": output, "device": device}
    try:
        return RunSettings(**{**given, **trusted, **own}, prompt_date=record["identity"]["moment"])
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"the record was written by crispr-lm {record.get('identity', {}).get('crispr_lm', '?')} and its settings "
            f"are not those of {__version__}; run it with that version"
        ) from error


def _check_plugins(then: Sequence[str]) -> None:
    """A record can't name code to be run: the user must."""
    now = loaded()
    if missing := next((plugin for plugin in then if plugin not in now), None):
        raise InputError(f"the run was made with plugin {missing}; give its file with --plugin, or install it")


def _check_data(hashes: Mapping[str, str]) -> None:
    for file, known in hashes.items():
        if not Path(file).is_file():
            raise InputError(
                f"{file}, which the run was made on, does not exist here; put it there, or start from the folder that "
                "the run was started in"
            )
        if file_hash(Path(file)) != known:
            raise InputError(f"{file} is not the file that the run was made on: its hash differs")


def _check_model(name: str, known: str, settings: RunSettings) -> None:
    source = open_model(name, trust_remote_code=settings.trust_remote_code)
    lm = source.load(settings.dtype, "cpu", allow_pickle=settings.allow_pickle, quantize=settings.quantize)
    if weights_fingerprint(lm.model) != known:
        raise InputError(f"model {name} does not have the weights that the run was made with: its fingerprint differs")


def _compared(then: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> Iterator[Figure]:
    """Every figure of either, by name."""
    old, new = dict(_figures(then)), dict(_figures(now))
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        both = before is not None and after is not None and abs(before - after) <= tolerance + 1e-12
        yield Figure(name, before, after, both or (before is None and after is None))


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for task, content in results["tasks"].items():
        for when in ("before", "after"):
            for metric, value in content[when].items():
                yield f"{task}, {when}: {metric}", value
        yield from _differences(f"{task}, difference", content["statistics"])
        for facet, values in (content.get("breakdown") or {}).items():
            for value, part in values.items():
                where = f"{task}, {facet} {value}"
                for when in ("before", "after"):
                    for metric, figure in part[when].items():
                        yield f"{where}, {when}: {metric}", figure
                yield from _differences(f"{where}, difference", part["statistics"])
    for name, ending in (("kl", ""), ("low", ", low"), ("high", ", high")):
        yield f"KL divergence{ending}", results["divergence"][name]


def _differences(where: str, statistics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float | None]]:
    """Differences, the ends of their intervals, and p-values."""
    for metric, found in statistics.items():
        for name, value in found.items():
            if value is None or isinstance(value, (int, float)):
                yield f"{where}: {metric}, {name}", value


def _versions(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Versions that differ: name to then and now."""
    old, new = (
        {**record["versions"], "crispr-lm": record["identity"]["crispr_lm"], "device": record["device"]}
        for record in (then, now)
    )
    return {
        name: {"then": old.get(name), "now": new.get(name)}
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    }
