"""What comes with a model is read and rendered once in a child process, under limits, before it is read here.

Small files can ask for much: a configuration for a billion labels, a tokenizer for replacements of replacements, a chat
template (a small program) for a text that doubles thirty times. Whether they do is found out where it does no harm:
the child may take so much memory and time, and is ended beyond. Errors of any other kind are left to the reader in this
process, which says what they are.

On Linux the child is a fork: it has transformers imported already, so that it takes what reading takes. Forking a
process with threads is safe for what it does: it computes nothing with PyTorch, prints nothing, and needs none of the
locks that other threads may hold; should it wait for one all the same, its time ends. Other systems, where forks of a
process that has PyTorch may crash, get a fresh process, which takes some seconds more; there the memory is only watched
from outside.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import string
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import psutil

from crispr_lm.errors import InputError

MEMORY_VARIABLE = "CRISPR_LM_VETTING_MEMORY"
SECONDS_VARIABLE = "CRISPR_LM_VETTING_SECONDS"

GIB = 2**30

WAITING = 10
"""Times its seconds of computing that a child may last: on a machine with other work, with a slow disk."""

PAUSE = 0.02
"""Seconds between two looks at the child. Memory is filled with some 4 GiB a second, so that 0.1 GiB are missed."""

STAGES = ("configuration", "tokenizer", "chat template")

PROBE = f"Answer the question. {string.printable} Who was late? Unknown. {'é ß 中 🙂 ' * 4}"
"""What is tokenized and rendered: every printable ASCII character, and some that take more bytes."""

OUT_OF_MEMORY = 3
"""Exit status of a child that was refused memory."""

MOST_GROWTH = 1000
"""Characters that a tokenizer may make of one by replacing. Published ones have a few replacements of one character by
one (" " by "▁"), or of several by fewer; a thousand leaves a prompt of 100,000 characters within 100 MB."""

HUB_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.bpe", "*.codes")
"""What configurations and tokenizers are stored as."""


@dataclass(frozen=True)
class Limits:
    """What reading and rendering once may take.

    The largest vocabularies in use (262,144 tokens, a tokenizer.json of 27 MB) take 0.6 GiB and 1 to 4 seconds of
    computing, so that the defaults are three and fifteen times what is needed.

    Attributes:
        memory: GiB, beyond what this process has.
        seconds: Of computing.
    """

    memory: float = 2.0
    seconds: float = 60.0

    @classmethod
    def of_environment(cls) -> Limits:
        """The defaults, or what ``CRISPR_LM_VETTING_MEMORY`` (GiB) and ``CRISPR_LM_VETTING_SECONDS`` say.

        Raises:
            InputError: one of them is no positive number.
        """
        return cls(_positive(MEMORY_VARIABLE, cls.memory), _positive(SECONDS_VARIABLE, cls.seconds))


def _positive(variable: str, default: float) -> float:
    given = os.environ.get(variable)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"environment variable {variable} must be a positive number, not {given!r}; change it")
    return value


def vet(name: str, location: str, arguments: Mapping[str, Any], tokenizer: Any = None) -> None:
    """Read configuration and tokenizer of a model in a child process, and render its chat template there.

    Args:
        name: Of the model, for messages.
        location: Folder or hub id.
        arguments: As of ``from_pretrained``. Code that the user lets run is not held by any limit, so nothing is looked
            at with ``trust_remote_code``.
        tokenizer: One that is read already, of which only what it does is tried (of GGUF files, which are read element
            by element and are held against their size before: reading them once more would double the time).

    Raises:
        InputError: it takes more than the limits, or ends the process.
    """
    limits = Limits.of_environment()
    if arguments.get("trust_remote_code"):
        return
    if not Path(location).exists() and not arguments.get("local_files_only"):
        _download(location)  # by this process: waiting for it is no computing
    arguments = {**arguments, "local_files_only": True}
    reader, writer = os.pipe()
    try:
        if sys.platform == "linux":
            child, before = _forked(writer, location, arguments, tokenizer, limits)
        else:
            child, before = _fresh(writer, location, arguments), 0
        ended = _watched(child, limits, before)
        os.write(writer, b".")  # there is something to read
        begun = len(os.read(reader, len(STAGES) + 1)) - 1
    finally:
        os.close(writer)
        os.close(reader)
    if ended is not None:
        raise InputError(
            f"model {name}: its {STAGES[max(begun, 1) - 1]} {ended}; do not use it, or allow more with the environment "
            f"variables {MEMORY_VARIABLE} (GiB) and {SECONDS_VARIABLE} if you know why it needs that"
        )


def _download(hub_id: str) -> None:
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # of many types; they come again, where they are reported
        snapshot_download(hub_id, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"])


def _forked(
    writer: int, location: str, arguments: Mapping[str, Any], tokenizer: Any, limits: Limits
) -> tuple[psutil.Process, int]:
    """A fork of this process that examines a model, and the bytes of memory that it begins with."""
    # The tokenizers library would print a warning about forks otherwise.
    unset = "TOKENIZERS_PARALLELISM" not in os.environ
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with warnings.catch_warnings(), _signals_postponed():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: see the top of this file
        process = os.fork()
    if process == 0:
        _be_child(writer, location, arguments, tokenizer, limits)
    if unset:
        del os.environ["TOKENIZERS_PARALLELISM"]
    child = psutil.Process(process)
    try:
        return child, int(child.memory_info().rss)
    except psutil.Error:  # it has ended already
        return child, 0


@contextmanager
def _signals_postponed() -> Iterator[None]:
    """Let Ctrl-C and a request to end take effect after the block.

    Python runs functions of the standard library around a fork and ignores what is raised in them: an interruption
    would be lost.
    """
    if threading.current_thread() is not threading.main_thread():  # no handler runs in another thread
        yield
        return
    met: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in handlers:
            signal.signal(number, lambda number, _frame: met.append(number))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for interruption in met:
        signal.raise_signal(interruption)


def _be_child(writer: int, location: str, arguments: Mapping[str, Any], tokenizer: Any, limits: Limits) -> NoReturn:
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        logging.disable()
        nothing = os.open(os.devnull, os.O_RDWR)
        for place, instead in ((0, nothing), (1, writer), (2, nothing)):
            os.dup2(instead, place)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115  the others may be locked by a thread
        _hold(limits)
        status = _examine(location, arguments, tokenizer)
    finally:
        os._exit(status)


def _hold(limits: Limits) -> None:
    """Have the system itself keep a child near its limits, should the process that watches it end or come late."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])  # of data
    for what, most in (
        (resource.RLIMIT_DATA, pages * resource.getpagesize() + 2 * int(limits.memory * GIB)),
        (resource.RLIMIT_CPU, math.ceil(limits.seconds) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, hard))


