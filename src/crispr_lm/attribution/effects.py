"""First-order effects: what removing each neuron would do to each example's answer, from one pass per example.

For an example with right answer y and a wrong option o, the contrast is c = s(y) − s(o): positive where y is preferred.
The effect of neuron i on it is

    E_i = Σ over t of  h_i,t · ∂c/∂h_i,t

summed over all tokens t, with its sign. Scaling the neuron's activations to σ · h changes the contrast by
(σ − 1) · E_i to first order; eliminating it (σ = 0) by −E_i. Effects of several neurons add up to first order. Unlike
skill relevance (`crispr_lm.attribution.bias_influence`) they are kept per example and contrast, so that any ranking of
`crispr_lm.search.rankings` is computed from them without running the model again.

Knows examples, their prompts and a model; knows no benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from crispr_lm.attribution.activation_gradients import ActivationGradients
from crispr_lm.attribution.bias_influence import adapting, frozen
from crispr_lm.errors import InputError
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches, gradient_bytes_per_token
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import capabilities_of, pack, pack_alone
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.hooks import watching
from crispr_lm.model.neuron_sites import NEURON_KINDS, Neuron, NeuronKind, NeuronSite, find_sites
from crispr_lm.model.numerics import finite
from crispr_lm.storage.files import write_bytes
from crispr_lm.storage.untrusted import parse_json
from crispr_lm.tasks.base import DISAMBIGUATED, Example

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

FORMAT = "crispr-lm-effects"


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of all neurons of one kind on the contrasts of some examples.

    Attributes:
        kind: Which neurons.
        widths: Module name to its number of neurons, in module order.
        values: float32 (examples, contrasts, neurons), modules side by side; 0 where there is no such contrast.
        contrasts: float32 (examples, contrasts), s(y) − s(o) of every wrong option o, in the order of options; +inf
            where an example has fewer wrong options than others.
        ambiguous: bool (examples,), whether the context does not give the answer (or the task does not say): where a
            stereotype shows. False where it does: where skill shows.
        abstaining: int64 (examples,), the contrast whose wrong option is the one that abstains; -1 where there is none,
            as where abstaining is right.
        templates: int64 (examples,), a number for each template: examples of one are near-copies of each other.
    """

    kind: NeuronKind
    widths: dict[str, int]
    values: NDArray[np.float32]
    contrasts: NDArray[np.float32]
    ambiguous: NDArray[np.bool_]
    abstaining: NDArray[np.int64]
    templates: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of neurons."""
        return sum(self.widths.values())

    def neurons(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Neuron]:
        """The neurons in these columns of `values`."""
        modules = list(self.widths)
        ends = np.cumsum(list(self.widths.values()))
        which = np.searchsorted(ends, np.asarray(indices, dtype=np.int64), side="right")
        return [
            Neuron(modules[module], int(index) - int(ends[module]) + self.widths[modules[module]], self.kind)
            for index, module in zip(indices, which, strict=True)
        ]

    def indices(self, neurons: Sequence[Neuron]) -> list[int]:
        """The columns of these neurons; the other way round than `neurons`."""
        starts = dict(zip(self.widths, np.cumsum([0, *self.widths.values()]).tolist(), strict=False))
        return [starts[neuron.module] + neuron.index for neuron in neurons]

    def turn_round(self, neurons: Sequence[Neuron], scale: float) -> None:
        """Make the effects of an edit's neurons, measured with the edit in place, those of giving them back.

        Of an activation that is scaled by s when it is measured, giving it back changes a contrast by (1 − σ)/s times
        its effect, to first order, where scaling others changes it by (σ − 1) times theirs: so −1/s times the effect is
        kept. Changes `values` in place, which are large.

        Args:
            neurons: The edit's, of this kind.
            scale: s, what their activations were multiplied with; not 0, which leaves no effect to measure.
        """
        self.values[:, :, self.indices(neurons)] *= np.float32(-1 / scale)

    @staticmethod
    def joined(several: Sequence[Effects]) -> Effects:
        """The effects on all examples of several measurements of the same neurons."""
        if len(several) == 1:  # values are large: no copy
            return several[0]
        most = max(effects.contrasts.shape[1] for effects in several)

        def filled(array: NDArray[np.float32], with_value: float) -> NDArray[np.float32]:
            missing = [(0, 0), (0, most - array.shape[1]), (0, 0)][: array.ndim]
            return np.pad(array, missing, constant_values=with_value)

        return Effects(
            several[0].kind,
            several[0].widths,
            np.concatenate([filled(effects.values, 0.0) for effects in several]),
            np.concatenate([filled(effects.contrasts, np.inf) for effects in several]),
            np.concatenate([effects.ambiguous for effects in several]),
            np.concatenate([effects.abstaining for effects in several]),
            np.concatenate(
                [
                    effects.templates + sum(len(np.unique(before.templates)) for before in several[:number])
                    for number, effects in enumerate(several)
                ]
            ),
        )

    def _check(self) -> None:
        """Refuse what does not belong together.

        Raises:
            ValueError, TypeError, AttributeError: another kind, shape or number format than the class says, or NaN.
        """
        examples, contrasts, neurons = self.values.shape
        if self.kind not in NEURON_KINDS:
            raise ValueError(f"{self.kind!r} is no kind of neuron")
        if not all(type(width) is int and width > 0 for width in self.widths.values()) or self.count != neurons:
            raise ValueError("the modules' widths do not add up to the number of neurons")
        arrays = (self.values, self.contrasts, self.ambiguous, self.abstaining, self.templates)
        if [array.dtype for array in arrays] != [np.float32, np.float32, np.bool_, np.int64, np.int64]:
            raise ValueError("its arrays are of other number formats")
        if [array.shape for array in arrays[1:]] != [(examples, contrasts), *[(examples,)] * 3]:
            raise ValueError("its arrays are of different numbers of examples")
        if not all(np.isfinite(of_example).all() for of_example in self.values) or np.isnan(self.contrasts).any():
            raise ValueError("its effects are not finite")
        if not ((self.abstaining >= -1) & (self.abstaining < contrasts)).all():
            raise ValueError("it names a contrast that there is none of")

    def save(self, path: str | Path) -> None:
        """Write as safetensors."""
        tensors = {
            "values": torch.from_numpy(self.values),
            "contrasts": torch.from_numpy(self.contrasts),
            "ambiguous": torch.from_numpy(self.ambiguous),
            "abstaining": torch.from_numpy(self.abstaining),
            "templates": torch.from_numpy(self.templates),
        }
        metadata = {"format": FORMAT, "kind": self.kind, "widths": json.dumps(self.widths)}
        write_bytes(Path(path), safetensors_bytes(tensors, metadata))

    @staticmethod
    def load(path: str | Path) -> Effects:
        """Read what `save` wrote.

        Raises:
            InputError: missing, unreadable, or another kind of file.
        """
        try:
            with safetensors.safe_open(str(path), framework="np") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError("it holds no effects")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            read = Effects(metadata["kind"], parse_json(metadata["widths"]), **arrays)
            read._check()
            return read
        except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise InputError(f"effects {path} can't be read ({error}); give --overwrite to start anew") from error


def measure_effects(
    lm: LanguageModel,
    examples: Sequence[Example],
    prompts: Sequence[EncodedPrompt],
    kinds: Sequence[NeuronKind],
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> dict[NeuronKind, Effects]:
    """Measure the effects of every neuron on every contrast: one forward, and one backward pass per wrong option.

    Neurons that are scaled while this runs (`Edit.applied`) are taken as they then are: the effects of a second edit on
    top of the first.

    Args:
        lm: The model; its weights are not touched.
        examples: What is asked.
        prompts: One per example.
        kinds: Neurons of several kinds are measured in the same passes.
        batch_size: Prompts in one pass, or "auto"; effects do not depend on it.
        progress: Called with the number of prompts just finished.

    Raises:
        InputError: no prompts, or a model without such neurons.
        CrisprError: an effect is not finite (the module that begins with it is named).
    """
    if not prompts:
        raise InputError("effects can't be measured without examples; give at least one")
    answers = [example.answer for example in examples]
    sites = {kind: find_sites(lm.model, kind) for kind in kinds}
    most = max(len(prompt.option_ids) for prompt in prompts) - 1
    weights = [
        _contrast_weights(len(prompt.option_ids), answer, most) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    scores, values = weighted_effects(lm, prompts, weights, sites, batch_size, progress)
    contrasts = np.full((len(prompts), most), np.inf, dtype=np.float32)
    for index, (of_prompt, of_scores) in enumerate(zip(weights, scores, strict=True)):
        there = of_prompt.any(dim=1)
        contrasts[index, there.numpy()] = (of_prompt[there] @ of_scores).numpy()
    return {
        kind: Effects(
            kind,
            {site.name: site.width for site in of_kind},
            values[kind],
            contrasts,
            np.array([example.condition != DISAMBIGUATED for example in examples]),
            np.array([_abstaining(example) for example in examples], dtype=np.int64),
            np.unique([example.template for example in examples], return_inverse=True)[1].astype(np.int64),
        )
        for kind, of_kind in sites.items()
    }


def weighted_effects(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    weights: Sequence[Tensor],
    sites: Mapping[NeuronKind, Sequence[NeuronSite]],
    batch_size: BatchSize,
    progress: ProgressCallback | None,
) -> tuple[list[Tensor], dict[NeuronKind, NDArray[np.float32]]]:
    """Option scores, and effects on weighted sums of them.

    Args:
        lm: The model.
        prompts: What is asked.
        weights: Per prompt float32 (sums, options); as many sums for every prompt.
        sites: Where neurons are, by kind.
        batch_size: Prompts in one pass.
        progress: Called with the number of prompts just finished.

    Returns:
        Option scores per prompt, and by kind float32 (prompts, sums, neurons).
    """
    columns = {
        site: slice(end - site.width, end)
        for of_kind in sites.values()
        for site, end in zip(of_kind, np.cumsum([site.width for site in of_kind]).tolist(), strict=True)
    }
    values = {
        kind: np.zeros((len(prompts), len(weights[0]), sum(site.width for site in of_kind)), dtype=np.float32)
        for kind, of_kind in sites.items()
    }
    scores = [torch.empty(0)] * len(prompts)

    def work(indices: list[int]) -> None:
        batch, of_batch = [prompts[index] for index in indices], [weights[index] for index in indices]

        def compute() -> _Found:
            return adapting(lm, lambda: _effects_of(lm, batch, of_batch, list(columns)))

        of_prompts, found = finite(lm, compute, _numbers)
        for index, of_prompt in zip(indices, of_prompts, strict=True):
            scores[index] = of_prompt
        for number, of_sum in enumerate(found):
            for site, sums in of_sum.items():
                values[site.kind][indices, number, columns[site]] = sums.numpy()

    with frozen(lm.model):
        for indices in batches(lm, prompts, batch_size, work, bytes_per_token=gradient_bytes_per_token(lm)):
            if progress is not None:
                progress(len(indices))
    return scores, values


def _contrast_weights(options: int, answer: int, most: int) -> Tensor:
    """Weights (most, options) of s(y) − s(o) for every wrong option o; 0 where there are fewer."""
    weights = torch.zeros(most, options)
    for row, wrong in enumerate(option for option in range(options) if option != answer):
        weights[row, answer], weights[row, wrong] = 1, -1
    return weights


def _abstaining(example: Example) -> int:
    """The number of the abstaining option among the wrong ones, -1 if it is none of them."""
    if example.unknown is None or example.unknown == example.answer:
        return -1
    return example.unknown - (example.unknown > example.answer)


_Found = tuple[list[Tensor], list[dict[NeuronSite, Tensor]]]
"""Option scores per prompt, and per weighted sum the effects of every site's neurons, float32 (prompts, neurons)."""


