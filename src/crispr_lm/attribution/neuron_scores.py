"""Scores of all neurons of a model: the ranking, and the file they are kept in. Knows no model and no prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crispr_lm.errors import InputError
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron, NeuronKind
from crispr_lm.storage.files import write_bytes
from crispr_lm.storage.untrusted import check_regular, parse_json

SCORES_FORMAT = "crispr-lm-scores"


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """Bias influence B of every neuron of a model.

    Attributes:
        values: Module name (as in ``named_modules``; for `ffn` neurons the block's down projection) to a float32 tensor
            (neurons,), in module order.
        kind: Which neurons.
        origin: Where the scores come from: model, skill weight, number of prompts.
    """

    values: dict[str, Tensor]
    kind: NeuronKind
    origin: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(values) for values in self.values.values())

    def top(self, count: int) -> list[Neuron]:
        """The `count` neurons of highest B, highest first; ties are broken by module order, then index.

        Raises:
            InputError: `count` is negative or larger than the number of neurons.
        """
        if not 0 <= count <= len(self):
            raise InputError(f"{count} neurons asked for, but there are {len(self)}; give 0 to {len(self)}")
        if count == 0:
            return []
        modules = list(self.values)
        lengths = torch.tensor([len(self.values[module]) for module in modules])
        ends = lengths.cumsum(0)
        # A stable sort keeps the first of equals first, and the concatenation is in (module order, index).
        order = (
            torch.cat([self.values[module] for module in modules]).sort(descending=True, stable=True).indices[:count]
        )
        which = torch.searchsorted(ends, order, right=True)
        inside = order - (ends - lengths)[which]
        pairs = zip(which.tolist(), inside.tolist(), strict=True)
        return [Neuron(modules[module], index, self.kind) for module, index in pairs]

    def score_of(self, neuron: Neuron) -> float:
        """B of one neuron."""
        return float(self.values[neuron.module][neuron.index])

    def save(self, path: str | Path) -> None:
        """Write one float32 tensor per module as safetensors; kind and origin go into its metadata."""
        from safetensors.torch import save

        # Safetensors sorts by name, but ties are broken by module order, so the order is kept beside the tensors. All
        # in one entry: safetensors writes several in random order, and equal scores shall be equal files.
        about = {"kind": self.kind, "modules": list(self.values), "origin": self.origin}
        tensors = {name: values.contiguous() for name, values in self.values.items()}
        write_bytes(Path(path), save(tensors, {SCORES_FORMAT: json.dumps(about)}))

    @staticmethod
    def load(path: str | Path) -> NeuronScores:
        """Read a file that `save` wrote.

        Raises:
            InputError: missing, unreadable, no scores file, or scores that are not finite.
        """
        from safetensors import SafetensorError, safe_open

        try:
            check_regular(Path(path))  # a pipe would be waited for
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if SCORES_FORMAT not in metadata:
                    raise InputError(f"{path} holds tensors, but not neuron scores written by crispr-lm")
                about = parse_json(metadata[SCORES_FORMAT])
                values = {module: file.get_tensor(module) for module in about["modules"]}
                kind, origin = about["kind"], dict(about["origin"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} can't be read as a scores file ({error})") from error
        if kind not in NEURON_KINDS:
            raise InputError(f"{path}: unknown neuron kind {kind!r}; was it written by a newer version?")
        for module, tensor in values.items():
            if tensor.dtype != torch.float32 or tensor.dim() != 1:
                raise InputError(f"{path}: the scores of module {module} are no list of float32 numbers")
            if not torch.isfinite(tensor).all():
                raise InputError(f"{path}: the scores of module {module} hold NaN or infinity; score the neurons anew")
        return NeuronScores(values=values, kind=kind, origin=origin)
