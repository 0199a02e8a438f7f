"""Intervals and tests against hand-computed cases, brute force and simulated coverage."""

import itertools
import math

import numpy as np
import pytest

from crispr_lm import InputError
from crispr_lm.metrics.family import Metric, MetricFamily, ratio
from crispr_lm.metrics.instructions import spread
from crispr_lm.metrics.statistics import (
    clustered_error,
    corrected_over_tasks,
    gain_p_values,
    holm,
    paired_differences,
    percentiles,
    value_interval,
)

ACCURACY = Metric("accuracy", "Accuracy", ("right", "questions"), ratio)
FAMILY = MetricFamily(name="toy", metrics=(ACCURACY,), headline="accuracy")


def answers(*right):
    return {"right": np.array(right, dtype=float), "questions": np.ones(len(right))}


def difference(before, after, clusters, **arguments):
    return paired_differences([answers(*before)], [answers(*after)], FAMILY, clusters, **arguments)["accuracy"]


def test_the_difference_is_after_minus_before():
    found = difference([0, 0, 1, 1], [1, 0, 1, 1], "abcd")
    assert found.value == pytest.approx(0.25)


def test_a_change_that_is_the_same_everywhere_has_an_interval_of_no_width():
    found = difference([0, 0, 0, 0], [1, 1, 1, 1], "abcd")
    assert (found.low, found.high) == (1.0, 1.0)


def test_the_permutation_test_is_exact_for_few_templates():
    # All three templates go the same way: 2 of the 2^3 ways to swap are as extreme.
    assert difference([0, 0, 0], [1, 1, 1], "abc").p_value == pytest.approx(2 / 8)
    # Two up, one down: every |sum of ±1, ±1, ±1| is at least 1, so nothing is more extreme than this.
    assert difference([0, 0, 1], [1, 1, 0], "abc").p_value == pytest.approx(1.0)


def test_the_permutation_test_agrees_with_enumeration():
    before, after, clusters = [0, 1, 0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 0, 0, 1], "aabbccde"
    observed = np.mean(after) - np.mean(before)
    names = sorted(set(clusters))
    as_extreme = 0
    for swaps in itertools.product([False, True], repeat=len(names)):
        swapped = dict(zip(names, swaps, strict=True))
        total = sum(
            (old - new) if swapped[cluster] else (new - old)
            for old, new, cluster in zip(before, after, clusters, strict=True)
        )
        as_extreme += abs(total / len(before)) >= abs(observed) - 1e-12
    assert difference(before, after, clusters).p_value == pytest.approx(as_extreme / 2 ** len(names))


def test_the_interval_agrees_with_a_bootstrap_by_hand():
    generator = np.random.default_rng(3)
    clusters = np.repeat(np.arange(12), 5)
    before, after = (generator.random((2, 60)) < 0.5).astype(float)
    found = difference(before, after, clusters.tolist())
    per_cluster = (after - before).reshape(12, 5).sum(axis=1)
    drawn = generator.integers(0, 12, (20_000, 12))
    # Of 12 clusters: the t distribution's 2.20099, times √(12 / 11), is 2.29885; beyond it is 1.0757 % of a normal one.
    low, high = np.percentile(per_cluster[drawn].sum(axis=1) / 60, [1.0757, 98.9243])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_near_copies_of_a_template_do_not_narrow_the_interval():
    # Ten copies of each of four answers say no more than the four.
    before, after = [0, 0, 0, 1], [1, 0, 1, 0]
    few = difference(before, after, "abcd")
    many = difference(np.repeat(before, 10), np.repeat(after, 10), [*np.repeat(list("abcd"), 10)])
    alone = difference(np.repeat(before, 10), np.repeat(after, 10), range(40))
    assert (many.low, many.high) == (few.low, few.high)
    assert many.p_value == few.p_value
    assert alone.high - alone.low < 0.5 * (many.high - many.low)