def _numbers(found: _Found) -> Iterator[Tensor]:
    scores, sums = found
    yield from scores
    for of_sum in sums:
        yield from of_sum.values()


def _effects_of(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], weights: Sequence[Tensor], sites: Sequence[NeuronSite]
) -> _Found:
    if capabilities_of(lm).tokens_by_shape:
        return _effects_of_batch(lm, prompts, weights, sites)
    alone = [_effects_alone(lm, prompt, of, sites) for prompt, of in zip(prompts, weights, strict=True)]
    joined = [
        {site: torch.stack([found[site][number] for _, found in alone]) for site in sites}
        for number in range(len(weights[0]))
    ]
    return [scores for scores, _ in alone], joined


def _effects_of_batch(
    lm: LanguageModel, prompts: Sequence[EncodedPrompt], weights: Sequence[Tensor], sites: Sequence[NeuronSite]
) -> _Found:
    packed = pack(lm, prompts)
    sums = ActivationGradients(packed.streams, packed.option_counts, copy=capabilities_of(lm).writes_in_place)
    with watching(sites, sums.see):
        scores = packed_scores(lm, packed)
        found = []
        for number in range(len(weights[0])):
            of_options = torch.cat([of_prompt[number] for of_prompt in weights]).to(scores.device)
            found.append(sums.backward((scores * of_options).sum(), keep_graph=number < len(weights[0]) - 1))
    return [of.detach().float().cpu() for of in scores.split(packed.option_counts)], found


def _effects_alone(
    lm: LanguageModel, prompt: EncodedPrompt, weights: Tensor, sites: Sequence[NeuronSite]
) -> tuple[Tensor, dict[NeuronSite, Tensor]]:
    """Every option in a pass of its own, unpadded; effects on a weighted sum are weighted sums of options' effects.

    Returns:
        Scores (options,), and per site float32 (sums, neurons).
    """
    scores = []
    found = {site: torch.zeros(len(weights), site.width) for site in sites}
    for option in range(len(prompt.option_ids)):
        packed = pack_alone(lm, prompt, option)
        sums = ActivationGradients(packed.streams, [1], alone=True, copy=capabilities_of(lm).writes_in_place)
        with watching(sites, sums.see):
            score = packed_scores(lm, packed)
            for site, of_option in sums.backward(score.sum(), keep_graph=False).items():
                found[site] += weights[:, option : option + 1] * of_option
        scores.append(score.detach().float().cpu())
    return torch.cat(scores), found
