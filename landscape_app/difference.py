"""What one picture of a plane has more than another: A − B, where each place means the same weights in both."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app import picture
from landscape_app.picture import Metric

NAME = "difference"
PLACES = ("centre", "basis")  # where the checkpoints' plane begins, and how its axes lie


def reason(a: xr.Dataset, one: Metric, b: xr.Dataset, other: Metric) -> str:
    """Why two pictures have no difference, in words; '' if they have one."""
    if picture.dims(a) != 2 or picture.dims(b) != 2:
        return "a difference is drawn of two planes."
    if a is b and one.key == other.key:
        return "both pictures are the same; choose another metric or another result beside it."
    if (one.over == "spread") != (other.over == "spread"):
        return "one is a value, the other a spread over seeds."
    alike = picture.quantity(a, one) == picture.quantity(b, other)
    if one.units != other.units or not (one.units or alike):
        return f"A is in {one.units or 'no unit'}, B in {other.units or 'no unit'}: {one.label} and {other.label}."
    if a is b:
        return ""
    if one.name == picture.LOSS_ERROR:
        return "interpolation errors are shares of the range of each result's own loss."
    if not (_certain(a) and _certain(b)):
        return "they do not say which weights their planes go through."
    facts, others = provenance(a), provenance(b)
    same = picture.subspace(a) == picture.subspace(b) and a.attrs.get("over_seeds") == b.attrs.get("over_seeds")
    if not same or any(facts.get(place) != others.get(place) for place in PLACES):
        return "their planes go through other weights: the same place is not the same network in both."
    if not all(np.array_equal(a[name], b[name]) for name in "ab"):
        return "they lie in one plane, but on other grids; give both the same extent and points."
    return ""


def _certain(ds: xr.Dataset) -> bool:
    """Whether a result knows its checkpoints and axes by their content."""
    facts = provenance(ds)
    return all(facts.get(part) and all("sha256" in one for one in facts[part]) for part in ("checkpoints", "axes"))


def difference(a: xr.Dataset, one: Metric, b: xr.Dataset, other: Metric) -> tuple[xr.Dataset, Metric]:
    """A − B as a picture of its own, where `reason` has none against it; without errors, which both may share."""
    label = one.label if one.label == other.label else f"{one.label} − {other.label}"
    values = one.values - other.values
    made = Metric(
        NAME, "", f"A − B: {label}", one.units, values, np.full_like(values, np.nan), np.empty(0), over=one.over
    )
    ds = a.isel(sample=slice(0)).assign(computed=a["computed"] & b["computed"].values)
    if list(a["marker_name"].values) == list(b["marker_name"].values):
        ds[f"marker_{NAME}"] = "marker", picture.at_checkpoints(a, one) - picture.at_checkpoints(b, other)
    return ds, made
