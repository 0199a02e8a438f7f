"""What a user gets: the wheel and the sdist are built, installed elsewhere and used from another folder.

The environment is a new one that sees this one's packages after its own, so that PyTorch isn't installed once more. The
long version, with every requirement installed anew on every supported Python, is `make pythons`.
"""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from crispr_lm.version import __version__

ROOT = Path(__file__).parents[1]
DATA = {
    "crispr_lm/py.typed",
    "crispr_lm/evaluation/data/bbq.toml",
    "crispr_lm/report/assets/report.html.j2",
    "crispr_lm/report/assets/report.css",
    "crispr_lm/tasks/data/everyday.toml",
    "crispr_lm/tasks/data/exchanges.toml",
    "crispr_lm/tasks/data/instructions.txt",
    "crispr_lm/tasks/data/questions.toml",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed"),
]


def call(*command, folder):
    """Run a command in a folder, as if this project's sources were not there; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    finished = subprocess.run(list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def build(source, kind, into):
    """The wheel or sdist of a source tree."""
    call(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", into, folder=source)
    (built,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel installed; its folder of programs."""
    folder = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    programs = folder / "bin"
    packages = call(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(packages.strip(), "others.pth").write_text("\n".join(sorted(others)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "--disable-pip-version-check"]
    call(*pip, "install", "--no-deps", "--no-index", wheel, folder=folder)
    return programs


def test_the_wheel_holds_the_library_its_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        information = f"crispr_lm-{__version__}.dist-info"
        told = message_from_bytes(content.read(f"{information}/METADATA"))
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "crispr_lm").rglob("*.py")}
    assert names >= DATA | sources | {f"{information}/licenses/LICENSE"}
    assert {name.split("/")[0] for name in names} == {"crispr_lm", information}
    assert not [name for name in names if "__pycache__" in name]
    assert told["Version"] == __version__
    assert told["Requires-Python"] == ">=3.10"
    # A library leaves its users free to take newer releases of everything.
    assert {bound.operator for needed in told.get_all("Requires-Dist") for bound in Requirement(needed).specifier} == {
        ">="
    }


def test_the_sdist_builds_the_same_wheel_and_brings_its_tests(wheel, tmp_path):
    with tarfile.open(build(ROOT, "sdist", tmp_path)) as content:
        content.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    unpacked = tmp_path / f"crispr_lm-{__version__}"
    brought = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert brought >= {"tests/helpers.py", "docs/index.md", "mkdocs.yml", "examples/demo.toml", "requirements/test.txt"}
    assert build(unpacked, "wheel", tmp_path / "again").read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def release():
    """The script that writes the files of a release."""
    described = importlib.util.spec_from_file_location("release", ROOT / "requirements" / "release.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def archive(folder):
    """A folder as a tar archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as content:
        content.add(folder, arcname=".")
    return packed.getvalue()


@pytest.fixture
def sources(tmp_path):
    """This project with one file of code: it is built in a second."""
    folder = tmp_path / "sources"
    (folder / "src" / "crispr_lm").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "src/crispr_lm/version.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_a_build_shows_nothing_of_when_and_where_it_was_made(release, sources, tmp_path):
    wheel, sdist = release.build_twice(archive(sources), tmp_path / "work")
    assert (wheel.suffix, sdist.suffix) == (".whl", ".gz")


def test_a_build_that_shows_when_it_was_made_is_refused(release, sources, tmp_path):
    written = sources / "pyproject.toml"
    written.write_text(written.read_text() + "\n[tool.hatch.build]\nreproducible = false\n")
    with pytest.raises(SystemExit, match="not built reproducibly"):
        release.build_twice(archive(sources), tmp_path / "work")


def test_a_release_must_be_of_the_tagged_version_and_name_its_repository(release):
    project = '[project]\nname = "crispr-lm"\n[project.urls]\nRepository = "https://example.org/crispr-lm"\n'
    release.check(project, "1.2.3", "v1.2.3", "https://example.org/crispr-lm")
    release.check(project, "1.2.3", None, None)
    with pytest.raises(SystemExit, match=r"must be v1\.2\.3"):
        release.check(project, "1.2.3", "v1.2.4", "https://example.org/crispr-lm")
    with pytest.raises(SystemExit, match=r"project\.urls"):
        release.check(project, "1.2.3", "v1.2.3", "https://example.org/another")


def test_what_only_builds_is_not_among_the_dependencies_of_a_release():
    (core, build) = ((ROOT / "requirements" / name).read_text() for name in ("core.txt", "build.txt"))
    assert "\ntransformers==" in core
    assert "\nhatchling==" in build
    assert "\nhatchling==" not in core


def test_an_installed_wheel_is_used_from_another_folder(environment, saved_model, tmp_path):
    where = call(environment / "python", "-c", "import crispr_lm; print(crispr_lm.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)
    assert call(environment / "crispr-lm", "--version", folder=tmp_path).strip() == __version__
    assert "compare" in call(environment / "crispr-lm", "--help", folder=tmp_path)
    small = "--examples 4 --instructions 1 --validation-examples 8 --test-examples 8 --max-neurons 2 --neurons ffn"
    small += " --measure-examples 4 --neutral-prompts 2 --rounds 1"
    given = [saved_model("llama"), "--task", "builtin:everyday", "--output", "out", *small.split()]
    call(environment / "crispr-lm", "run", *given, folder=tmp_path)
    assert json.loads((tmp_path / "out" / "run.json").read_text())
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
