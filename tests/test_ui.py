"""The dashboard as people use it: served by its own commands, driven in headless Chromium."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from conftest import PAYLOAD, chromium

pytestmark = pytest.mark.ui

ROOT = Path(__file__).parent.parent
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
ALARMS = re.compile(r"traceback|\berror\b|\bwarning\b|exception", re.IGNORECASE)
SECONDS = 30
MS = SECONDS * 1000

PROJECT = f"""
import torch
from analysis import Problem

torch.manual_seed(0)
convolution = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.BatchNorm1d(4))
model = torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(24, 3))
x, y = torch.randn(50, 1, 8), torch.randint(0, 3, (50,))
name = {PAYLOAD!r}
problems = {{name: Problem(model, "cross_entropy", (x, y), name=name)}}
checkpoints = {{name: model, "misfit": torch.nn.Linear(2, 2)}}
"""


@pytest.fixture(scope="session")
def browser():
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page that must not complain, and must not ask any host but ours for anything."""
    complaints = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(MS)
    opened.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(f"page: {error}"))

    def guard(route):
        if re.match(r"https?://127\.0\.0\.1[:/]", route.request.url):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    opened.route("**/*", guard)
    yield opened
    context.close()
    assert complaints == []


@contextlib.contextmanager
def served(log, *command, **environment):
    """Run a server command with a free port; yields the address of the dashboard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **environment}
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(port)], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
        try:
            address = f"http://127.0.0.1:{port}/landscape_app"
            wait_for(lambda: answers(address, server), "the server", log)
            yield address
        finally:
            server.terminate()
            server.wait(SECONDS)
    alarming = [line for line in log.read_text().splitlines() if ALARMS.search(line)]
    assert alarming == [], log.read_text()


def answers(address, server):
    assert server.poll() is None, "the server has ended"
    try:
        return urllib.request.urlopen(f"{address}/autoload.js?bokeh-autoload-element=x", timeout=SECONDS).status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_for(condition, what, log=None):
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}" + (f":\n{log.read_text()}" if log else "")
        time.sleep(0.1)


def choose(page, label, option):
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("menuitem", name=option, exact=True).click()


def evaluations(page):
    found = re.search(r"([\d,]+) of [\d,]+ evaluations", page.get_by_text("evaluations ·").inner_text())
    return int(found[1].replace(",", ""))


def test_a_sample_is_computed_refined_cancelled_and_finished(page, tmp_path):
    with served(tmp_path / "log", "panel", "serve", "landscape_app", "--address", "127.0.0.1") as address:
        page.goto(address)
        page.get_by_text("No surface yet").wait_for()
        choose(page, "Model and data", "MLP 3×512 · train")
        page.get_by_text("Extent and precision").click()
        choose(page, "Points along each axis", "201")
        choose(page, "Interpolation error", "Every point")
        page.get_by_role("button", name="Compute").click()
        page.get_by_text("evaluations ·").wait_for()
        first = evaluations(page)
        before = page.locator("canvas").first.screenshot()
        wait_for(lambda: evaluations(page) >= first + 20, "more evaluations")
        assert page.locator("canvas").first.screenshot() != before
        assert page.get_by_role("progressbar").get_attribute("aria-label") == "Computation"

        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("The picture shows what").wait_for()
        assert page.get_by_text("Loss (cross entropy) [nats]: least").is_visible()

        choose(page, "Model and data", "MLP 2×128 · test")
        choose(page, "Interpolation error", "3 % of the range")
        choose(page, "Points along each axis", "51")
        page.get_by_text("Choices changed since").wait_for()
        page.get_by_role("button", name="Compute").click()
        page.get_by_text(re.compile(r"evaluations in .*s; ")).wait_for()
        assert page.get_by_text("Done", exact=True).is_visible()
        assert page.get_by_text("Choices changed since").count() == 0
        assert page.get_by_text("Random filter-normalised plane at mlp128-s0").is_visible()

        assert page.get_by_text("Tap the picture").is_visible()
        assert page.get_by_role("textbox", name="a", exact=True).input_value() == ""
        box = page.locator("canvas").first.bounding_box()
        page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.4 * box["height"])
        page.get_by_text(re.compile(r"Loss \(cross entropy\) [\d.]+ ± [\d.]+ nats; Accuracy .* at a")).wait_for()
        page.get_by_role("textbox", name="a", exact=True).fill("0.51")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile(r"at a\s=\s0.52")).wait_for()


def test_a_project_of_the_users_own_and_a_checkpoint_that_does_not_fit(page, tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(PROJECT)
    with served(tmp_path / "log", "landscape_app.cli", "serve", str(file), "--no-show") as address:
        page.goto(address)
        page.get_by_text("No surface yet").wait_for()
        assert page.get_by_role("combobox", name="BatchNorm statistics").is_visible()
        page.get_by_role("button", name="Compute").click()
        page.get_by_text("Done", exact=True).wait_for()
        assert page.get_by_text(PAYLOAD).first.is_visible()
        with page.expect_download() as download:
            page.get_by_text("Download result").click()
        assert download.value.suggested_filename.endswith(".nc")

        choose(page, "Checkpoint", "misfit")
        page.get_by_role("button", name="Compute").click()
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "weight" in alert.inner_text()
        assert "Traceback" not in alert.inner_text()
        assert page.get_by_text("This did not work").is_visible()
        assert page.evaluate("window.pwned") is None


def test_a_project_that_fails_to_import_says_so_and_is_read_again(page, tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(f"raise RuntimeError({PAYLOAD!r})\n")
    with served(tmp_path / "log", "landscape_app.cli", "serve", str(file), "--no-show") as address:
        page.goto(address)
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert f"'my_project.py', line 1: RuntimeError: {PAYLOAD}" in alert.inner_text()
        assert not page.get_by_text("exec_module").is_visible()
        page.get_by_text("Details", exact=True).click()
        assert page.locator("pre").is_visible()
        assert page.evaluate("window.pwned") is None

        file.write_text(PROJECT)
        page.reload()
        page.get_by_text("No surface yet").wait_for()
