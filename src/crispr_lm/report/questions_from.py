"""What the terminal says of questions and twins that were made from another tool's log."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from crispr_lm.report.console import console
from crispr_lm.report.markup import markup


def print_made(content: Mapping[str, Any]) -> None:
    """Print what `crispr_lm.jobs.questions_from.questions_from` has made and left out, and what comes next."""
    prompts = content["prompts"]
    lines = [
        f"{content['log']} ({content['kind']}): {_many(content['entries'], 'entry', 'entries')}; "
        f"{_many(prompts, 'different prompt')} failed and can be used, {content['entries'] - prompts:,} left out."
    ]
    lines += _reasons("Left out", content["left_out"])
    lines += _reasons("Without a twin, kept in prompts.jsonl alone", content["without_twin"])
    if content["without_twin"]:
        lines += [
            "If these prompts name groups, give them: --swap nurse=doctor, or --swaps FILE for many. "
            "If they name none, write questions about what they show: crispr-lm questions new FILE."
        ]
    lines += _to_read(content)
    for line in [*lines, "", *_files(content)]:
        console.print(markup(line), soft_wrap=True)


def _reasons(title: str, reasons: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not reasons:
        return []
    lines = [f"{title}:"]
    for reason, found in reasons.items():
        more = ", ..." if found["count"] > len(found["places"]) else ""
        lines.append(f"  {found['count']:,}  {reason} ({', '.join(found['places'])}{more})")
    return lines


def _to_read(content: Mapping[str, Any]) -> list[str]:
    """What a person should look at: words alone do not tell whether a twin is right."""
    lines = []
    if found := content["doubtful"]["count"]:
        where = ", ".join(content["doubtful"]["places"])
        lines.append(f'Read {found:,} with "her", for which the next word decided between "his" and "him": {where}.')
    for name, what, advice in (
        ("unchanged_names", "Words with a capital letter that stay in twins", "If one is a name, give --swap A=B"),
        ("unchanged_plurals", "Words that stay and look like plurals of yours", "Give them, too: --swap A=B"),
    ):
        if found := content[name]:
            lines.append(f"{what}: {', '.join(f'{word} ({count})' for word, count in found.items())}. {advice}.")
    return lines


def _many(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _files(content: Mapping[str, Any]) -> list[str]:
    files = content["files"]
    lines = []
    if path := files.get("questions.jsonl"):
        known = "all" if content["with_unknown"] == content["questions"] else f"{content['with_unknown']:,}"
        lines += [
            f"{path}: {_many(content['questions'], 'question')} of "
            f'{_many(content["question_templates"], "template")}, {known} with an "unknown" option',
            f"  Next: crispr-lm questions check {shlex.quote(path)}",
            f"  Then: crispr-lm run MODEL --task {shlex.quote(f'choices:{path}')} --output out",
        ]
    if path := files.get("twins.jsonl"):
        lines += [
            f"{path}: {_many(content['twins'], 'pair')} of prompts of {_many(content['twin_templates'], 'template')}",
            "  To measure them: crispr-lm run MODEL --task builtin:everyday "
            f"--measure {shlex.quote(f'twins:{path}')} --output out",
        ]
    if path := files.get("prompts.jsonl"):
        lines += [
            f"{path}: {_many(content['prompts'], 'prompt')} as the model was asked, with what it answered",
            "  To see them before and after an edit: crispr-lm run MODEL --task TASK "
            f"--prompts {shlex.quote(path)} --output out",
        ]
    return lines or ["Nothing was written: no failure in it can be used."]
