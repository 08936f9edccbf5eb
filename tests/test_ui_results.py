"""The pages Results and Jobs, and results that the server keeps, in headless Chromium."""

import re

import pytest
import torch
from conftest import PAYLOAD
from test_ui import compute, seen, send, served, wait_for

pytestmark = pytest.mark.ui

PROJECT = f"""
import torch
from analysis import Problem

torch.manual_seed(0)
x, y = torch.randn(200, 4), torch.randint(0, 3, (200,))
problem = Problem(torch.nn.Linear(4, 3), "cross_entropy", (x, y), name={PAYLOAD!r})
checkpoints = "*.pt"
"""


def project(tmp_path):
    for i in range(2):
        torch.manual_seed(i)
        torch.save(torch.nn.Linear(4, 3).state_dict(), tmp_path / f"step{i}.pt")
    file = tmp_path / "my_project.py"
    file.write_text(PROJECT)
    return str(file)


def rows(page):
    """The text of each row, without the head."""
    return [row.inner_text().strip() for row in page.get_by_role("row").locator("visible=true").all()[1:]]


def test_results_outlive_a_reload_and_go_to_another_session_as_a_file(page, tmp_path):
    with served(tmp_path / "log", "landscape_app.cli", "serve", project(tmp_path), "--no-show") as address:
        page.goto(f"{address}?page=results")
        page.get_by_text("Nothing yet.").wait_for()
        page.goto(f"{address}?slice=random-line&resolution=51&seed=3&drawn=yes")
        page.get_by_text("Done", exact=True).wait_for()
        page.reload()
        page.get_by_text("Cached", exact=True).wait_for()
        page.get_by_text(re.compile(r"^Computed at \d\d:\d\d and kept by the server: ")).wait_for()
        page.get_by_label("Seed of the directions").fill("4")
        compute(page, 2)
        page.locator(".bk-tab", has_text="Results").click()
        wait_for(lambda: len(rows(page)) == 2, "both results")
        assert "page=results" in page.url
        assert all(PAYLOAD in row for row in rows(page))
        assert page.evaluate("window.pwned") is None

        page.get_by_role("searchbox", name="Search results").fill("kept server")
        wait_for(lambda: [row[:2] for row in rows(page)] == ["1."], "the rows with these words")
        page.get_by_role("searchbox").fill("")
        page.get_by_role("button", name="Result", exact=True).press("Enter")
        wait_for(lambda: [row[:2] for row in rows(page)] == ["1.", "2."], "the rows by their name")
        page.get_by_role("checkbox", name=re.compile("^Select 2. ")).press(" ")
        page.get_by_text("1 ticked").wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save session").click()
        download.value.save_as(tmp_path / "session.zip")

        (tmp_path / "step1.pt").touch()
        page.get_by_text("outdated (done)").first.wait_for()
        page.locator(".bk-tab", has_text="Surface").click()
        page.get_by_text("The checkpoint file has changed since; Compute draws it anew.").wait_for()

        page.goto(f"{address}?page=results")
        page.get_by_text("Nothing yet.").wait_for()
        send(page, tmp_path / "session.zip")
        wait_for(lambda: len(rows(page)) == 2, "the results of the file")
        page.get_by_role("checkbox", name="Select all").check()
        seen(page, "Compare").click()
        page.get_by_text("Both pictures share one scale").wait_for()
        page.locator(".bk-tab", has_text="Results").click()
        page.wait_for_url("**page=results**")
        page.get_by_text("2 ticked").wait_for()
        seen(page, "Delete").click()
        seen(page, "Delete all 2 for good").click()
        page.get_by_text("Nothing yet.").wait_for()


def test_a_job_is_followed_and_cancelled_on_its_page(page, tmp_path):
    with served(tmp_path / "log", "landscape_app.cli", "serve", project(tmp_path), "--no-show") as address:
        page.goto(f"{address}?page=jobs")
        page.get_by_text("No job yet.").wait_for()
        page.get_by_text("2 jobs run at a time").wait_for()
        page.goto(f"{address}?resolution=201&tolerance=0.0&seeds=20&drawn=yes")
        page.get_by_text(re.compile(r"of [\d,]+ evaluations ·")).wait_for()
        page.locator(".bk-tab", has_text="Jobs").click()
        page.get_by_text(re.compile(r"^running, \d+ %")).wait_for()
        page.get_by_text(re.compile("^about .* (s|min)")).wait_for()
        page.get_by_role("button", name="Pause: 1. Random plane").click()
        page.get_by_text(re.compile(r"^paused, \d+ %")).wait_for()
        page.locator(".bk-tab", has_text="Surface").click()
        page.get_by_text("Paused", exact=True).wait_for()
        far = page.get_by_text(re.compile(r"^[\d,]+ of [\d,]+ evaluations$"))  # and no time left
        shown = far.inner_text()
        page.wait_for_timeout(1000)
        assert far.inner_text() == shown
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("Refining", exact=True).wait_for()
        page.get_by_role("button", name="Pause").wait_for()
        page.locator(".bk-tab", has_text="Jobs").click()
        page.get_by_text(re.compile(r"^running, \d+ %")).wait_for()
        cancel = page.get_by_role("button", name="Cancel: 1. Random plane")
        cancel.focus()
        page.keyboard.press("Enter")
        page.get_by_text("what there was is kept").wait_for()
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.get_by_role("button", name="Show result: 1. Random plane").click()
        page.get_by_text("The picture shows what").wait_for()
