"""The GitHub Action: its steps are run as a runner does, on a tiny model."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .helpers import cooking_questions

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


class Runner:
    """Runs the steps of a composite action that have a script, with the variables that GitHub sets."""

    def __init__(self, folder, given):
        self.action = yaml.safe_load((ROOT / "action.yml").read_text())
        self.folder, self.outputs, self.summary = folder, folder / "outputs", folder / "summary"
        self.inputs = {name: str(one.get("default", "")) for name, one in self.action["inputs"].items()} | given

    def value(self, text):
        """An expression's value; only those of this action are known."""
        known = {f"inputs.{name}": value for name, value in self.inputs.items()} | {"github.action_path": str(ROOT)}

        def of(match):
            return next((known[name.strip()] for name in match[1].split("||") if known[name.strip()]), "")

        return re.sub(r"\$\{\{(.+?)\}\}", of, text)

    def step(self, name):
        """The status and the output of a step."""
        (step,) = [step for step in self.action["runs"]["steps"] if step.get("name") == name]
        assert "${{" not in step["run"]  # an input can't become part of the script
        environment = {variable: self.value(text) for variable, text in step["env"].items()}
        github = {"GITHUB_OUTPUT": self.outputs, "GITHUB_STEP_SUMMARY": self.summary, "RUNNER_TEMP": self.folder}
        programs = Path(sys.executable).parent
        # The package is really built and installed, but into a folder, and without what it needs.
        pip = {
            "PIP_TARGET": str(self.folder / "installed"),
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "false",
        }
        finished = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env={**os.environ, **pip, **environment, **{name: str(path) for name, path in github.items()},
                 "PATH": f"{programs}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )  # fmt: skip
        return finished.returncode, finished.stdout + finished.stderr

    def output(self, name):
        """The last value of an output."""
        return dict(line.split("=", 1) for line in self.outputs.read_text().splitlines())[name]


@pytest.fixture
def runner(tmp_path, saved_model):
    (tmp_path / "own questions.jsonl").write_text(cooking_questions())
    (tmp_path / "rules.toml").write_text(
        '[tasks.own]\ntask = "choices:"\n[[rules]]\nmetric = "own.accuracy"\nat_least = 0.9'
    )
    given = {"model": str(saved_model("llama")), "rules": "rules.toml", "task": "choices:own questions.jsonl\n"}
    return Runner(tmp_path, given)


def test_the_outcome_of_a_check_is_that_of_the_step(runner):
    runner.inputs["options"] = "--threads 1 --questions 50"
    status, said = runner.step("Check")
    assert (status, runner.output("outcome")) == (1, "fails"), said
    result = json.loads(Path(runner.output("result")).read_text())
    assert result["tasks"]["own"]["questions"] == 50
    assert "own.accuracy ≥ 0.9" in runner.summary.read_text()
    runner.inputs |= {"options": "--questions 9", "undecided": "pass"}
    status, said = runner.step("Check")
    assert (status, runner.output("outcome")) == (0, "undecided"), said
    runner.inputs |= {"rules": "$(touch run).toml"}
    status, said = runner.step("Check")
    assert (status, runner.output("outcome")) == (2, "error"), said
    assert not (runner.folder / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed")
def test_the_action_installs_its_own_version(runner):
    status, said = runner.step("Install")
    assert status == 0, said
    assert (runner.folder / "installed" / "crispr_lm" / "cli" / "gate.py").is_file()
