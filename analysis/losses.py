"""Losses and metrics: those of a user in every form they take, and the built-in ones."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import count
from .errors import ProblemError
from .measures import IGNORED, TARGET_KEYS, Measure, Sums, by_sample, inputs_of, target_of, tensor_of

UNKNOWN_SAMPLES = (
    nn.CTCLoss,
    nn.KLDivLoss,
    nn.GaussianNLLLoss,
    nn.CosineEmbeddingLoss,
    nn.MarginRankingLoss,
    nn.TripletMarginLoss,
    nn.TripletMarginWithDistanceLoss,
)
ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)


def measure_of(name: str, loss: Any, reduction: str, model: nn.Module) -> Measure:
    """A loss, or a metric in the form of one, as a Measure. Accepted: see Problem. Raises ProblemError."""
    if reduction not in ("mean", "none"):
        raise ProblemError(f"reduction is {reduction!r}; accepted are 'mean' and 'none'.")
    if isinstance(loss, str) and loss == "model":
        causal = any(part in type(model).__name__ for part in ("CausalLM", "LMHead"))
        return replace(model_loss(causal), name=name)
    if isinstance(loss, str):
        if loss not in NAMED_LOSSES:
            raise ProblemError(
                f"Unknown loss {loss!r}; accepted names are {[*NAMED_LOSSES, 'model']}. For any other pass a torch "
                "loss module or a function of (output, target)."
            )
        return replace(NAMED_LOSSES[loss], name=name)
    if loss is F.cross_entropy:
        loss = nn.CrossEntropyLoss()
    elif loss is F.mse_loss:
        loss = nn.MSELoss()
    if not callable(loss):
        raise ProblemError(
            f"'{name}' is a {type(loss).__name__}; pass a function of (output, target) or of (model, batch), a torch "
            f"loss module, or one of {[*NAMED_LOSSES, 'model']}."
        )
    if isinstance(loss, nn.modules.loss._Loss):
        return _torch_loss(name, loss)
    return _user_function(name, loss, reduction)


def _user_function(name: str, function: Callable, reduction: str) -> Measure:
    """A function of (output, target) or (model, batch), reduced as `reduction` says."""
    takes_model = _first_parameter(function) == "model"

    def sums(subject: Any, batch: Any) -> Sums:
        try:
            result = function(subject, batch if takes_model else target_of(batch))
        except TypeError as error:
            error.add_note(f"'{name}' is called with (output, target), or with (model, batch) if its first parameter "
                           "is named `model`.")  # fmt: skip
            raise
        return _checked(name, result, batch, reduction)

    words = name.replace("_", " ")
    return Measure(name, sums, words, takes_model=takes_model, per_sample=reduction == "none")


def _first_parameter(function: Callable) -> str | None:
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        return next(iter(inspect.signature(target).parameters), None)
    except (TypeError, ValueError):
        return None


def _checked(name: str, result: Any, batch: Any, reduction: str) -> Sums:
    value, weight = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if isinstance(value, (int, float, np.number, np.ndarray)):
        value = torch.as_tensor(value, dtype=torch.float64)
    if weight is not None and not isinstance(weight, (int, float, np.number, np.ndarray, Tensor)):
        raise ProblemError(
            f"'{name}' returned a pair with a {type(weight).__name__}; a pair is (value, weight), where the weight "
            "counts what the value averages. Return the value alone."
        )
    if not isinstance(value, Tensor) or value.is_complex():
        raise ProblemError(
            f"'{name}' returned a {type(value).__name__}; expected a real tensor: a scalar (the mean over the "
            "batch), or one value a sample with reduction='none'."
        )
    n, value = count(batch), value.double()
    if reduction == "mean":
        if value.numel() != 1:
            raise ProblemError(
                f"'{name}' returned a tensor of shape {list(value.shape)} for a batch of {n}; expected a scalar, "
                "the mean over the batch. If these are values of single samples or tokens, pass reduction='none', "
                "which also gives their standard error."
            )
        weights = torch.as_tensor(n if weight is None else weight, device=value.device).reshape(1).double()
        return _weighted(value.reshape(1), weights), weights
    if value.ndim == 0 or value.shape[0] != n:
        raise ProblemError(
            f"'{name}' returned a tensor of shape {list(value.shape)} for a batch of {n}; with reduction='none' its "
            f"first dimension counts samples: expected [{n}, ...]. Pass reduction='mean' for a batch mean."
        )
    weights = torch.ones_like(value)
    if weight is not None:
        weights = torch.as_tensor(weight, dtype=torch.float64, device=value.device).expand_as(value)
    return by_sample(_weighted(value, weights), n), by_sample(weights, n)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """The products, 0 where the weight is 0 whatever the value."""
    return torch.where(weights == 0, 0.0, values * weights)


def _torch_loss(name: str, loss: nn.modules.loss._Loss) -> Measure:
    if isinstance(loss, UNKNOWN_SAMPLES):
        raise ProblemError(
            f"{type(loss).__name__} takes more than (output, target), or does not say what a sample is. Write the loss "
            "as a function of (output, target) or (model, batch) that calls it."
        )
    if loss.reduction != "mean":
        raise ProblemError(
            f"{type(loss).__name__}(reduction={loss.reduction!r}): the mean over the data is what is drawn; pass "
            "the same loss with reduction='mean', or a function that returns the mean over a batch."
        )
    single = copy.deepcopy(loss)
    single.reduction = "none"
    classified = isinstance(single, (nn.CrossEntropyLoss, nn.NLLLoss))

    def sums(output: Any, batch: Any) -> Sums:
        prediction, target = tensor_of(output), target_of(batch)
        if isinstance(single, ELEMENTWISE) and prediction.shape != target.shape:
            raise _unequal(type(loss).__name__, prediction, target)
        indices = classified and not target.is_floating_point()
        target = target.long() if indices else target
        values, n = single(prediction, target), count(batch)
        weights = torch.ones_like(values, dtype=torch.float64)
        if indices:
            weights = (target != single.ignore_index).double()
            if isinstance(single.weight, Tensor):
                table = single.weight.double()
                weights = weights * table[target.clamp(0, len(table) - 1)]
        return by_sample(values, n), by_sample(weights, n)

    units = "nats" if classified or isinstance(single, (nn.BCELoss, nn.BCEWithLogitsLoss)) else ""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", type(loss).__name__.removesuffix("Loss"))
    words = " ".join(word if word.isupper() else word.lower() for word in words.split())
    ignored = single.ignore_index if isinstance(single, (nn.CrossEntropyLoss, nn.NLLLoss)) else IGNORED
    return Measure(name, sums, words, units, classifies=classified, ignored=ignored)


# --- built-in losses and metrics --------------------------------------------------------------------------


def classes_last(output: Any, batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """Logits [*target.shape, classes] and int64 targets, for any of the forms in use.

    Logits are [n, classes, ...] (torch) or [n, ..., classes] (language models); where both fit, the inputs
    decide: integers of the shape of the targets are tokens.
    """
    logits, target = tensor_of(output), target_of(batch)
    if not isinstance(target, Tensor) or target.is_floating_point():
        raise ProblemError(f"'{name}' needs integer class targets; got {_described(target)}.")
    target = target.long()
    torch_form = logits.ndim == target.ndim + 1 and logits.shape[:1] + logits.shape[2:] == target.shape
    last_form = logits.ndim == target.ndim + 1 and logits.shape[:-1] == target.shape
    if last_form and (not torch_form or logits.ndim == 2 or _are_tokens(batch, target)):
        return logits, target
    if torch_form and last_form:
        raise ProblemError(
            f"'{name}': logits {list(logits.shape)} and target {list(target.shape)} fit both [n, classes, ...] and "
            "[n, ..., classes]. Pass nn.CrossEntropyLoss() for the first, or your own function of (output, target)."
        )
    if torch_form:
        return logits.movedim(1, -1), target
    raise ProblemError(
        f"'{name}': logits of shape {list(logits.shape)} do not fit class targets of shape {list(target.shape)}; "
        "expected [n, classes, ...] or [n, ..., classes] for targets [n, ...]."
    )


def _are_tokens(batch: Any, target: Tensor) -> bool:
    args, kwargs = inputs_of(batch)
    return any(
        isinstance(value, Tensor) and not value.is_floating_point() and value.shape == target.shape
        for key, value in [*enumerate(args), *kwargs.items()]
        if key not in TARGET_KEYS
    )


def _described(target: Any) -> str:
    return f"{target.dtype} {list(target.shape)}" if isinstance(target, Tensor) else type(target).__name__


def _cross_entropy(output: Any, batch: Any) -> Sums:
    logits, target = classes_last(output, batch, "cross_entropy")
    values = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1), reduction="none")
    return by_sample(values, len(target)), by_sample(target != IGNORED, len(target))


def _squared(output: Any, batch: Any) -> tuple[Tensor, int]:
    prediction, target = tensor_of(output), target_of(batch)
    if not isinstance(target, Tensor) or prediction.shape != target.shape:
        raise _unequal("The squared error", prediction, target)
    squares = (prediction.double() - target.double()).square().reshape(len(target), -1)
    return squares, squares.shape[1]


def _unequal(name: str, prediction: Tensor, target: Any) -> ProblemError:
    return ProblemError(
        f"{name} compares an output of shape {list(prediction.shape)} with {_described(target)}; the shapes must be "
        "equal (broadcasting would compare every sample with every other)."
    )


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
        if found is None and isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            found = output[0] if output[0].ndim == 0 else None
        if found is None:
            raise ProblemError(
                f"loss='model' reads output.loss or output['loss']; the model returned a {type(output).__name__} "
                "without one. Do the batches hold the labels?"
            )
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        weight = None
        if isinstance(labels, Tensor) and not labels.is_floating_point():
            counted = labels[:, 1:] if causal and labels.ndim > 1 else labels
            weight = (counted != IGNORED).sum()
        return _checked("loss", (found, weight), batch, "mean")

    return Measure("loss", sums, "the model's own loss", per_sample=False)


NAMED_LOSSES = {
    "cross_entropy": Measure("loss", _cross_entropy, "cross entropy", "nats", classifies=True),
    "mse": Measure("loss", _mse, "mean squared error"),
    "half_squared_error": Measure("loss", _half_squared_error, "half squared error, summed over outputs"),
}


def accuracy(loss: Measure) -> Measure:
    """The share of targets that the largest logit names, over those that the loss counts."""

    def sums(output: Any, batch: Any) -> Sums:
        logits, target = classes_last(output, batch, "accuracy")
        counted = target != loss.ignored
        hits = (logits.argmax(-1) == target) & counted & ~logits.isnan().any(-1)
        return by_sample(hits, len(target)), by_sample(counted, len(target))

    return Measure("accuracy", sums, "accuracy", "fraction", smooth=False)


def gradient_norm(loss: Measure) -> Measure:
    """The Euclidean norm of the gradient of the mean loss, by all parameters that move."""
    return replace(
        loss, name="gradient_norm", long_name="norm of the gradient", units="", classifies=False, of_gradient=True
    )


def loss_per_class(loss: Measure, classes: int) -> Measure:
    """The given loss over the samples of each class apart."""

    def sums(output: Any, batch: Any) -> Sums:
        values, weights = loss.function(output, batch)
        target = target_of(batch).long()
        belongs = F.one_hot(target.clamp(0, classes - 1), classes) * (target != loss.ignored)[:, None]
        return torch.where(belongs > 0, values[:, None], 0.0), belongs * weights[:, None]

    return Measure("loss_per_class", sums, loss.long_name, loss.units, classes=classes)
