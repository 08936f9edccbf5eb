"""State, scales, views and words as objects, without a browser."""

import json
import logging
import sys
import time
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panel as pn
import panel_material_ui as pmui
import pytest
from bokeh.document import Document
from bokeh.events import RangesUpdate, Tap
from bokeh.server.session import ServerSession
from conftest import PAYLOAD, FakeProject, line_result, plane_result
from panel.io.state import set_curdoc
from tornado.websocket import WebSocketClosedError

from analysis import LandscapeError, Line, Problem, Project, over_seeds, save
from landscape_app import picture, plotting, relief, seeds, words
from landscape_app.app_hooks import worth_saying
from landscape_app.controls import DIRECTIONS, PictureControls, SliceControls, field
from landscape_app.curve import Curve
from landscape_app.entries import Entry
from landscape_app.explorer import Explorer
from landscape_app.heatmap import Heatmap, label_place
from landscape_app.jobs import JobState, Runner, Snapshot
from landscape_app.pages import PAGES
from landscape_app.pages.surface import SurfacePage
from landscape_app.request import SLICES, Request
from landscape_app.runpanel import RunPanel
from landscape_app.scales import Scale, linear_ticks, log_ticks, tick_label
from landscape_app.session import Session
from landscape_app.state import State
from landscape_app.text import coordinate, duration, explain, number, percent, text

# ---- scales ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0.021, 9.3, [0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
        (0.1, 1.0, [0.1, 0.2, 0.5, 1.0]),
        (1.1, 1.9, [1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9]),
        (1e-6, 1e4, [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4]),
    ],
)
def test_log_ticks_are_round_numbers_in_the_range(least, most, expected):
    assert log_ticks(least, most) == expected


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.3, 0.31, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_linear_ticks_are_round_numbers_in_the_range(least, most, expected):
    assert linear_ticks(least, most) == expected


def test_a_log_scale_puts_values_at_their_logarithm_and_nowhere_without_one():
    scale = Scale.of(np.array([[0.01, 100.0], [np.nan, -3.0]]), log=True)
    assert (scale.low, scale.high) == (-2.0, 2.0)
    np.testing.assert_array_equal(scale.position([0.01, 0.0, -1.0, np.nan]), [-2.0, np.nan, np.nan, np.nan])
    assert scale.labels[0.0] == "1"


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.full((2, 2), 3.0), np.array([[np.inf, 1.0]])])
@pytest.mark.parametrize("log", [True, False])
def test_a_scale_has_an_extent_whatever_the_values(values, log):
    scale = Scale.of(values, log)
    assert np.isfinite([scale.low, scale.high]).all()
    assert scale.low < scale.high


def test_a_log_scale_of_values_without_a_logarithm_is_linear():
    assert not Scale.of(np.array([-1.0, 0.0]), log=True).log


def test_tick_labels():
    assert [tick_label(v) for v in (0.05, 200, 1e5, 2e-6, 0, -0.5)] == [
        "0.05",
        "200",
        "10⁵",
        "2·10⁻⁶",
        "0",
        "−0.5",
    ]


# ---- text ------------------------------------------------------------------------------------------------


def test_numbers_for_people():
    assert [number(v) for v in (0.02134, -1.5, np.nan, np.inf)] == ["0.0213", "−1.5", "NaN", "∞"]
    assert [duration(s) for s in (0.42, 38.2, 200, 7500)] == ["0.4 s", "38 s", "3 min 20 s", "2 h 05 min"]
    assert percent(0.00842) == "0.84 %"
    assert [percent(share) for share in (0.994, 0.9999, 12.3, float("inf"))] == ["99 %", "100 %", "1230 %", "∞ %"]
    assert [coordinate(v) for v in (-1.3e-10, 1.00000001)] == ["0", "1"]


def test_errors_in_words():
    assert explain(LandscapeError("Do this.")) == ("Do this.", "")
    reason, details = explain(KeyError("weight"))
    assert reason == "KeyError: 'weight'"
    assert "KeyError" in details
    assert "memory" in explain(MemoryError())[0]


# ---- pictures --------------------------------------------------------------------------------------------


def test_every_metric_and_class_can_be_shown():
    assert picture.metrics(plane_result()) == {
        "Loss (cross entropy)": "loss",
        "Accuracy": "accuracy",
        "Loss of each class, class 0": "per_class[0]",
        "Loss of each class, class 1": "per_class[1]",
    }
    ds = plane_result()
    one = picture.metric(ds, "per_class[1]")
    np.testing.assert_array_equal(one.values, 2 * ds["loss"].values)
    np.testing.assert_array_equal(one.samples, 2 * ds["sample_loss"].values)
    assert np.isnan(picture.at_checkpoints(ds, picture.metric(ds, "accuracy"))).all()


def test_how_sure_a_metric_is_can_be_shown_in_its_place():
    ds = plane_result()
    named = {"Standard error of loss (cross entropy)": "loss_se", "Standard error of accuracy": "accuracy_se"}
    assert picture.layers(ds) == named
    assert list(picture.shows(ds)) == [*picture.metrics(ds), *named]
    about = {"long_name": "estimated interpolation error of loss", "units": "of the range"}
    ds["loss_error"] = ds["loss"].dims, np.full(ds["loss"].shape, 0.25), about
    sure, error = (picture.metric(ds, f"loss_{of}") for of in ("se", "error"))
    np.testing.assert_array_equal(sure.values, ds["loss_se"].values)
    assert (error.values == 0.25).all()
    assert (error.samples == 0).all()
    assert error.title == "Interpolation error of loss (cross entropy) [of the range]"
    assert np.isnan(sure.se).all()
    assert picture.quantity(ds, sure) != picture.quantity(ds, picture.metric(ds, "loss"))
    ds["accuracy_se"][:] = np.nan  # of one sample, or a norm of gradients
    assert "accuracy_se" not in picture.shows(ds).values()
    for name in ("accuracy_error", "accuracy_error_se"):  # a metric of the user's own
        ds[name] = ds["loss"].dims, ds["loss"].values, {"long_name": "own"}
    assert [label for label, key in picture.shows(ds).items() if key == "accuracy_error"] == ["Own"]


def test_a_bar_says_how_long_a_piece_of_the_plane_is_in_weight_space():
    ds, plot = plane_result(), Heatmap()
    facts = json.loads(ds.attrs["provenance"])
    plot.draw(ds, picture.metric(ds, "loss"), Scale.of(ds["loss"].values, False), "viridis")
    assert plot.length.data["text"] == []
    for lengths, units, said in (
        ((40.0, 40.0), "filter norms", ["distance of weights 20"]),
        ((40.0, 41.0), "filter norms", []),
        ((1.0, 1.0), "weight space", []),
    ):
        axes = [{"length": length, "units": units} for length in lengths]
        ds.attrs["provenance"] = json.dumps(facts | {"axes": axes})
        plot.draw(ds, picture.metric(ds, "loss"), Scale.of(ds["loss"].values, False), "viridis")
        assert plot.length.data["text"] == said
        wide = [to - start for start, to in zip(plot.length.data["from"], plot.length.data["to"], strict=True)]
        assert wide == pytest.approx([20 / 40] * len(said))


def drawn(ds, key="loss", log=False):
    heatmap = Heatmap()
    heatmap.draw(ds, picture.metric(ds, key), scale_of(ds, key, log), "viridis")
    return heatmap


def scale_of(ds, key="loss", log=False):
    return Scale.of(picture.spanned(ds, picture.metric(ds, key)), log)


def test_a_plane_is_drawn_the_right_way_round_with_cells_around_their_points():
    ds = plane_result()  # 10 a + b + 20 on a 5 × 4 grid
    heatmap = drawn(ds)
    image = heatmap.image.data
    raw = image["raw"][0]
    assert raw.shape == (5, 4)
    assert raw[0, 3] - raw[0, 0] == pytest.approx(20)  # a runs along the columns
    assert raw[4, 0] - raw[0, 0] == pytest.approx(2)  # b along the rows, upwards
    width, height = 2 / 3, 2 / 4
    assert image["x"][0] == pytest.approx(-1 - width / 2)
    assert image["dw"][0] == pytest.approx(2 + width)
    assert image["y"][0] == pytest.approx(0 - height / 2)
    assert image["dh"][0] == pytest.approx(2 + height)
    assert (heatmap.figure.x_range.start, heatmap.figure.x_range.end) == (-1, 1)
    assert heatmap.figure.xaxis[0].axis_label == "a: direction a [filter norms]"


def test_a_change_of_scale_mutates_the_one_mapper_and_keeps_raw_values_for_the_hover():
    ds = plane_result()
    heatmap = drawn(ds)
    mapper, ticker = heatmap.mapper, heatmap.bar.ticker
    assert (mapper.low, mapper.high) == pytest.approx((10, 32))
    heatmap.draw(ds, picture.metric(ds, "loss"), scale_of(ds, log=True), "cividis")
    assert heatmap.mapper is mapper
    assert heatmap.bar.ticker is ticker
    assert (mapper.low, mapper.high) == pytest.approx((1, np.log10(32)))
    np.testing.assert_allclose(ticker.ticks, np.log10([10, 20, 30]))
    assert list(heatmap.bar.major_label_overrides.values()) == ["10", "20", "30"]
    np.testing.assert_allclose(heatmap.image.data["image"][0], np.log10(ds["loss"].values), rtol=1e-6)
    np.testing.assert_allclose(heatmap.image.data["raw"][0], ds["loss"].values, rtol=1e-6)
    assert heatmap.bar_title.text == "Loss (cross entropy) [nats]"


