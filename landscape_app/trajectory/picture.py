"""What the curvature along a run shows, taken out of its Dataset: places along the run, and curves with errors."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from landscape_app.scales import Scale, linear_ticks, log_ticks
from landscape_app.text import eigenvalue, number

LARGEST, SMALLEST, TRACE, TURNED, LIMIT = "#1f86c9", "#d98200", "#1f86c9", "#cc79a7", "#009e73"
NEAR = 4.0  # a limit that is so much higher than all values would flatten them on a linear scale


@dataclass(frozen=True)
class Places:
    """Where checkpoints lie along the run, [checkpoint], and how that axis is labelled."""

    at: np.ndarray
    title: str
    ticks: list[float]
    labels: dict[float, str]


@dataclass(frozen=True)
class Curve:
    """One quantity along the run. values, errors: [checkpoint], NaN where not computed.

    label: for the legend, '' for one that shares the legend's entry before it. limit: a line to stay below, not
    something that was measured. gaps: whether its line ends where a value is not known.
    """

    name: str
    label: str
    colour: str
    values: np.ndarray
    errors: np.ndarray | None = None
    settled: np.ndarray | None = None
    strong: bool = True
    dashed: bool = False
    limit: bool = False
    gaps: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves on common axes. axis: its title. bounds: of the axis, None where it fits the values."""

    title: str
    axis: str
    curves: list[Curve] = field(default_factory=list)
    bounds: tuple[float, float] | None = None


def known(ds: xr.Dataset) -> list[int]:
    """Places in the run where something is known."""
    return [int(i) for i in np.flatnonzero(np.isfinite(ds["eigenvalue"].values).any(1))]


def stepped(ds: xr.Dataset) -> bool:
    """Whether the files say at which steps the checkpoints were kept, one after another."""
    steps = ds["step"].values
    return bool(np.isfinite(steps).all() and (np.diff(steps) > 0).all())


def widening(ds: xr.Dataset) -> bool:
    """Whether the steps lie the farther apart the longer the run."""
    steps = ds["step"].values
    return stepped(ds) and len(steps) > 4 and bool(np.median(steps) - steps[0] < (steps[-1] - steps[0]) / 5)


def places(ds: xr.Dataset, log: bool) -> Places:
    """Along the run: by step if the files say it, else one after another. log: by the logarithm of 1 + step."""
    steps = ds["step"].values
    if not stepped(ds):
        order = np.arange(1, ds.sizes["checkpoint"] + 1, dtype=float)
        ticks = [tick for tick in linear_ticks(1, max(order[-1], 2)) if tick == round(tick)]
        return Places(order, "Checkpoint, in their order", ticks, {tick: number(tick, 6) for tick in ticks})
    if not log:
        ticks = linear_ticks(steps[0], steps[-1])
        return Places(steps, "Step", ticks, {tick: number(tick, 6) for tick in ticks})
    shown = [tick for tick in (0.0, *log_ticks(1, max(steps[-1], 3))) if steps[0] <= tick <= steps[-1]]
    at = [float(np.log10(1 + tick)) for tick in shown]
    labels = {place: f"{tick:,.0f}" for place, tick in zip(at, shown, strict=True)}
    return Places(np.log10(1 + steps), "Step, logarithmic", at, labels)


def charts(ds: xr.Dataset, log: bool) -> dict[str, Chart]:
    """All pictures of a result by name; those of nothing, such as of an unknown learning rate, have no curves."""
    units = ds["eigenvalue"].attrs["units"]
    top = int((ds["end"].values == "largest").sum())
    loss = ds["loss"].attrs
    return {
        "eigenvalues": Chart("Eigenvalues", f"Eigenvalue [{units}]", _eigenvalues(ds, log)),
        "stability": Chart("Stability", "Share of the limit [1]", _stability(ds)),
        "trace": Chart("Trace", f"Trace [{units}]", _one(ds, "trace", TRACE, "Trace")),
        "vectors": Chart(
            f"Top {top} eigenvectors" if top > 1 else "Top eigenvector",
            "Share [1]",
            [
                Curve("gradient in their span", "Gradient", LARGEST, ds["alignment"].values),
                Curve("overlap with those before", "Overlap", TURNED, ds["overlap"].values),
            ],
            (0.0, 1.0),
        ),
        "loss": Chart("Loss", f"Loss [{loss['units']}]", _one(ds, "loss", LARGEST, "Loss")),
    }


def scale(chart: Chart, log: bool) -> Scale:
    """The scale that spans a chart's curves and their bars."""
    if chart.bounds is not None:
        return Scale.of(np.array(chart.bounds), log=False)
    values = [np.empty(0), *(curve.values for curve in chart.curves)]
    for sign in (1,) if log else (1, -1):  # a bar down to 0 has no end on a logarithmic scale
        values += [curve.values + sign * curve.errors for curve in chart.curves if curve.errors is not None]
    return Scale.of(np.concatenate(values), log)


def _eigenvalues(ds: xr.Dataset, log: bool) -> list[Curve]:
    ends, curves = ds["end"].values, []
    top, count = int((ends == "largest").sum()), len(ends)
    for pair in range(count):
        low = pair >= top
        rank = pair - top if low else pair
        name = eigenvalue(pair, top)
        values = ds["eigenvalue"].values[:, pair]
        own = {"errors": ds["bound"].values[:, pair], "settled": ds["converged"].values[:, pair], "strong": rank == 0}
        if low and log:
            values, name = np.abs(values), f"|{name}|"
        label = name if rank == 0 else ""
        if rank == 1:
            last = eigenvalue(top - 1 if not low else count - 1, top)
            label = name if last in name else f"{name} … {f'|{last}|' if low and log else last}"
        curves.append(Curve(name, label, SMALLEST if low else LARGEST, values, dashed=low, **own))
    edge = ds["edge"].values
    if np.isfinite(edge).any():
        highest = np.nanmax(ds["eigenvalue"].values) if known(ds) else np.inf
        if log or np.nanmin(edge) <= NEAR * highest:
            curves.append(Curve("2 / η", f"2 / η{_one_value(edge)}", LIMIT, edge, dashed=True, limit=True, gaps=True))
    return curves


def _stability(ds: xr.Dataset) -> list[Curve]:
    rates = ds["learning_rate"].values
    if not np.isfinite(rates).any():
        return []
    curves = [Curve("η λ₁ / 2", "η λ₁ / 2", LARGEST, ds["stability"].values, gaps=True)]
    if np.isfinite(ds["trace_stability"].values).any():
        error = rates * ds["trace_se"].values / 2
        curves.append(Curve("η trace / 2", "η trace / 2", SMALLEST, ds["trace_stability"].values, error, gaps=True))
    one = np.where(np.isfinite(rates), 1.0, np.nan)
    return [*curves, Curve("limit", "Limit", LIMIT, one, dashed=True, limit=True, gaps=True)]


def _one(ds: xr.Dataset, name: str, colour: str, label: str) -> list[Curve]:
    if not np.isfinite(ds[name].values).any():
        return []
    errors = ds["trace_se"].values if name == "trace" else None
    return [Curve(label, "", colour, ds[name].values, errors)]


def _one_value(edge: np.ndarray) -> str:
    values = np.unique(edge[np.isfinite(edge)])
    return f" = {number(values[0])}" if len(values) == 1 else ""
