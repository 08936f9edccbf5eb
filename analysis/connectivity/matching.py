"""Matching: the symmetry of one checkpoint that brings it nearest to another.

Weight matching maximises the inner product of all parameters over the group of symmetries, by coordinate ascent with a
linear assignment for each group of units; activation matching maximises the correlation of units over data. Both:
Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, arXiv:2209.04836; activations: Li et al. 2016, Convergent Learning,
arXiv:1511.07543.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import is_

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..errors import LandscapeError, SymmetryError
from ..problem import Problem
from ..replica import Replica
from .groups import Group, Permutation, Place
from .symmetries import Symmetries

STARTS = ("identity", "sorted", "activations")
STEP = 1e-12  # a step counts if the objective rises by more than this part of its scale
SWEEPS = 100
GRID = 2.0**-36  # similarities are rounded to this part of the largest, so that rounding errors do not decide

Gram = Callable[[Group], np.ndarray]
Arrays = Mapping[str, np.ndarray]
Orders = dict[int, np.ndarray]  # by the id of a group [copies * size]: which unit takes the place of each


@dataclass(frozen=True)
class Matching:
    """A permutation of the second checkpoint, and how it was found.

    objective: the inner product of all parameters of the first and the permuted second, recomputed at the end.
    history: the objective at the start and after each accepted step; it never falls. sweeps: over all groups, the last
        without a step if `converged`. start: of the ascent that won. midpoint: the loss half-way, where restarts were
        chosen by it, or NaN. left: groups that the method has nothing to say of, as text.
    """

    permutation: Permutation
    checkpoint: Checkpoint
    objective: float
    history: tuple[float, ...] = ()
    sweeps: int = 0
    converged: bool = True
    start: str = "identity"
    midpoint: float = float("nan")
    left: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ended = "" if self.converged else ", not converged"
        return f"Matching({self.checkpoint.name!r}, objective {self.objective:.6g}, {self.sweeps} sweeps{ended})"


def match_weights(
    symmetries: Symmetries,
    reference: Checkpoint,
    moving: Checkpoint,
    *,
    seed: int = 0,
    restarts: int = 0,
    starts: Sequence[str] | None = None,
    problem: Problem | None = None,
) -> Matching:
    """The symmetry of `moving` with the largest inner product with `reference` that coordinate ascent finds.

    Each step is one linear assignment over a group (over heads, with one for the entries of each pair of heads within),
    with all others held, and counts only where the objective in float64 rises. Starts: "identity"; "sorted", which
    compares rows with their entries in order of size and so does not depend on the other groups (it finds planted
    symmetries); "activations", the result of `match_activations`; and `restarts` random elements. Default: all, the
    last but with a problem only. Groups are visited in an order that `seed` draws.

    problem: chooses among the starts by the loss half-way between the two; otherwise the largest objective wins, which
        does not rank starts as the loss does.

    Raises LandscapeError for bad arguments, SymmetryError for checkpoints of another model.
    """
    if starts is None:
        starts = STARTS if problem is not None else STARTS[:2]
    if restarts < 0 or not set(starts) <= set(STARTS) or (not starts and not restarts):
        raise LandscapeError(
            f"starts are {list(starts)} with {restarts} restarts; accepted are some of {list(STARTS)}, and 0 or more."
        )
    if "activations" in starts and problem is None:
        raise LandscapeError("The start 'activations' needs the data of a problem: pass problem=, or leave it out.")
    identity = symmetries.identity()
    for checkpoint in (reference, moving):
        identity.check(checkpoint)
    ascent = _Ascent(symmetries, reference, moving)
    found = []
    for number, start in enumerate([*starts, *(f"random {i + 1}" for i in range(restarts))]):
        rng = np.random.default_rng([seed, number])
        if start == "identity":
            first = _orders(symmetries, identity)
        elif start == "sorted":
            first = ascent.sorted_start()
        elif start == "activations" and problem is not None:
            first = _orders(symmetries, match_activations(symmetries, problem, reference, moving).permutation)
        else:
            first = _orders(symmetries, symmetries.random(int(rng.integers(2**31))))
        found.append(ascent.run(first, start, rng))
    if problem is None:
        step = GRID * ascent.scale or 1.0
        return ascent.checked(max(found, key=lambda climb: round(climb.history[-1] / step)))
    matchings = [ascent.checked(climb) for climb in found]
    middles = [midpoint_loss(problem, reference, m.checkpoint) for m in matchings]
    matchings = [replace(m, midpoint=middle) for m, middle in zip(matchings, middles, strict=True)]
    return min(matchings, key=lambda m: (not np.isfinite(m.midpoint), m.midpoint))


@dataclass(frozen=True)
class _Climb:
    """One run of the ascent; the other fields are those of Matching."""

    orders: Orders
    history: tuple[float, ...]
    sweeps: int
    converged: bool
    start: str


class _Ascent:
    """Coordinate ascent on the inner product of parameters."""

    def __init__(self, symmetries: Symmetries, reference: Checkpoint, moving: Checkpoint):
        self.symmetries, self.moving = symmetries, moving
        self.a, self.b = (_arrays(c.weights) for c in (reference, moving))
        self.scale = _norm(self.a) * _norm(self.b)
        places = [{p for g in group.all_groups for p in g.places if p[0] in self.a} for group in symmetries.groups]
        self.names = [{name for name, _ in own} for own in places]
        # groups that move no tensor along two axes: what an assignment gains is by how much the objective rises
        self.linear = [len(names) == len(own) for names, own in zip(self.names, places, strict=True)]
        self.movers = _movers(symmetries, symmetries.groups)
        every = [g for group in symmetries.groups for g in group.all_groups]
        self.units = {id(group): _Units(group, self.a, self.b, self.movers) for group in every}
        self.along_more = {part.name for units in self.units.values() for part in units.parts}
        # the part of the objective that no order decides
        fixed = [name for name in self.a if name not in self.along_more]
        self.rest = _inner(self.a, self.b, fixed) - sum(units.inner() for units in self.units.values())

    def sorted_start(self) -> Orders:
        """One assignment for each group, of rows whose entries are sorted."""
        return assigned(self.symmetries.groups, lambda group: self.units[id(group)].products_of_sorted())

    def run(self, orders: Orders, start: str, rng: np.random.Generator) -> _Climb:
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
        return _Climb(orders, tuple(history), sweeps, not moved, start)

    def _step(self, i: int, orders: Orders) -> tuple[Orders, float]:
        """The orders after the best step of one group, and by how much the objective rises."""
        products: dict[int, np.ndarray] = {}

        def gram(group: Group) -> np.ndarray:
            products[id(group)] = self.units[id(group)].products(orders)
            return _centred(products[id(group)].take(orders[id(group)], 1))

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
        return _inner(self.a, _arrays(_permutation(self.symmetries, self.movers, orders).tensors(own)), own)

    def checked(self, climb: _Climb) -> Matching:
        """What a run found, with the objective computed anew."""
        permutation = _permutation(self.symmetries, self.movers, climb.orders)
        checkpoint = permutation.apply(self.moving)
        objective, total = _inner(self.a, _arrays(checkpoint.weights), self.a), climb.history[-1]
        if abs(objective - total) > 1e-8 * max(self.scale, abs(objective)):
            raise SymmetryError(f"The objective is {objective:.12g}, and the steps add up to {total:.12g}.")
        return Matching(permutation, checkpoint, objective, climb.history, climb.sweeps, climb.converged, climb.start)


def _along(products: np.ndarray, order: np.ndarray) -> float:
    return float(products[np.arange(len(order)), order].sum())


def _permutation(symmetries: Symmetries, movers: Movers, orders: Orders) -> Permutation:
    moved = {place: _index(symmetries.sizes[place], moves, orders) for place, moves in movers.items()}
    return Permutation({**symmetries.identity().indices, **moved})


def _orders(symmetries: Symmetries, permutation: Permutation) -> Orders:
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


# the groups that move an axis of a tensor, by their id, and the indices [units, m] of their units there; None for all
# of the axis as it is, one index a unit
Moves = dict[int, np.ndarray | None]
Movers = dict[Place, Moves]


def _movers(symmetries: Symmetries, groups: Sequence[Group]) -> Movers:
    found: Movers = {}
    for group in (g for outer in groups for g in outer.all_groups):
        for place, indices in group.places.items():
            rows, size = indices.reshape(-1, indices.shape[-1]), symmetries.sizes[place]
            plain = rows.shape == (size, 1) and (rows[:, 0] == np.arange(size)).all()
            found.setdefault(place, {})[id(group)] = None if plain else rows
    return found


class _Units:
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
        return _centred(total)


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
            b = b.take(_index(b.shape[axis], moves, orders), axis)
        product = _products(self._a, b.reshape(-1, b.shape[-1]))
        if product.size <= b.size:  # it takes no more memory than the tensor
            self._kept = now, product
        return product

    def product_of_sorted(self) -> np.ndarray:
        """Inner products [units, units] with the entries of each unit in order of size."""
        # float32 is sorted in less time than float64
        a, b = (np.sort(rows.reshape(len(rows), -1), 1) for rows in self._rows())
        return _products(torch.from_numpy(a.astype(np.float64)), b.T.astype(np.float64, order="C"))


def _index(size: int, moves: Moves, orders: Orders) -> np.ndarray:
    """Which entry of an axis takes the place of each."""
    index = np.arange(size)
    for group, indices in moves.items():
        if indices is None:
            return orders[group]
        index[indices] = index[indices[orders[group]]]
    return index


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


def _centred(matrix: np.ndarray) -> np.ndarray:
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


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """As float64 or float32, which hold each without loss."""
    found = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    return {name: (t if t.dtype == torch.float64 else t.float()).numpy() for name, t in found.items()}


def _inner(a: Arrays, b: Arrays, names: Iterable[str]) -> float:
    return sum(float(np.dot(*(arrays[name].astype(np.float64).ravel() for arrays in (a, b)))) for name in names)


def _norm(arrays: Arrays) -> float:
    return float(np.linalg.norm(np.concatenate([array.ravel() for array in arrays.values()], dtype=np.float64)))


def midpoint_loss(problem: Problem, a: Checkpoint, b: Checkpoint) -> float:
    """The problem's loss half-way between two checkpoints, with the buffers of the first."""
    replica = Replica(problem)
    replica.load(a)
    replica.flat.copy_((replica.pack(a.weights) + replica.pack(b.weights)) / 2)
    return replica.measure()["loss"][0]


