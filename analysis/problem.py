"""Problem: the loss as a function of weights, for any module, loss and data."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import losses
from .checkpoints import Checkpoint, load_checkpoint, persistent_state, refuse_unread
from .data import FrozenData, freeze
from .errors import CheckpointError, ProblemError
from .measures import Measure, target_of
from .precision import TF32_EPS
from .provenance import code_digest
from .randomness import valid_seed
from .reading import CheckpointFile
from .replica import Replica, settled, tracked_norms
from .trial import Conduct, try_out
from .weights import Structure, Weights

CALIBRATION_SAMPLES = 512
RESERVED = frozenset({"loss", "loss_error", "computed", "a", "b", "c", "t", "class", "sample", "marker"})


class Problem:
    """Model, loss and frozen evaluation data, ready to be evaluated at any weights.

    The caller's model is copied and never touched (its forward hooks are copied with it and run in the copy). Data
    are drawn once, in one order; dim 0 of a tensor counts samples.

    model: any nn.Module with real, dense parameters.
    loss: "cross_entropy", "mse" (mean over outputs), "half_squared_error" (half the sum over outputs, mean over
        samples), "model" (the model returns it, as Hugging Face models do), a torch loss module, a function
        loss(output, target), or a function loss(model, batch) (its first parameter is named ``model``).
        Class targets equal to -100 are left out. A function returns a scalar, the mean over the batch, or with
        reduction="none" one value a sample or token. It may return (value, weight), where the weight counts what
        the value averages (tokens, pixels).
    data: (inputs, targets), a dict of tensors, a Dataset, a DataLoader, or an iterable of batches.
    metrics: names ("accuracy", "loss_per_class", "gradient_norm"), or a dict of name to a function or module like the
        loss, or None for one of those names. Default: accuracy for classifiers.
    batchnorm: "recalibrated" (default where there are running statistics: re-estimated at every point on
        `calibration`), "frozen" (the checkpoint's) or "batch" (those of each batch).
    calibration: data for "recalibrated"; default: the evaluation data. At most 512 samples are used, of tensors and
        Datasets a random subset (seed 0), in equal batches of at most `batch_size`, whose statistics are averaged.
        Gradients and products hold them.
    also: more data sets by name, evaluated in the same pass: {"train": data} adds the metrics loss_train ...
    batch_size: how tensors and Datasets are batched; it matters for BatchNorm ("batch", and slightly for
        "recalibrated") and for a loss that is no mean over samples.
    samples: evaluate on so many samples of each data set at most (a random subset, seed 0, where the data allow it).
    seed: allows layers that draw random numbers, with this seed at each evaluation. While an evaluation runs the
        global generators are in use, and restored after it: other threads must not draw from them meanwhile.
    dtype, device: of the arithmetic; sums over the data are float64. Data that fill more than half of the
        device's free memory stay on the host and are moved block by block.
    tf32: on a GPU, round the factors of float32 products to TF32; else they are exact, whatever torch is set to.

    Raises ProblemError, DataError.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | nn.Module | Callable,
        data: Any,
        *,
        metrics: Iterable[str] | Mapping[str, Callable] | None = None,
        reduction: str = "mean",
        batchnorm: str | None = None,
        calibration: Any = None,
        also: Mapping[str, Any] | None = None,
        batch_size: int = 256,
        samples: int | None = None,
        seed: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        tf32: bool = False,
        name: str | None = None,
    ):
        if not isinstance(model, nn.Module):
            raise ProblemError(f"The model is a {type(model).__name__}; pass a torch.nn.Module.")
        if torch.is_inference_mode_enabled():
            raise ProblemError("torch.inference_mode is on; make and evaluate a problem outside of it.")
        if not dtype.is_floating_point:
            raise ProblemError(f"dtype is {dtype}; pass a floating-point dtype such as torch.float32.")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ProblemError(f"batch_size is {batch_size!r}; pass a whole number of samples, 1 or more.")
        model = _unwrapped(model)
        for function in (loss, *(metrics.values() if isinstance(metrics, Mapping) else ())):
            _refuse_closure(function, model)
        self.name = name or type(model).__name__
        self.dtype, self.device = dtype, _available(device)
        self.seed = None if seed is None else valid_seed(seed)
        self.tf32 = tf32 and self.device.type == "cuda" and dtype == torch.float32
        self.structure = Structure.of(model)
        self.code_digest = code_digest(model, loss, metrics)
        self.model = _own_copy(model, self.structure).to(self.device, dtype)
        self.data = freeze(data, batch_size=batch_size, samples=samples).to(self.device, dtype)
        self.batch_size = batch_size
        self.batchnorm_choices = _batchnorm_choices(self.model)
        self.batchnorm = self._choice(batchnorm)
        self.calibration = self._calibration(calibration)
        own = {
            _valid_name(name): freeze(part, batch_size=batch_size, samples=samples)
            for name, part in (also or {}).items()
        }
        self.also = {name: part.to(self.device, dtype) for name, part in own.items()}
        self._asked = loss, metrics, reduction
        self.measures = self._measured()
        self._checkpoint = Checkpoint.of(self.model, self.name)
        self.conduct = Conduct()
        try_out(self)

    def __repr__(self) -> str:
        return (
            f"Problem({self.name!r}, {self.structure.numel:,} parameters, {self.n:,} samples, "
            f"metrics={list(self.metrics)}, batchnorm={self.batchnorm!r})"
        )

    @property
    def n(self) -> int:
        """Number of evaluation samples."""
        return self.data.n

    @property
    def eps(self) -> float:
        """Relative rounding error of the arithmetic."""
        return TF32_EPS if self.tf32 else torch.finfo(self.dtype).eps

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(measure.name for measure in self.measures)

    def with_batchnorm(self, policy: str) -> Problem:
        """The same problem under another BatchNorm policy; model and data are shared."""
        other = copy.copy(self)
        other.batchnorm = self._choice(policy)
        if self.batchnorm == "batch":  # under which batches are never cut, and what that would do is not known
            try_out(other)
        return other

    def with_samples(self, n: int) -> Problem:
        """The same problem on n samples of each data set at most, drawn at random (seed 0); the metrics are the same.

        Statistics are recalibrated on n samples too. Batches that cannot be cut are kept whole, as many as come close.
        """
        other = copy.copy(self)
        parts = [self.data, *self.also.values(), *([self.calibration] if self.calibration else [])]
        few = [part.subset(n, self.batch_size).to(self.device, self.dtype) for part in parts]
        other.data, other.also = few[0], dict(zip(self.also, few[1:], strict=False))
        other.calibration = few[-1] if self.calibration else None
        other.conduct = replace(self.conduct, seconds=self.conduct.seconds * other.n / self.n)
        return other

    def with_dtype(self, dtype: torch.dtype) -> Problem:
        """The same problem in another arithmetic, with the data and the model as this one holds them."""
        other = copy.copy(self)
        other.dtype, other.tf32 = dtype, self.tf32 and dtype == torch.float32
        other.model = copy.deepcopy(self.model).to(dtype)
        other.data = self.data.to(self.device, dtype)
        other.also = {name: part.to(self.device, dtype) for name, part in self.also.items()}
        other.calibration = self.calibration and self.calibration.to(self.device, dtype)
        other.measures = other._measured()
        return other

    def checkpoint(
        self,
        source: str | Path | CheckpointFile | Mapping[str, Tensor] | nn.Module | Checkpoint | None = None,
        *,
        name: str | None = None,
        key: str | None = None,
        buffers: Checkpoint | None = None,
    ) -> Checkpoint:
        """A checkpoint of this problem's model: from a file, a state dict or a module; None is the model as given.

        Weights too, such as a point of a plane or a curve: with BatchNorm statistics re-estimated there where they are
        "recalibrated", as in pictures, and the other buffers of `buffers`, or of the model as given.

        Raises CheckpointError if it does not fit, and for weights without `buffers` where statistics are not
        re-estimated.
        """
        if source is None:
            source = self._checkpoint
        if isinstance(source, Weights):
            return self._with_buffers(source, buffers, name or "point")
        if buffers is not None:
            raise CheckpointError("buffers go with weights alone, such as plane.point(...); a checkpoint has its own.")
        if isinstance(source, Checkpoint):
            return replace(source, name=name or source.name)
        if isinstance(source, nn.Module):
            source, name = persistent_state(_unwrapped(source)), name or "model"
        return load_checkpoint(source, self.model, key=key, name=name)

    def _with_buffers(self, weights: Weights, like: Checkpoint | None, name: str) -> Checkpoint:
        if like is None and tracked_norms(self.model) and self.batchnorm != "recalibrated":
            missing = next(key for key in self._checkpoint.buffers if key.endswith("running_mean"))
            raise CheckpointError(
                f"Weights have no '{missing}', and under batchnorm={self.batchnorm!r} it is not re-estimated. Say "
                "whose to take, as in problem.checkpoint(plane.point(...), buffers=plane.origin)."
            )
        like = like or self._checkpoint
        refuse_unread(like)
        made = load_checkpoint({**weights, **like.buffers}, self.model, name=name)
        return settled(self, made) if self.batchnorm == "recalibrated" else made

    def measure(self, checkpoint: Checkpoint | None = None) -> dict[str, tuple[Any, Any]]:
        """Mean and standard error of each metric at a checkpoint, under the problem's BatchNorm policy.

        Values are floats, or arrays [classes] for metrics of each class.
        """
        replica = Replica(self)
        replica.load(self.checkpoint(checkpoint))
        return replica.measure()

    def gradient(self, checkpoint: Checkpoint | None = None) -> Weights:
        """The gradient of the mean loss at a checkpoint, in the problem's dtype; frozen parameters count too.

        Running statistics are held constant under "recalibrated" and "frozen", and differentiated through under
        "batch". Raises ProblemError where the loss has no gradient.
        """
        replica = Replica(self)
        replica.load(self.checkpoint(checkpoint))
        return replica.gradient(self.data.batches())

    def blocks(self, size: int | None) -> dict[str, list[Any]]:
        """Batches of each data set: `size` samples each where a batch means nothing to the loss, else as given."""
        free = size is not None and self.free_blocks
        return {
            name: part.blocks(size) if free and size else part.batches()
            for name, part in {"": self.data, **self.also}.items()
        }

    @property
    def streams(self) -> bool:
        """Whether some of the data are read from the host or from disk at each evaluation."""
        return any(part.streamed for part in (self.data, *self.also.values()))

    @property
    def free_blocks(self) -> bool:
        """Whether samples may be cut into blocks of any size without changing a value beyond rounding."""
        return (
            all(part.mergeable for part in (self.data, *self.also.values()))
            and all(measure.per_sample for measure in self.measures)
            and self.batchnorm != "batch"
            and not self.conduct.couples_samples
        )

    def provenance(self) -> dict[str, Any]:
        """What determines this problem's values, as JSON-ready facts."""
        calibrated = self.calibration if self.batchnorm == "recalibrated" else None
        return {
            "problem": self.name,
            "model": type(self.model).__name__,
            "parameters": self.structure.numel,
            "loss": self.measures[0].long_name,
            "metrics": list(self.metrics),
            "code": self.code_digest,
            "averaged_over": "samples" if self.measures[0].per_sample else "batches",
            "data": {"samples": self.n, "sha256": self.data.digest, "largest_batch": max(self.data.sizes)},
            "also": {name: {"samples": part.n, "sha256": part.digest} for name, part in self.also.items()},
            "batchnorm": self.batchnorm,
            "calibration": calibrated
            and {"samples": calibrated.n, "batches": len(calibrated.sizes), "sha256": calibrated.digest},
            "dtype": str(self.dtype).removeprefix("torch.") + (", TF32 products" if self.tf32 else ""),
            "device": str(self.device),
            "stochastic_seed": self.seed,
        }

    def _choice(self, policy: str | None) -> str:
        choices = self.batchnorm_choices
        if policy is None:
            return choices[0]
        if policy not in choices:
            raise ProblemError(
                f"batchnorm is {policy!r}; accepted for {self.name} are {list(choices)}"
                + (" (it has no layer with running statistics)." if choices == ("none",) else ".")
            )
        return policy

    def _calibration(self, data: Any) -> FrozenData | None:
        if "recalibrated" not in self.batchnorm_choices:
            return None
        frozen = self.data if data is None else freeze(data, batch_size=self.batch_size)
        return frozen.subset(CALIBRATION_SAMPLES, self.batch_size).to(self.device, self.dtype)

    def _own_module(self, function: Any) -> Any:
        """A loss or metric that is a module, as a copy of our own in the dtype and on the device of the problem."""
        if not isinstance(function, nn.Module):
            return function
        return copy.deepcopy(function).to(self.device, self.dtype).eval()

    def _measured(self) -> list[Measure]:
        """The loss and the metrics that were asked for, in the dtype of the problem."""
        loss, metrics, reduction = self._asked
        measures: list[Measure] = []
        for split, part in {"": self.data, **self.also}.items():
            first = losses.measure_of("loss", self._own_module(loss), reduction, self.model)
            found = [first, *self._metrics(first, part, metrics, reduction)]
            measures += [_over(measure, split) for measure in found]
        names = Counter(["loss_error", *(name for m in measures for name in (m.name, f"{m.name}_se"))])
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ProblemError(
                f"Two metrics would be called {', '.join(twice)}: those of a data set of `also` have its name behind "
                "their own. Give each metric and data set a name of its own."
            )
        return measures

    def _metrics(
        self,
        loss: Measure,
        data: FrozenData,
        metrics: Iterable[str] | Mapping[str, Any] | None,
        reduction: str,
    ) -> list[Measure]:
        if metrics is None:
            metrics = ["accuracy"] if _classifies(loss, data) else []
        named = metrics if isinstance(metrics, Mapping) else {}
        found = []
        for name in [metrics] if isinstance(metrics, str) else metrics:
            function = named.get(name)
            if function is not None:
                found.append(losses.measure_of(_valid_name(name), self._own_module(function), reduction, self.model))
            elif name == "accuracy":
                found.append(losses.accuracy(loss))
            elif name == "loss_per_class":
                if loss.takes_model or not loss.per_sample:
                    raise ProblemError(
                        "loss_per_class needs a loss with one value a sample: 'cross_entropy', or your own of "
                        "(output, target) with reduction='none'."
                    )
                found.append(losses.loss_per_class(loss, _classes(data, loss.ignored)))
            elif name == "gradient_norm":
                found.append(losses.gradient_norm(loss))
            else:
                raise ProblemError(
                    f"Unknown metric {name!r}; accepted are 'accuracy', 'loss_per_class', 'gradient_norm', or a "
                    "dict of functions."
                )
        return found


