"""The page Checkpoints as objects, without a browser: labels, colours, pins, rows, measures and ways to other pages."""

import csv
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PAYLOAD, FakeProject, plane_result
from models import classification, mlp

from analysis import Problem, Project
from analysis.checkpoints import Checkpoint
from analysis.recording import Recorder
from landscape_app import session
from landscape_app.checkpoints.linking import chosen, go, takes
from landscape_app.checkpoints.request import MeasureRequest
from landscape_app.checkpoints.rows import Row, arranged, columns, rows
from landscape_app.checkpoints.shelf import Shelf, colours
from landscape_app.colours import ACCENT, CHECKPOINTS
from landscape_app.controls import field
from landscape_app.entries import Entry
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState, Snapshot
from landscape_app.links import follow, written
from landscape_app.pages.checkpoints import CheckpointsPage
from landscape_app.request import Request
from landscape_app.state import State

PALETTE = list(CHECKPOINTS.values())


@pytest.fixture
def folder(tmp_path):
    """A run of three steps, and a file that does not fit the model."""
    recorder = Recorder(tmp_path / "run")
    for step in (0, 9, 10):
        recorder.save(step, mlp(seed=step))
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "run" / "other.pt")
    return tmp_path / "run"


@pytest.fixture
def explorer(folder):
    problem = Problem(mlp(), "cross_entropy", classification(), metrics=["accuracy"], name="small")
    return Explorer(Project(problem, folder))


def finish(explorer, task):
    late = time.monotonic() + 60
    while not task.job.state.final:
        assert time.monotonic() < late
        time.sleep(0.01)
        explorer.session.poll()


def measured(explorer, **choices):
    task = explorer.state.checkpoints
    task.param.update(**choices)
    task.compute = True
    finish(explorer, task)
    assert task.job.state is JobState.DONE, task.job.details
    return {row.name: row for row in rows(explorer.state)}


def shelf(names=("one", "two", "three"), problems=("digits", "letters")):
    return Shelf(FakeProject(problems, names))


def test_a_label_is_cleaned_and_an_empty_one_gives_the_name_back():
    one = shelf()
    one.rename("digits", "two", "  the \n best\t")
    assert one.label("digits", "two") == "the best"
    assert one.label("letters", "two") == "two"  # another model's
    one.rename("digits", "three", "x" * 200)
    assert len(one.label("digits", "three")) == 60
    for empty in ("", "  ", "two"):
        one.rename("digits", "two", "the best")
        one.rename("digits", "two", empty)
        assert one.label("digits", "two") == "two"
    assert len(one.labels) == 1


def test_two_of_one_label_are_told_apart_by_their_names():
    one = shelf()
    one.rename("digits", "one", "best")
    one.rename("digits", "two", "best")
    assert one.offered("digits", ("one", "two", "three")) == {
        "best (one)": "one",
        "best (two)": "two",
        "three": "three",
    }
    one.rename("digits", "two", "three")  # as another is called
    assert one.label("digits", "two") == "three (two)"
    assert one.label("digits", "three") == "three"


def test_pinned_checkpoints_are_offered_first():
    one = shelf()
    one.pin("digits", "three", True)
    assert list(one.offered("digits", ("one", "two", "three")).values()) == ["three", "one", "two"]
    one.pin("digits", "three", False)
    assert list(one.offered("digits", ("one", "two", "three")).values()) == ["one", "two", "three"]


def test_colours_stay_when_checkpoints_come_and_only_the_palettes_are_taken():
    one = shelf(("step-1", "step-10"))
    assert [one.colour("digits", name) for name in ("step-1", "step-10")] == PALETTE[:2]
    one.project._checkpoints = ("step-1", "step-9", "step-10")
    assert [one.colour("digits", name) for name in one.project._checkpoints] == [PALETTE[0], PALETTE[2], PALETTE[1]]
    one.paint("digits", "step-9", PALETTE[6])
    assert one.colour("digits", "step-9") == PALETTE[6]
    one.paint("digits", "step-9", "")
    assert one.colour("digits", "step-9") == PALETTE[2]
    with pytest.raises(ValueError, match="'red' is no colour of checkpoints; accepted are #d55e00"):
        one.paint("digits", "step-9", "red")


