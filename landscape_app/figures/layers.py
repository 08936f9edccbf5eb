"""What each layer adds to the loss half-way between two checkpoints as a figure: bars beside those of random moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from landscape_app.colours import INK
from landscape_app.connectivity.picture import layer_bars, layer_label, shortened
from landscape_app.figures.style import TALLEST, coordinates, frame, new_figure, title_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW, ABOUT = 0.26, 0.9  # inches: of a layer, and about the bars


def draw_layers(ds: xr.Dataset, metric: str, width: float) -> Figure:
    """One metric: each layer alone, beside its control; lines reach from the least to the most."""
    layers = [str(name) for name in ds["layer"].values]
    made = new_figure(width, min(TALLEST, ABOUT + ROW * len(layers)))
    axes = made.subplots()
    frame(axes)
    axes.grid(visible=False)
    places, reach = np.arange(len(layers)), [0.0]
    for bar, aside in zip(layer_bars(ds, metric, together=False), (-0.2, 0.2), strict=True):
        axes.barh(places + aside, bar.mean, 0.36, color=bar.colour, label=bar.label)
        axes.hlines(places + aside, bar.low, bar.high, color=INK, linewidth=0.8)
        reach += [np.nanmin(bar.low, initial=0.0), np.nanmax(bar.high, initial=0.0)]
    axes.set_yticks(places, [shortened(name) for name in layers])
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    coordinates(axes.xaxis, min(reach), max(reach) or 1.0, most=5)
    axes.set_xlabel(title_lines(layer_label(ds, metric), width - 0.8))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2 if width > 5 else 1, borderaxespad=0.1)
    return made
