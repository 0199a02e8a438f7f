"""What a thread that shares its core costs: the same prompts on 1 to all threads, beside other programs.

    python benchmarks/threads.py --rounds 3

Everything is timed in turn in one process, beside 0 to as many busy loops as there are cores. What else the machine
does meanwhile is measured too, and stands in the table: it need not be idle.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch

from crispr_lm import load_model, load_task
from crispr_lm.inference.prompts import encode
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.runtime.threads import observe_cores

LOOP = (sys.executable, "-c", "while True: pass")


def main() -> None:
    """Time it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin:smollm2")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    lm, task = load_model(given.model, device="cpu"), load_task("builtin:everyday", 1)
    prompts = [encode(lm, example, task.instructions[0]) for example in task.examples[: given.prompts]]
    cores = int(observe_cores().usable)
    print("busy loops | busy cores | threads | seconds | against 1 thread")
    for loops in range(cores + 1):
        seconds: dict[int, list[float]] = {count: [] for count in range(1, cores + 1)}
        busy = []
        for _ in range(given.rounds):
            others = [subprocess.Popen(LOOP) for _ in range(loops)]
            try:
                busy.append(observe_cores().busy)
                for count, taken in seconds.items():
                    torch.set_num_threads(count)
                    prompt_scores(lm, prompts[:4], 8)  # the first pass does not count
                    start = time.perf_counter()
                    prompt_scores(lm, prompts, 8)
                    taken.append(time.perf_counter() - start)
            finally:
                for other in others:
                    other.kill()
                    other.wait()
        for count, taken in seconds.items():
            ratios = sorted(several / one for several, one in zip(taken, seconds[1], strict=True))
            print(
                f"{loops} | {min(busy):.1f} to {max(busy):.1f} | {count} | {statistics.median(taken):.1f} | "
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
            )


if __name__ == "__main__":
    main()
