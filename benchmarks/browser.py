"""How soon the dashboard answers, measured inside headless Chromium on a page of the shipped samples.

Each time goes from the browser's own event (a click, a tap, a move) to the first painting of the plot that answers it,
on the page's clock. The peer is the time wanted. Page weight is what the first visit transfers, in bytes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlencode

from playwright.sync_api import Page, TimeoutError, sync_playwright

from benchmarks.row import emit

MS = 120_000
FIRST, TAP, REDRAW, HOVER = 1.0, 0.1, 0.15, 0.016  # seconds wanted
SAMPLES = ("MLP 64, a training run · test", "MLP 3×512 · test", "Residual CNN, width 16 · test")
PATHS = "MLP 3×512 · train"

PATH = """() => {
  const plot = Bokeh.documents[0].get_model_by_name("connectivity-path");
  const view = Bokeh.index.find_one(plot), frame = view.frame.bbox;
  view.el.scrollIntoView({block: "center"});
  const at = view.el.getBoundingClientRect();
  return [at.left + frame.left, at.top + frame.top + frame.height / 2, frame.width];
}"""

# `asked` is when the browser last heard of an event of `kind`; `painted`, when a figure with something in it first was
# after that.
CLOCK = """
window.clock = {asked: NaN, painted: {}, kind: null};
for (const kind of ["click", "pointerup", "pointermove"])
  addEventListener(kind, () => {
    if (clock.kind == kind) Object.assign(clock, {asked: performance.now(), painted: {}});
  }, true);
const watched = new WeakSet();
const follow = name => {
  for (const document of window.Bokeh?.documents ?? []) {
    const model = document.get_model_by_name(name);
    const view = model && Bokeh.index.find_one(model);
    if (!view || watched.has(view)) continue;
    watched.add(view);
    const filled = () => model.renderers.some(part => part.data_source?.get_length() > 0);
    view.repainted.connect(() => { if (filled()) clock.painted[name] ??= performance.now() });
  }
};
window.listen = (kind, name) => {
  follow(name);
  Object.assign(clock, {kind, asked: NaN, painted: {}});
  clock.answer = new Promise(resolve => {
    const turn = () => {
      follow(name);
      const took = clock.painted[name] - clock.asked;
      took >= 0 ? resolve(took / 1000) : requestAnimationFrame(turn);
    };
    turn();
  });
};
"""


def run(quick: bool = False) -> None:
    repeats = 5 if quick else 20
    with _served() as address, sync_playwright() as playwright:
        path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            _run(lambda: browser.new_page(viewport={"width": 1280, "height": 900}), address, repeats)
        finally:
            browser.close()


def _run(new_page: Callable[[], Page], address: str, repeats: int) -> None:
    for sample in SAMPLES:
        times = []
        for seed in range(repeats // 2 + 1):  # a plane that the server does not keep
            page = _opened(new_page, f"{address}?page=surface&seed={seed}", "No surface yet")
            page.get_by_role("combobox", name="Model and data", exact=True).click()
            page.get_by_role("menuitem", name=sample, exact=True).click()
            page.wait_for_timeout(500)
            compute = page.get_by_role("button", name="Compute", exact=True)
            times.append(_seconds(page, "click", "plane", compute.click))
            stop = page.get_by_role("button", name="Cancel", exact=True)
            with contextlib.suppress(TimeoutError):  # of Playwright: it has ended already
                stop.click(timeout=2000)  # or the rest would go on beside the next
            page.get_by_text(re.compile("^(Done|Cancelled)$")).first.wait_for()
            page.close()
        _row(f"first picture, {sample}", times, FIRST)

    page = _opened(new_page, f"{address}?page=surface&resolution=101&drawn=yes", "Done")
    entries = "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
    weight = page.evaluate(f"{entries}.reduce((sum, entry) => sum + entry.transferSize, 0)")
    box = page.locator("canvas:visible").first.bounding_box()
    assert box
    places = [(0.3 + 0.02 * i, 0.35 + 0.01 * i) for i in range(repeats)]
    at = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in places]
    page.mouse.click(*at[-1])
    page.wait_for_timeout(2000)
    taps = [_seconds(page, "pointerup", "slice-a", partial(page.mouse.click, *spot)) for spot in at]
    _row("tap to slices, 101 x 101", taps, TAP)
    scale = page.get_by_label("Logarithmic").first
    redrawn = [_seconds(page, "click", "plane", scale.click) for _ in at]
    _row("redraw, 101 x 101", redrawn, REDRAW, bytes_first_visit=weight)
    page.close()

    page = _opened(
        new_page, f"{address}?{urlencode({'page': 'connectivity', 'problem': PATHS, 'drawn': 'yes'})}", "Done"
    )
    page.wait_for_timeout(1000)
    left, top, width = page.evaluate(PATH)
    spots = [(left + width * (0.3 + 0.02 * i), top) for i in range(repeats)]
    moves = [_seconds(page, "pointermove", "connectivity-path", partial(page.mouse.move, *spot)) for spot in spots]
    _row("hover of t, two checkpoints", moves, HOVER)
    page.close()


def _opened(new_page: Callable[[], Page], address: str, words: str) -> Page:
    page = new_page()
    page.set_default_timeout(MS)
    page.add_init_script(CLOCK)
    page.goto(address)
    page.get_by_text(words, exact=words == "Done").locator("visible=true").first.wait_for()
    return page


def _seconds(page: Page, kind: str, plot: str, act: Callable[[], None]) -> float:
    page.evaluate("([kind, plot]) => listen(kind, plot)", [kind, plot])
    act()
    seconds = page.evaluate("clock.answer")
    page.wait_for_timeout(400)  # so that what one asked for does not answer the next
    return seconds


def _row(name: str, times: list[float], wanted: float, **more: object) -> None:
    ordered = sorted(times)
    spread = {"worst_s": round(ordered[-1], 4), "repeats": len(times)}
    emit(name, statistics.median(times), "time wanted", wanted, **spread, **more)


@contextlib.contextmanager
def _served() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "landscape_app.cli", "serve", "--no-show", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/landscape_app"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(address)
                break
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()
