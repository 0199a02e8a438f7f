"""Attribution against one sequence per answer, over the number of options: measured, and by counting passes.

Counted in tokens through a forward pass; a backward pass of activations costs as much again, one of weights once more:

    theirs = every option's sequence once, and those of two answers forwards and backwards
    ours   = the packed prompt with all its options once forwards and twice backwards
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import peers
from crispr_lm.attribution.bias_influence import frozen, influence_of
from crispr_lm.inference.packing import packed_length
from crispr_lm.inference.prompts import EncodedPrompt
from crispr_lm.model.neuron_sites import find_sites
from speed_cases import Setting

COUNTS = (2, 3, 5, 10)

BACKWARD = {"frozen": 1, "trained": 2}
"""Cost of a backward pass in forward rounds: of activations alone, or of weights too."""


@dataclass(frozen=True)
class OptionsRow:
    """One number of options: ratios theirs over ours, with weights frozen and with weights that take gradients."""

    options: int
    measured: dict[str, float]
    arithmetic: dict[str, float]


def by_options(setting: Setting) -> list[OptionsRow]:
    """Time both ways on prompts with 2 to 10 options; those that a prompt lacks are taken from other prompts."""
    lm, prompts = setting.lm, setting.prompts
    sites = find_sites(lm.model, "linear")
    pool = list({tuple(ids): ids for prompt in prompts for ids in prompt.option_ids}.values())
    rows = []
    for count in COUNTS:
        chosen = [_with_options(prompt, pool, count) for prompt in prompts[: setting.peer_examples]]

        def ours(chosen: Sequence[EncodedPrompt] = chosen) -> None:
            with frozen(lm.model):
                influence_of(lm, chosen, [0] * len(chosen), sites)

        def theirs(train_weights: bool, chosen: Sequence[EncodedPrompt] = chosen) -> None:
            for prompt in chosen:
                peers.hooked_autograd(lm, sites, prompt, 0, train_weights)

        contenders: dict[str, Callable[[], object]] = {
            "ours": ours,
            "frozen": partial(theirs, False),
            "trained": partial(theirs, True),
        }
        times = setting.times(contenders, slow=True)
        rows.append(
            OptionsRow(
                count,
                {way: times.ratio(way, "ours") for way in BACKWARD},
                {way: _arithmetic(chosen, backward) for way, backward in BACKWARD.items()},
            )
        )
    return rows


def section(rows: Sequence[OptionsRow]) -> str:
    """The rows as Markdown, with the reason for them."""
    lines = [
        f"| {row.options} | "
        + " | ".join(f"{row.measured[way]:.2f} | {row.arithmetic[way]:.2f}" for way in ("trained", "frozen"))
        + " |"
        for row in rows
    ]
    table = "\n".join(lines)
    return f"""## Why not four times: the arithmetic, over the number of options

Whoever attributes with one sequence per answer needs, for k options, k forward passes to find the biased answer,
and then a forward and a backward pass for it and for the right answer. A backward pass that reaches activations
alone costs about a forward pass; where weights take gradients too it costs two. That makes k + 2 · 2 passes with
frozen weights, and k + 2 · 3 with weights as they are loaded. Ours is one forward pass of the prompt with all its
options as branches and two backward passes: three passes, which grow only by the options' own tokens. So the
arithmetic gives (k + 4) / 3 and (k + 6) / 3: 2.3 and 3.0 for the three options of BBQ. Four times takes eight
options with frozen weights, six with weights as loaded.

What could still be left out of the three passes (computed for 32 questions of BBQ, not built): reading the
instruction that all prompts begin with once, 11 % of the work; the branches of options that need no gradient, 1 %;
in the last of thirty blocks all tokens but those that predict, 3 %. Together they would make of 2.3 some 2.7.

Measured with more options, those that a prompt lacks taken from other prompts; the arithmetic counts the tokens of
these very prompts.

| options | weights as loaded: measured | by arithmetic | weights frozen: measured | by arithmetic |
| --- | --- | --- | --- | --- |
{table}
"""


def _with_options(prompt: EncodedPrompt, pool: Sequence[list[int]], count: int) -> EncodedPrompt:
    others = [ids for ids in pool if ids not in prompt.option_ids]
    return EncodedPrompt(prompt.prompt_ids, [*prompt.option_ids, *others][:count])


def _arithmetic(prompts: Sequence[EncodedPrompt], backward: int) -> float:
    """Tokens through passes, theirs over ours; the two answers are taken to be as long as the mean."""
    theirs = ours = 0.0
    for prompt in prompts:
        lengths = [len(prompt.prompt_ids) + len(ids) - 1 for ids in prompt.option_ids]
        theirs += sum(lengths) + 2 * (1 + backward) * sum(lengths) / len(lengths)
        ours += 3 * packed_length(prompt)
    return theirs / ours
