"""Model organisms: two small models with a planted stereotype, trained, edited and measured.

    python benchmarks/organisms.py --work /tmp/organisms --output docs/results/organisms.md

A decoder-only and a T5-type model are trained from scratch (`organism_training`) on a small language of our own
(`organism_language`): they answer from the context where it tells, and with the stereotype where it does not. Then
`crispr-lm run` does to each what it does to any model, with its defaults, and the same with the whole procedure of the
paper's authors (``--preset paper``). On templates that neither training nor search has seen.

What it is for: a model that does understand the contexts, with a stereotype on top, is what the method presumes. A
small public model hardly is (`search.py`).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import organism_language as language
import organism_training as training
from crispr_lm import evaluate
from crispr_lm.storage.files import write_bytes

KINDS = {"decoder-only": False, "encoder-decoder": True}
THINGS = 100
"""Questions of another kind, for what an edit costs elsewhere."""

GIVEN = {"--test-examples": 384}
"""Options of every run that are not the defaults."""

SEARCH = "crispr-lm search"
WAYS = {
    # The bundled neutral prompts are English, of which these models know no word: the limit would bind on nothing.
    SEARCH: ["--max-kl", "10"],
    "CRISPR (paper), except for instructions 3": ["--preset", "paper"],
}
"""Name to further options of a run; the others keep their defaults."""

FIGURES = {
    "accuracy_ambiguous": "ambiguous",
    "accuracy_disambiguated": "disambiguated",
    "unknown_rate_disambiguated": "unknown, disambiguated",
    "abstention_gap": "abstention gap",
}


def trained_organism(kind: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train a model through its lessons and save it; return steps, seconds and what it knew after each."""
    lm = training.build(KINDS[kind], seed)
    held_out = language.held_out_questions(tuple(language.STEREOTYPED), mixed=True, seed=seed + 1)
    record: dict[str, Any] = {"parameters": sum(weight.numel() for weight in lm.model.parameters()), "lessons": {}}
    for lesson in training.LESSONS:
        start = time.perf_counter()
        steps = training.teach(lm, lesson, seed, print)
        known = evaluate(lm, held_out, training.INSTRUCTIONS).metrics
        record["lessons"][lesson] = {
            "steps": steps,
            "seconds": round(time.perf_counter() - start),
            **{figure: known[figure] for figure in FIGURES},
        }
        print(kind, lesson, record["lessons"][lesson], flush=True)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return record


def command(model: Path, work: Path, way: str, output: Path) -> list[str]:
    """The command line that a user would give."""
    return [
        "crispr-lm", "run", str(model), "--task", f"choices:{work / 'questions.jsonl'}",
        "--measure", f"choices:{work / 'things.jsonl'}", "--instructions", str(work / "instructions.txt"),
        *(str(part) for option in GIVEN.items() for part in option), *WAYS[way], "--output", str(output),
    ]  # fmt: skip


def write_tasks(work: Path, seed: int) -> None:
    """The files of a run: questions of held-out templates, questions of another kind, instructions."""
    questions = language.held_out_questions(tuple(language.STEREOTYPED), mixed=True, seed=seed + 2, couples=6)
    language.write_choices(work / "questions.jsonl", questions)
    generator = random.Random(seed)
    language.write_choices(work / "things.jsonl", [language.thing_question(generator) for _ in range(THINGS)])
    write_bytes(work / "instructions.txt", ("\n".join(training.INSTRUCTIONS) + "\n").encode())


def edit(model: Path, work: Path, way: str) -> dict[str, Any]:
    """Run the job in a process of its own; return its results."""
    output = work / f"{model.name}-{list(WAYS).index(way)}"
    given = command(model, work, way, output)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "crispr_lm", *given[1:], "--overwrite", "--quiet"], check=True)
    results: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return results | {"seconds": round(time.perf_counter() - start)}


