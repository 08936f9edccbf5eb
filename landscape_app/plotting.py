"""What the plots have in common: figures, hover texts and the way a live figure is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import panel
import panel as pn
import xarray as xr
from bokeh.events import RangesUpdate
from bokeh.models import ColumnDataSource, CustomJS, CustomJSHover, HoverTool, Range1d, WheelZoomTool
from bokeh.plotting import figure

from landscape_app.checkpoints.shelf import colours
from landscape_app.colours import ACCENT as ACCENT
from landscape_app.colours import INK as INK
from landscape_app.picture import Metric
from landscape_app.text import number, wrap
from landscape_app.words import off_slice

NOTHING_YET = "rgba(127, 134, 145, 0.22)"
TOOLS = "pan,box_zoom,wheel_zoom,reset,save"
LONGEST_LINE = 42


# Formatters are made anew for each hover: a Bokeh model belongs to one document, and each session has its own.
def digits(count: int) -> CustomJSHover:
    """Numbers to so many significant digits."""
    return CustomJSHover(
        code=f"""
        if (value == null || Number.isNaN(value)) return "unknown";
        if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
        return Number(value.toPrecision({count})).toString().replace("-", "−");
        """
    )


def plus_minus() -> CustomJSHover:
    """Standard errors as `errors` has them, behind the value."""
    return CustomJSHover(code="return value < 0 ? '\\u200b' : ` ± ${Number(value.toPrecision(2))}`;")


def errors(se: np.ndarray) -> np.ndarray:
    """Standard errors for a hover, -1 where there is none: Bokeh writes NaN before anybody is asked."""
    return np.where(np.isfinite(se), se, -1.0)


def coordinate() -> CustomJSHover:
    """Places along an axis."""
    return CustomJSHover(code="return value.toFixed(3).replace('-', '−');")


def origin() -> CustomJSHover:
    """Whether a value was evaluated at its point."""
    return CustomJSHover(code="return value > 0.5 ? 'evaluated' : 'interpolated';")


FOLLOW = """
if (here.tags.length && there.tags.length && (there.start !== here.start || there.end !== here.end))
  there.setv({start: here.start, end: here.end});
"""


def change(edit: Callable[[], None], *panes: pn.viewable.Viewable) -> None:
    """Run `edit`, which changes Bokeh models of panes in place: on a server, in a notebook or in neither."""
    document = pn.state.curdoc
    if document and document.session_context:
        pn.state.execute(lambda: _in_order(document, edit), schedule=True)
    else:
        with pn.io.block_comm():  # one message for all edits
            edit()
        pn.io.push_notebook(*panes)


def _in_order(document: Any, edit: Callable[[], None]) -> None:
    """Edit once Panel has sent what waited for a busy connection: the browser may still lack the models themselves."""
    if any(document in getattr(panel.io.document, waiting, ()) for waiting in ("_WRITE_MSGS", "_WRITE_BLOCK")):
        pn.state.execute(lambda: _in_order(document, edit), schedule=True)
    else:
        edit()


def new_figure(name: str, **options: Any) -> figure:
    """A figure with the tools, sizes and manners that all plots share."""
    plot = figure(
        name=name,
        sizing_mode="stretch_width",
        min_width=280,
        output_backend="canvas",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        **{"tools": TOOLS, "min_border_right": 12, "toolbar_location": "above", **options},
    )
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.minor_tick_line_color = None
    plot.toolbar.logo = None
    plot.toolbar.active_drag = None
    plot.toolbar.active_scroll = None
    for tool in plot.select(WheelZoomTool):
        tool.zoom_on_axis = False
    return plot


def on_zoom(plot: figure, zoomed: Callable[..., None]) -> None:
    """Call `zoomed` with (low, high) of both axes whenever somebody has moved or zoomed a figure."""
    plot.on_event(RangesUpdate, lambda event: zoomed((event.x0, event.x1), (event.y0, event.y1)))


def wrapped(label: str) -> str:
    """An axis title on as many lines as a narrow plot needs, its units on lines of their own."""
    return "\n".join(wrap(label, LONGEST_LINE, whole_words=True))


def fit(bounds: Range1d, low: float, high: float) -> None:
    """Make an axis, and its reset, go from `low` to `high`; one that does already keeps its zoom."""
    if (bounds.reset_start, bounds.reset_end) != (low, high):
        bounds.update(start=low, end=high, reset_start=low, reset_end=high)


def link(one: Range1d, other: Range1d) -> None:
    """Prepare two axes to move as one; they do while both are tagged so by `linked`."""
    for here, there in ((one, other), (other, one)):
        follow = CustomJS(args={"here": here, "there": there}, code=FOLLOW)
        here.js_on_change("start", follow)
        here.js_on_change("end", follow)


def linked(one: Range1d, other: Range1d, on: bool) -> None:
    """Let two axes of `link` move as one, the second first to where the first is; or each by itself, in full."""
    if bool(one.tags) == on:
        return
    for bounds in (one, other):
        bounds.tags = ["linked"] if on else []
    if on:
        other.update(start=one.start, end=one.end)
    elif other.reset_start is not None:
        other.update(start=other.reset_start, end=other.reset_end)


def shading(plot: figure, colour: str) -> tuple[ColumnDataSource, Any]:
    """A band from bottom to top of a plot, behind what is drawn later: its source, and its renderer for a legend."""
    source = empty("left", "right")
    return source, plot.vstrip("left", "right", fill_color=colour, fill_alpha=0.13, line_alpha=0, source=source)


def shade(source: ColumnDataSource, ends: tuple[float, float] | None, frame: tuple[float, float]) -> None:
    """Shade from one end to the other, as far as the frame goes; None takes the shade away."""
    if ends is None:
        source.data = {"left": [], "right": []}
    else:
        source.data = {"left": [max(ends[0], frame[0])], "right": [min(ends[1], frame[1])]}


def empty(*columns: str) -> ColumnDataSource:
    return ColumnDataSource({column: [] for column in columns})


def checkpoints(ds: xr.Dataset, metric: Metric, itself: np.ndarray) -> dict[str, list[str]]:
    """Names, colours and hover texts of the checkpoints on a picture: the metric at their true weights."""
    return {
        "colour": colours(ds, "marker"),
        "name": [str(name) for name in ds["marker_name"].values],
        "true": [f"{metric.short} {number(v, 4)}" if np.isfinite(v) else "" for v in itself],
        "residual": [off_slice(ds, i) for i in range(ds.sizes["marker"])],
    }


def checkpoint_hover(renderer: Any) -> HoverTool:
    return HoverTool(
        renderers=[renderer],
        tooltips=[("checkpoint", "@name"), ("itself", "@true"), ("distance", "@residual")],
        description="Checkpoints",
        visible=False,
        attachment="horizontal",
    )
