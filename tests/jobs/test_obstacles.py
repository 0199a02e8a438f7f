"""What stood in the way of an edit: the limits named are those that the search itself goes by."""

import pytest

from crispr_lm import Limits, Neuron, Trial
from crispr_lm.jobs.obstacles import nearest_edit
from crispr_lm.search.trial import Figures

LIMITS = Limits()


def trial(number, gain, complete=True, neurons=2, **costs):
    figures = Figures(**({"loss": 0.0, "overabstention": 0.0, "kl": 0.0} | costs), gain=gain)
    names = tuple(Neuron("m", index, "ffn") for index in range(neurons))
    return Trial(number, "rounds", {}, names, 0.0, figures, {}, {"t": [0] * 8}, complete)


@pytest.mark.parametrize(
    ("costs", "what", "value"),
    [
        ({"loss": 0.04, "doubt": 0.04}, "accuracy_loss", 0.06),
        ({"implied": 0.05, "implied_doubt": 0.06}, "accuracy_loss", 0.08),
        ({"overabstention": 0.3}, "overabstention", 0.3),
        ({"kl": 0.2}, "kl", 0.2),
        ({"bias_rise": 0.2, "bias_doubt": 0.1}, "bias_rise", 0.15),
        ({"loss": 0.04, "doubt": 0.01, "bias_rise": 0.06, "bias_doubt": 0.1}, None, 0.0),
    ],
)
def test_the_limits_exceeded_are_those_of_the_search(costs, what, value):
    tried = trial(1, 0.3, **costs)
    beyond = nearest_edit([trial(0, 0.0, neurons=0), tried], LIMITS)["beyond"]
    assert (beyond == []) == tried.figures.within(LIMITS)
    assert [(row["what"], pytest.approx(row["value"])) for row in beyond] == ([] if what is None else [(what, value)])


def test_the_nearest_is_the_one_that_gains_and_exceeds_least():
    far, near = trial(1, 0.4, loss=0.2), trial(2, 0.1, loss=0.06)
    useless, given_up = trial(3, 0.0, loss=0.051), trial(4, 0.5, complete=False)
    assert nearest_edit([far, near, useless, given_up], LIMITS)["trial"] == 2
    assert nearest_edit([useless, given_up], LIMITS) is None
