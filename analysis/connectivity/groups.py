"""Groups of units that may be exchanged, and permutations: elements of these groups that apply to weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import lgamma, log, prod

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import SymmetryError
from ..weights import Weights
from .atoms import Nodes

Place = tuple[str, int]  # a parameter or buffer, and one of its axes
Choice = Callable[["Group", int, int], np.ndarray]


@dataclass(frozen=True)
class Group:
    """`size` units that may be exchanged freely; with inner groups, units that hold units (heads, channel groups).

    places: for each (name, axis) the indices [*outer, size, m] that belong to each unit, in an order that is the same
        for all units; outer counts the units of the groups around this one. A flattened image has m > 1.
    inner: groups within each unit, exchanged there independently.
    """

    size: int
    places: Mapping[Place, np.ndarray]
    inner: tuple[Group, ...] = ()

    @property
    def copies(self) -> int:
        """In how many outer units the group stands."""
        if not self.places:
            return self.inner[0].copies // self.size
        return prod(next(iter(self.places.values())).shape[:-2])

    @property
    def log10_size(self) -> float:
        """log10 of the number of permutations."""
        own = self.copies * lgamma(self.size + 1) / log(10)
        return own + sum(group.log10_size for group in self.inner)

    @property
    def all_groups(self) -> list[Group]:
        """This group and those within it, at any depth."""
        return [self, *(group for inner in self.inner for group in inner.all_groups)]

    @property
    def structure(self) -> str:
        """As text: S64, or S4[S16 × S16] for 4 units that hold 16 and 16 each."""
        within = " × ".join(group.structure for group in self.inner)
        return f"S{self.size}" + (f"[{within}]" if within else "")

    def all_places(self) -> dict[Place, np.ndarray]:
        """The indices [n] of each (name, axis) that this group and its inner ones move."""
        found = {place: [indices.ravel()] for place, indices in self.places.items()}
        for group in self.inner:
            for place, indices in group.all_places().items():
                found.setdefault(place, []).append(indices)
        return {place: np.unique(np.concatenate(parts)) for place, parts in found.items()}

    def moves(self, choose: Choice, outer: np.ndarray | None = None) -> dict[Place, tuple[np.ndarray, np.ndarray]]:
        """Where entries go: (to, from) indices of each place.

        choose(group, copy, source copy) is a permutation [size]: unit i takes the place of unit choose(...)[i].
        """
        outer = np.zeros(1, dtype=np.int64) if outer is None else outer
        own = np.stack([choose(self, copy, int(source)) for copy, source in enumerate(outer)])
        source = (outer[:, None] * self.size + own).ravel()
        found: dict[Place, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        for place, indices in self.places.items():
            rows = indices.reshape(len(source), -1)
            found[place].append((rows.ravel(), rows[source].ravel()))
        if not self.inner:
            return {place: moves[0] for place, moves in found.items()}
        for group in self.inner:
            for place, move in group.moves(choose, source).items():
                found[place].append(move)
        return {
            place: (np.concatenate([to for to, _ in moves]), np.concatenate([at for _, at in moves]))
            for place, moves in found.items()
        }


@dataclass(frozen=True)
class Permutation:
    """A permutation of units, as indices [size] of each (name, axis): entry i becomes what entry indices[i] was."""

    indices: Mapping[Place, np.ndarray]

    @classmethod
    def of(cls, groups: Sequence[Group], sizes: Mapping[Place, int], choose: Choice) -> Permutation:
        """The element of a product of groups that takes one choice in each."""
        indices: dict[Place, np.ndarray] = {}
        for group in groups:
            for place, (to, source) in group.moves(choose).items():
                step = np.arange(sizes[place])
                step[to] = source
                indices[place] = indices[place][step] if place in indices else step
        return cls(indices)

    def __repr__(self) -> str:
        return f"Permutation(moves {len(self.moved)} of {len(self.indices)} axes)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Permutation):
            return NotImplemented
        places = set(self.indices) | set(other.indices)
        return all(np.array_equal(self._at(place, other), other._at(place, self)) for place in places)

    def _at(self, place: Place, other: Permutation) -> np.ndarray:
        return self.indices.get(place, np.arange(len(other.indices.get(place, ()))))

    __hash__ = None  # type: ignore[assignment]

    @property
    def moved(self) -> list[Place]:
        """The (name, axis) along which something moves."""
        return [place for place, index in self.indices.items() if (index != np.arange(len(index))).any()]

    def inverse(self) -> Permutation:
        return Permutation({place: np.argsort(index) for place, index in self.indices.items()})

    def then(self, other: Permutation) -> Permutation:
        """The permutation that applies this one first and the other after it."""
        both = {p: self.indices[p][index] for p, index in other.indices.items() if p in self.indices}
        return Permutation({**self.indices, **other.indices, **both})

    def without(self, place: Place) -> Permutation:
        return Permutation({p: index for p, index in self.indices.items() if p != place})

    def tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named tensors with their entries moved; new tensors, in the same order.

        Raises SymmetryError where a tensor does not fit.
        """
        self._fit(tensors)
        return self._moved(tensors)

    def _moved(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moves: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for (name, axis), index in self.indices.items():
            if name in tensors and (index != np.arange(len(index))).any():
                moves[name][axis] = index
        return {
            name: _taken(tensor, moves[name]) if name in moves else tensor.clone() for name, tensor in tensors.items()
        }

    def _fit(self, tensors: Mapping[str, Tensor]) -> None:
        for (name, axis), index in self.indices.items():
            tensor = tensors.get(name)
            if tensor is not None and (axis >= tensor.ndim or len(index) != tensor.shape[axis]):
                raise SymmetryError(
                    f"The permutation moves {len(index)} entries along axis {axis} of '{name}', which is "
                    f"{list(tensor.shape)}. It was found for another model; find the symmetries of this one."
                )

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises SymmetryError if the checkpoint belongs to another model."""
        refuse_unread(checkpoint)
        missing = {place[0] for place in self.indices} - set(checkpoint.weights) - set(checkpoint.buffers)
        if missing:
            raise SymmetryError(
                f"Checkpoint '{checkpoint.name}' lacks {sorted(missing)[:3]}, which the permutation moves. Load it "
                "with problem.checkpoint(...) of the model whose symmetries were found."
            )
        self._fit({**checkpoint.weights, **checkpoint.buffers})

    def apply(self, checkpoint: Checkpoint, name: str | None = None) -> Checkpoint:
        """The checkpoint with weights and running statistics permuted; it loads into the same class.

        Raises SymmetryError if it belongs to another model.
        """
        self.check(checkpoint)
        weights = Weights(self._moved(checkpoint.weights), checkpoint.weights.structure)
        buffers = self._moved(checkpoint.buffers)
        return replace(checkpoint, weights=weights, buffers=buffers, name=name or f"π({checkpoint.name})", source="")


def _taken(tensor: Tensor, moves: Mapping[int, np.ndarray]) -> Tensor:
    """As index_select along each of some axes, by the index of each."""
    if tensor.dtype != torch.float64 or tensor.device.type != "cpu" or tensor.requires_grad:
        for axis, index in moves.items():
            tensor = tensor.index_select(axis, torch.from_numpy(np.ascontiguousarray(index)).to(tensor.device))
        return tensor
    # the certificate moves doubles only, and for them this takes a quarter of the time: a few rows fit into the cache
    values = tensor.numpy()
    rows, moved = moves.get(0, np.arange(len(values))), np.empty(values.shape)
    for start in range(0, len(rows), 64):
        some = values[rows[start : start + 64]]
        for axis, index in moves.items():
            some = some.take(index, axis) if axis else some
        moved[start : start + 64] = some
    return torch.from_numpy(moved)


def grouped(nodes: Nodes, slots: Mapping[Place, np.ndarray]) -> tuple[list[Group], set[int]]:
    """The groups of coloured nodes, and the nodes in crossing blocks that no product of groups describes."""
    return _Grouping(nodes, slots).run()


class _Grouping:
    def __init__(self, nodes: Nodes, slots: Mapping[Place, np.ndarray]):
        self.nodes = nodes
        # for each place, its indices in the order of their nodes, and these nodes
        self.indices = {place: np.argsort(nodes.of[atoms], kind="stable") for place, atoms in slots.items()}
        self.nodes_at = {place: nodes.of[atoms][self.indices[place]] for place, atoms in slots.items()}
        self.places: dict[int, list[Place]] = defaultdict(list)  # of the nodes that may move
        sizes = np.bincount(nodes.colour)
        for place, held in self.nodes_at.items():
            for node in np.unique(held[sizes[nodes.colour[held]] > 1]).tolist():
                self.places[node].append(place)
        self.classes: dict[int, list[int]] = defaultdict(list)
        for node, colour in enumerate(nodes.colour.tolist()):
            self.classes[colour].append(node)
        self.parents = {
            node: [p for p in above if len(self.classes[int(nodes.colour[p])]) > 1]
            for node, above in nodes.parents.items()
        }
        self.grids: dict[int, list[np.ndarray]] = defaultdict(list)  # rows of nodes held together with others

    def run(self) -> tuple[list[Group], set[int]]:
        crossing = self._cross()
        if crossing:
            return [], crossing
        found: list[Group] = []
        for members in self.classes.values():
            if not self.parents.get(members[0]) and len(members) > 1:
                found.append(self._group(np.array(members)))
        found = [group for group in found if group.places or group.inner]
        return sorted(found, key=lambda group: min(group.all_places())), set()

    def _cross(self) -> set[int]:
        """Settle nodes with several parents: a full grid moves with its rows and columns; others are returned."""
        bad: set[int] = set()
        for members in self.classes.values():
            above = [self.parents.get(node, []) for node in members]
            if len(above[0]) < 2:
                continue
            colours = [sorted((int(self.nodes.colour[p]), p) for p in parents) for parents in above]
            sides = [sorted({row[side][1] for row in colours}) for side in range(len(colours[0]))]
            kinds = {tuple(colour for colour, _ in row) for row in colours}
            whole = prod(len(side) for side in sides) == len(members) == len({tuple(row) for row in colours})
            distinct = all(len(set(kind)) == len(kind) for kind in kinds)
            if len(kinds) > 1 or not whole or not distinct or any(self.nodes.children.get(n) for n in members):
                bad |= set(members)
                continue
            order = {tuple(p for _, p in row): node for row, node in zip(colours, members, strict=True)}
            grid = np.array([order[key] for key in sorted(order)]).reshape([len(side) for side in sides])
            for axis, side in enumerate(sides):
                for parent, row in zip(side, np.moveaxis(grid, axis, 0).reshape(len(side), -1), strict=True):
                    self.grids[parent].append(row)
        return bad

    def _group(self, nodes: np.ndarray) -> Group:
        """The group of an array of nodes [*outer, size] of one colour."""
        places, inner = self._content(nodes)
        return Group(nodes.shape[-1], places, tuple(inner))

    def _content(self, nodes: np.ndarray) -> tuple[dict[Place, np.ndarray], list[Group]]:
        flat = nodes.ravel().tolist()
        found: dict[Place, list[np.ndarray]] = defaultdict(list)
        inner: list[Group] = []

        def add(part: np.ndarray) -> None:
            for place in self.places.get(int(part[0]), ()):
                low, high = (np.searchsorted(self.nodes_at[place], part, side) for side in ("left", "right"))
                found[place].append(self.indices[place][low[:, None] + np.arange(high[0] - low[0])])

        add(nodes.ravel())
        for side in range(len(self.grids.get(flat[0], ()))):
            for column in np.stack([self.grids[node][side] for node in flat], 1):
                add(column)
        below: dict[int, list[list[int]]] = defaultdict(lambda: [[] for _ in flat])
        for i, node in enumerate(flat):
            for child in sorted(self.nodes.children.get(node, ())):
                if len(self.parents.get(child, ())) < 2:
                    below[int(self.nodes.colour[child])][i].append(child)
        for _, rows in sorted(below.items()):
            array = np.array(rows).reshape(*nodes.shape, -1)
            if array.shape[-1] > 1:
                group = self._group(array)
                if group.places or group.inner:
                    inner.append(group)
            else:
                more, deeper = self._content(array[..., 0])
                for place, indices in more.items():
                    found[place].append(indices.reshape(len(flat), -1))
                inner += deeper
        places = {place: np.concatenate(parts, 1).reshape(*nodes.shape, -1) for place, parts in found.items()}
        return places, inner
