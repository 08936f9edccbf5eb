"""The straight path between two matched checkpoints with the spread of activations restored at each place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..subspace import Line
from .barrier import CONVENTIONS
from .damage import refuse_damaged
from .layers import refuse_frozen
from .merging import repaired
from .sampled import sampled_path
from .symmetries import Symmetries


def repaired_barrier(
    symmetries: Symmetries,
    problem: Problem,
    start: Checkpoint,
    end: Checkpoint,
    *,
    convention: str = "sup",
    points: int = 25,
) -> Iterator[xr.Dataset]:
    """The barrier between two checkpoints in common units after REPAIR at each place, a generator of Datasets.

    At t the average with shares 1 - t and t has the mean and the standard deviation of each hidden unit restored to
    those of the ends, interpolated (Jordan et al. 2023, arXiv:2211.08403; see `repaired`). The ends are as they are.

    points: an odd number of at least 3, equally spaced; nothing is refined about the maximum. So compare losses at the
        places that a result of `barrier` shares, or its barrier at those: a refined one is a little higher.
    convention: see `barrier_height`.

    Yields Datasets with the variables of `barrier` along ``t``. Close it to cancel. Raises LandscapeError for bad
    arguments, equal checkpoints and frozen running statistics that differ, CheckpointError for damaged weights.
    """
    if not isinstance(points, int) or points < 3 or points % 2 == 0:
        raise LandscapeError(f"points is {points!r}; expected an odd number of at least 3.")
    if convention not in CONVENTIONS:
        raise LandscapeError(f"convention is {convention!r}; accepted are {list(CONVENTIONS)}.")
    refuse_damaged(start, end)
    refuse_frozen(problem, start, end)
    line = Line.through(start, end)

    def at(t: float) -> Checkpoint:
        if t in (0.0, 1.0):
            return (start, end)[int(t)]
        middle = Checkpoint(line.point(t), start.buffers, f"t = {t:.6g}")
        return repaired(symmetries, problem, middle, (start, end), shares=(1 - t, t))

    title = f"barrier between {start.name} and {end.name}, repaired"
    return sampled_path(problem, line, np.linspace(0, 1, points), at, title=title, convention=convention, repair=True)
