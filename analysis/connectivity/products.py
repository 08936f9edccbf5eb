"""What two sets of tensors hold of each unit of a group, and its inner products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import is_

import numpy as np
import torch
from torch import Tensor

from .assignment import centred
from .groups import Group
from .orders import Movers, Moves, Orders, index_of

Arrays = Mapping[str, np.ndarray]


class Units:
    """What two sets of tensors hold of each unit of a group: in one matrix where no other axis moves, else in parts.

    a, b: [units, entries]. widths: how many of the entries are of each tensor.
    """

    def __init__(self, group: Group, a: Arrays, b: Arrays, movers: Movers):
        none = np.zeros((group.size * group.copies, 0))
        fixed: list[tuple[np.ndarray, np.ndarray]] = [(none, none)]
        self.parts: list[_Part] = []
        for name, axis in (place for place in group.places if place[0] in a):
            rows = partial(_rows, (a[name], b[name]), axis, movers[name, axis][id(group)])
            # with the unit's axis in front the first one stands where that was
            places = {i or axis: (name, i) for i in range(a[name].ndim) if i != axis}
            others = {i: movers[place] for i, place in places.items() if place in movers}
            if others:
                self.parts.append(_Part(name, rows, others, a[name].size))
            else:
                x, y = rows()
                fixed.append((x.reshape(len(x), -1), y.reshape(len(y), -1)))
        self.a, self.b = (np.concatenate(rows, 1, dtype=np.float64) for rows in zip(*fixed, strict=True))
        self.widths = [x.shape[1] for x, _ in fixed]

    def inner(self, own: np.ndarray | slice = slice(None)) -> float:
        """The part in the inner product of what is in one matrix, with the second's units in an order."""
        return float((self.a * self.b[own]).sum())

    def products(self, orders: Orders) -> np.ndarray:
        """Inner products [units, units] of the first's with the second's, whose units are in their own order."""
        total = _products(torch.from_numpy(self.a), self.b.T)
        for part in self.parts:
            total += part.product(orders)
        return total

    def products_of_sorted(self) -> np.ndarray:
        """Inner products [units, units] with the entries of each unit of a tensor in order of size."""
        a, b = self.a.copy(), self.b.copy()
        ends = np.cumsum(self.widths).tolist()
        for width, end in zip(self.widths, ends, strict=True):
            if width > 1:
                a[:, end - width : end].sort(1)
                b[:, end - width : end].sort(1)
        total = _products(torch.from_numpy(a), b.T)
        for part in self.parts:
            total += part.product_of_sorted()
        return centred(total)


def _rows(arrays: Sequence[np.ndarray], axis: int, indices: np.ndarray | None) -> list[np.ndarray]:
    """What tensors hold of each unit: [units, m, *other axes]."""
    every = [array.swapaxes(0, axis) for array in arrays]
    return [rows[:, None] if indices is None else rows[indices] for rows in every]


def _products(a: Tensor, b: np.ndarray) -> np.ndarray:
    """a @ b, of which torch takes less time."""
    return (a @ torch.from_numpy(b)).numpy()


class _Part:
    """What a tensor of each set holds of each unit of a group, where other groups move it too.

    rows: gives it, of both. others: for axes of `_b` [m, *other axes, units] the groups that move them. whole: all
        `size` entries of the tensor belong to units.
    """

    def __init__(self, name: str, rows: Callable[[], list[np.ndarray]], others: Mapping[int, Moves], size: int):
        self.name, self._rows, self._others = name, rows, others
        x, y = rows()
        self.whole = x.size == size
        self._a = torch.from_numpy(x.astype(np.float64, order="C").reshape(len(x), -1))
        self._b = np.moveaxis(y, 0, -1).astype(np.float64, order="C")
        self._groups = [group for moves in others.values() for group in moves]
        self._kept: tuple[list[np.ndarray], np.ndarray] | None = None

    def product(self, orders: Orders) -> np.ndarray:
        """Inner products [units, units] with the other axes of the second in their orders, its units in their own."""
        now = [orders[group] for group in self._groups]
        if self._kept is not None and all(map(is_, self._kept[0], now)):
            return self._kept[1]
        b = self._b
        for axis, moves in self._others.items():
            b = b.take(index_of(b.shape[axis], moves, orders), axis)
        product = _products(self._a, b.reshape(-1, b.shape[-1]))
        if product.size <= b.size:  # it takes no more memory than the tensor
            self._kept = now, product
        return product

    def product_of_sorted(self) -> np.ndarray:
        """Inner products [units, units] with the entries of each unit in order of size."""
        # float32 is sorted in less time than float64
        a, b = (np.sort(rows.reshape(len(rows), -1), 1) for rows in self._rows())
        return _products(torch.from_numpy(a.astype(np.float64)), b.T.astype(np.float64, order="C"))


def arrays_of(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """As float64 or float32, which hold each without loss."""
    found = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    return {name: (t if t.dtype == torch.float64 else t.float()).numpy() for name, t in found.items()}


def inner_product(a: Arrays, b: Arrays, names: Iterable[str]) -> float:
    return sum(float(np.dot(*(arrays[name].astype(np.float64).ravel() for arrays in (a, b)))) for name in names)


def norm_of(arrays: Arrays) -> float:
    return float(np.linalg.norm(np.concatenate([array.ravel() for array in arrays.values()], dtype=np.float64)))
