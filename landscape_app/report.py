"""Results as one HTML page that opens without a server or a network: live plots, captions, tables, provenance."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from bokeh.document import Document
from bokeh.embed import components
from bokeh.models import Model
from bokeh.resources import Resources

from analysis import LandscapeError, provenance
from analysis.files import whole_file
from landscape_app import picture, words
from landscape_app.connectivity import picture as connectivity
from landscape_app.connectivity import words as connectivity_words
from landscape_app.connectivity.bars import LayersChart
from landscape_app.connectivity.plot import ConnectivityPlot
from landscape_app.curve import Curve
from landscape_app.figures import caption
from landscape_app.figures.draw import kind_of_figure, parts_of, usual_log
from landscape_app.heatmap import Heatmap
from landscape_app.scales import Scale
from landscape_app.spectrum import words as spectrum_words
from landscape_app.spectrum.picture import planned, spectra
from landscape_app.spectrum.plot import SpectrumPlot
from landscape_app.text import text
from landscape_app.trajectory import words as trajectory_words
from landscape_app.trajectory.picture import widening
from landscape_app.trajectory.plot import TrajectoryPlot

BANDWIDTH = 0.01
EIGENVALUES = ("Eigenvalue", "Value", "Bar", "Residual", "How sure")
STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<script>{library}</script>
</head>
<body>
<h1>{title}</h1>
<p class="quiet">{count}. Drag to move, scroll or draw a box to zoom (choose the tool above a plot), and point at a
value to read it.</p>
{sections}
{plots}
</body>
</html>
"""


@dataclass(frozen=True)
class Shown:
    """What a report has of one result. rows: of a table, its header first; none for no table."""

    plots: list[Model]
    sentences: list[str]
    rows: list[Sequence[str]]


