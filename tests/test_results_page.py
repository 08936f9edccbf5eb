"""Results that the server keeps, sessions as files, and the pages Results and Jobs, without a browser."""

import io
import json
import os
import threading
import time
import zipfile
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import torch
from conftest import PAYLOAD, FakeProject, line_result, plane_result

from analysis import Problem, Project
from landscape_app import archive, words
from landscape_app.cache import Cache, stamps_of
from landscape_app.colours import CHECKPOINTS
from landscape_app.entries import Entry, checkpoints_of
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState, Runner, Snapshot
from landscape_app.pages.jobs import JobsPage
from landscape_app.pages.results import ResultsPage, status
from landscape_app.pages.surface import SurfacePage
from landscape_app.request import Request
from landscape_app.runpanel import RunPanel
from landscape_app.session import Session
from landscape_app.spectrum.request import Place, SpectrumRequest
from landscape_app.state import State


@pytest.fixture
def project(tmp_path):
    """Of two checkpoint files."""
    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(2)]
    for i, model in enumerate(models):
        torch.save(model.state_dict(), tmp_path / f"m{i}.pt")
        os.utime(tmp_path / f"m{i}.pt", (1000.0, 1000.0 + i))
    data = (torch.randn(20, 3), torch.randint(0, 2, (20,)))
    files = {f"m{i}": str(tmp_path / f"m{i}.pt") for i in range(2)}
    return Project(Problem(models[0], "cross_entropy", data, name="small"), files)


@pytest.fixture
def runner():
    made = Runner(workers=1)
    yield made
    made.close()


def opened(project, runner, cache=None):
    """A session that asks for a line at its first checkpoint."""
    state = State(project)
    session = Session(state, runner, cache)
    state.param.update(slice="random-line", first="m0", resolution=51)
    return state, session


def compute(state, session):
    state.compute = True
    until = time.monotonic() + 60
    while not state.job.state.final:
        assert time.monotonic() < until
        time.sleep(0.01)
        session.poll()


def write_again(project, name):
    path = project._sources["small"][name]
    os.utime(path, (time.time() + 60,) * 2)


# ---- the server's cache ----------------------------------------------------------------------------------


def test_a_finished_result_is_there_at_once_in_another_session(project, runner):
    cache = Cache()
    state, session = opened(project, runner, cache)
    compute(state, session)
    here, other = opened(project, runner, cache)
    here.compute = True
    assert other.surface.job is None
    assert here.result is state.result
    assert (here.entries[0].cached, here.entries[0].since, here.answered) == (True, state.entries[0].since, True)
    assert words.message(here).title == "Cached"
    assert words.message(here).body.startswith(f"Computed at {state.entries[0].since:%H:%M} and kept by the server: ")
    assert [(job.cached, job.job.state) for job in here.computations] == [(True, JobState.DONE)]
    compute(here, other)  # what is shown is meant: anew
    assert here.result is not state.result
    assert [entry.cached for entry in here.entries] == [True, False]
    here.seed = 1
    here.compute = True
    assert here.busy


def test_another_file_another_project_and_an_unfinished_result_are_not_taken(project, runner):
    cache, request = Cache(), Request("small", "random-line", ("m0",), batchnorm="none")

    def kept(state):
        cache.keep(project, Entry(1, Snapshot(state, line_result()), request), stamps_of(project, request))
        return cache.find(project, request)

    assert kept(JobState.CANCELLED) is None
    assert kept(JobState.DONE).job.state is JobState.DONE
    assert cache.find(project, replace(request, seed=1)) is None
    assert cache.find(FakeProject(), replace(request, problem="digits", checkpoints=("one",))) is None
    write_again(project, "m1")
    assert cache.find(project, request) is not None
    before = stamps_of(project, request)
    write_again(project, "m0")
    assert cache.find(project, request) is None
    cache.keep(project, Entry(1, Snapshot(JobState.DONE, line_result()), request), before)
    assert cache.find(project, request) is None  # the file changed while it was computed


