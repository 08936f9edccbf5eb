"""The curvature along a run as a figure: its eigenvalues beside 2 / learning rate, and with room all else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from landscape_app.figures.line import MARGIN, set_values
from landscape_app.figures.style import apart, frame, new_figure, ticks, title_lines
from landscape_app.trajectory import picture
from landscape_app.trajectory.picture import Chart, Curve, Places

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_trajectory(ds: xr.Dataset, log: bool, width: float) -> Figure:
    """In one column the eigenvalues, in two all charts of which something is known."""
    charts = {name: chart for name, chart in picture.charts(ds, log).items() if chart.curves}
    places = picture.places(ds, log=picture.widening(ds))
    if width < 5:
        made = new_figure(width, 2.6)
        _draw(made.subplots(), charts["eigenvalues"], places, log, 2.6)
        return made
    made = new_figure(width, 3.9 if len(charts) > 3 else 2.2)
    grid = made.subplot_mosaic(_layout(list(charts)), empty_sentinel="")
    for letter, (name, axes) in zip("abcdefg", ((name, grid[name]) for name in charts), strict=False):
        _draw(axes, charts[name], places, log, 1.9)
        axes.annotate(f"({letter})", (0, 1), xycoords="axes fraction", xytext=(-24, 4), textcoords="offset points")
    return made


def _layout(names: list[str]) -> list[list[str]]:
    """Three columns; the first chart takes what the others leave of its row."""
    rest = names[1:]
    above, below = (rest[: len(rest) - 3], rest[len(rest) - 3 :]) if len(rest) > 2 else (rest, [])
    first = [[names[0]] * (3 - len(above)) + above]
    return first + ([below] if below else [])


def _draw(axes: Axes, chart: Chart, places: Places, log: bool, tall: float) -> None:
    frame(axes)
    scale = picture.scale(chart, log)
    set_values(axes, scale, MARGIN)
    low, high = places.at[0], places.at[-1]
    axes.set_xlim(low - 0.03 * (high - low or 1), high + 0.03 * (high - low or 1))
    wide = axes.get_subplotspec().get_position(axes.figure).width * axes.figure.get_figwidth()
    ticks(axes.xaxis, places.ticks, apart(places.ticks, list(places.labels.values()), high - low or 1, wide, True))
    axes.set_xlabel(places.title)
    axes.set_ylabel(title_lines(chart.axis, tall - 0.4))
    for curve in chart.curves:
        _draw_curve(axes, curve, places)
    labels = [curve.label for curve in chart.curves if curve.label]
    if labels:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(labels), borderaxespad=0.1, columnspacing=0.8,
                    handletextpad=0.4, handlelength=1.3)  # fmt: skip


def _draw_curve(axes: Axes, curve: Curve, places: Places) -> None:
    known = np.isfinite(curve.values) | curve.gaps
    at, values = places.at[known], curve.values[known]
    look: dict[str, Any] = {"color": curve.colour, "alpha": 1.0 if curve.strong else 0.45}
    style = (0, (4, 2)) if curve.dashed else "-"
    width = 1.1 if curve.strong else 0.7
    axes.plot(at, values, linestyle=style, linewidth=width, label=curve.label, gid=curve.name, **look)
    if curve.limit:
        return
    if curve.errors is not None:
        bars = np.nan_to_num(curve.errors[known])
        axes.errorbar(at, values, yerr=bars, linestyle="none", elinewidth=0.8, **look)
    settled = np.ones(len(at), dtype=bool) if curve.settled is None else curve.settled[known]
    for which, fill in ((settled, curve.colour), (~settled, "white")):
        axes.plot(at[which], values[which], "o", markersize=2.6 if curve.strong else 1.8, markeredgewidth=0.7,
                  markerfacecolor=fill, **look)  # fmt: skip
