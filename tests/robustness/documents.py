"""Every kind of file that comes from others: a whole one, how it is read, and ways to spoil it."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

from crispr_lm import Edit, load_task
from crispr_lm.app.session import read_run
from crispr_lm.attribution.neuron_scores import SCORES_FORMAT, NeuronScores
from crispr_lm.cli.settings_file import read_settings_file
from crispr_lm.inference.prompts import encode_text
from crispr_lm.jobs.comparison_results import CellKey
from crispr_lm.jobs.reproduce import read_recorded, reproduced_settings
from crispr_lm.jobs.seal import SEAL_FORMAT, SEAL_VERSION, digest, read_seal
from crispr_lm.jobs.sharing import results_beside
from crispr_lm.model.gguf_header import check_gguf
from crispr_lm.model.load import open_model
from crispr_lm.model.trust import check_indices
from crispr_lm.search.loop import LoopState
from crispr_lm.search.neuron_count import Candidate
from crispr_lm.search.trial import Trial
from crispr_lm.settings import RunSettings
from crispr_lm.storage.answers import read_answers
from crispr_lm.storage.hub import local_edit
from crispr_lm.storage.output_path import check_new
from crispr_lm.storage.records import read_object, read_rows
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks import read_instructions

from ..helpers import chat_tokenizer


@dataclass(frozen=True)
class Document:
    """A kind of file.

    Attributes:
        name: Of the file that is written.
        whole: Its bytes where nothing is wrong with it.
        read: What the library does with it.
        form: "json", "lines" (a JSON object each), "tensors" (a JSON header before them), or "bytes".
    """

    name: str
    whole: bytes
    read: Callable[[Path], object]
    form: str = "bytes"


def task(kind: str) -> Callable[[Path], object]:
    return lambda path: load_task(f"{kind}:{path}")


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def bbq_row(number: int, label: int) -> dict[str, Any]:
    return {
        "example_id": number,
        "question_index": "1",
        "question_polarity": "neg",
        "context_condition": "ambig" if label == 2 else "disambig",
        "category": "Age",
        "answer_info": {"ans0": ["boy", "nonOld"], "ans1": ["man", "old"], "ans2": ["unknown", "unknown"]},
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"], "version": "a", "source": "x"},
        "context": "A boy met a man.",
        "question": "Who was late?",
        "ans0": "The boy",
        "ans1": "The man",
        "ans2": "Unknown",
        "label": label,
    }


CHOICE = {
    "context": "Ann met Bo.",
    "question": "Who was late?",
    "options": ["Ann", "Bo", "unknown"],
    "answer": 2,
    "group": "late",
    "condition": "ambiguous",
    "unknown": 2,
    "stereotyped": 0,
    "category": "made up",
}
NEURON = ["ffn", "layers.0.down_proj", 1]
HASHES = {"float32": "a" * 64, "bfloat16": "b" * 64, "float16": "c" * 64}
EDIT = {
    "format": "crispr-lm-edit",
    "version": 2,
    "made_by": "crispr-lm 0.1.0",
    "base_model": {"name": "m", "dtype": "float32"},
    "scale": 0.0,
    "neurons": [NEURON],
    "fingerprint": {"layers.0.down_proj": HASHES},
    "origin": {"task": "t"},
    "made_on": ["0123456789"],
}
TRIAL = {
    "number": 0,
    "stage": "search",
    "neurons": [NEURON],
    "scale": 0.0,
    "complete": True,
    "seconds": 1.0,
    "recipe": {"ranking": "published"},
    "figures": {
        "gain": 0.1,
        "loss": 0.0,
        "overabstention": 0.0,
        "kl": 0.01,
        "doubt": 0.0,
        "implied": 0.0,
        "implied_doubt": 0.0,
        "bias_rise": 0.0,
        "bias_doubt": 0.0,
        "fact_loss": 0.0,
        "fact_doubt": 0.0,
        "spillover": 0.0,
        "spillover_doubt": 0.0,
    },
    "metrics": {"t": {"accuracy": 0.5}},
    "answers": {"t": [0, 1]},
    "aside": {"facts": [0]},
}
CROWS = (
    b",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
    b'0,"Men are late, often.",Women are late often.,stereo,gender,"[[]]",a0,"[]"\n'
)
STEREOSET = {
    "version": "1.1",
    "data": {
        part: [
            {
                "id": "1",
                "target": "chef",
                "bias_type": "profession",
                "context": context,
                "sentences": [
                    {"id": str(n), "sentence": f"The chef was {word}.", "labels": [], "gold_label": label}
                    for n, (word, label) in enumerate(
                        [("fat", "stereotype"), ("thin", "anti-stereotype"), ("blue", "unrelated")]
                    )
                ],
            }
        ]
        for part, context in (("intersentence", "A chef came in."), ("intrasentence", "The chef was BLANK."))
    },
}
WINOBIAS = (
    b"1 [The developer] met the designer because [she] was late.\n"
    b"2 The developer met [the designer] because [he] was late.\n"
)
WINOGENDER = b"sentid\tsentence\ntechnician.customer.1.male.txt\tThe technician told the customer that he had paid.\n"
CONFIGURATION = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 512, "hidden_size": 8,
    "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "torch_dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a.weight": "model-1.safetensors"}}
TOML = b'max_neurons = 50\nmax_kl = 0.1\ntask = ["builtin:everyday"]\ndtype = "float32"\n'
SEALED = {"format": SEAL_FORMAT, "version": SEAL_VERSION, "test_split_read": False}
SEAL = {"content": SEALED, "seal": digest(SEALED), "edits": []}
CELL = {"part": "methods", "what": "search", "task": "t", "number": 0, "status": "done"}


ANSWER = {
    "task": "t", "source": "t.jsonl:1", "template": "a", "category": "", "condition": "ambiguous", "context": "A boy.",
    "question": "Who?", "options": ["boy", "man", "unknown"], "answer": 2, "unknown": 2, "stereotyped": 1,
    "scores": {"before": [[-1.0, -2.0, -3.0]], "after": [[-2.0, -3.0, None]]},
}  # fmt: skip
SETTINGS = {"dtype": "float32", "task": ["t"], "seed": 0, "prompt_format": "chat"}
IDENTITY = {
    "model": "m", "model_fingerprint": "f", "settings": SETTINGS, "data": {"t.jsonl": "sha256:0"},
    "instructions": [["Choose."]], "moment": "2026-01-31T12:00:00", "crispr_lm": "0.1.0", "plugins": [],
}  # fmt: skip
RECORD = {
    "identity": IDENTITY, "batch_size": "auto", "versions": {"python": "3.11"}, "device": "cpu",
    "parts": {"t": {"attribution": [], "validation": [], "test": []}},
}  # fmt: skip


def difference() -> dict[str, Any]:
    return {"value": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.1, "p_value_holm": 0.1}


SPREAD = {"std": 0.0, "worst": 0.1}
RESULTS = {
    "format": "crispr-lm-results",
    "version": 2,
    "model": "m",
    "scoring": "sum",
    "verdict": "recommended",
    "reason": "because",
    "edit": {"neurons": 1, "kind": "ffn", "scale": 0.0, "per_module": {"layers.0.down_proj": 1}},
    "neurons": [{"kind": "ffn", "module": "layers.0.down_proj", "index": 1, "score": 0.1, "promotes": ["he"]}],
    "divergence": {"kl": 0.1, "low": 0.0, "high": 0.2, "prompts": 2, "tokens": 16},
    "tasks": {
        "t": {
            "role": "bias",
            "family": "question_answering",
            "examples": 3,
            "templates": 3,
            "instructions": 1,
            "before": {"accuracy": 0.1, "accuracy_ambiguous": 0.1},
            "after": {"accuracy": 0.2, "accuracy_ambiguous": 0.2},
            "statistics": {"accuracy": difference(), "accuracy_ambiguous": difference()},
            "spread": {when: dict.fromkeys(("accuracy", "accuracy_ambiguous"), SPREAD) for when in ("before", "after")},
            "over_abstention": None,
        }
    },
}
RUN_FILES = {
    "run.json": json.dumps(RECORD).encode(),
    "results.json": json.dumps(RESULTS).encode(),
    "edit.json": json.dumps(EDIT).encode(),
    "answers.jsonl": lines(ANSWER),
}


def scores() -> bytes:
    about = {"kind": "ffn", "modules": ["layers.0.down_proj"], "origin": {"model": "m"}}
    return safetensors_bytes({"layers.0.down_proj": torch.arange(8.0)}, {SCORES_FORMAT: json.dumps(about)})


def loop_state() -> bytes:
    vectors = {name: torch.arange(4.0) for name in ("closing", "mean", "square", "skill")}
    return safetensors_bytes({**vectors, "step": torch.tensor(4)})


def gguf() -> bytes:
    """A GGUF header: magic, version 3, one tensor, two values of metadata."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    header += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    header += text("llama.block_count") + struct.pack("<II", 4, 2)
    header += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
    return header + bytes(-len(header) % 32) + bytes(8 * 4 * 4)


