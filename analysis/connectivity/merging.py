"""Merging: several checkpoints in common units, averaged, with the statistics of their activations restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import LandscapeError
from ..problem import Problem
from ..replica import Replica, settled
from ..weights import Weights
from .damage import refuse_damaged, refuse_losses
from .groups import Permutation
from .matching import match_activations, match_weights
from .symmetries import Symmetries

METHODS = ("weights", "activations")
SWEEPS = 100


@dataclass(frozen=True)
class Merger:
    """The average of several checkpoints, and what was averaged.

    checkpoint: the average. aligned: the checkpoints with their units in the order of the first's, which is left as it
        is. permutations: one for each, the first the identity.
    """

    checkpoint: Checkpoint
    aligned: tuple[Checkpoint, ...]
    permutations: tuple[Permutation, ...]

    def __repr__(self) -> str:
        return f"Merger({self.checkpoint!r}, of {len(self.aligned)} aligned)"


def match_many(
    symmetries: Symmetries,
    checkpoints: Sequence[Checkpoint],
    *,
    method: str = "weights",
    problem: Problem | None = None,
    seed: int = 0,
) -> tuple[Permutation, ...]:
    """One permutation for each of several checkpoints, to the units of the first.

    From i to j leads ``permutations[i].then(permutations[j].inverse())``, so that every cycle closes exactly, which
    matchings of pairs do not. Method "weights": each is matched with the first, then each in turn with the mean of the
    others until none moves, which never lowers the sum of all inner products of two (MergeMany of Ainsworth, Hayase
    and Srinivasa 2023, arXiv:2209.04836). Method "activations": each is matched with the first.

    problem: needed for "activations"; for "weights" it chooses among the first matchings (see `match_weights`).

    Raises LandscapeError for bad arguments, SymmetryError for checkpoints of another model.
    """
    if len(checkpoints) < 2:
        raise LandscapeError(f"Matching takes two or more checkpoints; got {len(checkpoints)}.")
    if method not in METHODS:
        raise LandscapeError(f"method is {method!r}; accepted are {list(METHODS)}.")
    first = checkpoints[0]
    if method == "activations":
        if problem is None:
            raise LandscapeError("Activations need the data of a problem: pass problem=, or take method='weights'.")
        own = [match_activations(symmetries, problem, first, other) for other in checkpoints[1:]]
        return symmetries.identity(), *(matching.permutation for matching in own)
    own = [match_weights(symmetries, first, other, seed=seed, problem=problem) for other in checkpoints[1:]]
    found = [symmetries.identity(), *(matching.permutation for matching in own)]
    if len(checkpoints) > 2:
        _settle(symmetries, checkpoints, found, seed)
        back = found[0].inverse()
        found = [permutation.then(back) for permutation in found]
        for permutation, checkpoint in zip(found, checkpoints, strict=True):
            symmetries.refuse_changed(checkpoint, permutation.apply(checkpoint))
    return tuple(found)


def _settle(symmetries: Symmetries, checkpoints: Sequence[Checkpoint], found: list[Permutation], seed: int) -> None:
    """Match each with the mean of the others until none moves."""
    rng = np.random.default_rng(seed)
    aligned = [permutation.apply(c) for permutation, c in zip(found, checkpoints, strict=True)]
    for _ in range(SWEEPS):
        moved = False
        for i in rng.permutation(len(found)).tolist():
            others = [c.weights for j, c in enumerate(aligned) if j != i]
            mean = replace(aligned[i], weights=_average(others, [1 / len(others)] * len(others)))
            step = match_weights(symmetries, mean, aligned[i], starts=["identity"], seed=seed).permutation
            if step.moved:
                found[i], moved = found[i].then(step), True
                aligned[i] = found[i].apply(checkpoints[i])
        if not moved:
            return


def merge(
    symmetries: Symmetries,
    problem: Problem,
    checkpoints: Sequence[Checkpoint],
    *,
    method: str = "weights",
    shares: Sequence[float] | None = None,
    repair: bool = False,
    seed: int = 0,
) -> Merger:
    """The average of two or more checkpoints of the problem after they are brought to the units of the first.

    method: see `match_many`. shares: see `average`. repair: restore the spread of activations too, see `repaired`.

    Raises LandscapeError for bad arguments, SymmetryError for checkpoints of another model.
    """
    parts = _valid_shares(shares, len(checkpoints))
    refuse_damaged(*checkpoints)
    refuse_losses(problem, *checkpoints)
    permutations = match_many(symmetries, checkpoints, method=method, problem=problem, seed=seed)
    moved = (p.apply(c) for p, c in zip(permutations[1:], checkpoints[1:], strict=True))
    aligned = (checkpoints[0], *moved)
    checkpoint = _averaged(problem, aligned, parts)
    if repair:
        checkpoint = repaired(symmetries, problem, checkpoint, aligned, shares=shares)
    return Merger(checkpoint, aligned, permutations)


def average(
    problem: Problem, checkpoints: Sequence[Checkpoint], *, shares: Sequence[float] | None = None
) -> Checkpoint:
    """The average of the weights of checkpoints as they stand.

    Running statistics are estimated anew on the problem's calibration data: those of the ends are not those of an
    average. Other buffers are those of the first. shares: of each checkpoint, summing to 1; default: equal.

    Raises LandscapeError for shares that do not fit, and for checkpoints of different shapes, CheckpointError for one
    whose weights or loss are not finite.
    """
    parts = _valid_shares(shares, len(checkpoints))
    refuse_damaged(*checkpoints)
    refuse_losses(problem, *checkpoints)
    return _averaged(problem, checkpoints, parts)


def _averaged(problem: Problem, checkpoints: Sequence[Checkpoint], parts: Sequence[float]) -> Checkpoint:
    weights = _average([c.weights for c in checkpoints], parts)
    name = "mean of " + ", ".join(c.name for c in checkpoints)
    return recalibrated(problem, Checkpoint(weights, checkpoints[0].buffers, name))


def recalibrated(problem: Problem, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with running statistics from scratch, by the rule that holds at every point of a surface.

    Means and variances are those of the problem's calibration batches, averaged by the batches' sizes. Of several
    batches, that leaves out how their means differ, as the running averages of training do: variances, and with them
    the loss, depend a little on the batch size, and are those of all samples together where one batch holds them all.
    A network without running statistics keeps its buffers.
    """
    refuse_unread(checkpoint)
    if "recalibrated" not in problem.batchnorm_choices:
        return checkpoint
    return settled(problem.with_batchnorm("recalibrated"), checkpoint)


