"""The barriers between all pairs of many checkpoints."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import combinations
from json import dumps
from typing import Any, cast

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..provenance import versions
from .barrier import barrier
from .damage import refuse_damaged
from .running import Progress


def barrier_matrix(
    problem: Problem,
    checkpoints: Sequence[Checkpoint],
    *,
    convention: str = "sup",
    points: int = 25,
    tolerance: float = 0.01,
) -> Iterator[xr.Dataset]:
    """The barriers between all pairs of checkpoints, a generator of Datasets that fill up.

    Each is that of `barrier`, with the same options. For barriers after matching pass the checkpoints in common units,
    as `match_many` brings them.

    Yields Datasets with the dims ``row`` and ``column``, NaN where not computed: for each loss and accuracy
    ``<metric>_barrier`` [row, column], symmetric, 0 on the diagonal and between checkpoints of equal weights, and
    ``<metric>_barrier_at``, the fraction of the way from row to column; ``distance`` [row, column]; ``marker_<metric>``
    [row]: of each checkpoint. Coordinates: ``row_name`` and ``column_name``.

    Close it to cancel. Raises what `barrier` raises, and LandscapeError for fewer than two checkpoints.
    """
    if len(checkpoints) < 2:
        raise LandscapeError(f"A matrix of barriers takes two or more checkpoints; got {len(checkpoints)}.")
    options = {"convention": convention, "points": points, "tolerance": tolerance}
    refuse_damaged(*checkpoints)
    pairs = [
        (i, j)
        for i, j in combinations(range(len(checkpoints)), 2)
        if (checkpoints[i].weights - checkpoints[j].weights).norm() > 0
    ]
    for i, j in pairs[:1]:
        barrier(problem, checkpoints[i], checkpoints[j], **cast(Any, options))  # refuses bad arguments now
    return _Matrix(problem, checkpoints, pairs, options).run()


class _Matrix:
    def __init__(
        self,
        problem: Problem,
        checkpoints: Sequence[Checkpoint],
        pairs: Sequence[tuple[int, int]],
        options: dict[str, Any],
    ):
        self.problem, self.checkpoints, self.pairs, self.options = problem, checkpoints, pairs, options
        self.measures = [m for m in problem.measures if m.name.startswith(("loss", "accuracy")) and not m.classes]
        n = len(checkpoints)
        alone = [[i == j or (min(i, j), max(i, j)) not in pairs for j in range(n)] for i in range(n)]
        self.heights = {m.name: np.where(alone, 0.0, np.nan) for m in self.measures}
        self.places = {m.name: np.full((n, n), np.nan) for m in self.measures}
        self.own = {m.name: np.full(n, np.nan) for m in self.measures}
        weights = [c.weights for c in checkpoints]
        self.distance = np.array([[(a - b).norm() if a is not b else 0.0 for b in weights] for a in weights])

    def run(self) -> Iterator[xr.Dataset]:
        self.progress = Progress(len(self.pairs) * self.options["points"])
        self.said = self._provenance()
        for i, checkpoint in enumerate(self.checkpoints):
            values = self.problem.measure(checkpoint)
            for name, own in self.own.items():
                own[i] = values[name][0]
        yield self._dataset("running")
        for count, (i, j) in enumerate(self.pairs, 1):
            before = self.progress.done
            with closing(
                cast(Generator, barrier(self.problem, self.checkpoints[i], self.checkpoints[j], **self.options))
            ) as steps:
                for path in steps:
                    self.progress.done = before + path.attrs["evaluations"]
                    if path.attrs["status"] == "running":
                        yield self._dataset("running")
            self._put(i, j, path)
            self.progress.planned = round(self.progress.done * len(self.pairs) / count)
            yield self._dataset("running" if count < len(self.pairs) else "done")
        if not self.pairs:
            yield self._dataset("done")

    def _put(self, i: int, j: int, path: xr.Dataset) -> None:
        for name, heights in self.heights.items():
            heights[i, j] = heights[j, i] = float(path[f"{name}_barrier"])
            at = float(path[f"{name}_barrier_at"])
            self.places[name][i, j], self.places[name][j, i] = at, 1 - at

    def _dataset(self, status: str) -> xr.Dataset:
        variables: dict[str, Any] = {"distance": (("row", "column"), self.distance, {"long_name": "distance"})}
        for measure in self.measures:
            name, about = measure.name, {"long_name": measure.long_name, "units": measure.units}
            said = {**about, "long_name": f"barrier of {name} ({self.options['convention']})"}
            variables[f"{name}_barrier"] = ("row", "column"), self.heights[name].copy(), said
            variables[f"{name}_barrier_at"] = ("row", "column"), self.places[name].copy()
            variables[f"marker_{name}"] = "row", self.own[name].copy(), about
        names = np.array([c.name for c in self.checkpoints], dtype=object)
        return xr.Dataset(
            variables,
            coords={"row_name": ("row", names), "column_name": ("column", names)},
            attrs={
                "title": f"barriers between {len(names)} checkpoints",
                **self.progress.attrs(status),
                **self.options,
                "provenance": self.said,
            },
        )

    def _provenance(self) -> str:
        return dumps(
            {
                **self.problem.provenance(),
                "checkpoints": [{"name": c.name, "sha256": c.digest, **c.info} for c in self.checkpoints],
                **self.options,
                "threads": torch.get_num_threads(),
                "versions": versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        )