@functools.cache
def tokenizer_files() -> dict[str, bytes]:
    """What a tokenizer leaves in a model's folder."""
    with tempfile.TemporaryDirectory() as folder:
        chat_tokenizer().save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def on_one_line(name: str) -> bytes:
    """A JSON file of a tokenizer."""
    return json.dumps(json.loads(tokenizer_files()[name])).encode()


@functools.cache
def gguf_model(template: str = "") -> bytes:
    """A GGUF file with all that a model needs before its weights, by the writer of the GGML project."""
    learned = json.loads(tokenizer_files()["tokenizer.json"])["model"]
    tokens = sorted(learned["vocab"], key=learned["vocab"].get)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.gguf")
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(1)
        writer.add_context_length(64)
        writer.add_embedding_length(8)
        writer.add_feed_forward_length(16)
        writer.add_head_count(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_merges([" ".join(pair) for pair in learned["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        if template:
            writer.add_chat_template(template)
        writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 8), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def read_settings(path: Path) -> object:
    """A settings file, and what the settings of a run make of its values."""
    given = dict(read_settings_file(path).config)
    try:
        return RunSettings(**{**given, "output": "out"})
    except TypeError as error:  # a name that is no word can't be an option
        raise ValueError(str(error)) from error


def read_named(open_it: Callable[[str], object], named: str = "", content: bytes = b"") -> Callable[[Path], object]:
    """A name that a user gives, written into a file so that it can be spoiled like one.

    What the whole name is of lies beside it, and is found from there.
    """

    def read(path: Path) -> object:
        if named:
            (path.parent / named).write_bytes(content)
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            return open_it(path.read_bytes().decode("utf-8", "surrogateescape"))
        finally:
            os.chdir(before)

    return read


def read_configuration(path: Path) -> object:
    """A model's folder: its tokenizer is as it should be."""
    for name, content in tokenizer_files().items():
        (path.parent / name).write_bytes(content)
    return open_model(path.parent)


def read_tokenizer(path: Path) -> object:
    """A model's folder: all but one file of its tokenizer is as it should be."""
    for name, content in {**tokenizer_files(), "config.json": json.dumps(CONFIGURATION).encode()}.items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    return encode_text(open_model(path.parent), "Who was late?")


def read_results(path: Path) -> object:
    """Results that a card is to tell."""
    return results_beside(path, path)


def read_tried(path: Path) -> object:
    """A finished run to be looked at: all its files are as they should be but the one that is spoiled."""
    for name, content in RUN_FILES.items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    return read_run(path.parent)


def read_again(path: Path) -> object:
    """A finished run to be made again; likewise."""
    for name, content in RUN_FILES.items():
        if name != path.name:
            (path.parent / name).write_bytes(content)
    recorded = read_recorded(path.parent)
    return reproduced_settings(recorded.record, path.parent, "cpu", {"trust_remote_code": False})


def read_record(path: Path) -> object:
    folder = RunFolder(path.parent)
    folder.start({"identity": {"model": "m", "settings": {"seed": 0}}}, overwrite=False)
    return read_object(path)


DOCUMENTS = {
    "bbq": Document("t.jsonl", lines(bbq_row(0, 2), bbq_row(1, 0)), task("bbq"), "lines"),
    "choices": Document("t.jsonl", lines(CHOICE, {**CHOICE, "answer": 0, "condition": "disambiguated"}),
                        task("choices"), "lines"),
    "mmlu": Document("t.jsonl", lines({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}), task("mmlu"),
                     "lines"),
    "boolq": Document("t.jsonl", lines({"passage": "It is hot.", "question": "is it", "answer": True}), task("boolq"),
                      "lines"),
    "hellaswag": Document("t.jsonl", lines({"ctx": "He ran", "endings": ["a", "b"], "label": "1"}), task("hellaswag"),
                          "lines"),
    "crows_pairs": Document("t.csv", CROWS, task("crows_pairs")),
    "stereoset": Document("t.json", json.dumps(STEREOSET).encode(), task("stereoset"), "json"),
    "winobias": Document("pro_stereotyped_type1.txt.dev", WINOBIAS, task("winobias")),
    "winogender": Document("all_sentences.tsv", WINOGENDER, task("winogender")),
    "instructions": Document("i.txt", b"Answer the question.\n# a remark\nChoose:\n", read_instructions),
    "piqa": Document("t.jsonl", lines({"goal": "To open", "sol1": "push", "sol2": "pull", "label": 0}), task("piqa"),
                     "lines"),
    "commonsenseqa": Document(
        "t.jsonl",
        lines({"question": "Where?", "choices": {"label": ["A", "B"], "text": ["here", "there"]}, "answerKey": "B"}),
        task("commonsenseqa"), "lines"),
    "openbookqa": Document(
        "t.jsonl",
        lines({"question": {"stem": "What?", "choices": [{"label": label, "text": f"this {label}"} for label in "AB"]},
               "answerKey": "A"}),
        task("openbookqa"), "lines"),
    "edit": Document("edit.json", json.dumps(EDIT).encode(), Edit.load, "json"),
    "scores": Document("scores.safetensors", scores(), NeuronScores.load, "tensors"),
    "loop": Document("loop.safetensors", loop_state(), LoopState.load, "tensors"),
    "settings": Document("s.toml", TOML, read_settings),
    "gguf": Document("m.gguf", gguf(), lambda path: check_gguf(path) or True),
    "gguf model": Document("m.gguf", gguf_model(), lambda path: open_model(str(path))),
    "run record": Document("run.json", json.dumps({"identity": {"model": "m", "settings": {"seed": 0}}}).encode(),
                           read_record, "json"),
    "trials": Document("search.jsonl", lines(TRIAL, TRIAL), lambda path: read_rows(path, Trial.from_dict), "lines"),
    "candidates": Document("search.jsonl", lines({"neurons": 1, "metrics": {"t": {"accuracy": 0.5}}}),
                           lambda path: read_rows(path, Candidate.from_dict), "lines"),
    "cells": Document("cells.jsonl", lines(CELL), lambda path: read_rows(path, CellKey.of_cell), "lines"),
    "answers": Document("answers.jsonl", lines(ANSWER, ANSWER), read_answers, "lines"),
    "seal": Document("sealed.json", json.dumps(SEAL).encode(), read_seal, "json"),
    "results": Document("results.json", RUN_FILES["results.json"], read_results, "json"),
    "results of a run": Document("results.json", RUN_FILES["results.json"], read_tried, "json"),
    "record of a run": Document("run.json", RUN_FILES["run.json"], read_tried, "json"),
    "record to be made again": Document("run.json", RUN_FILES["run.json"], read_again, "json"),
    "results to be made again": Document("results.json", RUN_FILES["results.json"], read_again, "json"),
    "configuration": Document("config.json", json.dumps(CONFIGURATION).encode(), read_configuration, "json"),
    "tokenizer": Document("tokenizer.json", on_one_line("tokenizer.json"), read_tokenizer, "json"),
    "configuration of a tokenizer": Document("tokenizer_config.json", on_one_line("tokenizer_config.json"),
                                             read_tokenizer, "json"),
    "chat template": Document("chat_template.jinja", tokenizer_files()["chat_template.jinja"], read_tokenizer),
    "index of weights": Document("model.safetensors.index.json", json.dumps(INDEX).encode(),
                                 lambda path: check_indices(path.parent, "m", allow_pickle=False) or True, "json"),
    "name of a task": Document("name", b"choices:questions.jsonl",
                               read_named(load_task, "questions.jsonl", lines(CHOICE))),
    "name of a model": Document("name", b"./model.gguf", read_named(open_model, "model.gguf", gguf_model())),
    "name of an output": Document("name", b"new/folder", read_named(lambda name: check_new(Path(name)) or True)),
    "name of an edit": Document("name", b"hf:owner/name", read_named(lambda name: local_edit(Path(name)))),
}  # fmt: skip

ODD = [
    None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", " ", "\x00", "\u2028", "\ud800", "é" * 300,
    "../../etc/passwd", "<script>alert(1)</script>", "[red]x[/red]", [], {}, [[]], [[None, 1]], {"": None}, [None] * 50,
]  # fmt: skip
"""Values that break what expects others."""

values = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ),
)


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside JSON content."""
    found = [at] if at else []
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        found += places(value, (*at, key))
    return found


@st.composite
def spoiled_json(draw: st.DrawFn, content: Any) -> Any:
    """JSON content with something replaced, left out or added, up to three times."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        ways = places(content)
        if not ways:
            return draw(values)
        *to, last = draw(st.sampled_from(ways))
        holder = content
        for key in to:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "remove", "add", "deep"]))
        if change == "remove":
            del holder[last]
        elif change == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=8))] = copy.deepcopy(draw(values))
        elif change == "deep":
            holder[last] = json.loads("[" * 200 + "]" * 200)
        else:
            holder[last] = copy.deepcopy(draw(values))
    return content