def test_unknown_cells_stay_empty_and_contours_wait_for_the_whole_picture():
    values = plane_result()["loss"].values.copy()
    values[2:] = np.nan
    heatmap = drawn(plane_result(values, status="running"))
    assert np.isnan(heatmap.image.data["image"][0][2:]).all()
    assert heatmap.contours.data["xs"] == []
    assert heatmap.image.data["computed"][0][:2].all()
    assert not heatmap.image.data["computed"][0][2:].any()
    assert drawn(plane_result()).contours.data["xs"]


def test_contours_lie_at_the_ticks_of_the_colour_bar():
    ds = plane_result(shape=(21, 21))
    heatmap = drawn(ds)
    for xs, ys in zip(heatmap.contours.data["xs"], heatmap.contours.data["ys"], strict=True):
        level = 10 * xs + ys + 20
        assert np.ptp(level) < 1e-9
        assert np.min(np.abs(np.array(heatmap.bar.ticker.ticks) - level[0])) < 1e-9
    for x, y, label in zip(*(heatmap.contour_labels.data[c] for c in ("x", "y", "text")), strict=True):
        assert float(label) == pytest.approx(10 * x + y + 20)


def test_a_contour_label_lies_along_its_line_and_reads_from_the_left():
    line = np.stack([np.linspace(1, 0, 50), np.linspace(0, 1, 50)], -1)
    x, y, angle = label_place([line], (0, 1), (0, 1))
    assert x + y == pytest.approx(1)
    assert angle == pytest.approx(-np.pi / 4)
    assert label_place([line[:3]], (0, 1), (0, 1)) is None


def test_a_loss_that_is_not_finite_is_marked_where_it_was_evaluated():
    values = plane_result()["loss"].values.copy()
    values[0, 3] = np.inf
    heatmap = drawn(plane_result(values))
    assert (list(heatmap.lost.data["x"]), list(heatmap.lost.data["y"])) == ([1.0], [0.0])
    assert heatmap.lost.data["text"] == ["Loss (cross entropy) = inf"]
    assert len(heatmap.samples.data["x"]) == values.size - 1
    assert heatmap.mapper.high == pytest.approx(np.max(values[np.isfinite(values)]))


def test_checkpoints_say_their_own_loss_and_how_far_off_they_are():
    markers = drawn(plane_result()).markers.data
    assert markers["name"] == ["one", "two"]
    assert markers["true"] == ["Loss 0.25", "Loss 1.25"]
    assert markers["residual"] == ["in the slice", "1 off the slice"]
    assert markers["align"] == ["left", "right"]  # the label of one near the edge turns inwards


def run_result(count):
    names = [f"step{i}" for i in range(count)]
    ds = plane_result(names=names)
    facts = json.loads(ds.attrs["provenance"])
    facts |= {"kind": "trajectory", "explained_variance": [0.7, 0.226, 0.074]}
    return ds.assign_attrs(provenance=json.dumps(facts))


def test_a_run_is_joined_in_order_and_only_its_ends_are_labelled():
    ds = run_result(9)
    heatmap = drawn(ds)
    np.testing.assert_array_equal(heatmap.run.data["x"], ds["marker_a"])
    np.testing.assert_array_equal(heatmap.run.data["y"], ds["marker_b"])
    markers = heatmap.markers.data
    assert markers["name"] == [f"step{i}" for i in range(9)]  # for the hover
    assert markers["label"] == ["step0", *[""] * 7, "step8"]
    assert list(markers["shade"]) == [0.72, *[0] * 7, 0.72]
    heatmap.draw(plane_result(), picture.metric(ds, "loss"), scale_of(ds), "viridis")
    assert heatmap.run.data["x"] == []
    assert heatmap.markers.data["label"] == ["one", "two"]


def test_a_long_run_is_listed_by_its_ends_and_says_what_its_plane_holds():
    state = State(FakeProject())
    page = SurfacePage(state)
    state.result = run_result(9)
    listed = page.findings.checkpoints.object
    assert [f"step{i}" in listed for i in range(9)] == [True] * 3 + [False] * 3 + [True] * 3
    assert "and 3 more" in listed
    said = "The two axes hold 93 % of the variance; checkpoints lie up to 8 off the plane."
    assert said in page.findings.caption.object
    state.result = plane_result()
    assert "variance" not in page.findings.caption.object
    assert "more" not in page.findings.checkpoints.object


@pytest.mark.parametrize(("equal", "ratio"), [(1, 1.0), (0, 1.0)])
def test_cells_keep_their_aspect(equal, ratio):
    assert drawn(plane_result(equal_aspect=equal)).figure.tags == [ratio]
    wide = plane_result(equal_aspect=equal).assign_coords(a=np.linspace(-2, 2, 4))
    assert drawn(wide).figure.tags == [0.5 if equal else 1.0]


def test_a_line_has_a_band_of_one_standard_error_and_its_evaluated_points():
    ds = line_result()
    curve = Curve()
    curve.draw(ds, picture.metric(ds, "loss"), scale_of(ds, log=False))
    data = curve.line.data
    np.testing.assert_allclose(data["high"] - data["y"], 0.1)
    np.testing.assert_allclose(data["y"] - data["low"], 0.1)
    np.testing.assert_allclose(curve.samples.data["y"], 1 + ds["t"].values ** 2)
    assert list(curve.markers.data["y"]) == [0.25, 1.25]
    curve.draw(ds, picture.metric(ds, "loss"), scale_of(ds, log=True))
    np.testing.assert_allclose(curve.line.data["y"], np.log10(1 + ds["t"].values ** 2))
    np.testing.assert_allclose(curve.line.data["raw"], 1 + ds["t"].values ** 2)


def test_the_band_reaches_the_bottom_where_a_log_scale_has_no_place_for_its_lower_edge():
    ds = line_result(np.array([0.05, 0.5, 1.0]), points=3)
    curve = Curve()
    curve.draw(ds, picture.metric(ds, "loss"), scale_of(ds, log=True))
    assert curve.line.data["low"][0] < curve.figure.y_range.start
    assert curve.line.data["low"][1] == pytest.approx(np.log10(0.4))


# ---- state -----------------------------------------------------------------------------------------------


def test_a_request_holds_only_what_matters_for_its_slice():
    state = State(FakeProject())
    assert state.request() == Request("digits", "random-plane", ("three",), batchnorm="none")
    state.param.update(slice="plane", seed=3)
    assert state.request().checkpoints == ("two", "three")
    assert state.request().seed == 3
    state.third = "one"
    assert state.request().checkpoints == ("two", "three", "one")
    assert state.request().seed == 0  # no random direction is left
    state.param.update(slice="gradient", seed=3)
    assert state.request() == Request("digits", "gradient", ("three",), batchnorm="none")
    state.slice = "trajectory"
    assert state.request().checkpoints == ("one", "two", "three")
    assert words.promise(state) == "the loss of digits on a trajectory plane through its 3 checkpoints"
    state.param.update(slice="line", fit_extent=False, extent_a=(-0.5, 1.5))
    assert state.request().extent == ((-0.5, 1.5),)


def test_the_last_checkpoints_are_meant_until_others_are_chosen():
    state = State(FakeProject())
    for kind, expected in (
        ("random-plane", ("three",)),
        ("line", ("two", "three")),
        ("plane", ("two", "three")),
        ("trajectory", ("one", "two", "three")),
        ("gradient", ("three",)),
    ):
        state.slice = kind
        assert state.request().checkpoints == expected == SLICES[kind].usual(("one", "two", "three"))
    state.first = "one"
    for kind in ("trajectory", "line"):
        state.slice = kind
        assert state.first == "one"
    assert SLICES["plane"].usual(("only",)) == ("only",)


def test_a_result_is_stale_while_the_choices_differ_from_those_it_was_computed_for():
    state = State(FakeProject())
    state.param.update(result=plane_result(), computed=state.request())
    assert not state.stale
    state.seed = 1
    assert state.stale
    state.seed = 0
    assert not state.stale
    state.metric = "accuracy"  # appearance changes nothing
    assert not state.stale


def test_another_problem_keeps_the_choices_that_it_has_too_although_widgets_listen():
    state = State(FakeProject())
    controls = SliceControls(state)
    state.param.update(slice="plane", first="one")
    state.problem = "letters"
    assert (state.first, state.second, state.third) == ("one", "three", "")
    assert state.slice == "plane"
    assert controls.fields["second"].visible


