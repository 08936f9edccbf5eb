"""What the Connectivity page does about one pair of checkpoints, in headless Chromium."""

import re

import pytest
from conftest import MS, wait_for
from test_ui import CELL, choose, faults, seen

pytestmark = pytest.mark.ui

THREE = "&".join(f"checkpoints=mlp128-s{i}" for i in range(3))
MODELS = "const found = name => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])"
PATH = f"""t => {{
  {MODELS}.filter(model => model.name === name && model.renderers)[0];
  const plot = found("connectivity-path"), view = Bokeh.index.find_one(plot), frame = view.frame.bbox;
  view.el.scrollIntoView({{block: "center"}});
  const at = view.el.getBoundingClientRect(), {{start, end}} = plot.x_range;
  return [at.left + frame.left + (t - start) / (end - start) * frame.width, at.top + frame.top + frame.height / 2];
}}"""
SPOTS = f"""() => {{
  {MODELS}.filter(model => model.name === name && model.renderers)[0];
  const plane = found("connectivity-plane");
  if (!plane) return [];
  const {{x, y}} = plane.renderers[plane.renderers.length - 1].data_source.data;
  return [...x].map((place, i) => [place, y[i]]);
}}"""


def near(found, expected):
    return len(found) == len(expected) and all(abs(a - b) < 2e-3 for a, b in zip(found, expected, strict=True))


def scaled(spots, share):
    return [place * share for spot in spots for place in spot]


def flat(spots):
    return [place for spot in spots for place in spot]


def test_a_pair_has_its_plane_its_curve_and_its_layers(page, samples):
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.goto(f"{samples}?page=connectivity&{THREE}&t=1&drawn=yes")
    page.get_by_text(re.compile("^6 paths, ")).wait_for(timeout=4 * MS)
    page.mouse.click(*page.evaluate(CELL, ["connectivity-after", 2, 1]))
    page.get_by_text(re.compile("^From mlp128-s2 to mlp128-s1 the barrier")).wait_for()
    seen(page, "Draw the plane").click()
    seen(page, "Draw again").wait_for(timeout=4 * MS)
    wait_for(lambda: len(page.evaluate(SPOTS)) == 2, "the marks of t")
    ends = page.evaluate(SPOTS)  # at t = 1: B, and B matched
    assert near(ends[0], [1, 0])
    assert ends[1][1] > 0

    x, y = page.evaluate(PATH, 0.3)
    page.mouse.move(x - 20, y)
    before = len(sent)
    assert before
    page.mouse.move(x, y)
    wait_for(lambda: near(flat(page.evaluate(SPOTS)), scaled(ends, 0.3)), "the marks to follow the pointer")
    page.get_by_text("At t = 0.30").wait_for()
    assert len(sent) == before, "pointing must not ask the server"
    page.mouse.move(x, 5)
    wait_for(lambda: near(flat(page.evaluate(SPOTS)), scaled(ends, 1)), "the marks to go back")
    page.get_by_role("slider").locator("visible=true").focus()
    for _ in range(2):
        page.keyboard.press("ArrowLeft")
    wait_for(lambda: near(flat(page.evaluate(SPOTS)), scaled(ends, 0.98)), "the marks to follow the slider")
    page.get_by_text("At t = 0.98").wait_for()
    wait_for(lambda: "t=0.98" in page.url, "the address to say t")

    choose(page, "Steps of training", "10,000")
    seen(page, "Train a curve").click()
    page.get_by_text(re.compile(r"^[\d,]+ of 10,000 steps")).wait_for()
    page.get_by_text("Cancel", exact=True).locator("visible=true").click()
    page.get_by_text("the curve is where it was then").wait_for()
    choose(page, "Steps of training", "100")
    seen(page, "Train a curve").click()
    page.get_by_text(re.compile("^100 steps in ")).wait_for()
    page.get_by_text(re.compile("^Along the curve the barrier is ")).wait_for()
    choose(page, "Plane through A, B and", "The bend of the curve")
    seen(page, "Draw the plane").click()
    seen(page, "Draw again").wait_for(timeout=4 * MS)

    seen(page, "Compute layers").click()
    page.get_by_text(re.compile("^Layer-wise barriers between mlp128-s2 and mlp128-s1. Bars")).wait_for()
    choose(page, "Layers", "Layers together")
    with page.expect_download() as download:
        seen(page, "Save B matched to A").click()
    assert download.value.suggested_filename == "mlp128-s1-matched-to-mlp128-s2.safetensors"
    assert faults(page) == []
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
