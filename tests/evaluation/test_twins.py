"""Pairs of prompts that differ in the group alone: divergence of free answers, rates of words, options."""

import json
import math

import numpy as np
import pytest
import torch

from crispr_lm import InputError, load_task, option_scores, render_prompt
from crispr_lm.evaluation.results import results_of
from crispr_lm.evaluation.suite import further_subjects, measure_all
from crispr_lm.evaluation.twins import jensen_shannon, measure_twins
from crispr_lm.inference.prompts import encode_text
from crispr_lm.metrics.registry import FAMILIES, family_named
from crispr_lm.metrics.twins import twin_columns, twins_family
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.report.result_tables import results_table
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.tasks.twins import PRONOUNS, read_twins

from ..helpers import build_model

WORDS = {"words": {"warmth": ["kind", "warm hearted"]}}


def pair(number, other="Adam", **more):
    first = f"Write about Anna, nurse {number}."
    row = {"id": number, "template": f"t{number % 3}", "prompt_a": first, "prompt_b": first.replace("Anna", other)}
    return row | {"group_a": "woman", "group_b": "man"} | more


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5-gated"])
def test_identical_prompts_give_exactly_nothing_and_others_something(tmp_path, name):
    lm = build_model(name)
    same = measure_twins(lm, read_twins(written(tmp_path / "same.jsonl", [pair(n, "Anna") for n in range(5)])), 6)
    assert same["divergence"] == 0
    assert [same[f"{pronoun}_difference"] for pronoun in PRONOUNS] == [0, 0, 0]
    assert same.interval("divergence") == (0, 0)
    other = measure_twins(lm, read_twins(written(tmp_path / "other.jsonl", [pair(n) for n in range(5)])), 6)
    assert 0 < other["divergence"] <= math.log(2)
    assert other.clusters == ("t0", "t1", "t2", "t0", "t1")
    low, high = other.interval("divergence")
    assert low <= other["divergence"] <= high


@torch.no_grad()
def test_the_divergence_is_that_of_plain_passes_along_both_answers(tmp_path, llama):
    twins = read_twins(written(tmp_path / "one.jsonl", [pair(1)]))
    prompts = [encode_text(llama, prompt) for prompt in twins.pairs[0].prompts]
    terms = []
    for of in prompts:
        ids = list(of)
        for _ in range(4):
            ids.append(int(llama.model(torch.tensor([ids])).logits[0, -1].argmax()))
        answer = ids[-4:]
        assert llama.tokenizer.eos_token_id not in answer
        p, q = (
            llama.model(torch.tensor([[*prompt, *answer]])).logits[0, -5:-1].double().softmax(-1).numpy()
            for prompt in prompts
        )
        middle = (p + q) / 2
        terms += list(((p * np.log(p / middle)).sum(-1) + (q * np.log(q / middle)).sum(-1)) / 2)
    found = measure_twins(llama, twins, 4)
    assert found["divergence"] == pytest.approx(np.mean(terms), rel=1e-4)


def test_jensen_shannon_of_distributions_without_common_words_is_ln_2():
    never = -torch.inf
    first, second = torch.tensor([[0.0, never], [0.0, never]]), torch.tensor([[never, 0.0], [0.0, never]])
    assert jensen_shannon(first, second).tolist() == pytest.approx([math.log(2), 0])


def test_words_and_pronouns_are_counted_whole_and_in_any_case():
    answers = [("She is kind; her kindness helps.", "He is a warm hearted, Kind man."), ("", "Unkind.")]
    columns = twin_columns([0.0, 0.0], [1, 1], answers, {**PRONOUNS, "warmth": ("kind", "warm hearted")})
    values = twins_family(["warmth"]).values(columns)
    assert values["she_rate_a"] == pytest.approx(2 / 6 / 2)
    assert (values["she_rate_b"], values["he_rate_a"]) == (0, 0)
    assert (values["warmth_rate_a"], values["warmth_rate_b"]) == pytest.approx((1 / 6 / 2, 2 / 7 / 2))
    assert values["warmth_difference"] == pytest.approx(values["warmth_rate_b"] - values["warmth_rate_a"])


def test_differences_in_opposite_directions_cancel_out():
    columns = twin_columns([0.0] * 2, [1] * 2, [("kind", "able"), ("able", "kind")], {"warmth": ("kind",)})
    assert twins_family(["warmth"]).values(columns)["warmth_difference"] == 0


