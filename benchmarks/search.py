"""What the search finds on a real model: the command's defaults, category by category and split by split.

    python benchmarks/search.py run builtin:smollm2 ../shared/data/bbq --output out
    python benchmarks/search.py table out --output docs/results/search.md

`run` calls `crispr_lm.search_edit` with the defaults of ``crispr-lm run`` for every category file of the folder, every
seed of the split and every limit on the loss of disambiguated accuracy, and measures the edit on the test split.
Each search leaves a file in `out` as it ends, and its trials as they finish: the same command resumes.

    python benchmarks/search.py run builtin:smollm2 ../shared/data/bbq --output out --rounds 6
    python benchmarks/search.py run builtin:smollm2 ../shared/data/bbq --output out --change loop.CAUTION=0
    python benchmarks/search.py ablation out --output docs/results/ablation.md

`--rounds` and `--change`, which sets a constant of a module of `crispr_lm.search`, are for the ablation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from crispr_lm import Checkpoint, Edit, Limits, SearchOptions, Trial, load_model, load_task, search_edit
from crispr_lm.evaluation.evaluation import Evaluation, evaluation_of
from crispr_lm.evaluation.kl_divergence import divergence, reference_distribution
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.question_answering import QUESTION_ANSWERING
from crispr_lm.metrics.statistics import paired_differences
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.search.cost import search_passes
from crispr_lm.search.evaluator import random_neurons
from crispr_lm.search.neuron_count import ChoosePart, validation_part
from crispr_lm.search.options import search_parts
from crispr_lm.search.side_effects import asked_aside
from crispr_lm.storage.files import append_line, write_json
from crispr_lm.storage.records import read_lines
from crispr_lm.tasks.base import Task, neutral_prompts, sample

CATEGORIES = ("Age", "Nationality", "Physical_appearance", "Religion", "Sexual_orientation")

BEGIN, END = "<!-- table -->", "<!-- end of table -->"

QUESTIONS = 300
"""Of the test split, at most: all templates, both conditions, each question under one instruction."""

METRICS = ("accuracy_ambiguous", "accuracy_disambiguated", "abstention_gap", "bias_score_disambiguated")


def run(arguments: argparse.Namespace) -> None:
    """Search in every category, split and limit that has no file yet."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    lm = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    changed = dict(change.split("=") for change in arguments.change)
    for name, value in changed.items():
        module, constant = name.split(".")
        place = importlib.import_module(f"crispr_lm.search.{module}")
        setattr(place, constant, type(getattr(place, constant))(value))
    if arguments.rounds != SearchOptions().rounds:
        changed["rounds"] = str(arguments.rounds)
    for category in arguments.categories:
        for seed in arguments.seeds:
            task = load_task(f"bbq:{arguments.data / category}.jsonl")
            for loss in arguments.limits:
                changes = [f"{name}={value}" for name, value in changed.items()]
                output = arguments.output / f"{'.'.join([category, str(seed), f'{loss:g}', *changes])}.json"
                if not output.exists():
                    options = replace(SearchOptions(), seed=seed, rounds=arguments.rounds)
                    found = searched(lm, task, options, loss, output.with_suffix(".trials.jsonl"))
                    write_json(output, {**found, "changed": changed})
                    print(output.name, json.loads(output.read_text())["reason"], flush=True)


def searched(lm: LanguageModel, task: Task, options: SearchOptions, loss: float, record: Path) -> dict[str, Any]:
    """One search, and what its edit does on the whole test split."""
    start, cpu = time.perf_counter(), time.process_time()
    seed, limits = options.seed, Limits(accuracy_loss=loss)
    known = [Trial.from_dict(row) for row in read_lines(record)] if record.exists() else []
    checkpoint = Checkpoint(trials=known, on_trial=lambda trial: append_line(record, trial.to_dict()))
    found = search_edit(lm, task, limits, options, checkpoint)
    seconds = {"wall": round(time.perf_counter() - start), "cpu": round(time.process_time() - cpu)}
    parts, aside = search_parts(task, options), asked_aside([task], limits, seed)
    test = task.split(seed).test
    control = Edit.from_neurons(lm, random_neurons(lm, found.edit.neurons, seed + 1))
    edits = {"original": Edit(()), "search": found.edit, "random": control}
    asked = validation_part(lm, task.name, sample(test, QUESTIONS, seed), task.instructions, seed)
    rows = measured(lm, asked, edits)
    return {
        "category": task.name,
        "seed": seed,
        "limit": loss,
        "model": lm.name,
        "verdict": found.verdict,
        "reason": found.reason,
        "neurons": len(found.edit.neurons),
        "neurons_of": sorted({neuron.kind for neuron in found.edit.neurons}),
        "questions": len(asked.examples),
        "templates": len({example.template for example in asked.examples}),
        "passes": {name: of.total() for name, of in search_passes([parts], options, aside).items()},
        "resumed": bool(known),
        "seconds": seconds,
        "rows": rows,
    }


