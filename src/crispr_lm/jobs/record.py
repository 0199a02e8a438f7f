"""The record of a run: enough to run it again, and to know whether an interrupted one may be resumed."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

from crispr_lm.edits.fingerprint import weights_fingerprint
from crispr_lm.errors import InputError
from crispr_lm.evaluation.suite import Subject
from crispr_lm.inference.prompts import seen_prompt
from crispr_lm.jobs.preparation import file_hash
from crispr_lm.jobs.search_settings import unused
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime.plugins import loaded
from crispr_lm.settings import RunSettings
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import JobFolder
from crispr_lm.tasks.parts import Parts
from crispr_lm.version import __version__

NO_MATTER = {
    "output", "resume", "overwrite", "batch_size", "device", "threads", "pick", "transfer", "prompts", "prompt_date",
    "rules", "evidence",
}  # fmt: skip
"""Settings that no result depends on, or that stand elsewhere in the identity (the date); with ``transfer`` more is
measured, with ``prompts`` more is shown, and nothing else; ``rules`` are only sealed."""

AnySettings = TypeVar("AnySettings", bound=RunSettings)


def dated(settings: AnySettings, folder: JobFolder) -> AnySettings:
    """Settings with the moment that chat templates take for now: that of the run to be resumed, or this one."""
    moment = settings.prompt_date
    if moment is None and not settings.overwrite and folder.run.is_file():
        with suppress(InputError, *MALFORMED):  # what is wrong with it is said where the run is resumed
            moment = datetime.fromisoformat(read_object(folder.run)["identity"]["moment"])
    moment = moment or datetime.now()
    return settings.model_copy(update={"prompt_date": moment.replace(microsecond=0)})


def record_of(
    lm: LanguageModel, settings: RunSettings | EvaluateSettings, parts: Sequence[Parts], subjects: Sequence[Subject]
) -> dict[str, Any]:
    """Settings, versions, hashes and parts; ``identity`` is all that results depend on.

    Args:
        lm: The model, unedited.
        settings: All options.
        parts: What of each task is used for what.
        subjects: What is measured.
    """
    described = settings.model_dump(
        mode="json", exclude=NO_MATTER | (unused(settings) if isinstance(settings, RunSettings) else set())
    )
    identity = {
        "model": lm.given or lm.name,
        "model_fingerprint": weights_fingerprint(lm.model),
        "settings": described,
        "evaluated_in": str(lm.evaluation_dtype or lm.dtype).removeprefix("torch."),
        "data": {file: file_hash(Path(file)) for subject in subjects for file in subject.origin}
        | ({} if settings.groups is None else {str(settings.groups): file_hash(settings.groups)}),
        "instructions": [list(part.task.instructions) for part in parts],
        "moment": lm.moment.isoformat(),
        "plugins": loaded(),
        "crispr_lm": __version__,
    }
    return {
        "identity": identity,
        "revision": lm.revision,
        "first_prompt": seen_prompt(lm, parts[0].test[0], parts[0].task.instructions[0]),
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
                name: [example.source for example in getattr(part, name)]
                for name in ("attribution", "validation", "test")
            }
            for part in parts
        },
    }
