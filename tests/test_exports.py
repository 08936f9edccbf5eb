"""What a row of the results list gives as files."""

import csv
import io

import pytest
import torch
from conftest import PAYLOAD, FakeProject, plane_result
from test_connectivity_page import computed, made, wait

from analysis import LandscapeError, Problem, Project
from landscape_app.entries import Entry
from landscape_app.explorer import Explorer
from landscape_app.exports import FIGURES, LABELS, Exports
from landscape_app.jobs import JobState, Snapshot
from landscape_app.resultlist import ResultList
from landscape_app.state import State


@pytest.fixture
def shown():
    """A state that shows a plane whose accuracy is one half everywhere, and the plane's entry."""
    state, ds = State(FakeProject()), plane_result(shape=(12, 11))
    entry = Entry(1, Snapshot(JobState.DONE, ds, 1, elapsed=2.0))
    state.param.update(entries=(entry,), result=ds, shown=1, job=entry.job)
    return state, entry


def test_a_figure_shows_what_the_page_shows(shown):
    state, entry = shown
    exports = Exports(state, entry)
    state.param.update(metric="accuracy", log_scale=False)
    assert "Accuracy [fraction]" in exports.file("svg").read().decode()
    state.param.update(metric="loss", log_scale=True)
    log = exports.file("svg").read()
    state.log_scale = False
    assert "(cross entropy) [nats]" in log.decode()
    assert exports.file("svg").read() != log
    state.shown = 0  # another result is: this one is drawn as it would be at first
    assert "(cross entropy) [nats]" in exports.file("svg").read().decode()


def test_each_kind_of_file_is_what_it_says(shown):
    exports = Exports(*shown)
    starts = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG", "html": b"<!DOCTYPE html>"}
    assert {kind: exports.file(kind).read(len(start)) for kind, start in starts.items()} == starts
    assert {*starts, "csv", "py"} == set(LABELS)
    assert set(FIGURES) < set(starts)
    rows = list(csv.DictReader(io.StringIO(exports.file("csv").read().decode())))
    assert len(rows) == 12 * 11
    for row in rows:
        assert float(row["loss"]) == pytest.approx(10 * float(row["a"]) + float(row["b"]) + 20, abs=1e-4)


def test_the_downloads_are_made_when_they_are_asked_for_and_follow_the_result(shown):
    state, _ = shown
    row = ResultList(state, "surface").rows[1]
    assert (row.exports.view.objects, row.exports.view.visible) == ([], False)
    row.export.clicks += 1
    labels = [one.label for one in row.exports.view]
    assert labels == ["PDF", "SVG", "PNG", "CSV", "HTML"]  # nobody knows what was asked for
    assert row.exports.view[0].filename.endswith(".pdf")
    assert row.exports.view.visible
    row.export.clicks += 1
    assert not row.exports.view.visible
    finer = Entry(1, Snapshot(JobState.DONE, plane_result(shape=(20, 21)), 2, elapsed=3.0))
    state.param.update(entries=(finer,), result=finer.result)
    assert row.exports.entry is finer


def test_the_script_asks_for_what_was_asked_for():
    model = torch.nn.Linear(3, 2)
    problem = Problem(model, "cross_entropy", (torch.randn(20, 3), torch.randint(0, 2, (20,))), name="mine")
    explorer = Explorer(Project(problem, {"one": model}))
    explorer.state.param.update(seed=4, resolution=51, tolerance=0.03)
    request = explorer.state.request()
    *_, ds = request.steps(explorer.state.project)
    exports = Exports(explorer.state, Entry(1, Snapshot(JobState.DONE, ds, 1, elapsed=2.0), request))
    exports.turn()
    assert [one.label for one in exports.view][-1] == "Python"
    code = exports.file("py").read().decode()
    assert "plane = Plane.random(checkpoint, seed=4" in code
    assert "resolution=51, tolerance=0.03" in code


@pytest.fixture(scope="module")
def every():
    """A session of three checkpoints with a computed result of each kind; the last but one to the last is looked at."""
    explorer = Explorer(made())
    state = explorer.state
    state.resolution = 51
    paths = computed(explorer, repair=True)
    paths.param.update(first=2, second=1, updates=100)
    for kind in state.tasks:
        if kind not in ("connectivity", "checkpoints"):  # measures of checkpoints are no result
            state.tasks[kind].compute = True
            wait(explorer, state.tasks[kind])
    return state


KINDS = ("surface", "spectrum", "trajectory", "connectivity", "plane", "curve", "layers")


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_result_goes_into_each_kind_of_file(every, kind, metric):
    assert {entry.kind for entry in every.entries} == set(KINDS)
    every.metric = every.connectivity.metric = metric
    entry = every.tasks[kind].entry
    assert entry.number == every.tasks[kind].shown
    exports = Exports(every, entry)
    exports.turn()
    for one in exports.view:
        one._clicks += 1
        assert one.data.startswith("data:"), one.label
        assert not exports.refused.visible
    assert [one.label for one in exports.view] == list(LABELS.values())
    drawn = exports.file("svg").read().decode()
    if kind == "connectivity":
        assert "t, the way from three (0) to two (1)" in drawn
        assert ("cross entropy" if metric == "loss" else "Accuracy") in drawn


def test_a_file_that_cannot_be_made_says_why_on_the_page(shown, monkeypatch):
    exports = ResultList(shown[0], "surface").rows[1].exports
    exports.turn()
    (pdf, *_, html) = exports.view

    def fails(kind):
        raise LandscapeError(f"There is no {PAYLOAD} to draw.")

    monkeypatch.setattr(exports, "file", fails)
    with pytest.raises(LandscapeError):
        pdf._clicks += 1
    assert exports.refused.visible
    assert "No PDF" in exports.refused.object
    assert "to draw." in exports.refused.object
    assert PAYLOAD not in exports.refused.object
    monkeypatch.undo()
    html._clicks += 1
    assert not exports.refused.visible
