"""Small files of a model that ask for much: refused by a child process under limits, before they are read here."""

import json
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from crispr_lm import InputError
from crispr_lm.cli.commands import main
from crispr_lm.model import vetting
from crispr_lm.model.load import open_model
from crispr_lm.model.vetting import check_replacements

from .documents import gguf_model
from .test_trust import change
from .trying import tried


@pytest.fixture
def folder(saved_model, tmp_path):
    """A model's folder, the test's own to spoil."""
    return Path(shutil.copytree(saved_model("llama"), tmp_path / "model"))


@pytest.fixture(autouse=True)
def _limits(monkeypatch):
    """Enough for a tiny model, little for a test that must take so much."""
    monkeypatch.setenv(vetting.MEMORY_VARIABLE, "0.3")
    monkeypatch.setenv(vetting.SECONDS_VARIABLE, "3")


def labels(folder):
    change(folder / "config.json", num_labels=10**9)


def attention(folder):
    config = {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "num_layers": 2, "hidden_size": 8,
              "vocab_size": 32, "num_heads": 2, "attention_types": [[["global"], 10**9]]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def replacements(folder, pattern="String", times=32):
    doubling = {"type": "Replace", "pattern": {pattern: "e"}, "content": "ee"}
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Sequence", "normalizers": [doubling] * times}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def prefix(folder):
    """Texts between special tokens begin with it, so that the more there are, the more a conversation takes."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Prepend", "prepend": "x" * 10**6}
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    template("{% for m in messages %}" + "<s>x" * 20 + "{{ m.content }}{% endfor %}")(folder)


def template(text):
    return lambda folder: (folder / "chat_template.jinja").write_text(text, encoding="utf-8")


DOUBLING = (
    "{% set x = namespace(y='0123456789') %}{% for _ in range(33) %}{% set x.y = x.y ~ x.y %}{% endfor %}{{ x.y }}"
)
BOMBS = {
    "labels": (labels, "configuration takes more than 0.3 GiB"),
    "attention": (attention, "configuration takes more than 0.3 GiB"),
    "replacements": (replacements, "tokenizer takes more than (0.3 GiB|3 seconds)"),  # as the load has it
    "prefix": (prefix, r"replacements of its tokenizer \(normalizer\) could make more than 1,000"),
    "doubling": (template(DOUBLING), "chat template takes more than 0.3 GiB"),
    "power": (template("{{ 9**(9**9) }}"), "chat template takes more than 3 seconds"),
    "loops": (template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
              "chat template takes more than 3 seconds"),
    "a later turn": (template("{% if messages[1:] %}" + DOUBLING + "{% endif %}"), "chat template takes more than 0.3"),
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_what_takes_much_is_refused_and_leaves_nothing_behind(folder, what, monkeypatch):
    spoil, sentence = BOMBS[what]
    if "seconds" not in sentence:  # so that a slow machine reaches the limit on memory first
        monkeypatch.setenv(vetting.SECONDS_VARIABLE, "60")
    assert open_model(folder)
    spoil(folder)
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError, match=sentence) as refused:
        open_model(folder)
    assert "\n" not in str(refused.value)
    assert psutil.Process().memory_info().rss - before < 0.2 * 2**30
    assert psutil.Process().children() == []
    tried(f"small file, large harm: {what}", refused=1)


@pytest.mark.slow
def test_a_fresh_process_does_the_same(folder, monkeypatch):
    monkeypatch.setattr("crispr_lm.model.vetting.sys.platform", "darwin")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv(vetting.MEMORY_VARIABLE, "1.5")  # with all that is imported
    monkeypatch.setenv(vetting.SECONDS_VARIABLE, "60")
    assert open_model(folder)
    template(DOUBLING)(folder)
    with pytest.raises(InputError, match=r"chat template takes more than 1\.5 GiB"):
        open_model(folder)


def test_the_template_of_a_gguf_file_is_tried_too(tmp_path):
    (tmp_path / "m.gguf").write_bytes(gguf_model())
    assert open_model(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(gguf_model(DOUBLING))
    with pytest.raises(InputError, match="chat template takes more than"):
        open_model(tmp_path / "m.gguf")


def test_the_command_ends_with_one_sentence_and_status_2(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(vetting.SECONDS_VARIABLE, "60")
    labels(folder)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder), "--task", "builtin:everyday", "--output", str(tmp_path / "out")])
    assert ended.value.code == 2
    message = capsys.readouterr().err.splitlines()
    assert message[-1].startswith(f"crispr-lm: model {folder}: its configuration takes more than 0.3 GiB")
    assert len([line for line in message if "Traceback" in line or line.startswith("crispr-lm:")]) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan", "inf", ""])
def test_limits_that_are_none_are_reported(folder, monkeypatch, value):
    monkeypatch.setenv(vetting.SECONDS_VARIABLE, value)
    with pytest.raises(InputError, match="CRISPR_LM_VETTING_SECONDS must be a positive number"):
        open_model(folder)


class Tokenizer:
    """What the check of replacements looks at."""

    def __init__(self, component, part):
        self.backend_tokenizer = self
        self.state = component
        setattr(self, part, self)

    def __getstate__(self):
        return json.dumps(self.state).encode()


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def in_turn(*components, name="normalizers"):
    return {"type": "Sequence", name: list(components)}


@pytest.mark.parametrize(
    ("component", "part"),
    [
        (in_turn(*[replace({"String": "\u1234"}, "ab")] * 10), "normalizer"),  # none of it is in what a child tries
        (in_turn(*[in_turn(replace({"Regex": "\u1234"}, "a"))] * 10), "normalizer"),
        (replace({"Regex": ""}, "a" * 1000), "normalizer"),
        (in_turn(*[replace({"String": "a"}, "bc")] * 10, name="decoders"), "decoder"),
        (in_turn(*[{"type": "ByteLevel"}] * 10, name="pretokenizers"), "pre_tokenizer"),
        ({"type": "Prepend", "prepend": "a" * 1000}, "normalizer"),
    ],
)
def test_replacements_that_multiply_are_refused_whatever_they_replace(component, part):
    with pytest.raises(InputError, match=f"replacements of its tokenizer \\({part}\\)"):
        check_replacements(Tokenizer(component, part), "m")


@pytest.mark.parametrize(
    "component",
    [
        replace({"String": " "}, "▁"),
        in_turn(replace({"String": "``"}, '"'), replace({"Regex": " {2,}"}, "▁"), {"type": "NFKD"}),
        in_turn({"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")),
        in_turn(*[replace({"String": "abc"}, "abc")] * 100),
        {"type": "ByteLevel"},
    ],
)
def test_those_of_published_tokenizers_are_not(component):
    check_replacements(Tokenizer(component, "normalizer"), "m")


def test_what_fails_in_the_child_is_reported_by_who_reads_it_again(folder):
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="no tokenizer that can be loaded"):
        open_model(folder)
