"""The record of a run: enough to run it again, and to know whether an interrupted one may be gone on with."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from crispr_lm.edit import weights_fingerprint
from crispr_lm.measuring import Subject
from crispr_lm.model.load import LanguageModel
from crispr_lm.preparation import Parts, file_hash
from crispr_lm.settings import RunSettings
from crispr_lm.version import __version__

NO_MATTER = {"output", "resume", "overwrite", "batch_size", "device", "threads", "pick", "transfer"}
"""Settings that no result depends on; with the last of them more is measured, and nothing else."""


def record_of(
    lm: LanguageModel, settings: RunSettings, parts: Sequence[Parts], subjects: Sequence[Subject]
) -> dict[str, Any]:
    """Settings, versions, hashes and parts; ``identity`` is all that results depend on.

    Args:
        lm: The model, unedited.
        settings: All options.
        parts: What of each task is used for what.
        subjects: What is measured.
    """
    described = settings.model_dump(mode="json", exclude=NO_MATTER)
    identity = {
        "model": lm.given or lm.name,
        "model_fingerprint": weights_fingerprint(lm.model),
        "settings": described,
        "evaluated_in": str(lm.evaluation_dtype or lm.dtype).removeprefix("torch."),
        "data": {file: file_hash(Path(file)) for subject in subjects for file in subject.origin},
        "instructions": [list(part.task.instructions) for part in parts],
        "crispr_lm": __version__,
    }
    return {
        "identity": identity,
        "revision": lm.revision,
        "device": str(lm.device),
        "batch_size": settings.batch_size,
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "platform": platform.platform(),
        },
        "parts": {
            part.task.name: {
                name: [example.source for example in getattr(part, name)] for name in ("fit", "choose", "report")
            }
            for part in parts
        },
    }
