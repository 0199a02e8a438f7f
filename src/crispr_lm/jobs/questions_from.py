"""Questions and twins from the failures that another tool has logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.storage.files import make_folder, write_lines
from crispr_lm.storage.output_path import check_writable
from crispr_lm.tasks.choices import example_of
from crispr_lm.tasks.exchange import Exchange, builtin_exchanges, exchange_of, read_exchanges
from crispr_lm.tasks.logs.entry import LogOptions
from crispr_lm.tasks.logs.reader import read_log
from crispr_lm.tasks.logs.twins import Made, make_twins

FILES = ("questions.jsonl", "twins.jsonl", "prompts.jsonl")

MOST_PLACES = 3
"""Places that are listed for a reason; the count says how many there are."""
MOST_NAMES = 10
"""Words listed that may be names: enough to see what kind of words they are."""


@dataclass(frozen=True)
class Groups:
    """Which groups are exchanged.

    Attributes:
        pairs: Written ``A=B``.
        file: TOML file with more.
        builtin: Whether women and men are exchanged too.
    """

    pairs: Sequence[str] = ()
    file: Path | None = None
    builtin: bool = True

    def exchanges(self) -> tuple[Exchange, ...]:
        """All of them, the user's own first.

        Raises:
            InputError: one is malformed, or there is none.
        """
        found: list[Exchange] = [exchange_of(self.pairs)] if self.pairs else []
        found += read_exchanges(self.file) if self.file is not None else ()
        found += builtin_exchanges() if self.builtin else ()
        if not found:
            raise InputError("no groups to exchange; give --swap A=B or --swaps FILE, or leave --no-builtin away")
        names = [exchange.name for exchange in found]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise InputError(f"two exchanges are named {twice!r}; give each its own name (or --no-builtin)")
        return tuple(found)


def questions_from(path: Path, output: Path, groups: Groups, options: LogOptions) -> dict[str, Any]:
    """Make questions, twins and the list of failed prompts from a log.

    Args:
        path: The log.
        output: Folder for ``questions.jsonl``, ``twins.jsonl`` and ``prompts.jsonl``; only those with rows are written.
        groups: Which groups are exchanged.
        options: What of the log is taken.

    Returns:
        What was made and what was left out, counted by reason: ``entries`` are ``prompts`` and what is ``left_out``.

    Raises:
        InputError: the log can't be read, none of it can be used, or the folder can't be written or holds such files.
    """
    _check_output(output)
    exchanges = groups.exchanges()
    kind, entries = read_log(path, options)
    if not entries:
        raise InputError(f"{path}: it holds no entries; give a log with some")
    made = make_twins(entries, exchanges)
    for row in made.questions:
        example_of(row, row.get("source") or row["twin_of"])  # as a run will read it
    written = {}
    for name, rows in zip(FILES, (made.questions, made.twins, made.prompts), strict=True):
        if rows:
            make_folder(output)
            write_lines(output / name, rows)
            written[name] = str(output / name)
    return {
        "log": str(path),
        "kind": kind,
        "entries": len(entries),
        "files": written,
        **_counts(made),
    }


def _counts(made: Made) -> dict[str, Any]:
    return {
        "prompts": len(made.prompts),
        "questions": len(made.questions),
        "question_templates": len({row["group"] for row in made.questions}),
        "with_unknown": sum("unknown" in row for row in made.questions),
        "twins": len(made.twins),
        "twin_templates": len({row["template"] for row in made.twins}),
        "left_out": _by_reason(made.left_out),
        "without_twin": _by_reason(made.without_twin),
        "doubtful": {"count": len(made.doubtful), "places": made.doubtful[:MOST_PLACES]},
        "unchanged_names": dict(made.unchanged_names.most_common(MOST_NAMES)),
        "unchanged_plurals": dict(made.unchanged_plurals.most_common(MOST_NAMES)),
    }


def _by_reason(places: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Reason to how many there are and where the first ones stand, the most frequent first."""
    return {
        reason: {"count": len(found), "places": found[:MOST_PLACES]}
        for reason, found in sorted(places.items(), key=lambda item: -len(item[1]))
    }


def _check_output(output: Path) -> None:
    check_writable(output)
    if output.exists() and not output.is_dir():
        raise InputError(f"output {output} is a file; give a folder")
    if (there := next((name for name in FILES if (output / name).exists()), None)) is not None:
        raise InputError(f"output {output / there} exists; give another folder, or remove that file")
