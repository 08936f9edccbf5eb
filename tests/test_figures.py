"""Figures for papers: what is drawn has the values of the result, and nothing of it is cut off."""

import itertools
import json
import os
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
import xarray as xr
from conftest import line_result, plane_result
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.text import Text
from models import classification, mlp
from PIL import Image

from analysis import LandscapeError, Line, Plane, Problem, Project, load, over_seeds, provenance, save, sharpness
from analysis.connectivity import barrier, barrier_matrix, find_symmetries, match_weights
from landscape_app import cli, elements, picture
from landscape_app.connectivity.picture import COLOURS
from landscape_app.connectivity.request import ConnectivityRequest
from landscape_app.figures import caption, figure, save_figure
from landscape_app.figures.style import style
from landscape_app.scales import Scale
from landscape_app.spectrum.request import SpectrumRequest, Vectors
from landscape_app.text import number
from landscape_app.trajectory.request import TrajectoryRequest

NAMES = ("first", "second", "a-third-with-a-name-that-is-far-too-long")


@pytest.fixture(scope="module")
def project():
    problem = Problem(mlp(), "cross_entropy", classification(), metrics=["accuracy"], name="digits $a$ and $b$")
    return Project(problem, {name: mlp(seed=seed) for seed, name in enumerate(NAMES)})


@pytest.fixture(scope="module")
def results(project):
    """One result of every kind that has a figure."""
    (name,) = project.problems
    problem = project.problems[name]
    ends = [project.checkpoint(name, checkpoint) for checkpoint in NAMES]

    def last(steps):
        *_, ds = steps
        return ds

    options = {"resolution": 9, "dense": True}
    return {
        "plane": plane_result(names=NAMES[:2]),
        "line": line_result(names=NAMES),
        "seeds line": last(over_seeds(problem, lambda seed: Line.random(ends[0], seed=seed), range(3), **options)),
        "seeds plane": last(over_seeds(problem, lambda seed: Plane.random(ends[0], seed=seed), range(2), **options)),
        "spectrum": last(SpectrumRequest(name, NAMES[0], largest=3, smallest=1, degree=8).steps(project, Vectors())),
        "parts": last(
            SpectrumRequest(name, NAMES[0], ("hessian", "ggn"), each="layer", largest=2, degree=6).steps(
                project, Vectors()
            )
        ),
        "eigenvalues": last(SpectrumRequest(name, NAMES[0], largest=3, probes=0).steps(project, Vectors())),
        "trajectory": last(TrajectoryRequest(name, NAMES).steps(project)),
        "path": last(ConnectivityRequest(name, NAMES[:2], matching="weights").steps(project)),
        "matrices": last(ConnectivityRequest(name, NAMES, matching="weights").steps(project)),
        "matrix": last(barrier_matrix(problem, ends)),
    }


KINDS = ("plane", "line", "seeds line", "seeds plane", "spectrum", "parts", "eigenvalues", "trajectory", "path")
KINDS += ("matrices", "matrix")


def texts(drawn):
    with style():
        drawn.draw_without_rendering()
    return [text for text in drawn.findobj(Text) if text.get_text() and text.get_visible()]


def said(drawn):
    return {text.get_text() for text in texts(drawn)}


def mesh(axes):
    (found,) = [part for part in axes.collections if isinstance(part, QuadMesh)]
    return found


def curve(axes, name):
    (found,) = [line for line in axes.lines if line.get_gid() == name]
    return found.get_data()


# ---- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["loss", "accuracy", "per_class[1]"])
def test_the_mesh_of_a_plane_is_the_result(key):
    ds = plane_result()
    axes = figure(ds, metric=key).axes[0]
    expected = picture.metric(ds, key).values
    np.testing.assert_array_equal(mesh(axes).get_array(), expected)
    corners = mesh(axes).get_coordinates()
    np.testing.assert_allclose((corners[0, :-1, 0] + corners[0, 1:, 0]) / 2, ds["a"])
    np.testing.assert_allclose((corners[:-1, 0, 1] + corners[1:, 0, 1]) / 2, ds["b"])


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_colours_contours_and_ticks_are_those_of_the_dashboard(scale):
    ds = plane_result(values=np.geomspace(0.02, 30, 20).reshape(5, 4))
    same = Scale.of(ds["loss"].values, scale == "log")
    drawn = figure(ds, scale=scale)
    axes = drawn.axes[0]
    (bar,) = axes.child_axes
    norm = mesh(axes).norm
    assert isinstance(norm, LogNorm) == (scale == "log")
    np.testing.assert_allclose(same.position([norm.vmin, norm.vmax]), [same.low, same.high])
    np.testing.assert_array_equal(bar.get_yticks(), same.ticks)
    shown = [label.get_text() for label in bar.get_yticklabels()]
    assert set(shown) - {""} <= set(same.labels.values())
    assert len([label for label in shown if label]) >= len(same.ticks) / 2
    written = {text.get_text() for text in axes.texts}
    assert written & set(same.labels.values())


