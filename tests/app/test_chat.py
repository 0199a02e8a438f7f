"""The chat: conversations of their own for both models, commands, interruptions, pipes and terminals."""

import io
import json
import os
import signal

import pytest
from rich.console import Console

from crispr_lm import Edit, Neuron
from crispr_lm.app.chat import Chat, hold_in_lines, hold_in_terminal
from crispr_lm.cli.commands import main
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode_conversation
from crispr_lm.inference.streaming import Decoding

from ..helpers import DOWN_PROJECTIONS, build_model


def every_neuron(lm):
    return Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS["llama"][-1], index, "ffn") for index in range(48)])


@pytest.fixture
def talk(llama):
    return Chat(llama, every_neuron(llama), Decoding(8))


def generated(lm, turns):
    (ids,) = continuations(lm, [encode_conversation(lm, turns)], 8)
    return lm.tokenizer.decode(ids, skip_special_tokens=True).strip().rstrip("\ufffd")


def test_each_model_goes_on_from_its_own_answers(talk):
    *_, first = talk.ask("Who cooks?")
    assert first[0] != first[1]
    *_, second = talk.ask("Who was late?")
    assert talk.original == ["Who cooks?", first[0], "Who was late?", second[0]]
    assert talk.edited == ["Who cooks?", first[1], "Who was late?", second[1]]
    assert second[0] == generated(talk.lm, ["Who cooks?", first[0], "Who was late?"])
    with talk.edit.applied(talk.lm):
        assert second[1] == generated(talk.lm, ["Who cooks?", first[1], "Who was late?"])


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_went(talk):
    calls = iter(range(9))
    seen = list(talk.ask("Who cooks?", stopped=lambda: next(calls) == 4))
    assert len(seen) == 5
    assert talk.original == ["Who cooks?", seen[-1][0]]
    talk.clear()
    list(talk.ask("Who cooks?", stopped=lambda: True))  # before the edited model has said anything
    assert talk.original == talk.edited == []


def test_lines_are_answered_in_plain_text_until_quit(talk, capsys):
    hold_in_lines(talk, ["Who cooks?\n", "\n", "/clear\n", "Who cooks?\n", "/unknown\n", "/quit\n", "Who was late?\n"])
    printed = capsys.readouterr().out
    answer = f"question: Who cooks?\noriginal: {talk.original[1]}\nedited: {talk.edited[1]}\n"
    assert printed.count(answer) == 2
    assert len(talk.original) == 2
    assert "There is no /unknown" in printed
    assert "Who was late" not in printed


def test_a_terminal_shows_two_columns_and_no_markup_of_the_model(talk):
    class Marked(Chat):
        def ask(self, question, stopped=lambda: False):
            yield "[red]not markup[/red]", "[bold]nor this"

    screen = Console(file=io.StringIO(), width=100, force_terminal=False)
    questions = iter(["/help", "Who?", "/quit"])
    hold_in_terminal(Marked(talk.lm, talk.edit, talk.decoding), screen, lambda: next(questions))
    shown = screen.file.getvalue()
    row = next(line for line in shown.splitlines() if "not markup" in line)
    assert row.index("[red]not markup[/red]") < row.index("[bold]nor this")
    assert "edited: 48 neurons eliminated" in shown
    assert "(the same answer)" not in shown


def test_an_edit_that_changes_nothing_is_noted(llama):
    nothing = Edit.from_neurons(llama, [Neuron(DOWN_PROJECTIONS["llama"][-1], 0, "ffn")], scale=1.0)
    screen = Console(file=io.StringIO(), width=100)
    questions = iter(["Who cooks?", "/quit"])
    hold_in_terminal(Chat(llama, nothing, Decoding(8)), screen, lambda: next(questions))
    assert "(the same answer)" in screen.file.getvalue()
    assert "1 neuron scaled by 1" in screen.file.getvalue()


def test_the_end_of_input_ends_a_chat_in_a_terminal(talk):
    def nothing():
        raise EOFError

    hold_in_terminal(talk, Console(file=io.StringIO()), nothing)


def test_a_conversation_that_is_too_long_is_reported_and_does_not_end_the_chat(talk):
    screen = Console(file=io.StringIO(), width=200)
    questions = iter(["Who cooks? " * 300, "Who cooks?", "/quit"])
    hold_in_terminal(talk, screen, lambda: next(questions))
    assert "/clear starts a new one" in screen.file.getvalue()
    assert len(talk.original) == 2


def test_an_interruption_stops_the_answer_and_not_the_chat(talk):
    screen = Console(file=io.StringIO(), width=100)
    whole = Chat.ask

    class Interrupted(Chat):
        def ask(self, question, stopped=lambda: False):
            for number, answers in enumerate(whole(self, question, stopped)):
                if number == 3 and question == "Who cooks?":
                    os.kill(os.getpid(), signal.SIGINT)
                yield answers

    before = signal.getsignal(signal.SIGINT)
    questions = iter(["Who cooks?", "Who was late?", "/quit"])
    made = Interrupted(talk.lm, talk.edit, talk.decoding)
    hold_in_terminal(made, screen, lambda: next(questions))
    assert screen.file.getvalue().count("(stopped)") == 1
    assert [made.original[0], made.original[2]] == ["Who cooks?", "Who was late?"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated"])
def test_the_command_answers_what_is_piped_into_it(saved_model, tmp_path, monkeypatch, capsys, architecture):
    lm = build_model(architecture)
    edit = tmp_path / "edit.json"
    Edit.from_neurons(lm, [Neuron(DOWN_PROJECTIONS[architecture][-1], index, "ffn") for index in range(48)]).save(edit)
    monkeypatch.setattr("sys.stdin", io.StringIO("Who cooks?\nWho was late?\n"))
    command = ["chat", str(saved_model(architecture)), "--edit", str(edit), "--max-new-tokens", "5", "--json"]
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert not stop.value.code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in rows] == ["Who cooks?", "Who was late?"]
    assert rows[0]["original"] != rows[0]["edited"]


def test_an_edit_of_another_model_is_refused(saved_model, tmp_path, capsys):
    edit = tmp_path / "edit.json"
    other = build_model("gpt2")
    Edit.from_neurons(other, [Neuron(DOWN_PROJECTIONS["gpt2"][0], 1, "ffn")]).save(edit)
    with pytest.raises(SystemExit) as stop:
        main(["chat", str(saved_model("llama")), "--edit", str(edit)])
    assert stop.value.code == 2
    assert "made for another model" in capsys.readouterr().err
