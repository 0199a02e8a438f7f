"""The header of a GGUF file, looked at before anything else reads it: does it claim more than the file holds?

And how transformers is made to read such a file: once, with weights unpacked.

The readers of GGUF files believe the numbers in them: of a list that claims 2^60 entries they collect entries until the
memory is full. Here every claim is compared with the file's size. Layout: ``docs/gguf.md`` of the GGML project,
versions 2 and 3. Knows numbers and sizes; knows no model.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from crispr_lm.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALAR_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value to its form in `struct`."""
STRING, ARRAY = 8, 9
DEEPEST_ARRAY = 2
MOST_DIMENSIONS = 8


def check_gguf(path: Path) -> dict[str, int]:
    """Check that the header of a GGUF file claims no more than the file holds.

    Returns:
        The whole numbers of its metadata by name, such as ``llama.block_count``.

    Raises:
        InputError: it does, or is no GGUF file of a version that can be read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Header(content).read()
    except (OSError, ValueError, struct.error) as error:  # an empty file can't be mapped
        raise InputError(f"{path} is no GGUF file that can be read: {error}") from error


@contextmanager
def parsed_once() -> Iterator[None]:
    """Let transformers do what it repeats with a GGUF file once while the block runs, and in later blocks.

    It parses the header for the configuration, for the tokenizer and for the weights, entry by entry of the vocabulary,
    and makes the table of tensor names for every module. `forget_parsed` frees what is kept.
    """
    originals = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader, gguf.get_tensor_name_map = _parsed, _tensor_names
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = originals


def forget_parsed() -> None:
    """Free the header that `parsed_once` keeps."""
    _parsed_as_it_is.cache_clear()


def _parsed(path: str | Path) -> gguf.GGUFReader:
    state = Path(path).stat()
    return _parsed_as_it_is(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _parsed_as_it_is(path: str, _changed: int, _size: int) -> gguf.GGUFReader:
    return _PlainReader(path)


_tensor_names = lru_cache(maxsize=1)(gguf.get_tensor_name_map)


def dequantizing() -> dict[str, Any]:
    """Arguments that unpack GGUF weights to plain ones; older transformers always do so and have no switch."""
    import transformers

    gguf_config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": gguf_config(dequantize=True)} if gguf_config is not None else {}


class _PlainReader(gguf.GGUFReader):  # type: ignore[misc]
    """Holds the file as a plain array: to take a slice of a `numpy.memmap` takes several times as long."""

    @property
    def data(self) -> np.ndarray[Any, Any]:
        return self._data

    @data.setter
    def data(self, mapped: np.ndarray[Any, Any]) -> None:
        self._data = np.asarray(mapped)


class _Header:
    """A place in the file, and what is read from there on."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 0
        self.order = "<"

    def read(self) -> dict[str, int]:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("I")
        if version not in VERSIONS:  # files of machines of the other byte order have it turned round
            self.at, self.order = 4, ">"
            version = self._number("I")
        if version not in VERSIONS:
            raise ValueError("it is of a version that is not known")
        tensors, values = self._count(24), self._count(12)
        numbers: dict[str, int] = {}
        for _ in range(values):
            name = self._text()
            value = self._value(self._number("I"))
            if type(value) is int:
                numbers[name] = value
        ends = [self._tensor() for _ in range(tensors)]
        if max(ends, default=0) > len(self.content) - self.at:
            raise ValueError("its tensors reach beyond its end")
        return numbers

    def _take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise ValueError(f"it ends at byte {len(self.content)}, within its header")
        self.at += count
        return self.content[self.at - count : self.at]

    def _number(self, form: str) -> Any:
        return struct.unpack(self.order + form, self._take(struct.calcsize(self.order + form)))[0]

    def _count(self, smallest: int) -> int:
        """How many there are of something that takes at least so many bytes."""
        count = int(self._number("Q"))
        if count * smallest > len(self.content) - self.at:
            raise ValueError(f"it claims {count} entries, more than it has room for")
        return count

    def _text(self) -> str:
        return self._take(self._count(1)).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALAR_FORMATS:
            return self._number(SCALAR_FORMATS[kind])
        if kind == STRING:
            return self._text()
        if kind != ARRAY or depth == DEEPEST_ARRAY:
            raise ValueError(f"it holds a value of type {kind}, which is not known here")
        of_entries = self._number("I")
        if of_entries in SCALAR_FORMATS:
            size = struct.calcsize(self.order + SCALAR_FORMATS[of_entries])
            self._take(self._count(size) * size)
            return None
        for _ in range(self._count(8)):
            self._value(of_entries, depth + 1)
        return None

    def _tensor(self) -> int:
        """Where a tensor ends, in bytes from the beginning of all tensors."""
        self._text()
        dimensions = self._number("I")
        if dimensions > MOST_DIMENSIONS:
            raise ValueError(f"it holds a tensor of {dimensions} dimensions")
        elements: int = 1
        for _ in range(dimensions):
            elements *= int(self._number("Q"))
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("I"))]
        return int(self._number("Q")) + int(elements // block * size)
