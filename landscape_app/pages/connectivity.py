"""The straight paths between checkpoints, and their barriers before and after matching; what is between one pair."""

from __future__ import annotations

from collections.abc import Callable

import panel as pn
import xarray as xr
from bokeh.events import Tap

from landscape_app import look, plotting
from landscape_app.connectivity import picture, words
from landscape_app.connectivity.bars import LayersChart
from landscape_app.connectivity.controls import ConnectivityControls, Downloads, PairControls
from landscape_app.connectivity.of_pair import CURVE
from landscape_app.connectivity.plane import PlaneChart
from landscape_app.connectivity.plot import ConnectivityPlot, show
from landscape_app.connectivity.tasks import PairTask
from landscape_app.connectivity.walk import Walk
from landscape_app.controls import field
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
    """The page: choices and results on the left, the paths and what is between a pair in the middle."""
    return ConnectivityPage(state).view


class Part:
    """What is computed about the chosen pair: its heading, choices, run panel and a sentence about what it shows."""

    def __init__(self, task: PairTask, head: str, verb: str, again: str, *choices: pn.viewable.Viewable):
        self.task = task
        self.run_panel = RunPanel(task, words.pair_message, verb, again)
        self.said = look.html(visible=False)
        heading = look.html(f'<div class="ls head"><h2>{text(head)}</h2></div>')
        self.view = look.column(heading, look.bar(*choices), self.run_panel.view, self.said, kind="ls-part")

    def say(self, *sentences: str) -> None:
        lines = "".join(f"<p>{text(one)}</p>" for one in sentences if one)
        self.said.visible = bool(lines)
        self.said.object = f'<div class="ls quiet nums">{lines}</div>'


