"""Layers divided among processes: two gloo ranks compute, edit and save what one process does, or refuse to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file

import crispr_lm
from crispr_lm.errors import CrisprError, InputError
from crispr_lm.inference import batching
from crispr_lm.jobs.run import run
from crispr_lm.jobs.steps import evaluate
from crispr_lm.model import tensor_parallel
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime import distributed
from crispr_lm.settings import RunSettings

from ..helpers import build_mixture, build_model
from ..runtime.test_distributed import ROOT, torchrun

has_plans = pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < tensor_parallel.RELEASE,
    reason="this release of transformers divides models in another way",
)

SMALL = {"task": ("builtin:everyday",), "instructions": "1", "measure_examples": 4, "test_examples": 12}


def written(settings: dict[str, object]) -> list[str]:
    """Settings as options of the command."""
    values = {name: value[0] if isinstance(value, tuple) else value for name, value in settings.items()}
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@has_plans
@pytest.mark.slow
def test_two_ranks_run_and_evaluate_as_one_process(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    model, one, two = str(saved_model("llama-tied")), tmp_path / "one", tmp_path / "two"
    chosen = {"preset": "paper", "examples": 4, "max_neurons": 7, "neutral_prompts": 3, "validation_examples": 4}
    results = run(model, RunSettings(output=one, device="cpu", **SMALL, **chosen))
    divided = ["--device", "tensor-parallel"]
    finished = torchrun(["-m", "crispr_lm", "run", model, *written(SMALL | chosen), *divided, "--output", str(two)])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Files:") == 1  # one rank prints

    scores = [load_file(folder / "scores.safetensors") for folder in (one, two)]
    assert list(scores[0]) == list(scores[1])
    for name, values in scores[0].items():
        torch.testing.assert_close(scores[1][name], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()) + 1e-12)
    edits = [crispr_lm.Edit.load(folder / "edit.json") for folder in (one, two)]
    assert edits[0].neurons
    assert edits[0].neurons == edits[1].neurons
    assert edits[0].fingerprint == edits[1].fingerprint
    records = [json.loads((folder / "run.json").read_text(encoding="utf-8"))["identity"] for folder in (one, two)]
    assert records[0]["model_fingerprint"] == records[1]["model_fingerprint"]
    other = json.loads((two / "results.json").read_text(encoding="utf-8"))
    assert other["search"] == json.loads(json.dumps(results["search"]))
    assert other["saved_model"]["verified"]
    assert "failed" not in other
    for name, of_task in json.loads(json.dumps(results["tasks"])).items():
        assert other["tasks"][name]["after"] == pytest.approx(of_task["after"], rel=1e-4)
    saved = [load_file(folder / "model" / "model.safetensors") for folder in (one, two)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])

    kept = [tmp_path / "evidence-one", tmp_path / "evidence-two"]
    settings = EvaluateSettings(device="cpu", neutral_prompts=3, split="all", evidence=kept[0], **SMALL)
    evaluate(model, tmp_path / "one.json", one / "edit.json", settings)
    files = ["--edit", str(one / "edit.json"), "--output", str(tmp_path / "two.json"), "--evidence", str(kept[1])]
    options = [*written(SMALL), *divided, *files, "--split", "all", "--neutral-prompts", "3"]
    finished = torchrun(["-m", "crispr_lm", "evaluate", model, *options])
    assert finished.returncode == 0, finished.stderr
    answers = [(folder / "answers.jsonl").read_text(encoding="utf-8").splitlines() for folder in kept]
    assert answers[0]
    for row, again in zip(*([json.loads(line)["scores"] for line in lines] for lines in answers), strict=True):
        for name in ("before", "after"):  # by instruction and option
            here, there = (torch.tensor(scores[name], dtype=torch.float64) for scores in (row, again))
            torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-4)


@has_plans
@pytest.mark.slow
def test_divided_models_of_several_architectures_are_the_whole_ones() -> None:
    # Grouped queries, norms of heads and of all heads, fused gates, parallel blocks, biases, an encoder.
    sample = ["llama", "qwen3", "olmo2", "phi3", "gpt_neox", "starcoder2", "gemma2", "t5gemma"]
    finished = torchrun([str(ROOT / "benchmarks" / "tensor_parallel.py"), "--only", *sample])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert finished.stdout.count("same") == len(sample), finished.stdout


@has_plans
@pytest.mark.slow
def test_a_model_without_a_plan_is_refused_by_every_rank(saved_model: Callable[[str], Path], tmp_path: Path) -> None:
    options = ["--task", "builtin:everyday", "--device", "tensor-parallel", "--output", str(tmp_path / "scores")]
    finished = torchrun(["-m", "crispr_lm", "score", str(saved_model("gpt2")), *options])
    assert finished.returncode != 0
    assert finished.stderr.count("transformers has no plan for a GPT2LMHeadModel") == 2
    assert not (tmp_path / "scores").exists()


@has_plans
@pytest.mark.parametrize(
    ("build", "count", "what"),
    [
        (lambda: build_model("gpt2"), 2, "no plan for a GPT2LMHeadModel"),
        (build_mixture, 2, "divided as 'moe_tp_experts'"),
        (lambda: build_model("llama"), 3, "4 num_attention_heads"),
        (lambda: build_model("llama"), 4, "2 num_key_value_heads"),
    ],
)
def test_what_can_not_be_divided_is_refused_with_the_reason(
    build: Callable[[], crispr_lm.LanguageModel], count: int, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        tensor_parallel.check_divisible("tiny", build().model, count)


@has_plans
def test_uneven_layers_are_refused() -> None:
    model = build_model("llama").model
    model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 47)
    with pytest.raises(InputError, match=r"47 outputs of model\.layers\.1\.mlp\.up_proj"):
        tensor_parallel.check_divisible("tiny", model, 2)


def test_what_was_not_compared_and_releases_that_were_not_tried_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama").model
    tensor_parallel.check_compared("tiny", model)
    with pytest.raises(InputError, match="gemma3n_text, which was not compared"):
        tensor_parallel.check_compared("tiny", SimpleNamespace(config=SimpleNamespace(model_type="gemma3n_text")))
    monkeypatch.setattr(transformers, "__version__", "5.3.1")
    with pytest.raises(InputError, match=r"needs transformers 5\.24"):
        tensor_parallel.check_divisible("tiny", model, 2)


def test_one_process_shortened_weights_and_other_files_are_refused(
    saved_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="with torchrun"):
        crispr_lm.load_model(saved_model("llama"), device="tensor-parallel")
    monkeypatch.setattr("crispr_lm.model.devices.is_divided", lambda: True)
    monkeypatch.setattr("crispr_lm.model.load.check_quantize", lambda _: None)
    with pytest.raises(InputError, match="is a GGUF file"):
        crispr_lm.load_model("builtin:smollm2", device="tensor-parallel")
    with pytest.raises(InputError, match="does not go with --device tensor-parallel"):
        crispr_lm.load_model(saved_model("llama"), device="tensor-parallel", quantize="8bit")


def test_a_layer_with_other_than_its_part_and_a_model_used_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(4, 6)
    monkeypatch.setitem(tensor_parallel._divided, layer, ("output", 6))
    monkeypatch.setattr(tensor_parallel, "ranks", lambda: 2)
    assert tensor_parallel.seeing_whole(layer, "input", torch.ones(4), lambda values: 2 * values).tolist() == [2.0] * 4
    with pytest.raises(CrisprError, match="6 of 6 outputs"):
        tensor_parallel.seeing_whole(layer, "output", torch.ones(6), lambda values: values)
    lm = build_model("llama")
    tensor_parallel.prepare_divided(lm.model)
    with pytest.raises(CrisprError, match="all of them together"):
        lm.model(input_ids=torch.tensor([[3, 4]]))


def test_ranks_of_one_model_share_no_prompts_and_add_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    monkeypatch.setattr(distributed, "_divided", True)
    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    monkeypatch.setattr(distributed.group, "broadcast", lambda _, src: sent.append(src))
    assert distributed.share([3, 1, 2]) == [0, 1, 2]
    assert distributed.summed({"values": torch.tensor([1.0, 2.0])})["values"].tolist() == [1.0, 2.0]
    assert sent == [0]


def test_a_batch_that_does_not_fit_is_not_halved_by_one_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = build_model("llama")
    monkeypatch.setattr(batching, "is_divided", lambda: True)

    def work(_: list[int]) -> None:
        raise torch.OutOfMemoryError("out of memory")

    prompts = [SimpleNamespace(prompt_ids=[3, 4, 5], option_ids=[[6]])] * 4
    with pytest.raises(CrisprError, match="on 4 prompts; give a smaller --batch-size"):
        list(batching.batches(lm, prompts, 4, work))
