"""The eigenvalues of the loss's curvature, and their density."""

from __future__ import annotations

import panel as pn

from landscape_app import look, plotting
from landscape_app.findings import download, file_name, provenance_html
from landscape_app.resultlist import ResultList
from landscape_app.runpanel import RunPanel
from landscape_app.spectrum import picture, words
from landscape_app.spectrum.controls import EigenvalueControls, LookControls, SpectrumControls
from landscape_app.spectrum.plot import SpectrumPlot
from landscape_app.state import State
from landscape_app.text import number, text

title = "Spectrum"
needs = 1

MOST_SENTENCES = 4
SKETCH = """<svg viewBox="0 0 120 72" fill="none" stroke="currentColor" stroke-width="1.4" aria-hidden="true">
<path d="M2 66 C14 66 16 8 24 8 S36 62 52 65 S104 66 118 66" opacity=".6"/>
<path d="M62 66V50M78 66V46M108 66V40" opacity=".9"/><circle cx="62" cy="50" r="2.4"/><circle cx="78" cy="46" r="2.4"/>
<circle cx="108" cy="40" r="2.4"/></svg>"""


def build(state: State) -> pn.viewable.Viewable:
    """The page: choices and results on the left, densities with their eigenvalues in the middle, the table beneath."""
    return SpectrumPage(state).view


class SpectrumPage:
    """Draws the result of the spectrum's task in place. The plots are made once."""

    def __init__(self, state: State):
        self.whole, self.state = state, state.spectrum
        state = self.state
        self.plot = SpectrumPlot(self._tapped)
        self.controls = SpectrumControls(state)
        self.look_controls = LookControls(state)
        self.eigenvalue_controls = EigenvalueControls(state, self.whole.ask_plane)
        self.run_panel = RunPanel(state, words.message)
        self.results = ResultList(self.whole, title.lower())
        self.veil = look.veil()
        self.stack = look.stack(self.plot.view, self.veil)
        self.findings, self.warnings, self.table = look.html(), look.html(), look.html()
        self.caption, self.provenance = look.html(), look.html()
        self.download = download(lambda: state.result, "Download result (netCDF)", "ls-link", margin=(16, 0))
        self.below = look.column(self.findings, self.eigenvalue_controls.view, self.table, visible=False)
        self.beside = look.column(self.caption, self.warnings, self.download, self.provenance, visible=False)
        self.body = look.spread(look.column(self.stack, self.below), self.beside)
        self.view = look.columns(
            self.controls.view, [self.run_panel.view, self.look_controls.view, self.body], self.results.view
        )
        state.param.watch(self._draw, ["result", "log_scale", "width"])
        state.shelf.param.watch(self._draw, "labels")
        state.param.watch(self._mark, "chosen")
        state.param.watch(self._promise, [*state.inputs, "job", "result", "trouble"])
        self._promise()
        self._draw()

    def _tapped(self, part: int, pair: int) -> None:
        self.state.chosen = (part, pair)

    def _draw(self, *_: object) -> None:
        with self.state.lock:
            self._draw_all()

    def _draw_all(self) -> None:
        state, ds = self.state, self.state.result
        self.below.visible = self.beside.visible = self.look_controls.view.visible = ds is not None
        if ds is None:
            return
        parts = state.parts
        low, high = picture.span(parts)
        state.param.width.label = f"Bandwidth: σ = {number(state.bandwidth * (high - low), 2)}"
        count = picture.planned(ds)
        look.arrange(self.body, "ls-wide" if count > 1 else "ls-spread")
        self.plot.prepare(count)
        log, width, chosen = state.log_scale, state.bandwidth, state.chosen
        plotting.change(lambda: self.plot.draw(parts, log, width, chosen), *self.plot.panes)
        self._say(ds, parts)

    def _say(self, ds, parts) -> None:
        said = [words.findings(part) for part in parts[:MOST_SENTENCES]]
        if len(parts) > MOST_SENTENCES:
            said.append(f"The table has all {len(parts)}.")
        self.findings.object = "".join(f'<p class="ls quiet nums">{text(line)}</p>' for line in said)
        title, conditions = words.caption(self.state.shown_as(ds))
        self.caption.object = f'<div class="ls"><h2>{text(title)}</h2><p class="quiet">{text(conditions)}</p></div>'
        notes = "".join(f"<li>{text(line)}</li>" for line in words.warnings(ds))
        self.warnings.object = f'<div class="ls"><ul class="notes">{notes}</ul></div>' if notes else ""
        record = provenance_html(ds)
        if record != self.provenance.object:
            self.provenance.object = record
        self.download.filename = file_name(ds)
        self._tabulate(parts)

    def _tabulate(self, parts) -> None:
        tables = [_table(i, part, len(parts), self.state.chosen) for i, part in enumerate(parts)]
        self.table.object = f'<div class="ls tables">{"".join(tables)}</div>'

    def _mark(self, *_: object) -> None:
        with self.state.lock:
            state = self.state
            if state.result is None:
                return
            parts = state.parts
            log, width, chosen = state.log_scale, state.bandwidth, state.chosen
            plotting.change(lambda: self.plot.draw(parts, log, width, chosen), *self.plot.panes)
            self._tabulate(parts)

    def _promise(self, *_: object) -> None:
        """Before the first result: say what will come."""
        state = self.state
        self.veil.visible = state.result is None
        look.arrange(self.stack, "ls-stack", *(["ls-empty"] if state.result is None else []))
        if state.result is not None:
            return
        head = "No spectrum yet"
        said = f"Compute finds {words.promise(state)}: the largest eigenvalues first, then their density."
        if any(state.trouble):
            said = "Choose another model, or mend this one."
        if state.busy:
            head, said = "The first product is on its way", "Eigenvalues appear here with their bars, which shrink."
        self.veil.object = (
            f'<div class="ls veil"><div>{SKETCH}<h2>{text(head)}</h2><p class="quiet">{text(said)}</p></div></div>'
        )


def _table(place: int, part: picture.Spectrum, count: int, chosen: tuple[int, int] | None) -> str:
    lines = []
    for pair, cells in enumerate(words.rows(part)):
        kind = ' class="here" aria-current="true"' if (place, pair) == chosen else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>")
    name = f"<caption>{text(part.label)}</caption>" if count > 1 else ""
    head = "<tr><th>Eigenvalue</th><th>Value</th><th>Bar</th><th>Residual</th><th>How sure</th></tr>"
    return f'<table class="values">{name}<thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
