"""A chat with two models in the terminal: two columns in a terminal, lines of text where there is none.

Reads questions and shows answers; `crispr_lm.edits.side_by_side` writes them.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from crispr_lm.edits.edit import Edit
from crispr_lm.edits.side_by_side import stream_both
from crispr_lm.errors import InputError
from crispr_lm.inference.streaming import Decoding
from crispr_lm.jobs.preparation import Needs, Timings, load
from crispr_lm.other_settings import ChatSettings
from crispr_lm.report.console import console
from crispr_lm.runtime.progress import Progress, SilentProgress
from crispr_lm.storage.hub import local_edit
from crispr_lm.storage.sanitize import json_line, printable

if TYPE_CHECKING:
    from crispr_lm.model.language_model import LanguageModel

HELP = "/clear forgets the conversation, /quit (or Ctrl-D) ends it, Ctrl-C stops an answer."
CLEARED = "The conversation is forgotten; both models start without it."

Stopped = Callable[[], bool]


@dataclass
class Chat:
    """Two conversations, with the original and with the edited model: the same questions, the answers of each.

    Attributes:
        lm: The one model that gives both answers.
        edit: Applied for the second.
        decoding: How answers are written.
        original: The conversation with the original: question and answer in turn.
        edited: The conversation with the edited model.
    """

    lm: LanguageModel
    edit: Edit
    decoding: Decoding
    original: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    def ask(self, question: str, stopped: Stopped = lambda: False) -> Iterator[tuple[str, str]]:
        """Ask both.

        What was written until `stopped` is true is kept as the answer. An exchange without both answers is left
        out.

        Yields:
            Both answers so far.

        Raises:
            InputError: the conversation no longer fits the model's context.
        """
        answers = ("", "")
        stream = stream_both(self.lm, self.edit, [*self.original, question], [*self.edited, question], self.decoding)
        for answers in stream:
            yield answers
            if stopped():
                break
        if all(answers):
            self.original += [question, answers[0]]
            self.edited += [question, answers[1]]

    def clear(self) -> None:
        """Forget both conversations."""
        self.original.clear()
        self.edited.clear()


def chat(
    model: str, edit_file: Path, settings: ChatSettings, progress: Progress | None = None
) -> Callable[[bool], None]:
    """Load a model and an edit for a chat.

    Returns:
        What holds the chat on this process's terminal; given True it prints an answer as a line of JSON.

    Raises:
        InputError: the model or the edit can't be used.
        EditMismatchError: the edit was made for another model.
    """
    edit = Edit.load(local_edit(edit_file))
    lm = load(model, settings, Needs(), Timings(), progress or SilentProgress())
    edit.check(lm)
    made = Chat(lm, edit, Decoding(settings.max_new_tokens, settings.temperature, settings.seed))

    def talk(as_json: bool = False) -> None:
        with suppress(KeyboardInterrupt):  # there is nothing to lose or to resume
            if not as_json and console.is_terminal and sys.stdin.isatty():
                hold_in_terminal(made, console)
            else:
                hold_in_lines(made, sys.stdin, as_json=as_json)

    return talk


def hold_in_lines(made: Chat, questions: Iterable[str], *, as_json: bool = False) -> None:
    """Answer one question per line, in plain text or JSON, until the lines or the user end it."""
    for line in questions:
        question = line.strip()
        if not question:
            continue
        if question.startswith("/"):
            if question == "/quit":
                return
            reply = _command(made, question)
            if not as_json:
                print(printable(reply), flush=True)
            continue
        with _interruptions() as stopped:
            *_, answers = ("", ""), *made.ask(question, stopped)
        if as_json:
            exchange = {"question": question, "original": answers[0], "edited": answers[1]}
            print(json_line(exchange), flush=True)
        else:
            original, edited = (printable(answer, keep_lines=True) for answer in answers)
            print(f"question: {printable(question)}\noriginal: {original}\nedited: {edited}\n", flush=True)


def hold_in_terminal(made: Chat, screen: Console, ask: Callable[[], str] | None = None) -> None:
    """Hold a chat in a terminal, answers growing in two columns.

    Args:
        made: The chat.
        screen: The terminal.
        ask: Gives the next question; raises EOFError or KeyboardInterrupt where there is none.
    """
    with suppress(ImportError):
        import readline  # noqa: F401  # arrow keys and history in what is typed
    screen.print(Text(f"{printable(made.lm.name)}, original and edited ({_described(made.edit)}). {HELP}", style="dim"))
    while True:
        try:
            question = (ask() if ask is not None else screen.input("\n[bold cyan]you>[/] ")).strip()
        except (EOFError, KeyboardInterrupt):
            screen.print()
            return
        if question == "/quit":
            return
        if question.startswith("/"):
            screen.print(Text(printable(_command(made, question)), style="dim"))
        elif question:
            try:
                _show_answers(made, question, screen)
            except InputError as error:  # a conversation that has become too long shall not end the program
                screen.print(Text(f"{printable(str(error))} (/clear starts a new one)", style="yellow"))


def _show_answers(made: Chat, question: str, screen: Console) -> None:
    answers, was_stopped = ("", ""), False
    # While it grows it is shown as far as it fits the window; in the end all of it stands above the next question.
    with _interruptions() as stopped, Live(console=screen, transient=True, auto_refresh=False) as live:
        live.update(columns(made.edit, answers), refresh=True)
        for answers in made.ask(question, stopped):
            live.update(columns(made.edit, answers), refresh=True)
        was_stopped = stopped()
    screen.print(columns(made.edit, answers))
    if was_stopped:
        screen.print(Text("(stopped)", style="dim"))
    elif answers[0] == answers[1]:
        screen.print(Text("(the same answer)", style="dim"))


def columns(edit: Edit, answers: tuple[str, str]) -> Group:
    """Both answers side by side. Nothing in them is read as markup."""
    table = Table(expand=True, show_lines=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(Text("original", style="bold"), ratio=1, overflow="fold")
    table.add_column(Text(f"edited: {_described(edit)}", style="bold magenta"), ratio=1, overflow="fold")
    table.add_row(*(Text(printable(answer, keep_lines=True)) for answer in answers))
    return Group(Rule(style="dim"), table)


def _command(made: Chat, command: str) -> str:
    if command == "/clear":
        made.clear()
        return CLEARED
    return HELP if command == "/help" else f"There is no {command}. {HELP}"


def _described(edit: Edit) -> str:
    count = len(edit.neurons)
    what = "eliminated" if edit.scale == 0 else f"scaled by {edit.scale:g}"
    return f"{count} neuron{'' if count == 1 else 's'} {what}"


@contextmanager
def _interruptions() -> Iterator[Stopped]:
    """Ctrl-C asks for an end between two tokens, where nothing is half done; a second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