def test_a_choice_moves_once_and_what_a_late_browser_says_changes_nothing():
    project = FakeProject()
    state = State(project)
    choice = SliceControls(state).fields["first"][0]
    state.first = "two"
    heard = []
    choice.param.watch(lambda event: heard.append((event.new, event.new in choice.values)), "value")
    project._checkpoints = ("four", "five")
    state.offer()
    assert list(dict.fromkeys(heard)) == [("two", True), ("five", True)]  # not "four", as a widget would have chosen
    for late in ("two", "one", "nothing"):
        choice._process_events({"value": late})
    assert state.first == choice.value == "five"
    choice._process_events({"value": "four"})
    assert state.first == "four"


def test_a_choice_whose_label_changes_with_it_is_told_of_one_label():
    """A browser that is told of two in a row may say the first one again, which is on offer."""
    state = State(FakeProject())
    told = []
    shown = field(state, "other_metric", widget_type=pmui.Select).get_root().children[0].data
    shown.on_change("value", lambda attr, old, new: told.append(new))
    state.put_on_offer({"other_metric": {"Loss [nats]": "loss", "Accuracy": "accuracy"}}, other_metric="accuracy")
    assert told == ["Accuracy"]
    assert (state.other_metric, shown.options) == ("accuracy", ["Loss [nats]", "Accuracy"])
    state.put_on_offer({"other_metric": {"Loss [nats]": "loss", "Share right": "accuracy"}}, other_metric="accuracy")
    assert told == ["Accuracy", "Share right"]
    assert list(state.param.other_metric.names) == ["Loss [nats]", "Share right"]


def test_a_trajectory_needs_three_checkpoints():
    assert "trajectory" in State(FakeProject()).param.slice.objects
    assert "trajectory" not in State(FakeProject(checkpoints=("one", "two"))).param.slice.objects
    request = Request("digits", "trajectory", ("one", "two"))
    with pytest.raises(LandscapeError, match=r"3 or more checkpoints; 2 were chosen\."):
        next(request.steps(FakeProject()))


def test_slices_that_need_more_checkpoints_than_there_are_are_not_offered():
    state = State(FakeProject(checkpoints=("only",)))
    assert list(state.param.slice.objects) == ["random-plane", "random-line", "gradient"]


def test_a_metric_that_the_next_result_lacks_gives_way_to_the_loss():
    state = State(FakeProject())
    state.result = plane_result()
    state.metric = "per_class[1]"
    state.result = plane_result().drop_vars(["per_class", "per_class_se"])
    assert state.metric == "loss"


def test_each_metric_keeps_its_own_scale_at_first_the_one_that_suits_it():
    state = State(FakeProject())
    state.result = plane_result(np.geomspace(0.01, 10, 20).reshape(5, 4))
    assert state.log_scale
    state.metric = "accuracy"
    assert not state.log_scale
    state.metric = "per_class[0]"
    assert state.log_scale
    state.log_scale = False
    state.metric = "loss"
    assert state.log_scale
    state.metric = "per_class[0]"
    assert not state.log_scale


def test_an_extent_that_is_changed_by_hand_starts_from_the_one_shown():
    state = State(FakeProject())
    state.result = plane_result()
    state.fit_extent = False
    assert (state.extent_a, state.extent_b) == ((-1.0, 1.0), (0.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "third", "visible", "labels"),
    [
        ("random-plane", "", {"first", "seed"}, ["Checkpoint"]),
        ("line", "", {"first", "second"}, ["From", "To"]),
        ("plane", "", {"first", "second", "third", "seed"}, ["First", "Second", "Third"]),
        ("plane", "three", {"first", "second", "third"}, ["First", "Second", "Third"]),
        ("gradient", "", {"first"}, ["Checkpoint"]),
        ("trajectory", "", set(), []),
    ],
)
def test_only_the_choices_that_matter_are_shown(kind, third, visible, labels):
    state = State(FakeProject())
    controls = SliceControls(state)
    state.param.update(slice=kind, third=third)
    names = ("first", "second", "third", "seed")
    assert {n for n in names if controls.fields[n].visible} == visible
    assert [state.param[n].label for n in names[:3] if controls.fields[n].visible] == labels
    assert not controls.fields["batchnorm"].visible


def test_batchnorm_is_asked_for_only_where_there_is_such_a_layer():
    state = State(FakeProject(batchnorm=("recalibrated", "frozen", "batch")))
    assert SliceControls(state).fields["batchnorm"].visible
    assert state.request().batchnorm == "recalibrated"


# ---- words -----------------------------------------------------------------------------------------------


def said(state):
    message = words.message(state)
    return message.tone, message.title, message.body


def test_every_state_of_a_job_has_words():
    state = State(FakeProject())
    assert said(state) == (
        "calm",
        "Ready",
        "At most 10,201 points, fewer where the surface is smooth, each on 360 samples.",
    )
    done, part = plane_result(), plane_result(status="running")
    expected = [
        (Snapshot(JobState.QUEUED), "Waiting", "Queued behind another computation"),
        (Snapshot(JobState.RUNNING), "Starting", "Loading the checkpoints"),
        (
            Snapshot(JobState.RUNNING, part, eta=12.0),
            "Refining",
            "20 of 20 evaluations · about 12 s left",
        ),
        (Snapshot(JobState.CANCELLING, part), "Stopping", "finishes first"),
        (Snapshot(JobState.CANCELLED, part, elapsed=3.0), "Cancelled", "20 evaluations gave in 3.0 s"),
        (Snapshot(JobState.CANCELLED), "Cancelled", "Nothing had been computed"),
        (
            Snapshot(JobState.DONE, done, elapsed=3.0),
            "Done",
            "20 evaluations in 3.0 s; interpolation error 0.4 %",
        ),
        (Snapshot(JobState.FAILED, reason="It broke."), "This did not work", "It broke."),
    ]
    for job, title, body in expected:
        state.job = job
        assert said(state)[1] == title
        assert body in said(state)[2]


def test_the_summary_says_the_extremes_and_where_they_are():
    ds = plane_result()
    assert words.summary(ds, picture.metric(ds, "loss")) == (
        "Loss (cross entropy) [nats]: least 10 ± 0.1 at a = −1, b = 0; most 32 ± 0.1 at a = 1, b = 2."
    )


def test_until_the_picture_is_whole_the_summary_speaks_of_evaluated_points():
    values = plane_result()["loss"].values.copy()
    values[0, 0] = np.nan  # the least value is not known yet
    ds = plane_result(values, status="running")
    ds["sample_loss"][:] = np.where(np.arange(20) == 7, 5.0, np.nan)
    said = words.summary(ds, picture.metric(ds, "loss"))
    assert "least 5 at a = 1, b = 0.5;" in said
    assert said.endswith("19 evaluated points not finite.")


def test_the_caption_states_the_conditions_that_a_figure_must_print():
    title, conditions = words.caption(plane_result())
    assert title == "Plane at one"
    assert conditions == "digits · 360 samples · seed 7 · BatchNorm statistics recalibrated at each point"


def test_provenance_is_listed_whole():
    rows = words.provenance_rows(json.loads(plane_result().attrs["provenance"]))
    assert (0, "problem", "digits") in rows
    assert (1, "sha256", "a" * 64) in rows
    assert (0, "checkpoint 2", "") in rows
    assert (1, "name", "two") in rows
    assert (0, "extent", "(−1, 1)") in rows


# ---- views -----------------------------------------------------------------------------------------------


def test_one_button_at_a_time():
    state = State(FakeProject())
    panel = RunPanel(state, words.message)
    assert (panel.compute.visible, panel.cancel.visible) == (True, False)
    asked = []
    state.param.watch(lambda event: asked.append(event.name), ["compute", "cancel", "pause", "resume"])
    panel.compute.clicks += 1
    state.job = Snapshot(JobState.RUNNING)
    assert (panel.compute.visible, panel.cancel.visible) == (False, True)
    panel.cancel.clicks += 1
    panel.pause.clicks += 1
    state.job = Snapshot(JobState.PAUSED, plane_result(status="running"), version=1, progress=0.5)
    assert (panel.pause.label, panel.compute.visible) == ("Resume", False)
    assert "left" not in panel.progress.object
    panel.pause.clicks += 1
    assert asked == ["compute", "cancel", "pause", "resume"]
    assert 'role="progressbar"' in panel.progress.object
    state.job = Snapshot(JobState.RUNNING, plane_result(status="running"), version=1, progress=0.5)
    assert 'aria-valuenow="50"' in panel.progress.object
    state.job = Snapshot(JobState.FAILED, reason="It broke.", details="line 1")
    assert panel.compute.visible
    assert panel.trouble.visible
    assert "It broke." in panel.trouble.object
    assert "<details>" in panel.trouble.object
    state.job = Snapshot(JobState.DONE, plane_result())
    assert not panel.trouble.visible


def test_a_stale_picture_has_a_badge_and_stays():
    state = State(FakeProject())
    page = SurfacePage(state)
    state.param.update(result=plane_result(), computed=state.request(), job=Snapshot(JobState.DONE, plane_result()))
    before = page.pair.plot.heatmap.image.data
    assert "badge" not in page.run_panel.headline.object
    state.seed = 5
    assert "badge" in page.run_panel.headline.object
    assert page.pair.plot.heatmap.image.data is before


