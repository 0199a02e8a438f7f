"""A run's record as it may be shared: by the names of model, tasks and files, without the folders of this machine.

``run.json`` itself keeps the paths, for they are what a run is resumed and reproduced from; it is never uploaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crispr_lm.storage.sanitize import shared_names, without_folders

PATHS = ("task", "measure", "instructions", "groups")
"""Settings that may hold paths; the output folder is no part of a record."""


def shared_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it may be shared: model, tasks and files by their names, without the folders of this machine."""
    identity = record["identity"]
    settings = dict(identity["settings"])
    for name in settings.keys() & PATHS:
        value = settings[name]
        if value is None:
            continue
        several = isinstance(value, (list, tuple))
        settings[name] = [*shared_names(value).values()] if several else without_folders(str(value))
    files = shared_names(identity["data"])
    data = {files[file]: known for file, known in identity["data"].items()}
    shown = {**identity, "model": _shared_model(record), "settings": settings, "data": data}
    parts = {
        task: {name: [*map(without_folders, sources)] for name, sources in parts.items()}
        for task, parts in record["parts"].items()
    }
    first = record["first_prompt"]
    first = {**first, "source": without_folders(first["source"])}
    return {**record, "identity": shown, "parts": parts, "first_prompt": first}


def _shared_model(record: Mapping[str, Any]) -> str:
    """The model's name: as it is for a built-in one or one of the hub, which alone has a revision."""
    name: str = record["identity"]["model"]
    of_all = name.startswith("builtin:") or record.get("revision") is not None
    return name if of_all else without_folders(name)
