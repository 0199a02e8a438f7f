"""How many tokens keep a CPU busy: time per prompt against the number of tokens in a batch.

    python benchmarks/batch_size.py builtin:smollm2

What it prints is where `AUTO_TOKENS` of `inference.batching` comes from: the smallest budget within 5 % of the best.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch

import crispr_lm
from crispr_lm.inference import batching
from crispr_lm.inference.prompts import encode_all
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.tasks import load_task, sample
from stopwatch import CLOCKS, interleaved

BUDGETS = (256, 512, 1024, 2048, 4096)
"""Tokens in a batch that are tried."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every budget in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="builtin:smollm2")
    parser.add_argument("--task", default="builtin:everyday")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--examples", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    lm = crispr_lm.load_model(given.model, dtype=given.dtype, device="cpu")
    task = load_task(given.task)
    prompts = encode_all(lm, sample(task.examples, given.examples, 0), task.instructions[0])

    def with_budget(tokens: int) -> None:
        batching.AUTO_TOKENS["cpu"] = tokens
        prompt_scores(lm, prompts)

    times = interleaved({str(budget): partial(with_budget, budget) for budget in BUDGETS}, given.rounds, given.clock)
    best = min(times.median(str(budget)) for budget in BUDGETS)
    print(f"{given.model}, {lm.dtype}, {given.threads} threads, {len(prompts)} prompts of {given.task}")
    print("tokens in a batch   ms per prompt   of the best")
    for budget in BUDGETS:
        seconds = times.median(str(budget))
        print(f"{budget:17d}   {1000 * seconds / len(prompts):13.1f}   {seconds / best:11.2f}")


if __name__ == "__main__":
    main()
