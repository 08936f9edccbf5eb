"""The straight line from initialisation to a trained network, and whether the loss falls along all of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..subspace import Line
from .damage import refuse_damaged
from .layers import refuse_frozen
from .sampled import sampled_path


def initialisation_line(
    problem: Problem, initial: Checkpoint, trained: Checkpoint, *, points: int = 51
) -> Iterator[xr.Dataset]:
    """The loss on the straight line from initialisation (t = 0) to a trained network (t = 1), and how often it rises.

    Goodfellow, Vinyals and Saxe 2015, Qualitatively characterizing neural network optimization problems,
    arXiv:1412.6544; that the loss falls all the way is monotone linear interpolation (Lucas et al. 2021,
    arXiv:2104.11044).

    Yields Datasets with the variables of `barrier` along ``t`` as far as they are known, and for each loss
    ``<loss>_increases``, how many of the steps from one place to the next go up, and ``<loss>_largest_rise``, the
    most that it lies above an earlier place. Both are 0 where interpolation is monotone.

    Close it to cancel. Raises LandscapeError for fewer than two points, equal checkpoints and frozen running
    statistics that differ, CheckpointError for damaged weights.
    """
    if not isinstance(points, int) or points < 2:
        raise LandscapeError(f"points is {points!r}; expected a whole number of at least 2.")
    refuse_damaged(initial, trained)
    refuse_frozen(problem, initial, trained)
    line = Line.through(initial, trained)
    return _counted(problem, line, np.linspace(0, 1, points))


def _counted(problem: Problem, line: Line, t: np.ndarray) -> Iterator[xr.Dataset]:
    initial, trained = line.markers
    buffers = initial.buffers
    for ds in sampled_path(
        problem,
        line,
        t,
        lambda place: Checkpoint(line.point(place), buffers, f"t = {place:.6g}"),
        title=f"from {initial.name} to {trained.name}",
    ):
        for measure in problem.measures:
            if measure.name.startswith("loss") and not measure.classes:
                values = ds[measure.name].values
                about = {"long_name": f"steps along which {measure.name} rises", "units": ""}
                ds[f"{measure.name}_increases"] = (), int((np.diff(values) > 0).sum()), about
                rise = (values - np.minimum.accumulate(values)).max()
                about = {"long_name": f"largest rise of {measure.name} over an earlier place", "units": measure.units}
                ds[f"{measure.name}_largest_rise"] = (), rise, about
        yield ds
