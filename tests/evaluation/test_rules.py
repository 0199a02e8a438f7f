"""Rules: what a file may say, that no direction is rewarded wrongly, and how a rule is decided."""

import math

import numpy as np
import pytest

from crispr_lm import InputError, load_task
from crispr_lm.evaluation.decisions import Levels, decide
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.rules import FITTING, Rule, builtin_rules, metric_of, read_rules, task_names
from crispr_lm.metrics.bounds import figure, gain, templates_needed, unseen_share
from crispr_lm.metrics.family import Metric, MetricFamily, one_hot, ratio
from crispr_lm.metrics.registry import FAMILIES, family_named
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, Example
from crispr_lm.tasks.registry import KINDS

SHARE = Metric("share", "Share", ("right", "asked"), ratio)
FAMILY = MetricFamily(name="test", metrics=(SHARE,), headline="share")
AT_LEAST = Rule(metric="own.share", at_least=0.9)


def measured(right, clusters=None):
    columns = {"right": np.array(right, dtype=float), "asked": np.ones(len(right))}
    return Measurement.of(FAMILY, [columns], clusters or list(range(len(right))))


def decided(rule, right, baseline=None, rules=1, clusters=None):
    of_baseline = None if baseline is None else measured(baseline, clusters)
    return decide(rule, SHARE, measured(right, clusters), of_baseline, Levels(0.95, rules))


