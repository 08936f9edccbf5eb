"""Pictures from grids of samples: cubic splines of a suitable transform, and how wrong they are.

The error of a picture at a point is its distance from the true value, as a fraction of the range of the values,
on the linear scale and, where all values are positive, on the logarithmic one; the larger counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.ndimage import distance_transform_edt

Axes = Sequence[np.ndarray]
FLAT = 2048  # roundings: a smaller range counts as so many, or that of a spline would count as an error,
FLAT_SHARE = 1 / 16  # but never as more than this share of the values: in coarse arithmetic noise is an error


@dataclass(frozen=True)
class Method:
    """How values between samples are found: a spline of degree 1, 3 or 5, of the values or of their logarithm."""

    degree: int
    log: bool

    @property
    def name(self) -> str:
        spline = {1: "linear", 3: "cubic spline", 5: "quintic spline"}[self.degree]
        return f"{spline} of the logarithm" if self.log else spline

    @property
    def rival(self) -> Method:
        """The method that is two degrees above: where the two differ, neither is to be trusted."""
        return Method(self.degree + 2, self.log)

    def __call__(self, nodes: Axes, values: np.ndarray, at: Axes) -> np.ndarray:
        """Values [*nodes, ...] on the grid of `nodes`, as values [*at, ...] on the grid of `at`.

        NaN and inf stay where they are: a point takes the value of its nearest node if that is not finite.
        """
        finite, holes = _patched(values, len(nodes))
        with np.errstate(divide="ignore", over="ignore"):
            result = np.log(finite) if self.log else finite
            for axis, (have, want) in enumerate(zip(nodes, at, strict=True)):
                degree = min(self.degree, len(have) - 1)
                result = make_interp_spline(have, result, k=degree, axis=axis)(want)
            result = np.exp(result) if self.log else result
        if holes is not None:
            nearest = np.ix_(*(np.abs(have[:, None] - want).argmin(0) for have, want in zip(nodes, at, strict=True)))
            result = np.where(holes[nearest], values[nearest], result)
        return result


LINEAR, CUBIC, CUBIC_LOG = Method(1, False), Method(3, False), Method(3, True)


def _patched(values: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Values with holes (NaN, inf) filled from the nearest finite node, and where the holes were."""
    holes = ~np.isfinite(values)
    if not holes.any():
        return values, None
    if holes.all():
        return np.ones_like(values), holes
    flat = values.reshape(*values.shape[:dims], -1)
    gaps = holes.reshape(flat.shape)
    filled = flat.copy()
    for k in range(flat.shape[-1]):
        if gaps[..., k].all():
            filled[..., k] = 1.0
        elif gaps[..., k].any():
            source = distance_transform_edt(gaps[..., k], return_distances=False, return_indices=True)
            filled[..., k] = flat[..., k][tuple(source)]
    return filled.reshape(values.shape), holes


def candidates(values: np.ndarray, smooth: bool) -> tuple[Method, ...]:
    """Methods worth trying. Step functions (accuracy) are joined linearly: a spline would overshoot."""
    if not smooth:
        return (LINEAR,)
    finite = values[np.isfinite(values)]
    return (CUBIC_LOG, CUBIC) if finite.size and finite.min() > 0 else (CUBIC,)


def disagreement(
    predicted: np.ndarray, true: np.ndarray, among: np.ndarray | None = None, eps: float = 2**-23
) -> np.ndarray:
    """Difference at each point as a fraction of the range, on the worse of the linear and log scales.

    among: the values whose range counts, those of `true` if left out. eps: relative rounding error of the values;
    a range below 2048 of them counts as 2048, or as 1/16 of the values, so that a flat loss agrees with itself.

    A prediction that misses a NaN or an infinity disagrees infinitely; where both agree on one, not at all.
    """
    result = np.where(kind(predicted) == kind(true), 0.0, np.inf)
    compared = np.isfinite(predicted) & np.isfinite(true)
    if compared.any():
        p, t = predicted[compared], true[compared]
        among = true if among is None else among
        among = among[np.isfinite(among)]
        least = min(FLAT * eps, FLAT_SHARE)
        worst = _share(p, t, among, least * np.abs(among).max())
        if min(t.min(), among.min()) > 0:
            with np.errstate(divide="ignore", invalid="ignore"):
                worst = np.maximum(worst, np.where(p > 0, _share(np.log(p), np.log(t), np.log(among), least), np.inf))
        result[compared] = worst
    return result


def rounding(values: np.ndarray, eps: float) -> float:
    """The disagreement that one rounding of the values makes: no error of a picture is known to be below it."""
    finite = values[np.isfinite(values)]
    return float(disagreement(finite * (1 + eps), finite, eps=eps).max(initial=0.0))


def kind(values: np.ndarray) -> np.ndarray:
    """0 for finite values, else a number for each of NaN, inf and -inf."""
    return np.select([np.isnan(values), np.isposinf(values), np.isneginf(values)], [1, 2, 3], 0)


def _share(p: np.ndarray, t: np.ndarray, among: np.ndarray, least: float) -> np.ndarray:
    return np.abs(p - t) / max(np.ptp(among), least, np.finfo(float).tiny)
