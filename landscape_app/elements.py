"""Results as HoloViews elements, to overlay (``*``) and lay out (``+``) with your own.

    from landscape_app import elements
    elements.plane(ds) * elements.checkpoints(ds) + elements.line(other) * elements.band(other)

Each function is pure: a Dataset in, an element out. Dimensions have the names of the Dataset's own variables, so that
elements of several results share their axes; labels and units are those of the dashboard.
"""

from __future__ import annotations

from collections.abc import Sequence

import holoviews as hv
import numpy as np
import xarray as xr

from analysis import LandscapeError
from landscape_app import picture, seeds
from landscape_app.connectivity import picture as connectivity
from landscape_app.figures.draw import barrier_metric, kind_of_figure, places_of, surface_metric
from landscape_app.spectrum.picture import UNITS, curve, span, spectra
from landscape_app.text import eigenvalue
from landscape_app.trajectory.picture import places, stepped


def plane(ds: xr.Dataset, metric: str = "loss", over: str = seeds.MEAN) -> hv.Image:
    """A plane as an Image over (a, b). Values: the metric and its standard error, ``<metric>_se``.

    metric: "accuracy", "loss_per_class[3]", "loss_se", "loss_error" ... over: of a result over several seeds, their
    "mean" or "spread".

    Raises LandscapeError for another kind of result, and for a metric that it does not have.
    """
    shown = _surface(ds, metric, 2, over)
    part = seeds.part(ds, over)
    values = _values(shown)
    return hv.Image((part["a"].values, part["b"].values, shown.values, shown.se)[: 2 + len(values)], _axes(ds), values)


def line(ds: xr.Dataset, metric: str = "loss") -> hv.Curve:
    """A line as a Curve over t. Values: the metric and its standard error; over several seeds, their mean and spread.

    Raises LandscapeError for another kind of result, and for a metric that it does not have.
    """
    shown = _surface(ds, metric, 1)
    return hv.Curve((ds["t"].values, shown.values, shown.se), _axes(ds), _values(shown))


def band(ds: xr.Dataset, metric: str = "loss") -> hv.Spread:
    """The standard error about a line, or the standard deviation of several seeds, as a Spread.

    Raises LandscapeError for what is an error itself.
    """
    if _surface(ds, metric, 1).of_error:
        raise LandscapeError(f"metric is {metric!r}, an error that has no band; ask for that of the metric itself.")
    return hv.Spread(line(ds, metric))


def checkpoints(ds: xr.Dataset, metric: str = "loss") -> hv.Points | hv.Scatter:
    """The checkpoints of a plane as Points over (a, b), of a line as a Scatter over t.

    Values: the metric at the checkpoints' true weights, their name, and their distance from the slice.
    """
    shown = _surface(ds, metric)
    values = picture.at_checkpoints(seeds.part(ds, seeds.MEAN), shown)
    about = ds["marker_name"].values.astype(str), ds["marker_residual"].values
    more = [hv.Dimension("name", label="Checkpoint"), hv.Dimension("residual", label="Distance from the slice")]
    return _at(ds, "marker")(_spots(ds, "marker", values, *about), _axes(ds), [_dimension(shown), *more])


def evaluations(ds: xr.Dataset, metric: str = "loss") -> hv.Points | hv.Scatter:
    """The points at which the loss was evaluated, with the metric there; over (a, b) or t, as `checkpoints`."""
    shown = _surface(ds, metric)
    return _at(ds, "sample")(_spots(ds, "sample", shown.samples), _axes(ds), [_dimension(shown)])


def eigenvalues(ds: xr.Dataset, part: int = 0) -> hv.Scatter:
    """The eigenvalues of a spectrum over their rank, λ₁ the largest, λₙ the smallest; ``hv.ErrorBars`` takes it too.

    Values: the eigenvalue, its bound (|value - true| <= bound) and whether it converged. part: which, of a result that
    has several matrices, layers or classes.

    Raises LandscapeError for another kind of result, and for a part that it does not have.
    """
    one = _part(ds, part)
    top = int((one.ends == "largest").sum())
    ranks = [eigenvalue(pair, top) for pair in range(len(one.values))]
    values = [_eigenvalue("eigenvalue"), hv.Dimension("bound", label="Bound", unit=UNITS), hv.Dimension("converged")]
    return hv.Scatter((ranks, one.values, one.bounds, one.converged), hv.Dimension("rank", label="Rank"), values)


def density(ds: xr.Dataset, part: int = 0, width: float = 0.01) -> hv.Curve:
    """The density of all eigenvalues as a Curve; it integrates to 1.

    width: of the Gaussian that each quadrature node is drawn with, its standard deviation as a share of the range.

    Raises LandscapeError for another kind of result, and where no density was computed.
    """
    one = _part(ds, part)
    if not one.density_known:
        raise LandscapeError(f"'{ds.attrs['title']}' holds eigenvalues, but no density of them: compute it too.")
    return hv.Curve(
        curve(one, span([one]), width),
        _eigenvalue("eigenvalue"),
        hv.Dimension("density", label="Density", unit=f"1 / ({UNITS})"),
    )


