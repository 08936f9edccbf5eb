"""Paths between two checkpoints over their chord as a figure, each with its barrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from landscape_app.connectivity import picture
from landscape_app.connectivity.picture import CHORD, COLOURS, Path, shortened
from landscape_app.figures.labels import Room, traced
from landscape_app.figures.line import MARGIN, draw_band, set_values, with_band
from landscape_app.figures.style import frame, new_figure, title_lines
from landscape_app.picture import metric_label
from landscape_app.scales import Scale
from landscape_app.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGES = list(COLOURS)
# By stage: how the line is drawn among others, its marker, and how lines on other data are, which have none.
DASHES: list[Any] = [(0, (4, 1.5)), "-", (0, (6, 1, 1, 1)), "-"]
MARKERS = ["o", "s", "^", "D"]
LIGHT: list[Any] = [(0, (3, 1, 1, 1)), (0, (7, 1.5)), (0, (3, 1, 1, 1, 1, 1)), (0, (2, 1))]
LETTER, SIGN = 3.7, 29  # points: of a legend, a letter, and what stands about the words
PALE = 0.5  # of white in the colour of a line on other data
ZERO = 0.25  # of the range: 0 is on the axis where the least value is no farther from it


@dataclass(frozen=True)
class Shown:
    """One line of the figure. style: which of the colours and dashes. main: whether it is what was asked for."""

    path: Path
    label: str
    style: int
    main: bool


def draw_paths(ds: xr.Dataset, metric: str, pair: tuple[int, int], width: float) -> Figure:
    """One metric from the first checkpoint of a pair to the second."""
    paths = shown_paths(ds, metric, pair)
    made = new_figure(width, min(3.0, 0.8 * width))
    axes = made.subplots()
    frame(axes)
    values = [np.concatenate([shown.path.values, shown.path.ends]) for shown in paths]
    values += [with_band(shown.path.values, shown.path.errors, log=False) for shown in paths if shown.main]
    scale = Scale.of(_with_zero(np.concatenate(values)), log=False)
    set_values(axes, scale, MARGIN)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    here, there = (shortened(name) for name in (picture.names(ds)[i] for i in pair))
    axes.set_xlabel(title_lines(f"t, the way from {here} (0) to {there} (1)", width - 0.6))
    about = ds[metric].attrs
    label = metric_label(metric, about["long_name"])
    units = f" [{about['units']}]" if about.get("units", "") not in ("", "1") else ""
    axes.set_ylabel(title_lines(label + units, made.get_figheight() - 0.7))
    alone = len({shown.style for shown in paths}) == 1
    for i, shown in enumerate(paths):
        _draw_path(axes, shown, scale, alone, chord="Chord" if not i else "")
    handles, labels = axes.get_legend_handles_labels()
    handles, labels = (given[1:] + given[:1] for given in (handles, labels))  # the chord last
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=_columns(labels, 72 * width - 20),
                borderaxespad=0.1, columnspacing=1, handlelength=2.6, handletextpad=0.5)  # fmt: skip
    made.draw_without_rendering()
    _draw_heights(axes, paths, picture.units(ds, metric))
    return made


def shown_paths(ds: xr.Dataset, metric: str, pair: tuple[int, int]) -> list[Shown]:
    """The lines of the figure: the metric at each stage, and then the same on the other data sets."""
    found, others = [], picture.siblings(ds, metric)
    for name in (metric, *others):
        data = f", {picture.data_name(ds, name)}" if others else ""
        for i, (stage, label) in enumerate(zip(picture.stages(ds), picture.labels(ds), strict=True)):
            path = picture.path(ds, i, name, *pair)
            style = STAGES.index(stage) if stage in STAGES and not ds.attrs.get("named") else i % len(STAGES)
            found += [Shown(path, label + data, style, name == metric)] if path is not None else []
    return found


def _with_zero(values: np.ndarray) -> np.ndarray:
    """The values, with 0 if they nearly reach it from above: the axis then begins there."""
    finite = values[np.isfinite(values)]
    near = finite.size and 0 < finite.min() < ZERO * np.ptp(finite)
    return np.append(values, 0.0) if near else values


def _columns(labels: list[str], points: float) -> int:
    """Of a legend: as many as have room beside each other."""

    def wide(columns: int) -> float:
        parts = np.array_split(np.array([len(label) for label in labels]), columns)
        return sum(LETTER * part.max() + SIGN for part in parts)

    return next((n for n in range(len(labels), 1, -1) if wide(n) <= points), 1)


def _draw_path(axes: Axes, shown: Shown, scale: Scale, alone: bool, chord: str) -> None:
    """alone: whether all lines are of this stage, which needs no dashes then."""
    path, colour = shown.path, COLOURS[STAGES[shown.style]]
    axes.plot([0, 1], path.ends, color=CHORD, linewidth=0.8, linestyle=":", label=chord, zorder=1)
    if not shown.main:
        axes.plot(path.t, path.values, color=_pale(colour), linestyle=LIGHT[shown.style], linewidth=1,
                  label=shown.label, gid=shown.label)  # fmt: skip
        return
    draw_band(axes, path.t, path.values, path.errors, scale, colour)
    axes.plot(
        path.t, path.values, color=colour, linestyle="-" if alone else DASHES[shown.style], linewidth=1.2,
        marker=MARKERS[shown.style], markersize=2, markerfacecolor=colour if alone or shown.style else "white",
        markeredgewidth=0.6, label=shown.label, gid=shown.label,
    )  # fmt: skip


def _pale(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    return tuple((1 - PALE) * part + PALE for part in to_rgb(colour))


def _draw_heights(axes: Axes, paths: list[Shown], units: str) -> None:
    """A bar from the chord to each barrier, with its height where no line runs."""
    main = [one for one in paths if one.main and np.isfinite(one.path.height)]
    curves = [traced(axes, np.array([0, 1]), np.array(one.path.ends)) for one in paths]
    curves += [traced(axes, one.path.t, one.path.values) for one in paths]
    for one in main:
        path, colour = one.path, COLOURS[STAGES[one.style]]
        axes.plot([path.at] * 2, [path.base, path.top], color=colour, linewidth=2.2, alpha=0.55,
                  solid_capstyle="butt", zorder=1.5)  # fmt: skip
        curves.append(traced(axes, np.array([path.at] * 2), np.array([path.base, path.top])))
        curves += [traced(axes, path.t, path.values + side * path.errors) for side in (-1, 1)]
    room = Room(axes, curves)
    for one in main:
        path, colour = one.path, COLOURS[STAGES[one.style]]
        room.write(f"{number(path.height)}{f' {units}' if units else ''}", path.at, path.base, path.top, colour)
