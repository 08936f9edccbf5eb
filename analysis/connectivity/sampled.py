"""A path whose places are any checkpoints: its metrics, the chord between its ends, and the barrier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint
from ..evaluate import Rows, store
from ..problem import Problem
from ..replica import Replica, as_rows
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from .barrier import path_variables
from .damage import refuse_loss
from .running import Progress


def sampled_path(
    problem: Problem,
    line: Line,
    t: np.ndarray,
    at: Callable[[float], Checkpoint],
    *,
    title: str,
    convention: str = "sup",
    **facts: Any,
) -> Iterator[xr.Dataset]:
    """The variables of `barrier` at places [n] in ascending order, as far as they are known; facts go into provenance.

    line: from the first end of the path to the last, whose own losses are the ends of the chord.
    """
    replica, progress = Replica(problem), Progress(len(t))
    values = [problem.measure(end) for end in line.markers]
    for end, value in zip(line.markers, values, strict=True):
        refuse_loss(end, value["loss"][0])
    own = {name: np.array([value[name][0] for value in values]) for name in problem.metrics}
    said = provenance_json(
        problem, line, Strategy(None, torch.get_num_threads()).record(), convention=convention, **facts
    )

    def dataset(count: int, status: str) -> xr.Dataset:
        shown = {name: (means[:count], errors[:count]) for name, (means, errors) in rows.items()}
        return xr.Dataset(
            path_variables(problem, t[:count], shown, own, convention),
            coords={
                "t": ("t", t[:count], {"long_name": title}),
                "marker_name": ("marker", np.array([end.name for end in line.markers], dtype=object)),
            },
            attrs={"title": title, **progress.attrs(status), "convention": convention, "provenance": said},
        )

    rows: Rows = {}
    for i, place in enumerate(t):
        replica.load(at(float(place)))
        store(rows, len(t), slice(i, i + 1), as_rows([replica.measure()]))
        if progress.due():
            yield dataset(i + 1, "running")
    yield dataset(len(t), "done")
