"""Files that come from others end in success or in an error of ours, whatever is in them.

`CRISPR_LM_CASES` sets the number of cases for each kind of file (`make robust` takes 10,000); a report of what was
tried goes to the file named by `CRISPR_LM_TRIED`.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crispr_lm import CrisprError

from .documents import DOCUMENTS, spoiled
from .trying import settings_for, tried

SECONDS = 10
"""Of computing, for a file of a few kB; most take a thousandth of it."""

NEEDS_MORE = ("gguf", "configuration", "name of a task", "name of a model", "name of an edit")
"""What is refused also when whole: a header without a tokenizer, names of what is not there."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


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


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_spoiled_files_are_read_or_refused(name, tmp_path):
    document = DOCUMENTS[name]
    path = tmp_path / "there" / document.name
    ends: Counter[str] = Counter()

    @settings_for(25)
    @given(st.data())
    def check(data):
        content = data.draw(spoiled(document))
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(content)
        start = time.process_time()
        told = refusal(document, path)
        assert time.process_time() - start < SECONDS
        # The command line makes one line of it: of what pydantic says of settings, and of names with line ends in them.
        assert told is None or name == "settings" or name.startswith("name of") or "\n" not in told
        ends["read" if told is None else "refused"] += 1
        assert {file.name for file in tmp_path.iterdir()} == {"there"}  # nothing was written elsewhere

    check()
    tried("parser", parser=name, cases=ends.total(), **ends)
