"""Activation x gradient of every neuron, reduced over the tokens of each prompt as gradients arrive.

Skill relevance (equation 3 of ``docs/method.md``) takes the largest token of one answer's, or their mean. One number is
kept per prompt and neuron, so that nothing grows with the number of tokens.

Knows shapes of activations (`packing.Stream`) and hooks; knows no model as a whole, no prompt and no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from crispr_lm.errors import CrisprError
from crispr_lm.inference.packing import Stream
from crispr_lm.model.hooks import Seen
from crispr_lm.model.neuron_sites import NeuronSite


class UnknownTokensError(CrisprError):
    """An activation's shape does not show which tokens of which prompt it belongs to."""


class ChangedInPlaceError(CrisprError):
    """The model has written into an activation after it was seen."""


TokenAggregation = Literal["max", "mean"]
"""How a prompt's tokens are made one number: the largest of them (the paper), or their mean (its ablation)."""

TOKEN_AGGREGATIONS: tuple[TokenAggregation, ...] = get_args(TokenAggregation)


class _Places(NamedTuple):
    """Which prompt each token of a stream counts for: its number, or the number of prompts where it counts for none."""

    prompt_of_token: Tensor
    """int64 (rows · tokens,)."""
    prompt_of_row: Tensor
    """int64 (rows,): a row's tokens count for one prompt, or for none."""
    uncounted: Tensor
    """int64 (n,), the tokens that count for none, as indices of `prompt_of_token`."""


