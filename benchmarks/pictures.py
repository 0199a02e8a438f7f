"""What the documentation shows of a run, all of one run: the tutorial's output, a chat, and every screenshot.

    python benchmarks/pictures.py                      # runs the demo first
    python benchmarks/pictures.py --run DIR --log FILE # of a finished run, with what it printed on standard error

Texts are written between ``<!-- output: NAME -->`` and ``<!-- end of output -->`` in docs/; pictures into docs/images.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispr_lm import LanguageModel, load_model, load_task, option_scores

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
DEMO = ("run", "builtin:smollm2", "--task", "builtin:everyday", "--config", "examples/demo.toml")
QUESTION = "The nurse and the engineer had a talk about the broken machine. Who repaired it?"
WIDTH = 100
"""Columns of what is shown of a terminal: as wide as a page of the documentation."""

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
TRIALS = re.compile(r"^trial \d+: ")


@dataclass(frozen=True)
class Shot:
    """A picture of a page of the run: its name, the place on the page, and how it is looked at."""

    name: str
    place: str = ""
    size: dict[str, int] | None = None
    scheme: str = "light"


SHOTS = (
    Shot("report"),
    Shot("report-dark", scheme="dark"),
    Shot("report-phone", size=PHONE),
    Shot("report-search", "#search"),
    Shot("report-changed", "#answers"),
)


def main() -> None:
    """Make all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a finished run of builtin:smollm2")
    parser.add_argument("--log", type=Path, help="what it printed on standard error")
    given = parser.parse_args()
    if (given.run is None) != (given.log is None):
        parser.error("give --run and --log together, or none of them")
    folder, log = (given.run, given.log) if given.run else demo(ROOT / "demo-output")
    fill("tutorial.md", "search", search_lines(log.read_text(encoding="utf-8")))
    fill("tutorial.md", "result", last_lines(folder))
    fill("try-it.md", "chat", chat(folder))
    screenshots(folder)
    with served(folder) as address:
        photograph_app(address)
        forward = forward_seconds(load_model("builtin:smollm2", dtype="auto"))
        fill("try-it.md", "paint", paints_text(first_paints(address), forward))


def command(*arguments: str, **given: Any) -> subprocess.CompletedProcess[str]:
    """Run crispr-lm in a terminal of fixed width."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "crispr_lm", *arguments], cwd=ROOT, env=environment, text=True, check=True, **given
    )


def demo(folder: Path) -> tuple[Path, Path]:
    """Run the demo; returns its folder and its log."""
    log = folder.with_suffix(".log")
    with log.open("w", encoding="utf-8") as stderr:
        command(*DEMO, "--output", str(folder), "--overwrite", stderr=stderr, stdout=subprocess.DEVNULL)
    return folder, log


def search_lines(log: str) -> str:
    """The lines of the trials and the reason at their end, wrapped as a terminal does."""
    lines = log.splitlines()
    trials = [line for line in lines if TRIALS.match(line)]
    if not trials:
        raise SystemExit("the log has no trials; give what crispr-lm run printed on standard error")
    return "\n".join(wrapped for line in trials for wrapped in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    """A line as words within the width, continued with an indent."""
    words, lines = line.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def last_lines(folder: Path) -> str:
    """What a run prints at its end, from its results."""
    code = (
        "import json, sys; from pathlib import Path; from crispr_lm.report.result_tables import print_results; "
        "folder = Path(sys.argv[1]); print_results(json.loads((folder / 'results.json').read_text()), folder)"
    )
    environment = {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", code, str(folder)], env=environment, text=True, check=True, capture_output=True
    )
    return "\n".join(line.rstrip() for line in printed.stdout.strip().replace(str(folder), "demo-output").splitlines())


def chat(folder: Path) -> str:
    """Both answers to a question."""
    arguments = ("chat", "builtin:smollm2", "--edit", str(folder / "edit.json"), "--max-new-tokens", "60")
    return command(*arguments, input=QUESTION + "\n", capture_output=True).stdout.strip()


def fill(page: str, name: str, content: str) -> None:
    """Put a text between its marks in a page of the documentation."""
    path = DOCS / page
    path.write_text(filled(path.read_text(encoding="utf-8"), name, content), encoding="utf-8")


def filled(page: str, name: str, content: str) -> str:
    """A page with the text between its marks.

    Raises:
        ValueError: the page has no such marks, or has them twice.
    """
    begin, end = f"<!-- output: {name} -->\n", "<!-- end of output -->"
    if page.count(begin) != 1:
        raise ValueError(f"the page has {page.count(begin)} places for {name!r}; give it one")
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the place for {name!r} has no end")
    return f"{before}{begin}```text\n{content}\n```\n{end}{after}"


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium, as the tests use it."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("there is no Chromium; install it for the pictures")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


def screenshots(folder: Path) -> None:
    """Pictures of the report."""
    address = (folder / "report.html").resolve().as_uri()
    with browser() as opened:
        for shot in SHOTS:
            page = opened.new_page(viewport=shot.size or DESKTOP, color_scheme=shot.scheme)
            page.goto(address + shot.place)
            page.locator("main > section:visible").first.wait_for()
            page.wait_for_timeout(1500)  # figures are drawn by a script
            # Cut out of the whole page: pictures of a page that is scrolled are shifted in some Chromiums.
            page.evaluate("scrollTo(0, 0)")
            size = shot.size or DESKTOP
            top = page.evaluate("document.querySelector('nav').getBoundingClientRect().top") if shot.place else 0
            clip = {"x": 0, "y": top, **size}
            page.screenshot(path=IMAGES / f"{shot.name}.png", full_page=True, clip=clip)
            page.close()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The page of crispr-lm app, while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "crispr_lm", "app", str(folder), "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def photograph_app(address: str) -> None:
    """A picture of the slider."""
    with browser() as opened:
        page = opened.new_page(viewport=DESKTOP)
        page.set_default_timeout(120_000)
        page.goto(address)
        page.get_by_role("tab", name="Neurons slider").click()
        page.locator("#probabilities .bartext").first.wait_for()
        page.wait_for_timeout(1500)
        page.screenshot(path=IMAGES / "app.png")


TABS = {
    "Neurons slider": "#probabilities .bartext",
    "Changed answers": '#changed-table [data-testid^="cell-"]',
    "Which neurons fired": "#fired-prompt textarea",
    "Figures": "#figures-table",
    "Ask both": "#ask-prompt textarea",
}
"""Tabs of the app in the order of clicking, and what must be seen of each."""


def first_paints(address: str) -> dict[str, float]:
    """Seconds from a click until each tab of the app shows what it has."""
    seconds = {}
    with browser() as opened:
        page = opened.new_page(viewport=DESKTOP)
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator(TABS["Ask both"]).wait_for()
        for name, content in TABS.items():
            start = time.perf_counter()
            page.get_by_role("tab", name=name).click()
            page.locator(content).first.wait_for()
            seconds[name] = time.perf_counter() - start
    return seconds


def paints_text(seconds: dict[str, float], forward: float) -> str:
    """The same, a line each; also in forward passes of a prompt."""
    return "\n".join(
        f"{name:<20} {taken:4.1f} s, {taken / forward:5.1f} forward passes of a prompt"
        for name, taken in seconds.items()
    )


def forward_seconds(lm: LanguageModel) -> float:
    """Seconds of a forward pass of one prompt of the demo, with its options."""
    task = load_task("builtin:everyday")
    asked = task.examples[:1], task.instructions[0]
    option_scores(lm, *asked)
    start = time.perf_counter()
    option_scores(lm, *asked)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
