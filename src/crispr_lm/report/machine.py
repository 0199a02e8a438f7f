"""What doctor shows: the machine, what fits on it, and how a model takes prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from crispr_lm.report.console import GIB, console, in_bytes
from crispr_lm.report.markup import markup

if TYPE_CHECKING:
    pass


def print_machine(found: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.doctor.examine_machine` found."""
    facts = Table(show_header=False, title="Software", title_justify="left")
    facts.add_column(style="bold")
    facts.add_column()
    for package, version in found["versions"].items():
        facts.add_row(package, version or "[red]not installed[/]")
    for extra, there in found["extras"].items():
        missing = f"missing; pip install 'crispr-lm\\[{extra}]'"
        facts.add_row(f"extra {extra}", "installed" if there else missing)
    console.print(facts)
    devices = Table(title="Devices", title_justify="left")
    for name in ("Device", "Name", "Free", "bfloat16"):
        devices.add_column(name)
    devices.add_column("Largest model (weights alone)")
    for device in found["devices"]:
        threads = device["threads"]
        used = f", {threads['used']} of {threads['cores']} cores" if threads else ""
        largest = ", ".join(f"{count / 1e9:.1f}B in {name}" for name, count in device["largest_model"].items())
        devices.add_row(
            device["device"],
            markup(device["name"]) + used,
            f"{device['free'] / GIB:.1f} of {device['memory'] / GIB:.1f} GiB",
            "fast" if device["bfloat16"] else "emulated (slow)",
            largest,
        )
    console.print(devices)
    for threads in (device["threads"] for device in found["devices"]):
        if threads and threads["loaded"]:
            console.print(
                f"[bold yellow]Loaded:[/] other programs use {threads['busy']:.1f} of {threads['usable']:g} cores; "
                f"commands would take {threads['used']} thread{'' if threads['used'] == 1 else 's'} (--threads) and "
                "longer than on an idle machine",
                soft_wrap=True,
            )
    console.print(
        f"Disk: {found['disk']['free'] / GIB:.1f} GiB free in {markup(found['disk']['folder'])}", soft_wrap=True
    )
    hub = found["hub"]
    state = "reachable" if hub["reachable"] else f"not reachable ({markup(str(hub['reason']))}); local models work"
    console.print(f"Hub: {markup(hub['endpoint'])} is {state}", soft_wrap=True)
    if model := found.get("model"):
        _print_needs(model)
        _print_place(model["prompt"])
        _print_checks(model.get("self_check", {}))


def machine_line(found: Mapping[str, Any]) -> str:
    """The same in a line: of a model where it fits, else what each device has."""
    if model := found.get("model"):
        fitting = (f"{dtype} on {', '.join(needs['fits'])}" for dtype, needs in model["needs"].items() if needs["fits"])
        return f"{model['name']} fits: {'; '.join(fitting) or 'nowhere here'}"
    return "; ".join(
        f"{device['device']}: {device['free'] / GIB:.1f} of {device['memory'] / GIB:.1f} GiB free"
        for device in found["devices"]
    )


def _print_needs(model: Mapping[str, Any]) -> None:
    table = Table(title=f"{markup(model['name'])}: {markup(model['architecture'])}", title_justify="left")
    for name in ("Format", "Weights", "With attribution of one prompt", "Fits on"):
        table.add_column(name)
    for name, needs in model["needs"].items():
        figures = (in_bytes(needs[what]) for what in ("weights", "attribution"))
        table.add_row(name, *figures, ", ".join(needs["fits"]) or "[red]nothing here[/]")
    console.print(table)
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in model["neurons"].items() if count)
    console.print(f"{model['parameters']:,} parameters; neurons: {kinds or 'none that can be found'}")
    if lacking := model["not_embedded"]:
        console.print(
            f"[bold yellow]Tokenizer:[/] {lacking['tokens']:,} of its tokens (first: {markup(repr(lacking['first']))}) "
            f"have no embedding in the model, which has {lacking['embeddings']:,}; prompts with one are refused",
            soft_wrap=True,
        )


def _print_place(prompt: Mapping[str, Any]) -> None:
    """How prompts are put to a model."""
    if prompt["refused"]:
        console.print(f"[red]Prompts:[/] {markup(prompt['refused'])}", soft_wrap=True)
        return
    console.print(f"Prompts: {prompt['template'] or 'no chat template'}", soft_wrap=True)
    console.print(f"Place of the answer: {markup(prompt['place'])}", soft_wrap=True)
    if prompt["template"]:
        console.print(f"Before the answer: {markup(repr(prompt['before']))}", soft_wrap=True, highlight=False)
        if prompt["lead"]:
            console.print(f"The answer begins with {markup(repr(prompt['lead']))}", soft_wrap=True, highlight=False)
        if prompt["switches"]:
            console.print(f"Reasoning is switched off by {markup(', '.join(prompt['switches']))}", soft_wrap=True)
        if prompt["in_parts"]:
            console.print("Words are given as a list of parts")
        if prompt["date"]:
            console.print("The template writes the date: one moment is used for all prompts (--prompt-date)")


def _print_checks(checked: Mapping[str, Mapping[str, Any]]) -> None:
    """What the self-check found, a line for each kind of neuron."""
    if not checked:
        return
    table = Table(title="Self-check: largest relative differences", title_justify="left")
    for name in ("Neurons", "Found", "Scores", "Hooks = weights", "Undo", "Reloaded", "Outcome"):
        table.add_column(name)
    for kind, found in checked.items():
        figures = (found[what] for what in ("scores", "baked", "reloaded"))
        differences = ["-" if figure is None else f"{figure:.0e}" for figure in figures]
        undone = {True: "exact", False: "[red]not exact[/]", None: "-"}[found["undone"]]
        outcome = "[green]passed[/]" if found["passed"] else f"[red]failed[/] {markup(found['reason'])}"
        table.add_row(kind, f"{found['neurons']:,}", *differences[:2], undone, differences[2], outcome)
    console.print(table)
