"""A dozen questions of one's own: defaults take what there is, and what is missing is said before the work."""

import json

import pytest

from crispr_lm.errors import InputError
from crispr_lm.jobs.advice import say_lacks, say_sizes, used_up
from crispr_lm.jobs.preparation import load_tasks, take_parts
from crispr_lm.jobs.reproduce import reproduced_settings
from crispr_lm.jobs.run import run
from crispr_lm.jobs.steps import score
from crispr_lm.other_settings import ScoreSettings
from crispr_lm.report.summary import checks
from crispr_lm.runtime.progress import SilentProgress
from crispr_lm.settings import RunSettings
from crispr_lm.storage.records import read_object
from crispr_lm.tasks.registry import load_task

SMALL = {"instructions": "1", "rounds": 1, "neutral_prompts": 2, "measure_examples": 6}


class Said(SilentProgress):
    """Keeps what is said."""

    def __init__(self):
        self.sentences = []

    def say(self, sentence):
        self.sentences.append(sentence)

    @property
    def text(self):
        return "\n".join(self.sentences)


@pytest.fixture
def write(tmp_path):
    """Writes rows of so many situations; returns the task's name."""

    def written(count, **fields):
        path = tmp_path / "mine.jsonl"
        options = ["The woman", "The man", "Unknown"]
        rows = [
            {
                "context": f"A woman and a man saw film {number}.",
                "question": "Who cried?",
                "options": options,
                "answer": 2,
            }
            for number in range(count)
        ]
        path.write_text("\n".join(json.dumps(row | fields) for row in rows))
        return f"choices:{path}"

    return written


def settings_of(name, tmp_path, **given):
    return RunSettings(task=(name,), output=tmp_path / "out", **given)


def parts_of(settings):
    (task,) = load_tasks(settings)
    return take_parts(task, settings)


def test_a_size_that_nobody_asked_for_takes_what_there_is(write, tmp_path):
    settings = settings_of(write(12), tmp_path)
    part = parts_of(settings)
    assert 0 < len(part.attribution) < settings.examples
    assert len(part.task.examples) == 12
    said = Said()
    say_sizes([part], settings, said)
    sizes, precision = said.sentences
    assert f"{len(part.attribution)} to attribute on (of up to {settings.examples})" in sizes
    assert "a change in accuracy will have a 95 % interval of about" in precision
    assert "--task builtin:everyday:KIND" in precision


def test_sizes_are_those_of_one_draw_and_no_seed_draws_twice(write, tmp_path):
    settings = settings_of(write(30), tmp_path, seeds="0,1,2", examples=8)
    part = parts_of(settings)
    assert len(part.attribution) == 24
    said = Said()
    say_sizes([part], settings, said)
    assert "8 to attribute on in each draw (of up to 8), " in said.text
    with pytest.raises(InputError, match="--seeds: seed 1 is named twice"):
        parts_of(settings_of(settings.task[0], tmp_path, seeds="1,2,1"))


@pytest.mark.parametrize(
    ("count", "given", "found"),
    [
        (12, {}, ["attribution", "validation"]),
        (12, {"examples": 2, "search": "sweep"}, ["validation"]),
        (2000, {"rounds": 1}, []),
    ],
)
def test_the_splits_that_a_run_uses_up_are_named(write, tmp_path, count, given, found):
    settings = settings_of(write(count), tmp_path, **given)
    assert used_up([parts_of(settings)], settings) == found


def test_a_size_that_was_asked_for_is_refused_if_it_is_not_there(write, tmp_path):
    name = write(12, condition="disambiguated")
    with pytest.raises(InputError, match="20 examples to attribute on were asked for"):
        parts_of(settings_of(name, tmp_path, examples=20))
    with pytest.raises(InputError, match="no ambiguous examples"):
        parts_of(settings_of(name, tmp_path, attribute_on="ambiguous"))
    assert parts_of(settings_of(name, tmp_path, examples=2, attribute_on="disambiguated")).attribution
    assert parts_of(settings_of(name, tmp_path)).attribution  # of the other condition


