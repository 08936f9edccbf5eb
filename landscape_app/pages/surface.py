"""The loss over a line or plane in weight space."""

from __future__ import annotations

import panel as pn

from landscape_app import look, picture, plotting, words
from landscape_app.controls import CompareControls, PictureControls, PointControls, SliceControls, button, field
from landscape_app.findings import Findings
from landscape_app.pair import Edit, Pair
from landscape_app.resultlist import ResultList
from landscape_app.runpanel import RunPanel
from landscape_app.slices import Slices
from landscape_app.state import State
from landscape_app.text import text

title = "Surface"
needs = 1

APPEARANCE = ["result", "metric", "across", "log_scale", "clip", "palette", "show_contours", "show_samples", "relief"]
COMPARISON = ["compare", "other", "other_metric", "other_across", "other_log_scale", "difference"]
INVITATION = "Tap the picture, or give a and b: the value there, and the slices through it."
SKETCH = """<svg viewBox="0 0 120 72" fill="none" stroke="currentColor" stroke-width="1.4" aria-hidden="true">
<ellipse cx="60" cy="36" rx="56" ry="32" opacity=".3"/><ellipse cx="57" cy="38" rx="40" ry="22" opacity=".5"/>
<ellipse cx="54" cy="40" rx="25" ry="13" opacity=".75"/><ellipse cx="52" cy="41" rx="11" ry="5.5"/></svg>"""


def build(state: State) -> pn.viewable.Viewable:
    """The page: choices and results on the left, the picture in the middle, what it says beside it."""
    return SurfacePage(state).view