@st.composite
def spoiled_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes cut off, overwritten, put in or doubled; or others altogether."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(["cut", "overwrite", "put in", "double", "number"]))
        if change == "cut":
            del content[at:]
        elif change == "overwrite":
            chunk = draw(st.binary(min_size=1, max_size=4))
            content[at : at + len(chunk)] = chunk
        elif change == "put in":
            content[at:at] = draw(
                st.sampled_from([b"\xff", b"\x00", b"\n", b"\r", b'"', b"9" * 5000, b"[" * 3000, "\u2028".encode()])
            )
        elif change == "double":
            content += content[: at + 1]
        else:
            content[at : at + 8] = struct.pack("<Q", draw(st.sampled_from([0, 1, 2**31, 2**32, 2**63, 2**64 - 1])))
    return bytes(content)


@st.composite
def spoiled(draw: st.DrawFn, document: Document) -> bytes:
    """A document's bytes with something wrong, or, rarely, still right."""
    if document.form == "bytes" or draw(st.booleans()):
        return draw(spoiled_bytes(document.whole))
    if document.form == "tensors":
        size = struct.unpack("<Q", document.whole[:8])[0]
        content = json.loads(document.whole[8 : 8 + size])
        # Metadata are texts, some of them JSON again.
        inner = {key: json.loads(text) for key, text in content.get("__metadata__", {}).items() if text[0] in "[{"}
        if inner and draw(st.booleans()):
            key = draw(st.sampled_from(sorted(inner)))
            content["__metadata__"][key] = json.dumps(draw(spoiled_json(inner[key])))
        else:
            content = draw(spoiled_json(content))
        header = json.dumps(content, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header)) + header + document.whole[8 + size :]
    if document.form == "json":
        rows = [draw(spoiled_json(json.loads(document.whole)))]
    else:
        rows = [json.loads(line) for line in document.whole.splitlines()]
        number = draw(st.integers(0, len(rows) - 1))
        rows[number] = draw(spoiled_json(rows[number]))
    text = "\n".join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
    return text.encode("utf-8", "surrogatepass")


