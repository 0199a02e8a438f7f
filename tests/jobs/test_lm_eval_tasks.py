"""EleutherAI's lm-eval on a saved model and an exported task: the same answers and accuracy as ours, to the item."""

from json import loads
from shutil import copytree

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from crispr_lm import Edit, InputError, Neuron, evaluate, load_model
from crispr_lm.edits.export import export_folder
from crispr_lm.inference.prompts import encode, render_prompt
from crispr_lm.jobs.lm_eval_tasks import export_lm_eval, lm_eval_tasks, loses_head
from crispr_lm.other_settings import LmEvalSettings

from ..baselines.questions import TASK
from ..helpers import DOWN_PROJECTIONS, EXAMPLES, INSTRUCTIONS, build_model

QUESTIONS = (*EXAMPLES, *TASK.examples)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5-gated", "t5-relu", "bart"])
def test_lm_eval_gives_the_same_answers_to_the_item(architecture, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    lm = build_model(architecture)
    edit = Edit.from_neurons(
        lm, [Neuron(name, unit, "ffn") for name in DOWN_PROJECTIONS[architecture] for unit in range(5)]
    )
    export_folder(lm, edit, tmp_path / "model")
    (tmp_path / "tasks").mkdir()
    export_lm_eval(lm, QUESTIONS, INSTRUCTIONS[0], tmp_path / "tasks", "questions")

    edited = load_model(tmp_path / "model", device="cpu")
    ours = evaluate(edited, QUESTIONS, INSTRUCTIONS[:1])
    before = evaluate(lm, QUESTIONS, INSTRUCTIONS[:1])
    assert not torch.equal(ours.option_scores[0], before.option_scores[0])

    arguments = {"pretrained": str(tmp_path / "model"), "dtype": "float32"}
    if architecture == "llama":  # has a chat template
        arguments["add_bos_token"] = False
    model = "hf"
    if architecture == "t5-gated":  # has an output layer of its own, which lm-eval would tie to the embeddings
        assert loses_head(edited.model.config)
        network = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
        network.tie_weights = lambda *_arguments, **_options: None
        model = HFLM(pretrained=network, tokenizer=str(tmp_path / "model"), batch_size=4)
    theirs = simple_evaluate(
        model,
        model_args=arguments,
        tasks=["questions"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
    )
    samples = sorted(theirs["samples"]["questions"], key=lambda sample: sample["doc_id"])
    assert len(samples) == len(QUESTIONS)
    for sample, example, scores in zip(samples, QUESTIONS, ours.option_scores[0], strict=True):
        sums = torch.tensor([float(response[0]) for response in sample["filtered_resps"]])
        own = scores[: len(example.options)]
        assert int(sums.argmax()) == int(own.argmax())
        assert sample["acc"] == float(int(own.argmax()) == example.answer)
        if architecture == "llama":
            # A chat prompt ends with a line break, which lm-eval counts to every option: the differences are the same.
            sums, own = sums - sums[0], own - own[0]
        torch.testing.assert_close(sums, own, rtol=1e-4, atol=1e-3)
    assert theirs["results"]["questions"]["acc,none"] == pytest.approx(ours["accuracy"])


def test_prompts_and_options_are_those_that_are_scored(saved_model, tmp_path):
    lm = load_model(saved_model("llama"), device="cpu")
    export_lm_eval(lm, EXAMPLES, INSTRUCTIONS[0], tmp_path, "x")
    rows = [loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == [render_prompt(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES]
    assert [row["choices"] for row in rows] == [list(example.options) for example in EXAMPLES]
    assert [row["gold"] for row in rows] == [example.answer for example in EXAMPLES]
    config = dict(line.split(": ", 1) for line in (tmp_path / "x.yaml").read_text(encoding="utf-8").splitlines())
    assert loads(config["target_delimiter"]) == ""  # the chat template ends the prompt
    assert loads(config["dataset_kwargs"])["data_files"]["test"] == str((tmp_path / "x.jsonl").resolve())


def test_every_task_is_written_under_every_instruction(saved_model, tmp_path):
    settings = LmEvalSettings(task=("builtin:everyday", "builtin:knowledge"), instructions="2")
    names = lm_eval_tasks(str(saved_model("llama")), tmp_path / "out", settings)
    assert names == [f"builtin_{task}_{number}" for task in ("everyday", "knowledge") for number in (1, 2)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{x}.{end}" for x in names for end in ("yaml", "jsonl")
    }


def test_tasks_are_named_by_their_kind_and_file_and_clashes_are_refused_before_anything_is_written(
    saved_model, tmp_path
):
    row = '{"context": "", "question": "Who?", "options": ["a", "b"], "answer": 0}\n'
    for name in ("test", "a b", "a_b"):
        (tmp_path / f"{name}.jsonl").write_text(row, encoding="utf-8")
    names = [f"choices:{tmp_path}/{name}.jsonl" for name in ("test", "a b", "a_b")]
    model = str(saved_model("llama"))
    settings = LmEvalSettings(task=(names[0], "builtin:knowledge"), instructions="1", split="all")
    assert lm_eval_tasks(model, tmp_path / "out", settings) == ["choices_test_1", "builtin_knowledge_1"]
    with pytest.raises(InputError, match="two tasks would be called choices_a_b_1"):
        lm_eval_tasks(model, tmp_path / "clash", LmEvalSettings(task=tuple(names[1:]), instructions="1", split="all"))
    assert not (tmp_path / "clash").exists()


@pytest.mark.parametrize(("architecture", "written"), [("t5-gated", "{}</s>"), ("bart", "<s>{}</s>")])
def test_options_of_a_target_hold_what_the_tokenizer_puts_around_it(architecture, written, tmp_path):
    lm = build_model(architecture)
    config = export_lm_eval(lm, EXAMPLES, INSTRUCTIONS[0], tmp_path, "x")
    assert config["target_delimiter"] == ""
    rows = [loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    for row, example in zip(rows, EXAMPLES, strict=True):
        assert row["choices"] == [written.format(option) for option in example.options]
        encoded = encode(lm, example, INSTRUCTIONS[0])
        # As lm-eval does for an encoder-decoder model: the prompt with special tokens, options without.
        assert lm.tokenizer.encode(row["prompt"]) == encoded.prompt_ids
        assert [lm.tokenizer.encode(x, add_special_tokens=False) for x in row["choices"]] == encoded.option_ids


def test_encoder_decoder_models_that_lm_eval_would_score_in_another_way_are_refused(saved_model, tmp_path):
    settings = LmEvalSettings(task=("builtin:everyday",), instructions="1")
    folder = tmp_path / "template"
    copytree(saved_model("t5-gated"), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}\n{{ '\n' }}", encoding="utf-8")
    with pytest.raises(InputError, match="ends a prompt with white space"):
        lm_eval_tasks(str(folder), tmp_path / "out", settings)
    lm = build_model("t5-gated")
    lm.tokenizer.split_special_tokens = True  # an end token in a text is read as its characters
    with pytest.raises(InputError, match="no text for the tokens that it puts around 'the old man'"):
        export_lm_eval(lm, EXAMPLES, INSTRUCTIONS[0], tmp_path, "x")
    assert {path.name for path in tmp_path.iterdir()} == {"template"}


@pytest.mark.parametrize(("architecture", "loses"), [("t5-gated", True), ("t5-relu", False), ("bart", False)])
def test_a_model_whose_output_layer_lm_eval_would_tie_is_reported(saved_model, tmp_path, caplog, architecture, loses):
    network = AutoModelForSeq2SeqLM.from_pretrained(saved_model(architecture))
    before = network.get_output_embeddings().weight.clone()
    network.tie_weights()  # as lm-eval does
    assert loses == (not torch.equal(network.get_output_embeddings().weight, before))
    settings = LmEvalSettings(task=("builtin:everyday",), instructions="1")
    lm_eval_tasks(str(saved_model(architecture)), tmp_path / "out", settings)
    assert loses == ("measures another model" in caplog.text)