def test_the_page_draws_planes_and_lines_in_the_figures_it_made_at_first():
    state = State(FakeProject())
    page = SurfacePage(state)
    assert page.veil.visible
    assert "No surface yet" in page.veil.object
    assert not page.findings.view.visible
    state.result = plane_result()
    assert not page.veil.visible
    assert (page.pair.plot.heat_box.visible, page.pair.plot.curve_box.visible) == (True, False)
    assert page.findings.view.visible
    figure = page.pair.plot.heatmap.figure
    state.result = line_result()
    assert (page.pair.plot.heat_box.visible, page.pair.plot.curve_box.visible) == (False, True)
    assert not page.look_controls.fields["palette"].visible
    state.result = plane_result()
    assert page.pair.plot.heatmap.figure is figure
    state.metric = "per_class[1]"
    assert page.pair.plot.heatmap.bar_title.text == "Loss of each class, class 1 [nats]"
    state.param.update(show_contours=False, show_samples=True)
    assert not page.pair.plot.heatmap.contour_lines.visible
    assert page.pair.plot.heatmap.sample_dots.visible


def test_the_result_can_be_downloaded(tmp_path):
    state = State(FakeProject())
    page = SurfacePage(state)
    state.result = plane_result()
    assert page.findings.download.filename == "plane-at-one.nc"
    file = tmp_path / "x.nc"
    file.write_bytes(page.findings.download.callback().read())
    from analysis import load

    np.testing.assert_array_equal(load(file)["loss"].values, plane_result()["loss"].values)


def on_a_plane(**choices):
    state = State(FakeProject())
    page = SurfacePage(state)
    state.param.update(result=plane_result(), log_scale=False, **choices)
    return state, page


def test_a_point_has_a_cross_hair_its_values_in_words_and_two_slices_of_the_picture():
    state, page = on_a_plane()
    assert not page.slice_box.visible
    assert "Tap the picture" in page.point_text.object
    state.choose(0.4, 1.2)  # the grid has a = −1, −1/3, 1/3, 1 and b = 0, 0.5 ... 2
    assert state.point == (0.333, 1.0)
    assert (page.pair.plot.heatmap.cross.data, page.slice_box.visible) == ({"x": [0.333], "y": [1.0]}, True)
    said = page.point_text.object.replace("\xa0", " ")
    assert "Loss (cross entropy) 24.3 ± 0.1 nats; Accuracy 0.5 ± 0 — evaluated, at a = 0.333, b = 1." in said
    ds, slices = state.result, page.slices.slices
    row, column = ds["loss"].sel(b=1.0), ds["loss"].sel(a=1 / 3, method="nearest")
    for name, cut, place in (("a", row, 0.333), ("b", column, 1.0)):
        line = slices[name].line.data
        np.testing.assert_array_equal(line["t"], ds[name])
        np.testing.assert_array_equal(line["y"], cut)
        np.testing.assert_allclose(line["high"] - line["low"], 0.2)
        assert slices[name].here.data == {"t": [place], "y": [pytest.approx(24 + 1 / 3)]}
    assert slices["a"].figure.title.text == "Along a, at b = 1"
    assert slices["b"].figure.title.text == "Along b, at a = 0.333"


def test_slices_zoom_with_the_heat_map_and_follow_its_metric_and_scale():
    state, page = on_a_plane()
    a, b = (page.slices.slices[name] for name in "ab")
    assert a.figure.x_range is page.pair.plot.heatmap.figure.x_range
    assert b.figure.x_range is page.pair.plot.heatmap.figure.y_range
    assert a.figure.y_range is b.figure.y_range
    state.choose(0, 0)
    sources = a.line, b.here
    state.log_scale = True
    np.testing.assert_allclose(a.line.data["y"], np.log10(a.line.data["raw"]))
    state.metric = "per_class[1]"
    state.log_scale = False
    np.testing.assert_array_equal(a.line.data["raw"], 2 * state.result["loss"][0])
    assert "Loss of each class, class 1" in page.point_text.object
    assert (a.line, b.here) == sources


def test_a_tap_counts_inside_the_frame_only():
    state, page = on_a_plane()
    (handle,) = page.pair.plot.heatmap.figure._event_callbacks["tap"]
    for x, y, expected in ((-3.0, 1.0, None), (None, None, None), (-0.9, 1.9, (-1.0, 2.0)), (0.0, 2.3, (-1.0, 2.0))):
        handle(Tap(page.pair.plot.heatmap.figure, x=x, y=y))
        assert state.point == expected


def test_a_result_keeps_the_point_if_it_reaches_there():
    state, page = on_a_plane()
    state.choose(1, 2)
    state.result = plane_result(shape=(5, 6))
    assert state.point == (1.0, 2.0)
    state.result = plane_result().assign_coords(a=np.linspace(-0.5, 0.5, 4))
    assert (state.point, state.at_a, page.pair.plot.heatmap.cross.data["x"]) == (None, None, [])
    assert not page.slice_box.visible
    state.choose(0, 0)
    state.result = line_result()
    assert state.point is None
    assert not page.point_text.visible
    state.choose(0, 0)
    assert state.point is None


def test_coordinates_that_are_typed_choose_the_same_point():
    state, page = on_a_plane()
    a, b = (page.point_controls.fields[name][0] for name in ("at_a", "at_b"))
    assert (a.value, b.value, b.step) == (None, None, 0.5)
    a.value = 0.3
    assert (state.point, a.value, b.value) == ((0.333, 1.0), 0.333, 1.0)
    b.value = 7  # beyond the picture
    assert (state.point, b.value) == ((0.333, 2.0), 2.0)
    b.value = 2.1
    assert (state.point, b.value) == ((0.333, 2.0), 2.0)
    state.choose(-1, 0)
    assert (a.value, b.value) == (-1, 0)
    a.value = None
    assert (state.point, a.value, b.value) == (None, None, None)


def zoom(figure, x, y):
    (handle,) = figure._event_callbacks["rangesupdate"]
    handle(RangesUpdate(figure, x0=x[0], x1=x[1], y0=y[0], y1=y[1]))


def test_the_part_that_is_zoomed_to_is_computed_in_the_resolution_of_the_whole(project):
    explorer = Explorer(project)
    state = explorer.state
    page = SurfacePage(state)
    plot = page.pair.plot
    zoom(plot.heatmap.figure, (0, 1), (0, 1))  # there is no picture yet
    assert state.view is None
    state.param.update(resolution=51, seed=3)
    state.compute = True
    wait(explorer.session)
    whole = state.result
    zoom(plot.heatmap.figure, (-1.001, 1.001), (-1, 1))
    assert (state.view, page.part.visible) == (None, False)
    zoom(plot.heatmap.figure, (0.123456, 0.323456), (-1, 1))
    assert (state.view, page.part.visible) == (((0.1235, 0.3235), (-1, 1)), True)
    state.seed = 4  # Compute would draw another plane
    assert page.part.disabled
    state.seed = 3
    assert not page.part.disabled
    page.part.clicks += 1
    wait(explorer.session)
    part = state.result
    assert part is not whole
    assert (picture.extent(part, "a"), picture.extent(part, "b")) == ((0.1235, 0.3235), (-1, 1))
    assert part.sizes["a"] == 51
    np.testing.assert_allclose(part["loss"].sel(a=0.1235), whole["loss"].interp(a=0.1235), rtol=0.02)
    assert (state.view, page.part.visible) == (None, False)
    zoom(plot.heatmap.figure, (-1, 1), (-1, 1))
    assert state.view == ((-1, 1), (-1, 1))
    state.slice = "line"
    state.compute = True
    wait(explorer.session)
    assert state.view is None
    zoom(plot.curve.figure, (0.2, 0.4), (0, 9))
    assert state.view == ((0.2, 0.4),)


def test_what_is_said_at_a_point_that_is_not_computed_yet():
    values = plane_result()["loss"].values.copy()
    values[0, 0] = np.nan
    ds = plane_result(values, status="running")
    ds["accuracy"][0, 0] = np.nan
    said = words.at_point(ds, picture.metric(ds, "loss"), (-1, 0)).replace("\xa0", " ")
    assert said == "Loss (cross entropy) not known yet; Accuracy not known yet — at a = −1, b = 0."


def everything_shown(view):
    return "".join(str(pane.object) for pane in view.select(pn.pane.HTML))


def test_names_and_messages_that_others_wrote_are_text_never_html():
    assert text(PAYLOAD) == "&lt;img src=x onerror=window.pwned=1&gt;"
    state = State(FakeProject(problems=(PAYLOAD,), checkpoints=("two", PAYLOAD)))
    page = SurfacePage(state)
    shown = [everything_shown(page.view)]  # the promise names the problem and the checkpoint
    ds = plane_result(names=(PAYLOAD, "two"), provenance=plane_result(names=(PAYLOAD, "two")).attrs["provenance"])
    ds["loss"].attrs["long_name"] = ds["a"].attrs["long_name"] = PAYLOAD
    state.param.update(result=ds, computed=state.request())
    state.choose(0, 0)
    assert text(PAYLOAD) in page.point_text.object
    state.job = Snapshot(JobState.FAILED, ds, reason=PAYLOAD, details=PAYLOAD)
    shown.append(everything_shown(page.view))
    for html in shown:
        assert PAYLOAD not in html
        assert html.count(text(PAYLOAD)) >= 2
    assert shown[1].count(text(PAYLOAD)) >= 6  # title, list, provenance, reason, details ...


