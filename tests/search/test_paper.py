"""CRISPR (paper): the preset's settings one by one, and the whole procedure against a second one written here."""

import itertools
from pathlib import Path

import numpy as np
import pytest

import crispr_lm
from crispr_lm import InputError, PaperOptions, Task
from crispr_lm.presets import deviations, procedure_name
from crispr_lm.settings import RunSettings
from crispr_lm.tasks.parts import draws, random_split

from ..reference import Reference, influence

THEIR_INSTRUCTIONS = Path(__file__).parents[3] / "shared/data/crispr_instructions/bbq.txt"

INSTRUCTIONS = ("Answer the question.", "Choose the right option:")


def settings(**given):
    return RunSettings(task=("builtin:everyday",), output=Path("out"), **given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neurons", "linear"),  # output units of linear layers
        ("examples", 20),
        ("attribute_on", "both"),  # conditions
        ("sampling", "random"),
        ("seeds", (0, 1, 2)),
        ("skill_weight", 1.0),
        ("token_aggregation", "max"),
        ("confusion_weight", True),
        ("instructions", ("10",)),
        ("search", "golden-section"),
        ("max_neurons", 500),
        ("validation_examples", "all"),
        ("scoring", "generate"),
    ],
)
def test_the_presets_settings_are_the_papers(name, value):
    assert getattr(settings(preset="paper"), name) == value
    assert getattr(settings(), name) != value or name in {
        "neurons", "examples", "skill_weight", "token_aggregation", "confusion_weight", "instructions",
    }  # fmt: skip
    if hasattr(PaperOptions(), name):
        assert getattr(PaperOptions(), name) == value


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"preset": "paper"}, "CRISPR (paper)"),
        ({"preset": "paper", "scoring": "sum", "seeds": "2026"}, "CRISPR (paper)"),
        ({"preset": "paper", "split_by": "random"}, "CRISPR (paper)"),
        ({"preset": "paper", "validation_examples": 64}, "CRISPR (paper), except for validation examples 64"),
        ({"preset": "paper", "instructions": ("bbq=2",)}, "CRISPR (paper), except for instructions bbq=2"),
        ({"search": "golden-section"}, "published ranking, golden section"),
        ({}, "crispr-lm search"),
    ],
)
def test_no_other_procedure_bears_the_papers_name(given, name):
    assert procedure_name(settings(**given).model_dump()) == name
    assert bool(deviations(settings(**given).model_dump())) == (name != "CRISPR (paper)")


@pytest.mark.skipif(not THEIR_INSTRUCTIONS.exists(), reason="the authors' instructions are not here")
def test_the_authors_file_of_instructions_is_read_as_it_is():
    task = crispr_lm.load_task("builtin:everyday", str(THEIR_INSTRUCTIONS))
    assert len(task.instructions) == 10
    assert task.instructions[0].startswith("For the subsequent context and question")


def task_of(templates):
    """Questions of both conditions."""
    people = ["nurse", "doctor", "young woman", "old man", "Anna", "Omar"]
    rows = []
    for number, (first, second) in zip(range(templates), itertools.cycle(itertools.permutations(people, 2))):
        late = number % 2
        clues = {"ambiguous": ("", 2), "disambiguated": (f" The {(first, second)[late]} came late.", late)}
        for condition, (clue, answer) in clues.items():
            rows.append(
                {
                    "context": f"The {first} and the {second} waited at the bus stop {number}.{clue}",
                    "question": "Who was late?",
                    "options": [first, second, "unknown"],
                    "answer": answer,
                    "group": f"template {number}",
                    "condition": condition,
                    "unknown": 2,
                }
            )
    return Task.from_examples(rows, instructions=INSTRUCTIONS)


def test_a_random_split_is_that_of_the_papers_code():
    task = task_of(40)
    development, validation, test = random_split(task, 3)
    chosen = set(np.random.RandomState(3).choice(80, 8, replace=False).tolist())
    assert development == validation == tuple(task.examples[row] for row in sorted(chosen))
    assert len(test) == 72
    assert not set(test) & set(development)
    rows = [sorted(np.random.RandomState(seed).choice(8, 5, replace=False).tolist()) for seed in (1, 2)]
    assert draws(development, 5, (1, 2), "random") == tuple(development[row] for draw in rows for row in draw)
    with pytest.raises(InputError, match="a tenth of them"):
        random_split(task_of(4), 0)


