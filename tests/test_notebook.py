"""The explorer in a notebook: run in JupyterLab and driven both ways, from the browser and from Python."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import line_result, plane_result
from models import classification, mlp

from analysis import Problem, Project, save
from analysis.connectivity import barrier_matrix
from landscape_app.spectrum.request import SpectrumRequest, Vectors
from landscape_app.trajectory.request import TrajectoryRequest

nbformat = pytest.importorskip("nbformat", reason="no jupyterlab: install the extra `test`")
pytest.importorskip("jupyterlab", reason="no jupyterlab: install the extra `test`")
pytestmark = pytest.mark.ui

ROOT = Path(__file__).parent.parent
MS = 90_000
NAMES = ("first", "second", "third")
LAB = ("--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=")
LAB += ("--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.extension_manager=readonly")
LAB += ("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",)
CELLS = [
    "from landscape_app.notebook import Explorer, view",
    """import sys
from models import classification, mlp
from analysis import Problem, load
results = {name: load(f"{name}.nc") for name in ("plane", "line", "spectrum", "trajectory", "matrix")}
problem = Problem(mlp(), "cross_entropy", classification(), metrics=["accuracy"], name="small")""",
    "live = view(results['plane'])\nlive",
    *(f"view(results['{name}'])" for name in ("line", "spectrum", "trajectory", "matrix")),
    """from landscape_app import elements
elements.plane(results["plane"]) * elements.checkpoints(results["plane"]) + elements.line(results["line"])""",
    "explorer = Explorer(problem, {'first': mlp(seed=0), 'second': mlp(seed=1)})\nexplorer",
    "explorer.state.seed = 7\nexplorer.state.resolution = 51\nexplorer.state.compute = True",
]
SHOWN = {2: 1, 3: 1, 4: 1, 5: 4, 6: 1, 7: 2, 8: 1}  # cell: figures in it
IN_KERNEL = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const run = kernel.requestExecute({code});
  let said = "";
  run.onIOPub = message => {
    if (message.header.msg_type === "stream" && message.content.name === "stdout") said += message.content.text;
    if (message.header.msg_type === "error") said += message.content.traceback.join("\\n");
  };
  await run.done;
  return said.trim();
}"""
COLOURS = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def last(steps):
    *_, ds = steps
    return ds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A notebook, and one result of every kind beside it."""
    place = tmp_path_factory.mktemp("notebook")
    problem = Problem(mlp(), "cross_entropy", classification(), metrics=["accuracy"], name="small")
    project = Project(problem, {name: mlp(seed=seed) for seed, name in enumerate(NAMES)})
    results = {
        "plane": plane_result(),
        "line": line_result(),
        "spectrum": last(SpectrumRequest("small", NAMES[0], largest=2, smallest=1, degree=6).steps(project, Vectors())),
        "trajectory": last(TrajectoryRequest("small", NAMES).steps(project)),
        "matrix": last(barrier_matrix(problem, [project.checkpoint("small", name) for name in NAMES])),
    }
    for name, ds in results.items():
        save(ds, place / f"{name}.nc")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), place / "demo.ipynb")
    return place


@pytest.fixture
def lab(folder, tmp_path):
    """JupyterLab, which knows no settings of the user's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"PYTHONPATH": os.pathsep.join(paths), "IPYTHONDIR": str(tmp_path), "JUPYTERLAB_SETTINGS_DIR": str(tmp_path)}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *LAB, f"--ServerApp.port={port}", f"--ServerApp.root_dir={folder}"],
            env={**os.environ, **own}, stdout=out, stderr=out,
        )  # fmt: skip
        try:
            address, until = f"http://127.0.0.1:{port}", time.monotonic() + MS / 1000
            while not answers(address):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def answers(address):
    try:
        return urllib.request.urlopen(f"{address}/api", timeout=10).status == 200
    except OSError:
        return False