def _fresh(writer: int, location: str, arguments: Mapping[str, Any]) -> psutil.Process:
    """A process of its own that examines a model."""
    code = f"from {__name__} import main; main()"
    return psutil.Popen(
        [sys.executable, "-c", code, json.dumps([location, dict(arguments)])],
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Examine the model that the command line names (`_fresh`)."""
    location, arguments = json.loads(sys.argv[1])
    os._exit(_examine(location, arguments, None))


def _examine(location: str, arguments: Mapping[str, Any], tokenizer: Any) -> int:
    """Read and try everything that comes with a model; the exit status. Writes a byte for every stage begun."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        os.write(1, b".")
        if tokenizer is None:
            AutoConfig.from_pretrained(location, **arguments)
        os.write(1, b".")
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(location, **arguments)
        tokenizer.decode(tokenizer(PROBE).input_ids)
        check_replacements(tokenizer, "")  # else what a template is rendered to could grow, and be held against it
        os.write(1, b".")
        for turns in (1, 3):
            _render(tokenizer, turns)
    except Exception as error:  # of many types, and reported where it is read again
        return OUT_OF_MEMORY if _is_full(error) else 1
    return 0


def _render(tokenizer: Any, turns: int) -> None:
    if getattr(tokenizer, "chat_template", None) is None:
        return
    messages = [{"role": ("user", "assistant")[turn % 2], "content": PROBE} for turn in range(turns)]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        tokenizer(rendered)
    except Exception as error:  # not every template takes every conversation
        if _is_full(error):
            raise


def _is_full(error: BaseException | None) -> bool:
    """Whether memory was refused, perhaps behind an error of another kind."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _watched(child: psutil.Process, limits: Limits, before: int) -> str | None:
    """Wait for a child's end, or end it: what it has done wrong, None where that is nothing."""
    memory = f"takes more than {limits.memory:g} GiB of memory to read and try"
    seconds = f"takes more than {limits.seconds:g} seconds of computing to read and try"
    last = monotonic() + WAITING * limits.seconds
    try:
        while True:
            try:
                status = child.wait(PAUSE)
                break
            except psutil.TimeoutExpired:
                pass
            with suppress(psutil.Error):  # it may just have ended
                if child.memory_info().rss - before > limits.memory * GIB:
                    return memory
                if sum(child.cpu_times()[:2]) > limits.seconds:
                    return seconds
            if monotonic() > last:
                return f"does not come to an end within {WAITING * limits.seconds:g} seconds"
    finally:  # Ctrl-C may come here, too
        with suppress(psutil.NoSuchProcess):
            child.kill()
            child.wait()
    if status == OUT_OF_MEMORY:
        return memory
    if status is not None and status < 0:
        if status == -getattr(signal, "SIGXCPU", 0):
            return seconds
        return f"ends the process that reads it ({signal.Signals(-status).name})"
    return None


def check_replacements(tokenizer: Any, name: str) -> None:
    """Check that what a tokenizer replaces in texts does not let them grow without bound, whatever is in them.

    A replacement makes of every place that it finds as many characters as it puts there; one after the other they
    multiply. The texts that a child tries need not hold what is replaced.

    Args:
        tokenizer: As read.
        name: Of the model, for messages.

    Raises:
        InputError: a character could become more than `MOST_GROWTH`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        component = getattr(backend, part, None)
        if component is None:
            continue
        growth = _growth(json.loads(component.__getstate__()))
        if growth > MOST_GROWTH:
            raise InputError(
                f"model {name}: the replacements of its tokenizer ({part}) could make more than {MOST_GROWTH:,} "
                "characters of one; do not use it"
            )


def _growth(component: Any) -> float:
    """The most characters that a component of a tokenizer makes of one by replacing."""
    if not isinstance(component, dict):
        return 1
    kind = component.get("type")
    if kind == "Sequence":
        inside = [value for value in component.values() if isinstance(value, list)]
        return math.prod(_growth(one) for of in inside for one in of)
    if kind == "ByteLevel":  # a character for every byte: of ASCII one, of others up to four, which are two bytes each
        return 2
    if kind == "Prepend":  # a text may be one character, and is parted at special tokens
        return 1 + len(component.get("prepend", ""))
    if kind != "Replace":
        return 1
    pattern, content = component.get("pattern", {}), len(component.get("content", ""))
    if "String" in pattern:
        return max(1, math.ceil(content / max(1, len(pattern["String"]))))
    return 1 + content  # an expression can match between any two characters