def test_labels_have_units_and_checkpoints_their_names():
    drawn = figure(plane_result(names=("one", "two")))
    axes = drawn.axes[0]
    (bar,) = axes.child_axes
    assert axes.get_xlabel() == "a: direction a [filter norms]"
    assert bar.get_ylabel() == "Loss (cross entropy) [nats]"
    assert {"one", "two"} <= said(drawn)


def test_a_plane_that_keeps_angles_is_drawn_so():
    assert figure(plane_result()).axes[0].get_aspect() == 1
    assert figure(plane_result(equal_aspect=0)).axes[0].get_aspect() == "auto"


def test_a_bar_shows_a_distance_in_weight_space(project):
    from analysis import surface

    (name,) = project.problems
    origin = project.checkpoint(name, NAMES[0])
    plane = Plane.random(origin)
    *_, ds = surface(project.problems[name], plane, resolution=5, dense=True)
    drawn = figure(ds)
    axes = drawn.axes[0]
    (bar,) = [line for line in axes.lines if line.get_color() == "#1b1f24"]
    left, right = bar.get_xdata()
    moved = (plane.point(right, 0.0) - plane.point(left, 0.0)).norm()
    (label,) = [text for text in said(drawn) if text.startswith("distance of weights")]
    assert moved == pytest.approx(float(label.split()[-1]), rel=1e-5)


def test_values_that_are_not_finite_are_marked_and_not_coloured():
    values = np.full((5, 4), 2.0)
    values[1, 2], values[0, 0] = np.inf, np.nan
    axes = figure(plane_result(values=values)).axes[0]
    assert mesh(axes).get_array().mask.sum() == 2
    (crosses,) = [line for line in axes.lines if line.get_label() == "not finite"]
    assert len(crosses.get_xdata()) == 2


def test_a_band_is_drawn_of_a_value_and_refused_of_an_error():
    ds = line_result()
    band = elements.band(ds)
    np.testing.assert_array_equal(band.dimension_values("loss"), ds["loss"])
    np.testing.assert_array_equal(band.dimension_values("loss_se"), ds["loss_se"])
    unsure = elements.band(ds.assign(loss_se=ds["loss_se"] * np.nan))  # of one sample
    assert [str(dim) for dim in unsure.vdims] == ["loss", "loss_se"]
    with pytest.raises(LandscapeError, match="'loss_se', an error that has no band"):
        elements.band(ds, "loss_se")


def test_a_line_has_the_values_and_a_band_of_one_standard_error():
    ds = line_result()
    axes = figure(ds, scale="linear").axes[0]
    np.testing.assert_array_equal(curve(axes, "curve"), [ds["t"], ds["loss"]])
    edges = axes.collections[0].get_datalim(axes.transData)
    assert (edges.y0, edges.y1) == pytest.approx((0.9, 2.1))
    assert axes.get_ylim()[0] < 0.9 < 2.1 < axes.get_ylim()[1]


def test_a_line_over_seeds_has_their_mean_and_each(results):
    ds = results["seeds line"]
    axes = figure(ds).axes[0]
    np.testing.assert_allclose(curve(axes, "curve")[1], ds["loss"].mean("seed"))
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == ds.sizes["t"]]
    assert len(drawn) == 4
    np.testing.assert_array_equal(drawn[:3], ds["loss"])
    assert {"mean ± standard deviation", "each seed"} <= said(axes.figure)


def test_a_plane_over_seeds_has_mean_and_spread(results):
    ds = results["seeds plane"]
    mean, spread = (axes for axes in figure(ds, width="double").axes if axes.collections and axes.get_xlabel())
    np.testing.assert_allclose(mesh(mean).get_array(), ds["loss"].mean("seed"))
    np.testing.assert_allclose(mesh(spread).get_array(), ds["loss"].std("seed", ddof=1), atol=1e-12)


