"""Losses and metrics as sums over samples, so that any blocking of the data gives one mean.

A measure turns the model's output on a batch into two tensors of one shape [samples] or [samples, classes]:
the sums of its values over each sample, and their weights (1 for a sample, the number of tokens for a
sequence). The mean is sum(values) / sum(weights); its standard error is that of a ratio of sums with samples
as the independent units (Cochran, Sampling Techniques, 3rd ed., section 6.4).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import count
from .errors import ProblemError

Sums = tuple[Tensor, Tensor]
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Measure:
    """One number over the data: how to get it from a batch, and what to call it.

    function(model_or_output, batch) returns (values, weights), each [samples] or [samples, classes].
    takes_model: the function runs the model itself.
    per_sample: whether values do not depend on how samples are batched.
    classes: length of the class dimension, 0 if there is none.
    smooth: whether it varies smoothly with the weights, so that a spline may join its values.
    """

    name: str
    function: Callable[[Any, Any], Sums]
    long_name: str
    units: str = ""
    takes_model: bool = False
    per_sample: bool = True
    classes: int = 0
    smooth: bool = True


def moments(values: Tensor, weights: Tensor) -> Tensor:
    """Sums over samples that a mean and its standard error need, float64 [6] or [6, classes]."""
    s, w = values.double(), weights.double()
    count = torch.full_like(w.sum(0), len(w))
    return torch.stack([s.sum(0), w.sum(0), (s * s).sum(0), (s * w).sum(0), (w * w).sum(0), count])


def mean_and_error(total: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted mean and its standard error from added-up moments [..., 6, classes or nothing]."""
    s, w, ss, sw, ww, n = total
    mean = s / w
    spread = (ss - 2 * mean * sw + mean * mean * ww).clamp_min(0)
    correction = torch.where(n > 1, n / (n - 1), torch.nan)
    return mean, (spread * correction).sqrt() / w


# --- what the user may pass as a loss ---------------------------------------------------------------------


def loss_measure(loss: Any, reduction: str, model: nn.Module) -> Measure:
    """The loss as a Measure. Accepted: see Problem. Raises ProblemError."""
    if isinstance(loss, str) and loss == "model":
        return model_loss(causal=any(part in type(model).__name__ for part in ("CausalLM", "LMHead")))
    if reduction not in ("mean", "none"):
        raise ProblemError(f"reduction is {reduction!r}; accepted are 'mean' and 'none'.")
    if isinstance(loss, str):
        if loss not in NAMED_LOSSES:
            raise ProblemError(f"Unknown loss {loss!r}; accepted names are {[*NAMED_LOSSES, 'model']}.")
        return NAMED_LOSSES[loss]
    for known, name in ((F.cross_entropy, "cross_entropy"), (F.mse_loss, "mse")):
        if loss is known:
            loss = nn.CrossEntropyLoss() if name == "cross_entropy" else nn.MSELoss()
    if not callable(loss):
        raise ProblemError(
            f"The loss is a {type(loss).__name__}; pass a function loss(output, target) or loss(model, batch), "
            f"a torch loss module, or one of {[*NAMED_LOSSES, 'model']}."
        )
    if isinstance(loss, nn.modules.loss._Loss):
        return _torch_loss(loss)
    return user_measure("loss", loss, reduction, units="")


def user_measure(name: str, function: Callable, reduction: str, units: str = "") -> Measure:
    """A user's function of (output, target) or (model, batch), reduced as `reduction` says."""
    takes_model = _first_parameter(function) == "model"

    def sums(subject: Any, batch: Any) -> Sums:
        result = function(subject, batch if takes_model else target_of(batch))
        return _checked(name, result, batch, reduction)

    return Measure(name, sums, name.replace("_", " "), units, takes_model=takes_model, per_sample=reduction == "none")


def _first_parameter(function: Callable) -> str | None:
    try:
        return next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):
        return None


def _checked(name: str, result: Any, batch: Any, reduction: str) -> Sums:
    value, weight = result if isinstance(result, tuple) else (result, None)
    if isinstance(value, (int, float, np.number)):
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor) or value.is_complex():
        raise ProblemError(
            f"'{name}' returned a {type(value).__name__}; expected a real tensor: a scalar (the mean over the "
            "batch), or one value a sample with reduction='none'."
        )
    n = count(batch)
    if reduction == "mean":
        if value.numel() != 1:
            raise ProblemError(
                f"'{name}' returned a tensor of shape {list(value.shape)} for a batch of {n}; expected a scalar, "
                "the mean over the batch. If these are values of single samples or tokens, pass reduction='none', "
                "which also gives their standard error."
            )
        weights = torch.as_tensor(n if weight is None else weight, device=value.device).reshape(1)
        return value.reshape(1).double() * weights, weights
    if value.ndim == 0 or value.shape[0] != n:
        raise ProblemError(
            f"'{name}' returned a tensor of shape {list(value.shape)} for a batch of {n}; with reduction='none' its "
            f"first dimension counts samples: expected [{n}, ...]. Pass reduction='mean' for a batch mean."
        )
    weights = torch.ones_like(value) if weight is None else torch.as_tensor(weight).expand_as(value)
    return (value * weights).reshape(n, -1).sum(1), weights.reshape(n, -1).sum(1)


