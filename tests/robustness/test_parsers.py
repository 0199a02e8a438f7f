"""Files that come from others end in success or in an error of ours, whatever is in them.

`CRISPR_LM_CASES` sets the number of cases for each kind of file (`make robust` takes 10,000, and 500 that Hypothesis
makes); a report of what was tried goes to the file named by `CRISPR_LM_TRIED`.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crispr_lm import CrisprError
from crispr_lm.model.vetting import MEMORY_VARIABLE, SECONDS_VARIABLE

from .documents import DOCUMENTS, scrambled, spoiled, written_otherwise
from .trying import CASES, settings_for, tried

SEED = int(os.environ.get("CRISPR_LM_SEED", "0"))

SECONDS = 10
"""Of computing, for a file of a few kB; most take a thousandth of it."""

NEEDS_MORE = ("name of an edit",)
"""What is refused also when whole: a name on the hub, which is out of reach here."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv(MEMORY_VARIABLE, "0.5")  # for files of a few kB
    monkeypatch.setenv(SECONDS_VARIABLE, "5")


def refusal(document, path):
    """What the library says against a file; None where it reads it. Anything but an error of ours ends the test."""
    try:
        document.read(path)
    except CrisprError as error:
        return str(error).strip()
    except ValidationError as error:
        assert document is DOCUMENTS["settings"]
        return str(error)
    return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_whole_files_are_read(name, tmp_path):
    document = DOCUMENTS[name]
    path = tmp_path / document.name
    path.write_bytes(document.whole)
    if name in NEEDS_MORE:
        with pytest.raises(CrisprError):
            document.read(path)
    else:
        assert document.read(path) is not None


@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document.form in ("json", "lines")])
def test_the_same_content_written_otherwise_is_read(name, tmp_path):
    document, generator = DOCUMENTS[name], random.Random(SEED)
    for number in range(max(1, int(CASES or 250) // 25)):
        path = tmp_path / str(number) / document.name
        path.parent.mkdir()
        path.write_bytes(written_otherwise(document, generator))
        assert refusal(document, path) is None, path.read_bytes()


class Cases:
    """Files of a kind, written and read one after the other, and how they ended."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.document, self.folder = name, DOCUMENTS[name], folder
        self.ends: Counter[str] = Counter()

    def check(self, content: bytes) -> None:
        path = self.folder / "there" / self.document.name
        path.parent.mkdir(exist_ok=True)  # once: to remove a folder takes longer than to read most files
        for left in set(os.listdir(path.parent)) - {path.name}:  # noqa: PTH208
            (path.parent / left).unlink()
        path.write_bytes(content)
        start = time.perf_counter()
        message = refusal(self.document, path)
        if time.perf_counter() - start > SECONDS:  # the machine may have been busy with something else
            start = time.process_time()
            refusal(self.document, path)
            assert time.process_time() - start < SECONDS
        # The command line makes one line of it: of what pydantic says of settings, and of names with line ends in them.
        assert message is None or self.name == "settings" or self.name.startswith("name of") or "\n" not in message
        self.ends["read" if message is None else "refused"] += 1
        assert os.listdir(self.folder) == ["there"]  # noqa: PTH208  nothing was written elsewhere


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_spoiled_files_are_read_or_refused(name, tmp_path):
    cases = Cases(name, tmp_path)

    # Hypothesis finds the simplest case, and takes its time for each.
    @settings_for(10, long=0.05)
    @given(st.data())
    def check(data):
        cases.check(data.draw(spoiled(cases.document)))

    check()
    tried("parser", parser=f"{name}, by Hypothesis", cases=cases.ends.total(), **cases.ends)


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_scrambled_files_are_read_or_refused(name, tmp_path):
    cases, generator = Cases(name, tmp_path), random.Random(SEED)
    for _ in range(int(CASES or 25)):
        content = scrambled(cases.document, generator)
        try:
            cases.check(content)
        except BaseException:
            print(f"The file was {content!r}")
            raise
    # A reader that refuses everything would end well, too, and so would one that is fed nothing but whole files.
    assert cases.ends["read"] > 0 or cases.ends.total() < 1000
    assert cases.ends["refused"] > 0
    tried("parser", parser=name, cases=cases.ends.total(), **cases.ends)
