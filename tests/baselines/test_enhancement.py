"""Neurons that know bias: found by the rule in loops, scaled up, and their price counted."""

import pytest

from crispr_lm.baselines import NotRunError, enhancement
from crispr_lm.baselines.enhancement import INSTRUCTION, SCALES, SHARED, THRESHOLD, bias_knowledge, questions
from crispr_lm.inference.layouts import capabilities_of
from crispr_lm.inference.passes import BACKWARD, counted_passes
from crispr_lm.inference.prompts import encode

from ..helpers import DOWN_PROJECTIONS
from ..reference import Reference


def test_neurons_relevant_for_no_in_enough_questions_are_scaled_up(make_fit, monkeypatch):
    monkeypatch.setattr(enhancement, "TRAITS", ("how kind they are",))
    fit = make_fit("llama")
    capabilities_of(fit.lm)  # probed once, by whoever comes first
    reference = Reference(fit.lm, DOWN_PROJECTIONS["llama"])
    asked = questions()
    counts = {}
    for example in asked:
        encoded = encode(fit.lm, example, INSTRUCTION)
        found = reference._relevance(encoded.prompt_ids, encoded.option_ids[1], 1.0, "ffn", "max")
        largest = max(float(values.max()) for values in found.values())
        for module, values in found.items():
            for index, value in enumerate(values.tolist()):
                counts[module, index] = counts.get((module, index), 0) + (value > THRESHOLD * largest)
    expected = {key for key, count in counts.items() if count / len(asked) > SHARED}
    with counted_passes(fit.lm) as passes:
        treatment = bias_knowledge(fit, 0)
    assert {(neuron.module, neuron.index) for neuron in treatment.edit.neurons} == expected
    assert 0 < len(expected) < len(counts)
    assert treatment.edit.scale in SCALES
    tried = (1 + len(SCALES)) * len(fit.parts.validation)
    assert passes.count == len(asked) * (1 + 2 * BACKWARD) + tried
    assert len(treatment.details["tried"]) == 1 + len(SCALES)


def test_where_no_neuron_is_shared_it_is_not_run(make_fit, monkeypatch):
    monkeypatch.setattr(enhancement, "SHARED", 1.0)
    monkeypatch.setattr(enhancement, "TRAITS", ("how kind they are",))
    with pytest.raises(NotRunError, match="no feed-forward neuron"):
        bias_knowledge(make_fit("llama"), 0)


def test_the_questions_differ_and_offer_yes_and_no():
    asked = questions()
    assert len({example.question for example in asked}) == len(asked) == 32
    assert {example.options for example in asked} == {("yes", "no")}
