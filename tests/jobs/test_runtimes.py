"""Models that run elsewhere: the same figures as here, and a runtime that serves something else is named."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from crispr_lm import CrisprError, Edit, InputError, LanguageModel, Neuron, load_model
from crispr_lm.cli.commands import main
from crispr_lm.edits.canaries import Canaries, judged
from crispr_lm.inference.prompts import encode
from crispr_lm.inference.runtimes import open_runtime
from crispr_lm.inference.scoring import option_scores
from crispr_lm.jobs.file_edits import GgufTarget, edit_gguf
from crispr_lm.jobs.runtimes import evaluate_runtime, verify_runtime
from crispr_lm.jobs.steps import apply, evaluate
from crispr_lm.model.neuron_sites import find_sites
from crispr_lm.other_settings import ApplySettings, EvaluateSettings

from ..completions_server import Served, serving
from ..gguf_files import Type, write_llama
from ..helpers import EXAMPLES, INSTRUCTIONS

LLAMA_CPP = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed")


def strong_edit(lm: LanguageModel) -> Edit:
    """Half of all feed-forward neurons: scores move by much more than rounding."""
    return Edit.from_neurons(
        lm,
        [Neuron(site.name, index, "ffn") for site in find_sites(lm.model, "ffn") for index in range(site.width // 2)],
    )


@pytest.fixture(scope="module")
def exported(saved_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an edited model."""
    folder = tmp_path_factory.mktemp("exported")
    strong_edit(load_model(saved_model("llama"), device="cpu")).save(folder / "edit.json")
    apply(str(saved_model("llama")), folder / "edit.json", folder / "model", ApplySettings(device="cpu"))
    return folder / "model"


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions of two to four options."""
    path = tmp_path_factory.mktemp("task") / "questions.jsonl"
    rows = [
        {"context": x.context, "question": x.question, "options": list(x.options), "answer": x.answer} for x in EXAMPLES
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def settings(questions: Path, **changes: Any) -> EvaluateSettings:
    return EvaluateSettings(
        task=(f"choices:{questions}",), instructions="2", split="all", measure=(), device="cpu", **changes
    )


@pytest.mark.parametrize(
    ("form", "scoring"),
    [
        ("prompt_logprobs", "sum"),
        pytest.param("echo", "mean", marks=pytest.mark.slow),
        pytest.param("none", "generate", marks=pytest.mark.slow),
    ],
)
def test_an_endpoint_is_measured_as_the_model_itself(
    form: Any, scoring: Any, exported: Path, saved_model: Any, questions: Path, tmp_path: Path
) -> None:
    original, chosen = str(saved_model("llama")), settings(questions, scoring=scoring)
    with serving(Served(load_model(exported, device="cpu"), form)) as address:
        found = evaluate_runtime(address, tmp_path / "r.json", original, chosen)
    assert found["runtime"].startswith("tiny at http://127.0.0.1")
    assert found["model"] == Path(original).name  # no folders of this machine
    (task,) = found["tasks"].values()
    for when, model in (("before", original), ("after", str(exported))):
        (here,) = evaluate(model, tmp_path / f"{when}.json", None, chosen)["tasks"].values()
        assert task[when] == pytest.approx(here["before"], abs=1e-4)
        assert task["scoring"] == scoring
    assert task["difference"]["accuracy"] == pytest.approx(task["after"]["accuracy"] - task["before"]["accuracy"])


def test_scores_of_an_endpoint_are_the_models(exported: Path) -> None:
    lm = load_model(exported, device="cpu")
    served = Served(lm)
    with serving(served) as address:
        found = open_runtime(address).scores([encode(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES])
    for row, values in zip(option_scores(lm, EXAMPLES, INSTRUCTIONS[0]).tolist(), found, strict=True):
        assert values == pytest.approx(row[: len(values)], abs=1e-4)
    assert all(isinstance(ids, list) for request in served.requests for ids in request["prompt"])  # tokens, no text


def test_what_a_runtime_can_not_do_is_refused(
    exported: Path, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(Served(load_model(exported, device="cpu"), "none")) as address:
        task = ["--task", f"choices:{questions}", "--output", str(tmp_path / "o")]
        for command, said in (
            (["run", address, *task], "can be measured"),
            (["score", address, *task], "can be measured"),
            (["evaluate", address, *task, "--edit", "edit.json"], "--edit can't be applied in a runtime"),
            (["evaluate", address, *task], "needs --original MODEL"),
            (["evaluate", str(exported), *task, "--original", "m"], "--original goes with"),
            (["evaluate", "gguf-runtime:nowhere.gguf", *task], "no such file"),
            (["run", f"vllm:{exported}", *task], "can be measured"),
            (
                ["evaluate", "openai:http://127.0.0.1:9/v1", *task, "--original", str(exported)],
                "no completions endpoint",
            ),
            (["evaluate", f"{address}#other", *task, "--original", str(exported)], "the endpoint serves tiny"),
            (
                ["evaluate", address, *task, "--original", str(exported), "--measure", f"text:{questions}"],
                "scores of options alone",
            ),
            (["verify", str(tmp_path), "--runtime", address], "canaries.json is missing"),
        ):
            with pytest.raises(SystemExit) as end:
                main(command)
            assert end.value.code == 2
            assert said in " ".join(capsys.readouterr().err.split()), command
        with pytest.raises(InputError, match="no log-probabilities of a prompt's tokens"):
            evaluate_runtime(address, tmp_path / "r.json", str(exported), settings(questions))
    assert not (tmp_path / "r.json").exists()


def test_a_runtime_that_serves_the_edited_model_is_right(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(Served(load_model(exported, device="cpu"))) as address:
        with pytest.raises(SystemExit) as end:
            main(["verify", str(exported), "--runtime", address])
        found = verify_runtime(exported, address, 1e-3)
    assert end.value.code == 0
    assert "serves the edited model" in capsys.readouterr().out
    assert found["prompts"] == 10
    assert found["fault"] is None
    assert found["largest_difference"] < 1e-3 < found["edit_moves"]


def test_a_runtime_that_serves_something_else_is_named(exported: Path, saved_model: Any) -> None:
    rotated = load_model(exported, device="cpu")
    rotated.model.config.rope_parameters.update(rope_theta=5.0)
    rotated.model.model.rotary_emb = type(rotated.model.model.rotary_emb)(rotated.model.config)
    for served, said in (
        (Served(load_model(saved_model("llama"), device="cpu")), "the original model"),
        (Served(load_model(exported, device="cpu"), forgetful=True), "a cache"),
        (Served(rotated), "other numbers: check the rotary base"),
    ):
        with serving(served) as address:
            assert said in str(verify_runtime(exported, address, 1e-3)["fault"])


def test_part_of_the_edit_and_broken_numbers_are_named(exported: Path) -> None:
    canaries = Canaries.load(exported / "canaries.json")
    half = [*canaries.edited[:5], *canaries.original[5:]]
    assert "5 of 10 prompts" in judged(canaries, half, half[:2], 1e-3)["fault"]
    broken = [[float("nan") for _ in row] for row in canaries.edited]
    assert "no numbers" in judged(canaries, broken, broken[:2], 1e-3)["fault"]


def test_canaries_hold_what_the_models_compute(exported: Path, saved_model: Any) -> None:
    canaries = Canaries.load(exported / "canaries.json")
    for model, expected in ((exported, canaries.edited), (saved_model("llama"), canaries.original)):
        lm = load_model(model, device="cpu")
        with serving(Served(lm)) as address:
            found = open_runtime(address).scores(canaries.prompts[:3])
        for row, values in zip(expected, found, strict=False):
            assert values == pytest.approx(row, abs=1e-4)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GGUF file, and one edited."""
    folder = tmp_path_factory.mktemp("gguf")
    write_llama(folder / "m.gguf", {"attn": Type.F32})
    strong_edit(load_model(folder / "m.gguf", device="cpu")).save(folder / "edit.json")
    edit_gguf(
        str(folder / "m.gguf"), folder / "edit.json", GgufTarget(folder / "edited.gguf"), ApplySettings(device="cpu")
    )
    return folder


