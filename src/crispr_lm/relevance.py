"""Skill relevance: activation x gradient of every watched neuron, its maximum over tokens taken as gradients arrive.

Knows shapes of activations (`packing.Stream`) and hooks; knows no model as a whole and no prompt. Equation 3 of
``docs/method.md``, without P(ŷ), which `attribution` multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError
from crispr_lm.model.hooks import Seen
from crispr_lm.model.neurons import NeuronSite
from crispr_lm.packing import Stream


class UnknownTokensError(CrisprError):
    """An activation's shape does not tell which tokens of which prompt it belongs to."""


class ChangedInPlaceError(CrisprError):
    """The model has written into an activation after it was seen."""


class Relevance:
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
        self.options: Tensor  # of the backward pass that runs
        self.maxima: dict[str, Tensor] = {}
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
        """Return max over counted t of h_t · ∂s(a)/∂h_t: module name to float32 (prompts, neurons).

        A neuron that runs for none of a prompt's tokens (of an expert that is given none) has 0.

        Args:
            scores: (options of the batch,), with graph.
            options: int64 (prompts,), the number of each prompt's answer a.
            keep_graph: Whether another backward pass follows.
        """
        self.options, self.maxima, self.places = options, {}, {}
        # Prompts do not see each other, so the gradient of the sum is each prompt's own gradient.
        scores[options.to(scores.device)].sum().backward(retain_graph=keep_graph)
        return {name: values.masked_fill(values == -torch.inf, 0) for name, values in self.maxima.items()}

    def _reduction(self, seen: Seen, activation: Tensor) -> Callable[[Tensor], Tensor]:
        """How to get from an activation's gradient to the maximum over counted tokens, (prompts, units)."""
        tokens = seen.tokens
        if self.alone:
            whole = tokens is None
            return lambda gradient: self._largest_alone(activation, gradient, whole=whole)
        if tokens is not None:
            stream = self._stream_of_count(seen, seen.token_count)
            return lambda gradient: self._largest_routed(stream, tokens, activation, gradient)
        stream, arrange = self._stream_of(seen)
        return lambda gradient: self._largest(stream, arrange(activation), arrange(gradient))

    def _largest(self, stream: Stream, activation: Tensor, gradient: Tensor) -> Tensor:
        """Maximum over counted tokens, (prompts, units), of (rows, tokens, ..., units).

        There are dimensions between where a layer runs several times per token.
        """
        rows, uncounted = self._answers_in(stream, activation.device)
        if rows is not None:
            activation, gradient = activation[rows], gradient[rows]
        product = _product(activation, gradient)
        of_token = product.flatten(0, 1).index_fill_(0, uncounted, -torch.inf)
        return of_token.reshape(product.shape).flatten(1, -2).amax(dim=1)

    def _answers_in(self, stream: Stream, device: torch.device) -> tuple[Tensor | None, Tensor]:
        """Rows of a stream that hold the answers (None for all), and in them the flat indices of tokens not counted.

        Found once per backward pass and device.
        """
        if (stream.shape, device) not in self.places:
            options = self.options.to(stream.rows.device)
            rows = stream.rows[options].to(device) if stream.shape[0] != len(options) else None
            self.places[stream.shape, device] = rows, (~stream.counted[options]).flatten().nonzero()[:, 0].to(device)
        return self.places[stream.shape, device]

    def _largest_alone(self, activation: Tensor, gradient: Tensor, *, whole: bool) -> Tensor:
        """Maximum over all tokens, (1, units), but for those that the model itself has appended as padding.

        `whole` says that all tokens are there, not those alone that an expert was given.
        """
        product = _product(activation, gradient)
        if whole and product.dim() == 3 and 1 in product.shape[:2]:
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

    def _join(self, site: NeuronSite, first: int, largest: Tensor) -> None:
        """Take the maximum with what was seen before: a module may run several times, an expert is part of a site."""
        if site.name not in self.maxima:
            self.maxima[site.name] = largest.new_full((len(largest), site.width), -torch.inf)
        part = self.maxima[site.name][:, first : first + largest.shape[-1]]
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

    def _unknown(self, seen: Seen) -> UnknownTokensError:
        expected = ", ".join(f"{rows}x{tokens}" for rows, tokens in self.streams)
        return UnknownTokensError(f"{seen.site.name} gives {tuple(seen.values.shape)}, expected tokens {expected}")


def _product(activation: Tensor, gradient: Tensor) -> Tensor:
    return activation.float() * gradient.float()