def test_stems_stand_at_the_eigenvalues(results):
    ds = results["spectrum"]
    drawn = figure(ds)
    stems = [line.get_xdata()[0] for line in drawn.axes[0].lines if line.get_color() == "#d55e00"]
    assert set(ds["eigenvalue"].values[0]) <= set(stems)
    assert {"λ₁", "λ₂", "λₙ", "Eigenvalue [loss / weight²]"} <= said(drawn)
    assert any("share of eigenvalues" in text for text in said(drawn))


def test_a_run_has_its_eigenvalues(results):
    ds = results["trajectory"]
    axes = figure(ds, scale="linear").axes[0]
    np.testing.assert_array_equal(curve(axes, "λ₁")[1], ds["eigenvalue"].values[:, 0])
    assert axes.get_ylabel() == "Eigenvalue [loss / weight²]"
    assert len(figure(ds, width="double").axes) == 4


def test_paths_and_their_barriers(results):
    ds = results["path"]
    drawn = figure(ds)
    t, values = curve(drawn.axes[0], "As they are")
    known = np.isfinite(ds["t"].values[0, 0])
    np.testing.assert_array_equal(t, ds["t"].values[0, 0][known])
    np.testing.assert_array_equal(values, ds["loss"].values[0, 0][known])
    assert "Matched" in said(drawn)
    backwards = figure(ds, pair=NAMES[1::-1])
    np.testing.assert_array_equal(curve(backwards.axes[0], "As they are")[1], values[::-1])


@pytest.mark.parametrize("kind", ["matrices", "matrix"])
def test_a_matrix_has_the_barriers_of_all_pairs(results, kind):
    ds = results[kind]
    heights = ds["loss_barrier"].values[0] if kind == "matrices" else ds["loss_barrier"].values[[0, 0, 1], [1, 2, 2]]
    drawn = mesh(figure(ds).axes[0]).get_array()
    np.testing.assert_array_equal(drawn[[0, 0, 1], [1, 2, 2]], heights)
    np.testing.assert_array_equal(drawn, drawn.T)
    assert drawn.mask.diagonal().all()


# ---- what a reader of a path has to see ------------------------------------------------------------------


def peaked(ds, heights, width=0.05, ends=(0.02, 0.03), also=()):
    """Paths with a bump of each height about t = 0.51 over their chord; also: of other data, as high."""
    t = np.linspace(0, 1, 41)
    chord = (1 - t) * ends[0] + t * ends[1]
    bumps = np.stack([height * np.exp(-(((t - 0.51) / width) ** 2)) for height in heights])
    values, at, over = chord + bumps, t[bumps.argmax(1)], bumps.max(1)
    stages = ds["stage"].values[: len(heights)]
    dims = ("stage", "pair", "place")
    own = ds["loss"].attrs
    variables = {"t": (dims, np.broadcast_to(t, (len(heights), 1, 41)))}
    for name, share in (("loss", 1.0), *((f"loss_{split}", 0.9) for split in also)):
        about = {**own, "long_name": own["long_name"] + name.removeprefix("loss").replace("_", ", ")}
        variables |= {
            name: (dims, share * values[:, None], about),
            f"{name}_se": (dims, 0.03 * values[:, None]),
            f"marker_{name}": ("checkpoint", share * np.array(ends), about),
            f"{name}_barrier": (("stage", "pair"), share * over[:, None]),
            f"{name}_barrier_at": (("stage", "pair"), at[:, None]),
        }
    facts = {**provenance(ds), "also": {split: {"samples": 20, "sha256": "0" * 64} for split in also}}
    coords = {"stage": stages, "name": ds["name"], "first": ds["first"], "second": ds["second"]}
    return xr.Dataset(variables, coords, {**ds.attrs, "provenance": json.dumps(facts)})


