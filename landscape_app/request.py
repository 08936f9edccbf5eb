"""What to compute: a slice of a problem's loss through some of its checkpoints, named by plain values."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from analysis import Checkpoint, LandscapeError, Line, Plane, Problem, surface


@dataclass(frozen=True)
class Slice:
    """A kind of line or plane.

    roles: what the checkpoints it goes through are called; the last `optional` of them may be left out.
    dims: 1 for a line, 2 for a plane. make: (problem, checkpoints, seed) to the line or plane. all_from: where it
    goes through all checkpoints of a problem instead, how many those must be at least. random: whether directions
    that its checkpoints leave open are drawn by the seed.
    """

    label: str
    dims: int
    roles: tuple[str, ...]
    make: Callable[[Problem, Sequence[Checkpoint], int], Line | Plane]
    optional: int = 0
    all_from: int = 0
    random: bool = True

    @property
    def needs(self) -> int:
        """How many checkpoints it needs at least."""
        return self.all_from or len(self.roles) - self.optional

    def takes(self, given: int) -> bool:
        """Whether it goes through that many checkpoints."""
        return self.needs <= given and (bool(self.all_from) or given <= len(self.roles))

    def seeded(self, given: int) -> bool:
        """Whether a seed matters, when that many checkpoints are given."""
        return self.random and given <= self.dims


SLICES = {
    "random-plane": Slice("Random plane", 2, ("Checkpoint",), lambda _, c, seed: Plane.random(c[0], seed=seed)),
    "random-line": Slice("Random line", 1, ("Checkpoint",), lambda _, c, seed: Line.random(c[0], seed=seed)),
    "line": Slice("Line through two checkpoints", 1, ("From", "To"), lambda _, c, seed: Line.through(*c)),
    "plane": Slice(
        "Plane through checkpoints",
        2,
        ("First", "Second", "Third"),
        lambda _, c, seed: Plane.through(*c, seed=seed),
        optional=1,
    ),
    "gradient": Slice(
        "Steepest descent plane", 2, ("Checkpoint",), lambda p, c, _: Plane.gradient(p, c[0]), random=False
    ),
    "trajectory": Slice("Trajectory plane", 2, (), lambda _, c, seed: Plane.pca(c), all_from=3, random=False),
}


@dataclass(frozen=True)
class Request:
    """All that determines a surface. Two equal requests on the same project give the same result.

    checkpoints: names, in the order of the slice's roles. extent: (low, high) of each axis; None fits it to
    the checkpoints. tolerance: the interpolation error to stop at, as a fraction of the range; 0 evaluates each
    point. batchnorm: None keeps the problem's own policy.
    """

    problem: str
    slice: str
    checkpoints: tuple[str, ...]
    seed: int = 0
    extent: tuple[tuple[float, float], ...] | None = None
    resolution: int | tuple[int, ...] = 101
    tolerance: float = 0.01
    batchnorm: str | None = None

    def steps(self, project: Any) -> Generator[xr.Dataset, None, None]:
        """The results, better and better. Loading starts with the first step. Raises LandscapeError."""
        kind = SLICES[self.slice]
        if not kind.takes(len(self.checkpoints)):
            raise LandscapeError(
                f"A {kind.label.lower()} goes through {_count(kind)}; {len(self.checkpoints)} were chosen."
            )
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise LandscapeError(f"A {kind.label.lower()} needs different checkpoints; choose another one.")
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        checkpoints = [project.checkpoint(self.problem, name) for name in self.checkpoints]
        yield from surface(
            problem,
            kind.make(problem, checkpoints, self.seed),
            extent=self.extent,
            resolution=self.resolution,
            dense=self.tolerance == 0,
            **({"tolerance": self.tolerance} if self.tolerance else {}),
        )


def _count(kind: Slice) -> str:
    if kind.all_from:
        return f"{kind.needs} or more checkpoints"
    most = len(kind.roles)
    numbers = str(most) if not kind.optional else f"{kind.needs} or {most}"
    return f"{numbers} checkpoint{'' if numbers == '1' else 's'}"
