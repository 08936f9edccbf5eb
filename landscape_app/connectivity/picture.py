"""What the paths between checkpoints show, taken out of their Dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.connectivity.of_pair import CURVE
from landscape_app.connectivity.request import AFTER, BEFORE, NONE, REPAIRED
from landscape_app.picture import metric_label

COLOURS = {BEFORE: "#d98200", AFTER: "#1f86c9", REPAIRED: "#b5569b", CURVE: "#1a9e77"}
DASHES = {BEFORE: "dashed", AFTER: "solid", REPAIRED: "dotdash", CURVE: "solid"}
LINEAR = "Linear path"
SAYS = {BEFORE: "As they are", AFTER: "Matched", REPAIRED: "Repaired", CURVE: "Curve"}
CHORD = "#7f8691"
BRIGHT = 0.6  # of the palette: dark text from here on
LONGEST = 18


@dataclass(frozen=True)
class Path:
    """One metric along one path. t, values, errors: [place]. ends: of the checkpoints themselves.

    height, at: of the barrier, NaN until the path is done. base: what the height is counted from.
    """

    t: np.ndarray
    values: np.ndarray
    errors: np.ndarray
    ends: tuple[float, float]
    height: float
    at: float
    base: float

    @property
    def top(self) -> float:
        """The value at the barrier."""
        return float(np.interp(self.at, self.t, self.values))


def as_paths(ds: xr.Dataset) -> xr.Dataset:
    """A result of `barrier`, `CurveSearch` or `barrier_matrix` as one of the page: paths of pairs, of one stage."""
    if "stage" in ds.dims:
        return ds
    several = "row" in ds.dims
    found = [str(name) for name in (ds["row_name"] if several else ds["marker_name"]).values]
    first, second = np.triu_indices(len(found), 1)
    variables: dict[str, Any] = {"t": (("stage", "pair", "place"), np.full((1, len(first), 0), np.nan))}
    if not several:
        variables["t"] = ("stage", "pair", "place"), ds["t"].values[None, None]
    for metric in metrics(ds).values():
        about = {"long_name": metric, "units": "", **ds[f"marker_{metric}"].attrs}
        along = {name: np.full(variables["t"][1].shape, np.nan) for name in (metric, f"{metric}_se")}
        if not several:
            along = {name: ds[name].values[None, None] for name in along}
        variables |= {name: (("stage", "pair", "place"), values, about) for name, values in along.items()}
        variables[f"marker_{metric}"] = "checkpoint", ds[f"marker_{metric}"].values, about
        for name in (f"{metric}_barrier", f"{metric}_barrier_at"):
            values = ds[name].values[first, second] if several else ds[name].values[None]
            variables[name] = ("stage", "pair"), values[None], ds[name].attrs
    stage = CURVE if "training_loss" in ds else BEFORE
    coords = {"stage": [stage], "name": ("checkpoint", found), "first": ("pair", first), "second": ("pair", second)}
    return xr.Dataset(variables, coords, {**ds.attrs, "matching": NONE})


def names(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds["name"].values]


def stages(ds: xr.Dataset) -> list[str]:
    return [str(stage) for stage in ds["stage"].values]


def labels(ds: xr.Dataset) -> list[str]:
    """What each stage is called in a figure; those of several results have the names of these."""
    found = stages(ds)
    if ds.attrs.get("named"):
        return found
    if found == [BEFORE]:
        return [f"{LINEAR}, repaired" if provenance(ds).get("repair") else LINEAR]
    return [SAYS[stage] for stage in found]


def metrics(ds: xr.Dataset) -> dict[str, str]:
    """The metrics that have a barrier: label to name."""
    held = [str(name) for name in ds.data_vars if str(name).endswith("_barrier") and "class" not in ds[name].dims]
    found = [name.removesuffix("_barrier") for name in held]
    return {metric_label(name, ds[f"marker_{name}"].attrs["long_name"]): name for name in found}


def titled(ds: xr.Dataset, metric: str) -> str:
    """'Loss (cross entropy) [nats]'."""
    said = units(ds, metric)
    return metric_label(metric, ds[metric].attrs["long_name"]) + (f" [{said}]" if said else "")


def units(ds: xr.Dataset, metric: str) -> str:
    """Units to write after a number, '' where there are none to say."""
    said = ds[metric].attrs["units"]
    return "" if said in ("", "1", "fraction") else str(said)


def siblings(ds: xr.Dataset, metric: str) -> dict[str, str]:
    """The same metric on the other data sets: name of the metric to the data's, "main data" for what has no name."""
    splits = ["", *provenance(ds).get("also", {})]
    own = _split(ds, metric)
    stem = metric.removesuffix(f"_{own}") if own else metric
    others = {f"{stem}_{s}" if s else stem: s for s in splits if s != own}
    return {name: data_name(ds, name) for name in others if name in ds}


def data_name(ds: xr.Dataset, metric: str) -> str:
    """The data set that a metric is of: "train data"."""
    return f"{_split(ds, metric) or 'main'} data"


def _split(ds: xr.Dataset, metric: str) -> str:
    return next((split for split in provenance(ds).get("also", {}) if metric.endswith(f"_{split}")), "")


def pair(ds: xr.Dataset, a: int, b: int) -> int:
    """The place of a pair among the paths, whichever comes first."""
    low, high = min(a, b), max(a, b)
    (found,) = np.flatnonzero((ds["first"].values == low) & (ds["second"].values == high))
    return int(found)


