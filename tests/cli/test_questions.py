"""The commands for questions as a user meets them: from a new template file to a checked one."""

import json
import shlex

import pytest

from crispr_lm.cli.commands import main
from crispr_lm.tasks.registry import load_task


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Runs a command in an empty folder; returns its exit status, what it printed, and its sentence on an error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        status = 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as stop:
            status = stop.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err.strip()

    return run


def test_from_a_new_file_to_a_task(call):
    assert call("questions", "new", "mine.toml")[0] == 0
    status, printed, _ = call("questions", "expand", "mine.toml", "--output", "mine.jsonl")
    assert status == 0
    assert "48 ambiguous, 48 disambiguated" in printed
    assert "--task choices:mine.jsonl" in printed
    task = load_task("choices:mine.jsonl")
    assert len(task.examples) == 96
    assert {example.polarity for example in task.examples} == {"negative", "nonnegative"}
    status, printed, _ = call("questions", "check", "mine.jsonl")
    assert status == 0
    assert "No findings." in printed
    assert "t(0.975, g − 1) · s / √g" in printed


def test_printed_commands_can_be_given_to_a_shell_as_they_are(call):
    source, made = "te m;id.toml", "ou t;id'.jsonl"
    printed = call("questions", "new", source)[1]
    assert shlex.split(printed.partition("then: ")[2]) == ["crispr-lm", "questions", "expand", source]
    printed = call("questions", "expand", source, "--output", made)[1]
    following, then = (line.partition(": ")[2] for line in printed.splitlines()[-2:])
    assert shlex.split(following) == ["crispr-lm", "questions", "check", made]
    assert shlex.split(then) == ["crispr-lm", "run", "MODEL", "--task", f"choices:{made}", "--output", "out"]


def test_the_answers_of_a_new_file_are_the_users(call, tmp_path):
    people = ("--stereotyped-person", "the old man", "--other-person", "the young man")
    groups = ("--stereotyped-group", "older people", "--other-group", "younger people", "--category", "Age")
    status, printed, _ = call("questions", "new", "age.toml", *groups, *people)
    assert (status, "examples as comments" in printed) == (0, True)
    # The examples are about women and men.
    status, _, error = call("questions", "expand", "age.toml", "--output", "age.jsonl")
    assert (status, "there is no [[template]]" in error) == (2, True)
    _, start, commented = (tmp_path / "age.toml").read_text().rpartition("# [[template]]")
    own = "\n".join(line.removeprefix("# ") for line in f"{start}{commented}".splitlines())
    with (tmp_path / "age.toml").open("a") as file:
        file.write(own)
    assert call("--quiet", "questions", "expand", "age.toml", "--output", "age.jsonl")[:2] == (0, "age.jsonl\n")
    task = load_task("choices:age.jsonl")
    assert {example.category for example in task.examples} == {"Age"}
    assert all({"The old man", "The young man"} < set(example.options) for example in task.examples)


def test_findings_are_listed_and_no_failure(call, tmp_path):
    row = {"context": "A nurse and a man met.", "question": "Who is it?", "options": ["Ann", "Bob"], "answer": 0}
    (tmp_path / "bad.jsonl").write_text("\n".join(json.dumps(row | {"question": f"Who is {n}?"}) for n in range(3)))
    status, printed, _ = call("--json", "questions", "check", "bad.jsonl")
    found = json.loads(printed)
    assert status == 0
    assert {finding["check"] for finding in found["findings"]} >= {"missing", "order", "near-copies"}
    assert all(finding["found"] and finding["advice"] for finding in found["findings"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("new", "there.toml"), "there.toml exists"),
        (("new", "no/there.toml"), "folder no does not exist"),
        (("new", "mine.yaml"), "give a name that ends in .toml"),
        (("expand", "nothing.toml", "--output", "x.jsonl"), "nothing.toml: can't be read"),
        (("expand", "there.toml", "--output", "x.jsonl"), "there is no [[template]]"),
        (("expand", "there.toml", "--output", "x.jsonl", "--pairs", "0"), "option --pairs"),
        (("check", "nothing.jsonl"), "nothing.jsonl does not exist"),
        (("check", "there.toml"), "there is no [[template]]"),
    ],
)
def test_what_can_not_be_read_ends_in_one_sentence(call, tmp_path, arguments, said):
    (tmp_path / "there.toml").write_text('category = "Age"\n')
    status, _, error = call("questions", *arguments)
    assert status == 2
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x.jsonl").exists()
