"""The two slices through a point of a plane, along a and along b. Built once; each point changes them in place."""

from __future__ import annotations

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import FixedTicker, Range1d

from landscape_app import picture, plotting
from landscape_app.curve import COLUMNS, MARGIN, curve_data, curve_hover, draw_curve
from landscape_app.scales import Scale
from landscape_app.text import coordinate

HEIGHT = 260
LEFT = 64  # so that both frames begin at the same place
LONGEST = 34
TICKS = 5


class Slices:
    """One metric along each axis of a plane, through one of its points, on the same scale.

    x_range, y_range: the heat map's own, so that a zoom there is a zoom here.
    """

    def __init__(self, x_range: Range1d, y_range: Range1d) -> None:
        height = Range1d(0, 1)
        self.slices = {"a": _Slice("a", x_range, height), "b": _Slice("b", y_range, height)}
        self.panes = [one.pane for one in self.slices.values()]

    def draw(self, ds: xr.Dataset, metric: picture.Metric, log: bool, point: tuple[float, float]) -> None:
        """Show the row and the column of the picture that are nearest to the point."""
        row, column = picture.nearest(ds, point)
        cuts = {"a": (row, slice(None)), "b": (slice(None), column)}
        scale = Scale.of(np.concatenate([metric.values[cut] for cut in cuts.values()]), log)
        value = scale.position(metric.values[row, column])
        for name, other, at in (("a", "b", 0), ("b", "a", 1)):
            one, cut = self.slices[name], cuts[name]
            one.draw_frame(scale, metric, picture.axis_label(ds, name))
            one.figure.title.text = f"Along {name}, at {other} = {coordinate(point[1 - at])}"
            one.line.data = curve_data(
                scale, ds[name].values, metric.values[cut], metric.se[cut], ds["computed"].values[cut]
            )
            one.here.data = {"t": [point[at]], "y": [float(value)]}


class _Slice:
    def __init__(self, name: str, along: Range1d, height: Range1d) -> None:
        self.figure = plotting.new_figure(
            f"slice-{name}",
            x_range=along,
            y_range=height,
            height=HEIGHT,
            title=" ",
            toolbar_location=None,
            min_border_left=LEFT,
        )
        self.line = plotting.empty(*COLUMNS)
        self.here = plotting.empty("t", "y")
        plot = self.figure
        plot.title.update(text_font_size="13px", text_font_style="normal")
        plot.axis.axis_label_text_font_size = "11px"
        plot.yaxis.ticker = FixedTicker(ticks=[])
        plot.vspan(x="t", line_color=plotting.ACCENT, line_width=1.2, line_alpha=0.8, source=self.here)
        curve = draw_curve(plot, self.line)
        plot.scatter("t", "y", size=9, fill_color=plotting.ACCENT, line_color="white", source=self.here)
        plot.add_tools(curve_hover(curve, name))
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")

    def draw_frame(self, scale: Scale, metric: picture.Metric, along: str) -> None:
        plot, margin = self.figure, MARGIN * (scale.high - scale.low)
        plotting.fit(plot.y_range, scale.low - margin, scale.high + margin)
        axis = plot.yaxis[0]
        title = metric.title if len(metric.title) <= LONGEST else f"{metric.title[: LONGEST - 1]}…"
        axis.ticker.ticks = scale.positions[:: 1 + len(scale.positions) // (TICKS + 1)]
        axis.update(major_label_overrides=scale.labels, axis_label=title)
        plot.xaxis[0].axis_label = along
