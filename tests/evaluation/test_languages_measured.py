"""What a user is shown of questions in other languages: rows that do not count, and the map that finds persons."""

import json

import pytest

from crispr_lm import InputError
from crispr_lm.evaluation.suite import user_groups
from crispr_lm.jobs.steps import evaluate
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.report.result_tables import results_table
from crispr_lm.report.words import left_out
from crispr_lm.runtime.progress import SilentProgress

from ..tasks import language_rows as rows


class Said(SilentProgress):
    """Keeps what a user would be shown."""

    def __init__(self):
        self.sentences = []

    def say(self, sentence):
        self.sentences.append(sentence)


def given(folder, groups):
    """Settings for three rows without a name that is known, and one that repeats another."""
    labels = {"answer_info.ans0": "['abuela', 'yaya']"}
    some = [rows.es_row(context=f"Los dos esperaban en la casa {number}.", **labels) for number in (1, 2, 3, 3)]
    (folder / "a.csv").write_text(rows.table(some), encoding="utf-8")
    (folder / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    return EvaluateSettings(
        task=(f"esbbq:{folder / 'a.csv'}",),
        measure=(),
        instructions="1",
        split="all",
        groups=folder / "groups.json",
    )


def test_rows_that_do_not_count_are_counted_in_the_terminal_the_table_and_the_results(saved_model, tmp_path):
    said = Said()
    results = evaluate(str(saved_model("llama")), tmp_path / "r.json", None, given(tmp_path, {}), said)
    (task,) = results["tasks"].values()
    assert task["without_stereotyped_option"] == 3
    assert task["file_rows"] == {"read": 4, "repeated": 1, "contradictory": 0, "unusable": 0}
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["tasks"]["esbbq:a.csv"] == task
    none = "None of the questions has a stereotyped option, so there are no bias scores."
    repeated = "Rows of the file that are left out, of 4: 1 repeat another."
    assert left_out(task) == [none, repeated]
    assert [sentence for sentence in said.sentences if "esbbq" in sentence] == [
        f"esbbq:a.csv: {none}",
        f"esbbq:a.csv: {repeated}",
    ]
    assert str(results_table(task).caption).endswith(f"{none} {repeated}")
    part = task | {"without_stereotyped_option": 1}
    assert left_out(part)[0].startswith("The stereotyped option of 1 of the 3 questions is not known;")


def test_a_map_gives_the_bias_scores(saved_model, tmp_path):
    settings = given(tmp_path, {"yaya": "old"})
    results = evaluate(str(saved_model("llama")), tmp_path / "r.json", None, settings)
    (task,) = results["tasks"].values()
    assert task["without_stereotyped_option"] == 0
    assert task["before"]["bias_score_ambiguous"] is not None


def test_a_map_that_no_task_takes_is_refused(tmp_path):
    settings = EvaluateSettings(task=("builtin:everyday",), groups=tmp_path / "groups.json")
    with pytest.raises(InputError, match="no task here finds persons by groups; leave the option away"):
        user_groups(settings)
    with pytest.raises(InputError, match="can't be read"):
        user_groups(settings.model_copy(update={"task": ("bbq:Age.jsonl",)}))
