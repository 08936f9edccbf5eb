"""A spectrum as a figure: the density of all eigenvalues, and a stem with its bar for each that is known by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape_app.figures.line import MARGIN, set_values
from landscape_app.figures.style import QUIET, SMALL, coordinates, frame, new_figure, title_lines
from landscape_app.scales import Scale
from landscape_app.spectrum import picture
from landscape_app.spectrum.picture import COLOURS, DENSITY, STEMS, UNITS, Spectrum
from landscape_app.spectrum.request import MATRICES
from landscape_app.text import eigenvalue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDWIDTH = 0.01  # of the picture's width, as on the page
HIGH, LOW = 0.36, 0.05  # of the height, where the heads of the stems stand: the largest highest, as on the page
ALONE = 0.8  # of the height, where there is no density
MOST_NAMED = 12
BACK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "boxstyle": "round,pad=0.05"}


def draw_spectrum(parts: list[Spectrum], log: bool, width: float) -> Figure:
    """All panels of a result, with common axes."""
    reach = picture.span(parts)
    lowest = picture.floor(parts, reach, BANDWIDTH) if log else 0.0
    curves = [picture.curve(part, reach, BANDWIDTH) for part in parts]
    heights = np.concatenate([heights for _, heights in curves])
    scale = Scale.of(np.append(np.maximum(heights, lowest), lowest) if heights.size else np.array([np.nan]), log)
    groups = picture.panels(parts)
    columns = 1 if len(groups) == 1 else 2 if width < 5 else min(4, len(groups))
    rows = -(-len(groups) // columns)
    tall = min(2.6, 0.66 * width) if len(groups) == 1 else 1.35 * rows + 0.6
    tall = tall if heights.size else tall * 0.7
    made = new_figure(width, tall)
    grid = made.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.ravel()[len(groups) :]:
        axes.set_visible(False)
    for axes in grid.ravel()[max(0, len(groups) - columns) : len(groups)]:
        axes.tick_params(labelbottom=True)
    for axes, (name, places) in zip(grid.ravel(), groups.items(), strict=False):
        _draw(axes, name, [(parts[i], curves[i]) for i in places], scale, lowest, reach)
        coordinates(axes.xaxis, *reach, most=8 if width / columns > 2.5 else 4)
    if heights.size:
        made.supylabel(title_lines(DENSITY, max(2, tall - 0.4)), fontsize=8)
    else:
        grid[0, 0].set_yticks([])
        grid[0, 0].spines["left"].set_visible(False)
    if len({part.matrix for part in parts}) > 1:
        handles, labels = grid[0, 0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper right", ncols=len(labels), columnspacing=1)
    made.supxlabel(f"Eigenvalue [{UNITS}]", fontsize=8)
    return made


def _draw(
    axes: Axes,
    name: str,
    shown: list[tuple[Spectrum, tuple[np.ndarray, np.ndarray]]],
    scale: Scale,
    lowest: float,
    reach: tuple[float, float],
) -> None:
    frame(axes)
    axes.set_xlim(*reach)
    set_values(axes, scale, MARGIN)
    axes.axvline(0, color=QUIET, linewidth=0.6, linestyle=(0, (2, 2)))
    if name:
        axes.set_title(name, loc="left", fontsize=SMALL)
    for part, (at, heights) in shown:
        if at.size:
            values, floor = np.maximum(heights, lowest), 10**scale.low if scale.log else 0.0
            axes.fill_between(at, floor, values, color=COLOURS[part.matrix], alpha=0.2, linewidth=0)
            label = MATRICES[part.matrix][:1].upper() + MATRICES[part.matrix][1:]
            axes.plot(at, values, color=COLOURS[part.matrix], linewidth=1, label=label)
        _draw_stems(axes, part, HIGH if at.size else ALONE, named=len(shown) == 1 and not name)


def _draw_stems(axes: Axes, part: Spectrum, high: float, named: bool) -> None:
    """Heads at different heights, so that the bars of neighbours are told apart; open where not converged."""
    colour, upright = STEMS[part.matrix], axes.get_xaxis_transform()
    largest = int((part.ends == "largest").sum())
    order = np.argsort(-part.values)
    for pair, top in zip(order, np.linspace(high, LOW, max(2, len(order))), strict=False):
        value, bound, settled = part.values[pair], part.bounds[pair], bool(part.converged[pair])
        style = "-" if settled else (0, (3, 2))
        axes.plot([value] * 2, [0, top], color=colour, linewidth=0.9, linestyle=style, transform=upright, zorder=3)
        axes.errorbar(
            value, top, xerr=bound, color=colour, marker="o", markersize=3.2, markeredgewidth=0.9, capsize=2,
            elinewidth=0.9, markerfacecolor=colour if settled else "white", transform=upright, zorder=4,
        )  # fmt: skip
        if named and len(order) <= MOST_NAMED:
            axes.annotate(
                eigenvalue(int(pair), largest), (value, top), xycoords=upright, xytext=(0, 3),
                textcoords="offset points", fontsize=SMALL, ha="center", bbox=BACK, va="bottom", zorder=5,
            )  # fmt: skip
