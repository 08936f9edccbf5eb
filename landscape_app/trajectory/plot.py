"""Curves along a run on charts with one common axis. Each result changes them in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import panel as pn
import xarray as xr
from bokeh.events import Tap
from bokeh.models import FixedTicker, HoverTool, Legend, LegendItem, Range1d

from landscape_app import look, plotting
from landscape_app.checkpoints.shelf import colours
from landscape_app.curve import MARGIN
from landscape_app.scales import Scale
from landscape_app.trajectory import picture
from landscape_app.trajectory.picture import Chart, Curve, Places

TALL, SMALL = 360, 230
RUG = 0.025  # of the height, from the bottom: the marks of the checkpoints
LEFT = 64  # so that the frames begin at the same place
MOST_TICKS = {TALL: 9, SMALL: 5}
LINES = ("xs", "ys", "colour", "alpha", "dash", "width")
POINTS = ("x", "y", "low", "high", "fill", "line", "size", "alpha", "name", "value", "error", "checkpoint", "said")


class TrajectoryPlot:
    """The eigenvalues in a large chart, all else in small ones beneath. The charts are made once."""

    def __init__(self, tapped: Callable[[int], None]):
        self.tapped = tapped
        self.x_range = Range1d(0, 1)
        self.charts = {"eigenvalues": _Chart("eigenvalues", self.x_range, TALL, self._tap)}
        for name in ("stability", "trace", "vectors", "loss"):
            self.charts[name] = _Chart(name, self.x_range, SMALL, self._tap)
        large, *small = (chart.box for chart in self.charts.values())
        self.view = look.column(large, look.pair(*small))
        self._places: Places | None = None

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        return [chart.pane for chart in self.charts.values()]

    def draw(self, ds: xr.Dataset, log: bool, log_steps: bool, chosen: int | None) -> None:
        """Show a result, with a line at the chosen checkpoint."""
        self._places = places = picture.places(ds, log_steps)
        reach = places.at[-1] - places.at[0]
        margin = 0.03 * (reach or 1.0)
        plotting.fit(self.x_range, places.at[0] - margin, places.at[-1] + margin)
        here = [] if chosen is None else [chosen]
        for name, chart in picture.charts(ds, log).items():
            own = self.charts[name]
            own.box.visible = bool(chart.curves)
            own.draw(chart, places, ds, log, here)
            if own.box.visible and not len(own.box):
                own.box.append(own.pane)

    def _tap(self, x: float | None) -> None:
        if x is not None and self._places is not None and self.x_range.start <= x <= self.x_range.end:
            self.tapped(int(np.abs(self._places.at - x).argmin()))


class _Chart:
    def __init__(self, name: str, x_range: Range1d, height: int, tap: Callable[[float | None], None]):
        self.height = height
        self.y_range = Range1d(0, 1)
        self.figure = plotting.new_figure(
            f"trajectory-{name}",
            x_range=x_range,
            y_range=self.y_range,
            height=height,
            title=" ",
            min_border_left=LEFT,
            toolbar_location="above" if height == TALL else None,
        )
        self.lines, self.points = plotting.empty(*LINES), plotting.empty(*POINTS)
        self.here = plotting.empty("x", "colour")
        self.rug = plotting.empty("x", "y", "colour")
        plot = self.figure
        plot.title.update(text_font_size="13px", text_font_style="normal", visible=height != TALL)
        plot.xaxis.ticker, plot.yaxis.ticker = FixedTicker(ticks=[]), FixedTicker(ticks=[])
        plot.xgrid.visible = False
        plot.vspan(x="x", line_color="colour", line_width=1.6, line_alpha=0.9, source=self.here)
        plot.multi_line(
            "xs", "ys", line_color="colour", line_alpha="alpha", line_dash="dash", line_width="width", source=self.lines
        )
        plot.segment("x", "low", "x", "high", line_color="line", line_width=1.4, line_alpha="alpha", source=self.points)
        dots = plot.scatter(
            "x", "y", size="size", fill_color="fill", line_color="line", fill_alpha="alpha", line_alpha="alpha",
            line_width=1.4, source=self.points,
        )  # fmt: skip
        if height == TALL:
            plot.scatter("x", "y", size=9, color="colour", line_color="white", line_width=1.5, source=self.rug)
        self.legend = Legend(
            items=[], orientation="horizontal", padding=2, margin=2, spacing=12, glyph_width=18, label_standoff=4,
            label_text_font_size="12px", background_fill_alpha=0, border_line_color=None, visible=False,
        )  # fmt: skip
        plot.add_layout(self.legend, "above")
        plot.add_tools(
            HoverTool(
                renderers=[dots],
                tooltips=[("", "@checkpoint"), ("@name", "@value{custom}@error"), ("", "@said")],
                formatters={"@value": plotting.digits(4)},
                visible=False,
            )
        )
        plot.on_event(Tap, lambda event: tap(event.x))
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")
        self.box = look.column()  # the figure comes in once it is drawn: until then it has no layout to change

    def draw(self, chart: Chart, places: Places, ds: xr.Dataset, log: bool, here: list[int]) -> None:
        plot, scale = self.figure, picture.scale(chart, log)
        margin = MARGIN * (scale.high - scale.low)
        plotting.fit(self.y_range, scale.low - margin, scale.high + margin)
        plot.title.text = chart.title
        every = 1 + len(scale.positions) // (MOST_TICKS[self.height] + 1)
        plot.yaxis[0].ticker.ticks = scale.positions[::every]
        plot.yaxis[0].update(major_label_overrides=scale.labels, axis_label=chart.axis)
        plot.xaxis[0].ticker.ticks = places.ticks
        plot.xaxis[0].update(major_label_overrides=places.labels, axis_label=places.title)
        self.lines.data = lines(chart.curves, places, scale)
        self.points.data = points(chart.curves, places, scale, [str(name) for name in ds["name"].values])
        own = np.array(colours(ds, "checkpoint"), dtype=object)
        self.here.data = {"x": places.at[here], "colour": own[here]}
        low, high = self.y_range.reset_start, self.y_range.reset_end
        self.rug.data = {"x": places.at, "y": np.full(len(own), low + RUG * (high - low)), "colour": own}
        self._name(chart.curves)

    def _name(self, curves: list[Curve]) -> None:
        named = [(curve.label, i) for i, curve in enumerate(curves) if curve.label]
        self.legend.visible = bool(named)
        if named != [(item.label.value, item.index) for item in self.legend.items]:
            line = self.figure.renderers[1]
            self.legend.items = [LegendItem(label=label, renderers=[line], index=i) for label, i in named]


def lines(curves: list[Curve], places: Places, scale: Scale) -> dict[str, list]:
    """One line a curve, whole over checkpoints that are not known yet, unless it has gaps."""
    rows = []
    for curve in curves:
        known = np.isfinite(curve.values) | curve.gaps
        rows.append(
            {
                "xs": places.at[known],
                "ys": scale.position(curve.values[known]),
                "colour": curve.colour,
                "alpha": 1.0 if curve.strong else 0.45,
                "dash": "dashed" if curve.dashed else "solid",
                "width": 2.0 if curve.strong else 1.3,
            }
        )
    return {column: [row[column] for row in rows] for column in LINES}


def points(curves: list[Curve], places: Places, scale: Scale, names: list[str]) -> dict[str, list]:
    """A point with its bar for each value that was measured; an open one for what is not converged."""
    rows = []
    for curve in (curve for curve in curves if not curve.limit):
        at = np.flatnonzero(np.isfinite(curve.values))
        values = curve.values[at]
        errors = np.zeros(len(at)) if curve.errors is None else np.nan_to_num(curve.errors[at])
        settled = np.ones(len(at), dtype=bool) if curve.settled is None else curve.settled[at]
        y, high, low = (scale.position(v) for v in (values, values + errors, values - errors))
        low = np.where(np.isfinite(low), low, scale.low - 1.0)
        for i, place in enumerate(at):
            rows.append(
                {
                    "x": places.at[place],
                    "y": y[i],
                    "low": low[i],
                    "high": high[i],
                    "fill": curve.colour if settled[i] else "white",
                    "line": curve.colour,
                    "size": 6 if curve.strong else 4,
                    "alpha": 1.0 if curve.strong else 0.45,
                    "name": curve.name,
                    "value": values[i],
                    "error": f" ± {errors[i]:.2g}" if errors[i] else "",
                    "checkpoint": names[place],
                    "said": "" if settled[i] else "not converged",
                }
            )
    return {column: [row[column] for row in rows] for column in POINTS}
