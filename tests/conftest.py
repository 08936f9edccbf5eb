"""What several test modules share: results with known values, and a project whose computation is instant."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from analysis.directions import KINDS
from analysis.weights import Entry, Structure

SECONDS = 60  # of patience with a slow machine
MS = SECONDS * 1000
FLAGS = ("--no-sandbox", "--no-first-run", "--disable-sync", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # without a GPU: slow
ROOT = Path(__file__).parent.parent
ALARMS = re.compile(r"traceback|\berror\b|\bwarning\b|exception", re.IGNORECASE)
PAYLOAD = "<img src=x onerror=window.pwned=1>"


def pytest_collection_modifyitems(items):
    """What takes longest begins first: browsers in the first two of the workers' equal parts, tutorials in a third."""
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    browsers = [item for item in items if item.get_closest_marker("ui")]
    tutorials = [item for item in items if "tutorials" in item.nodeid]
    slow = [browsers[::2], browsers[1::2], tutorials] if parts > 2 else [browsers + tutorials]
    others = [item for item in items if item not in browsers and item not in tutorials]
    ordered = []
    for part in range(parts):
        ordered += slow[part] if part < len(slow) else []
        room = len(items) * (part + 1) // parts - len(ordered)
        ordered, others = ordered + others[:room], others[room:]
    items[:] = ordered


def plane_result(values=None, shape=(5, 4), status="converged", names=("one", "two"), **attrs):
    """A finished result on a plane: loss = 10 a + b + 20 unless `values` [b, a] are given."""
    a, b = np.linspace(-1, 1, shape[1]), np.linspace(0, 2, shape[0])
    loss = values if values is not None else 10 * a[None, :] + b[:, None] + 20
    return _result({"a": a, "b": b}, ("b", "a"), loss, status, names, **attrs)


def line_result(values=None, points=9, status="converged", names=("one", "two"), **attrs):
    """A finished result on a line: loss = 1 + t² unless `values` [t] are given."""
    t = np.linspace(0, 1, points)
    loss = values if values is not None else 1 + t**2
    return _result({"t": t}, ("t",), loss, status, names, **attrs)


def _result(axes, dims, loss, status, names, **attrs):
    loss = np.asarray(loss, dtype=float)
    known = np.isfinite(loss)
    spots = np.meshgrid(*[axes[d] for d in dims], indexing="ij")
    per_class = np.stack([loss, 2 * loss], -1)
    variables = {
        "loss": (dims, loss, {"long_name": "cross entropy", "units": "nats"}),
        "loss_se": (dims, np.full_like(loss, 0.1)),
        "accuracy": (dims, np.full_like(loss, 0.5), {"long_name": "accuracy", "units": "fraction"}),
        "accuracy_se": (dims, np.zeros_like(loss)),
        "per_class": ((*dims, "class"), per_class, {"long_name": "loss of each class", "units": "nats"}),
        "per_class_se": ((*dims, "class"), np.zeros_like(per_class)),
        "computed": (dims, known),
        "sample_loss": ("sample", loss.ravel()),
        "sample_accuracy": ("sample", np.zeros(loss.size)),
        "sample_per_class": (("sample", "class"), per_class.reshape(-1, 2)),
        "marker_name": ("marker", np.array(names, dtype=object)),
        "marker_residual": ("marker", np.arange(len(names), dtype=float)),
        "marker_loss": ("marker", np.arange(len(names)) + 0.25),
    }
    for dim, spot in zip(dims, spots, strict=True):
        variables[f"sample_{dim}"] = ("sample", spot.ravel())
        variables[f"marker_{dim}"] = ("marker", np.linspace(0, 0.9, len(names)))
    provenance = {
        "problem": "digits",
        "data": {"samples": 360, "sha256": "a" * 64},
        "batchnorm": "recalibrated",
        "seed": 7,
        "checkpoints": [{"name": name, "sha256": "b" * 64} for name in names],
        "extent": [[-1.0, 1.0]],
    }
    facts = {
        "status": status,
        "progress": 0.5 if status == "running" else 1.0,
        "evaluations": int(known.sum()),
        "planned_evaluations": loss.size,
        "eta_s": 12.0,
        "elapsed_s": 3.0,
        "interpolation_error": 0.004,
        "tolerance": 0.01,
        "equal_aspect": 1,
        "title": "plane at " + names[0],
        "provenance": json.dumps(provenance),
    }
    coords = {d: (d, v, {"long_name": f"direction {d}", "units": "filter norms"}) for d, v in axes.items()}
    return xr.Dataset(variables, coords, {**facts, **attrs})


