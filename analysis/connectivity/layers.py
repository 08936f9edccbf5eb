"""Barriers of single layers: what becomes of a network whose layers, one or several, are half-way to another's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import LandscapeError
from ..measures import Measure
from ..problem import Problem
from ..replica import Replica
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from ..weights import Weights
from .damage import refuse_damaged, refuse_loss
from .running import Progress

ORDERS = ("shallow", "deep")


def layers_of(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The parameters of each module that has any, by the module's name, in the order of the model."""
    refuse_unread(checkpoint)
    found: dict[str, list[str]] = {}
    for name in checkpoint.weights:
        found.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return found


def with_layers(into: Checkpoint, other: Checkpoint, layers: Collection[str], share: float = 1.0) -> Checkpoint:
    """The checkpoint with some layers on the way to another's: share 0 leaves them, 1 takes the other's.

    layers: names as `layers_of` gives them. Buffers stay. Raises LandscapeError for an unknown layer.
    """
    refuse_unread(into, other)
    names = _names(into, layers)

    def moved(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.lerp(tensor, other.weights[name], share) if name in names else tensor

    return Checkpoint(into.weights.map(moved), into.buffers, f"{into.name} with {', '.join(layers)} of {other.name}")


def layer_barriers(
    problem: Problem, start: Checkpoint, end: Checkpoint, *, draws: int = 5, seed: int = 0
) -> Iterator[xr.Dataset]:
    """What each layer alone, and layers together, add to the loss half-way between two checkpoints.

    With D one of the two and S some layers, the barrier is L(D with its S half-way to the other's) less the mean loss
    of the two (Adilova et al. 2024, Layer-wise linear mode connectivity, arXiv:2307.06966). The control moves the same
    layer of D by the same distance in a random direction.

    draws: random directions of each layer. seed: of these.

    Yields Datasets that fill up, NaN where not computed, with the dims ``layer`` (modules in the order of the model),
    ``into`` (which of the two is changed) and ``draw``. For each loss and accuracy (of which: how far it falls):
    ``<metric>_barrier`` [layer, into]; ``<metric>_control`` [layer, into, draw];
    ``<metric>_cumulative`` [order, layer, into]: this layer and all before it in the order "shallow" (from the input)
        or "deep" (from the output). ``marker_<metric>`` [into]: of the two themselves; ``distance`` [layer]: between
        the two, of that layer.

    Close it to cancel. Raises LandscapeError for bad arguments, equal checkpoints, and frozen running statistics
    that differ: those of one say nothing of another's layers; CheckpointError for an end whose weights or loss are not
    finite.
    """
    if not isinstance(draws, int) or draws < 0:
        raise LandscapeError(f"draws is {draws!r}; expected a whole number, 0 or more.")
    refuse_damaged(start, end)
    line = Line.through(start, end)
    refuse_frozen(problem, start, end)
    return _Layers(problem, line, draws, seed).run()


def refuse_frozen(problem: Problem, start: Checkpoint, end: Checkpoint) -> None:
    """Raise LandscapeError where frozen running statistics of two checkpoints differ."""
    if problem.batchnorm != "frozen":
        return
    differing = [name for name, tensor in start.buffers.items() if not torch.equal(tensor, end.buffers[name])]
    if differing:
        raise LandscapeError(
            f"The running statistics of '{start.name}' and '{end.name}' differ ({differing[0]} ...), and frozen ones "
            "hold for neither between the two. Use batchnorm='recalibrated'."
        )


def _names(checkpoint: Checkpoint, layers: Collection[str]) -> set[str]:
    known = layers_of(checkpoint)
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise LandscapeError(f"There is no layer {unknown[0]!r}; there are {list(known)}.")
    return {name for layer in layers for name in known[layer]}


class _Layers:
    def __init__(self, problem: Problem, line: Line, draws: int, seed: int):
        self.problem, self.line, self.draws, self.seed = problem, line, draws, seed
        self.ends: Sequence[Checkpoint] = line.markers
        self.layers = layers_of(self.ends[0])
        self.measures = [m for m in problem.measures if m.name.startswith(("loss", "accuracy")) and not m.classes]
        n = len(self.layers)
        shapes = {"barrier": (n, 2), "control": (n, 2, draws), "cumulative": (len(ORDERS), n, 2)}
        self.found = {m.name: {kind: np.full(shape, np.nan) for kind, shape in shapes.items()} for m in self.measures}
        self.own = {m.name: np.full(2, np.nan) for m in self.measures}
        self.distance = np.array([self._apart(names).norm() for names in self.layers.values()])

    def run(self) -> Iterator[xr.Dataset]:
        n = len(self.layers)
        self.progress = Progress(2 + 2 * n * (1 + self.draws) + 2 * len(ORDERS) * (n - 1))
        self.replica = Replica(self.problem)
        for i, end in enumerate(self.ends):
            for measure, value in self._measured(end, end.weights):
                self.own[measure.name][i] = value
            refuse_loss(end, self.own["loss"][i])
            if self.progress.due():
                yield self._dataset()
        for place, into, weights in self._changed():
            for measure, value in self._measured(self.ends[into], weights):
                sign = -1.0 if measure.name.startswith("accuracy") else 1.0
                rise = sign * (value - self.own[measure.name].mean())
                kind, *where = place
                self.found[measure.name][kind][tuple(where)] = rise
            if self.progress.due():
                yield self._dataset()
        for found in self.found.values():
            found["cumulative"][:, 0] = found["barrier"][[0, -1]]
        yield self._dataset("done")

    def _changed(self) -> Iterator[tuple[tuple, int, Weights]]:
        """Where a value belongs, which end is changed, and the weights."""
        names = list(self.layers)
        for into, other in ((0, 1), (1, 0)):
            d, o = self.ends[into], self.ends[other]
            for i, layer in enumerate(names):
                yield ("barrier", i, into), into, with_layers(d, o, [layer], 0.5).weights
            for number, order in enumerate((names, names[::-1])):
                for count in range(2, len(names) + 1):
                    yield ("cumulative", number, count - 1, into), into, with_layers(d, o, order[:count], 0.5).weights
            for i, layer in enumerate(names):
                for draw in range(self.draws):
                    yield ("control", i, into, draw), into, self._elsewhere(d, layer, i, draw)

    def _elsewhere(self, into: Checkpoint, layer: str, number: int, draw: int) -> Weights:
        """A layer moved as far as half-way to the other, in a random direction."""
        drawn = np.random.default_rng([self.seed, number, draw]).integers(2**62)
        generator = torch.Generator().manual_seed(int(drawn))
        zeros, names = into.weights.zeros(), self.layers[layer]
        noise = zeros.map(
            lambda name, t: torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t) if name in names else t
        )
        return into.weights.add(noise, scale=0.5 * self.distance[number] / noise.norm())

    def _apart(self, names: Sequence[str]) -> Weights:
        apart = self.line.axes[0].weights
        return apart.map(lambda name, tensor: tensor if name in names else torch.zeros_like(tensor))

    def _measured(self, at: Checkpoint, weights: Weights) -> list[tuple[Measure, float]]:
        self.replica.load_buffers(at)
        self.replica.flat.copy_(self.replica.pack(weights))
        values = self.replica.measure()
        return [(measure, values[measure.name][0]) for measure in self.measures]

    def _dataset(self, status: str = "running") -> xr.Dataset:
        dims = {"barrier": ("layer", "into"), "control": ("layer", "into", "draw")}
        dims["cumulative"] = ("order", "layer", "into")
        variables: dict[str, Any] = {
            "distance": ("layer", self.distance, {"long_name": "distance between the two", "units": "weight space"})
        }
        for measure in self.measures:
            about = {"long_name": measure.long_name, "units": measure.units}
            variables[f"marker_{measure.name}"] = "into", self.own[measure.name].copy(), about
            for kind, values in self.found[measure.name].items():
                said = {**about, "long_name": f"{kind} of {measure.name}"}
                variables[f"{measure.name}_{kind}"] = dims[kind], values.copy(), said
        return xr.Dataset(
            variables,
            coords={
                "layer": np.array(list(self.layers), dtype=object),
                "into": np.array([end.name for end in self.ends], dtype=object),
                "order": list(ORDERS),
            },
            attrs={
                "title": f"layer-wise barriers between {self.ends[0].name} and {self.ends[1].name}",
                **self.progress.attrs(status),
                "provenance": provenance_json(
                    self.problem,
                    self.line,
                    Strategy(None, torch.get_num_threads()).record(),
                    draws=self.draws,
                    seed=self.seed,
                ),
            },
        )
