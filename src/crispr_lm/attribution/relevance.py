"""Skill relevance: activation x gradient of every watched neuron, tokens aggregated as gradients arrive.

Knows shapes of activations (`packing.Stream`) and hooks; knows no model as a whole and no prompt. Equation 3 of
``docs/method.md``, without P(ŷ), which `bias_influence` multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError
from crispr_lm.inference.packing import Stream
from crispr_lm.model.hooks import Seen
from crispr_lm.model.neuron_sites import NeuronSite


class UnknownTokensError(CrisprError):
    """An activation's shape does not tell which tokens of which prompt it belongs to."""


class ChangedInPlaceError(CrisprError):
    """The model has written into an activation after it was seen."""


TokenAggregation = Literal["max", "sum"]
"""How a prompt's tokens are made one number: the largest of them (the paper), or all together."""


@dataclass(frozen=True)
class _Aggregation:
    """How tokens are aggregated.

    Attributes:
        none: What tokens that do not count are set to, and what there is before the first.
        over: Aggregates a dimension of a tensor.
        scatter: PyTorch's name for it, where tokens are routed to experts.
        join: Of two aggregates.
    """

    none: float
    over: Callable[[Tensor, int], Tensor]
    scatter: Literal["amax", "sum"]
    join: Callable[[Tensor, Tensor], Tensor]


AGGREGATIONS: dict[TokenAggregation, _Aggregation] = {
    "max": _Aggregation(-torch.inf, torch.amax, "amax", torch.maximum),
    "sum": _Aggregation(0.0, torch.sum, "sum", torch.add),
}


