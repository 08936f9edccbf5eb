"""What the Connectivity page computes about one pair, without a browser: its values against the library's own."""

import csv
import io
import re

import numpy as np
import pytest
import torch
from models import classification
from test_connectivity_page import NAMES, computed, made, opened, trained, wait

from analysis import LandscapeError, Plane, Problem, Project, load, save
from analysis.checkpoints import Checkpoint
from analysis.connectivity import (
    CurveSearch,
    barrier,
    find_symmetries,
    layer_barriers,
    match_many,
    merge,
    repaired_barrier,
    with_layers,
)
from landscape_app.connectivity import picture, words
from landscape_app.connectivity.of_pair import PlaneRequest
from landscape_app.connectivity.request import ConnectivityRequest, Matched
from landscape_app.entries import kind_of
from landscape_app.explorer import Explorer
from landscape_app.exports import LABELS, Exports
from landscape_app.jobs import JobState
from landscape_app.pages.connectivity import ConnectivityPage
from landscape_app.text import number
from landscape_app.views import view


@pytest.fixture(scope="module")
def project():
    return made()


@pytest.fixture(scope="module")
def session(project):
    """An explorer and its page with the paths between three checkpoints, from the second to the third."""
    explorer = Explorer(project)
    page, task = ConnectivityPage(explorer.state), computed(explorer)
    task.param.update(first=1, second=2, updates=100)
    return explorer, page, task


def run(explorer, task):
    task.compute = True
    wait(explorer, task)
    return task.result


@pytest.fixture(scope="module")
def plane(session):
    explorer, _, task = session
    task.third = "matched"
    return run(explorer, task.plane)


@pytest.fixture(scope="module")
def curve(session):
    explorer, _, task = session
    return run(explorer, task.curve)


@pytest.fixture(scope="module")
def layers(session):
    explorer, _, task = session
    return run(explorer, task.layers)


def ends(project, first="two", second="three"):
    return [project.checkpoint("small", name) for name in (first, second)]


def between(a, b, t):
    return a.weights * (1 - t) + b.weights * t


def test_the_marker_lies_where_the_weights_at_t_do(session, plane, project):
    _, page, task = session
    a, b = ends(project)
    matched = task.matched.to(1, 2)
    space, problem = Plane.through(a, b, matched), project.problems["small"]
    own = {"before": b, "after": matched}
    for t in (0.0, 0.255, 0.5, 1.0):
        task.t = t
        spots = page.walk.spots.data
        for i, end in enumerate(own.values()):
            here, residual = space.project(between(a, end, t))
            np.testing.assert_allclose((spots["x"][i], spots["y"][i]), here, atol=1e-5)
            assert residual < 1e-4 * (b.weights - a.weights).norm()
        assert page.walk.rule.data == {"x": [t]}
    task.t = 0.5
    for i, stage in enumerate(own):  # the loss there is the one that the path has at that t
        spots = page.walk.spots.data
        at = Checkpoint(space.point(spots["x"][i], spots["y"][i]), a.buffers, "there")
        path = picture.path(task.result, i, "loss", 1, 2)
        assert problem.measure(at)["loss"][0] == pytest.approx(path.values[path.t == 0.5][0], rel=1e-4), stage
        assert page.walk.dots.data["y"][i] == path.values[path.t == 0.5][0]
    assert list(plane["marker_name"].values) == ["two", "three", "π(three)"]


def test_the_values_at_t_are_said_for_each_line_and_metric(session, project):
    _, page, task = session
    task.t = 0.5
    *_, path = barrier(project.problems["small"], *ends(project))
    middle = path.sel(t=0.5)
    said = [re.findall(r"<td>([^<]*)</td>", row) for row in page.walk.readout.text.split("<tr>")]
    assert [number(float(middle[name])) for name in ("loss", "accuracy")] == said[2]
    assert "At t = 0.50" in page.walk.readout.text
    task.t = 0.51  # between two places: on the straight line that is drawn between them
    known = picture.path(task.result, 0, "loss", 1, 2)
    right = int(np.searchsorted(known.t, 0.51))
    share = (0.51 - known.t[right - 1]) / (known.t[right] - known.t[right - 1])
    expected = (1 - share) * known.values[right - 1] + share * known.values[right]
    assert page.walk.dots.data["y"][0] == pytest.approx(expected)
    task.t = 0.5