def test_models_in_memory_are_trusted_of_a_project_file_only(runner):
    cache, fake, request = Cache(), FakeProject(), Request("digits", "random-line", ("one",))
    for path, found in ((None, False), ("my_project.py", True)):
        fake.path = path
        cache.keep(fake, Entry(1, Snapshot(JobState.DONE, line_result()), request), stamps_of(fake, request))
        assert (cache.find(fake, request) is not None) is found


def test_the_cache_is_bounded_by_count_and_bytes_and_keeps_what_was_asked_for_last(project):
    def fill(cache):
        for seed in range(3):
            request = Request("small", "random-line", ("m0",), seed=seed)
            entry = Entry(1, Snapshot(JobState.DONE, line_result()), request)
            cache.keep(project, entry, (("m0", 1000.0),))
            cache.find(project, replace(request, seed=0))
        return [seed for seed in range(3) if cache.find(project, Request("small", "random-line", ("m0",), seed=seed))]

    assert fill(Cache(most=2)) == [0, 2]
    assert fill(Cache(most_bytes=int(2.5 * line_result().nbytes))) == [0, 2]
    assert fill(Cache(most=0)) == fill(Cache(most_bytes=10)) == []


def test_the_checkpoints_of_a_request_are_named_wherever_they_stand_in_it():
    plane = Request("small", "plane", ("m1", "m0"))
    assert checkpoints_of(plane) == ("m1", "m0")
    assert checkpoints_of(SpectrumRequest("small", "m0", at=Place(plane, (0.0, 0.0)))) == ("m0", "m1")
    assert checkpoints_of(None) == ()


# ---- checkpoints that are written again ------------------------------------------------------------------


def test_a_result_of_a_file_that_was_written_again_is_marked_everywhere_and_computed_anew(project, runner):
    state, session = opened(project, runner, Cache())
    state.page = "results"
    panel, table, page = RunPanel(state, words.message), ResultsPage(state).table, SurfacePage(state)
    compute(state, session)
    session.watch()
    assert state.outdated == frozenset()
    assert words.OUTDATED not in panel.progress.object
    assert table.rows[0]["cells"]["status"] == {"text": "done", "tone": "good", "note": ""}
    write_again(project, "m1")
    session.watch()
    assert state.outdated == frozenset()
    write_again(project, "m0")
    session.watch()
    assert state.outdated == frozenset({1})
    assert words.OUTDATED in panel.progress.object
    assert table.rows[0]["cells"]["status"]["text"] == "outdated (done)"
    assert "changed since" in table.rows[0]["cells"]["status"]["note"]
    state.page = "surface"
    page.results._show()
    assert "checkpoint changed since" in page.results.rows[1].said.object
    state.seed = 1
    state.seed = 0
    job = session.surface.job
    compute(state, session)
    assert session.surface.job is not job


# ---- a session as a file ---------------------------------------------------------------------------------


def test_a_saved_session_brings_back_results_and_choices_in_a_new_one(project, runner):
    state, session = opened(project, runner)
    compute(state, session)
    state.param.update(seed=5, slice="line", first="m1", second="m0")
    compute(state, session)
    state.show = 1
    state.param.update(seed=9, metric="accuracy", palette="magma")
    state.spectrum.largest = 7
    state.page = "results"
    state.shelf.rename("small", "m1", "mine")
    state.shelf.paint("small", "m0", list(CHECKPOINTS.values())[2])
    state.shelf.pin("small", "m1", True)
    content = archive.packed(state).getvalue()
    here = State(project)
    Session(here, runner)
    here.upload = ("mine.zip", content)
    assert here.refused == ("", "")
    assert [entry.request for entry in here.entries] == [
        replace(entry.request, extent=new.request.extent, tolerance=new.request.tolerance, seed=new.request.seed)
        for entry, new in zip(state.entries, here.entries, strict=True)
    ]
    for entry, new in zip(state.entries, here.entries, strict=True):
        np.testing.assert_array_equal(new.result["loss"], entry.result["loss"])
        assert (new.since, new.file) == (entry.since, "mine.zip")
    assert (here.shown, here.page, here.seed, here.metric, here.palette) == (1, "results", 9, "accuracy", "magma")
    assert (here.slice, here.spectrum.largest) == ("random-line", 7)
    assert here.shelf.record() == state.shelf.record()
    assert next(iter(here.param.first.names)) == "mine"


