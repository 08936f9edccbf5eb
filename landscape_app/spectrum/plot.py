"""Densities with their eigenvalues, one panel or a grid of them with common axes. Each result changes them in place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import panel as pn
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Legend, LegendItem, Range1d, Span

from landscape_app import look, plotting
from landscape_app.curve import MARGIN
from landscape_app.scales import Scale
from landscape_app.spectrum import picture
from landscape_app.spectrum.picture import COLOURS, DENSITY, STEMS, UNITS, Spectrum
from landscape_app.spectrum.request import MATRICES
from landscape_app.spectrum.state import symbol

HEIGHT, SMALL = 420, 220
LOW, HIGH = 0.07, 0.34  # of the height, where the heads of the stems stand
NEAR = 0.02  # of the width, how close a tap must come
STEM_COLUMNS = (
    *("x", "top", "low", "high", "bottom", "fill", "line", "dash", "size", "name", "value", "bound"),
    *("residual", "said", "part", "pair"),
)


class SpectrumPlot:
    """All panels of a result. The panels are made when they are first needed, and share their axes."""

    def __init__(self, tapped: Callable[[int, int], None]):
        self.tapped = tapped
        self.x_range, self.y_range = Range1d(0, 1), Range1d(0, 1)
        self.panels: list[_Panel] = []
        self.view = look.column(kind="ls-single")

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        return [panel.pane for panel in self.panels]

    def prepare(self, count: int) -> None:
        """Have that many panels, in a grid where there are several."""
        while len(self.panels) < count:
            self.panels.append(_Panel(len(self.panels), self.x_range, self.y_range, self.tapped))
        for i, panel in enumerate(self.panels):
            panel.pane.visible = i < count
        look.arrange(self.view, "ls-grid" if count > 1 else "ls-single")

    def draw(self, parts: list[Spectrum], log: bool, width: float, chosen: tuple[int, int] | None) -> None:
        """Show a result: bandwidth `width` is a share of the picture's width."""
        reach = picture.span(parts)
        curves = [picture.curve(part, reach, width) for part in parts]
        lowest = picture.floor(parts, reach, width)
        heights = np.concatenate([heights for _, heights in curves])
        shown = np.append(np.maximum(heights, lowest), lowest) if log else np.append(heights, 0.0)
        scale = Scale.of(shown if heights.size else np.array([np.nan]), log)
        plotting.fit(self.x_range, *reach)
        plotting.fit(self.y_range, scale.low, scale.high + MARGIN * (scale.high - scale.low))
        groups = picture.panels(parts)
        for panel, (name, places) in zip(self.panels, groups.items(), strict=False):
            panel.draw(
                name,
                len(self.panels) > 1 and self.panels[1].pane.visible,
                places,
                parts,
                curves,
                scale,
                lowest if log else 0.0,
                chosen,
            )
        for panel in self.panels[len(groups) :]:
            panel.draw("", True, [], parts, curves, scale, 0.0, chosen)
        if len(self.view) < len(
            self.panels
        ):  # in one step once they are drawn, or the browser hears of parts too early
            self.view.objects = self.panes


