"""The same command gives the same bits: in another process, and on a CPU without the flag too."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch

from crispr_lm.cli.commands import main
from crispr_lm.jobs.run import run
from crispr_lm.runtime.deterministic import is_deterministic, make_deterministic

from ..jobs.test_run import questions, settings_for

__all__ = ["questions"]


@pytest.fixture
def as_before():
    """What the test switches on is switched off again: the rest of the suite shares the process."""
    conv, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = conv, matmul
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if workspace is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace


@pytest.mark.usefixtures("as_before")
def test_it_is_switched_on_for_the_process():
    assert not is_deterministic()
    make_deterministic()
    assert is_deterministic()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def command(model, questions, output, *arguments):
    """What is written behind ``crispr-lm``."""
    given = ["score", str(model), "--task", f"choices:{questions / 'questions.jsonl'}", "--examples", "6"]
    return [*given, "--output", str(output), "--instructions", "2", "--device", "cpu", "--threads", "2", *arguments]


def hash_of(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def scored(*given):
    """The real command in a process of its own: hash of the scores file."""
    called = [sys.executable, "-m", "crispr_lm", *command(*given)]
    subprocess.run(called, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True)
    return hash_of(given[2])


@pytest.mark.slow
@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("flag", [["--deterministic"], []], ids=["deterministic", "plain"])
def test_two_processes_give_the_same_bits_on_a_cpu(saved_model, questions, tmp_path, flag):
    other = scored(saved_model("llama"), questions, tmp_path / "other", *flag)
    with pytest.raises(SystemExit) as end:
        main(command(saved_model("llama"), questions, tmp_path / "here", *flag))
    torch.set_num_threads(1)
    assert not end.value.code
    assert hash_of(tmp_path / "here") == other


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_processes_give_the_same_bits_on_a_gpu(saved_model, questions, tmp_path):
    flags = ["--deterministic", "--device", "cuda"]
    first, second = (scored(saved_model("llama"), questions, tmp_path / str(n), *flags) for n in range(2))
    assert first == second


@pytest.mark.usefixtures("as_before")
def test_a_record_says_that_and_with_how_many_threads(saved_model, questions, tmp_path):
    run(str(saved_model("llama")), settings_for(questions, tmp_path / "out", max_neurons=1, deterministic=True))
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert record["identity"]["settings"]["deterministic"] is True
    assert record["threads"] == torch.get_num_threads()
