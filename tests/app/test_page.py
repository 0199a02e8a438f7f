"""The page: whom it answers, that text stays text, and every tab of it in a real browser."""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch

from crispr_lm import InputError, Neuron
from crispr_lm.app.figures import heat_map, options, plain
from crispr_lm.app.server import check_address, is_loopback
from crispr_lm.edits.neuron_activity import Firing

from ..browser import AXE, needs_axe, needs_browser, opened, serious_findings
from .conftest import ATTACK

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio")


@contextlib.contextmanager
def served(folder, *arguments):
    """The real command in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "crispr_lm", "app", str(folder), "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line.startswith("Open http"), process.stderr.read()
        address = line.split()[1]
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=20)


def status(address, **headers):
    request = urllib.request.Request(
        address, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("x.org", False),
    ],
)
def test_loopback_differs_from_what_others_reach(host, own):
    assert is_loopback(host) is own


def test_a_port_in_use_is_reported():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="give another --port"):
            check_address("127.0.0.1", other.getsockname()[1])
    with pytest.raises(InputError, match="can't be served on no such host"):
        check_address("no such host", 7860)


def test_text_in_figures_is_no_markup():
    bars = options(["nurse", ATTACK], [0.25, 0.75], [0.5, 0.5], 1, "edited")
    assert "<" not in "".join(bars.layout.yaxis.ticktext)
    assert (list(bars.data[0].x), list(bars.data[1].x)) == ([0.25, 0.75], [0.5, 0.5])
    assert plain("a <b>\n c") == "a &lt;b&gt; c"


def test_a_neurons_colours_are_relative_to_its_own_activations():
    values = torch.tensor([[1.0, -0.5, 0.0], [300.0, 150.0, torch.nan]])
    neurons = (Neuron("model.layers.3.mlp.down_proj", 7, "ffn"), Neuron("model.layers.4.mlp.down_proj", 1, "ffn"))
    figure = heat_map(Firing(("a", "<i>", "c"), neurons, values))
    first, second = figure.data[0].z
    # The 95th percentile of 1, 0.5, 0 is 0.95; that of 300 and 150 is 292.5.
    assert list(first) == pytest.approx([1.0, -0.5 / 0.95, 0.0])
    assert list(second)[:2] == pytest.approx([1.0, 150 / 292.5])
    assert second[2] is None
    assert figure.layout.yaxis.ticktext[0] == "layer 3, mlp.down_proj, unit 7"
    assert figure.data[0].customdata[1][0].endswith("activation +300.000")
    assert "&lt;i&gt;" in figure.data[0].customdata[0][1]


@needs_gradio
@needs_browser
@pytest.mark.browser
def test_every_tab_works_in_a_browser_and_other_origins_are_refused(attacking):
    from playwright.sync_api import expect

    expect.set_options(timeout=60_000)  # machines that run the tests may be busy
    with served(attacking) as address:
        for path in ("/", "/config", "/gradio_api/info"):
            assert status(address + path) == 200
            assert status(address + path, origin="http://evil.example") == 403
            assert status(address + path, origin="null") == 403
            assert status(address + path, host="evil.example") == 403
            assert status(address + path, sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403
        assert status(address, origin=address) == 200
        size = {"width": 1280, "height": 1000}
        with opened(address, [address, "data:", "blob:"], viewport=size) as (tab, problems):
            tab.fill("#ask-prompt textarea", "Who was late?")
            tab.press("#ask-prompt textarea", "Shift+Enter")
            expect(tab.locator("#ask-prompt textarea")).to_have_value("Who was late?\n")
            expect(tab.locator("#original textarea")).to_have_value("")
            tab.press("#ask-prompt textarea", "Enter")
            for side in ("#original textarea", "#edited textarea"):
                expect(tab.locator(side)).not_to_have_value("", timeout=20_000)

            tab.get_by_role("tab", name="Neurons slider").click()
            figures = tab.locator("#probabilities .bartext")
            expect(figures).to_have_count(6)
            whole = figures.all_text_contents()
            expect(tab.locator("#slider-asked textarea")).to_have_value(re.compile("onerror"))
            tab.fill("#neurons input[type=number]", "1")
            tab.keyboard.press("Enter")
            expect(tab.locator("#probabilities .legendtext").nth(1)).to_have_text("1 neuron eliminated")
            one = figures.all_text_contents()
            tab.fill("#neurons input[type=number]", "0")
            tab.keyboard.press("Enter")
            expect(tab.locator("#last-neuron textarea")).to_have_value("none: this is the original model")
            expect(tab.locator("#probabilities .legendtext").nth(1)).to_have_text("0 neurons eliminated")
            none = figures.all_text_contents()
            assert none[:3] == none[3:] == one[:3] == whole[:3]
            assert len({tuple(shown[3:]) for shown in (whole, one, none)}) == 3
            tab.get_by_text("or ask one of your own").click()
            tab.fill("#own-question input, #own-question textarea", "Who cooks?")
            tab.fill("#own-options textarea", "she\nhe")
            tab.click("#own-use")
            expect(figures).to_have_count(4)

            tab.get_by_role("tab", name="Changed answers").click()
            numbers = tab.locator('#changed-table [data-testid^="cell-"][data-testid$="-0"]')
            expect(tab.locator("#changed-asked textarea")).to_have_value(re.compile("bus stop"))
            expect(numbers).to_have_count(2)
            expect(tab.get_by_test_id("cell-0-1")).to_have_text("worse")
            tab.fill("#filter-words input, #filter-words textarea", "onerror")
            expect(numbers).to_have_count(1)
            tab.get_by_test_id("cell-0-1").click()
            expect(tab.locator("#changed-asked textarea")).to_have_value(re.compile("onerror"))
            # exp(-1) and exp(-2) in shares of exp(-1) + exp(-2) + exp(-3).
            expect(tab.locator("#changed-plot .bartext").first).to_have_text("66.5%")
            tab.fill("#filter-words input, #filter-words textarea", "")
            expect(numbers).to_have_count(2)
            tab.click("#filter-change input")
            tab.get_by_role("option", name="better").click()
            expect(numbers).to_have_count(1)
            expect(numbers).to_have_text("2")

            tab.get_by_role("tab", name="Which neurons fired").click()
            tab.press("#fired-prompt textarea", "Enter")
            expect(tab.locator("#fired-map .hm")).to_have_count(1)
            expect(tab.locator("#fired-table").get_by_test_id("cell-0-4")).to_contain_text("onerror")

            tab.get_by_role("tab", name="Figures").click()
            expect(tab.locator("#figures-table")).to_contain_text("Guesses where the context does not tell")

            assert tab.evaluate("window.hacked") is None
            if AXE is not None:
                assert serious_findings(tab) == []
            assert problems == []

            # Another site's script: its request is refused and it learns nothing.
            foreign = tab.context.browser.new_page()
            foreign.route(
                "http://evil.example/", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html")
            )
            foreign.goto("http://evil.example/")
            script = "address => fetch(address + '/config').then(answer => answer.status, error => String(error))"
            assert "Failed to fetch" in foreign.evaluate(script, address)


TABS = {
    "Ask both": "#ask-prompt textarea",
    "Neurons slider": "#probabilities .bartext",
    "Changed answers": "#changed-plot .bartext",
    "Which neurons fired": "#fired-map text:has-text('Press Look')",
    "Figures": "#figures-table",
}
"""Names of the tabs, and what is on each of them when it is ready."""


@needs_gradio
@needs_browser
@needs_axe
@pytest.mark.browser
def test_axe_finds_nothing_serious_on_any_tab_in_light_and_dark(attacking):
    found = {}
    with served(attacking) as address:
        for scheme in ("light", "dark"):
            with opened(address, [address, "data:", "blob:"], color_scheme=scheme) as (tab, problems):
                tab.set_default_timeout(60_000)  # machines that run the tests may be busy
                for name, ready in TABS.items():
                    tab.get_by_role("tab", name=name).click()
                    tab.locator(ready).first.wait_for()
                    found[scheme, name] = serious_findings(tab)
                tab.get_by_role("tab", name="Which neurons fired").click()
                tab.click("#fired-button")
                tab.locator("#fired-map .hm").wait_for()
                found[scheme, "fired"] = serious_findings(tab)
                assert problems == []
    assert {place: findings for place, findings in found.items() if findings} == {}


@needs_gradio
def test_an_open_address_is_warned_about(finished, monkeypatch):
    from crispr_lm.app.server import prepare
    from crispr_lm.other_settings import AppSettings
    from crispr_lm.runtime.progress import SilentProgress

    class Told(SilentProgress):
        said = ()

        def say(self, sentence):
            self.said = (*self.said, sentence)

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for host, warnings in (("0.0.0.0", 1), ("127.0.0.1", 0)):
        progress = Told()
        ready = prepare(finished, AppSettings(host=host, port=port, device="cpu"), progress)
        assert ready.address == f"http://{host}:{port}"
        assert sum("without a password" in sentence for sentence in progress.said) == warnings
