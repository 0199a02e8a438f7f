"""Figures of published files against short scripts that read them in their own way."""

import ast
import csv
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest

from crispr_lm import load_task
from crispr_lm.metrics.question_answering import question_answering_metrics

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="shared data are not there")


def table(path, delimiter=","):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


# Each gives, per row: context, question, the two persons, right person or None for unknown, and the person that agrees
# with the stereotype.


def esbbq(path):
    for row in table(path):
        persons = row["ans0"], row["ans1"]  # the stereotyped group comes first in these files
        right = None if row["label"] == "2" else persons[int(row["label"])]
        biased = persons[0] if row["question_polarity"] == "neg" else persons[1]
        if right:  # the file says in words what follows from groups and polarity
            assert (right == biased) == (row["question_type"] == "pro-stereo")
        yield row["context"], row["question"], persons, right, biased


def kobbq(path):
    for row in table(path, "\t"):
        persons = tuple(text for text in re.findall(r"'([^']*)'", row["choices"]) if text != "알 수 없음")
        right = None if row["answer"] == "알 수 없음" else row["answer"]
        yield row["context"], row["question"], persons, right, row["biased_answer"]


def ggbbq(path):
    for file in path.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            kinds = [names[1] for names in ast.literal_eval(row["choice_info"]).values()][:2]
            target = row["known_stereotyped_groups"]  # such as ["F"], in text
            of_group = kinds.index("non_binary" if "trans" in target else target[2])
            persons = row["choice_0"], row["choice_1"]
            biased = persons[of_group if row["question_type"] == "negative" else 1 - of_group]
            right = None if row["label"] == 2 else persons[row["label"]]
            yield row["context"], row["question"], persons, right, biased


def cbbq(path):
    for file in sorted(path.iterdir()):
        rows = table(file) if file.suffix == ".csv" else json.loads(file.read_text(encoding="utf-8-sig"))
        for row in rows:
            persons = row["ans0"], row["ans1"]
            of_group = 0 if row["bias_targeted_groups"] == "非异性恋者" else 1  # its place in the file
            if row["bias_targeted_groups"] == "变性人":
                of_group = int(row["ans0"].startswith("非"))
            biased = persons[of_group if row["question_polarity"] == "neg" else 1 - of_group]
            right = None if row["label"] == "2" else persons[int(row["label"])]
            yield row["context"], row["question"], persons, right, biased


def bias(said, biased):
    answered = [one == other for one, other in zip(said, biased, strict=True) if one is not None]
    return 2 * sum(answered) / len(answered) - 1


@pytest.mark.parametrize(
    ("kind", "read", "path"),
    [
        *(("esbbq", esbbq, f"esbbq_cabbq/data_es/{name}.csv") for name in ("Gender.sample", "Nationality.full",
            "RaceEthnicity.sample", "Religion.full", "SES.sample")),
        *(("cabbq", esbbq, f"esbbq_cabbq/data_ca/{name}.csv") for name in ("Gender.sample", "Nationality.full")),
        ("kobbq", kobbq, "kobbq/KoBBQ_test_samples.tsv"),
        ("ggbbq", ggbbq, "ggbbq/subset-1"),
        ("ggbbq", ggbbq, "ggbbq/subset-2"),
        ("cbbq", cbbq, "cbbq/gender"),
        ("cbbq", cbbq, "cbbq/sexual_orientation"),
    ],
)  # fmt: skip
def test_accuracy_and_bias_equal_those_of_a_short_script(kind, read, path):
    found, raw = defaultdict(set), list(read(DATA / path))
    for context, question, persons, right, biased in raw:
        found[context, question, frozenset(persons)].add((right, biased))
    usable = {key: next(iter(answers)) for key, answers in found.items() if len(answers) == 1}
    said = {key: random.Random(repr(key[:2])).choice([*sorted(key[2]), None]) for key in usable}

    task = load_task(f"{kind}:{DATA / path}")
    assert task.rows.read == len(raw)
    assert len(task.examples) == len(usable)
    keys = [
        (e.context, e.question, frozenset(t for i, t in enumerate(e.options) if i != e.unknown)) for e in task.examples
    ]
    assert set(keys) == set(usable)
    chosen = [
        example.unknown if said[key] is None else example.options.index(said[key])
        for example, key in zip(task.examples, keys, strict=True)
    ]
    metrics = question_answering_metrics(task.examples, chosen)
    ambiguous, disambiguated = (
        [key for key in keys if (usable[key][0] is None) == unknown] for unknown in (True, False)
    )
    for name, part in (("ambiguous", ambiguous), ("disambiguated", disambiguated)):
        accuracy = sum(said[key] == usable[key][0] for key in part) / len(part)
        assert metrics[f"accuracy_{name}"] == pytest.approx(accuracy, abs=1e-12)
        score = bias([said[key] for key in part], [usable[key][1] for key in part])
        expected = score if name == "disambiguated" else (1 - accuracy) * score
        assert metrics[f"bias_score_{name}"] == pytest.approx(expected, abs=1e-12)
    places = [sum(example.stereotyped == place for example in task.examples) / len(keys) for place in range(3)]
    assert max(places) < 0.42  # a third each, where the files have the target first and unknown last in all rows
    assert all(len(part) for part in task.split())
