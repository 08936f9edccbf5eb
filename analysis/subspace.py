"""Lines and planes in weight space: an origin, orthogonal axes, and coordinates in units of the axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch

from .checkpoints import Checkpoint, refuse_unread
from .directions import random_directions
from .errors import LandscapeError, misplaced
from .weights import Weights, refuse_unnamed

if TYPE_CHECKING:
    from .problem import Problem

Extent = tuple[tuple[float, float], ...]
CENTRES = ("first", "mean", "min-norm")
BASES = {"gram-schmidt": "pair", "svd": "norm", "affine": "affine"}  # and the units of each where none are asked for
UNITS = ("pair", "norm", "rms")


@dataclass(frozen=True)
class Axis:
    """One direction of a subspace. `weights` is one unit of the coordinate; `length` is its Euclidean norm."""

    weights: Weights
    label: str
    units: str
    length: float


@dataclass(frozen=True, repr=False)
class Subspace:
    """Points origin + sum of c_i * axis_i, with axes orthogonal in the Euclidean inner product unless `oblique`.

    Every point is computed from the origin. Buffers (running statistics ...) are the origin's everywhere.
    markers: the checkpoints that the subspace was made from, in their own order.
    """

    names: ClassVar[tuple[str, ...]] = ()

    origin: Checkpoint
    axes: tuple[Axis, ...]
    markers: tuple[Checkpoint, ...]
    kind: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    oblique: bool = False

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.names):
            raise LandscapeError(f"A {type(self).__name__} has {len(self.names)} axes; got {len(self.axes)}.")
        for i, axis in enumerate(self.axes):
            if not np.isfinite(axis.length) or axis.length == 0:
                raise LandscapeError(f"Axis '{axis.label}' has length {axis.length}; there is nowhere to go.")
            for other in self.axes[:i]:
                cosine = axis.weights.dot(other.weights) / (axis.length * other.length)
                rounding = torch.finfo(next(iter(axis.weights.values())).dtype).eps
                if not self.oblique and abs(cosine) > max(1e-4, rounding):
                    raise LandscapeError(f"Axes '{other.label}' and '{axis.label}' are oblique: cos = {cosine:.3g}.")
                if abs(cosine) > 1 - 1e-9:
                    raise LandscapeError(f"Axes '{other.label}' and '{axis.label}' are parallel; they span no plane.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r})"

    @property
    def title(self) -> str:
        names = [marker.name for marker in self.markers]
        if len(names) > 3:
            names = [names[0], "…", names[-1]]
        where = "through" if len(names) > 1 else "at"
        return f"{self.kind} {type(self).__name__.lower()} {where} {' – '.join(names)}"

    @property
    def equal_aspect(self) -> bool:
        """Whether a unit means the same on every axis, so that pictures keep angles."""
        return not self.oblique and len({axis.units for axis in self.axes}) == 1

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
        refuse_unnamed(weights)
        rest = weights.to(torch.float64) - self.origin.weights.to(torch.float64)
        along = np.array([rest.dot(a.weights) for a in self.axes])
        if self.oblique:
            coordinates = np.linalg.solve([[a.weights.dot(b.weights) for b in self.axes] for a in self.axes], along)
        else:
            coordinates = along / [a.weights.dot(a.weights) for a in self.axes]
        for coordinate, axis in zip(coordinates, self.axes, strict=True):
            rest = rest.add(axis.weights.to(torch.float64), scale=-float(coordinate))
        return coordinates, rest.norm()

    def default_extent(self, points: int = 101) -> Extent:
        """(low, high) of each axis: 1 either side of a lone origin, else all markers with a margin.

        The margin is about a seventh of the picture, such that of `points` along the longest axis one lies on the
        first marker of that axis and one on its last.
        """
        if len(self.markers) == 1:
            return ((-1.0, 1.0),) * len(self.axes)
        spots = np.array([self.project(marker)[0] for marker in self.markers])
        low, high = spots.min(0), spots.max(0)
        longest = (high - low).max()
        cells = max(1, round((points - 1) / 7))
        margin = longest * cells / max(1, points - 1 - 2 * cells)
        unspanned = high - low < longest / 4  # drawn as long as the longest, markers in the middle
        middle = (low + high) / 2
        low = np.where(unspanned, middle - longest / 2, low) - margin
        high = np.where(unspanned, middle + longest / 2, high) + margin
        return tuple((float(lo), float(hi)) for lo, hi in zip(low, high, strict=True))

    def provenance(self) -> dict[str, Any]:
        """What determines the points of this subspace, as JSON-ready facts."""
        return {
            "subspace": type(self).__name__,
            "kind": self.kind,
            "checkpoints": [
                {"name": m.name, "sha256": m.digest, "source": m.source.rpartition("/")[2], **m.info}
                for m in self.markers
            ],
            "axes": [
                {"label": a.label, "units": a.units, "length": a.length, "sha256": a.weights.digest()}
                for a in self.axes
            ],
            "buffers": "of the origin",
            **self.facts,
        }

    @classmethod
    def random(
        cls,
        checkpoint: Checkpoint,
        seed: int = 0,
        *,
        normalisation: str = "filter",
        include: Collection[str] = ("weight",),
        layers: Collection[str] | None = None,
        frozen: bool = False,
    ) -> Self:
        """Through a checkpoint along random directions; coordinate 1 moves every filter by its own norm.

        Options: see `directions.random_directions`. Raises LandscapeError.
        """
        options: dict[str, Any] = {
            "normalisation": normalisation,
            "include": sorted([include] if isinstance(include, str) else include),
            "layers": layers if layers is None or isinstance(layers, str) else list(layers),
            "frozen": frozen,
        }
        refuse_unread(checkpoint)
        directions = random_directions(checkpoint.weights, len(cls.names), seed, **options)
        axes = tuple(
            _axis(direction, checkpoint, f"random direction {i}", f"{normalisation} norms")
            for i, direction in enumerate(directions, 1)
        )
        kind = f"random {normalisation}-normalised"
        return cls(checkpoint, axes, (checkpoint,), kind, {"seed": seed, **options})

    @classmethod
    def along(
        cls, checkpoint: Checkpoint, *directions: Weights, labels: Sequence[str] = (), units: str = "weight space"
    ) -> Self:
        """Through a checkpoint along given directions, made orthogonal in their order; one unit is distance 1.

        For gradients and eigenvectors. A missing direction is filled by a filter-normalised random one (seed 0).
        """
        refuse_unread(checkpoint)
        refuse_unnamed(*directions)
        given = list(directions)
        names = [*labels, *(f"direction {i}" for i in range(len(labels) + 1, len(given) + 1))]
        if len(given) < len(cls.names):
            if all(entry.frozen for entry in checkpoint.weights.structure.entries.values()):
                raise LandscapeError(
                    "The second axis of the plane would be random, and every parameter is frozen: give a second "
                    "direction, draw a Line, or set requires_grad of what may move."
                )
            given += random_directions(checkpoint.weights, 1, seed=0)
            names.append("random direction")
        axes = [_axis(v, checkpoint, name, units) for v, name in zip(_orthonormal(given, names), names, strict=True)]
        return cls(checkpoint, tuple(axes), (checkpoint,), "directed")

    @classmethod
    def gradient(cls, problem: Problem, checkpoint: Checkpoint) -> Self:
        """Downhill from a checkpoint: along the negative gradient of the problem's loss, one unit is distance 1.

        A plane's second axis is random. Under batchnorm "recalibrated" the gradient holds the statistics constant,
        while the loss that is drawn follows them, so its slope is another: see `Problem.gradient`. Raises
        LandscapeError where the gradient is zero.
        """
        refuse_unread(checkpoint)
        held = ", BatchNorm statistics held" if problem.batchnorm == "recalibrated" else ""
        space = cls.along(checkpoint, -1.0 * problem.gradient(checkpoint), labels=[f"steepest descent{held}"])
        return replace(space, kind="gradient")


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
    def through(
        cls,
        first: Checkpoint,
        second: Checkpoint,
        third: Checkpoint | None = None,
        seed: int = 0,
        *,
        centre: str = "first",
        basis: str = "gram-schmidt",
        units: str | None = None,
    ) -> Plane:
        """The plane through three checkpoints, or through two along a random direction.

        Axis a leads from the first to the second; b is orthogonal to it, of the same length, on the side of the
        third. Coordinates are in units of the distance between the first two, so pictures show true angles and
        distances. Without a third, b is a filter-normalised random direction (`seed`) made orthogonal to a.

        The options say where the coordinates of a plane through three checkpoints are 0 and along what they count; the
        plane is the same. They are those of Sarnthein et al. 2023 (Random Teachers are Good Teachers,
        arXiv:2302.12091) beside our own default.

        centre: the origin: the "first" checkpoint, the "mean" of the three, or "min-norm", the point of the plane that
            is nearest to zero weights. Buffers are those of the first checkpoint everywhere.
        basis: with e1 and e2 leading from the centre to the second and the third checkpoint,
            "gram-schmidt": the directions from the first to the second checkpoint and to the third, orthonormal in
            this order; "svd": the left singular vectors of the matrix [e1 e2], largest singular value first, with signs
            that put the first checkpoint at the lower left of the mean of the three; "affine": e1 and e2 themselves,
            so that the second lies at (1, 0) and the third at (0, 1). An affine basis is oblique: its picture shows
            neither angles nor distances, and the result records its `angle_degrees`.
        units: what one unit of an orthonormal basis is: "pair", the distance between the first two checkpoints (default
            of "gram-schmidt"); "norm", Euclidean distance 1 (default of "svd"); or "rms", distance sqrt(numel / 2),
            so that the root mean square over a point's two coordinates is that over the entries of its displacement.

        Raises LandscapeError for unknown or unfit options, and if the checkpoints lie on one line.
        """
        units = _valid_options(third, centre, basis, units)
        along = _difference(first, second)
        if third is None:
            across, label = random_directions(first.weights, 1, seed)[0], "random direction ⟂ a"
            facts: dict[str, Any] = {"seed": seed, "normalisation": "filter, then orthogonal to a"}
        else:
            across, label, facts = _difference(first, third), f"towards {third.name}, ⟂ a", {}
        markers = (first, second) if third is None else (first, second, third)
        orthonormal = _orthonormal([along, across], [f"{first.name} → {second.name}", label])
        if (centre, basis, units) != ("first", "gram-schmidt", "pair"):
            facts |= {"centre": centre, "basis": basis, "units": units, "buffers": f"of {first.name}"}
        origin = _centre(markers, centre, orthonormal)
        spread = [m.weights.to(torch.float64) - origin.weights.to(torch.float64) for m in markers]
        labels = [f"{first.name} → {second.name}", label]
        if basis == "svd":
            orthonormal = _singular(spread, orthonormal)
            labels = ["singular direction 1", "singular direction 2"]
        length, unit = {
            "pair": (along.norm(), f"distance {first.name} – {second.name}"),
            "norm": (1.0, "weight space"),
            "rms": ((first.weights.numel / 2) ** 0.5, "root mean square over weights"),
            "affine": (1.0, ""),
        }[units]
        if basis == "affine":
            axes = tuple(
                _axis(v, first, f"{origin.name} → {m.name}", f"fraction of the way to {m.name}")
                for v, m in zip(spread[1:], markers[1:], strict=True)
            )
            cosine = spread[1].dot(spread[2]) / (spread[1].norm() * spread[2].norm())
            facts["angle_degrees"] = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        else:
            axes = tuple(_axis(v * length, first, name, unit) for v, name in zip(orthonormal, labels, strict=True))
        return cls(origin, axes, markers, "checkpoint", facts, oblique=basis == "affine")

    @classmethod
    def pca(cls, checkpoints: Sequence[Checkpoint]) -> Plane:
        """The two principal directions of a trajectory, through its last checkpoint; one unit is distance 1.

        From the eigenvectors of the T x T Gram matrix of centred displacements. `facts["explained_variance"]`
        holds the share of every component, largest first. The first checkpoint lies on the negative side of a.
        The plane does not hold the trajectory: a result gives each checkpoint's residual and true loss.

        Raises LandscapeError for fewer than three checkpoints, or if they lie on one line.
        """
        if len(checkpoints) < 3:
            raise LandscapeError(f"A trajectory of {len(checkpoints)} checkpoints spans no plane; take 3 or more.")
        refuse_unread(*checkpoints)
        last = checkpoints[-1]
        steps = [point.weights.to(torch.float64) - last.weights.to(torch.float64) for point in checkpoints]
        gram = np.zeros((len(steps), len(steps)))
        for name in last.weights:
            rows = torch.stack([step[name].flatten() for step in steps])
            gram += (rows @ rows.T).cpu().numpy()
        centring = np.eye(len(steps)) - 1 / len(steps)
        variance, vectors = np.linalg.eigh(centring @ gram @ centring)
        variance, vectors = variance[::-1].clip(0), centring @ vectors[:, ::-1]
        if variance[1] < 1e-12 * variance[0] or variance[0] == 0:
            raise LandscapeError("The checkpoints lie on one line; they span no plane. Use Line.through.")
        directions = []
        for k in range(2):
            direction = steps[0].zeros()
            for weight, step in zip(vectors[:, k], steps, strict=True):
                direction = direction.add(step, scale=float(weight))
            directions.append(direction * (-1.0 if direction.dot(steps[0]) > 0 else 1.0))
        labels = ["principal direction 1", "principal direction 2"]
        axes = tuple(
            _axis(v, last, name, "weight space")
            for v, name in zip(_orthonormal(directions, labels), labels, strict=True)
        )
        share = (variance / variance.sum()).tolist()
        return cls(last, axes, tuple(checkpoints), "trajectory", {"explained_variance": share})


def refuse_other(subspace: Any) -> None:
    """Raise LandscapeError for what is no line or plane."""
    if not isinstance(subspace, Subspace):
        remedy = "make one, as by Plane.random(checkpoint) or Line.through(first, second)"
        raise LandscapeError(misplaced(subspace, "a line or plane is", remedy))


def _valid_options(third: Checkpoint | None, centre: str, basis: str, units: str | None) -> str:
    """The units that the options of a plane through checkpoints come to. Raises LandscapeError."""
    chosen = {"centre": (centre, CENTRES), "basis": (basis, tuple(BASES)), "units": (units, (None, *UNITS))}
    for option, (value, accepted) in chosen.items():
        if value not in accepted:
            raise LandscapeError(f"{option} is {value!r}; accepted are {[a for a in accepted if a]}.")
    if third is None and (centre, basis, units) != ("first", "gram-schmidt", None):
        raise LandscapeError("centre, basis and units need three checkpoints; give a third, or leave them out.")
    if basis == "affine" and units is not None:
        raise LandscapeError(f"units is {units!r}; an affine basis has its own: leave units out, or take basis='svd'.")
    return units or BASES[basis]


def _centre(markers: Sequence[Checkpoint], centre: str, orthonormal: Sequence[Weights]) -> Checkpoint:
    """The origin of a plane through checkpoints, with the buffers of the first."""
    first = markers[0]
    if centre == "first":
        return first
    weights = first.weights.to(torch.float64)
    if centre == "mean":
        for marker in markers[1:]:
            weights = weights + marker.weights.to(torch.float64)
        weights = weights * (1 / len(markers))
    else:
        for _ in range(2):
            for direction in orthonormal:
                weights = weights.add(direction, scale=-weights.dot(direction))
    return Checkpoint(weights.to(_dtype(first)), first.buffers, "mean" if centre == "mean" else "nearest to 0")


def _singular(spread: Sequence[Weights], orthonormal: Sequence[Weights]) -> list[Weights]:
    """The left singular vectors of displacements 1 and 2 of the three, all within an orthonormal basis."""
    inside = np.array([[e.dot(v) for e in orthonormal] for v in spread])
    vectors = np.linalg.svd(inside[1:].T)[0]
    low = (inside[0] - inside.mean(0)) @ vectors
    vectors = vectors * np.where(low > 0, -1.0, 1.0)
    return [(orthonormal[0] * float(column[0])).add(orthonormal[1], scale=float(column[1])) for column in vectors.T]


def _orthonormal(directions: Sequence[Weights], labels: Sequence[str]) -> list[Weights]:
    """Gram-Schmidt in float64, twice. Raises LandscapeError where a direction adds nothing to those before."""
    basis: list[Weights] = []
    for direction, label in zip(directions, labels, strict=True):
        rest = direction.to(torch.float64)
        size = rest.norm()
        for _ in range(2):
            for other in basis:
                rest = rest.add(other, scale=-rest.dot(other))
        length = rest.norm()
        if not length > 1e-6 * size:
            raise LandscapeError(
                f"The axis '{label}' is zero or lies along those before it: together they span no plane. "
                "Choose another checkpoint or direction, or a Line."
            )
        basis.append(rest * (1 / length))
    return basis


def _difference(start: Checkpoint, end: Checkpoint) -> Weights:
    """end - start in float64. Raises LandscapeError if the two are equal or of different shapes."""
    refuse_unread(start, end)
    difference = end.weights.to(torch.float64) - start.weights.to(torch.float64)
    if difference.norm() == 0:
        raise LandscapeError(f"'{start.name}' and '{end.name}' hold the same weights; there is no line between them.")
    return difference


def _axis(direction: Weights, like: Checkpoint, label: str, units: str) -> Axis:
    return Axis(direction.to(_dtype(like)), label, units, direction.norm())


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    return next(iter(checkpoint.weights.values())).dtype
