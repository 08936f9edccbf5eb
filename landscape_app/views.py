"""One result as a live view of its own, for a cell of a notebook or an app of the user's."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import panel as pn
import param
import xarray as xr

from analysis import LandscapeError
from landscape_app import look, picture, plotting, words
from landscape_app.connectivity import picture as connectivity
from landscape_app.connectivity import words as connectivity_words
from landscape_app.connectivity.bars import LayersChart
from landscape_app.connectivity.plot import ConnectivityPlot, show
from landscape_app.curve import Curve
from landscape_app.figures import figure
from landscape_app.figures.draw import (
    barrier_metric,
    checked,
    layer_metric,
    parts_of,
    places_of,
    surface_metric,
    usual_log,
)
from landscape_app.heatmap import Heatmap
from landscape_app.scales import Scale
from landscape_app.spectrum import words as spectrum_words
from landscape_app.spectrum.picture import planned, spectra
from landscape_app.spectrum.plot import SpectrumPlot
from landscape_app.text import text
from landscape_app.trajectory import words as trajectory_words
from landscape_app.trajectory.picture import widening
from landscape_app.trajectory.plot import TrajectoryPlot

BANDWIDTH = 0.01  # as the Spectrum page begins with
DPI = 144


def view(
    ds: xr.Dataset,
    *,
    metric: str | None = None,
    scale: str | None = None,
    clip: float | None = None,
    pair: Sequence[str] | None = None,
) -> View:
    """A result as the dashboard draws it, to be the last line of a cell.

    ds: a surface, line, spectrum, trajectory, barrier, matrix of barriers or barriers of layers, finished or not.
    metric: of a surface or of barriers, such as "accuracy" or "loss_per_class[3]". scale: "log" or "linear" values;
    None is what the dashboard begins with. clip: of a plane, the value as which larger ones are drawn. pair: names of
    the two checkpoints whose path is drawn first, of a result that has several.

    Raises LandscapeError for a result that has no picture, and for options that do not fit it.
    """
    return View(ds, pair=pair, metric=metric, scale=scale, clip=clip)


class View(pn.viewable.Viewer):
    """What `view` returns. A result that is assigned is drawn in place, so that a loop can show each as it comes:

        live = view(ds)  # displayed in a cell of its own
        for live.result in surface(problem, plane):
            pass

    point: of a plane, the place (a, b) on its grid that was tapped last or is assigned, else None. pair: of barriers,
    the names of the checkpoints whose path is drawn.
    """

    result = param.ClassSelector(class_=xr.Dataset, doc="The result that is drawn.")
    point = param.Parameter(default=None, doc="The chosen place (a, b) of a plane, or None.")
    pair = param.Parameter(default=None, doc="Names of the checkpoints whose path is drawn, or None.")

    def __init__(self, result: xr.Dataset, *, pair: Sequence[str] | None, **options: Any):
        kind = checked(result, pair=pair, **options)
        super().__init__(result=result, pair=None if pair is None else tuple(pair))
        self._options = options
        self._title, self._said = look.html(), look.html()
        self._drawn = DRAWS[kind](self)
        self._view = look.column(self._title, self._drawn.view, self._said)
        self._draw()
        self.param.watch(self._draw, ["result", "point", "pair"])

    @property
    def log(self) -> bool | None:
        """Whether the scale is to be logarithmic, None for what the dashboard begins with."""
        scale = self._options["scale"]
        return None if scale is None else scale == "log"

    @property
    def clip(self) -> float | None:
        """As what larger values are drawn, None for all as they are."""
        return self._options["clip"]

    @property
    def metric(self) -> str | None:
        """The metric that was asked for, None for the loss."""
        return self._options["metric"]

    def __panel__(self) -> pn.viewable.Viewable:
        return self._view

    def _draw(self, *_: Any) -> None:
        kind = checked(self.result, pair=self.pair, **self._options)
        if not isinstance(self._drawn, DRAWS[kind]):
            self._drawn = DRAWS[kind](self)
            self._view[1] = self._drawn.view
        title, conditions = self._drawn.words.caption(self.result)
        self._title.object = f'<div class="ls"><h2>{text(title)}</h2><p class="quiet">{text(conditions)}</p></div>'
        edit, said = self._drawn.draw(self.result)
        plotting.change(edit, *self._drawn.panes)
        self._said.object = "".join(f'<p class="ls quiet nums">{text(sentence)}</p>' for sentence in said)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """The live view, and for whatever reads the notebook without one, a picture."""
        bundle = super()._repr_mimebundle_(include, exclude)
        if not isinstance(bundle, tuple):
            return bundle
        try:
            made, png = figure(self.result, width="double", pair=self.pair, **self._options), io.BytesIO()
        except LandscapeError:  # not far enough for a figure
            return bundle
        made.savefig(png, format="png", dpi=DPI)
        return {**bundle[0], "image/png": png.getvalue()}, bundle[1]


Drawn = tuple[Callable[[], None], list[str]]  # what is left to do to the Bokeh models, and what to say


class _Surface:
    """A line or plane; of a plane over several seeds the mean and the spread."""

    words = words

    def __init__(self, view: View):
        self.of, self.view = view, look.column()
        self.charts: list[Heatmap | Curve] = []

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        return [chart.pane for chart in self.charts]

    def draw(self, ds: xr.Dataset) -> Drawn:
        parts, edits, said = parts_of(ds), [], []
        metric = surface_metric(ds, self.of.metric)
        kind = Heatmap if picture.dims(ds) == 2 else Curve
        self.charts = [chart for chart in self.charts if isinstance(chart, kind)]
        self.charts += [self._chart(kind) for _ in parts[len(self.charts) :]]
        for part, chart in zip(parts, self.charts, strict=False):
            shown = picture.metric(part, metric)
            log = usual_log(shown) if self.of.log is None else self.of.log
            scale = Scale.of(picture.spanned(part, shown), log, None if shown.over == "spread" else self.of.clip)
            edits.append(partial(chart.draw, part, shown, scale, *(["viridis"] if kind is Heatmap else [])))
            said.append(words.summary(part, shown))
            if kind is Heatmap:
                point = picture.on_grid(part, self.of.point) if self.of.point else None
                edits.append(partial(chart.point, point))
                said += [words.at_point(part, shown, point)] if point else []

        def edit() -> None:
            for one in edits:
                one()
            if self.view.objects != self.panes:
                self.view.objects = self.panes  # once they are drawn: until then they have no layout to change

        return edit, said

    def _chart(self, kind: type[Heatmap | Curve]) -> Heatmap | Curve:
        chart = kind()
        if isinstance(chart, Heatmap):
            chart.on_tap(self._tapped)
        return chart

    def _tapped(self, a: float, b: float) -> None:
        self.of.point = picture.on_grid(self.of.result, (a, b)) or self.of.point


class _Spectrum:
    words = spectrum_words

    def __init__(self, view: View):
        self.of, self.plot = view, SpectrumPlot(_nothing)
        self.view = self.plot.view

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        return self.plot.panes

    def draw(self, ds: xr.Dataset) -> Drawn:
        parts = spectra(ds)
        self.plot.prepare(planned(ds))
        said = [*map(spectrum_words.findings, parts), *spectrum_words.warnings(ds)]
        return lambda: self.plot.draw(parts, self.of.log is not False, BANDWIDTH, None), said


class _Trajectory:
    words = trajectory_words

    def __init__(self, view: View):
        self.of, self.plot = view, TrajectoryPlot(_nothing)
        self.view, self.panes = self.plot.view, self.plot.panes

    def draw(self, ds: xr.Dataset) -> Drawn:
        said = [*trajectory_words.findings(ds), *trajectory_words.notes(ds)]
        return lambda: self.plot.draw(ds, self.of.log is not False, widening(ds), None), said


class _Barriers:
    words = connectivity_words

    def __init__(self, view: View):
        self.of, self.plot = view, ConnectivityPlot(self._tapped)
        self.view, self.panes = look.column(self.plot.path.box, self.plot.pair), self.plot.panes

    def draw(self, ds: xr.Dataset) -> Drawn:
        paths = connectivity.as_paths(ds)
        metric = barrier_metric(paths, self.of.metric)
        a, b = places_of(paths, self.of.pair) if self.of.pair else (0, 1)
        self.plot.path.box.visible = _leads(paths, a, b)
        said = connectivity_words.findings(paths, metric, a, b) if "distance" in paths else []
        return lambda: self.plot.draw(paths, metric, a, b), [*said, *connectivity_words.notes(paths)]

    def _tapped(self, a: int, b: int) -> None:
        paths = connectivity.as_paths(self.of.result)
        if a != b and _leads(paths, a, b):
            names = connectivity.names(paths)
            self.of.pair = names[a], names[b]


class _Layers:
    words = connectivity_words

    def __init__(self, view: View):
        self.of, self.chart = view, LayersChart()
        self.view, self.panes = self.chart.box, [self.chart.pane]

    def draw(self, ds: xr.Dataset) -> Drawn:
        metric = layer_metric(ds, self.of.metric)

        def edit() -> None:
            self.chart.draw(ds, metric, together=False)
            show(self.chart)

        return edit, [connectivity_words.pair_caption(ds)]


def _leads(ds: xr.Dataset, a: int, b: int) -> bool:
    """Whether a result has the path from one checkpoint to another, not its barrier alone."""
    return bool(ds["t"].notnull().values[:, connectivity.pair(ds, a, b)].any())


def _nothing(*_: object) -> None:
    """A tap that nothing follows from."""


DRAWS: dict[str, Any] = {
    "surface": _Surface,
    "spectrum": _Spectrum,
    "trajectory": _Trajectory,
    "path": _Barriers,
    "matrix": _Barriers,
    "layers": _Layers,
}