def test_a_dressed_result_has_labels_and_colours_and_the_result_stays():
    ds, one = plane_result(names=("one", "two")), shelf()
    one.rename("digits", "one", PAYLOAD)
    one.paint("digits", "two", PALETTE[4])
    shown = one.dressed(ds)
    assert list(shown["marker_name"].values) == [PAYLOAD, "two"]
    assert colours(shown, "marker") == [PALETTE[0], PALETTE[4]]
    assert shown.attrs["title"] == f"plane at {PAYLOAD}"
    assert list(ds["marker_name"].values) == ["one", "two"]
    assert ds.attrs["title"] == "plane at one"
    assert colours(ds, "marker") == [ACCENT] * 2
    assert one.dressed(ds, "no such problem") is ds


def test_of_more_checkpoints_than_colours_only_the_painted_stand_out():
    names = tuple(f"step-{i}" for i in range(8))
    one = shelf(names)
    one.paint("digits", "step-3", PALETTE[1])
    assert one.drawn("digits", names) == [*[ACCENT] * 3, PALETTE[1], *[ACCENT] * 4]
    assert one.drawn("digits", names[:2]) == PALETTE[:2]


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("plane at 4", "plane at best"),
        ("paths between 4 checkpoints, as they are", "paths between 4 checkpoints, as they are"),
        ("paths between 4 and step-4, matched", "paths between best and last, matched"),
        ("hessian along 4 to step-4", "hessian along best to last"),
        ("plane at step-40", "plane at step-40"),
        ("a 4 × 4 grid", "a 4 × 4 grid"),
    ],
)
def test_a_title_has_labels_for_names_and_leaves_other_words(title, said):
    one = shelf(("4", "step-4"))
    one.rename("digits", "4", "best")
    one.rename("digits", "step-4", "last")
    assert one.titled(plane_result(title=title)) == said


def test_a_label_shows_in_the_choosers_and_pictures_of_the_other_pages():
    state = State(FakeProject())
    state.first = "two"
    state.result = plane_result(names=("one", "two"))
    before = state.drawn
    assert state.drawn is before
    state.shelf.rename("digits", "two", "best")
    state.shelf.pin("digits", "two", True)
    for offered in (state.param.first, state.connectivity.param.checkpoints, state.checkpoints.param.reference):
        assert list(offered.names) == ["best", "one", "three"]
        assert list(offered.objects) == ["two", "one", "three"]
    assert list(state.spectrum.param.checkpoint.names) == ["best", "one", "three"]
    assert state.first == "two"  # the choice stays
    assert state.request().checkpoints == ("two",)
    assert list(state.drawn["marker_name"].values) == ["one", "best"]
    assert list(state.result["marker_name"].values) == ["one", "two"]


def test_two_problems_on_the_same_files_share_labels(folder):
    problems = {name: Problem(mlp(), "cross_entropy", classification(), name=name) for name in ("a", "b")}
    one = Shelf(Project(problems, folder))
    one.rename("a", "step-9", "best")
    assert one.label("b", "step-9") == "best"


def row(name, pinned=False, **values):
    return Row(name, name, ACCENT, pinned, False, values, {})


def test_rows_are_sorted_by_value_the_pinned_first_and_the_unknown_last():
    found = [row("step-10", loss=1.0), row("step-9", loss=3.0), row("new"), row("old", True, loss=2.0)]
    order = lambda **how: [one.name for one in arranged(found, **how)]  # noqa: E731
    assert order() == ["old", "step-10", "step-9", "new"]
    assert order(sort="loss") == ["old", "step-10", "step-9", "new"]
    assert order(sort="loss", descending=True) == ["old", "step-9", "step-10", "new"]
    assert order(sort="name") == ["old", "new", "step-9", "step-10"]


def test_a_search_finds_all_its_words_anywhere_in_a_row():
    found = [row("step-10", file="step-10.pt", pages="Surface"), row("step-9", file="step-9.pt")]
    assert [one.name for one in arranged(found, "STEP surf")] == ["step-10"]
    assert [one.name for one in arranged(found, "9.pt")] == ["step-9"]
    assert arranged(found, "nothing") == []


