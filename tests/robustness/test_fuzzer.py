"""Readers fed by a fuzzer that watches their branches, where Atheris is installed (`make robust` installs it).

`CRISPR_LM_CASES` sets how many files each gets.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .commands import ENVIRONMENT
from .trying import CASES, tried

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),
    pytest.mark.skipif(not find_spec("atheris"), reason="Atheris is not installed"),
]

ROOT = Path(__file__).parents[2]
DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: \d+ corp: (\d+)/")
"""libFuzzer's last line: files tried, branches reached, files kept because they reached new ones."""


FUZZED = (
    *("choices", "winobias", "stereoset", "instructions", "edit", "scores", "settings", "trials"),
    *("gguf", "gguf model"),
)
"""Where branches lead deep: a reader of each form that comes from others."""


def fuzz(name, folder, runs):
    """How the fuzzer ends, and what it says."""
    options = [f"-runs={runs}", "-seed=1", "-max_len=8192", "-timeout=10", "-rss_limit_mb=8192"]
    command = [sys.executable, "-m", "tests.robustness.fuzz", name, str(folder), *options]
    environment = {**ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace")
    return ended.returncode, ended.stdout + ended.stderr


def test_a_reader_with_a_hole_is_found(tmp_path):
    status, message = fuzz("trusting", tmp_path, 100_000)
    assert status != 0
    assert "KeyError: 'a hole'" in message


@pytest.mark.parametrize("name", FUZZED)
def test_what_the_fuzzer_finds_is_read_or_refused(name, tmp_path):
    status, message = fuzz(name, tmp_path, int(CASES or 300))
    assert status == 0, message[-3000:]
    files, branches, kept = map(int, DONE.search(message).groups())
    tried(f"files: {name}, by Atheris", tried=files, branches_reached=branches, files_kept_for_new_ones=kept)