class FakeProject:
    """Has what the app asks of a project; holds no model."""

    name = "fake"
    path = None
    watched = False

    def __init__(self, problems=("digits", "letters"), checkpoints=("one", "two", "three"), batchnorm=("none",)):
        loss = SimpleNamespace(name="loss", long_name="cross entropy", units="nats", classes=0)
        structure = Structure({f"{layer}.{kind}": Entry(torch.Size([2]), kind) for layer in "ab" for kind in KINDS[:2]})
        about = {"n": 360, "measures": [loss], "batchnorm": batchnorm[0], "batchnorm_choices": batchnorm}
        about["dtype"] = torch.float32
        about["structure"] = structure
        self.problems = {name: SimpleNamespace(**about) for name in problems}
        self._checkpoints = tuple(checkpoints)

    def checkpoint_names(self, problem):
        return self._checkpoints

    def source(self, problem, name):
        return None

    def size(self, problem, name):
        return 0

    def modified(self, problem, name):
        return 0.0


def chromium():
    """The browser's path; without one, skip with the reason, or fail where CI is set."""
    names = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    for name in filter(None, names):
        if path := shutil.which(name):
            return path
    reason = "no Chromium: install it, or name it in the environment variable CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(reason)
    return pytest.skip(reason)


@pytest.fixture(scope="session")
def chrome():
    """Launches Chromium, with more flags if given. A process can have one Playwright only."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda *more: playwright.chromium.launch(executable_path=path, args=[*FLAGS, *more])


@pytest.fixture(scope="session", params=["flat"])
def browser(request, chrome):
    """A browser; a test that needs WebGL asks for it by `in_3d`."""
    opened = chrome(*(WEBGL if request.param == "webgl" else ()))
    yield opened
    opened.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    item.failed = report.failed
    return report


@pytest.fixture
def page(browser, request, tmp_path):
    """A page that must not complain, nor ask any host but ours for anything. A failed test leaves a picture of it."""
    complaints = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(MS)
    opened.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(f"page: {error}"))
    opened.on("request", lambda request: complaints.extend(foreign(request.url)))
    yield opened
    if request.node.failed:
        opened.screenshot(path=tmp_path / "failed.png")
        print(f"{opened.url} looked like {tmp_path / 'failed.png'}")
    context.close()
    assert complaints == []


def foreign(address):
    """What there is to say against it. Nothing is intercepted: that would cost each page seconds, and its cache."""
    return [] if re.match(r"https?://127\.0\.0\.1[:/]|data:|blob:", address) else [f"asked for {address}"]


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
            wait_for(lambda: answers(port, server), "the server", log)
            yield address
        finally:
            server.terminate()
            server.wait(SECONDS)
    alarming = [line for line in log.read_text().splitlines() if ALARMS.search(line)]
    assert alarming == [], log.read_text()


def answers(port, server):
    """Whether it sends what takes no session, which is dear."""
    assert server.poll() is None, "the server has ended"
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/static/js/bokeh.min.js", timeout=SECONDS).status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def wait_for(condition, what, log=None):
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, f"waited in vain for {what}" + (f":\n{log.read_text()}" if log else "")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """The address of a dashboard of the samples, which many tests visit. Its log must be clean at the end."""
    with served(tmp_path_factory.mktemp("served") / "log", "landscape_app.cli", "serve", "--no-show") as address:
        yield address


@pytest.fixture(scope="session")
def forgotten(samples):
    """The times by which the server has forgotten a session: until then something may still go into its log."""
    times = []
    yield times
    time.sleep(max(0, max(times, default=0) - time.monotonic()))
