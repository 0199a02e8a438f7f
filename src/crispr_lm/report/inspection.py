"""Tables of what inspect, score and edit show: neurons, modules, edits and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from crispr_lm.report.console import as_text, console
from crispr_lm.report.markup import markup

if TYPE_CHECKING:
    from crispr_lm.attribution.neuron_scores import NeuronScores
    from crispr_lm.edits.edit import Edit


def print_edit_saved(edit: Edit, output: Path) -> None:
    """Print that a combined edit was saved."""
    console.print(f"Edit of {len(edit.neurons)} neurons: {markup(str(output))}", soft_wrap=True)


def print_overlap(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.inspection.compare_edits` found."""
    table = Table(title="Neurons in common", title_justify="left")
    table.add_column("Module")
    for name in ("First", "Second", "Common", "Jaccard"):
        table.add_column(name, justify="right")
    rows = [*content["per_module"].items(), ("all", content["total"])]
    for number, (module, part) in enumerate(rows, start=1):
        counts = (str(part[name]) for name in ("first", "second", "common"))
        table.add_row(markup(module), *counts, f"{part['jaccard']:.3f}", end_section=number == len(rows) - 1)
    console.print(table)


def print_scores(scores: NeuronScores, output: Path | None, count: int = 10) -> None:
    """Print the neurons of highest score, and which file holds all, if any does."""
    table = Table(title=f"Top {scores.kind} neurons of {len(scores):,}", title_justify="left")
    table.add_column("Module")
    table.add_column("Index", justify="right")
    table.add_column("Score", justify="right")
    for neuron in scores.top(min(count, len(scores))):
        table.add_row(markup(neuron.module), str(neuron.index), f"{scores.score_of(neuron):.4g}")
    console.print(table)
    if output is not None:
        console.print(f"File: {markup(str(output))}", soft_wrap=True)


def print_inspection(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.inspection.inspect` found."""
    facts = Table(show_header=False, title=content["type"].capitalize(), title_justify="left")
    facts.add_column(style="bold")
    facts.add_column()
    for name in ("name", "architecture", "parameters", "context_length", "kind", "scale", "neurons"):
        if name in content:
            facts.add_row(name.replace("_", " "), as_text(content[name]))
    for name in ("base_model", "origin"):
        for key, value in content.get(name, {}).items():
            facts.add_row(markup(f"{name.replace('_', ' ')}: {key}"), as_text(value))
    if content["type"] == "model":
        facts.add_row("fingerprint", content["fingerprint"])
    console.print(facts)
    per_kind = content["per_module"] if content["type"] == "model" else {content.get("kind", ""): content["per_module"]}
    modules = Table(title="Neurons per module", title_justify="left")
    modules.add_column("Module")
    for kind in per_kind:
        modules.add_column(kind or "Neurons", justify="right")
    if content["type"] == "edit":
        modules.add_column("Fingerprint")
    for module in dict.fromkeys(module for counts in per_kind.values() for module in counts):
        row = [str(counts.get(module, "")) for counts in per_kind.values()]
        if content["type"] == "edit":
            row.append(markup(content["fingerprint"][module]["float32"]))
        modules.add_row(markup(module), *row)
    console.print(modules)
    if top := content.get("top"):
        table = Table(title="Top neurons", title_justify="left")
        for name in ("rank", *top[0]):
            table.add_column(name.capitalize(), justify="left" if name in ("module", "kind") else "right")
        for rank, neuron in enumerate(top, start=1):
            table.add_row(str(rank), *(as_text(value) for value in neuron.values()))
        console.print(table)


def print_prompt(seen: Mapping[str, Any]) -> None:
    """Print one question as the model sees it (`inference.prompts.seen_prompt`); scored tokens stand in brackets."""
    place = f"{seen['format']} prompt; place of the answer: {seen['place']}"
    console.print(markup(f"{seen['source']}, {place}"), soft_wrap=True)
    console.print(f"\n[bold]Read: {len(seen['prompt'])} tokens[/], parted by │; ⏎ is a line break", soft_wrap=True)
    console.print(markup(_tokens(seen["prompt"], "│")), soft_wrap=True, highlight=False)
    for number, tokens in enumerate(seen["options"]):
        scored = "".join(f"⟦{_visible(token)}⟧" for token in tokens)
        console.print(f"\n[bold]Option {number}: {len(tokens)} tokens are scored[/]", soft_wrap=True)
        console.print(f"[dim]… {markup(_tokens(seen['prompt'][-4:], '│'))}[/] {markup(scored)}", soft_wrap=True)


def _tokens(tokens: Sequence[str], between: str) -> str:
    return between.join(map(_visible, tokens))


def _visible(token: str) -> str:
    return token.replace("\n", "⏎\n") if token.strip("\n") else "⏎" * len(token)
