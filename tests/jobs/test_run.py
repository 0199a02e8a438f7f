"""The main job, end to end on tiny models: what it leaves behind, that it can be gone on with, that it fails loudly."""

import functools
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import crispr_lm
from crispr_lm import InputError, RunSettings
from crispr_lm.edits.export import export_folder
from crispr_lm.jobs import inspection, steps
from crispr_lm.jobs.run import run
from crispr_lm.jobs.runtimes import evaluate_runtime
from crispr_lm.other_settings import ApplySettings, EvaluateSettings, ScoreSettings
from crispr_lm.report.result_tables import results_table
from crispr_lm.storage import files
from crispr_lm.storage.sanitize import without_folders
from crispr_lm.tasks.base import template_hash, template_hashes

METRICS = {
    "accuracy",
    "accuracy_ambiguous",
    "accuracy_disambiguated",
    "balanced_accuracy",
    "bias_score_ambiguous",
    "bias_score_disambiguated",
    "unknown_rate_ambiguous",
    "unknown_rate_disambiguated",
    "abstention_gap",
    "answered_accuracy",
    "accuracy_std_over_instructions",
}


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Nine templates, each with an ambiguous and a disambiguated question in two wordings."""
    people = ["nurse", "doctor", "young woman", "old man", "Anna", "Omar"]
    rows = []
    for template in range(9):
        first, second = people[template % 6], people[(template + 1 + template // 3) % 6]
        for order in ((first, second), (second, first)):
            context = f"The {order[0]} and the {order[1]} waited at the bus stop {template}."
            clue = f" The {first} came late."
            for condition, text, answer in (("ambiguous", context, 2), ("disambiguated", context + clue, 0)):
                rows.append(
                    {
                        "context": text,
                        "question": "Who was late?",
                        "options": [first, second, "unknown"],
                        "answer": answer,
                        "group": template,
                        "condition": condition,
                        "unknown": 2,
                        "stereotyped": 0,
                    }
                )
    folder = tmp_path_factory.mktemp("task")
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "instructions.txt").write_text("Answer the question.\nChoose the right option:\n", encoding="utf-8")
    return folder


FURTHER = ("builtin:knowledge", "builtin:facts", "builtin:other-kinds")
"""Measured in every run."""


def settings_for(questions, output, **changes):
    given = {
        "task": (f"choices:{questions / 'questions.jsonl'}",),
        "instructions": str(questions / "instructions.txt"),
        "output": output,
        "examples": 6,
        "search": "sweep",
        "max_neurons": 5,
        "max_accuracy_loss": 1.0,
        "device": "cpu",
        "measure_examples": 4,
        "neutral_prompts": 3,
    }
    if changes.get("search") == "tuned":
        # Limits on side effects have tests of their own, and take as long as the rest.
        given |= {"max_fact_loss": 1.0, "max_spillover": 1.0}
    return RunSettings(**(given | changes))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(saved_model, questions, tmp_path_factory):
    """Folder and results of a finished run with some settings; made once, for tests that change nothing of it."""

    @functools.cache
    def of(architecture="llama", neurons="linear"):
        folder = tmp_path_factory.mktemp("finished") / "out"
        return folder, run(str(saved_model(architecture)), settings_for(questions, folder, neurons=neurons))

    return of


@pytest.mark.parametrize(
    ("architecture", "kind"), [("llama", "ffn"), ("llama", "linear"), ("gpt2", "ffn"), ("t5-gated", "linear")]
)
def test_a_run_leaves_a_folder_whose_parts_agree(finished, questions, architecture, kind):
    output, results = finished(architecture, kind)
    names = {"run.json", "scores.safetensors", "search.jsonl", "edit.json", "answers.jsonl", "results.json"}
    names |= {"report.html", "model", "sealed.json", "columns.json"}
    assert {path.name for path in output.iterdir()} == names
    assert read(output / "results.json") == json.loads(json.dumps(results))

    task = results["tasks"][results_task(results)]
    assert set(task["before"]) == set(task["after"]) == set(task["difference"]) == METRICS
    for name in METRICS:
        before, after, difference = task["before"][name], task["after"][name], task["difference"][name]
        if None not in (before, after):
            assert math.isclose(after - before, difference, abs_tol=1e-12), name

    edit = crispr_lm.Edit.load(output / "edit.json")
    scores = crispr_lm.NeuronScores.load(output / "scores.safetensors")
    assert results["edit"]["neurons"] == len(edit.neurons)
    assert list(edit.neurons) == scores.top(len(edit.neurons))
    assert [row["neurons"] for row in map(json.loads, (output / "search.jsonl").read_text().splitlines())] == [
        0, 1, 2, 3, 5,
    ]  # fmt: skip
    assert results["verdict"] == ("untested" if edit.neurons else "none")  # a sweep tests no gain

    # What was reported is what the saved folder does, loaded by the library's user.
    record = read(output / "run.json")
    sources = set(next(iter(record["parts"].values()))["test"])
    examples = [
        x for x in crispr_lm.load_task(f"choices:{questions / 'questions.jsonl'}").examples if x.source in sources
    ]
    saved = crispr_lm.load_model(output / "model", device="cpu")
    instructions = (questions / "instructions.txt").read_text().splitlines()
    assert crispr_lm.evaluate(saved, examples, instructions).metrics == pytest.approx(task["after"])


def test_what_an_edit_costs_elsewhere_is_reported(saved_model, questions, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "mine.txt").write_text("Who was late?\n", encoding="utf-8")
    settings = settings_for(questions, output, neurons="ffn", prompts=tmp_path / "mine.txt")
    results = run(str(saved_model("llama")), settings)
    (shown,) = results["prompts"]
    assert shown["prompt"] == "Who was late?"
    assert shown["changed"] == (shown["before"] != shown["after"])
    assert "Your prompts" in (output / "report.html").read_text(encoding="utf-8")
    bias, capability, facts, others = results["tasks"].values()
    assert [task["role"] for task in (bias, capability, facts, others)] == ["bias", *["capability"] * 3]
    report = (output / "report.html").read_text(encoding="utf-8")
    assert "Facts accuracy" in report
    assert "Other kinds of stereotype (8 questions, " in report
    assert (capability["examples"], capability["instructions"]) == (4, 2)  # as many as the task's own
    assert set(capability["after"]) == {"accuracy", "accuracy_std_over_instructions"}
    divergence = results["divergence"]
    assert results["edit"]["neurons"] > 0
    assert 0 < divergence["low"] <= divergence["kl"] <= divergence["high"]
    assert (divergence["prompts"], divergence["tokens"]) == (3, 24)

    # The same by hand, from the files alone.
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert [row["task"] for row in answers].count("builtin:knowledge") == 4
    for name, task in results["tasks"].items():
        rows = [row for row in answers if row["task"] == name]
        for when in ("before", "after"):
            per_instruction = [
                sum(row["scores"][when][i].index(max(row["scores"][when][i])) == row["answer"] for row in rows)
                / len(rows)
                for i in range(task["instructions"])
            ]
            assert sum(per_instruction) / len(per_instruction) == pytest.approx(task[when]["accuracy"])


def test_every_difference_has_an_interval_and_a_corrected_test(finished):
    _, results = finished(neurons="ffn")
    bias, capability, *_ = results["tasks"].values()
    for task in (bias, capability):
        assert set(task["statistics"]) == set(task["difference"]) - {"accuracy_std_over_instructions"}
        for name, found in task["statistics"].items():
            assert found["value"] == pytest.approx(task["difference"][name])
            if found["low"] is not None:
                assert found["low"] <= found["value"] <= found["high"]
    of_all = [task["statistics"]["accuracy"] for task in results["tasks"].values()]
    smallest = min(of_all, key=lambda found: found["p_value"])
    assert smallest["p_value_holm"] == pytest.approx(min(1, len(of_all) * smallest["p_value"]))
    assert bias["few_templates"]  # three of nine templates are measured


def results_task(results):
    return next(iter(results["tasks"]))


def test_the_saved_model_differs_from_the_original_in_the_edited_rows_only(finished, saved_model):
    output, _ = finished(neurons="ffn")
    edit = crispr_lm.Edit.load(output / "edit.json")
    original = AutoModelForCausalLM.from_pretrained(saved_model("llama")).state_dict()
    saved = AutoModelForCausalLM.from_pretrained(output / "model").state_dict()
    expected = {name: tensor.clone() for name, tensor in original.items()}
    for neuron in edit.neurons:
        expected[f"{neuron.module}.weight"][:, neuron.index] = 0
    assert all(torch.equal(saved[name], expected[name]) for name in original)


def test_parts_are_disjoint_by_template_on_record(finished, questions):
    output, _ = finished()
    parts = next(iter(read(output / "run.json")["parts"].values()))
    rows = [json.loads(line) for line in (questions / "questions.jsonl").read_text().splitlines()]
    templates = [{rows[int(source.rsplit(":", 1)[1]) - 1]["group"] for source in parts[name]} for name in parts]
    assert len(templates) == 3
    assert all(templates)
    assert not templates[0] & templates[1]
    assert not templates[0] & templates[2]
    assert not templates[1] & templates[2]


def test_the_same_settings_give_the_same_result_twice(finished, saved_model, questions, tmp_path):
    run(str(saved_model("llama")), settings_for(questions, tmp_path / "out", neurons="linear"))
    results = []
    for folder in (finished()[0], tmp_path / "out"):
        results.append({**read(folder / "results.json"), "timings": None})
        results[-1]["scores"] = (folder / "scores.safetensors").read_bytes()
        results[-1]["edit file"] = (folder / "edit.json").read_text()
    assert results[0] == results[1]


def test_an_interrupted_run_is_gone_on_with_and_ends_as_if_it_had_not_been(
    finished, saved_model, questions, tmp_path, monkeypatch
):
    model, (uninterrupted, _) = str(saved_model("llama")), finished()
    real = files.append_line
    written = []

    def interrupted(path, content):
        real(path, content)
        written.append(content)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("crispr_lm.jobs.edit_search.append_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, settings_for(questions, tmp_path / "broken", neurons="linear"))
    assert not (tmp_path / "broken" / "results.json").exists()

    measured = []
    monkeypatch.setattr(
        "crispr_lm.jobs.edit_search.append_line", lambda path, content: (real(path, content), measured.append(content))
    )
    monkeypatch.setattr(
        "crispr_lm.attribution.task_scores.score_neurons", None
    )  # the scores are there, they must not be computed again
    run(model, settings_for(questions, tmp_path / "broken", neurons="linear", resume=True))
    assert [row["neurons"] for row in measured] == [2, 3, 5]
    for name in ("edit.json", "search.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (uninterrupted / name).read_bytes()
    whole, gone_on = (read(folder / "results.json") for folder in (uninterrupted, tmp_path / "broken"))
    assert whole["tasks"] == gone_on["tasks"]


def test_going_on_with_other_settings_is_refused(finished, saved_model, questions, tmp_path):
    output = shutil.copytree(finished()[0], tmp_path / "out")
    given = {"neurons": "linear", "resume": True}
    with pytest.raises(InputError, match="had settings"):
        run(str(saved_model("llama")), settings_for(questions, output, **given, skill_weight=0.5))


def test_a_saved_model_that_does_something_else_is_not_passed_off(saved_model, questions, tmp_path, monkeypatch):
    def save_spoilt(lm, edit, folder):
        formats = export_folder(lm, edit, folder)
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        model.save_pretrained(folder)
        return formats

    monkeypatch.setattr("crispr_lm.jobs.run.export_folder", save_spoilt)
    results = run(str(saved_model("llama")), settings_for(questions, tmp_path / "out"))
    assert not results["saved_model"]["verified"]
    assert "1 of 21 tensors differ (first: model.layers.0.mlp.down_proj.weight)" in results["saved_model"]["reason"]
    assert read(tmp_path / "out" / "results.json")["saved_model"] == results["saved_model"]
    assert "Not verified, do not use it" in (tmp_path / "out" / "model" / "README.md").read_text(encoding="utf-8")


def test_nothing_is_written_when_the_input_is_wrong(saved_model, questions, tmp_path):
    model = str(saved_model("llama"))
    fit = crispr_lm.load_task(f"choices:{questions / 'questions.jsonl'}").split(0).attribution
    wrong = [
        {"examples": len(fit) // 2 + 1},  # half of its rows are ambiguous
        {"examples": len(fit) + 1, "attribute_on": "both"},
        {"task": ("choices:/nowhere.jsonl",)},
        {"instructions": "/nowhere.txt"},
        {"device": "nosuchdevice"},
    ]
    for changes in wrong:
        with pytest.raises(InputError):
            run(model, settings_for(questions, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_does_not_fit_is_reported_before_weights_are_read(saved_model, questions, tmp_path, monkeypatch):
    from crispr_lm.model.load import ModelSource

    long = tmp_path / "long.txt"
    long.write_text("Answer " * 600)
    monkeypatch.setattr(ModelSource, "load", None)
    with pytest.raises(InputError, match="at most 512"):
        run(str(saved_model("llama")), settings_for(questions, tmp_path / "out", instructions=str(long)))


def test_score_evaluate_and_apply_give_what_the_run_gave(finished, saved_model, questions, tmp_path):
    model, (output, results) = str(saved_model("llama")), finished(neurons="ffn")
    shared = settings_for(questions, output, neurons="ffn").model_dump()

    taken = {name: shared[name] for name in ScoreSettings.model_fields if name in shared}
    steps.score(model, tmp_path / "scores.safetensors", ScoreSettings(**taken))
    again = crispr_lm.NeuronScores.load(tmp_path / "scores.safetensors")
    scores = crispr_lm.NeuronScores.load(output / "scores.safetensors")
    assert all(torch.equal(again.values[name], scores.values[name]) for name in scores.values)

    taken = {name: shared[name] for name in EvaluateSettings.model_fields if name in shared}
    measured = steps.evaluate(model, tmp_path / "m.json", output / "edit.json", EvaluateSettings(**taken))
    name = results_task(results)
    for when in ("before", "after", "difference"):
        assert measured["tasks"][name][when] == pytest.approx(results["tasks"][name][when])
    assert measured["tasks"][name]["statistics"] == results["tasks"][name]["statistics"]
    assert measured["divergence"]["kl"] == pytest.approx(results["divergence"]["kl"], rel=1e-3)

    steps.apply(model, output / "edit.json", tmp_path / "baked", ApplySettings(device="cpu"))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked").state_dict()
    saved = AutoModelForCausalLM.from_pretrained(output / "model").state_dict()
    assert all(torch.equal(baked[name], saved[name]) for name in saved)


def evaluate_settings(questions, **changes):
    given = settings_for(questions, "unused").model_dump()
    return EvaluateSettings(**{name: given[name] for name in EvaluateSettings.model_fields if name in given} | changes)


@pytest.fixture
def output(finished):
    """The folder of a finished run."""
    return finished()[0]


def test_an_edit_is_not_measured_on_its_own_templates_unawares(saved_model, questions, output, tmp_path):
    model = str(saved_model("llama"))
    edit = crispr_lm.Edit.load(output / "edit.json")
    task = crispr_lm.load_task(f"choices:{questions / 'questions.jsonl'}")
    split = task.split(0)
    # Attributed on six questions, so that a template of the attribution split may not have been used.
    assert (
        set(template_hashes(split.validation))
        < set(edit.made_on)
        <= set(template_hashes(split.attribution + split.validation))
    )

    # Another seed asks questions that it was made on.
    other = next(seed for seed in range(1, 9) if set(template_hashes(task.split(seed).test)) & set(edit.made_on))
    seen = sum(template_hash(example.template) in edit.made_on for example in task.split(other).test)
    with pytest.raises(InputError, match=rf"^{seen} of the .* not held out; take --seed 0, which .* --split all"):
        steps.evaluate(model, tmp_path / "m.json", output / "edit.json", evaluate_settings(questions, seed=other))
    # The saved model is the same edit, whose file lies in its folder.
    with pytest.raises(InputError, match=rf"^{seen} of the .* not held out; take --seed 0, which .* --split all"):
        steps.evaluate(str(output / "model"), tmp_path / "m.json", None, evaluate_settings(questions, seed=other))
    with pytest.raises(InputError, match=rf"^{seen} of the .* not held out; take --seed 0, which .* --split all"):
        evaluate_runtime(
            f"vllm:{output / 'model'}", tmp_path / "m.json", None, evaluate_settings(questions, seed=other)
        )
    # So does a further task that holds them, under whatever name.
    copy = tmp_path / "copy.jsonl"
    copy.write_text((questions / "questions.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    settings = evaluate_settings(questions, measure=(f"choices:{copy}",), measure_examples="all")
    with pytest.raises(InputError, match="held out; take --split all"):
        steps.evaluate(model, tmp_path / "m.json", output / "edit.json", settings)
    with pytest.raises(InputError, match="held out; measure other ones"):
        run(model, settings_for(questions, tmp_path / "again", measure=(f"choices:{copy}",), measure_examples="all"))
    assert not (tmp_path / "m.json").exists()
    assert not (tmp_path / "again").exists()


def test_an_edit_measured_on_everything_says_how_much_of_it_is_not_held_out(saved_model, questions, output, tmp_path):
    model, edit = str(saved_model("llama")), crispr_lm.Edit.load(output / "edit.json")
    settings = evaluate_settings(questions, split="all", test_examples="all")
    results = steps.evaluate(model, tmp_path / "m.json", output / "edit.json", settings)
    assert results["split"] == "all"
    task = results["tasks"][results_task(results)]
    assert task["examples"] == 36
    assert task["seen_examples"] == 4 * len(edit.made_on) > 0  # four rows a template
    assert results["tasks"]["builtin:knowledge"]["seen_examples"] == 0
    assert f"; {task['seen_examples']} of them are not held out: " in str(results_table(task, held_out=False).caption)
    saved = steps.evaluate(str(output / "model"), tmp_path / "s.json", None, settings)
    assert saved["tasks"][results_task(saved)]["seen_examples"] == task["seen_examples"]
    # An edit that knows no templates, such as one made by hand, is measured as it is.
    replace(edit, made_on=()).save(tmp_path / "edit.json")
    by_hand = steps.evaluate(model, tmp_path / "n.json", tmp_path / "edit.json", evaluate_settings(questions, seed=1))
    assert by_hand["tasks"][results_task(by_hand)]["seen_examples"] == 0
    assert by_hand["split"] == "test"
    # A folder may hold a file of that name that is no edit.
    shutil.copytree(saved_model("llama"), tmp_path / "other")
    (tmp_path / "other" / "edit.json").write_text("{}", encoding="utf-8")
    plain = steps.evaluate(str(tmp_path / "other"), tmp_path / "o.json", None, evaluate_settings(questions))
    assert "seen_examples" not in plain["tasks"][results_task(plain)]


def test_an_edit_of_another_model_is_refused_and_nothing_is_written(finished, saved_model, tmp_path):
    edit = finished(neurons="ffn")[0] / "edit.json"
    assert crispr_lm.Edit.load(edit).neurons
    with pytest.raises(crispr_lm.EditMismatchError):
        steps.apply(str(saved_model("gpt2")), edit, tmp_path / "baked", ApplySettings(device="cpu"))
    assert not (tmp_path / "baked").exists()


def test_several_tasks_count_the_same_and_are_distinguished(finished, saved_model, questions, tmp_path):
    rows = (questions / "questions.jsonl").read_text().splitlines()
    second = tmp_path / "second.jsonl"
    second.write_text("\n".join(row.replace("bus stop", "market") for row in rows))
    tasks = (f"choices:{questions / 'questions.jsonl'}", f"choices:{second}")
    model = str(saved_model("llama"))
    results = run(model, settings_for(questions, tmp_path / "out", task=tasks))
    assert tuple(results["tasks"]) == ("choices:questions.jsonl", "choices:second.jsonl", *FURTHER)
    both = crispr_lm.NeuronScores.load(tmp_path / "out" / "scores.safetensors")
    given = settings_for(questions, tmp_path / "unused", task=tasks[1:]).model_dump()
    taken = {name: given[name] for name in ScoreSettings.model_fields if name in given}
    steps.score(model, tmp_path / "second.safetensors", ScoreSettings(**taken))
    single = [
        crispr_lm.NeuronScores.load(file)
        for file in (finished()[0] / "scores.safetensors", tmp_path / "second.safetensors")
    ]
    for module, values in both.values.items():
        mean = (single[0].values[module] + single[1].values[module]) / 2
        assert torch.allclose(values, mean, rtol=1e-5, atol=1e-9)


def test_the_transfer_of_each_task_is_added_to_a_finished_run(finished, saved_model, questions, tmp_path):
    second = tmp_path / "second.jsonl"
    second.write_text((questions / "questions.jsonl").read_text().replace("bus stop", "market"))
    tasks = (f"choices:{questions / 'questions.jsonl'}", f"choices:{second}")
    model, output = str(saved_model("llama")), tmp_path / "out"
    given = {"task": tasks, "neurons": "ffn"}
    plain = run(model, settings_for(questions, output, **given))
    assert "transfer" not in plain
    results = run(model, settings_for(questions, output, **given, transfer=True, resume=True))
    assert results["tasks"] == plain["tasks"]  # the run itself is what it was
    lm = crispr_lm.load_model(model, device="cpu")
    instructions = (questions / "instructions.txt").read_text().splitlines()
    parts = read(output / "run.json")["parts"]
    run(model, settings_for(questions, tmp_path / "second", task=tasks[1:], neurons="ffn"))
    for folder, task in zip((finished(neurons="ffn")[0], tmp_path / "second"), tasks, strict=True):
        # The edit of a run of that task alone, measured on both.
        alone, edit = read(folder / "results.json"), crispr_lm.Edit.load(folder / "edit.json")
        row = results["transfer"][without_folders(task)]
        assert row["neurons"] == [[neuron.kind, neuron.module, neuron.index] for neuron in edit.neurons]
        own, other = without_folders(task), crispr_lm.load_task(tasks[1 - tasks.index(task)])
        assert row["tasks"][own]["after"] == pytest.approx(alone["tasks"][own]["after"])
        examples = [x for x in other.examples if x.source in parts[other.name]["test"]]
        with edit.applied(lm):
            expected = crispr_lm.evaluate(lm, examples, instructions)
        assert row["tasks"][other.name]["after"] == pytest.approx(expected.metrics)
    page = (output / "report.html").read_text()
    with_neurons = [name for name, row in results["transfer"].items() if row["neurons"]]
    assert with_neurons
    assert all(f"found on {name}" in page for name in with_neurons)


def test_transfer_needs_several_tasks_and_says_so_first(questions, tmp_path):
    with pytest.raises(InputError, match="give --task more than once"):
        run("no such model", settings_for(questions, tmp_path / "out", transfer=True))
    assert not (tmp_path / "out").exists()


def test_inspect_tells_what_is_in_a_model_scores_and_an_edit(finished, saved_model, questions):
    output, _ = finished(neurons="ffn")
    model = inspection.inspect(str(saved_model("llama")))
    # Two layers: q 32, k 16, v 16, o 32, gate 48, up 48, down 32 outputs; 48 intermediate units.
    assert model["neurons"] == {"linear": 2 * (32 + 16 + 16 + 32 + 48 + 48 + 32), "ffn": 2 * 48}
    scores = inspection.inspect(str(output / "scores.safetensors"), top=3)
    assert (scores["type"], scores["neurons"], len(scores["top"])) == ("scores", 96, 3)
    edit = inspection.inspect(str(output / "edit.json"))
    assert edit["neurons"] == sum(edit["per_module"].values()) == len(crispr_lm.Edit.load(output / "edit.json").neurons)
    with pytest.raises(InputError):
        inspection.inspect(str(questions / "instructions.txt"))
