"""Take the pictures of the documentation: ``python docs/screenshots/take.py http://127.0.0.1:5006/landscape_app``.

Every page, light and dark, some states of them, and ``motion.webp``. Needs a running ``landscape serve`` with the
shipped samples, and Chromium (or its path in CHROMIUM).
"""

import io
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

HERE = Path(__file__).parent
WAIT = 300_000
SIZE = (1360, 900)
MOTION_SIZE = (1120, 741)
COLOURS = 192  # of the saved pictures: fewer bands in the colour maps than the eye sees, half the bytes
PAGES = {
    "spectrum": {},
    "trajectory": {"problem": "MLP 64, a training run · train"},
    "connectivity": {"problem": "MLP 3×512 · train"},
}
OF_SESSION = ("checkpoints", "results", "jobs")  # they show what the session has done


def seen(page: Page, words: str | re.Pattern) -> Locator:
    return page.get_by_text(words, exact=isinstance(words, str)).locator("visible=true").first


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label, exact=True).click()
    page.get_by_role("menuitem", name=option, exact=True).click()


def finish(page: Page) -> None:
    seen(page, "Done").wait_for(timeout=WAIT)
    page.mouse.move(2, 2)
    time.sleep(1.5)


def compute(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Compute")).locator("visible=true").first.click()
    time.sleep(0.5)
    finish(page)


def opened(browser: Browser, address: str, size: tuple[int, int] = SIZE, first: str = "Done", **query: str) -> Page:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(f"{address}?{urlencode(query)}")
    seen(page, first).wait_for(timeout=WAIT)
    page.mouse.move(2, 2)
    time.sleep(1.5)
    return page


def picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(page: Page, name: str) -> None:
    picture(page).quantize(COLOURS, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)


def both(page: Page, name: str) -> None:
    """The page in the light and in the dark theme."""
    save(page, name)
    page.get_by_role("button", name="Toggle theme").click()
    page.mouse.move(2, 2)
    time.sleep(4)
    save(page, f"{name}-dark")
    page.get_by_role("button", name="Toggle theme").click()
    time.sleep(0.5)


def place(page: Page, a: float, b: float) -> tuple[float, float]:
    """Where a share of the first plot's width and height is on the page."""
    box = page.locator("canvas").locator("visible=true").first.bounding_box()
    assert box
    return box["x"] + a * box["width"], box["y"] + b * box["height"]


def go(page: Page, tab: str) -> None:
    page.locator(".bk-tab", has_text=tab.title()).click()
    time.sleep(3)


def measure(page: Page) -> None:
    """All checkpoints, one of them pinned, one with a label and a colour of its own."""
    page.get_by_role("button", name="Measure all").click()
    page.get_by_text("all fit the model").wait_for(timeout=WAIT)
    page.get_by_role("button", name="Pin mlp512-s1").click()
    page.get_by_role("button", name="Rename mlp512-s0").click()
    page.keyboard.type("first seed")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Colour of first seed").click()
    page.get_by_role("button", name="Yellow").click()
    page.get_by_role("checkbox", name="Choose first seed").click()
    page.mouse.move(2, 2)
    time.sleep(1)


def pages(browser: Browser, address: str) -> None:
    page = opened(browser, address, problem="MLP 3×512 · test", drawn="yes")
    page.mouse.click(*place(page, 0.4, 0.4))
    time.sleep(1)
    page.mouse.move(2, 2)
    both(page, "surface")
    page.get_by_label("Compare", exact=True).check()
    time.sleep(3)
    both(page, "compare")
    page.get_by_label("3-D", exact=True).check()
    time.sleep(8)
    both(page, "relief")
    page.get_by_label("3-D", exact=True).uncheck()
    page.get_by_label("Compare", exact=True).uncheck()
    choose(page, "Slice", "Line through two checkpoints")
    compute(page)
    both(page, "line")
    for name in OF_SESSION:
        go(page, name)
        if name == "checkpoints":
            measure(page)
        both(page, name)
    page.close()
    for name, query in PAGES.items():
        page = opened(browser, address, page=name, drawn="yes", **query)
        both(page, name)
        page.close()


def states(browser: Browser, address: str) -> None:
    page = opened(browser, address, first="No surface yet", page="surface")
    both(page, "empty")
    choose(page, "Model and data", "Residual CNN, width 16 · test")
    choose(page, "Slice", "Plane through checkpoints")
    page.get_by_role("button", name="Compute").click()
    seen(page, re.compile("^over 64 of ")).wait_for(timeout=WAIT)
    time.sleep(1)
    save(page, "preview")
    seen(page, re.compile(r" of [\d,]+ evaluations · ")).wait_for(timeout=WAIT)
    time.sleep(1)
    save(page, "running")
    finish(page)
    save(page, "plane")
    page.close()
    page = opened(browser, address, (400, 860), drawn="yes")
    page.mouse.move(200, 400)
    page.mouse.wheel(0, 420)
    time.sleep(1)
    save(page, "phone")
    page.close()


def motion(browser: Browser, address: str) -> None:
    """From the first values of a surface to the spectrum at a point of it and the plane of two eigenvectors."""
    frames: list[tuple[Image.Image, int]] = []

    def shoot(page: Page, milliseconds: int) -> None:
        frames.append((picture(page).resize(MOTION_SIZE, Image.Resampling.LANCZOS), milliseconds))

    page = opened(browser, address, first="No surface yet", page="surface")
    shoot(page, 800)
    choose(page, "Model and data", "MLP 3×512 · train")
    page.get_by_role("button", name="Compute").click()
    for _ in range(12):
        time.sleep(0.4)
        shoot(page, 250)
    finish(page)
    shoot(page, 1200)
    for step in range(8):
        page.mouse.click(*place(page, 0.25 + 0.04 * step, 0.3 + 0.03 * step))
        time.sleep(0.5)
        shoot(page, 300)
    page.get_by_role("button", name="Spectrum at this point").click()
    for _ in range(10):
        time.sleep(0.6)
        shoot(page, 300)
    finish(page)
    shoot(page, 2500)
    page.close()
    pictures = [frame for frame, _ in frames]
    pictures[0].save(
        HERE / "motion.webp",
        save_all=True,
        append_images=pictures[1:],
        duration=[length for _, length in frames],
        loop=0,
        quality=70,
        method=4,
    )


def main(address: str) -> None:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        )
        for take in (pages, states, motion):
            take(browser, address)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
