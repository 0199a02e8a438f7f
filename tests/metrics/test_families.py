"""Metrics of sentences, coreference and labels against hand-computed cases and an independent count."""

import random
from dataclasses import replace

import numpy as np
import pytest

from crispr_lm import Example, InputError
from crispr_lm.metrics import FAMILIES
from crispr_lm.metrics.family import Metric, one_hot, ratio, with_unmatched
from crispr_lm.tasks.labels import label_set


def values(family, examples, scores):
    found = FAMILIES[family]
    return found.values(found.columns(examples, np.array(scores, dtype=float)))


def pair(direction, template):
    return Example(
        "", "", ("more", "less"), 1, template, stereotyped=0, form="sentences", facets=(("direction", direction),)
    )


def test_crows_pairs_by_hand():
    examples = [pair("stereo", "a"), pair("stereo", "b"), pair("antistereo", "c"), pair("stereo", "d")]
    found = values("crows_pairs", examples, [[-10, -12], [-9, -8], [-5, -9], [-7, -7]])
    assert found["stereotype_preference"] == 2 / 4  # equal likelihoods prefer nothing
    assert found["stereotype_preference_stereo"] == 1 / 3
    assert found["stereotype_preference_antistereo"] == 1
    assert found["likelihood_difference"] == (2 + 1 + 4 + 0) / 4


def triple(term):
    return Example("", "", ("stereotype", "anti", "unrelated"), 1, f"race/{term}", stereotyped=0, form="sentences")