class ConnectivityPage:
    """Draws the results of the connectivity's tasks in place. The charts are made once."""

    def __init__(self, state: State):
        self.state = state.connectivity
        state, whole = self.state, state
        self.plot, self.plane, self.layers = ConnectivityPlot(self._tapped), PlaneChart(), LayersChart()
        self.walk = Walk(self.plot.path.figure, self.plane.figure)
        self.pair_controls = PairControls(state)
        self.downloads = Downloads(state)
        self.run_panel = RunPanel(state, words.message)
        self.results = ResultList(whole, title.lower())
        self.veil = look.veil()
        self.place = look.column(look.bar(field(state, "t", width=280)), self.walk.box, visible=False)
        self.halves = look.column(self.plot.path.box, self.place), look.column(self.plane.box)
        self.top = look.column(*self.halves)
        self.stack = look.stack(self.top, self.veil)
        self.parts = {
            "plane": Part(state.plane, "The plane", "Draw the plane", "Draw again", field(state, "third", width=220)),
            "curve": Part(
                state.curve, "A curve of low loss", "Train a curve", "Train again", field(state, "updates", width=140)
            ),
            "layers": Part(
                state.layers, "The layers", "Compute layers", "Compute again", field(state, "together", width=180)
            ),
        }
        self.parts["layers"].view.append(self.layers.box)
        self.pair_parts = look.column(*(part.view for part in self.parts.values()), visible=False)
        self.findings, self.table, self.symmetries = look.html(), look.html(), look.html()
        self.caption, self.notes, self.provenance = look.html(), look.html(), look.html()
        self.download = download(lambda: state.result, "Download result (netCDF)", "ls-link", margin=(16, 0))
        self.found = look.column(self.findings, self.downloads.view, visible=False)
        self.below = look.column(self.table, self.symmetries, visible=False)
        self.beside = look.column(self.caption, self.notes, self.download, self.provenance, visible=False)
        left = look.column(self.stack, self.plot.pair, self.found, self.pair_parts, self.below)
        self.body = look.spread(left, self.beside)
        self.view = look.columns(
            ConnectivityControls(state).view,
            [self.run_panel.view, self.pair_controls.view, self.body],
            self.results.view,
        )
        state.param.watch(self._safely(self._draw), ["result", "metric", "first", "second", "shown"])
        state.curve.param.watch(self._safely(self._draw), ["result", "shown"])
        state.plane.param.watch(self._safely(self._draw_plane), ["result", "shown"])
        state.layers.param.watch(self._safely(self._draw_layers), ["result", "shown"])
        state.param.watch(self._safely(self._draw_plane), ["metric", "result", "first", "second"])
        state.param.watch(self._safely(self._draw_layers), ["metric", "together"])
        for draw in (self._draw, self._draw_plane, self._draw_layers):
            state.shelf.param.watch(self._safely(draw), ["labels", "colours"])
        state.param.watch(self._safely(self._move), "t")
        self.plot.path.figure.on_event(Tap, self._rest)
        state.param.watch(self._safely(self._arrange), ["result", "first", "second", "third", "updates"])
        for task in (state.plane, state.curve, state.layers):
            task.param.watch(self._safely(self._arrange), ["result", "job"])
        state.param.watch(self._promise, [*state.inputs, "job", "result", "trouble"])
        for task in (state.plane, state.curve):
            task.param.watch(self._promise, "result")
        self._promise()
        for draw in (self._draw, self._draw_plane, self._draw_layers, self._arrange):
            self._safely(draw)()

    def _safely(self, does: Callable[[], None]) -> Callable[..., None]:
        def done(*_: object) -> None:
            with self.state.lock:
                does()

        return done

    def _tapped(self, a: int, b: int) -> None:
        with self.state.lock:
            self.state.choose(a, b)

    def _draw(self) -> None:
        state, ds = self.state, self.state.shown_as(self.state.result)
        for view in (self.found, self.below, self.beside, self.pair_controls.view):
            view.visible = ds is not None
        trained = state.curve.shown_as(state.curve.result)
        here = ds is None or state.curve.fits(state.curve.computed)  # a curve of another pair is not on these paths
        curve = picture.as_paths(trained) if trained is not None and here else None
        self.halves[0].visible = self.place.visible = ds is not None or curve is not None
        self._say_curve(trained, "" if here else "Compute the paths between its ends to see it beside them.")
        metric, a, b = state.metric, state.first, state.second
        shown = ds
        if ds is None and curve is not None:  # opened from a file: alone
            shown, metric, a, b = curve, "loss", 0, 1
        if shown is None or not _holds(shown, metric, a, b):
            return
        labels = {name: picture.titled(shown, name) for name in picture.metrics(shown).values()}
        lines = picture.lines(shown, curve, a, b)

        def edit() -> None:
            self.plot.draw(shown, metric, a, b, lines.get(CURVE, {}).get(metric))
            self.walk.draw(lines, metric, labels)
            self.walk.move(state.t)
            show(self.walk)

        plotting.change(edit, *self.plot.panes, self.walk.pane)
        if ds is not None:
            self._say(ds, metric, a, b)

    def _rest(self, event: Tap) -> None:
        """Where the paths are tapped the place stays, for the slider and the address too."""
        self.state.t = round(min(1.0, max(0.0, event.x)), 2)

    def _say_curve(self, ds: xr.Dataset | None, more: str) -> None:
        if ds is None:
            self.parts["curve"].say()
            return
        metric = self.state.metric if self.state.metric in picture.metrics(ds).values() else "loss"
        self.parts["curve"].say(words.pair_caption(ds), words.curve_found(ds, metric), more)

    def _draw_plane(self) -> None:
        state, ds = self.state, self.state.plane.shown_as(self.state.plane.result)
        self.halves[1].visible = ds is not None
        look.arrange(self.top, *(["ls-facing", "ls-level"] if ds is not None and state.result is not None else []))
        look.arrange(self.body, "ls-wide" if ds is not None else "ls-spread")
        self.parts["plane"].say(words.pair_caption(ds) if ds is not None else "")
        if ds is None:
            return
        here = state.plane.computed is not None and state.plane.computed == state.plane.request()
        metric = state.metric

        def edit() -> None:
            self.plane.draw(ds, metric)
            self.walk.draw_tracks(picture.tracks(ds) if here else {})
            self.walk.move(state.t)
            show(self.plane)

        plotting.change(edit, self.plane.pane, *self.plot.panes)

    def _draw_layers(self) -> None:
        state, ds = self.state, self.state.layers.shown_as(self.state.layers.result)
        self.layers.box.visible = ds is not None
        self.parts["layers"].say(words.pair_caption(ds) if ds is not None else "")
        if ds is None:
            return
        metric = state.metric if state.metric in picture.layer_metrics(ds).values() else "loss"
        together = state.together

        def edit() -> None:
            self.layers.draw(ds, metric, together)
            show(self.layers)

        plotting.change(edit, self.layers.pane)

    def _move(self) -> None:
        t = self.state.t
        if self.halves[0].visible:
            plotting.change(lambda: self.walk.move(t), *self.plot.panes, self.plane.pane, self.walk.pane)

    def _arrange(self) -> None:
        """What is offered about the pair, and where it stands."""
        state = self.state
        tasks = [part.task for part in self.parts.values()]
        self.pair_parts.visible = state.result is not None or any(t.busy or t.result is not None for t in tasks)
        for part in self.parts.values():
            part.run_panel.show()

    def _say(self, ds: xr.Dataset, metric: str, a: int, b: int) -> None:
        said = words.findings(ds, metric, a, b)
        lines = "".join(f'<p class="nums">{text(line)}</p>' for line in said)
        self.findings.object = f'<div class="ls caption" role="status">{lines}</div>'
        table = _table(words.headers(ds), words.rows(ds, metric), picture.pair(ds, a, b))
        table = look.folded("All values", f'<div class="wide">{table}</div>')
        self.table.object = f'<div class="ls">{table}</div>'
        facts = picture.symmetries(ds)
        self.symmetries.object = _symmetries(facts) if facts else ""
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
        empty = all(task.result is None for task in (state, state.plane, state.curve))
        self.veil.visible = empty
        look.arrange(self.stack, "ls-stack", *(["ls-empty"] if empty else []))
        if not empty:
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
