"""Points of a subspace: the one hot path."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .errors import LandscapeError
from .problem import Problem
from .replica import Replica, as_rows
from .results import provenance_json
from .reuse import Blocks, FirstLayers, first_layers
from .strategy import Strategy, fastest, out_of_memory
from .subspace import Subspace, refuse_other
from .together import Together
from .trial import agree

YIELD_SECONDS = 0.2

Rows = dict[str, tuple[np.ndarray, np.ndarray]]


class Evaluator:
    """The problem's metrics at points of a subspace, by one worker with its own network.

    strategy: None picks the fastest by a short measurement. Where memory runs out, the evaluator goes on with a
    smaller one; `strategy` says which is in use.

    Raises LandscapeError if the checkpoints do not belong to the problem's model, or if a recorded strategy needs
    another number of threads or does not fit the problem.
    """

    def __init__(self, problem: Problem, subspace: Subspace, strategy: Strategy | None = None):
        _belongs(problem, subspace)
        self.problem, self.subspace = problem, subspace
        self._replica = Replica(problem)
        self._replica.load(subspace.origin)
        self._origin = self._replica.flat.clone()
        self._axes = [self._replica.pack(axis.weights) for axis in subspace.axes]
        self._layers = FirstLayers(self._replica, (), [], {})
        if strategy is None:
            strategy = fastest(self)
        elif strategy.threads != torch.get_num_threads() and problem.device.type == "cpu":
            raise LandscapeError(
                f"The strategy was recorded with {strategy.threads} threads and torch runs "
                f"{torch.get_num_threads()}; call torch.set_num_threads({strategy.threads}) to get the same bits."
            )
        self.use(strategy)
        self._said: dict[Strategy, str] = {}
        self.seconds = 0.0
        self.evaluations = 0

    def __call__(self, coordinates: np.ndarray) -> Rows:
        """Metrics at points [points, axes]: name to (means, standard errors), [points] or [points, classes]."""
        start = time.perf_counter()
        rows = as_rows(self._replica.report(self._fitting(lambda: self._now(coordinates))))
        self.seconds += time.perf_counter() - start
        self.evaluations += len(coordinates)
        return rows

    def chunks(self, coordinates: np.ndarray) -> Iterator[tuple[slice, Rows]]:
        """The same in pieces of about 0.2 s, each with its place in `coordinates`."""
        start = 0
        while start < len(coordinates):
            each = self.seconds / self.evaluations if self.evaluations else YIELD_SECONDS
            size = int(np.clip(YIELD_SECONDS / max(each, 1e-6), self.strategy.points, len(coordinates) - start))
            place = slice(start, start + size)
            yield place, self(coordinates[place])
            start += size

    def at_checkpoint(self, index: int) -> dict[str, tuple[Any, Any]]:
        """The metrics of a marker itself: its true weights and its own buffers."""

        def totals() -> list[Tensor]:  # a strategy that is tried anew leaves the origin behind
            self._replica.load(self.subspace.markers[index])
            self._layers.coordinates = None
            return self._replica.totals(self._blocks)

        found = self._fitting(totals)
        self._replica.load_buffers(self.subspace.origin)
        return self._replica.report([found])[0]

    def use(self, strategy: Strategy, blocks: Blocks | None = None) -> None:
        """Go on with a strategy, on some blocks of the data only if they are given."""
        self.strategy = strategy
        self._blocks = self.problem.blocks(strategy.block) if blocks is None else blocks
        self._layers.close()
        self._layers = FirstLayers(self._replica, strategy.reused, [self._origin, *self._axes], self._blocks)
        self._together = Together(self._replica, self._layers, self._origin, self._axes)

    def probe(self, points: int) -> list[list[Tensor]]:
        """Totals of some points about the origin, computed when this returns."""
        rows = np.linspace(-0.5, 0.5, points * len(self._axes)).reshape(points, -1)
        totals = self._now(rows)
        totals[-1][0].cpu()
        return totals

    def provenance(self, **facts: Any) -> str:
        """What determines the values, as JSON: problem, subspace, the strategy in use, and the facts given."""
        if self.strategy not in self._said:
            self._said[self.strategy] = provenance_json(self.problem, self.subspace, self.strategy.record(), **facts)
        return self._said[self.strategy]

    @property
    def can_batch(self) -> bool:
        """Whether points may be evaluated together, as far as is known without trying."""
        conduct = self.problem.conduct
        return not (conduct.needs_grad or conduct.changes_batches) and self.problem.seed is None

    def trusted(self, strategy: Strategy, blocks: Blocks | None = None) -> bool:
        """Whether a strategy, in use from then on, gives the values of the plainest one, but for rounding."""
        self.use(replace(strategy, points=1, reused=()), blocks)
        plain = self.probe(2)
        self.use(strategy, blocks)
        return all(agree(a, b, self.problem) for a, b in zip(self.probe(2), plain, strict=True))

    def first_layers(self, blocks: Blocks) -> tuple[str, ...]:
        """Names of the layers that can be summed from products, as far as some blocks show."""
        conduct, dtype = self.problem.conduct, self.problem.dtype
        if conduct.needs_grad or conduct.changes_batches or dtype not in (torch.float32, torch.float64):
            return ()
        if any(measure.takes_model for measure in self.problem.measures):
            return ()
        self._layers.close()
        elsewhere = self._origin + sum(axis * (0.37 - i) for i, axis in enumerate(self._axes))
        return first_layers(self._replica, blocks, [self._origin, elsewhere], 1 + len(self._axes))

    def _fitting(self, compute: Callable[[], list[Any]]) -> list[Any]:
        """What is computed, with a smaller strategy where memory runs out."""
        while True:
            try:
                return compute()
            except Exception as error:
                smaller = self.strategy.smaller() if out_of_memory(error) else self._one_by_one()
                if smaller is None:
                    raise
            if self.problem.device.type == "cuda":
                torch.cuda.empty_cache()
            self.use(smaller)

    def _one_by_one(self) -> Strategy | None:
        return replace(self.strategy, points=1) if self.strategy.points > 1 else None

    def _now(self, coordinates: np.ndarray) -> list[list[Tensor]]:
        points = self.strategy.points
        if points == 1:
            return [self._at(row) for row in coordinates]
        groups = (coordinates[start : start + points] for start in range(0, len(coordinates), points))
        return [totals for group in groups for totals in self._together(group, self._blocks)]

    def _at(self, row: np.ndarray) -> list[Tensor]:
        coordinates = self._layers.coordinates = row.tolist()
        flat = self._replica.flat
        flat.copy_(self._origin)
        for coordinate, axis in zip(coordinates, self._axes, strict=True):
            flat.add_(axis, alpha=coordinate)
        try:
            return self._replica.totals(self._blocks)
        except Exception as error:
            place = ", ".join(f"{n} = {c:.6g}" for n, c in zip(self.subspace.names, coordinates, strict=True))
            error.add_note(f"This happened at the point {place} of the {self.subspace.title}.")
            raise


def evaluate(
    problem: Problem, subspace: Subspace, coordinates: np.ndarray, *, strategy: Strategy | None = None
) -> Iterator[xr.Dataset]:
    """The problem's metrics at any points of a subspace, a generator of Datasets that fill up.

    coordinates: [points, axes] in units of the axes, or [points] of a line. Each Dataset has the dim ``sample``,
    coordinates named as the subspace's axes, each metric and its standard error ``<metric>_se``, and the mask
    ``computed``.
    """
    refuse_other(subspace)
    coordinates = np.asarray(coordinates, dtype=np.float64)
    if coordinates.ndim == 1 and len(subspace.axes) == 1:
        coordinates = coordinates[:, None]
    if (
        coordinates.ndim != 2
        or coordinates.shape[1] != len(subspace.axes)
        or not np.isfinite(coordinates).all()
        or not len(coordinates)
    ):
        raise LandscapeError(
            f"coordinates have shape {list(coordinates.shape)}; expected finite numbers [points, {len(subspace.axes)}]."
        )
    _belongs(problem, subspace)
    return _evaluated(problem, subspace, coordinates, strategy)


def _evaluated(
    problem: Problem, subspace: Subspace, coordinates: np.ndarray, strategy: Strategy | None
) -> Iterator[xr.Dataset]:
    evaluator = Evaluator(problem, subspace, strategy)
    points = len(coordinates)
    found: Rows = {}
    done = np.zeros(points, dtype=bool)
    for place, rows in evaluator.chunks(coordinates):
        done[place] = True
        store(found, points, place, rows)
        yield xr.Dataset(
            {**_variables(problem, found), "computed": ("sample", done.copy())},
            coords={name: ("sample", coordinates[:, i]) for i, name in enumerate(subspace.names)},
            attrs={
                "progress": float(done.mean()),
                "status": "done" if done.all() else "running",
                "provenance": evaluator.provenance(),
            },
        )


def store(found: Rows, points: int, place: slice | np.ndarray, rows: Rows) -> None:
    """Write rows of a chunk into arrays [points, ...] that start as NaN."""
    for name, (means, errors) in rows.items():
        if name not in found:
            shape = (points, *means.shape[1:])
            found[name] = np.full(shape, np.nan), np.full(shape, np.nan)
        found[name][0][place] = means
        found[name][1][place] = errors


def _variables(problem: Problem, found: Rows) -> dict[str, Any]:
    variables = {}
    for measure in problem.measures:
        dims = ("sample", "class")[: 2 if measure.classes else 1]
        means, errors = found[measure.name]
        attrs = {"long_name": measure.long_name, "units": measure.units}
        variables[measure.name] = dims, means.copy(), attrs
        variables[f"{measure.name}_se"] = (
            dims,
            errors.copy(),
            {**attrs, "long_name": f"standard error of {measure.name}"},
        )
    return variables


def _belongs(problem: Problem, subspace: Subspace) -> None:
    for marker in subspace.markers:
        theirs = {name: entry.shape for name, entry in marker.weights.structure.entries.items()}
        ours = {name: entry.shape for name, entry in problem.structure.entries.items()}
        if theirs != ours:
            differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)][:3]
            raise LandscapeError(
                f"Checkpoint '{marker.name}' does not belong to the model of '{problem.name}': {differing} differ. "
                "Load it with problem.checkpoint(...)."
            )
