"""The dashboard as people use it: served by its own commands, driven in headless Chromium."""

import re
import time
import urllib.parse
from pathlib import Path

import axe_playwright_python
import pytest
from conftest import MS, PAYLOAD, served, wait_for

pytestmark = pytest.mark.ui

PROJECT = f"""
import torch
from analysis import Problem

torch.manual_seed(0)
convolution = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.BatchNorm1d(4))
model = torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(24, 3))
x, y = torch.randn(50, 1, 8), torch.randint(0, 3, (50,))
name = {PAYLOAD!r}
def broken():
    raise RuntimeError("no data today")

problems = {{name: Problem(model, "cross_entropy", (x, y), name=name), "broken": broken}}
checkpoints = {{"misfit": torch.nn.Linear(2, 2), name: model}}
"""


in_3d = pytest.mark.parametrize("browser", ["webgl"], indirect=True)


def choose(page, label, option):
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("menuitem", name=option, exact=True).click()


PROGRESS = re.compile(r"([\d,]+) of [\d,]+ evaluations ·")


def evaluations(page):
    return int(PROGRESS.search(page.get_by_text(PROGRESS).inner_text())[1].replace(",", ""))


def test_a_sample_is_computed_refined_cancelled_and_finished(page, tmp_path):
    with served(tmp_path / "log", "panel", "serve", "landscape_app", "--address", "127.0.0.1") as address:
        page.goto(address)
        page.get_by_text("Done", exact=True).wait_for()  # a first look asks for nothing
        page.goto(f"{address}?page=surface")
        page.get_by_text("No surface yet").wait_for()
        choose(page, "Model and data", "MLP 3×512 · train")
        page.get_by_text("Extent and precision").click()
        choose(page, "Points along each axis", "201")
        assert not page.get_by_text("Extent of a").is_visible()  # it is fitted
        choose(page, "Interpolation error", "Every point")
        page.get_by_role("button", name="Compute").click()
        page.get_by_text(PROGRESS).wait_for()
        first = evaluations(page)
        page.locator("canvas:visible").first.wait_for()
        before = page.locator("canvas:visible").first.screenshot()
        wait_for(lambda: evaluations(page) >= first + 20, "more evaluations")
        wait_for(lambda: page.locator("canvas:visible").first.screenshot() != before, "another picture")
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
        assert not page.get_by_role("button", name="Back to the spectrum").is_visible()
        assert page.get_by_text("Choices changed since").count() == 0
        assert page.get_by_text("Random filter-normalised plane at mlp128-s5", exact=True).is_visible()

        assert page.get_by_text("Tap the picture").is_visible()
        assert page.get_by_role("textbox", name="a", exact=True).input_value() == ""
        box = page.locator("canvas:visible").first.bounding_box()
        page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.4 * box["height"])
        page.get_by_text(re.compile(r"Loss \(cross entropy\) [\d.]+ ± [\d.]+ nats; Accuracy .* at a")).wait_for()
        page.get_by_text(re.compile("^(evaluated|interpolated)$")).first.wait_for()  # the hover, of a second session
        assert page.get_by_text("undefined").count() == 0
        page.get_by_role("textbox", name="a", exact=True).fill("0.51")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile(r"at a\s=\s0.52")).wait_for()