def trajectory(ds: xr.Dataset, quantity: str = "eigenvalue", pair: int = 0) -> hv.Curve:
    """One quantity along a training run, over the step, or the checkpoint's number where the files say no step.

    quantity: "eigenvalue", "trace", "loss", "learning_rate", "edge" (2 / learning rate), "stability" ... whatever the
    result has for each checkpoint. pair: which eigenvalue.

    Raises LandscapeError for another kind of result, a quantity that it does not have and an eigenvalue beyond those.
    """
    _require(ds, "trajectory", "trajectory")
    offered = [str(name) for name, values in ds.data_vars.items() if values.dims[:1] == ("checkpoint",)]
    if quantity not in offered:
        raise LandscapeError(f"quantity is {quantity!r}; this trajectory has {', '.join(offered)}.")
    values = ds[quantity]
    if "pair" in values.dims:
        _within("pair", pair, values.sizes["pair"])
        values = values.isel(pair=pair)
    at = places(ds, log=False)
    along = hv.Dimension("step", label=at.title) if stepped(ds) else hv.Dimension("checkpoint", label=at.title)
    return hv.Curve((at.at, values.values), along, _named(quantity, values.attrs))


def path(ds: xr.Dataset, metric: str = "loss", pair: Sequence[str] | None = None, stage: int = 0) -> hv.Curve:
    """The straight path between two checkpoints as a Curve over t. Values: the metric and its standard error.

    pair: their names, by default the first two. stage: 0 as they are, 1 matched.

    Raises LandscapeError for another kind of result, and for what it does not have.
    """
    paths = _barriers(ds)
    _within("stage", stage, paths.sizes["stage"])
    name, (a, b) = barrier_metric(paths, metric), places_of(paths, pair)
    found = connectivity.path(paths, stage, name, a, b)
    if found is None:
        raise LandscapeError(f"'{ds.attrs['title']}' holds no path at this stage, only barriers.")
    value = _named(name, paths[name].attrs)
    return hv.Curve((found.t, found.values, found.errors), "t", [value, _error(value)])


def matrix(ds: xr.Dataset, metric: str = "loss", stage: int = 0) -> hv.HeatMap:
    """The barriers between all pairs of checkpoints as a HeatMap over their names; NaN where unknown, none for a pair
    of one with itself.

    Raises LandscapeError for another kind of result, and for what it does not have.
    """
    paths = _barriers(ds)
    _within("stage", stage, paths.sizes["stage"])
    name, named = barrier_metric(paths, metric), connectivity.names(paths)
    heights = connectivity.matrix(paths, stage, name)
    rows = [(a, b, heights[i, j]) for i, a in enumerate(named) for j, b in enumerate(named) if i != j]
    about = paths[f"marker_{name}"].attrs
    barrier = hv.Dimension(f"{name}_barrier", label=f"Barrier of {about['long_name']}", unit=about.get("units"))
    return hv.HeatMap(rows, [hv.Dimension("first", label="From"), hv.Dimension("second", label="To")], barrier)


def _surface(ds: xr.Dataset, metric: str, dims: int | None = None, over: str = seeds.MEAN) -> picture.Metric:
    _require(ds, "surface", "line or plane")
    if dims not in (None, picture.dims(ds)):
        here, other = ("plane", "line") if dims == 2 else ("line", "plane")
        raise LandscapeError(f"'{ds.attrs['title']}' is a {other}, not a {here}; call elements.{other}(ds).")
    if over not in (seeds.MEAN, seeds.SPREAD):
        raise LandscapeError(f"over is {over!r}; accepted are {seeds.MEAN} and {seeds.SPREAD}.")
    return picture.metric(seeds.part(ds, over), surface_metric(ds, metric))


def _part(ds: xr.Dataset, part: int) -> object:
    _require(ds, "spectrum", "spectrum")
    found = spectra(ds)
    _within("part", part, len(found))
    return found[part]


def _barriers(ds: xr.Dataset) -> xr.Dataset:
    if kind_of_figure(ds) not in ("path", "matrix"):
        raise LandscapeError(f"'{ds.attrs['title']}' holds no barriers, but a {kind_of_figure(ds)}.")
    return connectivity.as_paths(ds)


def _require(ds: xr.Dataset, kind: str, name: str) -> None:
    if kind_of_figure(ds) != kind:
        raise LandscapeError(f"'{ds.attrs['title']}' is no {name}, but a {kind_of_figure(ds)}.")


def _within(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        raise LandscapeError(f"{name} is {value!r}; this result has {count}: accepted are 0 to {count - 1}.")


def _at(ds: xr.Dataset, kind: str) -> type[hv.Points] | type[hv.Scatter]:
    return hv.Points if picture.dims(ds) == 2 else hv.Scatter


def _spots(ds: xr.Dataset, kind: str, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    return (*(ds[f"{kind}_{name}"].values for name in picture.axes(ds)), *values)


def _axes(ds: xr.Dataset) -> list[hv.Dimension]:
    return [
        hv.Dimension(name, label=ds[name].attrs.get("long_name", name), unit=ds[name].attrs.get("units") or None)
        for name in picture.axes(ds)
    ]


def _values(shown: picture.Metric) -> list[hv.Dimension]:
    """The metric and its error; a spread over seeds has none, nor has an error."""
    value = _dimension(shown)
    return [value] if shown.over == seeds.SPREAD or shown.of_error else [value, _error(value, shown.over)]


def _error(value: hv.Dimension, over: str = "") -> hv.Dimension:
    what = "standard deviation" if over else "standard error"
    return hv.Dimension(f"{value.name}_se", label=f"{value.label}, {what}", unit=value.unit)


def _dimension(shown: picture.Metric) -> hv.Dimension:
    return hv.Dimension(shown.key, label=shown.label, unit=shown.units or None)


def _named(name: str, attributes: dict) -> hv.Dimension:
    units = attributes.get("units")
    label = picture.metric_label(name, attributes.get("long_name", name.replace("_", " ")))
    return hv.Dimension(name, label=label, unit=None if units in (None, "", "1") else units)


def _eigenvalue(name: str) -> hv.Dimension:
    return hv.Dimension(name, label="Eigenvalue", unit=UNITS)