class _Watched(torch.autograd.Function):
    """A copy of an activation. Its gradient is told, with the activation, which a checkpoint need not keep."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, arrived: Callable[[Tensor, Tensor], None]) -> Tensor:
        ctx.save_for_backward(values)
        ctx.arrived = arrived
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (activation,) = ctx.saved_tensors
        ctx.arrived(activation, gradient)
        return gradient, None


class ActivationGradients:
    """Watches activations in the forward pass and reduces activation x gradient over tokens in each backward pass."""

    def __init__(
        self,
        streams: Sequence[Stream],
        option_counts: Sequence[int],
        token_aggregation: TokenAggregation = "max",
        *,
        alone: bool = False,
        copy: bool = False,
        recomputed: bool = False,
    ) -> None:
        """Take what is known of a batch before it runs.

        Args:
            streams: What activations look like.
            option_counts: Per prompt the number of its options.
            token_aggregation: What is taken of a prompt's tokens.
            alone: The batch is one unpadded prompt with one option, so that every token counts, whatever its place.
            copy: Let the model go on with copies, because it writes into its layers' outputs.
            recomputed: Keep no activation: layers are computed again in the backward pass (`model.offload`).
        """
        self.streams = {stream.shape: stream for stream in streams}
        self.prompts = len(option_counts)
        self.prompt_of_option = torch.repeat_interleave(torch.arange(self.prompts), torch.tensor(option_counts))
        self.largest = token_aggregation == "max"
        self.alone = alone
        self.copy = copy
        self.recomputed = recomputed
        # Of the backward pass that runs:
        self.options: Tensor
        self.found: dict[NeuronSite, Tensor] = {}
        self.counts: dict[NeuronSite, Tensor] = {}  # of the tokens summed in `found`, for a mean
        self.places: dict[tuple[tuple[int, int], torch.device], _Places] = {}

    def see(self, seen: Seen) -> Tensor:
        """Register the reduction of this activation's gradient.

        Raises:
            UnknownTokensError: the activation has none of the batch's shapes.
        """
        values = seen.values
        if not values.requires_grad:
            # Parameters are frozen, so the graph starts here: at the first neurons of the model.
            values = values.detach().requires_grad_(True)
        add = self._adding(seen)
        site, first = seen.site, seen.first
        del seen

        def arrived(activation: Tensor, gradient: Tensor) -> None:
            product = activation.float() * gradient.float()
            if site not in self.found:
                none = -torch.inf if self.largest else 0.0
                self.found[site] = product.new_full((self.prompts + 1, site.width), none)
                self.counts[site] = product.new_zeros(0 if self.largest else (self.prompts + 1, site.width))
            # A module may run several times, and an expert is part of a site.
            units = slice(first, first + product.shape[-1])
            add(self.found[site][:, units], product)
            if not self.largest:
                add(self.counts[site][:, units], torch.ones_like(product))

        if self.recomputed:
            watched: Tensor = _Watched.apply(values, arrived)  # type: ignore[no-untyped-call]
            return watched
        # What the hook holds has no graph: the graph holds the hook, and the two would never be freed.
        kept = values.detach()  # shares memory
        version = kept._version

        def unchanged(gradient: Tensor) -> None:
            if kept._version != version:
                raise ChangedInPlaceError(f"module {site.name}: its output is changed in place")
            arrived(kept, gradient)

        values.register_hook(unchanged)
        return values.clone() if self.copy else values

    def backward(self, score: Tensor, options: Tensor | None = None, *, keep_graph: bool) -> dict[NeuronSite, Tensor]:
        """Return max (or mean) over counted tokens t of h_t · ∂score/∂h_t.

        Args:
            score: The sum of all prompts' scores. Prompts do not see each other, so that its gradient is each prompt's
                own gradient.
            options: int64 (n,), the options whose tokens count, numbered through the batch; None for all. The others'
                have no gradient, but a maximum must not take their zeros.
            keep_graph: Whether another backward pass follows.

        Returns:
            Per site float32 (prompts, neurons) on the CPU. A neuron that runs for none of a prompt's tokens (of an
            expert that is given none) has 0; a site that runs for none of the batch's has no entry.
        """
        self.options = torch.arange(len(self.prompt_of_option)) if options is None else options.cpu()
        self.found, self.counts, self.places = {}, {}, {}
        score.backward(retain_graph=keep_graph)
        if not self.largest:
            return {site: (sums / self.counts[site].clamp(min=1))[:-1].cpu() for site, sums in self.found.items()}
        found = {site: values[:-1].cpu() for site, values in self.found.items()}
        return {site: of.masked_fill(of == -torch.inf, 0) for site, of in found.items()}

    def _adding(self, seen: Seen) -> Callable[[Tensor, Tensor], None]:
        """How an activation's product (..., units) is joined to what was found before, (prompts + 1, units).

        The last row is for tokens that count for no prompt.
        """
        tokens, shape = seen.tokens, tuple(seen.values.shape)
        if self.alone:
            # A model may append padding by itself; an expert is given as many tokens as it is given.
            known = tokens is None and len(shape) == 3 and 1 in shape[:2]
            length = max(tokens for _, tokens in self.streams) if known else None
            return lambda found, product: self._join_row(found, product.flatten(0, -2)[:length])
        if tokens is not None:
            stream = self._stream_of_count(seen, seen.token_count)
            return lambda found, product: self._join(
                found, self._places_in(stream, tokens.device).prompt_of_token[tokens], product
            )
        stream, arrange = self._stream_of(seen)
        return lambda found, product: self._join_tokens(found, stream, arrange(product))

    def _join_row(self, found: Tensor, product: Tensor) -> None:
        """Join all tokens, (tokens, units), of the only prompt."""
        if self.largest:
            product = product.amax(0, keepdim=True)
        self._join(found, torch.zeros(len(product), dtype=torch.int64), product)

    def _join_tokens(self, found: Tensor, stream: Stream, product: Tensor) -> None:
        """Join the tokens of a stream, (rows, tokens, ..., units).

        There are dimensions between where a layer runs several times per token.
        """
        prompt_of_token, prompt_of_row, uncounted = self._places_in(stream, product.device)
        of_token = product.flatten(0, 1)
        if self.largest:
            # Row by row first: on a GPU many tokens' maxima in one place would wait for each other.
            of_token.index_fill_(0, uncounted, -torch.inf)
            of_row = of_token.reshape(product.shape).flatten(1, -2).amax(1)
            self._join(found, prompt_of_row, of_row)
        else:
            between = of_token.shape[1:-1].numel()
            self._join(found, prompt_of_token.repeat_interleave(between), of_token.flatten(0, -2))

    def _join(self, found: Tensor, prompts: Tensor, values: Tensor) -> None:
        """Join values (n, units) of these prompts, (n,)."""
        prompts, values = prompts.to(found.device), values.to(found.device)
        if self.largest:
            found.scatter_reduce_(0, prompts[:, None].expand_as(values), values, "amax")
        else:
            found.index_add_(0, prompts, values)

    def _places_in(self, stream: Stream, device: torch.device) -> _Places:
        """Where tokens of a stream count; found once per backward pass and device."""
        if (stream.shape, device) not in self.places:
            prompts = self.prompt_of_option[self.options][:, None]
            counted = torch.where(stream.counted.cpu()[self.options], prompts, self.prompts)
            rows = stream.rows.cpu()[self.options][:, None].expand_as(counted)
            # A row may hold several options, of one prompt: a token counts that counts for any of them.
            places = torch.full(stream.shape, self.prompts).scatter_reduce(0, rows, counted, "amin")
            uncounted = (places == self.prompts).flatten().nonzero()[:, 0]
            self.places[stream.shape, device] = _Places(
                places.flatten().to(device), places.amin(1).to(device), uncounted.to(device)
            )
        return self.places[stream.shape, device]

    def _stream_of(self, seen: Seen) -> tuple[Stream, Callable[[Tensor], Tensor]]:
        """The stream whose tokens an activation belongs to, by its shape, and how to make it (rows, tokens, ...).

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