def written_otherwise(document: Document, generator: random.Random) -> bytes:
    """The same JSON content: names in another order, other spaces, line ends and escapes, empty lines."""

    def shuffled(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: shuffled(content[key]) for key in generator.sample(sorted(content), len(content))}
        return [shuffled(value) for value in content] if isinstance(content, list) else content

    indent = generator.choice([None, 1, "\t"]) if document.form == "json" else None
    spaces = generator.choice([(",", ":"), (", ", ": "), (" , ", " : ")])
    ends = generator.choice(["\n", "\r\n"] + (["\n\n"] if document.form == "lines" else []))
    rows = [shuffled(json.loads(line)) for line in document.whole.splitlines()]
    texts = [json.dumps(row, ensure_ascii=generator.random() < 0.5, indent=indent, separators=spaces) for row in rows]
    return (ends.join(texts) + generator.choice(["", ends])).encode()


def scrambled(document: Document, generator: random.Random) -> bytes:
    """As `spoiled`, in a hundredth of its time, and with nothing that could make the case a simpler one."""
    if document.form in ("json", "lines") and generator.random() < 0.5:
        rows = [json.loads(line) for line in document.whole.splitlines()]
        number = generator.randrange(len(rows))
        rows[number] = scrambled_json(rows[number], generator)
        content = "\n".join(json.dumps(row, ensure_ascii=generator.random() < 0.5) for row in rows)
        return content.encode("utf-8", "surrogatepass")
    if document.form == "tensors" and generator.random() < 0.5:
        size = struct.unpack("<Q", document.whole[:8])[0]
        content = json.loads(document.whole[8 : 8 + size])
        texts = {name: text for name, text in content.get("__metadata__", {}).items() if text[0] in "[{"}
        if texts and generator.random() < 0.5:
            key, text = generator.choice(sorted(texts.items()))
            content["__metadata__"][key] = json.dumps(scrambled_json(json.loads(text), generator))
        else:
            content = scrambled_json(content, generator)
        header = json.dumps(content).encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(header)) + header + document.whole[8 + size :]
    return scrambled_bytes(document.whole, generator)


