"""Splits that no near-copy crosses, and samples that are balanced."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from crispr_lm import Example, InputError, Task, load_task
from crispr_lm.tasks.base import read_instructions, sample, sample_templates, template_hash, template_hashes

DATA = Path(__file__).parents[3] / "shared" / "data" / "bbq"
OFFICIAL = ("Age", "Nationality", "Physical_appearance", "Religion", "Sexual_orientation")


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


def parts_of(names, seed=0):
    """Template to the number of its part."""
    parts = Task("t", tuple(map(question, names)), ("Answer.",)).split(seed)
    return {example.template: number for number, part in enumerate(parts) for example in part}


@pytest.mark.parametrize("seed", range(20))
def test_a_further_template_moves_no_other_one(seed):
    names = [f"group {number}" for number in range(36)]
    before = parts_of(names, seed)
    for further in ("group 36", "another", "", "Ä/1"):
        after = parts_of([further, *names], seed)
        assert {name: after[name] for name in names} == before
    # Nor do many, nor does it matter which are read together: a file alone has the parts it has beside others.
    many = parts_of([f"c{number}" for number in range(500)] + names, seed)
    assert {name: many[name] for name in names} == before


def test_parts_are_a_third_each_in_expectation_and_independent_of_other_seeds():
    names = [str(number) for number in range(9000)]
    first, second = parts_of(names, 0), parts_of(names, 1)
    # Binomial: 3,000 with a standard deviation of 45, and 1,000 with one of 30.
    assert all(abs(count - 3000) < 200 for count in Counter(first.values()).values())
    pairs = Counter((first[name], second[name]) for name in names)
    assert len(pairs) == 9
    assert all(abs(count - 1000) < 130 for count in pairs.values())


@pytest.mark.parametrize("templates", [3, 4, 5, 8, 12])
def test_no_part_is_ever_empty_and_a_further_template_moves_at_most_two_others(templates):
    moved = Counter()
    for seed in range(200):
        names = [f"{seed}/{number}" for number in range(templates + 1)]
        before, after = parts_of(names[:-1], seed), parts_of(names, seed)
        assert set(before.values()) == set(after.values()) == {0, 1, 2}
        moved[sum(before[name] != after[name] for name in before)] += 1
    assert set(moved) <= {0, 1, 2}
    # It moves one only where a part would be empty: of 12 templates that is 3 * (2/3)^12 of the seeds, 2.3 %.
    assert templates < 12 or moved[0] >= 190


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
    for side, part in zip(("attribution", "validation", "test"), task.split(0), strict=True):
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


def test_every_part_keeps_the_order_of_the_task():
    examples = tuple(Example(str(number), "Who?", ("a", "b"), 0, f"t{number % 7}") for number in range(50))
    for part in Task("t", examples, ("Answer.",)).split(2):
        places = [int(example.context) for example in part]
        assert places == sorted(places)


def test_the_side_of_a_template_does_not_depend_on_the_order_of_the_examples():
    task = task_of(9, categories=3)
    turned = Task(task.name, task.examples[::-1], task.instructions)
    for part, other in zip(task.split(1), turned.split(1), strict=True):
        assert {example.template for example in part} == {example.template for example in other}


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
def test_an_official_file_has_the_same_parts_alone_and_in_its_folder():
    alone, together = load_task(f"bbq:{DATA / 'Religion.jsonl'}").split(3), load_task(f"bbq:{DATA}").split(3)
    for part, of_all in zip(alone, together, strict=True):
        assert part == tuple(example for example in of_all if example.category == "Religion")


def varied(rows):
    """Rows of ten templates, two conditions and two polarities, no two with one text."""
    conditions, polarities = ("ambiguous", "disambiguated", "ambiguous"), ("negative", "nonnegative")
    return [
        replace(question(f"t{row % 10}", conditions[row % 3], polarities[row % 7 % 2]), context=str(row))
        for row in rows
    ]


@pytest.mark.parametrize("size", [1, 7, 20, 45, 90])
def test_a_further_row_takes_the_place_of_one_other_at_most(size):
    rows = varied(range(100))
    for number, seed in product(range(0, 100, 7), range(3)):
        with_it, without = sample(rows, size, seed), sample(rows[:number] + rows[number + 1 :], size, seed)
        assert len(set(with_it) - set(without)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_nothing_that_is_drawn(seed):
    rows = varied(range(100))
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert set(sample(rows, 30, seed)) == set(sample(shuffled, 30, seed))
    assert set(sample_templates(rows, 30, seed)) == set(sample_templates(shuffled, 30, seed))


def test_whole_templates_are_drawn_until_there_are_enough_rows():
    rows = varied(range(100))
    drawn = sample_templates(rows, 31, 0)
    assert len(drawn) == 40
    assert len({example.template for example in drawn}) == 4
    # A larger draw holds a smaller one, and another seed draws others.
    assert set(drawn) < set(sample_templates(rows, 60, 0))
    assert len({sample_templates(rows, 31, seed) for seed in range(5)}) > 1


def test_hashes_of_templates_know_them_again_and_do_not_tell_them():
    examples = [question(name) for name in ("Age/1", "Age/2", "Age/1", "Ann \ud800 waited.")]
    hashes = template_hashes(examples)
    assert len(hashes) == 3
    assert all(re.fullmatch("[0-9a-f]{10}", digest) for digest in hashes)
    assert hashes == template_hashes(examples[::-1])
    assert template_hash("Age/1") in hashes
    assert template_hash("Age/3") not in hashes


def test_split_and_sample_are_the_same_in_every_process():
    script = (
        "from crispr_lm.tasks import load_task, sample\n"
        "task = load_task('builtin:everyday')\n"
        "print([sorted({example.template for example in part}) for part in task.split(3)])\n"
        "print([example.source for example in sample(task.examples, 20, 3)])\n"
    )
    package = str(Path(__file__).parents[2] / "src")
    splits = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": package, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert splits[0] == splits[1] != ""


@pytest.mark.parametrize(("templates", "categories"), [(0, 1), (1, 1), (1, 2)])
def test_too_few_templates_over_all_categories_can_not_be_split(templates, categories):
    with pytest.raises(InputError, match="task t has fewer than 3 templates"):
        task_of(templates, copies=9, categories=categories).split()


def test_a_template_in_two_categories_counts_once():
    # Templates A and B, A in both categories: two templates, too few for three parts.
    examples = (question("A", category="x"), question("B", category="x"), question("A", category="y"))
    with pytest.raises(InputError, match="fewer than 3 templates"):
        Task("t", examples, ("Answer.",)).split()


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
@pytest.mark.parametrize("name", OFFICIAL)
def test_each_official_file_is_split_by_template(name):
    path = DATA / f"{name}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    task = load_task(f"bbq:{path}")
    for seed in range(3):
        parts = task.split(seed)
        lines = [{int(example.source.rsplit(":", 1)[1]) for example in part} for part in parts]
        assert sum(map(len, lines)) == len(set.union(*lines)) == len(rows)
        templates = [
            {(rows[line - 1]["category"], rows[line - 1]["question_index"]) for line in side} for side in lines
        ]
        # 25 templates a file, none of them on two sides; the key of the hash was chosen for even parts of these files.
        assert len(set.union(*templates)) == sum(map(len, templates)) == 25
        assert max(map(len, templates)) - min(map(len, templates)) <= (2 if seed == 0 else 5)
        contexts = [{rows[line - 1]["context"] for line in side} for side in lines]
        assert sum(map(len, contexts)) == len(set.union(*contexts))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 2, 7, 20, 33, 60])
def test_a_sample_of_any_size_is_balanced_over_conditions_and_in_them_over_templates(size, seed):
    # Ten templates of very different sizes; the rarest cell has three rows, enough for an even share of 60.
    examples = [
        Example(f"{template}-{condition}-{number}", "Who?", ("a", "b"), 0, f"t{template}", condition)
        for template in range(10)
        for condition in ("ambiguous", "disambiguated")
        for number in range(3 + 4 * template)
    ]
    drawn = sample(examples, size, seed)
    assert len(drawn) == len({example.context for example in drawn}) == size
    of_condition = Counter(example.condition for example in drawn)
    assert abs(of_condition["ambiguous"] - of_condition["disambiguated"]) <= 1
    for condition in ("ambiguous", "disambiguated"):
        shares = [
            sum(example.condition == condition and example.template == f"t{template}" for example in drawn)
            for template in range(10)
        ]
        assert max(shares) - min(shares) <= 1


def test_what_is_rare_is_drawn_whole_and_the_rest_made_up_from_elsewhere():
    examples = [question("t", "ambiguous")] * 2 + [question("t", "disambiguated")] * 30
    assert Counter(example.condition for example in sample(examples, 10, 0)) == {"ambiguous": 2, "disambiguated": 8}


@pytest.mark.skipif(not DATA.exists(), reason="the official BBQ files are not here")
@pytest.mark.parametrize("name", OFFICIAL)
def test_a_sample_of_an_official_file_takes_a_row_of_each_template_before_a_second_one(name):
    examples = load_task(f"bbq:{DATA / name}.jsonl").examples
    cells = Counter((example.condition, example.template) for example in sample(examples, 50, seed=1))
    assert len(cells) == 50  # 2 conditions x 25 templates


def test_instructions_are_read_line_by_line(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("# a comment\n\n  Answer.  \n   # another\nWählen Sie.\n", encoding="utf-8")
    assert read_instructions(path) == ("Answer.", "Wählen Sie.")


def test_a_byte_order_mark_is_no_part_of_an_instruction(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes(b"\xef\xbb\xbf# a comment\nAnswer.\n")
    assert read_instructions(path) == ("Answer.",)
    path.write_bytes(b"\xef\xbb\xbfAnswer.\n")
    assert read_instructions(path) == ("Answer.",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "can't be read"),
        (b"", "holds no instruction"),
        (b"\n  \n# only a comment\n", "holds no instruction"),
        (b"Antworten Sie. \xff\xfe\n", "UTF-8"),
    ],
)
def test_instructions_that_can_not_be_used_are_named(tmp_path, content, said):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"own\.txt") as error:
        read_instructions(path)
    assert said in str(error.value)


def test_a_folder_holds_no_instructions(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_instructions(tmp_path)


@pytest.mark.parametrize("name", ["answer", "unknown", "stereotyped"])
@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_that_is_no_option_is_named(name, index):
    indices = {"answer": 0, name: index}
    with pytest.raises(InputError, match=f"^here:7: {name} is {index}, out of range"):
        Example("", "Who?", ("a", "b"), template="t", source="here:7", **indices)
