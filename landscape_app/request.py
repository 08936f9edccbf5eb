"""What to compute: a slice of a problem's loss through some of its checkpoints, named by plain values."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from analysis import Checkpoint, LandscapeError, Line, Plane, Problem, over_seeds, surface

if TYPE_CHECKING:
    from landscape_app.spectrum.along import Along


@dataclass(frozen=True)
class Slice:
    """A kind of line or plane.

    roles: what the checkpoints it goes through are called; the last `optional` of them may be left out.
    dims: 1 for a line, 2 for a plane. make: (problem, checkpoints, request) to the line or plane. all_from: where it
    goes through all checkpoints of a problem instead, how many those must be at least. random: whether directions
    that its checkpoints leave open are drawn by the seed. options: the fields of a request that are for this kind.
    along: whether it lies along eigenvectors, and is centred where their spectrum was computed.
    """

    label: str
    dims: int
    roles: tuple[str, ...]
    make: Callable[[Problem, Sequence[Checkpoint], Request], Line | Plane]
    optional: int = 0
    all_from: int = 0
    random: bool = True
    options: tuple[str, ...] = ()
    along: bool = False

    @property
    def needs(self) -> int:
        """How many checkpoints it needs at least."""
        return self.all_from or len(self.roles) - self.optional

    @property
    def aimless(self) -> bool:
        """Whether all of its directions are random."""
        return self.options == RANDOM

    def takes(self, given: int) -> bool:
        """Whether it goes through that many checkpoints."""
        return self.needs <= given and (bool(self.all_from) or given <= len(self.roles))

    def usual(self, names: Sequence[str]) -> tuple[str, ...]:
        """The checkpoints of a problem that it goes through where none is chosen: the last ones.

        A list of checkpoints is most often one run in the order of its steps, and its end is what was trained for; the
        command line and the dashboard both ask here.
        """
        return tuple(names) if self.all_from else tuple(names[max(0, len(names) - self.needs) :])

    def seeded(self, given: int) -> bool:
        """Whether a seed matters, when that many checkpoints are given."""
        return self.random and given <= self.dims


PREVIEW_SAMPLES = 64
PREVIEW_SECONDS = 0.5
PREVIEW_POINTS = 25  # a preview has at least; so many of the true picture take its place
SLOW_SECONDS = 0.02  # an evaluation, from which on those points take as long as the preview
RANDOM = ("normalisation", "include", "layers", "frozen")
THROUGH = ("centre", "basis", "units")
SLICES = {
    "random-plane": Slice(
        "Random plane",
        2,
        ("Checkpoint",),
        lambda _, c, r: Plane.random(c[0], r.seed, **r.given(RANDOM)),
        options=RANDOM,
    ),
    "random-line": Slice(
        "Random line", 1, ("Checkpoint",), lambda _, c, r: Line.random(c[0], r.seed, **r.given(RANDOM)), options=RANDOM
    ),
    "line": Slice("Line through two checkpoints", 1, ("From", "To"), lambda _, c, r: Line.through(*c)),
    "plane": Slice(
        "Plane through checkpoints",
        2,
        ("First", "Second", "Third"),
        lambda _, c, r: Plane.through(*c, seed=r.seed, **r.given(THROUGH)),
        optional=1,
        options=THROUGH,
    ),
    "gradient": Slice(
        "Steepest descent plane", 2, ("Checkpoint",), lambda p, c, _: Plane.gradient(p, c[0]), random=False
    ),
    "eigenvectors": Slice("Eigenvector plane", 2, (), lambda _, c, r: r.along.plane(c[0]), random=False, along=True),
    "trajectory": Slice("Trajectory plane", 2, (), lambda _, c, r: Plane.pca(c), all_from=3, random=False),
}


@dataclass(frozen=True)
class Request:
    """All that determines a surface. Two equal requests on the same project give the same result.

    checkpoints: names, in the order of the slice's roles. extent: (low, high) of each axis; None fits it to
    the checkpoints. tolerance: the interpolation error to stop at, as a fraction of the range; 0 evaluates each
    point. batchnorm: None keeps the problem's own policy. seeds: several instead of `seed`, for their mean and spread.
    normalisation, include, layers, frozen: of random directions, see `directions.random_directions`. centre, basis,
    units: of a plane through three checkpoints, see `Plane.through`. None is the usual. along: the eigenvectors of an
    eigenvector plane.
    """

    problem: str
    slice: str
    checkpoints: tuple[str, ...]
    seed: int = 0
    extent: tuple[tuple[float, float], ...] | None = None
    resolution: int | tuple[int, ...] = 101
    tolerance: float = 0.01
    batchnorm: str | None = None
    seeds: tuple[int, ...] = ()
    normalisation: str | None = None
    include: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None
    frozen: bool | None = None
    centre: str | None = None
    basis: str | None = None
    units: str | None = None
    along: Along | None = None

    def given(self, options: Sequence[str]) -> dict[str, Any]:
        """Those of some options that are not left out."""
        return {name: getattr(self, name) for name in options if getattr(self, name) is not None}

    def steps(
        self, project: Any, resume: xr.Dataset | None = None, preview: bool = False
    ) -> Generator[xr.Dataset, None, None]:
        """The results, better and better. Loading starts with the first step. Raises LandscapeError.

        resume: an earlier result of the same request, whose evaluated points are taken over. preview: where one
        evaluation takes long, the first results are pictures over few of the samples, with the attribute `preview_of`,
        the number of all; they are valid by themselves too.
        """
        kind = SLICES[self.slice]
        if not kind.takes(len(self.checkpoints)):
            raise LandscapeError(
                f"A {kind.label.lower()} goes through {_count(kind)}; {len(self.checkpoints)} were chosen."
            )
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise LandscapeError(f"A {kind.label.lower()} needs different checkpoints; choose another one.")
        unfit = [name for name in self.given((*RANDOM, *THROUGH)) if name not in kind.options]
        if unfit:
            takes = ", ".join(kind.options) or "none of these"
            raise LandscapeError(f"A {kind.label.lower()} has no option {', '.join(unfit)}; it takes {takes}.")
        if self.seeds and not kind.seeded(len(self.checkpoints)):
            raise LandscapeError(
                f"This {kind.label.lower()} has no random direction: each seed gives the same picture."
            )
        if resume is not None and "sample" not in resume.dims:
            raise LandscapeError("The earlier result holds no evaluated points; resume one of `landscape surface`.")
        if kind.along and self.along is None:
            raise LandscapeError("An eigenvector plane needs the vectors of a spectrum; choose one on its page.")
        problem, checkpoints = self._opened(project)
        options: dict[str, Any] = {
            "extent": self.extent,
            "resolution": self.resolution,
            "dense": self.tolerance == 0,
            "resume": resume,
            **({"tolerance": self.tolerance} if self.tolerance else {}),
        }
        if self.seeds:
            make = lambda seed: kind.make(problem, checkpoints, replace(self, seed=seed))  # noqa: E731
            yield from over_seeds(problem, make, self.seeds, **options)
        elif self.along:
            with closing(surface(problem, kind.make(problem, checkpoints, self), **options)) as steps:
                for ds in steps:
                    yield self.along.with_parabolas(ds)
        else:
            space = kind.make(problem, checkpoints, self)
            steps = surface(problem, space, **options)
            yield from _after_preview(problem, space, options, steps) if preview and resume is None else steps

    def opened(self, project: Any) -> tuple[Problem, Line | Plane]:
        """The problem under the policy that was asked for, and the line or plane itself. Raises LandscapeError."""
        problem, checkpoints = self._opened(project)
        return problem, SLICES[self.slice].make(problem, checkpoints, self)

    def _opened(self, project: Any) -> tuple[Problem, list[Checkpoint]]:
        if self.along:
            problem, checkpoint = self.along.spectrum.held(project)
            return problem, [checkpoint]
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        return problem, [project.checkpoint(self.problem, name) for name in self.checkpoints]


def _after_preview(
    problem: Problem, space: Line | Plane, options: dict[str, Any], steps: Generator[xr.Dataset, None, None]
) -> Generator[xr.Dataset, None, None]:
    """The results of `surface`; first, if they would take long to be a picture, that of a few samples."""
    few = None
    if problem.free_blocks and problem.n >= 4 * PREVIEW_SAMPLES and problem.conduct.seconds > SLOW_SECONDS:
        start = time.perf_counter()
        with closing(surface(problem.with_samples(PREVIEW_SAMPLES), space, **options)) as pictures:
            for ds in pictures:
                few = ds.assign_attrs(preview_of=problem.n, status="running", progress=0.0, eta_s=math.inf)
                yield few
                if time.perf_counter() - start > PREVIEW_SECONDS and ds.sizes["sample"] >= PREVIEW_POINTS:
                    break
    with closing(steps):
        for ds in steps:
            facts = ds.attrs
            if few is None or facts["status"] != "running" or facts["evaluations"] >= PREVIEW_POINTS:
                few = None
                yield ds
            else:
                yield few.assign_attrs({name: facts[name] for name in ("progress", "eta_s", "elapsed_s")})


def going_on(request: Request, project: Any, earlier: xr.Dataset) -> Generator[xr.Dataset, None, None]:
    """The results of a request from what an earlier one evaluated on, never with less; anew where that does not fit."""
    steps = request.steps(project, resume=earlier)
    try:
        first = next(steps)
    except LandscapeError:  # a file of other data or weights; what else is wrong is raised again
        yield from request.steps(project)
        return
    with closing(steps):
        for ds in itertools.chain([first], steps):
            behind = ds.attrs["status"] == "running" and ds.sizes["sample"] < earlier.sizes["sample"]
            yield earlier if behind else ds


def directions(
    normalisation: str = "filter",
    include: Sequence[str] = ("weight",),
    layers: Sequence[str] | None = None,
    frozen: bool = False,
) -> dict[str, Any]:
    """Options of random directions as a Request has them: None for the usual."""
    return {
        "normalisation": None if normalisation == "filter" else normalisation,
        "include": None if tuple(include) == ("weight",) else tuple(sorted(include)),
        "layers": tuple(layers) if layers else None,
        "frozen": frozen or None,
    }


def _count(kind: Slice) -> str:
    if kind.all_from:
        return f"{kind.needs} or more checkpoints"
    most = len(kind.roles)
    numbers = str(most) if not kind.optional else f"{kind.needs} or {most}"
    return f"{numbers} checkpoint{'' if numbers == '1' else 's'}"