def save_report(results: Sequence[xr.Dataset], path: str | Path) -> Path:
    """Write results as one page, in the order given. Raises LandscapeError for what cannot be drawn."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise LandscapeError(f"'{path.name}': a report is a page; give a name that ends in .html.")
    page = report(results)
    with whole_file(path, "report.html", LandscapeError) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def report(results: Sequence[xr.Dataset]) -> str:
    """The page, with all that it needs inside."""
    if not results:
        raise LandscapeError("A report needs one result or more; none was given.")
    shown = [SHOWS[kind_of_figure(ds)](ds) for ds in results]
    whole = Document()  # of its own: the current one may be a session's that has just ended
    for one in shown:
        for plot in one.plots:
            whole.add_root(plot)
    with _no_word_of_taps():
        plots, places = components(whole.roots)
    sections, boxes = [], iter(places)
    for ds, one in zip(results, shown, strict=True):
        drawn = "".join(f"<div>{next(boxes)}</div>" for _ in one.plots)
        sections.append(f'<section>{_before(ds, one)}<div class="plots">{drawn}</div>{_after(ds, one)}</section>')
    return PAGE.format(
        title=text(_title(results[0]) if len(results) == 1 else "Loss landscape report"),
        style=STYLE,
        # not `file_html`: in a process with Panel it asks for a file of Panel's as well
        library="\n".join(Resources(mode="inline", components=["bokeh"]).js_raw),
        count="One result" if len(results) == 1 else f"{len(results)} results",
        sections="\n".join(sections),
        plots=plots,
    )


def _title(ds: xr.Dataset) -> str:
    title = str(ds.attrs["title"])
    return title[:1].upper() + title[1:]


def _before(ds: xr.Dataset, one: Shown) -> str:
    said = "".join(f"<p>{text(sentence)}</p>" for sentence in one.sentences)
    return f"<h2>{text(_title(ds))}</h2>{said}"


def _after(ds: xr.Dataset, one: Shown) -> str:
    table = ""
    if one.rows:
        header, *rows = one.rows
        head = "".join(f"<th>{text(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    record = "".join(
        f"<tr><td{' class=in' if depth else ''}>{text(what)}</td><td>{text(value)}</td></tr>"
        for depth, what, value in words.provenance_rows(provenance(ds))
    )
    where = f"<details><summary>Where this comes from</summary><table><tbody>{record}</tbody></table></details>"
    return f'{table}<p class="quiet">{text(caption(ds))}</p>{where}'


def _surface(ds: xr.Dataset) -> Shown:
    plots, sentences = [], []
    for part in parts_of(ds):
        for key in (key for key in picture.metrics(part).values() if "[" not in key):
            metric = picture.metric(part, key)
            scale = Scale.of(picture.spanned(part, metric), usual_log(metric))
            if picture.dims(part) == 2:
                heatmap = Heatmap()
                heatmap.draw(part, metric, scale, "viridis")
                plots.append(heatmap.figure)
            else:
                curve = Curve()
                curve.draw(part, metric, scale)
                plots.append(curve.figure)
            sentences.append(words.summary(part, metric))
    rows = words.checkpoint_lines(parts_of(ds)[0], picture.metric(parts_of(ds)[0], "loss"))
    return Shown(plots, [*sentences, *filter(None, [words.explained(ds)])], [("Checkpoint", "On this slice"), *rows])


def _spectrum(ds: xr.Dataset) -> Shown:
    parts = spectra(ds)
    plot = SpectrumPlot(_nothing)
    plot.prepare(planned(ds))
    plot.draw(parts, log=True, width=BANDWIDTH, chosen=None)
    rows = [(part.label, *row) for part in parts for row in spectrum_words.rows(part)]
    said = [*map(spectrum_words.findings, parts), *spectrum_words.warnings(ds)]
    return Shown([panel.figure for panel in plot.panels], said, [("Matrix", *EIGENVALUES), *rows])


def _trajectory(ds: xr.Dataset) -> Shown:
    plot = TrajectoryPlot(_nothing)
    plot.draw(ds, log=True, log_steps=widening(ds), chosen=None)
    rows = trajectory_words.rows(ds, range(ds.sizes["checkpoint"]))
    said = [*trajectory_words.findings(ds), *trajectory_words.notes(ds)]
    plots = [chart.figure for chart in plot.charts.values() if chart.box.visible]
    return Shown(plots, said, [trajectory_words.HEADERS, *rows])


def _barriers(given: xr.Dataset) -> Shown:
    ds = connectivity.as_paths(given)
    plots, sentences = [], []
    for metric in connectivity.metrics(ds).values():
        plot = ConnectivityPlot(_nothing)
        plot.draw(ds, metric, 0, 1)
        known = [connectivity.path(ds, i, metric, 0, 1) for i in range(ds.sizes["stage"])]
        if any(path is not None for path in known):
            plots.append(plot.path.figure)
        plots += [chart.figure for chart in plot.matrices.values() if chart.box.visible]
        sentences += connectivity_words.findings(ds, metric, 0, 1) if "distance" in ds else []
    rows = connectivity_words.rows(ds, "loss") if "distance" in ds else []
    return Shown(
        plots, [*sentences, *connectivity_words.notes(ds)], [connectivity_words.headers(ds), *rows] if rows else []
    )


def _layers(ds: xr.Dataset) -> Shown:
    plots = []
    for metric in connectivity.layer_metrics(ds).values():
        for together in (False, True):
            chart = LayersChart()
            chart.draw(ds, metric, together)
            plots.append(chart.figure)
    return Shown(plots, [connectivity_words.pair_caption(ds)], [])


def _nothing(*_: object) -> None:
    """What a tap does where there is no dashboard."""


@contextmanager
def _no_word_of_taps() -> Iterator[None]:
    """Without Bokeh's warning that Python does not hear of taps in a page without a server."""
    log = logging.getLogger("bokeh.embed.util")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


SHOWS: dict[str, Callable[[xr.Dataset], Shown]] = {
    "surface": _surface,
    "spectrum": _spectrum,
    "trajectory": _trajectory,
    "path": _barriers,
    "matrix": _barriers,
    "layers": _layers,
}
