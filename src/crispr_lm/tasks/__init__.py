"""Tasks: questions, their splits by template, and the benchmarks they are read from. Know no model.

A new benchmark is one file and one line in `registry`.
"""

from __future__ import annotations

from crispr_lm.tasks.base import (
    Example,
    Split,
    Task,
    builtin_instructions,
    neutral_prompts,
    of_condition,
    open_instructions,
    read_instructions,
    sample,
)
from crispr_lm.tasks.facts import fact_examples, search_fact_examples
from crispr_lm.tasks.knowledge import ordinary_questions
from crispr_lm.tasks.registry import KINDS, TaskKind, draw, instruction_count, load_task, register_task

__all__ = [
    "KINDS",
    "Example",
    "Split",
    "Task",
    "TaskKind",
    "builtin_instructions",
    "draw",
    "fact_examples",
    "instruction_count",
    "load_task",
    "neutral_prompts",
    "of_condition",
    "open_instructions",
    "ordinary_questions",
    "read_instructions",
    "register_task",
    "sample",
    "search_fact_examples",
]
