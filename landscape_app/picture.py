"""What a result shows, taken out of its Dataset: one metric, the evaluated points, the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis import provenance

PICTURE = {"a", "b", "t"}
POINTS = PICTURE | {"sample", "marker"}


@dataclass(frozen=True)
class Metric:
    """One metric of a result.

    name: its variable in the Dataset; index: which class of it, or ''. values, se: on the picture, [b, a] or
    [t]; se is the standard error of the mean over the data. samples: at the evaluated points.
    """

    name: str
    index: str
    label: str
    units: str
    values: np.ndarray
    se: np.ndarray
    samples: np.ndarray

    @property
    def short(self) -> str:
        """'Loss', where the whole label stands nearby."""
        return "Loss" if self.name == "loss" else self.label

    @property
    def title(self) -> str:
        """'Loss [nats]'."""
        return f"{self.label} [{self.units}]" if self.units else self.label


def dims(ds: xr.Dataset) -> int:
    """1 for a line, 2 for a plane."""
    return 1 if "t" in ds.dims else 2


def metrics(ds: xr.Dataset) -> dict[str, str]:
    """Label to key of each metric. One with a value a class has a key for each: 'loss_per_class[3]'."""
    found = {}
    for name in (str(n) for n in ds.data_vars):
        if f"{name}_se" not in ds or not set(ds[name].dims) & PICTURE:
            continue
        label = metric_label(name, ds[name].attrs.get("long_name", name))
        classes = [d for d in ds[name].dims if d not in PICTURE]
        if not classes:
            found[label] = name
            continue
        for i in range(ds.sizes[classes[0]]):
            found[f"{label}, {classes[0]} {i}"] = f"{name}[{i}]"
    return found


def metric_label(name: str, long_name: str) -> str:
    """What people call a metric: 'Loss (cross entropy)', 'Accuracy'."""
    if name == "loss":
        return f"Loss ({long_name})" if long_name != name else "Loss"
    return long_name[:1].upper() + long_name[1:]


def metric(ds: xr.Dataset, key: str) -> Metric:
    """The metric of that key, one of `metrics(ds)`."""
    name, _, index = key.rstrip("]").partition("[")
    label = next(label for label, k in metrics(ds).items() if k == key)

    attributes = ds[name].attrs
    return Metric(
        name=name,
        index=index,
        label=label,
        units="" if attributes.get("units") in (None, "1") else str(attributes["units"]),
        values=_pick(ds[name], index),
        se=_pick(ds[f"{name}_se"], index),
        samples=_pick(ds[f"sample_{name}"], index),
    )


def whole(ds: xr.Dataset, shown: Metric) -> bool:
    """Whether each point of the picture is known: coarse tiles with gaps have no contours worth drawing."""
    gaps = np.isnan(shown.values) & ~ds["computed"].values
    return bool(np.isfinite(shown.values).any()) and not (ds.attrs["status"] == "running" and gaps.any())


def spans_decades(shown: Metric) -> bool:
    """Whether a logarithmic scale suits the values: all positive, the largest ten times the smallest."""
    finite = shown.values[np.isfinite(shown.values)]
    return bool(finite.size and finite.min() > 0 and finite.max() >= 10 * finite.min())


def axis_label(ds: xr.Dataset, name: str) -> str:
    """'a: random direction 1 [filter norms]'."""
    attributes = ds[name].attrs
    long_name, units = attributes.get("long_name", ""), attributes.get("units", "")
    label = f"{name}: {long_name}" if long_name and long_name != name else name
    return f"{label} [{units}]" if units else label


def extent(ds: xr.Dataset, name: str) -> tuple[float, float]:
    """First and last coordinate of the picture along an axis."""
    values = ds[name].values
    return float(values[0]), float(values[-1])


def nearest(ds: xr.Dataset, point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the picture's point that is nearest to (a, b)."""
    row, column = (int(np.abs(ds[name].values - place).argmin()) for name, place in zip("ba", point[::-1], strict=True))
    return row, column


def spacing(ds: xr.Dataset) -> tuple[float, float]:
    """From one point of the plane's picture to the next, along a and along b."""
    a, b = (float(np.ptp(ds[name].values)) / (ds.sizes[name] - 1) for name in "ab")
    return a, b


def on_grid(ds: xr.Dataset, point: tuple[float, float]) -> tuple[float, float] | None:
    """The plane's point nearest to (a, b), as short decimals; None if the picture does not reach there."""
    spots = []
    for name, place, step in zip("ab", point, spacing(ds), strict=True):
        grid = ds[name].values
        if not grid[0] - step / 2 <= place <= grid[-1] + step / 2:
            return None
        digits = max(0, 2 - int(np.floor(np.log10(step))))
        spots.append(round(float(grid[np.abs(grid - place).argmin()]), digits) + 0.0)
    return spots[0], spots[1]


def equal_aspect(ds: xr.Dataset) -> bool:
    """Whether one unit is the same length on both axes, so that the picture may keep angles."""
    return bool(ds.attrs.get("equal_aspect"))


def trajectory(ds: xr.Dataset) -> bool:
    """Whether the checkpoints are those of one run, in their order."""
    return provenance(ds).get("kind") == "trajectory"


def at_checkpoints(ds: xr.Dataset, shown: Metric) -> np.ndarray:
    """The metric of each checkpoint itself, at its true weights [marker]; NaN where the result does not say."""
    values = ds.get(f"marker_{shown.name}")
    if values is None:
        return np.full(ds.sizes["marker"], np.nan)
    return np.asarray(_pick(values, shown.index), dtype=np.float64)


def _pick(values: xr.DataArray, index: str) -> np.ndarray:
    classes = [d for d in values.dims if d not in POINTS]
    return np.asarray(values.isel({d: int(index) for d in classes}).values, dtype=np.float64)


def axes(ds: xr.Dataset) -> tuple[str, ...]:
    """The picture's coordinates: ('t',) or ('a', 'b')."""
    return ("t",) if "t" in ds.dims else ("a", "b")
