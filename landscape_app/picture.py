"""What a result shows, taken out of its Dataset: one metric, the evaluated points, the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.scales import linear_ticks
from landscape_app.text import percent

PICTURE = {"a", "b", "t"}
POINTS = PICTURE | {"sample", "marker", "seed"}
LOSS_ERROR = "loss_error"
IN_WEIGHTS = "weight space"  # units of axes whose coordinates are distances already


@dataclass(frozen=True)
class Metric:
    """One metric of a result.

    name: its variable in the Dataset, be it a value or the error of one; index: which class of it, or ''. values, se:
    on the picture, [b, a] or [t]; se is the standard error of the mean over the data, or for a mean over seeds their
    standard deviation. samples: at the evaluated points. over: "mean" or "spread" over seeds, or ''; each: the pictures
    that a mean is of, [seed, ...].
    """

    name: str
    index: str
    label: str
    units: str
    values: np.ndarray
    se: np.ndarray
    samples: np.ndarray
    over: str = ""
    each: np.ndarray | None = None

    @property
    def of_error(self) -> bool:
        """Whether it is how sure another metric is, and has no error itself."""
        return self.name == LOSS_ERROR or self.name.endswith("_se")

    @property
    def key(self) -> str:
        """That of `shows`."""
        return f"{self.name}[{self.index}]" if self.index else self.name

    @property
    def short(self) -> str:
        """'Loss', where the whole label stands nearby."""
        if self.over == "spread" or self.name != "loss":
            return self.label
        return "Loss"

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


def layers(ds: xr.Dataset) -> dict[str, str]:
    """Label to key of how sure each metric is: its standard error if it has one, and the loss's interpolation error."""
    found = {}
    for label, name in metrics(ds).items():
        if name in ds and "over" not in ds[name].attrs:
            if np.isfinite(ds[f"{name}_se"].values).any():
                found[f"Standard error of {_inside(label)}"] = f"{name}_se"
            if name == "loss" and LOSS_ERROR in ds:
                found[f"Interpolation error of {_inside(label)}"] = LOSS_ERROR
    return found


def shows(ds: xr.Dataset) -> dict[str, str]:
    """Label to key of all that a picture of the result can show."""
    return metrics(ds) | layers(ds)


def metric_label(name: str, long_name: str) -> str:
    """What people call a metric: 'Loss (cross entropy)', 'Accuracy'."""
    if name == "loss":
        return f"Loss ({long_name})" if long_name != name else "Loss"
    return long_name[:1].upper() + long_name[1:]


def metric(ds: xr.Dataset, key: str) -> Metric:
    """The metric of that key, one of `shows(ds)`."""
    name, _, index = key.rstrip("]").partition("[")
    label = next(label for label, k in shows(ds).items() if k == key)

    attributes = ds[name].attrs
    over = str(attributes.get("over", ""))
    each, error, sampled = f"{name}_each", f"{name}_se", f"sample_{name}"
    return Metric(
        name=name,
        index=index,
        label=f"{OVER[over]} {_inside(label)}" if over else label,
        units="" if attributes.get("units") in (None, "1") else str(attributes["units"]),
        values=_pick(ds[name], index),
        se=_pick(ds[error], index) if error in ds else np.full(ds[name].shape, np.nan),
        samples=_pick(ds[sampled], index) if sampled in ds else np.zeros(ds.sizes["sample"]),
        over=over,
        each=_pick(ds[each], index) if each in ds else None,  # to look for what is not there takes xarray long
    )


OVER = {"mean": "Mean", "spread": "Spread of"}


def _inside(label: str) -> str:
    """A label within a sentence: 'loss (cross entropy)', but 'KL divergence'."""
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def spanned(ds: xr.Dataset, shown: Metric) -> np.ndarray:
    """The values that a scale for this metric has to reach: a line shows its points and checkpoints at their own."""
    if dims(ds) == 2:
        return shown.values.ravel()
    each = [] if shown.each is None else [shown.each.ravel()]
    return np.concatenate([shown.values, shown.samples, at_checkpoints(ds, shown), *each])


def quantity(ds: xr.Dataset, shown: Metric) -> tuple[str | bool, ...]:
    """What a metric measures, whichever data it is taken over: two that are equal can share a scale."""
    split = next((s for s in provenance(ds).get("also", {}) if shown.name.endswith(f"_{s}")), None)
    name = shown.name.removesuffix(f"_{split}")
    what = ds[name if name in ds else shown.name].attrs.get("long_name", name)
    return name, str(what), shown.units, shown.index, shown.over == "spread"


def subspace(ds: xr.Dataset) -> tuple[object, ...]:
    """Equal for two results exactly if their coordinates mean the same weights."""
    facts = provenance(ds)
    parts = [*facts.get("checkpoints", ()), *facts.get("axes", ())]
    return axes(ds), facts.get("kind"), *(part.get("sha256") for part in parts)


