"""How fast are scoring and attribution, against what others run and against the arithmetic itself?

    make bench                                                  # the bundled questions
    python benchmarks/speed.py --task bbq:path/to/bbq           # official BBQ files
    python benchmarks/speed.py --only limit candidate --rounds 7

Everything is timed in turn in one process on one model, after a round that does not count; the table has medians over
rounds. Writes docs/results/speed.md and a plot of the cost against examples, tokens and layers. Needs the extra
`benchmark` (lm-eval, Captum, matplotlib).
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import torch

import crispr_lm
from crispr_lm.tasks import load_task, sample
from speed_cases import CASES, Line, Setting, growth
from speed_options import by_options, section
from stopwatch import CLOCKS

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def table(lines: Sequence[Line]) -> str:
    """The lines as Markdown."""
    rows = ["| what | ratio | target | | figures |", "| --- | --- | --- | --- | --- |"]
    for line in lines:
        verdict = "reached" if line.reached else "**missed**"
        rows.append(f"| {line.what} | {line.ratio:.2f} | {line.target} | {verdict} | {line.figures} |")
    return "\n".join(rows)


def page(lines: Sequence[Line], options: str, linear: str, given: argparse.Namespace, arguments: Sequence[str]) -> str:
    """The page ``docs/results/speed.md``."""
    packages = ("torch", "transformers", "lm-eval", "captum")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    threads = f"{given.threads} thread{'s' if given.threads > 1 else ''} on {os.cpu_count()} cores"
    command = shlex.join(["python", "benchmarks/speed.py", *arguments])
    clock = (
        ""
        if given.clock == "wall"
        else ("\nTimes are processor seconds of this one process, not seconds on the wall: others used the machine.\n")
    )
    slow = f" ({given.slow_rounds} for hooks, Captum and growth)" if given.slow_rounds else ""
    return f"""# Speed

`{command}`

{given.model} in {given.dtype}, {given.examples} questions of {given.task}.
Medians of {given.rounds} rounds in turn{slow}.
{device}, {threads}, {psutil.virtual_memory().total / 2**30:.0f} GiB; Python {platform.python_version()}, {versions}.
{clock}
{table(lines)}

{options}
{linear}
"""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def plot(grown: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> str:
    """Plot cost against examples, tokens and layers; returns a Markdown paragraph with how straight the lines are."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(grown), figsize=(9, 2.8), layout="constrained")
    told = []
    for axis, (name, pairs) in zip(axes, grown.items(), strict=True):
        amounts, seconds = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
        slope, start = np.polyfit(amounts, seconds, 1)
        explained = 1 - np.var(seconds - (slope * amounts + start)) / np.var(seconds)
        axis.plot(amounts, seconds, "o")
        axis.plot([0, amounts.max()], [start, start + slope * amounts.max()], "-", linewidth=1)
        axis.set(xlabel=name, ylabel="seconds", ylim=(0, None), xlim=(0, None))
        told.append(f"{name} {explained:.4f}")
    figure.savefig(path, dpi=130)
    return (
        f"Cost of attribution against examples, tokens of a prompt and layers of the model, with straight lines; "
        f"share of the variance that the line explains: {', '.join(told)}.\n\n![cost]({path.name})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every case, print the table, write the page."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="builtin:smollm2")
    parser.add_argument("--task", default="builtin:everyday")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--peer-examples", type=int, default=4, help="examples that slow peers are timed on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, help="rounds where peers are slow; as many as --rounds if not given")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu where others use the machine (1 thread)")
    parser.add_argument("--only", nargs="+", choices=[*CASES, "options", "growth"], help="time these and write no page")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    task = load_task(given.task)
    setting = Setting(
        lm=crispr_lm.load_model(given.model, dtype=given.dtype, device=given.device),
        examples=sample(task.examples, given.examples, 0),
        instruction=task.instructions[0],
        rounds=given.rounds,
        slow_rounds=given.slow_rounds or given.rounds,
        clock=given.clock,
        peer_examples=min(given.peer_examples, given.examples),
    )
    lines = []
    for name in given.only or CASES:
        if name in CASES:
            lines += CASES[name](setting)
            print(table(lines).splitlines()[-1] if len(lines) > 1 else table(lines), flush=True)
    options = ""
    if given.only is None or "options" in given.only:
        options = section(by_options(setting))
    linear = ""
    if given.only is None or "growth" in given.only:
        given.output.mkdir(parents=True, exist_ok=True)
        linear = plot(growth(setting), given.output / "speed-growth.png")
    if given.only is None:
        (given.output / "speed.md").write_text(page(lines, options, linear, given, arguments), encoding="utf-8")
        print(f"written: {given.output / 'speed.md'}")
    print("\n".join(["", table(lines) if lines else "", options, linear]))


if __name__ == "__main__":
    main()
