"""Coordinate ascent on the inner product of the parameters of two checkpoints over the group of symmetries.

Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, arXiv:2209.04836, section 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..checkpoints import Checkpoint
from ..errors import SymmetryError
from .assignment import assigned, centred
from .groups import Group, Permutation
from .orders import Orders, movers_of, permutation_of
from .products import Units, arrays_of, inner_product, norm_of
from .symmetries import Symmetries

STEP = 1e-12  # a step counts if the objective rises by more than this part of its scale
SWEEPS = 100


@dataclass(frozen=True)
class Climb:
    """One run of the ascent; the other fields are those of Matching."""

    orders: Orders
    history: tuple[float, ...]
    sweeps: int
    converged: bool
    start: str


class Ascent:
    """Coordinate ascent on the inner product of parameters."""

    def __init__(self, symmetries: Symmetries, reference: Checkpoint, moving: Checkpoint):
        self.symmetries, self.moving = symmetries, moving
        self.a, self.b = (arrays_of(c.weights) for c in (reference, moving))
        self.scale = norm_of(self.a) * norm_of(self.b)
        places = [{p for g in group.all_groups for p in g.places if p[0] in self.a} for group in symmetries.groups]
        self.names = [{name for name, _ in own} for own in places]
        # groups that move no tensor along two axes: what an assignment gains is by how much the objective rises
        self.linear = [len(names) == len(own) for names, own in zip(self.names, places, strict=True)]
        self.movers = movers_of(symmetries, symmetries.groups)
        every = [g for group in symmetries.groups for g in group.all_groups]
        self.units = {id(group): Units(group, self.a, self.b, self.movers) for group in every}
        self.along_more = {part.name for units in self.units.values() for part in units.parts}
        # the part of the objective that no order decides
        fixed = [name for name in self.a if name not in self.along_more]
        self.rest = inner_product(self.a, self.b, fixed) - sum(units.inner() for units in self.units.values())

    def sorted_start(self) -> Orders:
        """One assignment for each group, of rows whose entries are sorted."""
        return assigned(self.symmetries.groups, lambda group: self.units[id(group)].products_of_sorted())

    def run(self, orders: Orders, start: str, rng: np.random.Generator) -> Climb:
        visits = rng.permutation(len(self.symmetries.groups)).tolist()
        total = self._total(orders, visits)
        history, sweeps, moved = [total], 0, True
        settled: set[int] = set()  # groups that have no step to take until another takes one
        while moved and sweeps < SWEEPS:
            moved, sweeps = False, sweeps + 1
            for i in visits:
                if i in settled:
                    continue
                after, rise = self._step(i, orders)
                if rise > STEP * self.scale:
                    orders, moved = after, True
                    total += rise
                    history.append(total)
                    settled = {j for j in settled if not self.names[i] & self.names[j]}
                if self.linear[i] or rise <= STEP * self.scale:
                    settled.add(i)
            visits = rng.permutation(len(self.symmetries.groups)).tolist()
        return Climb(orders, tuple(history), sweeps, not moved, start)

    def _step(self, i: int, orders: Orders) -> tuple[Orders, float]:
        """The orders after the best step of one group, and by how much the objective rises."""
        products: dict[int, np.ndarray] = {}

        def gram(group: Group) -> np.ndarray:
            products[id(group)] = self.units[id(group)].products(orders)
            return centred(products[id(group)].take(orders[id(group)], 1))

        step = assigned([self.symmetries.groups[i]], gram)
        after = {**orders, **{group: orders[group][order] for group, order in step.items()}}
        if self.linear[i]:
            return after, sum(_along(found, after[g]) - _along(found, orders[g]) for g, found in products.items())
        new, old = (self._objective(o, self.names[i]) for o in (after, orders))
        return after, new - old

    def _total(self, orders: Orders, visits: Sequence[int]) -> float:
        """The objective, where it can from products that the first visits to the groups need too."""
        total, left = self.rest, set(self.along_more)
        for group in (g for i in visits for g in self.symmetries.groups[i].all_groups):
            own, units = orders[id(group)], self.units[id(group)]
            total += units.inner(own)
            for part in units.parts:
                if part.name in left and part.whole:
                    left.remove(part.name)
                    total += _along(part.product(orders), own)
        return total + (self._objective(orders, left) if left else 0.0)

    def _objective(self, orders: Orders, names: Collection[str]) -> float:
        """The part of some tensors in the inner product."""
        own = {name: torch.from_numpy(array) for name, array in self.b.items() if name in names}
        return inner_product(self.a, arrays_of(permutation_of(self.symmetries, self.movers, orders).tensors(own)), own)

    def checked(self, climb: Climb) -> tuple[Permutation, Checkpoint, float]:
        """What a run found, with the objective computed anew."""
        permutation = permutation_of(self.symmetries, self.movers, climb.orders)
        checkpoint = permutation.apply(self.moving)
        objective, total = inner_product(self.a, arrays_of(checkpoint.weights), self.a), climb.history[-1]
        if abs(objective - total) > 1e-8 * max(self.scale, abs(objective)):
            raise SymmetryError(f"The objective is {objective:.12g}, and the steps add up to {total:.12g}.")
        return permutation, checkpoint, objective


def _along(products: np.ndarray, order: np.ndarray) -> float:
    return float(products[np.arange(len(order)), order].sum())