def match_activations(symmetries: Symmetries, problem: Problem, reference: Checkpoint, moving: Checkpoint) -> Matching:
    """The symmetry of `moving` under which its units correlate most with those of `reference`.

    Correlations are over the problem's data, and over places of an image or a sequence, of what enters the linear and
    convolutional modules that read a group of units (after the nonlinearity, as they are used), or, of groups that none
    reads, of what such modules put out; one assignment for each group. Groups that no such module shows stay as they
    are and are listed in `left`. Raises SymmetryError for checkpoints of another model.
    """
    for checkpoint in (reference, moving):
        symmetries.identity().check(checkpoint)
    similar = _correlations(problem, reference, moving, _read(problem.model))

    def gram(group: Group, read: bool) -> np.ndarray:
        units = group.size * group.copies
        total = np.zeros((units, units))
        for place, indices in group.places.items():
            if (*place, read) in similar:
                for column in indices.reshape(units, -1).T:
                    total += similar[*place, read][np.ix_(column, column)]
        return total

    def either(group: Group) -> np.ndarray:
        entering = gram(group, True)
        return entering if entering.any() else gram(group, False)

    def shown(group: Group) -> bool:
        return bool(either(group).any()) or any(shown(inner) for inner in group.inner)

    seen = [shown(group) for group in symmetries.groups]
    left = [group for group, here in zip(symmetries.groups, seen, strict=True) if not here]
    matched = [group for group, here in zip(symmetries.groups, seen, strict=True) if here]
    permutation = _permutation(symmetries, _movers(symmetries, matched), assigned(matched, either))
    checkpoint = permutation.apply(moving)
    a, b = (_arrays(c.weights) for c in (reference, checkpoint))
    names = tuple("{}: {}[{}]".format(group.structure, *min(group.all_places())) for group in left)
    return Matching(permutation, checkpoint, _inner(a, b, a), sweeps=1, start="activations", left=names)


