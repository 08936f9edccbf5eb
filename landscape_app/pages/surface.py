"""The loss over a line or plane in weight space."""

from __future__ import annotations

import panel as pn

from landscape_app import look, picture, plotting, words
from landscape_app.controls import PictureControls, PointControls, SliceControls
from landscape_app.curve import Curve
from landscape_app.findings import Findings
from landscape_app.heatmap import Heatmap
from landscape_app.runpanel import RunPanel
from landscape_app.slices import Slices
from landscape_app.state import State
from landscape_app.text import text

title = "Surface"
needs = 1

APPEARANCE = ["result", "metric", "log_scale", "palette", "show_contours", "show_samples"]
INVITATION = "Tap the picture, or give a and b: the value there, and the slices through it."
SKETCH = """<svg viewBox="0 0 120 72" fill="none" stroke="currentColor" stroke-width="1.4" aria-hidden="true">
<ellipse cx="60" cy="36" rx="56" ry="32" opacity=".3"/><ellipse cx="57" cy="38" rx="40" ry="22" opacity=".5"/>
<ellipse cx="54" cy="40" rx="25" ry="13" opacity=".75"/><ellipse cx="52" cy="41" rx="11" ry="5.5"/></svg>"""


def build(state: State) -> pn.viewable.Viewable:
    """The page: choices on the left, the picture in the middle, findings beneath."""
    return SurfacePage(state).view


class SurfacePage:
    """Draws the state's result in place. The plots are made once."""

    def __init__(self, state: State):
        self.state = state
        self.heatmap, self.curve = Heatmap(), Curve()
        self.findings = Findings(state)
        self.look_controls = PictureControls(state)
        self.veil = look.veil()
        self.heat_box = look.column(self.heatmap.pane)
        self.slices = Slices(self.heatmap.figure.x_range, self.heatmap.figure.y_range)
        self.point_controls = PointControls(state)
        self.point_text = look.html()
        self.slice_box = look.column(look.pair(*self.slices.panes), visible=False)
        self.point_box = look.column(self.point_controls.view, self.point_text, self.slice_box, visible=False)
        self.curve_box = look.column(self.curve.pane, visible=False)
        self.run_panel = RunPanel(state)
        plot = look.stack(self.heat_box, self.curve_box, self.veil)
        findings = self.findings
        self.view = look.columns(
            SliceControls(state).view,
            [
                self.run_panel.view,
                self.look_controls.view,
                look.spread(look.column(plot, findings.sentence, self.point_box), findings.view),
            ],
        )
        state.param.watch(self._draw, APPEARANCE)
        state.param.watch(self._draw_point, "point")
        self.heatmap.on_tap(state.choose)
        state.param.watch(self._promise, [*state.inputs, "job", "result"])
        self._promise()
        self._draw()

    def _draw(self, *_: object) -> None:
        state, ds = self.state, self.state.result
        if ds is None:
            return
        metric = picture.metric(ds, state.metric)
        plane = picture.dims(ds) == 2

        def edit() -> None:
            if plane:
                self.heatmap.draw(ds, metric, state.log_scale, state.palette)
                self.heatmap.show(state.show_contours, state.show_samples)
            else:
                self.curve.draw(ds, metric, state.log_scale)
                self.curve.show(state.show_samples)

        self.point_box.visible = plane
        if plane:
            self.point_controls.step(*picture.spacing(ds))
        self.heat_box.visible, self.curve_box.visible = plane, not plane
        for name in ("palette", "show_contours"):
            self.look_controls.fields[name].visible = plane
        plotting.change(edit, self.heatmap.pane if plane else self.curve.pane)
        self.findings.draw(ds, metric)
        self._draw_point()

    def _draw_point(self, *_: object) -> None:
        state, ds, point = self.state, self.state.result, self.state.point
        self.slice_box.visible = point is not None
        self.point_text.object = f'<p class="ls quiet">{text(INVITATION)}</p>'
        if ds is None or picture.dims(ds) == 1:
            return
        metric = picture.metric(ds, state.metric)

        def edit() -> None:
            self.heatmap.point(point)
            if point is not None:
                self.slices.draw(ds, metric, state.log_scale, point)

        plotting.change(edit, self.heatmap.pane, *self.slices.panes)
        if point is not None:
            self.point_text.object = f'<p class="ls nums" role="status">{text(words.at_point(ds, metric, point))}</p>'

    def _promise(self, *_: object) -> None:
        """Before the first result: say what will come."""
        state = self.state
        self.veil.visible = state.result is None
        if state.result is not None:
            return
        head, said = "No surface yet", f"Compute draws {words.promise(state)}: coarse first, then finer."
        if state.busy:
            head, said = "The first values are on their way", "The picture appears here and grows finer."
        self.veil.object = (
            f'<div class="ls veil"><div>{SKETCH}<h2>{text(head)}</h2><p class="quiet">{text(said)}</p></div></div>'
        )
