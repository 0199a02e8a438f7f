"""The command line as a user meets it: help, options from everywhere, one clear sentence for every mistake."""

import json
import re
import subprocess
import sys
import time

import pytest
from transformers import BertConfig, BertForSequenceClassification

from crispr_lm.cli.commands import app, main

ROW = {"context": "Ann met Bob.", "question": "Who was late?", "options": ["Ann", "Bob", "Unknown"], "answer": 2}


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps({**ROW, "group": number}) for number in range(9)))
    return path


def run(capsys, *arguments):
    """Run a command in this process; returns its exit status and what it printed."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, capsys.readouterr()


def sentence(capsys, *arguments):
    """The one sentence that a mistake must end in."""
    status, printed = run(capsys, *arguments)
    assert status == 2
    last = printed.err.strip().splitlines()[-1]
    assert last.startswith("crispr-lm: ")
    assert "Traceback" not in printed.err
    return last


def test_help_names_every_command_and_comes_fast():
    # Imports of PyTorch and transformers take seconds; help must not wait for them.
    command = [sys.executable, "-X", "importtime", "-m", "crispr_lm", "--help"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("run", "compare", "score", "evaluate", "apply", "inspect"):
        assert name in finished.stdout
    imported = {line.split("|")[-1].strip() for line in finished.stderr.splitlines() if line.startswith("import time:")}
    assert not imported & {"torch", "transformers", "safetensors", "numpy"}


def test_without_arguments_the_first_commands_are_shown(capsys):
    status, printed = run(capsys)
    assert status == 0
    commands = re.findall(r"^  crispr-lm (\w+)(.*)$", printed.out, flags=re.MULTILINE)
    assert [name for name, _ in commands] == ["doctor", "run", "chat"]
    for name, arguments in commands:  # each is one that the command line takes
        command, _, _ = app.parse_args([name, *arguments.split()], exit_on_error=False, print_error=False)
        assert command.__name__ == name


def test_help_of_a_command_shows_defaults_and_environment_variables(capsys):
    status, printed = run(capsys, "run", "--help")
    assert status == 0
    text = " ".join(printed.out.replace("│", " ").split())  # without the frame that lines break at
    assert "--max-accuracy-loss" in text
    assert "[default: 0.05]" in text


def test_help_of_compare_says_that_it_refuses_a_random_split(capsys):
    status, printed = run(capsys, "compare", "--help")
    text = " ".join(printed.out.replace("│", " ").split())  # without the frame that lines break at
    assert status == 0
    assert "crispr-lm compare refuses it" in text


def test_version(capsys):
    status, printed = run(capsys, "--version")
    assert (status, printed.out.strip()) == (0, "0.1.0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rn"], 'Did you mean "run"?'),
        (["run"], "MODEL"),
        (["run", "m", "--task", "builtin:everyday"], "--output"),
        (["run", "m", "--output", "{out}"], "--task"),
        (["run", "m", "--task", "builtin:everyda", "--output", "{out}"], "did you mean 'everyday'?"),
        (["run", "m", "--task", "bqb:x", "--output", "{out}"], "did you mean 'bbq'?"),
        (["run", "m", "--task", "everyday", "--output", "{out}"], "builtin:NAME"),
        (["run", "m", "--task", "bbq:/nowhere", "--output", "{out}"], "does not exist"),
        (
            ["run", "m", "--task", "choices:{q}", "--output", "{out}", "--exampels", "3"],
            "no option --exampels; did you mean --examples?",
        ),
        (["run", "m", "--task", "choices:{q}", "--ouput", "{out}"], "no option --ouput; did you mean --output?"),
        (["apply", "m", "edit.json", "--ouput", "{out}"], "no option --ouput; did you mean --output?"),
        (["evaluate", "m", "--output", "{out}", "--tsk", "choices:{q}"], "no option --tsk; did you mean --task?"),
        (["evaluate", "m", "--taks", "choices:{q}"], "no option --taks; did you mean --task?"),
        (["run", "m", "--taks", "choices:{q}"], "no option --taks; did you mean --task?"),
        (["evaluate", "m", "--task", "choices:{q}", "--deterministic"], "needs --output"),
        (["run", "m", "--task", "choices:{q}", "--output", "{out}", "--examples", "0"], "--examples"),
        (["run", "m", "--task", "choices:{q}", "--output", "{out}", "--neurons", "liner"], "did you mean 'linear'?"),
        (
            ["run", "m", "--task", "choices:{q}", "--output", "{out}", "--max-accuracy-loss", "nan"],
            "--max-accuracy-loss",
        ),
        (["run", "m", "--task", "choices:{q}", "--output", "{out}", "--examples", "5"], "has 4; lower --examples"),
        (["run", "m", "--task", "choices:{q}", "--output", "{out}", "--instructions", "11"], "1 to 10"),
        (["run", "m", "--task", "choices:{q}", "--output", "{out}", "--instructions", "nowhere.txt"], "nowhere.txt"),
        (["run", "./nowhere", "--task", "choices:{q}", "--output", "{out}", "--examples", "3"], "no such folder"),
        (["run", "n.gguf", "--task", "choices:{q}", "--output", "{out}", "--examples", "3"], "no such file"),
        (["run", "builtin:smollm", "--task", "choices:{q}", "--output", "{out}", "--examples", "3"], "'smollm2'?"),
        (["run", "m", "--task", "choices:{q}", "--task", "choices:{q}", "--output", "{out}"], "named twice"),
        (["run", "m", "--config", "nowhere.toml"], "nowhere.toml does not exist"),
        (["score", "m", "--task", "choices:{q}", "--output", "/nowhere/x.safetensors"], "/nowhere does not exist"),
        (["apply", "m", "nowhere.json", "--output", "{out}"], "nowhere.json can't be read"),
        (
            ["compare", "m", "--task", "choices:{q}", "--output", "{out}", "--methods", "weight"],
            "did you mean 'weights'?",
        ),
        (["compare", "m", "--task", "choices:{q}", "--output", "{out}", "--draws", "0"], "--draws"),
        (
            ["compare", "m", "--task", "choices:{q}", "--output", "{out}", "--removed", "0"],
            "'auto' or greater than or equal to 1",
        ),
        (["inspect", "{q}"], "is no model, scores file"),
        (["run", "", "--task", "builtin:everyday", "--output", "{out}"], "the model's name is empty"),
        (["run", "  ", "--task", "builtin:everyday", "--output", "{out}"], "the model's name is empty"),
        (["run", "m", "--task", "wikitest:x", "--output", "{out}"], "(did you mean 'wikitext'?)"),
        (["run", "m", "--task", "zzz:x", "--output", "{out}"], "openbookqa, glue:mrpc"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_writes_nothing(capsys, tmp_path, questions, arguments, said):
    output = tmp_path / "out"
    given = [argument.replace("{out}", str(output)).replace("{q}", str(questions)) for argument in arguments]
    message = sentence(capsys, *given)
    assert said in message or said in message.replace('"', "")  # cyclopts puts option names into quotes, or not
    assert not output.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "not valid JSON"),
        (json.dumps({**ROW, "answer": 3}), "out of range"),
        (json.dumps({**ROW, "options": ["one"], "answer": 0}), "at least two"),
        (json.dumps({**ROW, "options": ["Ann", "Ann"], "answer": 0}), "are equal"),
        (json.dumps({"context": "", "question": "?", "answer": 0}), "'options' is missing"),
    ],
)
def test_a_broken_line_of_a_task_is_named_with_file_and_number(capsys, tmp_path, questions, line, said):
    questions.write_text(questions.read_text() + "\n" + line)
    message = sentence(capsys, "run", "m", "--task", f"choices:{questions}", "--output", tmp_path / "out")
    assert f"{questions}:10: " in message
    assert said in message
    assert re.search(r"line [12]\b", message) is None  # the file's line alone, not the parser's


def test_an_empty_task_is_refused(capsys, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    assert "no examples" in sentence(capsys, "run", "m", "--task", f"choices:{path}", "--output", tmp_path / "out")


def test_a_folder_with_a_finished_run_is_refused_without_resume_or_overwrite(capsys, tmp_path, questions):
    output = tmp_path / "out"
    output.mkdir()
    for name in ("run.json", "results.json"):
        (output / name).write_text("{}")
    message = sentence(capsys, "run", "m", "--task", f"choices:{questions}", "--output", output)
    assert "--resume" in message
    assert "--overwrite" in message


def test_options_come_from_the_command_line_then_the_environment_then_the_file(
    capsys, tmp_path, questions, monkeypatch
):
    config = tmp_path / "settings.toml"
    config.write_text(f'examples = 7\ntask = ["choices:{questions}"]\n')
    command = ["run", "m", "--output", tmp_path / "out", "--config", config]
    assert "7 examples to attribute on" in sentence(capsys, *command)
    monkeypatch.setenv("CRISPR_LM_EXAMPLES", "6")
    assert "6 examples to attribute on" in sentence(capsys, *command)
    assert "5 examples to attribute on" in sentence(capsys, *command, "--examples", "5")


@pytest.mark.parametrize(
    ("text", "said"),
    [("exampels = 3", "exampels"), ("examples = = 3", "can't be read as TOML"), ('examples = "x"', "--examples")],
)
def test_a_mistake_in_a_settings_file_is_named(capsys, tmp_path, questions, text, said):
    config = tmp_path / "settings.toml"
    config.write_text(text)
    command = ["run", "m", "--task", f"choices:{questions}", "--output", tmp_path / "out", "--config", config]
    assert said in sentence(capsys, *command)


@pytest.mark.parametrize(
    ("variable", "arguments", "where"),
    [
        (None, [], "settings file {config}: option --max-neurons: "),
        ("few", [], "environment variable CRISPR_LM_MAX_NEURONS: option --max-neurons: "),
        ("few", ["--max-neurons", "few"], "crispr-lm: option --max-neurons: "),
        (None, ["--max-neurons=few"], "crispr-lm: option --max-neurons: "),
    ],
)
def test_a_wrong_value_is_named_with_the_place_where_it_was_given(
    capsys, tmp_path, questions, monkeypatch, variable, arguments, where
):
    config = tmp_path / "settings.toml"
    config.write_text('max_neurons = "few"\n')
    if variable is not None:
        monkeypatch.setenv("CRISPR_LM_MAX_NEURONS", variable)
    command = ["run", "m", "--task", f"choices:{questions}", "--output", tmp_path / "out", "--config", config]
    message = sentence(capsys, *command, *arguments)
    assert where.format(config=config) in message
    assert "'few'" in message


def test_a_text_without_words_is_named(capsys, tmp_path, saved_model):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    command = ["run", saved_model("llama"), "--task", "builtin:everyday", "--measure", f"wikitext:{empty}"]
    message = sentence(capsys, *command, "--output", tmp_path / "out")
    assert f"{empty}: no text in it" in message


def test_a_hub_id_that_nobody_gives_is_refused_without_long_waiting(capsys, tmp_path, questions):
    start = time.monotonic()
    command = ["run", "no-such-org/no-such-model", "--task", f"choices:{questions}", "--output", tmp_path / "out"]
    assert "no such folder or file here" in sentence(capsys, *command, "--examples", "3")
    assert time.monotonic() - start < 60  # the hub's client would retry for minutes where there is no network


def test_a_model_that_writes_no_text_is_refused(capsys, tmp_path, questions, saved_model):
    folder = tmp_path / "classifier"
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForSequenceClassification(BertConfig(vocab_size=50, **small)).save_pretrained(folder)
    command = ["run", folder, "--task", f"choices:{questions}", "--output", tmp_path / "out", "--examples", "3"]
    assert "not a language model" in sentence(capsys, *command)


def test_a_model_without_tokenizer_is_refused(capsys, tmp_path, questions, saved_model):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((saved_model("llama") / name).read_bytes())
    command = ["run", folder, "--task", f"choices:{questions}", "--output", tmp_path / "out", "--examples", "3"]
    assert "tokenizer" in sentence(capsys, *command)


def test_a_model_with_missing_or_broken_weights_is_refused(capsys, tmp_path, questions, saved_model):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in saved_model("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    command = ["run", folder, "--task", f"choices:{questions}", "--output", tmp_path / "out", "--examples", "3"]
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    assert "weights can't be loaded" in sentence(capsys, *command)
    (folder / "model.safetensors").unlink()
    assert "weights can't be loaded" in sentence(capsys, *command)
    assert not (tmp_path / "out").exists()


def test_a_whole_run_prints_the_table_and_where_the_files_are(capsys, tmp_path, questions, saved_model):
    output = tmp_path / "out"
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows = [{**row, "condition": ("ambiguous", "disambiguated")[n % 2], "unknown": 2} for n, row in enumerate(rows)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    options = ["--examples", 1, "--instructions", 2, "--max-neurons", 2, "--neurons", "ffn", "--device", "cpu"]
    status, printed = run(
        capsys, "run", saved_model("llama"), "--task", f"choices:{questions}", "--output", output, *options
    )
    assert status == 0
    assert "No edit is recommended" in printed.out
    assert printed.out.count("\n") < 40  # a verdict and a few lines; every table is for --verbose
    assert str(output) in printed.out.replace("\n", "")
    assert "Finding bias neurons" in printed.err
    assert (output / "results.json").exists()
    for source in (output / "edit.json", output / "scores.safetensors", saved_model("llama")):
        status, printed = run(capsys, "inspect", source)
        assert status == 0
        assert "Neurons per module" in printed.out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("max-neuronz = 3\n", "there is no option 'max-neuronz' (did you mean 'max-neurons'?)"),
        ("[run]\nmax-neurons = 3\n", "has a section [run]; write its options at the top level"),
    ],
)
def test_what_a_settings_file_can_not_say_is_refused_with_its_name(tmp_path, capsys, content, said):
    (tmp_path / "settings.toml").write_text(content, encoding="utf-8")
    arguments = ["run", "m", "--task", "builtin:everyday", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--config", str(tmp_path / "settings.toml")])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "settings.toml" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "crispr-lm run needs MODEL"),
        (["run", "m", "extra", "--task", "t", "--output", "o"], "'extra' is one argument too many"),
        (["run", "m", "--task", "builtin:everyday", "--output", "o", "--seed", "-1"], "option --seed"),
        (["inspect", "m", "--top", "-1"], "option --top"),
        (
            ["run", "m", "--task", "builtin:everyday", "--output", "o", "--threads", "1000000"],
            "option --threads: input should be 'auto' or less than or equal to 1024, not '1000000'",
        ),
    ],
)
def test_usage_errors_say_what_to_do(capsys, arguments, said):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
