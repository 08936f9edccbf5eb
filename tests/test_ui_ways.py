"""Ways through the dashboard in headless Chromium: by the keyboard alone, with a folder that grows, out into files."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from conftest import served, wait_for
from PIL import Image
from test_ui import seen

from analysis import load

pytestmark = pytest.mark.ui

FOCUSED = """() => {
  let here = document.activeElement;
  while (here?.shadowRoot?.activeElement) here = here.shadowRoot.activeElement;
  return (here?.ariaLabel || here?.innerText || "").trim();
}"""
THERE = re.compile("^(Done|Cached)$")  # other tests ask the same server
GROWING = """
import torch
from analysis import Problem

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
problem = Problem(model, "cross_entropy", (torch.randn(60, 6), torch.randint(0, 3, (60,))), name="a run")
checkpoints = "runs/*.pt"
"""


def tab_to(page, words):
    """Go on with Tab until something with these words has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == words:
            return
    raise AssertionError(f"Tab does not come to {words!r}")


def test_every_page_and_a_computation_by_the_keyboard_alone(page, samples):
    page.goto(f"{samples}?page=surface")
    page.get_by_text("No surface yet").wait_for()
    page.get_by_role("tab", name="Surface", selected=True).wait_for()
    tab_to(page, "Surface")
    for name in ("Spectrum", "Trajectory", "Connectivity"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate(FOCUSED) == name
        page.keyboard.press("Enter")
        page.get_by_role("tab", name=name, selected=True).wait_for()
        page.get_by_text(re.compile("^No .* yet$")).locator("visible=true").wait_for()
    page.keyboard.press("End")
    page.keyboard.press("Space")
    page.get_by_text("No job yet.").wait_for()
    page.keyboard.press("ArrowRight")  # round to the first
    page.keyboard.press("Enter")
    page.get_by_text("No surface yet").wait_for()
    tab_to(page, "Compute")
    page.keyboard.press("Enter")
    page.get_by_text(THERE).wait_for()


def test_a_checkpoint_that_is_saved_while_training_appears_by_itself(page, tmp_path):
    (tmp_path / "my_project.py").write_text(GROWING)
    (tmp_path / "runs").mkdir()
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    torch.save(net.state_dict(), tmp_path / "runs" / "step1.pt")
    with served(
        tmp_path / "log", "landscape_app.cli", "serve", str(tmp_path / "my_project.py"), "--no-show"
    ) as address:
        page.goto(f"{address}?page=checkpoints")
        page.get_by_role("rowheader", name="step1").wait_for()
        assert page.get_by_role("tab").count() == 5  # one checkpoint has no paths and no trajectory
        for step in (2, 10):
            torch.save(net.state_dict(), tmp_path / "runs" / f"step{step}.pt")
            page.get_by_role("rowheader", name=f"step{step}").wait_for()
        names = [row.split("\n")[0] for row in page.get_by_role("rowheader").all_inner_texts()]
        assert names == ["step1", "step2", "step10"]
        page.get_by_role("tab", name="Trajectory").click()
        page.get_by_text("No trajectory yet").wait_for()
        page.get_by_role("tab", name="Surface").click()
        page.get_by_role("combobox", name="Checkpoint", exact=True).click()
        assert page.get_by_role("menuitem", name="step10", exact=True).is_visible()


def test_a_result_goes_out_into_files_of_every_kind(page, samples, browser, tmp_path):
    page.goto(f"{samples}?resolution=51&drawn=yes")
    page.get_by_text(THERE).wait_for()

    def fetched(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name, exact=True).first.click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    ds = load(fetched("Download"))
    seen(page, "Export").click()
    pdf, png = fetched("PDF"), fetched("PNG")
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert pdf.stat().st_size > 10_000
    with Image.open(png) as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").quantize(64).getcolors()) > 20
    drawing = ElementTree.parse(fetched("SVG")).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    rows = list(csv.DictReader(io.StringIO(fetched("CSV").read_text())))
    assert len(rows) == ds.loss.size == 51**2
    at = {(float(row["a"]), float(row["b"])): float(row["loss"]) for row in rows}
    for (a, b), loss in at.items():
        assert loss == pytest.approx(float(ds.loss.sel(a=a, b=b, method="nearest")), rel=1e-6)
    compile(fetched("Python").read_text(), "script", "exec")

    asked, report = [], fetched("HTML")
    context = browser.new_context(offline=True)
    offline = context.new_page()
    offline.on("request", lambda request: asked.append(request.url))
    offline.goto(report.as_uri())
    offline.get_by_text(re.compile("^Random filter-normalised plane")).first.wait_for()
    wait_for(lambda: offline.locator("canvas").count() > 0, "a plot in the report")
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()