class _Panel:
    def __init__(self, place: int, x_range: Range1d, y_range: Range1d, tapped: Callable[[int, int], None]):
        name = f"spectrum-{place}"
        self.figure = plotting.new_figure(name, x_range=x_range, y_range=y_range, height=HEIGHT, title=" ")
        self.curves: dict[str, ColumnDataSource] = {}
        self.stems = plotting.empty(*STEM_COLUMNS)
        plot = self.figure
        plot.title.update(text_font_size="13px", text_font_style="normal", visible=False)
        plot.yaxis.ticker = FixedTicker(ticks=[])
        plot.xgrid.visible = False
        lines = {}
        for matrix, colour in COLOURS.items():
            source = self.curves[matrix] = plotting.empty("x", "y", "bottom")
            plot.varea("x", "bottom", "y", fill_color=colour, fill_alpha=0.2, source=source)
            lines[matrix] = plot.line("x", "y", line_color=colour, line_width=1.8, source=source)
        plot.add_layout(Span(location=0, dimension="height", line_color="#7f8691", line_dash=[2, 3], line_width=1.2))
        plot.segment(
            "x", "bottom", "x", "top", line_color="line", line_width=1.4, line_dash="dash", line_alpha=0.9,
            source=self.stems,
        )  # fmt: skip
        plot.segment("low", "top", "high", "top", line_color="line", line_width=2.4, line_alpha=0.5, source=self.stems)
        for end in ("low", "high"):
            plot.scatter(end, "top", marker="dash", angle=np.pi / 2, size=9, line_color="line", source=self.stems)
        heads = plot.scatter(
            "x", "top", size="size", fill_color="fill", line_color="line", line_width=1.8, source=self.stems
        )
        self.legend = Legend(
            items=[LegendItem(label=_name(matrix), renderers=[line], visible=False) for matrix, line in lines.items()],
            location="top_right", padding=4, spacing=2, background_fill_alpha=0.6, border_line_color=None,
            visible=False,
        )  # fmt: skip
        plot.add_layout(self.legend)
        plot.add_tools(
            HoverTool(
                renderers=[heads],
                tooltips=[
                    ("eigenvalue", "@name"),
                    ("value", "@value{custom} ± @bound{custom}"),
                    ("residual", "@residual{custom}"),
                    ("", "@said"),
                ],
                formatters={
                    "@value": plotting.digits(4),
                    "@bound": plotting.digits(2),
                    "@residual": plotting.digits(2),
                },
                visible=False,
            )
        )
        plot.on_event(Tap, self._tap)
        self.tapped = tapped
        self.pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width")

    def draw(
        self,
        name: str,
        small: bool,
        places: list[int],
        parts: list[Spectrum],
        curves: list[tuple[np.ndarray, np.ndarray]],
        scale: Scale,
        lowest: float,
        chosen: tuple[int, int] | None,
    ) -> None:
        plot, own = self.figure, [parts[i] for i in places]
        plot.height = SMALL if small else HEIGHT
        plot.title.update(text=name or " ", visible=small)
        plot.xaxis[0].axis_label = f"Eigenvalue [{UNITS}]"
        axis = plot.yaxis[0]
        axis.ticker.ticks = scale.positions[:: 2 if small else 1]
        axis.update(major_label_overrides=scale.labels, axis_label="Density" if small else DENSITY)
        drawn = {parts[i].matrix: curves[i] for i in places}
        for matrix, source in self.curves.items():
            at, heights = drawn.get(matrix, (np.empty(0), np.empty(0)))
            y = scale.position(np.maximum(heights, lowest))
            source.data = {"x": at, "y": y, "bottom": np.full(len(at), scale.low)}
        for item, matrix in zip(self.legend.items, self.curves, strict=True):
            item.visible = matrix in drawn
        self.legend.visible = len(own) > 1
        self.stems.data = stems(places, parts, scale, chosen)

    def _tap(self, event: Tap) -> None:
        data, plot = self.stems.data, self.figure
        if event.x is None or not len(data["x"]):
            return
        across = np.abs(np.asarray(data["x"]) - event.x) / abs(plot.x_range.end - plot.x_range.start)
        tall = abs(plot.y_range.end - plot.y_range.start)
        beyond = np.maximum(event.y - np.asarray(data["top"]), 0) / tall  # below its head a stem is as good as the head
        apart = np.hypot(across, beyond) + 0.02 * np.abs(np.asarray(data["top"]) - event.y) / tall
        nearest = int(apart.argmin())
        if across[nearest] <= NEAR and beyond[nearest] <= 3 * NEAR:
            self.tapped(int(data["part"][nearest]), int(data["pair"][nearest]))


def stems(
    places: list[int], parts: list[Spectrum], scale: Scale, chosen: tuple[int, int] | None
) -> dict[str, np.ndarray | list]:
    """A stem for each eigenvalue, with its bar at its head; an open head for what is not converged.

    The heads stand on different levels, so that the bars of neighbours are told apart.
    """
    rows: list[dict] = []
    height = scale.high - scale.low
    for i in places:
        part = parts[i]
        levels = np.linspace(HIGH, LOW, max(2, len(part.values)))
        for rank, pair in enumerate(np.argsort(-part.values)):
            value, bound, settled = part.values[pair], part.bounds[pair], bool(part.converged[pair])
            colour, here = STEMS[part.matrix], (i, int(pair)) == chosen
            rows.append(
                {
                    "x": value,
                    "top": scale.low + levels[rank] * height,
                    "bottom": scale.low,
                    "low": value - bound,
                    "high": value + bound,
                    "fill": colour if settled else "white",
                    "line": colour,
                    "dash": "solid" if settled else "dashed",
                    "size": 14 if here else 8,
                    "name": f"{symbol(part, pair)}, {part.label}" if len(parts) > 1 else symbol(part, pair),
                    "value": value,
                    "bound": bound,
                    "residual": part.residuals[pair],
                    "said": "converged" if settled else "not converged yet: the bar holds, its rank may change",
                    "part": i,
                    "pair": int(pair),
                }
            )
    return {column: [row[column] for row in rows] for column in STEM_COLUMNS}


def _name(matrix: str) -> str:
    return MATRICES[matrix][:1].upper() + MATRICES[matrix][1:]
