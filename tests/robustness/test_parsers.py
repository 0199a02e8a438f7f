"""Files that come from others end in success or in an error of ours, whatever is in them.

`CRISPR_LM_CASES` sets the number of cases for each kind of file (`make robust` takes 10,000); a report of what was
tried goes to the file named by `CRISPR_LM_TRIED`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crispr_lm import CrisprError

from .documents import DOCUMENTS, spoiled

CASES = int(os.environ.get("CRISPR_LM_CASES", "100"))
TRIED = os.environ.get("CRISPR_LM_TRIED")


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
    if name == "gguf":  # a header without a tokenizer
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

    @settings(
        max_examples=CASES,
        derandomize=CASES == 100,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data):
        content = data.draw(spoiled(document))
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        path.write_bytes(content)
        told = refusal(document, path)
        # Of what pydantic says of settings the command line makes one sentence.
        assert told is None or name == "settings" or "\n" not in told
        ends["read" if told is None else "refused"] += 1
        assert {file.name for file in tmp_path.iterdir()} == {"there"}  # nothing was written elsewhere

    check()
    if TRIED:
        with Path(TRIED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"parser": name, **ends}) + "\n")
