"""The Trajectory page as objects, without a browser: requests, state, what is drawn and what is said."""

import time

import numpy as np
import pytest
import torch
from bokeh.events import Tap
from conftest import PAYLOAD
from models import classification

from analysis import Problem, Project, load, save
from analysis.checkpoints import Checkpoint
from analysis.curvature import along_training, with_learning_rate
from analysis.curvature.operators import Curvature
from landscape_app.entries import kind_of
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState, Snapshot
from landscape_app.pages.trajectory import TrajectoryPage
from landscape_app.scales import Scale
from landscape_app.text import percent
from landscape_app.trajectory import picture, words
from landscape_app.trajectory.plot import lines
from landscape_app.trajectory.request import TrajectoryRequest

RATE = 0.5


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def trained(steps=(0, 1, 2, 4, 8, 40), name=lambda step: f"step {step}", info=True):
    """A problem and the checkpoints of a run of gradient descent on it."""
    x, y = classification()
    model, kept = net(), {}
    for step in range(max(steps) + 1):
        if step in steps:
            facts = {"step": step, "lr": str(RATE)} if info else {}
            here = Checkpoint.of(model, name(step))
            kept[name(step)] = Checkpoint(here.weights, here.buffers, here.name, facts)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.data -= RATE * g
    return Problem(net(), "cross_entropy", (x, y), name="small"), kept


@pytest.fixture(scope="module")
def project():
    return Project(*trained())


@pytest.fixture
def explorer(project):
    return Explorer(project)


def wait(explorer, task, until=lambda task: task.job.state.final):
    late = time.monotonic() + 120
    while not until(task):
        assert time.monotonic() < late
        time.sleep(0.05)
        explorer.session.poll()
    assert task.job.state is not JobState.FAILED, task.job.details or task.job.reason


def computed(explorer, **choices):
    task = explorer.state.trajectory
    task.param.update(**{"largest": 2, **choices})
    task.compute = True
    wait(explorer, task)
    return task


@pytest.fixture(scope="module")
def file(project, tmp_path_factory):
    """A finished result, saved by another session."""
    task = computed(Explorer(project))
    return save(task.result, tmp_path_factory.mktemp("saved") / "run.nc")


def opened(explorer, file):
    explorer.state.upload = (file.name, file.read_bytes())
    assert explorer.state.refused == ("", "")
    return explorer.state.trajectory


def chart(page, name):
    return page.plot.charts[name]


def test_results_fill_up_checkpoint_by_checkpoint_and_the_last_is_true(project):
    problem = project.problems["small"]
    names = project.checkpoint_names("small")
    counts = []
    for ds in TrajectoryRequest("small", names, largest=2).steps(project):
        counts.append(len(picture.known(ds)))
        words.findings(ds), words.notes(ds), [words.at(ds, i) for i in range(6)]
    assert counts == sorted(counts)
    assert counts[-1] == 6
    assert ds.attrs["title"] == "Hessian along step 0 to step 40"
    for i, name in enumerate(names):
        operator = Curvature(problem.with_dtype(torch.float64), project.checkpoint("small", name))
        values = np.linalg.eigvalsh(operator.matmat(torch.eye(operator.shape[1], dtype=torch.float64)).numpy())
        assert (np.abs(ds["eigenvalue"].values[i] - values[[-1, -2, 0]]) <= ds["bound"].values[i]).all()


def test_learning_rates_of_some_checkpoints_are_told_from_those_of_all(project):
    *_, ds = TrajectoryRequest("small", project.checkpoint_names("small"), largest=2).steps(project)
    some = ds["learning_rate"].copy()
    some[:] = [np.nan, 0.5, 0.5, np.nan, np.nan, 0.5]
    ds = with_learning_rate(ds, some)
    share = 0.5 * ds["eigenvalue"].values[:, 0] / 2
    nearest = int(np.nanargmax(np.where(np.isfinite(some), share, np.nan)))
    said = " ".join(words.findings(ds))
    assert f"at {words.where(ds, nearest)}: {percent(share[nearest])} of 2 / η = 4 (η = 0.5)" in said
    assert "The learning rate at 3 of the 6 checkpoints is not known" in said
    places = picture.places(ds, False)
    curves = {curve.name: curve for curve in picture.charts(ds, False)["stability"].curves}
    drawn = lines([curves["η λ₁ / 2"], curves["limit"]], places, Scale.of(np.array([0.0, 2.0]), False))
    for ys in drawn["ys"]:
        assert np.isfinite(ys).tolist() == [False, True, True, False, False, True]