# ---- the whole explorer on a small real model ------------------------------------------------------------


@pytest.fixture(scope="module")
def project():
    import torch

    torch.manual_seed(0)
    models = [torch.nn.Linear(3, 2) for _ in range(3)]
    data = (torch.randn(20, 3), torch.randint(0, 2, (20,)))
    checkpoints = {f"m{i}": model for i, model in enumerate(models)}
    return Project(Problem(models[0], "cross_entropy", data, name="small"), checkpoints)


def wait(session):
    until = time.monotonic() + 60
    while not session.state.job.state.final:
        assert time.monotonic() < until
        time.sleep(0.01)
        session.poll()


@pytest.mark.parametrize("kind", [k for k in SLICES if not SLICES[k].along])
def test_each_slice_is_computed_and_drawn(project, kind):
    explorer = Explorer(project)
    state = explorer.state
    state.param.update(slice=kind, resolution=51)
    state.compute = True
    wait(explorer.session)
    assert state.job.state is JobState.DONE, state.job.reason
    assert state.result.attrs["status"] != "running"
    assert state.computed == state.request()
    assert picture.dims(state.result) == SLICES[kind].dims
    assert list(state.result["marker_name"].values) == list(state.request().checkpoints)


def test_the_explorer_takes_a_problem_and_checkpoints(project):
    problem = project.problems["small"]
    explorer = Explorer(problem, {"start": problem.model, "end": problem.model})
    assert list(explorer.state.param.first.objects) == ["start", "end"]
    assert isinstance(explorer.__panel__(), pn.viewable.Viewable)


def test_the_same_checkpoint_twice_is_an_error_in_words(project):
    explorer = Explorer(project)
    explorer.state.slice = "line"
    explorer.state.second = explorer.state.first
    explorer.state.compute = True
    wait(explorer.session)
    assert explorer.state.job.state is JobState.FAILED
    assert "different checkpoints" in explorer.state.job.reason


def test_a_pause_keeps_what_there_is_and_the_whole_is_as_without_one(project, monkeypatch):
    state, runner = State(project), Runner(workers=1)
    session = Session(state, runner)
    state.param.update(resolution=51, tolerance=0.0)
    real = Request.steps
    slow = lambda *args, **kept: (ds for ds in real(*args, **kept) if time.sleep(0.05) is None)  # noqa: E731
    monkeypatch.setattr(Request, "steps", slow)
    state.compute = True
    while state.result is None:
        session.poll()
    state.pause = True
    while state.job.state is JobState.PAUSING:
        session.poll()
    assert state.job.state is JobState.PAUSED
    held = state.result
    time.sleep(0.2)
    session.poll()
    assert state.result is held
    state.resume = True
    wait(session)
    paused = state.result
    state.param.update(compute=True)  # what is answered is computed anew
    wait(session)
    assert state.result is not paused
    np.testing.assert_allclose(state.result.loss.values, paused.loss.values, rtol=1e-6)
    runner.close()


def test_a_second_compute_while_one_runs_is_ignored_and_cancel_stops_it(project):
    state, runner = State(project), Runner(workers=1)
    session = Session(state, runner)
    state.param.update(resolution=201, tolerance=0.0)
    state.compute = True
    first = session.surface.job
    state.compute = True
    assert session.surface.job is first
    state.cancel = True
    wait(session)
    assert state.job.state is JobState.CANCELLED
    runner.close()


@pytest.mark.parametrize("torn_apart", [False, True], ids=["live", "torn apart"])
def test_a_poll_that_meets_a_page_being_taken_apart_is_quiet_and_any_other_fault_is_told(project, torn_apart):
    document, runner = Document(), Runner(workers=1)
    document._session_context = lambda: SimpleNamespace(destroyed=False, document=document)
    server = ServerSession("session", document)
    with set_curdoc(document):
        session = Session(State(project), runner)
    run = session.surface
    run.job = SimpleNamespace()  # has no snapshot: the poll must fail
    if torn_apart:
        server.destroy()
        run.poll()
    else:
        with pytest.raises(AttributeError):
            run.poll()
    runner.close()


def test_every_page_keeps_the_contract():
    for page in PAGES:
        assert isinstance(page.title, str)
        assert isinstance(page.needs, int)
        assert isinstance(page.build(State(FakeProject())), pn.viewable.Viewable)


# ---- results that are kept -------------------------------------------------------------------------------


def computed(project, *choices):
    """An explorer that has computed each of the choices in turn."""
    explorer = Explorer(project)
    for chosen in choices:
        explorer.state.param.update(resolution=51, **chosen)
        explorer.state.compute = True
        wait(explorer.session)
    return explorer.state, explorer.session


def test_what_was_computed_is_taken_from_the_list_and_computed_again_only_if_it_is_shown(project):
    state, session = computed(project, {"seed": 1}, {"seed": 2})
    assert [(e.number, e.request.seed, e.job.state) for e in state.entries] == [(1, 1, "done"), (2, 2, "done")]
    assert state.shown == 2
    state.seed = 1
    assert state.stale
    jobs = session.surface.job
    state.compute = True
    assert session.surface.job is jobs
    assert (state.shown, state.recalled, state.stale, state.answered) == (1, True, False, True)
    assert state.result is state.entries[0].result
    assert words.message(state).title == "Shown again"
    state.compute = True  # what is shown already is meant
    wait(session)
    assert session.surface.job is not jobs
    assert [e.number for e in state.entries] == [1, 2, 3]
    assert (state.shown, state.recalled) == (3, False)


def test_a_result_is_shown_again_with_the_choices_that_made_it(project):
    state, _ = computed(
        project, {"slice": "plane", "first": "m0", "third": "m1"}, {"slice": "line", "first": "m1", "second": "m2"}
    )
    assert picture.dims(state.result) == 1
    state.show = 1
    assert (state.show, state.shown, state.slice, state.first, state.second, state.third) == (
        None, 1, "plane", "m0", "m2", "m1",
    )  # fmt: skip
    assert state.computed == state.request() == state.entries[0].request
    assert picture.dims(state.result) == 2


def test_a_removed_result_gives_way_to_the_latest_and_the_last_one_to_nothing(project):
    state, session = computed(project, {"seed": 1}, {"seed": 2})
    page = SurfacePage(state)
    state.param.update(other=1, compare=True)
    state.remove = 2
    assert ([e.number for e in state.entries], state.shown, state.other) == ([1], 1, 0)
    assert state.seed == 1
    state.remove = 1
    assert (state.entries, state.shown, state.result, state.job) == ((), 0, None, None)
    assert page.veil.visible
    assert not page.findings.view.visible
    state.compute = True
    wait(session)
    assert (state.shown, page.veil.visible) == (3, False)


def test_another_result_can_be_looked_at_while_one_is_computed(project):
    state, session = computed(project, {"seed": 1})
    state.param.update(resolution=201, tolerance=0.0, seed=5)
    state.compute = True
    while len(state.entries) < 2:
        session.poll()
    state.show = 1
    session.poll()
    assert (state.shown, state.busy, state.recalled) == (1, True, True)
    state.remove = 2
    assert len(state.entries) == 2  # not while it is computed
    state.cancel = True
    wait_until_idle(session)
    assert (state.shown, state.job.state) == (1, JobState.DONE)  # what is said is about what is shown
    assert state.entries[1].job.state is JobState.CANCELLED
    assert "partial" in words.entry_line(state.entries[1])
    state.show = 2
    assert words.message(state).title == "Shown again"
    assert (state.seed, state.tolerance, state.answered) == (5, 0.0, False)


def wait_until_idle(session):
    until = time.monotonic() + 60
    while not session.surface.job.snapshot().state.final:
        assert time.monotonic() < until
        time.sleep(0.01)
    session.poll()


@pytest.mark.parametrize("kind", [k for k in SLICES if not SLICES[k].along])
def test_a_file_restores_the_choices_that_made_it(project, kind, tmp_path):
    state, _ = computed(project, {"slice": kind, "seed": 4})
    file = save(state.result, tmp_path / "x.nc")
    other = Explorer(project).state
    other.upload = ("mine.nc", file.read_bytes())
    assert (other.upload, other.refused) == (None, ("", ""))
    (entry,) = other.entries
    assert entry.file == "mine.nc"
    assert (other.slice, other.resolution) == (kind, 51)
    assert other.computed == other.request()
    assert replace(other.request(), extent=None, seed=0, tolerance=0.01) == replace(state.request(), seed=0)
    np.testing.assert_array_equal(other.result["loss"], state.result["loss"])
    assert words.message(other).title == "Opened from a file"
    assert words.message(other).body.startswith("mine.nc: ")


