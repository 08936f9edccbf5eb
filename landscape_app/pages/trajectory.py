"""The curvature along a training run."""

from __future__ import annotations

import panel as pn
import xarray as xr

from landscape_app import look, plotting
from landscape_app.findings import download, file_name, provenance_html
from landscape_app.resultlist import ResultList
from landscape_app.runpanel import RunPanel
from landscape_app.state import State
from landscape_app.text import text
from landscape_app.trajectory import picture, words
from landscape_app.trajectory.controls import CheckpointControls, LookControls, TrajectoryControls
from landscape_app.trajectory.plot import TrajectoryPlot

title = "Trajectory"
needs = 2

INVITATION = "Tap a point, or choose a checkpoint here: its values, and the way to its spectrum."
SKETCH = """<svg viewBox="0 0 120 72" fill="none" stroke="currentColor" stroke-width="1.4" aria-hidden="true">
<path d="M4 14H116" stroke-dasharray="5 4" opacity=".6"/><path d="M6 62 C30 58 40 20 66 18 S98 14 114 20"/>
<path d="M6 66 C34 64 52 46 74 44 S100 42 114 46" opacity=".45"/><circle cx="66" cy="18" r="2.6"/></svg>"""


def build(state: State) -> pn.viewable.Viewable:
    """The page: choices and results on the left, the charts in the middle, all values beneath."""
    return TrajectoryPage(state).view


class TrajectoryPage:
    """Draws the result of the trajectory's task in place. The charts are made once."""

    def __init__(self, state: State):
        self.state = state.trajectory
        state, whole = self.state, state
        self.plot = TrajectoryPlot(self._tapped)
        self.look_controls = LookControls(state)
        self.checkpoint_controls = CheckpointControls(state, whole.ask_spectrum_along)
        self.run_panel = RunPanel(state, words.message)
        self.results = ResultList(whole, title.lower())
        self.veil = look.veil()
        self.stack = look.stack(self.plot.view, self.veil)
        self.findings, self.here, self.table = look.html(), look.html(), look.html()
        self.caption, self.notes, self.provenance = look.html(), look.html(), look.html()
        self.download = download(lambda: state.drawn, "Download result (netCDF)", "ls-link", margin=(16, 0))
        below = [self.findings, self.checkpoint_controls.view, self.here, self.table]
        self.below = look.column(*below, visible=False)
        self.beside = look.column(self.caption, self.notes, self.download, self.provenance, visible=False)
        body = look.spread(look.column(self.stack, self.below), self.beside)
        self.view = look.columns(
            TrajectoryControls(state).view, [self.run_panel.view, self.look_controls.view, body], self.results.view
        )
        state.param.watch(self._draw, ["result", "log_scale", "log_steps", "learning_rate", "chosen"])
        state.shelf.param.watch(self._draw, ["labels", "colours"])
        state.param.watch(self._promise, [*state.inputs, "job", "result", "trouble"])
        self._promise()
        self._draw()

    def _tapped(self, place: int) -> None:
        with self.state.lock:
            if self.state.result is not None and place in picture.known(self.state.result):
                self.state.chosen = place

    def _draw(self, *_: object) -> None:
        with self.state.lock:
            state, ds = self.state, self.state.shown_as(self.state.drawn)
            self.below.visible = self.beside.visible = self.look_controls.view.visible = ds is not None
            if ds is None:
                return
            self.look_controls.fields["log_steps"].visible = picture.stepped(ds)
            log, log_steps, chosen = state.log_scale, state.log_steps, state.chosen
            plotting.change(lambda: self.plot.draw(ds, log, log_steps, chosen), *self.plot.panes)
            self._say(ds)

    def _say(self, ds: xr.Dataset) -> None:
        chosen = self.state.chosen
        said = words.findings(ds) + words.misread(self.state)
        self.findings.object = "".join(f'<p class="ls quiet nums">{text(line)}</p>' for line in said)
        here = INVITATION if chosen is None else words.at(ds, chosen)
        self.here.object = f'<p class="ls nums" role="status">{text(here)}</p>'
        self.table.object = f'<div class="ls">{look.folded("All values", _table(ds, chosen))}</div>'
        head, conditions = words.caption(ds)
        self.caption.object = f'<div class="ls"><h2>{text(head)}</h2><p class="quiet">{text(conditions)}</p></div>'
        notes = "".join(f"<li>{text(line)}</li>" for line in words.notes(ds))
        self.notes.object = f'<div class="ls"><ul class="notes">{notes}</ul></div>'
        record = provenance_html(ds)
        if record != self.provenance.object:
            self.provenance.object = record
        self.download.filename = file_name(ds)

    def _promise(self, *_: object) -> None:
        """Before the first result: say what will come."""
        state = self.state
        self.veil.visible = state.result is None
        look.arrange(self.stack, "ls-stack", *(["ls-empty"] if state.result is None else []))
        if state.result is not None:
            return
        head = "No trajectory yet"
        said = f"Compute follows {words.promise(state)}: eigenvalues, trace and gradient, beside 2 / η."
        if any(state.trouble):
            said = "Choose another model, or mend this one."
        if state.busy:
            head, said = "The first checkpoint is on its way", "Points appear here, one checkpoint after another."
        self.veil.object = (
            f'<div class="ls veil"><div>{SKETCH}<h2>{text(head)}</h2><p class="quiet">{text(said)}</p></div></div>'
        )


def _table(ds: xr.Dataset, chosen: int | None) -> str:
    lines = []
    places = picture.known(ds)
    for place, row in zip(places, words.rows(ds, places), strict=True):
        kind = ' class="here" aria-current="true"' if place == chosen else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>")
    head = "".join(f"<th>{text(name)}</th>" for name in words.HEADERS)
    rows = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide"><table class="values">{rows}</table></div>'