def test_only_what_the_files_say_is_there_before_anything_is_measured(explorer, folder):
    state = explorer.state
    state.page = "checkpoints"
    found = rows(state)
    assert [one.name for one in found] == ["other", "step-0", "step-9", "step-10"]
    assert [column.key for column in columns(state, found)] == ["name", "file", "size", "written", "pages"]
    step = found[1]
    assert step.values["size"] == (folder / "step-0.safetensors").stat().st_size
    assert step.values["file"] == "step-0.safetensors"
    assert step.values["written"] == (folder / "step-0.safetensors").stat().st_mtime


def test_measuring_says_what_is_so_and_why_one_does_not_fit(explorer):
    found = measured(explorer, reference="step-9")
    problem, project = explorer.state.project.problems["small"], explorer.state.project
    for seed in (0, 9, 10):
        checkpoint, values = project.checkpoint("small", f"step-{seed}"), found[f"step-{seed}"].values
        flat = np.concatenate([p.detach().numpy().ravel() for p in mlp(seed=seed).parameters()]).astype(np.float64)
        base = np.concatenate([p.detach().numpy().ravel() for p in mlp(seed=9).parameters()]).astype(np.float64)
        assert values["norm"] == pytest.approx(np.linalg.norm(flat), rel=1e-6)
        assert values["distance"] == pytest.approx(np.linalg.norm(flat - base), abs=1e-6)
        loss, error = problem.measure(checkpoint)["loss"]
        assert (values["loss"], found[f"step-{seed}"].errors["loss"]) == (pytest.approx(loss), pytest.approx(error))
        assert values["step"] == seed
        assert values["fits"] == "fits"
    assert found["other"].values["fits"] == "does not fit"
    assert "weight" in found["other"].reason
    assert "loss" not in found["other"].values
    keys = [column.key for column in columns(explorer.state, list(found.values()))]
    assert keys[5:] == ["fits", "norm", "distance", "loss", "accuracy", "pages"]
    assert explorer.state.entries == ()  # it is in the table, not among the results


def test_without_loss_and_metrics_nothing_is_evaluated(explorer, monkeypatch):
    monkeypatch.setattr(Problem, "measure", lambda *_: pytest.fail("evaluated"))
    found = measured(explorer, evaluate=False, reference="step-0")
    assert {"norm", "distance", "fits"} <= set(found["step-9"].values)
    assert "loss" not in found["step-9"].values


def test_a_job_is_asked_often_until_it_has_a_result_and_then_seldom(explorer, monkeypatch):
    measure, go_on, first, timers = Problem.measure, threading.Event(), threading.Event(), []

    def slow(problem, checkpoint):
        if first.is_set():
            assert go_on.wait(30)
        first.set()
        return measure(problem, checkpoint)

    def timer(_, period):
        timers.append(SimpleNamespace(period=period, stop=lambda: None))
        return timers[-1]

    monkeypatch.setattr(Problem, "measure", slow)
    monkeypatch.setattr(session.pn.state, "add_periodic_callback", timer)
    task = explorer.state.checkpoints
    task.compute = True
    assert timers[0].period == session.FIRST_POLL_MS
    assert first.wait(30)
    late = time.monotonic() + 30
    while timers[0].period != session.POLL_MS and time.monotonic() < late:
        assert task.busy
        explorer.session.poll()
    assert task.result is not None
    assert timers[0].period == session.POLL_MS
    go_on.set()
    finish(explorer, task)


def test_measuring_is_cancelled_between_checkpoints_and_goes_on_from_there(explorer, monkeypatch):
    measure, seen, go_on, first = Problem.measure, [], threading.Event(), threading.Event()

    def slow(problem, checkpoint):
        seen.append(checkpoint.name)
        first.set()
        assert go_on.wait(30)
        return measure(problem, checkpoint)

    monkeypatch.setattr(Problem, "measure", slow)
    task = explorer.state.checkpoints
    task.compute = True
    assert first.wait(30)
    task.cancel = True
    go_on.set()
    finish(explorer, task)
    assert task.job.state is JobState.CANCELLED
    assert len(seen) == 1
    assert "loss" in {one.name: one for one in rows(explorer.state)}[seen[0]].values
    measured(explorer)
    assert sorted(seen) == ["step-0", "step-10", "step-9"]  # each once
    assert task.answered
    measured(explorer)  # again, anew
    assert len(seen) == 6


