"""A model's weights as its safetensors files hold them: where each tensor lies, and hashes of a module's weights.

Nothing is read but the tensors that are asked for. Knows files and names; knows no edit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from crispr_lm.edits.fingerprint import FINGERPRINT_DTYPES, hashes_of
from crispr_lm.errors import InputError
from crispr_lm.model.source_files import weight_files

FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""Number formats of safetensors whose numbers can be scaled."""


class OtherLayoutError(Exception):
    """The files hold a model's weights in another way than the model does."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: the file, the bytes from `begin` to `end` of it, format and shape."""

    file: Path
    begin: int
    end: int
    format: torch.dtype | None
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, in its own format."""
        with self.file.open("rb") as file:
            file.seek(self.begin)
            content = bytearray(file.read(self.end - self.begin))
        assert self.format is not None
        return torch.frombuffer(content, dtype=self.format).reshape(self.shape)

    def write(self, file: Path, values: Tensor) -> None:
        """Write the tensor anew into a copy of the file."""
        with file.open("rb+") as copy:
            copy.seek(self.begin)
            copy.write(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Every tensor of safetensors files, by name."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as content:  # checks the header before it is read below
                names = list(content.keys())
        except Exception as error:  # SafetensorError, OSError
            raise InputError(f"weights {path} can't be read: {error}") from error
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name in names:
            entry = header[name]
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = StoredTensor(path, begin, end, FORMATS.get(entry["dtype"]), tuple(entry["shape"]))
    return found


def candidates(name: str, parameters: list[str], stored: Mapping[str, StoredTensor]) -> Iterator[str]:
    """Names in the files that end as a module's does, with as many parts in common as any: prefixes may differ."""
    parts = name.split(".")
    # A layer's number and the two parts after it are the least that says which module is meant.
    for first in range(max(1, len(parts) - 2)):
        tail = ".".join(parts[first:])
        if first and not any(part.isdigit() for part in parts[first:]):
            return
        prefixes = (key.removesuffix(f".{parameters[0]}") for key in stored if key.endswith(f"{tail}.{parameters[0]}"))
        found = [one for one in prefixes if one == tail or one.endswith(f".{tail}")]
        if found := [one for one in found if all(f"{one}.{key}" in stored for key in parameters)]:
            yield from found
            return


class StoredModel:
    """The weights of a model's folder, for who has them in memory in another form (shortened, or divided).

    Attributes:
        dtype_name: The format that they are stored in.
    """

    def __init__(self, source: Path | None) -> None:
        """Find where every tensor lies.

        Raises:
            InputError: there are no safetensors files.
        """
        files = [] if source is None else weight_files(source)[1]
        if not files:
            raise InputError(
                "the weights in memory are shortened or divided, and no safetensors files of the whole ones are there, "
                "which an edit is tied to; load a folder of such files, or without --quantize or --device "
                "tensor-parallel"
            )
        self._stored = stored_tensors(files)
        names = (str(tensor.format).removeprefix("torch.") for tensor in self._stored.values())
        self.dtype_name = next((name for name in names if name in FINGERPRINT_DTYPES), "float32")
        self._hashes: dict[str, dict[str, str]] = {}

    def hashes(self, name: str, module: nn.Module) -> dict[str, str]:
        """The hashes of a module's weights in the files, as of `fingerprint.module_hashes`; read once.

        Raises:
            InputError: the files name the module in another way, or hold it in a format that has no hashes.
        """
        if name in self._hashes:
            return self._hashes[name]
        names = [key for key, value in module._parameters.items() if value is not None]
        places = list(candidates(name, names, self._stored))
        tensors = {key: self._stored[f"{places[0]}.{key}"] for key in names} if len(places) == 1 else {}
        if not tensors or any(tensor.format is None for tensor in tensors.values()):
            raise InputError(
                f"the model's files hold the weights of module {name} in another way than the model; load it without "
                "--quantize or --device tensor-parallel"
            )
        return self._hashes.setdefault(name, hashes_of({key: tensor.read() for key, tensor in tensors.items()}))