Shown = tuple[str, int, bool]  # a weight, its axis, and whether that is the one that reads


def _read(model: nn.Module) -> dict[str, dict[bool, Shown]]:
    """For each linear and convolutional module what its inputs (True) and its outputs (False) show."""
    found: dict[str, dict[bool, Shown]] = {}
    for name, module in model.named_modules():
        weight = f"{name}.weight" if name else "weight"
        if isinstance(module, nn.Linear):
            found[name] = {True: (weight, 1, True), False: (weight, 0, False)}
        elif isinstance(module, nn.modules.conv._ConvTransposeNd):
            found[name] = {True: (weight, 0, True), False: (weight, 1, False)} if module.groups == 1 else {}
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[name] = {False: (weight, 0, False)} | ({True: (weight, 1, True)} if module.groups == 1 else {})
    return found


def _correlations(
    problem: Problem, reference: Checkpoint, moving: Checkpoint, shows: Mapping[str, Mapping[bool, Shown]]
) -> dict[Shown, np.ndarray]:
    """Correlations [of the reference, of the other] of what modules show, 0 for what is constant."""
    replicas = [Replica(problem) for _ in range(2)]
    seen: list[dict[Shown, list[Tensor]]] = [{}, {}]
    for replica, checkpoint, into in zip(replicas, (reference, moving), seen, strict=True):
        replica.load(checkpoint)
        replica.settle()
        for name, module in replica.model.named_modules():
            if name in shows:
                module.register_forward_hook(_keep(into, shows[name]))
    sums: dict[Shown, list[Tensor]] = {}
    for batch in problem.data.batches():
        for replica, into in zip(replicas, seen, strict=True):
            into.clear()
            with replica.own_context(grad=False):
                replica.output(replica.here(batch))
        for place in seen[0]:
            for x, y in zip(*(into[place] for into in seen), strict=True):
                count = torch.tensor(float(len(x)), dtype=torch.float64)
                parts = [count, x.sum(0), y.sum(0), (x**2).sum(0), (y**2).sum(0), x.T @ y]
                before = sums.get(place)
                sums[place] = parts if before is None else [p + q for p, q in zip(before, parts, strict=True)]
    result = {}
    for place, (n, x, y, xx, yy, xy) in sums.items():
        size = torch.outer((xx / n - (x / n) ** 2).clamp(min=0).sqrt(), (yy / n - (y / n) ** 2).clamp(min=0).sqrt())
        covariance = xy / n - torch.outer(x / n, y / n)
        result[place] = torch.where(size > 1e-12 * size.max(), covariance / size, 0.0).cpu().numpy()
    return result


def _keep(into: dict[Shown, list[Tensor]], shows: Mapping[bool, Shown]) -> Callable:
    def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
        for read, place in shows.items():
            if read and not args:
                continue
            tensor = args[0] if read else output
            channels = tensor if isinstance(module, nn.Linear) else tensor.movedim(1, -1)
            into.setdefault(place, []).append(channels.detach().double().reshape(-1, channels.shape[-1]))

    return hook