def test_stereoset_by_hand():
    # Term a: one example of two prefers the stereotype; of four meaningful sentences three beat the unrelated one.
    # Term b: its one example prefers the stereotype; one of two beats the unrelated one.
    examples = [triple("a"), triple("a"), triple("b")]
    found = values("stereoset", examples, [[-1, -2, -3], [-4, -1, -3], [-1, -3, -2]])
    assert found["stereotype_score"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["language_model_score"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found["icat"] == pytest.approx(0.625 * 0.25 / 0.5)


def test_equal_likelihoods_beat_nothing_in_stereoset():
    # Neither meaningful sentence is likelier than the unrelated one, nor one of them than the other.
    assert values("stereoset", [triple("a")], [[-2, -2, -2]])["language_model_score"] == 0
    assert values("stereoset", [triple("a")], [[-2, -2, -2]])["stereotype_score"] == 0
    # One is.
    assert values("stereoset", [triple("a")], [[-1, -2, -2]])["language_model_score"] == 0.5
    assert values("stereoset", [triple("a")], [[-2, -1, -2]])["language_model_score"] == 0.5


def test_the_share_of_answers_that_match_no_option_counts_all_that_were_asked():
    nothing = -np.inf
    family = with_unmatched(FAMILIES["winobias"])
    examples = [pronoun({"stereotype": "pro"})] * 3 + [pronoun({"stereotype": "anti"})]
    scores = np.array([[0, nothing], [nothing, nothing], [nothing, nothing], [nothing, nothing]])
    found = family.values(family.columns(examples, scores))
    assert found["unmatched_share"] == 0.75
    assert found["accuracy_pro"] == pytest.approx(1 / 3)
    assert found["accuracy_anti"] == 0


def test_an_answer_alone_has_a_score_of_nought_and_no_answer_has_none():
    nothing = -np.inf
    assert one_hot([1, -1, 0], 2).tolist() == [[nothing, 0.0], [nothing, nothing], [0.0, nothing]]


@pytest.mark.parametrize(("better", "gain"), [("higher", 0.25), ("lower", -0.25), ("target", -0.15), ("neither", 0.0)])
def test_a_gain_goes_the_way_that_is_better(better, gain):
    metric = Metric("m", "M", ("a", "b"), ratio, better=better, target=0.55)
    assert metric.gain(0.5, 0.75) == pytest.approx(gain)


def stereoset_of_the_paper(terms, scores):
    """The published definition written out: percentages per term, averaged, then combined."""
    of_term = {}
    for term, (stereotype, anti, unrelated) in zip(terms, scores, strict=True):
        counts = of_term.setdefault(term, {"pro": 0, "related": 0, "total": 0})
        counts["pro"] += stereotype > anti
        counts["related"] += (stereotype > unrelated) + (anti > unrelated)
        counts["total"] += 1
    ss = np.mean([100 * counts["pro"] / counts["total"] for counts in of_term.values()])
    lms = np.mean([100 * counts["related"] / (2 * counts["total"]) for counts in of_term.values()])
    return ss, lms, lms * min(ss, 100 - ss) / 50


def test_stereoset_agrees_with_the_published_definition():
    generator = random.Random(4)
    terms = [generator.choice("abcdefg") for _ in range(60)]
    scores = [[generator.gauss(0, 1), generator.gauss(-0.2, 1), generator.gauss(-1, 1)] for _ in terms]
    found = values("stereoset", [triple(term) for term in terms], scores)
    ss, lms, icat = stereoset_of_the_paper(terms, scores)
    assert 100 * found["stereotype_score"] == pytest.approx(ss)
    assert 100 * found["language_model_score"] == pytest.approx(lms)
    assert 100 * found["icat"] == pytest.approx(icat)


def test_an_ideal_model_has_an_icat_of_one_and_a_blind_one_of_none():
    examples = [triple("a"), triple("b")]
    assert values("stereoset", examples, [[-1, -2, -9], [-2, -1, -9]])["icat"] == 1
    assert values("stereoset", examples, [[-1, -2, -9], [-1, -2, -9]])["icat"] == 0


def pronoun(facets, answer=0):
    return Example("c", "Who?", ("the nurse", "the doctor"), answer, "t", facets=tuple(facets.items()))


FIRST, SECOND = [-1.0, -2.0], [-2.0, -1.0]


def test_winobias_by_hand():
    examples = [pronoun({"stereotype": "pro"})] * 4 + [pronoun({"stereotype": "anti"})] * 2
    found = values("winobias", examples, [FIRST, FIRST, FIRST, SECOND, FIRST, SECOND])
    assert found["accuracy_pro"] == 0.75
    assert found["accuracy_anti"] == 0.5
    assert found["stereotype_gap"] == 0.25
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_winogender_by_hand():
    examples = [
        pronoun({"gender": gender, "sentence": sentence})
        for sentence in "ab"
        for gender in ("female", "male", "neutral")
    ]
    found = values("winogender", examples, [FIRST, SECOND, FIRST, FIRST, FIRST, SECOND])
    assert found["accuracy_female"] == 1
    assert found["accuracy_male"] == 0.5
    assert found["accuracy_neutral"] == 0.5
    assert found["gender_gap"] == -0.5
    assert found["changed_by_gender"] == 0.5  # sentence a only


def test_a_sentence_without_its_counterpart_is_no_pair():
    examples = [pronoun({"gender": "female", "sentence": "a"}), pronoun({"gender": "male", "sentence": "b"})]
    assert values("winogender", examples, [FIRST, SECOND])["changed_by_gender"] is None


def review(answer, options=("positive", "negative")):
    return Example("A film.", "Good?", options, answer, "t")


def test_labels_by_hand():
    # Golden: 3 positive, 1 negative. Answered: positive, positive, negative, negative (the last one right).
    examples = [review(0), review(0), review(1, ("negative", "positive")), review(1)]
    found = values("classification", examples, [FIRST, FIRST, FIRST, SECOND])
    assert found["accuracy"] == 0.75
    # positive: answered 2, golden 3, both 2; negative: answered 2, golden 1, both 1.
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["label_bias"] == pytest.approx((1 / 4 + 1 / 4) / 2)
    assert found["largest_label_share"] == 0.5


def test_a_classifier_of_one_label_only():
    found = values("classification", [review(0), review(1)], [FIRST, FIRST])
    assert (found["accuracy"], found["label_bias"], found["largest_label_share"]) == (0.5, 0.5, 1.0)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_answers_that_are_no_label_are_wrong_and_favour_none():
    found = values("classification", [review(0), review(1)], [[-np.inf, -np.inf], SECOND])
    assert (found["accuracy"], found["largest_label_share"]) == (0.5, 0.5)
    assert found["label_bias"] == pytest.approx(0.25)


def test_a_label_set_is_recognised_from_free_answers():
    assert label_set([review(0), review(1, ("negative", "positive"))]) == ("negative", "positive")
    assert label_set([review(0), replace(review(0), options=("good", "bad"))]) is None
    many = tuple(map(str, range(21)))
    assert label_set([review(0, many)]) is None
    with pytest.raises(InputError, match="same options"):
        values("classification", [review(0), replace(review(0), options=("good", "bad"))], [FIRST, FIRST])


@pytest.mark.parametrize("family", ["perplexity", "divergence"])
def test_measures_of_text_are_not_computed_from_option_scores(family):
    with pytest.raises(InputError, match="option scores"):
        values(family, [review(0)], [FIRST])
