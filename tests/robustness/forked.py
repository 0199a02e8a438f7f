"""The command in forks of one process that has everything imported already, with a fault at a file operation of choice.

Importing PyTorch takes seconds, a run on a tiny model less. Run as a script this is the process that forks; `Forks` is
who asks it. A fault comes right before the output folder is changed for the n-th time: a file opened for writing,
renamed, removed, a folder made.
"""

from __future__ import annotations

import errno
import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ADDING = ("os.rename", "os.mkdir")
REMOVING = ("os.remove", "os.rmdir", "shutil.rmtree")
"""Audit events that are changes of a folder, beside files opened for writing. No removal fails."""

PATIENCE = 600
"""Seconds after which a command that hangs is ended by the alarm (status -14)."""

ERRORS = {"full": errno.ENOSPC, "protected": errno.EROFS}
SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}


@dataclass(frozen=True)
class Ended:
    """How a command has ended: exit status (a signal's negative number), what it said, changes made to its folder."""

    status: int
    stderr: str
    changes: int


class ForkedProcess:
    """A command that runs in a fork, with what a `subprocess.Popen` has for the one who watches it."""

    def __init__(self, pid: int, errors: Path, ended: Callable[[], int]) -> None:
        self.pid, self.stderr, self.status = pid, errors.open(encoding="utf-8"), None
        self._waiting = threading.Thread(target=self._wait, args=(ended,), daemon=True)
        self._waiting.start()

    def _wait(self, ended: Callable[[], int]) -> None:
        self.status = ended()

    def poll(self) -> int | None:
        return self.status

    def wait(self, seconds: float) -> int:
        self._waiting.join(seconds)
        assert self.status is not None, f"it has not ended after {seconds} seconds"
        return self.status

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.kill(self.pid, number)


class Forks:
    """Asks the process that forks."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        command = [sys.executable, __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def run(self, arguments: list[str], output: Path, fault: str = "none", at: int = 0) -> Ended:
        """Run a command to its end.

        Args:
            arguments: What is written behind ``crispr-lm``.
            output: Its folder.
            fault: "none", "kill", "terminate", "interrupt", "full" (the disk), "protected" (it is read-only), or
                "small": no file can be larger than `at` bytes.
            at: The number of the change, from 0, that the fault comes before.
        """
        errors, counted = self.folder / "stderr.txt", self.folder / "changes.txt"
        counted.write_text("")
        request = {"arguments": arguments, "output": str(output), "fault": fault, "at": at}
        self._ask({**request, "stderr": str(errors), "counted": str(counted)})
        return Ended(self._answer(), errors.read_text(encoding="utf-8"), len(counted.read_text()))

    def start(self, arguments: list[str]) -> ForkedProcess:
        """Start a command; the one before must have ended."""
        errors = self.folder / "stderr"
        errors.unlink(missing_ok=True)
        os.mkfifo(errors)
        nowhere = {"output": os.devnull, "fault": "none", "at": 0, "counted": os.devnull}
        pid = self._ask({**nowhere, "arguments": arguments, "stderr": str(errors)})
        return ForkedProcess(pid, errors, self._answer)

    def _ask(self, request: dict[str, object]) -> int:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> int:
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)


def serve() -> None:
    """Fork for every line on standard input; answers with the number of the process and, once it ends, its status."""
    import transformers.models.llama.modeling_llama

    import crispr_lm.jobs.comparison
    import crispr_lm.jobs.run
    import crispr_lm.report.comparison
    import crispr_lm.report.inspection
    import crispr_lm.report.progress

    # A whole Python that takes seconds to start; the tests that start the command as users do have it.
    crispr_lm.jobs.run.verify_saved = lambda *_arguments, **_more: {"options_compared": 1, "largest_difference": 0.0}
    assert transformers.models.llama.modeling_llama
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run(json.loads(line))
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(request: dict[str, object]) -> None:
    from crispr_lm.cli.commands import main

    status = 0
    signal.alarm(PATIENCE)
    faulthandler.register(signal.SIGALRM, chain=True)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    counted = os.open(request["counted"], os.O_WRONLY | os.O_APPEND)
    fault, at, output = request["fault"], request["at"], request["output"]
    if fault == "small":
        resource.setrlimit(resource.RLIMIT_FSIZE, (at, at))
    changes = 0

    def watch(event: str, given: tuple[object, ...]) -> None:
        nonlocal changes
        if event == "open":
            changing = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            changing = event in ADDING or (event in REMOVING and fault not in ERRORS)
        if not changing or not isinstance(given[0], (str, os.PathLike)):
            return
        path = os.fspath(given[0])
        if not path.startswith(output) or (event == "os.mkdir" and os.path.exists(path)):  # noqa: PTH110
            return
        os.write(counted, b".")
        changes += 1
        if changes - 1 == at:
            if fault in ERRORS:
                raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]), path)
            if fault in SIGNALS:
                os.kill(os.getpid(), SIGNALS[fault])

    sys.addaudithook(watch)
    try:
        main(request["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
