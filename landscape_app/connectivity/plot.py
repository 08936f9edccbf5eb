"""The paths between two checkpoints over their chord, and the barriers of all pairs as heat maps, before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import bokeh.palettes
import numpy as np
import panel as pn
import xarray as xr
from bokeh.events import Tap
from bokeh.models import FixedTicker, HoverTool, Legend, LegendItem, LinearColorMapper, Range1d

from landscape_app import look, plotting
from landscape_app.checkpoints.shelf import colours
from landscape_app.connectivity import picture
from landscape_app.connectivity.of_pair import CURVE
from landscape_app.connectivity.picture import BRIGHT, CHORD, COLOURS, DASHES, SAYS, Path, shortened
from landscape_app.connectivity.request import AFTER, BEFORE, REPAIRED
from landscape_app.connectivity.words import height
from landscape_app.curve import MARGIN
from landscape_app.picture import metric_label
from landscape_app.scales import Scale
from landscape_app.text import number

TALL, SQUARE = 380, 300
WIDE = 14  # letters in a legend, of which three do not fit beside each other on a narrow screen
WIDEST = 22  # of which two do not
PALETTE = bokeh.palettes.Viridis256
LINES = ("xs", "ys", "colour", "alpha", "dash", "width")
POINTS = ("x", "y", "colour", "value", "error", "stage")
CELLS = ("x", "y", "value", "shown", "ink", "row", "column", "unit")


class ConnectivityPlot:
    """The chosen path, and under it a heat map for each stage. The charts are made once."""

    def __init__(self, tapped: Callable[[int, int], None]):
        self.path = PathChart()
        self.matrices = {stage: MatrixChart(stage, tapped) for stage in (BEFORE, AFTER, REPAIRED)}
        self.pair = look.pair(*(chart.box for chart in self.matrices.values()))

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        return [self.path.pane, *(chart.pane for chart in self.matrices.values())]

    def draw(self, ds: xr.Dataset, metric: str, a: int, b: int, curve: Path | None = None) -> None:
        """Show a result: one metric of it, the path from checkpoint a to checkpoint b, and along a curve between."""
        self.path.draw(ds, metric, a, b, curve)
        show(self.path)
        several, stages = ds.sizes["checkpoint"] > 2, picture.stages(ds)
        known = [picture.matrix(ds, i, metric) for i in range(len(stages))]
        values = np.concatenate([m.ravel() for m in known])
        values = values[np.isfinite(values)]
        scale = (min(0.0, *values), max(*values, 1e-12, 0.0)) if values.size else (0.0, 1.0)
        for stage, chart in self.matrices.items():
            chart.box.visible = several and stage in stages
            if chart.box.visible:
                chart.draw(ds, metric, known[stages.index(stage)], scale, (a, b))
                show(chart)


def show(chart: Any) -> None:
    """Put a figure into its box once it is drawn: until then it has no layout to change."""
    if not len(chart.box):
        chart.box.append(chart.pane)


class PathChart:
    """A metric along the straight line, before and after matching, and a curve, with the chord and the barriers.

    The heights of these stand in the legend, where they cover no line.
    """

    def __init__(self) -> None:
        self.x_range, self.y_range = Range1d(-0.02, 1.02), Range1d(0, 1)
        self.figure = plot = plotting.new_figure(
            "connectivity-path", x_range=self.x_range, y_range=self.y_range, height=TALL
        )
        self.lines, self.points = plotting.empty(*LINES), plotting.empty(*POINTS)
        self.heights = plotting.empty("x", "low", "high", "colour")
        self.ends = plotting.empty("x", "y", "name", "value", "colour")
        plot.xaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1])
        plot.yaxis.ticker = FixedTicker(ticks=[])
        plot.multi_line(
            "xs", "ys", line_color="colour", line_alpha="alpha", line_dash="dash", line_width="width", source=self.lines
        )
        dots = plot.scatter("x", "y", size=5, color="colour", source=self.points)
        plot.segment("x", "low", "x", "high", line_color="colour", line_width=3, line_alpha=0.55, source=self.heights)
        plot.scatter("x", "y", size=13, fill_color="white", line_color=plotting.INK, line_width=2, source=self.ends)
        ends = plot.scatter("x", "y", size=6, color="colour", source=self.ends)
        self.legend = Legend(
            items=[], orientation="horizontal", padding=2, margin=2, spacing=12, glyph_width=22,
            glyph_height=16, label_standoff=4, label_text_font_size="12px", background_fill_alpha=0,
            border_line_color=None,
        )  # fmt: skip
        plot.add_layout(self.legend, "above")
        plot.add_tools(
            HoverTool(
                renderers=[dots],
                tooltips=[("", "@stage"), ("t", "@x{custom}"), ("value", "@value{custom}@error")],
                formatters={"@value": plotting.digits(4), "@x": plotting.coordinate()},
                visible=False,
            ),
            HoverTool(
                renderers=[ends],
                tooltips=[("checkpoint", "@name"), ("itself", "@value{custom}")],
                formatters={"@value": plotting.digits(4)},
                visible=False,
            ),
        )
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")
        self.box = look.column()

    def draw(self, ds: xr.Dataset, metric: str, a: int, b: int, curve: Path | None = None) -> None:
        stages = picture.stages(ds)
        paths = {s: p for i, s in enumerate(stages) if (p := picture.path(ds, i, metric, a, b)) is not None}
        others = [
            (stage, split, path)
            for name, split in picture.siblings(ds, metric).items()
            for i, stage in enumerate(stages)
            if (path := picture.path(ds, i, name, a, b)) is not None
        ]
        paths |= {CURVE: curve} if curve is not None else {}
        every = [*paths.values(), *(path for _, _, path in others)]
        scale = Scale.of(np.concatenate([np.empty(0), *(p.values for p in every), *(p.ends for p in every)]), log=False)
        margin = MARGIN * (scale.high - scale.low)
        plotting.fit(self.y_range, scale.low - margin, scale.high + margin)
        self.figure.yaxis[0].ticker.ticks = scale.positions
        about = ds[metric].attrs
        label = f"{metric_label(metric, about['long_name'])} [{about['units']}]"
        self.figure.yaxis[0].update(major_label_overrides=scale.labels, axis_label=plotting.wrapped(label))
        here, there = (shortened(picture.names(ds)[i]) for i in (a, b))
        self.figure.xaxis[0].axis_label = f"t, the way from {here} (0) to {there} (1)"
        rows = list(_lines(paths, others))
        self.lines.data = _columns([row for _, row in rows], LINES)
        self.points.data = _columns([row for stage, path in paths.items() for row in _points(stage, path)], POINTS)
        own, named = ds[f"marker_{metric}"].values[[a, b]], [picture.names(ds)[i] for i in (a, b)]
        spots = [colours(ds, "checkpoint")[i] for i in (a, b)]
        self.ends.data = {"x": [0, 1], "y": own, "name": named, "value": own, "colour": spots}
        raised = {stage: p for stage, p in paths.items() if np.isfinite(p.height) and p.height}
        bars = [{"x": p.at, "low": p.base, "high": p.top, "colour": COLOURS[stage]} for stage, p in raised.items()]
        self.heights.data = _columns(bars, ("x", "low", "high", "colour"))
        units = picture.units(ds, metric)
        said = {SAYS[stage]: f"{SAYS[stage]}: {height(p, units)}" for stage, p in raised.items()}
        self._name([said.get(label, label) for label, _ in rows])

    def _name(self, labels: list[str]) -> None:
        named = [(label, i) for i, label in enumerate(labels) if label]
        if named != [(item.label.value, item.index) for item in self.legend.items]:
            line = self.figure.renderers[0]
            self.legend.items = [LegendItem(label=label, renderers=[line], index=i) for label, i in named]
            longest = max(map(len, labels))
            self.legend.ncols = 1 if longest > WIDEST else len(named) if len(named) < 4 else 3 if longest < WIDE else 2
            self.legend.spacing = 0 if self.legend.ncols == 1 else 12


class MatrixChart:
    """The barriers between all pairs, written in cells. A tap on a cell chooses the pair."""

    def __init__(self, stage: str, tapped: Callable[[int, int], None]):
        self.stage, self.tapped = stage, tapped
        self.count = 0
        self.figure = plot = plotting.new_figure(
            f"connectivity-{stage}", x_range=Range1d(-0.5, 0.5), y_range=Range1d(0.5, -0.5), height=SQUARE,
            title=" ", toolbar_location=None, tools="",
        )  # fmt: skip
        plot.title.update(text_font_size="13px", text_font_style="normal")
        plot.grid.visible = False
        plot.axis.major_tick_line_color = None
        plot.axis.axis_line_color = None
        plot.xaxis.major_label_orientation = 0.6
        plot.xaxis.ticker, plot.yaxis.ticker = FixedTicker(ticks=[]), FixedTicker(ticks=[])
        self.mapper = LinearColorMapper(palette=PALETTE, low=0, high=1, nan_color=plotting.NOTHING_YET)
        self.cells, self.here = plotting.empty(*CELLS), plotting.empty("x", "y")
        self.own = plotting.empty("x", "y", "name", "colour")
        cells = plot.rect(
            "x", "y", 0.96, 0.96, fill_color={"field": "value", "transform": self.mapper}, line_color=None,
            source=self.cells,
        )  # fmt: skip
        plot.text(
            "x", "y", text="shown", text_color="ink", text_align="center", text_baseline="middle",
            text_font_size="12px", source=self.cells,
        )  # fmt: skip
        plot.rect("x", "y", 0.96, 0.96, fill_color=None, line_color=plotting.ACCENT, line_width=3, source=self.here)
        plot.scatter("x", "y", size=9, color="colour", source=self.own)
        plot.add_tools(
            HoverTool(
                renderers=[cells],
                tooltips=[("from", "@row"), ("to", "@column"), ("barrier", "@value{custom} @unit")],
                formatters={"@value": plotting.digits(4)},
                visible=False,
            )
        )
        plot.on_event(Tap, lambda event: self.tap(event.x, event.y))
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")
        self.box = look.column()

    def tap(self, x: float | None, y: float | None) -> None:
        if x is None or y is None:
            return
        row, column = round(y), round(x)
        if row != column and {row, column} <= set(range(self.count)):
            self.tapped(row, column)

    def draw(
        self, ds: xr.Dataset, metric: str, heights: np.ndarray, scale: tuple[float, float], chosen: tuple[int, int]
    ) -> None:
        names, plot = picture.names(ds), self.figure
        self.count = n = len(names)
        plotting.fit(plot.x_range, -0.5, n - 0.5)
        plotting.fit(plot.y_range, n - 0.5, -0.5)
        ticks = list(range(n))
        for axis in (plot.xaxis[0], plot.yaxis[0]):
            axis.ticker.ticks = ticks
            axis.major_label_overrides = {i: shortened(name) for i, name in enumerate(names)}
        plot.title.text = f"{SAYS[self.stage]}: barrier [{ds[metric].attrs['units']}]"
        self.mapper.update(low=scale[0], high=scale[1])
        self.cells.data = _columns(list(_cells(names, heights, scale, picture.units(ds, metric))), CELLS)
        self.own.data = {"x": ticks, "y": ticks, "name": names, "colour": colours(ds, "checkpoint")}
        self.here.data = {"x": [chosen[1]], "y": [chosen[0]]}


def _cells(names: list[str], heights: np.ndarray, scale: tuple[float, float], units: str) -> Iterator[dict[str, Any]]:
    for row, column in np.ndindex(heights.shape):
        if row == column:
            continue
        value = float(heights[row, column])
        bright = (value - scale[0]) / (scale[1] - scale[0]) > BRIGHT
        yield {
            "x": column,
            "y": row,
            "value": value,
            "shown": "" if np.isnan(value) else number(value),
            "ink": plotting.INK if bright else "white",
            "row": names[row],
            "column": names[column],
            "unit": units,
        }


def _lines(paths: dict[str, Path], others: list[tuple[str, str, Path]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line with its name in the legend, '' for none."""
    for stage, path in paths.items():
        yield SAYS[stage], _line(path, COLOURS[stage], DASHES[stage], 2.0, 1.0)
    for stage, split, path in others:
        yield f"{SAYS[stage]}, {split}", _line(path, COLOURS[stage], DASHES[stage], 1.3, 0.5)
    chords = list(paths.values())[:1] + list({split: path for _, split, path in others}.values())
    for place, path in enumerate(chords):
        ends = {"xs": [0.0, 1.0], "ys": list(path.ends), "colour": CHORD, "alpha": 0.9}
        yield "" if place else "Chord", {**ends, "dash": "dotted", "width": 1.5}


def _line(path: Path, colour: str, dash: str, width: float, alpha: float) -> dict[str, Any]:
    return {"xs": path.t, "ys": path.values, "colour": colour, "alpha": alpha, "dash": dash, "width": width}


def _points(stage: str, path: Path) -> Iterator[dict[str, Any]]:
    for t, value, error in zip(path.t, path.values, path.errors, strict=True):
        said = f" ± {error:.2g}" if np.isfinite(error) else ""
        yield {"x": t, "y": value, "colour": COLOURS[stage], "value": value, "error": said, "stage": SAYS[stage]}


def _columns(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> dict[str, list]:
    return {column: [row[column] for row in rows] for column in columns}
