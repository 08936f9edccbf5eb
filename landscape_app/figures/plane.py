"""A plane as a figure: values as colours, contours at the ticks of the colour bar, checkpoints by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from landscape_app import picture
from landscape_app.colours import ACCENT, INK
from landscape_app.connectivity.picture import shortened
from landscape_app.contours import contour_ink, contours, label_place
from landscape_app.figures.labels import name_points, traced
from landscape_app.figures.style import (
    SMALL,
    TALLEST,
    UNKNOWN,
    apart,
    coordinates,
    fit_height,
    new_figure,
    ticks,
    title_lines,
)
from landscape_app.scales import Scale, tick_label
from landscape_app.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BESIDE = 1.1  # inches: the colour bar and the titles beside a picture
NEAR = 0.075  # of the picture: a label of a contour that is nearer to another one is left out
LEAST = 1.5  # inches: room that a title beside a low picture takes all the same


def draw_planes(shown: list[tuple[xr.Dataset, picture.Metric, Scale]], width: float) -> Figure:
    """Pictures of planes: side by side where there is room, else one under the other."""
    columns = len(shown) if width > 5 else 1
    rows = -(-len(shown) // columns)
    made = new_figure(width, min(TALLEST, rows * (width / columns + 1)))
    grid = made.subplots(rows, columns, squeeze=False).ravel()
    room = width / columns - BESIDE
    for axes, (ds, metric, scale) in zip(grid, shown, strict=True):
        _draw(axes, ds, metric, scale, room)
    fit_height(made)
    for axes, (ds, _, _) in zip(grid, shown, strict=True):
        _name(axes, ds)
    return made


def _draw(axes: Axes, ds: xr.Dataset, metric: picture.Metric, scale: Scale, room: float) -> None:
    (a0, a1), (b0, b1) = picture.extent(ds, "a"), picture.extent(ds, "b")
    if picture.equal_aspect(ds):
        axes.set_aspect("equal")
        tall = min(1.4, (b1 - b0) / (a1 - a0)) * room
    else:
        axes.set_box_aspect(1)
        tall = room
    mesh = axes.pcolormesh(
        ds["a"].values, ds["b"].values, np.ma.masked_invalid(metric.values), norm=_norm(scale), cmap=_colours(),
        shading="nearest", rasterized=True,
    )  # fmt: skip
    coordinates(axes.xaxis, a0, a1)
    coordinates(axes.yaxis, b0, b1)
    axes.set_xlabel(title_lines(picture.axis_label(ds, "a"), room))
    axes.set_ylabel(title_lines(picture.axis_label(ds, "b"), max(tall, LEAST)))
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.03, 0, 0.08 / room, 1)))
    bar.outline.set_visible(False)
    bar.set_label(title_lines(metric.title, max(tall, LEAST)))
    labels = apart(scale.positions, list(scale.labels.values()), scale.high - scale.low, tall, letters=False)
    ticks(bar.ax.yaxis, scale.ticks, labels)
    _draw_contours(axes, ds, metric, scale)
    _draw_points(axes, ds, metric)
    _draw_length(axes, ds)


def _norm(scale: Scale) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    return LogNorm(10**scale.low, 10**scale.high) if scale.log else Normalize(scale.low, scale.high)


def _colours() -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"].with_extremes(bad=UNKNOWN)


def _draw_contours(axes: Axes, ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> None:
    if not picture.whole(ds, metric):
        return
    from matplotlib.collections import LineCollection

    a, b = ds["a"].values, ds["b"].values
    colours = _colours()
    written: list[np.ndarray] = []
    for tick, level, lines in contours(ds, metric, scale):
        ink = contour_ink(scale, level)
        axes.add_collection(LineCollection(lines, colors=ink, linewidths=0.6, alpha=0.8, zorder=2), autolim=False)
        spot = label_place(lines, (a[0], a[-1]), (b[0], b[-1]))
        if spot is None:
            continue
        x, y, angle = spot
        share = np.array([(x - a[0]) / (a[-1] - a[0]), (y - b[0]) / (b[-1] - b[0])])
        if any(np.hypot(*(share - other)) < NEAR for other in written):
            continue
        written.append(share)
        back = colours(float(np.clip((level - scale.low) / (scale.high - scale.low), 0, 1)))
        axes.text(
            x, y, tick_label(tick), rotation=np.degrees(angle), rotation_mode="anchor", transform_rotates_text=True,
            ha="center", va="center", fontsize=6, color=ink, zorder=3, clip_on=True,
            bbox={"facecolor": back, "edgecolor": "none", "alpha": 0.9, "boxstyle": "round,pad=0.1"},
        ).set_in_layout(False)  # fmt: skip


def _draw_points(axes: Axes, ds: xr.Dataset, metric: picture.Metric) -> None:
    lost = ~np.isfinite(metric.samples)
    if lost.any():
        a, b = ds["sample_a"].values[lost], ds["sample_b"].values[lost]
        axes.plot(a, b, "x", color=ACCENT, markersize=3.5, markeredgewidth=0.9, zorder=4, label="not finite")
    a, b = ds["marker_a"].values, ds["marker_b"].values
    if picture.trajectory(ds):
        axes.plot(a, b, color=INK, linewidth=1.8, alpha=0.5, zorder=5)
        axes.plot(a, b, color="white", linewidth=0.8, zorder=6)
    named = picture.labelled(ds)
    axes.scatter(a, b, s=np.where(named, 22, 8), facecolor="white", edgecolor=INK, linewidth=0.9, zorder=7)
    axes.scatter(a, b, s=np.where(named, 5, 2), color=ACCENT, linewidth=0, zorder=8)


def _name(axes: Axes, ds: xr.Dataset) -> None:
    spots = np.stack([ds["marker_a"].values, ds["marker_b"].values], -1)
    names = [
        shortened(str(name)) if shown else ""
        for name, shown in zip(ds["marker_name"].values, picture.labelled(ds), strict=True)
    ]
    curves = [traced(axes, *spots.T)] if picture.trajectory(ds) else []
    name_points(axes, spots, names, curves, picture=True)


def _draw_length(axes: Axes, ds: xr.Dataset) -> None:
    """Over the picture, a bar as long as a round distance in weight space, where both axes say their length."""
    bar = picture.length_bar(ds)
    if bar is None:
        return
    far, wide = bar
    high = picture.extent(ds, "a")[1]
    over = axes.get_xaxis_transform()
    axes.plot([high - wide, high], [1.03, 1.03], color=INK, linewidth=1.6, transform=over, clip_on=False,
              solid_capstyle="butt")  # fmt: skip
    axes.text(
        high - 1.08 * wide, 1.03, f"distance of weights {number(far)}", transform=over, ha="right", va="center",
        fontsize=SMALL,
    )  # fmt: skip