def path(ds: xr.Dataset, stage: int, metric: str, a: int, b: int) -> Path | None:
    """A metric from checkpoint a to checkpoint b; None where nothing is known."""
    at = stage, pair(ds, a, b)
    t = ds["t"].values[at]
    known = np.isfinite(t)
    if not known.any() or np.isnan(ds[metric].values[at]).all():
        return None
    t, values, errors = t[known], ds[metric].values[at][known], ds[f"{metric}_se"].values[at][known]
    height, place = (float(ds[f"{metric}_{name}"].values[at]) for name in ("barrier", "barrier_at"))
    if a > b:
        t, values, errors, place = 1 - t[::-1], values[::-1], errors[::-1], 1 - place
    own = ds[f"marker_{metric}"].values
    ends = float(own[a]), float(own[b])
    chord = (1 - place) * ends[0] + place * ends[1]
    base = chord if ds.attrs["convention"] == "sup" else sum(ends) / 2
    return Path(t, values, errors, ends, height, place, base)


Track = Callable[[np.ndarray], np.ndarray]  # from places t [n] on a line to points (a, b) [n, 2] of a plane


def tracks(ds: xr.Dataset) -> dict[str, Track]:
    """Where the lines between a pair of checkpoints lie on their plane, by what they are."""
    a, b, third = np.stack([ds["marker_a"].values, ds["marker_b"].values], 1)
    if provenance(ds)["asked"]["third"] == CURVE:
        return {BEFORE: _bezier(a, b), CURVE: _bezier(a, third, b)}
    return {BEFORE: _bezier(a, b), AFTER: _bezier(a, third)}


def _bezier(*control: np.ndarray) -> Track:
    """The Bezier curve of control points [2] (de Casteljau); of two points the straight line."""

    def at(t: np.ndarray) -> np.ndarray:
        share, points = np.asarray(t)[:, None], list(control)
        while len(points) > 1:
            points = [(1 - share) * p + share * q for p, q in pairwise(points)]
        return points[0]

    return at


@dataclass(frozen=True)
class Bars:
    """One bar a layer: the mean, least and greatest of several values [layer], NaN where unknown."""

    label: str
    colour: str
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, label: str, colour: str, values: np.ndarray) -> Bars:
        """values: [layer, ...]"""
        flat = np.ma.masked_invalid(values.reshape(len(values), -1))
        return cls(label, colour, *(part.filled(np.nan) for part in (flat.mean(1), flat.min(1), flat.max(1))))


def layer_bars(ds: xr.Dataset, metric: str, together: bool) -> tuple[Bars, Bars]:
    """Each layer alone and as far at random; or layers together, from the input and from the output on."""
    if together:
        shallow, deep = ds[f"{metric}_cumulative"].values
        return (
            Bars.of("From the input to here", COLOURS[AFTER], shallow),
            Bars.of("From here to the output", COLOURS[BEFORE], deep[::-1]),
        )
    return (
        Bars.of("This layer half-way to the other's", COLOURS[AFTER], ds[f"{metric}_barrier"].values),
        Bars.of("As far in random directions", CHORD, ds[f"{metric}_control"].values),
    )


def layer_metrics(ds: xr.Dataset) -> dict[str, str]:
    """The metrics of which layers have barriers: label to name."""
    found = [str(name).removesuffix("_cumulative") for name in ds.data_vars if str(name).endswith("_cumulative")]
    return {metric_label(name, ds[f"marker_{name}"].attrs["long_name"]): name for name in found}


def layer_label(ds: xr.Dataset, metric: str) -> str:
    """What the bars measure: 'Rise of the loss half-way [nats]'."""
    about = ds[f"marker_{metric}"].attrs
    label = metric_label(metric, about["long_name"])
    verb = "Fall" if metric.startswith("accuracy") else "Rise"
    return f"{verb} of the {label[:1].lower()}{label[1:]} half-way [{about['units']}]"


def lines(ds: xr.Dataset, curve: xr.Dataset | None, a: int, b: int) -> dict[str, dict[str, Path]]:
    """All that is known between two checkpoints, by line and metric. curve: that between them, as paths, or None."""
    found = {stage: (ds, i, a, b) for i, stage in enumerate(stages(ds))}
    if curve is not None:
        found[CURVE] = curve, 0, 0, 1
    known = {
        line: {name: path(of, i, name, *ends) for name in metrics(ds).values() if name in of}
        for line, (of, i, *ends) in found.items()
    }
    return {line: paths for line, of in known.items() if (paths := {m: p for m, p in of.items() if p is not None})}


def matrix(ds: xr.Dataset, stage: int, metric: str) -> np.ndarray:
    """The barriers between all pairs [checkpoint, checkpoint], NaN where unknown and on the diagonal."""
    found = np.full((ds.sizes["checkpoint"],) * 2, np.nan)
    first, second = ds["first"].values, ds["second"].values
    found[first, second] = found[second, first] = ds[f"{metric}_barrier"].values[stage]
    return found


def symmetries(ds: xr.Dataset) -> dict[str, Any] | None:
    """The report on the symmetries, None where they were not looked for yet."""
    return json.loads(ds.attrs["symmetries"])


def shortened(name: str) -> str:
    """A name that fits beside an axis: its beginning and its end."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[-LONGEST // 2 + 1 :]}"