@LLAMA_CPP
@pytest.mark.slow
def test_llama_cpp_scores_a_file_as_transformers_does(gguf: Path, questions: Path, tmp_path: Path) -> None:
    lm = load_model(gguf / "edited.gguf", device="cpu")
    runtime = open_runtime(f"gguf-runtime:{gguf / 'edited.gguf'}")
    found = runtime.scores([encode(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES])
    for row, values in zip(option_scores(lm, EXAMPLES, INSTRUCTIONS[0]).tolist(), found, strict=True):
        np.testing.assert_allclose(values, row[: len(values)], atol=0.05)  # llama.cpp keeps keys and values in float16
    chosen = settings(questions, scoring="generate")
    names = [f"gguf-runtime:{gguf / name}" for name in ("edited.gguf", "m.gguf")]
    result = evaluate_runtime(names[0], tmp_path / "r.json", names[1], chosen)
    (task,) = result["tasks"].values()
    assert "unmatched_share" in task["after"]


@LLAMA_CPP
@pytest.mark.slow
def test_llama_cpp_with_the_original_file_is_named(gguf: Path) -> None:
    assert verify_runtime(gguf / "edited.gguf", f"gguf-runtime:{gguf / 'edited.gguf'}", 0.05)["fault"] is None
    fault = verify_runtime(gguf / "edited.gguf", f"gguf-runtime:{gguf / 'm.gguf'}", 0.05)["fault"]
    assert "the original model" in fault


@LLAMA_CPP
@pytest.mark.slow
def test_a_file_that_llama_cpp_can_not_load_is_refused(tmp_path: Path, gguf: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes((gguf / "m.gguf").read_bytes()[:4000])
    prompts = Canaries.load(gguf / "edited.canaries.json").prompts[:1]
    with pytest.raises(CrisprError, match="can't load"):
        open_runtime(f"gguf-runtime:{tmp_path / 'broken.gguf'}").scores(prompts)


class FakeVllm(ModuleType):
    """As much of vLLM as is called, with the scores of the model itself."""

    SamplingParams = SimpleNamespace

    @staticmethod
    def LLM(model: str, dtype: str, gpu_memory_utilization: float) -> Any:  # noqa: N802
        assert 0 < gpu_memory_utilization < 1
        if not Path(model, "config.json").exists():
            raise ValueError("Invalid repository ID or local directory\nmore")
        lm = load_model(model, dtype=dtype, device="cpu")

        def generate(prompts: list[dict[str, list[int]]], params: Any, use_tqdm: bool) -> list[Any]:
            assert params.temperature == 0
            assert not use_tqdm
            answers = []
            for prompt in prompts:
                ids = torch.tensor([prompt["prompt_token_ids"]])
                with torch.inference_mode():
                    if getattr(params, "prompt_logprobs", None) is None:
                        new = lm.model.generate(ids, max_new_tokens=params.max_tokens, do_sample=False)[
                            0, ids.shape[1] :
                        ]
                        answers.append(SimpleNamespace(outputs=[SimpleNamespace(text=lm.tokenizer.decode(new))]))
                        continue
                    rows = lm.model(ids).logits[0].log_softmax(-1).tolist()
                told = [
                    {token: SimpleNamespace(logprob=row[token])}
                    for token, row in zip(ids[0, 1:].tolist(), rows, strict=False)
                ]
                answers.append(SimpleNamespace(prompt_logprobs=[None, *told]))
            return answers

        return SimpleNamespace(generate=generate)


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import vllm` gives `FakeVllm`."""
    module = FakeVllm("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.mark.usefixtures("fake_vllm")
@pytest.mark.parametrize("scoring", ["sum", "generate"])
def test_a_folder_in_vllm_is_measured_as_the_model_itself(
    scoring: Any, exported: Path, saved_model: Any, questions: Path, tmp_path: Path
) -> None:
    chosen = settings(questions, scoring=scoring, dtype="float32")
    found = evaluate_runtime(f"vllm:{exported}", tmp_path / "r.json", f"vllm:{saved_model('llama')}", chosen)
    assert found["runtime"] == f"vLLM with {exported.name}"
    (task,) = found["tasks"].values()
    for when, model in (("before", str(saved_model("llama"))), ("after", str(exported))):
        (here,) = evaluate(model, tmp_path / f"{when}.json", None, chosen)["tasks"].values()
        assert task[when] == pytest.approx(here["before"], abs=1e-4)
    assert verify_runtime(exported, f"vllm:{exported}", 1e-3)["fault"] is None


@pytest.mark.usefixtures("fake_vllm")
def test_a_folder_that_vllm_can_not_load_is_refused(tmp_path: Path, exported: Path) -> None:
    prompts = Canaries.load(exported / "canaries.json").prompts[:1]
    with pytest.raises(InputError, match=r"vLLM can't load .*\(Invalid repository ID or local directory\)"):
        open_runtime(f"vllm:{tmp_path}").scores(prompts)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_what_to_install_is_said(exported: Path) -> None:
    with pytest.raises(InputError, match=r"pip install 'crispr-lm\[vllm\]'"):
        open_runtime(f"vllm:{exported}")
