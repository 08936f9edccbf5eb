"""How far along a direction the Taylor series of a cross entropy converges.

A cross entropy is singular where its partition function, the sum over classes of exp(logit), is zero: never at a
real coordinate, but at complex ones, and the nearest of these bounds every local model of the loss. With logits
z_k + a_k t along a direction, no such zero lies nearer than pi / (max_k a_k - min_k a_k): nearer than that the terms of
the sum all point into one half of the complex plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .attention import twice_differentiable_attention
from .errors import LandscapeError
from .losses import classes_last
from .problem import Problem
from .replica import Replica
from .results import provenance, provenance_json
from .subspace import Subspace, refuse_other

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 1.0)


def softmax_radius(problem: Problem, subspace: Subspace, *coordinates: float, temperature: float = 1.0) -> xr.Dataset:
    """The softmax convergence radius at a point of a line or plane, along each of its axes.

    Of an example whose logits z_k change at the rates a_k along an axis, rho_a = pi T / (max_k a_k - min_k a_k); that
    of the data is the smallest (Sao 2026, Ghosts of Softmax, arXiv:2603.13552). It holds for logits that are linear
    along the axis: within it, the Taylor series of their cross entropy converges. For two classes with logits delta
    apart the singularity lies at exactly sqrt(delta^2 + (pi T)^2) / |a_1 - a_0|, and beyond it the series diverges; for
    more classes it lies at rho_a or farther. Moving beyond is no error: the loss is still what it is there, but no
    gradient, Hessian or higher derivative at the point describes it.

    problem: its loss is a cross entropy over classes of logits, as "cross_entropy" and nn.CrossEntropyLoss are.
    coordinates: the point, in units of the axes; none is the origin.
    temperature: T of a loss of logits / T.

    Returns a Dataset with the dims ``axis`` (the names of the subspace's), ``example`` (targets that the loss counts,
    in the order of the data; each token of a sequence is one) and ``quantile``. All radii are in units of the axes, and
    infinite where no logit moves against another:
    ``radius`` [axis], ``radius_of_example`` [axis, example], ``radius_quantile`` [axis, quantile];
    for two classes also ``exact_radius`` [axis] and ``exact_radius_of_example`` [axis, example];
    ``distance`` [axis], the radius as Euclidean distance in weight space; ``at`` [axis], the point.

    Under "recalibrated" and "frozen" running statistics are held constant, and under "batch" they follow the weights.
    Raises LandscapeError for another loss, bad coordinates or a temperature that is not positive.
    """
    refuse_other(subspace)
    at = np.array(coordinates or [0.0] * len(subspace.axes), dtype=np.float64)
    loss = problem.measures[0]
    if not loss.classifies:
        raise LandscapeError(
            f"The softmax radius needs a cross entropy over classes; the loss of {problem.name} is {loss.long_name}. "
            "Make the problem with loss='cross_entropy' or nn.CrossEntropyLoss()."
        )
    if not np.isfinite(at).all():
        raise LandscapeError(f"coordinates are {coordinates}; expected finite numbers.")
    if not 0 < temperature < np.inf:
        raise LandscapeError(f"temperature is {temperature}; expected a positive number.")
    replica = _Slopes(problem, subspace, at)
    span, gap, classes = replica.spans_and_gaps()
    with np.errstate(divide="ignore"):
        radii = np.pi * temperature / span
        exact = np.hypot(gap, np.pi * temperature) / span
    lengths = np.array([axis.length for axis in subspace.axes])
    units = [axis.units for axis in subspace.axes]
    variables: dict[str, Any] = {
        "radius": ("axis", radii.min(1), {"long_name": "softmax convergence radius"}),
        "radius_of_example": (("axis", "example"), radii),
        "radius_quantile": (("axis", "quantile"), np.quantile(radii, QUANTILES, axis=1, method="lower").T),
        "distance": ("axis", radii.min(1) * lengths, {"long_name": "the radius in weight space"}),
        "at": ("axis", at),
        "units": ("axis", np.array(units, dtype=object)),
    }
    if classes == 2:
        variables["exact_radius"] = "axis", exact.min(1), {"long_name": "distance of the singularity, linear logits"}
        variables["exact_radius_of_example"] = ("axis", "example"), exact
    return xr.Dataset(
        variables,
        coords={"axis": list(subspace.names), "quantile": list(QUANTILES)},
        attrs={
            "title": f"softmax convergence radius, {subspace.title}",
            "temperature": float(temperature),
            "classes": classes,
            "provenance": provenance_json(problem, subspace, {}, at=at.tolist(), temperature=temperature),
        },
    )


def radius_band(radii: xr.Dataset, axis: str, *, exact: bool = False) -> tuple[float, float]:
    """The interval of an axis within the softmax radius, (low, high) in units of the axis: what a slice plot shades.

    radii: from `softmax_radius`. exact: of the singularity's own distance, where there are two classes.
    Infinite ends mean that no logit moves against another.
    """
    if axis not in radii["axis"].values:
        raise LandscapeError(f"axis is {axis!r}; there are {radii['axis'].values.tolist()}.")
    if exact and "exact_radius" not in radii:
        raise LandscapeError(f"The exact radius is known for two classes; there are {radii.attrs['classes']}.")
    here = radii.sel(axis=axis)
    at, radius = float(here["at"]), float(here["exact_radius" if exact else "radius"])
    return at - radius, at + radius


def with_radius(result: xr.Dataset, radii: xr.Dataset) -> xr.Dataset:
    """A result whose coordinates say, in their attributes ``softmax_low`` and ``softmax_high``, where the band ends.

    Raises LandscapeError if they are not of the same line or plane.
    """
    if provenance(result)["axes"] != provenance(radii)["axes"]:
        raise LandscapeError("The result and the radii are of different lines or planes; compute both on the same one.")
    coordinates = {}
    for axis in radii["axis"].values:
        low, high = radius_band(radii, axis)
        coordinates[axis] = result[axis].assign_attrs(softmax_low=low, softmax_high=high)
    return result.assign_coords(coordinates)


class _Slopes(Replica):
    """Logits at a point and their rates of change along axes, where a replica has the moments of losses."""

    def __init__(self, problem: Problem, subspace: Subspace, at: np.ndarray):
        super().__init__(problem)
        self.load(subspace.origin)
        self.flat.copy_(self.pack(subspace.point(*at)))
        self._axes = [[axis.weights[name].to(self.flat) for name in self._spans] for axis in subspace.axes]

    def spans_and_gaps(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Max - min of the slopes [axes, examples], first logit - second [examples], and how many classes there are."""
        spans, gaps, classes = self.totals({"": self.problem.data.batches()})
        return spans.cpu().numpy(), gaps.cpu().numpy(), int(classes)

    def _totals(self, blocks: dict[str, list[Any]]) -> list[Tensor]:
        self.settle()
        spans, gaps, classes = [], [], 0
        with self.own_context(grad=True), twice_differentiable_attention():
            for batch in map(self.here, blocks[""]):
                logits, target = classes_last(self.output(batch), batch, "softmax_radius")
                counted, classes = target != self.problem.measures[0].ignored, logits.shape[-1]
                z = logits.detach()[counted].double()
                slopes = torch.stack([slope[counted].double() for slope in self._slopes(logits)])
                spans.append(slopes.amax(-1) - slopes.amin(-1))
                gaps.append(z[:, 0] - z[:, min(1, classes - 1)])
        return [torch.cat(spans, 1), torch.cat(gaps), torch.tensor(classes)]

    def _slopes(self, logits: Tensor) -> list[Tensor]:
        """J v for each axis v, by differentiating J' u with respect to u."""
        if not logits.requires_grad:
            return [torch.zeros_like(logits) for _ in self._axes]
        u = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(logits, self._moving, u, create_graph=True, allow_unused=True)
        found = []
        for axis in self._axes:
            along = torch.stack([(p * v).sum() for p, v in zip(pulled, axis, strict=True) if p is not None])
            found.append(torch.autograd.grad(along.sum(), u, retain_graph=True)[0])
        return found
