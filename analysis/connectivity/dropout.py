"""Dropout stability: a path between two networks of one hidden layer whose height has a bound that can be computed.

Kuditipudi et al. 2019, arXiv:1906.06247; Shevchenko and Mondelli 2020, arXiv:1912.10095.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..data import tensors_of
from ..errors import LandscapeError
from ..problem import Problem
from ..replica import Replica
from ..subspace import Line
from ..weights import Weights
from .curves import Curve
from .damage import refuse_damaged
from .sampled import sampled_path

SAMPLES = 64
ROUNDING = 1000  # times that of the network's precision: outputs that are equal differ by no more


def dropout_curve(start: Checkpoint, end: Checkpoint) -> Curve:
    """The polygon A, A_L, A_L', B_L', B_L, B between networks of one hidden layer, in which one half of the units
    works while the other half is exchanged.

    A_L is A with its second half of units switched off and the first half's outgoing weights scaled to make up for it
    (twice, for an even number); B_L likewise keeps B's second half. In A_L' what is switched off has B's incoming
    weights, in B_L' A's. Each segment moves output weights alone, in which a convex loss is convex, or what is
    switched off: the loss along the path is at most the largest of those at A, A_L, B_L and B. As the halves are
    complementary, five segments do what seven do in the papers.

    Checkpoints hold the weight and, if any, the bias of two linear layers: [h, in], [h], [out, h], [out] in that
    order. Raises LandscapeError for others, for fewer than two hidden units, and for equal checkpoints.
    """
    Line.through(start, end)
    incoming, outgoing, last_bias = _parts(start)
    width = len(start.weights[incoming[0]])
    half = torch.arange(width) < (width + 1) // 2
    free = {outgoing, *last_bias}

    def mixed(first: Checkpoint, second: Checkpoint, kept: Tensor, output: Checkpoint, name: str) -> Checkpoint:
        """The first's incoming weights where kept, else the second's; outgoing ones of `output` where that works."""
        working = half if output is start else ~half

        def chosen(key: str, tensor: Tensor) -> Tensor:
            if key == outgoing:
                return torch.where(working, output.weights[key] * (width / int(working.sum())), 0.0)
            if key in free:
                return output.weights[key]
            rows = kept.reshape(-1, *(1,) * (tensor.ndim - 1))
            return torch.where(rows, first.weights[key], second.weights[key])

        return replace(start, weights=start.weights.map(chosen), name=name, source="")

    everything = torch.ones_like(half)
    names = (f"half of {start.name}", f"half of {end.name}")
    return Curve(
        "polygon",
        (
            start,
            mixed(start, end, everything, start, names[0]),
            mixed(start, end, half, start, f"{names[0]}, the other exchanged"),
            mixed(start, end, half, end, f"{names[1]}, the other exchanged"),
            mixed(end, start, everything, end, names[1]),
            end,
        ),
    )


def _parts(checkpoint: Checkpoint) -> tuple[list[str], str, list[str]]:
    """Names of what leads into the hidden units, of the weight that leads out, and of the last bias."""
    weights: Mapping[str, Tensor] | Weights = checkpoint.weights
    matrices = [name for name, tensor in weights.items() if tensor.ndim == 2]
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    if len(matrices) == 2:
        first, second = matrices
        h = shapes[first][0]
        biases = [name for name in weights if name not in matrices]
        hidden = [name for name in biases if name.rpartition(".")[0] == first.rpartition(".")[0]]
        last = [name for name in biases if name.rpartition(".")[0] == second.rpartition(".")[0]]
        fits = all(shapes[n] == [h] for n in hidden) and all(shapes[n] == shapes[second][:1] for n in last)
        if shapes[second][1] == h > 1 and fits and len(hidden) + len(last) == len(biases):
            return [first, *hidden], second, last
    raise LandscapeError(
        f"A dropout path joins networks of two linear layers with two hidden units or more; '{checkpoint.name}' holds "
        f"{shapes}. Use CurveSearch for other networks."
    )


def dropout_path(problem: Problem, start: Checkpoint, end: Checkpoint, *, points: int = 11) -> Iterator[xr.Dataset]:
    """The losses along `dropout_curve` and their bound, a generator of Datasets that fill up.

    points: of each of the five segments, both ends included.

    Yields Datasets with the variables of `barrier` along ``t`` (equal parts for the segments), ``vertex_<loss>``
    [vertex] at the six corners once the path is known that far, and ``<loss>_bound``, the largest of the four that
    bound it where the loss is convex in the outputs. How far a half is from its whole is the dropout stability gap.

    Close it to cancel. Raises what `dropout_curve` raises, LandscapeError for bad points and for networks of which the
    bound does not hold (units that mix before the second layer, as in LayerNorm, or anything after it),
    CheckpointError for an end whose weights or loss are not finite.
    """
    if not isinstance(points, int) or points < 2:
        raise LandscapeError(f"points is {points!r}; expected a whole number of at least 2.")
    refuse_damaged(start, end)
    curve = dropout_curve(start, end)
    _refuse_unbounded(problem, curve)
    return _with_bound(problem, start, end, curve, points)


def _refuse_unbounded(problem: Problem, curve: Curve) -> None:
    """Raise LandscapeError where what is switched off shows, or outputs do not follow output weights linearly."""
    replica = Replica(problem)
    batch = problem.blocks(SAMPLES)[""][0]

    def outputs(weights: Weights) -> Tensor:
        replica.load(Checkpoint(weights, curve.points[0].buffers, "on the path"))
        replica.settle()
        with replica.seeded(), replica.own_context(grad=False):
            found = tensors_of(replica.output(replica.here(batch)))
        return torch.cat([tensor.double().flatten() for tensor in found])

    corners = [point.weights for point in curve.points]
    at = [outputs(weights) for weights in corners]
    apart = [at[1] - at[2], at[3] - at[4]]
    for i in range(len(at) - 1):
        apart.append(outputs(0.5 * (corners[i] + corners[i + 1])) - (at[i] + at[i + 1]) / 2)
    scale = max(float(values.abs().max()) for values in at)
    worst = max(float(values.abs().max()) for values in apart)
    if worst > ROUNDING * torch.finfo(problem.dtype).eps * scale:  # where they are nan, the losses will tell
        raise LandscapeError(
            "The loss along this path has no bound: units that are switched off change the outputs, or these do not "
            f"follow the output weights linearly (by {worst / scale:.2g} of the largest). A dropout path joins "
            "networks of two linear layers with a function of each hidden unit alone between them and nothing after "
            "them. Use CurveSearch for other networks."
        )


def _with_bound(
    problem: Problem, start: Checkpoint, end: Checkpoint, curve: Curve, points: int
) -> Iterator[xr.Dataset]:
    segments = len(curve.points) - 1
    t = np.linspace(0, 1, segments * (points - 1) + 1)
    losses = [m for m in problem.measures if m.name.startswith("loss") and not m.classes]
    for ds in sampled_path(
        problem,
        Line.through(start, end),
        t,
        lambda place: Checkpoint(curve.point(min(place, 1.0)), start.buffers, f"t = {place:.6g}"),
        title=f"dropout path between {start.name} and {end.name}",
        vertices=[point.name for point in curve.points],
    ):
        known = ds.sizes["t"]
        for measure in losses:
            corners = np.full(segments + 1, np.nan)
            here = np.arange(segments + 1) * (points - 1)
            corners[here < known] = ds[measure.name].values[here[here < known]]
            about = {"long_name": measure.long_name, "units": measure.units}
            ds[f"vertex_{measure.name}"] = "vertex", corners, about
            ds[f"{measure.name}_bound"] = (), corners[[0, 1, 4, 5]].max(), {**about, "long_name": "bound of the path"}
        yield ds.assign_coords(vertex_name=("vertex", np.array([p.name for p in curve.points], dtype=object)))
