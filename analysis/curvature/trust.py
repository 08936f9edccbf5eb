"""How far a spectrum can be trusted: which signs are known, and how far a parabola describes the loss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from ..errors import LandscapeError
from ..results import provenance
from .density import quadrature

DEVIATION = 0.1


class Signs(NamedTuple):
    """Shares of all eigenvalues: below the noise, within it, where the sign is not known, and above it."""

    negative: float
    undecided: float
    positive: float


def fraction_negative(density: xr.Dataset, noise: float) -> Signs:
    """The share of negative eigenvalues in a density, with those apart whose sign rounding decides.

    Most eigenvalues of a network lie near zero, and in float32 their sign is a matter of rounding, about 1e-6 of the
    largest: of those that are deflated exactly, and of the density's nodes.

    density: a result of `density`. noise: in units of the eigenvalues, such as ``attrs["noise"]`` of `Eigenpairs`.

    Raises LandscapeError for a noise that is negative or not finite.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise LandscapeError(f"noise is {noise}; expected 0 or more, such as attrs['noise'] of the eigenvalues.")
    nodes, weights = quadrature(density)
    below, above = nodes < -noise, nodes > noise
    return Signs(*(float(weights[part].sum()) for part in (below, ~(below | above), above)))


def parabola(line: xr.Dataset, eigenvalue: float, gradient: float = 0.0) -> float:
    """Up to which distance from the checkpoint gradient t + eigenvalue t² / 2 describes the loss along an eigenvector.

    Products see the curvature at one point: higher orders, and the kinks of ReLU networks, come on top of it.

    line: a result of `surface` on ``Line.along(checkpoint, vector)``, with t = 0 among its points; t is a distance.
    gradient: the loss's slope along the vector at t = 0.

    Returns the largest |t| of an evaluated point up to which, on both sides, the loss is off by at most a tenth of
    eigenvalue t² / 2 or of the whole, whichever is larger, beside the rounding of the loss; 0 if it is off at once.
    Where BatchNorm statistics are recalibrated at each point, the line moves them and an eigenvalue does not.

    Raises LandscapeError for what is no such line, and for an eigenvalue of 0.
    """
    if "sample_t" not in line or "sample_loss" not in line or "seed" in line.dims:
        raise LandscapeError(f"A line through the checkpoint is needed; the result has the dims {list(line.dims)}.")
    if not np.isfinite(eigenvalue) or eigenvalue == 0:
        raise LandscapeError(f"eigenvalue is {eigenvalue}; there is a parabola for finite numbers other than 0.")
    order = np.argsort(np.abs(line.sample_t.values), kind="stable")
    t, loss = line.sample_t.values[order], line.sample_loss.values[order]
    if not len(t) or abs(t[0]) > 1e-9:
        raise LandscapeError("The line was not evaluated at the checkpoint, t = 0; use an odd number of points.")
    bend = eigenvalue * t**2 / 2
    expected = gradient * t + bend
    rounding = 4 * torch.finfo(getattr(torch, provenance(line)["dtype"].partition(",")[0])).eps * abs(loss[0])
    allowed = DEVIATION * np.maximum(np.abs(bend), np.abs(expected)) + rounding
    off = ~(np.abs(loss - loss[0] - expected) <= allowed)
    if not off.any():
        return float(np.abs(t).max())
    inside = np.abs(t)[np.abs(t) < np.abs(t)[off].min() * (1 - 1e-9)]
    return float(inside.max(initial=0.0))
