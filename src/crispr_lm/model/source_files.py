"""The files that a model was read from: which hold its weights, and a copy of all others as they are."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from crispr_lm.errors import InputError, first_line
from crispr_lm.model.trust import leads_out
from crispr_lm.storage.files import LOCK, PART
from crispr_lm.storage.untrusted import parse_json, read_bytes

logger = logging.getLogger(__name__)

WEIGHT_ENDS = (
    ".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".onnx",
    ".onnx_data", ".tflite", ".mlmodel", ".ot", ".llamafile", ".nemo",
)  # fmt: skip
"""Ends of the names of files that hold a model's weights or pickles. Those of other forms would be unedited copies."""

OWN_FILES = ("README.md", "edit.json", "results.json")
"""What is written beside an edited model: of the source's own they would speak of another model."""


def source_folder(location: str, revision: str | None, *, with_weights: bool = False) -> Path | None:
    """The folder of a model's files: a local one, or the hub's in the cache, downloaded where it is not there.

    Args:
        location: Folder or hub id; empty for a model that was never read from anywhere.
        revision: The hub's commit.
        with_weights: Download the weights as well.

    Returns:
        The folder, None where there is none.
    """
    if not location or Path(location).is_dir():
        return Path(location) if location else None
    from huggingface_hub import snapshot_download

    weights = [f"*{end}" for end in WEIGHT_ENDS if not (with_weights and end == ".safetensors")]
    try:
        return Path(snapshot_download(location, revision=revision, ignore_patterns=weights))
    except Exception as error:  # of many types; what was needed to load the model is in the cache
        logger.info("not all files of %s could be fetched (%s); those in the cache are taken", location, error)
    try:
        return Path(snapshot_download(location, revision=revision, local_files_only=True))
    except Exception as error:  # not in a cache at all
        logger.info("the files of %s can't be found (%s)", location, first_line(error))
        return None


def copy_other_files(source: Path, target: Path) -> None:
    """Copy all files of a model but its weights, byte by byte; what is there already is replaced.

    Left out are hidden files, what is written beside an edited model (`OWN_FILES`), and folders that hold weights of
    another form. No pickle is copied, and no index of files that are left out.

    Raises:
        InputError: a file is a link that leads out of the model's folder.
    """
    for file in _other_files(source):
        place = target / file.relative_to(source)
        if leads_out(file, source):
            raise InputError(f"{file} is a link that leads out of the folder; put the file itself there")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _other_files(source: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        if here != source and any(name.endswith(WEIGHT_ENDS) for name in names):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            is_index = any(name.endswith(f"{end}.index.json") for end in WEIGHT_ENDS)
            hidden = name.startswith(".") or name in (PART, LOCK)
            own = here == source and name in OWN_FILES
            if not (is_index or hidden or own or name.endswith(WEIGHT_ENDS)) and (here / name).is_file():
                yield here / name


def weight_files(source: Path) -> tuple[Path | None, list[Path]]:
    """The safetensors files that transformers reads a model from: their index, None without one, and the files.

    The order is that of transformers: the file that the configuration names, ``model.safetensors``, then the index. The
    index is one that `crispr_lm.model.trust` has found to name nothing else than files of the folder.
    """
    config = source / "config.json"
    named = parse_json(read_bytes(config)).get("transformers_weights") if config.is_file() else None
    for name in (named, "model.safetensors", "model.safetensors.index.json"):
        path = source / str(name)
        if name is None or not path.is_file():
            continue
        if not path.name.endswith(".index.json"):
            return None, [path]
        return path, [source / file for file in sorted(set(parse_json(read_bytes(path))["weight_map"].values()))]
    return None, []
