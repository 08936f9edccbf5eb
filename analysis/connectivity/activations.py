"""Activations: how the units of two networks correlate over data, and the symmetry that pairs those that do most.

Li et al. 2016, Convergent Learning: Do different neural networks learn the same representations?, arXiv:1511.07543.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..problem import Problem
from ..replica import Replica
from .assignment import assigned
from .groups import Group, Permutation
from .orders import movers_of, permutation_of
from .symmetries import Symmetries

Shown = tuple[str, int, bool]  # a weight, its axis, and whether that is the one that reads


def correlated(
    symmetries: Symmetries, problem: Problem, reference: Checkpoint, moving: Checkpoint
) -> tuple[Permutation, list[Group]]:
    """The symmetry of `moving` under which its units correlate most with the reference's, and the groups that nothing
    shows.
    """
    similar = correlations(problem, reference, moving, _read(problem.model))

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
    return permutation_of(symmetries, movers_of(symmetries, matched), assigned(matched, either)), left


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


def correlations(
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
