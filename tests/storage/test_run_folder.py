"""The output folder: never someone else's files, never half-written."""

import errno
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from filelock import FileLock

from crispr_lm import CrisprError, InputError, WriteError
from crispr_lm.jobs.record import dated
from crispr_lm.settings import RunSettings
from crispr_lm.storage.files import LOCK, append_line, make_folder, whole_folder, write_bytes, write_json, write_lines
from crispr_lm.storage.output_path import check_new, check_writable, held_new
from crispr_lm.storage.records import read_lines
from crispr_lm.storage.run_folder import RunFolder

IDENTITY = {"model": "m", "settings": {"seed": 0}}


def test_a_new_folder_may_be_used_and_checking_does_not_make_it(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.check(resume=False, overwrite=False)
    assert not (tmp_path / "a").exists()
    folder.start({"identity": IDENTITY}, overwrite=False)
    assert json.loads(folder.run.read_text())["identity"] == IDENTITY


def test_a_folder_with_a_finished_run_needs_resume_or_overwrite(tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.run, {"identity": IDENTITY})
    folder.check(resume=False, overwrite=False)  # an interrupted one is gone on with
    write_json(folder.results, {})
    with pytest.raises(InputError, match="holds a finished run"):
        folder.check(resume=False, overwrite=False)
    folder.check(resume=True, overwrite=False)
    folder.check(resume=False, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_are_never_overwritten(tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no run"):
        RunFolder(tmp_path).check(resume=False, overwrite=overwrite)


def test_overwriting_removes_the_runs_files_and_leaves_others(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.run, folder.results, folder.edit, folder.search):
        path.write_text("{}")
    folder.model.mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    folder.start({"identity": IDENTITY}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]


def test_resuming_with_other_settings_names_the_difference(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start({"identity": IDENTITY}, overwrite=False)
    assert folder.start({"identity": IDENTITY}, overwrite=False)
    with pytest.raises(InputError, match="settings"):
        folder.start({"identity": {**IDENTITY, "settings": {"seed": 1}}}, overwrite=False)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(path).check(resume=False, overwrite=True)
    with pytest.raises(InputError, match="is a file"):
        RunFolder(path / "below").check(resume=False, overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no permission"):
        RunFolder(tmp_path / "out").check(resume=False, overwrite=False)


def test_a_torn_last_line_is_dropped_and_an_earlier_one_is_an_error(tmp_path):
    path = tmp_path / "search.jsonl"
    append_line(path, {"neurons": 1})
    append_line(path, {"neurons": 2})
    path.write_text(path.read_text() + '{"neur')
    assert read_lines(path) == [{"neurons": 1}, {"neurons": 2}]
    path.write_text('{"neur\n{"neurons": 2}\n')
    with pytest.raises(InputError, match=":1 is damaged"):
        read_lines(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_bytes(path, b"old")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_json_is_readable_and_survives_reading_back(tmp_path):
    content = {
        "neurons": [["ffn", "a.b", 3], ["linear", "c [x]", 4]],
        "empty": [],
        "text": "line\nbreak [1, 2]",
        "x": None,
    }
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == content
    assert '["ffn", "a.b", 3]' in text


def test_json_refuses_numbers_that_are_not_finite(tmp_path):
    with pytest.raises(CrisprError, match="NaN or infinite"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    folder = RunFolder(tmp_path / "out")
    holder = [
        sys.executable,
        "-c",
        "import sys, time; from pathlib import Path; from crispr_lm.storage.run_folder import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).held():\n    print('held', flush=True); time.sleep(60)",
        str(folder.path),
    ]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is writing to"):
            folder.check(resume=False, overwrite=False)
        with pytest.raises(InputError, match="another process is writing to"), folder.held():
            pass
        other.kill()
        other.wait()
    folder.check(resume=False, overwrite=False)  # who is killed lets go
    with folder.held():
        assert folder.path.is_dir()
    assert list(folder.path.iterdir()) == []


TAKING_TURNS = """
import os, sys, time
from pathlib import Path
from crispr_lm import InputError
from crispr_lm.storage.run_folder import RunFolder

folder, inside, turns = RunFolder(Path(sys.argv[1])), Path(sys.argv[2]), 0
until = time.monotonic() + 3
while time.monotonic() < until:
    try:
        with folder.held():
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another process is inside, too
            os.unlink(inside)
            turns += 1
    except InputError:
        pass
print(turns)
"""


def test_of_many_processes_one_at_a_time_is_in_a_folder(tmp_path):
    command = [sys.executable, "-c", TAKING_TURNS, str(tmp_path / "out"), str(tmp_path / "inside")]
    others = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ended = [other.communicate() for other in others]
    assert [other.returncode for other in others] == [0] * 4, ended
    assert sum(int(turns) for turns, _ in ended) > 20
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lock_that_another_process_has_taken_by_now_is_left_alone(tmp_path, monkeypatch):
    folder, unlink, others = RunFolder(tmp_path), Path.unlink, []

    def interrupted(path, **more):
        unlink(path, **more)
        if not others:  # Ctrl-C once the lock is gone, and another process has made its own before it is heeded
            others.append(FileLock(path))
            others[0].acquire(timeout=0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt), folder.held():
        pass
    assert (tmp_path / LOCK).exists()
    with pytest.raises(InputError, match="another process is writing to"), folder.held():
        pass
    others[0].release()


def test_a_lock_that_can_not_be_removed_hides_no_other_error_and_keeps_no_one_out(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)

    def read_only(path, **_more):
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", read_only)
        with pytest.raises(WriteError, match="No space left"), folder.held():
            raise WriteError("No space left on device")
    with folder.held():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_gone_on_with_is_not_finished_any_more(tmp_path):
    folder = RunFolder(tmp_path / "out")
    folder.start({"identity": {"model": "m"}}, overwrite=False)
    for path in (folder.results, folder.report, folder.scores):
        path.write_text("of before", encoding="utf-8")
    assert folder.start({"identity": {"model": "m"}}, overwrite=False)
    assert folder.scores.exists()
    assert not folder.results.exists()
    assert not folder.report.exists()


class Stopped(BaseException):
    """As Ctrl-C and SIGTERM arrive: anywhere, and no `Exception`."""


def stop(*_given):
    raise Stopped


@pytest.mark.parametrize("write", [write_bytes, write_json, write_lines])
def test_a_write_that_is_stopped_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, write):
    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(Stopped):
        write(path, b"new" if write is write_bytes else ["new"])
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), Stopped()])
def test_a_line_is_appended_whole_or_not_at_all(tmp_path, monkeypatch, failure):
    path = tmp_path / "search.jsonl"
    append_line(path, {"neurons": 1})

    def fail(_descriptor):
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(WriteError if isinstance(failure, OSError) else Stopped):
            append_line(path, {"neurons": 2})
    append_line(path, {"neurons": 3})
    assert path.read_text() == '{"neurons": 1}\n{"neurons": 3}\n'


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_reported_in_one_sentence_that_says_what_to_do(tmp_path):
    (tmp_path / "search.jsonl").symlink_to("/dev/full")
    with pytest.raises(WriteError) as error:
        append_line(tmp_path / "search.jsonl", {"neurons": 1})
    assert str(error.value) == (
        f"{tmp_path / 'search.jsonl'} can't be written (No space left on device); make room there, then give the same "
        "command again"
    )


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_folder_for_which_there_is_no_room_is_reported_in_the_same_sentence(tmp_path, monkeypatch):
    def full(*_given, **_more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(WriteError, match=r"inner can't be written \(No space left on device\); make room there, then"):
        make_folder(tmp_path / "outer" / "inner")


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model"
    with whole_folder(path) as part:
        (part / "config.json").write_text("{}")
        (part / "model-00001-of-00002.safetensors").write_bytes(b"1")
        assert names_in(path) == [".part", ".part/config.json", ".part/model-00001-of-00002.safetensors"]
    assert names_in(path) == ["config.json", "model-00001-of-00002.safetensors"]
    with whole_folder(path) as part:
        (part / "config.json").write_text("new")
        (part / "model.safetensors").write_bytes(b"2")
    assert names_in(path) == ["config.json", "model.safetensors"]
    assert (path / "config.json").read_text() == "new"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), Stopped(), ValueError("no")])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_whose_writing_fails_stays_as_it_was(tmp_path, failure, there):
    path = tmp_path / "model"
    if there:
        path.mkdir()
        (path / "config.json").write_text("old")

    def write():
        with whole_folder(path) as part:
            (part / "config.json").write_text("new")
            raise failure

    with pytest.raises({OSError: WriteError}.get(type(failure), type(failure))):
        write()
    assert names_in(tmp_path) == (["model", "model/config.json"] if there else [])


def test_what_a_killed_process_left_half_written_is_no_folder_of_ones_own(tmp_path):
    (tmp_path / "out" / ".part").mkdir(parents=True)
    (tmp_path / "out" / ".part" / "config.json").write_text("half")
    check_new(tmp_path / "out")
    with whole_folder(tmp_path / "out") as part:
        (part / "edit.json").write_text("{}")
    assert names_in(tmp_path / "out") == ["edit.json"]
    with pytest.raises(InputError, match="not an empty folder"):
        check_new(tmp_path / "out")


def test_a_folder_that_another_process_fills_is_neither_touched_nor_taken(tmp_path):
    path, code = (
        tmp_path / "out",
        (
            "import sys; from pathlib import Path; from crispr_lm.storage.output_path import held_new\n"
            "from crispr_lm.storage.files import whole_folder\n"
            "path = Path(sys.argv[1])\n"
            "with held_new(path), whole_folder(path) as part:\n"
            "    (part / 'config.json').write_text('theirs'); print('writing', flush=True); sys.stdin.readline()"
        ),
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(InputError, match="another process is writing to"):
            check_new(path)
        with pytest.raises(InputError, match="another process is writing to"), held_new(path), whole_folder(path):
            pytest.fail("two are in it")
        assert names_in(path) == [".lock", ".part", ".part/config.json"]
        other.communicate("\n")
    assert other.returncode == 0
    assert names_in(path) == ["config.json"]
    with pytest.raises(InputError, match="not an empty folder"), held_new(path):  # filled while a model was loaded
        pytest.fail("what is there would be replaced")
    assert (path / "config.json").read_text() == "theirs"
    assert names_in(path) == ["config.json"]


@pytest.mark.parametrize(
    "check", [check_new, check_writable, lambda path: RunFolder(path).check(resume=False, overwrite=False)]
)
def test_a_name_that_no_file_can_have_is_refused(tmp_path, check):
    with pytest.raises(InputError, match=r"out\\x00put(/run)?' can't be made: no name has a null character in it"):
        check(tmp_path / "out\0put" / "run")
    with pytest.raises(InputError, match="null character"):
        check(tmp_path / "out\0put")


def test_a_full_disk_is_told_before_any_work(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    check_writable(tmp_path / "out" / "run")
    assert names_in(tmp_path) == []
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"no file can be made in .* \(No space left on device\); make room there, or"):
        check_writable(tmp_path / "out" / "run")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_a_new_folder_in_which_nothing_comes_about_is_gone_again(tmp_path, there):
    path = tmp_path / "out"
    if there:
        path.mkdir()
        (path / LOCK).write_text("")  # of a process that was killed
    check_new(path)
    with pytest.raises(Stopped), held_new(path):
        raise Stopped
    assert names_in(tmp_path) == (["out"] if there else [])


def test_a_run_that_goes_on_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".run.json.123.part").write_text("{")  # killed before it had a record
    (tmp_path / LOCK).write_text("")
    folder.check(resume=False, overwrite=False)
    assert not folder.start({"identity": IDENTITY}, overwrite=False)
    (tmp_path / "transfer").mkdir()
    for name in (".results.json.123.part", "transfer/.0.safetensors.123.part", "mine.part", ".mine"):
        (tmp_path / name).write_text("")
    assert folder.start({"identity": IDENTITY}, overwrite=False)
    assert names_in(tmp_path) == [".mine", "mine.part", "run.json", "transfer"]


def test_a_folder_is_a_runs_at_every_moment_of_its_being_overwritten(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.start({"identity": IDENTITY}, overwrite=False)
    for path in (folder.results, folder.edit, folder.search, folder.scores):
        path.write_text("{}")
    unlink = type(tmp_path).unlink
    removed = []

    def stopping(path, missing_ok=False):
        if len(removed) == 3:
            raise Stopped
        removed.append(path.name)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "unlink", stopping)
        with pytest.raises(Stopped):
            folder.start({"identity": {**IDENTITY, "model": "other"}}, overwrite=True)
    assert removed[0] == "results.json"  # not finished any more before anything else goes
    folder.check(resume=False, overwrite=False)
    folder.start({"identity": {**IDENTITY, "model": "other"}}, overwrite=True)
    assert names_in(tmp_path) == ["run.json"]


def test_a_resumed_run_keeps_the_moment_that_templates_saw(tmp_path):
    folder = RunFolder(tmp_path / "run")
    settings = RunSettings(task=("builtin:everyday",), output=folder.path)
    first = dated(settings, folder)
    assert first.prompt_date is not None
    folder.start({"identity": {"moment": "2026-01-31T12:00:00"}}, overwrite=False)
    assert dated(settings, folder).prompt_date == datetime(2026, 1, 31, 12)
    asked = settings.model_copy(update={"prompt_date": datetime(2024, 2, 29)})
    assert dated(asked, folder).prompt_date == datetime(2024, 2, 29)
    anew = settings.model_copy(update={"overwrite": True})
    assert dated(anew, folder).prompt_date != datetime(2026, 1, 31, 12)