def test_a_file_of_another_project_is_shown_and_changes_no_choice(tmp_path):
    state = State(FakeProject())
    session = Session(state)
    file = save(plane_result(), tmp_path / "x.nc")
    state.upload = ("../../x y.nc", file.read_bytes())
    assert state.refused == ("", "")
    assert (state.result is not None, state.computed, state.stale) == (True, None, True)
    assert state.request() == Request("digits", "random-plane", ("three",), batchnorm="none")
    session.poll()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ds: b"not a netCDF file", "cannot be read as netCDF"),
        (lambda ds: ds.drop_vars("computed"), "something is missing"),
        (lambda ds: ds.drop_vars(["loss", "loss_se"]), "something is missing"),
        (lambda ds: ds.assign_attrs(provenance="{"), "something is missing"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_a_sentence(change, said, tmp_path):
    state = State(FakeProject())
    Session(state)
    page = SurfacePage(state)
    changed = change(plane_result())
    content = changed if isinstance(changed, bytes) else save(changed, tmp_path / "x.nc").read_bytes()
    state.upload = (f"{PAYLOAD}.nc", content)
    assert said in state.refused[0]
    assert (state.entries, state.result) == ((), None)
    assert said in page.results.refused.object
    assert PAYLOAD not in everything_shown(page.view)
    state.upload = ("good.nc", save(plane_result(), tmp_path / "y.nc").read_bytes())
    assert not page.results.refused.visible


def entered(*results):
    """A state that has these results, the last one shown, and its page."""
    state = State(FakeProject())
    page = SurfacePage(state)
    entries = tuple(Entry(i, Snapshot(JobState.DONE, ds, 1, elapsed=2.0)) for i, ds in enumerate(results, 1))
    last = entries[-1]
    state.param.update(entries=entries, result=last.result, shown=last.number, job=last.job, log_scale=False)
    return state, page


def test_each_result_has_a_row_that_says_what_it_is():
    state, page = entered(plane_result(), line_result(status="running"))
    rows = page.results.rows
    line = rows[1].said.object.replace("\xa0", " ")
    assert "1. Plane at one" in line
    assert "digits · converged · 20 evaluations · interpolation error 0.4 % · 2.0 s · " in line
    assert "partial" in rows[2].said.object
    assert (rows[1].open.disabled, rows[2].open.disabled) == (False, True)
    assert [row.view for row in (rows[2], rows[1])] == page.results.list.objects
    rows[1].compare.clicks += 1
    assert (state.compare, state.other) == (True, 1)
    assert "<b>B</b>" in rows[1].said.object
    assert "<b>A</b>" in rows[2].said.object
    rows[2].remove.clicks += 1
    assert state.remove == 2  # for the session


def cancelled(session, monkeypatch):
    """Compute until something is evaluated, wait there, and cancel."""
    real = Request.steps

    def waiting(request, project, **options):
        for ds in real(request, project, **options):
            yield ds
            while ds.sizes["sample"] >= 100:
                time.sleep(0.01)
                yield ds

    with monkeypatch.context() as patch:
        patch.setattr(Request, "steps", waiting)
        session.state.compute = True
        while session.state.result is None or session.state.result.sizes["sample"] < 100:
            session.poll()
            assert not session.state.job.state.final, session.state.job.reason
        session.state.cancel = True
        wait(session)
    assert session.state.job.state is JobState.CANCELLED


@pytest.mark.parametrize("count", [1, 2])
def test_compute_goes_on_from_what_was_cancelled(project, monkeypatch, count):
    from analysis.evaluate import Evaluator

    explorer = Explorer(project)
    state, session = explorer.state, explorer.session
    panel = RunPanel(state, words.message)
    state.param.update(resolution=51, tolerance=0.0, seeds=count)
    cancelled(session, monkeypatch)
    kept = state.result.sizes["sample"]
    assert panel.compute.label == "Continue"
    state.seed = 5
    assert panel.compute.label == "Compute"
    state.seed = 0
    counts, original = [], Evaluator.chunks
    monkeypatch.setattr(
        Evaluator, "chunks", lambda self, points: (counts.append(len(points)), original(self, points))[1]
    )
    sizes = []
    state.param.watch(lambda event: sizes.append(event.new.sizes["sample"]), "result")
    state.compute = True
    wait(session)
    assert state.job.state is JobState.DONE
    assert sum(counts) == count * 51**2 - kept
    assert min(sizes) >= kept
    assert ([e.number for e in state.entries], panel.compute.label) == ([1], "Compute again")


def test_an_unfinished_file_is_gone_on_from_where_it_fits_and_else_computed_anew(project, tmp_path):
    request = Request("small", "random-line", ("m1",), extent=((-1.0, 1.0),), batchnorm="none")
    steps = request.steps(project)
    part = next(ds for ds in steps if ds.sizes["sample"])
    steps.close()
    content = save(part, tmp_path / "x.nc").read_bytes()
    explorer = Explorer(project)
    state = explorer.state
    state.upload = ("mine.nc", content)
    state.compute = True
    wait(explorer.session)
    assert (state.job.state, [e.file for e in state.entries]) == (JobState.DONE, ["mine.nc", ""])
    facts = json.loads(part.attrs["provenance"])
    facts["data"]["sha256"] = "0" * 64
    other = Explorer(project)
    file = save(part.assign_attrs(provenance=json.dumps(facts)), tmp_path / "y.nc")
    other.state.upload = ("other.nc", file.read_bytes())
    other.state.compute = True
    wait(other.session)
    assert other.state.job.state is JobState.DONE


def test_a_picture_that_the_choices_cannot_say_is_marked_until_they_are_computed(project, tmp_path):
    request = Request("small", "random-line", ("m1",), seeds=(7, 3), resolution=9, tolerance=0.0, batchnorm="none")
    *_, ds = request.steps(project)
    explorer = Explorer(project)
    state = explorer.state
    page, controls = SurfacePage(state), SliceControls(state)
    assert not controls.unlike.visible
    state.upload = ("mine.nc", save(ds, tmp_path / "x.nc").read_bytes())
    assert (state.stale, state.foreign) == (True, ("resolution", "seeds"))
    assert "Not of these choices" in page.run_panel.headline.object
    assert "The choices below do not describe this picture." in controls.unlike.object
    assert "They cannot say 9 points along each axis; the seeds 7, 3." in controls.unlike.object
    state.param.update(resolution=51, seeds=1)
    assert controls.unlike.visible
    state.compute = True
    wait(explorer.session)
    assert (state.stale, controls.unlike.visible) == (False, False)
    state.show = 1
    assert controls.unlike.visible
    state.remove = 1
    assert (state.shown, controls.unlike.visible) == (2, False)


def test_a_refused_file_is_no_longer_said_once_something_succeeds(project):
    explorer = Explorer(project)
    state = explorer.state
    state.upload = ("bad.nc", b"nothing")
    assert state.refused[0]
    state.param.update(slice="random-line", resolution=51)
    state.compute = True
    wait(explorer.session)
    assert state.refused == ("", "")


# ---- several seeds ---------------------------------------------------------------------------------------


def over_three(project, kind):
    explorer = Explorer(project)
    state = explorer.state
    state.param.update(slice=kind, resolution=51, seed=4, seeds=3)
    state.compute = True
    wait(explorer.session)
    assert state.job.state is JobState.DONE, state.job.reason
    return state, SurfacePage(state)


def test_a_line_over_seeds_is_their_mean_with_a_band_of_their_spread(project):
    state, page = over_three(project, "random-line")
    ds, curve = state.result, page.pair.plot.curve
    state.log_scale = False
    assert state.request().seeds == (4, 5, 6)
    assert state.computed == state.request()
    np.testing.assert_allclose(curve.line.data["y"], ds["loss_mean"])
    np.testing.assert_allclose(curve.line.data["high"] - curve.line.data["y"], ds["loss_std"])
    np.testing.assert_allclose(curve.each.data["ys"], ds["loss"])
    assert [item.visible for item in curve.items] == [True, True, False]
    assert curve.figure.yaxis[0].axis_label == "Mean loss (cross entropy) [nats]"
    assert "mean ± standard deviation over seeds 4–6" in page.findings.caption.object
    assert page.look_controls.fields["across"].visible
    state.across = 1
    assert "seed 5" in page.findings.caption.object
    np.testing.assert_allclose(curve.line.data["y"], ds["loss"][1])
    assert (curve.each.data["ys"], curve.names.visible) == ([], False)
    state.across = "spread"
    np.testing.assert_allclose(curve.line.data["y"], ds["loss_std"])
    assert curve.figure.yaxis[0].axis_label == "Spread of loss (cross entropy) [nats]"
    np.testing.assert_array_equal(page.findings.download.callback().read()[:4], b"\x89HDF")


def test_a_plane_over_seeds_shows_the_mean_the_spread_beside_it_and_each_seed(project):
    state, page = over_three(project, "random-plane")
    ds, heatmap = state.result, page.pair.plot.heatmap
    np.testing.assert_allclose(heatmap.image.data["raw"][0], ds["loss_mean"], rtol=1e-6)
    state.compare = True
    assert (state.other_across, state.other_metric, state.same_quantity) == ("spread", "loss", False)
    np.testing.assert_allclose(page.pair.beside.heatmap.image.data["raw"][0], ds["loss_std"], rtol=1e-6)
    assert "A shows Mean loss (cross entropy) [nats], B shows Spread of loss" in page.pair.compared.object
    state.other_across = 0
    assert (state.other_metric, state.same_quantity, state.same_axes) == ("loss", True, True)
    state.other_across = "mean"
    assert state.other_metric == "accuracy" or len(picture.metrics(ds)) == 1
    state.choose(0.2, 0.2)
    assert state.place is None  # the points of three planes
    state.across = 2
    assert state.point is None  # its coordinates mean other weights
    state.choose(0.2, 0.2)
    assert (state.place.surface.seed, state.place.surface.seeds) == (6, ())
    state.seeds = 1
    assert state.stale
    state.show = 1
    assert (state.seeds, state.stale) == (3, False)
    state.metric = "loss_se"  # of one seed
    assert state.metric_shown.key == "loss_se"
    state.across = "mean"
    assert state.metric == state.metric_shown.key == "loss"


def test_until_a_seed_is_finished_the_first_one_is_shown():
    import torch

    problem = Problem(torch.nn.Linear(3, 2), "mse", (torch.randn(9, 3), torch.randn(9, 2)))
    make = lambda seed: Line.random(problem.checkpoint(), seed=seed)  # noqa: E731
    results = list(over_seeds(problem, make, [1, 2], resolution=101, dense=True))
    first = seeds.part(results[0], "mean")
    assert "over" not in first["loss"].attrs
    assert json.loads(first.attrs["provenance"])["seed"] == 1
    half = next(ds for ds in results if list(ds["seed_status"].values) == ["dense", "running"])
    part = seeds.part(half, "mean")
    assert part.attrs["over_seeds"] == "seed 1, the first of 2"
    assert np.isnan(part["loss_se"]).all()


def test_directions_are_chosen_like_those_of_the_command_line(project):
    state = State(project)
    controls = SliceControls(state)
    assert [name for name in DIRECTIONS if controls.fields[name].visible] == ["normalisation", "layers", "include"]
    assert state.request().normalisation is None
    state.param.update(normalisation="layer", include=["bias", "weight"])
    request = state.request()
    assert (request.normalisation, request.include, request.layers, request.frozen) == (
        "layer", ("bias", "weight"), None, None,
    )  # fmt: skip
    state.slice = "plane"
    assert state.request().normalisation is None
    assert controls.directions.visible  # for the number of seeds
    assert not controls.fields["normalisation"].visible
    state.slice = "gradient"
    assert not controls.directions.visible


def test_layers_and_frozen_parameters_are_offered_where_there_are_some():
    import torch

    frozen = torch.nn.Linear(3, 3).requires_grad_(False)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), frozen, torch.nn.Linear(3, 2))
    data = (torch.randn(8, 3), torch.randint(0, 2, (8,)))
    state, _ = computed(
        Project(Problem(model, "cross_entropy", data, name="p")),
        {"slice": "random-line", "layers": ["2"], "frozen": True, "seed": 1},
    )
    assert SliceControls(state).fields["layers"].visible
    assert SliceControls(state).fields["frozen"].visible
    facts = json.loads(state.result.attrs["provenance"])
    assert (facts["layers"], facts["frozen"]) == (["2"], True)
    assert state.computed == state.request()


