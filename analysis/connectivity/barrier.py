"""The straight path between two checkpoints, and how high it rises over the line that joins the losses at its ends."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..evaluate import Evaluator, Strategy, store
from ..measures import Measure
from ..problem import Problem
from ..subspace import Line
from .damage import refuse_damaged, refuse_loss
from .layers import refuse_frozen

CONVENTIONS = ("sup", "maxmean", "mid", "mc")
FINEST = 2.0**-12  # of the way: no refinement goes below this spacing
ENDS = 1e-3  # the path's ends agree with the checkpoints to this part of the loss


def barrier_height(t: np.ndarray, values: np.ndarray, ends: np.ndarray, convention: str = "sup") -> np.ndarray:
    """The barrier of a loss along a path, and where it stands: [2] or [2, ...], height and t.

    t: places [n] in [0, 1], ascending. values: losses [n, ...] there. ends: those of the two checkpoints [2, ...].
    convention: the literature has four.
        "sup": max over t of L(t) - ((1 - t) L(0) + t L(1)), at least 0 (Entezari et al. 2022, arXiv:2110.06296).
        "maxmean": max over t of L(t) less the mean of the ends (the code of Ainsworth et al. 2023, arXiv:2209.04836);
            above 0 for unequal ends even where the loss is convex.
        "mid": L(1/2) less the mean of the ends (the code of Adilova et al. 2024, arXiv:2307.06966); may be negative.
        "mc": the mean of the ends less L at the place where it differs most from it; negative for a barrier (Yang et
            al. 2021, arXiv:2107.11228).

    Where the loss is not finite between the ends the barrier is infinite. Raises LandscapeError for an unknown
    convention, values that do not fit, or "mid" without the middle.
    """
    t, values, ends = (np.asarray(a, dtype=np.float64) for a in (t, values, ends))
    if convention not in CONVENTIONS:
        raise LandscapeError(f"convention is {convention!r}; accepted are {list(CONVENTIONS)}.")
    if t.ndim != 1 or len(t) != len(values) or ends.shape != (2, *values.shape[1:]):
        raise LandscapeError(
            f"t, values and ends have shapes {list(t.shape)}, {list(values.shape)} and {list(ends.shape)}; expected "
            "[n], [n, ...] and [2, ...]."
        )
    values = np.where(np.isfinite(values), values, np.inf)
    along = t.reshape(-1, *(1,) * (values.ndim - 1))
    mean = ends.mean(0)
    if convention == "sup":
        over = values - ((1 - along) * ends[0] + along * ends[1])
    elif convention == "mid":
        if not (t == 0.5).any():
            raise LandscapeError("The convention 'mid' needs the value at t = 0.5, which is not among the places.")
        over = np.where(along == 0.5, values - mean, -np.inf)
    elif convention == "maxmean":
        over = values - mean
    else:
        over = np.abs(values - mean)
    place = over.argmax(0)
    height = np.take_along_axis(over, place[None], 0)[0]
    if convention == "sup":
        height = np.maximum(height, 0.0)
    elif convention == "mc":
        height = mean - np.take_along_axis(values, place[None], 0)[0]
    return np.stack([height, t[place]])


def barrier(
    problem: Problem,
    start: Checkpoint,
    end: Checkpoint,
    *,
    convention: str = "sup",
    points: int = 25,
    tolerance: float = 0.01,
    strategy: Strategy | None = None,
) -> Iterator[xr.Dataset]:
    """The problem's metrics along the straight line between two checkpoints, a generator of Datasets that fill up.

    The line is sampled at `points` places, then halved about the maximum of each loss over its chord until the places
    beside it are within `tolerance` of it. All of the problem's data sets are evaluated at the same places
    (``Problem(..., also={"train": data})``), with one network, under the problem's BatchNorm policy.

    convention: see `barrier_height`. points: an odd number of at least 3, so that the middle is among them.
    strategy: a recorded one, for the same bits again.

    Yields Datasets with the dim ``t``, the fraction of the way from the first to the second:
    each metric and ``<metric>_se`` [t]; for each loss and accuracy ``<metric>_barrier`` and ``<metric>_barrier_at``,
        its height (of an accuracy: how far it falls below) and where; ``<metric>_chord`` [t], between the ends.
    ``marker_<metric>`` [marker]: the checkpoints' own values under the problem's BatchNorm policy, the ends of the
        chord. "recalibrated" re-estimates running statistics there too; the values with the stored ones are those of
        ``problem.with_batchnorm("frozen").measure(checkpoint)``. Attributes: title, status ("running" or "done"),
        progress, evaluations, elapsed_s, convention, provenance.

    Close it to cancel. Raises CheckpointError for an end whose weights or loss are not finite, and LandscapeError for
    bad arguments, equal checkpoints, frozen running statistics that differ, all before any evaluation, and for a path
    whose ends are not the checkpoints, as where other buffers differ: those of the first hold along the whole line.
    """
    if convention not in CONVENTIONS:
        raise LandscapeError(f"convention is {convention!r}; accepted are {list(CONVENTIONS)}.")
    if not isinstance(points, int) or points < 3 or points % 2 == 0:
        raise LandscapeError(f"points is {points!r}; expected an odd number of at least 3.")
    if not 0 < tolerance < 1:
        raise LandscapeError(f"tolerance is {tolerance}; expected a number between 0 and 1.")
    refuse_damaged(start, end)
    line = Line.through(start, end)
    refuse_frozen(problem, start, end)
    return _Path(problem, line, convention, tolerance, strategy).run(points)


class _Path:
    def __init__(
        self, problem: Problem, line: Line, convention: str, tolerance: float, strategy: Strategy | None
    ) -> None:
        self.problem, self.line, self.convention, self.tolerance = problem, line, convention, tolerance
        self.strategy = strategy
        self.t = np.zeros(0)
        self.rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def run(self, points: int) -> Iterator[xr.Dataset]:
        self.began = time.perf_counter()
        self.evaluator = Evaluator(self.problem, self.line, self.strategy)
        own = [self.evaluator.at_checkpoint(i) for i in range(2)]
        self.own = {m.name: np.array([values[m.name][0] for values in own]) for m in self.problem.measures}
        for i, marker in enumerate(self.line.markers):
            refuse_loss(marker, self.own["loss"][i])
        first = np.array([0.0, 1.0])  # the ends, then the rest from coarse to fine
        rest = np.linspace(0, 1, points)[1:-1]
        planned = points + 2 * sum(_refines(m) for m in self.problem.measures) * 4
        for wanted in (first, rest):
            for _ in self._look(wanted):
                yield self._dataset("running", planned)
            self._check_ends()
        while (more := self._about_the_top()).size:
            for _ in self._look(more):
                yield self._dataset("running", planned)
        yield self._dataset("done", planned)

    def _look(self, wanted: np.ndarray) -> Iterator[None]:
        """Evaluate places [n], and keep all in order."""
        start, count = len(self.t), len(self.t) + len(wanted)
        held = self.rows
        self.rows = {}
        if held:
            store(self.rows, count, slice(0, start), held)
        every = np.concatenate([self.t, wanted])
        for place, rows in self.evaluator.chunks(wanted[:, None]):
            store(self.rows, count, slice(start + place.start, start + place.stop), rows)
            done = min(start + place.stop, count)
            order = np.argsort(every[:done])
            self.t = every[:done][order]
            self.shown = {name: (m[:done][order], e[:done][order]) for name, (m, e) in self.rows.items()}
            yield
        self.rows = self.shown

    def _check_ends(self) -> None:
        for measure in self.problem.measures:
            if not measure.name.startswith("loss") or measure.classes:
                continue
            own, here = self.own[measure.name], self.rows[measure.name][0][[0, -1]]
            slack = ENDS * np.abs(own).max() + 1e-6
            for i in range(2):
                if not abs(own[i] - here[i]) <= slack:
                    raise LandscapeError(
                        f"The path ends in a {measure.name} of {here[i]:.6g}, and '{self.line.markers[i].name}' has "
                        f"{own[i]:.6g} with its own buffers. Along a path they are those of the first checkpoint; "
                        "use batchnorm='recalibrated' for a model with running statistics."
                    )

    def _about_the_top(self) -> np.ndarray:
        """The places half-way to the neighbours of each loss's highest place over the chord, where these lie lower."""
        found = set()
        for measure in self.problem.measures:
            if not _refines(measure):
                continue
            own = self.own[measure.name]
            over = self.shown[measure.name][0] - ((1 - self.t) * own[0] + self.t * own[1])
            i = int(over.argmax())
            if not 0 < over[i] < np.inf:
                continue
            beside = [j for j in (i - 1, i + 1) if 0 <= j < len(over)]
            if all(over[i] - over[j] <= self.tolerance * over[i] for j in beside):
                continue
            found |= {(self.t[j] + self.t[i]) / 2 for j in beside if abs(self.t[j] - self.t[i]) > FINEST}
        return np.array(sorted(found))

    def _dataset(self, status: str, planned: int) -> xr.Dataset:
        variables = path_variables(self.problem, self.t, self.shown, self.own, self.convention)
        done = self.evaluator.evaluations
        return xr.Dataset(
            {**variables, "computed": ("t", np.ones(len(self.t), dtype=bool))},
            coords={
                "t": ("t", self.t.copy(), {"long_name": self.line.axes[0].label, "units": self.line.axes[0].units}),
                "marker_name": ("marker", np.array([m.name for m in self.line.markers], dtype=object)),
            },
            attrs={
                "title": f"barrier between {self.line.markers[0].name} and {self.line.markers[1].name}",
                "status": status,
                "progress": 1.0 if status == "done" else min(0.999, done / planned),
                "evaluations": done,
                "elapsed_s": time.perf_counter() - self.began,
                "convention": self.convention,
                "tolerance": self.tolerance,
                "distance": self.line.axes[0].length,
                "provenance": self.evaluator.provenance(convention=self.convention, tolerance=self.tolerance),
            },
        )


