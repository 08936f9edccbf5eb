"""What to compute along a run: a curvature matrix at each of its checkpoints, named by plain values."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, cast

import xarray as xr

from analysis import LandscapeError, provenance
from analysis.curvature import along_training
from landscape_app.spectrum.request import MATRICES


@dataclass(frozen=True)
class TrajectoryRequest:
    """All that determines the curvature along a run. Two equal requests on the same project give the same result.

    checkpoints: names, in the order of the run. matrix: of MATRICES. largest, smallest: how many eigenvalues at each
    end; only a Hessian has any below 0. trace_products: what the trace may spend at each checkpoint, 0 leaves it out.
    batchnorm: None keeps the problem's own policy.
    """

    problem: str
    checkpoints: tuple[str, ...]
    matrix: str = "hessian"
    largest: int = 3
    smallest: int = 1
    trace_products: int = 20
    seed: int = 0
    batchnorm: str | None = None

    def steps(self, project: Any) -> Generator[xr.Dataset, None, None]:
        """The results, which fill up from checkpoint to checkpoint. Raises LandscapeError."""
        if len(self.checkpoints) < 2:
            raise LandscapeError(f"'{self.problem}' has one checkpoint; a run has two or more, in their order.")
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        found = along_training(
            problem,
            [project.checkpoint(self.problem, name) for name in self.checkpoints],
            kind=self.matrix,
            largest=self.largest,
            smallest=self.smallest,
            trace_products=self.trace_products,
            seed=self.seed,
        )
        title = f"{MATRICES[self.matrix]} along {self.checkpoints[0]} to {self.checkpoints[-1]}"
        with closing(cast(Generator, found)) as steps:
            for ds in steps:
                facts = provenance(ds) | {"asked": asdict(self)}
                yield ds.assign_attrs(title=title, provenance=json.dumps(facts))
