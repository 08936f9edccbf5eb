"""Orders: which unit of a group takes the place of each, and permutations in terms of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .groups import Group, Permutation, Place
from .symmetries import Symmetries

Orders = dict[int, np.ndarray]  # by the id of a group [copies * size]: which unit takes the place of each

# the groups that move an axis of a tensor, by their id, and the indices [units, m] of their units there; None for all
# of the axis as it is, one index a unit
Moves = dict[int, np.ndarray | None]
Movers = dict[Place, Moves]


def movers_of(symmetries: Symmetries, groups: Sequence[Group]) -> Movers:
    """Which of some groups, and of those within them, move each axis."""
    found: Movers = {}
    for group in (g for outer in groups for g in outer.all_groups):
        for place, indices in group.places.items():
            rows, size = indices.reshape(-1, indices.shape[-1]), symmetries.sizes[place]
            plain = rows.shape == (size, 1) and (rows[:, 0] == np.arange(size)).all()
            found.setdefault(place, {})[id(group)] = None if plain else rows
    return found


def permutation_of(symmetries: Symmetries, movers: Movers, orders: Orders) -> Permutation:
    """The permutation that brings the units of groups into their orders."""
    moved = {place: index_of(symmetries.sizes[place], moves, orders) for place, moves in movers.items()}
    return Permutation({**symmetries.identity().indices, **moved})


def orders_of(symmetries: Symmetries, permutation: Permutation) -> Orders:
    """The order that a permutation brings the units of each group into."""
    return {id(g): _order(g, permutation) for group in symmetries.groups for g in group.all_groups}


def _order(group: Group, permutation: Permutation) -> np.ndarray:
    if not group.places:
        inner = group.inner[0]
        return _order(inner, permutation)[:: inner.size] // inner.size
    place, indices = next(iter(group.places.items()))
    first = indices.reshape(group.copies * group.size, -1)[:, 0]
    unit = np.zeros(len(permutation.indices[place]), dtype=np.int64)
    unit[first] = np.arange(len(first))
    return unit[permutation.indices[place][first]]


def index_of(size: int, moves: Moves, orders: Orders) -> np.ndarray:
    """Which entry of an axis takes the place of each."""
    index = np.arange(size)
    for group, indices in moves.items():
        if indices is None:
            return orders[group]
        index[indices] = index[indices[orders[group]]]
    return index
