"""A worker's own network: weights in one flat buffer, evaluated in place.

Swapping parameters into a module that two threads share gives silently wrong numbers, so each worker makes
a replica of the problem's model. Its parameters are views of one vector: moving the network is writing that
vector, with no look-up by name and no allocation.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoints import Checkpoint, persistent_state
from .data import map_tensors, tensors_of
from .errors import ProblemError
from .losses import inputs_of, mean_and_error, moments
from .randomness import rng_fingerprint, untouched_rng
from .weights import Weights

if TYPE_CHECKING:
    from .problem import Problem

ALIGNMENT = 64  # bytes; vectorised kernels see each parameter as its own allocation would be
_SEEDING = threading.Lock()


def tracked_norms(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Layers with running statistics (BatchNorm, tracked InstanceNorm)."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]


class Replica:
    """The network of one worker, of one problem. Not shared between threads."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.model = copy.deepcopy(problem.model).requires_grad_(False)
        step = max(1, ALIGNMENT // problem.dtype.itemsize)
        self._spans: dict[str, tuple[int, int]] = {}
        end = 0
        for name, entry in problem.structure.entries.items():
            size = entry.shape.numel()
            self._spans[name] = (end, size)
            end += -(-size // step) * step
        self.flat = torch.zeros(end, dtype=problem.dtype, device=problem.device)
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        aliases = problem.structure.aliases
        for name in [*self._spans, *aliases]:
            start, size = self._spans[aliases.get(name, name)]
            parameters[name].data = self.flat[start : start + size].view(parameters[name].shape)
        self._norms = tracked_norms(self.model)
        self._buffers = {
            name: tensor
            for name, tensor in {**dict(self.model.named_buffers()), **persistent_state(self.model)}.items()
            if aliases.get(name, name) not in self._spans
        }
        self._kept = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._versions: dict[str, int] = {}

    def pack(self, weights: Weights) -> Tensor:
        """Weights as a vector in the layout of `flat`."""
        vector = torch.zeros_like(self.flat)
        for name, (start, size) in self._spans.items():
            vector[start : start + size] = weights[name].flatten()
        return vector

    def load(self, checkpoint: Checkpoint) -> None:
        """Stand at a checkpoint: its weights and its buffers."""
        self.flat.copy_(self.pack(checkpoint.weights))
        self.load_buffers(checkpoint)

    def load_buffers(self, checkpoint: Checkpoint) -> None:
        for name, value in checkpoint.buffers.items():
            self._kept[name].copy_(value)
        self._versions = {}

    def measure(self) -> dict[str, tuple[Any, Any]]:
        """Mean and standard error of each metric at the present weights."""
        return self.report([self.totals(self.problem.blocks(None))])[0]

    def report(self, totals: list[list[Tensor]]) -> list[dict[str, tuple[Any, Any]]]:
        """Totals of several points as means and errors, moved off the device in one transfer."""
        host = torch.cat([total.flatten() for point in totals for total in point]).cpu()
        parts = iter(host.split([total.numel() for point in totals for total in point]))
        results = []
        for point in totals:
            values = {}
            for measure, total in zip(self.problem.measures, point, strict=True):
                mean, error = mean_and_error(next(parts).view(total.shape))
                values[measure.name] = (mean.numpy(), error.numpy()) if measure.classes else (float(mean), float(error))
            results.append(values)
        return results

    def totals(self, blocks: list[Any]) -> list[Tensor]:
        """Moments of each measure over the data at the present weights, on the device."""
        seed = self.problem.seed
        if seed is None:
            return self._totals(blocks)
        with _SEEDING, untouched_rng():
            torch.manual_seed(seed)
            return self._totals(blocks)

    def gradient(self, blocks: list[Any]) -> Weights:
        """Gradient of the mean loss over the data at the present weights."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        names = list(self._spans)
        moving = [parameters[name].requires_grad_(True) for name in names]
        sums = [torch.zeros_like(p) for p in moving]
        total = torch.zeros((), dtype=torch.float64, device=self.flat.device)
        try:
            with torch.no_grad():
                self._restore_buffers()
                self._norm_mode()
            for batch in blocks:
                with torch.enable_grad():
                    values, weights = self._loss(self._guarded(batch))
                    if not values.requires_grad:
                        raise ProblemError("The loss does not depend on the weights through anything differentiable.")
                    parts = torch.autograd.grad(values.sum(), moving, allow_unused=True)
                for into, part in zip(sums, parts, strict=True):
                    if part is not None:
                        into += part
                total += weights.sum()
        finally:
            for parameter in moving:
                parameter.requires_grad_(False)
        return Weights(
            {name: (s / total).to(s.dtype) for name, s in zip(names, sums, strict=True)}, self.problem.structure
        )

    def _loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        loss = self.problem.measures[0]
        if loss.takes_model:
            return loss.function(self.model, batch)
        args, kwargs = inputs_of(batch)
        return loss.function(self.model(*args, **kwargs), batch)

    def _totals(self, blocks: list[Any]) -> list[Tensor]:
        with torch.enable_grad() if self.problem.needs_grad else torch.no_grad():
            self._restore_buffers()
            self._norm_mode()
            sums: list[Tensor] | None = None
            for batch in blocks:
                parts = self._scores(self._guarded(batch))
                sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
        assert sums is not None
        return sums

    def _scores(self, batch: Any) -> list[Tensor]:
        output = None
        parts = []
        for measure in self.problem.measures:
            if measure.takes_model:
                values, weights = measure.function(self.model, batch)
            else:
                if output is None:
                    args, kwargs = inputs_of(batch)
                    output = self.model(*args, **kwargs)
                values, weights = measure.function(output, batch)
            parts.append(moments(values.detach(), weights))
        return parts

    def _guarded(self, batch: Any) -> Any:
        """The frozen batch, or a copy where the model is known to write into its input."""
        if self.problem.changes_batches:
            return map_tensors(batch, lambda t: t.detach().clone())
        return map_tensors(batch, lambda t: t.detach()) if self.problem.needs_grad else batch

    def _restore_buffers(self) -> None:
        for name, buffer in self._buffers.items():
            if self._versions.get(name) != buffer._version:
                buffer.copy_(self._kept[name])
                self._versions[name] = buffer._version

    def _norm_mode(self) -> None:
        policy = self.problem.batchnorm
        if policy == "batch":
            for norm in self._norms:
                norm.train()
        elif policy == "recalibrated":
            self._recalibrate()

    def _recalibrate(self) -> None:
        """Running statistics from scratch: the average over the calibration batches, weighted by their sizes."""
        data = self.problem.calibration
        assert data is not None
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for batch, size in zip(data.batches(), data.sizes, strict=True):
            seen += size
            for norm in self._norms:
                norm.momentum = size / seen
            self._forward(self._guarded(batch))
        for norm, momentum in zip(self._norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

    def _forward(self, batch: Any) -> None:
        loss = self.problem.measures[0]
        if loss.takes_model:
            loss.function(self.model, batch)
        else:
            args, kwargs = inputs_of(batch)
            self.model(*args, **kwargs)


@dataclass(frozen=True)
class Trial:
    needs_grad: bool
    changes_batches: bool


def trial(problem: Problem) -> Trial:
    """Evaluate the first batch once: find out what the model does, and refuse what cannot be drawn.

    Raises ProblemError for a layer that draws random numbers without a seed, and lets the user's own
    exceptions through. The global random state is restored.
    """
    batch = map_tensors(problem.data.batches()[0], lambda t: t.clone())
    versions = [leaf._version for leaf in tensors_of(batch)]
    replica = Replica(problem)
    replica.load(Checkpoint.of(problem.model, problem.name))
    with untouched_rng(), _WatchDraws(replica.model) as drawers:
        before = rng_fingerprint()
        needs_grad = _scores_or_needs_grad(replica, batch)
        silent = rng_fingerprint() == before or problem.seed is not None
    if not silent:
        who = f"Layer {drawers[0]}" if drawers else "The model or the loss"
        raise ProblemError(
            f"{who} draws random numbers in eval mode, so the loss would be different at every evaluation. Make it "
            "deterministic, or pass seed=0 to use the same draws at every point."
        )
    changed = [leaf._version for leaf in tensors_of(batch)] != versions
    return Trial(needs_grad, changes_batches=changed)


def _scores_or_needs_grad(replica: Replica, batch: Any) -> bool:
    try:
        with torch.no_grad():
            replica._scores(batch)
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        with torch.enable_grad():
            replica._scores(map_tensors(batch, lambda t: t.detach()))
        return True
    return False


class _WatchDraws:
    """Names of the innermost modules during whose forward torch's global generator moved."""

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

            self._handles += [
                module.register_forward_pre_hook(enter),
                module.register_forward_hook(leave),
            ]
        return self._names

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()


def as_rows(results: list[dict[str, tuple[Any, Any]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Results of points as arrays [points] or [points, classes]: metric to (means, standard errors)."""
    return {
        name: (np.array([r[name][0] for r in results]), np.array([r[name][1] for r in results])) for name in results[0]
    }
