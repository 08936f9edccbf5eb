"""A line as a curve with its standard error. Built once; each result changes it in place."""

from __future__ import annotations

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import ColumnDataSource, FixedTicker, GlyphRenderer, HoverTool, Legend, LegendItem, Range1d
from bokeh.plotting import figure

from landscape_app import picture, plotting
from landscape_app.colours import CURVE as LINE
from landscape_app.scales import Scale

MARGIN = 0.06
HEIGHT = 460
RADIUS = "#e69f00"
COLUMNS = ("t", "y", "raw", "se", "low", "high", "computed")


def curve_data(
    scale: Scale, t: np.ndarray, values: np.ndarray, se: np.ndarray, computed: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns of a curve and its band; where the lower edge has no logarithm, the band goes to the bottom."""
    low = scale.position(values - se)
    return {
        "t": t,
        "y": scale.position(values),
        "raw": values,
        "se": plotting.errors(se),
        "low": np.where(np.isnan(low) & np.isfinite(values - se), scale.low - 1.0, low),
        "high": scale.position(values + se),
        "computed": computed.astype(float),
    }


def draw_curve(plot: figure, source: ColumnDataSource) -> tuple[GlyphRenderer, GlyphRenderer]:
    """Add the band and the line of `curve_data`; returns both."""
    band = plot.varea("t", "low", "high", fill_color=LINE, fill_alpha=0.22, source=source)
    return band, plot.line("t", "y", line_color=LINE, line_width=2.2, source=source)


def curve_hover(renderer: GlyphRenderer, name: str) -> HoverTool:
    """What a curve says at each of its points; `name` is its coordinate's."""
    return HoverTool(
        renderers=[renderer],
        mode="vline",
        tooltips=[
            ("value", "@raw{custom}@se{custom}"),
            ("", "@computed{custom}"),
            (name, "@t{custom}"),
        ],
        formatters={
            "@raw": plotting.digits(4),
            "@se": plotting.plus_minus(),
            "@computed": plotting.origin(),
            "@t": plotting.coordinate(),
        },
        visible=False,
    )


class Curve:
    """One metric along a line: the curve, a band of one standard error, the evaluated points, the checkpoints.

    Of a mean over seeds the band is their standard deviation, and the curve of each seed lies behind it.
    """

    def __init__(self) -> None:
        self.figure = plotting.new_figure("line", x_range=Range1d(0, 1), y_range=Range1d(0, 1), height=HEIGHT)
        self.line = plotting.empty(*COLUMNS)
        self.samples = plotting.empty("t", "y")
        self.lost = plotting.empty("t", "y", "text")
        self.markers = plotting.empty("x", "y", "name", "true", "residual", "dx", "align", "colour")
        self.figure.yaxis.ticker = FixedTicker(ticks=[])
        self.each = plotting.empty("xs", "ys")
        self.radius, radius = plotting.shading(self.figure, RADIUS)
        seeds = self.figure.multi_line("xs", "ys", line_color=LINE, line_width=1, line_alpha=0.45, source=self.each)
        curve = self._draw_layers()
        items = {"Mean ± standard deviation": curve, "Each seed": [seeds], "Softmax radius about t = 0": [radius]}
        self.items = [LegendItem(label=name, renderers=drawn, visible=False) for name, drawn in items.items()]
        self.names = Legend(
            items=self.items, visible=False, location="top_right", padding=4, spacing=0, background_fill_alpha=0.6,
            border_line_color=None,
        )  # fmt: skip
        self.figure.add_layout(self.names)
        self.pane = pn.pane.Bokeh(self.figure, sizing_mode="stretch_width")

    def _draw_layers(self) -> list[GlyphRenderer]:
        plot = self.figure
        band, curve = draw_curve(plot, self.line)
        self.sample_dots = plot.scatter(
            "t",
            "y",
            size=5,
            fill_color="white",
            line_color=LINE,
            line_width=1.3,
            visible=False,
            source=self.samples,
        )
        lost = plot.scatter("t", "y", marker="x", size=8, line_color=plotting.ACCENT, line_width=2, source=self.lost)
        plot.scatter("x", "y", size=13, fill_color="white", line_color=plotting.INK, line_width=2, source=self.markers)
        spots = plot.scatter("x", "y", size=6, color="colour", source=self.markers)
        plot.text(
            "x", "y", text="name", x_offset="dx", y_offset=-18, text_align="align", text_baseline="middle",
            text_color="white", text_font_size="12px", background_fill_color=plotting.INK,
            background_fill_alpha=0.72, padding=4, border_radius=4, source=self.markers,
        )  # fmt: skip
        plot.add_tools(
            curve_hover(curve, "t"),
            plotting.checkpoint_hover(spots),
            HoverTool(renderers=[lost], tooltips=[("evaluated", "@text")], visible=False),
        )
        return [band, curve]

    def show(self, samples: bool) -> None:
        """Turn the overlay of evaluated points on or off."""
        self.sample_dots.visible = samples

    def shade(self, ends: tuple[float, float] | None) -> None:
        """Shade the softmax radius, (low, high) along the line, or take the shade away."""
        bounds = self.figure.x_range
        plotting.shade(self.radius, ends, (bounds.reset_start, bounds.reset_end))
        self._name(radius=ends is not None)

    def _name(self, mean: bool | None = None, radius: bool | None = None) -> None:
        """Name in the legend what is drawn beside a lone curve; None leaves a part as it is."""
        for item, shown in zip(self.items, (mean, mean, radius), strict=True):
            item.visible = item.visible if shown is None else shown
        self.names.visible = any(item.visible for item in self.items)

    def draw(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> None:
        """Show a result."""
        at_ends = picture.at_checkpoints(ds, metric)
        self._draw_frame(ds, metric, scale)
        self.line.data = curve_data(scale, ds["t"].values, metric.values, metric.se, ds["computed"].values)
        each = np.empty((0, ds.sizes["t"])) if metric.each is None else scale.position(metric.each)
        self.each.data = {"xs": [ds["t"].values] * len(each), "ys": list(each)}
        self._name(mean=metric.over == "mean")
        self._draw_points(ds, metric, scale, at_ends)

    def _draw_frame(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> None:
        margin = MARGIN * (scale.high - scale.low)
        plot = self.figure
        plotting.fit(plot.x_range, *picture.extent(ds, "t"))
        plotting.fit(plot.y_range, scale.low - margin, scale.high + 2 * margin)
        plot.yaxis[0].ticker.ticks = scale.positions
        plot.yaxis[0].update(major_label_overrides=scale.labels, axis_label=plotting.wrapped(metric.title))
        plot.xaxis[0].axis_label = plotting.wrapped(picture.axis_label(ds, "t"))

    def _draw_points(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale, at_ends: np.ndarray) -> None:
        t = ds["sample_t"].values
        bad = ~np.isfinite(metric.samples)
        self.samples.data = {"t": t[~bad], "y": scale.position(metric.samples[~bad])}
        self.lost.data = {
            "t": t[bad],
            "y": np.full(bad.sum(), scale.low),
            "text": [f"{metric.label} = {v}" for v in metric.samples[bad]],
        }
        t = ds["marker_t"].values
        right = t > np.dot(picture.extent(ds, "t"), (0.35, 0.65))
        self.markers.data = {
            "x": t,
            "y": scale.position(at_ends),
            **plotting.checkpoints(ds, metric, at_ends),
            "dx": np.where(right, -6, 6),
            "align": ["right" if r else "left" for r in right],
        }
