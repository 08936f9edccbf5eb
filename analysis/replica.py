"""A worker's own network: weights in one flat buffer, evaluated in place.

Swapping parameters into a module that two threads share gives silently wrong numbers, so each worker makes
a replica of the problem's model. Its parameters are views of one vector: moving the network is writing that
vector, with no look-up by name and no allocation.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoints import Checkpoint, persistent_state, refuse_unread
from .data import count, map_tensors, tensors_of
from .errors import ProblemError
from .measures import TARGET_KEYS, Measure, inputs_of, mean_and_error, moments
from .precision import products_in
from .randomness import set_rng_state, untouched_rng
from .weights import Weights

if TYPE_CHECKING:
    from .problem import Problem

ALIGNMENT = 64  # bytes; vectorised kernels see each parameter as its own allocation would be


def tracked_norms(model: nn.Module) -> list[nn.modules.batchnorm._NormBase]:
    """Layers with running statistics (BatchNorm, tracked InstanceNorm)."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]


class Replica:
    """The network of one worker, of one problem. Not shared between threads.

    Raises ProblemError under torch.inference_mode, whose tensors cannot be watched for changes.
    """

    def __init__(self, problem: Problem):
        if torch.is_inference_mode_enabled():
            raise ProblemError("torch.inference_mode is on; leave it (torch.no_grad is fine) to evaluate a problem.")
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
        parameters = self.parameters = dict(self.model.named_parameters(remove_duplicate=False))
        aliases = problem.structure.aliases
        for name in [*self._spans, *aliases]:
            start, size = self._spans[aliases.get(name, name)]
            parameters[name].data = self.flat[start : start + size].view(parameters[name].shape)
        self._moving = [parameters[name] for name in self._spans]
        self._accepts = _keywords(self.model)
        self._norms = tracked_norms(self.model)
        self._slots = [  # where each buffer lives: a forward may write into it, or put another tensor in its place
            (module._buffers, key, buffer)
            for module in self.model.modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        named = {**dict(self.model.named_buffers(remove_duplicate=False)), **persistent_state(self.model)}
        self._buffers = {n: tensor for n, tensor in named.items() if aliases.get(n, n) not in self._spans}
        self.kept = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._versions: dict[str, int] = {}
        calibration = problem.calibration
        self._calibration = list(zip(calibration.batches(), calibration.sizes, strict=True)) if calibration else []
        self.batch: Any = None  # the frozen batch that is being evaluated

    def pack(self, weights: Weights) -> Tensor:
        """Weights as a vector in the layout of `flat`."""
        vector = torch.zeros_like(self.flat)
        for name, (start, size) in self._spans.items():
            vector[start : start + size] = weights[name].flatten()
        return vector

    def calibrate_briefly(self, samples: int) -> None:
        """Recalibrate on so many samples from now on, or on the first batch of those that cannot be cut.

        For a try of which no value is kept.
        """
        data = self.problem.calibration
        if data:
            first = data.blocks(samples)[0] if data.mergeable else data.batches()[0]
            self._calibration = [(first, count(first))]

    @property
    def calibrated(self) -> int:
        """Number of samples that it recalibrates on."""
        return sum(size for _, size in self._calibration)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters in a vector of the layout of `flat`, by name."""
        entries = self.problem.structure.entries
        return {name: flat[start : start + n].view(entries[name].shape) for name, (start, n) in self._spans.items()}

    def load(self, checkpoint: Checkpoint) -> None:
        """Stand at a checkpoint: its weights and its buffers."""
        refuse_unread(checkpoint)
        self.flat.copy_(self.pack(checkpoint.weights))
        self.load_buffers(checkpoint)

    def load_buffers(self, checkpoint: Checkpoint) -> None:
        for name, value in checkpoint.buffers.items():
            self.kept[name].copy_(value)
        self._versions = {}

    def buffers(self) -> dict[str, Tensor]:
        """The network's buffers as they are now: after `settle`, those of the problem's policy."""
        return {name: buffer.clone() for name, buffer in self._buffers.items()}

    def measure(self) -> dict[str, tuple[Any, Any]]:
        """Mean and standard error of each metric at the present weights."""
        return self.report([self.totals(self.problem.blocks(None))])[0]

    def report(self, totals: list[list[Tensor]]) -> list[dict[str, tuple[Any, Any]]]:
        """Totals of several points as means and errors, moved off the device in one transfer."""
        columns = [torch.stack(column, 1) for column in zip(*totals, strict=True)]  # each [6, points, ...]
        host = iter(torch.cat([column.flatten() for column in columns]).cpu().split([c.numel() for c in columns]))
        results: list[dict[str, tuple[Any, Any]]] = [{} for _ in totals]
        for measure, column in zip(self.problem.measures, columns, strict=True):
            means, errors = (part.numpy() for part in mean_and_error(next(host).view(column.shape)))
            for result, mean, error in zip(results, means, errors, strict=True):
                result[measure.name] = (mean, error) if measure.classes else (float(mean), float(error))
        return results

    def totals(self, blocks: dict[str, list[Any]]) -> list[Tensor]:
        """Moments over the blocks of each data set at the present weights, on the device, in order of the measures."""
        with self.seeded():
            return self._totals(blocks)

    @contextmanager
    def seeded(self, state: tuple | None = None) -> Iterator[None]:
        """The global generators as the problem's seed sets them, or as they once stood; as they were afterwards."""
        seed = self.problem.seed
        if seed is None:
            yield
            return
        with untouched_rng():
            if state is not None:
                set_rng_state(state)
            else:
                torch.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                random.seed(seed)
            yield

    def gradient(self, blocks: list[Any]) -> Weights:
        """Gradient of the mean loss over the data at the present weights."""
        return self.loss_and_gradient(blocks)[1]

    def loss_and_gradient(self, blocks: list[Any]) -> tuple[float, Weights]:
        """The mean loss over the data and its gradient at the present weights."""
        loss, moving = self.problem.measures[0], self._moving
        sums = [torch.zeros_like(p) for p in moving]
        total, summed = (torch.zeros((), dtype=torch.float64, device=self.flat.device) for _ in range(2))
        with self.seeded(), self.own_context(grad=True):
            self.settle()
            for batch in map(self.here, blocks):
                values, weights, parts = self._gradient_sums(loss, batch)
                for into, part in zip(sums, parts, strict=True):
                    if part is not None:
                        into += part
                total += weights
                summed += values
        gradient = {name: (s / total).to(s.dtype) for name, s in zip(self._spans, sums, strict=True)}
        return float(summed / total), Weights(gradient, self.problem.structure)

    def _gradient_sums(self, loss: Measure, batch: Any) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
        """Sums over a batch of a loss's values and weights, and the gradient of the first by each moving parameter."""
        subject = self.model if loss.takes_model else self.output(batch)
        values, weights = loss.function(subject, self.guarded(batch))
        if torch.is_grad_enabled() and not values.requires_grad:
            raise ProblemError("The loss does not depend on the weights through anything differentiable.")
        parts = torch.autograd.grad(values.sum(), self._moving, allow_unused=True)
        return values.detach().sum(), weights.sum(), parts

    def settle(self) -> None:
        """Bring buffers and normalisation layers to what the problem's policy says for the present weights."""
        with self.own_context(grad=False):
            self._restore_buffers()
            self._norm_mode()

    def run(self, blocks: dict[str, list[Any]]) -> None:
        """Call the model on blocks at the present weights, with whatever buffers it has: for who looks on."""
        with self.seeded(), self.own_context(grad=False):
            for self.batch in (batch for parts in blocks.values() for batch in parts):
                self.output(self.here(self.batch))

    def output(self, batch: Any) -> Any:
        """The model's output on a batch, which stays as it is."""
        return self._output(self.guarded(batch))

    def _totals(self, blocks: dict[str, list[Any]]) -> list[Tensor]:
        with self.own_context(self.problem.conduct.needs_grad):
            self._restore_buffers()
            return self.sums(blocks)

    def sums(self, blocks: dict[str, list[Any]]) -> list[Tensor]:
        """Moments over the blocks of each data set with the weights and buffers that the network has now."""
        self._norm_mode()
        totals: list[Tensor] = []
        for name, parts in blocks.items():
            measures = [measure for measure in self.problem.measures if measure.data == name]
            sums = self.scores(measures, parts[0])
            for batch in parts[1:]:
                sums = [a + b for a, b in zip(sums, self.scores(measures, batch), strict=True)]
            totals += [_norm_of(s) if m.of_gradient else s for m, s in zip(measures, sums, strict=True)]
        return totals

    @contextmanager
    def own_context(self, grad: bool) -> Iterator[None]:
        """Grad mode and autocast as the problem wants them, whatever the caller's are."""
        device = self.flat.device
        with (
            torch.set_grad_enabled(grad),
            torch.autocast(device.type, enabled=False),
            products_in(self.problem.tf32, device),
        ):
            if not grad:
                yield
                return
            for parameter in self._moving:
                parameter.requires_grad_(True)
            try:
                yield
            finally:
                for parameter in self._moving:
                    parameter.grad = None
                    parameter.requires_grad_(False)

    def scores(self, measures: list[Measure], batch: Any) -> list[Tensor]:
        """Moments of each of some measures on one batch; for the norm of a gradient, sums of weights and gradients."""
        self.batch = batch
        batch = self.here(batch)
        parts: list[Tensor] = []
        output: Any = None
        versions: list[int] = []
        for measure in measures:
            if measure.of_gradient:
                _, weight, sums = self._gradient_sums(measure, batch)
                flat = [torch.zeros_like(p) if s is None else s for p, s in zip(self._moving, sums, strict=True)]
                parts.append(torch.cat([weight.double().view(1), *(s.double().flatten() for s in flat)]))
                continue
            if not measure.takes_model and (
                output is None or [leaf._version for leaf in tensors_of(output)] != versions
            ):
                output = self.output(batch)  # anew where a loss wrote into it
                versions = [leaf._version for leaf in tensors_of(output)]
            parts.append(self._moments(measure, output, batch))
        return parts

    def _moments(self, measure: Measure, output: Any, batch: Any) -> Tensor:
        subject = self.model if measure.takes_model else output
        values, weights = measure.function(subject, self.guarded(batch))
        return moments(values.detach(), weights)

    def _output(self, batch: Any) -> Any:
        args, kwargs = inputs_of(batch)
        if self._accepts is not None:  # targets in a dict are for the loss, unless the model asks for them
            kwargs = {k: v for k, v in kwargs.items() if k in self._accepts or k not in TARGET_KEYS}
        return self.model(*args, **kwargs)

    def here(self, batch: Any) -> Any:
        """A batch of streamed data, where and as the network computes; others are there already."""
        if not self.problem.streams:
            return batch
        device, dtype = self.flat.device, self.flat.dtype
        return map_tensors(batch, lambda t: t.to(device, dtype if t.is_floating_point() else None, non_blocking=True))

    def guarded(self, batch: Any) -> Any:
        """The frozen batch in containers of its own; in copies where the model is known to write into its input."""
        conduct = self.problem.conduct
        if conduct.changes_batches:
            return map_tensors(batch, lambda t: t.detach().clone())
        return map_tensors(batch, lambda t: t.detach() if conduct.needs_grad else t)

    def _restore_buffers(self) -> None:
        for place, key, buffer in self._slots:
            place[key] = buffer
        for name, buffer in self._buffers.items():
            if self._versions.get(name) != buffer._version:
                buffer.copy_(self.kept[name])
                self._versions[name] = buffer._version

    def _norm_mode(self) -> None:
        policy = self.problem.batchnorm
        if policy == "batch":
            for norm in self._norms:
                norm.train()
                norm.track_running_stats = False  # they play no part, and writing them would spoil kept graphs
        elif policy == "recalibrated":
            self._recalibrate()

    def _recalibrate(self) -> None:
        """Running statistics from scratch: the average over the calibration batches, weighted by their sizes."""
        for norm in self._norms:
            norm.train()
            norm.reset_running_stats()  # a NaN that was there would survive any momentum
        seen = 0
        for batch, size in self._calibration:
            self.batch = batch
            batch = self.here(batch)
            seen += size
            for norm in self._norms:
                norm.momentum = size / seen
            loss = self.problem.measures[0]
            if loss.takes_model:
                loss.function(self.model, self.guarded(batch))
            else:
                self.output(batch)
        for norm in self._norms:
            norm.eval()


def _keywords(model: nn.Module) -> set[str] | None:
    """The names that the model's forward takes, or None if it takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def settled(problem: Problem, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the buffers that the problem's policy gives its weights."""
    replica = Replica(problem)
    replica.load(checkpoint)
    replica.settle()
    now = replica.buffers()
    return replace(checkpoint, buffers={k: now[k].to(v.device, v.dtype) for k, v in checkpoint.buffers.items()})


def as_rows(results: list[dict[str, tuple[Any, Any]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Results of points as arrays [points] or [points, classes]: metric to (means, standard errors)."""
    return {
        name: (np.array([r[name][0] for r in results]), np.array([r[name][1] for r in results])) for name in results[0]
    }


def _norm_of(sums: Tensor) -> Tensor:
    """Moments of the norm of a mean gradient, from the sum of the weights and the gradient's sums: one number."""
    weight = torch.ones(1, dtype=torch.float64, device=sums.device)
    return moments((sums[1:] / sums[0]).norm().view(1), weight)
