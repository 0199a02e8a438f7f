"""Own rankings, metrics, tasks, methods and architectures: registered, loaded from files and packages, refused."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import crispr_lm
from crispr_lm import InputError, Method, Metric, MetricFamily, Ranking, TaskKind, Treatment
from crispr_lm.baselines.registry import METHODS
from crispr_lm.jobs.preparation import load_tasks
from crispr_lm.metrics.registry import FAMILIES
from crispr_lm.model import neuron_sites as neurons
from crispr_lm.other_settings import EvaluateSettings
from crispr_lm.runtime import plugins
from crispr_lm.runtime.plugins import GROUP, load_file, loaded
from crispr_lm.search.rankings import RANKINGS
from crispr_lm.tasks import KINDS

from ..cli.test_commands import run, sentence
from ..helpers import EXAMPLES, INSTRUCTIONS, build_model

REGISTRIES = (RANKINGS, FAMILIES, KINDS, METHODS)
ROW = {"context": "Ann met Bob.", "question": "Who was late?", "options": ["Ann", "Bob", "Unknown"], "answer": 2}


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """Nothing that a test registers stays."""
    for registry in REGISTRIES:
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(neurons, "_registered", [])
    monkeypatch.setattr(plugins, "_loaded", [])
    monkeypatch.setattr(plugins, "_asked", True)
    monkeypatch.setattr(plugins, "_failure", None)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Has packages offer these modules as plugins: name to source."""

    def offer(**sources):
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        for name, source in sources.items():
            (folder / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        entries = [EntryPoint(name, name, GROUP) for name in sources]
        monkeypatch.setattr(plugins, "entry_points", lambda group: entries if group == GROUP else [])
        monkeypatch.setattr(plugins, "_asked", False)

    return offer


def position():
    """How often the first option is taken."""

    def columns(_examples, scores):
        return {"first": (scores.argmax(axis=1) == 0).astype(float), "asked": np.ones(len(scores))}

    share = Metric("first_share", "First option taken", ("first", "asked"), lambda first, asked: first / asked)
    return MetricFamily(name="position", metrics=(share,), headline="first_share", columns=columns)


def test_own_metrics_are_computed_by_evaluate():
    crispr_lm.register_metrics(position())
    lm = build_model("llama")
    found = crispr_lm.evaluate(lm, EXAMPLES, INSTRUCTIONS, family="position")
    shares = [float((table.argmax(dim=1) == 0).double().mean()) for table in found.option_scores]
    assert found["first_share"] == pytest.approx(sum(shares) / len(shares))


def test_an_own_ranking_is_one_of_those_that_are_tried():
    crispr_lm.register_ranking(Ranking("first", lambda lm, parts: []))
    assert "first" in tuple(RANKINGS)


def test_an_own_task_is_loaded_by_its_name(tmp_path):
    def read(path):
        return [EXAMPLES[0], *EXAMPLES[2:]] if path.read_text() == "mine" else []

    (tmp_path / "questions.txt").write_text("mine")
    crispr_lm.register_task("quiz", TaskKind(read, "Quiz", family="winobias"))
    task = crispr_lm.load_task(f"quiz:{tmp_path / 'questions.txt'}")
    assert (len(task.examples), task.family) == (3, "winobias")
    with pytest.raises(InputError, match="quiz"):
        crispr_lm.load_task("quizz:questions.txt")
    crispr_lm.register_task("other", TaskKind(read, family="winobais"))
    with pytest.raises(InputError, match=r"no metrics 'winobais' \(did you mean 'winobias'\?\)"):
        load_tasks(EvaluateSettings(task=(f"other:{tmp_path / 'questions.txt'}",)))


def test_an_own_method_is_compared_with():
    from crispr_lm.jobs.comparison import chosen_methods

    crispr_lm.register_baseline(Method("nothing", "Nothing", "control", "Does nothing.", lambda fit, draw: Treatment()))
    assert [method.name for method in chosen_methods(["nothing"])] == ["original", "search", "nothing"]


def test_a_feed_forward_block_of_an_unknown_name_is_found_once_it_is_registered():
    model = build_model("llama").model
    for layer in model.model.layers:
        layer.mlp.shrink = layer.mlp.down_proj
        del layer.mlp.down_proj
    with pytest.raises(InputError, match=r"try 'linear' neurons; or name .* with crispr_lm\.register_architecture"):
        neurons.find_sites(model, "ffn")
    crispr_lm.register_architecture(r"mlp\.shrink")
    assert [site.name for site in neurons.find_sites(model, "ffn")] == [f"model.layers.{n}.mlp.shrink" for n in (0, 1)]


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (
            lambda: crispr_lm.register_metrics(position()) or crispr_lm.register_metrics(position()),
            "'position' already",
        ),
        (lambda: crispr_lm.register_metrics(MetricFamily(name="x", metrics=(), headline="y")), "has no metric 'y'"),
        (lambda: crispr_lm.register_ranking(Ranking("published", None)), "ranking 'published' already"),
        (lambda: crispr_lm.register_ranking(Ranking("a b", None)), "'a b' is no name for a ranking"),
        (lambda: crispr_lm.register_task("bbq", TaskKind(None)), "kind of task 'bbq' already"),
        (lambda: crispr_lm.register_task("builtin", TaskKind(None)), "kind of task 'builtin' already"),
        (lambda: crispr_lm.register_task("a:b", TaskKind(None)), "'a:b' is no name"),
        (lambda: crispr_lm.register_baseline(METHODS["steering"]), "method 'steering' already"),
        (lambda: crispr_lm.register_baseline(Method("all", "", "control", "", None)), "stands for all methods"),
        (lambda: crispr_lm.register_architecture("("), "is no regular expression"),
        (lambda: crispr_lm.register_architecture("down_proj"), "names no further down projection"),
        (lambda: crispr_lm.register_architecture(""), "names no further down projection"),
    ],
)
def test_what_can_not_be_registered_is_refused(register, message):
    with pytest.raises(InputError, match=message):
        register()


