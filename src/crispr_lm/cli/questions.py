"""Commands that make and check questions: questions new, questions expand, questions check, questions from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.cli.arguments import OutputFile
from crispr_lm.cli.output import quiet_libraries, show
from crispr_lm.errors import InputError
from crispr_lm.other_settings import LogSettings
from crispr_lm.storage.sanitize import printable

Listed = Annotated[tuple[str, ...] | None, Parameter(negative="", consume_multiple=False)]


def new(
    file: Path,
    /,
    *,
    category: str | None = None,
    stereotyped_group: str | None = None,
    other_group: str | None = None,
    stereotyped_person: Listed = None,
    other_person: Listed = None,
) -> None:
    """Write a template file to begin with: commented, with examples to replace by your own.

    With a category or groups of your own the examples, which are about women and men at work, are comments.

    Parameters
    ----------
    file
        TOML file to write; must not exist.
    category
        The kind of stereotype, such as "Age".
    stereotyped_group
        The group that the stereotype is about.
    other_group
        The group that it is compared with.
    stereotyped_person
        A name or phrase for a person of the first group, as within a sentence. May be repeated.
    other_person
        One of the other group, in the same order. May be repeated.
    """
    quiet_libraries()
    from crispr_lm.jobs.questions import new_questions
    from crispr_lm.tasks.templates import NewFile

    given = {
        "category": category,
        "stereotyped_group": stereotyped_group,
        "other_group": other_group,
        "stereotyped_people": stereotyped_person,
        "other_people": other_person,
    }
    templates = new_questions(file, NewFile(**{name: value for name, value in given.items() if value}))  # type: ignore[arg-type]
    begun = f"{templates} templates as examples; edit it" if templates else "examples as comments; write your templates"
    following = f"then: crispr-lm questions expand {shlex.quote(str(file))}"
    show(
        {"file": str(file), "templates": templates},
        lambda: print(printable(f"{file}: {begun}, {following}")),
        lambda: file,
    )


def expand(file: Path, /, *, output: OutputFile, pairs: int = 3, seed: int = 0) -> None:
    """Make every question of a template file: both conditions, both polarities, answer orders in balance.

    Example: crispr-lm questions expand nurses.toml --output questions.jsonl

    Parameters
    ----------
    file
        Template file, as `crispr-lm questions new` writes one.
    output
        JSON Lines file to write, for --task choices:FILE.
    pairs
        Most pairs of people to a template. Where groups have more, templates take turns. More make more rows, and no
        narrower intervals.
    seed
        Of which pairs each template takes.
    """
    quiet_libraries()
    from crispr_lm.jobs.questions import expand_questions
    from crispr_lm.report.questions import print_expansion

    if pairs < 1:
        raise InputError(f"option --pairs: input should be greater than or equal to 1, not {pairs}")
    made = expand_questions(file, output, pairs, seed)
    show(made, lambda: print_expansion(made), lambda: output)


def check(
    file: Annotated[str, Parameter(help="JSON Lines file, template file (.toml), or a task such as bbq:Age.jsonl.")],
    /,
    *,
    seed: int = 0,
) -> None:
    """Read questions as a critic: what is missing, unbalanced, given away or copied, and how wide intervals will be.

    Exits with status 0 whatever it finds.

    Parameters
    ----------
    seed
        Seed of the split that the width of intervals is computed for.
    """
    quiet_libraries()
    from crispr_lm.jobs.question_check import check_questions
    from crispr_lm.report.questions import print_check

    found = check_questions(file, seed)
    show(found, lambda: print_check(found), lambda: f"{len(found['findings'])} findings")


def from_log(
    file: Annotated[
        Path,
        Parameter(
            help="Results of promptfoo or deepeval (.json), an Inspect log (.eval, .json), samples of lm-eval "
            "(.jsonl), or a table of prompts and answers (.csv, .tsv, .xlsx, .ods, .jsonl, .json; .txt: a prompt on "
            "each line)."
        ),
    ],
    /,
    *,
    output: Path,
    swap: Listed = None,
    swaps: Path | None = None,
    settings: LogSettings | None = None,
) -> None:
    """Make questions and twins of prompts that failed in another tool: the group exchanged, all else equal.

    Example: crispr-lm questions from results.json --swap nurse=doctor --output complaint

    Parameters
    ----------
    output
        Folder to write questions.jsonl (failures with options, and their twins), twins.jsonl (pairs of free prompts)
        and prompts.jsonl (all failed prompts) to; those without rows are left out.
    swap
        Two words or phrases that take each other's place, written A=B. May be repeated; the first pair names the
        groups.
    swaps
        TOML file with more exchanges (docs/questions-from.md).
    """
    quiet_libraries()
    from crispr_lm.jobs.questions_from import Groups, questions_from
    from crispr_lm.report.questions_from import print_made
    from crispr_lm.tasks.logs.entry import LogOptions

    chosen = settings or LogSettings()
    options = LogOptions(chosen.metric, chosen.prompt_column, chosen.answer_column)
    made = questions_from(file, output, Groups(swap or (), swaps, chosen.builtin), options)
    show(made, lambda: print_made(made), lambda: output)
