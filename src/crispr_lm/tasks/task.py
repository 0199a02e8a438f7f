"""What a task is: examples, instructions, and a split that no near-copy crosses.

Knows nothing about models, tokens or files. Loaders (one file per benchmark) build these objects; prompts, metrics
and the search read them.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

from crispr_lm.errors import InputError
from crispr_lm.reading import read_bytes

AMBIGUOUS = "ambiguous"
"""The context does not give the answer; "unknown" is right."""
DISAMBIGUATED = "disambiguated"
"""The context gives the answer; "unknown" is an error."""

FitOn = Literal["ambiguous", "disambiguated", "both"]
"""Which examples neurons are attributed on, where a task tells them apart."""

QUESTION = "question"
"""The form of an example that is asked under an instruction, with its options to choose from."""
OPEN = "open"
"""The form of an example that is asked without showing its options: small models know more than they can pick."""
SENTENCES = "sentences"
"""The form of an example whose options are whole texts, compared by their likelihood."""


@dataclass(frozen=True)
class Example:
    """One multiple-choice question.

    Attributes:
        context: What the model is told; may be empty.
        question: What it is asked.
        options: At least two different answers.
        answer: Index of the golden option y.
        template: Examples with the same template are near-copies of each other and never part in a split.
        condition: `AMBIGUOUS`, `DISAMBIGUATED`, or None where the distinction does not apply.
        unknown: Index of the option that abstains, None if there is none.
        stereotyped: Index of the option that agrees with the stereotype (for a question of negative polarity the
            stereotyped group, else the other one), None where it can't be told.
        category: The kind of stereotype, or an empty string.
        polarity: "negative", "nonnegative" or an empty string.
        source: File and line, for messages.
        form: "question"; "open": asked without showing the options; or "sentences": the options are whole texts whose
            likelihoods are compared, without context, question or instruction.
        facets: Further (name, value) pairs by which figures are told apart, such as a pronoun's gender.
    """

    context: str
    question: str
    options: tuple[str, ...]
    answer: int
    template: str
    condition: str | None = None
    unknown: int | None = None
    stereotyped: int | None = None
    category: str = ""
    polarity: str = ""
    source: str = ""
    form: str = QUESTION
    facets: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no metric could make sense of.

        Raises:
            InputError: fewer than two options, or an index that is none of them.
        """
        if len(self.options) < 2:
            raise InputError(
                f"{self.source or 'example'}: {len(self.options)} answer option(s); at least two are needed"
            )
        for name in ("answer", "unknown", "stereotyped"):
            index = getattr(self, name)
            if index is not None and not 0 <= index < len(self.options):
                raise InputError(f"{self.source or 'example'}: {name} is {index}, out of range for the options")
        if self.unknown is not None and self.unknown == self.stereotyped:
            raise InputError(
                f"{self.source or 'example'}: one option can't be both the unknown and the stereotyped one"
            )

    def facet(self, name: str) -> str:
        """The value of a facet, or an empty string."""
        return self.category if name == "category" else dict(self.facets).get(name, "")


class Split(NamedTuple):
    """Three disjoint parts of a task; no template is in two of them."""

    fit: tuple[Example, ...]
    """Neurons are attributed on these."""
    choose: tuple[Example, ...]
    """The edit is chosen on these."""
    report: tuple[Example, ...]
    """Results are told on these, once."""


@dataclass(frozen=True)
class Task:
    """Examples and the instructions to ask them with.

    Attributes:
        name: Kind and file without its folders, for example ``bbq:Age.jsonl``: it may be shared.
        examples: All examples, in file order.
        instructions: Synonymous instructions ι; a task of sentences has the empty one alone.
        origin: Files or resources it was read from, for the record of a run.
        family: Name of the metrics that belong to it (`crispr_lm.metrics.FAMILIES`).
        breakdowns: Facets whose values are reported apart, beside the whole; "category" is one.
        measured_only: Whether it can be measured, but no neurons attributed and no edit chosen on it.
        scoring: How its options are compared where the benchmark says so ("sum" or "mean"); None leaves it to the user.
        whole_templates: Whether its metrics compare examples of one template, so that none may be left out.
    """

    name: str
    examples: tuple[Example, ...]
    instructions: tuple[str, ...]
    origin: tuple[str, ...] = ()
    family: str = "question_answering"
    breakdowns: tuple[str, ...] = ("category",)
    measured_only: bool = False
    scoring: Literal["sum", "mean"] | None = None
    whole_templates: bool = False

    def split(self, seed: int = 0) -> Split:
        """Split by template into fit, choose and report parts, about a third of the templates each.

        Templates are shuffled within their category and dealt out in turn, so that every part sees every category
        that has three templates.

        Args:
            seed: The same seed gives the same parts.

        Raises:
            InputError: fewer than three templates.
        """
        # A template of several categories goes with the first of their names, whatever the order of examples.
        category_of = dict(sorted({(example.template, example.category) for example in self.examples}, reverse=True))
        by_category: dict[str, list[str]] = defaultdict(list)
        for template in sorted(category_of):
            by_category[category_of[template]].append(template)
        if sum(map(len, by_category.values())) < 3:
            raise InputError(
                f"task {self.name} has fewer than 3 templates, too few for disjoint fit, choose and report parts; "
                "add examples, or give near-copies a common 'group' and different questions different ones "
                "(crispr-lm evaluate --part all needs no split)"
            )
        generator = random.Random(seed)
        part_of: dict[str, int] = {}
        turn = 0
        for category in sorted(by_category):
            templates = by_category[category]
            generator.shuffle(templates)
            for template in templates:
                # Dealing goes on from category to category, so that no part is short of templates by more than one.
                part_of[template] = (2, 0, 1)[turn % 3]
                turn += 1
        parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
        for example in self.examples:
            parts[part_of[example.template]].append(example)
        return Split(*(tuple(part) for part in parts))