def test_a_project_of_the_users_own_and_a_checkpoint_that_does_not_fit(page, tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(PROJECT)
    with served(tmp_path / "log", "landscape_app.cli", "serve", str(file), "--no-show") as address:
        page.goto(address)
        page.get_by_text("No surface yet").wait_for()
        page.get_by_role("combobox", name="BatchNorm statistics").wait_for()
        page.get_by_text("Extent and precision").click()
        page.get_by_role("button", name="Compute").click()
        page.get_by_text("Done", exact=True).wait_for()
        assert page.get_by_text(PAYLOAD).first.is_visible()
        with page.expect_download() as download:
            page.get_by_text("Download result").locator("visible=true").click()
        assert download.value.suggested_filename.endswith(".nc")

        choose(page, "Points along each axis", "51")
        compute(page, 2)
        wait_for(lambda: "drawn=yes" in page.url, "the address to say what is shown")
        page.reload()
        page.get_by_text("Cached", exact=True).wait_for()  # what is finished is there at once
        page.get_by_text("Extent and precision").click()
        assert page.get_by_role("combobox", name="Points along each axis").inner_text() == "51"
        page.goto(f"{address}?drawn=yes&seed={urllib.parse.quote(PAYLOAD)}")
        page.get_by_text(f"“{PAYLOAD}” is not on offer for “Seed of the directions”").wait_for()
        assert page.evaluate("window.pwned") is None

        page.goto(address)
        page.get_by_text("No surface yet").wait_for()
        choose(page, "Checkpoint", "misfit")
        page.get_by_role("button", name="Compute").click()
        alert = page.get_by_role("alert")
        alert.wait_for()
        assert "weight" in alert.inner_text()
        assert "Traceback" not in alert.inner_text()
        assert page.get_by_text("This did not work").is_visible()
        choose(page, "Model and data", "broken")
        page.get_by_text("broken cannot be used").first.wait_for()
        alert.filter(has_text="no data today").wait_for()
        assert page.evaluate("window.pwned") is None


RANGES = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === "plane").map(plot => [plot.x_range.start, plot.x_range.end])"""
SLICES = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => /^slice-[ab]$/.test(model.name) && Bokeh.index.find_one(model)?.is_displayed)
  .map(plot => Math.max(...plot.renderers.map(drawn => drawn.data_source.data.t?.length ?? 0)))"""
