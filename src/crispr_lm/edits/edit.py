"""Edits: a short list of neurons with a scale, tied to the base model they were made for.

An edit can be applied while a block runs (`Edit.applied`, no weight is touched), baked into the weights (`Edit.bake`)
and undone to the bit (`Edit.undo`). It is saved as readable JSON of a few kB. Knows weights; knows no task, no prompt.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crispr_lm.edits.fingerprint import FINGERPRINT_DTYPES, hashed_modules
from crispr_lm.edits.whole_weights import module_of, name_of, weights_can_change, whole_weights
from crispr_lm.errors import EditMismatchError, InputError
from crispr_lm.model.hooks import scaling
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron, NeuronKind, NeuronSite, NeuronWeights, find_sites
from crispr_lm.runtime.provided import provided
from crispr_lm.storage.files import write_json
from crispr_lm.storage.hub import Upload, check_upload, edit_file, upload
from crispr_lm.storage.untrusted import parse_json, read_bytes
from crispr_lm.version import __version__

if TYPE_CHECKING:
    from crispr_lm.edits.whole_weights import AnyModel
    from crispr_lm.model.language_model import LanguageModel

EDIT_FORMAT = "crispr-lm-edit"
EDIT_VERSION = 2
"""2: with the hashes of the templates it was made on."""

# Models whose weights carry a baked edit, with what `undo` puts back: (weights, indices, original values).
_Saved = list[tuple[NeuronWeights, Tensor, Tensor]]
_baked: weakref.WeakKeyDictionary[nn.Module, tuple[Edit, _Saved]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Edit:
    """Neurons to scale, and the model they belong to.

    Attributes:
        neurons: In order of rank; no neuron twice.
        scale: What their activations are multiplied with: 0 eliminates, between 0 and 1 damps.
        base_model: Name, revision and architecture of the model it was made for.
        fingerprint: Per touched module a hash of its weights, for each dtype the model may be loaded in; of `ffn`
            neurons also of the layers that give their values.
        made_in: The dtype the fingerprint was taken in.
        origin: Where it came from (task, settings, hash of the scores), for the record.
        made_on: Hashes of the templates that it was fitted or chosen on (`crispr_lm.tasks.template_hashes`).
    """

    neurons: tuple[Neuron, ...]
    scale: float = 0.0
    base_model: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    made_in: str = "float32"
    origin: Mapping[str, Any] = field(default_factory=dict)
    made_on: tuple[str, ...] = ()

    @staticmethod
    def from_neurons(
        lm: LanguageModel,
        neurons: Sequence[Neuron],
        scale: float = 0.0,
        origin: Mapping[str, Any] | None = None,
        made_on: Sequence[str] = (),
    ) -> Edit:
        """Make an edit of these neurons for this model.

        Args:
            lm: The base model, unedited.
            neurons: For example ``scores.top(5)``.
            scale: 0 eliminates them.
            origin: Anything worth keeping on record, JSON-serialisable.
            made_on: Hashes of the templates it was fitted or chosen on, so that no one measures it on these unawares.

        Raises:
            InputError: a neuron that the model does not have, the same neuron twice, a scale that is not a finite
                number, or a model that carries a baked edit; or one whose weights are shortened, without its files.
        """
        if lm.model in _baked:
            raise InputError("the model carries a baked edit; undo it before making another one from its weights")
        if not abs(scale) < float("inf"):
            raise InputError(f"the scale of an edit must be a finite number, not {scale}")
        if len(set(neurons)) != len(neurons):
            raise InputError("a neuron is named twice in one edit; name it once")
        sites = neurons_by_site(lm.model, neurons)
        weights = whole_weights(lm)
        return Edit(
            neurons=tuple(neurons),
            scale=float(scale),
            base_model={
                "name": lm.name,
                "revision": lm.revision,
                "architecture": type(lm.model).__name__,
                **({"adapter": dict(lm.adapter)} if lm.adapter else {}),
            },
            fingerprint={
                name: weights.hashes(name, module) for name, module in hashed_modules(lm.model, sites).items()
            },
            made_in=weights.dtype_name,
            origin=dict(origin or {}),
            made_on=tuple(made_on),
        )

    def check(self, model: AnyModel) -> None:
        """Check that the edit was made for this model's weights: those of the modules it touches.

        Args:
            model: What `load_model` gives, or a transformers model as it is; so in every method below.

        Raises:
            EditMismatchError: it was not; the first module that differs is named.
        """
        made_for, here = self.base_model.get("architecture"), type(module_of(model)).__name__
        if not self.neurons and made_for not in (None, here):  # no module's weights to compare
            raise EditMismatchError(f"the edit was made for a {made_for}, but {name_of(model)} is a {here}")
        self._checked_sites(model)

    def _checked_sites(self, model: AnyModel) -> dict[NeuronSite, list[int]]:
        """The edit's neurons by site, after the check."""
        try:
            sites = neurons_by_site(module_of(model), self.neurons)
        except InputError as error:
            raise EditMismatchError(f"the edit was made for another model than {name_of(model)}: {error}") from error
        weights = whole_weights(model)
        here = weights.dtype_name
        # The narrower of the two formats is what both can be cast to with the same result.
        dtype = self.made_in if here == "float32" else here
        needed = {site.name for site in sites} | self.fingerprint.keys()  # edits of earlier releases have no gates
        for name, module in hashed_modules(module_of(model), sites).items():
            if name in needed and weights.hashes(name, module)[dtype] != self.fingerprint.get(name, {}).get(dtype):
                advice = "" if here in ("float32", self.made_in) else f" (in {self.made_in} or float32)"
                raise EditMismatchError(
                    f"the edit was made for {self.base_model.get('name')} in {self.made_in}; the weights of module "
                    f"{name} differ in {name_of(model)} in {here}; load the model it was made for{advice}"
                )
        return sites

    @contextmanager
    def applied(self, model: AnyModel) -> Iterator[None]:
        """Apply the edit while the block runs; the weights are not touched.

        Raises:
            EditMismatchError: the edit was made for another model, or the model carries a baked edit already.
        """
        with self.checked(model)():
            yield

    def checked(self, model: AnyModel) -> Callable[[], AbstractContextManager[None]]:
        """Check the edit once, to apply it often: to every other token of two answers that are written in turn.

        Returns:
            What gives a context as `applied` does, without looking at the weights again.

        Raises:
            EditMismatchError: the edit was made for another model, or the model carries a baked edit already.
        """
        self._refuse_baked(model)
        return partial(scaling, self._checked_sites(model), self.scale)

    def first(self, count: int) -> Edit:
        """The same edit with its first `count` neurons only.

        Raises:
            InputError: a negative number, or more neurons than there are.
        """
        if not 0 <= count <= len(self.neurons):
            raise InputError(f"the edit has {len(self.neurons)} neurons, there are no first {count} of them")
        return replace(self, neurons=self.neurons[:count])

    def bake(self, model: AnyModel, formats: Mapping[str, torch.dtype] | None = None) -> None:
        """Scale the neurons' weights in place; `undo` brings them back.

        Args:
            model: As in `check`.
            formats: By module, what scaled weights are rounded to: the format of the files they are compared with.

        Raises:
            EditMismatchError: the edit was made for another model, or the model carries a baked edit already.
            InputError: the model's weights are brought in from disk in turn, shortened or divided.
        """
        self._refuse_baked(model)
        if not weights_can_change(module_of(model)):
            what = f"the weights of {name_of(model)} are not whole in memory, so they can't be changed there"
            raise InputError(f"{what}; use `applied`, and `crispr-lm apply --no-load` for an edited folder")
        saved: _Saved = []
        try:
            for site, indices in self._checked_sites(model).items():
                chosen = torch.tensor(indices)
                for weights in site.weights:
                    original = weights.read(chosen)
                    saved.append((weights, chosen, original))
                    weights.write(chosen, scaled_values(original, self.scale, (formats or {}).get(site.name)))
            _baked[module_of(model)] = (self, saved)
        except BaseException:  # out of memory, Ctrl-C
            _put_back(saved)
            raise

    def undo(self, model: AnyModel) -> None:
        """Put the weights back that `bake` changed, bit for bit.

        Raises:
            EditMismatchError: this edit is not the one baked into the model.
        """
        module = module_of(model)
        if module not in _baked or _baked[module][0] != self:
            raise EditMismatchError(f"this edit is not baked into {name_of(model)}, so there is nothing to undo")
        _put_back(_baked[module][1])
        del _baked[module]

    @contextmanager
    def baked(self, lm: LanguageModel, formats: Mapping[str, torch.dtype] | None = None) -> Iterator[None]:
        """Scale the neurons' weights in place while the block runs, then put them back bit for bit.

        Raises:
            EditMismatchError: as `bake`.
        """
        self.bake(lm, formats)
        try:
            yield
        finally:
            self.undo(lm)

    def in_place(
        self, lm: LanguageModel, formats: Mapping[str, torch.dtype] | None = None
    ) -> AbstractContextManager[None]:
        """As `baked`, or as `applied` where weights can't be changed (`weights_can_change`)."""
        return self.baked(lm, formats) if weights_can_change(lm.model) else self.applied(lm)

    def to_dict(self) -> dict[str, Any]:
        """The edit as JSON types; neurons as [kind, module, index], in order of rank."""
        return {
            "format": EDIT_FORMAT,
            "version": EDIT_VERSION,
            "made_by": f"crispr-lm {__version__}",
            "base_model": {**self.base_model, "dtype": self.made_in},
            "scale": self.scale,
            "neurons": [[neuron.kind, neuron.module, neuron.index] for neuron in self.neurons],
            "fingerprint": {module: dict(hashes) for module, hashes in self.fingerprint.items()},
            "origin": dict(self.origin),
            "made_on": list(self.made_on),
        }

    def save_pretrained(self, folder: str | Path, *, results: str | Path | None = None) -> None:
        """Write a folder fit to be shared: ``edit.json`` and its card (``README.md``), as PEFT does with adapters.

        Args:
            folder: Made if there is none; files of these names in it are replaced.
            results: A run's ``results.json``, whose figures the card then shows; it is copied beside the edit.

        Raises:
            InputError: results that can't be read, or were measured with another edit; or a folder that can't be
                written.
        """
        provided("save_edit")(self, Path(folder), None if results is None else Path(results))

    @staticmethod
    def from_pretrained(source: str | Path) -> Edit:
        """Read an edit from a folder of `save_pretrained` (or of a run), from its file, or from the hub.

        Args:
            source: Folder, file or hub id; what is on this machine goes first.

        Raises:
            InputError: no edit is there, or the hub can't be reached.
        """
        return Edit.load(edit_file(source))

    def push_to_hub(
        self, repository: str, *, private: bool = True, results: str | Path | None = None, dry_run: bool = False
    ) -> Upload:
        """Upload what `save_pretrained` writes, so that ``Edit.from_pretrained(repository)`` finds it.

        Args:
            repository: OWNER/NAME; made if there is none.
            private: Whether a new repository is seen by its owner alone; one that exists stays as it is.
            results: As in `save_pretrained`.
            dry_run: Only say what would be uploaded.

        Returns:
            What went where.

        Raises:
            InputError: no such id is possible, no login, or as `save_pretrained`.
            CrisprError: the hub refuses, or can't be reached.
        """
        check_upload(repository, dry_run=dry_run)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, results=results)
            return upload(Path(folder), repository, private=private, dry_run=dry_run, kept=False)

    def save(self, path: str | Path) -> None:
        """Write the edit alone, as one file of readable JSON."""
        write_json(Path(path), self.to_dict())

    @staticmethod
    def load(path: str | Path) -> Edit:
        """Read the file that `save` wrote.

        Raises:
            InputError: missing, unreadable, or no edit file of this version.
        """
        try:
            content = parse_json(read_bytes(Path(path)))
        except (OSError, ValueError) as error:
            raise InputError(f"edit {path} can't be read ({error}); give an edit.json written by crispr-lm") from error
        if isinstance(content, dict) and content.get("format") == EDIT_FORMAT and content.get("version") == 1:
            raise InputError(
                f"edit {path} is of version 1, which does not record the questions it was made on; make it again with "
                "this release of crispr-lm"
            )
        try:
            return _from_dict(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"edit {path} is malformed ({error}); give an edit.json written by crispr-lm") from error

    def _refuse_baked(self, model: AnyModel) -> None:
        if module_of(model) in _baked:
            raise EditMismatchError(f"{name_of(model)} carries a baked edit already; undo that one first")