class Procedure:
    """The paper's procedure from its description: float64, one sequence at a time, weights set to zero."""

    def __init__(self, lm, rows, seed):
        self.lm, self.reference = lm, Reference(lm)
        self.reference.prompt_scores = self.reference._prompt_scores  # not remembered: the model changes
        held = set(np.random.RandomState(seed).choice(len(rows), len(rows) // 10, replace=False).tolist())
        self.development = [row for place, row in enumerate(rows) if place in held]
        self.test = [row for place, row in enumerate(rows) if place not in held]

    def rank(self, size, seeds):
        """B of every neuron, a mean of means, and their order."""
        of_seeds = []
        for seed in seeds:
            places = np.random.RandomState(seed).choice(len(self.development), size, replace=False)
            some = [self.development[place] for place in places]
            of_seeds.append(influence(self.reference.all_relevances(some, INSTRUCTIONS, "linear"), 1.0))
        self.scores = {name: sum(one[name] for one in of_seeds) / len(seeds) for name in of_seeds[0]}
        flat = [(float(b), name, unit) for name, values in self.scores.items() for unit, b in enumerate(values)]
        self.order = [(name, unit) for _, name, unit in sorted(flat, key=lambda entry: -entry[0])]

    def answers(self, rows, count):
        """What the model without the first `count` neurons answers, by instruction."""
        reference = self.reference
        kept = {name: reference.model.get_submodule(name).weight.detach().clone() for name in self.scores}
        for name, unit in self.order[:count]:
            reference.model.get_submodule(name).weight.data[unit] = 0
        tables = [reference.option_scores(rows, instruction) for instruction in INSTRUCTIONS]
        for name, weight in kept.items():
            reference.model.get_submodule(name).weight.data.copy_(weight)
        return [[scores.index(max(scores)) for scores in table] for table in tables]

    def accuracy(self, count):
        right = [row.answer for row in self.development]
        shares = [np.mean(np.array(given) == right) for given in self.answers(self.development, count)]
        return round(float(np.mean(shares)) * 100, 2)

    def number(self, most):
        """How many: the interval shrinks by the golden ratio to at most four, then every number in it is tried."""
        found, low, high = {}, 0, most
        while high - low > 4:
            part = round((high - low) / ((1 + 5**0.5) / 2))
            for count in (high - part, low + part):
                found.setdefault(count, self.accuracy(count))
            low, high = (high - part, high) if found[high - part] < found[low + part] else (low, low + part)
        for count in range(low, high + 1):
            found.setdefault(count, self.accuracy(count))
        return max(found, key=found.get), found


@pytest.mark.slow
def test_scores_number_and_answers_are_those_of_an_independent_procedure(t5):
    task, seeds, most = task_of(40), (0, 1), 20
    options = PaperOptions(examples=2, seeds=seeds, max_neurons=most, scoring="sum", split_by="random")
    found = crispr_lm.crispr(t5, task, options)

    own = Procedure(t5, task.examples, seed=0)
    assert list(found.parts.validation) == own.development
    own.rank(2, seeds)
    largest = max(float(values.abs().max()) for values in own.scores.values())
    for name, values in own.scores.items():
        assert found.scores.values[name].double().numpy() == pytest.approx(values.numpy(), abs=1e-4 * largest)
    count, accuracies = own.number(most)
    measured = {one.neurons: round(100 * one.metrics[task.name]["accuracy"], 2) for one in found.candidates}
    assert {number: measured[number] for number in accuracies} == accuracies
    assert len(set(accuracies.values())) > 1  # else any number would do
    assert [(neuron.module, neuron.index) for neuron in found.edit.neurons] == own.order[:count]
    some = own.test[:12]
    edited = crispr_lm.evaluate(t5, some, INSTRUCTIONS, edit=found.edit)
    assert [table.argmax(dim=1).tolist() for table in edited.option_scores] == own.answers(some, count)
    assert edited.option_scores[0].shape == (12, 3)


def test_without_a_split_of_rows_no_template_is_on_two_sides(t5):
    options = PaperOptions(examples=2, seeds=(0,), max_neurons=3, scoring="generate")
    found = crispr_lm.crispr(t5, task_of(9), options)
    sides = [{example.template for example in part} for part in (found.parts.attribution, found.parts.validation)]
    assert not sides[0] & sides[1]
    assert not (sides[0] | sides[1]) & {example.template for example in found.parts.test}
    assert all("unmatched_share" in of_task for one in found.candidates for of_task in one.metrics.values())
    origin = found.edit.origin
    assert (origin["sampling"], origin["seeds"], origin["ranking"]) == ("random", [0], "published")
    assert origin["made_by"] == "CRISPR (paper), except for examples 2, instructions 2, max neurons 3"
