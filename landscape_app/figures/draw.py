"""From a result to its figure, whichever kind it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analysis import LandscapeError
from landscape_app import picture, seeds
from landscape_app.connectivity import picture as connectivity
from landscape_app.connectivity.together import together
from landscape_app.entries import kind_of
from landscape_app.figures.layers import draw_layers
from landscape_app.figures.line import draw_line, with_band
from landscape_app.figures.matrix import draw_matrices
from landscape_app.figures.paths import draw_paths
from landscape_app.figures.plane import draw_planes
from landscape_app.figures.spectrum import draw_spectrum
from landscape_app.figures.style import WIDTHS, style
from landscape_app.figures.trajectory import draw_trajectory
from landscape_app.scales import Scale
from landscape_app.spectrum.picture import spectra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = ("log", "linear")
DRAWN = "a surface, a spectrum, a trajectory, a barrier, a curve, the barriers of layers or a matrix of barriers"


def figure(
    ds: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    width: str = "single",
    scale: str | None = None,
    clip: float | None = None,
    metric: str | None = None,
    pair: Sequence[str] | None = None,
) -> Figure:
    """A result as a Matplotlib figure for a paper; its kind follows from what the result holds.

    ds: or several paths between one pair of checkpoints by their names, such as {"as they are": ..., "matched": ...}.
    width: "single" (3.25 in) for one column, "double" (6.75 in) for both. scale: "log" or "linear" values; None is
    what the dashboard begins with. clip: of a plane, the value as which larger ones are drawn. metric: of a surface or
    of barriers, such as "accuracy" or "loss_per_class[3]". pair: names of two checkpoints, for their path out of a
    result that has several.

    Raises LandscapeError for a result that has no figure, and for options that do not fit it.
    """
    ds = one_of(ds)
    inches, kind, log = _width(width), checked(ds, scale, metric, pair, clip), _log(scale)
    with style():
        if kind == "surface":
            return _surface(ds, metric, log, clip, inches)
        if kind == "spectrum":
            return draw_spectrum(spectra(ds), log is not False, inches)
        if kind == "trajectory":
            return draw_trajectory(ds, log is not False, inches)
        if kind == "layers":
            return draw_layers(ds, layer_metric(ds, metric), inches)
        barriers = connectivity.as_paths(ds)
        chosen = barrier_metric(barriers, metric)
        if kind == "path" or pair is not None:
            return draw_paths(barriers, chosen, places_of(barriers, pair), inches)
        return draw_matrices(barriers, chosen, inches)


def one_of(ds: xr.Dataset | Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The result itself; several by their names as one. Raises LandscapeError for those that share no figure."""
    if isinstance(ds, xr.Dataset):
        return ds
    for name, one in ds.items():
        kind = kind_of_figure(one)
        if kind != "path":
            what = "barriers of several pairs" if kind == "matrix" else f"a {kind}"
            raise LandscapeError(f"'{name}' is {what}; only paths between two checkpoints share a figure.")
    return together(ds)


def checked(
    ds: xr.Dataset, scale: str | None, metric: str | None, pair: Sequence[str] | None, clip: float | None = None
) -> str:
    """The kind of a result's figure. Raises LandscapeError for options of `figure` that do not fit it."""
    kind = kind_of_figure(ds)
    _log(scale)
    if metric is not None and kind in ("spectrum", "trajectory"):
        raise LandscapeError(f"metric is {metric!r}, but a {kind} has no metrics to choose from; leave it out.")
    if scale == "log" and kind in ("path", "matrix", "layers"):
        raise LandscapeError("scale is 'log', but a barrier is a height over a chord, and linear; leave scale out.")
    if clip is not None and not (kind == "surface" and picture.dims(ds) == 2):
        what = "line" if kind == "surface" else kind
        raise LandscapeError(f"clip is {clip:g}, but only values of a plane are clipped, not a {what}; leave it out.")
    if clip is not None and not np.isfinite(clip):
        raise LandscapeError(f"clip is {clip:g}; expected a finite value, in the units of the metric.")
    if pair is not None and kind not in ("path", "matrix"):
        raise LandscapeError(f"pair is {list(pair)}, but a {kind} has no paths between checkpoints; leave it out.")
    return kind