def of_condition(examples: Sequence[Example], fit_on: FitOn) -> tuple[Example, ...]:
    """The examples to attribute on: all of them where none tells its condition."""
    if fit_on == "both" or not any(example.condition for example in examples):
        return tuple(examples)
    return tuple(example for example in examples if example.condition == fit_on)


def sample(examples: Sequence[Example], size: int, seed: int = 0) -> tuple[Example, ...]:
    """Draw `size` examples spread as evenly as can be over conditions, templates and polarities.

    Near-copies add cost and no information, so the draw takes from every condition in turn, within it from every
    template, within that from every polarity. Returned in the order of `examples`; all of them if `size` is not
    smaller.

    Raises:
        InputError: a negative size.
    """
    if size < 0:
        raise InputError(f"{size} examples can't be drawn; give a number that is not negative")
    if size >= len(examples):
        return tuple(examples)
    generator = random.Random(seed)

    def draw(indices: list[int], levels: list[Callable[[Example], Hashable]]) -> list[int]:
        """Order `indices` so that every prefix is balanced over the first level, within it over the second, ..."""
        if not levels:
            generator.shuffle(indices)
            return indices
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for index in indices:
            groups[levels[0](examples[index])].append(index)
        keys = sorted(groups, key=repr)
        generator.shuffle(keys)
        queues = [draw(groups[key], levels[1:]) for key in keys]
        ordered = []
        for rank in range(max(map(len, queues))):
            ordered += [queue[rank] for queue in queues if rank < len(queue)]
        return ordered

    levels: list[Callable[[Example], Hashable]] = [
        lambda example: example.condition,
        lambda example: example.template,
        lambda example: example.polarity,
    ]
    return tuple(examples[index] for index in sorted(draw(list(range(len(examples))), levels)[:size]))


def sample_templates(examples: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """Draw whole templates until there are at least `size` examples; in the order of `examples`."""
    if size >= len(examples):
        return tuple(examples)
    counts = Counter(example.template for example in examples)
    templates = sorted(counts)
    random.Random(seed).shuffle(templates)
    drawn: set[str] = set()
    while templates and sum(counts[template] for template in drawn) < size:
        drawn.add(templates.pop())
    return tuple(example for example in examples if example.template in drawn)


def builtin_instructions() -> tuple[str, ...]:
    """Ten synonymous instructions for answering a multiple-choice question about a context."""
    return _bundled_lines("instructions.txt")


def open_instructions() -> tuple[str, ...]:
    """Synonymous instructions for a question whose options are not shown."""
    return _bundled_lines("open_instructions.txt")


def neutral_prompts() -> tuple[str, ...]:
    """What users ask that has nothing to do with stereotypes: the divergence from the original is measured on these."""
    return _bundled_lines("neutral_prompts.txt")


def _bundled_lines(name: str) -> tuple[str, ...]:
    text = (resources.files("crispr_lm.tasks") / "data" / name).read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def read_instructions(path: Path) -> tuple[str, ...]:
    """Read a text file with one instruction per line (empty lines and lines starting with # are skipped).

    Raises:
        InputError: the file can't be read, is no UTF-8 text, or holds no instruction.
    """
    try:
        lines = read_bytes(path).decode("utf-8-sig").replace("\r", "\n").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"instructions file {path} can't be read ({error}); give a UTF-8 text file") from error
    instructions = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not instructions:
        raise InputError(f"instructions file {path} holds no instruction; write one per line")
    if twice := next((text for text, count in Counter(instructions).items() if count > 1), None):
        raise InputError(f"instructions file {path} holds {twice!r} twice; figures are means over different ones")
    return instructions
