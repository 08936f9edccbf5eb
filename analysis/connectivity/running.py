"""What searches share: how far they have come, and the batches that they train on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import FrozenData
from ..evaluate import YIELD_SECONDS
from ..problem import Problem
from ..replica import Replica
from ..weights import Weights


class Progress:
    """Counts evaluations; `planned` may grow."""

    def __init__(self, planned: int):
        self.planned, self.done = planned, 0
        self.began = self.shown = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to show what there is; counts one evaluation."""
        self.done += 1
        now = time.perf_counter()
        if now - self.shown < YIELD_SECONDS:
            return False
        self.shown = now
        return True

    def attrs(self, status: str = "running") -> dict[str, Any]:
        """The attributes that every result has."""
        elapsed = time.perf_counter() - self.began
        left = max(self.planned - self.done, 0) * elapsed / max(self.done, 1)
        return {
            "status": status,
            "progress": min(0.999, self.done / max(self.planned, 1)) if status == "running" else 1.0,
            "evaluations": self.done,
            "planned_evaluations": max(self.planned, self.done),
            "elapsed_s": elapsed,
            "eta_s": left if status == "running" else 0.0,
        }


def on_batches(problem: Problem) -> Problem:
    """The problem with BatchNorm that uses the statistics of each batch, as in training."""
    return problem.with_batchnorm("batch") if "batch" in problem.batchnorm_choices else problem


def unpacked(replica: Replica, vector: Tensor, like: Weights) -> Weights:
    """A vector in the layout of a replica as weights of the dtype and on the device of others."""
    views = replica.views(vector)
    return like.map(lambda name, tensor: views[name].to(tensor))


def shuffled(data: FrozenData, size: int, number: int, rng: np.random.Generator) -> Iterator[Any]:
    """So many batches of `size` samples (those of the data where they cannot be cut), each pass in another order."""
    whole = [] if data.mergeable else data.batches()
    while True:
        if whole:
            chosen: Iterator[Any] = (whole[i] for i in rng.permutation(len(whole)))
        else:
            order = torch.from_numpy(rng.permutation(data.n))
            chosen = (data.chosen_batch(rows.sort().values) for rows in order.split(size))
        for batch in chosen:
            if not number:
                return
            number -= 1
            yield batch
