"""One operation of a trace, and the claims that most rules are made of: elementwise, sum, matrix product, reshape."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..atoms import Relations
from ..labels import Group, Labelled, labelled, permuted, reshaped, shifted, unsqueezed


class Speaker:
    """One operation of a trace, saying what it knows of groups and tensors.

    reason: its name in reports. froze: whether it gave up on something that could have moved.
    """

    def __init__(self, relations: Relations, name: str, reason: str):
        self.relations, self.name, self.reason, self.froze = relations, name, reason, False

    def pin(self, group: Group | None, dims: Iterable[int] | None = None) -> None:
        """The places along some dims of a group (default: all) are told apart."""
        if group is not None:
            wanted = group[0] if dims is None else [d for d in group[0] if d in set(dims)]
            self.colour(group, [(d, np.arange(group[1].shape[group[0].index(d)])) for d in wanted])

    def pin_along(self, t: Labelled, dims: Iterable[int]) -> None:
        """The places along each of some dims of a tensor are told apart."""
        for dim in dims:
            self.pin(t.at(dim), {dim % max(len(t.shape), 1)})

    def colour(self, group: Group, colours: Iterable[tuple[int, np.ndarray]]) -> None:
        """The places along dims are told apart by colours (dim, [size]), which count together."""
        code = np.zeros((1,) * group[1].ndim, dtype=np.int64)
        for dim, values in colours:
            shape = [1] * group[1].ndim
            shape[group[0].index(dim)] = -1
            code = np.unique(code * (values.max() + 1) + values.reshape(shape), return_inverse=True)[1]
        if code.any():
            self.relations.mark(group[1], code, self.reason)

    def freeze(self, tensors: Iterable[Labelled]) -> None:
        for t in tensors:
            for group in t.groups:
                self.froze = True
                self.pin(group)

    def marginal(self, group: Group, keep: Iterable[int]) -> Group | None:
        """The blocks along the kept dims of a group, each of all atoms over the others.

        Where two rows hold the same atoms in another order, their block would not say which moves where: all stay.
        """
        dims, atoms = group
        axes = [axis for axis, dim in enumerate(dims) if dim in set(keep)]
        if len(axes) == len(dims):
            return group
        if not axes:
            return None
        front = np.moveaxis(atoms, axes, range(len(axes)))
        shape = front.shape[: len(axes)]
        rows = front.reshape(int(np.prod(shape)), -1)
        if len(np.unique(np.sort(rows, 1), axis=0)) < len(np.unique(rows, axis=0)):
            self.pin(group)
        blocks = self.relations.blocks(rows).reshape(shape)
        return tuple(dims[axis] for axis in axes), blocks

    def permuted(self, t: Labelled, order: Sequence[int]) -> Labelled:
        """As Tensor.permute. Units differ in the order in which their entries come then."""
        for dims, atoms in t.groups:
            axes = [dims.index(dim) for dim in order if dim in dims]
            if axes != sorted(axes):
                self._told_by_entries(atoms.ravel(), np.arange(atoms.size).reshape(atoms.shape).transpose(axes).ravel())
        return permuted(t, order)

    def transposed(self, t: Labelled, i: int, j: int) -> Labelled:
        order = list(range(len(t.shape)))
        if order:
            order[i], order[j] = order[j], order[i]
        return self.permuted(t, order)

    def taken(self, t: Labelled, dim: int, index: np.ndarray) -> Labelled:
        """As index_select: the entries `index` [n] along a dim. Units differ in which entries of each are taken."""
        dim %= len(t.shape)
        groups = []
        for dims, atoms in t.groups:
            if dim in dims:
                axis = dims.index(dim)
                places = np.arange(atoms.size).reshape(atoms.shape).take(index, axis)
                self._told_by_entries(atoms.ravel(), places.ravel())
                atoms = atoms.take(index, axis)
            groups.append((dims, atoms))
        return labelled((*t.shape[:dim], len(index), *t.shape[dim + 1 :]), groups)

    def _told_by_entries(self, atoms: np.ndarray, places: np.ndarray) -> None:
        """Atoms [n] are coloured by their entries at `places`: the first, second, ... of each, in order of places."""
        held, unit, counts = np.unique(atoms, return_inverse=True, return_counts=True)
        if counts.max(initial=1) == 1:
            colours = np.bincount(unit[places], minlength=len(held))
        else:
            entry = np.empty(len(atoms), dtype=np.int64)
            entry[np.argsort(unit, kind="stable")] = np.concatenate([np.arange(n) for n in counts])
            order = np.argsort(unit[places], kind="stable")
            ends = np.cumsum(np.bincount(unit[places], minlength=len(held)))[:-1]
            taken = np.split(entry[places][order], ends)
            colours = np.unique([row.tobytes().hex() for row in taken], return_inverse=True)[1]
        other = colours != np.bincount(colours).argmax()  # the most frequent colour goes without saying
        if other.any():
            self.relations.mark(held[other], colours[other], self.reason)

    def reduced(self, t: Labelled, dims: Iterable[int], *, ordered: bool = False) -> Labelled:
        """What is left after summing over dims, which keep length 1. ordered: the sum depends on the places, too."""
        gone = {d % max(len(t.shape), 1) for d in dims}
        if ordered:
            self.pin_along(t, sorted(gone))
        left = [self.marginal(group, set(group[0]) - gone) for group in t.groups]
        shape = [1 if d in gone else n for d, n in enumerate(t.shape)]
        return labelled(shape, [group for group in left if group is not None])

    def aligned(self, operands: Sequence[Labelled], shape: Sequence[int]) -> Labelled:
        """An elementwise operation with broadcasting."""
        ts = [shifted(t, len(shape)) for t in operands]
        groups = [group for t in ts for group in t.groups]
        told = [
            (dim, values_along(t, dim))
            for t in ts
            for dim, size in enumerate(t.shape)
            if size > 1 and t.at(dim) is None and any(dim in dims for dims, _ in groups)
        ]
        for group in groups:
            self.colour(group, [(dim, colours) for dim, colours in told if dim in group[0]])
        rigid = {dim for dim, colours in told if len(set(colours.tolist())) == shape[dim]}
        result = []
        for family in _overlapping(groups):
            dims = set().union(*(g for g, _ in family))
            whole = next((group for group in family if set(group[0]) == dims), None)
            if whole is None:
                for group in family:
                    self.pin(group)
                continue
            for group in family:
                part = self.marginal(whole, group[0])
                if group is not whole and part is not None:
                    self.relations.align(part[1], group[1])
            if dims - rigid:
                result.append(whole)
        return labelled(shape, result)

    def per_channel(self, x: Labelled, parameters: Iterable[Any], dim: int = 1) -> Labelled:
        """x with vectors of the channels, those that are given, applied along a dim."""
        columns = [p for p in parameters if isinstance(p, Labelled)]
        for _ in range(len(x.shape) - dim - 1):
            columns = [unsqueezed(p, len(p.shape)) for p in columns]
        return self.aligned([x, *columns], x.shape)

    def product(self, x: Labelled, y: Labelled, shape: Sequence[int]) -> Labelled:
        """x [*batch, i, k] @ y [*batch, k, j] with broadcast batch dims."""
        gx, gy = x.at(-1), y.at(-2)
        k, m = len(x.shape) - 1, len(y.shape) - 2
        if gx is not None and gy is not None:
            batch = {d - len(x.shape) for d in gx[0] if d < k - 1} & {d - len(y.shape) for d in gy[0] if d < m}
            left = self.marginal(gx, {k, *(d + len(x.shape) for d in batch)})
            right = self.marginal(gy, {m, *(d + len(y.shape) for d in batch)})
            if left is not None and right is not None:
                self.relations.align(left[1], right[1])
        else:
            self.pin_along(x, [k])
            self.pin_along(y, [m])
        return self.aligned([self.reduced(x, [k]), self.reduced(y, [m])], shape)

    def reshape(self, t: Labelled, shape: Sequence[int]) -> Labelled:
        result, dropped = reshaped(t, shape)
        for group in dropped:
            self.pin(group)
        return result


def values_along(t: Labelled, dim: int) -> np.ndarray:
    """Colours [size] along a rigid dim: equal where a known tensor's slices are equal."""
    if t.value is None:
        return np.arange(t.shape[dim])
    slices = t.value.detach().cpu().reshape(t.shape).movedim(dim, 0).reshape(t.shape[dim], -1)
    if bool((slices == slices[:1]).all()):
        return np.zeros(t.shape[dim], dtype=np.int64)
    slices = slices.double() if slices.is_floating_point() else slices
    return np.unique(slices.numpy(), axis=0, return_inverse=True)[1].ravel()


def _overlapping(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in families that share dims."""
    families: list[list[Group]] = []
    for group in groups:
        mine: list[list[Group]] = []
        others: list[list[Group]] = []
        for family in families:
            (mine if any(set(g[0]) & set(group[0]) for g in family) else others).append(family)
        families = [*others, [*(g for family in mine for g in family), group]]
    return families
