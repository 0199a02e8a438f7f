"""The plugin as a user meets it: pytest in a folder of its own, with rules for a tiny model."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ..helpers import cooking_questions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PLUGIN = "crispr_lm.cli.pytest_plugin"


def call(folder, *arguments):
    """Run pytest with this plugin alone, whether or not it is installed."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", PLUGIN, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return finished.returncode, finished.stdout + finished.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.jsonl").write_text(cooking_questions())
    rules = [f'[[rules]]\nmetric = "own.accuracy"\nat_least = {limit}' for limit in (0.01, 0.99)]
    (tmp_path / "rules.toml").write_text("\n".join(['[tasks.own]\ntask = "choices:own.jsonl"', *rules]))
    (tmp_path / "test_own.py").write_text("def test_own():\n    import sys\n    assert 'torch' not in sys.modules\n")
    return tmp_path


@pytest.mark.slow
def test_every_rule_is_a_test_with_its_figures_in_junit(folder, saved_model):
    (folder / "test_fixture.py").write_text(
        "import os\n\n"
        "def test_fixture(crispr_check):\n"
        "    found = crispr_check(os.environ['MODEL'], 'rules.toml', questions=30)\n"
        "    assert found['outcome'] == 'fails'\n"
    )
    os.environ["MODEL"] = str(saved_model("llama"))
    status, said = call(
        folder, "--crispr-rules", "rules.toml", "--crispr-model", saved_model("llama"), "--junitxml", "report.xml",
        "--crispr-option", "threads=1", "test_fixture.py",
    )  # fmt: skip
    assert status == 1, said
    assert "2 passed" in said
    assert "1 failed" in said
    assert "own.accuracy ≥ 0.99 fails: figure" in said
    assert "Traceback" not in said
    cases = {case.get("name"): case for case in ElementTree.parse(folder / "report.xml").iter("testcase")}
    failed = cases["own.accuracy at_least 0.99"]
    properties = {one.get("name"): one.get("value") for one in failed.iter("property")}
    assert properties["outcome"] == "fails"
    assert float(properties["low"]) <= float(properties["value"]) <= float(properties["high"])
    assert failed.find("failure") is not None
    assert cases["own.accuracy at_least 0.01"].find("failure") is None


@pytest.mark.slow
def test_without_rules_nothing_heavy_is_imported_and_mistakes_are_sentences(folder):
    status, said = call(folder)
    assert status == 0, said
    status, said = call(folder, "--crispr-rules", "rules.toml")
    assert (status, "--crispr-rules needs --crispr-model" in said) == (4, True), said
    status, said = call(folder, "--crispr-rules", "none.toml", "--crispr-model", "x", "-m", "crispr_rules")
    assert (status, "none.toml: can't be read" in said) == (4, True), said


def test_pytest_finds_the_plugin_where_the_library_is_installed():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"crispr-lm": PLUGIN}