def rewritten(content, **change):
    """A session with other members; None takes one away."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        members = {name: old.read(name) for name in old.namelist()} | change
        for name, value in members.items():
            if value is not None:
                new.writestr(name, value)
    return made.getvalue()


def session_of(*results):
    state = State(FakeProject())
    entries = tuple(Entry(i, Snapshot(JobState.DONE, ds, 1, elapsed=2.0)) for i, ds in enumerate(results, 1))
    state.param.update(entries=entries, shown=1)
    return archive.packed(state).getvalue()


def test_what_is_wrong_in_a_session_is_told_and_the_rest_is_opened():
    content = session_of(plane_result(), line_result(), plane_result(title=f"called {PAYLOAD}"))
    index = json.loads(zipfile.ZipFile(io.BytesIO(content)).read(archive.INDEX))
    bad, gone = (index["results"][i]["file"] for i in (0, 1))
    index["choices"]["surface"] |= {"seed": ["-3"], "colour": ["red"], "resolution": ["151"]}
    index["results"].append({"number": 9})
    index["shelf"] = {"labels": {"a": 3, "b": "\n"}, "colours": {"a": "red; x"}, "pins": [7]}
    changed = rewritten(content, **{bad: b"nothing", gone: None, archive.INDEX: json.dumps(index)})
    state = State(FakeProject())
    Session(state)
    state.upload = ("mine.zip", changed)
    reason, details = state.refused
    assert reason == "1 result of 'mine.zip' opened, but not all of it:"
    assert f"'{bad}'" in details
    assert f"'{gone}' is listed in the session, but is not in its file" in details
    assert "“-3” is not on offer for “Seed of the directions”" in details
    assert "The session chooses “colour”, which is not known here." in details
    assert (state.resolution, len(state.entries)) == (151, 1)
    assert state.shelf.record() == {"labels": {}, "colours": {}, "pins": []}
    assert PAYLOAD not in ResultsPage(state).files.refused.object


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK nothing", "no session that was saved here"),
        (rewritten(session_of(), **{archive.INDEX: b"[]"}), "no session that was saved here"),
        (
            rewritten(session_of(), **{archive.INDEX: b'{"schema": "landscape-session/9"}'}),
            "'landscape-session/1' can be",
        ),
    ],
)
def test_a_zip_that_is_no_session_is_refused_in_a_sentence(content, said):
    state = State(FakeProject())
    Session(state)
    state.upload = ("mine.zip", content)
    assert said in state.refused[0]
    assert state.entries == ()


# ---- the page Results ------------------------------------------------------------------------------------


def entered(*entries):
    state = State(FakeProject())
    session = Session(state)
    for entry in entries:
        session.keep(replace(entry, number=session.next()))
    state.page = "results"
    return state, ResultsPage(state)


def done(ds, **options):
    return Entry(0, Snapshot(JobState.DONE, ds, 1, elapsed=2.0), **options)


def test_every_result_has_a_row_with_what_it_is_and_how_it_came_about():
    part = Snapshot(JobState.CANCELLED, line_result(status="running"), 1, progress=0.3, elapsed=61.0)
    yesterday = datetime(2020, 1, 2, 3, 4)
    names = tuple(f"step{i}" for i in range(7))
    _, page = entered(
        done(plane_result(names=names), since=yesterday), Entry(0, part), done(plane_result(), file=PAYLOAD)
    )
    first, second, third = (row["cells"] for row in page.table.rows)
    assert {name: cell["text"] for name, cell in first.items()} == {
        "title": "1. Plane at step0",
        "kind": "Surface",
        "problem": "digits",
        "checkpoints": "step0, step1, step2, step3 and 3 more",
        "status": "done",
        "when": "2020-01-02 03:04",
        "took": "2.0 s",
    }
    assert (second["status"]["text"], second["status"]["tone"]) == ("cancelled, 9 evaluations", "warn")
    assert (second["took"]["text"], second["took"]["sort"]) == ("1 min 01 s", 61.0)
    assert third["status"]["note"] == f"opened from {PAYLOAD}"
    assert status(done(plane_result(), cached=True), False) == ("done", "good", "kept by the server")
    running = Entry(0, Snapshot(JobState.RUNNING, plane_result(), 1, progress=0.4))
    assert status(running, True)[:2] == ("running, 40 %", "busy")


def test_ticked_results_are_compared_downloaded_and_deleted():
    spectrum = plane_result()  # stands for a surface three times
    state, page = entered(done(plane_result()), done(spectrum), done(line_result()))
    assert (page.compare.disabled, page.download.disabled, page.delete.disabled) == (True, True, True)
    page.table.selected = [2]
    assert (page.compare.disabled, page.download.disabled, page.delete.disabled) == (False, False, False)
    assert page.download.filename == "plane-at-one.nc"
    assert page._file().getvalue().startswith(b"\x89HDF")
    page.table.selected = [2, 1]
    assert page.download.filename == "landscape-results.zip"
    assert zipfile.ZipFile(page._file()).namelist() == ["1-plane-at-one.nc", "2-plane-at-one.nc"]
    page.compare.clicks += 1
    assert (state.page, state.shown, state.other, state.compare) == ("surface", 1, 2, True)
    state.page = "results"
    page.table.selected = [1, 2, 3]
    assert page.compare.disabled
    assert "one or two surfaces can be compared" in page.said.object
    page.delete.clicks += 1
    assert (page.delete.label, len(state.entries)) == ("Delete all 3 for good", 3)
    page.table.selected = [1, 3]
    page.delete.clicks += 1
    assert (page.delete.label, len(state.entries)) == ("Delete all 2 for good", 3)
    page.delete.clicks += 1
    assert [entry.number for entry in state.entries] == [2]
    assert (page.table.selected, state.shown, state.remove) == ([], 2, None)
    page.table.selected = [2]
    page.delete.clicks += 1
    assert (state.entries, state.result, page.table.rows, page.save.disabled) == ((), None, [], True)


def test_a_row_shows_its_result_and_where_it_comes_from_and_a_browser_can_ask_for_nothing_else():
    hostile = plane_result(names=(PAYLOAD, "two"))
    state, page = entered(done(hostile), done(line_result()))
    page.table._handle_msg({"does": "detail", "id": 1})
    assert page.table.detail["id"] == 1
    assert "sha256" in page.table.detail["html"]
    assert PAYLOAD not in page.table.detail["html"]
    page.table._handle_msg({"does": "detail", "id": 1})
    assert page.table.detail == {}
    for nonsense in (None, {"does": "show", "id": 7}, {"does": "_delete", "id": 1}, {"does": ["show"], "id": 1}):
        page.table._handle_msg(nonsense)
    assert (state.page, state.shown) == ("results", 0)
    page.table._handle_msg({"does": "show", "id": 2})
    assert (state.page, state.shown) == ("surface", 2)


def test_the_table_is_followed_only_while_it_is_looked_at():
    state, page = entered(done(plane_result()))
    state.page = "surface"
    rows = page.table.rows
    state.entries = (*state.entries, done(line_result()))
    assert page.table.rows is rows
    state.page = "results"
    assert len(page.table.rows) == 2


# ---- the page Jobs ---------------------------------------------------------------------------------------


class Gate:
    """Lets a computation go step by step."""

    def __init__(self, monkeypatch):
        self.let = threading.Semaphore(0)
        real = Request.steps

        def steps(request, project, **kept):
            for ds in real(request, project, **kept):
                assert self.let.acquire(timeout=60)
                yield ds

        monkeypatch.setattr(Request, "steps", steps)


def until(session, true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        session.poll()
        time.sleep(0.01)


def test_jobs_are_listed_while_they_wait_run_and_after(project, runner, monkeypatch):
    gate = Gate(monkeypatch)
    state, session = opened(project, runner)
    page = JobsPage(state)
    assert page.table.rows == []
    state.page = "jobs"
    state.tolerance = 0.0
    state.compute = True
    state.spectrum.compute = True
    until(session, lambda: page.table.rows[0]["cells"]["state"]["text"].startswith("running"))
    first, second = page.table.rows
    assert first["cells"]["what"] == {"text": "1. Random line", "note": "m0"}
    assert [action["label"] for action in first["actions"]] == ["Cancel", "Pause"]
    assert second["cells"]["what"]["text"] == "2. Hessian spectrum"
    assert second["cells"]["state"] == {"text": "queued", "note": "waits behind other computations", "tone": "busy"}
    gate.let.release(2)
    until(session, lambda: state.entries and page.table.rows[0]["cells"]["took"]["sort"] > 0)
    labels = [[action["label"] for action in row["actions"]] for row in page.table.rows]
    assert labels == [["Cancel", "Pause", "Show result"], ["Cancel", "Pause"]]
    page.table._handle_msg({"does": "pause", "id": 2})
    assert page.table.rows[1]["cells"]["state"] == {"text": "paused, 0 %", "note": "", "tone": "warn", "share": 0}
    page.table._handle_msg({"does": "resume", "id": 2})
    assert page.table.rows[1]["cells"]["state"]["text"] == "queued"
    page.table._handle_msg({"does": "pause", "id": 1})
    assert page.table.rows[0]["cells"]["state"]["text"] == "pausing"
    page.table._handle_msg({"does": "resume", "id": 1})
    page.table._handle_msg({"does": "cancel", "id": 1})
    assert page.table.rows[0]["cells"]["state"]["text"] == "stopping"
    gate.let.release(9)
    until(session, lambda: all(one.job.state.final for one in state.computations))
    assert page.table.rows[0]["cells"]["state"] == {
        "text": "cancelled",
        "note": "what there was is kept",
        "tone": "warn",
    }
    assert page.table.rows[1]["cells"]["state"] == {"text": "done", "note": "", "tone": "good"}
    assert all(one.job.result is None for one in state.computations)  # those are the entries'
    page.table._handle_msg({"does": "show", "id": 2})
    assert (state.page, state.spectrum.shown) == ("spectrum", state.computations[1].entry)
    state.remove = state.computations[1].entry
    state.page = "jobs"
    assert page.table.rows[1]["cells"]["state"]["note"] == "its result was deleted"
    assert page.table.rows[1]["actions"] == []


def test_a_failed_job_says_why_with_details_that_are_text(project, runner, monkeypatch):
    def steps(request, project, **_):
        yield from ()
        raise ValueError(PAYLOAD)

    monkeypatch.setattr(Request, "steps", steps)
    state, session = opened(project, runner)
    page = JobsPage(state)
    compute(state, session)
    state.page = "jobs"
    (row,) = page.table.rows
    assert row["cells"]["state"] == {"text": "failed", "note": f"ValueError: {PAYLOAD}", "tone": "bad"}
    page.table._handle_msg({"does": "detail", "id": 1})
    assert "Traceback" in page.table.detail["html"]
    assert PAYLOAD not in page.table.detail["html"]


def test_how_many_run_at_a_time_is_said(project, runner):
    state, _ = opened(project, runner)
    assert state.workers == 1
    assert "One job runs at a time, of all who use this server" in JobsPage(state).view[0][0].object


def test_a_page_without_choices_is_one_of_the_explorer(project):
    explorer = Explorer(project)
    for name in ("results", "jobs"):
        explorer.state.page = name
        assert (explorer.result, explorer.selection.page, explorer.selection.checkpoints) == (None, name, ())
