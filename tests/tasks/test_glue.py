"""GLUE's files in their public forms: tables, JSON Lines, Parquet; and whatever is no file of the task asked for."""

import csv
import json
from pathlib import Path

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.inference.prompts import prompt_text
from crispr_lm.tasks import glue
from crispr_lm.tasks.glue import GLUE, glue_instructions

QNLI = Path(__file__).parents[3] / "shared" / "data" / "glue" / "QNLI" / "dev.tsv"

MRPC_TABLE = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t11\t12\tHe said " no .\tHe said no .\n'
    "0\t13\t14\tIt rained .\tIt snowed .\n"
    "1\t15\t16\tIt snowed .\tSnow fell .\n"
)
HUB_ROWS = [
    {"sentence1": "He said no.", "sentence2": "He refused.", "label": 1, "idx": 9},
    {"sentence1": "It rained.", "sentence2": "It snowed.", "label": 0, "idx": 12},
]


def written(folder, name, content):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def hub_parquet(path, names):
    """The rows as the hub writes them: with the names of the labels in the file's metadata."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    features = {"label": {"names": names, "_type": "ClassLabel"}}
    table = pyarrow.Table.from_pylist(HUB_ROWS)
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path
    )
    return path


def test_the_original_table_has_quotation_marks_in_its_texts(tmp_path):
    task = load_task(f"glue:mrpc:{written(tmp_path, 'dev.tsv', MRPC_TABLE)}", 2)
    first, second, third = task.examples
    assert (task.name, task.family, task.instructions) == (
        "glue:mrpc:dev.tsv",
        "classification",
        glue_instructions("mrpc")[:2],
    )
    assert prompt_text(first, "Judge.") == (
        'Judge.\nContext: Sentence 1: He said " no .\nSentence 2: He said no .\n'
        "Question: Do the two sentences mean the same?\nAnswer options: yes, no\nYour answer:"
    )
    assert [example.options[example.answer] for example in task.examples] == ["yes", "no", "yes"]
    assert second.template == third.template != first.template  # a sentence in common: never in two splits


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_files_of_the_hub_mean_the_same_labels(tmp_path, form):
    if form == "jsonl":
        path = written(tmp_path, "validation.jsonl", lines(HUB_ROWS))
    else:
        path = hub_parquet(tmp_path / "validation.parquet", ["not_equivalent", "equivalent"])
    found = load_task(f"glue:mrpc:{path}").examples
    assert [example.options[example.answer] for example in found] == ["yes", "no"]
    if form == "parquet":
        with pytest.raises(InputError, match=r"labels are not_equivalent, equivalent, not those of RTE"):
            load_task(f"glue:rte:{path}")
    else:  # the same columns, and numbers that mean the opposite
        turned = load_task(f"glue:rte:{path}").examples
        assert [example.options[example.answer] for example in turned] == ["no", "yes"]


def test_the_hub_itself(monkeypatch):
    asked = []

    def rows(*given):
        asked.append(given)
        return iter([("row 1", {"sentence": "A joy.", "label": 1, "idx": 0})])

    monkeypatch.setattr(glue, "hub_rows", rows)
    (example,) = load_task("glue:sst2:hub").examples
    assert example.options[example.answer] == "positive"
    assert asked == [("glue:sst2", "nyu-mll/glue", "sst2", "validation")]


@pytest.mark.skipif(not QNLI.is_file(), reason="the benchmark file is not at hand")
def test_qnli_is_read_whole_and_split_by_shared_texts():
    task = load_task(f"glue:qnli:{QNLI}")
    assert len(task.examples) == 5463
    assert sum(example.answer == 0 for example in task.examples) == 2702
    with QNLI.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    split_of = {example.source: number for number, part in enumerate(task.split()) for example in part}
    seen = {}
    for row, example in zip(rows, task.examples, strict=True):
        for text in (row["question"], row["sentence"]):
            assert seen.setdefault(" ".join(text.split()), split_of[example.source]) == split_of[example.source]
    assert {*split_of.values()} == {0, 1, 2}


@pytest.mark.parametrize("name", GLUE)
def test_every_task_has_ten_instructions_of_its_own(name):
    assert len({*glue_instructions(name)}) == 10
    others = {text for other in GLUE if other != name for text in glue_instructions(other)}
    assert not others & {*glue_instructions(name)}


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("rte", MRPC_TABLE, r"dev.tsv:2: columns '#1 String', '#2 String' are those of MRPC, not of RTE; .*glue:mrpc:"),
        ("sst2", "question\tsentence\tlabel\na\tb\tentailment\n", r"those of QNLI, not of SST-2"),
        ("mrpc", "sentence1\tsentence2\tlabel\na\tb\tentailment\n", r"label 'entailment' is none of MRPC; .* MRPC$"),
        (
            "rte",
            "index\tsentence1\tsentence2\n0\ta\tb\n",
            r":2: no label, as in the test part of GLUE; give the val",
        ),
        ("sst2", lines([{"sentence": "a", "label": -1}]), r":1: no label, as in the test part"),
        ("rte", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\n", r":2: 3 fields, but the header has 4"),
        ("rte", lines([{"sentence1": "a", "sentence2": " ", "label": 0}]), r":1: field 'sentence2' must be text"),
        (
            "rte",
            lines([{"premise": "a", "hypothesis": "b", "label": 0}]),
            r"no file of RTE, whose columns are",
        ),
        ("sst2", "A joy .\nA bore .\n", r"dev.tsv:1: no table with tabs and a header"),
        ("sst2", "", r"dev.tsv:1: no table with tabs and a header"),
        ("sst2", "PAR1 but no more", r"dev.tsv: not readable as Parquet"),
    ],
)
def test_other_files_are_refused_in_one_sentence(tmp_path, task, content, message):
    if content.startswith("PAR1"):
        pytest.importorskip("pyarrow")
    path = written(tmp_path, "dev.tsv", content)
    with pytest.raises(InputError, match=message) as refused:
        load_task(f"glue:{task}:{path}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["glue", "glue:mrpc", "glue:mrpx:dev.tsv"])
def test_a_name_that_is_no_task_of_glue(name):
    with pytest.raises(InputError, match="write glue:TASK:PATH, TASK being one of mrpc, rte, qnli, sst2"):
        load_task(name)
