"""Many points in one pass: the evaluation of one point, batched over points by torch.func."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from .replica import Replica
from .reuse import Blocks, FirstLayers


class Together:
    """Totals at several points of a subspace at once.

    Raises whatever vmap raises for a model or a loss that it cannot batch (data-dependent control flow, numbers
    taken out of tensors, random draws), and leaves the replica as it was.
    """

    def __init__(self, replica: Replica, layers: FirstLayers, origin: Tensor, axes: Sequence[Tensor]):
        self._replica, self._layers = replica, layers
        self._origin, self._axes = origin, axes
        self._evaluation = _Evaluation(replica)

    def __call__(self, coordinates: np.ndarray, blocks: Blocks) -> list[list[Tensor]]:
        """For each point of coordinates [points, axes] its totals, as `Replica.totals` gives them."""
        points = len(coordinates)
        replica = self._replica
        there = torch.tensor(coordinates.copy(), dtype=self._origin.dtype).to(self._origin.device)
        # each point writes its own running statistics
        buffers = {name: b.expand(points, *b.shape).clone() for name, b in replica.kept.items()}

        def one(place: Tensor, buffers: dict[str, Tensor]) -> list[Tensor]:
            self._layers.coordinates = place
            flat = self._origin
            for coordinate, axis in zip(place, self._axes, strict=True):
                flat = flat + coordinate * axis
            state = {f"model.{name}": t for name, t in {**replica.views(flat), **buffers}.items()}
            return functional_call(self._evaluation, state, (blocks,))

        with replica.own_context(grad=False):
            columns = vmap(one)(there, buffers)
        return [[column[i] for column in columns] for i in range(points)]


class _Evaluation(nn.Module):
    """A replica's evaluation as a module, whose weights and buffers `functional_call` can replace."""

    def __init__(self, replica: Replica):
        super().__init__()
        self.model = replica.model
        self._sums = replica.sums

    def forward(self, blocks: dict[str, list[Any]]) -> list[Tensor]:
        return self._sums(blocks)
