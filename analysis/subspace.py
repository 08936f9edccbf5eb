"""Lines and planes in weight space: an origin, orthogonal axes, and coordinates in units of the axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from .checkpoints import Checkpoint
from .errors import LandscapeError
from .weights import Weights

KINDS = ("weight", "bias", "norm")
Extent = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """One direction of a subspace. `weights` is one unit of the coordinate; `length` is its Euclidean norm."""

    weights: Weights
    label: str
    units: str
    length: float


@dataclass(frozen=True, repr=False)
class Subspace:
    """Points origin + sum of c_i * axis_i, with axes orthogonal in the Euclidean inner product.

    Every point is computed from the origin. Buffers (running statistics ...) are the origin's everywhere.
    markers: the checkpoints that the subspace was made from, origin first.
    """

    names: ClassVar[tuple[str, ...]] = ()

    origin: Checkpoint
    axes: tuple[Axis, ...]
    markers: tuple[Checkpoint, ...]
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.names):
            raise LandscapeError(f"A {type(self).__name__} has {len(self.names)} axes; got {len(self.axes)}.")
        for i, axis in enumerate(self.axes):
            if not np.isfinite(axis.length) or axis.length == 0:
                raise LandscapeError(f"Axis '{axis.label}' has length {axis.length}; there is nowhere to go.")
            for other in self.axes[:i]:
                cosine = axis.weights.dot(other.weights) / (axis.length * other.length)
                if abs(cosine) > 1e-4:
                    raise LandscapeError(f"Axes '{other.label}' and '{axis.label}' are oblique: cos = {cosine:.3g}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r})"

    @property
    def title(self) -> str:
        names = " – ".join(marker.name for marker in self.markers)
        return f"{self.kind} {type(self).__name__.lower()} {'through' if len(self.markers) > 1 else 'at'} {names}"

    @property
    def equal_aspect(self) -> bool:
        """Whether a unit means the same on every axis, so that pictures keep angles."""
        return len({axis.units for axis in self.axes}) == 1

    def point(self, *coordinates: float) -> Weights:
        """The weights at the given coordinates, in the dtype of the origin."""
        if len(coordinates) != len(self.axes):
            raise LandscapeError(f"{type(self).__name__}.point needs {len(self.axes)} coordinates: {self.names}.")
        weights = self.origin.weights
        for coordinate, axis in zip(coordinates, self.axes, strict=True):
            weights = weights.add(axis.weights, scale=float(coordinate))
        return weights

    def project(self, weights: Weights | Checkpoint) -> tuple[np.ndarray, float]:
        """Coordinates [axes] of the nearest point of the subspace, and the Euclidean distance to it."""
        if isinstance(weights, Checkpoint):
            weights = weights.weights
        rest = weights.to(torch.float64) - self.origin.weights.to(torch.float64)
        coordinates = np.array([rest.dot(a.weights) / a.weights.dot(a.weights) for a in self.axes])
        for coordinate, axis in zip(coordinates, self.axes, strict=True):
            rest = rest.add(axis.weights.to(torch.float64), scale=-float(coordinate))
        return coordinates, rest.norm()

    def default_extent(self) -> Extent:
        """(low, high) of each axis: 1 either side of a lone origin, else all markers with a margin of 0.2."""
        if len(self.markers) == 1:
            return ((-1.0, 1.0),) * len(self.axes)
        spots = np.array([self.project(marker)[0] for marker in self.markers])
        low, high = spots.min(0), spots.max(0)
        longest = (high - low).max()
        unspanned = high - low < longest / 4  # drawn as long as the longest, markers in the middle
        middle = (low + high) / 2
        low = np.where(unspanned, middle - longest / 2, low) - 0.2 * longest
        high = np.where(unspanned, middle + longest / 2, high) + 0.2 * longest
        return tuple((round(float(lo), 6), round(float(hi), 6)) for lo, hi in zip(low, high, strict=True))

    def provenance(self) -> dict[str, Any]:
        """What determines the points of this subspace, as JSON-ready facts."""
        return {
            "subspace": type(self).__name__,
            "kind": self.kind,
            "checkpoints": [
                {"name": m.name, "sha256": m.digest, "source": m.source.rpartition("/")[2], **m.info}
                for m in self.markers
            ],
            "axes": [{"label": a.label, "units": a.units, "length": a.length} for a in self.axes],
            "buffers": "of the origin",
            **self.facts,
        }

    @classmethod
    def random(
        cls,
        checkpoint: Checkpoint,
        seed: int = 0,
        *,
        include: Collection[str] = ("weight",),
        frozen: bool = False,
    ) -> Self:
        """Through a checkpoint along random filter-normalised directions (Li et al. 2018, arXiv:1712.09913).

        Gaussian directions from a generator of their own, orthogonal within each filter and each filter
        rescaled to the norm of the checkpoint's: coordinate 1 moves every filter by its own norm. A filter is
        one output unit; a tensor whose filters have one entry counts as one filter.

        include: which of "weight", "bias", "norm" (scale and shift of normalisation layers) move.
        frozen: whether parameters with requires_grad=False move too.
        """
        unknown = set(include) - set(KINDS)
        if unknown or not include:
            raise LandscapeError(f"include is {sorted(include)}; accepted are some of {list(KINDS)}.")
        directions = filter_normalised(checkpoint.weights, len(cls.names), seed, include, frozen)
        axes = tuple(_axis(d, checkpoint, f"random direction {i}", "filter norms") for i, d in enumerate(directions, 1))
        facts = {"seed": seed, "normalisation": "filter", "include": sorted(include), "frozen_move": frozen}
        return cls(checkpoint, axes, (checkpoint,), "random filter-normalised", facts)


class Line(Subspace):
    """One axis; its coordinate is `t`."""

    names = ("t",)

    @classmethod
    def through(cls, start: Checkpoint, end: Checkpoint) -> Line:
        """The straight line from one checkpoint (t = 0) to another (t = 1)."""
        difference = _difference(start, end)
        axis = _axis(difference, start, f"{start.name} → {end.name}", "fraction of the way")
        return cls(start, (axis,), (start, end), "interpolation")


class Plane(Subspace):
    """Two axes; their coordinates are `a` and `b`."""

    names = ("a", "b")

    @classmethod
    def through(cls, first: Checkpoint, second: Checkpoint, third: Checkpoint | None = None, seed: int = 0) -> Plane:
        """The plane through three checkpoints, or through two along a random direction.

        Axis a leads from the first to the second; b is orthogonal to it, of the same length, on the side of the
        third. Coordinates are in units of the distance between the first two, so pictures show true angles and
        distances. Without a third, b is a filter-normalised random direction (`seed`) made orthogonal to a.
        """
        along = _difference(first, second)
        unit = along.norm()
        if third is None:
            across = filter_normalised(first.weights, 1, seed)[0].to(torch.float64)
            label, facts = (
                "random direction ⟂ a",
                {"seed": seed, "normalisation": "filter, then orthogonal to a"},
            )
        else:
            across = _difference(first, third)
            label, facts = f"towards {third.name}, ⟂ a", {}
        size = across.norm()
        for _ in range(2):
            across = across.add(along, scale=-across.dot(along) / unit**2)
        rest = across.norm()
        if rest < 1e-6 * size:
            raise LandscapeError(
                f"'{first.name}', '{second.name}' and '{third.name if third else 'the random direction'}' lie on one "
                "line; they span no plane. Choose another third checkpoint, or Line.through."
            )
        units = f"distance {first.name} – {second.name}"
        axes = (
            _axis(along, first, f"{first.name} → {second.name}", units),
            _axis(across * (unit / rest), first, label, units),
        )
        markers = (first, second) if third is None else (first, second, third)
        return cls(first, axes, markers, "checkpoint", facts)


def filter_normalised(
    weights: Weights,
    count: int,
    seed: int,
    include: Collection[str] = ("weight",),
    frozen: bool = False,
) -> list[Weights]:
    """`count` Gaussian directions, mutually orthogonal in each filter, each filter as long as the weights'.

    Raises LandscapeError if nothing would move.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in weights.items():
        entry = weights.structure.entries[name]
        filters = entry.to_filters(tensor.detach().cpu().double())
        shape = filters.shape
        if shape[1] == 1:
            filters = filters.reshape(1, -1)
        moves = entry.kind in include and (frozen or not entry.frozen)
        rows: list[Tensor] = []
        for _ in range(count):
            if moves:
                row = torch.randn(filters.shape, generator=generator, dtype=torch.float64)
                rows.append(_orthogonal(row, rows))
            else:
                rows.append(torch.zeros_like(filters))
        norms = filters.norm(dim=1, keepdim=True)
        for part, row in zip(parts, rows, strict=True):
            part[name] = entry.from_filters((row * norms).reshape(shape)).to(tensor)
    directions = [Weights(part, weights.structure) for part in parts]
    if any(direction.norm() == 0 for direction in directions):
        raise LandscapeError(
            f"No parameter would move: none of the kinds {sorted(include)} is trainable and non-zero in "
            f"{count} orthogonal directions. Pass include=('weight', 'bias', 'norm') or frozen=True."
        )
    return directions


def _orthogonal(row: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Each row of unit length and orthogonal to the same row of `others`; zero where no room is left."""
    row = row / row.norm(dim=1, keepdim=True)
    for _ in range(2):
        for other in others:
            row = row - (row * other).sum(1, keepdim=True) * other
        size = row.norm(dim=1, keepdim=True)
        row = torch.where(size > 1e-8, row / size, 0.0)
    return row


def _difference(start: Checkpoint, end: Checkpoint) -> Weights:
    """end - start in float64. Raises LandscapeError if the two are equal or of different shapes."""
    difference = end.weights.to(torch.float64) - start.weights.to(torch.float64)
    if difference.norm() == 0:
        raise LandscapeError(f"'{start.name}' and '{end.name}' hold the same weights; there is no line between them.")
    return difference


def _axis(direction: Weights, like: Checkpoint, label: str, units: str) -> Axis:
    dtype = next(iter(like.weights.values())).dtype
    return Axis(direction.to(dtype), label, units, direction.norm())