ZOOM = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .find(model => model.name === "plane").x_range.setv({start: -0.25, end: 0.5})"""
RELIEFS = """() => {
  const found = [];
  const search = node => {
    for (const child of node.children) {
      if (child.classList.contains("relief")) found.push(child);
      if (child.shadowRoot) search(child.shadowRoot);
      search(child);
    }
  };
  search(document.body);
  return found.filter(one => one.clientWidth && one._fullLayout)
    .map(({_fullLayout: {scene}}) => ({eye: scene.camera.eye, height: scene.zaxis.title.text}));
}"""
TURN = """() => document.dispatchEvent(
  new CustomEvent("landscape-camera", {detail: {from: null, camera: {eye: {x: 0.3, y: -2, z: 0.7}}}}))"""


def compute(page, number):
    """Compute what is chosen, and wait for the end of what then has that number in the list."""
    page.get_by_role("button", name=re.compile("^Compute")).click()
    page.get_by_role("heading", name=re.compile(rf"^{number}\.")).wait_for()
    page.get_by_text("Done", exact=True).wait_for()


def send(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


@in_3d
def test_a_run_is_looked_at_from_all_sides_compared_and_shown_again(page, samples, tmp_path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{samples}?page=surface")
    page.get_by_text("No surface yet").wait_for()
    choose(page, "Model and data", "MLP 64, a training run · test")
    choose(page, "Slice", "Trajectory plane")
    page.get_by_text("Extent and precision").click()
    choose(page, "Points along each axis", "51")
    choose(page, "Interpolation error", "3 % of the range")
    compute(page, 1)
    assert page.get_by_text(re.compile("The two axes hold .* of the variance")).is_visible()

    box = page.locator("canvas:visible").first.bounding_box()
    page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.4 * box["height"])
    page.get_by_text(re.compile(r"^Loss \(cross entropy\) [\d.]+ ± [\d.]+ nats; Accuracy .* at a")).wait_for()
    wait_for(lambda: page.evaluate(SLICES) == [51, 51], "a slice along each axis")
    before = page.locator("canvas:visible").first.screenshot()
    page.get_by_label("Logarithmic").first.click()
    wait_for(lambda: page.locator("canvas:visible").first.screenshot() != before, "another scale")
    choose(page, "Show", "Accuracy")
    page.get_by_text(re.compile(r"^Accuracy [\d.]+ ± .* at a")).wait_for()
    choose(page, "Show", "Loss (cross entropy)")

    assert not [url for url in asked if "plotly" in url]
    page.get_by_label("3-D").click()
    wait_for(lambda: page.evaluate(RELIEFS), "the surface in 3-D")
    assert [one["height"] for one in page.evaluate(RELIEFS)] == ["Loss (cross entropy) [nats]"]
    page.evaluate(TURN)
    wait_for(lambda: page.evaluate(RELIEFS)[0]["eye"]["y"] == -2, "another point of view")

    page.get_by_label("Compare").first.click()
    page.get_by_text("A shows Loss (cross entropy) [nats], B shows Accuracy [fraction]").wait_for()
    wait_for(lambda: len(page.evaluate(RELIEFS)) == 2, "the second surface")
    page.evaluate(TURN)
    page.get_by_label("3-D").click()
    wait_for(lambda: len(page.evaluate(RANGES)) == 2, "two heat maps")
    page.evaluate(ZOOM)
    wait_for(lambda: page.evaluate(RANGES) == [[-0.25, 0.5]] * 2, "the other picture to zoom too")

    choose(page, "Slice", "Random plane")
    compute(page, 2)
    page.get_by_text("Tap the picture").wait_for()  # the point was of another plane
    page.get_by_role("button", name="Compare").nth(1).click()
    page.get_by_text("Both pictures share one scale for the loss. Their axes differ").wait_for()
    page.get_by_role("button", name="Show").nth(1).click()
    page.get_by_text("Shown again").wait_for()
    assert page.get_by_role("combobox", name="Slice").inner_text() == "Trajectory plane"
    page.get_by_label("3-D").click()
    wait_for(lambda: len(page.evaluate(RELIEFS)) == 2, "two surfaces")
    wait_for(lambda: {one["eye"]["y"] for one in page.evaluate(RELIEFS)} == {-2}, "the point of view to be kept")
    page.get_by_label("3-D").click()

    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).first.click()
    download.value.save_as(tmp_path / "saved.nc")
    page.get_by_role("button", name="Remove").first.click()
    wait_for(lambda: page.get_by_role("button", name="Remove").count() == 1, "one result")
    send(page, tmp_path / "saved.nc")
    page.get_by_text("Opened from a file").wait_for()
    (tmp_path / "bad.nc").write_text("nothing")
    send(page, tmp_path / "bad.nc")
    page.get_by_role("alert").get_by_text("cannot be read as netCDF").wait_for()
    assert page.get_by_role("button", name="Remove").count() == 2  # each file was opened once
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_tab_that_is_closed_during_a_computation_leaves_a_clean_log(page, samples, forgotten):
    page.goto(f"{samples}?page=surface")
    page.get_by_text("No surface yet").wait_for()
    page.get_by_text("Extent and precision").click()
    choose(page, "Points along each axis", "201")
    choose(page, "Interpolation error", "Every point")
    page.get_by_role("button", name="Compute").click()
    page.get_by_text(PROGRESS).wait_for()
    page.close()
    forgotten.append(time.monotonic() + 20)


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
        page.locator("canvas").first.wait_for(state="attached")  # all is there, and asks for nothing more
        page.wait_for_load_state("networkidle")


EIGENVALUES = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === "spectrum-0" && model.renderers)
  .map(plot => plot.renderers.map(one => one.data_source).find(source => source.data.bound))
  .map(source => ({values: [...source.data.x], bounds: [...source.data.bound], fill: [...source.data.fill]}))[0]"""