def covered(axes):
    """Labels inside a chart that hide a curve of it: (label, curve)."""
    found = []
    for text in (text for text in axes.texts if text.get_text()):
        box = text.get_window_extent()
        patch = text.get_bbox_patch()
        box = box if patch is None else patch.get_window_extent()
        for line in axes.lines:
            if line.get_gid() == "leader" or len(line.get_xdata()) < 2 or line.get_linestyle() == "None":
                continue
            corners = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
            share = np.linspace(0, 1, 400)[:, None]
            along = np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(corners)])
            if ((along > box.min) & (along < box.max)).all(1).any():
                found.append((text.get_text(), line.get_gid()))
    return found


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("wide", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("heights", [(1.15, 0.14), (1.1,), (0.5, 0.45), (0.2, 0.001)])
def test_heights_stand_where_no_curve_runs(results, heights, wide, width):
    ds = peaked(results["path"], heights, wide, also=("train",))
    axes = figure(ds, width=width).axes[0]
    texts(axes.figure)
    bars = [f"{number(height)} nats" for height in ds["loss_barrier"].values[:, 0]]
    assert [text.get_text() for text in axes.texts] == bars
    assert covered(axes) == []
    one, *others = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for other in others)
    frame = axes.get_window_extent()
    assert frame.x0 <= one.x0 < one.x1 <= frame.x1
    assert frame.y0 <= one.y0 < one.y1 <= frame.y1


@pytest.mark.parametrize("kind", ["path", "line", "seeds line"])
def test_words_of_a_chart_cover_no_curve(results, kind):
    for metric in ("loss", "accuracy"):
        axes = figure(results[kind], metric=metric).axes[0]
        texts(axes.figure)
        assert axes.texts or (kind, metric) == ("line", "accuracy")
        assert all(text.get_bbox_patch() is None for text in axes.texts)
        if kind == "path":
            assert covered(axes) == []


def test_a_label_far_from_its_bar_has_a_line_to_it(results):
    axes = figure(peaked(results["path"], (1.15, 0.14))).axes[0]
    (leader,) = [line for line in axes.lines if line.get_gid() == "leader"]
    assert leader.get_color() == COLOURS["after"]
    to = axes.transData.inverted().transform(leader.get_transform().transform(leader.get_xydata()[-1:]))[0]
    assert to[0] == pytest.approx(0.51, abs=0.02)
    assert 0.02 <= to[1] <= 0.18


def test_lines_are_told_apart_without_colours(results):
    axes = figure(peaked(results["path"], (1.15, 0.14), also=("train",))).axes[0]
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid() not in (None, "leader")}
    names = ["As they are, main data", "Matched, main data", "As they are, train data", "Matched, train data"]
    assert list(lines) == names
    assert set(names) <= said(axes.figure)
    patterns = [line._unscaled_dash_pattern for line in lines.values()]
    assert len({str(pattern) for pattern in patterns}) == 4
    grey = [np.dot(to_rgb(line.get_color()), [0.299, 0.587, 0.114]) for line in lines.values()]
    assert all(grey[i + 2] - grey[i] > 0.15 for i in range(2))
    assert [line.get_marker() not in ("", "None", None) for line in lines.values()] == [True, True, False, False]


def test_the_axis_has_0_where_curves_nearly_reach_it(results):
    axes = figure(peaked(results["path"], (1.15, 0.14))).axes[0]
    assert axes.get_yticks()[0] == 0
    assert axes.get_yticklabels()[0].get_text() == "0"
    assert axes.get_ylim()[0] < 0
    assert figure(peaked(results["path"], (0.1,), ends=(3.0, 3.1))).axes[0].get_yticks()[0] > 2.9


def test_a_path_alone_and_its_data_are_named(results):
    assert {"Linear path", "Chord"} <= said(figure(peaked(results["path"], (1.15,))))
    ds = peaked(results["path"], (1.15,), also=("train",))
    for metric in ("loss", "loss_train"):
        drawn = figure(ds, metric=metric)
        strong, *_ = [line for line in drawn.axes[0].lines if line.get_gid()]
        assert strong.get_gid() == f"Linear path, {'train' if metric == 'loss_train' else 'main'} data"
        assert {"Linear path, main data", "Linear path, train data"} <= said(drawn)


def test_principal_axes_say_their_share_of_the_variance():
    ds = plane_result()
    for i, name in enumerate("ab", 1):
        ds[name].attrs["long_name"] = f"principal direction {i}"
    facts = {**provenance(ds), "explained_variance": [0.856, 0.089, 0.05]}
    axes = figure(ds.assign_attrs(provenance=json.dumps(facts))).axes[0]
    assert "principal direction 1 (86 % of variance)" in axes.get_xlabel().replace("\n", " ")
    assert "principal direction 2 (8.9 % of variance)" in axes.get_ylabel().replace("\n", " ")


