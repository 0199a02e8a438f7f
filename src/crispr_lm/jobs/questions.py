"""Making questions: a template file to begin with, and its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.files import write_bytes, write_lines
from crispr_lm.storage.output_path import check_output_file
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.choices import example_of
from crispr_lm.tasks.expansion import Row, choices_row, expand
from crispr_lm.tasks.templates import NewFile, parse_templates, read_templates


def new_questions(path: Path, answers: NewFile) -> int:
    """Write a commented template file.

    Returns:
        The number of templates in it that can be expanded: none where the example's are not about the groups given.

    Raises:
        InputError: the file is there already, can't be written, or is not named .toml, or the answers give none that
            can be expanded.
    """
    if path.suffix != ".toml":  # by which `questions check` knows it, too
        raise InputError(f"{path}: a template file is TOML; give a name that ends in .toml")
    check_output_file(path)
    if path.exists():
        raise InputError(f"{path} exists; give another name, or edit that file")
    content = parse_templates(answers.example(path.name), str(path))
    write_bytes(path, answers.text(path.name).encode("utf-8"))
    return 0 if answers.is_of_other_groups else len(content.templates)


def expand_questions(path: Path, output: Path, pairs: int, seed: int) -> dict[str, Any]:
    """Make every question of a template file, as rows that ``choices:`` reads.

    Args:
        path: The template file.
        output: JSON Lines file to write.
        pairs: As in `crispr_lm.tasks.expansion.expand`; so is the seed.
        seed: A whole number.

    Returns:
        How many rows there are of what.

    Raises:
        InputError: the templates can't be used, or the file can't be written.
    """
    check_output_file(output)
    rows = expand(read_templates(path), pairs, seed)
    made = list(map(choices_row, rows))
    # Read as a run will, so that what it would refuse is said with the template's name.
    examples = [example_of(row, f"{path}: template {row['group']!r}") for row in made]
    write_lines(output, made)
    return {"file": str(output), **_counts(rows, examples)}


def _counts(rows: Sequence[Row], examples: Sequence[Example]) -> dict[str, Any]:
    """Rows of each kind, and at which places the options stand."""
    return {
        "templates": len({example.template for example in examples}),
        "questions": len(examples),
        "categories": dict(Counter(example.category for example in examples)),
        "conditions": dict(Counter(example.condition for example in examples)),
        "polarities": dict(Counter(example.polarity for example in examples)),
        "unknown phrasings": dict(Counter(row.unknown for row in rows)),
        "places": {
            "right answer": _places(example.answer for example in examples),
            "unknown": _places(example.unknown for example in examples),
            "stereotyped": _places(example.stereotyped for example in examples),
        },
    }


def _places(indices: Iterable[int | None]) -> list[int]:
    """How many times each place is taken."""
    counts = Counter(indices)
    return [counts[index] for index in sorted(index for index in counts if index is not None)]