class Relevance:
    """Watches activations in the forward pass and aggregates activation x gradient over tokens in each backward pass.

    Only one number per prompt and neuron is kept; nothing grows with the number of tokens.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        token_aggregation: TokenAggregation = "max",
        *,
        alone: bool = False,
        copy: bool = False,
    ) -> None:
        """Take the streams of a batch.

        Args:
            streams: What activations look like.
            token_aggregation: What is taken of a prompt's tokens.
            alone: The batch is one unpadded prompt with one answer, so that every token counts, whatever its place.
            copy: Let the model go on with copies, because it writes into its layers' outputs.
        """
        self.streams = {stream.shape: stream for stream in streams}
        self.aggregation = AGGREGATIONS[token_aggregation]
        self.alone = alone
        self.copy = copy
        self.options: Tensor  # of the backward pass that runs
        self.found: dict[str, Tensor] = {}
        self.places: dict[tuple[tuple[int, int], torch.device], tuple[Tensor | None, Tensor]] = {}

    def see(self, seen: Seen) -> Tensor:
        """Register the reduction of this activation's gradient."""
        values = seen.values
        if not values.requires_grad:
            # Parameters are frozen, so the graph starts here: at the first neurons of the model.
            values = values.detach().requires_grad_(True)
        # What the hook holds has no graph: the graph holds the hook, and the two would never be freed.
        activation = values.detach()  # shares memory
        version = activation._version
        site, first = seen.site, seen.first
        reduce = self._reduction(seen, activation)
        del seen

        def arrived(gradient: Tensor) -> None:
            if activation._version != version:
                raise ChangedInPlaceError(f"module {site.name}: its output is changed in place")
            self._join(site, first, reduce(gradient))

        values.register_hook(arrived)
        return values.clone() if self.copy else values

    def backward(self, scores: Tensor, options: Tensor, *, keep_graph: bool) -> Mapping[str, Tensor]:
        """Return max (or sum) over counted t of h_t · ∂s(a)/∂h_t: module name to float32 (prompts, neurons).

        A neuron that runs for none of a prompt's tokens (of an expert that is given none) has 0.

        Args:
            scores: (options of the batch,), with graph.
            options: int64 (prompts,), the number of each prompt's answer a.
            keep_graph: Whether another backward pass follows.
        """
        self.options, self.found, self.places = options, {}, {}
        # Prompts do not see each other, so the gradient of the sum is each prompt's own gradient.
        scores[options.to(scores.device)].sum().backward(retain_graph=keep_graph)
        return {name: values.masked_fill(values == -torch.inf, 0) for name, values in self.found.items()}

    def _reduction(self, seen: Seen, activation: Tensor) -> Callable[[Tensor], Tensor]:
        """How to get from an activation's gradient to the aggregate of counted tokens, (prompts, units)."""
        tokens = seen.tokens
        if self.alone:
            whole = tokens is None
            return lambda gradient: self._aggregate_alone(activation, gradient, whole=whole)
        if tokens is not None:
            stream = self._stream_of_count(seen, seen.token_count)
            return lambda gradient: self._aggregate_routed(stream, tokens, activation, gradient)
        stream, arrange = self._stream_of(seen)
        return lambda gradient: self._aggregate(stream, arrange(activation), arrange(gradient))

    def _aggregate(self, stream: Stream, activation: Tensor, gradient: Tensor) -> Tensor:
        """Aggregate of counted tokens, (prompts, units), of (rows, tokens, ..., units).

        There are dimensions between where a layer runs several times per token.
        """
        rows, uncounted = self._answers_in(stream, activation.device)
        if rows is not None:
            activation, gradient = activation[rows], gradient[rows]
        product = _product(activation, gradient)
        of_token = product.flatten(0, 1).index_fill_(0, uncounted, self.aggregation.none)
        return self.aggregation.over(of_token.reshape(product.shape).flatten(1, -2), 1)

    def _answers_in(self, stream: Stream, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """Rows of a stream that hold the answers (None for all), and in them the flat indices of tokens not counted.

        Found once per backward pass and device.
        """
        if (stream.shape, device) not in self.places:
            options = self.options.to(stream.rows.device)
            rows = stream.rows[options].to(device) if stream.shape[0] != len(options) else None
            self.places[stream.shape, device] = rows, (~stream.counted[options]).flatten().nonzero()[:, 0].to(device)
        return self.places[stream.shape, device]

    def _aggregate_alone(self, activation: Tensor, gradient: Tensor, *, whole: bool) -> Tensor:
        """Aggregate of all tokens, (1, units), but for those that the model itself has appended as padding.

        `whole` says that all tokens are there, not those alone that an expert was given.
        """
        product = _product(activation, gradient)
        if whole and product.dim() == 3 and 1 in product.shape[:2]:
            product = product.flatten(0, 1)[: max(tokens for _, tokens in self.streams)]
        return self.aggregation.over(product.flatten(0, -2), 0)[None]

    def _aggregate_routed(self, stream: Stream, tokens: Tensor, activation: Tensor, gradient: Tensor) -> Tensor:
        """Aggregate of the counted tokens of those an expert was given, (prompts, units); `none` if there is none."""
        options = self.options.to(tokens.device)
        prompt_of_row = torch.full((stream.shape[0],), -1, device=tokens.device)
        prompt_of_row[stream.rows.to(tokens.device)[options]] = torch.arange(len(options), device=tokens.device)
        prompt = prompt_of_row[tokens // stream.shape[1]]
        counted = stream.counted.to(tokens.device)[options][prompt, tokens % stream.shape[1]] & (prompt >= 0)
        product = _product(activation[counted], gradient[counted])
        found = torch.full((len(options), product.shape[-1]), self.aggregation.none, device=product.device)
        return found.scatter_reduce(0, prompt[counted][:, None].expand_as(product), product, self.aggregation.scatter)

    def _join(self, site: NeuronSite, first: int, found: Tensor) -> None:
        """Join with what was seen before: a module may run several times, an expert is part of a site."""
        if site.name not in self.found:
            self.found[site.name] = found.new_full((len(found), site.width), self.aggregation.none)
        part = self.found[site.name][:, first : first + found.shape[-1]]
        part.copy_(self.aggregation.join(part, found.to(part.device)))

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

    def _unknown(self, seen: Seen) -> UnknownTokensError:
        expected = ", ".join(f"{rows}x{tokens}" for rows, tokens in self.streams)
        return UnknownTokensError(f"{seen.site.name} gives {tuple(seen.values.shape)}, expected tokens {expected}")


def _product(activation: Tensor, gradient: Tensor) -> Tensor:
    return activation.float() * gradient.float()
