"""Commands on edits alone: edit union, edit intersect, edit diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crispr_lm.cli.arguments import OutputFile
from crispr_lm.cli.output import show

if TYPE_CHECKING:
    from collections.abc import Sequence


def union(first: Path, second: Path, /, *others: Path, output: OutputFile) -> None:
    """Make one edit of all neurons that any of the edits names.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    others
        Any more of them.
    output
        File to write.
    """
    _combine("union", (first, second, *others), output)


def intersect(first: Path, second: Path, /, *others: Path, output: OutputFile) -> None:
    """Make one edit of the neurons that all of the edits name.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    others
        Any more of them.
    output
        File to write.
    """
    _combine("intersection", (first, second, *others), output)


def _combine(how: Literal["union", "intersection"], files: Sequence[Path], output: Path) -> None:
    from crispr_lm.jobs.inspection import combine_edits
    from crispr_lm.report.inspection import print_edit_saved

    edit = combine_edits(how, files, output)
    show({"file": str(output), "neurons": len(edit.neurons)}, lambda: print_edit_saved(edit, output), lambda: output)


def diff(first: Path, second: Path, /) -> None:
    """Show what two edits have in common, per module and in all.

    Parameters
    ----------
    first
        An edit.json.
    second
        Another edit.json, made for the same model.
    """
    from crispr_lm.jobs.inspection import compare_edits
    from crispr_lm.report.inspection import print_overlap

    content = compare_edits(first, second)
    show(content, lambda: print_overlap(content), lambda: f"{content['total']['jaccard']:.3f}")
