"""Several processes: two gloo ranks give the scores and the edit of one; a rank that fails ends the others.

Started by torchrun, and by ``accelerate launch``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crispr_lm import CrisprError, InputError
from crispr_lm.jobs.run import run
from crispr_lm.jobs.steps import score
from crispr_lm.other_settings import ScoreSettings
from crispr_lm.runtime import distributed
from crispr_lm.settings import RunSettings

ROOT = Path(__file__).parents[2]


TORCHRUN = "torch.distributed.run --standalone --nproc-per-node 2"
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0 "
    "--mixed_precision no --dynamo_backend no"
)


def torchrun(arguments: list[str], launcher: str = TORCHRUN) -> subprocess.CompletedProcess[str]:
    """Run two processes that share their work."""
    command = [sys.executable, "-m", *launcher.split(), *arguments]
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Six templates of four questions."""
    people = ["nurse", "doctor", "young woman", "old man", "Anna", "Omar"]
    rows = []
    for template in range(6):
        first, second = people[template], people[(template + 1) % 6]
        for order in ((first, second), (second, first)):
            context = f"The {order[0]} and the {order[1]} waited at the bus stop {template}."
            for condition, text, answer in (
                ("ambiguous", context, 2),
                ("disambiguated", f"{context} The {first} came late.", 0),
            ):
                rows.append(
                    {
                        "context": text,
                        "question": "Who was late?",
                        "options": [first, second, "unknown"],
                        "answer": answer,
                        "group": template,
                        "condition": condition,
                        "unknown": 2,
                        "stereotyped": 0,
                    }
                )
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_two_ranks_give_the_scores_and_the_edit_of_one(
    saved_model: Callable[[str], Path], questions: Path, tmp_path: Path
) -> None:
    model = saved_model("llama")
    options = {"instructions": "2", "examples": 4, "max_neurons": 5, "measure_examples": 4, "neutral_prompts": 3}
    settings = RunSettings(
        task=(f"choices:{questions}",), output=tmp_path / "one", device="cpu", max_accuracy_loss=1.0, **options
    )
    results = run(str(model), settings)
    written = [argument for name, value in options.items() for argument in (f"--{name.replace('_', '-')}", str(value))]
    written += ["--task", f"choices:{questions}", "--output", str(tmp_path / "two"), "--device", "cpu"]
    finished = torchrun(["-m", "crispr_lm", "run", str(model), "--max-accuracy-loss", "1", *written])
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Files:") == 1  # one rank prints

    one, two = (load_file(tmp_path / folder / "scores.safetensors") for folder in ("one", "two"))
    assert list(one) == list(two)
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-4, atol=1e-6 * float(values.abs().max()) + 1e-12)
    edits = [json.loads((tmp_path / folder / "edit.json").read_text(encoding="utf-8")) for folder in ("one", "two")]
    assert edits[0]["neurons"] == edits[1]["neurons"]
    assert edits[0]["fingerprint"] == edits[1]["fingerprint"]
    other = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))
    assert other["search"] == json.loads(json.dumps(results["search"]))
    for task, of_task in results["tasks"].items():
        assert other["tasks"][task]["after"]["accuracy"] == pytest.approx(of_task["after"]["accuracy"])
    assert (tmp_path / "two" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_accelerate_launch_gives_the_scores_of_one_process(
    saved_model: Callable[[str], Path], questions: Path, tmp_path: Path
) -> None:
    model = saved_model("llama")
    settings = ScoreSettings(task=(f"choices:{questions}",), device="cpu", instructions="2", examples=4)
    one = score(str(model), tmp_path / "one.safetensors", settings).values
    options = ["--device", "cpu", "--instructions", "2", "--examples", "4", "--output", str(tmp_path / "two")]
    command = ["-m", "crispr_lm", "score", str(model), "--task", f"choices:{questions}", *options]
    finished = torchrun(command, ACCELERATE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count(str(tmp_path / "two")) == 1  # one rank prints
    two = load_file(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, values in one.items():
        torch.testing.assert_close(two[name], values, rtol=1e-4, atol=1e-6 * float(values.abs().max()) + 1e-12)


def test_accelerate_without_numbered_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)  # what `accelerate launch --cpu --num_processes 2` sets
    with pytest.raises(InputError, match="--multi_gpu"), distributed.joined():
        pass


TOGETHER = """
import sys
import torch
from crispr_lm import InputError
from crispr_lm.runtime import distributed

with distributed.joined():
    number = distributed.rank()
    assert distributed.ranks() == 2
    total = distributed.summed({"a": torch.full((2, 2), 1.0 + number), "b": torch.tensor([10.0 * number])})
    assert total["a"].tolist() == [[3.0, 3.0], [3.0, 3.0]] and total["b"].tolist() == [10.0]
    assert distributed.share([5, 1, 4, 2, 3]) == ([0, 1, 4], [2, 3])[number]
    assert distributed.on_first(lambda: (number, distributed.ranks())) == (0, 1)

    def refuse():
        raise InputError("no such folder")

    try:
        distributed.on_first(refuse)
    except InputError as error:
        sys.stdout.write(f"rank {number}: {error}\\n")  # in one piece: two processes write to one pipe
        sys.stdout.flush()
    distributed.summed({"values": torch.ones(3)})
    if number == 1:
        sys.exit("rank one gives up")
    distributed.summed({"values": torch.ones(3)})
    print("never reached")
"""


@pytest.mark.slow
def test_ranks_sum_share_and_fail_together_and_one_that_fails_ends_the_others(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    start = time.monotonic()
    finished = torchrun([str(script)])
    assert finished.returncode != 0
    assert sorted(finished.stdout.strip().splitlines()) == ["rank 0: no such folder", "rank 1: no such folder"]
    assert "rank one gives up" in finished.stderr
    assert time.monotonic() - start < 120


def test_one_process_has_all_the_work_and_is_first() -> None:
    assert (distributed.ranks(), distributed.rank(), distributed.is_first()) == (1, 0, True)
    assert distributed.share([3, 1, 2]) == [0, 1, 2]
    assert distributed.on_first(lambda: 7) == 7
    with pytest.raises(InputError):
        distributed.on_first(lambda: (_ for _ in ()).throw(InputError("wrong")))


@pytest.mark.parametrize(("count", "costs"), [(2, [9, 1, 1, 9, 5]), (3, [1, 2, 3, 4, 5, 6]), (4, [1, 1])])
def test_every_item_is_one_ranks_and_costs_are_shared(
    monkeypatch: pytest.MonkeyPatch, count: int, costs: list[int]
) -> None:
    shares = []
    for number in range(count):
        monkeypatch.setattr(distributed, "ranks", lambda: count)
        monkeypatch.setattr(distributed, "rank", lambda number=number: number)
        shares.append(distributed.share(costs))
    assert sorted(index for own in shares for index in own) == list(range(len(costs)))
    loads = [sum(costs[index] for index in own) for own in shares]
    assert max(loads) - min(loads) <= max(costs)


def test_progress_of_a_share_is_reported_in_items_of_all() -> None:
    reported: list[int] = []
    advance = distributed.scaled(reported.append, own=3, total=8)
    for count in (1, 2):
        advance(count)
    assert reported == [2, 6]


def test_an_error_in_a_collective_is_reported_as_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed, "ranks", lambda: 2)
    monkeypatch.setattr(distributed.group, "all_reduce", broken)
    with pytest.raises(CrisprError, match="another process"):
        distributed.summed({"values": torch.ones(1)})