def test_the_curve_is_that_of_a_search_and_its_plane_holds_it(session, curve, project):
    explorer, page, task = session
    search = CurveSearch(project.problems["small"], *ends(project), steps=100)
    *_, own = search.steps()
    np.testing.assert_allclose(curve["loss"], own["loss"], rtol=1e-5)
    drawn = page.plot.path.lines.data
    (place,) = [i for i, colour in enumerate(drawn["colour"]) if colour == picture.COLOURS["curve"]]
    np.testing.assert_array_equal(drawn["ys"][place], curve["loss"])
    np.testing.assert_array_equal(drawn["xs"][place], curve["t"])
    height = number(float(own["loss_barrier"]))
    assert f"Along the curve the barrier is {height} nats" in page.parts["curve"].said.object
    assert "Curve" in page.walk.readout.text
    task.third = "curve"
    assert page.halves[1].visible is False  # another plane than the one that is known
    ds = run(explorer, task.plane)
    space = search.curve.plane()
    track = picture.tracks(ds)["curve"]
    for t in (0.0, 0.3, 0.8, 1.0):
        here, residual = space.project(search.curve.point(t))
        np.testing.assert_allclose(track(np.array([t]))[0], here, atol=1e-4)
        assert residual < 1e-4 * space.axes[0].length
    assert page.plane.tracks.data["colour"] == [picture.COLOURS["before"], picture.COLOURS["curve"]]
    task.third = "matched"


def test_the_bars_are_the_barriers_of_layers(session, layers, project):
    _, page, task = session
    problem, (a, b) = project.problems["small"], ends(project)
    *_, own = layer_barriers(problem, a, b)
    bars = page.layers.bars.data
    np.testing.assert_allclose(bars["value"][:2], own["loss_barrier"].mean("into"), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bars["value"][2:], own["loss_control"].mean(("into", "draw")), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bars["high"][2:], own["loss_control"].max(("into", "draw")), rtol=1e-4, atol=1e-6)
    assert bars["layer"] == ["0", "2"] * 2
    mean = np.mean([problem.measure(end)["loss"][0] for end in (a, b)])

    def rise(*names):
        """Of the loss with these layers half-way, over the mean; the mean of both ways round."""
        moved = [problem.measure(with_layers(*pair, names, 0.5))["loss"][0] for pair in ((a, b), (b, a))]
        return np.mean(moved) - mean

    task.together = True
    expected = [rise("0"), rise("0", "2"), rise("0", "2"), rise("2")]
    np.testing.assert_allclose(page.layers.bars.data["value"], expected, rtol=1e-4, atol=1e-6)
    task.metric = "accuracy"
    assert page.layers.figure.xaxis[0].axis_label == "Fall of the accuracy half-way [fraction]"
    task.param.update(metric="loss", together=False)


def test_each_result_about_a_pair_is_a_view_of_its_own(plane, curve, layers):
    bars = view(layers, metric="accuracy")._drawn.chart.bars.data
    np.testing.assert_allclose(bars["value"][:2], layers["accuracy_barrier"].mean("into"), atol=1e-6)
    shown = view(plane)._drawn.charts[0].image.data["raw"][0]
    np.testing.assert_allclose(shown, plane["loss"].transpose("b", "a"), rtol=1e-6)
    lines = view(curve)._drawn.plot.path.lines.data
    assert any(ys == pytest.approx(curve["loss"].values) for ys in lines["ys"])