def _torch_loss(loss: nn.modules.loss._Loss) -> Measure:
    if loss.reduction != "mean":
        raise ProblemError(
            f"{type(loss).__name__}(reduction={loss.reduction!r}): the mean over the data is what is drawn; pass "
            "the same loss with reduction='mean'."
        )
    single = copy.deepcopy(loss)
    single.reduction = "none"
    classified = isinstance(single, (nn.CrossEntropyLoss, nn.NLLLoss))
    dividing = not isinstance(single, (nn.CTCLoss, nn.KLDivLoss))
    if not dividing or _has_pairs(single):
        mean = copy.deepcopy(loss)
        return Measure(
            "loss",
            lambda output, batch: _checked("loss", mean(tensor_of(output), target_of(batch)), batch, "mean"),
            type(loss).__name__,
            per_sample=False,
        )

    def sums(output: Any, batch: Any) -> Sums:
        target = target_of(batch)
        values = single(tensor_of(output), target)
        n = count(batch)
        if values.ndim == 0 or len(values) != n:
            values = values.reshape(1, -1) if n == 1 else values
        weights = torch.ones_like(values)
        if classified and not target.is_floating_point():
            weights = (target != single.ignore_index).to(values.dtype)
            if isinstance(single.weight, Tensor):
                table = single.weight.to(values)
                weights = weights * table[target.clamp(0, len(table) - 1)]
        return values.reshape(n, -1).sum(1), weights.reshape(n, -1).sum(1)

    units = "nats" if classified or isinstance(single, (nn.BCELoss, nn.BCEWithLogitsLoss)) else ""
    return Measure("loss", sums, _words(type(loss).__name__), units)


def _has_pairs(loss: nn.Module) -> bool:
    """Losses of more than (output, target), whose meaning of a sample we do not know."""
    return isinstance(loss, (nn.CosineEmbeddingLoss, nn.MarginRankingLoss, nn.TripletMarginLoss, nn.GaussianNLLLoss))


def _words(class_name: str) -> str:
    text = "".join(f" {c.lower()}" if c.isupper() and i else c for i, c in enumerate(class_name))
    return text.removesuffix(" loss").lower() if class_name.isidentifier() else class_name


# --- built-in losses and metrics -----------------------------------------------------------------------------


