"""What is printed of a saved model, and the commands that come next."""

import shlex
from pathlib import Path

from crispr_lm.report.questions_from import print_made
from crispr_lm.report.result_tables import print_saved

NAME = "ou t;id'$(x)"


def commands(printed):
    return [shlex.split(line.partition(": ")[2]) for line in printed.splitlines() if ": crispr-lm" in line]


def saved(form, **more):
    return {"format": form, "output": NAME, "saved_model": {"verified": True, "options_compared": 0}, **more}


def test_commands_for_a_saved_folder_can_be_given_to_a_shell(capsys):
    print_saved(saved("folder", canaries="canaries.json"), Path(NAME))
    assert commands(capsys.readouterr().out) == [["crispr-lm", "verify", NAME, "--runtime", "openai:URL"]]


def test_so_can_those_for_a_gguf_file(capsys):
    print_saved(saved("gguf", rows=1, canaries="c.json", modelfile=f"{NAME}.Modelfile", undo="un do"), Path(NAME))
    printed = capsys.readouterr().out
    assert f"ollama create NAME -f {shlex.quote(f'{NAME}.Modelfile')}" in printed
    assert commands(printed) == [
        ["crispr-lm", "verify", NAME, "--runtime", f"gguf-runtime:{NAME}"],
        ["crispr-lm", "apply", NAME, "un do", "--in-place"],
    ]


def test_so_can_those_for_questions_from_a_log(capsys):
    files = {name: f"{NAME}/{name}" for name in ("questions.jsonl", "twins.jsonl", "prompts.jsonl")}
    counts = ("entries", "failures", "prompts", "questions", "question_templates", "with_unknown", "twins")
    nothing = {"left_out": {}, "without_twin": {}, "doubtful": {"count": 0}}
    nothing |= {"unchanged_names": {}, "unchanged_plurals": {}}
    content = {"log": "x", "kind": "x", "files": files, "twin_templates": 1, **dict.fromkeys(counts, 1), **nothing}
    print_made(content)
    check, run, measure, show = commands(capsys.readouterr().out)
    assert check == ["crispr-lm", "questions", "check", files["questions.jsonl"]]
    assert run[run.index("--task") + 1] == f"choices:{files['questions.jsonl']}"
    assert measure[measure.index("--measure") + 1] == f"twins:{files['twins.jsonl']}"
    assert show[show.index("--prompts") + 1] == files["prompts.jsonl"]


def test_nothing_is_said_of_serving_what_must_not_be_used(capsys):
    doubt = {"saved_model": {"verified": False, "reason": "it differs; do not use it"}, "canaries": "c.json"}
    print_saved(saved("folder", **doubt), Path(NAME))
    assert "crispr-lm verify" not in capsys.readouterr().out
    print_saved(saved("gguf", rows=1, modelfile="m", undo="undo", **doubt), Path(NAME))
    printed = capsys.readouterr().out
    assert "ollama create" not in printed
    assert commands(printed) == [["crispr-lm", "apply", NAME, "undo", "--in-place"]]
