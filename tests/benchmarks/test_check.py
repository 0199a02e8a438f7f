"""A model against itself seldom fails, a planted stereotype does, and twenty questions are too few: a small version."""

import check


def test_a_model_against_itself_seldom_fails_and_a_planted_stereotype_does():
    # At most 5 % fail: more than 3 of 20 have a probability of 1.6 %, and the seeds are fixed.
    assert check.simulate(check.Setting(200, 100, margin=0.0), 20)["fails"] <= 3
    assert check.simulate(check.Setting(200, 100, planted=check.PLANTED), 5)["fails"] == 5
    assert check.simulate(check.Setting(20, 10, kept=1.0), 5)["undecided"] == 5
