"""A place t on the paths between two checkpoints: marked on their plot and on the plane, with the values there.

Pointing at the plot moves all of it in the browser, without the server; else it rests at the t that is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import panel as pn
from bokeh.events import MouseLeave, MouseMove
from bokeh.models import CustomJS, Div
from bokeh.plotting import figure

from landscape_app import look, plotting
from landscape_app.connectivity.picture import COLOURS, SAYS, Path, Track
from landscape_app.text import number, text

FINE = 201  # places of a track: the marker goes straight from each to the next
HOLE = re.compile(r"\{(\d+)\.(\d+)\}")  # of the template: which line, which metric
UNKNOWN = "–"

WALK = """
const at = (t, ts, ys) => {
  const n = ts.length;
  if (n == 0 || t < ts[0] || t > ts[n - 1]) return NaN;
  let i = 1;
  while (i < n - 1 && ts[i] < t) i++;
  return n == 1 ? ys[0] : ys[i - 1] + (t - ts[i - 1]) / (ts[i] - ts[i - 1]) * (ys[i] - ys[i - 1]);
};
const digits = (value, count) => Number(value.toPrecision(count)).toString().replace("-", "−");
const show = (source, data) => source.setv({data}, {sync: false});
const t = cb_obj.event_name == "mousemove" ? Math.min(1, Math.max(0, cb_obj.x)) : rest.data.t[0];
const {ts, shown, values, colour} = lines.data;
show(rule, {x: [t]});
show(dots, {x: ts.map(() => t), y: ts.map((places, i) => at(t, places, shown[i])), colour});
const on = tracks.data;
show(spots, {
  x: on.ts.map((places, i) => at(t, places, on.xs[i])),
  y: on.ts.map((places, i) => at(t, places, on.ys[i])),
  colour: on.colour,
});
const said = rest.data.template[0].replace("{t}", t.toFixed(2)).replace(/\\{(\\d+)\\.(\\d+)\\}/g, (_, i, j) => {
  const value = at(t, ts[i], values[i][j]);
  return Number.isNaN(value) ? "–" : Number.isFinite(value) ? digits(value, 3) : "∞";
});
readout.setv({text: said}, {sync: false});
"""


class Walk:
    """Marks of the place, on the figure of the paths and on that of the plane, and its values as a table."""

    def __init__(self, path: figure, plane: figure):
        self.template = ""
        self.rest = plotting.empty("t", "template")
        self.lines = plotting.empty("ts", "shown", "values", "colour")
        self.tracks = plotting.empty("ts", "xs", "ys", "colour")
        self.rule, self.dots, self.spots = plotting.empty("x"), *(plotting.empty("x", "y", "colour") for _ in "ab")
        self.readout = Div(text="", stylesheets=[look.STYLE], sizing_mode="stretch_width")
        path.vspan(x="x", line_color=plotting.INK, line_alpha=0.45, line_width=1.2, source=self.rule)
        dots = {"fill_color": "colour", "line_color": "white", "line_width": 1.5}
        path.scatter("x", "y", size=10, **dots, source=self.dots)
        plane.scatter("x", "y", size=17, fill_color=plotting.INK, line_color=None, source=self.spots)
        plane.scatter("x", "y", size=13, **dots, source=self.spots)
        models = {name: getattr(self, name) for name in ("rest", "lines", "tracks", "rule", "dots", "spots", "readout")}
        for event in (MouseMove, MouseLeave):
            path.js_on_event(event, CustomJS(args=models, code=WALK))
        self.pane = pn.pane.Bokeh(self.readout, sizing_mode="stretch_width", margin=0)
        self.box = look.column()

    def draw(self, paths: Mapping[str, Mapping[str, Path]], metric: str, labels: Mapping[str, str]) -> None:
        """Take the lines to walk on, by what they are and then by metric; labels: of the metrics, with their units."""
        self.lines.data = {
            "ts": [of[metric].t for of in paths.values()],
            "shown": [of[metric].values for of in paths.values()],
            "values": [[of[name].values for name in labels if name in of] for of in paths.values()],
            "colour": [COLOURS[line] for line in paths],
        }
        self.template = _template(paths, labels)

    def draw_tracks(self, tracks: Mapping[str, Track]) -> None:
        """Take the lines on the plane, none where it is of other checkpoints."""
        ts = np.linspace(0, 1, FINE)
        places = {line: track(ts) for line, track in tracks.items()}
        self.tracks.data = {
            "ts": [ts] * len(places),
            "xs": [place[:, 0] for place in places.values()],
            "ys": [place[:, 1] for place in places.values()],
            "colour": [COLOURS[line] for line in places],
        }

    def move(self, t: float) -> None:
        """Rest at a place: what pointing there does in the browser."""
        lines, on = self.lines.data, self.tracks.data
        self.rest.data = {"t": [t], "template": [self.template]}
        self.rule.data = {"x": [t]}
        heights = [_at(t, *line) for line in zip(lines["ts"], lines["shown"], strict=True)]
        self.dots.data = {"x": [t] * len(heights), "y": heights, "colour": lines["colour"]}
        spots = {name: [_at(t, *one) for one in zip(on["ts"], on[f"{name}s"], strict=True)] for name in "xy"}
        self.spots.data = {**spots, "colour": on["colour"]}

        def value(hole: re.Match[str]) -> str:
            line, metric = map(int, hole.groups())
            found = _at(t, lines["ts"][line], lines["values"][line][metric])
            return UNKNOWN if np.isnan(found) else number(found)

        self.readout.text = HOLE.sub(value, self.template.replace("{t}", f"{t:.2f}"))


def _at(t: float, ts: np.ndarray, values: np.ndarray) -> float:
    return float(np.interp(t, ts, values, left=np.nan, right=np.nan)) if len(ts) else np.nan


def _template(paths: Mapping[str, Mapping[str, Path]], labels: Mapping[str, str]) -> str:
    """The table of values, with holes for them and for t."""
    head = "".join(f"<th>{text(label)}</th>" for label in labels.values())
    rows = []
    for i, (line, of) in enumerate(paths.items()):
        known = [name for name in labels if name in of]
        cells = "".join(f"<td>{{{i}.{known.index(m)}}}</td>" if m in of else "<td></td>" for m in labels)
        rows.append(f'<tr><td><i class="key" style="background:{COLOURS[line]}"></i>{SAYS[line]}</td>{cells}</tr>')
    head = f"<thead><tr><th>At t = {{t}}</th>{head}</tr></thead>"
    table = f'<table class="values figures">{head}<tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="ls"><div class="wide">{table}</div></div>'
