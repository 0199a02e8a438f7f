"""The folder of ``crispr-lm evaluate --evidence``: the seal first, then every answer and the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crispr_lm.edits.edit import Edit
from crispr_lm.errors import InputError
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.results import Edited, answer_rows, column_rows
from crispr_lm.evaluation.sealed_rules import matched
from crispr_lm.evaluation.suite import Subject, TaskSubject
from crispr_lm.jobs import seal
from crispr_lm.jobs.record import record_of
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime.distributed import on_first
from crispr_lm.runtime.progress import Progress
from crispr_lm.storage.files import make_folder, write_json, write_lines
from crispr_lm.storage.output_path import check_new
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks.parts import Parts


@dataclass(frozen=True)
class Evidence:
    """What is kept of a measurement, where that is asked for (`folder`)."""

    settings: EvaluateSettings
    folder: RunFolder | None
    rules: seal.Rules | None

    @staticmethod
    def checked(settings: EvaluateSettings) -> Evidence:
        """Check the options before any work.

        Raises:
            InputError: the folder can't be written or is not empty, the rules can't be used, or there are rules and no
                folder to seal them in.
        """
        if settings.evidence is None:
            if settings.rules is not None:
                raise InputError("--rules are sealed in the folder of --evidence; give that too")
            return Evidence(settings, None, None)
        check_new(settings.evidence)
        return Evidence(settings, RunFolder(settings.evidence), seal.read_rules(settings.rules))

    def check(self, subjects: Sequence[Subject]) -> None:
        """Check that the rules are about what is measured.

        Raises:
            InputError: they are not.
        """
        if self.rules is not None:
            matched(self.rules.source, subjects, self.settings.scoring)

    def begin(self, lm: LanguageModel, subjects: Sequence[Subject], edit: Edit | None, progress: Progress) -> None:
        """Seal what is fixed before anything is measured, and say the seal's hash."""
        folder = self.folder
        if folder is None:
            return
        parts = [
            Parts(subject.task, (), (), subject.examples) for subject in subjects if isinstance(subject, TaskSubject)
        ]
        record = record_of(lm, self.settings, parts[: len(self.settings.task)], subjects)

        def write() -> str:
            make_folder(folder.path)
            content = seal.content_of("evaluate", record, parts, subjects, self.rules)
            sealed = seal.begin(folder, content, self.rules)
            if edit is not None:
                edit.save(folder.edit)
                seal.add_edit(folder)
            return sealed

        progress.say(f"Sealed before any question is asked: {on_first(write)}")

    def end(
        self,
        subjects: Sequence[Subject],
        before: Mapping[str, Measurement],
        edited: Edited | None,
        results: Mapping[str, Any],
    ) -> None:
        """Write answers and results."""
        if self.folder is None:
            return
        after = None if edited is None else edited.after
        write_lines(self.folder.answers, answer_rows(subjects, before, after))
        write_json(self.folder.columns, column_rows(before, after, None if edited is None else edited.divergence))
        write_json(self.folder.results, results)
