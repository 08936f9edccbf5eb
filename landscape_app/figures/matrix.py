"""The barriers between all pairs of checkpoints as a figure: a heat map with its numbers, as they are and matched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from landscape_app.colours import INK
from landscape_app.connectivity import picture
from landscape_app.connectivity.picture import BRIGHT, SAYS, shortened
from landscape_app.figures.style import SMALL, TALLEST, UNKNOWN, fit_height, new_figure, title_lines
from landscape_app.picture import metric_label
from landscape_app.scales import linear_ticks, tick_label
from landscape_app.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_CELL = 0.21  # inches: smaller ones hold no number


def draw_matrices(ds: xr.Dataset, metric: str, width: float) -> Figure:
    """One matrix for each stage, on one scale of colours: side by side where there is room."""
    names, shown = _matrices(ds, metric)
    values = np.concatenate([heights[np.isfinite(heights)] for heights in shown.values()])
    low, high = (min(0.0, *values), max(*values, 1e-12, 0.0)) if values.size else (0.0, 1.0)
    columns = len(shown) if width > 5 else 1
    rows = -(-len(shown) // columns)
    made = new_figure(width, min(TALLEST, rows * (width / columns + 0.5)))
    grid = made.subplots(rows, columns, squeeze=False).ravel()
    cell = (width / columns - 1.6) / len(names)
    for i, (axes, (title, heights)) in enumerate(zip(grid, shown.items(), strict=True)):
        mesh = _draw(axes, names, heights, (low, high), cell)
        axes.set_title(title, loc="left")
        if i % columns:
            axes.tick_params(labelleft=False)
        if i % columns == columns - 1:
            _draw_bar(axes, mesh, _label(ds, metric), linear_ticks(low, high))
    fit_height(made)
    return made


def _matrices(ds: xr.Dataset, metric: str) -> tuple[list[str], dict[str, np.ndarray]]:
    stages = picture.stages(ds)
    title = SAYS if len(stages) > 1 else dict.fromkeys(stages, "")
    return picture.names(ds), {title[stage]: picture.matrix(ds, i, metric) for i, stage in enumerate(stages)}


def _label(ds: xr.Dataset, metric: str) -> str:
    about = ds[metric].attrs
    what = metric_label(metric, about["long_name"])
    return f"Barrier of the {what[:1].lower()}{what[1:]} [{about['units']}]"


def _draw_bar(axes: Axes, mesh: Any, label: str, places: list[float]) -> None:
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1.03, 0, 0.05, 1)))
    bar.outline.set_visible(False)
    bar.set_ticks(places, labels=[tick_label(place) for place in places])
    bar.set_label(title_lines(label, 2.1))


def _draw(axes: Axes, names: list[str], heights: np.ndarray, reach: tuple[float, float], cell: float) -> Any:
    from matplotlib import colormaps

    n = len(names)
    colours = colormaps["viridis"].with_extremes(bad="none")
    low, high = reach
    mesh = axes.pcolormesh(
        np.arange(n), np.arange(n), np.ma.masked_invalid(heights), vmin=low, vmax=high, cmap=colours,
        shading="nearest", edgecolor="white", linewidth=0.8,
    )  # fmt: skip
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    labels = [shortened(name) for name in names]
    axes.set_xticks(range(n), labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), labels)
    for row, column in np.ndindex(heights.shape):
        value = heights[row, column]
        if row == column:
            continue
        if np.isnan(value):
            axes.fill_between([column - 0.46, column + 0.46], row - 0.46, row + 0.46, color=UNKNOWN, linewidth=0)
        elif cell >= LEAST_CELL:
            ink = INK if (value - low) / (high - low) > BRIGHT else "white"
            size = min(SMALL, 32 * cell / 2)
            axes.text(column, row, number(value), ha="center", va="center", fontsize=size, color=ink)
    return mesh
