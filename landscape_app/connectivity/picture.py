"""What the paths between checkpoints show, taken out of their Dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.connectivity.request import AFTER, BEFORE, NONE
from landscape_app.picture import metric_label

COLOURS = {BEFORE: "#d98200", AFTER: "#1f86c9"}
DASHES = {BEFORE: "dashed", AFTER: "solid"}
SAYS = {BEFORE: "As they are", AFTER: "Matched"}
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
    """A result of `barrier` or `barrier_matrix` as one of the page: paths of pairs, as they are."""
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
    coords = {"stage": [BEFORE], "name": ("checkpoint", found), "first": ("pair", first), "second": ("pair", second)}
    return xr.Dataset(variables, coords, {**ds.attrs, "matching": NONE})


def names(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds["name"].values]


def stages(ds: xr.Dataset) -> list[str]:
    return [str(stage) for stage in ds["stage"].values]


def metrics(ds: xr.Dataset) -> dict[str, str]:
    """The metrics that have a barrier: label to name."""
    held = [str(name) for name in ds.data_vars if str(name).endswith("_barrier") and "class" not in ds[name].dims]
    found = [name.removesuffix("_barrier") for name in held]
    return {metric_label(name, ds[f"marker_{name}"].attrs["long_name"]): name for name in found}


def units(ds: xr.Dataset, metric: str) -> str:
    """Units to write after a number, '' where there are none to say."""
    said = ds[metric].attrs["units"]
    return "" if said in ("", "1", "fraction") else str(said)


def siblings(ds: xr.Dataset, metric: str) -> dict[str, str]:
    """The same metric on the other data sets: name of the metric to that of the data."""
    splits = ["", *provenance(ds).get("also", {})]
    own = next((s for s in splits if s and metric.endswith(f"_{s}")), "")
    stem = metric.removesuffix(f"_{own}") if own else metric
    others = {f"{stem}_{s}" if s else stem: s or "the data" for s in splits if s != own}
    return {name: split for name, split in others.items() if name in ds}


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
    if not known.any():
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
