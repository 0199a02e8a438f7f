"""Baseline: a LoRA adapter trained on the same examples: what training reaches where elimination is limited.

    W := W + (α / r) · B A   in every linear layer but the head;   loss = −mean over examples of log softmax_c s(c) at y

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models* (ICLR 2022, arXiv 2106.09685), by PEFT. Trained on the
examples that the search takes gradients on (without a tuned search, those of the attribution), each asked under one
instruction. Of all epochs, the rule for numbers of neurons (`search.neuron_count`) chooses on the validation split.
Elimination may only switch neurons off; this may change every linear layer.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from crispr_lm.baselines.adapter import RANK, Adapter, adapted
from crispr_lm.baselines.errors import NotRunError
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.model.offload import is_offloaded
from crispr_lm.search.neuron_count import Candidate, ChoosePart, validation_part
from crispr_lm.tasks.base import sample

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

EXAMPLES = 96
"""Trained on at most; as many as the search's `validation_examples`."""

EPOCHS = 4
"""Times that every example is trained on. The best epoch is taken, so that more cost time alone."""

BATCH = 8
"""Examples in one step of the optimizer, few enough for any device that attributes."""

RATE = 3e-4
"""Step size of AdamW; those in the LoRA paper lie between 1e-4 and 5e-4."""


def lora(fit: Fit, _draw: int) -> Treatment:
    """Train an adapter for some epochs and take the best one.

    Raises:
        NotRunError: PEFT is not installed, or the model's weights are shortened or not in memory.
    """
    if importlib.util.find_spec("peft") is None:
        raise NotRunError("PEFT is not installed; pip install 'crispr-lm[lora]' brings it")
    if fit.lm.quantized or is_offloaded(fit.lm.model):
        raise NotRunError(
            "it trains a model whose weights are whole and in memory; load it with --quantize none, and not with "
            "--device offload"
        )
    name, settings = fit.parts.task.name, fit.settings
    drawn = sample(fit.parts.gradients or fit.parts.attribution, EXAMPLES, settings.seed)
    asked = validation_part(fit.lm, name, drawn, fit.instructions, settings.seed)
    candidates, kept = [fit.unedited], list[Adapter]()
    # A candidate's number is here that of its epoch; 0 is the unedited model, as in the search.
    for epoch, adapter in enumerate(_trained(fit, asked), start=1):
        kept.append(adapter)
        candidates.append(Candidate(epoch, {name: fit.on_choose_part()}))
    chosen, recommended = fit.best_of(candidates)
    return Treatment(
        adapter=kept[chosen.neurons - 1],
        details={
            "rank": RANK,
            "rate": RATE,
            "examples": len(asked.examples),
            "epoch": chosen.neurons,
            "tried": [candidate.metrics[name] for candidate in candidates],
        },
        recommended=recommended,
    )


def _trained(fit: Fit, asked: ChoosePart) -> Iterator[Adapter]:
    """The adapter after every epoch, in place while the caller measures it."""
    from peft import get_peft_model_state_dict

    order, generator = list(range(len(asked.examples))), random.Random(fit.settings.seed)
    with adapted(fit.lm, fit.settings.seed) as wrapped:
        parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=RATE)
        for epoch in range(1, EPOCHS + 1):
            generator.shuffle(order)
            with fit.progress.step(f"Training an adapter, epoch {epoch} of {EPOCHS}", len(order)) as advance:
                for first in range(0, len(order), BATCH):
                    batch = order[first : first + BATCH]
                    _step(fit.lm, asked, batch, optimizer)
                    advance(len(batch))
            weights = get_peft_model_state_dict(wrapped)
            yield Adapter({name: tensor.detach().clone() for name, tensor in weights.items()})


def _step(lm: LanguageModel, asked: ChoosePart, batch: Sequence[int], optimizer: torch.optim.Optimizer) -> None:
    """One step: cross-entropy of the right option among the options."""
    prompts = [asked.prompts[index] for index in batch]
    with torch.enable_grad():
        scores = packed_scores(lm, pack(lm, prompts)).split([len(prompt.option_ids) for prompt in prompts])
        losses = [
            -row.log_softmax(dim=0)[asked.examples[index].answer] for row, index in zip(scores, batch, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
    optimizer.step()
