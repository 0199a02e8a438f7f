"""Attribution: the bias influence of every neuron, from one forward and two backward passes per prompt.

Knows prompts as token ids and a model; knows no benchmark. Equations 2 to 5 of ``docs/method.md``:

    ŷ    = argmax over c in C without y of s(c)
    A(a) = max over t of  h_t · P(ŷ) · ∂s(a)/∂h_t
    B    = A(ŷ) − λ · max(A(y), 0)          per example, then the mean over examples and instructions
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crispr_lm.errors import CrisprError, InputError
from crispr_lm.model.hooks import Seen, watching
from crispr_lm.model.neurons import NEURON_KINDS, Neuron, NeuronKind, NeuronSite, find_sites
from crispr_lm.packing import Stream
from crispr_lm.prompts import EncodedPrompt, encode_all
from crispr_lm.scoring import BatchSize, ProgressCallback, batches, examine, pack, pack_alone, packed_scores, scores_of
from crispr_lm.tasks.task import Example

if TYPE_CHECKING:
    from crispr_lm.model.load import LanguageModel

logger = logging.getLogger(__name__)

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

        from crispr_lm.files import write_bytes

        # Safetensors sorts by name, but ties are broken by module order, so the order is kept beside the tensors. All
        # in one entry: safetensors writes several in random order, and equal scores shall be equal files.
        about = {"kind": self.kind, "modules": list(self.values), "origin": self.origin}
        tensors = {name: values.contiguous() for name, values in self.values.items()}
        write_bytes(Path(path), save(tensors, {SCORES_FORMAT: json.dumps(about)}))

    @staticmethod
    def load(path: str | Path) -> NeuronScores:
        """Read a file that `save` wrote.

        Raises:
            InputError: missing, unreadable, or no scores file.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if SCORES_FORMAT not in metadata:
                    raise InputError(f"{path} holds tensors, but not neuron scores written by crispr-lm")
                about = json.loads(metadata[SCORES_FORMAT])
                values = {module: file.get_tensor(module) for module in about["modules"]}
                kind, origin = about["kind"], dict(about["origin"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} can't be read as a scores file ({error})") from error
        if kind not in NEURON_KINDS:
            raise InputError(f"{path}: unknown neuron kind {kind!r}; was it written by a newer version?")
        return NeuronScores(values=values, kind=kind, origin=origin)


def score_neurons(
    lm: LanguageModel,
    examples: Sequence[Example],
    instructions: Sequence[str],
    neurons: NeuronKind = "linear",
    skill_weight: float = 1.0,
    batch_size: BatchSize = "auto",
    progress: ProgressCallback | None = None,
) -> NeuronScores:
    """Compute the bias influence of every neuron.

    The scores do not depend on batch size, padding or the order of examples.

    Args:
        lm: The model; its weights are not touched.
        examples: Some 20 suffice (the paper's number).
        instructions: One or more synonymous instructions; the mean goes over all pairs.
        neurons: `linear` (the paper) or `ffn`.
        skill_weight: λ, how much of the relevance for the right answer is subtracted.
        batch_size: Prompts in one pass, or "auto".
        progress: Called with the number of prompts just finished.

    Raises:
        InputError: nothing to attribute on, a prompt that does not fit, or a model without such neurons.
        CrisprError: a score is not finite (the module is named).
    """
    if isinstance(instructions, str):
        raise InputError("instructions must be a list of strings; put a single one into a list")
    if not examples or not instructions:
        raise InputError("neurons can't be scored without examples and instructions; give at least one of each")
    if not 0 <= skill_weight < float("inf"):
        raise InputError(f"the skill weight must be a finite number that is not negative, but is {skill_weight}")
    sites = find_sites(lm.model, neurons)
    prompts = [prompt for instruction in instructions for prompt in encode_all(lm, examples, instruction)]
    golden = [example.answer for _ in instructions for example in examples]
    # Summed in float64 on the CPU, so that the order of batches does not show.
    total = {site.name: torch.zeros(site.width, dtype=torch.float64) for site in sites}

    def attribute(indices: list[int]) -> None:
        batch, answers = [prompts[index] for index in indices], [golden[index] for index in indices]
        _add(total, _adapting(lm, lambda: _influence_of(lm, batch, answers, sites, skill_weight)))

    with _frozen(lm.model):
        for indices in batches(lm, prompts, batch_size, attribute):
            if progress is not None:
                progress(len(indices))
    values = {name: (summed / len(prompts)).float() for name, summed in total.items()}
    for name, of_module in values.items():
        if not torch.isfinite(of_module).all():
            cause = "the weights hold NaN or infinity" if lm.dtype == torch.float32 else "load the model in float32"
            raise CrisprError(f"scores of module {name} are not finite; {cause}")
    origin = {"model": lm.name, "skill_weight": skill_weight, "prompts": len(prompts)}
    return NeuronScores(values=values, kind=neurons, origin=origin)


def biased_answers(scores: Tensor, golden: Tensor) -> Tensor:
    """Equation 2: per row the index of the wrong option with the highest score.

    Args:
        scores: (examples, options), -inf where an example has no such option.
        golden: int64 (examples,), index of y.

    Returns:
        int64 (examples,). Of equal scores the first wins.
    """
    return scores.scatter(1, golden[:, None], -torch.inf).argmax(dim=1)


def _add(total: dict[str, Tensor], influence: Mapping[str, Tensor]) -> None:
    for name, values in influence.items():
        total[name] += values


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Take gradients of activations only, also where the caller has parameters that require them or gradients off."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def _adapting(lm: LanguageModel, attribute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Attribute in the way that suits the model; what does not is found out once and said in the log."""
    try:
        return attribute()
    except _UnknownTokensError as error:
        logger.info("prompts of %s are attributed one answer at a time: %s", lm.name, error)
        lm.tells_tokens = False
    except (_ChangedInPlaceError, RuntimeError) as error:
        # PyTorch refuses to change a leaf of the graph in place; any other change shows in a tensor's version.
        in_place = isinstance(error, _ChangedInPlaceError) or "in-place operation" in str(error)
        if not in_place and "does not require grad" in str(error):
            reason = "it keeps no graph of its layers (reversible or custom backward pass)"
            raise CrisprError(f"model {lm.name} can't be attributed: {reason}") from error
        if lm.changes_outputs or not in_place:
            raise
        logger.info("%s changes outputs of its layers in place; attribution works on copies", lm.name)
        lm.changes_outputs = True
    return _adapting(lm, attribute)


def _influence_of(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    golden: Sequence[int],
    sites: Sequence[NeuronSite],
    skill_weight: float,
) -> dict[str, Tensor]:
    """B of every neuron summed over prompts; module name to float64 (neurons,) on the CPU."""
    examine(lm)
    if lm.tells_tokens:
        return _influence_of_batch(lm, prompts, golden, sites, skill_weight)
    total: dict[str, Tensor] = {}
    for prompt, answer in zip(prompts, golden, strict=True):
        for name, values in _influence_alone(lm, prompt, answer, sites, skill_weight).items():
            total[name] = total[name] + values if name in total else values
    return total


def _influence_of_batch(
    lm: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    golden: Sequence[int],
    sites: Sequence[NeuronSite],
    skill_weight: float,
) -> dict[str, Tensor]:
    """As `_influence_of`, all prompts in one batch."""
    packed = pack(lm, prompts)
    relevance = _Relevance(packed.streams, copy=lm.changes_outputs)
    with watching(sites, relevance.see):
        scores = packed_scores(lm, packed)
        first = torch.tensor([0, *packed.option_counts[:-1]]).cumsum(0)
        of_prompt = list(scores.detach().cpu().split(packed.option_counts))
        table = torch.nn.utils.rnn.pad_sequence(of_prompt, batch_first=True, padding_value=-torch.inf)
        golden_index = torch.tensor(golden)
        biased_index = biased_answers(table, golden_index)
        confusion = table.gather(1, biased_index[:, None])[:, 0].exp()  # P(ŷ), (prompts,)
        of_biased = relevance.backward(scores, first + biased_index, keep_graph=True)
        of_golden = relevance.backward(scores, first + golden_index, keep_graph=False)
    return _influence(of_biased, of_golden, confusion, skill_weight)


def _influence_alone(
    lm: LanguageModel, prompt: EncodedPrompt, golden: int, sites: Sequence[NeuronSite], skill_weight: float
) -> dict[str, Tensor]:
    """B of every neuron for one prompt, each answer in a pass of its own, unpadded: every token there is counts."""
    with torch.inference_mode():
        scores = scores_of(lm, [prompt])[0][None]
    biased = biased_answers(scores, torch.tensor([golden]))

    def relevance_for(answer: int) -> Mapping[str, Tensor]:
        packed = pack_alone(lm, prompt, answer)
        relevance = _Relevance(packed.streams, alone=True, copy=lm.changes_outputs)
        with watching(sites, relevance.see):
            score = packed_scores(lm, packed)
            return relevance.backward(score, torch.zeros(1, dtype=torch.int64), keep_graph=False)

    return _influence(relevance_for(int(biased)), relevance_for(golden), scores[0, biased].exp(), skill_weight)


def _influence(
    of_biased: Mapping[str, Tensor], of_golden: Mapping[str, Tensor], confusion: Tensor, skill_weight: float
) -> dict[str, Tensor]:
    """Equations 3 and 4, summed over prompts; relevances without P(ŷ) (prompts, neurons), confusion P(ŷ) (prompts,)."""
    influence = {}
    for name, biased in of_biased.items():
        useful = skill_weight * of_golden[name].clamp(min=0)
        # P(ŷ) is not negative, so it can be multiplied after the maximum.
        influence[name] = ((biased - useful).double().cpu() * confusion.double()[:, None]).sum(dim=0)
    return influence


class _UnknownTokensError(CrisprError):
    """An activation's shape does not tell which tokens of which prompt it belongs to."""


class _ChangedInPlaceError(CrisprError):
    """The model has written into an activation after it was seen."""


class _Relevance:
    """Watches activations in the forward pass and reduces activation x gradient to its maximum in each backward pass.

    Only one number per prompt and neuron is kept; nothing grows with the number of tokens.
    """

    def __init__(self, streams: Sequence[Stream], *, alone: bool = False, copy: bool = False) -> None:
        """Take the streams of a batch.

        Args:
            streams: What activations look like.
            alone: The batch is one unpadded prompt with one answer, so that every token counts, whatever its place.
            copy: Let the model go on with copies, because it writes into its layers' outputs.
        """
        self.streams = {stream.shape: stream for stream in streams}
        self.alone = alone
        self.copy = copy
        self.options = torch.empty(0, dtype=torch.int64)
        self.maxima: dict[str, Tensor] = {}

    def see(self, seen: Seen) -> Tensor:
        """Register the reduction of this activation's gradient."""
        values = seen.values
        if not values.requires_grad:
            # Parameters are frozen, so the graph starts here: at the first neurons of the model.
            values = values.detach().requires_grad_(True)
        activation = values.detach()  # shares memory, but holds no graph: no reference cycle
        version = activation._version
        reduce = self._reduction(seen, activation)

        def arrived(gradient: Tensor) -> None:
            if activation._version != version:
                raise _ChangedInPlaceError(f"module {seen.site.name}: its output is changed in place")
            self._join(seen, reduce(gradient))

        values.register_hook(arrived)
        return values.clone() if self.copy else values

    def backward(self, scores: Tensor, options: Tensor, *, keep_graph: bool) -> Mapping[str, Tensor]:
        """Return max over counted t of h_t · ∂s(a)/∂h_t: module name to float32 (prompts, neurons).

        A neuron that runs for none of a prompt's tokens (of an expert that is given none) has 0.

        Args:
            scores: (options of the batch,), with graph.
            options: int64 (prompts,), the number of each prompt's answer a.
            keep_graph: Whether another backward pass follows.
        """
        self.options, self.maxima = options, {}
        # Prompts do not see each other, so the gradient of the sum is each prompt's own gradient.
        scores[options.to(scores.device)].sum().backward(retain_graph=keep_graph)
        return {name: values.masked_fill(values == -torch.inf, 0) for name, values in self.maxima.items()}

    def _reduction(self, seen: Seen, activation: Tensor) -> Callable[[Tensor], Tensor]:
        """How to get from an activation's gradient to the maximum over counted tokens, (prompts, units)."""
        if self.alone:
            return lambda gradient: self._largest_alone(seen, activation, gradient)
        if seen.tokens is not None:
            stream, tokens = self._stream_of_count(seen, seen.token_count), seen.tokens
            return lambda gradient: self._largest_routed(stream, tokens, activation, gradient)
        stream, arrange = self._stream_of(seen)
        return lambda gradient: self._largest(stream, arrange(activation), arrange(gradient))

    def _largest(self, stream: Stream, activation: Tensor, gradient: Tensor) -> Tensor:
        """Maximum over counted tokens, (prompts, units), of (rows, tokens, ..., units).

        There are dimensions between where a layer runs several times per token.
        """
        options = self.options.to(stream.rows.device)
        counted = stream.counted[options].to(activation.device)
        if stream.shape[0] != len(options):  # several rows per prompt: take the answer's
            rows = stream.rows[options].to(activation.device)
            activation, gradient = activation[rows], gradient[rows]
        product = _product(activation, gradient)
        counted = counted.reshape(*counted.shape, *[1] * (product.dim() - 2))
        return product.masked_fill(~counted, -torch.inf).flatten(1, -2).amax(dim=1)

    def _largest_alone(self, seen: Seen, activation: Tensor, gradient: Tensor) -> Tensor:
        """Maximum over all tokens, (1, units), but for those that the model itself has appended as padding."""
        product = _product(activation, gradient)
        if seen.tokens is None and product.dim() == 3 and 1 in product.shape[:2]:
            product = product.flatten(0, 1)[: max(tokens for _, tokens in self.streams)]
        return product.flatten(0, -2).amax(dim=0)[None]

    def _largest_routed(self, stream: Stream, tokens: Tensor, activation: Tensor, gradient: Tensor) -> Tensor:
        """Maximum over the counted tokens of those an expert was given, (prompts, units); -inf if there is none."""
        options = self.options.to(tokens.device)
        prompt_of_row = torch.full((stream.shape[0],), -1, device=tokens.device)
        prompt_of_row[stream.rows.to(tokens.device)[options]] = torch.arange(len(options), device=tokens.device)
        prompt = prompt_of_row[tokens // stream.shape[1]]
        counted = stream.counted.to(tokens.device)[options][prompt, tokens % stream.shape[1]] & (prompt >= 0)
        product = _product(activation[counted], gradient[counted])
        largest = torch.full((len(options), product.shape[-1]), -torch.inf, device=product.device)
        return largest.scatter_reduce(0, prompt[counted][:, None].expand_as(product), product, "amax")

    def _join(self, seen: Seen, largest: Tensor) -> None:
        """Take the maximum with what was seen before: a module may run several times, an expert is part of a site."""
        site = seen.site
        if site.name not in self.maxima:
            self.maxima[site.name] = largest.new_full((len(largest), site.width), -torch.inf)
        part = self.maxima[site.name][:, seen.first : seen.first + largest.shape[-1]]
        torch.maximum(part, largest.to(part.device), out=part)

    def _stream_of(self, seen: Seen) -> tuple[Stream, Callable[[Tensor], Tensor]]:
        """The stream whose tokens an activation belongs to, told by its shape, and how to make it (rows, tokens, ...).

        Most layers see (rows, tokens, width); some (rows · tokens, width), (rows, 1, tokens, width) or (tokens, rows,
        width).
        """
        shape = tuple(seen.values.shape)
        if len(shape) == 2:
            stream = self._stream_of_count(seen, shape[0])
            return stream, lambda values: values.reshape(*stream.shape, -1)
        if stream_or_none := self.streams.get((shape[0], shape[1])):
            return stream_or_none, lambda values: values
        if len(shape) == 4 and shape[1] == 1 and (stream_or_none := self.streams.get((shape[0], shape[2]))):
            return stream_or_none, lambda values: values.squeeze(1)
        if stream_or_none := self.streams.get((shape[1], shape[0])):
            return stream_or_none, lambda values: values.transpose(0, 1)
        raise self._unknown(seen)

    def _stream_of_count(self, seen: Seen, count: int) -> Stream:
        """The stream of so many rows times tokens."""
        matching = [stream for (rows, tokens), stream in self.streams.items() if rows * tokens == count]
        if len(matching) != 1:
            raise self._unknown(seen)
        return matching[0]

    def _unknown(self, seen: Seen) -> _UnknownTokensError:
        expected = ", ".join(f"{rows}x{tokens}" for rows, tokens in self.streams)
        return _UnknownTokensError(f"{seen.site.name} gives {tuple(seen.values.shape)}, expected tokens {expected}")


def _product(activation: Tensor, gradient: Tensor) -> Tensor:
    return activation.float() * gradient.float()