def test_another_pair_shows_what_is_known_of_it_and_nothing_else(session, plane, curve, layers):
    explorer, page, task = session
    shown = {kind: explorer.state.tasks[kind].shown for kind in ("plane", "curve", "layers")}
    assert all(shown.values())
    task.param.update(first=0, second=1)
    assert [explorer.state.tasks[kind].result for kind in shown] == [None] * 3
    assert (page.halves[1].visible, page.layers.box.visible) == (False, False)
    assert "Ready" in page.parts["curve"].run_panel.headline.object
    assert "Curve" not in page.walk.readout.text
    task.param.update(first=1, second=2)
    assert {kind: explorer.state.tasks[kind].shown for kind in shown} == shown
    assert page.halves[1].visible
    task.updates = 300  # of the next training: what is drawn stays
    assert task.curve.stale
    assert task.curve.result is curve
    task.updates = 100
    assert not task.curve.stale


def test_a_curve_is_not_drawn_on_the_paths_of_another_pair(project):
    explorer = Explorer(project)
    page, task = ConnectivityPage(explorer.state), computed(explorer, checkpoints=["one", "two"])
    task.updates = 100
    run(explorer, task.curve)
    number = task.curve.shown
    assert "Curve" in [item.label.value.partition(":")[0] for item in page.plot.path.legend.items]
    task.checkpoints = ["one", "three"]
    run(explorer, task)
    explorer.state.show = number
    assert task.curve.shown == number
    assert "Curve" not in [item.label.value.partition(":")[0] for item in page.plot.path.legend.items]
    assert "Compute the paths between its ends" in page.parts["curve"].said.object


def test_what_is_missing_is_said(project):
    explorer = Explorer(project)
    page, task = ConnectivityPage(explorer.state), computed(explorer, checkpoints=list(NAMES[:2]), matching="none")
    assert "choose how" in page.parts["plane"].run_panel.progress.object
    assert page.parts["plane"].run_panel.compute.disabled
    assert not page.parts["curve"].run_panel.compute.disabled
    task.third = "curve"
    assert "Train a curve" in page.parts["plane"].run_panel.progress.object
    with pytest.raises(LandscapeError, match="train one first"):
        next(PlaneRequest("small", "one", "two", third="curve").steps(project))
    with pytest.raises(LandscapeError, match="choose how"):
        next(PlaneRequest("small", "one", "two", checkpoints=NAMES, matching="none").steps(project))


def test_a_cancelled_curve_keeps_what_it_was(project):
    explorer = Explorer(project)
    page, task = ConnectivityPage(explorer.state), computed(explorer, checkpoints=list(NAMES[:2]), matching="none")
    task.updates = 10_000
    task.curve.compute = True
    wait(explorer, task.curve, lambda task: task.result is not None)
    task.curve.cancel = True
    wait(explorer, task.curve)
    assert task.curve.job.state is JobState.CANCELLED
    assert "the curve is where it was then" in words.pair_message(task.curve).body
    assert "partial" in words.pair_entry_line(task.curve.entry)
    assert task.curve.trained is None
    assert page.parts["curve"].said.visible


