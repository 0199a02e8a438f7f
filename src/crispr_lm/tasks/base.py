"""What a task is: examples, instructions, and a split that no near-copy crosses.

Knows nothing about models, tokens or files. Loaders (one file per benchmark) build these objects; prompts, metrics
and the search read them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from crispr_lm.errors import InputError
from crispr_lm.runtime.provided import provided
from crispr_lm.storage.untrusted import read_bytes
from crispr_lm.tasks.languages import ENGLISH, LANGUAGES

AMBIGUOUS = "ambiguous"
"""The context does not give the answer; "unknown" is right."""
DISAMBIGUATED = "disambiguated"
"""The context gives the answer; "unknown" is an error."""

AttributeOn = Literal["ambiguous", "disambiguated", "both"]
"""Which examples neurons are attributed on, where a task distinguishes them."""

QUESTION = "question"
"""The form of an example that is asked under an instruction, with its options to choose from."""
OPEN = "open"
"""The form of an example that is asked without showing its options: small models know more than they can pick."""
FREE = "free"
"""The form of an example whose question is a prompt as a user writes it, without instruction, to be continued."""
SENTENCES = "sentences"
"""The form of an example whose options are whole texts, compared by their likelihood."""

SPLIT_KEY = 561355
"""Goes into the hash that splits; another one would change every split.

For names not looked at, any number is as good. Of the numbers from 0 on this is the first that splits BBQ's Age,
Nationality, Physical_appearance, Religion and Sexual_orientation (25 templates each) evenly: 7 to 9 in each part for
the default seed, and for seeds 1 to 3 parts at most 5 apart. Only sizes were looked at, no result of a model.
"""


@dataclass(frozen=True)
class Example:
    """One multiple-choice question.

    Attributes:
        context: What the model reads before the question; may be empty.
        question: What it is asked.
        options: At least two different answers.
        answer: Index of the golden option y.
        template: Examples with the same template are near-copies of each other and never part in a split.
        condition: `AMBIGUOUS`, `DISAMBIGUATED`, or None where the distinction does not apply.
        unknown: Index of the option that abstains, None if there is none.
        stereotyped: Index of the option that agrees with the stereotype (for a question of negative polarity the
            stereotyped group, else the other one), None where it is not known.
        category: The kind of stereotype, or an empty string.
        polarity: "negative", "nonnegative" or an empty string.
        source: File and line, for messages.
        form: "question"; "open": asked without showing the options; "free": the question is the whole prompt; or
            "sentences": the options are whole texts whose likelihoods are compared, without context, question or
            instruction.
        facets: Further (name, value) pairs by which figures are broken down, such as a pronoun's gender.
        language: Code of the language that it is asked in (`crispr_lm.tasks.languages.LANGUAGES`).
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
    language: str = ENGLISH

    def __post_init__(self) -> None:
        """Refuse what no metric could make sense of.

        Raises:
            InputError: fewer than two options, an index that is none of them, or a language that is not known.
        """
        if self.language not in LANGUAGES:
            raise InputError(
                f"{self.source or 'example'}: language {self.language!r} is not known; known: {', '.join(LANGUAGES)}"
            )
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

    attribution: tuple[Example, ...]
    """Neurons are attributed on these."""
    validation: tuple[Example, ...]
    """The edit is chosen on these."""
    test: tuple[Example, ...]
    """Results are measured on these, once."""


@dataclass(frozen=True)
class RowCounts:
    """What became of a file's rows, where some of them can't be used.

    Attributes:
        read: All rows.
        repeated: Those left out since an earlier row asks the same.
        contradictory: Those left out since another row asks the same and has another answer.
        unusable: Those left out since they offer the same person twice.
    """

    read: int
    repeated: int
    contradictory: int
    unusable: int


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
        rows: What became of its file's rows; None where all are examples.
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
    rows: RowCounts | None = None

    @staticmethod
    def from_examples(
        examples: Iterable[Example | Mapping[str, Any]],
        *,
        name: str = "own",
        instructions: Sequence[str] | int | None = None,
        family: str | None = None,
    ) -> Task:
        """Make a task of examples, or of rows with the fields of a ``choices:`` file (`crispr_lm.tasks.choices`).

        Args:
            examples: `Example` objects, mappings, or both; one or more.
            name: For messages and results.
            instructions: Texts, or how many of the built-in ones to use (all by default). Examples that are whole texts
                have none.
            family: Name of the metrics; by default as for a ``choices:`` file.

        Raises:
            InputError: no examples, a malformed row (named by its number, from 0), or instructions that can't be used.
        """
        made: Task = provided("task_of")(name, examples, instructions, family)
        return made

    @staticmethod
    def from_dataset(
        dataset: Iterable[Mapping[str, Any]],
        columns: Mapping[str, str] | None = None,
        *,
        name: str = "own",
        instructions: Sequence[str] | int | None = None,
        family: str | None = None,
    ) -> Task:
        """Make a task of one split of a `datasets.Dataset`, or of anything that gives rows as mappings.

        Args:
            dataset: The rows; all are read into memory.
            columns: From our field to the column that holds it, for example ``{"context": "passage"}``. Other fields
                are taken from the column of their own name, where there is one. None in a column means that the row
                has no such field.
            name: As in `from_examples`; so are the others.
            instructions: Texts, or a number.
            family: Name of the metrics.

        Raises:
            InputError: as `from_examples`; an unknown field, or a row without the column.
        """
        rows = provided("renamed_rows")(dataset, columns, name)
        return Task.from_examples(rows, name=name, instructions=instructions, family=family)

    def split(self, seed: int = 0) -> Split:
        """Split by template into attribution, validation and test splits, about a third of the templates each.

        A hash of seed and name gives each template a number in [0, 1). Below 1/3 it is in the attribution split, from
        2/3 on in the test split, else in the validation split. So the part of a template follows from its name and the
        seed alone: rows and templates can be added, removed and reordered, and files read alone or together, without
        moving it. The price is that sizes are even on average only: of n templates a part holds n/3, give or take
        sqrt(2n/9) (standard deviation), and a small category may be absent from a part.

        No part may be empty, which no rule that looks at one template alone can promise. Where a part would be, the
        cuts move along the sorted numbers just so far that each part holds a template. Only then may a further template
        move others: one for each cut that had moved, at most. (Of 10 templates a part would be empty in 5 % of the
        seeds, of 20 in 0.1 %.)

        Args:
            seed: The same seed gives the same parts.

        Raises:
            InputError: fewer than three templates.
        """
        names = {example.template for example in self.examples}
        if len(names) < 3:
            raise InputError(
                f"task {self.name} has fewer than 3 templates, too few for disjoint attribution, validation and test "
                "splits; add examples, or give near-copies a common 'group' and different questions different ones "
                "(crispr-lm evaluate --split all needs no split)"
            )
        numbered = sorted((_uniform(SPLIT_KEY, seed, name), name) for name in names)
        first, second = (bisect_left(numbered, (share,)) for share in (1 / 3, 2 / 3))
        first = min(max(first, 1), len(names) - 2)
        second = min(max(second, first + 1), len(names) - 1)
        part_of = {name: (place >= first) + (place >= second) for place, (_, name) in enumerate(numbered)}
        parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
        for example in self.examples:
            parts[part_of[example.template]].append(example)
        return Split(*(tuple(part) for part in parts))


