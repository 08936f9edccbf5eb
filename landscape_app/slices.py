"""The two slices through a point of a plane, along a and along b. Built once; each point changes them in place."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import FixedTicker, Legend, LegendItem, Range1d

from landscape_app import picture, plotting
from landscape_app.curve import COLUMNS, MARGIN, RADIUS, curve_data, curve_hover, draw_curve
from landscape_app.scales import Scale
from landscape_app.text import coordinate

HEIGHT = 236
LEFT = 64  # so that both frames begin at the same place
LONGEST = 34
SECOND = "#cc79a7"
PROMISED = "#009e73"
TICKS = 5


class Slices:
    """One metric along each axis of a plane, through one of its points, on the same scale.

    x_range, y_range: the heat map's own, so that a zoom there is a zoom here.
    """

    def __init__(self, x_range: Range1d, y_range: Range1d) -> None:
        height = Range1d(0, 1)
        self.slices = {"a": _Slice("a", x_range, height), "b": _Slice("b", y_range, height)}
        self.panes = [one.pane for one in self.slices.values()]

    def draw(
        self,
        ds: xr.Dataset,
        metric: picture.Metric,
        log: bool,
        point: tuple[float, float],
        second: tuple[xr.Dataset, picture.Metric] | None = None,
        radii: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        """Show the row and the column of the picture that are nearest to the point; dashed, those of a second one.

        An axis along an eigenvector has its parabola, on the slice through the centre. radii: the softmax radius about
        the point, (low, high) of each axis.
        """
        row, column = picture.nearest(ds, point)
        cuts = _cuts(row, column)
        spanned = [metric.values[cut] for cut in cuts.values()]
        dashed = {}
        if second is not None:
            other, shown = second
            there = _cuts(*picture.nearest(other, point))
            dashed = {name: (other[name].values, shown.values[there[name]]) for name in "ab"}
            spanned += [values for _, values in dashed.values()]
        scale = Scale.of(np.concatenate(spanned), log)
        value = scale.position(metric.values[row, column])
        for name, other, at in (("a", "b", 0), ("b", "a", 1)):
            one, cut = self.slices[name], cuts[name]
            one.draw_frame(scale, metric, picture.axis_label(ds, name))
            one.figure.title.text = f"Along {name}, at {other} = {coordinate(point[1 - at])}"
            one.line.data = curve_data(
                scale, ds[name].values, metric.values[cut], metric.se[cut], ds["computed"].values[cut]
            )
            places, values = dashed.get(name, ((), np.empty(0)))
            one.second.data = {"t": places, "y": scale.position(values)}
            one.here.data = {"t": [point[at]], "y": [float(value)]}
            promise = picture.parabola(ds, name)
            central = abs(point[1 - at]) <= picture.spacing(ds)[1 - at] / 2
            if promise is None or promise.metric != metric.key or not central:
                promise = None
            one.draw_parabola(promise, scale, ds[name].values, metric.values[cut])
            plotting.shade(one.radius, (radii or {}).get(name), picture.extent(ds, name))
            one.draw_names(second is not None, promise is not None, radii is not None)


def _cuts(row: int, column: int) -> dict[str, tuple]:
    return {"a": (row, slice(None)), "b": (slice(None), column)}


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
        self.second = plotting.empty("t", "y")
        self.parabola = plotting.empty("t", "y")
        plot = self.figure
        self.radius, radius = plotting.shading(plot, RADIUS)
        self.held, _ = plotting.shading(plot, PROMISED)
        plot.title.update(text_font_size="13px", text_font_style="normal")
        plot.axis.axis_label_text_font_size = "11px"
        plot.yaxis.ticker = FixedTicker(ticks=[])
        plot.vspan(x="t", line_color=plotting.ACCENT, line_width=1.2, line_alpha=0.8, source=self.here)
        _, curve = draw_curve(plot, self.line)
        dashed = plot.line("t", "y", line_color=SECOND, line_width=2, line_dash=[6, 4], source=self.second)
        promised = plot.line("t", "y", line_color=PROMISED, line_width=2, line_dash=[5, 4], source=self.parabola)
        items = {"A": curve, "B": dashed, "Parabola": promised, "Softmax radius": radius}
        self.items = [LegendItem(label=name, renderers=[drawn], visible=False) for name, drawn in items.items()]
        self.names = Legend(
            items=self.items, orientation="horizontal", visible=False, location="top_center", padding=2, spacing=6,
            glyph_width=18, label_standoff=3, label_text_font_size="11px", background_fill_alpha=0.6,
            border_line_color=None,
        )  # fmt: skip
        plot.add_layout(self.names)
        plot.scatter("t", "y", size=9, fill_color=plotting.ACCENT, line_color="white", source=self.here)
        plot.add_tools(curve_hover(curve, name))
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")

    def draw_parabola(self, promise: picture.Parabola | None, scale: Scale, t: np.ndarray, values: np.ndarray) -> None:
        ends = promise.holds(t, values) if promise else None
        plotting.shade(self.held, ends, (float(t[0]), float(t[-1])))
        fine = np.linspace(t[0], t[-1], 4 * len(t)) if promise else np.empty(0)
        self.parabola.data = {"t": fine, "y": scale.position(promise(fine)) if promise else fine}

    def draw_names(self, compared: bool, promised: bool, radius: bool) -> None:
        """Name what is drawn beside the one curve."""
        for item, shown in zip(self.items, (compared, compared, promised, radius), strict=True):
            item.visible = shown
        self.names.visible = compared or promised or radius

    def draw_frame(self, scale: Scale, metric: picture.Metric, along: str) -> None:
        plot, margin = self.figure, MARGIN * (scale.high - scale.low)
        plotting.fit(plot.y_range, scale.low - margin, scale.high + margin)
        axis = plot.yaxis[0]
        title = metric.title if len(metric.title) <= LONGEST else f"{metric.title[: LONGEST - 1]}…"
        axis.ticker.ticks = scale.positions[:: 1 + len(scale.positions) // (TICKS + 1)]
        axis.update(major_label_overrides=scale.labels, axis_label=title)
        plot.xaxis[0].axis_label = plotting.wrapped(along)
