"""Nothing from data or model becomes markup: in Markdown as a parser reads it, in figures, in YAML."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from crispr_lm import Edit, Neuron
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.model.origin import ModelOrigin
from crispr_lm.report import figures, neuron_map, search_figures
from crispr_lm.report.card import card, model_index
from crispr_lm.report.transfer import columns_of, transfer_figure
from crispr_lm.report.words import escaped_markdown
from crispr_lm.storage.sanitize import STEERING, json_line

from .documents import RESULTS, scores
from .trying import trying

ATTACK = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>[a](javascript:alert(1)) ![b](http://evil) <http://evil> "
    "http://evil.example `code` &lt;b&gt; &#60;i&#62; | cell\n\n# headline\n---\n- item\n<!-- "
)
MARKUP_CHARACTERS = st.text(alphabet="\\`*_{}[]<>|#&~$!:/-+=.()'\"; \nabhtpw1@", max_size=40)

LINKED_BY_ITSELF = re.compile(r"www\.|://|@|mailto:|xmpp:", re.IGNORECASE)
"""What GitHub's Markdown, the hub's and others make links and mentions of in the text that is left of all markup."""


class Elements(HTMLParser):
    """The elements and the text of a document."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = self.linkable = ""
        self._code = False
        self.feed(document)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._code |= tag == "code"

    def handle_endtag(self, tag):
        self._code &= tag != "code"

    def handle_data(self, data):
        self.text += data
        self.linkable += "" if self._code else data

    def handle_comment(self, data):
        self.tags.append("comment")


def rendered(text: str) -> Elements:
    """As GitHub and the hub read it: with tables, strike-through and HTML."""
    return Elements(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def test_escaped_text_is_shown_as_it_is():
    @trying("markdown", 200)
    @given(MARKUP_CHARACTERS)
    def check(text):
        shown = rendered(f"x {escaped_markdown(text)} x")
        assert set(shown.tags) <= {"p", "code"}
        assert shown.tags.count("p") == 1
        assert " ".join(shown.text.split()) == " ".join(f"x {text} x".split())

    check()


@pytest.mark.parametrize(
    "text",
    [
        "see www.evil.example/a?b=c now",
        "WWW.EVIL.EXAMPLE",
        "http://evil.example",
        "write to someone@evil.example.",
        "mailto:someone@evil.example",
        "thanks to @someone and @some-team/members",
        "`@someone` \\@someone",
        "(www.evil.example)",
        "x|www.evil.example|y",
    ],
)
def test_no_word_becomes_a_link_or_a_mention_by_itself(text):
    for document in (f"x {escaped_markdown(text)} x", f"| a |\n| --- |\n| {escaped_markdown(text)} |\n"):
        shown = rendered(document)
        assert text in shown.text
        assert not LINKED_BY_ITSELF.search(shown.linkable)


def test_nor_does_any_other_text():
    parts = ["www.", "://", "@", "a", "`", "\\", " ", "|", "mailto:", "é", "<", "-"]

    @trying("markdown links", 200)
    @given(st.lists(st.sampled_from(parts)).map("".join))
    def check(text):
        assert not LINKED_BY_ITSELF.search(rendered(f"x {escaped_markdown(text)} x").linkable)

    check()


def test_a_cell_of_a_table_stays_one():
    @trying("markdown cell", 200)
    @given(MARKUP_CHARACTERS)
    def check(text):
        shown = rendered(f"| a | b |\n| --- | --- |\n| {escaped_markdown(text)} | y |\n")
        assert [tag for tag in shown.tags if tag != "code"] == [
            *["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
        ]

    check()


def test_a_card_has_the_elements_of_a_harmless_one():
    def card_of(text: str, number: object) -> str:
        results = json.loads(json.dumps(RESULTS))
        task = results["tasks"].pop("t")
        results["tasks"] = {f"choices:{text}": task | {"over_abstention": text, "examples": number}}
        results |= {"verdict": "none", "reason": text}
        edit = Edit(
            (Neuron(f"layers.{text}", 0, "ffn"),),
            origin={"reason": text},
            base_model={"architecture": text, "revision": text},
        )
        origin = ModelOrigin("owner/name", license="other", license_name=text, license_link=text, tags=(text,))
        return card("edit", edit, origin, results)

    hostile, harmless = card_of(ATTACK, ATTACK), card_of("text", "text")
    body = hostile.split("\n---\n", 1)[1]
    shown, expected = rendered(body), rendered(harmless.split("\n---\n", 1)[1])
    assert [tag for tag in shown.tags if tag != "code"] == [tag for tag in expected.tags if tag != "code"]
    assert "evil.example" not in shown.linkable
    metadata = yaml.safe_load(hostile.split("\n---\n", 1)[0].removeprefix("---\n"))
    assert ATTACK in metadata["tags"]
    assert metadata["license_name"] == ATTACK


def test_nothing_in_the_metadata_of_a_card_steers_and_the_hub_can_read_it():
    text = "Ann\u202egnp\x1b[2J\x9b"
    results = json.loads(json.dumps(RESULTS))
    results["tasks"] = {f"choices:{text}.jsonl": results["tasks"]["t"]}
    origin = ModelOrigin("owner/name", license="other", license_name=text, languages=(text,), tags=(text,))
    shown = "Ann\\u202egnp\\x1b[2J\\x9b"
    for made in (card("edit", Edit(()), origin, results), model_index(text, results, "after")):
        assert not STEERING.search(made.replace("\n", ""))
        data = ModelCard(made).data  # as the hub's own package reads it
        assert {found.dataset_config for found in data.eval_results} == {shown}
        assert all(found.dataset_name.endswith(shown) for found in data.eval_results)
    data = ModelCard(card("edit", Edit(()), origin, results)).data
    assert (data.license_name, data.language, data.tags[0]) == (shown, [shown], shown)


def test_no_label_of_a_figure_is_read_as_markup(tmp_path):
    (tmp_path / "scores.safetensors").write_bytes(scores())
    values = NeuronScores.load(tmp_path / "scores.safetensors").values["layers.0.down_proj"]
    of_module = NeuronScores({f"layers.0.{ATTACK}": values}, "ffn")
    drawn = [
        figures.before_after([(ATTACK, RESULTS["tasks"]["t"])]),
        neuron_map.neuron_map(of_module, [["ffn", f"layers.0.{ATTACK}", 1]], {}),
        search_figures.front([{"trial": trial, "complete": True, "gain": 0.1 * trial, "loss": 0.0, "neurons": trial,
                               "kl": 0.0, "recipe": {"ranking": ATTACK}} for trial in (0, 1)],
                             1, {"front": [1], "trial": 1}),
    ]  # fmt: skip
    attacked = {"edit": {"neurons": 1}, "tasks": {ATTACK: RESULTS["tasks"]["t"]}}
    drawn.append(transfer_figure(attacked, columns_of(attacked, [ATTACK])))
    for figure in drawn:
        text = json.dumps(json.loads(figure.to_json()))
        assert "&lt;script&gt;" in text
        for own in ("<br>", "<extra></extra>"):
            text = text.replace(own, "")
        assert "<" not in text


def test_json_on_a_line_is_json_and_yaml_and_steers_nothing():
    @trying("json line", 200)
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def check(text):
        line = json_line({"text": text})
        assert not STEERING.search(line)
        assert json.loads(line) == {"text": text} == yaml.safe_load(line)

    check()