def path_variables(
    problem: Problem,
    t: np.ndarray,
    rows: Mapping[str, tuple[np.ndarray, np.ndarray]],
    own: Mapping[str, np.ndarray],
    convention: str,
) -> dict[str, Any]:
    """Variables of a path: metrics and their errors along it, the chord between the ends' own, and barriers."""
    variables: dict[str, Any] = {}
    along = {1: t, 2: t[:, None]}
    for measure in problem.measures:
        name, dims = measure.name, ("t", "class")[: 2 if measure.classes else 1]
        about = {"long_name": measure.long_name, "units": measure.units}
        means, errors = rows[name]
        variables[name] = dims, means.copy(), about
        variables[f"{name}_se"] = dims, errors.copy(), {**about, "long_name": f"standard error of {name}"}
        variables[f"marker_{name}"] = ("marker", *dims[1:]), own[name], about
        chord = (1 - along[means.ndim]) * own[name][0] + along[means.ndim] * own[name][1]
        variables[f"{name}_chord"] = dims, chord, {**about, "long_name": f"{measure.long_name} between the ends"}
        complete = convention != "mid" or bool((t == 0.5).any())
        if name.startswith(("loss", "accuracy")) and complete:
            sign = -1.0 if name.startswith("accuracy") else 1.0
            height, at = barrier_height(t, sign * means, sign * own[name], convention)
            said = f"barrier of {name} ({convention})"
            variables[f"{name}_barrier"] = dims[1:], height, {**about, "long_name": said}
            variables[f"{name}_barrier_at"] = dims[1:], at, {"long_name": f"where {said} stands"}
    return variables


def _refines(measure: Measure) -> bool:
    return measure.name.startswith("loss") and not measure.classes
