"""The report: what it says, that nothing from data becomes markup, that every tab and filter works in a browser."""

import json
import re

import numpy as np
import pytest
import torch

from crispr_lm import InputError
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.report.changed import changed_answers
from crispr_lm.report.figures import before_after
from crispr_lm.report.neuron_map import NeuronLines, layer_of, neuron_map
from crispr_lm.report.no_edit import tried
from crispr_lm.report.page import reevaluated, render_report, write_report
from crispr_lm.report.search_figures import curve, front, front_of_one
from crispr_lm.report.transfer import columns_of, transfer_figure
from crispr_lm.report.validation_rows import validation_rows
from crispr_lm.report.words import changes, signed
from crispr_lm.storage.sanitize import STEERING

from ..browser import check_tabs, kept_open, needs_axe, needs_browser, opened, serious_findings

ATTACK = "</script><script>window.hacked = 1</script><a href=http://evil>x</a><img src=x onerror='window.hacked = 1'>"


INKS = """[document.querySelector(".verdict"), document.querySelector("#figure-tasks .ytick text")]
  .map((element) => getComputedStyle(element)[element.tagName === "P" ? "color" : "fill"])"""
"""Colours of a page's text and of its figures' text."""


def difference(value, low=None, high=None, p_value=None):
    return {"value": value, "low": low, "high": high, "p_value": p_value, "p_value_holm": p_value}


def bias_task():
    before = {"accuracy": 0.25, "accuracy_ambiguous": 0.0, "accuracy_disambiguated": 0.5}
    after = {"accuracy": 0.45, "accuracy_ambiguous": 0.5, "accuracy_disambiguated": 0.4}
    return {
        "role": "bias",
        "family": "question_answering",
        "scoring": "sum",
        "examples": 8,
        "templates": 3,
        "few_templates": True,
        "instructions": 2,
        "without_stereotyped_option": 1,
        "before": before,
        "after": after,
        "difference": {name: after[name] - before[name] for name in before},
        "statistics": {
            "accuracy": difference(0.2, 0.1, 0.3, 0.25),
            "accuracy_ambiguous": difference(0.5, 0.25, 0.75, 0.02),
            "accuracy_disambiguated": difference(-0.1, -0.3, 0.1, 0.6),
        },
        "spread": {when: {name: {"std": 0.0, "worst": 0.0} for name in before} for when in ("before", "after")},
        "over_abstention": f"it abstains {ATTACK}",
        "breakdown": {
            "category": {
                name: {
                    "examples": 4,
                    "templates": 2,
                    "before": before,
                    "after": after,
                    "statistics": {"accuracy_ambiguous": difference(0.5), "accuracy_disambiguated": difference(-0.1)},
                    "spread": {
                        when: {metric: {"std": 0.0625, "worst": 0.0} for metric in before}
                        for when in ("before", "after")
                    },
                }
                for name in ("Age", ATTACK)
            }
        },
    }


def answer(answer, before, after, **further):
    return {
        "task": f"choices:{ATTACK}",
        "category": "Age",
        "condition": "ambiguous",
        "context": f"Context {ATTACK}",
        "question": "Who?",
        "options": ["Ann", ATTACK, "unknown"],
        "answer": answer,
        "unknown": 2,
        "stereotyped": 0,
        "scores": {"before": before, "after": after},
    } | further