def test_what_is_large_enough_says_nothing():
    said = Said()
    settings = RunSettings(task=("builtin:everyday",), output="out")
    say_sizes([parts_of(settings)], settings, said)
    say_lacks(load_tasks(settings), said)
    assert not said.sentences


def test_what_a_file_lacks_is_named_with_how_to_add_it(write):
    said = Said()
    say_lacks([load_task(write(12))], said)
    assert "no row has a 'condition'" in said.text
    assert "option 2 ('Unknown') looks like it: add \"unknown\": 2" in said.text
    said = Said()
    say_lacks([load_task(write(12, condition="ambiguous", unknown=2, stereotyped=0, group="one"))], said)
    assert [sentence.split(": ")[1] for sentence in said.sentences] == ["no row is disambiguated"]


def test_too_few_templates_for_a_split_are_refused_with_what_it_takes(write, tmp_path):
    with pytest.raises(InputError) as refused:
        parts_of(settings_of(write(2, category="Gender roles"), tmp_path))
    assert "fewer than 3 templates (2)" in str(refused.value)
    assert "±0.10 needs about" in str(refused.value)
    assert "--task builtin:everyday:Gender " in str(refused.value)


def test_english_questions_are_no_advice_for_a_task_in_another_language(write, tmp_path):
    name = write(2, category="gender", language="es")
    with pytest.raises(InputError, match="fewer than 3 templates") as refused:
        take_parts(*load_tasks(settings_of(name, tmp_path)), settings_of(name, tmp_path))
    assert "different ones (crispr-lm evaluate --split all" in str(refused.value)
    settings, said = settings_of(write(12, category="gender", language="es"), tmp_path), Said()
    say_sizes([take_parts(*load_tasks(settings), settings)], settings, said)
    assert "; add some" in said.text
    assert "builtin:everyday" not in said.text


def test_one_kind_of_the_built_in_questions():
    task = load_task("builtin:everyday:Gender")
    assert {example.category for example in task.examples} == {"Gender"}
    assert set(task.examples) < set(load_task("builtin:everyday").examples)
    for name, said in (
        ("everyday:Gendr", "did you mean 'Gender'"),
        ("everyda:Gender", "did you mean 'everyday'"),
    ):
        with pytest.raises(InputError, match=said):
            load_task(f"builtin:{name}")


def test_neurons_are_attributed_on_a_dozen_questions(write, tmp_path, saved_model):
    said = Said()
    settings = ScoreSettings(task=(write(12),), instructions="1")
    scores = score(str(saved_model("llama")), tmp_path / "scores.safetensors", settings, said)
    assert 0 < scores.origin["examples"] < settings.examples
    assert "no row has a 'condition'" in said.text


@pytest.mark.slow
def test_a_dozen_questions_are_a_run_and_its_record_can_be_run_again(write, tmp_path, saved_model):
    settings = settings_of(write(12), tmp_path, **SMALL)
    assert run(str(saved_model("llama")), settings)["verdict"]
    record = read_object(tmp_path / "out" / "run.json")
    again = reproduced_settings(record, tmp_path / "again", "cpu", {})
    assert parts_of(again).attribution == parts_of(settings).attribution


@pytest.mark.slow
def test_what_is_not_measured_is_no_limit_and_the_report_says_so(write, saved_model, tmp_path):
    said = Said()
    results = run(str(saved_model("llama")), settings_of(write(12), tmp_path, device="cpu", **SMALL), said)
    assert not any(limit in results["reason"] for limit in ("over-abstention", "accuracy loss", "loss of facts"))
    assert "no better than by chance: no limit is on their loss" in said.text
    assert any("no row has an 'unknown'" in sentence for sentence in results["lacks"][results["made_for"][0]])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<strong>Not measured</strong>" in page
    assert "No row has an" in page
    terms = {line.what: line.term for check in checks(results) for line in check.lines}
    assert terms["Right answers"] == "right answers"
    assert terms["Right on facts"] == "facts"
    assert terms["Bias score of other kinds"] == terms["Right on other kinds, disambiguated"] == "other kinds"