def scrambled_json(content: Any, generator: random.Random) -> Any:
    """JSON content with something replaced, left out, added, wrapped or swapped with something else of it."""
    content = copy.deepcopy(content)
    for _ in range(generator.randint(1, 3)):
        ways = places(content)
        if not ways:
            return generator.choice(ODD)
        *to, last = generator.choice(ways)
        holder = content
        for key in to:
            holder = holder[key]
        change = generator.randrange(6)
        if change == 0:
            del holder[last]
        elif change == 1 and isinstance(holder, dict):
            holder[generator.choice(["", "x", "task", "\x00", "é"])] = copy.deepcopy(generator.choice(ODD))
        elif change == 2:
            holder[last] = [holder[last]]
        elif change == 3:
            holder[last] = {"x": holder[last]}
        elif change == 4:  # a value that is right elsewhere
            other: Any = content
            for key in generator.choice(ways):
                other = other[key]
            holder[last] = copy.deepcopy(other)
        else:
            holder[last] = copy.deepcopy(generator.choice(ODD))
    return content


def scrambled_bytes(whole: bytes, generator: random.Random) -> bytes:
    """Bytes cut off, left out, overwritten, turned, moved, put in or doubled."""
    content = bytearray(whole)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(content) + 1)
        end = min(len(content), at + generator.randint(1, 16))
        change = generator.randrange(8)
        if change == 0:
            del content[at:]
        elif change == 1:
            del content[at:end]
        elif change == 2:
            content[at:end] = generator.randbytes(end - at)
        elif change == 3 and at < len(content):
            content[at] ^= 1 << generator.randrange(8)
        elif change == 4:
            content[at:at] = content[:at]
        elif change == 5:
            content[at:at] = generator.choice(
                [b"\xff", b"\x00", b"\n", b"\r\n", b'"', b"\\", b"9" * 400, b"[" * 200, b",", b"\t", "\u2028".encode()]
            )
        elif change == 6:
            content[at : at + 8] = struct.pack("<Q", generator.choice([0, 1, 2**31, 2**32, 2**63, 2**64 - 1]))
        else:
            content += whole[at:end]
    return bytes(content)