def repaired(
    symmetries: Symmetries,
    problem: Problem,
    merged: Checkpoint,
    ends: Sequence[Checkpoint],
    *,
    shares: Sequence[float] | None = None,
) -> Checkpoint:
    """The average of checkpoints with the mean and spread of each hidden unit restored (REPAIR, Jordan et al. 2023,
    arXiv:2211.08403).

    An average of units that do not match exactly varies less than either. Each channel that a linear or convolutional
    module puts out is scaled and shifted until its mean and standard deviation over the problem's data are those of
    the ends, averaged (standard deviations, not variances), from the first such module to the last; the factor goes
    into the weights, so that the result loads into the original class. Modules count that have a bias of their own, run
    once and put out hidden units, those that some symmetry moves; what stands before a BatchNorm needs none of this,
    and has its statistics estimated anew.

    ends: in common units, as `match_many` brings them. shares: those of the average.
    Raises LandscapeError for shares that do not fit.
    """
    parts = _valid_shares(shares, len(ends))
    refuse_unread(merged, *ends)
    hidden = repairable(symmetries, problem.model)
    wanted: dict[str, tuple[Tensor, Tensor]] = {}
    for share, end in zip(parts, ends, strict=True):
        for module, (mean, deviation) in _statistics(problem, end, hidden).items():
            before = wanted.get(module, (0.0, 0.0))
            wanted[module] = before[0] + share * mean, before[1] + share * deviation
    result = merged
    for module in wanted:
        mean, deviation = _statistics(problem, result, [module])[module]
        factor = torch.where(deviation > 0, wanted[module][1] / deviation, 1.0)
        result = replace(result, weights=_scaled(result.weights, module, factor, wanted[module][0] - factor * mean))
    return replace(recalibrated(problem, result), name=f"{merged.name}, repaired")


