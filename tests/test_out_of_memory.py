"""Memory runs out: batches are halved and the figures stay; on a single prompt it ends with advice."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch

from crispr_lm import CrisprError, Edit, EditMismatchError, Neuron, evaluate, option_scores, score_neurons
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.evaluation.kl_divergence import divergence, reference_distribution
from crispr_lm.evaluation.perplexity import perplexity
from crispr_lm.inference.generation import continuations
from crispr_lm.inference.prompts import encode, encode_text
from crispr_lm.model.neuron_sites import NeuronWeights

from .helpers import DOWN_PROJECTIONS, EXAMPLES, INSTRUCTIONS, assert_same_weights, build_model, hook_count, snapshot

ERRORS = {
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "cuda": torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "system": MemoryError(),
}

TEXTS = ("Who was slow?", "Who was late?", "Who met Omar?", "Anna and Omar met the old man at the bus stop.")

NEURONS = [Neuron(DOWN_PROJECTIONS["llama"][0], 3, "ffn"), Neuron(DOWN_PROJECTIONS["llama"][1], 7, "ffn")]


def scores(lm):
    return option_scores(lm, EXAMPLES, INSTRUCTIONS[0]).numpy()


def attribution(lm):
    return torch.cat(list(score_neurons(lm, EXAMPLES, INSTRUCTIONS).values.values())).numpy()


def gate_gradients(lm):
    gates, prompts = Gates(lm, ["ffn"]), [encode(lm, example, INSTRUCTIONS[0]) for example in EXAMPLES]
    return gates.gradient(torch.ones(gates.count), prompts, lambda _, scores: scores[0] - scores[1]).numpy()


def diverged(lm):
    reference = reference_distribution(lm, TEXTS)
    with Edit.from_neurons(lm, NEURONS).applied(lm):
        return np.array(divergence(lm, reference)["kl"])


def written(lm):
    prompts = [encode_text(lm, "Who was late?"), encode_text(lm, "Who was slow?")]
    assert len(prompts[0]) == len(prompts[1])  # they share a batch
    return np.array([ids for row in continuations(lm, prompts, 4) for ids in row])


WORK = (scores, attribution, gate_gradients, diverged, written)


@pytest.fixture
def limit(monkeypatch):
    """Have a model run out of memory where a batch has more rows than the limit; how often it did is in `times`."""

    def limited(lm, rows, error):
        forward = lm.model.forward
        times = []

        @functools.wraps(forward)
        def small(*arguments, input_ids, **more):
            if len(input_ids) > rows:
                times.append(len(input_ids))
                raise error
            return forward(*arguments, input_ids=input_ids, **more)

        continuations(lm, [[5, 9], [5]], 1)  # what the model takes is found out
        monkeypatch.setattr(lm.model, "forward", small)
        return times

    return limited


@pytest.mark.parametrize(("work", "error"), [*((work, "cpu") for work in WORK), *((scores, error) for error in ERRORS)])
def test_batches_are_halved_until_they_fit_and_figures_stay(llama, limit, work, error):
    expected = work(llama)
    times = limit(llama, 1, ERRORS[error])
    found = work(llama)
    assert times
    assert min(times) > 1
    largest = np.abs(expected[np.isfinite(expected)]).max()
    assert np.allclose(found, expected, rtol=1e-4, atol=3e-5 * largest)
    assert hook_count(llama.model) == 0


@pytest.mark.parametrize("work", WORK)
def test_on_a_single_prompt_it_ends_with_advice_and_leaves_nothing_behind(llama, limit, work):
    before = snapshot(llama.model)
    limit(llama, 0, ERRORS["cpu"])
    with pytest.raises(CrisprError, match=r"memory runs out on a single prompt; use shorter prompts, .* doctor"):
        work(llama)
    assert hook_count(llama.model) == 0
    assert_same_weights(llama.model, before)


def test_a_text_has_windows_of_one_so_it_ends_with_advice(llama, limit):
    limit(llama, 0, ERRORS["cuda"])
    with pytest.raises(CrisprError, match=r"memory runs out on a window of .* tokens; use"):
        perplexity(llama, " ".join(TEXTS))


def test_other_errors_are_not_taken_for_full_memory(llama, limit):
    times = limit(llama, 1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        scores(llama)
    assert len(times) == 1


def test_a_model_that_runs_out_while_it_is_examined_is_not_taken_for_one_of_another_layout(monkeypatch):
    lm = build_model("llama")
    forward = lm.model.forward
    calls = []

    @functools.wraps(forward)
    def full(*arguments, **more):
        calls.append(1)
        if len(calls) > 8:  # among the layouts, after the plain scores
            raise ERRORS["cpu"]
        return forward(*arguments, **more)

    monkeypatch.setattr(lm.model, "forward", full)
    with pytest.raises(CrisprError, match="memory runs out on a few short prompts"):
        scores(lm)
    monkeypatch.undo()
    assert lm.capabilities is None
    scores(lm)
    assert lm.capabilities.branches


def test_an_edit_whose_baking_runs_out_of_memory_leaves_the_weights_as_they_were(llama, monkeypatch):
    before = snapshot(llama.model)
    edit = Edit.from_neurons(llama, NEURONS, 0.5)
    write = NeuronWeights.write
    written = []

    def full(self, *given):
        if len(written) == 1:
            written.append(None)
            raise MemoryError
        written.append(given)
        write(self, *given)

    monkeypatch.setattr(NeuronWeights, "write", full)
    with pytest.raises(MemoryError):
        edit.bake(llama)
    monkeypatch.undo()
    assert_same_weights(llama.model, before)
    with pytest.raises(EditMismatchError, match="nothing to undo"):
        edit.undo(llama)
    edit.bake(llama)
    edit.undo(llama)
    assert_same_weights(llama.model, before)


def test_many_examples_are_encoded_in_portions_without_a_trace_in_the_figures(llama, monkeypatch):
    examples = list(EXAMPLES) * 3
    random.Random(0).shuffle(examples)
    # What so small a model writes is no option; which one it is taken for hangs on all that it writes.
    monkeypatch.setattr(
        "crispr_lm.inference.generation.matched_option", lambda text, options, _: sum(map(ord, text)) % len(options)
    )

    def measured():
        return {
            scoring: evaluate(llama, examples, INSTRUCTIONS[:1], scoring=scoring).option_scores[0]
            for scoring in ("sum", "mean", "generate")
        }

    whole, attributed = measured(), attribution(llama)
    monkeypatch.setattr("crispr_lm.inference.prompts.ENCODED_AT_ONCE", 3)
    for scoring, found in measured().items():
        assert torch.allclose(found, whole[scoring], rtol=1e-4), scoring
    assert np.allclose(attribution(llama), attributed, rtol=1e-4, atol=3e-5 * np.abs(attributed).max())
