"""Measures: numbers over the data as sums over samples, so that any blocking of the data gives one mean.

A measure turns the model's output on a batch into two float64 tensors of one shape [samples] or
[samples, classes]: the sums of its values over each sample, and their weights (1 for a sample, the number of
tokens for a sequence). The mean is sum(values) / sum(weights); its standard error is that of a ratio of sums
with samples as the independent units (Cochran, Sampling Techniques, 3rd ed., section 6.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import ProblemError

Sums = tuple[Tensor, Tensor]
IGNORED = -100
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Measure:
    """One number over the data: how to get it from a batch, and what to call it.

    function(model_or_output, batch) returns (values, weights), each [samples] or [samples, classes].
    takes_model: the function runs the model itself.
    per_sample: whether values do not depend on how samples are batched.
    classes: length of the class dimension, 0 if there is none.
    smooth: whether it varies smoothly with the weights, so that a spline may join its values.
    classifies: a cross entropy against classes, of which those equal to `ignored` do not count.
    data: which of the problem's data sets it is taken over; "" is the main one.
    of_gradient: it is the norm of the gradient of the function's mean over all data, and not that mean.
    """

    name: str
    function: Callable[[Any, Any], Sums]
    long_name: str
    units: str = ""
    takes_model: bool = False
    per_sample: bool = True
    classes: int = 0
    smooth: bool = True
    classifies: bool = False
    ignored: int = IGNORED
    data: str = ""
    of_gradient: bool = False


def moments(values: Tensor, weights: Tensor) -> Tensor:
    """Sums over samples that a mean and its standard error need, float64 [6] or [6, classes]."""
    s, w = values.double(), weights.double()
    s = torch.where(w == 0, 0.0, s)  # what does not count may be NaN or infinite
    dot = torch.dot if s.ndim == 1 else lambda a, b: (a * b).sum(0)
    total, weight = s.sum(0), w.sum(0)
    return torch.stack([total, weight, dot(s, s), dot(s, w), dot(w, w), torch.full_like(weight, len(w))])


def mean_and_error(total: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means and their standard errors from moments [6, ...]."""
    s, w, ss, sw, ww, n = total
    mean = s / w
    spread = (ss - 2 * mean * sw + mean * mean * ww).clamp_min(0)
    correction = torch.where(n > 1, n / (n - 1), torch.nan)
    return mean, (spread * correction).sqrt() / w


def by_sample(values: Tensor, n: int) -> Tensor:
    """Sums over all dims but the first, in float64."""
    return values.double() if values.shape == (n,) else values.double().reshape(n, -1).sum(1)


def inputs_of(batch: Any) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the model's forward for a batch."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        first, *rest = batch[:-1]
        if isinstance(first, Mapping) and not rest:
            return (), dict(first)
        if isinstance(first, (tuple, list)) and not rest:
            return tuple(first), {}
        return (first, *rest), {}
    raise ProblemError(
        f"A batch is a {type(batch).__name__}"
        + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        + "; a loss of (output, target) needs batches (inputs, target) or dicts. Tensors that belong together are a "
        "tuple (x, y), not a list; for any other form write the loss as loss(model, batch)."
    )


def target_of(batch: Any) -> Any:
    """What the output is compared with: the last entry of a batch, or the one of a dict with a usual name."""
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
