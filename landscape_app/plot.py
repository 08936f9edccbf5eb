"""One result drawn: a line as a curve, a plane as a heat map or in 3-D."""

from __future__ import annotations

from collections.abc import Callable

import panel as pn
import xarray as xr

from landscape_app import look, picture, plotting, relief
from landscape_app.curve import Curve
from landscape_app.heatmap import Heatmap
from landscape_app.relief import Relief
from landscape_app.scales import Scale
from landscape_app.state import State


class Plot:
    """Draws results in place, in the colours and with the overlays that the state has. The figures are made once."""

    def __init__(self, state: State):
        self.state = state
        self.heatmap, self.curve = Heatmap(), Curve()
        self.relief: Relief | None = None  # made when it is first looked at: it loads a large library
        self.heat_box = look.column()  # a figure without a layout cannot change: see `draw` and `prepare`
        self.curve_box = look.column(visible=False)
        self.relief_box = look.column(visible=False, kind="ls-relief")
        self.view = look.column(self.heat_box, self.curve_box, self.relief_box)
        self._drawn: tuple[xr.Dataset, picture.Metric, Scale, tuple[float, float]] | None = None

    @property
    def panes(self) -> tuple[pn.viewable.Viewable, ...]:
        """For a notebook, which must be told of changes."""
        return self.heatmap.pane, self.curve.pane

    def prepare(self) -> None:
        """Have the plane's figure on the page before its first picture: it takes longer to build than to fill."""
        self.heat_box.append(self.heatmap.pane)

    def on_zoom(self, zoomed: Callable[..., None]) -> None:
        """Call `zoomed` with (low, high) of both axes whenever somebody has moved or zoomed the line or the plane."""
        for figure in (self.heatmap.figure, self.curve.figure):
            plotting.on_zoom(figure, zoomed)

    def draw(
        self, ds: xr.Dataset, metric: picture.Metric, scale: Scale, heights: tuple[float, float] | None = None
    ) -> Callable[[], None]:
        """Show a result; what is left to do to its Bokeh models is returned, for `plotting.change`."""
        state, plane = self.state, picture.dims(ds) == 2
        self._drawn = ds, metric, scale, heights or relief.reach(ds, metric, scale)
        self.heat_box.visible = plane and not state.relief
        self.relief_box.visible = plane and state.relief
        self.curve_box.visible = not plane

        def edit() -> None:
            if plane:
                self.heatmap.draw(ds, metric, scale, state.palette)
                self.heatmap.show(state.show_contours, state.show_samples)
            else:
                self.curve.draw(ds, metric, scale)
                self.curve.show(state.show_samples)
            box, pane = (self.heat_box, self.heatmap.pane) if plane else (self.curve_box, self.curve.pane)
            if box.visible and not len(box):
                box.append(pane)

        return edit

    def point(self, point: tuple[float, float] | None) -> Callable[[], None]:
        """Mark a point of the plane, or none; call it after each `draw`, for it draws what is in 3-D."""
        self._raise(point)
        return lambda: self.heatmap.point(point)

    def _raise(self, point: tuple[float, float] | None) -> None:
        if self._drawn is None or not self.relief_box.visible:
            return
        if self.relief is None:
            self.relief = Relief(sizing_mode="stretch_width", margin=0)
            self.relief_box.append(self.relief)
        state, (ds, metric, scale, heights) = self.state, self._drawn
        self.relief.figure = relief.figure(
            ds, metric, scale, state.palette, heights,
            show_contours=state.show_contours, show_samples=state.show_samples, point=point,
        )  # fmt: skip