FRAME = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === "spectrum-0" && model.renderers).map(plot => {
    const view = Bokeh.index.find_one(plot), frame = view.frame.bbox;
    return {left: frame.left, width: frame.width, bottom: frame.bottom,
      start: plot.x_range.start, end: plot.x_range.end};
  })[0]"""


def seen(page, name):
    """What is visible: a page that is not looked at is there as well."""
    return page.get_by_role("button", name=name).locator("visible=true")


def test_a_spectrum_streams_is_cancelled_and_an_eigenvalue_leads_to_its_plane_and_back(page, samples):
    page.goto(f"{samples}?page=surface")
    page.get_by_text("No surface yet").wait_for()
    choose(page, "Model and data", "MLP 3×512 · train")
    page.locator(".bk-tab", has_text="Spectrum").click()
    page.get_by_text("No spectrum yet").wait_for()
    cost = page.get_by_text(re.compile(r"About [\d,]+ to [\d,]+ products .* basis takes at most"))
    cost.locator("visible=true").wait_for()
    seen(page, "Compute").click()
    page.get_by_text(re.compile(r"[\d,]+ products · \d+ of \d+ eigenvalues converged")).wait_for()
    wait_for(lambda: page.evaluate(EIGENVALUES) and page.evaluate(EIGENVALUES)["values"], "the first eigenvalue")
    first = page.evaluate(EIGENVALUES)
    assert "white" in first["fill"]  # marked: not converged
    wait_for(lambda: max(page.evaluate(EIGENVALUES)["values"]) > max(first["values"]), "a better one")
    seen(page, "Cancel").click()
    page.get_by_text(re.compile("The picture shows what .* the bars hold")).wait_for()
    assert page.get_by_text(re.compile("λmax = ")).locator("visible=true").count() == 1

    page.get_by_role("combobox", name="Model and data", exact=True).locator("visible=true").click()
    page.get_by_role("menuitem", name="MLP 2×128 · test", exact=True).click()
    seen(page, "Compute").click()
    page.get_by_text("a second look found no eigenvalue missing").wait_for()
    assert page.get_by_text("verified", exact=True).count() == 7
    assert seen(page, "Plane of this eigenvector").is_disabled()
    found = page.evaluate(EIGENVALUES)
    box = page.locator("canvas:visible").first.bounding_box()
    frame = page.evaluate(FRAME)
    across = (max(found["values"]) - frame["start"]) / (frame["end"] - frame["start"])
    page.mouse.click(box["x"] + frame["left"] + across * frame["width"], box["y"] + frame["bottom"] - 20)
    page.get_by_role("combobox", name="And along", exact=True).wait_for()
    seen(page, "Plane of this eigenvector").click()
    page.get_by_text(re.compile("Along the eigenvector of λ₁")).locator("visible=true").first.wait_for()
    page.get_by_text(re.compile("Along a: with λ = .* the parabola")).wait_for()
    page.get_by_label("Softmax radius").click()
    page.get_by_text(re.compile("Softmax radius: [\\d.]+ along a")).wait_for()
    seen(page, "Back to the spectrum").click()
    page.get_by_text("Shown again").locator("visible=true").wait_for()
    assert page.get_by_text("verified", exact=True).first.is_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).locator("visible=true").first.click()
    assert download.value.suggested_filename.endswith(".nc")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


POINTS = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === "trajectory-eigenvalues" && model.renderers)
  .map(plot => plot.renderers.map(one => one.data_source).find(source => source.data.checkpoint))
  .map(source => [...source.data.x])[0]"""

TRAJECTORY_FRAME = FRAME.replace("spectrum-0", "trajectory-eigenvalues")

CELL = """([name, row, column]) => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === name && model.renderers).map(plot => {
    const view = Bokeh.index.find_one(plot), frame = view.frame.bbox, n = plot.x_range.end + 0.5;
    view.el.scrollIntoView({block: "center"});
    const at = view.el.getBoundingClientRect();
    const across = (column + 0.5) / n * frame.width, down = (row + 0.5) / n * frame.height;
    return [at.left + frame.left + across, at.top + frame.top + down];
  })[0]"""

RUN = """
import torch
from analysis import Problem

torch.manual_seed(0)
x, y = torch.randn(60, 6), torch.randint(0, 3, (60,))
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
problem = Problem(model, "cross_entropy", (x, y), name="a run")
checkpoints = {}
for epoch in range(4):
    checkpoints[f"epoch {epoch}"] = {name: value.clone() for name, value in model.state_dict().items()}
    loss = torch.nn.functional.cross_entropy(model(x), y)
    for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters()))):
        p.data -= 0.5 * g
"""


