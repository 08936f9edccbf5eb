"""What to compute between checkpoints: the straight paths of all pairs, before and after matching."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import combinations
from typing import Any, cast

import numpy as np
import torch
import xarray as xr

from analysis import Checkpoint, LandscapeError, Problem
from analysis.connectivity import (
    Permutation,
    Symmetries,
    average,
    barrier,
    find_symmetries,
    match_many,
    repairable,
    repaired,
    repaired_barrier,
)
from analysis.connectivity.barrier import path_variables
from analysis.connectivity.damage import refuse_damaged
from analysis.connectivity.running import Progress
from analysis.provenance import versions

NONE = "none"
MATCHINGS = {NONE: "as they are", "weights": "matched by weights", "activations": "matched by activations"}
BEFORE, AFTER, REPAIRED = "before", "after", "repaired"
POINTS = 25  # of a path, before it is refined
Steps = Callable[[Checkpoint, Checkpoint], Iterator[xr.Dataset]]
NAMED = 8  # places of a group, the others are counted


@dataclass
class Matched:
    """Checkpoints in common units, which a job fills in: permutations[i] brings the i-th to the units of the first.

    merged: the average of all in these units, repaired if that was asked for.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    permutations: tuple[Permutation, ...] = ()
    merged: Checkpoint | None = None

    def to(self, a: int, b: int) -> Checkpoint:
        """Checkpoint b in the units of checkpoint a."""
        return self.permutations[b].then(self.permutations[a].inverse()).apply(self.checkpoints[b])


@dataclass(frozen=True)
class ConnectivityRequest:
    """All that determines the paths between checkpoints. Two equal requests on the same project give the same result.

    checkpoints: names, two or more. matching: of MATCHINGS. convention: what is called a barrier, as `barrier_height`
    has it. batchnorm: None keeps the problem's own policy. repair: whether the matched paths and the average are
    computed with their activations repaired (REPAIR, Jordan et al. 2023, arXiv:2211.08403) too; without matching
    nothing is.
    """

    problem: str
    checkpoints: tuple[str, ...]
    matching: str = "activations"
    convention: str = "sup"
    batchnorm: str | None = None
    repair: bool = False

    def steps(self, project: Any, matched: Matched | None = None) -> Generator[xr.Dataset, None, None]:
        """The results, which fill up pair by pair. matched: is filled in too. Raises LandscapeError."""
        if len(self.checkpoints) < 2:
            given = f"got '{self.checkpoints[0]}' alone" if self.checkpoints else "got none"
            raise LandscapeError(f"A path takes two or more checkpoints of '{self.problem}'; {given}. Choose another.")
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        checkpoints = [project.checkpoint(self.problem, name) for name in self.checkpoints]
        for checkpoint in checkpoints:
            refuse_damaged(checkpoint)
        yield from _Paths(self, problem, checkpoints, matched or Matched()).run()


