"""What to compute for one pair of checkpoints: the plane that shows their paths, a curve, the barriers of layers."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, cast

import xarray as xr

from analysis import Checkpoint, LandscapeError, Plane, Problem, provenance, surface
from analysis.connectivity import CurveSearch, find_symmetries, layer_barriers, match_many
from analysis.connectivity.curves import Curve
from landscape_app.connectivity.request import NONE, Matched

MATCHED, CURVE = "matched", "curve"  # what the third checkpoint of a plane is


@dataclass
class Trained:
    """The curve that a job trains, which it fills in."""

    curve: Curve | None = None


@dataclass(frozen=True)
class PairRequest:
    """What is asked for about the pair from `first` to `second`, names of checkpoints of a problem.

    batchnorm: None keeps the problem's own policy.
    """

    kind: ClassVar[str] = ""
    problem: str
    first: str
    second: str
    batchnorm: str | None = None

    def problem_of(self, project: Any) -> Problem:
        """The problem under the policy that was asked for."""
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        return problem

    def ends(self, project: Any) -> tuple[Problem, Checkpoint, Checkpoint]:
        """That problem, and the two checkpoints."""
        names = self.first, self.second
        return self.problem_of(project), *(project.checkpoint(self.problem, name) for name in names)

    def marked(self, steps: Iterator[xr.Dataset]) -> Iterator[xr.Dataset]:
        """The results, with what was asked for in their provenance."""
        with closing(cast(Generator, steps)) as found:
            for ds in found:
                facts = provenance(ds) | {"asked": asdict(self)}
                yield ds.assign_attrs(kind=self.kind, provenance=json.dumps(facts))


@dataclass(frozen=True)
class PlaneRequest(PairRequest):
    """The loss over the plane through A, B and a third: B in the units of A, or the bend of the curve between them.

    checkpoints, matching: all that were brought to common units, and how, as a ConnectivityRequest has them.
    third: MATCHED or CURVE. updates: steps of the curve's training.
    """

    kind = "plane"
    checkpoints: tuple[str, ...] = ()
    matching: str = "activations"
    third: str = MATCHED
    updates: int = 0

    def steps(
        self, project: Any, matched: Matched | None = None, trained: Trained | None = None
    ) -> Generator[xr.Dataset, None, None]:
        """The surface, coarse to fine. matched, trained: what the session has already. Raises LandscapeError."""
        problem = self.problem_of(project)
        if self.third == CURVE:
            if trained is None or trained.curve is None:
                raise LandscapeError("This session has no curve between the two: train one first.")
            plane = trained.curve.plane()
        else:
            matched = self._matched(project, problem, matched)
            first, second = (self.checkpoints.index(name) for name in (self.first, self.second))
            a, b = matched.checkpoints[first], matched.checkpoints[second]  # as they were when they were matched
            moved = matched.to(first, second)
            if (moved.weights - b.weights).norm() == 0:
                raise LandscapeError(
                    f"Matching moves no unit of '{b.name}', so it spans no plane with itself and '{a.name}'. Look at "
                    "another pair, or draw the plane of a curve."
                )
            plane = Plane.through(a, b, moved)
        yield from self.marked(surface(problem, plane))

    def _matched(self, project: Any, problem: Problem, matched: Matched | None) -> Matched:
        if self.matching == NONE:
            raise LandscapeError("Nothing was matched: choose how, and compute the paths first.")
        if matched is None:
            every = tuple(project.checkpoint(self.problem, name) for name in self.checkpoints)
            found = match_many(find_symmetries(problem), every, method=self.matching, problem=problem)
            matched = Matched(every, found)
        return matched


@dataclass(frozen=True)
class CurveRequest(PairRequest):
    """A quadratic Bezier curve of low loss between the two, as they are. updates: steps of training."""

    kind = "curve"
    updates: int = 1000
    convention: str = "sup"

    def steps(self, project: Any, trained: Trained | None = None) -> Generator[xr.Dataset, None, None]:
        """The losses along the curve while it is trained. trained: is filled in. Raises LandscapeError."""
        search = CurveSearch(*self.ends(project), steps=self.updates, convention=self.convention)
        for ds in self.marked(search.steps()):
            if trained is not None:
                trained.curve = search.curve
            yield ds


@dataclass(frozen=True)
class LayersRequest(PairRequest):
    """What each layer alone, and layers together, add to the loss half-way between the two."""

    kind = "layers"

    def steps(self, project: Any) -> Generator[xr.Dataset, None, None]:
        """The barriers, which fill up. Raises LandscapeError."""
        yield from self.marked(layer_barriers(*self.ends(project)))
