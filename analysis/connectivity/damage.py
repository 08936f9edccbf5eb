"""Checkpoints that nothing can be said of: weights, or a loss, that are not finite."""

from __future__ import annotations

import math

import torch

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import CheckpointError
from ..problem import Problem


def refuse_damaged(*checkpoints: Checkpoint) -> None:
    """Raise CheckpointError for weights that are not finite, and for what is no checkpoint."""
    refuse_unread(*checkpoints)
    for checkpoint in checkpoints:
        norms = torch._foreach_norm(list(checkpoint.weights.values()))
        if all(map(math.isfinite, torch.stack(norms).tolist())):
            continue
        bad = [name for name, tensor in checkpoint.weights.items() if not torch.isfinite(tensor).all()]
        if bad:
            raise CheckpointError(
                f"Checkpoint '{checkpoint.name}' holds NaN or infinite weights in {bad[:3]}. Choose another checkpoint."
            )


def refuse_loss(checkpoint: Checkpoint, loss: float) -> None:
    """Raise CheckpointError for a loss that is not finite."""
    if not math.isfinite(loss):
        raise CheckpointError(
            f"The loss at checkpoint '{checkpoint.name}' is {loss}: nothing can be compared with it. Choose another "
            "checkpoint, or check the data."
        )


def refuse_losses(problem: Problem, *checkpoints: Checkpoint) -> None:
    """Measure checkpoints; raise CheckpointError for a loss that is not finite."""
    for checkpoint in checkpoints:
        refuse_loss(checkpoint, problem.measure(checkpoint)["loss"][0])
