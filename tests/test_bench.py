"""The bench on a tiny real model: what it tells of a trial is what asking the edited model tells."""

import pytest

from crispr_lm import Edit
from crispr_lm.bench import Bench, Proposal
from crispr_lm.divergence import original_of
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.model.neurons import Neuron, find_sites
from crispr_lm.scoring import prompt_scores
from crispr_lm.search import choose_part
from crispr_lm.tasks.task import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.trials import CONSTANTS, Limits


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
    part = choose_part(lm, "t", examples, ["Answer the question.", "Choose."], seed=0)
    original = original_of(lm, ["The sky is blue.", "Water boils."])
    return Bench(lm, [part], original, Limits(kl=100.0))


def proposal_of(lm, count):
    site = find_sites(lm.model, "ffn")[0]
    return Proposal("search", {"ranking": "made up"}, tuple(Neuron(site.name, index, "ffn") for index in range(count)))


def test_figures_with_a_constant_are_those_of_the_scores_with_this_constant(llama):
    bench, proposal = bench_of(llama, questions()), proposal_of(llama, 12)
    original = bench.try_original()
    trial = bench.attempt(1, proposal, [original])
    (part,) = bench.parts
    with Edit.from_neurons(llama, proposal.neurons, 0.0).applied(llama):
        scores = prompt_scores(llama, part.prompts)
    before = question_answering_metrics(part.examples, original.answers["t"])
    assert len(trial.moved) == len(CONSTANTS)
    assert trial.moved[CONSTANTS.index(0.0)] == trial.figures
    for constant, figures in zip(CONSTANTS, trial.moved, strict=True):
        moved = scores.clone()
        moved[:, 1] += constant
        after = question_answering_metrics(part.examples, moved.argmax(dim=1).tolist())
        assert figures.gain == pytest.approx(after["accuracy_ambiguous"] - before["accuracy_ambiguous"])
        assert figures.loss == pytest.approx(before["accuracy_disambiguated"] - after["accuracy_disambiguated"])
        rise = after["unknown_rate_disambiguated"] - before["unknown_rate_disambiguated"]
        assert figures.overabstention == pytest.approx(rise)
        assert figures.kl == trial.figures.kl
    assert len({figures.overabstention for figures in trial.moved}) > 2  # the constants do matter


def test_where_no_option_abstains_a_constant_changes_nothing(llama):
    trial = bench_of(llama, questions(unknown=None)).try_original()
    assert set(trial.moved) == {trial.figures}
    assert trial.room(Limits()) == 0.0


def test_what_was_asked_nothing_tells_nothing_of_constants(llama):
    bench = bench_of(llama, questions())
    bench.limits = Limits(kl=0.0)
    trial = bench.attempt(1, proposal_of(llama, 12), [bench.try_original()], within_kl=True)
    assert trial.figures.kl > 0
    assert trial.moved == ()