class _Paths:
    """All paths of a request; a Dataset holds those that there are."""

    def __init__(
        self, request: ConnectivityRequest, problem: Problem, checkpoints: list[Checkpoint], matched: Matched
    ) -> None:
        self.request, self.problem, self.checkpoints, self.matched = request, problem, checkpoints, matched
        self.stages = (BEFORE,) if request.matching == NONE else (BEFORE, AFTER)
        self.pairs = list(combinations(range(len(checkpoints)), 2))
        self.measures = [m for m in problem.measures if m.name.startswith(("loss", "accuracy")) and not m.classes]
        self.progress = Progress(len(self.stages) * len(self.pairs) * POINTS)
        self.paths: dict[tuple[int, int], xr.Dataset] = {}  # by stage and pair
        self.done = 0  # paths
        self.doing = ""
        self.symmetries: dict[str, Any] | None = None
        self.repaired: list[str] | None = None  # layers
        self.merged: dict[str, tuple[float, float]] = {}
        self.said = self._provenance()

    def run(self) -> Iterator[xr.Dataset]:
        yield from self._along(0, self.checkpoints, self._straight)
        if AFTER in self.stages:
            self.doing = "Looking for symmetries"
            yield self._dataset("running")
            found = find_symmetries(self.problem)
            self.symmetries = report(found)
            if self.request.repair:
                self.repaired = repairable(found, self.problem.model)
                self.stages += (REPAIRED,) * bool(self.repaired)
            self.doing = "Matching"
            yield self._dataset("running")
            aligned = self._match(found)
            yield from self._along(1, aligned, self._straight)
            if self.repaired:
                yield from self._along(2, aligned, partial(self._repaired, found))
            self.doing = "Averaging"
            yield self._dataset("running")
            merged = average(self.problem, aligned)
            self.matched.merged = repaired(found, self.problem, merged, aligned) if self.repaired else merged
            self.merged = self.problem.measure(self.matched.merged)
        yield self._dataset("done")

    def _match(self, found: Symmetries) -> list[Checkpoint]:
        permutations = match_many(found, self.checkpoints, method=self.request.matching, problem=self.problem)
        self.matched.checkpoints, self.matched.permutations = tuple(self.checkpoints), permutations
        moved = zip(permutations[1:], self.checkpoints[1:], strict=True)
        return [self.checkpoints[0], *(permutation.apply(checkpoint) for permutation, checkpoint in moved)]

    def _along(self, stage: int, checkpoints: list[Checkpoint], steps: Steps) -> Iterator[xr.Dataset]:
        for pair, (i, j) in enumerate(self.pairs):
            names = " and ".join(self.request.checkpoints[k] for k in (i, j))
            self.doing = f"Between {names}{('', ', matched', ', repaired')[stage]}"
            before = self.progress.done
            for path in self._path(checkpoints[i], checkpoints[j], steps):
                self.paths[stage, pair] = path
                self.progress.done = before + path.attrs["evaluations"]
                if path.attrs["status"] == "running":
                    yield self._dataset("running")
            self.done += 1
            self.progress.planned = round(self.progress.done * len(self.stages) * len(self.pairs) / self.done)
            yield self._dataset("running")

    def _path(self, a: Checkpoint, b: Checkpoint, steps: Steps) -> Iterator[xr.Dataset]:
        if (a.weights - b.weights).norm() == 0:
            yield self._still(a)
            return
        with closing(cast(Generator, steps(a, b))) as found:
            yield from found

    def _straight(self, a: Checkpoint, b: Checkpoint) -> Iterator[xr.Dataset]:
        return barrier(self.problem, a, b, convention=self.request.convention, points=POINTS)

    def _repaired(self, found: Symmetries, a: Checkpoint, b: Checkpoint) -> Iterator[xr.Dataset]:
        options: dict[str, Any] = {"convention": self.request.convention, "points": POINTS}
        apart = (a.weights - b.weights).norm()
        for path in repaired_barrier(found, self.problem, a, b, **options):
            yield path.assign_attrs(distance=apart)

    def _still(self, checkpoint: Checkpoint) -> xr.Dataset:
        """The path between equal weights: the same values all along."""
        t = np.array([0.0, 0.5, 1.0])
        values = self.problem.measure(checkpoint)
        rows = {name: (np.stack([mean] * 3), np.stack([error] * 3)) for name, (mean, error) in values.items()}
        own = {name: np.stack([mean] * 2) for name, (mean, _) in values.items()}
        variables = path_variables(self.problem, t, rows, own, self.request.convention)
        facts = {"status": "done", "evaluations": 1, "distance": 0.0}
        return xr.Dataset(variables, coords={"t": t}, attrs=facts)

    def _dataset(self, status: str) -> xr.Dataset:
        most = max((path.sizes["t"] for path in self.paths.values()), default=0)
        shape = (len(self.stages), len(self.pairs))
        t, distance = np.full((*shape, most), np.nan), np.full(shape, np.nan)
        for at, path in self.paths.items():
            t[*at, : path.sizes["t"]], distance[at] = path["t"].values, path.attrs["distance"]
        variables: dict[str, Any] = {
            "t": (("stage", "pair", "place"), t, {"long_name": "fraction of the way"}),
            "distance": (("stage", "pair"), distance, {"long_name": "distance of the weights"}),
        }
        for measure in self.measures:
            about = {"long_name": measure.long_name, "units": measure.units}
            variables |= self._values(measure.name, about, t.shape)
        first, second = np.array(self.pairs).T
        coords = {
            "stage": np.array(self.stages, dtype=object),
            "name": ("checkpoint", np.array(self.request.checkpoints, dtype=object)),
            "first": ("pair", first),
            "second": ("pair", second),
        }
        return xr.Dataset(variables, coords=coords, attrs=self._attributes(status))

    def _values(self, name: str, about: dict[str, str], shape: tuple[int, ...]) -> dict[str, Any]:
        """Variables of one metric: along the paths, at the checkpoints, and the barriers of the finished paths."""
        values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
        heights, places = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
        own = np.full(len(self.checkpoints), np.nan)
        for at, path in self.paths.items():
            n = path.sizes["t"]
            values[*at, :n], errors[*at, :n] = path[name].values, path[f"{name}_se"].values
            own[list(self.pairs[at[1]])] = path[f"marker_{name}"].values
            if path.attrs["status"] == "done":
                heights[at], places[at] = float(path[f"{name}_barrier"]), float(path[f"{name}_barrier_at"])
        along, pairs = ("stage", "pair", "place"), ("stage", "pair")
        said = f"barrier of {name} ({self.request.convention})"
        merged = self.merged[name][0] if name in self.merged else np.nan
        return {
            name: (along, values, about),
            f"{name}_se": (along, errors, {**about, "long_name": f"standard error of {name}"}),
            f"marker_{name}": ("checkpoint", own, about),
            f"{name}_barrier": (pairs, heights, {**about, "long_name": said}),
            f"{name}_barrier_at": (pairs, places, {"long_name": f"where {said} stands"}),
            f"merged_{name}": ((), merged, {**about, "long_name": f"{name} of the average after matching"}),
        }

    def _attributes(self, status: str) -> dict[str, Any]:
        names, matching = self.request.checkpoints, self.request.matching
        between = " and ".join(names) if len(names) == 2 else f"{len(names)} checkpoints"
        return {
            "title": f"paths between {between}, {MATCHINGS[matching]}{' and repaired' * bool(self.repaired)}",
            **self.progress.attrs(status),
            "paths": self.done,
            "planned_paths": len(self.stages) * len(self.pairs),
            "doing": self.doing,
            "convention": self.request.convention,
            "matching": matching,
            "repaired_layers": -1 if self.repaired is None else len(self.repaired),
            "symmetries": json.dumps(self.symmetries),
            "provenance": self.said,
        }

    def _provenance(self) -> str:
        return json.dumps(
            {
                **self.problem.provenance(),
                "checkpoints": [{"name": c.name, "sha256": c.digest, **c.info} for c in self.checkpoints],
                "matching": self.request.matching,
                "convention": self.request.convention,
                "repaired": self.request.repair,
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "asked": asdict(self.request),
            }
        )


def report(found: Symmetries) -> dict[str, Any]:
    """What is free, what stays and why, and the certificate, as JSON-ready facts that fit an attribute of a file."""
    fixed: dict[str, list[str]] = {}
    for (name, axis), (count, reason) in found.pinned.items():
        fixed.setdefault(reason, []).append(f"{name}[{axis}] ({count})")
    proof = found.certificate
    return {
        "groups": [
            {"structure": group.structure, "moves": _some([f"{name}[{axis}]" for name, axis in group.all_places()])}
            for group in found.groups
        ],
        "log10_size": found.log10_size,
        "share": found.share,
        "change": proof.change if proof else None,
        "control": proof.control if proof and np.isfinite(proof.control) else None,
        "fixed": {reason: _some(places) for reason, places in fixed.items()},
        "unknown": dict(found.unknown),
        "failure": found.failure,
    }


def _some(places: list[str]) -> list[str]:
    return places if len(places) <= NAMED + 1 else [*places[:NAMED], f"and {len(places) - NAMED} more"]
