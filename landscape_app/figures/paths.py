"""A path between two checkpoints over its chord as a figure, as they are and matched, with its barriers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from landscape_app.connectivity import picture
from landscape_app.connectivity.picture import CHORD, COLOURS, DASHES, SAYS, Path, shortened
from landscape_app.figures.line import MARGIN, draw_band, set_values, with_band
from landscape_app.figures.style import SMALL, frame, new_figure, title_lines
from landscape_app.picture import metric_label
from landscape_app.scales import Scale
from landscape_app.text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHED: dict[str, Any] = {"dashed": (0, (4, 2)), "solid": "-", "dotdash": "-."}
LOW = 0.15  # of the picture's height: beside a lower barrier its number has no room


@dataclass(frozen=True)
class Shown:
    """One line of the figure. split: the data set it is on, '' for the main one."""

    path: Path
    stage: str
    split: str = ""

    @property
    def label(self) -> str:
        return SAYS[self.stage] + (f", on {self.split}" if self.split else "")


def draw_paths(ds: xr.Dataset, metric: str, pair: tuple[int, int], width: float) -> Figure:
    """One metric from the first checkpoint of a pair to the second."""
    paths = list(_paths(ds, metric, pair))
    made = new_figure(width, min(3.0, 0.8 * width))
    axes = made.subplots()
    frame(axes)
    values = [np.concatenate([shown.path.values, shown.path.ends]) for shown in paths]
    values += [with_band(shown.path.values, shown.path.errors, log=False) for shown in paths if not shown.split]
    scale = Scale.of(np.concatenate(values), log=False)
    set_values(axes, scale, MARGIN)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    here, there = (shortened(name) for name in (picture.names(ds)[i] for i in pair))
    axes.set_xlabel(title_lines(f"t, the way from {here} (0) to {there} (1)", width - 0.6))
    about = ds[metric].attrs
    label = metric_label(metric, about["long_name"])
    units = f" [{about['units']}]" if about.get("units", "") not in ("", "1") else ""
    axes.set_ylabel(title_lines(label + units, made.get_figheight() - 0.7))
    for i, shown in enumerate(paths):
        _draw_path(axes, shown, scale, chord="Chord" if not i else "")
    said = "" if about.get("units") in ("", "1", "fraction", None) else f" {about['units']}"
    _draw_heights(axes, [shown for shown in paths if not shown.split and np.isfinite(shown.path.height)], said)
    columns = 5 if width > 5 else 3 if len(paths) < 3 else 2
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.1, columnspacing=1,
                handletextpad=0.5)  # fmt: skip
    return made


def _paths(ds: xr.Dataset, metric: str, pair: tuple[int, int]) -> list[Shown]:
    found = []
    for name, split in {metric: "", **picture.siblings(ds, metric)}.items():
        for i, stage in enumerate(picture.stages(ds)):
            path = picture.path(ds, i, name, *pair)
            found += [Shown(path, stage, split)] if path is not None else []
    return found


def _draw_path(axes: Axes, shown: Shown, scale: Scale, chord: str) -> None:
    path, colour = shown.path, COLOURS[shown.stage]
    strong = not shown.split
    axes.plot([0, 1], path.ends, color=CHORD, linewidth=0.8, linestyle=":", label=chord, zorder=1)
    if strong:
        draw_band(axes, path.t, path.values, path.errors, scale, colour)
    axes.plot(
        path.t, path.values, color=colour, linestyle=DASHED[DASHES[shown.stage]],
        linewidth=1.2 if strong else 0.8, alpha=1 if strong else 0.55, marker="o" if strong else "", markersize=1.8,
        label=shown.label, gid=shown.label,
    )  # fmt: skip


def _draw_heights(axes: Axes, shown: list[Shown], units: str) -> None:
    """A bar from the chord to each barrier, with its height beside it."""
    low, high = axes.get_ylim()
    for one in shown:
        path, colour = one.path, COLOURS[one.stage]
        axes.plot([path.at] * 2, [path.base, path.top], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt")
        left, short = path.at > 0.5, abs(path.top - path.base) < LOW * (high - low)
        error = float(np.interp(path.at, path.t, np.nan_to_num(path.errors)))
        place = path.top + error if short else (path.base + path.top) / 2
        axes.annotate(
            f"{number(path.height)}{units}", (path.at, place), xytext=(-4 if left else 4, 2 if short else 0),
            textcoords="offset points", ha="right" if left else "left", va="bottom" if short else "center",
            fontsize=SMALL, color=colour, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "boxstyle": "round,pad=0.1"},
        )  # fmt: skip
