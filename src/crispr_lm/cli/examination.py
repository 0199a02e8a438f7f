"""Commands that change nothing: inspect, doctor."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from crispr_lm.cli.arguments import ModelArgument
from crispr_lm.cli.output import (
    FAILURE,
    quiet_libraries,
    show,
)
from crispr_lm.errors import InputError


def inspect(
    source: Annotated[str, Parameter(help="A model, a scores file or an edit.json.")],
    /,
    *,
    top: int = 10,
    prompt: str | None = None,
    prompt_format: Literal["chat", "plain"] = "chat",
) -> None:
    """Show what is in a model, a scores file or an edit: neurons per module, top neurons, fingerprint.

    Parameters
    ----------
    top
        How many neurons to list.
    prompt
        A task, such as builtin:everyday: show its first question as the model sees it, token by token, instead.
    prompt_format
        With --prompt: chat, through the model's chat template, if it has one; plain, as it is.
    """
    quiet_libraries()
    from crispr_lm.jobs.inspection import inspect as inspect_job
    from crispr_lm.jobs.inspection import inspect_prompt
    from crispr_lm.report.inspection import print_inspection, print_prompt

    if prompt is not None:
        seen = inspect_prompt(source, prompt, prompt_format)
        show(seen, lambda: print_prompt(seen), lambda: seen["place"])
        return
    if top < 0:
        raise InputError(f"option --top: input should be greater than or equal to 0, not {top}")
    content = inspect_job(source, top)
    show(content, lambda: print_inspection(content), lambda: content["type"])


def doctor(
    model: ModelArgument | None = None,
    /,
    *,
    self_check: bool = False,
    prompt_format: Literal["chat", "plain"] = "chat",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> None:
    """Show what this machine has, what is installed, and what fits; of a model, how it takes prompts.

    Exits with status 1 where a model was checked and a check failed.

    Parameters
    ----------
    self_check
        Load the model's weights and check what every edit depends on: neurons are found, scores equal the
        definition, hooks equal edited weights, undo is exact, the saved folder computes the same.
    prompt_format
        chat: prompts go through the model's chat template, if it has one; plain: prompts are read as they are.
    trust_remote_code
        Run Python code that comes with the model. Only for code you have read.
    allow_pickle
        Also read weights stored as pickle (.bin), which can run code hidden in the file.
    """
    quiet_libraries()
    from crispr_lm.jobs.doctor import examine_machine
    from crispr_lm.report.machine import machine_line, print_machine

    found = examine_machine(
        model,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
        prompt_format=prompt_format,
        self_checked=self_check,
    )
    show(found, lambda: print_machine(found), lambda: machine_line(found))
    of_model = found.get("model", {})
    checks = of_model.get("self_check", {}).values()
    if of_model.get("prompt", {}).get("refused") or any(not check["passed"] for check in checks):
        sys.exit(FAILURE)
