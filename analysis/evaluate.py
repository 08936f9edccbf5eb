"""Many points of a subspace at once: the one hot path."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from .data import tensors_of
from .errors import LandscapeError
from .problem import Problem
from .replica import Replica, as_rows
from .results import provenance_json
from .subspace import Subspace

YIELD_SECONDS = 0.2
BLOCK_BYTES = 32 * 2**20
PROBE_SAMPLES = 4096
LONG_PROBE_SECONDS = 0.3

Rows = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Strategy:
    """How points are evaluated. Given the same strategy, two CPU runs are bit-identical.

    block: samples a forward pass; None keeps the batches as given.
    threads: torch's intra-op threads.
    """

    block: int | None
    threads: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Strategy:
        """From the record in a result's provenance."""
        return cls(**record)

    def record(self) -> dict[str, Any]:
        return asdict(self)


class Evaluator:
    """The problem's metrics at points of a subspace, by one worker with its own network.

    strategy: None picks the fastest by a short measurement. Raises LandscapeError if the checkpoints do not
    belong to the problem's model, or if a recorded strategy needs another number of threads.
    """

    def __init__(self, problem: Problem, subspace: Subspace, strategy: Strategy | None = None):
        _belongs(problem, subspace)
        self.problem, self.subspace = problem, subspace
        self._replica = Replica(problem)
        self._replica.load(subspace.origin)
        self._origin = self._replica.flat.clone()
        self._axes = [self._replica.pack(axis.weights) for axis in subspace.axes]
        self.strategy = strategy or self._fastest()
        if self.strategy.threads != torch.get_num_threads() and problem.device.type == "cpu":
            raise LandscapeError(
                f"The strategy was recorded with {self.strategy.threads} threads and torch runs "
                f"{torch.get_num_threads()}; call torch.set_num_threads({self.strategy.threads}) to get the same bits."
            )
        self._blocks = problem.blocks(self.strategy.block)
        self.seconds = 0.0
        self.evaluations = 0

    def __call__(self, coordinates: np.ndarray) -> Rows:
        """Metrics at points [points, axes]: name to (means, standard errors), [points] or [points, classes]."""
        start = time.perf_counter()
        totals = []
        for row in coordinates:
            self._move(row)
            try:
                totals.append(self._replica.totals(self._blocks))
            except Exception as error:
                place = ", ".join(f"{n} = {c:.6g}" for n, c in zip(self.subspace.names, row, strict=True))
                error.add_note(f"This happened at the point {place} of the {self.subspace.title}.")
                raise
        rows = as_rows(self._replica.report(totals))
        self.seconds += time.perf_counter() - start
        self.evaluations += len(coordinates)
        return rows

    def chunks(self, coordinates: np.ndarray) -> Iterator[tuple[slice, Rows]]:
        """The same in pieces of about 0.2 s, each with its place in `coordinates`."""
        start = 0
        while start < len(coordinates):
            each = self.seconds / self.evaluations if self.evaluations else YIELD_SECONDS
            size = int(np.clip(YIELD_SECONDS / max(each, 1e-6), 1, len(coordinates) - start))
            place = slice(start, start + size)
            yield place, self(coordinates[place])
            start += size

    def at_checkpoint(self, index: int) -> dict[str, tuple[Any, Any]]:
        """The metrics of a marker itself: its true weights and its own buffers."""
        self._replica.load(self.subspace.markers[index])
        totals = self._replica.totals(self._blocks)
        self._replica.load_buffers(self.subspace.origin)
        return self._replica.report([totals])[0]

    def _move(self, coordinates: np.ndarray) -> None:
        flat = self._replica.flat
        flat.copy_(self._origin)
        for coordinate, axis in zip(coordinates, self._axes, strict=True):
            flat.add_(axis, alpha=float(coordinate))

    def _fastest(self) -> Strategy:
        """Blocks from the problem's own batch size upwards, doubled as long as that is faster."""
        threads, problem = torch.get_num_threads(), self.problem
        if not problem.free_blocks:
            return Strategy(None, threads)
        n = problem.n
        bytes_each = sum(leaf.nbytes for leaf in tensors_of(problem.data.blocks(n)[0])) / n
        largest = min(n, PROBE_SAMPLES, max(1, int(BLOCK_BYTES / bytes_each)))
        best, seconds = None, np.inf
        size = min(max(problem.data.sizes), largest)
        while True:
            now = self._seconds_a_sample(size)
            if best is not None and now > 0.95 * seconds:
                return Strategy(best, threads)
            best, seconds = size, now
            if size == largest or seconds * size > LONG_PROBE_SECONDS:
                return Strategy(best, threads)
            size = min(2 * size, largest)

    def _seconds_a_sample(self, size: int) -> float:
        """Time of one block of a size, the better of two, for each of its samples."""
        block, best = {"": self.problem.data.blocks(size)[:1]}, np.inf
        for _ in range(2):
            start = time.perf_counter()
            self._replica.totals(block)[0].cpu()
            best = min(best, time.perf_counter() - start)
            if best > LONG_PROBE_SECONDS:
                break
        return best / size


def evaluate(
    problem: Problem, subspace: Subspace, coordinates: np.ndarray, *, strategy: Strategy | None = None
) -> Iterator[xr.Dataset]:
    """The problem's metrics at any points of a subspace, a generator of Datasets that fill up.

    coordinates: [points, axes] in units of the axes, or [points] of a line. Each Dataset has the dim ``sample``,
    coordinates named as the subspace's axes, each metric and its standard error ``<metric>_se``, and the mask
    ``computed``.
    """
    coordinates = np.asarray(coordinates, dtype=np.float64)
    if coordinates.ndim == 1 and len(subspace.axes) == 1:
        coordinates = coordinates[:, None]
    if coordinates.ndim != 2 or coordinates.shape[1] != len(subspace.axes) or not np.isfinite(coordinates).all():
        raise LandscapeError(
            f"coordinates have shape {list(coordinates.shape)}; expected finite numbers [points, {len(subspace.axes)}]."
        )
    _belongs(problem, subspace)
    return _evaluated(problem, subspace, coordinates, strategy)


def _evaluated(
    problem: Problem, subspace: Subspace, coordinates: np.ndarray, strategy: Strategy | None
) -> Iterator[xr.Dataset]:
    evaluator = Evaluator(problem, subspace, strategy)
    provenance = provenance_json(problem, subspace, evaluator.strategy.record())
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
                "provenance": provenance,
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
