"""The evaluator on a tiny real model: what it tells of a trial is what asking the edited model tells."""

import pytest

from crispr_lm import Edit
from crispr_lm.evaluation.kl_divergence import reference_distribution
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.bias_rise import bias_rise
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.model.neuron_sites import Neuron, find_sites
from crispr_lm.search.evaluator import Evaluator, Proposal
from crispr_lm.search.neuron_count import validation_part
from crispr_lm.search.trial import Limits
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example


def questions(unknown=1):
    return [
        Example(
            f"The {first} met the {second} at the {place}.", "Who was late?", ("he", "she"), answer, place,
            condition=condition, unknown=unknown,
        )
        for place in ("station", "market", "office", "school")
        for first, second in (("old man", "young woman"), ("nurse", "doctor"))
        for condition, answer in ((AMBIGUOUS, 1), (DISAMBIGUATED, 0))
    ]  # fmt: skip


def bench_of(lm, examples):
    part = validation_part(lm, "t", examples, ["Answer the question.", "Choose."], seed=0)
    reference = reference_distribution(lm, ["The sky is blue.", "Water boils."])
    return Evaluator(lm, [part], reference, Limits(kl=100.0))


def original_of(evaluator):
    return evaluator.attempt(0, Proposal("original", {}, ()))


def proposal_of(lm, count):
    site = find_sites(lm.model, "ffn")[0]
    return Proposal("search", {"ranking": "made up"}, tuple(Neuron(site.name, index, "ffn") for index in range(count)))


def test_figures_are_those_of_the_scores_of_the_edited_model(llama):
    evaluator, proposal = bench_of(llama, questions()), proposal_of(llama, 12)
    original = original_of(evaluator)
    figures = evaluator.attempt(1, proposal, original).figures
    (part,) = evaluator.parts
    with Edit.from_neurons(llama, proposal.neurons, 0.0).applied(llama):
        chosen = prompt_scores(llama, part.prompts).argmax(dim=1).tolist()
    before = question_answering_metrics(part.examples, original.answers["t"])
    after = question_answering_metrics(part.examples, chosen)
    assert figures.gain == pytest.approx(after["accuracy_ambiguous"] - before["accuracy_ambiguous"])
    assert figures.loss == pytest.approx(before["accuracy_disambiguated"] - after["accuracy_disambiguated"])
    rise = after["unknown_rate_disambiguated"] - before["unknown_rate_disambiguated"]
    assert figures.overabstention == pytest.approx(rise)


def test_re_evaluation_asks_all_examples_and_what_was_answered_is_not_asked_again(llama, monkeypatch):
    examples = questions(unknown=0)
    first, more = (
        validation_part(llama, "t", part, ["Answer the question."], 0) for part in (examples[:6], examples[6:])
    )
    reference = reference_distribution(llama, ["The sky is blue."])
    evaluator = Evaluator(llama, [first], reference, Limits(kl=100.0), further=[more])
    assert (evaluator.prompts, evaluator.further_prompts) == (6, 10)
    proposal = proposal_of(llama, 12)
    trials = [original_of(evaluator), evaluator.attempt(1, proposal, original_of(evaluator))]
    assert [len(trial.answers["t"]) for trial in trials] == [6, 6]
    asked = []
    monkeypatch.setattr(
        "crispr_lm.search.evaluator.prompt_scores",
        lambda lm, prompts, size, advance: asked.append(len(prompts)) or prompt_scores(lm, prompts, size),
    )
    before = evaluator.reevaluate(2, Proposal("final", {"of": 0}, ()), trials[0])
    reevaluated = evaluator.reevaluate(3, Proposal("final", {"of": 1}, proposal.neurons), trials[1], before)
    assert asked == [10, 10]
    (part,) = evaluator.parts
    assert evaluator.examples("t") == part.examples
    with Edit.from_neurons(llama, proposal.neurons, 0.0).applied(llama):
        expected = prompt_scores(llama, part.prompts).argmax(dim=1).tolist()
    assert reevaluated.answers["t"] == expected
    metrics = [question_answering_metrics(part.examples, trial.answers["t"]) for trial in (before, reevaluated)]
    for figure, metric in (("gain", "accuracy_ambiguous"), ("loss", "accuracy_disambiguated")):
        change = metrics[1][metric] - metrics[0][metric]
        assert getattr(reevaluated.figures, figure) == pytest.approx(change if figure == "gain" else -change)
    assert reevaluated.figures.kl == trials[1].figures.kl
    rise = metrics[1]["unknown_rate_disambiguated"] - metrics[0]["unknown_rate_disambiguated"]
    assert rise > 0
    assert reevaluated.figures.implied == pytest.approx(rise * metrics[0]["answered_accuracy"])
    rises = {
        template: [
            (after == example.unknown) - (then == example.unknown)
            for example, then, after in zip(part.examples, before.answers["t"], expected, strict=True)
            if (example.condition, example.template) == (DISAMBIGUATED, template)
        ]
        for template in {example.template for example in part.examples}
    }
    sums = [sum(values) - rise * len(values) for values in rises.values()]
    count = sum(map(len, rises.values()))
    error = (sum(value**2 for value in sums) * len(sums) / (len(sums) - 1)) ** 0.5 / count
    assert reevaluated.figures.implied_doubt == pytest.approx(error * metrics[0]["answered_accuracy"])
    assert (reevaluated.stage, reevaluated.number, reevaluated.neurons) == ("final", 3, proposal.neurons)
    again = evaluator.reevaluate(4, Proposal("final", {"of": 1}, proposal.neurons), trials[1], before)
    assert (again.number, again.figures, asked) == (4, reevaluated.figures, [10, 10])
    assert evaluator.attempt(5, proposal, trials[0]).figures == trials[1].figures  # a trial stays what it was
    control = evaluator.random_control(reevaluated, seed=0)
    tried = evaluator.attempt(6, control, trials[0])
    assert len(evaluator.reevaluate(6, control, tried, before).answers["t"]) == 16


def test_the_rise_of_a_bias_score_is_that_of_its_size_in_the_clearer_condition():
    examples = [
        Example(
            f"At the {place}.", "Who was late?", ("he", "she", "unknown"), answer, place,
            condition=condition, unknown=2, stereotyped=0,
        )
        for place in ("station", "market", "office", "school")
        for condition, answer in ((AMBIGUOUS, 2), (DISAMBIGUATED, 0), (DISAMBIGUATED, 1))
    ]  # fmt: skip
    right = [example.answer for example in examples]
    assert bias_rise(examples, right, right) == (0.0, 0.0)
    against = [1 if example.condition == DISAMBIGUATED else example.answer for example in examples]
    before, after = (
        question_answering_metrics(examples, chosen)["bias_score_disambiguated"] for chosen in (right, against)
    )
    assert (before, after) == (0.0, -1.0)
    assert bias_rise(examples, right, against) == (1.0, 0.0)  # the same in every template
    some = [*against[:6], *right[6:]]
    value, error = bias_rise(examples, right, some)
    assert value == pytest.approx(0.5)
    # Leave one template out of four: |−1/3| twice and |−2/3| twice.
    assert error == pytest.approx((3 / 4 * 4 * (1 / 6) ** 2) ** 0.5)
