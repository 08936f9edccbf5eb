"""Take the screenshots of the documentation: ``python docs/screenshots/take.py http://127.0.0.1:5006/landscape_app``.

Needs a running ``landscape serve`` with the shipped samples, and Chromium (or its path in CHROMIUM).
"""

import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
WAIT = 300_000
PAGES = {
    "spectrum": {},
    "trajectory": {"problem": "MLP 64, a training run · train"},
    "connectivity": {"problem": "MLP 3×512 · train"},
}


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("menuitem", name=option, exact=True).click()


def finish(page: Page) -> None:
    page.get_by_text("Done", exact=True).locator("visible=true").wait_for(timeout=WAIT)
    page.mouse.move(2, 2)
    time.sleep(1)


def compute(page: Page, **choices: str) -> None:
    for label, option in choices.items():
        choose(page, label.replace("_", " "), option)
    page.get_by_role("button", name="Compute").click()
    finish(page)


def main(address: str) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def opened(
            width: int, height: int, name: str = "surface", first: str = "No surface yet", **choices: str
        ) -> Page:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"{address}?{urlencode({'page': name, **choices})}")
            page.get_by_text(first, exact=True).locator("visible=true").wait_for(timeout=WAIT)
            time.sleep(1)
            return page

        page = opened(1360, 900)
        page.screenshot(path=HERE / "empty.png")
        compute(page, Model_and_data="MLP 3×512 · test")
        page.screenshot(path=HERE / "surface.png")
        page.get_by_role("button", name="Toggle theme").click()
        compute(page, Slice="Line through two checkpoints")
        page.screenshot(path=HERE / "line-dark.png")

        page = opened(1360, 900)
        choose(page, "Model and data", "Residual CNN, width 16 · test")
        choose(page, "Slice", "Plane through checkpoints")
        page.get_by_role("button", name="Compute").click()
        page.get_by_text(re.compile(r" of [\d,]+ evaluations · ")).first.wait_for(timeout=WAIT)
        time.sleep(1.5)
        page.screenshot(path=HERE / "running.png")
        finish(page)
        page.screenshot(path=HERE / "plane.png")

        for name, choices in PAGES.items():
            page = opened(1360, 900, name, "Done", drawn="yes", **choices)
            page.screenshot(path=HERE / f"{name}.png")

        page = opened(1360, 700, "checkpoints", "Ready")
        page.get_by_role("button", name="Measure all").click()
        page.get_by_text("all fit the model").wait_for(timeout=WAIT)
        page.get_by_role("button", name="Pin mlp128-s4").click()
        page.get_by_role("button", name="Rename mlp128-s2").click()
        page.keyboard.type("least loss")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Colour of least loss").click()
        page.get_by_role("button", name="Yellow").click()
        page.get_by_role("checkbox", name="Choose least loss").click()
        page.mouse.move(2, 2)
        time.sleep(1)
        page.screenshot(path=HERE / "checkpoints.png")

        page = opened(400, 860)
        compute(page)
        page.mouse.move(200, 400)
        page.mouse.wheel(0, 420)
        time.sleep(1)
        page.screenshot(path=HERE / "phone.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