def test_a_file_with_options_of_the_command_line_restores_them(project, tmp_path):
    request = Request(
        "small", "random-line", ("m1",), seeds=(3, 4), resolution=51, tolerance=0.0, normalisation="weight",
        include=("bias", "weight"), layers=("weigh*", "bias"), extent=((-0.5, 0.5),),
    )  # fmt: skip
    *_, ds = request.steps(project)
    state = Explorer(project).state
    state.upload = ("mine.nc", save(ds, tmp_path / "x.nc").read_bytes())
    assert state.refused == ("", "")
    assert (state.normalisation, state.include, state.layers, state.seeds) == (
        "weight", ["bias", "weight"], ["weigh*", "bias"], 2,
    )  # fmt: skip
    assert state.computed == state.request() == replace(request, seed=3, batchnorm="none")


# ---- two pictures ----------------------------------------------------------------------------------------


def test_a_long_axis_title_has_its_units_on_a_line_of_their_own():
    assert plotting.wrapped("a: random direction 1 [filter norms]") == "a: random direction 1 [filter norms]"
    long = "b: random direction ⟂ a [distance resnet16-s1 – resnet16-s2]"
    assert plotting.wrapped(long) == "b: random direction ⟂ a\n[distance resnet16-s1 – resnet16-s2]"


def test_a_choice_says_a_metric_anew_when_its_name_changes():
    state = State(FakeProject())
    shown = PictureControls(state).fields["metric"][0]
    told = []
    shown.param.watch(lambda event: told.append(event.new), "value", onlychanged=False)
    state.param.metric.objects = {"Loss (mean squared error)": "loss"}
    assert told == ["loss"]


def test_two_results_of_one_quantity_share_a_scale_and_a_choice_of_it():
    state, page = entered(plane_result(10 * plane_result()["loss"].values), plane_result())
    assert page.pair.beside is None  # nothing is made before it is needed
    state.param.update(other=1, compare=True)
    a, b = page.pair.plot.heatmap, page.pair.beside.heatmap
    assert state.same_quantity
    for heatmap in (a, b):
        assert (heatmap.mapper.low, heatmap.mapper.high) == pytest.approx((10, 320))
    assert a.bar.ticker.ticks == b.bar.ticker.ticks
    state.log_scale = True
    assert b.mapper.high == a.mapper.high == pytest.approx(np.log10(320))
    assert not page.compare_controls.fields["other_log_scale"].visible
    assert "Both pictures share one scale for the loss." in page.pair.compared.object
    state.compare = False
    assert a.mapper.high == pytest.approx(np.log10(32))
    assert not page.pair.pictures[1].visible


def test_two_quantities_have_a_scale_each_and_the_page_says_so():
    state, page = entered(plane_result())
    state.compare = True
    assert (state.other_metric, state.same_quantity) == ("accuracy", False)
    assert page.pair.beside.heatmap.mapper.high != page.pair.plot.heatmap.mapper.high
    assert page.pair.beside.heatmap.bar_title.text == "Accuracy [fraction]"
    assert "A shows Loss (cross entropy) [nats], B shows Accuracy [fraction]" in page.pair.compared.object
    assert page.compare_controls.fields["other_log_scale"].visible
    assert not state.other_log_scale
    state.other_metric = "per_class[0]"
    state.other_log_scale = True
    assert page.pair.beside.heatmap.mapper.high == pytest.approx(np.log10(32))
    assert page.pair.plot.heatmap.mapper.high == pytest.approx(32)


def test_the_loss_over_another_data_set_is_the_same_quantity():
    ds = plane_result()
    ds["loss_train"], ds["loss_train_se"] = ds["loss"] / 2, ds["loss_se"]
    ds["sample_loss_train"] = ds["sample_loss"] / 2
    ds["loss_train"].attrs |= {"long_name": "cross entropy, train data", "units": "nats"}
    facts = {**json.loads(ds.attrs["provenance"]), "also": {"train": {}}}
    state, page = entered(ds.assign_attrs(provenance=json.dumps(facts)))
    state.compare = True
    state.other_metric = "loss_train"
    assert state.same_quantity
    assert page.pair.plot.heatmap.mapper.low == page.pair.beside.heatmap.mapper.low == pytest.approx(5)
    state.choose(0.4, 1.2)
    np.testing.assert_allclose(page.slices.slices["a"].second.data["y"], ds["loss_train"].sel(b=1.0))


def test_two_metrics_of_one_result_change_places_and_another_result_follows():
    state, _ = entered(plane_result(), plane_result())
    state.compare = True
    state.metric = "accuracy"
    assert (state.metric, state.other_metric) == ("accuracy", "loss")
    state.other = 1
    assert state.other_metric == "accuracy"
    state.metric = "per_class[1]"
    assert state.other_metric == "per_class[1]"
    state.other_metric = "loss"
    state.metric = "accuracy"
    assert state.other_metric == "loss"
    state.other = 0
    assert state.other_metric != state.metric


def test_alike_axes_are_linked_and_a_point_is_in_both_pictures():
    state, page = entered(plane_result(2 * plane_result()["loss"].values), plane_result())
    state.param.update(other=1, compare=True)
    figures = page.pair.plot.heatmap.figure, page.pair.beside.heatmap.figure
    assert all(figure.x_range.tags == figure.y_range.tags == ["linked"] for figure in figures)
    (tap,) = page.pair.beside.heatmap.figure._event_callbacks["tap"]
    tap(Tap(figures[1], x=0.4, y=1.2))
    assert state.point == (0.333, 1.0)
    assert page.pair.plot.heatmap.cross.data == page.pair.beside.heatmap.cross.data == {"x": [0.333], "y": [1.0]}
    assert "A: Loss (cross entropy) 24.3" in page.point_text.object
    assert "B: Loss (cross entropy) 48.7" in page.point_text.object
    slices = page.slices.slices
    np.testing.assert_allclose(slices["b"].second.data["y"], 2 * slices["b"].line.data["raw"])
    assert slices["a"].names.visible
    state.compare = False
    assert figures[0].x_range.tags == []
    assert not slices["a"].names.visible


