"""Curves of low loss between two checkpoints, trained through one or several bends.

Garipov et al. 2018, Loss surfaces, mode connectivity and fast ensembling of DNNs, arXiv:1802.10026.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import LandscapeError
from ..evaluate import YIELD_SECONDS, Rows, store
from ..problem import Problem
from ..replica import Replica, as_rows
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line, Plane
from ..weights import Weights
from .barrier import CONVENTIONS, path_variables
from .damage import refuse_damaged, refuse_loss
from .layers import refuse_frozen
from .running import on_batches, shuffled, unpacked

KINDS = ("bezier", "polygon")
LOOKING_SHARE = 0.2  # of the time goes into looking at the curve while it is trained
TELLING = 5  # steps after the first, which warms up: from them on the time that is left is told


@dataclass(frozen=True)
class Curve:
    """A path through weight space from the first of its control points (t = 0) to the last (t = 1).

    kind: "bezier", the Bernstein polynomials of the points, or "polygon", straight from each point to the next in equal
    parts of t. Buffers are those of the first point everywhere.
    """

    kind: str
    points: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        refuse_unread(*self.points)
        if self.kind not in KINDS:
            raise LandscapeError(f"kind is {self.kind!r}; accepted are {list(KINDS)}.")
        if len(self.points) < 2:
            raise LandscapeError(f"A curve has two or more control points; got {len(self.points)}.")

    def shares(self, t: float) -> np.ndarray:
        """What each control point contributes at t: [points], summing to 1."""
        last = len(self.points) - 1
        if self.kind == "bezier":
            return np.array([math.comb(last, i) * t**i * (1 - t) ** (last - i) for i in range(last + 1)])
        return np.clip(1 - np.abs(t * last - np.arange(last + 1)), 0, None)

    def point(self, t: float) -> Weights:
        """The weights at t in [0, 1], in the dtype of the first control point. Raises LandscapeError for another t."""
        if not 0 <= t <= 1:
            raise LandscapeError(f"t is {t}; expected a number in [0, 1].")
        total = self.points[0].weights.to(torch.float64).zeros()
        for share, point in zip(self.shares(t), self.points, strict=True):
            total = total.add(point.weights.to(torch.float64), scale=float(share))
        return total.map(lambda name, tensor: tensor.to(self.points[0].weights[name].dtype))

    def plane(self) -> Plane:
        """The plane that holds the curve: axis a leads from its first point to its last, the bend is on the side of b.

        Raises LandscapeError for a curve with other than one bend, and where the bend lies on the straight line.
        """
        if len(self.points) != 3:
            raise LandscapeError(f"A plane holds a curve with one bend; this one has {len(self.points) - 2}.")
        first, bend, last = self.points
        return Plane.through(first, last, bend)


class CurveSearch:
    """A search for a curve of low loss between two checkpoints: it lowers the mean of L(curve(t)) over t in [0, 1].

    Each step draws one t and one batch, and moves the bends by Adam along the gradient at curve(t), of which each bend
    has its share; the ends stay. The learning rate falls to 0 as a cosine. The network is that of the problem at the
    given weights, so that any module will do; BatchNorm uses the statistics of each batch while the curve is trained,
    and the problem's policy where it is looked at. The curve starts as the straight line.

    kind, bends: "bezier" (quadratic with one bend, the default) or "polygon", and how many points it has between its
        ends. steps, learning_rate: of Adam. batch_size: samples a step, where the data can be cut; None is the
        problem's own. points: an odd number of places at which the curve is looked at. convention: see
        `barrier_height`. seed: of t and the batches.

    curve: as it is now. Raises LandscapeError for bad arguments, equal checkpoints, frozen statistics that differ.
    """

    def __init__(
        self,
        problem: Problem,
        start: Checkpoint,
        end: Checkpoint,
        *,
        kind: str = "bezier",
        bends: int = 1,
        steps: int = 1000,
        learning_rate: float = 5e-3,
        batch_size: int | None = None,
        points: int = 25,
        convention: str = "sup",
        seed: int = 0,
    ):
        for name, value in {"bends": bends, "steps": steps, "batch_size": batch_size or 1}.items():
            if not isinstance(value, int) or value < 1:
                raise LandscapeError(f"{name} is {value!r}; expected a whole number of at least 1.")
        if not 0 < learning_rate < np.inf:
            raise LandscapeError(f"learning_rate is {learning_rate}; expected a positive number.")
        if not isinstance(points, int) or points < 3 or points % 2 == 0:
            raise LandscapeError(f"points is {points!r}; expected an odd number of at least 3.")
        if convention not in CONVENTIONS:
            raise LandscapeError(f"convention is {convention!r}; accepted are {list(CONVENTIONS)}.")
        refuse_damaged(start, end)
        self.line = Line.through(start, end)
        refuse_frozen(problem, start, end)
        self._ends, self._kind = (start, end), kind
        self._inner = [self.line.point(i / (bends + 1)) for i in range(1, bends + 1)]
        Curve(kind, (start, end))
        self.problem, self.convention = problem, convention
        self._planned, self._rate, self._seed = steps, learning_rate, seed
        self._options: dict[str, Any] = {
            "kind": kind,
            "bends": bends,
            "steps": steps,
            "learning_rate": learning_rate,
            "seed": seed,
        }
        self._batch_size = batch_size or problem.batch_size
        self._t = np.linspace(0, 1, points)
        self.losses: list[float] = []
        self._rows: Rows = {}
        self._length = self.line.axes[0].length
        self._looked = 0  # how many steps were done then
        self._pace = np.nan  # seconds a step, looks at the curve counted in
        self._cost = 0.0  # seconds of a look

    @property
    def curve(self) -> Curve:
        """The curve as it is now."""
        start, end = self._ends
        names = ["bend"] if len(self._inner) == 1 else [f"bend {i}" for i in range(1, len(self._inner) + 1)]
        inner = (Checkpoint(w, start.buffers, name) for w, name in zip(self._inner, names, strict=True))
        return Curve(self._kind, (start, *inner, end))

    def steps(self) -> Iterator[xr.Dataset]:
        """Train, a generator of Datasets; close it to stop where the curve is.

        Yields Datasets with the variables of `barrier` along ``t`` of the curve, as it was when it was last looked at,
        and ``training_loss`` [step], of one batch at one t each. Barriers are NaN until training has begun and the
        curve was looked at, which takes at most a fifth of the time; the first Dataset has the straight line's losses.
        Attributes: title, status ("running" or "done"), progress, evaluations (of gradients), ``looked_at_step``,
        ``planned_evaluations``, elapsed_s, eta_s (NaN at first), ``length`` of the curve and ``distance`` of its ends,
        convention, provenance.

        Raises CheckpointError for an end whose loss is not finite, and LandscapeError where training diverges.
        """
        self.began = time.perf_counter()
        self.looker = Replica(self.problem)
        self._measure_ends()
        yield from self._look("running")
        looked = shown = time.perf_counter()
        self._cost = looked - self.began
        for _ in self._trained():
            now = time.perf_counter()
            if len(self.losses) == 1:
                warm = now
            elif len(self.losses) > TELLING:
                self._pace = (now - warm) / (len(self.losses) - 1)
            if now - looked > self._cost / LOOKING_SHARE:
                yield from self._look("running")
                looked = shown = time.perf_counter()
                self._cost = looked - now
            elif now - shown > YIELD_SECONDS:
                shown = now
                yield self._dataset("running")
        yield from self._look("done")

    def _trained(self) -> Generator[None, None, None]:
        """Take one step after the other."""
        replica = Replica(on_batches(self.problem))
        curve = self.curve
        replica.load_buffers(curve.points[0])
        points = [replica.pack(point.weights) for point in curve.points]
        bends = points[1:-1]
        optimiser = torch.optim.Adam(bends, lr=self._rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._planned)
        rng = np.random.default_rng(self._seed)
        for batch in shuffled(self.problem.data, self._batch_size, self._planned, rng):
            shares = curve.shares(rng.random()).tolist()
            replica.flat.copy_(sum(share * point for share, point in zip(shares, points, strict=True)))
            loss, weights = replica.loss_and_gradient([batch])
            gradient = replica.pack(weights)
            if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
                raise LandscapeError(
                    f"Training the curve diverged at step {len(self.losses) + 1}: its loss there is {loss}. Use a "
                    f"learning_rate smaller than {self._rate}."
                )
            self.losses.append(loss)
            for share, bend in zip(shares[1:-1], bends, strict=True):
                bend.grad = share * gradient
            optimiser.step()
            schedule.step()
            self._inner = [unpacked(replica, bend, self._ends[0].weights) for bend in bends]
            yield

    def _measure_ends(self) -> None:
        values = [self.problem.measure(end) for end in self._ends]
        self.own = {name: np.array([value[name][0] for value in values]) for name in self.problem.metrics}
        for i, end in enumerate(self._ends):
            refuse_loss(end, self.own["loss"][i])

    def _look(self, status: str) -> Iterator[xr.Dataset]:
        """Evaluate the curve as it is now, and show it when that is done."""
        curve, shown = self.curve, time.perf_counter()
        rows: Rows = {}
        self.looker.load_buffers(curve.points[0])
        for i, t in enumerate(self._t):
            self.looker.flat.copy_(self.looker.pack(curve.point(float(t))))
            store(rows, len(self._t), slice(i, i + 1), as_rows([self.looker.measure()]))
            if self._rows and time.perf_counter() - shown > YIELD_SECONDS:
                shown = time.perf_counter()
                yield self._dataset("running")
        self._rows, self._length, self._looked = rows, _length(curve), len(self.losses)
        yield self._dataset(status)

    def _dataset(self, status: str) -> xr.Dataset:
        done, planned = len(self.losses), self._planned
        elapsed = time.perf_counter() - self.began
        loss, curve = self.problem.measures[0], self.curve
        variables = path_variables(self.problem, self._t, self._rows, self.own, self.convention)
        looked = self._looked > 0 or done == 0
        for name, (dims, values, said) in variables.items():
            stale = not looked and "t" in dims and not name.endswith("_chord")
            if stale or ("_barrier" in name and not self._looked):
                variables[name] = dims, np.full(np.shape(values), np.nan), said
        about = {"long_name": f"{loss.long_name} of one batch at one place", "units": loss.units}
        return xr.Dataset(
            {
                **variables,
                "computed": ("t", np.full(len(self._t), looked)),
                "training_loss": ("step", np.array(self.losses), about),
            },
            coords={
                "t": ("t", self._t, {"long_name": f"along the curve {self._ends[0].name} – {self._ends[1].name}"}),
                "marker_name": ("marker", np.array([end.name for end in self._ends], dtype=object)),
            },
            attrs={
                "title": f"{self._kind} curve between {self._ends[0].name} and {self._ends[1].name}",
                "status": status,
                "progress": 1.0 if status == "done" else min(0.999, done / planned),
                "evaluations": done,
                "looked_at_step": self._looked,
                "planned_evaluations": planned,
                "elapsed_s": elapsed,
                "eta_s": (planned - done) * self._pace + self._cost if status == "running" else 0.0,
                "convention": self.convention,
                "length": self._length,
                "distance": self.line.axes[0].length,
                "provenance": provenance_json(
                    self.problem,
                    self.line,
                    Strategy(None, torch.get_num_threads()).record(),
                    **self._options,
                    batch_size=self._batch_size,
                    convention=self.convention,
                    bends_sha256=[point.weights.digest() for point in curve.points[1:-1]],
                ),
            },
        )


def _length(curve: Curve) -> float:
    """The Euclidean length of a curve, of a Bezier curve from the integral of its speed (Gauss-Legendre)."""
    steps = [b.weights.to(torch.float64) - a.weights.to(torch.float64) for a, b in pairwise(curve.points)]
    gram = np.array([[a.dot(b) for a in steps] for b in steps])
    if curve.kind == "polygon":
        return float(np.sqrt(np.diag(gram)).sum())
    nodes, weights = np.polynomial.legendre.leggauss(32)
    last = len(steps)
    speeds = []
    for t in (nodes + 1) / 2:
        shares = last * Curve("bezier", curve.points[:-1]).shares(t) if last > 1 else np.ones(1)
        speeds.append(np.sqrt(max(shares @ gram @ shares, 0.0)))
    return float(np.dot(speeds, weights) / 2)
