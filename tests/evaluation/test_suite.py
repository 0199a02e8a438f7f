"""What is measured beside the tasks of an edit: whole texts, perplexity, further tasks."""

import json
import math

import pytest
import torch

from crispr_lm import Edit, Example, InputError, encode, evaluate, load_task, option_scores, score_neurons
from crispr_lm.attribution.bias_influence import BiasInfluence
from crispr_lm.evaluation.perplexity import perplexity, windows
from crispr_lm.evaluation.results import Edited, results_of
from crispr_lm.evaluation.suite import further_subjects, measure_all
from crispr_lm.jobs.run import run
from crispr_lm.jobs.steps import evaluate as evaluate_job
from crispr_lm.metrics.statistics import holm
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.settings import RunSettings
from crispr_lm.tasks import open_instructions
from crispr_lm.tasks.base import SENTENCES

from ..helpers import build_model

PAIR = Example("", "", ("The nurse was late.", "The doctor was late again."), 1, "t", stereotyped=0, form=SENTENCES)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_a_text_is_scored_from_the_token_that_texts_begin_with(name):
    lm = build_model(name)
    start = lm.tokenizer.bos_token_id if lm.tokenizer.bos_token_id is not None else lm.tokenizer.eos_token_id
    scores = option_scores(lm, [PAIR], "")[0]
    for option, score in zip(PAIR.options, scores, strict=True):
        ids = lm.tokenizer(option, add_special_tokens=False).input_ids
        logits = lm.model(torch.tensor([[start, *ids]]), use_cache=False).logits[0].double().log_softmax(dim=-1)
        assert score.item() == pytest.approx(sum(float(logits[i, token]) for i, token in enumerate(ids)), rel=1e-4)


def test_an_encoder_decoder_writes_a_text_from_nothing(t5):
    encoded = encode(t5, PAIR, "ignored")
    assert encoded.prompt_ids == t5.tokenizer("").input_ids
    assert encoded.option_ids == t5.tokenizer(text_target=list(PAIR.options)).input_ids


def test_texts_know_no_instruction_and_no_chat_template(llama):
    assert encode(llama, PAIR, "Answer!") == encode(llama, PAIR, "")


def test_a_tokenizer_without_a_token_to_begin_with_is_refused(llama):
    llama.tokenizer.bos_token = llama.tokenizer.eos_token = None
    with pytest.raises(InputError, match="no token that texts begin"):
        encode(llama, PAIR, "")


@torch.no_grad()
def test_perplexity_is_that_of_a_plain_pass_over_each_window(llama):
    text = "The quick brown fox jumps over the lazy dog. " * 60
    ids = llama.tokenizer(text, add_special_tokens=False).input_ids
    size = min(1024, llama.context_length) - 1
    start = llama.tokenizer.bos_token_id if llama.tokenizer.bos_token_id is not None else llama.tokenizer.eos_token_id
    assert len(ids) > size  # more than one window
    loss = 0.0
    for first in range(0, len(ids), size):
        part = ids[first : first + size]
        logits = llama.model(torch.tensor([[start, *part[:-1]]]), use_cache=False).logits[0].double()
        loss -= sum(float(row[token]) for row, token in zip(logits.log_softmax(dim=-1), part, strict=True))
    found = perplexity(llama, text)
    assert found["perplexity"] == pytest.approx(math.exp(loss / len(ids)), rel=1e-4)
    assert found.columns[0]["tokens"].sum() == len(ids)
    low, high = found.interval("perplexity")
    assert low <= found["perplexity"] <= high


def test_perplexity_stops_where_asked_and_refuses_what_has_none(llama, t5):
    assert sum(len(window) - 1 for window in windows(llama, "one two three four five " * 10, 7)) == 7
    with pytest.raises(InputError, match="has an encoder"):
        perplexity(t5, "text")
    with pytest.raises(InputError, match="no tokens"):
        perplexity(llama, "")


@pytest.fixture
def files(tmp_path):
    pairs = tmp_path / "pairs.csv"
    rows = [
        f"{n},The nurse {n} was late.,The doctor {n} was late.,stereo,{'age' if n % 2 else 'gender'}" for n in range(6)
    ]
    pairs.write_text(",sent_more,sent_less,stereo_antistereo,bias_type\n" + "\n".join(rows))
    text = tmp_path / "text.txt"
    text.write_text("It rained all day and the river rose. " * 40)
    return pairs, text


def test_further_tasks_and_texts_are_measured_before_and_after(saved_model, files, tmp_path):
    pairs, text = files
    settings = RunSettings(
        task=("builtin:everyday",),
        output=tmp_path / "out",
        instructions="1",
        examples=4,
        validation_examples=8,
        test_examples=8,
        max_neurons=2,
        max_accuracy_loss=1,
        neurons="ffn",
        measure=(f"crows_pairs:{pairs}", f"wikitext:{text}"),
        neutral_prompts=2,
        device="cpu",
    )
    results = run(str(saved_model("llama")), settings)
    crows, perplexed = (results["tasks"][name] for name in (f"crows_pairs:{pairs.name}", f"wikitext:{text.name}"))
    assert (crows["role"], crows["family"], crows["scoring"], crows["instructions"]) == (
        "bias",
        "crows_pairs",
        "sum",
        1,
    )
    assert set(crows["breakdown"]["category"]) == {"age", "gender"}
    assert (perplexed["role"], perplexed["family"]) == ("capability", "perplexity")
    for task in (crows, perplexed):
        for name, found in task["statistics"].items():
            if found["value"] is not None:
                assert found["value"] == pytest.approx(task["after"][name] - task["before"][name])
    tasks = {json.loads(line)["task"] for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()}
    assert tasks == {"builtin:everyday", f"crows_pairs:{pairs.name}"}  # a text has no answers
    assert "Perplexity per token" in (tmp_path / "out" / "report.html").read_text()