def test_the_name_of_the_last_of_a_crowd_stands_beside_its_point():
    names = [f"epoch_{i:03}" for i in range(6)]
    ds = plane_result(names=names[:2])
    at = np.array([(-0.8, 0.1), (-0.3, 0.6), (0.1, 0.75), (0.35, 0.6), (0.42, 0.46), (0.42, 0.4)])
    ds = ds.drop_dims("marker").assign(
        marker_a=("marker", at[:, 0]), marker_b=("marker", 4 * at[:, 1]), marker_loss=("marker", np.ones(6))
    )
    ds = ds.assign_coords(marker_name=("marker", names))
    ds.attrs["provenance"] = json.dumps({**provenance(ds), "kind": "trajectory"})
    axes = figure(ds).axes[0]
    texts(axes.figure)
    for text in [text for text in axes.texts if text.get_text().startswith("epoch")]:
        x, y = axes.transData.transform(
            [(ds["marker_a"][i], ds["marker_b"][i]) for i in [names.index(text.get_text())]]
        )[0]
        box = text.get_window_extent()
        away = np.hypot(max(0, box.x0 - x, x - box.x1), max(0, box.y0 - y, y - box.y1))
        assert away < 10 * axes.figure.dpi / 72, text.get_text()


# ---- several paths in one figure -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(project):
    """Barriers between one pair, as it is and matched, and to another network."""
    (name,) = project.problems
    problem = project.problems[name]
    a, b, c = (project.checkpoint(name, checkpoint) for checkpoint in NAMES)
    matched = match_weights(find_symmetries(problem), a, b, problem=problem).checkpoint

    def last(*ends, **options):
        *_, ds = barrier(problem, *ends, **options)
        return ds

    return {
        "naive": last(a, b), "matched": last(a, matched), "away": last(a, c), "back": last(b, a),
        "halfway": last(a, b, convention="mid"),
    }  # fmt: skip


def test_several_paths_of_one_pair_are_in_one_figure(paths, results, tmp_path):
    given = {"matched": paths["matched"], "as they are": paths["naive"]}
    drawn = figure(given)
    for name, ds in given.items():
        np.testing.assert_array_equal(curve(drawn.axes[0], name), [ds["t"], ds["loss"]])
    assert {"as they are", "matched", "Chord", "t, the way from first (0) to second (1)"} <= said(drawn)
    assert len({line.get_color() for line in drawn.axes[0].lines if line.get_gid() in given}) == 2
    words = caption(given)
    for name, ds in given.items():
        height, place = float(ds["loss_barrier"]), float(ds["loss_barrier_at"])
        assert f"{name}: {number(height)} nats{f' at t = {number(place, 2)}' if height else ''}" in words
        for checkpoint in provenance(ds)["checkpoints"]:
            assert checkpoint["sha256"][:12] in words
    assert f"{sum(int(ds.attrs['evaluations']) for ds in given.values())} evaluations" in words
    files = save_figure(given, tmp_path / "both.svg", beside=True)
    assert {file.suffix for file in files} == {".svg", ".txt", ".csv"}
    rows = (tmp_path / "both.csv").read_text().splitlines()[1:]
    assert len(rows) == sum(ds.sizes["t"] for ds in given.values())
    three = figure({"page": results["path"], "again": paths["naive"]})
    assert {"page: as they are", "page: matched", "again"} <= said(three)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("away", "not the same pair"),
        ("back", "not the same pair"),
        ("halfway", "differ in their convention"),
        ("plane", "'b' is a surface; only paths"),
        ("matrices", "'b' is barriers of several pairs"),
    ],
)
def test_paths_that_are_not_of_one_pair_share_no_figure(paths, results, other, words):
    with pytest.raises(LandscapeError, match=words):
        figure({"a": paths["naive"], "b": {**results, **paths}[other]})


# ---- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", ["single", "double"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_off(results, kind, width):
    drawn = figure(results[kind], width=width)
    assert drawn.get_figwidth() == {"single": 3.25, "double": 6.75}[width]
    assert drawn.get_figheight() <= 9
    edge = drawn.bbox
    for text in texts(drawn):
        box = text.get_window_extent()
        inside = box.x0 >= edge.x0 and box.y0 >= edge.y0 and box.x1 <= edge.x1 and box.y1 <= edge.y1
        assert inside, (text.get_text(), box, edge)


