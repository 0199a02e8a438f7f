"""An exception in any step of a run leaves nothing behind: no hook, no changed weight, no temporary file.

`CRISPR_LM_CASES` above the default has it come at every forward pass of a run, else at some.
"""

from __future__ import annotations

import functools
import random
import tempfile

import pytest
import torch

from crispr_lm.edits.edit import Edit
from crispr_lm.jobs.run import run

from ..helpers import assert_same_weights, build_model, hook_count, snapshot
from ..jobs.test_edit_search import TUNED
from ..jobs.test_run import questions, settings_for
from .commands import LONG, outcome, passing_files
from .trying import tried

__all__ = ["questions"]

PLACES = None if LONG else 3
SEARCHED = {**TUNED, "rounds": 2}

STEPS = (
    "record_of",
    "attribute",
    "measure_reference",
    "find_edit",
    "measure_all",
    "divergence",
    "results_of",
    *(("write_json",) if LONG else ()),  # behind intervals and figures, which take longest
)
"""Names in `crispr_lm.jobs.run` of what the steps of the work call; all are let run to their end before they fail."""


class StoppedError(BaseException):
    """Nothing in the library or below it catches this by its type."""


@pytest.fixture
def lm(monkeypatch):
    """A model of one's own that a run takes for its; one of its parameters is being trained."""
    lm = build_model("llama")
    lm.model.lm_head.weight.requires_grad_(True)
    lm.model.model.norm.register_forward_hook(lambda *_given: None)  # somebody else's
    monkeypatch.setattr("crispr_lm.jobs.run.load", lambda *_given, **_more: lm)
    # A whole Python that takes seconds to start; test_kills has it.
    verified = {"options_compared": 1, "largest_difference": 0.0}
    monkeypatch.setattr("crispr_lm.jobs.run.verify_saved", lambda *_given, **_more: dict(verified))
    return lm


@pytest.fixture
def nothing_left(lm, tmp_path, monkeypatch):
    """A check that everything is as it was."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before, hooks = snapshot(lm.model), hook_count(lm.model)
    trainable = [parameter.requires_grad for parameter in lm.model.parameters()]

    def check():
        assert_same_weights(lm.model, before)
        assert hook_count(lm.model) == hooks
        assert [parameter.requires_grad for parameter in lm.model.parameters()] == trainable
        assert all(parameter.grad is None for parameter in lm.model.parameters())
        assert "forward" not in vars(lm.model)
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert list(temporary.iterdir()) == []
        assert passing_files(tmp_path) == []
        Edit.from_neurons(lm, [])  # refused where an edit is still baked

    return check


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_an_exception_at_any_forward_pass_leaves_nothing_behind(lm, nothing_left, questions, tmp_path, monkeypatch):
    forward = type(lm.model).forward
    passes = 0
    stop_at = -1

    @functools.wraps(forward)
    def stopped(*arguments, **more):
        nonlocal passes
        passes += 1
        if passes - 1 == stop_at:
            raise StoppedError
        return forward(*arguments, **more)

    monkeypatch.setattr(type(lm.model), "forward", stopped)
    for name in ("first", "whole"):  # what the first one finds out about the model, later ones know
        passes = 0
        run("mine", settings_for(questions, tmp_path / name, **SEARCHED))
    nothing_left()
    expected, total = outcome(tmp_path / "whole"), passes
    places = range(total) if PLACES is None else sorted(random.Random(0).sample(range(total), PLACES))
    for number, place in enumerate(places):
        passes, stop_at = 0, place
        settings = settings_for(questions, tmp_path / str(number), **SEARCHED)
        with pytest.raises(StoppedError):
            run("mine", settings)
        nothing_left()
        if PLACES is None or number % 4 == 0:
            stop_at = -1
            run("mine", settings)
            assert outcome(tmp_path / str(number)) == expected, place
    tried("exception at a forward pass", places=len(places), passes=total, left_behind=0)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_an_exception_at_the_end_of_any_step_leaves_nothing_behind(
    lm, nothing_left, questions, tmp_path, monkeypatch, step
):
    import crispr_lm.jobs.run as job

    real = getattr(job, step)

    def failing(*given, **more):
        real(*given, **more)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(job, step, failing)
    with pytest.raises(OSError, match="Input/output error"):
        run("mine", settings_for(questions, tmp_path / "out", neurons="ffn"))
    nothing_left()
