"""What each layer, and layers together, add to the loss half-way between two checkpoints, as bars."""

from __future__ import annotations

from typing import Any

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import FixedTicker, HoverTool, Legend, LegendItem, Range1d

from landscape_app import look, plotting
from landscape_app.connectivity.picture import Bars, layer_bars, layer_label, shortened
from landscape_app.curve import MARGIN
from landscape_app.scales import Scale

ROW, FRAME, MOST = 38, 112, 1400  # pixels: of a layer, about the bars, altogether
COLUMNS = ("y", "value", "low", "high", "colour", "layer", "what")


class LayersChart:
    """Two bars a layer, with the extremes of what each is the mean of."""

    def __init__(self) -> None:
        self.x_range = Range1d(0, 1)
        self.figure = plot = plotting.new_figure(
            "connectivity-layers", x_range=self.x_range, y_range=Range1d(0.5, -0.5), height=FRAME + ROW,
            toolbar_location=None, tools="",
        )  # fmt: skip
        plot.ygrid.visible = False
        plot.xaxis.ticker, plot.yaxis.ticker = FixedTicker(ticks=[]), FixedTicker(ticks=[])
        plot.yaxis.update(major_tick_line_color=None, axis_line_color=None)
        self.bars = plotting.empty(*COLUMNS)
        self.drawn = plot.hbar(y="y", left=0, right="value", height=0.36, color="colour", source=self.bars)
        plot.segment(
            "low", "y", "high", "y", line_color=plotting.INK, line_alpha=0.75, line_width=1.5, source=self.bars
        )
        for end in ("low", "high"):
            plot.scatter(end, "y", size=4, color=plotting.INK, alpha=0.75, source=self.bars)
        self.legend = Legend(
            items=[], padding=2, margin=2, spacing=0, glyph_width=16, label_standoff=4,
            label_text_font_size="12px", background_fill_alpha=0, border_line_color=None,
        )  # fmt: skip
        plot.add_layout(self.legend, "above")
        said = {name: plotting.digits(3) for name in ("@value", "@low", "@high")}
        plot.add_tools(
            HoverTool(
                renderers=[self.drawn],
                tooltips=[
                    ("layer", "@layer"), ("", "@what"), ("mean", "@value{custom}"),
                    ("least to most", "@low{custom} to @high{custom}"),
                ],
                formatters=said,
                visible=False,
            )
        )  # fmt: skip
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")
        self.box = look.column()

    def draw(self, ds: xr.Dataset, metric: str, together: bool) -> None:
        """Show one metric: each layer alone beside its control, or layers together from either side."""
        layers = [str(name) for name in ds["layer"].values]
        bars, plot, n = layer_bars(ds, metric, together), self.figure, len(layers)
        values = np.concatenate([[0.0], *(part for bar in bars for part in (bar.low, bar.high))])
        scale = Scale.of(values, log=False)
        margin = MARGIN * (scale.high - scale.low)
        plotting.fit(self.x_range, scale.low - (margin if scale.low < 0 else 0), scale.high + margin)
        plotting.fit(plot.y_range, n - 0.5, -0.5)
        plot.height = min(MOST, FRAME + ROW * n)
        plot.yaxis[0].ticker.ticks = list(range(n))
        plot.yaxis[0].major_label_overrides = {i: shortened(name) for i, name in enumerate(layers)}
        plot.xaxis[0].ticker.ticks = scale.positions
        plot.xaxis[0].update(major_label_overrides=scale.labels, axis_label=plotting.wrapped(layer_label(ds, metric)))
        rows = [row for place, bar in enumerate(bars) for row in _rows(place, bar, layers)]
        self.bars.data = {column: [row[column] for row in rows] for column in COLUMNS}
        self._name([bar.label for bar in bars], n)

    def _name(self, labels: list[str], n: int) -> None:
        named = [(label, place * n) for place, label in enumerate(labels)]
        if named != [(item.label.value, item.index) for item in self.legend.items]:
            self.legend.items = [LegendItem(label=label, renderers=[self.drawn], index=i) for label, i in named]


def _rows(place: int, bar: Bars, layers: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "y": i + (-0.2, 0.2)[place],
            "value": bar.mean[i],
            "low": bar.low[i],
            "high": bar.high[i],
            "colour": bar.colour,
            "layer": layer,
            "what": bar.label,
        }
        for i, layer in enumerate(layers)
    ]
