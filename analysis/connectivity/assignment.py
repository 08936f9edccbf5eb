"""The orders of units with the largest sum of similarities: one linear assignment a group, or one for each pair of
units and one over them where units hold others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .groups import Group
from .orders import Orders

GRID = 2.0**-36  # similarities are rounded to this part of the largest, so that rounding errors do not decide

Gram = Callable[[Group], np.ndarray]


def assigned(groups: Sequence[Group], gram: Gram) -> Orders:
    """The orders with the largest sum of similarities gram(group) [copies * size, copies * size].

    gram makes a new array at each call.
    """
    orders: Orders = {}
    for group in groups:
        if not group.inner:
            orders[id(group)] = linear_sum_assignment(_rounded(gram(group)), maximize=True)[1]
            continue
        grams: dict[int, np.ndarray] = {}
        choices: dict[tuple[int, int, int], np.ndarray] = {}
        _gather(group, gram, grams)
        _best(group, 0, 0, grams, choices)
        _chosen(group, np.zeros(1, dtype=np.int64), choices, orders)
    return orders


def _chosen(
    group: Group, outer: np.ndarray, choices: Mapping[tuple[int, int, int], np.ndarray], orders: Orders
) -> None:
    own = [choices[id(group), copy, source] + source * group.size for copy, source in enumerate(outer.tolist())]
    orders[id(group)] = np.concatenate(own)
    for inner in group.inner:
        _chosen(inner, orders[id(group)], choices, orders)


def centred(matrix: np.ndarray) -> np.ndarray:
    """In place, less the mean of each column, which decides nothing: the solver takes less time."""
    matrix -= matrix.sum(0) / len(matrix)
    return matrix


def _rounded(matrix: np.ndarray) -> np.ndarray:
    """In place: these are the largest arrays that there are."""
    step = float(max(matrix.max(initial=0), -matrix.min(initial=0))) * GRID
    if step > 0:
        matrix /= step
        np.rint(matrix, out=matrix)
        matrix *= step
    return matrix


def _gather(group: Group, gram: Gram, grams: dict[int, np.ndarray]) -> None:
    grams[id(group)] = _rounded(gram(group))
    for inner in group.inner:
        _gather(inner, gram, grams)


def _best(
    group: Group, a: int, b: int, grams: Mapping[int, np.ndarray], choices: dict[tuple[int, int, int], np.ndarray]
) -> float:
    """The largest similarity of one copy of a group with another, noting the choice that reaches it."""
    n = group.size
    similar = grams[id(group)][a * n : (a + 1) * n, b * n : (b + 1) * n]
    if group.inner:
        similar = similar.copy()
    for inner in group.inner:
        for i in range(n):
            for j in range(n):
                similar[i, j] += _best(inner, a * n + i, b * n + j, grams, choices)
    rows, columns = linear_sum_assignment(similar, maximize=True)
    choices[id(group), a, b] = columns
    return float(similar[rows, columns].sum())