class SurfacePage:
    """Draws the state's result in place, and another beside it. The plots are made once."""

    def __init__(self, state: State):
        self.state = state
        self.pair = Pair(state)
        self.findings = Findings(state)
        self.look_controls = PictureControls(state)
        self.compare_controls = CompareControls(state)
        self.veil = look.veil()
        ranges = self.pair.plot.heatmap.figure
        self.slices = Slices(ranges.x_range, ranges.y_range)
        self.pair.plot.on_zoom(self._zoomed)
        self.part = button("Compute this part anew", state.ask_view)
        self.part.visible = False
        self.point_controls = PointControls(state)
        self.point_text = look.html()
        self.slice_box = look.column(look.pair(*self.slices.panes), visible=False)
        self.spectrum_here = button("Spectrum at this point", state.ask_spectrum)
        self.promise_text, self.radius_text = look.html(visible=False), look.html(visible=False)
        self.show_radius = field(state, "show_radius", width=142)
        point_bar = look.bar(*self.point_controls.fields.values(), self.spectrum_here, self.show_radius)
        self.point_box = look.column(
            point_bar, self.radius_text, self.point_text, self.slice_box, self.promise_text, visible=False
        )
        self.origin_text = look.html()
        self.origin = look.column(self.origin_text, button("Back to the spectrum", state.back), visible=False)
        self.run_panel = RunPanel(state, words.message)
        self.stack = look.stack(self.pair.pictures, self.veil)
        self.body = look.spread(
            look.column(self.stack, self.part, self.pair.compared, self.findings.sentence),
            look.column(self.point_box, self.findings.view),
        )
        self.results = ResultList(state, title.lower())
        self.view = look.columns(
            SliceControls(state).view,
            [self.run_panel.view, self.origin, self.look_controls.view, self.compare_controls.view, self.body],
            self.results.view,
        )
        state.param.watch(self._draw, [*APPEARANCE, *COMPARISON])
        state.shelf.param.watch(self._draw, ["labels", "colours"])
        state.param.watch(self._draw_point, ["point", "show_radius", "radii", "job"])
        state.param.watch(self._promise, [*state.inputs, "job", "result", "trouble"])
        state.param.watch(self._offer_part, ["view", "stale", "computed", "job"])
        self._promise()
        self.pair.plot.prepare()
        self._draw()

    def _draw(self, *_: object) -> None:
        with self.state.lock:
            self._draw_all()

    def _draw_all(self) -> None:
        state, ds = self.state, self.state.drawn
        plane = ds is not None and picture.dims(ds) == 2
        asks = ds is not None and words.classifies(ds)
        self.point_box.visible = plane or asks
        self.point_text.visible = self.spectrum_here.visible = plane
        for shown in self.point_controls.fields.values():
            shown.visible = plane
        self.show_radius.visible = asks
        self.look_controls.fields["across"].visible = ds is not None and "seed" in state.result.dims
        for name in ("clip", "palette", "show_contours", "relief"):
            self.look_controls.fields[name].visible = ds is None or plane
        self.origin.visible = ds is not None and picture.parabola(ds, "a") is not None
        look.arrange(self.origin, *(["ls-origin"] if self.origin.visible else []))
        if self.origin.visible:
            self.origin_text.object = f'<p class="ls">{text(words.origin(ds))}</p>'
        look.arrange(self.body, "ls-spread" if state.beside is None else "ls-wide")
        self.findings.draw(ds)
        self._change(self.pair.draw())
        if plane:
            self.point_controls.step(*picture.spacing(ds))
        if ds is not None:
            self._draw_there()

    def _zoomed(self, *ends: tuple[float, float]) -> None:
        with self.state.lock:
            self.state.look_at(*ends)

    def _offer_part(self, *_: object) -> None:
        state = self.state
        self.part.visible = state.view is not None
        self.part.disabled = state.busy or state.stale or state.computed is None

    def _change(self, edits: list[Edit]) -> None:
        def edit() -> None:
            for one in edits:
                one()

        plotting.change(edit, *self.pair.panes, *self.slices.panes)

    def _draw_point(self, *_: object) -> None:
        with self.state.lock:
            self._draw_there()

    def _draw_there(self) -> None:
        state, ds, point = self.state, self.state.drawn, self.state.point
        self.slice_box.visible = point is not None
        self.point_text.object = f'<p class="ls quiet">{text(INVITATION)}</p>'
        self.spectrum_here.disabled = state.place is None
        self.promise_text.visible = False
        if ds is None:
            return
        radius = state.radius
        self._say_radius()
        if picture.dims(ds) == 1:
            self._change([lambda: self.pair.plot.curve.shade(radius.ends.get("t") if radius else None)])
            return
        edits = self.pair.point(point)
        if point is not None:
            metric, other, there = state.metric_shown, state.beside, self.pair.there(point)
            second = (other, state.metric_beside) if there and state.same_quantity else None
            ends = radius.ends if radius and radius.ends else None
            edits.append(lambda: self.slices.draw(ds, metric, state.log_scale, point, second, ends))
            promised = words.promised(ds, metric, point)
            self.promise_text.visible = bool(promised)
            lines = "".join(f"<p>{text(line)}</p>" for line in promised)
            self.promise_text.object = f'<div class="ls quiet nums">{lines}</div>'
            said = [words.at_point(ds, metric, point)]
            if there and other is not ds:
                said = [f"A: {said[0]}", f"B: {words.at_point(other, state.metric_beside, there)}"]
            said += [words.apart(*self.pair.difference, point)] if self.pair.difference else []
            lines = "<br>".join(map(text, said))
            self.point_text.object = f'<p class="ls nums" role="status">{lines}</p>'
        self._change(edits)

    def _say_radius(self) -> None:
        said = words.radius(self.state)
        self.radius_text.visible = bool(said)
        self.radius_text.object = f'<p class="ls quiet nums">{text(said)}</p>'

    def _promise(self, *_: object) -> None:
        """Before the first result: say what will come."""
        state = self.state
        self.veil.visible = state.result is None
        look.arrange(self.stack, "ls-stack", *(["ls-empty"] if state.result is None else []))
        if state.result is not None:
            return
        head, said = "No surface yet", f"Compute draws {words.promise(state)}: coarse first, then finer."
        if any(state.trouble):
            said = "Choose another model, or mend this one."
        if state.busy:
            head, said = "The first values are on their way", "The picture appears here and grows finer."
        self.veil.object = (
            f'<div class="ls veil"><div>{SKETCH}<h2>{text(head)}</h2><p class="quiet">{text(said)}</p></div></div>'
        )