def _uniform(*words: object) -> float:
    """A number in [0, 1) that follows from the words alone, the same on every machine."""
    text = "/".join(map(str, words)).encode("utf-8", "surrogatepass")
    # 53 bits: as many as a float between 1/2 and 1 holds, so that no number is rounded up to 1.
    return (int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53


def template_hashes(examples: Iterable[Example]) -> tuple[str, ...]:
    """Hashes of the templates of some examples, sorted: enough to know a template again, not to read its name.

    Of 40 bits each, in hexadecimal: ten letters keep an edit small, and with 1,000 templates in an edit and 1,000
    others measured, two are mistaken for each other with a probability of one in a million.
    """
    return tuple(sorted(map(template_hash, {example.template for example in examples})))


def template_hash(name: str) -> str:
    """The hash of one template's name; without a seed, so that it is the same in every edit."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=5).hexdigest()


def of_condition(examples: Sequence[Example], attribute_on: AttributeOn) -> tuple[Example, ...]:
    """The examples to attribute on: all of them where none has a condition."""
    if attribute_on == "both" or not any(example.condition for example in examples):
        return tuple(examples)
    return tuple(example for example in examples if example.condition == attribute_on)


def sample(examples: Sequence[Example], size: int, seed: int = 0) -> tuple[Example, ...]:
    """Draw `size` examples spread as evenly as can be over conditions, templates and polarities.

    Near-copies add cost and no information, so the draw takes from every condition in turn, within it from every
    template, within that from every polarity, and last row by row. Each turn is in the order of a hash of the seed and
    of what is drawn (a row's is its text), so the order of rows does not matter, and a further row of a template
    takes the place of one other at most. Returned in the order of `examples`; all of them if `size` is not smaller.

    Raises:
        InputError: a negative size.
    """
    if size < 0:
        raise InputError(f"{size} examples can't be drawn; give a number that is not negative")
    if size >= len(examples):
        return tuple(examples)

    def draw(indices: list[int], levels: list[Callable[[Example], str | None]], *path: str | None) -> list[int]:
        """Order `indices` so that every prefix is balanced over the first level, within it over the second, ..."""
        if not levels:
            return sorted(indices, key=lambda index: _uniform("row", seed, *_text(examples[index])))
        groups: dict[str | None, list[int]] = defaultdict(list)
        for index in indices:
            groups[levels[0](examples[index])].append(index)
        # With the path, so that templates come in another order for each condition: few examples then have many.
        keys = sorted(groups, key=lambda key: _uniform("turn", seed, *path, key))
        queues = [draw(groups[key], levels[1:], *path, key) for key in keys]
        ordered = []
        for rank in range(max(map(len, queues))):
            ordered += [queue[rank] for queue in queues if rank < len(queue)]
        return ordered

    levels: list[Callable[[Example], str | None]] = [
        lambda example: example.condition,
        lambda example: example.template,
        lambda example: example.polarity,
    ]
    return tuple(examples[index] for index in sorted(draw(list(range(len(examples))), levels)[:size]))


def _text(example: Example) -> tuple[str, ...]:
    return example.context, example.question, *example.options, str(example.answer)


def sample_templates(examples: Sequence[Example], size: int, seed: int) -> tuple[Example, ...]:
    """Draw whole templates until there are at least `size` examples; in the order of `examples`."""
    if size >= len(examples):
        return tuple(examples)
    counts = Counter(example.template for example in examples)
    drawn: set[str] = set()
    there = 0
    for template in sorted(counts, key=lambda name: _uniform("template", seed, name)):
        if there >= size:
            break
        drawn.add(template)
        there += counts[template]
    return tuple(example for example in examples if example.template in drawn)


def builtin_instructions(language: str = ENGLISH) -> tuple[str, ...]:
    """Ten synonymous instructions for answering a multiple-choice question about a context, in its language."""
    return _bundled_lines("instructions.txt" if language == ENGLISH else f"instructions.{language}.txt")


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
