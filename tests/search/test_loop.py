"""The loop's parts by hand, and what it does with planted neurons."""

import pytest
import torch

from crispr_lm import Edit, Limits, SearchOptions, load_model, load_task, search_edit
from crispr_lm.attribution.gate_gradients import Gates
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.search.evaluator import random_neurons
from crispr_lm.search.loop import Loop, LoopState, Ordinary, _drawn
from crispr_lm.search.losses import biased_loss, kl_loss, skill_loss
from crispr_lm.search.neuron_count import validation_part
from crispr_lm.search.options import search_parts
from crispr_lm.tasks.base import DISAMBIGUATED

from ..jobs.test_run import questions

__all__ = ["questions"]


def test_the_losses_of_one_prompt_by_hand():
    scores = torch.tensor([-1.0, -2.0, -4.0])
    assert float(biased_loss(scores, 2)) == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(3.0)))))
    # Nothing has changed: only that "unknown" (1) is behind by one nat.
    unmoved = float(torch.log1p(torch.exp(torch.tensor(-1.0))))
    assert float(skill_loss(scores, scores, 1)) == pytest.approx(unmoved)
    swapped = torch.tensor([-4.0, -2.0, -1.0])
    p = torch.tensor([1.0, -2.0]).softmax(0)  # of the others, before: 3 nats apart
    divergence = float((p * (p.log() - p.flip(0).log())).sum())
    assert float(skill_loss(swapped, scores, 1)) == pytest.approx(unmoved + 3 * divergence, rel=1e-5)
    assert float(skill_loss(scores, scores, None)) == pytest.approx(0.0, abs=1e-6)
    assert float(kl_loss(scores.log_softmax(0), swapped)) > 0


def test_a_step_holds_no_prompt_twice_and_all_come_in_turn():
    pool = list(range(10))
    drawn = [_drawn(pool, 4, step, seed=0) for step in range(5)]
    assert sorted(item for of_step in drawn for item in of_step) == sorted(pool * 2)
    assert sorted(drawn[0] + drawn[1] + drawn[2][:2]) == pool
    assert drawn == [_drawn(pool, 4, step, seed=0) for step in range(5)]
    assert drawn != [_drawn(pool, 4, step, seed=1) for step in range(5)]
    assert _drawn([], 4, 3, seed=0) == []
    assert len(_drawn(pool, 99, 0, seed=0)) == 10


def test_a_state_is_read_as_it_was_written(tmp_path):
    state = LoopState(8, *torch.rand(4, 5))
    state.save(tmp_path / "loop.safetensors")
    read = LoopState.load(tmp_path / "loop.safetensors")
    assert read.step == 8
    assert all(torch.equal(getattr(read, name), getattr(state, name)) for name in ("closing", "mean", "square"))


@pytest.fixture(scope="module")
def given(saved_model, questions):
    lm = load_model(saved_model("llama"), device="cpu")
    return lm, load_task(f"choices:{questions / 'questions.jsonl'}", str(questions / "instructions.txt"))


def mean_loss(lm, task, options, neurons):
    """L_biased over the ambiguous questions that gradients are taken on."""
    part = search_parts(task, options)
    asked = validation_part(lm, task.name, part.gradients, task.instructions, options.seed)
    with Edit.from_neurons(lm, neurons).applied(lm):
        scores = prompt_scores(lm, asked.prompts)
    losses = [
        float(biased_loss(of, example.answer))
        for of, example in zip(scores, asked.examples, strict=True)
        if example.condition != DISAMBIGUATED
    ]
    return sum(losses) / len(losses)


def test_what_it_finds_lowers_the_loss_more_than_random_neurons_and_is_found_again(given, monkeypatch):
    monkeypatch.setattr("crispr_lm.search.trial.PRICE_OF_LOSS", 0.0)  # so that this loss is all there is
    lm, task = given
    limits = Limits(
        kl=9.0, accuracy_loss=1.0, overabstention=1.0, neurons=6, bias_rise=2.0, fact_loss=1.0, spillover=1.0
    )
    options = SearchOptions(rounds=4, neurons="ffn", examples=4, validation_examples=8, neutral_prompts=2)
    found = search_edit(lm, task, limits, options)
    *_, last = [trial for trial in found.trials if trial.stage == "rounds"]
    assert 0 < len(last.neurons) <= 6
    before = mean_loss(lm, task, options, [])
    by_chance = [mean_loss(lm, task, options, random_neurons(lm, last.neurons, seed)) for seed in range(5)]
    assert mean_loss(lm, task, options, last.neurons) < min(before, *by_chance)
    again = search_edit(lm, task, limits, options)
    assert [trial.neurons for trial in again.trials] == [trial.neurons for trial in found.trials]


def test_neurons_that_are_closed_whole_keep_their_order(given):
    lm, task = given
    options = SearchOptions(rounds=1, neurons="ffn", examples=4, validation_examples=8)
    gates = Gates(lm, ["ffn"])
    loop = Loop(lm, [search_parts(task, options)], gates, Ordinary(None, None), Limits(neurons=2), options)
    state = LoopState.new(gates.count)
    state.closing[:5] = torch.tensor([1.5, 3.0, 0.2, 2.0, 1.0])
    loop.state = state
    assert loop.is_clear
    assert {neuron.index for neuron in loop.edit()} == {1, 3}


def test_no_divergence_allowed_closes_nothing(given):
    lm, task = given
    options = SearchOptions(rounds=1, neurons="ffn", examples=4, validation_examples=8, neutral_prompts=2)
    found = search_edit(lm, task, Limits(kl=0.0, neurons=6, fact_loss=1.0, spillover=1.0), options)
    assert found.verdict == "none"
    assert not [trial for trial in found.trials if trial.stage == "rounds"]
