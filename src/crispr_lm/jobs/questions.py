"""Making questions: a template file to begin with, its rows."""

from __future__ import annotations

from pathlib import Path

from crispr_lm.errors import InputError
from crispr_lm.jobs.preparation import check_output_file
from crispr_lm.storage.files import write_bytes
from crispr_lm.tasks.templates import NewFile, parse_templates


def new_questions(path: Path, answers: NewFile) -> int:
    """Write a commented template file.

    Returns:
        The number of templates in it.

    Raises:
        InputError: the file is there already, can't be written, or the answers give none that can be expanded.
    """
    check_output_file(path)
    if path.exists():
        raise InputError(f"{path} exists; give another name, or edit that file")
    text = answers.text(path.name)
    content = parse_templates(text, str(path))
    write_bytes(path, text.encode("utf-8"))
    return len(content.templates)
