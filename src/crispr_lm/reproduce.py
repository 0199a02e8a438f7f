"""Reproduce: run the record of a run again and compare, figure by figure.

Knows result files and the main job; the figures themselves are made there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crispr_lm.edit import Edit, weights_fingerprint
from crispr_lm.errors import InputError
from crispr_lm.files import write_json
from crispr_lm.folder import RunFolder, read_object
from crispr_lm.model.load import open_model
from crispr_lm.preparation import file_hash
from crispr_lm.progress import Progress, SilentProgress
from crispr_lm.run import run
from crispr_lm.settings import RunSettings
from crispr_lm.version import __version__

DEFAULT_TOLERANCE = 0.02
"""Largest difference of a figure that counts as the same. On the machine and versions of the record figures are equal;
elsewhere sums are rounded otherwise, and of a hundred answers one or two lie so close that they turn."""

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
    tolerance: float = DEFAULT_TOLERANCE,
    model: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run again what a folder's ``run.json`` tells and compare every figure of ``results.json``.

    Args:
        source: Folder of a finished run.
        output: Folder for the new one; ``reproduce.json`` is written into it.
        tolerance: Largest difference that counts as the same.
        model: Where the model is now, if it is not where the record says.
        device: To run on.
        progress: Shows how far it is.

    Returns:
        What ``reproduce.json`` holds: versions that differ, overlap of the edits, every figure, and whether all are the
        same.

    Raises:
        InputError: no finished run, or its data or weights have changed (what and where is told); told before
            anything is run.
    """
    progress = progress or SilentProgress()
    folder = RunFolder(source)
    record, then = read_object(folder.run), read_object(folder.results)
    edit_then = Edit.load(folder.edit)
    settings = _settings(record, output, device)
    RunFolder(output).check(resume=False, overwrite=False)  # one that was interrupted is gone on with
    identity = record["identity"]
    name = model or identity["model"]
    _check_data(identity["data"])
    _check_model(name, identity["model_fingerprint"], settings)
    now = run(name, settings, progress)
    new = RunFolder(output)
    edit_now = Edit.load(new.edit)
    figures = list(_compared(then, now, tolerance))
    common = set(edit_then.neurons) & set(edit_now.neurons)
    told = {
        "format": "crispr-lm-reproduce",
        "version": 1,
        "source": str(source),
        "tolerance": tolerance,
        "versions": _versions(record, read_object(new.run)),
        "edit": {
            "then": len(edit_then.neurons),
            "now": len(edit_now.neurons),
            "common": len(common),
            "same": set(edit_then.neurons) == set(edit_now.neurons) and edit_then.scale == edit_now.scale,
        },
        "verdict": {"then": then["verdict"], "now": now["verdict"], "same": then["verdict"] == now["verdict"]},
        "figures": [asdict(figure) for figure in figures],
        "same": all(figure.same for figure in figures) and then["verdict"] == now["verdict"],
    }
    write_json(output / REPORT, told)
    return told


def _settings(record: Mapping[str, Any], output: Path, device: str) -> RunSettings:
    try:
        return RunSettings(
            **record["identity"]["settings"], batch_size=record["batch_size"], output=output, device=device
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"the record was written by crispr-lm {record.get('identity', {}).get('crispr_lm', '?')} and its settings "
            f"are not those of {__version__}; run it with that version"
        ) from error


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
    lm = source.load(settings.dtype, "cpu", allow_pickle=settings.allow_pickle)
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
    yield "KL divergence", results["divergence"]["kl"]


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