def _available(device: str | torch.device) -> torch.device:
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown, not compiled in, without kernels
        reason = str(error).splitlines()[0]
        raise ProblemError(f"The device is {device!r}, which torch cannot use here: {reason}. Pass 'cpu'.") from error
    return device


def _unwrapped(model: nn.Module) -> nn.Module:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return _unwrapped(model.module)
    compiled_from = getattr(model, "_orig_mod", None)
    return _unwrapped(compiled_from) if isinstance(compiled_from, nn.Module) else model


def _own_copy(model: nn.Module, structure: Structure) -> nn.Module:
    if isinstance(model, torch.jit.ScriptModule):
        raise ProblemError("The model is a TorchScript module; pass the nn.Module that it was made from.")
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod"):
            raise ProblemError(f"'{name}' is compiled; pass the model without torch.compile.")
        if "quantized" in type(module).__module__:
            raise ProblemError(f"'{name}' is quantised ({type(module).__name__}); pass the float model.")
    try:
        own = copy.deepcopy(model)
    except Exception as error:
        raise ProblemError(
            f"{type(model).__name__} cannot be copied with copy.deepcopy ({type(error).__name__}: {error}). The copy "
            "protects your model. Modules that hold computed tensors (the old torch.nn.utils.weight_norm, caches) "
            "are the usual cause: use torch.nn.utils.parametrizations, or clear the cache first."
        ) from error
    for alias, name in structure.aliases.items():  # parameters that share memory without being one object
        owner, _, attribute = alias.rpartition(".")
        own.get_submodule(owner)._parameters[attribute] = own.get_parameter(name)
    for parameter in own.parameters():
        parameter.grad = None
    return own.eval()


