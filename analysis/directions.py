"""Random directions on the scale of the weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from .errors import LandscapeError
from .randomness import valid_seed
from .weights import Entry, Weights

KINDS = ("weight", "bias", "norm")
NORMALISATIONS = ("filter", "layer", "weight")


def random_directions(
    weights: Weights,
    count: int,
    seed: int,
    *,
    normalisation: str = "filter",
    include: Collection[str] = ("weight",),
    layers: Collection[str] | None = None,
    frozen: bool = False,
) -> list[Weights]:
    """`count` Gaussian directions from a generator of their own, mutually orthogonal, as long as the weights.

    normalisation: what is orthogonal by itself and rescaled to the norm of the weights' own (Li et al. 2018,
        arXiv:1712.09913): each "filter" (one output unit; a tensor whose filters have one entry counts as one
        filter) or each "layer" (a tensor). "weight" multiplies each Gaussian number by its weight, then treats
        the tensor as a layer.
    include: which of "weight", "bias", "norm" (scale and shift of normalisation layers) move.
    layers: names or patterns (``features.*``) of the parameters that move; None is all.
    frozen: whether parameters with requires_grad=False move too.

    Raises LandscapeError for unknown options, a pattern that matches nothing, or if nothing would move.
    """
    if normalisation not in NORMALISATIONS:
        raise LandscapeError(f"normalisation is {normalisation!r}; accepted are {list(NORMALISATIONS)}.")
    include = [include] if isinstance(include, str) else include
    if not include or set(include) - set(KINDS):
        raise LandscapeError(f"include is {sorted(include)}; accepted are some of {list(KINDS)}.")
    chosen = matching(weights, layers)
    generator = torch.Generator().manual_seed(valid_seed(seed))
    parts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, tensor in weights.items():
        entry = weights.structure.entries[name]
        blocks = _blocks(entry, tensor.detach().cpu().double(), normalisation)
        moves = name in chosen and entry.kind in include and (frozen or not entry.frozen)
        rows: list[Tensor] = []
        for _ in range(count):
            if moves:
                row = torch.randn(blocks.shape, generator=generator, dtype=torch.float64)
                rows.append(_orthogonal(row * blocks if normalisation == "weight" else row, rows))
            else:
                rows.append(torch.zeros_like(blocks))
        norms = blocks.norm(dim=1, keepdim=True)
        for part, row in zip(parts, rows, strict=True):
            part[name] = _unblocked(entry, row * norms, normalisation).to(tensor)
    directions = [Weights(part, weights.structure) for part in parts]
    if any(direction.norm() == 0 for direction in directions):
        raise LandscapeError(
            f"No parameter would move in {count} orthogonal directions: none of the kinds {sorted(include)} is "
            "trainable and non-zero. Pass include=('weight', 'bias', 'norm'), frozen=True, or other layers."
        )
    return directions


def matching(weights: Weights, layers: Collection[str] | None) -> set[str]:
    if layers is None:
        return set(weights)
    chosen: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        found = {name for name in weights if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not found:
            raise LandscapeError(f"layers: '{pattern}' matches no parameter; there are {list(weights)[:8]} ...")
        chosen |= found
    return chosen


def _blocks(entry: Entry, tensor: Tensor, normalisation: str) -> Tensor:
    """The tensor as rows [blocks, entries of a block], each normalised by itself."""
    if normalisation != "filter":
        return tensor.reshape(1, -1)
    filters = entry.to_filters(tensor)
    return filters if filters.shape[1] > 1 else filters.reshape(1, -1)


def _unblocked(entry: Entry, rows: Tensor, normalisation: str) -> Tensor:
    if normalisation != "filter":
        return rows.reshape(entry.shape)
    return entry.from_filters(rows)


def _orthogonal(row: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Each row of unit length and orthogonal to the same row of `others`; zero where no room is left."""
    for _ in range(2):
        row = _unit(row)
        for other in others:
            row = row - (row * other).sum(1, keepdim=True) * other
    return _unit(row)


def _unit(row: Tensor) -> Tensor:
    size = row.norm(dim=1, keepdim=True)
    return torch.where(size > 1e-8, row / size, 0.0)
