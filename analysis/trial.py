"""A first try of a problem: how its model behaves, and what about it cannot be drawn."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .data import count, map_tensors, tensors_of
from .errors import ProblemError
from .randomness import rng_fingerprint, untouched_rng
from .replica import Replica

if TYPE_CHECKING:
    from .problem import Problem

FEW = 64  # samples show how a model behaves


@dataclass(frozen=True)
class Conduct:
    """How a model and its losses behave.

    needs_grad: they differentiate. changes_batches: they write into their input. couples_samples: a sample's
    values depend on what else is in its batch. seconds: of one evaluation on all samples, about, as it took for a few.
    """

    needs_grad: bool = False
    changes_batches: bool = False
    couples_samples: bool = False
    seconds: float = 0.0


def try_out(problem: Problem) -> None:
    """Evaluate the first batch, and a few of its samples some times more, and set `problem.conduct`.

    Raises ProblemError for a layer that draws random numbers without a seed, and for values that depend on what
    was evaluated before; lets the user's own exceptions through. The global random state is restored.
    """
    problem.conduct = Conduct()
    original = problem.data.batches()[0]
    batch = map_tensors(original, lambda t: t.clone())
    versions = [leaf._version for leaf in tensors_of(batch)]
    replica = Replica(problem)
    replica.load(problem.checkpoint())
    with untouched_rng(), _WatchDraws(replica.model) as drawers:
        before = rng_fingerprint()
        try:
            needs_grad = _scores_or_needs_grad(replica, batch)
        except Exception as error:
            shapes = ", ".join(map(_described, tensors_of(batch)))
            error.add_note(f"This happened when the first batch ({shapes}) was tried.")
            raise
        draws = rng_fingerprint() != before
    if draws and problem.seed is None:
        who = f"Layer {drawers[0]}" if drawers else "The model or the loss"
        raise ProblemError(
            f"{who} draws random numbers in eval mode, so the loss would be different at every evaluation. Make it "
            "deterministic, or pass seed=0 to use the same draws at every point."
        )
    problem.conduct = Conduct(needs_grad, [leaf._version for leaf in tensors_of(batch)] != versions)
    fresh = Replica(problem)
    fresh.load(problem.checkpoint())
    fresh.flat.mul_(0.9)
    few = _few(replica, original)
    fresh.calibrate_briefly(replica.calibrated)
    start = time.perf_counter()
    first, there, back = _away_and_back(replica, few)
    same = agree(first, back, problem)  # waits for the device
    seconds = (time.perf_counter() - start) / 3 * _share(replica, few)
    if not (same and agree(there, fresh.totals({"": [few]}), problem)):
        raise ProblemError(
            "The same weights give another loss after the model has been elsewhere: it keeps something between calls "
            "(a hidden state, a cache made of weights) or draws from a random generator of its own. Reset that at the "
            "start of forward, or take it out."
        )
    coupled = problem.free_blocks and problem.n > 1 and not _takes_blocks(replica)
    problem.conduct = replace(problem.conduct, couples_samples=coupled, seconds=seconds)


def _described(tensor: Tensor) -> str:
    """Its dtype and shape, and the range of whole numbers: labels may not fit the model."""
    said = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
    whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel()
    return f"{said} from {tensor.min()} to {tensor.max()}" if whole else said


def _takes_blocks(replica: Replica) -> bool:
    """Whether two halves of a block have the values of the whole; for batches of one sample, two and the pair."""
    problem = replica.problem
    half = max(1, min(FEW, problem.data.sizes[0]) // 2)
    together, apart = problem.data.blocks(2 * half)[:1], problem.data.blocks(half)[:2]
    try:
        return agree(replica.totals({"": together}), replica.totals({"": apart}), problem)
    except Exception:  # a model that takes batches of one size only
        return False


def _few(replica: Replica, batch: Any) -> Any:
    """Some samples of the first batch, to recalibrate on no more from now on.

    All of the batch where it cannot be cut or the model takes no other number.
    """
    problem = replica.problem
    if problem.free_blocks and count(batch) > FEW:
        few = problem.data.blocks(FEW)[0]
        replica.calibrate_briefly(FEW)
        try:
            replica.totals({"": [few]})
        except Exception:  # of any kind: the model's own code refuses fewer samples
            pass
        else:
            return few
    replica.calibrate_briefly(problem.batch_size)
    return batch


def _share(replica: Replica, few: Any) -> float:
    """How many times as many samples an evaluation takes as the first of a trial did."""
    problem = replica.problem
    of_all, of_few = problem.n, count(few)
    if problem.batchnorm == "recalibrated" and problem.calibration:
        of_all, of_few = of_all + problem.calibration.n, of_few + replica.calibrated
    return of_all / of_few


def _away_and_back(replica: Replica, batch: Any) -> list[list[Tensor]]:
    """Totals at the present weights, somewhere else, and at the present weights again."""
    found = [replica.totals({"": [batch]})]
    stay = replica.flat.clone()
    replica.flat.mul_(0.9)
    found.append(replica.totals({"": [batch]}))
    replica.flat.copy_(stay)
    return [*found, replica.totals({"": [batch]})]


def agree(one: list[Tensor], other: list[Tensor], problem: Problem) -> bool:
    """Whether two evaluations give the same means, but for rounding."""
    return all(
        torch.allclose(a[0] / a[1], b[0] / b[1], rtol=100 * problem.eps, atol=0, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def _scores_or_needs_grad(replica: Replica, batch: Any) -> bool:
    measures = [measure for measure in replica.problem.measures if not measure.data]
    try:
        with replica.own_context(grad=False):
            replica.scores(measures, batch)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        with replica.own_context(grad=True):
            replica.scores(measures, map_tensors(batch, lambda t: t.detach()))
        return True
    return False


class _WatchDraws:
    """Names of the innermost modules during whose forward a global generator moved."""

    def __init__(self, model: nn.Module):
        self._model = model
        self._names: list[str] = []

    def __enter__(self) -> list[str]:
        self._handles = []
        for name, module in self._model.named_modules():
            before: list[int] = []
            label = f"'{name}' ({type(module).__name__})" if name else f"({type(module).__name__})"

            def enter(*_: Any, before: list[int] = before) -> None:
                before.append(rng_fingerprint())

            def leave(*_: Any, before: list[int] = before, label: str = label) -> None:
                if rng_fingerprint() != before.pop():
                    self._names.append(label)

            self._handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        return self._names

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