def test_a_second_picture_begins_where_the_first_is_zoomed_to():
    state, page = entered(plane_result())
    page.pair.plot.heatmap.figure.x_range.update(start=-0.2, end=0.3)
    state.compare = True
    beside = page.pair.beside.heatmap.figure.x_range
    assert (beside.start, beside.end, beside.reset_start, beside.reset_end) == (-0.2, 0.3, -1, 1)


def test_pictures_with_other_axes_keep_to_themselves():
    other = plane_result()
    other["a"].attrs["long_name"] = "somewhere else"
    state, page = entered(other, plane_result(), line_result(), plane_result())
    state.param.update(other=1, compare=True)
    state.choose(0, 1)
    assert (page.pair.plot.heatmap.cross.data["x"], page.pair.beside.heatmap.cross.data["x"]) == ([0.333], [])
    assert page.pair.beside.heatmap.figure.x_range.tags == []
    assert "Their axes differ" in page.pair.compared.object
    (tap,) = page.pair.beside.heatmap.figure._event_callbacks["tap"]
    tap(Tap(page.pair.beside.heatmap.figure, x=-1, y=0))
    assert state.point == (0.333, 1.0)
    state.other = 3
    assert page.pair.beside.curve_box.visible
    assert "One is a line, the other a plane." in page.pair.compared.object


def test_the_two_pictures_change_places_when_the_second_is_shown():
    state, _ = entered(plane_result(), plane_result())
    state.param.update(other=1, compare=True)
    state.param.update(result=state.entries[0].result, shown=1)
    assert (state.shown, state.other) == (1, 2)


def test_a_point_vanishes_when_its_coordinates_mean_other_weights():
    state, page = on_a_plane()
    state.choose(0, 1)
    state.result = plane_result(3 * plane_result()["loss"].values)
    assert state.point is not None
    facts = json.loads(plane_result().attrs["provenance"])
    facts["checkpoints"][0]["sha256"] = "c" * 64
    state.result = plane_result(provenance=json.dumps(facts))
    assert (state.point, state.at_a, page.pair.plot.heatmap.cross.data["x"]) == (None, None, [])


# ---- 3-D -------------------------------------------------------------------------------------------------


def raised(ds, log=False, **options):
    shown, scale = picture.metric(ds, "loss"), scale_of(ds, log=log)
    return relief.figure(ds, shown, scale, "viridis", relief.reach(ds, shown, scale), **options)


def test_in_3d_the_surface_has_the_values_the_colours_and_the_scale_of_the_heat_map():
    ds = plane_result()
    surface = raised(ds, log=True)["data"][0]
    heatmap = drawn(ds, log=True)
    np.testing.assert_array_equal(surface["z"], heatmap.image.data["image"][0])
    assert (surface["cmin"], surface["cmax"]) == (heatmap.mapper.low, heatmap.mapper.high)
    assert surface["colorbar"]["tickvals"] == heatmap.bar.ticker.ticks
    assert surface["colorscale"][0] == [0.0, heatmap.mapper.palette[0]]
    assert surface["colorscale"][-1] == [1.0, heatmap.mapper.palette[-1]]


def test_in_3d_each_axis_is_labelled_with_its_units():
    scene = raised(plane_result())["layout"]["scene"]
    titles = [scene[f"{name}axis"]["title"]["text"] for name in "xyz"]
    assert titles == ["a: direction a [filter norms]", "b: direction b [filter norms]", "Loss (cross entropy) [nats]"]
    assert scene["aspectratio"] == {"x": 1.0, "y": 1.0, "z": relief.HEIGHT}


def test_in_3d_checkpoints_and_a_run_are_at_their_own_loss():
    ds = run_result(3)
    run, spots = raised(ds, show_contours=False)["data"][1:]
    scale = scale_of(ds)
    lift = relief.LIFT * (scale.high - scale.low)
    np.testing.assert_allclose(spots["z"], ds["marker_loss"] + lift)
    np.testing.assert_array_equal(run["z"], spots["z"])
    assert spots["customdata"][1] == ["step1", "Loss 1.25", "1 off the slice"]
    scene = raised(ds)["layout"]["scene"]
    assert [name["text"] for name in scene["annotations"]] == ["step0", "step2"]
    assert scene["zaxis"]["range"][0] < 0.25


def test_in_3d_the_overlays_are_those_of_the_heat_map():
    ds = plane_result()
    plain = len(raised(ds, show_contours=False)["data"])
    assert len(raised(ds)["data"]) == plain + 1
    full = raised(ds, show_samples=True, point=(0.333, 1.0))["data"]
    assert len(full) == plain + 3
    assert full[-1]["z"][1] == pytest.approx(24 + 1 / 3)


def test_3d_is_made_when_it_is_opened_and_follows_the_picture():
    state, page = entered(plane_result())
    assert page.pair.plot.relief is None
    state.relief = True
    assert (page.pair.plot.heat_box.visible, page.pair.plot.relief_box.visible) == (False, True)
    made = page.pair.plot.relief
    state.palette = "magma"
    assert page.pair.plot.relief is made
    assert made.figure["data"][0]["colorscale"][-1][1] == page.pair.plot.heatmap.mapper.palette[-1]
    before = len(made.figure["data"])
    state.choose(0, 1)
    assert len(made.figure["data"]) == before + 1
    state.compare = True
    state.other_metric = "per_class[1]"
    zs = [plot.relief.figure["layout"]["scene"]["zaxis"]["range"] for plot in (page.pair.plot, page.pair.beside)]
    assert zs[0] != zs[1]
    state.result = line_result()
    assert (page.pair.plot.relief_box.visible, page.pair.plot.curve_box.visible) == (False, True)


def test_two_surfaces_of_one_quantity_have_the_same_height():
    state, page = entered(plane_result(2 * plane_result()["loss"].values), plane_result())
    state.param.update(other=1, compare=True, relief=True)
    zs = [plot.relief.figure["layout"]["scene"]["zaxis"]["range"] for plot in (page.pair.plot, page.pair.beside)]
    assert zs[0] == zs[1]
    assert zs[0][1] > 64


def test_plotly_comes_from_panel_itself_and_is_not_imported():
    assert (relief.DIST / relief.PLOTLY).is_file()
    assert "plotly" not in sys.modules
    assert "panel.models.plotly" not in sys.modules  # or every page would load it


# ---- a problem that is made when it is first looked at ------------------------------------------------------


def lazy(fails):
    import torch

    def broken():
        raise RuntimeError(PAYLOAD)

    data = (torch.randn(8, 3), torch.randint(0, 2, (8,)))
    good = Problem(torch.nn.Linear(3, 2), "cross_entropy", data, name="good")
    return Project({"good": good, "broken": broken} if fails == "second" else {"broken": broken, "good": good})


@pytest.mark.parametrize("fails", ["first", "second"])
def test_a_problem_that_cannot_be_made_is_said_in_the_page(fails):
    explorer = Explorer(lazy(fails))
    state = explorer.state
    page = SurfacePage(state)
    state.problem = "broken"
    message = words.message(state)
    assert (message.tone, message.title) == ("bad", "broken cannot be used")
    assert message.body == f"RuntimeError: {PAYLOAD}"
    assert text(PAYLOAD) in page.run_panel.trouble.object
    assert PAYLOAD not in everything_shown(page.view)
    assert page.run_panel.compute.disabled
    state.problem = "good"
    assert words.message(state).title == "Ready"
    assert not page.run_panel.trouble.visible
    state.param.update(resolution=51)
    state.compute = True
    wait(explorer.session)
    assert state.job.state is JobState.DONE


# ---- what the server says ----------------------------------------------------------------------------------


def test_a_closed_tab_is_not_logged_and_all_else_is():
    def record(message, error=None):
        info = (type(error), error, None) if error else None
        return logging.LogRecord("asyncio", logging.ERROR, "x.py", 1, message, None, info)

    assert not worth_saying(record("Task exception was never retrieved", WebSocketClosedError()))
    assert not worth_saying(record("Failed sending message as connection was closed"))
    assert worth_saying(record("Task exception was never retrieved", RuntimeError("other")))
    assert worth_saying(record("Something else"))


# ---- the house -------------------------------------------------------------------------------------------

APP = Path(__file__).parent.parent / "landscape_app"


def test_only_the_dashboard_imports_the_page_shell():
    users = [file.name for file in APP.rglob("*.py") if "import panel_material_ui" in file.read_text()]
    assert users == ["main.py"]


def test_no_module_hides_a_package_while_the_dashboard_is_served_from_its_folder():
    taken = set(sys.stdlib_module_names) | set(packages_distributions())
    assert {file.stem for file in APP.iterdir()} & taken <= {"__init__", "__pycache__"}