def alike(ds: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether coordinates of one result can be read on the other: the same axes, drawn over the same reach.

    Random directions of two models are alike: each counts the norms of its own filters.
    """
    if axes(ds) != axes(other) or any(axis_label(ds, name) != axis_label(other, name) for name in axes(ds)):
        return False
    return subspace(ds) == subspace(other) or all(
        np.allclose(extent(ds, name), extent(other, name)) for name in axes(ds)
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
    """'a: random direction 1 [filter norms]'; of a principal direction with its share of the variance."""
    attributes = ds[name].attrs
    long_name, units = attributes.get("long_name", ""), attributes.get("units", "")
    shares = provenance(ds).get("explained_variance")
    if shares and name in ("a", "b"):
        long_name += f" ({percent(shares['ab'.index(name)])} of variance)"
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


def unit_length(ds: xr.Dataset) -> float | None:
    """How far apart the weights are that lie one unit apart on the picture; None if that differs or is not said."""
    facts = provenance(ds).get("axes", ())[:2]
    lengths = [float(axis["length"]) for axis in facts if "length" in axis]
    if len(lengths) < 2 or not equal_aspect(ds) or facts[0].get("units") == IN_WEIGHTS:
        return None
    return lengths[0] if np.isclose(lengths[0], lengths[1], rtol=1e-3) else None


def length_bar(ds: xr.Dataset) -> tuple[float, float] | None:
    """A round distance in weight space and how wide it is along a, where both axes say their length; else None."""
    length, (low, high) = unit_length(ds), extent(ds, "a")
    if length is None:
        return None
    far = max((tick for tick in linear_ticks(0, 0.3 * (high - low) * length, 4) if tick > 0), default=0.0)
    return (far, far / length) if far else None


def trajectory(ds: xr.Dataset) -> bool:
    """Whether the checkpoints are those of one run, in their order."""
    return provenance(ds).get("kind") == "trajectory"


def labelled(ds: xr.Dataset) -> np.ndarray:
    """Which checkpoints have their name beside them [marker]: of a run its ends, as all of them would hide it."""
    named = np.full(ds.sizes["marker"], not trajectory(ds))
    named[[0, -1]] = True
    return named


def at_checkpoints(ds: xr.Dataset, shown: Metric) -> np.ndarray:
    """The metric of each checkpoint itself, at its true weights [marker]; NaN where the result does not say."""
    name = f"marker_{shown.name}"
    return _pick(ds[name], shown.index) if name in ds else np.full(ds.sizes["marker"], np.nan)


def _pick(values: xr.DataArray, index: str) -> np.ndarray:
    classes = [d for d in values.dims if d not in POINTS]
    return np.asarray(values.isel({d: int(index) for d in classes}).values, dtype=np.float64)


def axes(ds: xr.Dataset) -> tuple[str, ...]:
    """The picture's coordinates: ('t',) or ('a', 'b')."""
    return ("t",) if "t" in ds.dims else ("a", "b")


@dataclass(frozen=True)
class Parabola:
    """What an eigenvalue promises along an axis: loss + slope t + eigenvalue t² / 2. metric: the key it is about."""

    eigenvalue: float
    bound: float
    slope: float
    loss: float
    metric: str

    def __call__(self, t: np.ndarray) -> np.ndarray:
        return self.loss + self.slope * t + 0.5 * self.eigenvalue * t**2

    def holds(self, t: np.ndarray, values: np.ndarray) -> tuple[float, float]:
        """The interval about 0 where it is off by at most a tenth of the change of the loss, (low, high).

        The change counts as no less than that of the bend alone, or each place where the loss comes back to where it
        began would end the interval. Each place beyond the first that is off lies outside.
        """
        allowed = HOLDS_WITHIN * np.maximum(np.abs(values - self.loss), 0.5 * abs(self.eigenvalue) * t**2)
        noise = 1e-5 * max(abs(self.loss), 1e-12)
        off = ~(np.abs(values - self(t)) <= allowed + noise)
        ends = []
        for side in (t <= 0, t >= 0):
            bad = np.abs(t[off & side])
            near = np.abs(t[side & ~off])
            ends.append(float(near[near < bad.min()].max(initial=0.0)) if bad.size else float(near.max(initial=0.0)))
        return -ends[0], ends[1]


HOLDS_WITHIN = 0.1


def parabola(ds: xr.Dataset, name: str) -> Parabola | None:
    """The parabola that belongs to an axis of a picture, None for an axis that is no eigenvector."""
    facts = ds[name].attrs if name in ds.coords else {}
    if "eigenvalue" not in facts:
        return None
    numbers = (float(facts[key]) for key in ("eigenvalue", "eigenvalue_bound", "slope", "centre_loss"))
    return Parabola(*numbers, str(facts["parabola_of"]))
