"""Paths between one pair of checkpoints out of several results, to be drawn in one picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from analysis import LandscapeError, provenance
from landscape_app.connectivity import picture
from landscape_app.connectivity.request import BEFORE, NONE

THE_SAME = {"code": "model", "data": "data", "batchnorm": "BatchNorm policy", "calibration": "calibration data"}
AGREE = 1e-3  # of a value: the same network in other units has the same loss, but for rounding


def together(results: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Results of barriers, curves or paths between two checkpoints as the stages of one, each under its name.

    The first checkpoint of all has the same weights; the second is the same network, in its own or in other units.
    Raises LandscapeError where they are not of one pair, or were not computed alike.
    """
    parts = {name: picture.as_paths(ds) for name, ds in results.items()}
    first, *others = parts
    for name in others:
        _refuse_unlike(first, parts[first], name, parts[name])
    lines = [
        (name if part.sizes["stage"] == 1 else f"{name}: {picture.SAYS[stage].lower()}", part.isel(stage=i))
        for name, part in parts.items()
        for i, stage in enumerate(picture.stages(part))
    ]
    usual = next((part for part in parts.values() if picture.stages(part)[0] == BEFORE and not _moved(part)), None)
    ends = picture.names(parts[first] if usual is None else usual)
    shared = [name for name in _metrics(parts[first]) if all(name in _metrics(parts[other]) for other in others)]
    most = max(part.sizes["place"] for part in parts.values())
    padded = [line.pad(place=(0, most - line.sizes["place"]), constant_values=np.nan) for _, line in lines]
    along = ["t", *(f"{name}{end}" for name in shared for end in ("", "_se", "_barrier", "_barrier_at"))]
    variables = {
        name: (
            ("stage", *padded[0][name].dims),
            np.stack([line[name].values for line in padded]),
            padded[0][name].attrs,
        )
        for name in along
    }
    variables |= {f"marker_{name}": parts[first][f"marker_{name}"].variable for name in shared}
    coords = {
        "stage": [label for label, _ in lines],
        "name": ("checkpoint", ends),
        "first": ("pair", [0]),
        "second": ("pair", [1]),
    }
    running = any(part.attrs["status"] == "running" for part in parts.values())
    attrs = {
        "title": f"paths between {ends[0]} and {ends[1]}: {', '.join(label for label, _ in lines)}",
        "status": "running" if running else "done",
        "progress": min(float(part.attrs["progress"]) for part in parts.values()),
        "evaluations": sum(int(part.attrs["evaluations"]) for part in parts.values()),
        "convention": parts[first].attrs["convention"],
        "matching": NONE,
        "named": 1,
        "provenance": json.dumps(_facts([provenance(part) for part in parts.values()])),
    }
    return xr.Dataset(variables, coords, attrs)


def _metrics(ds: xr.Dataset) -> list[str]:
    return list(picture.metrics(ds).values())


def _moved(ds: xr.Dataset) -> bool:
    """Whether the second checkpoint is said to be in other units than its own."""
    return any("matched_to" in one or one["name"].startswith("π(") for one in provenance(ds)["checkpoints"])


def _refuse_unlike(first: str, one: xr.Dataset, name: str, other: xr.Dataset) -> None:
    facts, own = provenance(one), provenance(other)
    unlike = [words for key, words in THE_SAME.items() if facts.get(key) != own.get(key)]
    unlike += ["convention"] if one.attrs["convention"] != other.attrs["convention"] else []
    if unlike:
        raise LandscapeError(
            f"'{first}' and '{name}' differ in their {' and '.join(unlike)}; one figure compares paths that were "
            "computed alike."
        )
    ends = [" and ".join(picture.names(ds)) for ds in (one, other)]
    start = [found["checkpoints"][0]["sha256"] for found in (facts, own)]
    values = [(one[f"marker_{m}"].values, other[f"marker_{m}"].values) for m in _metrics(one) if m in _metrics(other)]
    if start[0] != start[1] or not all(np.allclose(a, b, rtol=AGREE, atol=1e-5) for a, b in values):
        raise LandscapeError(
            f"'{first}' is between {ends[0]}, '{name}' between {ends[1]}, which is not the same pair of networks; "
            "one figure has the paths of one pair, all from the same first checkpoint."
        )


def _facts(of: list[dict[str, Any]]) -> dict[str, Any]:
    """What all of them say, with the checkpoints, versions and days of each."""
    first, *others = of
    said = {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}
    checkpoints = {one["sha256"]: one for facts in of for one in facts["checkpoints"]}
    versions: dict[str, list[str]] = {}
    for facts in of:
        for name, version in facts["versions"].items():
            versions[name] = [*versions.get(name, []), *([version] if version not in versions.get(name, []) else [])]
    return {
        **said,
        "checkpoints": list(checkpoints.values()),
        "versions": {name: " and ".join(found) for name, found in versions.items()},
        "created": max(facts["created"] for facts in of),
    }
