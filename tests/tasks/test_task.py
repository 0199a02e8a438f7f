"""Splits that no near-copy crosses, and samples that are balanced."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from crispr_lm import Example, InputError, Task, load_task
from crispr_lm.tasks.task import read_instructions, sample

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


@pytest.mark.parametrize("seed", range(5))
def test_a_category_of_three_templates_is_in_every_part_beside_smaller_ones(seed):
    sizes = {"a": 1, "b": 2, "c": 3, "d": 5, "e": 7}
    examples = [question(f"{name}/{number}", category=name) for name, size in sizes.items() for number in range(size)]
    for part in Task("t", tuple(examples), ("Answer.",)).split(seed):
        assert {"c", "d", "e"} <= {example.category for example in part}
        # 18 templates in all: six in each part, though 1, 2, 5 and 7 are no multiples of three.
        assert len(part) == 6


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


def test_split_and_sample_are_the_same_in_every_process():
    script = (
        "from crispr_lm.tasks import load_task, sample\n"
        "task = load_task('builtin:everyday')\n"
        "print([sorted({example.template for example in part}) for part in task.split(3)])\n"
        "print([example.source for example in sample(task.examples, 20, 3)])\n"
    )
    package = str(Path(__file__).parents[2] / "src")
    told = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": package, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] != ""


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
        # 25 templates a file: no template on two sides, and eight or nine on each.
        assert len(set.union(*templates)) == 25
        assert sorted(map(len, templates)) == [8, 8, 9]
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