def test_a_file_that_was_written_again_is_measured_again_and_alone(explorer, folder, monkeypatch):
    before = measured(explorer, reference="step-0")
    Recorder(folder).save(9, mlp(seed=3))
    os.utime(folder / "step-9.safetensors", (time.time() + 5, time.time() + 5))
    assert "loss" not in {one.name: one for one in rows(explorer.state)}["step-9"].values
    asked = explorer.state.checkpoints
    read = []
    load = Project.checkpoint
    monkeypatch.setattr(Project, "checkpoint", lambda self, p, n: read.append(n) or load(self, p, n))
    *_, ds = MeasureRequest("small", asked.request().checkpoints, "step-0").steps(
        explorer.state.project, earlier=asked.measured
    )
    assert sorted(set(read)) == ["step-0", "step-9"]  # and what it is compared with
    assert float(ds["loss"].values[2]) != before["step-9"].values["loss"]
    assert float(ds["loss"].values[3]) == before["step-10"].values["loss"]


def test_what_a_page_measured_stands_in_the_table(explorer):
    state = explorer.state
    state.param.update(slice="random-line", first="step-9", resolution=51, tolerance=0.03)
    state.compute = True
    finish(explorer, state)
    found = {one.name: one.values for one in rows(state)}
    loss, _ = state.project.problems["small"].measure(state.project.checkpoint("small", "step-9"))["loss"]
    assert found["step-9"]["loss"] == pytest.approx(loss)
    assert found["step-9"]["step"] == 9
    assert "loss" not in found["step-10"]


def test_what_was_measured_otherwise_says_nothing_here():
    state = State(FakeProject(batchnorm=("recalibrated", "frozen")))
    problem = state.project.problems["digits"]
    problem.batchnorm = "recalibrated"
    ds = plane_result(names=("one", "two"))

    def loss(**request):
        asked = Request("digits", "plane", ("one", "two"), **request)
        state.checkpoints.entries = state.entries = (Entry(1, Snapshot(JobState.DONE, ds), asked),)
        return {one.name: one.values.get("loss") for one in rows(state)}

    assert loss(batchnorm="recalibrated") == {"one": 0.25, "two": 1.25, "three": None}
    assert loss(batchnorm="frozen") == {"one": None, "two": None, "three": None}


def test_the_table_follows_what_the_page_that_is_looked_at_chooses():
    state = State(FakeProject())
    task = state.checkpoints
    assert task.selected == ["three"]  # as on the surface
    state.param.update(slice="plane", first="one", second="two")
    assert task.selected == ["one", "two"]
    state.spectrum.checkpoint = "three"  # not looked at
    assert task.selected == ["one", "two"]
    state.page = "connectivity"
    assert task.selected == ["one", "two"]  # to turn to a page chooses nothing
    state.connectivity.checkpoints = ["two", "three"]
    assert task.selected == ["two", "three"]
    state.page = "surface"
    state.problem = "letters"
    assert task.problem == "letters"
    state.spectrum.param.update(problem="digits", checkpoint="two")
    assert task.problem == "letters"
    assert chosen(state)["spectrum"] == ("digits", ("two",))


@pytest.mark.parametrize(
    ("way", "names", "page", "asked"),
    [
        ("Plane", ["two"], "surface", ("random-plane", ("two",))),
        ("Plane", ["two", "one"], "surface", ("plane", ("two", "one"))),
        ("Plane", ["three", "one", "two"], "surface", ("plane", ("three", "one", "two"))),
        ("Line", ["three", "one"], "surface", ("line", ("three", "one"))),
        ("Spectrum", ["two"], "spectrum", "two"),
        ("Barriers", ["one", "three"], "connectivity", ("one", "three")),
        ("Along these", ["three", "one"], "trajectory", ("one", "three")),
    ],
)
def test_chosen_rows_lead_to_another_page(way, names, page, asked):
    state = State(FakeProject())
    state.page = "checkpoints"
    state.checkpoints.problem = "letters"
    state.checkpoints.selected = names
    go(state, way)
    assert state.page == page
    task = state.tasks[page]
    assert task.problem == "letters"
    request = task.request()
    got = (request.slice, request.checkpoints) if page == "surface" else getattr(request, "checkpoints", None)
    assert (request.checkpoint if page == "spectrum" else got) == asked
    assert state.checkpoints.selected == names
    assert not task.busy  # nothing is computed