def scaled_values(original: Tensor, scale: float, rounded_to: torch.dtype | None = None) -> Tensor:
    """Weights times an edit's scale: exact zeros for 0, also of infinities."""
    scaled = torch.zeros_like(original) if scale == 0 else original * scale
    return scaled.to(rounded_to or scaled.dtype).to(scaled.dtype)


def _put_back(saved: _Saved) -> None:
    # Backwards: a weight that two neurons share (an output and an input of one layer) was saved twice.
    for weights, chosen, original in reversed(saved):
        weights.write(chosen, original)


def _from_dict(content: dict[str, Any]) -> Edit:
    if content["format"] != EDIT_FORMAT:
        raise ValueError(f"format is {content['format']!r}, not {EDIT_FORMAT!r}")
    if content["version"] != EDIT_VERSION:
        raise ValueError(f"version {content['version']!r} is not {EDIT_VERSION}, the one this release reads")
    neurons = []
    for kind, module, index in content["neurons"]:
        if kind not in NEURON_KINDS or not isinstance(module, str) or type(index) is not int or index < 0:
            raise ValueError(f"{[kind, module, index]} is no neuron")
        neurons.append(Neuron(module, index, kind))
    if len(set(neurons)) != len(neurons):
        raise ValueError("a neuron is named twice")
    scale = content["scale"]
    if type(scale) not in (int, float) or not abs(scale) < float("inf"):
        raise ValueError(f"scale {scale!r} is not a finite number")
    fingerprint = {str(module): dict(hashes) for module, hashes in content["fingerprint"].items()}
    for module in {neuron.module for neuron in neurons}:
        if set(fingerprint.get(module, {})) != set(FINGERPRINT_DTYPES):
            raise ValueError(f"fingerprint of module {module} is missing")
    if not all(isinstance(digest, str) for hashes in fingerprint.values() for digest in hashes.values()):
        raise ValueError("a fingerprint is no text")
    base_model = dict(content["base_model"])
    made_in = base_model.pop("dtype")
    if made_in not in FINGERPRINT_DTYPES:
        raise ValueError(f"dtype {made_in!r} is unknown")
    made_on = content["made_on"]
    if not isinstance(made_on, list) or not all(isinstance(digest, str) for digest in made_on):
        raise ValueError("made_on is no list of hashes")
    return Edit(
        neurons=tuple(neurons),
        scale=float(scale),
        base_model=base_model,
        fingerprint=fingerprint,
        made_in=made_in,
        origin=dict(content["origin"]),
        made_on=tuple(made_on),
    )


def neurons_by_site(model: nn.Module, neurons: Sequence[Neuron]) -> dict[NeuronSite, list[int]]:
    """Group neurons by the module that holds them.

    Raises:
        InputError: the model has no such module or index.
    """
    kinds: set[NeuronKind] = {neuron.kind for neuron in neurons}
    sites = {(site.name, kind): site for kind in sorted(kinds) for site in find_sites(model, kind)}
    grouped: dict[NeuronSite, list[int]] = {}
    for neuron in neurons:
        site = sites.get((neuron.module, neuron.kind))
        if site is None:
            raise InputError(f"module {neuron.module} holds no {neuron.kind!r} neurons in this {type(model).__name__}")
        if not 0 <= neuron.index < site.width:
            raise InputError(
                f"module {neuron.module} has {site.width} {neuron.kind!r} neurons, there is no {neuron.index}"
            )
        grouped.setdefault(site, []).append(neuron.index)
    return grouped