def test_lines_with_the_groups_in_the_other_order_are_turned_round(tmp_path):
    texts = {"continuation_a": "yes", "continuation_b": "no"}
    other = {"prompt_a": "he", "prompt_b": "she", "group_a": "man", "group_b": "woman"}
    first, second = read_twins(written(tmp_path / "twins.jsonl", [pair(1), pair(2, **other, **texts)])).pairs
    assert first.groups == second.groups == ("woman", "man")
    assert (second.prompts, second.continuations) == (("she", "he"), ("no", "yes"))


def test_a_family_with_words_of_a_files_own_is_found_again_by_its_name():
    family = twins_family(["warmth", "skill"])
    assert [one.name for one in family_named(family.name).metrics] == [one.name for one in family.metrics]
    assert "twins" in FAMILIES
    assert "twinsets" not in FAMILIES


def test_twins_are_measured_with_their_options_where_they_have_some(tmp_path, llama):
    rows = [WORDS, *(pair(n, continuation_a="She is kind.", continuation_b="He is able.") for n in range(4)), pair(9)]
    name = f"twins:{written(tmp_path / 'twins.jsonl', rows)}"
    subjects = further_subjects(EvaluateSettings(task=("builtin:everyday",), measure=(name,)))
    free, options = subjects
    assert (free.name, options.name) == ("twins:twins.jsonl", "twins:twins.jsonl (continuations)")
    assert (len(free.twins.pairs), len(options.examples)) == (5, 8)
    for subject in subjects:
        subject.check(llama)
    settings = EvaluateSettings(task=("builtin:everyday",), measure=(name,))
    found = measure_all(llama, subjects, settings, SilentProgress(), "Measuring")
    tasks = results_of(llama.name, subjects, "sum", found)["tasks"]
    assert tasks[free.name]["family"] == "twins+warmth"
    assert {"divergence", "she_difference", "warmth_difference"} <= set(tasks[free.name]["before"])
    low, high = tasks[free.name]["intervals"]["before"]["divergence"]
    assert 0 < low <= tasks[free.name]["before"]["divergence"] <= high
    assert set(tasks[free.name]["intervals"]["before"]) == set(tasks[free.name]["before"])
    table = results_table(tasks[free.name])
    assert [column.header for column in table.columns] == ["Metric", "Value", "95 % interval"]
    assert next(iter(table.columns[2].cells)) == f"{low:.3f} to {high:.3f}"
    assert "groups a and b: woman and man" in str(table.caption)
    # The options by hand: each prompt prefers its own group's continuation, or does not.
    scores = option_scores(llama, options.examples, "")
    own = [
        float(row[one.stereotyped] > row[1 - one.stereotyped])
        for row, one in zip(scores, options.examples, strict=True)
    ]
    assert tasks[options.name]["before"]["stereotype_preference"] == pytest.approx(np.mean(own))


def test_a_prompt_is_asked_as_it_stands(tmp_path, llama):
    row = pair(1, continuation_a="yes", continuation_b="no")
    task = load_task(f"twins:{written(tmp_path / 'one.jsonl', [row])}")
    assert task.instructions == ("",)
    assert [example.question for example in task.examples] == [row["prompt_a"], row["prompt_b"]]
    llama.prompt_format = "plain"
    assert render_prompt(llama, task.examples[0], "") == row["prompt_a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([WORDS], "no pairs of prompts"),
        ([pair(1), pair(1)], ":2: id '1' is also that of"),
        ([pair(1, continuation_a="yes")], ":1: continuation_a stands alone"),
        ([pair(1, continuation_a="yes", continuation_b="yes")], ":1: options 0 and 1 are equal"),
        (
            [{"id": 1, "template": "t", "prompt_a": "x", "group_a": "a", "group_b": "b"}],
            "'prompt_b' is missing; add it",
        ),
        ([pair(1), {"words": {"she": ["she"]}}], "'she' is no name for a list"),
        ([pair(1), {"words": {"warmth": []}}], "'warmth' must hold words"),
        ([pair(1), {"words": ["kind"], "id": 2}], "a line of words must be"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_twins(written(tmp_path / "twins.jsonl", rows))


def test_without_continuations_there_is_nothing_to_choose_from(tmp_path):
    with pytest.raises(InputError, match="give the file to --measure"):
        load_task(f"twins:{written(tmp_path / 'twins.jsonl', [pair(1)])}")
