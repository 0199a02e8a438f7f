"""Edits: neurons scaled or removed; saved, combined, exported, verified, and what their neurons do.

Knows a model and prompts; knows no settings and no folder.
"""

from __future__ import annotations

from crispr_lm.edits.edit import Edit
from crispr_lm.edits.export import export_folder, export_lora, export_slim
from crispr_lm.edits.logit_lens import promoted_tokens
from crispr_lm.edits.neuron_activity import Firing, firing, option_probabilities
from crispr_lm.edits.set_operations import Overlap, intersection, overlap, union
from crispr_lm.edits.side_by_side import stream_both
from crispr_lm.edits.verification import Saved, verify_saved

__all__ = [
    "Edit",
    "Firing",
    "Overlap",
    "Saved",
    "export_folder",
    "export_lora",
    "export_slim",
    "firing",
    "intersection",
    "option_probabilities",
    "overlap",
    "promoted_tokens",
    "stream_both",
    "union",
    "verify_saved",
]
