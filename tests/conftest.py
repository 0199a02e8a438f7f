"""Fixtures: tiny real models of every architecture, in memory and as folders."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from crispr_lm.edits import verification
from crispr_lm.jobs import seal
from crispr_lm.model import reload
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.model.load import load_model
from crispr_lm.report import comparison_page, page, two_runs
from crispr_lm.tasks import registry

from .helpers import ARCHITECTURES, DOWN_PROJECTIONS, build_model
from .reference import Reference

SECONDS = {"slow": 5.0, "real_model": 15.0, "browser": 5.0}
"""What a test with this marker takes, beyond the fifth of a second of any other; roughly."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first: with several workers, one of them would else end long after the others."""
    lasts: dict[Path, float] = defaultdict(float)
    for item in items:
        lasts[item.path] += 0.2 + sum(SECONDS[name] for name in SECONDS if item.get_closest_marker(name) is not None)
    items.sort(key=lambda item: -lasts[item.path])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models run some ten times faster without threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _reloaded_here(_command: list[str], input: str, **_more: Any) -> subprocess.CompletedProcess[str]:
    """What the fresh process of `crispr_lm.model.reload` answers, computed in this one."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as streams:
        streams.setattr(sys, "stdin", io.StringIO(input))
        streams.setattr(sys, "stdout", out)
        try:
            reload.main()
        except Exception as error:
            return subprocess.CompletedProcess([], 1, "", f"{type(error).__name__}: {error}")
    return subprocess.CompletedProcess([], 0, out.getvalue(), "")


@pytest.fixture(scope="session", autouse=True)
def _verified_here() -> Iterator[None]:
    """Every saved model is verified, but in this process: a fresh Python takes seconds to import PyTorch."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(verification, "subprocess", SimpleNamespace(run=_reloaded_here))
        yield


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved models are verified as for users, in a fresh process."""
    monkeypatch.setattr(verification, "subprocess", subprocess)


@pytest.fixture(scope="session", autouse=True)
def _made_once() -> Iterator[None]:
    """Built-in questions, versions of packages and templates of pages are read once, not in every tiny run."""
    kept = {name: functools.cache(read) for name, read in registry.BUILTIN.items()}
    environment = functools.cache(page.page_environment)
    with pytest.MonkeyPatch.context() as patched:
        for name, read in kept.items():
            patched.setitem(registry.BUILTIN, name, lambda read=read: list(read()))
        for module in (page, comparison_page, two_runs):
            patched.setattr(module, "page_environment", environment)
        patched.setattr(seal, "version", functools.cache(seal.version))
        yield


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def lm(architecture: str) -> LanguageModel:
    """A model of every architecture in turn, the test's own to change."""
    return build_model(architecture)


@pytest.fixture
def llama() -> LanguageModel:
    return build_model("llama")


@pytest.fixture
def gpt2() -> LanguageModel:
    return build_model("gpt2")


@pytest.fixture
def t5() -> LanguageModel:
    return build_model("t5-gated")


@pytest.fixture(scope="session")
def smollm2() -> LanguageModel:
    """The real model in float32, for tests that leave it as it is: it takes seconds to read out of its GGUF file."""
    return load_model("builtin:smollm2", device="cpu")


@pytest.fixture(scope="session")
def reference_of() -> Callable[[str], Reference]:
    """The reference of an architecture's tiny model; made once."""
    made: dict[str, Reference] = {}

    def get(architecture: str) -> Reference:
        if architecture not in made:
            made[architecture] = Reference(build_model(architecture), DOWN_PROJECTIONS[architecture])
        return made[architecture]

    return get


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an architecture's tiny model, as `save_pretrained` writes it."""
    folders: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in folders:
            folder = tmp_path_factory.mktemp(architecture)
            lm = build_model(architecture)
            lm.model.save_pretrained(folder)
            lm.tokenizer.save_pretrained(folder)
            folders[architecture] = folder
        return folders[architecture]

    return get