def measured(lm: LanguageModel, asked: ChoosePart, edits: Mapping[str, Edit]) -> dict[str, dict[str, Any]]:
    """Figures of every edit, with the differences to the first of them: paired, intervals by template."""
    reference = reference_distribution(lm, neutral_prompts())
    found: dict[str, Evaluation] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, edit in edits.items():
        with edit.applied(lm):
            found[name] = evaluation_of(asked.examples, [prompt_scores(lm, asked.prompts)], QUESTION_ANSWERING)
            kl = divergence(lm, reference)["kl"]
        before = next(iter(found.values()))
        differences = paired_differences(
            before.columns, found[name].columns, QUESTION_ANSWERING, before.clusters, resamples=2000
        )
        rows[name] = {
            "kl": kl,
            "metrics": dict(found[name].metrics),
            "differences": {metric: differences[metric].to_dict() for metric in METRICS if metric in differences},
        }
    return rows


HEAD = """\
| category | split | limit | neurons | ambiguous | disambiguated | abstention gap | bias score, disambiguated | \
KL | kept | random neurons, ambiguous |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: |
"""


def table(arguments: argparse.Namespace) -> None:
    """Write the page."""
    rows = [row for row in _rows(arguments.folder) if not row["changed"]]
    lines = [_line(row) for row in rows]
    for loss in sorted({row["limit"] for row in rows}):
        of_limit = [row["rows"]["search"]["differences"] for row in rows if row["limit"] == loss]
        means = [f"{fmean(row[metric]['value'] for row in of_limit):+.3f}" for metric in METRICS]
        count = sum(kept(row) for row in rows if row["limit"] == loss)
        lines.append(f"| **mean** | | {loss:g} | | {' | '.join(means)} | | {count} of {len(of_limit)} | |")
    _write(arguments.output, HEAD, lines)


ABLATION = """\
| changed | searches | ambiguous | disambiguated | abstention gap | limits kept | default on the same: ambiguous |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def ablation(arguments: argparse.Namespace) -> None:
    """Write the ablation's table: means over the searches that were made with a change, and with the defaults."""
    rows = _rows(arguments.folder)
    cases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        cases.setdefault(", ".join(f"{name} = {value}" for name, value in row["changed"].items()), []).append(row)
    default = {(row["category"], row["seed"], row["limit"]): row for row in cases.get("", [])}
    lines = []
    for name, of_case in sorted(cases.items()):
        same = [default[key] for row in of_case if (key := (row["category"], row["seed"], row["limit"])) in default]
        means = [f"{fmean(_gain(row, metric) for row in of_case):+.3f}" for metric in METRICS[:3]]
        compared = f"{fmean(_gain(row, METRICS[0]) for row in same):+.3f}" if len(same) == len(of_case) else ""
        count = f"{sum(map(kept, of_case))} of {len(of_case)}"
        lines.append(f"| {' | '.join([name or 'nothing', str(len(of_case)), *means, count, compared])} |")
    _write(arguments.output, ABLATION, lines)


def _gain(row: Mapping[str, Any], metric: str) -> float:
    return float(row["rows"]["search"]["differences"][metric]["value"])


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _write(output: Path, head: str, lines: Sequence[str]) -> None:
    before, rest = output.read_text(encoding="utf-8").split(BEGIN, 1)
    found = "\n".join(lines)
    output.write_text(f"{before}{BEGIN}\n\n{head}{found}\n\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def _line(row: Mapping[str, Any]) -> str:
    of = row["rows"]["search"]
    cells = [
        row["category"].removeprefix("bbq:").removesuffix(".jsonl"),
        str(row["seed"]),
        f"{row['limit']:g}",
        str(row["neurons"]),
        *(_difference(of["differences"].get(metric)) for metric in METRICS),
        f"{of['kl']:.3f}",
        "yes" if kept(row) else "no",
        _difference(row["rows"]["random"]["differences"][METRICS[0]]),
    ]
    return f"| {' | '.join(cells)} |"


def kept(row: Mapping[str, Any]) -> bool:
    """Whether the limit is kept on the test split, by the measured loss."""
    difference = row["rows"]["search"]["differences"]["accuracy_disambiguated"]["value"]
    return bool(-difference <= row["limit"] + 1e-9)


def _difference(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return ""
    ends = f" ({of['low']:+.2f} to {of['high']:+.2f})" if of["low"] is not None else ""
    return f"{of['value']:+.3f}{ends}"


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = parser.add_subparsers(required=True)
    one = jobs.add_parser("run")
    one.add_argument("model")
    one.add_argument("data", type=Path)
    one.add_argument("--output", type=Path, required=True)
    one.add_argument("--categories", nargs="+", default=list(CATEGORIES))
    one.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    one.add_argument("--limits", nargs="+", type=float, default=[0.05, 0.15])
    one.add_argument("--dtype", default="auto")
    one.add_argument("--device", default="auto")
    one.add_argument("--rounds", type=int, default=SearchOptions().rounds)
    one.add_argument("--change", nargs="+", default=[], help="constants, such as loop.CAUTION=0")
    one.set_defaults(job=run)
    two = jobs.add_parser("table")
    two.add_argument("folder", type=Path)
    two.add_argument("--output", type=Path, required=True)
    two.set_defaults(job=table)
    three = jobs.add_parser("ablation")
    three.add_argument("folder", type=Path)
    three.add_argument("--output", type=Path, required=True)
    three.set_defaults(job=ablation)
    arguments = parser.parse_args()
    arguments.job(arguments)


if __name__ == "__main__":
    main()