def kind_of_figure(ds: xr.Dataset) -> str:
    """ "surface", "spectrum", "trajectory", "path", "matrix" or "layers". Raises LandscapeError for what has none."""
    kind = kind_of(ds)
    if kind == "layers":
        return kind
    if kind == "connectivity":
        return "path" if ds.sizes["checkpoint"] == 2 else "matrix"
    if {"row", "column"} <= set(ds.dims) and "loss_barrier" in ds:
        return "matrix"
    if "t" in ds.dims and "loss_barrier" in ds:
        return "path"
    kind = "surface" if kind == "plane" else kind
    if kind == "surface" and "sample" not in ds.dims:
        title = ds.attrs.get("title", "a result without a title")
        raise LandscapeError(f"There is no figure of '{title}'; figures are drawn of {DRAWN}.")
    if kind == "trajectory" and not np.isfinite(ds["eigenvalue"].values).any():
        raise LandscapeError("No checkpoint of this trajectory has been computed yet; go on with it first.")
    return kind


def parts_of(ds: xr.Dataset) -> list[xr.Dataset]:
    """The pictures that a surface's figure has: of a plane over seeds the mean and the spread, else one."""
    known = picture.dims(ds) == 2 and "seed" in ds.dims and np.isfinite(ds["loss_std"].values).any()
    return [seeds.part(ds, which) for which in ((seeds.MEAN, seeds.SPREAD) if known else (seeds.MEAN,))]


def surface_metric(ds: xr.Dataset, metric: str | None) -> str:
    """The metric that is asked for, by default the loss. Raises LandscapeError if there is none of that name."""
    known = list(picture.shows(parts_of(ds)[0]).values())
    chosen = metric or "loss"
    if chosen not in known:
        raise LandscapeError(f"metric is {chosen!r}; this result has {', '.join(known)}.")
    return chosen


def usual_log(metric: picture.Metric) -> bool:
    """Whether the dashboard begins with a logarithmic scale."""
    return (metric.name == "loss" and metric.over != "spread") or picture.spans_decades(metric)


def _surface(ds: xr.Dataset, metric: str | None, log: bool | None, clip: float | None, inches: float) -> Figure:
    chosen, shown = surface_metric(ds, metric), []
    for part in parts_of(ds):
        one = picture.metric(part, chosen)
        values = picture.spanned(part, one)
        if picture.dims(part) == 1:
            values = np.concatenate([values, with_band(one.values, one.se, log is not False)])
        if not np.isfinite(values).any():
            raise LandscapeError(f"'{ds.attrs['title']}' holds no finite {one.label} to draw.")
        wanted = log if log is not None else usual_log(one)
        shown.append((part, one, Scale.of(values, wanted, None if one.over == "spread" else clip)))
    if picture.dims(ds) == 2:
        return draw_planes(shown, inches)
    return draw_line(*shown[0], inches)


def barrier_metric(ds: xr.Dataset, metric: str | None) -> str:
    """The metric whose barriers are asked for, by default the loss. Raises LandscapeError if there are none of it."""
    known = connectivity.metrics(ds).values()
    if metric is not None and metric not in known:
        raise LandscapeError(f"metric is {metric!r}; this result has barriers of {', '.join(known)}.")
    return metric or "loss"


def layer_metric(ds: xr.Dataset, metric: str | None) -> str:
    """The metric of barriers of layers that is drawn, by default the loss. Raises LandscapeError for one it has not."""
    known = connectivity.layer_metrics(ds).values()
    if metric is not None and metric not in known:
        raise LandscapeError(f"metric is {metric!r}; this result has barriers of {', '.join(known)}.")
    return metric or "loss"


def places_of(ds: xr.Dataset, pair: Sequence[str] | None) -> tuple[int, int]:
    """Where two checkpoints stand among those of a result, by default its first two. Raises LandscapeError."""
    names = connectivity.names(ds)
    if pair is not None and (len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(names)):
        raise LandscapeError(
            f"pair is {list(pair)}; expected two different ones of its checkpoints: {', '.join(names)}."
        )
    first, second = (names.index(name) for name in pair) if pair is not None else (0, 1)
    if not np.isfinite(ds["t"].values[:, connectivity.pair(ds, first, second)]).any():
        raise LandscapeError(
            f"This result holds no path between '{names[first]}' and '{names[second]}'; leave pair out."
        )
    return first, second


def _width(width: str) -> float:
    if width not in WIDTHS:
        raise LandscapeError(f"width is {width!r}; accepted are {', '.join(WIDTHS)}.")
    return WIDTHS[width]


def _log(scale: str | None) -> bool | None:
    if scale is not None and scale not in SCALES:
        raise LandscapeError(f"scale is {scale!r}; accepted are {', '.join(SCALES)}.")
    return None if scale is None else scale == "log"
