"""The simulation of searches: edits that do nothing are recommended no more often than the level of the test says."""

import numpy as np
import pytest
from scipy.stats import binomtest

import selection
from crispr_lm.search.selection import LEVEL


@pytest.mark.parametrize("templates", [8, 24])
def test_edits_that_do_nothing_are_recommended_no_more_often_than_the_level(templates):
    """An interval of all questions, those of the choice among them, recommended 1 in 10 of these with 24 templates."""
    counts = selection.simulate(selection.Setting(templates, correlated=False), runs=120)
    for count in (counts.shown, counts.searched, counts.recommended):
        assert binomtest(count, counts.runs, LEVEL, alternative="greater").pvalue > 0.01
    assert counts.searched <= counts.shown


def test_edits_that_gain_are_recommended_and_confirmed():
    counts = selection.simulate(selection.Setting(24, correlated=True, kept=True, gain=0.2), runs=20)
    assert counts.searched >= 15
    assert counts.recommended >= 10


def test_what_is_drawn_is_what_the_setting_says():
    """Without a gain every model answers alike often right; with one, the edits that gain do so by as much."""
    gains, templates = [], 24
    for seed in range(20):
        drawn = selection.Drawn(selection.Setting(templates, correlated=True, gain=0.2), seed)
        right = drawn._right[:, drawn._ambiguous].mean(axis=1)
        half = 1 - (-selection.EDITS // 2)
        gains.append([right[1:half].mean() - right[0], right[half:-1].mean() - right[0], right[-1] - right[0]])
    gaining, others, control = np.mean(gains, axis=0)
    assert gaining == pytest.approx(0.2, abs=0.03)
    assert others == pytest.approx(0.0, abs=0.03)
    assert control == pytest.approx(0.0, abs=0.03)


def test_the_page_says_whether_the_level_is_kept():
    kinds = selection.settings()
    found = {name: dict.fromkeys(of_section, selection.Counts(100, 2, 1, 0)) for name, of_section in kinds.items()}
    kept = selection.page(found, 60, [])
    assert "one is recommended in at most 2.5 % of searches**: in 1.0% (0.0% to 5.4%)" in kept
    found["nothing"][kinds["nothing"][3]] = selection.Counts(100, 9, 8, 0)
    assert "one is recommended in more than 2.5 % of searches**: in 8.0% (3.5% to 15.2%)" in selection.page(
        found, 60, []
    )
