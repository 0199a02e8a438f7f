"""Out to other tools: a task in the form of EleutherAI's lm-eval, so that anyone can measure the saved model with it.

lm-eval compares options by their summed log-probability given a prompt, as `crispr_lm.option_scores` does; what is
written here makes it see the very same prompts and options. Knows prompts as text; knows no weights, and does not need
lm-eval itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.files import write_bytes, write_lines
from crispr_lm.folder import check_new, held_new
from crispr_lm.model.load import open_model
from crispr_lm.preparation import load_tasks
from crispr_lm.printable import json_line
from crispr_lm.prompts import Reader, check_prompts, has_chat_template, render_prompt
from crispr_lm.settings import LmEvalSettings
from crispr_lm.tasks import Example
from crispr_lm.tasks.task import SENTENCES

NAME = re.compile(r"[\w-]{1,200}")
"""What a task, and with it its files, may be called."""

LONGEST_STEM = 50
"""Characters of a file's name that a task's name begins with; of some alphabets each takes four bytes of 255."""


def export_lm_eval(
    lm: Reader, examples: Sequence[Example], instruction: str, folder: Path, name: str
) -> dict[str, Any]:
    """Write a task for lm-eval: ``NAME.yaml`` and ``NAME.jsonl`` in an existing folder.

    The metric ``acc`` is then the accuracy that `crispr_lm.evaluate` gives under this instruction, to the item. For
    models with a chat template lm-eval must be told ``add_bos_token=False``, since the prompt is rendered already; it
    must not be given ``--apply_chat_template``.

    Args:
        lm: A model, or one that `open_model` has opened without its weights.
        examples: Questions.
        instruction: What they are asked with.
        folder: Where to write.
        name: Of the task; letters, digits, hyphens and underscores.

    Returns:
        What the YAML file says.

    Raises:
        InputError: a name that can't be a file's, an encoder-decoder model (lm-eval scores options without their end
            token there), or examples that are compared as whole texts.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} can't be the name of a task; use letters, digits, hyphens and underscores")
    _check(lm, examples, name)
    data = (folder / f"{name}.jsonl").resolve()
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        # What stands between a prompt and an option; see `crispr_lm.prompts.encode`.
        "target_delimiter": "" if has_chat_template(lm) else " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    write_lines(
        data,
        (
            {
                "prompt": render_prompt(lm, example, instruction),
                "choices": [option.strip() for option in example.options],
                "gold": example.answer,
                "source": example.source,
            }
            for example in examples
        ),
    )
    lines = (f"{key}: {json_line(value)}\n" for key, value in config.items())  # JSON is YAML
    write_bytes(folder / f"{name}.yaml", "".join(lines).encode("utf-8"))
    return config


def _check(lm: Reader, examples: Sequence[Example], name: str) -> None:
    """Refuse a model or examples that no task can be written for; `name` is only for messages."""
    if lm.is_encoder_decoder:
        raise InputError(
            f"{lm.name} is an encoder-decoder model, whose options lm-eval scores without their end token; its figures "
            "can't equal those of crispr-lm, so no task is written"
        )
    if any(example.form == SENTENCES for example in examples):
        raise InputError(f"task {name} compares whole texts without a prompt; lm-eval has tasks of its own for these")


def lm_eval_tasks(model: str, output: Path, settings: LmEvalSettings) -> list[str]:
    """Write every task of the settings under every instruction, for ``lm_eval --include_path``.

    Returns:
        The names of the tasks written.

    Raises:
        InputError: the input can't be used.
    """
    check_new(output)
    tasks = load_tasks(settings)
    source = open_model(model, trust_remote_code=settings.trust_remote_code)
    parts = {task.name: task.examples if settings.part == "all" else task.split(settings.seed).report for task in tasks}
    for task in tasks:
        _check(source, parts[task.name], task.name)
        check_prompts(source, parts[task.name], task.instructions)
    planned = [
        (f"{_plain_name(task.name)}_{number}", task, instruction)
        for task in tasks
        for number, instruction in enumerate(task.instructions, start=1)
    ]
    names = [name for name, _, _ in planned]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two tasks would be called {twice}; export them into folders of their own")
    with held_new(output):
        for name, task, instruction in planned:
            export_lm_eval(source, parts[task.name], instruction, output, name)
    return names


def _plain_name(task: str) -> str:
    """What lm-eval calls a task: its kind and its file, such as bbq_Age, without folders and signs."""
    kind, _, rest = task.partition(":")
    stem = Path(rest).stem[:LONGEST_STEM]
    return re.sub(r"[^\w-]+", "_", kind if stem == kind else f"{kind}_{stem}")
