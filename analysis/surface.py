"""Loss surfaces: a line or plane sampled coarse to fine, until the picture stops changing."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import xarray as xr
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial import KDTree
from scipy.stats import qmc

from .drawing import Drawing
from .errors import LandscapeError
from .evaluate import YIELD_SECONDS, Evaluator, Rows, Strategy, store
from .grids import SampleGrid, peaks, spread
from .interpolation import CUBIC, CUBIC_LOG, candidates, disagreement, kind, rounding
from .problem import Problem
from .replica import Replica
from .results import provenance
from .subspace import Extent, Subspace, refuse_other

COARSEST_CELLS = {1: 8, 2: 16}
CHECKS = {1: 9, 2: 30}  # points off the grid at which the first level that may count as converged is checked
SAFETY = 2.5  # so many times the largest error found by checks is stated; see `python -m benchmarks pictures`
UNFORETOLD = 1.5  # times an error that no difference of splines foretold, errors may be anywhere
SURE_LEVEL = 2  # nothing counts as converged before it: 33 nodes of a line, 17 x 17 of a plane


def surface(
    problem: Problem,
    subspace: Subspace,
    *,
    extent: Extent | tuple[float, float] | None = None,
    resolution: int | Sequence[int] = 101,
    tolerance: float = 0.01,
    dense: bool = False,
    strategy: Strategy | None = None,
    resume: xr.Dataset | None = None,
) -> Iterator[xr.Dataset]:
    """The problem's metrics over a line or plane, as a generator of better and better Datasets.

    Samples lie on nested grids, each with half the spacing of the one before. Values between them are splines
    of the values or of their logarithm, whichever predicts the next level better. Refinement stops when the
    estimated error of the picture of the loss is within `tolerance`; where it does not get there, each point of
    the picture is evaluated, and the stated error is that of the rest.

    The estimated error is `SAFETY` times the largest that checks off the grid find. A third of them lie where a
    quintic spline of the same samples differs most from the cubic one, no two side by side: an error shows where the
    order of the method matters (embedded methods: Hairer, Nørsett and Wanner, Solving Ordinary Differential Equations
    I, section II.4); a third where the samples surprised the grid before, as kinks do; the others are Halton points,
    for what the nested grids miss together. Unchecked places are taken to err in proportion to the difference of the
    splines; where larger errors than it foretells are found, anywhere. No error counts as less than a rounding.
    One more check is at the lowest place of the picture, where an error is largest on the log scale. Before the checks
    the largest disagreement of the newest level with the one before is stated. What is narrower than about half the
    spacing of the samples can slip through whatever its height, a small region of NaN too: no sample has seen it.

    extent: (low, high) of each axis, in units of the axes. Default: `subspace.default_extent()`.
    resolution: points of the picture along each axis, one number or one an axis.
    tolerance: largest error of the loss as a fraction of its range, on the linear and the log scale.
    dense: evaluate each point of the picture and interpolate nothing, as is done for pictures of few points.
    strategy: a recorded one, for the same bits again; None measures.
    resume: an earlier result of the same problem and subspace, whose samples are used where they are wanted.

    Yields xarray Datasets (see `analysis.results`), each valid by itself: progress, evaluations, interpolation
    error and status ("running", "converged", "unconverged", "dense") are attributes. Close the generator to
    cancel. Raises LandscapeError for bad arguments, before anything is evaluated, and where no loss is finite.
    """
    refuse_other(subspace)
    shape = _valid_resolution(subspace, resolution)
    extent = _valid_extent(subspace, extent, max(shape))
    if not 0 < tolerance < 1:
        raise LandscapeError(f"tolerance is {tolerance}; expected a fraction of the range between 0 and 1.")
    return _Surface(problem, subspace, extent, shape, tolerance, resume).run(dense, strategy)


def _valid_extent(subspace: Subspace, extent: Extent | tuple[float, float] | None, points: int) -> Extent:
    dims = len(subspace.axes)
    if extent is None:
        return subspace.default_extent(points)
    array = np.asarray(extent, dtype=np.float64)
    if array.shape == (2,):
        array = np.tile(array, (dims, 1))
    if array.shape != (dims, 2) or not np.isfinite(array).all() or (array[:, 0] >= array[:, 1]).any():
        raise LandscapeError(
            f"extent is {extent}; expected (low, high) for each of the axes {subspace.names}, low < high."
        )
    return tuple((float(low), float(high)) for low, high in array)


def _valid_resolution(subspace: Subspace, resolution: int | Sequence[int]) -> tuple[int, ...]:
    dims = len(subspace.axes)
    shape = (resolution,) * dims if isinstance(resolution, (int, np.integer)) else tuple(resolution)
    if len(shape) != dims or any(not isinstance(n, (int, np.integer)) or n < 2 for n in shape):
        raise LandscapeError(f"resolution is {resolution}; expected a number of points of at least 2, or one an axis.")
    return tuple(int(n) for n in shape)


class _Surface:
    """One run: what has been sampled, and how wrong its picture may be.

    suspect: estimated error of the picture of the loss about each node of the next level that is not evaluated.
    surprise: how far the level before was off at each node of the level. unforetold: the largest error that a check
    has found of the level where the doubt foretold less.
    """

    def __init__(
        self,
        problem: Problem,
        subspace: Subspace,
        extent: Extent,
        shape: tuple[int, ...],
        tolerance: float,
        resume: xr.Dataset | None,
    ):
        self.problem, self.subspace = problem, subspace
        self.recalled = _recalled(problem, subspace, extent, resume) if resume is not None else None
        self.extent, self.tolerance = extent, tolerance
        self.drawing = Drawing(problem, subspace, extent, shape)
        self.picture, self.errors = self.drawing.picture, self.drawing.errors
        self.misses: dict[str, float] = {}  # the largest that checks have found of each metric
        self.eps = problem.eps
        self.unforetold = 0.0

    def run(self, dense: bool, strategy: Strategy | None) -> Iterator[xr.Dataset]:
        self.evaluator = Evaluator(self.problem, self.subspace, strategy)
        self.started = time.perf_counter()
        yield from self._measure_markers()
        level = SampleGrid(self.extent, self._coarsest())
        if dense or self._sure_size() >= self.picture.size:
            yield from self._fill(self.picture, ~self.picture.known, None)
            self._refuse_nothing(self.picture)
            self.errors.update(dict.fromkeys(self.errors, 0.0))
            yield self._dataset(None, self.evaluator.evaluations, "dense")
            return
        if all(n % 2 for n in level.shape):  # every second node first: soon a picture
            first = SampleGrid(self.extent, [n // 2 + 1 for n in level.shape])
            yield from self._fill(first, ~first.known, None)
            first.filled = True
            level = self._halved(first)
            yield from self._fill(level, ~level.known, first)
        else:
            yield from self._fill(level, ~level.known, None)
            level.filled = True
        for _ in range(SURE_LEVEL):
            finer = self._halved(level)
            yield from self._fill(finer, ~finer.known, level)
            self._choose(level, finer)
            level = finer
        self._refuse_nothing(level)
        self.suspect, new = np.zeros(level.shape), level.known
        surprises = [self.errors["loss"]]  # by how much each level differed most from what the one before predicted
        while True:
            finer = self._halved(level)
            before, predicted = finer.known.copy(), {name: means.copy() for name, (means, _) in finer.rows.items()}
            yield from self._check(level, finer, new, predicted)
            if new.all():
                yield from self._scatter(level)
            yield from self._sound(level)
            self._recheck(level, finer)
            if new.all():
                yield from self._look_about(level, finer, predicted)
            self._state(level, self.suspect)
            if self.suspect.max() <= self.tolerance:
                self._state_locally(level, finer, self.suspect)
                yield self._dataset(level, self.evaluator.evaluations, "converged")
                return
            wanted = (maximum_filter(self.suspect, size=3) > self.tolerance) & ~finer.known
            given_up = maximum_filter(self.suspect, size=5) > self.tolerance
            region = given_up[finer.nearest(self.picture.nodes)]
            rough = len(surprises) > 2 and surprises[-1] > 0.7 * surprises[-2]  # refining has stopped to help
            fine = any(n > 2 * m for n, m in zip(finer.shape, self.picture.shape, strict=True))
            if wanted.sum() >= region.sum() or rough or fine:
                break
            while wanted.any():
                yield from self._fill(finer, wanted, level)
                # where a prediction failed, so did those beside it that are still believed
                failed = SAFETY * self._missed(level, finer, predicted)["loss"] > self.tolerance
                wanted = maximum_filter(failed, size=5) & ~finer.known
            self.surprise = self._missed(level, finer, predicted)["loss"]
            surprises.append(self.surprise.max())
            level, new = finer, finer.known & ~before
        here, there = self.drawing.shared(level)
        region[here] &= ~level.known[there]
        yield from self._fill(self.picture, region, level)
        self._state(level, self.suspect[~given_up])
        self._state_locally(level, finer, np.where(given_up, 0, self.suspect))
        yield self._dataset(level, self.evaluator.evaluations, "unconverged")

    def _coarsest(self) -> list[int]:
        """Nodes of the first level, [axes]: of so many cells at most, those with the shortest longest side."""
        lengths = [high - low for low, high in self.extent]
        choices = itertools.product(range(2, 17), repeat=len(lengths))
        within = [cells for cells in choices if np.prod(cells) <= COARSEST_CELLS[len(lengths)]]
        best = min(within, key=lambda cells: max(length / n for length, n in zip(lengths, cells, strict=True)))
        return [n + 1 for n in best]

    def _sure_size(self) -> int:
        """Nodes of the first level that may count as converged."""
        return int(np.prod([(n - 1) * 2**SURE_LEVEL + 1 for n in self._coarsest()]))

    def _refuse_nothing(self, grid: SampleGrid) -> None:
        if not np.isfinite(grid.rows["loss"][0]).any():
            raise LandscapeError(
                f"The loss is NaN or infinite at each of the {grid.size} points evaluated: there is nothing to draw. "
                "Look at problem.measure(checkpoint), the checkpoint and the data."
            )

    def _halved(self, level: SampleGrid) -> SampleGrid:
        return level.halved(self.extent, {m.name: self.drawing.method(m, level) for m in self.problem.measures})

    def _choose(self, coarse: SampleGrid, fine: SampleGrid) -> None:
        """Interpolate each metric by the method that predicted a complete level best.

        The logarithm must be twice as good: of two that are about as good on a coarse level the values are the
        better ones on the next (measured on 76 planes of the sample networks).
        """
        for measure in self.problem.measures:
            true = fine.rows[measure.name][0]
            failures = {}
            for method in candidates(true, measure.smooth):
                predicted = method(coarse.nodes, coarse.rows[measure.name][0], fine.nodes)
                failures[method] = disagreement(predicted, true, eps=self.eps)
            best = min(failures, key=lambda method: failures[method].max() * (2 if method.log else 1))
            self.errors[measure.name] = float(failures[best].max())
            if measure.name == "loss":
                self.surprise = failures[best]
            if best == CUBIC and true.min() > 0 >= best(fine.nodes, true, self.picture.nodes).min():
                best = CUBIC_LOG  # a positive loss stays positive
            self.drawing.methods[measure.name] = best

    def _check(
        self, level: SampleGrid, finer: SampleGrid, new: np.ndarray, predicted: dict[str, np.ndarray]
    ) -> Iterator[xr.Dataset]:
        """Estimate a level's errors about its new nodes [*level.shape] from checks where its picture is in doubt.

        predicted: what the level says of the nodes of the finer one, which takes the checks.
        """
        samples, method = level.rows["loss"][0], self.drawing.methods["loss"]
        rival = method.rival(level.nodes, samples, finer.nodes)
        doubt = self._difference(level, "loss", rival, predicted["loss"]).clip(max=1)
        kinds = kind(predicted["loss"])
        torn = (maximum_filter(kinds, size=3) != minimum_filter(kinds, size=3)) & ~finer.known
        surprise = spread(self.surprise).clip(max=1)
        elsewhere = finer.known | torn | (spread(new) == 0)
        surprise[elsewhere] = doubt[elsewhere] = 0
        count = min(CHECKS[len(self.extent)] // 3, -(-int(new.sum()) // 8))
        doubtful = peaks(doubt, count)
        surprise[maximum_filter(doubtful, size=3)] = 0
        surprising = peaks(surprise, count)
        yield from self._fill(finer, doubtful | surprising, level)
        missed = self._missed(level, finer, predicted)
        self._note(missed)
        misses = missed["loss"]
        finite = misses[doubtful & np.isfinite(misses)]
        self.suspect = spread(np.where(level.known, 0, self.suspect))
        if finite.size:
            self.suspect = np.maximum(self.suspect, SAFETY * doubt * (finite.max() / doubt.max()))
        beyond = surprising & np.isfinite(misses) & (SAFETY * misses > maximum_filter(self.suspect, size=3))
        self.unforetold = float(misses[beyond].max(initial=0))
        self.suspect[doubtful | surprising] = SAFETY * misses[doubtful | surprising]
        self.suspect[torn] = np.inf  # no spline joins NaN and numbers

    def _look_about(
        self, level: SampleGrid, finer: SampleGrid, predicted: dict[str, np.ndarray]
    ) -> Iterator[xr.Dataset]:
        """Take errors that nothing foretold to be anywhere, after a closer look if they might be above tolerance.

        After it, what is left surprised less than the last third of what was looked at: errors like theirs are left.
        """
        left = self.unforetold
        if UNFORETOLD * left > self.tolerance:
            surprise = spread(self.surprise).clip(max=1)
            surprise[finer.known] = 0
            placed = peaks(surprise, 2 * CHECKS[len(self.extent)])
            yield from self._fill(finer, placed, level)
            misses = self._missed(level, finer, predicted)["loss"]
            self.suspect[placed] = SAFETY * misses[placed]
            if placed.any():
                last = placed & np.isfinite(misses) & (surprise <= np.quantile(surprise[placed], 1 / 3))
                left = float(misses[last].max(initial=0))
        self.suspect[~finer.known] = np.maximum(self.suspect, UNFORETOLD * left)[~finer.known]

    def _scatter(self, level: SampleGrid) -> Iterator[xr.Dataset]:
        """Evaluate Halton points, to check the pictures of this level and of those after it."""
        dims, count = len(self.extent), CHECKS[len(self.extent)] // 3
        low, high = np.array(self.extent).T
        points = low + (high - low) * qmc.Halton(dims, seed=0).random(count)
        found: Rows = {}
        for place, rows in self._look(points):
            store(found, count, place, rows)
            yield self._dataset(level, self.planned, "running")
        self.scattered = points, found

    def _sound(self, level: SampleGrid) -> Iterator[xr.Dataset]:
        """Evaluate the deepest place of a level's picture too: the least loss errs most on the logarithmic scale."""
        samples, method = level.rows["loss"][0], self.drawing.methods["loss"]
        if method.log or not samples.min() > 0:
            return
        depth = method(level.nodes, samples, self.picture.nodes)
        here, there = self.drawing.shared(level)
        depth[here] = np.where(level.known[there], np.inf, depth[here])
        deepest = np.unravel_index(depth.argmin(), depth.shape)
        point = np.array([[nodes[i] for nodes, i in zip(self.picture.nodes, deepest, strict=True)]])
        points, known = self.scattered
        if (points == point).all(1).any():
            return
        for _, rows in self._look(point):
            found = {n: (np.append(m, rows[n][0], 0), np.append(e, rows[n][1], 0)) for n, (m, e) in known.items()}
            self.scattered = np.append(points, point, 0), found
            yield self._dataset(level, self.planned, "running")

    def _recheck(self, level: SampleGrid, finer: SampleGrid) -> None:
        """Raise the errors about the Halton points, and those like them, to what a level misses there."""
        points, found = self.scattered
        places, missed = (np.arange(len(points)),) * len(self.extent), {}
        for name, method in self.drawing.methods.items():
            every = method(level.nodes, level.rows[name][0], tuple(points.T))  # on the grid of all coordinates
            missed[name] = self._difference(level, name, every[places], found[name][0])
        self._note(missed)
        for point, miss in zip(points, missed["loss"], strict=True):
            near = np.ix_(*(np.abs(n - c) <= n[1] - n[0] for n, c in zip(finer.nodes, point, strict=True)))
            if np.isfinite(miss) and SAFETY * miss > self.suspect[near].max():
                self.unforetold = max(self.unforetold, miss)
            self.suspect[near] = np.maximum(self.suspect[near], SAFETY * miss)

    def _missed(self, level: SampleGrid, finer: SampleGrid, predicted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How far what a level predicted is off at the nodes of the finer one: 0 where none is evaluated."""
        return {name: self._difference(level, name, was, finer.rows[name][0]) for name, was in predicted.items()}

    def _difference(self, level: SampleGrid, name: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return disagreement(one, other, among=level.rows[name][0], eps=self.eps)

    def _note(self, missed: dict[str, np.ndarray]) -> None:
        """State the error of each metric after a round of checks."""
        for name, misses in missed.items():
            self.misses[name] = max(self.misses.get(name, 0), float(misses.max()))
            self.errors[name] = SAFETY * self.misses[name]

    def _state(self, level: SampleGrid, suspect: np.ndarray) -> None:
        """State the error of the picture of the loss."""
        self.errors["loss"] = max(float(suspect.max(initial=0)), rounding(level.rows["loss"][0], self.eps))

    def _state_locally(self, level: SampleGrid, finer: SampleGrid, suspect: np.ndarray) -> None:
        """State it about each point of the picture, as far around each node as a level is given up."""
        least = rounding(level.rows["loss"][0], self.eps)
        self.drawing.local = maximum_filter(suspect, size=5)[finer.nearest(self.picture.nodes)].clip(min=least)

    def _fill(self, grid: SampleGrid, wanted: np.ndarray, shown: SampleGrid | None) -> Iterator[xr.Dataset]:
        """Evaluate the wanted nodes of a grid."""
        numbers = np.flatnonzero(wanted)
        for place, rows in self._look(grid.coordinates(wanted)):
            grid.store(numbers[place], rows)
            yield self._dataset(shown if shown is not None else grid, self.planned, "running")

    def _look(self, points: np.ndarray) -> Iterator[tuple[np.ndarray, Rows]]:
        """Metrics at points [points, axes]: numbers of points and rows, first of those that an earlier run knows."""
        left = np.arange(len(points))
        if self.recalled is not None and len(points):
            tree, rows = self.recalled
            distance, index = tree.query(points / np.ptp(self.extent, axis=1))
            same = distance < 1e-9
            taken, left, index = left[same], left[~same], index[same]
            if len(taken):
                self.planned = self._planned(len(left))
                known = {name: (means[index], errors[index]) for name, (means, errors) in rows.items()}
                self.drawing.add(points[taken], known)
                yield taken, known
        self.planned = self._planned(len(left))
        for place, rows in self.evaluator.chunks(points[left]):
            self.drawing.add(points[left[place]], rows)
            yield left[place], rows

    def _planned(self, pending: int) -> int:
        """Evaluations in all, as far as they can be foreseen: to the first level that may count as converged."""
        foreseen = min(self._sure_size() + CHECKS[len(self.extent)], self.picture.size) - len(
            self.recalled[1]["loss"][0] if self.recalled else ()
        )
        return max(self.evaluator.evaluations + pending, foreseen)

    def _measure_markers(self) -> Iterator[xr.Dataset]:
        """The checkpoints' own values, under the problem's policy and with the statistics they were saved with."""
        stored = None
        if "frozen" in self.problem.batchnorm_choices and self.problem.batchnorm != "frozen":
            stored = Replica(self.problem.with_batchnorm("frozen"))
        yielded = time.perf_counter()
        for i, marker in enumerate(self.subspace.markers):
            values = self.evaluator.at_checkpoint(i)
            if stored is not None:
                stored.load(marker)
                values["loss_frozen"] = stored.measure()["loss"]
            self.drawing.add_marker(i, values)
            if time.perf_counter() - yielded > YIELD_SECONDS:
                yield self._dataset(None, self._planned(0), "running")
                yielded = time.perf_counter()

    def _dataset(self, shown: SampleGrid | None, planned: int, status: str) -> xr.Dataset:
        done = self.evaluator.evaluations
        each = self.evaluator.seconds / max(done, 1)
        return self.drawing.dataset(
            shown,
            status=status,
            progress=1.0 if status != "running" else min(done / max(planned, 1), 0.999),
            planned_evaluations=planned,
            elapsed_s=time.perf_counter() - self.started,
            eta_s=(planned - done) * each if status == "running" else 0.0,
            tolerance=self.tolerance,
            provenance=self.evaluator.provenance(
                extent=self.extent, resolution=self.picture.shape, tolerance=self.tolerance
            ),
        )


def _recalled(problem: Problem, subspace: Subspace, extent: Extent, earlier: xr.Dataset) -> tuple[KDTree, Rows]:
    """The samples of an earlier result, where they lie as shares of the extent, and their values.

    Raises LandscapeError, naming what differs, if it is of something else.
    """
    ours = json.loads(json.dumps({**problem.provenance(), **subspace.provenance()}))
    theirs = provenance(earlier)
    differing = [key for key in ours if key not in ("problem", "device") and ours[key] != theirs.get(key)]
    if differing:
        raise LandscapeError(
            f"The earlier result cannot be resumed: it differs in {', '.join(differing)}. Start anew, or restore "
            "what was changed."
        )
    names = [measure.name for measure in problem.measures]
    rows = {name: (earlier[f"sample_{name}"].values, earlier[f"sample_{name}_se"].values) for name in names}
    places = np.stack([earlier[f"sample_{name}"].values for name in subspace.names], -1)
    if not len(places):
        raise LandscapeError("The earlier result holds no evaluated points; start anew.")
    return KDTree(places / np.ptp(extent, axis=1)), rows