def test_ways_are_open_for_as_many_as_they_take():
    assert [takes("Plane", n) for n in range(5)] == [False, True, True, True, False]
    assert [takes("Line", n) for n in range(4)] == [False, False, True, False]
    assert [takes("Spectrum", n) for n in range(3)] == [False, True, False]
    assert [takes("Barriers", n) for n in (1, 2, 50)] == [False, True, True]
    state = State(FakeProject())
    state.checkpoints.selected = []
    go(state, "Plane")
    assert state.page == "surface"


def test_the_address_brings_the_choices_of_the_table_back():
    state, told = State(FakeProject()), []
    state.page = "checkpoints"
    state.checkpoints.param.update(query="t o", sort="loss", descending=True, selected=["two", "one"], reference="two")
    other = State(FakeProject())
    follow(other, written(state), told.append)
    assert told == []
    assert other.page == "checkpoints"
    names = ("query", "sort", "descending", "selected", "reference")
    assert [getattr(other.checkpoints, n) for n in names] == ["t o", "loss", True, ["two", "one"], "two"]


def test_the_table_asks_and_the_state_does():
    state = State(FakeProject())
    state.page = "checkpoints"
    page, task = CheckpointsPage(state), state.checkpoints
    page.asked({"does": "all", "on": True, "names": ["one", "nobody"]})
    assert task.selected == ["three", "one"]
    page.asked({"does": "all", "on": False, "names": ["three"]})
    assert task.selected == ["one"]
    for expected in (("file", False), ("file", True), ("file", False)):
        page.asked({"does": "sort", "column": "file"})
        assert (task.sort, task.descending) == expected
    page.asked({"does": "rename", "name": "one", "label": PAYLOAD})
    assert state.shelf.label("digits", "one") == PAYLOAD
    assert "<img" not in page.chosen.object
    page.asked({"does": "paint", "name": "one", "colour": "url(//evil)"})
    assert state.shelf.colours == {}
    page.asked({"does": "find", "query": "thr"})
    assert '"count": "1 of 3 checkpoints"' in page.table.table
    assert "(1 not shown)" in page.chosen.object
    assert list(csv.reader(page.file()))[1][:2] == ["three", "three"]


def test_a_new_file_has_a_row_and_a_gone_one_is_no_more_chosen(explorer, folder):
    state = explorer.state
    state.page = "checkpoints"
    page, task = CheckpointsPage(state), state.checkpoints
    task.selected = ["step-9", "step-10"]
    Recorder(folder).save(20, mlp(seed=20))
    (folder / "step-9.safetensors").unlink()
    late = time.monotonic() + 20
    while "step-20" not in page.table.table:
        assert time.monotonic() < late
        explorer.session.watch()
        time.sleep(0.2)
    assert '"step-9"' not in page.table.table
    assert task.selected == ["step-10"]
    assert explorer.selection.checkpoints == ("step-10",)


def test_a_problem_that_cannot_be_made_has_rows_and_no_measures():
    def broken():
        raise RuntimeError("no data today")

    state = State(Project({"broken": broken}, {"one": Checkpoint.of(mlp()).weights}))
    state.page = "checkpoints"
    assert "no data today" in state.checkpoints.trouble[0]
    assert [one.name for one in rows(state)] == ["one"]
    CheckpointsPage(state)


def test_a_choice_of_several_hears_labels_on_offer_and_says_new_ones():
    state = State(FakeProject())
    task = state.connectivity
    choice = field(task, "checkpoints")[0]
    task.checkpoints = ["one", "two"]
    said = []
    choice.param.watch(said.append, "value", onlychanged=False)
    state.shelf.rename("digits", "two", "best")
    assert said
    assert said[-1].new == ["one", "two"]
    assert choice._process_property_change({"value": ["one", "best"]}) == {"value": ["one", "two"]}
    assert choice._process_property_change({"value": ["one", "two"]}) == {}  # said by a browser that is late
