"""A plane as a heat map with contours. Built once; each result changes it in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bokeh.palettes
import numpy as np
import panel as pn
import xarray as xr
from bokeh.events import Tap
from bokeh.models import ColorBar, CustomJS, FixedTicker, HoverTool, LinearColorMapper, Range1d, Title

from landscape_app import picture, plotting
from landscape_app.contours import contour_ink, contours, label_place
from landscape_app.scales import Scale, tick_label
from landscape_app.text import number

COLOURS = {
    "viridis": bokeh.palettes.Viridis256,
    "cividis": bokeh.palettes.Cividis256,
    "magma": bokeh.palettes.Magma256,
    "difference": bokeh.palettes.interp_palette(bokeh.palettes.PuOr[11], 255),  # about 0; for every eye
}
FIRST_HEIGHT = 620
TALLEST = 560
BESIDE_FRAME = 160
ROOM_FOR_BAR = 96  # so that the frame keeps its width while the labels of the colour bar change

# Cells stay square (or keep their aspect): the height follows the width that the layout leaves for the frame. Only
# where a wide picture on a narrow screen would become so low that axis titles are cut does it grow taller.
KEEP_ASPECT = """
const LEAST = 215;
const ratio = plot.tags[0] ?? 1;
const {inner_width, inner_height, outer_height} = plot.properties;
if (![inner_width, inner_height, outer_height].some(size => size.is_unset) && plot.inner_width > 0) {
  const height = Math.round(Math.max(plot.inner_width * ratio, LEAST) + plot.outer_height - plot.inner_height);
  if (Math.abs(height - plot.height) > 1) plot.height = height;
}
"""


class Heatmap:
    """One metric over a plane: colours, contours at the ticks of the colour bar, checkpoints, evaluated points."""

    def __init__(self) -> None:
        self.figure = plotting.new_figure(
            "plane",
            x_range=Range1d(-1, 1),
            y_range=Range1d(-1, 1),
            height=FIRST_HEIGHT,
            max_width=TALLEST + 60,
            min_border_right=ROOM_FOR_BAR,
        )
        self.image = plotting.empty("image", "raw", "se", "computed", "x", "y", "dw", "dh")
        self.contours = plotting.empty("xs", "ys", "colour")
        self.contour_labels = plotting.empty("x", "y", "angle", "text", "colour", "back")
        self.samples = plotting.empty("x", "y")
        self.lost = plotting.empty("x", "y", "text")
        self.markers = plotting.empty(
            "x", "y", "name", "label", "true", "residual", "dx", "align", "shade", "ring", "core", "colour"
        )
        self.run = plotting.empty("x", "y")
        self.cross = plotting.empty("x", "y")
        self.length = plotting.empty("from", "to", "y", "text")
        self.mapper = LinearColorMapper(palette=COLOURS["viridis"], low=0, high=1, nan_color=plotting.NOTHING_YET)
        self.bar = ColorBar(
            color_mapper=self.mapper,
            ticker=FixedTicker(ticks=[]),
            width=14,
            padding=0,
            location=(14, 0),
            label_standoff=6,
            background_fill_alpha=0,
            bar_line_color=None,
            major_tick_line_color=None,
            visible=False,
        )
        self.bar_title = Title(align="center", standoff=14, text_font_style="normal")
        self._draw_layers()
        self.figure.grid.visible = False
        self.figure.add_layout(self.bar, "right")
        self.figure.add_layout(self.bar_title, "right")
        for trigger in ("inner_width", "inner_height", "tags"):
            self.figure.js_on_change(trigger, CustomJS(args={"plot": self.figure}, code=KEEP_ASPECT))
        self.pane = pn.pane.Bokeh(self.figure, sizing_mode="stretch_width")

    def _draw_layers(self) -> None:
        plot = self.figure
        cells = plot.image("image", x="x", y="y", dw="dw", dh="dh", source=self.image, color_mapper=self.mapper)
        self.contour_lines = plot.multi_line(
            "xs", "ys", line_color="colour", line_width=1.1, line_alpha=0.75, source=self.contours
        )
        self.contour_texts = plot.text(
            "x", "y", text="text", angle="angle", text_color="colour", background_fill_color="back",
            background_fill_alpha=0.9, padding=2, border_radius=3, text_font_size="10px",
            text_align="center", text_baseline="middle", source=self.contour_labels,
        )  # fmt: skip
        self.sample_dots = plot.scatter(
            "x", "y", size=4, fill_color="white", line_color=plotting.INK, line_width=0.7,
            fill_alpha=0.9, visible=False, source=self.samples,
        )  # fmt: skip
        lost = plot.scatter("x", "y", marker="x", size=8, line_color=plotting.ACCENT, line_width=2, source=self.lost)
        for colour, width, alpha in ((plotting.INK, 3, 0.45), ("white", 1.2, 0.95)):
            look = {"line_color": colour, "line_width": width, "line_alpha": alpha, "source": self.cross}
            plot.vspan(x="x", **look)
            plot.hspan(y="y", **look)
            plot.scatter("x", "y", size=12, fill_color=None, **look)
        for colour, width in ((plotting.INK, 5), ("white", 2)):
            plot.segment("from", "y", "to", "y", line_color=colour, line_width=width, source=self.length)
        plot.text(
            "to", "y", text="text", y_offset=-8, text_align="right", text_color="white", text_font_size="10px",
            background_fill_color=plotting.INK, background_fill_alpha=0.72, padding=3, border_radius=3,
            source=self.length,
        )  # fmt: skip
        plot.line("x", "y", line_color=plotting.INK, line_width=3.2, line_alpha=0.5, source=self.run)
        plot.line("x", "y", line_color="white", line_width=1.4, source=self.run)
        plot.scatter(
            "x", "y", size="ring", fill_color="white", line_color=plotting.INK, line_width=2, source=self.markers
        )
        spots = plot.scatter("x", "y", size="core", color="colour", source=self.markers)
        plot.text(
            "x", "y", text="label", x_offset="dx", text_align="align", text_baseline="middle",
            text_color="white", text_font_size="12px", background_fill_color=plotting.INK,
            background_fill_alpha="shade", padding=4, border_radius=4, source=self.markers,
        )  # fmt: skip
        self.hover = HoverTool(
            renderers=[cells],
            tooltips=[
                ("value", "@raw{custom}@se{custom}"),
                ("", "@computed{custom}"),
                ("a", "$x{custom}"),
                ("b", "$y{custom}"),
            ],
            formatters={
                "@raw": plotting.digits(4),
                "@se": plotting.plus_minus(),
                "@computed": plotting.origin(),
                "$x": plotting.coordinate(),
                "$y": plotting.coordinate(),
            },
            description="Values",
            visible=False,
            attachment="horizontal",
        )
        plot.add_tools(
            self.hover,
            plotting.checkpoint_hover(spots),
            HoverTool(renderers=[lost], tooltips=[("evaluated", "@text")], visible=False),
        )

    def on_tap(self, tapped: Callable[[float, float], None]) -> None:
        """Call `tapped` with the coordinates of each tap inside the frame."""
        plot = self.figure

        def handle(event: Tap) -> None:
            inside = [
                place is not None and min(axis.start, axis.end) <= place <= max(axis.start, axis.end)
                for place, axis in ((event.x, plot.x_range), (event.y, plot.y_range))
            ]
            if all(inside):
                tapped(event.x, event.y)

        plot.on_event(Tap, handle)

    def point(self, point: tuple[float, float] | None) -> None:
        """Move the cross-hair; None takes it away."""
        self.cross.data = {"x": [point[0]], "y": [point[1]]} if point else {"x": [], "y": []}

    def show(self, contours: bool, samples: bool) -> None:
        """Turn the overlays on and off."""
        self.contour_lines.visible = self.contour_texts.visible = contours
        self.sample_dots.visible = samples

    def draw(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale, palette: str) -> None:
        """Show a result."""
        colours = COLOURS[palette]
        self.mapper.update(low=scale.low, high=scale.high, palette=list(colours))
        self.bar.ticker.ticks = scale.positions
        self.bar.update(major_label_overrides=scale.labels, visible=True)
        self.bar_title.text = plotting.wrapped(metric.title)
        self._draw_frame(ds)
        self._draw_length(ds)
        self._draw_cells(ds, metric, scale)
        self._draw_contours(ds, metric, scale, colours)
        self._draw_points(ds, metric)

    def _draw_frame(self, ds: xr.Dataset) -> None:
        (a0, a1), (b0, b1) = picture.extent(ds, "a"), picture.extent(ds, "b")
        plot = self.figure
        ratio = (b1 - b0) / (a1 - a0) if picture.equal_aspect(ds) else 1.0
        if plot.tags != [ratio]:
            plot.update(tags=[ratio], max_width=round(TALLEST / ratio) + BESIDE_FRAME)
        plotting.fit(plot.x_range, a0, a1)
        plotting.fit(plot.y_range, b0, b1)
        for axis, name in ((plot.xaxis, "a"), (plot.yaxis, "b")):
            axis.axis_label = plotting.wrapped(picture.axis_label(ds, name))

    def _draw_length(self, ds: xr.Dataset) -> None:
        """A bar in the corner, as long as a round distance in weight space."""
        (a0, a1), (b0, b1), bar = picture.extent(ds, "a"), picture.extent(ds, "b"), picture.length_bar(ds)
        ends = [] if bar is None else [(a1 - 0.03 * (a1 - a0) - bar[1], a1 - 0.03 * (a1 - a0))]
        self.length.data = {
            "from": [low for low, _ in ends],
            "to": [high for _, high in ends],
            "y": [b0 + 0.03 * (b1 - b0) for _ in ends],
            "text": [f"distance of weights {number(bar[0])}" for _ in ends] if bar else [],
        }

    def _draw_cells(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale) -> None:
        (a0, a1), (b0, b1) = picture.extent(ds, "a"), picture.extent(ds, "b")
        rows, columns = metric.values.shape
        width, height = (a1 - a0) / (columns - 1), (b1 - b0) / (rows - 1)
        self.image.data = {
            "image": [scale.position(metric.values).astype("f4")],
            "raw": [metric.values.astype("f4")],
            "se": [plotting.errors(metric.se).astype("f4")],
            "computed": [ds["computed"].values.astype("u1")],
            "x": [a0 - width / 2],
            "y": [b0 - height / 2],
            "dw": [a1 - a0 + width],
            "dh": [b1 - b0 + height],
        }

    def _draw_contours(self, ds: xr.Dataset, metric: picture.Metric, scale: Scale, colours: Any) -> None:
        lines: dict[str, list[Any]] = {column: [] for column in self.contours.data}
        labels: dict[str, list[Any]] = {column: [] for column in self.contour_labels.data}
        if picture.whole(ds, metric):
            a, b = ds["a"].values, ds["b"].values
            for tick, level, found in contours(ds, metric, scale):
                share = (level - scale.low) / (scale.high - scale.low)
                ink = contour_ink(scale, level)
                back = colours[int(np.clip(share, 0, 1) * (len(colours) - 1))]
                for line in found:
                    lines["xs"].append(line[:, 0])
                    lines["ys"].append(line[:, 1])
                    lines["colour"].append(ink)
                spot = label_place(found, (a[0], a[-1]), (b[0], b[-1]))
                if spot is not None:
                    x, y, angle = spot
                    row = {
                        "x": x,
                        "y": y,
                        "angle": angle,
                        "text": tick_label(tick),
                        "colour": ink,
                        "back": back,
                    }
                    for column, value in row.items():
                        labels[column].append(value)
        self.contours.data = lines
        self.contour_labels.data = labels

    def _draw_points(self, ds: xr.Dataset, metric: picture.Metric) -> None:
        a, b = ds["sample_a"].values, ds["sample_b"].values
        bad = ~np.isfinite(metric.samples)
        self.samples.data = {"x": a[~bad], "y": b[~bad]}
        self.lost.data = {
            "x": a[bad],
            "y": b[bad],
            "text": [f"{metric.label} = {v}" for v in metric.samples[bad]],
        }
        a, b = ds["marker_a"].values, ds["marker_b"].values
        right = a > np.dot(picture.extent(ds, "a"), (0.35, 0.65))
        run = picture.trajectory(ds)
        self.run.data = {"x": a, "y": b} if run else {"x": [], "y": []}
        named = picture.labelled(ds)  # the hover names each
        names = [str(name) for name in ds["marker_name"].values]
        self.markers.data = {
            "label": [name if shown else "" for name, shown in zip(names, named, strict=True)],
            "shade": np.where(named, 0.72, 0.0),
            "ring": np.where(named, 13, 8),
            "core": np.where(named, 5, 4),
            "x": a,
            "y": b,
            **plotting.checkpoints(ds, metric, picture.at_checkpoints(ds, metric)),
            "dx": np.where(right, -14, 14),
            "align": ["right" if r else "left" for r in right],
        }
