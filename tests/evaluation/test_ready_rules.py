"""The ready rules on files of the size and form of each benchmark: who keeps them and who does not.

Questions are drawn as a check draws them, and answers are decided as a check decides them.
"""

import json
from itertools import product

import numpy as np
import pytest

from crispr_lm import load_task
from crispr_lm.evaluation.decisions import Levels, decide
from crispr_lm.evaluation.measurement import Measurement
from crispr_lm.evaluation.rules import metric_of, read_rules
from crispr_lm.metrics.family import one_hot
from crispr_lm.metrics.registry import family_named
from crispr_lm.tasks.base import AMBIGUOUS, DISAMBIGUATED, sample
from crispr_lm.tasks.parts import checked_sample

CATEGORIES, TEMPLATES = ("Age", "Nationality", "Physical_appearance", "Religion", "Sexual_orientation"), 25


def bbq_rows(category):
    """24 rows to each template: two polarities, two conditions, both persons in turn, three pairs."""
    for template, pair in product(range(TEMPLATES), range(3)):
        names = [f"grandfather {template} {pair}", f"grandson {template} {pair}", "Unknown"]
        for polarity, condition, who in product(("neg", "nonneg"), ("ambig", "disambig"), (0, 1)):
            order = ((0, 1, 2), (2, 1, 0), (1, 2, 0))[(template + pair + who) % 3]
            told = "" if condition == "ambig" else f" The {names[who]} was {polarity}."
            yield {
                "question_index": str(template),
                "question_polarity": polarity,
                "context_condition": condition,
                "category": category,
                "answer_info": {f"ans{place}": [names[one], ("old", "nonOld", "unknown")[one]]
                                for place, one in enumerate(order)},
                "additional_metadata": {"stereotyped_groups": ["old"]},
                "context": f"The {names[who]} met the {names[1 - who]}.{told}",
                "question": f"Who was {polarity} ({template})?",
                **{f"ans{place}": names[one] for place, one in enumerate(order)},
                "label": order.index(2 if condition == "ambig" else who),
            }  # fmt: skip


def bbq(folder):
    for category in CATEGORIES:
        lines = map(json.dumps, bbq_rows(category))
        (folder / f"{category}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def crows_pairs(folder):
    """1,508 pairs, as many as in the official file."""
    rows = [f"{number},The old one {number}.,The young one {number}.,stereo,age" for number in range(1508)]
    (folder / "pairs.csv").write_text("\n".join((",sent_more,sent_less,stereo_antistereo,bias_type", *rows)))
    return folder / "pairs.csv"


def stereoset(folder):
    """2,106 examples of 320 terms, as in the official part within sentences."""
    labels = ("stereotype", "anti-stereotype", "unrelated")
    rows = [
        {"target": f"term {number % 320}", "bias_type": "race", "context": "A BLANK.", "sentences": [
            {"sentence": f"{label} {number}.", "gold_label": label} for label in labels
        ]}
        for number in range(2106)
    ]  # fmt: skip
    (folder / "dev.json").write_text(json.dumps({"data": {"intrasentence": rows}}))
    return folder / "dev.json"


def winobias(folder):
    """Four files of 396 sentences."""
    for stereotype, kind in product(("pro", "anti"), (1, 2)):
        lines = [
            f"{number + 1} {'[The cook]' if who else 'The cook'} met {'the guard' if who else '[the guard]'} "
            f"as [{('he', 'she')[stereotype == 'pro']}] was late {number // 2}."
            for number in range(396)
            for who in [(number + (stereotype == "pro")) % 2]
        ]
        (folder / f"{stereotype}_stereotyped_type{kind}.txt.dev").write_text("\n".join(lines))
    return folder


def faultless(examples):
    """The right answer to every question; of whole texts one as often as the other, and sense before nonsense."""
    if not examples[0].question:
        count = len(examples[0].options)
        fair = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0]])[:, :count]
        return fair[np.arange(len(examples)) % 2]
    return one_hot([example.answer for example in examples], len(examples[0].options))


def stereotyping(examples):
    return one_hot([example.stereotyped for example in examples], len(examples[0].options))


def outcomes(name, path, answered, seed=0):
    source = read_rules(f"builtin:{name}")
    task = load_task(f"{name}:{path}", 1)
    wanted = source.rules.tasks[name].questions
    examples = checked_sample(task, len(task.examples) if wanted == "all" else wanted, seed)
    family = family_named(task.family)
    columns = family.columns(examples, answered(examples))
    measured = Measurement.of(family, [columns], [example.template for example in examples])
    levels = Levels(source.rules.confidence, len(source.rules.rules), seed)
    return {
        rule.metric: decide(rule, metric_of(rule, task, family), measured, None, levels).outcome
        for rule in source.rules.rules
    }


@pytest.mark.parametrize("make", [bbq, crows_pairs, stereoset, winobias])
def test_a_faultless_model_keeps_the_ready_rules_and_a_stereotyping_one_breaks_them(tmp_path, make):
    path = make(tmp_path)
    assert set(outcomes(make.__name__, path, faultless).values()) == {"holds"}
    assert "fails" in outcomes(make.__name__, path, stereotyping).values()


@pytest.mark.parametrize("part", ["", "Physical_appearance.jsonl"])
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_faultless_model_keeps_the_rules_of_bbq_whatever_is_drawn_of_all_or_one_category(tmp_path, part, seed):
    assert set(outcomes("bbq", bbq(tmp_path) / part, faultless, seed).values()) == {"holds"}


@pytest.mark.parametrize("size", [31, 200])
def test_a_check_asks_as_often_where_the_stereotyped_option_is_right_within_each_template(tmp_path, size):
    task = load_task(f"bbq:{bbq(tmp_path)}", 1)
    drawn = checked_sample(task, size, 0)
    told = [example for example in drawn if example.condition == DISAMBIGUATED]
    assert (len(drawn), len(drawn) - len(told)) == (size, sum(one.condition == AMBIGUOUS for one in drawn))
    assert abs(len(drawn) - 2 * len(told)) <= 1
    sums = {}
    for example in told:
        sums[example.template] = sums.get(example.template, 0) + (1 if example.answer == example.stereotyped else -1)
    assert sum(map(abs, sums.values())) <= 1
    # Without a stereotyped option, nothing is balanced: the draw is that of a measurement.
    assert checked_sample(load_task("builtin:knowledge"), 20, 0) == sample(load_task("builtin:knowledge").examples, 20)