ANSWERS = [
    answer(2, [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2),
    answer(0, [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2, condition="disambiguated", category="Religion"),
    answer(2, [[-1.0, -2.0, -3.0]] * 2, [[-1.0, -2.5, -3.0]] * 2, question="This one does not change."),
]


@pytest.fixture(scope="module", autouse=True)
def _one_browser():
    with kept_open():
        yield


@pytest.fixture(scope="module")
def page(make_page):
    return make_page(ANSWERS)


@pytest.fixture(scope="module")
def make_page():
    """Answers to the page of an otherwise fixed run."""
    return page_of


def page_of(answers, search=None, choice=None, prompts=(), **of_neurons):
    return render_report(*parts_of(answers, search, choice, prompts, **of_neurons))


def parts_of(answers, search=None, choice=None, prompts=(), **of_neurons):
    """Record, results, edit, answers and scores of a run."""
    scores = NeuronScores({f"layers.{layer}.down_proj": torch.arange(4.0) - layer for layer in range(3)}, "ffn")
    results = {
        "model": f"model {ATTACK}",
        "scoring": "sum",
        "verdict": "recommended",
        "reason": f"because {ATTACK}",
        "tasks": {
            f"choices:{ATTACK}": bias_task(),
            "builtin:knowledge": bias_task()
            | changed("question_answering", accuracy=(0.75, 0.5))
            | {
                "role": "capability",
                "over_abstention": None,
                "breakdown": {
                    "category": {
                        "words": changed("question_answering", accuracy=(0.625, 0.5))
                        | {
                            "examples": 3,
                            "spread": {when: {"accuracy": {"std": 0.125}} for when in ("before", "after")},
                        }
                    }
                },
            },
        },
        "divergence": {"kl": 0.01, "low": 0.005, "high": 0.02, "prompts": 3, "tokens": 24},
        "edit": {"neurons": 2, "kind": "ffn", "scale": 0.0, "per_module": {"layers.1.down_proj": 2}},
        "neurons": [
            {"module": "layers.1.down_proj", "index": index, "kind": "ffn", "score": 0.5, "promotes": [ATTACK, " he"]}
            | of_neurons
            for index in (2, 3)
        ],
        "search": [
            {"neurons": n, "metrics": {"t": {"accuracy_ambiguous": a, "accuracy_disambiguated": d}}}
            for n, a, d in ((0, 0.0, 0.5), (1, 0.2, 0.5), (2, 0.5, 0.4), (5, 0.4, 0.1))
        ],
        "saved_model": {"options_compared": 12, "largest_difference": 1e-6},
        "timings": {"load": 1.5},
    }
    results |= {} if search is None else {"search": search, "choice": choice}
    results |= {"prompts": prompts} if prompts else {}
    run = {
        "identity": {
            "crispr_lm": "0.1.0",
            "model": "owner/name",
            "model_fingerprint": "abc",
            "data": {ATTACK: "sha256:1"},
            "settings": {"task": [ATTACK], "search": "sweep", "seed": 0},
        },
        "revision": None,
        "first_prompt": {
            "source": ATTACK,
            "format": "chat",
            "place": "generation prompt",
            "prompt": ["<user>", ATTACK, "\n", " answer", ":"],
            "options": [[" he", ATTACK], [" she\n"]],
        },
        "device": "cpu",
        "versions": {"python": "3.11"},
        "parts": {f"choices:{ATTACK}": {}},
    }
    edit = {"neurons": [["ffn", "layers.1.down_proj", i] for i in (2, 3)], "origin": {"scores": "sha256:2"}}
    return run, results, edit, answers, scores


def test_nothing_from_data_or_model_becomes_markup(page):
    without_library = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "window.hacked = 1</script>" not in page
    assert "<img" not in without_library
    assert without_library.count("<script") == 1 + len(re.findall(r'id="data-figure-', page))


def test_the_page_shows_a_prompt_token_by_token_and_marks_what_is_scored(page):
    shown = page.split("What the model saw")[1]
    assert "<span>&lt;user&gt;</span>" in shown
    assert "<span>⏎\n</span><span> answer</span><span>:</span><mark> he</mark>" in shown
    assert "<mark> she⏎\n</mark>" in shown


def test_no_text_of_others_turns_round_or_controls_what_is_shown(monkeypatch, make_page):
    monkeypatch.setitem(globals(), "ATTACK", "Ann\u202egnp.exe\u061c\x1b[2J\x9b")
    answers = [answer(2, [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2)]
    page = re.sub(r"<script>.*?</script>", "", make_page(answers), flags=re.DOTALL)  # not Plotly
    assert not STEERING.search(page.replace("\n", "").replace("\t", ""))
    assert "Ann\\u202egnp.exe\\u061c\\x1b[2J\\x9b" in page
    assert '"Ann\\\\u202egnp' in page  # in the examples, as JSON


def test_the_page_needs_nothing_from_elsewhere(page):
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:|#)""", outside)
    assert "default-src 'none'" in page


def test_a_page_without_random_neurons_says_so(page):
    assert "compares with no random neurons" in page


def test_the_page_says_both_halves_and_the_warning(page):
    assert "0% to 50% right on ambiguous questions (+50 points, 95 % interval +25 to +75)" in page
    assert "50% to 40% right on disambiguated questions (-10 points, 95 % interval -30 to +10)" in page
    assert "Over-abstention" in page
    assert "intervals may be too narrow" in page


def test_parts_of_a_task_without_conditions_are_shown_by_their_accuracy(page):
    row = re.search(r"<tr><td>words</td>.*?</tr>", page)[0]
    assert re.findall(r"<td>(.*?)</td>", row) == ["words", "3", "0.625 ± 0.125", "0.500 ± 0.125", "-", "-"]


def test_neurons_without_scores_have_no_column_for_them_and_the_page_says_why(page):
    assert "<th>Score</th>" in page
    assert "Scores are of" not in page
    other = page_of(ANSWERS, kind="linear", score=None, promotes=[])
    assert "<th>Score</th>" not in other
    assert "Promotes</th>" not in other
    assert "Scores are of ffn neurons" in other


def test_prompts_of_the_users_own_stand_before_and_after_and_only_then_there_is_a_tab(make_page, page):
    rows = [
        {"prompt": f"Who? {ATTACK}", "logged": "", "before": "She.", "after": after, "changed": changed}
        for after, changed in (("They.", True), ("She.", False))
    ]
    shown = make_page(ANSWERS, prompts=rows)
    assert "1 of 2 answers changed." in shown
    assert "They.</td>" in shown
    assert "Answer in the log" not in shown
    assert "Answer in the log" in make_page(ANSWERS, prompts=[rows[0] | {"logged": "He."}])
    assert "Your prompts" not in page
    assert "<img" not in re.sub(r"<script>.*?</script>", "", shown, flags=re.DOTALL)


def test_only_changed_answers_are_listed_the_worse_first():
    found = changed_answers(ANSWERS)
    assert [(example["change"], example["condition"]) for example in found] == [
        ("worse", "disambiguated"),
        ("better", "ambiguous"),
    ]
    # exp(-1), exp(-2), exp(-3) in shares of their sum.
    assert found[0]["before"] == pytest.approx([0.6652, 0.2447, 0.0900], abs=1e-4)
    assert found[0]["after"] == pytest.approx([0.2447, 0.0900, 0.6652], abs=1e-4)


def test_answers_that_match_no_option_are_listed_too():
    nothing = answer(0, [[0.0, None, None]], [[None, None, None]])
    (found,) = changed_answers([nothing])
    assert (found["change"], found["before"], found["after"]) == ("worse", [1.0, 0.0, 0.0], [0.0, 0.0, 0.0])


def test_the_front_holds_what_nothing_else_beats_in_both():
    rows = [
        {"neurons": n, "metrics": {"t": {"accuracy_ambiguous": a, "accuracy_disambiguated": d}}}
        for n, a, d in ((0, 0.0, 0.5), (1, 0.2, 0.5), (2, 0.5, 0.4), (5, 0.4, 0.1))
    ]
    off_it, on_it, chosen = front(rows, 2).data
    assert list(on_it.text) == ["1 neuron", "2 neurons"]
    assert list(off_it.text) == ["original", "5 neurons"]
    assert (chosen.x[0], chosen.y[0]) == (pytest.approx(-0.1), pytest.approx(0.5))
    assert list(curve(rows).data[0].y) == [0.0, 0.2, 0.5, 0.4]


def test_the_front_of_a_tuned_search_is_the_one_that_it_found():
    rows = [
        {"trial": n, "neurons": count, "gain": gain, "loss": loss, "kl": 0.01 * n, "complete": n != 2, "recipe": {}}
        for n, (count, gain, loss) in enumerate([(0, 0.0, 0.0), (4, 0.2, 0.01), (9, 0.9, 0.0), (9, 0.3, 0.1)])
    ]
    rows[3]["recipe"] = {"ranking": "contrast"}
    off_it, on_it, chosen = front(rows, 9, {"trial": 3, "front": [3, 1]}).data
    assert [text.split(",")[0] for text in on_it.text] == ["trial 1: 4 neurons", "trial 3: 9 neurons"]
    assert list(off_it.text) == ["trial 0: original, KL 0.000"]
    assert on_it.text[1] == "trial 3: 9 neurons, KL 0.030, contrast"
    assert (chosen.x[0], chosen.y[0]) == (-0.1, 0.3)  # a loss is drawn as a negative change
    assert str(on_it.x[0]) == "-0.01"
    assert str(off_it.x[0]) == "0.0"  # never -0


def test_the_curve_of_a_tuned_search_has_the_best_trial_of_each_number_and_no_control():
    figures = [(0, 0.0, 0.0, "search"), (9, 0.3, 0.2, "search"), (9, 0.2, 0.0, "refine"), (4, 0.1, -0.05, "search")]
    rows = [
        {"trial": n, "neurons": count, "gain": gain, "loss": loss, "kl": 0.0, "complete": True, "recipe": {}}
        | {"stage": at}
        for n, (count, gain, loss, at) in enumerate(figures)
    ]
    rows += [{**rows[1], "gain": 0.9, "complete": False}, {**rows[1], "neurons": 5, "stage": "control"}]
    ambiguous, disambiguated = curve(rows).data
    assert list(ambiguous.x) == pytest.approx([0.0, np.log2(5), np.log2(10)])
    assert list(ambiguous.y) == [0.0, 0.1, 0.2]
    assert list(disambiguated.y) == [0.0, 0.05, 0.0]
    assert ambiguous.text[2].startswith("trial 2: 9 neurons")
    (accuracy,) = curve(rows, halves=False).data  # questions without conditions have one accuracy
    assert (accuracy.name, list(accuracy.y)) == ("accuracy", [0.0, 0.1, 0.2])
    assert curve(rows[:3]) is None  # the original and one number are no curve


def test_the_curve_has_its_numbers_on_a_logarithmic_axis_with_round_ones_named():
    rows = [
        {"neurons": n, "metrics": {"t": {"accuracy_ambiguous": 0.5, "accuracy_disambiguated": 0.5}}}
        for n in (0, 1, 3, 7, 31, 1023)
    ]
    drawn = curve(rows)
    assert list(drawn.data[0].x) == [0.0, 1.0, 2.0, 3.0, 5.0, 10.0]  # of one more than the number: base 2
    named = ["0", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"]
    assert list(drawn.layout.xaxis.ticktext) == named
    assert [round(2**place - 1) for place in drawn.layout.xaxis.tickvals] == [int(name) for name in named]


def test_a_search_without_conditions_has_no_front():
    rows = [{"neurons": 0, "metrics": {"t": {"accuracy": 0.5}}}]
    assert front(rows, 0) is None
    assert curve(rows) is None


def test_intervals_are_drawn_around_the_after_value():
    *_, before, after = before_after([("bbq:/a/b/Age.jsonl", bias_task())]).data
    assert list(before.x) == [0.0, 0.5]
    assert list(after.x) == [0.5, 0.4]
    assert list(after.error_x.array) == pytest.approx([0.25, 0.2])
    assert list(after.error_x.arrayminus) == pytest.approx([0.25, 0.2])
    assert list(after.y) == ["bbq:Age.jsonl, ambiguous", "bbq:Age.jsonl, disambiguated"]


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("model.layers.12.mlp.down_proj", (12, "mlp.down_proj")),
        ("transformer.h.3.attn.c_attn", (3, "attn.c_attn")),
        ("encoder.block.0.layer.1.DenseReluDense.wo", (0, "encoder layer.1.DenseReluDense.wo")),
        ("decoder.block.2.layer.0.SelfAttention.q", (2, "decoder layer.0.SelfAttention.q")),
        ("project_in", (-1, "project_in")),
    ],
)
def test_layer_and_module_are_separated(module, layer):
    assert layer_of(module) == layer


def test_every_cell_of_the_map_names_its_strongest_neuron_and_the_edited_ones():
    scores = NeuronScores({f"layers.{n}.mlp.down_proj": torch.tensor([0.0, 1.0 + n]) for n in range(2)}, "ffn")
    edited = [["ffn", "layers.0.mlp.down_proj", 1], ["linear", "layers.1.attn.q_proj", 3]]
    described = {
        ("ffn", "layers.0.mlp.down_proj"): NeuronLines(["unit 1: score 1, promotes ' he'"], ["unit 1: score 1"]),
        ("linear", "layers.1.attn.q_proj"): NeuronLines([], ["unit 3"]),
    }
    figure = neuron_map(scores, edited, described)
    (heat,) = figure.data
    # A search may take neurons of another kind than the scores are of: they have a row, and no colour.
    assert list(heat.y) == ["mlp.down_proj", "attn.q_proj (linear neurons)"]
    assert [[None if value != value else value for value in row] for row in heat.z] == [[1.0, 2.0], [None, None]]
    assert "promotes ' he'" in heat.customdata[0][0]
    assert "unit 1: score 2" in heat.customdata[0][1]
    assert "unit 3" in heat.customdata[1][1]
    assert [(note.x, note.y, note.text) for note in figure.layout.annotations] == [
        ("0", "mlp.down_proj", "1"),
        ("1", "attn.q_proj (linear neurons)", "1"),
    ]


def test_rows_of_another_kind_of_neurons_stand_below_in_the_order_of_their_names():
    scores = NeuronScores({"layers.0.mlp.down_proj": torch.tensor([0.0, 1.0])}, "ffn")
    found = ("layers.0.self_attn.v_proj", "layers.0.mlp.up_proj", "layers.0.self_attn.k_proj", "layers.0.mlp.gate_proj")
    rows = neuron_map(scores, [["linear", module, 0] for module in found], {}).data[0].y
    names = ("mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert list(rows) == ["mlp.down_proj", *(f"{name} (linear neurons)" for name in names)]


def test_the_transfer_matrix_has_a_column_per_edit_and_a_row_per_figure_of_every_bias_task():
    one, other, pairs = "bbq:/data/Age.jsonl", "bbq:/data/Religion.jsonl", "crows_pairs:/data/pairs.csv"
    tasks = {name: bias_task() for name in (one, other)}
    tasks[pairs] = {"role": "bias"} | changed("crows_pairs", stereotype_preference=(0.75, 0.5))
    tasks["builtin:knowledge"] = {"role": "capability"} | changed("question_answering", accuracy=(0.75, 0.5))
    worse = changed("question_answering", accuracy_ambiguous=(0.0, 0.0), accuracy_disambiguated=(0.5, 0.25))
    alone = {"neurons": [["ffn", "m", 0]], "tasks": {one: worse, other: bias_task(), pairs: tasks[pairs]}}
    results = {"edit": {"neurons": 5}, "tasks": tasks, "transfer": {other: alone, one: alone | {"neurons": []}}}
    columns = columns_of(results, [one, other])
    assert [(column.found_on, column.neurons) for column in columns] == [((one, other), 5), ((other,), 1)]
    figure = transfer_figure(results, columns)
    assert figure.layout.xaxis.ticktext == (
        "found on both together<br>5 neurons",
        "found on bbq:Religion.jsonl<br>1 neuron",
    )
    assert figure.layout.yaxis.ticktext[0] == "bbq:Age.jsonl<br>ambiguous"
    assert [text for text in figure.layout.yaxis.ticktext if "knowledge" in text] == []
    # Colour: better is positive, also where less is better; the text is the plain difference.
    assert [list(row) for row in figure.data[0].z] == [
        pytest.approx(row) for row in ([0.5, 0.0], [-0.1, -0.25], [0.5, 0.5], [-0.1, -0.1], [0.25, 0.25])
    ]
    found = {(note.x, note.y): note.text for note in figure.layout.annotations}
    assert found[0, 0] == "+0.500 (+0.250 to +0.750)"
    assert found[1, 1] == "-0.250"
    assert found[0, 4] == "-0.250"
    framed = {(round((shape.x0 + shape.x1) / 2), round((shape.y0 + shape.y1) / 2)) for shape in figure.layout.shapes}
    assert framed == {(0, 0), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3)}
    assert "not found on it" in figure.data[0].customdata[4][0]
    tested, untested = figure.data[0].customdata[0][0], figure.data[0].customdata[4][0]
    assert tested.endswith("+0.500 (+0.250 to +0.750); p = 0.020")
    assert untested.endswith("-0.250")
    assert transfer_figure(results, columns_of({"edit": {"neurons": 0}, "tasks": tasks}, [one])) is None


def test_how_many_edits_were_tried_is_said_with_those_stopped_early():
    sweep = [{"neurons": count} for count in (0, 1, 2)]
    assert tried(sweep) == "2 edits tried, of 1 to 2 neurons."
    rows = [{"neurons": 0, "complete": True}, *({"neurons": 5, "complete": done} for done in (True, False, False))]
    judging = [{"neurons": 5, "complete": True, "stage": stage} for stage in ("final", "control")]
    assert tried([*rows, *judging]).startswith("3 edits tried, of 5 neurons; 2 of them stopped early")


def of_final_heat():
    """The rows and the choice of a search with two re-evaluated candidates."""
    found = {"complete": True, "scale": 0.0, "overabstention": 0.1, "kl": 0.02}
    rows = [
        {"trial": n, "stage": stage, "neurons": neurons, "gain": gain, "loss": loss, "recipe": recipe, **found}
        for n, (stage, neurons, gain, loss, recipe) in enumerate(
            [
                ("search", 0, 0.0, 0.0, {}),
                ("rounds", 4, 0.625, 0.0, {"ranking": "pursuit in passes"}),
                ("refine", 9, 0.875, 0.03125, {"change": "5 added"}),
                ("final", 0, 0.0, 0.0, {"of": 0}),
                ("final", 9, 0.75, 0.125, {"of": 2}),
                ("final", 4, 0.5, 0.0625, {"of": 1}),
                ("control", 4, 0.015625, 0.0, {"like": 5}),
            ]
        )
    ]
    choice = {"trial": 1, "front": [2, 1, 0], "finals": [3, 4, 5], "control": 6}
    over = {"value": 0.484375, "p_value": 0.0078125, "questions": 60, "templates": 20, "edits": 2, "further": True}
    return rows, choice | {"gain_over_random": over}


def test_re_evaluated_candidates_are_shown_on_the_first_and_on_all_questions():
    rows, choice = of_final_heat()
    found = reevaluated({"search": rows, "choice": choice})
    assert [(row["tried"]["trial"], row["again"]["trial"]) for row in found] == [(2, 4), (1, 5)]
    page = page_of(ANSWERS, search=rows, choice=choice)
    assert "In all, within the limits or not: 2 edits tried" in page  # the reason counts those within them
    (table,) = re.findall("<h2>Re-evaluation of the top candidates</h2>.*?</table>", page, re.DOTALL)
    cells = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr><td>.*?</tr>", table)]
    assert [row[:6] for row in cells] == [
        ["2", "9", "+0.875", "+0.750", "-0.031", "-0.125"],
        ["1 (taken)", "4", "+0.625", "+0.500", "+0.000", "-0.062"],
    ]
    assert "Re-evaluation of the top candidates" not in page_of(ANSWERS)


def test_the_edit_its_control_and_the_original_are_compared_on_the_same_questions():
    rows, choice = of_final_heat()
    results = {"search": rows, "choice": choice, "verdict": "recommended"}
    found = [(row["name"], row["trial"], row["gain"]) for row in validation_rows(results)]
    assert found == [("original", 3, 0.0), ("random neurons", 6, 0.015625), ("crispr-lm search", 5, 0.5)]
    choice["published"] = 2  # as it was re-evaluated
    assert ("published ranking", 4) in [(row["name"], row["trial"]) for row in validation_rows(results)]
    del choice["finals"]
    rows[6]["recipe"] = {"like": 1}
    assert [row["trial"] for row in validation_rows(results)] == [0, 6, 4, 1]


def test_re_evaluations_are_no_points_of_the_front_and_the_curve():
    rows, choice = of_final_heat()
    page = page_of(ANSWERS, search=rows, choice=choice)
    assert "trial 2: 9 neurons" in page
    assert not re.search("trial [3-6]: ", page)


def changed(family, **figures):
    """A task of which some figures are known, before and after."""
    before, after = ({name: pair[when] for name, pair in figures.items()} for when in (0, 1))
    found = {name: difference(new - old) for name, (old, new) in figures.items()}
    return {"family": family, "before": before, "after": after, "statistics": found}


def test_a_change_is_described_by_what_leads_the_metrics_of_its_task():
    assert changes(changed("question_answering", accuracy=(0.5, 0.75))) == "50% to 75% right (+25 points)"
    winobias = changed("winobias", accuracy=(0.5, 0.5), stereotype_gap=(0.25, 0.125))
    assert changes(winobias) == "Gap, with minus against (0 is unbiased) 0.25 to 0.12 (-12 points)"
    pairs = changed("crows_pairs", stereotype_preference=(0.75, 0.5))
    assert changes(pairs) == "Prefers the more stereotyping sentence (0.5 is unbiased) 0.75 to 0.50 (-25 points)"


def test_long_names_leave_room_and_stay_apart():
    names = [f"a task with a name that is a good deal too long to stand beside a figure, number {n}" for n in (1, 2)]
    figure = before_after([(name, changed("question_answering", accuracy=(0.5, 0.75))) for name in names])
    assert list(figure.data[-1].y) == [f"{name}, all questions" for name in names]
    assert figure.layout.yaxis.ticktext == tuple(f"a task with a name th…umber {n}, all questions" for n in (1, 2))


def test_tasks_without_conditions_are_drawn_by_what_leads_their_metrics():
    tasks = [("winobias:x", changed("winobias", accuracy=(0.5, 0.5), stereotype_gap=(-0.25, 0.125)))]
    tasks += [("builtin:knowledge", changed("question_answering", accuracy=(0.75, 0.5)))]
    tasks += [("wikitext:y", changed("perplexity", perplexity=(20.0, 30.0)))]
    figure = before_after(tasks)
    *_, before, after = figure.data
    assert list(before.y) == ["winobias:x, stereotype gap", "builtin:knowledge, all questions"]
    assert (list(before.x), list(after.x)) == ([-0.25, 0.75], [0.125, 0.5])
    assert figure.layout.xaxis.range[0] < -0.25
    assert figure.layout.xaxis.title.text == "share"


@pytest.mark.parametrize(("value", "found"), [(-0.0004, "+0.000"), (-0.0006, "-0.001"), (0.25, "+0.250")])
def test_a_difference_of_nothing_has_no_minus(value, found):
    assert signed(value) == found


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"run\.json can't be read"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="not what a run writes"):
        write_report(tmp_path)


@pytest.mark.browser
@needs_browser
def test_every_tab_and_filter_works_in_a_browser(page, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with opened(file.as_uri(), ["file:", "data:", "blob:"]) as (tab, problems):
        tab.click('nav button[data-tab="neurons"]')
        tab.locator("#figure-neurons .nsewdrag").wait_for()
        tab.hover("#figure-neurons .nsewdrag")
        found = tab.locator("#figure-neurons .hoverlayer text").first.text_content(timeout=5000)
        assert "edited (2)" in found
        assert "promotes" in found
        check_tabs(tab, ("tables", "search", "neurons", "transfer", "answers", "record", "glossary", "summary"))
        tab.click('nav button[data-tab="answers"]')
        cards = tab.locator(".example")
        assert cards.count() == 2
        assert "script" in cards.first.inner_text()  # shown as text
        tab.select_option("#filter-change", "better")
        assert cards.count() == 1
        tab.select_option("#filter-condition", "disambiguated")
        assert cards.count() == 0
        tab.select_option("#filter-change", "")
        assert cards.count() == 1
        tab.select_option("#filter-condition", "")
        tab.select_option("#filter-category", "Age")
        assert cards.count() == 1
        tab.select_option("#filter-category", "")
        tab.fill("#filter-text", "no such words")
        assert cards.count() == 0
        assert tab.inner_text("#count").startswith("0 of 2")
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("a[href*=evil], a[*|href*=evil], img").count() == 0  # in a figure's SVG neither
        assert problems == []


@pytest.mark.browser
@needs_browser
def test_a_dark_page_is_printed_dark_on_white_and_whole(page, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with opened(file.as_uri(), ["file:", "data:", "blob:"], color_scheme="dark") as (tab, problems):
        tab.locator("#figure-tasks .ytick text").first.wait_for()
        on_screen = tab.evaluate(INKS)
        tab.emulate_media(media="print", color_scheme="dark")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        on_paper = tab.evaluate(INKS)
        assert on_screen == ["rgb(230, 233, 238)"] * 2
        assert on_paper == ["rgb(28, 36, 48)"] * 2
        assert tab.locator("main > section:visible").count() == 8
        tab.emulate_media(media="screen", color_scheme="dark")
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.evaluate(INKS) == on_screen
        assert tab.locator("main > section:visible").count() == 1
        assert problems == []


@pytest.mark.browser
@needs_browser
def test_a_narrow_screen_shows_figures_and_the_page_does_not_scroll(page, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    with opened(file.as_uri(), ["file:", "data:", "blob:"], viewport={"width": 360, "height": 740}) as (tab, _):
        tab.locator("#figure-tasks .main-svg").first.wait_for()
        # Names stand above their rows, so that the whole width is left for what is drawn.
        assert tab.evaluate("document.querySelector('#figure-tasks .main-svg').getBoundingClientRect().width") <= 320
        assert tab.evaluate("document.querySelector('#figure-tasks .nsewdrag').getBoundingClientRect().width") >= 200
        for what in (".annotation-text", ".xtick text"):
            widths = (
                f"[...document.querySelectorAll('#figure-tasks {what}')].map((x) => x.getBoundingClientRect().width)"
            )
            assert sum(width > 0 for width in tab.evaluate(widths)) >= 2, what
        for name in ("tables", "search", "neurons", "transfer", "answers", "record", "glossary"):
            tab.click(f'nav button[data-tab="{name}"]')
            assert tab.evaluate("document.documentElement.scrollWidth") == 360, name


def one_accuracy(trial, neurons, gain, kl):
    return {
        "trial": trial, "neurons": neurons, "gain": gain, "loss": 0.0, "kl": kl, "recipe": {}, "complete": True,
    }  # fmt: skip


def test_a_task_without_conditions_has_a_front_of_gain_and_divergence():
    rows = [one_accuracy(0, 0, 0.0, 0.0), one_accuracy(1, 3, 0.2, 0.05), one_accuracy(2, 9, 0.1, 0.3)]
    drawn = front_of_one(rows, {"trial": 1, "front": [0, 1]})
    tried_points, best, chosen = drawn.data
    assert (list(tried_points.x), list(tried_points.y)) == ([0.3], [0.1])
    assert (list(best.x), list(best.y)) == ([0.0, 0.05], [0.0, 0.2])
    assert (list(chosen.x), list(chosen.y), chosen.name) == ([0.05], [0.2], "chosen: 3 neurons")
    assert front_of_one(rows[:1], {"trial": 0, "front": [0]}) is None  # the original alone is no front


MANY = 5200


@pytest.fixture(scope="module")
def crowded(make_page):
    """A page of more changed answers than it carries; one of each hundred has become worse; one is long, one Arabic."""
    wrong, right = [[-1.0, -2.0, -3.0]] * 2, [[-2.0, -3.0, -1.0]] * 2
    answers = [
        answer(2, wrong, right, question=f"Question {number}?", context="Long. " * 300) for number in range(MANY)
    ]
    for row in answers[::100]:
        row["scores"] = {"before": right, "after": wrong}
        row["question"] = "من تأخر؟"
    return make_page(answers)


def test_a_page_says_how_many_answers_it_leaves_out(crowded, page):
    content = crowded
    carried = json.loads(re.search(r'id="data-examples">(.*?)</script>', content, re.DOTALL)[1])
    assert len(carried) == 5000
    assert "5200 answers have changed; this page carries 5000 of them" in content
    assert sum(example["change"] == "worse" for example in carried) == 50  # of 52: its share
    assert "answers have changed; this page carries" not in page


@pytest.mark.browser
@needs_browser
def test_thousands_of_changed_answers_can_be_read_with_the_keyboard_and_from_right_to_left(crowded, tmp_path):
    (tmp_path / "report.html").write_text(crowded, encoding="utf-8")
    address = (tmp_path / "report.html").as_uri()
    with opened(address, ["file:", "data:", "blob:"]) as (tab, problems):
        tab.focus("#tab-summary")
        tab.keyboard.press("ArrowLeft")
        assert tab.locator("#glossary").is_visible()  # around the end
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowLeft")
        assert tab.evaluate("document.activeElement.id") == "tab-answers"
        assert tab.locator("#answers[role=tabpanel][aria-labelledby=tab-answers]").is_visible()
        assert tab.locator(".example").count() == 40
        assert tab.locator("#count").inner_text() == "5000 of 5000 changed answers"
        tab.fill("#filter-text", "تأخر")
        assert tab.locator("#count").inner_text() == "50 of 5000 changed answers"
        arabic = tab.locator(".example p", has_text="تأخر").first
        assert arabic.evaluate("element => getComputedStyle(element).direction") == "rtl"
        details = tab.locator(".example details").first
        assert details.locator("p").is_hidden()
        details.locator("summary").click()
        assert details.locator("p").is_visible()
        assert problems == []


@pytest.fixture
def file(page, tmp_path):
    made = tmp_path / "report.html"
    made.write_text(page, encoding="utf-8")
    return made


EVERYTHING = "dispatchEvent(new Event('beforeprint'))"
"""Shows all tabs at once."""

WIDER = """[...document.querySelectorAll(".wide:has(table)")].filter((wide) => wide.scrollWidth > wide.clientWidth)
  .map((wide) => wide.innerText.slice(0, 60))"""
"""Tables that are cut off."""


@pytest.mark.browser
@needs_browser
def test_places_are_linked_tables_are_whole_and_figures_and_tables_are_exported(file):
    allowed = ["file:", "data:", "blob:"]
    with opened(f"{file.as_uri()}#answers?id=1", allowed, viewport={"width": 1440, "height": 900}) as (tab, problems):
        assert tab.locator(".example").count() == 1
        assert "better" in tab.inner_text(".example .tags >> nth=0")
        tab.click("#all")
        tab.wait_for_function("document.querySelectorAll('.example').length === 2")  # once the address has changed
        assert tab.locator(".example").count() == 2
        tab.evaluate("location.hash = '#neurons?id=2'")
        tab.locator("#neuron-2.found").wait_for()
        assert tab.locator("#tab-neurons").get_attribute("aria-selected") == "true"
        tab.click('nav button[data-tab="summary"]')
        assert tab.evaluate("location.hash") == "#summary"
        tab.evaluate("location.hash = '#answers?id=99999'")
        tab.get_by_text("This page has no changed answer 99999.").wait_for()
        tab.click('nav button[data-tab="summary"]')
        tab.focus(".check .term >> nth=0")  # by keyboard, too, terms are explained where they stand
        assert tab.locator(".check .meaning >> nth=0").is_visible()
        with tab.expect_download() as picture:
            tab.click("#summary .export button >> nth=0")
        assert picture.value.suggested_filename == "figure-tasks.png"
        with tab.expect_download() as table:
            tab.click("#summary .export button >> nth=1")
        header, first, *_ = table.value.path().read_text(encoding="utf-8").splitlines()
        assert header == "series,x,y,value,text"
        assert first.startswith("before,0,")
        tab.click('nav button[data-tab="tables"]')
        with tab.expect_download() as table:
            tab.click("#tables .export button >> nth=0")
        assert table.value.path().read_text(encoding="utf-8").startswith("Metric,Before,After,Difference,95 % interval")
        tab.evaluate(EVERYTHING)
        assert tab.evaluate(WIDER) == []
        assert problems == []


@pytest.mark.browser
@needs_browser
@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(file, scheme):
    with opened(file.as_uri(), ["file:", "data:", "blob:"], color_scheme=scheme) as (tab, _):
        check_tabs(tab, ("search", "neurons", "transfer", "summary"))
        tab.evaluate("document.querySelectorAll('main > section').forEach((section) => { section.hidden = false; })")
        assert serious_findings(tab) == []


@pytest.mark.browser
@needs_browser
def test_on_a_phone_nothing_lies_over_a_legend_and_the_page_is_no_wider_than_the_screen(file):
    size = {"width": 390, "height": 800}
    with opened(file.as_uri(), ["file:", "data:", "blob:"], viewport=size) as (tab, _):
        tab.locator("#figure-tasks .legend").wait_for()
        assert tab.locator(".modebar-btn").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        tab.click('nav button[data-tab="search"]')
        for part in ("legend", "xtitle"):
            box = tab.locator(f"#figure-front .{part}").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 390
