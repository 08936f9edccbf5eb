"""Whether a checkpoint computes what it did once its units are exchanged: seen on real inputs, at every matching."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..data import map_tensors
from ..errors import CheckpointError, SymmetryError
from ..precision import InDouble, in_double
from ..randomness import rng_state, set_rng_state, untouched_rng
from .tracing import copied, moving_buffers

TOLERANCE = 1e-10  # largest relative change of outputs in float64 that counts as none
CLOSE = 1e-5  # outputs that differ by more in the network's own precision are looked at in float64

Inputs = tuple[tuple, dict]  # args and kwargs of a call


class Example:
    """A module of its own and the inputs, all and one sample, on which permuted checkpoints are looked at."""

    def __init__(self, model: nn.Module, inputs: Inputs, one: Inputs):
        self.model, self.inputs, self.one = model, inputs, one
        self.state = state_of(model)
        moving = moving_buffers(model)
        self.constants = {
            name: tensor.clone()
            for name, tensor in model.state_dict().items()
            if isinstance(tensor, Tensor)
            and not isinstance(self.state[name], nn.Parameter)
            and name not in moving
            and not name.endswith("num_batches_tracked")  # plays no part in evaluation
        }
        self.alone = threading.Lock()  # the module is moved from one checkpoint to the other

    def refuse_changed(self, before: Checkpoint, after: Checkpoint) -> None:
        """Raise SymmetryError where a permuted checkpoint computes something else, each in its own buffers.

        Where the checkpoint holds the constants that the symmetries were certified with, one sample is looked at, in
        the network's precision; otherwise, and where that does not settle it, all inputs, in float64. Raises
        CheckpointError for outputs that are not finite.
        """
        held = {name: before.buffers[name] for name in self.constants if name in before.buffers}
        other = [name for name, t in held.items() if not torch.equal(t.to(self.constants[name]), self.constants[name])]
        with self.alone:
            if not other:
                change = _change(self.model, self.state, self.one, before, after)
                if change is not None and change <= CLOSE:
                    return
            double = copied(self.model).double()
        inputs = map_tensors(self.inputs, in_double)
        change = _change(double, state_of(double), inputs, before, after, InDouble)
        if change is None:
            raise CheckpointError(
                f"No output of '{before.name}' is finite on the inputs that the symmetries were found with, so that "
                "nothing shows whether a permuted copy computes the same. Check its weights and the data."
            )
        if not change <= TOLERANCE:
            raise SymmetryError(
                f"'{before.name}' computes something else once its units are exchanged: the outputs differ by "
                f"{change:.2g} of the largest. {_reason(other)}"
            )


def _reason(constants: Sequence[str]) -> str:
    if not constants:
        return "This is an error in the rules of this package: please report the model."
    names = ", ".join(f"'{name}'" for name in constants[:3]) + (" ..." if len(constants) > 3 else "")
    return (
        f"They were found with other values of the buffers {names} than it holds. Make the Problem with a model that "
        "holds these values, and find the symmetries anew."
    )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and saved buffers, by each of their names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **model.state_dict(keep_vars=True)}


def _change(
    model: nn.Module,
    state: dict[str, Tensor],
    inputs: Inputs,
    before: Checkpoint,
    after: Checkpoint,
    mode: Callable[[], AbstractContextManager] = nullcontext,
) -> float | None:
    """The largest difference of an output, each over its own largest entry; None where no output is finite."""
    args, kwargs = inputs
    outputs = []
    with torch.no_grad(), untouched_rng(), mode():
        drawn = rng_state()
        for checkpoint in (before, after):
            tensors = {**checkpoint.weights, **checkpoint.buffers}
            torch._foreach_copy_([state[name] for name in tensors], list(tensors.values()))
            set_rng_state(drawn)
            outputs.append(outputs_of(model(*args, **kwargs)))
    changes = [_apart(one, other) for one, other in zip(*outputs, strict=True) if one.isfinite().any()]
    return float(np.max(changes)) if changes else None  # nan is handed on


def _apart(one: Tensor, other: Tensor) -> float:
    scale = float(one[one.isfinite()].abs().max())
    same = (one == other) | (one.isnan() & other.isnan())
    difference = float(torch.where(same, 0.0, (one - other).abs()).max())
    return difference / scale if scale > 0 else difference


def outputs_of(output: Any) -> list[Tensor]:
    """The tensors of an output that hold numbers, in float64, complex ones as pairs: all that torch.export looks into,
    registered dataclasses too.
    """
    tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, Tensor) and t.numel()]
    return [(torch.view_as_real(t) if t.is_complex() else t).double() for t in tensors]