def test_a_run_streams_and_a_checkpoint_leads_to_its_spectrum(page, tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(RUN)
    with served(tmp_path / "log", "landscape_app.cli", "serve", str(file), "--no-show") as address:
        page.goto(address)
        page.get_by_text("No surface yet").wait_for()
        page.locator(".bk-tab", has_text="Trajectory").click()
        page.get_by_text("No trajectory yet").wait_for()
        page.get_by_text(re.compile("at each of 4 checkpoints.* basis takes at most")).wait_for()
        seen(page, "Compute").click()
        page.get_by_text("4 checkpoints, ").locator("visible=true").first.wait_for()
        wait_for(lambda: len(page.evaluate(POINTS) or []) == 4 * 4, "all points")
        assert page.get_by_text("No file says the learning rate").is_visible()
        page.get_by_label("Learning rate η").fill("0.5")
        page.keyboard.press("Enter")
        page.get_by_text(re.compile(r"2 / η = 4 \(η = 0.5\)")).wait_for()

        box, frame = page.locator("canvas:visible").first.bounding_box(), page.evaluate(TRAJECTORY_FRAME)
        across = (3 - frame["start"]) / (frame["end"] - frame["start"])
        page.mouse.click(box["x"] + frame["left"] + across * frame["width"], box["y"] + frame["bottom"] - 30)
        page.get_by_text(re.compile("^epoch 2: loss")).wait_for()
        seen(page, "Spectrum of this checkpoint").click()
        page.get_by_text("a second look found no eigenvalue missing").wait_for()
        assert page.get_by_text("Hessian spectrum at epoch 2").locator("visible=true").first.is_visible()
        page.get_by_role("button", name="Show", exact=True).locator("visible=true").last.click()
        page.get_by_text("Shown again").locator("visible=true").wait_for()
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_paths_between_checkpoints_stream_and_a_cell_leads_to_its_path(page, samples):
    page.goto(f"{samples}?page=surface")
    page.get_by_text("No surface yet").wait_for()
    page.locator(".bk-tab", has_text="Connectivity").click()
    page.get_by_text("No path yet").wait_for()
    page.get_by_text(re.compile("^12 paths of about .* samples")).wait_for()
    assert not page.get_by_role("combobox", name="What is called a barrier").is_visible()
    seen(page, "Compute").click()
    page.get_by_text(re.compile("of 12 paths · ")).locator("visible=true").first.wait_for()
    page.get_by_text(re.compile("^12 paths, ")).wait_for(timeout=4 * MS)
    page.get_by_text(re.compile("^From mlp128-s2 to mlp128-s3 the barrier .* matched by activations")).wait_for()
    page.mouse.click(*page.evaluate(CELL, ["connectivity-after", 2, 1]))
    page.get_by_text(re.compile("^From mlp128-s4 to mlp128-s3 the barrier")).wait_for()
    choose(page, "To B", "mlp128-s5")
    page.get_by_text(re.compile("^From mlp128-s4 to mlp128-s5 the barrier")).wait_for()
    page.get_by_text("Symmetries", exact=True).locator("visible=true").click()
    assert page.get_by_text(re.compile("^2 groups of units may be exchanged: 10.431.2 ")).is_visible()
    with page.expect_download() as download:
        seen(page, "Save B matched to A").click()
    assert download.value.suggested_filename == "mlp128-s5-matched-to-mlp128-s4.safetensors"
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def faults(page):
    """The serious and critical findings of axe-core, once what was asked for is drawn.

    No rule that is on and grave wants the style sheets fetched again, which takes longest (`preload`).
    """
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({resultTypes: ['violations'], preload: false}).then(found => found.violations)")
    grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in grave]


def test_no_page_has_a_serious_fault_of_accessibility(page, samples):
    page.goto(f"{samples}?resolution=51&drawn=yes")
    page.get_by_text("Done", exact=True).wait_for()
    assert faults(page) == []
    for name in ("Spectrum", "Trajectory", "Connectivity"):
        page.locator(".bk-tab", has_text=name).click()
        page.get_by_text(re.compile("^No .* yet$")).locator("visible=true").wait_for()
        assert faults(page) == [], name
    page.locator(".bk-tab", has_text="Checkpoints").click()
    page.get_by_role("searchbox").wait_for()
    assert faults(page) == []
    for name in ("Jobs", "Results"):
        page.locator(".bk-tab", has_text=name).click()
        page.get_by_role("table", name=name).get_by_text("done", exact=True).wait_for()
        assert faults(page) == [], name
    page.get_by_role("button", name=re.compile("^Details: 1. ")).click()
    page.get_by_role("checkbox", name=re.compile("^Select 1. ")).check()
    wait_for(lambda: faults(page) == [], "the opened row to be without faults")
    page.get_by_role("button", name="Toggle theme").click()
    wait_for(lambda: faults(page) == [], "the dark page to be without faults")
    page.locator(".bk-tab", has_text="Surface").click()
    wait_for(lambda: faults(page) == [], "the dark picture to be without faults")
