"""Splits that no near-copy crosses, and samples that are balanced."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from crispr_lm import Example, InputError, Task, load_task
from crispr_lm.tasks.task import sample

DATA = Path(__file__).parents[3] / "shared" / "data" / "bbq"


def question(template, condition="ambiguous", polarity="negative", category="c"):
    return Example("", "Who?", ("a", "b"), 0, template, condition, category=category, polarity=polarity)


def task_of(templates, copies=4, categories=1):
    examples = [
        question(f"c{category}/{template}", category=f"c{category}")
        for category in range(categories)
        for template in range(templates)
        for _ in range(copies)
    ]
    return Task("t", tuple(examples), ("Answer.",))


@pytest.mark.parametrize(("templates", "categories"), [(3, 1), (7, 1), (25, 2), (4, 5), (1, 3)])
def test_parts_are_disjoint_by_template_and_cover_everything(templates, categories):
    task = task_of(templates, categories=categories)
    parts = task.split(seed=1)
    of_part = [{example.template for example in part} for part in parts]
    assert all(of_part)
    assert sum(map(len, of_part)) == len(set.union(*of_part)) == templates * categories
    assert sum(map(len, parts)) == len(task.examples)
    assert max(map(len, of_part)) - min(map(len, of_part)) <= 1


def test_every_part_sees_every_category():
    parts = task_of(9, categories=4).split()
    for part in parts:
        assert Counter(example.category for example in part) == {f"c{number}": 12 for number in range(4)}


def test_the_same_seed_gives_the_same_split_and_another_one_another():
    task = task_of(25)
    assert task.split(3) == task.split(3)
    assert task.split(3) != task.split(4)


def test_too_few_templates_can_not_be_split():
    with pytest.raises(InputError, match="fewer than 3 templates"):
        task_of(2).split()


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
def test_no_near_copy_crosses_in_the_official_files():
    task = load_task(f"bbq:{DATA}")
    sides = defaultdict(set)
    files = {}
    for side, part in zip(("fit", "choose", "report"), task.split(0), strict=True):
        for example in part:
            path, number = example.source.rsplit(":", 1)
            if path not in files:
                files[path] = Path(path).read_text(encoding="utf-8").splitlines()
            raw = json.loads(files[path][int(number) - 1])
            sides[raw["category"], raw["question_index"]].add(side)
    assert len(sides) == 125
    assert all(len(of_template) == 1 for of_template in sides.values())


def test_a_sample_is_balanced_over_conditions_templates_and_polarities():
    examples = [
        question(f"t{template}", condition, polarity)
        for template in range(6)
        for condition in ("ambiguous", "disambiguated")
        for polarity in ("negative", "nonnegative")
        for _ in range(10 * (template + 1))
    ]
    drawn = sample(examples, 24, seed=0)
    counts = Counter((example.condition, example.template, example.polarity) for example in drawn)
    assert len(counts) == 24
    drawn = sample(examples, 13, seed=0)
    assert abs(sum(example.condition == "ambiguous" for example in drawn) - 6.5) == 0.5


def test_a_sample_keeps_the_order_and_depends_on_the_seed_alone():
    examples = [question(f"t{number}") for number in range(40)]
    drawn = sample(examples, 10, seed=5)
    assert drawn == sample(examples, 10, seed=5)
    assert drawn != sample(examples, 10, seed=6)
    numbers = [int(example.template[1:]) for example in drawn]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10


def test_a_sample_larger_than_what_there_is_is_all_of_it():
    examples = [question("t")] * 3
    assert sample(examples, 5, seed=0) == tuple(examples)


@pytest.mark.parametrize(("options", "answer"), [(("a",), 0), (("a", "b"), 2), (("a", "b"), -1)])
def test_an_example_that_makes_no_sense_is_refused(options, answer):
    with pytest.raises(InputError):
        Example("", "Who?", options, answer, "t")
