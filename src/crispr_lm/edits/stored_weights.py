"""An edit of a model's safetensors files: they are copied, and the bytes of the neurons' weights written over.

Nothing is loaded but one module at a time, so that a model of any size can be edited. Everything else stays as it is
to the byte: the number format, the shards, their headers. Where a module's weights lie is found by their names and
confirmed by the edit's own hashes of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from crispr_lm.edits.edit import Edit, neurons_by_site, scaled_values
from crispr_lm.edits.fingerprint import hashed_modules, hashes_of
from crispr_lm.edits.stored_tensors import OtherLayoutError, StoredTensor, candidates, stored_tensors
from crispr_lm.errors import EditMismatchError, VerificationError
from crispr_lm.model.neuron_sites import NeuronSite, NeuronWeights
from crispr_lm.model.source_files import weight_files

CHUNK = 2**24
"""Bytes that are compared at once."""


def save_edited(model: nn.Module, edit: Edit, source: Path, target: Path) -> dict[str, torch.dtype]:
    """Copy the weights of a model's folder with the edit's neurons scaled.

    Args:
        model: Modules and shapes, with or without weights; none is read.
        edit: Made for the weights in the folder.
        source: The model's folder.
        target: Where the files go; their names stay.

    Returns:
        The format that the weights of each touched module are stored in, by its name.

    Raises:
        EditMismatchError: the edit was made for other weights.
        OtherLayoutError: the folder has no safetensors files, or they hold a touched module in another way than the
            model (experts one by one that the model holds in one tensor). Nothing is written then.
    """
    index, files = weight_files(source)
    stored = stored_tensors(files)
    sites = neurons_by_site(model, edit.neurons)
    places = _places(model, edit, sites, stored)
    copies = {file: target / file.relative_to(source) for file in (files if index is None else [index, *files])}
    for file, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for site, indices in sites.items():
        for weights, name in _parameters(site):
            place = stored[f"{places[site.name]}.{name}"]
            copied = StoredTensor(copies[place.file], place.begin, place.end, place.format, place.shape)
            # From the copy: a weight that two neurons share is scaled twice.
            values = NeuronWeights(nn.Parameter(copied.read(), requires_grad=False), weights.axes)
            chosen = torch.tensor(indices)
            values.write(chosen, scaled_values(values.read(chosen), edit.scale))
            copied.write(copied.file, values.parameter.detach())
    return {site.name: _format(stored, places[site.name], site) for site in sites}


def check_bytes(model: nn.Module, edit: Edit, source: Path, target: Path) -> dict[str, int]:
    """Check that edited files are the original's to the byte, but for the tensors that the edit touches.

    Returns:
        Number of files and bytes compared, and of tensors that the edit touches.

    Raises:
        VerificationError: they are not.
    """
    _, files = weight_files(source)
    stored = stored_tensors(files)
    sites = neurons_by_site(model, edit.neurons)
    places = _places(model, edit, sites, stored)
    touched = {f"{places[site.name]}.{name}" for site in sites for _, name in _parameters(site)}
    compared = 0
    for file in files:
        spans = sorted((stored[name].begin, stored[name].end) for name in touched if stored[name].file == file)
        compared += _compare(file, target / file.relative_to(source), spans)
    return {"files_compared": len(files), "bytes_equal": compared, "tensors_edited": len(touched)}


def _compare(file: Path, copy: Path, spans: list[tuple[int, int]]) -> int:
    """Number of equal bytes outside of `spans`, which is all of them."""
    size = file.stat().st_size
    ends = [0, *(place for span in spans for place in span), size]
    with file.open("rb") as one, copy.open("rb") as other:
        for begin, end in zip(ends[::2], ends[1::2], strict=True):
            one.seek(begin)
            other.seek(begin)
            while begin < end:
                count = min(CHUNK, end - begin)
                if one.read(count) != other.read(count):
                    raise VerificationError(f"{copy.name} differs from the original where nothing was edited")
                begin += count
    if copy.stat().st_size != size:
        raise VerificationError(f"{copy.name} is not as long as the original")
    return size - sum(end - begin for begin, end in spans)


def _places(
    model: nn.Module, edit: Edit, sites: Mapping[NeuronSite, list[int]], stored: Mapping[str, StoredTensor]
) -> dict[str, str]:
    """What the files call the touched modules; every hash of the edit is checked on the way."""
    by_name = {site.name: site for site in sites}
    places = {}
    for name, module in hashed_modules(model, sites).items():
        fused = name in by_name and by_name[name].part not in ("output", "input")
        known = edit.fingerprint.get(name)
        if known is not None:
            places[name] = _place(name.rpartition(".")[0] if fused else name, module, known, edit, stored)
    return places


def _place(
    name: str, module: nn.Module, known: Mapping[str, str], edit: Edit, stored: Mapping[str, StoredTensor]
) -> str:
    """What the files call a module: the name whose last parts agree most and whose weights have the known hash."""
    shapes = {key: tuple(value.shape) for key, value in module._parameters.items() if value is not None}
    found = False
    for candidate in candidates(name, list(shapes), stored):
        tensors = {key: stored[f"{candidate}.{key}"] for key in shapes}
        formats = {_name(tensor.format) for tensor in tensors.values()}
        if "None" in formats or any(tensors[key].shape != shape for key, shape in shapes.items()):
            continue
        found = True
        hashes = hashes_of({key: tensor.read() for key, tensor in tensors.items()})
        # As the weights were when the edit was made of them, or as they are now if that is the narrower format.
        if any(hashes[dtype] == known[dtype] for dtype in {edit.made_in, *formats} & {*hashes}):
            return candidate
    if not found:
        raise OtherLayoutError(f"the files hold the weights of {name} in another way than the model")
    raise EditMismatchError(
        f"the edit was made for {edit.base_model.get('name')} in {edit.made_in}; the weights of module {name} differ "
        "in the files; give the model it was made for"
    )


def _parameters(site: NeuronSite) -> Iterator[tuple[NeuronWeights, str]]:
    """The parameters that an edit of a site touches, with their names in its module."""
    for weights in site.weights:
        for name, parameter in site.module._parameters.items():
            if parameter is weights.parameter:
                yield weights, name


def _format(stored: Mapping[str, StoredTensor], place: str, site: NeuronSite) -> torch.dtype:
    name = next(name for _, name in _parameters(site))
    found = stored[f"{place}.{name}"].format
    assert found is not None
    return found


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