OWN_TASK = """
import crispr_lm
from crispr_lm.tasks.choices import read_choices

crispr_lm.register_task("mine", crispr_lm.TaskKind(read_choices, "Mine"))
"""


def test_the_plugin_of_a_package_is_loaded_when_a_table_is_first_read(installed, tmp_path):
    installed(of_package=OWN_TASK)
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(ROW))
    assert "of_package" not in sys.modules
    assert len(crispr_lm.load_task(f"mine:{questions}").examples) == 1
    assert loaded() == ["of_package of an unknown package"]


def test_a_plugin_of_a_package_that_fails_is_named_every_time(installed):
    installed(broken_package="import no_such_module")
    for read in (lambda: tuple(RANKINGS), lambda: crispr_lm.load_task("builtin:everyday"), loaded):
        with pytest.raises(
            InputError, match=r"plugin broken_package of .* fails \(ModuleNotFoundError: No module .*unin"
        ):
            read()


def test_a_plugin_may_be_a_function_of_a_package(installed, monkeypatch):
    installed(with_function="def go():\n    import crispr_lm\n    crispr_lm.register_architecture('shrink')\n")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint("one", "with_function:go", GROUP)])
    tuple(FAMILIES)
    assert neurons._registered == ["shrink"]


def test_a_file_on_the_command_line_is_a_plugin(tmp_path, capsys, saved_model):
    plugin, questions = tmp_path / "own.py", tmp_path / "questions.jsonl"
    plugin.write_text(OWN_TASK)
    questions.write_text("\n".join(json.dumps({**ROW, "group": number}) for number in range(9)))
    command = ["evaluate", saved_model("llama"), "--task", f"mine:{questions}", "--instructions", "1", "--split", "all"]
    command += ["--output", tmp_path / "results.json", "--measure-examples", "4", "--neutral-prompts", "2"]
    assert "unknown kind 'mine'" in sentence(capsys, *command)
    status, _ = run(capsys, "--plugin", plugin, *command)
    assert status == 0
    assert "mine:questions.jsonl" in json.loads((tmp_path / "results.json").read_text())["tasks"]
    (name,) = loaded()
    assert name.startswith("own.py sha256:")
    load_file(plugin)  # the same once more changes nothing
    assert loaded() == [name]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nraise ValueError('no luck')", r"own.py fails at line 2 (ValueError: no luck); mend it"),
        ("def", "own.py fails (SyntaxError: invalid syntax (own.py, line 1)); mend it"),
        ("import sys\nsys.exit(3)", "own.py fails at line 2 (SystemExit: 3); mend it"),
        (
            "import crispr_lm\ncrispr_lm.register_architecture('fc2')",
            "fails at line 2 ('fc2' names no further down projection; give one that is not known yet); mend it",
        ),
        (None, "own.py is no Python file here; give the path of a .py file"),
    ],
)
def test_a_file_that_is_no_plugin_ends_in_a_sentence(source, message, tmp_path, capsys):
    if source is not None:
        (tmp_path / "own.py").write_text(source)
    assert message in sentence(capsys, "--plugin", tmp_path / "own.py", "inspect", "nowhere")


def test_neither_settings_nor_environment_can_name_a_plugin(tmp_path, capsys, monkeypatch):
    (tmp_path / "own.py").write_text("raise ValueError('it ran')")
    monkeypatch.setenv("CRISPR_LM_PLUGIN", str(tmp_path / "own.py"))
    assert "nowhere" in sentence(capsys, "inspect", "./nowhere")
    (tmp_path / "settings.toml").write_text(f"plugin = {json.dumps(str(tmp_path / 'own.py'))}")
    told = sentence(capsys, "--config", tmp_path / "settings.toml", "inspect", "./nowhere")
    assert "can't set 'plugin'; give --plugin on the command line" in told


def test_a_record_made_with_a_plugin_is_run_with_it_alone():
    from crispr_lm.jobs.reproduce import _check_plugins

    _check_plugins([])
    with pytest.raises(InputError, match=r"made with plugin own\.py sha256:0; give its file with --plugin"):
        _check_plugins(["own.py sha256:0"])


def test_looking_for_plugins_is_left_until_something_is_asked_for():
    code = "import sys, crispr_lm, crispr_lm.cli; print(sorted({'torch', 'crispr_lm.rankings'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_help_names_the_option(capsys):
    status, printed = run(capsys, "--help")
    assert status == 0
    assert "--plugin" in printed.out