def _scaled(weights: Weights, module: str, factor: Tensor, shift: Tensor) -> Weights:
    """Weights with each channel of a module's output multiplied and moved."""

    def changed(name: str, tensor: Tensor) -> Tensor:
        if name == f"{module}.bias":
            return (tensor.double() * factor.to(tensor.device) + shift.to(tensor.device)).to(tensor.dtype)
        if name == f"{module}.weight":
            axis = weights.structure.entries[name].output_axis
            along = factor.to(tensor.device).reshape([-1 if i == axis else 1 for i in range(tensor.ndim)])
            return (tensor.double() * along).to(tensor.dtype)
        return tensor

    return weights.map(changed)


def repairable(symmetries: Symmetries, model: nn.Module) -> list[str]:
    """The modules that `repaired` changes, by name: linear and convolutional ones with weight and bias of their own
    whose output channels are all moved by symmetries. With none it only estimates running statistics anew.
    """
    free: dict[tuple[str, int], set[int]] = {}
    for group in symmetries.groups:
        for place, indices in group.all_places().items():
            free.setdefault(place, set()).update(indices.tolist())
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)) or module.bias is None:
            continue
        tied = any(len(names.get(id(p), [])) != 1 for p in (module.weight, module.bias))
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        if tied or (isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1):
            continue
        channels = free.get((f"{name}.weight", int(transposed)), set())
        if len(channels) == len(module.bias):
            found.append(name)
    return found


def _statistics(problem: Problem, checkpoint: Checkpoint, modules: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation [channels] of what modules that run once put out, in the order in which they run."""
    replica = Replica(problem)
    replica.load(checkpoint)
    replica.settle()
    sums: dict[str, Tensor] = {}
    runs: dict[str, int] = {}

    def keep(name: str, module: nn.Module, output: Tensor) -> None:
        channels = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
        flat = channels.detach().double().reshape(-1, channels.shape[-1])
        part = torch.stack([torch.full_like(flat[0], len(flat)), flat.sum(0), flat.square().sum(0)])
        sums[name] = sums.get(name, torch.zeros_like(part)) + part
        runs[name] = runs.get(name, 0) + 1

    for name in modules:
        module = replica.model.get_submodule(name)
        module.register_forward_hook(lambda module, _, output, name=name: keep(name, module, output))
    batches = problem.data.batches()
    with replica.seeded(), replica.own_context(grad=False):
        for batch in batches:
            replica.output(replica.here(batch))
    found = {}
    for name, (count, total, squares) in sums.items():
        if runs[name] == len(batches):
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            rounding = 1e-12 * mean.square()
            found[name] = mean, torch.where(variance > rounding, variance, 0.0).sqrt()
    return found


def _average(weights: Sequence[Weights], shares: Sequence[float]) -> Weights:
    total = weights[0].to(torch.float64) * shares[0]
    for share, other in zip(shares[1:], weights[1:], strict=True):
        total = total.add(other.to(torch.float64), scale=share)
    return total.map(lambda name, tensor: tensor.to(weights[0][name].dtype))


def _valid_shares(shares: Sequence[float] | None, count: int) -> list[float]:
    if count < 2:
        raise LandscapeError(f"An average takes two or more checkpoints; got {count}.")
    if shares is None:
        return [1 / count] * count
    if len(shares) != count or not np.isfinite(shares).all() or abs(sum(shares) - 1) > 1e-9:
        raise LandscapeError(f"shares are {list(shares)}; expected {count} numbers that sum to 1.")
    return [float(share) for share in shares]
