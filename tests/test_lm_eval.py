"""EleutherAI's lm-eval on a saved model and an exported task: the same answers and accuracy as ours, to the item."""

import pytest
import torch

from crispr_lm import Edit, InputError, Neuron, evaluate, load_model
from crispr_lm.export import export_folder
from crispr_lm.interop import export_lm_eval, lm_eval_tasks
from crispr_lm.settings import LmEvalSettings

from .baselines.questions import TASK
from .helpers import DOWN_PROJECTIONS, EXAMPLES, INSTRUCTIONS, build_model

QUESTIONS = (*EXAMPLES, *TASK.examples)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_lm_eval_gives_the_same_answers_to_the_item(architecture, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
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
    theirs = simple_evaluate(
        "hf",
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
        # A chat prompt ends with a line break, which lm-eval counts to every option: the differences are the same.
        torch.testing.assert_close(sums - sums[0], own - own[0], rtol=1e-4, atol=1e-3)
    assert theirs["results"]["questions"]["acc,none"] == pytest.approx(ours["accuracy"])


def test_prompts_and_options_are_those_that_are_scored(saved_model, tmp_path):
    from json import loads

    from crispr_lm.prompts import render_prompt

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
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(row, encoding="utf-8")
    names = [f"choices:{tmp_path}/one/test.jsonl", f"choices:{tmp_path}/two/test.jsonl"]
    model = str(saved_model("llama"))
    settings = LmEvalSettings(task=(names[0], "builtin:knowledge"), instructions="1", part="all")
    assert lm_eval_tasks(model, tmp_path / "out", settings) == ["choices_test_1", "builtin_knowledge_1"]
    with pytest.raises(InputError, match="two tasks would be called choices_test_1"):
        lm_eval_tasks(model, tmp_path / "clash", LmEvalSettings(task=tuple(names), instructions="1", part="all"))
    assert not (tmp_path / "clash").exists()


def test_models_that_lm_eval_scores_in_another_way_are_refused(saved_model, tmp_path):
    settings = LmEvalSettings(task=("builtin:everyday",), instructions="1")
    with pytest.raises(InputError, match="end token"):
        lm_eval_tasks(str(saved_model("t5-gated")), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
