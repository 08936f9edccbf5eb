"""What a spectrum shows, taken out of its Dataset: eigenvalues with their bars, and densities, part by part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from analysis import provenance
from analysis.curvature.density import quadrature, smoothed
from landscape_app.colours import ACCENT
from landscape_app.spectrum.request import MATRICES

DIMS = {"eigenvalue": ("pair",), "deflated": ("ritz",), "node": ("probe", "step")}
MARGIN = 0.05
LEAST_POINTS, MOST_POINTS = 401, 4001
TALLEST = 0.999
COLOURS = {"hessian": "#1f86c9", "ggn": "#d98200", "fisher": "#009e73"}
STEMS = {"hessian": ACCENT, "ggn": "#8a5a00", "fisher": "#00694d"}
UNITS = "loss / weight²"
DENSITY = "Density [share of eigenvalues / unit]"


@dataclass(frozen=True)
class Spectrum:
    """One part of a result.

    values, bounds, residuals, converged, ends: of the eigenvalues [pair], largest first, then the smallest. quadrature:
    a Dataset as `analysis` gives it, or None before the first. samples: how many count, of all_samples.
    """

    label: str
    panel: str
    matrix: str
    values: np.ndarray
    bounds: np.ndarray
    residuals: np.ndarray
    converged: np.ndarray
    ends: np.ndarray
    quadrature: xr.Dataset | None
    parameters: int
    samples: int
    all_samples: int
    verified: bool
    noise: float
    loss: float
    gradient_norm: float

    @property
    def density_known(self) -> bool:
        return self.quadrature is not None

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest value that is known of."""
        nodes = self.nodes
        every = np.concatenate([self.values, nodes[np.isfinite(nodes)]])
        return (float(every.min()), float(every.max())) if every.size else (0.0, 1.0)

    @property
    def nodes(self) -> np.ndarray:
        return quadrature(self.quadrature)[0] if self.quadrature is not None else np.empty(0)

    @property
    def trace(self) -> tuple[float, float]:
        """From the density, and its standard error over the probes; NaN where it is not known."""
        if self.quadrature is None:
            return np.nan, np.nan
        ds = self.quadrature
        with np.errstate(invalid="ignore"):
            each = np.nansum(ds["node"].values * ds["weight"].values, 1)[np.isfinite(ds["node"].values).any(1)]
        whole = float(ds["deflated"].values.sum()) + self.parameters * each
        error = float(whole.std(ddof=1) / len(whole) ** 0.5) if len(whole) > 1 else np.nan
        return float(whole.mean()), error


def spectra(ds: xr.Dataset) -> list[Spectrum]:
    """The parts of a result; one of `landscape spectrum`, which has no parts, is one."""
    ds = ds if "part" in ds.dims else _as_part(ds)
    found = []
    for i in range(ds.sizes["part"]):
        one = ds.isel(part=i)
        known = np.isfinite(one["eigenvalue"].values) if "eigenvalue" in one else np.empty(0, dtype=bool)
        own = {name: one[name].values[known] if name in one else np.empty(0) for name in ONE_A_PAIR}
        found.append(
            Spectrum(
                label=str(one["label"].values),
                panel=str(one["panel"].values),
                matrix=str(one["matrix"].values),
                values=own["eigenvalue"],
                bounds=own["bound"],
                residuals=own["residual"],
                converged=own["converged"].astype(bool),
                ends=own["end"],
                quadrature=_quadrature(one),
                parameters=int(one["parameters"]),
                samples=int(one["samples"]),
                all_samples=int(ds.attrs["all_samples"]),
                verified=bool(one["verified"]),
                **{name: float(one[name]) for name in ("noise", "loss", "gradient_norm")},
            )
        )
    return found


ONE_A_PAIR = ("eigenvalue", "bound", "residual", "converged", "end")


def panels(parts: list[Spectrum]) -> dict[str, list[int]]:
    """Which parts are drawn together: panel to places in the list."""
    found: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        found.setdefault(part.panel, []).append(i)
    return found


def planned(ds: xr.Dataset) -> int:
    """How many panels a result will have when it is finished: room for them is made at once."""
    return int(ds.attrs.get("panels", 1))


def span(parts: list[Spectrum]) -> tuple[float, float]:
    """From the least to the largest value of all parts, zero among them, with a margin."""
    ends = [part.reach for part in parts]
    low, high = min(0.0, *(low for low, _ in ends)), max(0.0, *(high for _, high in ends))
    margin = MARGIN * ((high - low) or 1.0)
    return low - margin, high + margin


def curve(part: Spectrum, reach: tuple[float, float], width: float) -> tuple[np.ndarray, np.ndarray]:
    """A density as places and heights: each node a Gaussian whose standard deviation is that share of the reach."""
    if part.quadrature is None:
        return np.empty(0), np.empty(0)
    points = int(np.clip(round(4 / width), LEAST_POINTS, MOST_POINTS))
    at = np.linspace(*reach, points)
    return at, smoothed(part.quadrature, at, width * (reach[1] - reach[0]))


def floor(parts: list[Spectrum], reach: tuple[float, float], width: float) -> float:
    """Half the height of one lone eigenvalue: what lies lower on a logarithmic axis is no eigenvalue at all."""
    most = max(part.parameters for part in parts)
    return 0.5 / (most * width * (reach[1] - reach[0]) * np.sqrt(2 * np.pi))


def _quadrature(one: xr.Dataset) -> xr.Dataset | None:
    if "node" not in one or not np.isfinite(one["node"].values).any():
        return None
    deflated = one["deflated"].values if "deflated" in one else np.empty(0)
    return xr.Dataset(
        {
            "deflated": ("ritz", deflated[np.isfinite(deflated)]),
            "node": (("probe", "step"), one["node"].values),
            "weight": (("probe", "step"), one["weight"].values),
        },
        attrs={"parameters": int(one["parameters"])},
    )


def _as_part(ds: xr.Dataset) -> xr.Dataset:
    facts = provenance(ds)
    said = str(facts.get("matrix", "")).lower()
    matrix = next((key for key, name in MATRICES.items() if name.lower() in said), "hessian")
    own = {
        "label": MATRICES[matrix][:1].upper() + MATRICES[matrix][1:],
        "panel": "",
        "matrix": matrix,
        "parameters": facts["parameters_counted"],
        "samples": facts.get("samples_counted", facts["data"]["samples"]),
        **{name: ds.attrs.get(name, np.nan) for name in ("noise", "loss", "gradient_norm")},
        "verified": ds.attrs.get("verified", 0),
    }
    whole = ds.expand_dims("part").assign_coords({name: ("part", [value]) for name, value in own.items()})
    return whole.assign_attrs(all_samples=facts["data"]["samples"])
