"""How many threads are taken: never more than there are cores free, and the log says why."""

import contextlib
import json

import psutil
import pytest
import torch

from crispr_lm.cli.commands import main
from crispr_lm.jobs import doctor
from crispr_lm.jobs.preparation import Needs, Timings, load
from crispr_lm.jobs.reproduce import reproduced_settings
from crispr_lm.other_settings import ApplySettings
from crispr_lm.runtime import threads
from crispr_lm.runtime.threads import Cores, observe_cores, set_threads
from crispr_lm.settings import RunSettings


class Said:
    """Progress that keeps what is said."""

    def __init__(self):
        self.sentences = []

    def say(self, sentence):
        self.sentences.append(sentence)

    def step(self, description, total=None):
        from crispr_lm.runtime.progress import SilentProgress

        return SilentProgress().step(description, total)


@pytest.fixture
def four(monkeypatch):
    """A process that may use four cores, of which as many are busy as the list says."""
    used = [0.0] * 4
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "_set", None)
    monkeypatch.setattr(threads, "_affinity", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(threads, "_quota", lambda: float("inf"))
    monkeypatch.setattr(psutil, "cpu_percent", lambda _seconds, percpu: list(used))
    yield used
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("usable", "busy", "free"),
    [(2, 0.0, 2), (2, 0.2, 2), (2, 1.0, 1), (2, 2.0, 1), (16, 0.2, 16), (16, 1.0, 15), (1.5, 0.0, 1), (0.5, 0.5, 1)],
)
def test_as_many_threads_as_find_a_core(usable, busy, free):
    cores = Cores(64, usable, busy)
    assert cores.free == free
    assert 1 <= cores.free <= max(1, usable)
    assert cores.is_loaded is (busy >= 1.0 and usable > 1)


def test_threads_follow_what_others_leave_and_come_back(four):
    assert set_threads("auto").startswith("Computing with 4 threads: ")
    four[:] = [100.0, 90.0, 0.0, 0.0]
    assert "other programs use 1.9 of 4 cores" in set_threads("auto")
    assert torch.get_num_threads() == 2
    four[:] = [100.0] * 4
    assert set_threads("auto").startswith("Computing with 1 thread: ")
    four[:] = [0.0] * 4
    set_threads("auto")
    assert torch.get_num_threads() == 4


def test_what_the_user_or_an_earlier_run_says_goes_first(four):
    four[:] = [100.0] * 4
    assert set_threads(3) == "Computing with 3 threads: as --threads says"
    assert torch.get_num_threads() == 3
    set_threads("auto", recorded=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)  # by the user, after which that is the most
    set_threads("auto", fixed=True)
    assert torch.get_num_threads() == 2
    four[:] = [0.0] * 4
    set_threads("auto")
    assert torch.get_num_threads() == 2


def test_a_quota_of_a_control_group_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    assert threads._quota() == float("inf")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads._quota() == float("inf")
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert threads._quota() == 1.5
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert threads._quota() == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    assert threads._quota() == 1.0


def test_the_real_machine_can_be_observed():
    cores = observe_cores(0.01)
    assert 0 <= cores.busy <= cores.usable <= cores.there


def test_loading_says_how_many_and_a_run_that_goes_on_takes_those_of_its_record(saved_model, tmp_path, four):
    four[:] = [100.0, 0.0, 0.0, 0.0]
    folder, said = str(saved_model("llama")), Said()
    load(folder, ApplySettings(device="cpu"), Needs(), Timings(), said)
    assert torch.get_num_threads() == 3
    assert [sentence for sentence in said.sentences if "other programs use 1.0 of 4 cores" in sentence]
    (tmp_path / "run.json").write_text(json.dumps({"threads": 2}))
    settings = RunSettings(task=("builtin:everyday",), output=tmp_path, device="cpu")
    load(folder, settings, Needs(), Timings(), said)
    assert torch.get_num_threads() == 2
    load(folder, settings.model_copy(update={"overwrite": True}), Needs(), Timings(), said)
    assert torch.get_num_threads() == 3
    for nonsense in ("[]", '{"threads": "many"}', "{"):
        (tmp_path / "run.json").write_text(nonsense)
        load(folder, settings, Needs(), Timings(), said)
        assert torch.get_num_threads() == 3


def test_a_run_is_reproduced_on_as_many_threads(tmp_path):
    identity = {"settings": {"task": ["builtin:everyday"]}, "moment": "2026-01-31T12:00:00"}
    record = {"identity": identity, "batch_size": "auto", "threads": 1}
    assert reproduced_settings(record, tmp_path, "cpu", {}).threads == 1


def test_no_number_that_no_machine_has(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["apply", "m", "e", "--output", "o", "--threads", "0"])
    assert ended.value.code == 2
    assert "option --threads" in capsys.readouterr().err


def test_the_doctor_says_when_the_machine_is_loaded(four, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_hub", lambda: {"endpoint": "x", "reachable": False, "reason": "test"})

    def output_of(*arguments):
        with contextlib.suppress(SystemExit):
            main(arguments)
        return " ".join(capsys.readouterr().out.split())

    assert "Loaded:" not in output_of("doctor")
    four[:] = [100.0, 100.0, 90.0, 0.0]
    sentence = "Loaded: other programs use 2.9 of 4 cores; commands would take 1 thread (--threads)"
    assert sentence in output_of("doctor")
    assert json.loads(output_of("--json", "doctor"))["devices"][0]["threads"]["loaded"] is True