def test_instructions_are_averaged_and_not_drawn():
    before = [answers(0, 0, 0), answers(1, 1, 1)]
    after = [answers(1, 1, 1), answers(1, 1, 1)]
    found = paired_differences(before, after, FAMILY, "abc")["accuracy"]
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_no_change_at_all_is_no_evidence():
    found = difference([0, 1, 0], [0, 1, 0], "abc")
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_no_change_at_all_is_no_change_in_any_resample_even_where_the_metric_is_undefined_in_some():
    columns = {"right": np.array([1.0, 0.0]), "questions": np.array([1.0, 0.0])}
    found = paired_differences([columns], [{name: of.copy() for name, of in columns.items()}], FAMILY, "ab")["accuracy"]
    assert (found.value, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # SciPy tells the deviation of the single resample, too
def test_as_many_resamples_are_drawn_as_are_asked_for():
    # The quantiles of a single resample are that resample.
    low, high = value_interval([answers(1, 1, 0, 1)], ACCURACY, "abcd", resamples=1)
    assert low == high
    found = difference([0, 0, 1, 1], [1, 0, 1, 0], "abcd", resamples=1)
    assert found.low == found.high


def test_a_single_template_has_no_interval():
    found = difference([0, 1], [1, 1], "aa")
    assert (found.value, found.low, found.high, found.p_value) == (0.5, None, None, None)


def test_a_metric_that_is_undefined_in_some_resamples_has_no_interval():
    columns = {"right": np.array([1.0, 0.0]), "questions": np.array([1.0, 0.0])}
    found = paired_differences([columns], [{**columns, "right": np.array([0.0, 0.0])}], FAMILY, "ab")["accuracy"]
    assert found.value == -1
    assert (found.low, found.high) == (None, None)


def test_the_same_seed_gives_the_same_interval():
    generator = np.random.default_rng(0)
    before, after = (generator.random((2, 40)) < 0.5).astype(float)
    first, second, other = (difference(before, after, range(40), seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert (first.low, first.high, first.p_value) != (other.low, other.high, other.p_value)


@pytest.mark.parametrize(
    ("before", "after", "clusters"),
    [([answers(1, 0)], [answers(1, 0)] * 2, "ab"), ([answers(1, 0)], [answers(1, 0)], "abc"), ([], [], "ab")],
)
def test_answers_to_other_questions_are_refused(before, after, clusters):
    with pytest.raises(InputError, match="same examples"):
        paired_differences(before, after, FAMILY, clusters)


def test_the_interval_of_one_figure():
    low, high = value_interval([answers(1, 1, 0, 1)], ACCURACY, "abcd")
    assert low < 0.75 < high
    assert value_interval([answers(1, 1)], ACCURACY, "aa") == (None, None)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.5, never falling.
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.5, "d": 0.02, "e": None})
    assert adjusted == {
        "a": pytest.approx(0.06),
        "b": pytest.approx(0.04),
        "c": pytest.approx(0.5),
        "d": pytest.approx(0.06),
        "e": None,
    }
    assert list(adjusted) == ["a", "b", "c", "d", "e"]
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_every_metric_is_corrected_over_the_tasks_that_have_it():
    one = paired_differences([answers(0, 0, 0)], [answers(1, 1, 1)], FAMILY, "abc")
    two = paired_differences([answers(0, 0, 0, 0)], [answers(1, 1, 1, 1)], FAMILY, "abcd")
    corrected = corrected_over_tasks({"one": one, "two": two})
    assert corrected["two"]["accuracy"].p_value_holm == pytest.approx(2 * 2 / 16)
    assert corrected["one"]["accuracy"].p_value_holm == pytest.approx(2 / 8)
    assert corrected["one"]["accuracy"].value == one["accuracy"].value


def test_intervals_hold_the_true_difference_about_as_often_as_they_say():
    generator = np.random.default_rng(11)
    held = 0
    for trial in range(120):
        chance = np.clip(generator.normal(0.5, 0.15, 30), 0, 1)  # templates differ in difficulty
        before = (generator.random((30, 4)) < chance[:, None]).astype(float).ravel()
        after = (generator.random((30, 4)) < np.clip(chance + 0.1, 0, 1)[:, None]).astype(float).ravel()
        found = difference(before, after, np.repeat(range(30), 4).tolist(), seed=trial, resamples=599)
        held += found.low <= 0.1 <= found.high
    assert 0.88 <= held / 120 <= 0.995


def test_few_templates_widen_the_interval_until_it_holds_what_it_says():
    """Plain percentiles of 8 templates hold 0.912 of these 600, where 0.95 is what they claim."""
    clusters = 8
    generator = np.random.default_rng(5)
    rows = np.repeat(range(clusters), 6).tolist()
    held = 0
    for trial in range(600):
        chance = 1 / (1 + np.exp(-generator.normal(0, 1.5, clusters)))
        right = (generator.random((clusters, 6)) < chance[:, None]).ravel()
        low, high = value_interval([answers(*right)], ACCURACY, rows, seed=trial, resamples=599)
        held += low <= 0.5 <= high  # the chances are symmetric around one half
    assert 0.93 <= held / 600 <= 0.98


def test_the_interval_of_many_templates_is_the_plain_one():
    assert percentiles(1_000) == pytest.approx(0.95, abs=1e-3)
    # t of one degree of freedom is 12.706, of seven 2.3646: far out, where a normal distribution has nothing left.
    assert percentiles(2) == pytest.approx(1.0)
    assert percentiles(8) == pytest.approx(1 - 2 * 0.0057375, abs=1e-6)


def test_spread_over_instructions_is_deviation_and_the_worst_in_the_direction_that_matters():
    bias = Metric("bias", "Bias", ("right", "questions"), ratio, better="target")
    error = Metric("error", "Error", ("right", "questions"), ratio, better="lower")
    plain = Metric("plain", "Plain", ("right", "questions"), ratio, better="neither")
    family = MetricFamily(name="toy", metrics=(ACCURACY, bias, error, plain), headline="accuracy")
    names = ("accuracy", "bias", "error", "plain")
    found = spread([dict.fromkeys(names, -0.5), dict.fromkeys(names, 0.25), dict.fromkeys(names)], family)
    assert found["accuracy"] == {"std": pytest.approx(0.375), "worst": -0.5}
    assert found["bias"]["worst"] == -0.5
    assert found["error"]["worst"] == 0.25
    assert found["plain"]["worst"] is None


def test_the_clustered_error_is_that_of_the_mean_over_clusters_of_equal_size():
    """Where clusters are of one size, the mean over examples is that over clusters' means; they are drawn, not rows."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(6, 5)) + generator.normal(size=(6, 1))
    expected = values.mean(axis=1).std(ddof=1) / math.sqrt(6)
    assert clustered_error(values.reshape(-1), np.arange(6).repeat(5)) == pytest.approx(expected)


@pytest.mark.parametrize("clusters", [np.arange(12), np.zeros(12, dtype=np.int64)])
def test_the_clustered_error_is_the_plain_one_where_there_are_no_clusters(clusters):
    values = np.random.default_rng(1).normal(size=(12, 3))
    assert clustered_error(values, clusters) == pytest.approx(values.std(axis=0, ddof=1) / math.sqrt(12))


def test_the_order_of_rows_changes_no_interval_and_no_test():
    generator = np.random.default_rng(4)
    before, after = (generator.random((2, 60)) < 0.5).astype(float)
    clusters = np.array([f"template {row % 17}" for row in range(60)])
    order = generator.permutation(60)
    found, permuted = (
        difference(before[rows], after[rows], clusters[rows].tolist(), resamples=999) for rows in (np.arange(60), order)
    )
    assert found == permuted
    ends = [
        value_interval([answers(*after[rows])], ACCURACY, clusters[rows].tolist(), resamples=999)
        for rows in (np.arange(60), order)
    ]
    assert ends[0] == ends[1]
    p_values = [gain_p_values((after - before)[rows, None], clusters[rows].tolist()) for rows in (np.arange(60), order)]
    assert p_values[0] == p_values[1]


def test_the_largest_gain_of_several_is_tested_against_the_largest_of_all_swaps():
    generator = np.random.default_rng(7)
    clusters = "aaabbcddde"
    differences = generator.integers(-1, 2, (10, 3)).astype(float)
    sums = np.array([differences[[c == name for c in clusters]].sum(axis=0) for name in "abcde"])
    scaled = sums / np.sqrt((sums**2).sum(axis=0))
    largest = [(np.array(signs)[:, None] * scaled).sum(axis=0).max() for signs in itertools.product((1, -1), repeat=5)]
    expected = [np.mean([one >= of_edit - 1e-12 for one in largest]) for of_edit in scaled.sum(axis=0)]
    assert gain_p_values(differences, clusters) == pytest.approx(expected)


def test_many_clusters_are_swapped_at_random_and_equal_edits_cost_nothing():
    differences = np.random.default_rng(1).integers(-1, 3, 40).astype(float)[:, None]
    (alone,) = gain_p_values(differences, range(40))
    assert gain_p_values(np.repeat(differences, 9, axis=1), range(40)) == pytest.approx(alone)
    # As many as 2^40 swaps: the normal distribution tells how many are as extreme.
    statistic = differences.sum() / np.sqrt((differences**2).sum())
    assert alone == pytest.approx(0.5 * math.erfc(statistic / math.sqrt(2)), abs=0.01)


def test_an_edit_that_changes_nothing_gains_nothing():
    assert gain_p_values(np.zeros((4, 2)), "abcd").tolist() == [1.0, 1.0]