def test_the_page_streams_and_a_cancel_keeps_what_is_there(explorer):
    page, task = TrajectoryPage(explorer.state), explorer.state.trajectory
    assert "No trajectory yet" in page.veil.object
    task.param.update(trace_products=200)
    task.compute = True
    assert "on its way" in page.veil.object
    wait(explorer, task, lambda task: task.result is not None and len(picture.known(task.result)) >= 2)
    assert len(chart(page, "eigenvalues").points.data["x"]) >= 5
    task.cancel = True
    wait(explorer, task)
    if task.job.state is JobState.CANCELLED:  # else it was faster
        assert "of 6 checkpoints" in words.message(task).body
        assert "partial" in words.entry_line(task.entry)
    assert not page.veil.visible
    assert page.below.visible


def test_eigenvalues_have_bars_and_the_limit_of_the_learning_rate(explorer, file):
    page = TrajectoryPage(explorer.state)
    task = opened(explorer, file)
    data, lines = chart(page, "eigenvalues").points.data, chart(page, "eigenvalues").lines.data
    assert len(data["x"]) == 6 * 3
    assert data["name"].count("|λₙ|") == 6
    assert lines["dash"] == ["solid", "solid", "dashed", "dashed"]
    assert 10 ** lines["ys"][3][0] == pytest.approx(2 / RATE)
    named = [item.label.value for item in chart(page, "eigenvalues").legend.items]
    assert named == ["λ₁", "λ₂", "|λₙ|", "2 / η = 4"]
    for item in chart(page, "eigenvalues").legend.items:
        assert "multi" in item.renderers[0].glyph.__class__.__name__.lower()
    named = [item.label.value for item in chart(page, "stability").legend.items]
    assert named == ["η λ₁ / 2", "η trace / 2", "Limit"]
    task.log_scale = False
    assert min(chart(page, "eigenvalues").points.data["value"]) < 0
    assert "λₙ" in [item.label.value for item in chart(page, "eigenvalues").legend.items]
    task.learning_rate = "0.1"
    assert 20 in chart(page, "eigenvalues").lines.data["ys"][-1] or "2 / η = 20" not in named
    task.log_scale = True
    assert "2 / η = 20" in [item.label.value for item in chart(page, "eigenvalues").legend.items]
    assert (task.drawn["edge"] == 20).all()
    for absent, told in (("0", True), ("-1", True), ("fast", True), ("inf", True), (" ", False)):
        task.learning_rate = absent
        assert (task.drawn["edge"] == 4).all()
        assert ("no positive number" in page.findings.object) == told
    assert explorer.session.trajectory.job is None
    assert not task.stale


def test_what_is_not_converged_is_open(explorer, file):
    page = TrajectoryPage(explorer.state)
    task = opened(explorer, file)
    ds = task.result.copy(deep=True)
    ds["converged"][1, 0] = False
    task.result = ds
    data = chart(page, "eigenvalues").points.data
    assert data["fill"].count("white") == 1
    assert data["said"].count("not converged") == 1
    assert "not converged" in page.table.object
    assert "Open circles" in page.notes.object
    ds["converged"][:] = True
    ds["eigenvalue"][2:] = np.nan
    assert "Open circles" not in " ".join(words.notes(ds))


def test_the_step_axis_is_linear_or_logarithmic_or_the_order(explorer, file):
    page = TrajectoryPage(explorer.state)
    task = opened(explorer, file)
    assert task.log_steps  # 0, 1, 2, 4, 8, 40
    assert page.look_controls.fields["log_steps"].visible
    here = picture.places(task.result, log=True)
    np.testing.assert_allclose(10**here.at - 1, task.result["step"].values)
    assert here.labels[0.0] == "0"
    task.log_steps = False
    assert chart(page, "loss").points.data["x"] == [0, 1, 2, 4, 8, 40]
    assert chart(page, "loss").figure.xaxis[0].axis_label == "Step"
    other = Explorer(Project(*trained((0, 5), name=lambda step: f"epoch {step}", info=False)))
    page, task = TrajectoryPage(other.state), computed(other)
    assert chart(page, "loss").points.data["x"] == [1, 2]
    assert not page.look_controls.fields["log_steps"].visible
    assert not chart(page, "stability").box.visible
    assert "give it for the line" in page.findings.object
    assert "one after another" in page.notes.object
    assert "epoch 5" in page.findings.object
    task.learning_rate = "0.1"
    assert chart(page, "stability").box.visible