def test_results_about_a_pair_are_saved_exported_and_opened_again(session, plane, curve, layers, tmp_path):
    explorer, _, _ = session
    numbers = {"plane": ("loss", plane), "curve": ("loss", curve), "layers": ("loss_barrier", layers)}
    for kind, (name, ds) in numbers.items():
        entry = explorer.state.tasks[kind].entry
        exports = Exports(explorer.state, entry)
        files = {end: exports.file(end).read() for end in LABELS}
        assert files["pdf"].startswith(b"%PDF"), kind
        assert files["html"].startswith(b"<!DOCTYPE html>")
        rows = list(csv.DictReader(io.StringIO(files["csv"].decode())))
        np.testing.assert_allclose([float(row[name]) for row in rows], ds[name].values.ravel(), rtol=1e-6)
        assert f'"{kind}.nc"' in files["py"].decode()
        file = save(ds, tmp_path / f"{kind}.nc")
        assert kind_of(load(file)) == kind
        there = Explorer(explorer.state.project)
        page = ConnectivityPage(there.state)
        opened(there, file)
        own = there.state.tasks[kind]
        assert there.state.page == "connectivity"
        assert own.result.identical(load(file)), kind
        assert own.entry.request == entry.request
        assert page.pair_parts.visible
        assert page.veil.visible == (kind == "layers")
        if kind == "curve":
            np.testing.assert_array_equal(page.plot.path.lines.data["ys"][0], ds["loss"])
            assert "Curve" in page.walk.readout.text
        elif kind == "plane":
            assert page.plane.tracks.data["colour"] == [picture.COLOURS["before"], picture.COLOURS["after"]]
    assert explorer.state.tasks["plane"].entry.request == PlaneRequest("small", "two", "three", "none", NAMES)


def test_a_matching_that_moves_nothing_spans_no_plane():
    one = trained(1)
    near = trained(1)
    near[0].weight.data += 1e-3
    x, y = classification()
    project = Project(Problem(trained(1), "cross_entropy", (x, y), name="small"), {"one": one, "near": near})
    with pytest.raises(LandscapeError, match="Matching moves no unit of 'near'"):
        next(PlaneRequest("small", "one", "near", checkpoints=("one", "near")).steps(project))


def test_a_matching_is_made_again_where_a_session_has_none(session, plane, project):
    _, _, task = session
    *_, again = task.plane.entry.request.steps(project, None)
    for axis in "ab":
        np.testing.assert_allclose(again[f"marker_{axis}"], plane[f"marker_{axis}"], atol=1e-6)


def test_repaired_paths_and_averages_are_those_of_repair(project):
    problem, kept = project.problems["small"], Matched()
    *_, ds = ConnectivityRequest("small", NAMES, "weights", repair=True).steps(project, kept)
    assert picture.stages(ds) == ["before", "after", "repaired"]
    own, symmetries = [project.checkpoint("small", name) for name in NAMES], find_symmetries(problem)
    permutations = match_many(symmetries, own, method="weights", problem=problem)
    aligned = [p.apply(c) for p, c in zip(permutations, own, strict=True)]
    *_, path = repaired_barrier(symmetries, problem, aligned[1], aligned[2])
    found = picture.path(ds, 2, "loss", 1, 2)
    np.testing.assert_allclose(found.values, path["loss"], rtol=1e-4)
    assert found.height == pytest.approx(float(path["loss_barrier"]), rel=1e-4, abs=1e-6)
    merged = merge(symmetries, problem, own, method="weights", repair=True).checkpoint
    assert float(ds["merged_loss"]) == pytest.approx(problem.measure(merged)["loss"][0], rel=1e-5)
    assert (kept.merged.weights - merged.weights).norm() < 1e-5 * merged.weights.norm()
    assert "1 layer," in words.repair(ds)[0]
    assert any("activations repaired" in line for line in words.findings(ds, "loss", 1, 2))
    assert len(words.headers(ds)) == len(words.rows(ds, "loss")[0]) == 10


def test_where_repair_has_nothing_to_do_a_sentence_says_so():
    def bare(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = [torch.nn.Linear(6, 12, bias=False), torch.nn.BatchNorm1d(12), torch.nn.ReLU()]
            return torch.nn.Sequential(*layers, torch.nn.Linear(12, 3))

    project = Project(
        Problem(bare(0), "cross_entropy", classification(), name="small"), {"one": bare(1), "two": bare(2)}
    )
    *_, ds = ConnectivityRequest("small", ("one", "two"), repair=True).steps(project)
    assert picture.stages(ds) == ["before", "after"]
    assert "nothing to rescale" in words.repair(ds)[0]
    *_, ds = ConnectivityRequest("small", ("one", "two")).steps(project)
    assert words.repair(ds) == []
