"""The page Checkpoints as people use it, in headless Chromium, by the keyboard alone where that can be."""

import re

import pytest
from conftest import PAYLOAD
from test_ui import RUN, faults, seen, served, wait_for

pytestmark = pytest.mark.ui

SPOTS = """() => Bokeh.documents.flatMap(doc => [...doc._all_models.values()])
  .filter(model => model.name === "plane" && model.renderers)
  .map(plot => plot.renderers.map(one => one.data_source).find(source => source.data.residual))
  .map(source => [[...source.data.name], [...source.data.colour]])[0]"""
FOCUS = """() => {
  let here = document.activeElement;
  while (here?.shadowRoot?.activeElement) here = here.shadowRoot.activeElement;
  return here?.ariaLabel;
}"""


def rows(page):
    return [row.split("\n")[0] for row in page.get_by_role("rowheader").all_inner_texts()]


def press(page, role, name, *keys):
    page.get_by_role(role, name=name).focus()
    for key in keys:
        page.keyboard.press(key)


def test_rows_are_measured_sorted_found_named_coloured_and_lead_to_a_plane(page, tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(RUN)
    with served(tmp_path / "log", "landscape_app.cli", "serve", str(file), "--no-show") as address:
        page.goto(f"{address}?page=checkpoints")
        page.get_by_role("searchbox").wait_for()
        page.get_by_text("Chosen: epoch 3.").wait_for()  # as on the surface
        page.get_by_role("button", name="Measure all").click()
        page.get_by_text(re.compile("^4 checkpoints in .*; all fit the model")).wait_for()
        assert faults(page) == []
        press(page, "button", "Loss (cross entropy)", "Enter")
        wait_for(lambda: rows(page) == [f"epoch {i}" for i in (3, 2, 1, 0)], "the least loss first")
        press(page, "button", "Pin epoch 1", "Enter")
        wait_for(lambda: rows(page) == [f"epoch {i}" for i in (1, 3, 2, 0)], "the pinned row before it")
        assert page.get_by_role("columnheader", name="Loss").get_attribute("aria-sort") == "ascending"
        assert page.evaluate(FOCUS) == "Pin epoch 1"

        press(page, "button", "Rename epoch 2", "Enter")
        page.keyboard.type(PAYLOAD)
        page.keyboard.press("Enter")
        wait_for(lambda: rows(page)[2] == PAYLOAD, "the label")
        assert page.evaluate(FOCUS) == f"Rename {PAYLOAD}"
        page.get_by_role("searchbox").fill("onerror")
        page.get_by_text("1 of 4 checkpoints").wait_for()
        press(page, "button", f"Colour of {PAYLOAD}: Green", "Enter", "ArrowRight", "Enter")
        page.get_by_role("button", name=f"Colour of {PAYLOAD}: Purple").wait_for()
        press(page, "checkbox", "Choose all shown", "Space")
        page.get_by_text(f"Chosen: epoch 3 and {PAYLOAD} (1 not shown).").wait_for()
        assert seen(page, "Spectrum here").is_disabled()
        page.get_by_role("searchbox").fill("")
        press(page, "checkbox", "Choose epoch 3", "Space")
        page.get_by_text(f"Chosen: {PAYLOAD}.", exact=True).wait_for()
        wait_for(lambda: "selected=epoch+2&" in f"{page.url}&", "the address to say the name")

        seen(page, "Plane at this one").click()
        chosen = page.get_by_role("combobox", name="Checkpoint", exact=True).locator("visible=true")
        wait_for(lambda: chosen.inner_text() == PAYLOAD, "the checkpoint to be chosen there, by its label")
        seen(page, "Compute").click()
        wait_for(lambda: page.evaluate(SPOTS) == [[PAYLOAD], ["#cc79a7"]], "the marker")
        page.locator(".bk-tab", has_text="Checkpoints").click()
        page.get_by_role("button", name="Toggle theme").click()
        page.set_viewport_size({"width": 400, "height": 800})
        wait_for(lambda: faults(page) == [], "the dark page to be without faults")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        press(page, "button", f"Rename {PAYLOAD}", "Enter", "Delete", "Enter")
        wait_for(lambda: "epoch 2" in rows(page), "the name")
        assert page.evaluate("window.pwned") is None
