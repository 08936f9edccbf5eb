"""What a barrier is made of: the curvature along the straight path, and each example's share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.polynomial import Chebyshev
from torch import Tensor

from ..checkpoints import Checkpoint
from ..curvature.operators import Curvature, run
from ..errors import LandscapeError
from ..losses import classes_last
from ..problem import Problem
from ..replica import Replica
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from .damage import refuse_damaged, refuse_loss, refuse_losses
from .layers import refuse_frozen
from .running import Progress

COARSEST, FINEST = 4, 64  # intervals of each half


def path_curvature(
    problem: Problem, start: Checkpoint, end: Checkpoint, *, tolerance: float = 1e-3
) -> Iterator[xr.Dataset]:
    """The curvature of the loss along the straight line between two checkpoints, and the barrier that it amounts to.

    With phi(t) = L(start + t Delta), phi'' = Delta' H Delta, and integrating by parts twice,
    L(1/2) - (L(0) + L(1)) / 2 = -1/2 integral of min(t, 1 - t) phi''(t) dt: a barrier is negative curvature along the
    way, weighted by how near it is to the middle. The integral is over the Chebyshev interpolant of each half
    (Clenshaw and Curtis 1960), whose intervals are halved until it changes by less than `tolerance` of that of
    |phi''|.

    Yields Datasets with the dim ``t``: ``curvature`` [t], in units of the loss; ``middle_rise``, from the losses, and
    ``middle_rise_from_curvature``, from the integral; ``integral_change``, by how much it changed last. Where the two
    differ by more, the loss has kinks, as that of ReLU networks, and curvature there that no product with H sees.
    ``middle_rise_from_ends``: what the second-order Taylor polynomials at the two ends say, averaged (Ito, Yamada and
    Kumagai 2024, arXiv:2402.04051).
    Attributes: title, status ("running", "converged" or "unconverged"), progress, evaluations ...

    Close it to cancel. Raises LandscapeError for bad arguments, equal checkpoints, and BatchNorm statistics that are
    recalibrated (H holds them constant: take batchnorm="batch") or frozen and different; CheckpointError for an end
    whose weights or loss are not finite.
    """
    if not 0 < tolerance < 1:
        raise LandscapeError(f"tolerance is {tolerance}; expected a number between 0 and 1.")
    if problem.batchnorm == "recalibrated":
        raise LandscapeError(
            "The Hessian holds recalibrated statistics constant, and they change along the path. Use "
            "problem.with_batchnorm('batch'), which differentiates through them."
        )
    refuse_damaged(start, end)
    line = Line.through(start, end)
    refuse_frozen(problem, start, end)
    return _PathCurvature(problem, line, tolerance).run()


class _PathCurvature:
    def __init__(self, problem: Problem, line: Line, tolerance: float):
        self.problem, self.line, self.tolerance = problem, line, tolerance
        self.values: dict[float, float] = {}
        self.slopes: dict[float, float] = {}
        self.integral = self.change = np.nan

    def run(self) -> Iterator[xr.Dataset]:
        self.progress = Progress(4 * COARSEST + 1)
        losses = [self.problem.measure(self._at(t))["loss"][0] for t in (0.0, 0.5, 1.0)]
        for end, loss in zip(self.line.markers, losses[::2], strict=True):
            refuse_loss(end, loss)
        self.rise = losses[1] - (losses[0] + losses[2]) / 2
        intervals, status = COARSEST, "running"
        while status == "running":
            for t in self._wanted(intervals):
                self.values[t] = self._curvature(t)
                if self.progress.due():
                    yield self._dataset("running")
            before, self.integral = self.integral, self._weighted(np.array)
            self.change = abs(self.integral - before)
            if self.change <= self.tolerance * abs(self._weighted(np.abs)):
                status = "converged"
            elif intervals == FINEST:
                status = "unconverged"
            else:
                intervals *= 2
                self.progress.planned = max(self.progress.planned, 2 * intervals + 1)
            yield self._dataset(status)

    def _at(self, t: float) -> Checkpoint:
        return Checkpoint(self.line.point(t), self.line.origin.buffers, f"t = {t:.6g}")

    def _curvature(self, t: float) -> float:
        operator = Curvature(self.problem, self._at(t), frozen=True)
        along = operator.from_weights(self.line.axes[0].weights)
        product = run(operator.steps(along)) if self.values else operator.matvec(along)  # the first is checked
        if t in (0.0, 1.0):
            self.slopes[t] = float(along.double() @ operator.gradient.double())
        return float(along.double() @ product.double())

    def _wanted(self, intervals: int) -> list[float]:
        """Chebyshev points of both halves, ends included, that are not known yet."""
        half = (1 - np.cos(np.pi * np.arange(intervals + 1) / intervals)) / 4
        every = np.unique(np.concatenate([half, 1 - half]).round(15))
        return [float(t) for t in every if not any(abs(t - known) < 1e-12 for known in self.values)]

    def _from_ends(self) -> float:
        if len(self.slopes) < 2:
            return np.nan
        return (self.slopes[0.0] - self.slopes[1.0]) / 4 + (self.values[0.0] + self.values[1.0]) / 16

    def _weighted(self, function: Any) -> float:
        """-1/2 of the integral of min(t, 1 - t) times a function of the curvature."""
        t = np.array(sorted(self.values))
        values, total = function(np.array([self.values[x] for x in t])), 0.0
        for low, high in ((0.0, 0.5), (0.5, 1.0)):
            here = (t >= low - 1e-12) & (t <= high + 1e-12)
            fitted = Chebyshev.fit(t[here], values[here], here.sum() - 1, domain=[low, high])
            weight = Chebyshev.identity([low, high])
            total += (fitted * (weight if low == 0 else 1 - weight)).integ(lbnd=low)(high)
        return -0.5 * float(total)

    def _dataset(self, status: str) -> xr.Dataset:
        t = np.array(sorted(self.values))
        loss = self.problem.measures[0]
        about = {"units": loss.units}
        axis = self.line.axes[0]
        return xr.Dataset(
            {
                "curvature": ("t", np.array([self.values[x] for x in t]), {"long_name": "Δ'HΔ", **about}),
                "middle_rise": ((), self.rise, {"long_name": "rise of the loss at the middle", **about}),
                "middle_rise_from_curvature": ((), self.integral, {"long_name": "rise from the curvature", **about}),
                "middle_rise_from_ends": (
                    (),
                    self._from_ends(),
                    {"long_name": "rise from Taylor at the ends", **about},
                ),
                "integral_change": ((), self.change, {"long_name": "last change of the integral", **about}),
            },
            coords={"t": ("t", t, {"long_name": axis.label, "units": axis.units})},
            attrs={
                "title": f"curvature {self.line.title}",
                **self.progress.attrs(status),
                "tolerance": self.tolerance,
                "provenance": provenance_json(
                    self.problem,
                    self.line,
                    Strategy(None, torch.get_num_threads()).record(),
                    tolerance=self.tolerance,
                ),
            },
        )


def example_barriers(problem: Problem, start: Checkpoint, end: Checkpoint, *, t: float = 0.5) -> xr.Dataset:
    """Each example's rise of the cross entropy over its chord at one place of the straight path, in three parts.

    With logits z, z_lin the logits of the two ends interpolated, E = z(t) - z_lin and LSE the logarithm of the sum of
    exponentials, the rise of an example with target y is D - J - E_y exactly: ``deviation`` D = LSE(z) - LSE(z_lin)
    and ``target`` E_y are what the network does that no interpolation of outputs does; ``jensen`` J =
    (1 - t) LSE(z_0) + t LSE(z_1) - LSE(z_lin) >= 0 is what averaging outputs gains.

    Returns a Dataset with the dim ``example`` (tokens, where there are several a sample; in the order of the data,
    without those that the loss ignores): ``rise``, ``deviation``, ``jensen``, ``target``, in nats, and ``label``.

    Raises LandscapeError for t outside [0, 1], equal checkpoints, frozen statistics that differ, and for any other loss
    than the mean cross entropy; CheckpointError for an end whose weights or loss are not finite.
    """
    if not 0 <= t <= 1:
        raise LandscapeError(f"t is {t}; expected a number in [0, 1].")
    refuse_damaged(start, end)
    line = Line.through(start, end)
    refuse_frozen(problem, start, end)
    if not problem.measures[0].classifies:
        raise LandscapeError(f"The loss is {problem.measures[0].long_name}; the parts are those of a cross entropy.")
    replica = Replica(problem)
    at = Checkpoint(line.point(t), start.buffers, f"t = {t:.6g}")
    (z0, label), (z1, _), (z, _) = (_logits(replica, c) for c in (start, end, at))
    linear = torch.lerp(z0, z1, t)
    own = label[:, None]
    parts = {
        "deviation": z.logsumexp(-1) - linear.logsumexp(-1),
        "jensen": torch.lerp(z0.logsumexp(-1), z1.logsumexp(-1), t) - linear.logsumexp(-1),
        "target": (z - linear).gather(1, own)[:, 0],
    }
    losses = [each.logsumexp(-1) - each.gather(1, own)[:, 0] for each in (z0, z1, z)]
    refuse_losses(problem, start, end)
    _check_means(problem, losses, (start, end, at))
    parts = {"rise": losses[2] - torch.lerp(losses[0], losses[1], t), **parts}
    nats = {"units": "nats"}
    return xr.Dataset(
        {
            **{name: ("example", part.cpu().numpy(), {"long_name": name, **nats}) for name, part in parts.items()},
            "label": ("example", label.cpu().numpy()),
        },
        attrs={
            "title": f"rise of each example, {line.title}",
            "status": "done",
            "progress": 1.0,
            "t": float(t),
            "provenance": provenance_json(problem, line, Strategy(None, torch.get_num_threads()).record(), t=t),
        },
    )


def _logits(replica: Replica, checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    """Logits [examples, classes] in float64 and labels [examples] of those that count."""
    replica.load(checkpoint)
    replica.settle()
    found = []
    ignored = replica.problem.measures[0].ignored
    with replica.seeded(), replica.own_context(grad=False):
        for batch in map(replica.here, replica.problem.data.batches()):
            logits, target = classes_last(replica.output(batch), batch, "example_barriers")
            counted = target != ignored
            found.append((logits[counted].double(), target[counted]))
    return torch.cat([z for z, _ in found]), torch.cat([y for _, y in found])


def _check_means(problem: Problem, losses: list[Tensor], checkpoints: tuple[Checkpoint, ...]) -> None:
    for values, checkpoint in zip(losses, checkpoints, strict=True):
        mean, own = float(values.mean()), problem.measure(checkpoint)["loss"][0]
        if not abs(mean - own) <= 1e-4 * abs(own) + 1e-6:
            raise LandscapeError(
                f"The mean cross entropy of '{checkpoint.name}' is {mean:.6g}, and the problem's loss {own:.6g}: it "
                "weighs classes, smooths labels or adds terms, of which the parts are not known. Use 'cross_entropy'."
            )