def _refuse_closure(function: Any, model: nn.Module) -> None:
    """A loss that looks at the caller's own model would see one point, whatever point is drawn."""
    if not inspect.isfunction(function):
        return
    seen = inspect.getclosurevars(function)
    for name, value in {**seen.globals, **seen.nonlocals}.items():
        if value is model:
            raise ProblemError(
                f"'{function.__name__}' uses your model through the variable '{name}', which stays where it is while "
                "the landscape is drawn. Write it as a function of (model, batch) and use that model."
            )


def _batchnorm_choices(model: nn.Module) -> tuple[str, ...]:
    return ("recalibrated", "frozen", "batch") if tracked_norms(model) else ("none",)


def _over(measure: Measure, split: str) -> Measure:
    """The measure over one of a problem's further data sets, named after it."""
    if not split:
        return measure
    return replace(measure, name=f"{measure.name}_{split}", long_name=f"{measure.long_name}, {split} data", data=split)


def _classifies(loss: Measure, data: FrozenData) -> bool:
    if not loss.classifies:
        return False
    target = target_of(data.batches()[0])
    return isinstance(target, Tensor) and not target.is_floating_point()


def _classes(data: FrozenData, ignored: int) -> int:
    targets = [target_of(batch) for batch in data.batches()]
    if any(t.is_floating_point() or t.ndim != 1 for t in targets):
        raise ProblemError("loss_per_class needs integer targets [samples], one class a sample.")
    return max(int(t.long()[t != ignored].max()) for t in targets if (t != ignored).any()) + 1


def _valid_name(name: str) -> str:
    taken = name in RESERVED or str(name).endswith(("_se", "_frozen"))
    if not isinstance(name, str) or not name.isidentifier() or taken:
        raise ProblemError(
            f"A metric is named {name!r}; use an identifier other than {sorted(RESERVED)} that does not end in _se or "
            "_frozen."
        )
    return name