@pytest.mark.parametrize("names", [("two", "names"), ("a-name-that-is-much-too-long-for-a-plot",) * 2])
def test_names_of_checkpoints_stay_in_the_picture(names):
    drawn = figure(plane_result(names=names))
    axes = drawn.axes[0]
    shown = [text for text in texts(drawn) if text.get_text()[:4] in {name[:4] for name in names}]
    assert len(shown) == 2
    boxes = [text.get_window_extent() for text in shown]
    frame = axes.get_window_extent()
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pdf_has_embedded_truetype_fonts_and_the_caption_and_beside_it_the_numbers(results, kind, tmp_path):
    file, *_ = save_figure(results[kind], tmp_path / "f.pdf", beside=True)
    content = file.read_bytes()
    assert content.startswith(b"%PDF")
    everything = content + b"".join(unpacked(content))
    assert b"/FontFile2" in everything
    assert b"/Type3" not in everything
    said = caption(results[kind])
    assert any(said[:20].encode(code) in content for code in ("latin1", "utf-16-be"))
    lines = (tmp_path / "f.csv").read_text().splitlines()
    assert len(lines) > 3
    assert len({line.count(",") for line in lines}) == 1


def unpacked(content):
    for start in re.finditer(rb"stream\r?\n", content):
        try:
            yield zlib.decompressobj().decompress(content[start.end() :])
        except zlib.error:
            continue


def test_text_of_an_svg_is_text_and_its_surface_one_image(tmp_path):
    (file,) = save_figure(plane_result(), tmp_path / "f.svg")
    svg = file.read_text()
    assert ">a: direction a [filter norms]</text>" in svg
    assert svg.count("<image ") == 1 + 1  # the surface, and the colour bar
    assert "BatchNorm statistics: recalibrated at each point." in svg
    assert file.read_bytes() == save_figure(plane_result(), tmp_path / "g.svg")[0].read_bytes()


def test_a_png_has_the_width_of_a_column_at_300_dpi(tmp_path):
    (file,) = save_figure(plane_result(), tmp_path / "f.png")
    image = Image.open(file)
    assert image.width == 975
    assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert image.info["Description"] == caption(plane_result())


def test_beside_a_figure_lie_its_caption_its_numbers_and_its_result(tmp_path):
    ds = plane_result()
    files = save_figure(ds, tmp_path / "f.pdf", metric="per_class[1]", beside=True)
    assert {file.name for file in files} == {"f.pdf", "f.txt", "f.csv", "f.nc"}
    assert (tmp_path / "f.txt").read_text() == caption(ds) + "\n"
    header, first, *rest = (tmp_path / "f.csv").read_text().splitlines()
    assert len(rest) + 1 == ds["loss"].size
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert {name: float(row[name]) for name in ("b", "a", "loss", "per_class[1]")} == {
        "b": 0, "a": -1, "loss": 10, "per_class[1]": 20,
    }  # fmt: skip
    assert load(tmp_path / "f.nc").loss.equals(ds.loss)
    save_figure(ds, tmp_path / "f.svg", beside=True)
    with pytest.raises(LandscapeError, match="holds another result"):
        save_figure(line_result(), tmp_path / "f.png", beside=True)
    assert not (tmp_path / "f.png").exists()


def test_a_caption_says_all_that_is_needed_to_compute_it_again(results, project):
    (name,) = project.problems
    problem, ds = project.problems[name], results["seeds plane"]
    text = caption(ds)
    for fact in (
        "Random filter-normalised plane at first", f"“{name}”", "Sequential", "cross entropy over",
        f"{problem.n:,} samples",
        problem.data.digest[:12], project.checkpoint(name, "first").digest[:12], problem.code_digest[:12],
        "seeds 0, 1", "normalised by filter", "BatchNorm statistics: the model has none", "162 evaluations",
        "each point evaluated", "float32 on cpu", "torch ", "landscape-explorer ", "python ",
    ):  # fmt: skip
        assert fact in text
    path = results["path"]
    found = [float(path[f"accuracy_{what}"].values[1, 0]) for what in ("barrier", "barrier_at")]
    assert f"Matched: {number(found[0])} at t = {number(found[1], 2)}" in caption(path, metric="accuracy")
    backwards = caption(path, metric="accuracy", pair=NAMES[1::-1])
    assert f"Matched: {number(found[0])} at t = {number(1 - found[1], 2)}" in backwards
    facts = {**provenance(path), "batchnorm": "recalibrated"}
    facts["calibration"] = {"samples": 512, "batches": 2, "sha256": "ade3de1b13686ecf10fc"}
    said = caption(path.assign_attrs(provenance=json.dumps(facts)))
    assert "recalibrated at each point on 512 samples in 2 batches, sha256 ade3de1b1368." in said
    assert "9 × 9 points over [−1, 1] × [−1, 1]" in text
    assert "interpolation error 0.4 % of the range" in caption(plane_result())
    assert "recalibrated at each point" in caption(plane_result())
    assert "unfinished (50 %)" in caption(plane_result(status="running"))


