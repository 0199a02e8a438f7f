"""What the property tests have found, each case once more by itself; and the time that hostile files take."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from crispr_lm import InputError, load_task
from crispr_lm.attribution.neuron_scores import SCORES_FORMAT, NeuronScores
from crispr_lm.search.loop import LoopState
from crispr_lm.search.neuron_count import Candidate
from crispr_lm.search.trial import Trial
from crispr_lm.storage.untrusted import DEEPEST, parse_json
from crispr_lm.tasks import read_instructions

from .documents import ANSWER, DOCUMENTS, TRIAL, bbq_row, lines, loop_state, scores


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, f"more than {DEEPEST} deep"),
        ('{"a":' * 100_000, f"more than {DEEPEST} deep"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "no JSON number"),
        ("[1e999]", "too large a number"),
        ("9" * 5000, "integer string conversion"),
        (r'["\ud800"]', "half a character"),
        (r'{"\udfff": 1}', "half a character"),
        (b"\xff", "can't decode"),
        ("", "Expecting value"),
    ],
)
def test_what_python_takes_for_json_and_is_none(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_what_is_json_is_read_as_json():
    text = r'{"a": ["\ud83d\ude00", 1e308, "[[[[", "\\ud800"], "b": null}'
    assert parse_json(text) == json.loads(text)
    nested = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(nested) == json.loads(nested)
    assert parse_json('["' + "[" * 500 + '"]') == ["[" * 500]


def read(kind, *rows):
    return lambda tmp_path: load_task(f"{kind}:{write(tmp_path, lines(*rows))}")


def write(tmp_path, content, name="t.jsonl"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


BBQ = bbq_row(0, 2)
REFUSED = {
    "labels that are a number": read("mmlu", {"question": "q", "choices": {"text": ["a"], "label": 1}, "answer": 1}),
    "an index of 5,000 digits": read("mmlu", {"question": "q", "choices": ["a", "b"], "answer": "1" * 5000}),
    "half a character": read("mmlu", {"question": "\ud800", "choices": ["a", "b"], "answer": 1}),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_rows_that_ended_with_a_traceback(tmp_path, what):
    with pytest.raises(InputError, match=r"t\.jsonl:1: "):
        REFUSED[what](tmp_path)


def test_further_labels_of_a_row_of_bbq_are_left_alone(tmp_path):
    assert read("bbq", BBQ | {"answer_info": BBQ["answer_info"] | {"x": None}})(tmp_path).examples


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.0.down_proj": torch.tensor([1.0, torch.nan])}, "hold NaN or infinity"),
        ({"layers.0.down_proj": torch.ones(2, 2)}, "no list of float32"),
        ({"layers.0.down_proj": torch.ones(2, dtype=torch.int64)}, "no list of float32"),
        ({"other": torch.ones(2)}, "can't be read"),
    ],
)
def test_scores_that_are_none(tmp_path, change, message):
    about = {"kind": "ffn", "modules": ["layers.0.down_proj"], "origin": {}}
    save_file(change, tmp_path / "s.safetensors", {SCORES_FORMAT: json.dumps(about)})
    with pytest.raises(InputError, match=message):
        NeuronScores.load(tmp_path / "s.safetensors")
    assert NeuronScores.load(write(tmp_path, scores(), "w.safetensors"))


@pytest.mark.parametrize(
    "change",
    [
        {"mean": torch.full((4,), torch.nan)},
        {"square": torch.ones(5)},
        {"step": torch.ones(2)},
    ],
)
def test_a_loop_s_state_that_does_not_belong_together(tmp_path, change):
    path = write(tmp_path, loop_state(), "loop.safetensors")
    assert LoopState.load(path).step == 4
    save_file(load_file(path) | change, path)
    with pytest.raises(InputError, match="can't be read"):
        LoopState.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"neurons": [["ffn", "a", -1]]},
        {"neurons": [["none", "a", 1]]},
        {"scale": "much"},
        {"figures": {"gain": "x", "loss": 0, "overabstention": 0, "kl": 0}},
        {"metrics": {"t": [1]}},
        {"answers": {"t": ["a"]}},
        {"number": None},
    ],
)
def test_a_trial_that_is_none(change):
    assert Trial.from_dict(TRIAL).to_dict() == TRIAL
    with pytest.raises(ValueError):
        Trial.from_dict(TRIAL | change)


def test_a_candidate_that_is_none():
    with pytest.raises(ValueError):
        Candidate.from_dict({"neurons": 1, "metrics": {"t": "x"}})


@pytest.mark.parametrize(
    "change",
    [
        {"answer": 3},
        {"unknown": -1},
        {"options": ["one"]},
        {"scores": {"before": [[0.0, 0.0]], "after": [[0.0, 0.0, 0.0]]}},
        {"scores": {"before": [], "after": []}},
        {"context": 1},
    ],
)
def test_an_answer_that_is_none(tmp_path, change):
    document = DOCUMENTS["answers"]
    assert document.read(write(tmp_path, lines(ANSWER), "w.jsonl")) == [ANSWER]
    with pytest.raises(InputError, match="not what this version writes"):
        document.read(write(tmp_path, lines(ANSWER | change)))


@pytest.mark.parametrize("identity", [[[None, 1]], [[0, "x"], ["model", "m"]], "abcd", 1, None])
def test_a_record_whose_identity_is_no_object_is_refused(tmp_path, identity):
    with pytest.raises(InputError, match="can't be read"):
        DOCUMENTS["run record"].read(write(tmp_path, json.dumps({"identity": identity}).encode(), "run.json"))


@pytest.mark.parametrize("name", ["\n", "", "a b", "\x1b[2J"])
def test_a_name_in_a_record_stays_within_its_sentence(tmp_path, name):
    path = write(
        tmp_path, json.dumps({"identity": {"model": "m", "settings": {"seed": 0}, name: True}}).encode(), "run.json"
    )
    with pytest.raises(InputError) as refused:
        DOCUMENTS["run record"].read(path)
    assert f"had {name!r} = True" in str(refused.value)


SLOW = {
    "winobias": (
        "pro_stereotyped_type1.txt.dev",
        "".join(f"{n} [The p{n}] met p{n + 1} because [she] left.\n" for n in range(1500)),
    ),
    "mmlu": ("t.jsonl", json.dumps({"question": "q", "choices": "A. " + " " * 30_000 + "\n", "answer": 1})),
    "choices": ("t.jsonl", '{"a":' * 20_000),
    "stereoset": ("t.json", "[" * 100_000),
    "crows_pairs": ("t.csv", 'sent_more,sent_less,stereo_antistereo,bias_type\n"' + '""' * 50_000),
    "winogender": ("t.tsv", "sentid\tsentence\n" + "a." * 50_000 + "\tShe left.\n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SLOW)
def test_a_small_file_does_not_take_long(tmp_path, kind):
    name, content = SLOW[kind]
    path = write(tmp_path, content.encode(), name)
    start = time.process_time()
    with pytest.raises(InputError):
        load_task(f"{kind}:{path}")
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 5000, "a." * 3000 + "b = 1", "a = {b = " * 2000, 'a = "' + "x" * 10**6]
)
def test_a_settings_file_that_is_nested_deeply_is_reported(tmp_path, content):
    start = time.process_time()
    with pytest.raises((InputError, ValueError)):  # of what pydantic says the command line makes a sentence
        DOCUMENTS["settings"].read(write(tmp_path, content.encode(), "s.toml"))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_instructions_may_end_in_any_way(tmp_path, end):
    text = f"Answer.{end}# a remark{end}{end}Choose\u2028one."
    assert read_instructions(write(tmp_path, text.encode(), "i.txt")) == ("Answer.", "Choose\u2028one.")
