"""What the page shows of a run: its files, its model, and answers to what is asked of them. Knows no page."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter

from crispr_lm.edits.edit import Edit
from crispr_lm.edits.neuron_activity import Firing, firing, option_probabilities
from crispr_lm.edits.side_by_side import stream_both
from crispr_lm.errors import InputError, on_one_line
from crispr_lm.inference.prompts import prompt_text
from crispr_lm.inference.scoring import Likelihood
from crispr_lm.inference.streaming import Decoding
from crispr_lm.jobs.preparation import Needs, Timings, load
from crispr_lm.model.devices import check_dtype
from crispr_lm.other_settings import AppSettings
from crispr_lm.report.changed import changed_answers
from crispr_lm.report.summary import headline, six_lines
from crispr_lm.report.words import spoken
from crispr_lm.runtime.progress import Progress
from crispr_lm.storage.answers import read_answers
from crispr_lm.storage.records import MALFORMED, read_object
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks.base import QUESTION, SENTENCES, Example
from crispr_lm.tasks.languages import ENGLISH

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel


class _Promoted(BaseModel):
    """A neuron of the edit as results.json describes it, as far as the page shows it."""

    model_config = ConfigDict(strict=True)

    kind: str
    module: str
    index: int
    promotes: list[str]


_PROMOTED = TypeAdapter(list[_Promoted])

OWN_QUESTION = "your own question"
"""Stands where an example has the file that it comes from."""


@dataclass(frozen=True)
class Question:
    """A question of the run's test split.

    Attributes:
        example: What is asked.
        instructions: Under which phrasings.
        label: A line to choose it by.
        gain: By how much the edit raises the probability of the right answer, where it changes the answer, else 0.
    """

    example: Example
    instructions: tuple[str, ...]
    label: str
    gain: float = 0.0


@dataclass
class Session:
    """A finished run with its model.

    Attributes:
        lm: The model, unedited.
        edit: What the run recommends.
        results: results.json.
        answers: answers.jsonl.
        questions: Those of the tasks that the edit was made for.
    """

    lm: LanguageModel
    edit: Edit
    results: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    questions: Sequence[Question]
    _known: dict[tuple[Example, tuple[str, ...], int], list[float]] = field(default_factory=dict, repr=False)
    # Hooks are on the one model that all share: nobody may run it while somebody else's edit is applied.
    _alone: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def ask_both(self, text: str, decoding: Decoding) -> Iterator[tuple[str, str]]:
        """Both answers to a user's words, growing; raises as `stream_both`."""
        if not text.strip():
            raise InputError("there is nothing to answer; write a prompt")
        with self._alone:
            stream = stream_both(self.lm, self.edit, [text], [text], decoding)
        while True:
            with self._alone:
                answers = next(stream, None)
            if answers is None:
                return
            yield answers

    def probabilities(self, question: Question, count: int) -> list[float]:
        """Probability of each option with the first `count` neurons of the edit; raises as `option_probabilities`."""
        key = (question.example, question.instructions, count)
        if key not in self._known:
            with self._alone:
                self._known[key] = option_probabilities(
                    self.lm, question.example, question.instructions, self.edit.first(count), scoring=self.scoring
                )
        return self._known[key]

    def firing(self, text: str) -> Firing:
        """Activations of the edit's neurons on a user's words; raises as `probing.firing`."""
        if not text.strip():
            raise InputError("there is nothing to read; write a prompt")
        with self._alone:
            return firing(self.lm, text, self.edit.neurons)

    def own_question(self, context: str, question: str, options: Sequence[str]) -> Question:
        """A user's own question, asked under the first task's instructions.

        Raises:
            InputError: fewer than two options, or one of them twice.
        """
        given = tuple(option.strip() for option in options if option.strip())
        if len(given) < 2:
            raise InputError("give at least two answer options, one per line")
        if len(set(given)) != len(given):
            raise InputError("an answer option is given twice; give different ones")
        language = self.questions[0].example.language if self.questions else ENGLISH  # that of the instructions
        example = Example(
            context.strip(), question.strip(), given, answer=0, template="", source=OWN_QUESTION, language=language
        )
        return Question(example, self.instructions, OWN_QUESTION)

    @property
    def most_changed(self) -> int | None:
        """Which of the questions shows best what the edit is for; None if there are none."""
        return max(range(len(self.questions)), key=lambda index: self.questions[index].gain, default=None)

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those of the first task."""
        return self.questions[0].instructions if self.questions else ("Answer the question.",)

    @property
    def scoring(self) -> Likelihood:
        """How options are compared: as in the run, where it compared probabilities."""
        return "mean" if self.results.get("scoring") == "mean" else "sum"

    def prompt(self, question: Question) -> str:
        """A question as the model is asked it, under the first instruction."""
        if question.example.form == SENTENCES:
            return question.example.options[0]
        return prompt_text(question.example, question.instructions[0])

    def promoted(self) -> list[str]:
        """Per neuron of the edit the tokens it promotes, as the run has found them; empty where there are none."""
        promoted = {(row["kind"], row["module"], row["index"]): row["promotes"] for row in self.results["neurons"]}
        lists = [promoted.get((neuron.kind, neuron.module, neuron.index), []) for neuron in self.edit.neurons]
        return [", ".join(repr(token) for token in tokens) for tokens in lists]


def open_session(path: Path, settings: AppSettings, progress: Progress) -> Session:
    """Read a run's folder and load its model.

    Number format and weights are those of the run where the settings don't say otherwise; code and pickles that came
    with the model are trusted only where the settings say so.

    Raises:
        InputError: no folder of a finished run, or a model that can't be loaded.
        EditMismatchError: another model than the run's.
    """
    found = read_run(path)
    asked = {name: value for name, value in found.loading.items() if name not in settings.model_fields_set}
    settings = settings.model_copy(update=asked)
    lm = load(settings.model or found.model, settings, Needs(), Timings(), progress)
    found.edit.check(lm)
    return Session(lm, found.edit, found.results, found.answers, found.questions)


@dataclass(frozen=True)
class FinishedRun:
    """What a run's files hold, before any model is loaded; attributes as of `Session`.

    Attributes:
        model: As the run was asked for it.
        loading: How the run loaded it and put prompts to it, as settings.
    """

    model: str
    loading: Mapping[str, Any]
    edit: Edit
    results: Mapping[str, Any]
    answers: Sequence[Mapping[str, Any]]
    questions: Sequence[Question]


def read_run(path: Path) -> FinishedRun:
    """Read the folder of a finished run.

    Raises:
        InputError: it is none, or its files are not what a run writes.
    """
    folder = RunFolder(path)
    try:
        is_finished = folder.run.is_file() and folder.results.is_file()
    except OSError as error:  # too long a name
        raise InputError(f"{str(path)[:80]} can't be read ({error.strerror}); check the path") from error
    if not is_finished:
        raise InputError(
            f"{path} is no folder of a finished run; give the --output of crispr-lm run, or finish it with the same "
            "command"
        )
    record, results = read_object(folder.run), read_object(folder.results)
    edit = Edit.load(folder.edit)
    answers = read_answers(folder.answers)
    try:
        identity = record["identity"]
        model, dtype = str(identity["model"]), identity["settings"]["dtype"]
        check_dtype(dtype)
        loading = {
            "dtype": dtype,
            "prompt_format": identity["settings"]["prompt_format"],
            "prompt_date": datetime.fromisoformat(identity["moment"]),
        }
        instructions = dict(zip(record["parts"], map(tuple, identity["instructions"]), strict=True))
        questions = [_question(row, instructions[row["task"]]) for row in answers if row["task"] in instructions]
        _PROMOTED.validate_python(results["neurons"])
        headline(results)
        six_lines(results)
    except MALFORMED as error:
        raise InputError(
            f"{path} is not what this version's crispr-lm run writes ({on_one_line(error)}); run it anew"
        ) from error
    return FinishedRun(model, loading, edit, results, answers, questions)


def _question(row: Mapping[str, Any], instructions: tuple[str, ...]) -> Question:
    example = Example(
        context=row["context"],
        question=row["question"],
        options=tuple(row["options"]),
        answer=row["answer"],
        template=row["template"],
        condition=row["condition"],
        unknown=row["unknown"],
        stereotyped=row["stereotyped"],
        category=row["category"] or "",
        source=row["source"],
        form=QUESTION if row["question"] or row["context"] else SENTENCES,
        language=row.get("language", ENGLISH),
    )
    changed = changed_answers([row])
    gain = changed[0]["after"][example.answer] - changed[0]["before"][example.answer] if changed else 0.0
    change = "changed" if changed else ""
    marks = ", ".join(mark for mark in (spoken(example.category), example.condition, change) if mark)
    asked = example.question or example.options[0]
    label = f"{asked} {example.context}"
    return Question(example, instructions, f"{marks}: {label}" if marks else label, gain)
