"""Other kinds of stereotype: which they are, that what is searched on is never measured, and what is said of them."""

import pytest

from crispr_lm.evaluation.suite import further_subjects
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.report.side_effects import other_kinds_sentence, worsened
from crispr_lm.tasks.base import Example
from crispr_lm.tasks.other_kinds import OTHER_KINDS, measured_other_kinds, other_kinds, searched_other_kinds
from crispr_lm.tasks.registry import load_task


def of_category(category):
    return [Example("", "Who?", ("he", "she"), 0, "t", category=category)]


def kinds(examples):
    return {example.category for example in examples}


@pytest.mark.parametrize(
    ("category", "own"),
    [
        ("Gender", "Gender"),
        ("Gender_identity", "Gender"),
        ("Disability_status", "Disability"),  # and not Socioeconomic_status
        ("SES", "Socioeconomic_status"),
        ("Race_x_SES", "Socioeconomic_status"),
    ],
)
def test_other_kinds_are_all_but_those_that_share_a_word(category, own):
    everything = kinds(load_task("builtin:everyday").examples)
    assert kinds(other_kinds(of_category(category))) == everything - {own}
    assert kinds(other_kinds(of_category("nurses"))) == everything


def test_what_the_search_is_limited_on_is_never_measured():
    searched = searched_other_kinds(of_category("Gender"), 3)
    for seed in (0, 1):
        measured = measured_other_kinds(of_category("Gender"), None, seed)
        assert not {example.template for example in searched.examples} & {e.template for e in measured.examples}
    assert len(searched.examples) == 48
    assert len(kinds(searched.examples)) == 7
    assert len({example.template for example in searched.examples}) == 14
    assert sum(example.condition == "ambiguous" for example in searched.examples) == 24


def test_every_run_measures_them_but_where_the_task_is_of_every_kind():
    settings = EvaluateSettings(task=("builtin:everyday:Gender",), measure=(OTHER_KINDS,))
    (subject,) = further_subjects(settings, [load_task("builtin:everyday:Gender")])
    assert (subject.role, subject.steps) == ("capability", 240)
    assert OTHER_KINDS in EvaluateSettings(task=("builtin:everyday",)).measure
    assert further_subjects(settings, [load_task("builtin:everyday")]) == []


def results(low, p_value):
    """A kind whose ambiguous accuracy fell by 0.3, and one that stayed."""

    def figures(value, low, high, p_value):
        found = {"value": value, "low": low, "high": high, "p_value_holm": p_value}
        return {
            "before": {"accuracy_ambiguous": 0.8},
            "after": {"accuracy_ambiguous": 0.8 + value},
            "statistics": {"accuracy_ambiguous": found},
        }

    by_kind = {"Family_status": figures(-0.3, -0.5, low, p_value), "Religion": figures(0.0, -0.1, 0.1, 1.0)}
    whole = figures(-0.1, -0.2, 0.01, 0.2)
    task = {**whole, "family": "question_answering", "examples": 60, "breakdown": {"category": by_kind}}
    return {"tasks": {OTHER_KINDS: task}}


def test_what_got_worse_for_certain_is_named():
    said = other_kinds_sentence(results(-0.1, 0.01))
    assert "60 questions, 2 kinds" in said
    assert "Family_status" in said
    assert "-0.300, -0.500 to -0.100" in said
    assert "Religion" not in said
    assert worsened(results(-0.1, 0.01)) == ["Family status"]


@pytest.mark.parametrize(("low", "p_value"), [(0.01, 0.01), (-0.1, 0.2), (None, None)])
def test_what_may_be_chance_is_not_named(low, p_value):
    assert "none got worse for certain" in other_kinds_sentence(results(low, p_value))
    assert worsened(results(low, p_value)) == []
    assert other_kinds_sentence({"tasks": {}}) is None