def test_right_answers_alone_do_not_hold_until_there_are_as_many_as_clopper_and_pearson_need():
    assert decided(AT_LEAST, [1] * 28).outcome == "undecided"  # 0.05^(1/28) = 0.8985
    found = decided(AT_LEAST, [1] * 29)
    assert found.outcome == "holds"
    assert found.low == pytest.approx(0.05 ** (1 / 29))
    assert decided(AT_LEAST, [1] * 28).templates_needed == 29
    # Near-copies are no further evidence.
    assert decided(AT_LEAST, [1] * 60, clusters=[number // 3 for number in range(60)]).outcome == "undecided"


def test_outcomes_and_how_many_templates_would_decide():
    assert decided(AT_LEAST, [1, 0] * 50).outcome == "fails"
    found = decided(AT_LEAST, [1] * 36 + [0] * 4)
    assert (found.outcome, found.templates_needed) == ("undecided", None)
    assert "at the limit" in found.reason
    found = decided(AT_LEAST, [1] * 38 + [0] * 2)
    assert found.outcome == "undecided"
    # Of the same share with as many templates it holds.
    share = found.templates_needed // 20
    assert decided(AT_LEAST, ([1] * 19 + [0]) * (share + 1)).outcome == "holds"
    assert decided(AT_LEAST, [1] * 5).reason == "an interval needs at least 10 templates"


def test_a_loss_is_decided_in_pairs_and_with_the_number_of_rules():
    rule = Rule(metric="own.share", loses_at_most=0.1)
    answers = [1, 0, 1, 1] * 20
    found = decided(rule, answers, answers)
    assert (found.outcome, found.compared) == ("holds", 0)
    assert found.low == pytest.approx(-unseen_share(80, 0.95))
    assert decided(rule, [0] * 80, answers).outcome == "fails"
    worse = [0 if number % 5 == 0 else value for number, value in enumerate(answers)]
    alone, of_many = decided(rule, worse, answers), decided(rule, worse, answers, rules=20)
    assert alone.compared == pytest.approx(of_many.compared)
    assert Levels(0.95, 20).failing == pytest.approx(0.9975)
    with pytest.raises(ValueError, match="baseline"):
        decided(rule, answers)


def test_a_target_is_lost_on_both_sides():
    target = Metric("share", "Share", ("right", "asked"), ratio, better="target", target=0.5)
    columns = {share: measured([1] * share + [0] * (100 - share)).columns for share in (20, 50, 80)}
    clusters = list(range(100))
    assert gain(columns[50], columns[80], target, clusters).value == pytest.approx(-0.3)
    assert gain(columns[50], columns[20], target, clusters).value == pytest.approx(-0.3)
    assert gain(columns[20], columns[80], target, clusters).value == pytest.approx(0)
    assert Rule(metric="own.share", within=0.1).allowed(target) == (0.4, 0.6)
    assert figure(columns[80], target, clusters).bounds(0.95)[0] == pytest.approx(0.73, abs=0.02)


def test_what_can_not_be_known_needs_no_number():
    undefined = figure([{"right": np.zeros(20), "asked": np.zeros(20)}], SHARE, list(range(20)))
    assert (undefined.value, undefined.clusters, undefined.bounds(0.95)) == (None, 0, (None, None))
    assert templates_needed(undefined, 0.1, 0.95) is None


def written(tmp_path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return str(path)


TASK = '[tasks.own]\ntask = "builtin:everyday"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("confidence =", "no TOML"),
        ("", "tasks: is missing; see docs/gate.md"),
        (TASK, "rules: is missing"),
        ("rules = []\n" + TASK, "rules: there must be at least one"),
        (TASK + '[rules]\nmetric = "own.accuracy"\nat_least = 1', r"rules: write each rule below a line \[\[rules"),
        ('[tasks]\ntask = "bbq:x"\n[[rules]]\nmetric = "bbq.accuracy"\nat_least = 1', r"tasks task: must be a table"),
        ('tasks = 1\n[[rules]]\nmetric = "bbq.accuracy"\nat_least = 1', "tasks: must be tables"),
        (TASK + '[[rules]]\nmetric = "own.accuracy"', "exactly one of at_least, at_most, within, loses_at_most"),
        (
            TASK + '[[rules]]\nmetric = "own.accuracy"\nat_leest = 1',
            "rule 1 at_leest: there is no such field.*'at_least'",
        ),
        (
            TASK + '[[rules]]\nmetric = "own.accuracy"\nat_least = "x"',
            "rule 1 at_least: input should be a valid number",
        ),
        (
            TASK + '[[rules]]\nmetric = "accuracy"\nat_least = 1',
            "rule 1 metric: write the name of a task in the file, a dot and a metric",
        ),
        (TASK + '[[rules]]\nmetric = "owm.accuracy"\nat_least = 1', "task 'owm'.*did you mean 'own'"),
        (TASK.replace("task =", "tusk =") + '[[rules]]\nmetric = "own.accuracy"\nat_least = 1', "own"),
        ("confidence = 1.0\n" + TASK + '[[rules]]\nmetric = "own.accuracy"\nat_least = 1', "confidence: .*less than 1"),
        *(
            (
                TASK + f'[[rules]]\nmetric = "own.accuracy"\nat_least = {value}',
                "at_least: input should be a valid number",
            )
            for value in ('"0.9"', "true")
        ),
        (
            TASK + "questions = true\n" + '[[rules]]\nmetric = "own.accuracy"\nat_least = 1',
            "own questions: input should",
        ),
        (
            TASK + "questions = 0\n" + '[[rules]]\nmetric = "own.accuracy"\nat_least = 1',
            "own questions: input should be 'all' or greater than or equal to 1, not '0'",
        ),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_with_its_place(tmp_path, text, sentence):
    with pytest.raises(InputError, match=rf"(?s)rules.toml.*{sentence}"):
        read_rules(written(tmp_path, text))


def test_unknown_metrics_and_wrong_directions_are_refused_with_what_is_right():
    task = load_task("builtin:everyday")
    family = family_named("question_answering")

    def refused(**given):
        with pytest.raises(InputError) as error:
            metric_of(Rule(**given), task, family)
        return str(error.value)

    assert "did you mean 'accuracy_ambiguous'" in refused(metric="own.acuracy_ambiguous", at_least=1)
    assert "write 'within'" in refused(metric="own.bias_score_ambiguous", at_least=0.1)
    assert "write 'at_most'" in refused(metric="own.unknown_rate_disambiguated", at_least=0.1)
    assert "write 'at_least'" in refused(metric="own.abstention_gap", at_most=0.1)
    crows = family_named("crows_pairs")
    with pytest.raises(InputError, match=r"nearer to 0.5 is better, so 'at_least' would reward the wrong direction"):
        metric_of(Rule(metric="own.stereotype_preference", at_least=0.9), task, crows)


@pytest.mark.parametrize(
    ("family", "metric", "limit", "sentence"),
    [
        ("question_answering", "accuracy", {"at_least": 90}, "can never hold; give a number from 0 to 1, 0 excluded"),
        ("question_answering", "accuracy", {"at_least": -5}, "can never fail"),
        ("question_answering", "accuracy", {"at_least": 0}, "can never fail"),
        ("question_answering", "accuracy", {"loses_at_most": 5}, "can never fail; give a number from 0 to 1, 1 excl"),
        ("question_answering", "abstention_gap", {"loses_at_most": 2}, "can never fail; give a number from 0 to 2"),
        ("question_answering", "unknown_rate_disambiguated", {"at_most": 1}, "can never fail"),
        ("question_answering", "unknown_rate_disambiguated", {"at_most": -0.1}, "can never hold"),
        ("question_answering", "bias_score_ambiguous", {"within": 10}, "can never fail; give a number from 0 to 1"),
        ("crows_pairs", "stereotype_preference", {"within": 0.5}, "can never fail; give a number from 0 to 0.5"),
        ("crows_pairs", "stereotype_preference", {"loses_at_most": 0.5}, "can never fail"),
    ],
)
def test_a_limit_that_says_nothing_is_refused(family, metric, limit, sentence):
    with pytest.raises(InputError, match=sentence):
        metric_of(Rule(metric=f"own.{metric}", **limit), load_task("builtin:everyday"), family_named(family))


def test_limits_inside_a_metrics_extent_are_taken():
    task = load_task("builtin:everyday")
    for family, metric, limit in (
        ("question_answering", "accuracy", {"at_least": 1}),
        ("question_answering", "abstention_gap", {"at_least": -0.5}),
        ("question_answering", "abstention_gap", {"loses_at_most": 1.5}),
        ("crows_pairs", "stereotype_preference", {"within": 0.1}),
        ("crows_pairs", "likelihood_difference", {"at_most": 50}),  # has no extent
    ):
        rule = Rule(metric=f"own.{metric}", **limit)
        assert metric_of(rule, task, family_named(family)).name == metric


def test_data_comes_from_the_file_or_the_command_line(tmp_path):
    source = read_rules("builtin:bbq")
    assert task_names(source, ["bbq:some/where"]) == {"bbq": "bbq:some/where"}
    for given in ([], ["choices:x"], ["bbq:a", "bbq:b"]):
        with pytest.raises(InputError, match="give --task bbq:PATH"):
            task_names(source, given)
    with pytest.raises(InputError, match="no task takes its data from --task choices:x"):
        task_names(source, ["bbq:a", "choices:x"])
    text = '[tasks.own]\ntask = "choices:mine.jsonl"\n[[rules]]\nmetric = "own.accuracy"\nat_least = 0.5\n'
    assert task_names(read_rules(written(tmp_path, text)), []) == {"own": f"choices:{tmp_path / 'mine.jsonl'}"}
    with pytest.raises(InputError, match=r"no rules builtin:bbk.*'bbq'"):
        read_rules("builtin:bbk")


@pytest.mark.parametrize("name", builtin_rules())
def test_rules_that_come_along_have_the_right_direction(name):
    source = read_rules(f"builtin:{name}")
    for rule in source.rules.rules:
        kind = source.rules.tasks[rule.task].task.rstrip(":")
        known = {metric.name: metric for metric in FAMILIES[KINDS[kind].family].metrics}
        fitting = "loses_at_most" if name.endswith("-baseline") else FITTING[known[rule.metric_name].better]
        assert rule.form == fitting, rule


def question(number, condition):
    golden = 2 if condition == AMBIGUOUS else number % 2
    return Example("", "?", ("a", "b", "unknown"), golden, f"t{number % 120}", condition, 2, 0)


BLIND = {
    "always the stereotype": lambda examples: [0] * len(examples),
    "always against it": lambda examples: [1] * len(examples),
    "always unknown": lambda examples: [2] * len(examples),
    "at random": lambda examples: np.random.default_rng(0).integers(0, 3, len(examples)).tolist(),
}


def outcomes(name, family, examples, scores):
    source = read_rules(f"builtin:{name}")
    found = Measurement.of(family, [family.columns(examples, scores)], [example.template for example in examples])
    known = {metric.name: metric for metric in family.metrics}
    levels = Levels(source.rules.confidence, len(source.rules.rules))
    return {decide(rule, known[rule.metric_name], found, None, levels).outcome for rule in source.rules.rules}


def test_blind_models_break_the_rules_of_bbq_and_a_right_one_keeps_them():
    examples = [question(number, condition) for number in range(120) for condition in (AMBIGUOUS, DISAMBIGUATED)]
    family = FAMILIES["question_answering"]
    for answer in BLIND.values():
        assert "fails" in outcomes("bbq", family, examples, one_hot(answer(examples), 3))
    right = one_hot([example.answer for example in examples], 3)
    assert outcomes("bbq", family, examples, right) == {"holds"}


def test_always_the_stereotype_breaks_the_rules_of_the_other_benchmarks():
    pairs = [Example("", "", ("more", "less"), 1, f"t{number}", stereotyped=0) for number in range(300)]
    crows = FAMILIES["crows_pairs"]
    assert outcomes("crows_pairs", crows, pairs, one_hot([0] * 300, 2)) == {"fails"}
    assert outcomes("crows_pairs", crows, pairs, one_hot([1] * 300, 2)) == {"fails"}  # nor is the opposite better
    assert outcomes("crows_pairs", crows, pairs, one_hot([0, 1] * 150, 2)) == {"holds"}
    triples = [Example("", "", ("s", "a", "unrelated"), 0, f"t{number}", stereotyped=0) for number in range(300)]
    stereoset = FAMILIES["stereoset"]
    always, fair = np.tile([2.0, 1.0, 0.0], (300, 1)), np.tile([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0]], (150, 1))
    assert "fails" in outcomes("stereoset", stereoset, triples, always)
    assert outcomes("stereoset", stereoset, triples, fair) == {"holds"}
    coreference = [
        Example(
            "", "?", ("x", "y"), number % 2, f"t{number // 2}", facets=(("stereotype", ("pro", "anti")[number % 2]),)
        )
        for number in range(600)
    ]
    winobias = FAMILIES["winobias"]
    right = one_hot([example.answer for example in coreference], 2)
    assert outcomes("winobias", winobias, coreference, one_hot([0] * 600, 2)) == {"fails"}
    assert outcomes("winobias", winobias, coreference, right) == {"holds"}


def test_the_package_holds_the_rules():
    assert {"bbq", "crows_pairs", "stereoset", "winobias"} <= set(builtin_rules())
    assert math.isclose(read_rules("builtin:bbq").rules.confidence, 0.95)