def test_a_tap_chooses_the_nearest_checkpoint_and_offers_its_spectrum(explorer, file):
    state, page = explorer.state, TrajectoryPage(explorer.state)
    task = opened(explorer, file)
    go = page.checkpoint_controls.go
    assert go.disabled
    figure = chart(page, "trace").figure
    at = picture.places(task.result, task.log_steps).at
    for event in (Tap(None, x=at[3] + 0.01, y=0), Tap(None, x=at[3] - 0.01, y=0)):
        for callback in figure._event_callbacks["tap"]:
            callback(event)
        assert task.chosen == task.pick == 3
    assert chart(page, "loss").here.data["x"] == [at[3]]
    assert 'class="here"' in page.table.object
    assert page.here.object.count("step 4") == 1
    task.pick = 2
    assert task.chosen == 2
    task.pick = -1
    assert (task.chosen, go.disabled) == (None, True)
    task.chosen = 5
    state.spectrum.param.update(largest=2, smallest=1, degree=6, layer="0")
    state.ask_spectrum_along()
    assert state.page == "spectrum"
    wait(explorer, state.spectrum)
    assert (state.spectrum.checkpoint, state.spectrum.layer) == ("step 40", "")
    assert state.spectrum.parts[0].values[0] == pytest.approx(float(task.result["eigenvalue"][5, 0]), rel=1e-2)


def test_a_chosen_checkpoint_and_its_name_do_not_call_each_other_for_ever(explorer, file):
    task = opened(explorer, file)
    task.chosen = 1
    task.param.trigger("result")
    assert task.chosen == task.pick == 1


def test_a_trajectory_is_listed_saved_and_opened_again(explorer, project, file, tmp_path):
    state, task = explorer.state, opened(explorer, file)
    assert kind_of(load(file)) == "trajectory"
    assert [entry.kind for entry in state.entries] == ["trajectory"]
    assert (state.page, task.computed) == ("trajectory", task.request())
    assert words.message(task).title == "Opened from a file"
    problem = project.problems["small"]
    *_, ds = along_training(problem, [problem.checkpoint()], largest=1, smallest=0, trace_products=0)
    state.upload = ("cli.nc", save(ds, tmp_path / "cli.nc").read_bytes())
    assert state.refused == ("", "")
    assert task.computed is None
    state.show = 1
    assert task.shown == 1
    state.remove = 2
    assert len(state.entries) == 1
    lone = Explorer(problem)  # has no run, and no page of one until it is needed
    pages = list(lone._view._names)
    assert "Trajectory" not in pages
    opened(lone, file)
    assert list(lone._view._names) == [*pages[:2], "Trajectory", *pages[2:]]
    assert lone._view.active == 2


def test_choices_that_change_make_it_stale_and_come_back_with_the_result(explorer, file):
    task = opened(explorer, file)
    task.matrix = "ggn"
    assert task.stale
    assert task.request().smallest == 0
    explorer.state.show = task.shown
    assert (task.stale, task.matrix, task.recalled) == (False, "hessian", True)


def test_every_state_of_the_job_has_words(explorer):
    task = explorer.state.trajectory
    assert "at each of 6 checkpoints" in words.message(task).body
    assert "basis takes at most" in words.message(task).body
    task.job = Snapshot(JobState.RUNNING)
    assert words.message(task).title == "Starting"
    task.job = Snapshot(JobState.CANCELLED)
    assert words.message(task).body == "Nothing had been computed yet."
    task.job = Snapshot(JobState.FAILED, reason="It broke.")
    assert words.message(task).tone == "bad"
    task.job = None
    task = computed(explorer, trace_products=0)
    assert words.message(task).body.endswith("all eigenvalues converged.")
    partial = task.result.assign_attrs(checkpoints=2, products=1234)
    task.job = Snapshot(JobState.RUNNING, partial, eta=30.0)
    said = words.message(task)
    assert (said.title, said.body) == ("At step 2", "2 of 6 checkpoints · 1,234 products · about 30 s left")
    ds = partial.copy(deep=True)
    ds["converged"][0, 0] = False
    assert words.ended(Snapshot(JobState.DONE, ds)).tone == "warn"


def test_names_of_others_are_text_never_html():
    problem, points = trained((0, 1), name=lambda step: f"{PAYLOAD}{step}", info=False)
    explorer = Explorer(Problem(problem.model, "cross_entropy", classification(), name=PAYLOAD), points)
    page = TrajectoryPage(explorer.state)
    computed(explorer, trace_products=0)
    explorer.state.trajectory.chosen = 0
    shown = [page.veil, page.findings, page.caption, page.table, page.provenance, page.notes, page.here]
    shown += [row.said for row in page.results.rows.values()]
    assert PAYLOAD not in "".join(pane.object for pane in shown)