@pytest.fixture
def page(lab, browser):
    """A page that must not complain, and must not ask any host but ours for anything."""
    complaints = []
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        opened = context.new_page()
        opened.set_default_timeout(MS)
        opened.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
        opened.on("pageerror", lambda error: complaints.append(f"page: {error}"))

        def guard(route):
            if route.request.url.startswith((lab, "data:", "blob:")):
                route.continue_()
            else:
                complaints.append(f"asked for {route.request.url}")
                route.abort()

        opened.route("**/*", guard)
        opened.goto(f"{lab}/lab/tree/demo.ipynb?reset")
        opened.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel")
        yield opened
    assert complaints == []


def test_views_and_the_explorer_are_drawn_and_driven_from_both_sides(page):
    def python(code):
        return page.evaluate(IN_KERNEL, code)

    def wait_for(condition, what):
        until = time.monotonic() + MS / 1000
        while not condition():
            assert time.monotonic() < until, f"waited in vain for {what}"
            page.wait_for_timeout(100)

    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    cells = page.locator(".jp-CodeCell")
    explorer = cells.nth(8)
    explorer.get_by_text("Done", exact=True).wait_for()  # computed though the browser was not ready when it was asked
    for place, count in SHOWN.items():
        cells.nth(place).locator(".jp-Cell-outputArea").scroll_into_view_if_needed()  # else it is not laid out
        figures = cells.nth(place).locator(".bk-Figure:visible")
        wait_for(lambda here=figures, count=count: here.count() == count, f"{count} figures in cell {place}")
        for figure in figures.all():
            wait_for(lambda here=figure: here.locator("canvas").first.evaluate(COLOURS) > 20, f"a drawing in {place}")
    assert python("print('panel_material_ui' in sys.modules)") == "False"

    # from Python to the browser
    assert explorer.get_by_label("Seed of the directions").input_value() == "7"
    assert python("explorer.state.seed = 3; explorer.add(results['plane'])") == ""
    explorer.get_by_text("Added in Python", exact=True).wait_for()
    explorer.get_by_role("heading", name="2. Plane at one").wait_for()
    python("explorer.state.compare = True; explorer.state.point = (1.0, 2.0)")
    wait_for(lambda: explorer.locator(".bk-Figure:visible").count() == 4, "the picture beside it and the slices")
    title = results_title(python, "spectrum")
    python("live.result = results['spectrum']")
    cells.nth(2).get_by_role("heading", name=title).wait_for()
    python("live.result = results['plane']; explorer.state.compare = False")
    cells.nth(2).get_by_role("heading", name="Plane at one").wait_for()

    # from the browser to Python
    explorer.get_by_label("Show", exact=True).first.select_option("Accuracy")
    wait_for(lambda: python("print(explorer.state.metric)") == "accuracy", "the metric")
    tap(explorer.locator(".bk-Figure:visible").first)
    wait_for(lambda: python("print(explorer.selection.point)") not in ("(1.0, 2.0)", "None"), "the tapped point")
    a, b = map(float, re.findall(r"-?[\d.]+", python("print(explorer.selection.point)")))
    assert a in (-0.333, 0.333)  # the middle of the picture, on its grid
    assert b in (0.5, 1.0, 1.5)
    assert explorer.get_by_text(f"a = {a:g}".replace("-", "−")).count()
    tap(cells.nth(2).locator(".bk-Figure:visible").first)
    wait_for(lambda: python("print(live.point)") != "None", "the tapped point of a view")
    explorer.get_by_role("tab", name="Spectrum").or_(explorer.get_by_text("Spectrum", exact=True)).first.click()
    wait_for(lambda: python("print(explorer.selection.page)") == "spectrum", "the page that is looked at")
    assert python("print(len(explorer.results), explorer.result)") == "2 None"


def results_title(python, name):
    title = python(f"print(results['{name}'].attrs['title'])")
    return title[:1].upper() + title[1:]


def tap(figure):
    box = figure.bounding_box()
    figure.click(position={"x": box["width"] * 0.45, "y": box["height"] * 0.5})
