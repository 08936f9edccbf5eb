"""Matching: the symmetry of one checkpoint that brings it nearest to another.

Weight matching maximises the inner product of all parameters over the group of symmetries, by coordinate ascent with a
linear assignment for each group of units; activation matching maximises the correlation of units over data. Both:
Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, arXiv:2209.04836; activations: Li et al. 2016, Convergent Learning,
arXiv:1511.07543.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
SMALL = 2**16  # entries of a tensor: the rows of smaller ones are multiplied together
GRID = 2.0**-36  # similarities are rounded to this part of the largest, so that rounding errors do not decide

Gram = Callable[[Group], np.ndarray]


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
    for checkpoint in (reference, moving):
        symmetries.identity().apply(checkpoint)
    ascent = _Ascent(symmetries, reference, moving)
    found = []
    for number, start in enumerate([*starts, *(f"random {i + 1}" for i in range(restarts))]):
        rng = np.random.default_rng([seed, number])
        if start == "identity":
            first = symmetries.identity()
        elif start == "sorted":
            first = ascent.sorted_start()
        elif start == "activations" and problem is not None:
            first = match_activations(symmetries, problem, reference, moving).permutation
        else:
            first = symmetries.random(int(rng.integers(2**31)))
        found.append(ascent.run(first, start, rng, problem))
    if problem is None:
        return max(found, key=lambda m: m.objective)
    return min(found, key=lambda m: (not np.isfinite(m.midpoint), m.midpoint))


class _Ascent:
    """Coordinate ascent on the inner product of parameters."""

    def __init__(self, symmetries: Symmetries, reference: Checkpoint, moving: Checkpoint):
        self.symmetries, self.reference, self.moving = symmetries, reference, moving
        self.a, self.b = (_as_float64(c.weights) for c in (reference, moving))
        self.names = [sorted({name for name, _ in g.all_places()} & set(self.a)) for g in symmetries.groups]
        self.scale = float(np.sqrt(_inner(self.a, self.a, self.a) * _inner(self.b, self.b, self.b)))
        self._units: dict[int, tuple[list[_Units], list[_Units], Tensor]] = {}  # of a group, see _of

    def sorted_start(self) -> Permutation:
        """One assignment for each group, of rows whose entries are sorted."""
        result = self.symmetries.identity()
        for group in self.symmetries.groups:
            result = result.then(self._step(group, self._products_of_sorted))
        return result

    def run(self, first: Permutation, start: str, rng: np.random.Generator, problem: Problem | None) -> Matching:
        permutation, now = first, first.tensors(self.b)
        inner = _inners(self.a, now, self.a)
        total = sum(inner.values())
        history, sweeps, moved = [total], 0, True
        settled: set[int] = set()  # groups whose last step was none, and whose weights are still what they were
        while moved and sweeps < SWEEPS:
            moved, sweeps = False, sweeps + 1
            for i in rng.permutation(len(self.symmetries.groups)).tolist():
                if i in settled:
                    continue
                step = self._step(self.symmetries.groups[i], partial(self._products, now))
                if not step.moved:
                    settled.add(i)
                    continue
                after = step.tensors({name: now[name] for name in self.names[i]})
                anew = _inners(self.a, after, after)
                rise = sum(value - inner[name] for name, value in anew.items())
                if rise > STEP * self.scale:
                    permutation, moved = permutation.then(step), True
                    now, inner = {**now, **after}, {**inner, **anew}
                    total += rise
                    history.append(total)
                    settled = {j for j in settled if not set(self.names[i]) & set(self.names[j])}
                else:
                    settled.add(i)
        objective = _inner(self.a, permutation.tensors(self.b), self.a)
        if abs(objective - total) > 1e-8 * max(self.scale, abs(objective)):
            raise SymmetryError(f"The objective is {objective:.12g}, and the steps add up to {total:.12g}.")
        checkpoint = permutation.apply(self.moving)
        middle = float("nan") if problem is None else midpoint_loss(problem, self.reference, checkpoint)
        return Matching(permutation, checkpoint, objective, tuple(history), sweeps, not moved, start, middle)

    def _step(self, group: Group, gram: Gram) -> Permutation:
        return assigned([group], self.symmetries, gram)

    def _of(self, group: Group) -> tuple[list[_Units], list[_Units], Tensor]:
        """What belongs to a group's units in small and in large tensors, and the reference's rows of the small ones."""
        if id(group) not in self._units:
            places = group.places.items()
            every = [_Units(place, indices, self.a[place[0]]) for place, indices in places if place[0] in self.a]
            small = [part for part in every if self.a[part.name].numel() <= SMALL]
            count = group.size * group.copies
            rows = torch.cat([torch.zeros(count, 0, dtype=torch.float64), *(part.rows(self.a) for part in small)], 1)
            self._units[id(group)] = small, [part for part in every if part not in small], rows
        return self._units[id(group)]

    def _products(self, now: Mapping[str, Tensor], group: Group) -> np.ndarray:
        """Inner products [units, units] of what belongs to each unit."""
        small, large, rows = self._of(group)
        total = rows @ torch.cat([rows[:, :0], *(part.rows(now) for part in small)], 1).T
        for part in large:
            total.addmm_(part.rows(self.a), part.rows(now).T)
        return total.numpy()

    def _products_of_sorted(self, group: Group) -> np.ndarray:
        """The same with the entries of each unit in order of size."""
        small, large, rows = self._of(group)
        total = rows.new_zeros(len(rows), len(rows))
        for part in (*small, *large):
            a, b = (torch.from_numpy(np.sort(part.rows(tensors).numpy(), axis=1)) for tensors in (self.a, self.b))
            total.addmm_(a, b.T)
        return total.numpy()


class _Units:
    """What a tensor holds of each unit of a group: its entries along one axis."""

    def __init__(self, place: Place, indices: np.ndarray, tensor: Tensor):
        self.name, self.axis = place
        self._count = int(np.prod(indices.shape[:-1]))
        order = indices.ravel()
        whole = len(order) == tensor.shape[self.axis] and bool((order == np.arange(len(order))).all())
        self._order = None if whole else torch.from_numpy(order)

    def rows(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """[units, entries] of one of some tensors."""
        rows = tensors[self.name].movedim(self.axis, 0)
        return (rows if self._order is None else rows.index_select(0, self._order)).reshape(self._count, -1)


def assigned(groups: Sequence[Group], symmetries: Symmetries, gram: Gram) -> Permutation:
    """The element of some groups with the largest sum of similarities gram(group) [copies * size, copies * size].

    gram makes a new array at each call.
    """
    choices: dict[tuple[int, int, int], np.ndarray] = {}
    for group in groups:
        grams: dict[int, np.ndarray] = {}
        _gather(group, gram, grams)
        _best(group, 0, 0, grams, choices)
    if all((choice == np.arange(len(choice))).all() for choice in choices.values()):
        return Permutation({})
    return Permutation.of(groups, symmetries.sizes, lambda group, copy, source: choices[id(group), copy, source])


def _gather(group: Group, gram: Gram, grams: dict[int, np.ndarray]) -> None:
    matrix = gram(group)
    step = float(max(matrix.max(initial=0), -matrix.min(initial=0))) * GRID
    if step > 0:  # in place: these are the largest arrays that there are
        matrix /= step
        np.rint(matrix, out=matrix)
        matrix *= step
    grams[id(group)] = matrix
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


def _as_float64(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().to("cpu", torch.float64) for name, t in weights.items()}


def _inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterable[str]) -> float:
    return sum(_inners(a, b, names).values())


def _inners(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, float]:
    return {name: float(torch.dot(a[name].flatten(), b[name].flatten())) for name in names}


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
        symmetries.identity().apply(checkpoint)
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
    permutation = symmetries.identity().then(assigned(matched, symmetries, either))
    checkpoint = permutation.apply(moving)
    a, b = (_as_float64(c.weights) for c in (reference, checkpoint))
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
