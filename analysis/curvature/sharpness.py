"""Sharpness: how much the loss, or its gradient, can rise within a distance of a checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..measures import mean_and_error
from ..problem import Problem
from ..provenance import versions
from ..replica import Replica
from ..weights import Entry, Weights
from .eigenpairs import YIELD_SECONDS
from .krylov import Krylov
from .operators import Curvature

GEOMETRIES = {
    "euclidean": "weight space",
    "filter": "filter norms",
    "adaptive": "weights",
}
FURTHEST, NEAREST = 16.0, 0.02  # steps of an ascent, in radii along the unit gradient
SETTLED = 1e-3  # an ascent ends where a step adds less than this fraction
NUDGE = 0.03  # of the radius, over which the gradient of a gradient's norm is a difference of two
TOP_PRODUCTS, TOP_RESIDUAL = 30, 0.01

Ascent = Generator[None, None, tuple[float, Tensor]]


def sharpness(
    problem: Problem,
    checkpoint: Checkpoint | None = None,
    *,
    radii: Sequence[float] = (0.05, 0.1, 0.2),
    sigmas: Sequence[float] = (0.005, 0.01, 0.02),
    geometries: Sequence[str] = tuple(GEOMETRIES),
    starts: int = 2,
    steps: int = 20,
    draws: int = 10,
    layers: Collection[str] | None = None,
    seed: int = 0,
) -> Iterator[xr.Dataset]:
    """Worst-case and average sharpness at a checkpoint, a generator of more and more complete Datasets.

    A displacement is d = D u, and radii and sigmas measure u. D is 1 in the geometry "euclidean"; in "filter" the norm
    of the filter that an entry belongs to, and of an entry that is in none (a bias) its own size; in "adaptive" each
    entry's own size |w| (Kwon et al. 2021, ASAM, arXiv:2102.11600). The last two do not change when a ReLU layer is
    scaled by c and the next by 1/c; "adaptive" not even when each unit has a c of its own. With g the gradient:

    ``zeroth_order`` [geometry, radius]: R0, the largest L(w + D u) - L(w) with |u| <= radius (Foret et al. 2021, SAM,
        arXiv:2010.01412).
    ``first_order`` [geometry, radius]: R1, radius times the largest |D g(w + D u)| there (Zhang et al. 2023, GAM).
    ``average`` [geometry, sigma] and ``average_se``: the mean of L(w + D u) - L(w) over normal u with standard
        deviation sigma in each entry, from `draws` pairs u and -u, and its standard error over them (Andriushchenko
        et al. 2023, arXiv:2302.07011).
    ``top_eigenvalue`` [geometry] and ``top_residual``: of D H D, the Hessian in that geometry. At a minimum
        R0 ~ radius² top_eigenvalue / 2 and R1 ~ radius² top_eigenvalue, and R0 <= R1 everywhere.

    R0 and R1 are the largest values that were found: lower bounds of the maxima. They come from projected ascents that
    start at the checkpoint, along both sides of the top eigenvector, at `starts` random points and at the best point
    of the next smaller radius; those of R1 at that of R0 as well. Each ascent takes at most `steps` steps.

    layers: names or patterns of the parameters that move; None is all that the model trains.

    Under batchnorm "recalibrated" the statistics are re-estimated at the checkpoint and stay as they are at every
    displacement, as in `Curvature` and in the second pass of SAM.

    Close the generator to cancel. Raises LandscapeError for bad arguments before the search begins, and for what
    `Curvature` refuses.
    """
    for name, values in (("radii", radii), ("sigmas", sigmas)):
        if not len(values) or not all(np.isfinite(v) and v > 0 for v in values):
            raise LandscapeError(f"{name} is {list(values)}; expected positive numbers, such as (0.05, 0.1).")
    if not len(geometries) or set(geometries) - set(GEOMETRIES):
        raise LandscapeError(f"geometries is {list(geometries)}; accepted are some of {list(GEOMETRIES)}.")
    if min(starts, 0) < 0 or steps < 1 or draws < 2:
        raise LandscapeError(f"starts is {starts}, steps {steps}, draws {draws}; expected at least 0, 1 and 2.")
    return _Search(problem, problem.checkpoint(checkpoint), sorted(radii), sorted(sigmas), geometries, layers).run(
        starts, steps, draws, seed
    )


class _Search:
    """A replica that moves about a checkpoint, and what it has found so far."""

    def __init__(
        self,
        problem: Problem,
        checkpoint: Checkpoint,
        radii: Sequence[float],
        sigmas: Sequence[float],
        geometries: Sequence[str],
        layers: Collection[str] | None,
    ):
        self.problem, self.checkpoint = problem, checkpoint
        self.operator = Curvature(problem, checkpoint, layers=layers)
        self.geometries, self.radii, self.sigmas = list(geometries), np.array(radii), np.array(sigmas)
        self.replica = _standing(problem, checkpoint)
        self.blocks = problem.data.batches()
        self.origin = self.replica.flat.double().clone()
        ones = torch.ones(self.operator.shape[1], dtype=torch.float64)
        self.moving = self._packed(self.operator.to_weights(ones)) > 0
        self.evaluations = 0
        shape = len(self.geometries), len(self.radii)
        self.zeroth, self.first = np.full(shape, np.nan), np.full(shape, np.nan)
        self.risen: np.ndarray = np.empty(0)
        self.top, self.top_residual = np.full((2, len(self.geometries)), np.nan)

    def run(self, starts: int, steps: int, draws: int, seed: int) -> Iterator[xr.Dataset]:
        self.began = self.shown = time.perf_counter()
        self.status, self.done = "running", 0
        self.risen = np.full((len(self.geometries), len(self.sigmas), draws), np.nan)
        facts = {"radii": self.radii.tolist(), "sigmas": self.sigmas.tolist(), "starts": starts, "steps": steps}
        self.said = json.dumps(
            {
                **self.operator.provenance(),
                **facts,
                "draws": draws,
                "seed": seed,
                "versions": versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
        self.loss = yield from self._showing(self._loss(torch.zeros_like(self.origin)))
        for place, geometry in enumerate(self.geometries):
            generator = torch.Generator().manual_seed(seed)
            self.scale = self._scale(geometry)
            top = yield from self._showing(self._top(place, generator))
            random = [self._random(generator) for _ in range(starts)]
            directions = [_unit(v) for v in (top, -top, *random)]
            best: dict[Callable, list[Tensor]] = {self._rise: [], self._steepness: []}
            for i, radius in enumerate(self.radii.tolist()):
                for objective, into in ((self._rise, self.zeroth), (self._steepness, self.first)):
                    begin = [torch.zeros_like(top), *(radius * v for v in directions)]
                    begin += [point for last in best[objective][-1:] for point in (last, radius * _unit(last))]
                    if objective == self._steepness:
                        begin += [share * best[self._rise][-1] for share in (0.5, 1.0)]
                    found: list[tuple[float, Tensor]] = []
                    for start in begin:
                        found.append((yield from self._showing(self._ascent(objective, start, radius, steps))))
                        height, point = max(found, key=lambda f: -np.inf if np.isnan(f[0]) else f[0])
                        into[place, i] = height if objective == self._rise else radius * height
                    best[objective].append(point)
                    self.done += 1
                    yield self.dataset()
            for draw in range(draws):
                normal = self._random(generator)
                for i, sigma in enumerate(self.sigmas.tolist()):
                    sides = []
                    for u in (sigma * normal, -sigma * normal):
                        sides.append((yield from self._showing(self._loss(u))))
                    self.risen[place, i, draw] = sum(sides) / 2 - self.loss
            self.done += 1
            yield self.dataset()
        self.status = "done"
        yield self.dataset()

    def dataset(self) -> xr.Dataset:
        units = {"units": self.problem.measures[0].units}
        of = np.array([GEOMETRIES[g] for g in self.geometries], dtype=object)
        known = np.isfinite(self.risen).sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.nansum(self.risen, -1) / np.where(known > 0, known, np.nan)
            spread = np.nansum((self.risen - mean[..., None]) ** 2, -1) / np.where(known > 1, known - 1, np.nan)
            error = np.sqrt(spread / known)
        whole = np.where(np.isfinite(self.risen).all(-1), 1, np.nan) if self.status == "done" else 1
        planned = len(self.geometries) * (2 * len(self.radii) + 1)
        at, over = ("geometry", "radius"), ("geometry", "sigma")
        found = {"note": "the largest value found, a lower bound of the maximum"}
        return xr.Dataset(
            {
                "zeroth_order": (
                    at,
                    self.zeroth.copy(),
                    {"long_name": "worst-case rise of the loss", **units, **found},
                ),
                "first_order": (at, self.first.copy(), {"long_name": "radius × worst gradient", **units, **found}),
                "average": (over, mean * whole, {"long_name": "average rise of the loss", **units}),
                "average_se": (over, error * whole, {"long_name": "standard error over draws", **units}),
                "top_eigenvalue": ("geometry", self.top.copy(), {"long_name": "largest eigenvalue of D H D"}),
                "top_residual": ("geometry", self.top_residual.copy(), {"long_name": "norm of its residual"}),
            },
            coords={
                "geometry": self.geometries,
                "radius": ("radius", self.radii, {"long_name": "radius"}),
                "sigma": ("sigma", self.sigmas, {"long_name": "standard deviation of each entry"}),
                "radius_units": ("geometry", of),
            },
            attrs={
                "title": f"sharpness at {self.checkpoint.name}",
                "status": self.status,
                "progress": 1.0 if self.status == "done" else min(0.999, self.done / planned),
                "evaluations": self.evaluations,
                "elapsed_s": time.perf_counter() - self.began,
                "loss": float(self.operator.loss),
                "gradient_norm": self.operator.gradient_norm,
                "provenance": self.said,
            },
        )

    def _showing(self, work: Generator[None, None, Any]) -> Generator[xr.Dataset, None, Any]:
        """The present Dataset, from time to time, between the evaluations of some work."""
        while True:
            try:
                next(work)
            except StopIteration as stop:
                return stop.value
            self.evaluations += 1
            if time.perf_counter() - self.shown > YIELD_SECONDS:
                self.shown = time.perf_counter()
                yield self.dataset()

    # --- the loss as a function of u ----------------------------------------------------------------------------

    def _move(self, u: Tensor) -> None:
        self.replica.flat.copy_(self.origin + self.scale * u if u.any() else self.origin)

    def _loss(self, u: Tensor) -> Generator[None, None, float]:
        self._move(u)
        totals = self.replica.totals({"": self.blocks})[0]
        yield
        return float(mean_and_error(totals)[0])

    def _slope(self, u: Tensor) -> Generator[None, None, Tensor]:
        """D g at a place."""
        self._move(u)
        gradient = self._packed(self.replica.gradient(self.blocks))
        yield
        return self.scale * gradient

    def _rise(self, u: Tensor, radius: float) -> Ascent:
        """How much higher the loss is at u, and the way up from there."""
        height = (yield from self._loss(u)) - self.loss
        slope = yield from self._slope(u)
        return height, slope

    def _steepness(self, u: Tensor, radius: float) -> Ascent:
        """The norm of the gradient at u, and a way to a steeper place: a difference of gradients (Zhang et al.)."""
        slope = yield from self._slope(u)
        further = yield from self._slope(u + NUDGE * radius * _unit(slope))
        return float(slope.norm()), further - slope

    def _ascent(self, objective: Callable[[Tensor, float], Ascent], u: Tensor, radius: float, steps: int) -> Ascent:
        """A value that no step lowers, and where it is. Near full steps make it a power iteration on a quadratic."""
        height, way = yield from objective(u, radius)
        step = FURTHEST / 4
        for _ in range(steps):
            moved = u + step * radius * _unit(way)
            moved *= min(1.0, radius / max(float(moved.norm()), 1e-300))
            there, onwards = yield from objective(moved, radius)
            if there > height:
                settled = there - height <= SETTLED * abs(there)
                height, u, way, step = there, moved, onwards, min(2 * step, FURTHEST)
                if settled:
                    break
            else:
                step /= 4
                if step < NEAREST:
                    break
        return height, u

    # --- directions ---------------------------------------------------------------------------------------------

    def _packed(self, weights: Weights) -> Tensor:
        return self.replica.pack(weights).double()

    def _random(self, generator: torch.Generator) -> Tensor:
        normal = torch.randn(int(self.moving.sum()), generator=generator, dtype=torch.float64)
        vector = torch.zeros_like(self.origin)
        vector[self.moving] = normal.to(vector.device)
        return vector

    def _scale(self, geometry: str) -> Tensor:
        """The diagonal of D, zero where nothing moves."""
        entries = self.checkpoint.weights.structure.entries
        sizes = {
            "euclidean": lambda name, w: torch.ones_like(w),
            "filter": lambda name, w: _filter_norms(entries[name], w),
            "adaptive": lambda name, w: w.abs(),
        }[geometry]
        scale = self._packed(self.checkpoint.weights.map(sizes)) * self.moving
        if not scale.any():
            raise LandscapeError(f"All weights that would move are zero: the geometry '{geometry}' moves nothing.")
        return scale

    def _top(self, place: int, generator: torch.Generator) -> Generator[None, None, Tensor]:
        """The top eigenvector of D H D, and its eigenvalue into the results."""
        operator = self.operator
        scale = operator.from_weights(self._weights(self.scale)).double()
        start = operator.from_weights(self._weights(self._random(generator))).double()
        krylov = Krylov(start, TOP_PRODUCTS, 1e4 * self.problem.eps)
        while not (krylov.full or krylov.exhausted):
            product = yield from operator.steps(scale * krylov.vector)
            krylov.add(scale * product.double())
            values, residuals, coordinates = krylov.ritz()
            self.top[place], self.top_residual[place] = values[-1], residuals[-1]
            if residuals[-1] <= TOP_RESIDUAL * abs(values[-1]):
                break
        return self._packed(operator.to_weights(krylov.vectors(coordinates[:, -1:])[0]))

    def _weights(self, flat: Tensor) -> Weights:
        return Weights(self.replica.views(flat), self.checkpoint.weights.structure)


def _standing(problem: Problem, checkpoint: Checkpoint) -> Replica:
    """A replica at a checkpoint whose normalisation is the same function of the weights wherever it moves."""
    replica = Replica(problem)
    replica.load(checkpoint)
    if problem.batchnorm != "recalibrated":
        return replica
    replica.settle()
    statistics = Checkpoint.of(replica.model).buffers
    fixed = Replica(problem.with_batchnorm("frozen"))
    fixed.load(replace(checkpoint, buffers=statistics))
    return fixed


def _filter_norms(entry: Entry, tensor: Tensor) -> Tensor:
    if entry.kind != "weight":
        return tensor.abs()
    filters = entry.to_filters(tensor)
    return entry.from_filters(filters.norm(dim=1, keepdim=True).expand_as(filters)).reshape(tensor.shape)


def _unit(vector: Tensor) -> Tensor:
    size = vector.norm()
    return vector / size if size > 0 else vector
