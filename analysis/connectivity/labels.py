"""Labelled tensors: the atoms along the axes of a traced tensor, and how they follow a change of shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Group = tuple[tuple[int, ...], np.ndarray]


@dataclass(frozen=True)
class Labelled:
    """The shape of a traced tensor and the atoms along its dims.

    groups: pairs (dims, atoms), dims ascending and disjoint, atoms an integer array of the shape of these dims. Under a
        symmetry the entry at a place moves to where the atom's image stands. Dims of no group are rigid: nothing moves.
    value: the tensor itself, where it depends on neither weights nor inputs.
    """

    shape: tuple[int, ...]
    groups: tuple[Group, ...] = ()
    value: Tensor | None = None

    def at(self, dim: int) -> Group | None:
        """The group that holds a dim."""
        dim %= max(len(self.shape), 1)
        return next((group for group in self.groups if dim in group[0]), None)


def labelled(shape: Sequence[int], groups: Iterable[Group]) -> Labelled:
    """A labelled tensor in normal form: a dim along which the atoms of its group repeat is rigid."""
    kept = []
    for dims, atoms in groups:
        for axis in reversed(range(len(dims))):
            if atoms.size and (atoms == atoms.take([0], axis)).all():
                atoms = atoms.take(0, axis)
                dims = dims[:axis] + dims[axis + 1 :]
        if dims:
            kept.append((dims, atoms))
    return Labelled(tuple(shape), tuple(kept))


def permuted(t: Labelled, order: Sequence[int]) -> Labelled:
    """As Tensor.permute."""
    place = {old: new for new, old in enumerate(order)}
    groups = []
    for dims, atoms in t.groups:
        moved = [place[d] for d in dims]
        ascending = np.argsort(moved)
        groups.append((tuple(sorted(moved)), atoms.transpose(ascending)))
    return Labelled(tuple(t.shape[old] for old in order), tuple(groups))


def shifted(t: Labelled, dims: int) -> Labelled:
    """With rigid dims of length 1 in front, so that there are `dims` in all."""
    more = dims - len(t.shape)
    groups = tuple((tuple(d + more for d in g), atoms) for g, atoms in t.groups)
    return Labelled((1,) * more + t.shape, groups, t.value)


def squeezed(t: Labelled, dims: Iterable[int]) -> Labelled:
    """Without some dims, all of length 1 and therefore rigid."""
    gone = {d % len(t.shape) for d in dims}
    place = {d: i for i, d in enumerate(d for d in range(len(t.shape)) if d not in gone)}
    groups = tuple((tuple(place[d] for d in g), atoms) for g, atoms in t.groups)
    return Labelled(tuple(t.shape[d] for d in place), groups)


def unsqueezed(t: Labelled, dim: int) -> Labelled:
    dim %= len(t.shape) + 1
    groups = tuple((tuple(d + (d >= dim) for d in g), atoms) for g, atoms in t.groups)
    return Labelled((*t.shape[:dim], 1, *t.shape[dim:]), groups)


def chunks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shortest runs of dims (old, new) with equal products that a reshape maps on each other."""
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = [i] if i < len(old) else [], [j] if j < len(new) else []
        a, b = old[i] if before else 1, new[j] if after else 1
        i, j = i + len(before), j + len(after)
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
                before.append(i - 1)
            else:
                b, j = b * new[j], j + 1
                after.append(j - 1)
        yield tuple(before), tuple(after)


def reshaped(t: Labelled, shape: Sequence[int]) -> tuple[Labelled, list[Group]]:
    """As Tensor.reshape, and the groups that found no place: of two that meet in one new dim the second is dropped."""
    runs = list(chunks(t.shape, shape))
    taken_runs: set[int] = set()
    groups, dropped = [], []
    for dims, atoms in t.groups:
        touched = [k for k, (before, _) in enumerate(runs) if set(before) & set(dims)]
        if taken_runs & set(touched):
            dropped.append((dims, atoms))
            continue
        taken_runs |= set(touched)
        old = [d for k in touched for d in runs[k][0]]
        wide = atoms.reshape([t.shape[d] if d in dims else 1 for d in old])
        wide = np.broadcast_to(wide, [t.shape[d] for d in old])
        new = tuple(d for k in touched for d in runs[k][1])
        groups.append((new, wide.reshape([shape[d] for d in new])))
    return labelled(shape, groups), dropped
