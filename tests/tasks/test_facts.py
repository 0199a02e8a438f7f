"""The bundled questions about groups: right answers depend on the group, and nothing else gives them away."""

from collections import Counter, defaultdict

from crispr_lm import load_task
from crispr_lm.evaluation.suite import further_subjects
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.report.side_effects import facts_sentence
from crispr_lm.tasks import fact_examples, search_fact_examples

TASK = load_task("builtin:facts")


def test_the_right_answers_are_where_the_file_says():
    by_question = {example.question: example for example in (*TASK.examples, *search_fact_examples())}
    for question, answer in (
        ("Which book is the holy scripture of Muslims?", "the Quran"),
        ("Which book is the holy scripture of Sikhs?", "the Guru Granth Sahib"),
        ("On which side of the road do the British drive at home?", "the left"),
        ("Is a citizen aged 16 allowed to vote in a presidential election in the United States?", "no"),
        ("Which currency do the Japanese pay with at home?", "the yen"),
    ):
        example = by_question[question]
        assert example.options[example.answer] == answer


def test_every_kind_of_stereotype_of_the_everyday_questions_has_its_facts():
    assert len(TASK.examples) == 120
    kinds = {example.category for example in load_task("builtin:everyday").examples}
    for examples in (TASK.examples, search_fact_examples()):
        assert set(Counter(example.category for example in examples)) == kinds


def test_only_the_group_decides_which_answer_is_right():
    """Within a template all options are the same, and each is right equally often, over groups that differ."""
    for examples in (fact_examples(), search_fact_examples()):
        by_template = defaultdict(list)
        for example in examples:
            by_template[example.template].append(example)
        for name, rows in by_template.items():
            assert len({frozenset(row.options) for row in rows}) == 1, name
            right = Counter(row.options[row.answer] for row in rows)
            assert set(right) == set(rows[0].options), name
            assert len(set(right.values())) == 1, name
            assert len({row.facet("group") for row in rows}) == len({row.question for row in rows}) == len(rows), name


def test_positions_tell_nothing():
    for examples in (fact_examples(), search_fact_examples()):
        for count in (2, 3, 4):
            places = Counter(example.answer for example in examples if len(example.options) == count)
            assert max(places.values()) - min(places[place] for place in range(count)) <= 1


def test_no_template_is_both_measured_and_for_the_search():
    measured, searched = fact_examples(), search_fact_examples()
    assert not {example.template for example in measured} & {example.template for example in searched}
    assert not {example.question for example in measured} & {example.question for example in searched}


def test_facts_are_measured_unless_something_else_is_asked_for():
    subjects = further_subjects(EvaluateSettings(task=("builtin:everyday",), measure_instructions=1))
    (facts,) = [subject for subject in subjects if subject.name == "builtin:facts"]
    assert (facts.role, len(facts.examples)) == ("capability", 120)


def test_the_sentence_on_facts_says_whether_a_loss_is_shown():
    def said(low, high):
        found = {"value": -0.1, "low": low, "high": high}
        task = {"before": {"accuracy": 0.6}, "after": {"accuracy": 0.5}, "statistics": {"accuracy": found}}
        return facts_sentence({"tasks": {"builtin:facts": task}})

    assert "0.600 before, 0.500 after" in said(-0.2, -0.01)
    assert "a loss is shown" in said(-0.2, -0.01)
    assert "no change is shown" in said(-0.2, 0.0)
    assert "no interval" in said(None, None)
    assert facts_sentence({"tasks": {}}) is None
    assert facts_sentence({"tasks": {"builtin:facts": {"before": {"accuracy": 0.6}}}}) is None