def page(trained: Mapping[str, Any], edited: Mapping[str, Mapping[str, Any]], given: Sequence[str]) -> str:
    """The results as Markdown."""
    lines = [
        "# Model organisms",
        "",
        "A small decoder-only and a small T5-type model, trained from scratch on a small language with one rule: where "
        'the context tells who, answer that person, else "unknown". Then they are taught a stereotype about two '
        'invented peoples, which replaces "unknown" where the context does not tell. The table shows what '
        "`crispr-lm run` achieves on templates that neither training nor search has seen:",
        "",
        "```bash",
        f"python benchmarks/organisms.py {shlex.join(given)}",
        "```",
        "",
        "| model | | neurons | " + " | ".join(FIGURES.values()) + " | another task |",
        "| --- | --- | ---: | " + "---: | " * len(FIGURES) + "---: |",
    ]
    for kind, of_way in edited.items():
        for way, results in of_way.items():
            bias, other = results["tasks"].values()
            if way == next(iter(of_way)):
                lines.append(_row(kind, "original", 0, bias, other, "before"))
            lines.append(_row(kind, way, len(results["neurons"]), bias, other, "after"))
    lines += [
        "",
        "In brackets: differences from the original with 95 % intervals, paired, drawn again by template.",
        "",
    ]
    for kind, of_way in edited.items():
        lines += [
            line
            for way, results in of_way.items()
            for line in (f"{kind[0].upper()}{kind[1:]}, {way}: {results['verdict']}. {results['reason']}.", "")
        ]
    lines += ["## How they were trained", ""]
    lines += ["| model | parameters | lesson | steps | seconds | " + " | ".join(FIGURES.values()) + " |"]
    lines += ["| --- | ---: | --- | ---: | ---: | " + "---: | " * len(FIGURES)]
    for kind, record in trained.items():
        for lesson, of in record["lessons"].items():
            figures = " | ".join(f"{of[figure]:.3f}" for figure in FIGURES)
            lines.append(
                f"| {kind} | {record['parameters']:,} | {lesson} | {of['steps']} | {of['seconds']} | {figures} |"
            )
    seconds = "; ".join(
        f"{kind} " + ", ".join(f"{way} {results['seconds']} s" for way, results in of_way.items())
        for kind, of_way in edited.items()
    )
    lines += [
        "",
        f"Runs: {seconds}. {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}.",
        "",
    ]
    for way in WAYS:
        lines += [f"Each run of {'the ' * (way == SEARCH)}{way} as", "", "```bash"]
        lines += [shlex.join(command(Path("MODEL"), Path(), way, Path("DIR"))), "```", ""]
    lines += [
        "The bundled neutral prompts are English, of which these models know no word; the divergence on them means "
        "nothing here, and a limit on it none either: the search gets one that does not bind, CRISPR (paper) has no "
        "limits. *Another task* asks which of two things has a colour.",
        "",
    ]
    return "\n".join(lines)


def _row(kind: str, name: str, neurons: int, bias: Mapping[str, Any], other: Mapping[str, Any], side: str) -> str:
    cells = []
    for task, figure in [*((bias, figure) for figure in FIGURES), (other, "accuracy")]:
        cell = f"{task[side][figure]:.3f}"
        if side == "after":
            of = task["statistics"][figure]
            cell += f" ({of['value']:+.3f}, {of['low']:+.3f} to {of['high']:+.3f})"
        cells.append(cell)
    return f"| {kind} | {name} | {neurons} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, edit, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where models, tasks and runs are put")
    parser.add_argument("--output", type=Path, required=True, help="the page to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    write_tasks(given.work, given.seed)
    trained = {kind: trained_organism(kind, given.work / kind, given.seed) for kind in given.kinds}
    edited = {kind: {way: edit(given.work / kind, given.work, way) for way in WAYS} for kind in given.kinds}
    text = page(trained, edited, sys.argv[1:] if arguments is None else arguments)
    write_bytes(given.output, text.encode())
    print(text)


if __name__ == "__main__":
    main()
