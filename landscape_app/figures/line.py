"""A line as a figure: the curve with its band, and the checkpoints by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from landscape_app import picture
from landscape_app.colours import ACCENT, CURVE, INK
from landscape_app.connectivity.picture import shortened
from landscape_app.figures.labels import name_points, traced
from landscape_app.figures.style import apart, coordinates, frame, new_figure, ticks, title_lines
from landscape_app.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARGIN = 0.06


def draw_line(ds: xr.Dataset, metric: picture.Metric, scale: Scale, width: float) -> Figure:
    """One metric along a line; of a mean over seeds the band is their standard deviation."""
    made = new_figure(width, min(3.0, 0.72 * width))
    axes = made.subplots()
    frame(axes)
    set_values(axes, scale)
    axes.set_xlim(*picture.extent(ds, "t"))
    coordinates(axes.xaxis, *picture.extent(ds, "t"))
    axes.set_xlabel(title_lines(picture.axis_label(ds, "t"), width - 0.6))
    axes.set_ylabel(title_lines(metric.title, made.get_figheight() - 0.6))
    t, over_seeds = ds["t"].values, metric.over == "mean"
    for i, one in enumerate(metric.each if metric.each is not None else ()):
        axes.plot(t, one, color=CURVE, linewidth=0.6, alpha=0.5, label="" if i else "each seed")
    draw_band(axes, t, metric.values, metric.se, scale)
    axes.plot(t, metric.values, color=CURVE, label="mean ± standard deviation" if over_seeds else "", gid="curve")
    lost = ~np.isfinite(metric.samples)
    if lost.any():
        floor = np.full(lost.sum(), axes.get_ylim()[0])
        axes.plot(ds["sample_t"].values[lost], floor, "x", color=ACCENT, markersize=3.5, clip_on=False)
    _draw_checkpoints(axes, ds, metric)
    if over_seeds:
        axes.legend(loc="best", reverse=True)
    made.draw_without_rendering()
    spots = np.stack([ds["marker_t"].values, picture.at_checkpoints(ds, metric)], -1)
    known = np.isfinite(scale.position(spots[:, 1]))
    names = [shortened(str(name)) for name in ds["marker_name"].values[known]]
    name_points(axes, spots[known], names, [traced(axes, t, metric.values)])
    return made


def with_band(values: np.ndarray, error: np.ndarray, log: bool) -> np.ndarray:
    """The values that a scale has to reach for a band to lie within it; down to 0 no logarithmic one can."""
    edges = [values + error] if log else [values + error, values - error]
    return np.concatenate([edge.ravel() for edge in edges])


def set_values(axes: Axes, scale: Scale, top: float = 2 * MARGIN) -> None:
    """The vertical axis: the limits and ticks of the scale, with room above and below."""
    height = scale.high - scale.low
    low, high = scale.low - MARGIN * height, scale.high + top * height
    if scale.log:
        axes.set_yscale("log")
        low, high = 10**low, 10**high
    axes.set_ylim(low, high)
    tall = 0.7 * axes.figure.get_figheight() / axes.get_gridspec().nrows
    ticks(axes.yaxis, scale.ticks, apart(scale.positions, list(scale.labels.values()), height, tall, letters=False))


def draw_band(
    axes: Axes, t: np.ndarray, values: np.ndarray, error: np.ndarray, scale: Scale, colour: str = CURVE
) -> None:
    """One standard error either way; where the lower edge has no logarithm, it lies below the axis."""
    if not np.isfinite(error).any():
        return
    low = values - error
    if scale.log:
        low = np.where(low > 0, low, 10 ** (scale.low - 1))
    axes.fill_between(t, low, values + error, color=colour, alpha=0.22, linewidth=0)


def _draw_checkpoints(axes: Axes, ds: xr.Dataset, metric: picture.Metric) -> None:
    t, own = ds["marker_t"].values, picture.at_checkpoints(ds, metric)
    axes.scatter(t, own, s=22, facecolor="white", edgecolor=INK, linewidth=0.9, zorder=7, clip_on=False)
    axes.scatter(t, own, s=5, color=ACCENT, linewidth=0, zorder=8, clip_on=False)
