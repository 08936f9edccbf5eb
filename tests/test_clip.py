"""Planes whose large values are drawn as one: the scale, every picture of them, the choice and its address."""

import numpy as np
import pytest
from conftest import FakeProject, line_result, plane_result
from test_difference import entered

from analysis import LandscapeError, save
from landscape_app import picture, relief
from landscape_app.cli import main
from landscape_app.contours import contours
from landscape_app.figures import figure
from landscape_app.links import follow, written
from landscape_app.scales import Scale
from landscape_app.state import State

VALUES = np.array([[1.0, 10.0, 40.0, 100.0], [2.0, 20.0, 50.0, np.nan]])


@pytest.mark.parametrize("log", [True, False])
def test_larger_values_stand_where_the_scale_ends(log):
    scale = Scale.of(VALUES, log, clip=30.0)
    f = np.log10 if log else np.float64
    assert (scale.low, scale.high) == pytest.approx((f(1.0), f(30.0)))
    np.testing.assert_allclose(scale.position(VALUES), np.minimum(np.log10(VALUES) if log else VALUES, f(30.0)))
    assert list(scale.labels.items())[-1] == (pytest.approx(f(30.0)), "≥ 30")
    gaps = np.diff(scale.positions) / (scale.high - scale.low)
    assert (gaps > 0.05).all()


@pytest.mark.parametrize("clip", [0.5, 1.0, 100.0, 1e6, np.nan, np.inf])
def test_a_clip_beyond_the_values_changes_nothing(clip):
    assert Scale.of(VALUES, True, clip) == Scale.of(VALUES, True)


def test_a_contour_at_the_clip_is_where_the_values_cross_it():
    ds = plane_result(shape=(5, 41))  # 10 a + b + 20
    scale = Scale.of(ds["loss"].values, False, clip=22.0)
    *_, (tick, level, lines) = contours(ds, picture.metric(ds, "loss"), scale)
    assert tick == level == 22.0
    a, b = np.concatenate(lines).T
    np.testing.assert_allclose(10 * a + b + 20, 22.0)


def test_colours_and_heights_end_there_and_the_numbers_stay():
    ds = plane_result()
    state, page = entered(ds)
    state.clip = 25.0
    plot = page.pair.plot.heatmap
    assert (plot.mapper.low, plot.mapper.high) == (10.0, 25.0)
    np.testing.assert_allclose(plot.image.data["image"][0], np.minimum(ds["loss"], 25.0))
    np.testing.assert_allclose(plot.image.data["raw"][0], ds["loss"])
    metric, scale = picture.metric(ds, "loss"), Scale.of(ds["loss"].values, False, 25.0)
    drawn = relief.figure(ds, metric, scale, "viridis", relief.reach(ds, metric, scale))
    assert drawn["data"][0]["z"].max() == 25.0 == drawn["data"][0]["cmax"]
    np.testing.assert_allclose(drawn["data"][0]["customdata"], ds["loss"])
    made = figure(ds, scale="linear", clip=25.0)
    mesh, texts = made.axes[0].collections[0], [t.get_text() for t in made.axes[0].child_axes[0].get_yticklabels()]
    assert mesh.get_clim() == (10.0, 25.0)
    assert texts[-1] == "≥ 25"


def test_each_metric_keeps_its_own_and_lines_have_none():
    state, page = entered(line_result())
    state.clip = 1.5
    assert state.clip_of(state.drawn) is None
    assert not page.look_controls.fields["clip"].visible
    state, page = entered(plane_result())
    assert page.look_controls.fields["clip"].visible
    state.clip = 25.0
    state.metric = "accuracy"
    assert state.clip is None
    state.metric = "loss"
    assert state.clip == state.clip_of(state.drawn) == 25.0


def test_it_is_in_the_address():
    state, _ = entered(plane_result())
    state.clip = 25.0
    assert "clip=25.0" in written(state)
    other, said = State(FakeProject()), []
    follow(other, written(state), said.append)
    other.param.update(entries=state.entries, computed=other.request(), result=state.result, shown=1, job=state.job)
    assert (other.clip, said) == (25.0, [])


def test_what_cannot_be_clipped_is_refused(tmp_path, capsys):
    with pytest.raises(LandscapeError, match="clip is 1, but only values of a plane are clipped, not a line"):
        figure(line_result(), clip=1.0)
    with pytest.raises(LandscapeError, match="clip is nan; expected a finite value"):
        figure(plane_result(), clip=np.nan)
    save(plane_result(), tmp_path / "surface.nc")
    assert main(["figure", str(tmp_path / "surface.nc"), "--clip", "25", "--out", str(tmp_path / "surface.svg")]) == 0
    assert "≥" in (tmp_path / "surface.svg").read_text(encoding="utf-8")
