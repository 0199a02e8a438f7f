"""The files of a release, in an empty folder: `make dist`. It runs in the environment that release.txt describes.

    python requirements/release.py FOLDER TORCH [--tag v0.1.0 --repository https://github.com/OWNER/NAME]

    crispr_lm-VERSION-py3-none-any.whl, crispr_lm-VERSION.tar.gz   what `pip install` takes
    sbom.cdx.json                                                 CycloneDX: all that core.txt pins, and PyTorch
    SHA256SUMS                                                    of these three

Only what git has committed is built from. Everything is built twice, and has to be equal to the byte: in another
folder, with other times and permissions of the files, under another clock, time zone and umask, and the wheel from the
sdist. No SOURCE_DATE_EPOCH is needed; hatchling writes a date of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


class Surroundings(NamedTuple):
    """What must not show in a build: when, where and by whom.

    Attributes:
        time: Seconds since 1970, of the files and of the clock.
        private: Whether files are readable by their owner alone.
        zone: Time zone.
    """

    time: int
    private: bool
    zone: str


FIRST = Surroundings(1_000_000_000, False, "UTC")
SECOND = Surroundings(2_000_000_000, True, "Asia/Tokyo")

BUILD = "import time; time.time = lambda: {time}.0; from hatchling.cli import hatchling; hatchling()"


def prepare(folder: Path, surroundings: Surroundings) -> None:
    """Give all files of a folder the times and permissions of the surroundings."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700 if surroundings.private else 0o755)
        else:
            runs = 0o111 if os.access(path, os.X_OK) else 0
            path.chmod((0o644 | runs) & (0o700 if surroundings.private else 0o755))
        os.utime(path, (surroundings.time, surroundings.time))


def build(source: Path, into: Path, surroundings: Surroundings, *kinds: str) -> dict[str, Path]:
    """Build the named kinds (`wheel`, `sdist`) of a source tree; file by kind."""
    prepare(source, surroundings)
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    environment |= {"TZ": surroundings.zone, "PYTHONHASHSEED": str(surroundings.time)}
    command = [sys.executable, "-c", BUILD.format(time=surroundings.time), "build", "-d", str(into)]
    for kind in kinds:
        command += ["-t", kind]
    umask = 0o077 if surroundings.private else 0o022
    built = subprocess.run(command, cwd=source, env=environment, umask=umask, capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(built.stderr)
    patterns = {"wheel": "*.whl", "sdist": "*.tar.gz"}
    return {kind: next(into.glob(patterns[kind])) for kind in kinds}


def extract(archive: bytes, into: Path) -> Path:
    """Write what a tar archive holds into a folder; returns the folder."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        content.extractall(into, filter="data")
    return into


def build_twice(source: bytes, work: Path) -> list[Path]:
    """Wheel and sdist of a tar archive of the sources.

    Raises:
        SystemExit: the second build has other bytes than the first.
    """
    first = build(extract(source, work / "one"), work / "built-one", FIRST, "wheel", "sdist")
    second = build(extract(source, work / "two" / "further-down"), work / "built-two", SECOND, "wheel", "sdist")
    (unpacked,) = extract(first["sdist"].read_bytes(), work / "three").iterdir()
    third = build(unpacked, work / "built-three", SECOND, "wheel", "sdist")
    for other in (second, third):
        for kind, file in first.items():
            if sha256(file) != sha256(other[kind]):
                sys.exit(f"the {kind} is not built reproducibly: {file} and {other[kind]} differ")
    return list(first.values())


def list_dependencies(project: str, version: str, torch: str, target: Path) -> Path:
    """Write what core.txt pins for any Python and platform, with hashes, and PyTorch, as CycloneDX 1.6."""
    described = target.with_name("pyproject.toml")
    described.write_text(project.replace('dynamic = ["version"]', f'version = "{version}"'))
    locked = (ROOT / "requirements" / "core.txt").read_text() + f"{torch}\n"
    command = ["requirements", "--pyproject", str(described), "--mc-type", "library", "--output-reproducible"]
    command += ["--sv", "1.6", "--of", "JSON", "--validate", "-o", str(target), "-"]
    # It warns that the list has no graph: a lock does not say what needs what.
    environment = os.environ | {"PYTHONWARNINGS": "ignore::UserWarning"}
    run = [sys.executable, "-m", "cyclonedx_py", *command]
    subprocess.run(run, input=locked, text=True, check=True, env=environment)
    return target


def check(project: str, version: str, tag: str | None, repository: str | None) -> None:
    """Refuse a release whose tag or address is not what the project says.

    Raises:
        SystemExit: the tag is of another version, or `[project.urls]` does not name the repository.
    """
    if tag is not None and tag != f"v{version}":
        sys.exit(f"the tag is {tag}, but src/crispr_lm/version.py says {version}: the tag must be v{version}")
    urls = tomllib.loads(project)["project"]["urls"]
    if repository is not None and urls.get("Repository") != repository:
        sys.exit(
            f'pyproject.toml does not say where the project is; under [project.urls] add Repository = "{repository}"'
        )


def sha256(file: Path) -> str:
    """Of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    """Write all files, and print their hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; new or empty")
    parser.add_argument("torch", help="the release of PyTorch that the locks are made with, as in torch==2.13.0")
    parser.add_argument("--tag", help="of the release; must be v and the version")
    parser.add_argument("--repository", help="its address, which the metadata must name")
    given = parser.parse_args()
    if given.folder.is_dir() and any(given.folder.iterdir()):
        sys.exit(f"{given.folder} is not empty")
    version = runpy.run_path(str(ROOT / "src" / "crispr_lm" / "version.py"))["__version__"]
    project = (ROOT / "pyproject.toml").read_text()
    check(project, version, given.tag, given.repository)
    source = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        files = build_twice(source, work)
        files.append(list_dependencies(project, version, given.torch, work / "sbom.cdx.json"))
        given.folder.mkdir(parents=True, exist_ok=True)
        files = [Path(shutil.copy(file, given.folder)) for file in files]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, files[:2])], check=True)
    sums = "".join(f"{sha256(file)}  {file.name}\n" for file in files)
    (given.folder / "SHA256SUMS").write_text(sums)
    print(f"built twice, equal to the byte:\n{sums}", end="")


if __name__ == "__main__":
    main()
