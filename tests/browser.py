"""A real browser for the pages that people look at."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

AXE = next(
    (
        path
        for folder in (os.environ.get("CRISPR_LM_AXE"), Path(__file__).parents[1])
        if folder is not None and (path := Path(folder) / "node_modules" / "axe-core" / "axe.min.js").exists()
    ),
    None,
)
"""The accessibility checks of axe-core, where ``make axe`` has installed them (or in another folder)."""

needs_axe = pytest.mark.skipif(AXE is None, reason="needs axe-core: make axe")

needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs Chromium and playwright"
)


_kept: list[contextlib.ExitStack] = []
_running: list[Any] = []


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
    """Within this context one browser opens all pages, from the first one on: it takes longer to start than they do."""
    with contextlib.ExitStack() as stack:
        _kept.append(stack)
        try:
            yield
        finally:
            _kept.clear()
            _running.clear()


@contextlib.contextmanager
def _started() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    if not _kept:
        with _started() as browser:
            yield browser
        return
    if not _running:
        _running.append(_kept[0].enter_context(_started()))
    yield _running[0]


@contextlib.contextmanager
def opened(address: str, allowed: Sequence[str], **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """A tab with the page, and the list that every console error and every request to elsewhere is added to.

    Args:
        address: Of the page.
        allowed: What the address of a request may begin with.
        options: Of the tab, as Playwright's `new_page` takes them.
    """
    with _browser() as browser:
        tab = browser.new_page(**options)
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        own = tuple(allowed)
        tab.on("request", lambda request: None if request.url.startswith(own) else problems.append(request.url))
        tab.goto(address)
        yield tab, problems
        tab.close()


def serious_findings(tab: Any) -> list[str]:
    """What axe-core finds on the page as it is now that keeps somebody from using it, a line each."""
    assert AXE is not None
    tab.evaluate(AXE.read_text(encoding="utf-8"))
    found = tab.evaluate("axe.run()")["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {[node['html'][:120] for node in rule['nodes'][:4]]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
    ]


def check_tabs(tab: Any, names: Sequence[str]) -> None:
    """Every tab of a page shows its section alone, with every figure drawn."""
    for name in names:
        tab.click(f'nav button[data-tab="{name}"]')
        assert tab.locator("main > section:visible").count() == 1
        assert tab.locator(f"#{name}").is_visible()
        figures = tab.locator(f"#{name} .figure")
        for index in range(figures.count()):
            figures.nth(index).locator(".main-svg").first.wait_for()