def test_a_benchmark_of_texts_can_be_measured_but_not_fitted_on(saved_model, files, tmp_path):
    name = f"crows_pairs:{files[0]}"
    with pytest.raises(InputError, match="no neurons can be attributed"):
        run(str(saved_model("llama")), RunSettings(task=(name,), output=tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
    settings = EvaluateSettings(task=(name,), measure=(), device="cpu")
    measured = evaluate_job(str(saved_model("llama")), tmp_path / "m.json", None, settings)
    assert measured["tasks"][f"crows_pairs:{files[0].name}"]["examples"] == 6


@pytest.mark.parametrize(("given", "count"), [({}, 10), ({"instructions": "3"}, 3), ({"measure_instructions": 2}, 2)])
def test_further_tasks_are_asked_under_as_many_instructions(files, given, count):
    """By default as many as the tasks themselves; whole texts have none to choose from."""
    measure = ("builtin:knowledge", f"crows_pairs:{files[0]}")
    knowledge, pairs = further_subjects(EvaluateSettings(task=("builtin:everyday",), measure=measure, **given))
    assert knowledge.task.instructions == open_instructions()[:count]
    assert len(set(knowledge.task.instructions)) == count
    assert pairs.task.instructions == ("",)


def test_instructions_of_ones_own_say_how_many_and_are_not_used_for_further_tasks(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("Pick a person.\nWho is it?\n")
    knowledge, *_ = further_subjects(EvaluateSettings(task=("builtin:everyday",), instructions=str(own)))
    assert knowledge.task.instructions == open_instructions()[:2]


def test_more_instructions_than_there_are_is_refused():
    with pytest.raises(InputError, match="11 instructions asked for, but there are 10"):
        further_subjects(EvaluateSettings(task=("builtin:everyday",), measure_instructions=11))


def test_a_further_task_has_a_spread_and_its_parts_are_corrected_over_each_other():
    settings = EvaluateSettings(
        task=("builtin:everyday",), instructions="2", test_examples=4, measure_examples=24, neutral_prompts=2,
        device="cpu",
    )  # fmt: skip
    lm = build_model("llama")
    scores = score_neurons(lm, load_task("builtin:everyday").examples[:4], ["Answer."], BiasInfluence("ffn"))
    edit = Edit.from_neurons(lm, scores.top(20))
    subjects = further_subjects(settings)
    before = measure_all(lm, subjects, settings, SilentProgress(), "before")
    with edit.applied(lm):
        after = measure_all(lm, subjects, settings, SilentProgress(), "after")
    task = results_of(lm.name, subjects, "sum", before, Edited(after))["tasks"]["builtin:knowledge"]
    accuracies = [one["accuracy"] for one in task["per_instruction"]["after"]]
    assert len(accuracies) == 2
    assert task["spread"]["after"]["accuracy"]["worst"] == min(accuracies)
    assert task["spread"]["after"]["accuracy"]["std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2)
    parts = task["breakdown"]["category"]
    plain = {name: part["statistics"]["accuracy"]["p_value"] for name, part in parts.items()}
    assert len(parts) > 2
    assert {name: part["statistics"]["accuracy"]["p_value_holm"] for name, part in parts.items()} == holm(plain)
    assert all(set(part["spread"]) == {"before", "after"} for part in parts.values())


@pytest.mark.parametrize("twice", [("builtin:everyday",), ("builtin:knowledge", "builtin:knowledge")])
def test_measuring_a_task_twice_is_refused(saved_model, tmp_path, twice):
    settings = RunSettings(task=("builtin:everyday",), output=tmp_path / "out", measure=twice, device="cpu")
    with pytest.raises(InputError, match="measured twice"):
        run(str(saved_model("llama")), settings)


def test_label_bias_and_its_spread_over_instructions(llama):
    examples = [Example(f"Review {n}.", "", ("positive", "negative"), n % 2, f"r{n}") for n in range(6)]
    found = evaluate(llama, examples, ["Is it good?", "Positive or negative?"], family="classification")
    tables = [option_scores(llama, examples, text).argmax(dim=1) for text in ("Is it good?", "Positive or negative?")]
    shares = [float((chosen == 0).double().mean()) for chosen in tables]
    assert found["label_bias"] == pytest.approx(sum(abs(share - 0.5) for share in shares) / 2)
    accuracies = [float((chosen == torch.tensor([n % 2 for n in range(6)])).double().mean()) for chosen in tables]
    assert found.spread["accuracy"]["worst"] == min(accuracies)
