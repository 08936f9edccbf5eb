"""Loss surfaces: a line or plane sampled coarse to fine, until the picture stops changing."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.ndimage import maximum_filter
from scipy.spatial import KDTree
from scipy.stats import qmc

from .errors import LandscapeError
from .evaluate import YIELD_SECONDS, Evaluator, Rows, Strategy, store
from .grids import SampleGrid, spread
from .interpolation import CUBIC, CUBIC_LOG, LINEAR, Method, candidates, disagreement
from .losses import Measure
from .problem import Problem
from .replica import Replica, as_rows
from .results import provenance, provenance_json
from .subspace import Extent, Subspace

COARSEST_CELLS = {1: 8, 2: 4}
CHECKS = {1: 8, 2: 32}  # points off the grid at which a converged picture is checked
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
    picture of the loss is within `tolerance` of the truth, estimated by what the newest level disagreed with;
    a picture that does not get there is evaluated at each of its points.

    extent: (low, high) of each axis, in units of the axes. Default: `subspace.default_extent()`.
    resolution: points of the picture along each axis, one number or one an axis.
    tolerance: largest error of the loss as a fraction of its range, on the linear and the log scale.
    dense: evaluate each point of the picture and interpolate nothing, as is done for pictures of few points.
    strategy: a recorded one, for the same bits again; None measures.
    resume: an earlier result of the same problem and subspace, whose samples are used where they are wanted.

    Yields xarray Datasets (see `analysis.results`), each valid by itself: progress, evaluations, interpolation
    error and status ("running", "converged", "unconverged", "dense") are attributes. Close the generator to
    cancel. Raises LandscapeError for bad arguments, before anything is evaluated.
    """
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
    """One run: what has been sampled, and how to show it.

    suspect: the estimated error of the picture of the loss about each node of the newest level.
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
        self.recalled = _recalled(problem, subspace, resume) if resume is not None else None
        self.extent, self.tolerance = extent, tolerance
        self.picture = SampleGrid(extent, shape)
        self.methods: dict[str, Method] = {}
        self.disagreements: dict[str, list[float]] = {m.name: [] for m in problem.measures}
        self.errors = {m.name: np.nan for m in problem.measures}
        self.chunks: list[tuple[np.ndarray, Rows]] = []
        self.eps = torch.finfo(problem.dtype).eps
        self.unchecked = True
        self.drawn: tuple[tuple, dict[str, Any]] | None = None

    def run(self, dense: bool, strategy: Strategy | None) -> Iterator[xr.Dataset]:
        self.evaluator = Evaluator(self.problem, self.subspace, strategy)
        self.started = time.perf_counter()
        self.provenance = provenance_json(
            self.problem,
            self.subspace,
            self.evaluator.strategy.record(),
            extent=self.extent,
            resolution=self.picture.shape,
            tolerance=self.tolerance,
        )
        yield from self._measure_markers()
        level = SampleGrid(self.extent, self._coarsest())
        self.suspect = np.full(level.shape, np.inf)
        if dense or self._sure_size() >= self.picture.size:
            yield from self._fill(self.picture, np.ones(self.picture.shape, dtype=bool), None)
            self.errors = dict.fromkeys(self.errors, 0.0)
            yield self._dataset(None, self.evaluator.evaluations, "dense")
            return
        yield from self._fill(level, np.ones(level.shape, dtype=bool), None)
        level.filled = True
        for number in itertools.count(1):
            finer = level.halved(self.extent, {m.name: self._method(m, level) for m in self.problem.measures})
            wanted = spread(self.suspect > self.tolerance) > 0 if number > SURE_LEVEL else np.ones(finer.shape, bool)
            wanted &= ~finer.known
            region = self._about_suspects(level)
            if number > SURE_LEVEL and (wanted.sum() >= region.sum() or self._hopeless(finer)):
                break
            before, surprises = finer.known.copy(), {}
            while wanted.any():
                yield from self._fill(finer, wanted, level)
                surprises = self._compare(level, finer, finer.known & ~before)
                # where a prediction failed, so did those beside it that are still believed
                wanted = (maximum_filter(surprises["loss"][1], size=5) > self.tolerance) & ~finer.known
            self._judge(surprises, finer.known & ~before)
            level = finer
            if number >= SURE_LEVEL and self.suspect.max() <= self.tolerance:
                yield from self._check(level)
                if self.suspect.max() <= self.tolerance:
                    yield self._dataset(level, self.evaluator.evaluations, "converged")
                    return
        here, there = self._common(level)
        again = np.zeros_like(region)
        again[here] = level.known[there]
        yield from self._fill(self.picture, region & ~again, level)
        yield self._dataset(level, self.evaluator.evaluations, "unconverged")

    def _coarsest(self) -> list[int]:
        """Nodes of the first level: about square cells, at least 3 nodes along each axis."""
        lengths = np.array([high - low for low, high in self.extent])
        cells = COARSEST_CELLS[len(lengths)] * lengths / np.exp(np.log(lengths).mean())
        return [int(np.clip(round(c), 2, 16)) + 1 for c in cells]

    def _sure_size(self) -> int:
        """Nodes of the first level that may count as converged."""
        return int(np.prod([(n - 1) * 2**SURE_LEVEL + 1 for n in self._coarsest()]))

    def _about_suspects(self, level: SampleGrid) -> np.ndarray:
        """The points of the picture that the newest level does not vouch for."""
        nearest = (
            np.abs(have[:, None] - want).argmin(0) for have, want in zip(level.nodes, self.picture.nodes, strict=True)
        )
        return (maximum_filter(self.suspect, size=3) > self.tolerance)[np.ix_(*nearest)]

    def _hopeless(self, finer: SampleGrid) -> bool:
        """Whether refining would go below the spacing of the picture, or has stopped to help."""
        history = self.disagreements["loss"][-2:]
        rough = len(self.disagreements["loss"]) > SURE_LEVEL + 1 and history[-1] > 0.7 * history[0]
        return rough or any(n > 2 * m for n, m in zip(finer.shape, self.picture.shape, strict=True))

    def _fill(self, grid: SampleGrid, wanted: np.ndarray, shown: SampleGrid | None) -> Iterator[xr.Dataset]:
        numbers, coordinates = self._recall(grid, np.flatnonzero(wanted), grid.coordinates(wanted))
        planned = self._planned(len(numbers))
        for place, rows in self.evaluator.chunks(coordinates):
            grid.store(numbers[place], rows)
            self.chunks.append((coordinates[place], rows))
            yield self._dataset(shown if shown is not None else grid, planned, "running")

    def _planned(self, pending: int) -> int:
        """Evaluations in all, as far as they can be foreseen: to the first level that may count as converged."""
        foreseen = min(self._sure_size() + CHECKS[len(self.extent)], self.picture.size) - len(
            self.recalled[1]["loss"][0] if self.recalled else ()
        )
        return max(self.evaluator.evaluations + pending, foreseen)

    def _check(self, level: SampleGrid) -> Iterator[xr.Dataset]:
        """Look between the nodes, once: the picture against the loss at scattered points.

        Nested grids share their symmetries with periodic losses, and agree with each other on what they miss.
        """
        if not self.unchecked:
            return
        self.unchecked = False
        dims = len(level.nodes)
        low, high = np.array(self.extent).T
        points = low + (high - low) * qmc.Halton(dims, seed=0).random(CHECKS[dims])
        planned = self._planned(len(points))
        for place, rows in self.evaluator.chunks(points):
            self.chunks.append((points[place], rows))
            yield self._dataset(level, planned, "running")
            true, samples = rows["loss"][0], level.rows["loss"][0]
            every = self.methods["loss"](level.nodes, samples, points[place].T)  # on the grid of all coordinates
            predicted = every[(np.arange(len(true)),) * dims]
            misses = disagreement(predicted, true, among=samples, eps=self.eps)
            for point, miss in zip(points[place], misses, strict=True):
                near = np.ix_(*(np.abs(n - c) <= 1.5 * (n[1] - n[0]) for n, c in zip(level.nodes, point, strict=True)))
                self.suspect[near] = np.maximum(self.suspect[near], miss)
        self.errors["loss"] = float(self.suspect.max())

    def _recall(self, grid: SampleGrid, numbers: np.ndarray, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take what an earlier run evaluated; the nodes that are left to evaluate."""
        if self.recalled is None or not len(numbers):
            return numbers, coordinates
        tree, rows = self.recalled
        distance, index = tree.query(coordinates)
        same = distance < 1e-9
        taken = {name: (means[index[same]], errors[index[same]]) for name, (means, errors) in rows.items()}
        if same.any():
            grid.store(numbers[same], taken)
            self.chunks.append((coordinates[same], taken))
        return numbers[~same], coordinates[~same]

    def _compare(self, coarse: SampleGrid, fine: SampleGrid, new: np.ndarray) -> dict[str, tuple[Method, np.ndarray]]:
        """The method that predicts the new samples of each metric best, and by how much it fails at each."""
        found = {}
        for measure in self.problem.measures:
            true = fine.rows[measure.name][0]
            failures = {}
            for method in candidates(true, measure.smooth):
                predicted = method(coarse.nodes, coarse.rows[measure.name][0], fine.nodes)
                failures[method] = np.where(_like(new, true), disagreement(predicted, true, eps=self.eps), 0.0)
            best = min(failures, key=lambda method: failures[method].max())
            found[measure.name] = best, failures[best]
        return found

    def _judge(self, surprises: dict[str, tuple[Method, np.ndarray]], new: np.ndarray) -> None:
        """Choose how to interpolate, and estimate the errors of the newest level.

        What a level disagrees with is the error of the level before. Each level so far has lowered it by some
        factor; the next is taken to lower it as the last one did, but by at most 8: halving the spacing of a
        cubic spline gains 16 on smooth functions, and less on piecewise smooth ones.
        """
        for name, (method, failures) in surprises.items():
            history, worst = self.disagreements[name], float(failures.max())
            gain = float(np.clip(worst / history[-1], 1 / 8, 1)) if history and 0 < history[-1] < np.inf else 1.0
            history.append(worst)
            self.methods[name] = method
            self.errors[name] = worst * gain
            if name == "loss":
                kept = np.where(maximum_filter(new, size=3), 0.0, spread(self.suspect))
                self.suspect = np.maximum(kept, maximum_filter(failures * gain, size=3))
                self.errors[name] = float(self.suspect.max())

    def _measure_markers(self) -> Iterator[xr.Dataset]:
        """The checkpoints' own values, under the problem's policy and with the statistics they were saved with."""
        markers = self.subspace.markers
        stored = None
        if "frozen" in self.problem.batchnorm_choices and self.problem.batchnorm != "frozen":
            stored = Replica(self.problem.with_batchnorm("frozen"))
        found: Rows = {}
        self.marker_variables = self._marker_places()
        yielded = time.perf_counter()
        for i, marker in enumerate(markers):
            values = self.evaluator.at_checkpoint(i)
            if stored is not None:
                stored.load(marker)
                values["loss_frozen"] = stored.measure()["loss"]
            store(found, len(markers), slice(i, i + 1), as_rows([values]))
            for name, pair in found.items():
                for suffix, array in zip(("", "_se"), pair, strict=True):
                    dims = ("marker", "class") if array.ndim > 1 else ("marker",)
                    self.marker_variables[f"marker_{name}{suffix}"] = dims, array.copy()
            if time.perf_counter() - yielded > YIELD_SECONDS:
                yield self._dataset(None, self._planned(0), "running")
                yielded = time.perf_counter()

    def _marker_places(self) -> dict[str, Any]:
        markers = self.subspace.markers
        spots = [self.subspace.project(marker) for marker in markers]
        variables: dict[str, Any] = {"marker_name": ("marker", np.array([m.name for m in markers], dtype=object))}
        for i, name in enumerate(self.subspace.names):
            variables[f"marker_{name}"] = "marker", np.array([spot[i] for spot, _ in spots])
        attrs = {"long_name": "distance from the subspace", "units": "weight space"}
        variables["marker_residual"] = "marker", np.array([residual for _, residual in spots]), attrs
        return variables

    def _dataset(self, shown: SampleGrid | None, planned: int, status: str) -> xr.Dataset:
        names = self.subspace.names
        samples = self._samples()
        done = self.evaluator.evaluations
        each = self.evaluator.seconds / max(done, 1)
        ds = xr.Dataset(
            {**self._picture(shown), **samples, **self.marker_variables},
            coords={
                name: (name, nodes, {"long_name": axis.label, "units": axis.units})
                for name, nodes, axis in zip(names, self.picture.nodes, self.subspace.axes, strict=True)
            },
            attrs={
                "title": self.subspace.title,
                "status": status,
                "progress": 1.0 if status != "running" else min(done / max(planned, 1), 0.999),
                "evaluations": len(samples["sample_loss"][1]),
                "planned_evaluations": planned,
                "elapsed_s": time.perf_counter() - self.started,
                "eta_s": (planned - done) * each if status == "running" else 0.0,
                "interpolation_error": self.errors["loss"],
                "tolerance": self.tolerance,
                "equal_aspect": int(self.subspace.equal_aspect),
                "provenance": self.provenance,
            },
        )
        return ds.transpose(*reversed(names), "sample", "marker", ..., missing_dims="ignore")

    def _picture(self, shown: SampleGrid | None) -> dict[str, Any]:
        """The picture's variables; drawn anew only if a sample that it shows is new."""
        counted = (shown.filled, shown.known.sum()) if shown is not None else ()
        state = (id(shown), *counted, self.picture.known.sum(), *self.errors.values())
        if self.drawn is None or self.drawn[0] != state:
            self.drawn = state, self._draw(shown)
        return self.drawn[1]

    def _draw(self, shown: SampleGrid | None) -> dict[str, Any]:
        names = self.subspace.names
        variables: dict[str, Any] = {}
        for measure in self.problem.measures:
            method = self._method(measure, shown)
            attrs = {"long_name": measure.long_name, "units": measure.units}
            facts: dict[str, Any] = {"interpolation": method.name, "interpolation_error": self.errors[measure.name]}
            dims = (*names, "class") if measure.classes else names
            for part, (name, more) in enumerate(
                [
                    (measure.name, facts),
                    (f"{measure.name}_se", {"long_name": f"standard error of {measure.long_name}"}),
                ]
            ):
                values, known = self._shown(shown, measure, method if part == 0 else LINEAR, part)
                variables[name] = dims, values, {**attrs, **more}
        variables["computed"] = names, known, {"long_name": "evaluated at exactly this point"}
        return variables

    def _method(self, measure: Measure, shown: SampleGrid | None) -> Method:
        """How to interpolate: what predicted the newest level best, or the first choice before there were two."""
        if measure.name in self.methods:
            return self.methods[measure.name]
        known = shown.rows[measure.name][0] if shown is not None and shown.rows else np.ones(1)
        return candidates(known, measure.smooth)[0]

    def _shown(
        self, shown: SampleGrid | None, measure: Measure, method: Method, part: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A metric's means (part 0) or errors (1) on the picture, and where they are evaluated, not interpolated."""
        picture, target = self.picture, self.picture.nodes
        values = np.full((*picture.shape, *([measure.classes] if measure.classes else [])), np.nan)
        known = picture.known.copy()
        if shown is not None and shown is not picture:
            samples = shown.rows[measure.name][part]
            if shown.filled:
                values = method(shown.nodes, samples, target)
                if method == CUBIC and samples.min() > 0 >= values.min():
                    values = CUBIC_LOG(shown.nodes, samples, target)  # a positive loss stays positive
            else:
                nearest = (
                    np.abs(have[:, None] - want).argmin(0) for have, want in zip(shown.nodes, target, strict=True)
                )
                values = samples[np.ix_(*nearest)]
            here, there = self._common(shown)
            values[here] = np.where(_like(shown.known[there], samples[there]), samples[there], values[here])
            known[here] |= shown.known[there]
        if picture.rows:
            own = picture.rows[measure.name][part]
            values = np.where(_like(picture.known, own), own, values)
        return values, known

    def _common(self, grid: SampleGrid) -> tuple[tuple, tuple]:
        """Index grids of the points that the picture shares with a grid of samples: in the picture, in the grid."""
        here, there = [], []
        for mine, theirs, (low, high) in zip(self.picture.nodes, grid.nodes, self.extent, strict=True):
            same = np.abs(mine[:, None] - theirs) < 1e-9 * (high - low)
            i, j = np.nonzero(same)
            here.append(i)
            there.append(j)
        return np.ix_(*here), np.ix_(*there)

    def _samples(self) -> dict[str, Any]:
        names = self.subspace.names
        coordinates = np.concatenate([np.empty((0, len(names))), *(c for c, _ in self.chunks)])
        variables: dict[str, Any] = {f"sample_{name}": ("sample", coordinates[:, i]) for i, name in enumerate(names)}
        for measure in self.problem.measures:
            dims = ("sample", "class") if measure.classes else ("sample",)
            none = np.empty((0, measure.classes) if measure.classes else 0)
            for part, suffix in enumerate(("", "_se")):
                values = np.concatenate([none, *(rows[measure.name][part] for _, rows in self.chunks)])
                variables[f"sample_{measure.name}{suffix}"] = dims, values
        return variables


def _recalled(problem: Problem, subspace: Subspace, earlier: xr.Dataset) -> tuple[KDTree, Rows]:
    """The samples of an earlier result. Raises LandscapeError, naming what differs, if it is of something else."""
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
    return KDTree(places), rows


def _like(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mask with trailing dims of length 1, to select among values [*mask.shape, ...]."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
