"""Reports: one page that holds all it needs, says what the results say, and runs nothing that others wrote."""

import json
import re

import numpy as np
import pytest
from conftest import PAYLOAD, line_result, plane_result
from models import classification, mlp

from analysis import LandscapeError, Problem, Project, provenance, save
from analysis.connectivity import barrier, barrier_matrix
from landscape_app import cli, picture, words
from landscape_app.connectivity.request import ConnectivityRequest
from landscape_app.figures import caption
from landscape_app.report import report, save_report
from landscape_app.spectrum.request import SpectrumRequest, Vectors
from landscape_app.text import text
from landscape_app.trajectory.request import TrajectoryRequest

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def results():
    """One result of every kind."""
    problem = Problem(mlp(), "cross_entropy", classification(), metrics=["accuracy"], name="small")
    project = Project(problem, {name: mlp(seed=seed) for seed, name in enumerate(NAMES)})
    ends = [project.checkpoint("small", name) for name in NAMES]

    def last(steps):
        *_, ds = steps
        return ds

    return [
        plane_result(),
        line_result(),
        last(SpectrumRequest("small", NAMES[0], largest=2, smallest=1, degree=6).steps(project, Vectors())),
        last(TrajectoryRequest("small", NAMES).steps(project)),
        last(ConnectivityRequest("small", NAMES, matching="weights").steps(project)),
        last(barrier(problem, *ends[:2])),
        last(barrier_matrix(problem, ends)),
    ]


def test_a_report_says_of_each_result_what_it_is_and_where_it_comes_from(results):
    page = report(results)
    for ds in results:
        title = ds.attrs["title"]
        assert f"<h2>{text(title[:1].upper() + title[1:])}</h2>" in page
        assert text(caption(ds)) in page
        assert f"<td>{provenance(ds)['data']['sha256']}</td>" in page
    ds = results[0]
    assert text(words.summary(ds, picture.metric(ds, "loss"))) in page
    assert f"<td>{results[2]['eigenvalue'].values[0, 0]:.5g}</td>" in page
    assert page.count("<section>") == len(results)


def test_the_values_of_the_plots_are_in_the_page():
    ds = line_result(values=np.linspace(3.25, 7.5, 9))
    found = re.search(r"const docs_json = '(.*?)';\n", report([ds]), re.S)
    assert found
    assert "Loss (cross entropy) [nats]" in found.group(1)
    assert json.loads(found.group(1).replace("\\\\", "\\"))


def test_what_others_wrote_is_shown_and_not_run():
    for payload in (PAYLOAD, "</script><script>window.pwned=1</script>"):
        ds = plane_result(names=(payload, "two"), title=payload)
        facts = provenance(ds) | {"problem": payload}
        page = report([ds.assign_attrs(provenance=json.dumps(facts))])
        assert payload not in page
        assert text(payload) in page


def test_what_has_no_report(tmp_path):
    with pytest.raises(LandscapeError, match="one result or more"):
        report([])
    with pytest.raises(LandscapeError, match=r"ends in \.html"):
        save_report([plane_result()], tmp_path / "r.pdf")
    with pytest.raises(LandscapeError, match="There is no figure of"):
        report([plane_result().drop_dims("sample")])


def test_the_command_writes_a_page(tmp_path, capfd):
    files = [save(ds, tmp_path / name) for ds, name in ((plane_result(), "p.nc"), (line_result(), "l.nc"))]
    out = tmp_path / "report.html"
    assert cli.main(["report", *map(str, files), "--out", str(out)]) == 0
    said = capfd.readouterr()
    assert f"Saved: {out} (2 results; " in said.out
    assert "WARNING" not in said.err
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert cli.main(["report", str(tmp_path / "none.nc"), "--out", str(out)]) == 2


@pytest.mark.ui
def test_the_page_opens_without_a_server_or_a_network(results, browser, tmp_path):
    hostile = plane_result(names=(PAYLOAD, "</script><script>window.pwned=1</script>"), title=PAYLOAD)
    file = save_report([*results, hostile], tmp_path / "report.html")
    with browser.new_context(viewport={"width": 1100, "height": 900}) as context:
        page = context.new_page()
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_default_timeout(120_000)
        page.goto(file.as_uri())
        page.wait_for_function("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].is_idle")
        assert page.locator("canvas").count() >= 2 * len(results)
        drawn = page.evaluate("Bokeh.documents[0].roots().every(root => root.inner_width > 100)")
        assert drawn
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.evaluate("window.pwned") is None
    assert asked == [file.as_uri()]
    assert complaints == []
