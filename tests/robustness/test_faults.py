"""Whatever goes wrong at whatever change of the output folder: one sentence, nothing half-written, and it goes on.

`CRISPR_LM_CASES` above the default has every change of the folder tried, else some of them.
"""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crispr_lm.storage.run_folder import RunFolder

from ..jobs.test_edit_search import TUNED
from ..jobs.test_run import questions, settings_for
from .commands import ENVIRONMENT, LONG, Running, arguments_of, outcome, passing_files, picked
from .forked import Forks
from .trying import tried

__all__ = ["questions"]

PLACES = 2
"""Changes of the folder that each fault is tried at in the short version: one in either half of a run."""

FAULTS = {
    "kill": (-9, ""),
    "terminate": (143, "crispr-lm: terminated; run the same command again, without --overwrite, to resume"),
    "interrupt": (130, "crispr-lm: interrupted; run the same command again, without --overwrite, to resume"),
    "full": (1, "(No space left on device); make room there, then give the same command again"),
    "protected": (1, "(Read-only file system); check folder and disk, then give the same command again"),
}
"""How the command ends, and how its last line does."""


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"), ENVIRONMENT)
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def given(saved_model, questions):
    """The arguments of a run that writes into a folder."""
    model = saved_model("llama")
    changes = {**TUNED, "rounds": 2}
    return lambda output, **more: arguments_of(model, settings_for(questions, output, **{**changes, **more}))


@pytest.fixture(scope="module")
def whole(forks, given, tmp_path_factory):
    """A run that nothing has come between: what it left, and how often it changed its folder."""
    output = tmp_path_factory.mktemp("whole") / "out"
    ended = forks.run(given(output), output)
    assert ended.status == 0, ended.stderr
    pick = picked(output)
    again = forks.run([*given(output), *pick, "--resume"], output)
    assert again.status == 0, again.stderr
    return outcome(output), ended.changes, pick, {name: _size(output / name) for name in ("model", "report.html")}


def _size(path):
    """Of a file, or of the largest one in a folder, in bytes."""
    return max(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def ended_in_one_sentence(errors):
    return (
        "Traceback" not in errors and len([line for line in errors.splitlines() if line.startswith("crispr-lm: ")]) == 1
    )


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("number", range(len(FAULTS)), ids=FAULTS)
def test_a_fault_at_any_change_of_the_folder_loses_nothing(number, forks, given, whole, tmp_path):
    fault = list(FAULTS)[number]
    expected, changes, pick, _ = whole
    output = tmp_path / "out"
    arguments = [*given(output), *pick]
    first = given(output) if fault == "interrupt" else arguments  # a search cut short may not know the trial to pick
    places, some = 0, (changes * (number + half * len(FAULTS)) // (PLACES * len(FAULTS)) for half in range(PLACES))
    for place in itertools.count() if LONG else some:
        ended = forks.run(first, output, fault, place)
        if ended.changes <= place:  # there are no more
            assert ended.status == 0
            break
        places += 1
        if fault == "interrupt" and "Interrupted: going on with the " in ended.stderr:
            assert ended.status == 0, (place, ended.stderr)  # in the search and the heat Ctrl-C does not end it
            assert passing_files(output) == [], place
            shutil.rmtree(output)
            continue
        status, sentence = FAULTS[fault]
        if ended.status == 0 and fault in ("full", "protected"):  # at the page as it is before the model is saved
            assert outcome(output) == expected, place
            shutil.rmtree(output)
            continue
        assert ended.status == status, (place, ended.stderr)
        if fault != "kill":
            assert ended_in_one_sentence(ended.stderr), (place, ended.stderr)
            assert ended.stderr.rstrip().endswith(sentence), (place, ended.stderr)
            assert passing_files(tmp_path) == [], place
        finished = RunFolder(output).finished
        if not finished or first is not arguments:
            again = forks.run([*arguments, "--resume"] if finished else arguments, output)
            assert again.status == 0, (place, again.stderr)
            assert passing_files(output) == [], place
        assert outcome(output) == expected, place
        shutil.rmtree(output)
    assert places >= (changes // 2 if LONG else 1)  # no removal counts for a disk that is full or read-only
    tried(f"fault at a change of the folder: {fault}", places=places, lost=0)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model", "report.html"])
def test_a_file_that_can_not_be_written_to_its_end_is_not_there_at_all(forks, given, whole, tmp_path, file):
    expected, _, pick, sizes = whole
    output = tmp_path / "out"
    arguments = [*given(output), *pick]
    ended = forks.run(arguments, output, "small", sizes[file] - 1)
    assert ended.status == 1, ended.stderr
    assert ended_in_one_sentence(ended.stderr)
    last = ended.stderr.rstrip().splitlines()[-1]
    assert f"{output / file} can't be written (" in last
    assert last.endswith("; make room there, then give the same command again")
    assert passing_files(tmp_path) == []
    assert not (output / file).exists()
    assert forks.run(arguments, output).status == 0
    assert outcome(output) == expected


@pytest.fixture
def mounted(tmp_path):
    """Mounts a file system in memory with options of one's own, where that is allowed."""
    places = []

    def mount(options):
        place = tmp_path / f"mounted-{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode:
            pytest.skip("file systems can't be mounted here")
        places.append(place)
        return place

    if not shutil.which("mount"):
        pytest.skip("file systems can't be mounted here")
    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_and_goes_on_when_there_is_room(forks, given, whole, mounted):
    expected, _, pick, _ = whole
    disk = mounted("size=100k")
    output = disk / "out"
    arguments = [*given(output), *pick]
    ended = forks.run(arguments, output)
    assert ended.status == 1, ended.stderr
    assert ended_in_one_sentence(ended.stderr)
    assert ended.stderr.rstrip().endswith("make room there, then give the same command again")
    assert passing_files(disk) == []
    subprocess.run(["mount", "-o", "remount,size=30m", str(disk)], check=True)
    assert forks.run(arguments, output).status == 0
    assert outcome(output) == expected


@pytest.mark.slow
def test_a_folder_on_a_read_only_disk_is_refused_before_anything_is_loaded(forks, given, mounted):
    disk = mounted("ro")
    ended = forks.run(given(disk / "out"), disk / "out")
    assert ended.status == 2, ended.stderr
    assert ended.stderr == f"crispr-lm: {disk / 'out'} can't be written: no permission in {disk}; give another path\n"


@pytest.mark.slow
def test_a_second_run_on_a_folder_is_refused(forks, given, tmp_path):
    output = tmp_path / "out"
    with RunFolder(output).held():
        ended = forks.run(given(output), output)
    assert ended.status == 2, ended.stderr
    assert ended_in_one_sentence(ended.stderr)
    assert ended.stderr.startswith(f"crispr-lm: another process is writing to {output} now; wait until it is done")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_results_that_can_not_be_printed_are_reported(saved_model):
    command = [sys.executable, "-m", "crispr_lm", "--json", "inspect", str(saved_model("llama"))]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == (
        "crispr-lm: the output can't be read or written (No space left on device); check the disk, then give the same "
        "command again\n"
    )


@pytest.mark.slow
def test_ctrl_c_while_the_model_is_loaded_ends_in_one_sentence_before_anything_is_written(given, tmp_path):
    running = Running.start(given(tmp_path / "out"))
    assert running.until("Loading")
    assert running.kill(signal.SIGINT) == 130, running.stderr
    assert running.lines[-1][1] == "crispr-lm: interrupted; run the same command again, without --overwrite, to resume"
    assert ended_in_one_sentence(running.stderr)
    assert not (tmp_path / "out").exists()
