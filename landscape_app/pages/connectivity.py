"""The straight paths between checkpoints, and their barriers before and after matching."""

from __future__ import annotations

import panel as pn
import xarray as xr

from landscape_app import look, plotting
from landscape_app.connectivity import picture, words
from landscape_app.connectivity.controls import ConnectivityControls, Downloads, PairControls
from landscape_app.connectivity.plot import ConnectivityPlot
from landscape_app.findings import download, file_name, provenance_html
from landscape_app.resultlist import ResultList
from landscape_app.runpanel import RunPanel
from landscape_app.state import State
from landscape_app.text import text

title = "Connectivity"
needs = 2

SKETCH = """<svg viewBox="0 0 120 72" fill="none" stroke="currentColor" stroke-width="1.4" aria-hidden="true">
<path d="M8 60 L112 54" stroke-dasharray="2 4" opacity=".6"/><path d="M8 60 C34 58 40 12 60 12 S88 54 112 54"/>
<path d="M8 60 C40 56 48 48 62 48 S92 54 112 54" opacity=".45"/><circle cx="8" cy="60" r="2.6"/>
<circle cx="112" cy="54" r="2.6"/></svg>"""


def build(state: State) -> pn.viewable.Viewable:
    """The page: choices and results on the left, the path and the matrices in the middle, all values beneath."""
    return ConnectivityPage(state).view


class ConnectivityPage:
    """Draws the result of the connectivity's task in place. The charts are made once."""

    def __init__(self, state: State):
        self.state = state.connectivity
        state, whole = self.state, state
        self.plot = ConnectivityPlot(self._tapped)
        self.pair_controls = PairControls(state)
        self.downloads = Downloads(state)
        self.run_panel = RunPanel(state, words.message)
        self.results = ResultList(whole, title.lower())
        self.veil = look.veil()
        self.stack = look.stack(self.plot.view, self.veil)
        self.findings, self.table, self.symmetries = look.html(), look.html(), look.html()
        self.caption, self.notes, self.provenance = look.html(), look.html(), look.html()
        self.download = download(lambda: state.result, "Download result (netCDF)", "ls-link", margin=(16, 0))
        self.below = look.column(self.findings, self.downloads.view, self.table, self.symmetries, visible=False)
        self.beside = look.column(self.caption, self.notes, self.download, self.provenance, visible=False)
        body = look.spread(look.column(self.stack, self.below), self.beside)
        self.view = look.columns(
            ConnectivityControls(state).view, [self.run_panel.view, self.pair_controls.view, body], self.results.view
        )
        state.param.watch(self._draw, ["result", "metric", "first", "second", "shown"])
        state.param.watch(self._promise, [*state.inputs, "job", "result", "trouble"])
        self._promise()
        self._draw()

    def _tapped(self, a: int, b: int) -> None:
        with self.state.lock:
            self.state.choose(a, b)

    def _draw(self, *_: object) -> None:
        with self.state.lock:
            state, ds = self.state, self.state.result
            self.below.visible = self.beside.visible = self.pair_controls.view.visible = ds is not None
            if ds is None or not _holds(ds, state.metric, state.first, state.second):
                return
            metric, a, b = state.metric, state.first, state.second
            plotting.change(lambda: self.plot.draw(ds, metric, a, b), *self.plot.panes)
            self._say(ds, metric, a, b)

    def _say(self, ds: xr.Dataset, metric: str, a: int, b: int) -> None:
        said = words.findings(ds, metric, a, b)
        lines = "".join(f'<p class="nums">{text(line)}</p>' for line in said)
        self.findings.object = f'<div class="ls caption" role="status">{lines}</div>'
        table = _table(words.HEADERS, words.rows(ds, metric), picture.pair(ds, a, b))
        table = look.folded("All values", f'<div class="wide">{table}</div>')
        self.table.object = f'<div class="ls">{table}</div>'
        found = picture.symmetries(ds)
        self.symmetries.object = _symmetries(found) if found else ""
        head, conditions = words.caption(ds)
        self.caption.object = f'<div class="ls"><h2>{text(head)}</h2><p class="quiet">{text(conditions)}</p></div>'
        notes = "".join(f"<li>{text(line)}</li>" for line in words.notes(ds))
        self.notes.object = f'<div class="ls"><ul class="notes">{notes}</ul></div>'
        record = provenance_html(ds)
        if record != self.provenance.object:
            self.provenance.object = record
        self.download.filename = file_name(ds)
        self.downloads.arrange()

    def _promise(self, *_: object) -> None:
        """Before the first result: say what will come."""
        state = self.state
        self.veil.visible = state.result is None
        look.arrange(self.stack, "ls-stack", *(["ls-empty"] if state.result is None else []))
        if state.result is not None:
            return
        head, said = "No path yet", f"Compute follows {words.promise(state)}: the loss on it and its barrier."
        if any(state.trouble):
            said = "Choose another model, or mend this one."
        elif len(state.request().checkpoints) < 2:
            said = "Choose two or more checkpoints."
        if state.busy:
            head, said = "The first path is on its way", "Points appear here, from coarse to fine."
        self.veil.object = (
            f'<div class="ls veil"><div>{SKETCH}<h2>{text(head)}</h2><p class="quiet">{text(said)}</p></div></div>'
        )


def _holds(ds: xr.Dataset, metric: str, a: int, b: int) -> bool:
    """Whether the choices are of this result: they follow it one after another."""
    return metric in ds and a != b and max(a, b) < ds.sizes["checkpoint"]


def _symmetries(facts: dict) -> str:
    lines = "".join(f'<p class="nums">{text(line)}</p>' for line in words.symmetries(facts))
    free = _table(("Units", "Exchanged along"), words.free(facts), kind="values keyed") if facts["groups"] else ""
    pinned = _table(("Pinned by", "What stays"), words.pinned(facts)) if words.pinned(facts) else ""
    return f'<div class="ls">{look.folded("Symmetries", lines + free + pinned)}</div>'


def _table(
    headers: tuple[str, ...], rows: list[tuple[str, ...]], chosen: int | None = None, kind: str = "values"
) -> str:
    lines = []
    for place, row in enumerate(rows):
        here = ' class="here" aria-current="true"' if place == chosen else ""
        lines.append(f"<tr{here}>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>")
    head = "".join(f"<th>{text(name)}</th>" for name in headers)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