def inputs_of(batch: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the model's forward for a batch."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        first, *rest = batch[:-1]
        if isinstance(first, Mapping) and not rest:
            return (), dict(first)
        return (first, *rest), {}
    raise ProblemError(
        f"A batch is a {type(batch).__name__}"
        + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        + "; a loss of (output, target) needs batches (inputs, target) or dicts. Tensors that belong together are a "
        "tuple (x, y), not a list; for any other form write the loss as loss(model, batch)."
    )


def target_of(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        for key in TARGET_KEYS:
            if key in batch:
                return batch[key]
        raise ProblemError(
            f"The batch has the keys {sorted(map(str, batch))}; none of {list(TARGET_KEYS)} names the target. "
            "Write the loss as loss(model, batch)."
        )
    inputs_of(batch)
    return batch[-1]


def tensor_of(output: Any) -> Tensor:
    """The tensor of predictions in a model's output: itself, .logits, ['logits'] or the first of a tuple."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise ProblemError(
        f"The model returned a {type(output).__name__}; a built-in loss or metric needs a tensor, .logits, "
        "['logits'] or a tuple that starts with a tensor. Write the loss as a function of the output."
    )


def classes_last(output: Any, target: Any, name: str) -> Tensor:
    """Logits as [*target.shape, classes], from [n, classes, ...] (torch) or [n, ..., classes] (language models)."""
    logits = tensor_of(output)
    if not isinstance(target, Tensor) or target.is_floating_point():
        raise ProblemError(f"'{name}' needs integer class targets; got {_described(target)}.")
    torch_form = logits.ndim == target.ndim + 1 and logits.shape[:1] + logits.shape[2:] == target.shape
    last_form = logits.ndim == target.ndim + 1 and logits.shape[:-1] == target.shape
    if torch_form and last_form and logits.ndim > 2:
        raise ProblemError(
            f"'{name}': logits {list(logits.shape)} and target {list(target.shape)} fit both [n, classes, ...] and "
            "[n, ..., classes]. Pass your own function of (output, target), e.g. lambda o, t: "
            "F.cross_entropy(o.flatten(0, 1), t.flatten(), reduction='none').view(t.shape) with reduction='none'."
        )
    if last_form:
        return logits
    if torch_form:
        return logits.movedim(1, -1)
    raise ProblemError(
        f"'{name}': logits of shape {list(logits.shape)} do not fit class targets of shape {list(target.shape)}; "
        "expected [n, classes, ...] or [n, ..., classes] for targets [n, ...]."
    )


def _described(target: Any) -> str:
    return f"{target.dtype} {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__


def _token_losses(output: Any, batch: Any, name: str = "cross_entropy") -> tuple[Tensor, Tensor, Tensor]:
    target = target_of(batch)
    logits = classes_last(output, target, name)
    values = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1).long(), reduction="none")
    return values.view(target.shape), (target != -100).to(values.dtype), target


def _cross_entropy(output: Any, batch: Any) -> Sums:
    values, weights, _ = _token_losses(output, batch)
    n = len(values)
    return values.reshape(n, -1).sum(1), weights.reshape(n, -1).sum(1)


def _squared(output: Any, batch: Any) -> tuple[Tensor, int]:
    prediction, target = tensor_of(output), target_of(batch)
    if not isinstance(target, Tensor) or prediction.shape != target.shape:
        raise ProblemError(
            f"The squared error compares an output of shape {list(prediction.shape)} with {_described(target)}; "
            "the shapes must be equal (broadcasting would compare every sample with every other)."
        )
    squares = (prediction - target).square().reshape(len(target), -1)
    return squares, squares.shape[1]


def _mse(output: Any, batch: Any) -> Sums:
    squares, outputs = _squared(output, batch)
    return squares.sum(1), torch.full_like(squares[:, 0], outputs)


def _half_squared_error(output: Any, batch: Any) -> Sums:
    squares, _ = _squared(output, batch)
    return squares.sum(1) / 2, torch.ones_like(squares[:, 0])


def model_loss(causal: bool) -> Measure:
    """The loss that the model returns itself (Hugging Face style), weighted by its labels other than -100.

    causal: the model predicts each token from those before it, so a sequence's first label does not count.
    """

    def sums(output: Any, batch: Any) -> Sums:
        found = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if found is None:
            raise ProblemError(
                f"loss='model' reads output.loss or output['loss']; the model returned a {type(output).__name__} "
                "without one. Do the batches hold the labels?"
            )
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        weight = None
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            counted = labels[:, 1:] if causal and labels.ndim > 1 else labels
            weight = (counted != -100).sum()
        return _checked("loss", (found, weight), batch, "mean")

    return Measure("loss", sums, "the model's own loss", per_sample=False)


NAMED_LOSSES = {
    "cross_entropy": Measure("loss", _cross_entropy, "cross entropy", "nats"),
    "mse": Measure("loss", _mse, "mean squared error"),
    "half_squared_error": Measure("loss", _half_squared_error, "half squared error, summed over outputs"),
}


def _accuracy(output: Any, batch: Any) -> Sums:
    target = target_of(batch)
    logits = classes_last(output, target, "accuracy")
    weights = (target != -100).to(torch.float32)
    hits = (logits.argmax(-1) == target) * weights
    hits = torch.where(logits.isnan().any(-1), torch.zeros_like(hits), hits)
    n = len(target)
    return hits.reshape(n, -1).sum(1), weights.reshape(n, -1).sum(1)


def accuracy() -> Measure:
    return Measure("accuracy", _accuracy, "accuracy", "fraction", smooth=False)


def loss_per_class(loss: Measure, classes: int) -> Measure:
    """The given loss over the samples of each class apart."""

    def sums(output: Any, batch: Any) -> Sums:
        values, weights = loss.function(output, batch)
        target = target_of(batch)
        if target.ndim != 1:
            raise ProblemError(f"loss_per_class needs one class a sample; the target is {list(target.shape)}.")
        belongs = F.one_hot(target.long(), classes).to(values.dtype)
        return torch.where(belongs > 0, values[:, None], 0.0), belongs * weights[:, None]

    return Measure("loss_per_class", sums, f"{loss.long_name} of one class", loss.units, classes=classes)
