"""Gate gradients: what closing every neuron would change of a loss, with an edit in place, from one pass each way.

Every neuron i has a gate g_i that its activations are multiplied by: 1 in the unedited model, 0 where the neuron is
eliminated. The gradient of a loss L with respect to the gates is activation x gradient, summed over tokens and prompts:

    ∂L/∂g_i = Σ over t of  h_i,t · ∂L/∂(g_i h_i,t)

It is there for eliminated neurons as well, whose activations are still computed. Closing gate i by c_i changes L by
−c_i · ∂L/∂g_i to first order.

Knows prompts as token ids and a model; knows no benchmark and no search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crispr_lm.attribution.bias_influence import frozen
from crispr_lm.inference.batching import BatchSize, ProgressCallback, batches, gradient_bytes_per_token
from crispr_lm.inference.forward import packed_scores, token_logits
from crispr_lm.inference.kv_cache import Beginnings
from crispr_lm.inference.layouts import beginning_read_once, behind_beginning, capabilities_of, pack, pack_alone
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.hooks import Seen, watching
from crispr_lm.model.neuron_sites import Neuron, NeuronKind, find_sites
from crispr_lm.model.numerics import finite
from crispr_lm.model.offload import recomputed, recomputed_layers
from crispr_lm.runtime import distributed

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

GATED = 2.0
"""How many times as much as `gradient_bytes_per_token` says is kept: beside every activation its product with the gate.
SmolLM2 in bfloat16 keeps 1.6 MB per token (twelve prompts of 135 tokens), of which that function says 0.8."""

Loss = Callable[[int, Tensor], Tensor]
"""The loss of a prompt: given its number and what the model says of it, a float32 scalar."""

Said = Callable[["LanguageModel", Sequence[EncodedPrompt]], list[Tensor]]
"""What a loss is of, differentiable, one float32 tensor per prompt."""


class Gates:
    """The gates of all neurons of some kinds, side by side in one vector.

    Attributes:
        count: Number of neurons N.
    """

    def __init__(self, lm: LanguageModel, kinds: Sequence[NeuronKind]) -> None:
        """Find the neurons.

        Raises:
            InputError: the model has no neurons of a kind.
        """
        self._lm = lm
        self._sites = [site for kind in kinds for site in find_sites(lm.model, kind)]
        self._ends = list(accumulate(site.width for site in self._sites))
        self.count = self._ends[-1]

    def neurons(self, indices: Tensor) -> list[Neuron]:
        """The neurons at these places of the vector, int64 (n,)."""
        sites = torch.searchsorted(torch.tensor(self._ends), indices, right=True).tolist()
        return [
            Neuron(self._sites[at].name, index - self._ends[at] + self._sites[at].width, self._sites[at].kind)
            for index, at in zip(indices.tolist(), sites, strict=True)
        ]

    def indices(self, neurons: Sequence[Neuron]) -> Tensor:
        """The places of these neurons, int64 (n,); the other way round than `neurons`."""
        starts = {(site.name, site.kind): end - site.width for site, end in zip(self._sites, self._ends, strict=True)}
        return torch.tensor([starts[neuron.module, neuron.kind] + neuron.index for neuron in neurons])

    def gradient(
        self,
        openness: Tensor,
        prompts: Sequence[EncodedPrompt],
        loss: Loss,
        said: Said | None = None,
        batch_size: BatchSize = "auto",
        progress: ProgressCallback | None = None,
    ) -> Tensor:
        """The gradient of the mean loss with respect to every gate: one forward and one backward pass per prompt.

        Args:
            openness: float32 (N,), the gates as they are.
            prompts: What the loss is the mean over.
            loss: Of one prompt.
            said: What the loss is given of a prompt: `option_scores` (the default) or `continuation_logits`.
            batch_size: Prompts in one pass; the gradient does not depend on it but for rounding.
            progress: Called with the number of prompts just finished.

        Returns:
            float32 (N,) on the CPU.

        Raises:
            CrisprError: a number is not finite.
        """
        lm, said = self._lm, said or option_scores
        total = torch.zeros(self.count, dtype=torch.float64)
        own = distributed.share([packed_length(prompt) for prompt in prompts])
        chosen = [prompts[index] for index in own]

        def work(indices: list[int]) -> None:
            def compute() -> Tensor:
                with self._placed(openness) as leaves:
                    of_prompts = said(lm, [chosen[index] for index in indices])
                    losses = [loss(own[index], values) for index, values in zip(indices, of_prompts, strict=True)]
                    found = torch.autograd.grad(torch.stack(losses).sum(), leaves, allow_unused=True)
                return torch.cat(
                    [
                        torch.zeros(site.width) if of_site is None else of_site.cpu()
                        for site, of_site in zip(self._sites, found, strict=True)
                    ]
                )

            total.add_(finite(lm, compute, lambda found: [found]))

        with frozen(lm.model), recomputed(lm.model), unfused_attention(lm):
            for indices in batches(lm, chosen, batch_size, work, bytes_per_token=gated_bytes_per_token(lm)):
                if progress is not None:
                    progress(len(indices))
        summed = distributed.summed({"gradient": total})["gradient"]
        return (summed / len(prompts)).float()

    @contextmanager
    def _placed(self, openness: Tensor) -> Iterator[list[Tensor]]:
        """Multiply activations by the gates while the block runs; yields the gates of every site as leaves."""
        leaves = [of_site.clone().requires_grad_(True) for of_site in openness.split(self._widths)]
        of_site = dict(zip(self._sites, leaves, strict=True))

        def multiply(seen: Seen) -> Tensor:
            gates = of_site[seen.site][seen.first : seen.first + seen.values.shape[-1]]
            gated: Tensor = seen.values * gates.to(seen.values)
            return gated

        with watching(self._sites, multiply):
            yield leaves

    @property
    def _widths(self) -> list[int]:
        return [site.width for site in self._sites]


def gated_bytes_per_token(lm: LanguageModel) -> float:
    """Rough number of bytes that a pass each way keeps per token, with a gate behind every neuron."""
    return GATED * gradient_bytes_per_token(lm)


def option_scores(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> list[Tensor]:
    """The scores of each prompt's options (equation 1), differentiable: float32 (options,) per prompt."""
    # Layers that are computed again have no cache to go on from.
    if shared := 0 if recomputed_layers(lm.model) else beginning_read_once(lm, prompts):
        scores = behind_beginning(lm, prompts, shared, Beginnings(lm))
        return list(scores.split([len(prompt.option_ids) for prompt in prompts]))
    if capabilities_of(lm).padding:
        packed = pack(lm, prompts)
        return list(packed_scores(lm, packed).split(packed.option_counts))
    return [
        torch.cat([packed_scores(lm, pack_alone(lm, prompt, number)) for number in range(len(prompt.option_ids))])
        for prompt in prompts
    ]


def continuation_logits(lm: LanguageModel, prompts: Sequence[EncodedPrompt]) -> list[Tensor]:
    """The logits along each prompt's only option, differentiable: float32 (tokens, vocabulary) per prompt."""
    if not capabilities_of(lm).padding:
        return [token_logits(lm, pack_alone(lm, prompt, 0)) for prompt in prompts]
    packed = pack(lm, prompts)
    logits, prompt_of_token = token_logits(lm, packed), packed.token_option
    return [logits[(prompt_of_token == number).to(logits.device)] for number in range(len(prompts))]


@contextmanager
def unfused_attention(lm: LanguageModel) -> Iterator[None]:
    """On a CPU compute attention step by step while the block runs.

    The backward pass of PyTorch's fused attention takes longer there: of prompts of 140 tokens a pass each way took
    1.37 times as long (SmolLM2-135M, bfloat16, one core).
    """
    used = getattr(lm.model.config, "_attn_implementation", None)
    if lm.device.type != "cpu" or used != "sdpa":
        yield
        return
    lm.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        lm.model.set_attn_implementation(used)
