"""Edits as sets of neurons: union, intersection, and how much two have in common. Knows edits only, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import EditMismatchError, InputError
from crispr_lm.model.neuron_sites import Neuron


@dataclass(frozen=True)
class Overlap:
    """What two edits have in common, for all neurons or those of one module.

    Attributes:
        first: Neurons of the first edit.
        second: Neurons of the second edit.
        common: Neurons of both.
    """

    first: int
    second: int
    common: int

    @property
    def jaccard(self) -> float:
        """Common neurons over all neurons of either; 1 for two empty edits."""
        either = self.first + self.second - self.common
        return self.common / either if either else 1.0


def union(edits: Sequence[Edit]) -> Edit:
    """An edit of every neuron that any of the edits names, in the order they are first named.

    Raises:
        InputError: fewer than two edits, or edits of different scales.
        EditMismatchError: edits of different models.
    """
    _check_alike(edits)
    neurons = tuple(dict.fromkeys(neuron for edit in edits for neuron in edit.neurons))
    return _combined(edits, neurons, "union")


def intersection(edits: Sequence[Edit]) -> Edit:
    """An edit of the neurons that all of the edits name, in the order of the first.

    Raises:
        InputError: fewer than two edits, or edits of different scales.
        EditMismatchError: edits of different models.
    """
    _check_alike(edits)
    common = set(edits[0].neurons).intersection(*(edit.neurons for edit in edits[1:]))
    return _combined(edits, tuple(neuron for neuron in edits[0].neurons if neuron in common), "intersection")


def overlap(first: Edit, second: Edit) -> tuple[Overlap, dict[str, Overlap]]:
    """Compare two edits: over all neurons, and per module (sorted by name).

    Raises:
        EditMismatchError: edits of different models.
    """
    _check_same_model(first, second)
    modules = sorted({neuron.module for neuron in (*first.neurons, *second.neurons)})
    per_module = {module: _overlap(_of_module(first, module), _of_module(second, module)) for module in modules}
    return _overlap(set(first.neurons), set(second.neurons)), per_module


def _combined(edits: Sequence[Edit], neurons: tuple[Neuron, ...], how: str) -> Edit:
    modules = {neuron.module for neuron in neurons}
    blocks = {neuron.module.rpartition(".")[0] for neuron in neurons if neuron.kind == "ffn"}
    fingerprint = {
        module: hashes
        for edit in edits
        for module, hashes in edit.fingerprint.items()
        if module in modules or module.rpartition(".")[0] in blocks
    }
    origin = {how: [dict(edit.origin) for edit in edits]}
    made_on = tuple(sorted({digest for edit in edits for digest in edit.made_on}))
    return replace(edits[0], neurons=neurons, fingerprint=fingerprint, origin=origin, made_on=made_on)


def _check_alike(edits: Sequence[Edit]) -> None:
    if len(edits) < 2:
        raise InputError("one edit can't be combined with itself; give at least two")
    for edit in edits[1:]:
        _check_same_model(edits[0], edit)
        if edit.scale != edits[0].scale:
            raise InputError(
                f"edits of different scales ({edits[0].scale:g} and {edit.scale:g}) can't be made one edit"
            )


def _check_same_model(first: Edit, second: Edit) -> None:
    """Edits are of the same model if all modules that both touch have the same weights."""
    for module in first.fingerprint:
        if module in second.fingerprint and first.fingerprint[module] != second.fingerprint[module]:
            raise EditMismatchError(
                f"the edits were made for different weights of module {module} ({first.base_model.get('name')} in "
                f"{first.made_in}, {second.base_model.get('name')} in {second.made_in})"
            )
    if first.base_model.get("architecture") != second.base_model.get("architecture"):
        architectures = f"{first.base_model.get('architecture')} and {second.base_model.get('architecture')}"
        raise EditMismatchError(f"the edits were made for different architectures ({architectures})")


def _of_module(edit: Edit, module: str) -> set[Neuron]:
    return {neuron for neuron in edit.neurons if neuron.module == module}


def _overlap(first: set[Neuron], second: set[Neuron]) -> Overlap:
    return Overlap(len(first), len(second), len(first & second))
