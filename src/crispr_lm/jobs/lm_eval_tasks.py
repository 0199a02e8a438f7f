"""Out to other tools: a task in the form of EleutherAI's lm-eval, so that anyone can measure the saved model with it.

lm-eval compares options by their summed log-probability given a prompt, as `crispr_lm.option_scores` does; what is
written here makes it see the very same prompts and options. To an encoder-decoder model it gives an option without the
tokens that the tokenizer puts around a target, so these stand in the option's text there. Knows prompts as text; knows
no weights, and does not need lm-eval itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import answer_place, check_prompts, render_prompt
from crispr_lm.inference.reader import Reader
from crispr_lm.jobs.preparation import load_tasks
from crispr_lm.model.load import open_model
from crispr_lm.other_settings import LmEvalSettings
from crispr_lm.storage.files import write_bytes, write_lines
from crispr_lm.storage.output_path import check_new, held_new
from crispr_lm.storage.sanitize import json_line, printable
from crispr_lm.tasks.base import SENTENCES, Example

logger = logging.getLogger(__name__)

NAME = re.compile(r"[\w-]{1,200}")
"""What a task, and with it its files, may be called."""

LONGEST_STEM = 50
"""Characters of a file's name that a task's name begins with; of some alphabets each takes four bytes of 255."""


def export_lm_eval(
    lm: Reader, examples: Sequence[Example], instruction: str, folder: Path, name: str
) -> dict[str, Any]:
    """Write a task for lm-eval: ``NAME.yaml`` and ``NAME.jsonl`` in an existing folder.

    The metric ``acc`` is then the accuracy that `crispr_lm.evaluate` gives under this instruction, to the item. For
    models with a chat template lm-eval must be given ``add_bos_token=False``, since the prompt is rendered already; it
    must not be given ``--apply_chat_template``. Where an encoder reads the prompt, ``max_length`` must be as large as
    the longest prompt: lm-eval cuts longer ones, T5's at 512 tokens, without a warning.

    Args:
        lm: A model, or one that `open_model` has opened without its weights.
        examples: Questions.
        instruction: What they are asked with.
        folder: Where to write.
        name: Of the task; letters, digits, hyphens and underscores.

    Returns:
        What the YAML file says.

    Raises:
        InputError: a name that can't be a file's, examples that are compared as whole texts, or an encoder-decoder
            model whose tokens lm-eval can't be made to see.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} can't be the name of a task; use letters, digits, hyphens and underscores")
    _check(examples, name)
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
        # What stands between a prompt and an option; see `crispr_lm.inference.prompts.encode`.
        "target_delimiter": answer_place(lm).lead,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    write_lines(data, (_row(lm, example, instruction) for example in examples))
    lines = (f"{key}: {json_line(value)}\n" for key, value in config.items())  # JSON is YAML
    write_bytes(folder / f"{name}.yaml", "".join(lines).encode("utf-8"))
    return config


def _row(lm: Reader, example: Example, instruction: str) -> dict[str, Any]:
    """One question as a line of the task's file."""
    prompt = render_prompt(lm, example, instruction)
    options = [option.strip() for option in example.options]
    if lm.is_encoder_decoder:
        if prompt != prompt.rstrip():
            raise InputError(
                f"the chat template of {lm.name} ends a prompt with white space, which lm-eval moves from what the "
                "encoder reads to the option, so that its figures can't equal those of crispr-lm; no task is written"
            )
        options = [_target(lm, option) for option in options]
    return {"prompt": prompt, "choices": options, "gold": example.answer, "source": example.source}


def _target(lm: Reader, option: str) -> str:
    """The text that has, without special tokens added, the tokens of an option as a target, such as ``unknown</s>``.

    Raises:
        InputError: there is none, since the tokenizer reads a special token's text as something else.
    """
    wanted = list(lm.tokenizer(text_target=option).input_ids)
    own = list(lm.tokenizer(option, add_special_tokens=False).input_ids)
    for start in range(len(wanted) - len(own) + 1):
        end = start + len(own)
        if wanted[start:end] == own:
            before, after = (lm.tokenizer.convert_ids_to_tokens(ids) for ids in (wanted[:start], wanted[end:]))
            text = "".join([*before, option, *after])
            if list(lm.tokenizer(text, add_special_tokens=False).input_ids) == wanted:
                return text
    raise InputError(
        f"the tokenizer of {lm.name} has no text for the tokens that it puts around {option!r} as a target; lm-eval "
        "would score the option without them, and its figures can't equal those of crispr-lm, so no task is written"
    )


def _check(examples: Sequence[Example], name: str) -> None:
    """Refuse examples that no task can be written for; `name` is only for messages."""
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
    source = open_model(
        model,
        trust_remote_code=settings.trust_remote_code,
        prompt_format=settings.prompt_format,
        moment=settings.prompt_date,
    )
    parts = {task.name: task.examples if settings.split == "all" else task.split(settings.seed).test for task in tasks}
    for task in tasks:
        _check(parts[task.name], task.name)
        check_prompts(source, parts[task.name], task.instructions)
    planned = [
        (f"{_plain_name(task.name)}_{number}", task, instruction)
        for task in tasks
        for number, instruction in enumerate(task.instructions, start=1)
    ]
    names = [name for name, _, _ in planned]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two tasks would be called {twice}; export them into folders of their own")
    for task in tasks if source.is_encoder_decoder else ():  # what can't be written is known before anything is
        for example in parts[task.name]:
            _row(source, example, task.instructions[0])
    with held_new(output):
        for name, task, instruction in planned:
            export_lm_eval(source, parts[task.name], instruction, output, name)
    if loses_head(source.config):
        logger.warning(
            "lm_eval --model hf ties the output layer of %s to its embeddings after loading, and so measures another "
            "model; docs/lm_eval.md has the lines of Python that keep it as it is",
            printable(model),
        )
    return names


def loses_head(config: Any) -> bool:
    """Whether lm-eval would replace a model's output layer by its embeddings.

    lm-eval calls ``tie_weights()`` after loading. The configurations of T5 and its like say ``tie_word_embeddings`` in
    transformers 5 whatever their file says, and keep what it says in ``scale_decoder_outputs``: False where the output
    layer is one of its own, as in T5 1.1 and Flan-T5.
    """
    return (
        bool(getattr(config, "tie_word_embeddings", False)) and getattr(config, "scale_decoder_outputs", True) is False
    )


def _plain_name(task: str) -> str:
    """What lm-eval calls a task: its kind and its file, such as bbq_Age, without folders and signs."""
    kind, _, rest = task.partition(":")
    stem = Path(rest).stem[:LONGEST_STEM]
    return re.sub(r"[^\w-]+", "_", kind if stem == kind else f"{kind}_{stem}")