# ---- what cannot be drawn --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": "triple"}, "accepted are single, double"),
        ({"scale": "rank"}, "accepted are log, linear"),
        ({"metric": "nothing"}, "this result has loss, accuracy"),
        ({"pair": ["one", "two"]}, "a surface has no paths"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(options, words):
    with pytest.raises(LandscapeError, match=words):
        figure(plane_result(), **options)


def test_options_of_other_kinds(results):
    with pytest.raises(LandscapeError, match="a spectrum has no metrics"):
        figure(results["spectrum"], metric="accuracy")
    with pytest.raises(LandscapeError, match="expected two different ones of its checkpoints: first, second"):
        figure(results["matrices"], pair=["first", "first"])
    with pytest.raises(LandscapeError, match="holds no path between 'first' and 'second'"):
        figure(results["matrix"], pair=["first", "second"])
    with pytest.raises(LandscapeError, match="has barriers of loss, accuracy"):
        figure(results["path"], metric="nothing")
    with pytest.raises(LandscapeError, match="leave scale out"):
        figure(results["path"], scale="log")


def test_a_result_without_a_figure(project):
    (name,) = project.problems
    problem = project.problems[name]
    *_, ds = sharpness(problem, problem.checkpoint(), radii=[0.1], sigmas=[0.01])
    with pytest.raises(LandscapeError, match="no figure of 'sharpness at .*'; figures are drawn of a surface"):
        figure(ds)


def test_what_is_known_of_an_unfinished_result_is_drawn(project):
    values = np.full((5, 4), np.nan)
    values[::2, ::3] = 2.0
    assert mesh(figure(plane_result(values=values, status="running")).axes[0]).get_array().count() == 6
    (name,) = project.problems
    first = next(ConnectivityRequest(name, NAMES).steps(project))
    assert figure(first, pair=NAMES[:2]).axes
    assert mesh(figure(first).axes[0]).get_array().mask.all()


def test_a_surface_without_a_finite_value():
    with pytest.raises(LandscapeError, match="no finite Loss"):
        figure(plane_result(values=np.full((5, 4), np.nan)))


# ---- the command -----------------------------------------------------------------------------------------


def test_the_command_draws_what_the_file_holds(results, tmp_path, capsys):
    source = save(results["matrices"], tmp_path / "m.nc")
    out = tmp_path / "m.svg"
    assert cli.main(["figure", str(source), "--out", str(out), "--width", "double", "--metric", "accuracy"]) == 0
    assert f"Saved: {out}" in capsys.readouterr().out
    assert "Barrier of the accuracy" in out.read_text()
    assert cli.main(["figure", str(source), "--out", str(out), "--pair", "second", "first"]) == 0
    assert "t, the way from second (0) to first (1)" in out.read_text()
    assert cli.main(["figure", str(source), "--out", str(tmp_path / "m.jpg")]) == 2
    assert "ends in .pdf, .svg, .png" in capsys.readouterr().err


def test_the_settings_of_matplotlib_stay_as_they_were(tmp_path):
    import matplotlib

    matplotlib.rcParams["lines.linewidth"] = 7
    before = dict(matplotlib.rcParams)
    save_figure(plane_result(), tmp_path / "f.pdf")
    assert dict(matplotlib.rcParams) == before
    matplotlib.rcParams["lines.linewidth"] = matplotlib.rcParamsDefault["lines.linewidth"]


def test_figures_need_neither_panel_nor_pyplot():
    code = (
        "import sys, landscape_app.cli\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import landscape_app.figures\n"
        "from conftest import plane_result\n"
        "landscape_app.figures.figure(plane_result())\n"
        "bad = {'panel', 'bokeh', 'holoviews', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
