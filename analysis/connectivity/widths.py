"""Networks of different widths: the narrow one inside the class of the wide one, so that their units can be matched."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import LandscapeError
from ..problem import Problem
from ..weights import Weights
from .groups import Group, Place
from .symmetries import Symmetries

KEPT = 1e-4  # the loss of the widened network is that of the narrow one to this part


def widened(
    narrow: Problem, wide: Problem, checkpoint: Checkpoint, *, symmetries: tuple[Symmetries, Symmetries]
) -> Checkpoint:
    """A checkpoint of a narrow network as one of a wide network of the same form, with the same function.

    Hidden units that the narrow network lacks have weights and statistics of 0. Matching the result with a wide network
    is rectangular: each unit of the narrow one gets a unit of its own, and the rest go to what is 0.

    narrow, wide: problems of the two on the same data. symmetries: of the two, which say where the units of a group
        lie.

    Raises LandscapeError where the two differ in more than the sizes of groups of units, where groups hold others
    (heads), and where zero units change the function, as with LayerNorm over them.
    """
    refuse_unread(checkpoint)
    maps = _places(*symmetries)
    target = wide.checkpoint()
    state = {**checkpoint.weights, **checkpoint.buffers}
    like = {**target.weights, **target.buffers}
    if list(state) != list(like):
        differing = [name for name in {**state, **like} if (name in state) != (name in like)][:3]
        raise LandscapeError(
            f"The networks differ in more than width: {differing} {'is' if len(differing) == 1 else 'are'} not in both."
        )
    padded = {name: _padded(name, tensor, like[name], maps) for name, tensor in state.items()}
    weights = Weights({name: padded[name] for name in target.weights}, target.weights.structure)
    result = Checkpoint(weights, {name: padded[name] for name in target.buffers}, f"{checkpoint.name}, widened")
    losses = [problem.measure(c)["loss"][0] for problem, c in ((narrow, checkpoint), (wide, result))]
    if not abs(losses[0] - losses[1]) <= KEPT * abs(losses[0]) + 1e-6:
        raise LandscapeError(
            f"The loss of '{checkpoint.name}' is {losses[0]:.6g}, and {losses[1]:.6g} with units of 0 beside its own: "
            "a layer mixes units (such as LayerNorm), or the data differ. Such networks cannot be widened this way."
        )
    return result


def _places(narrow: Symmetries, wide: Symmetries) -> dict[Place, np.ndarray]:
    """For each (name, axis) that some group moves, where its entries lie in the wide network."""
    by_place = {min(group.all_places()): group for group in wide.groups}
    maps = {place: np.arange(size) for place, size in narrow.sizes.items()}
    for group in narrow.groups:
        place = min(group.all_places())
        other = by_place.get(place)
        _refuse_unlike(group, other, place)
        assert other is not None
        for at, indices in group.places.items():
            maps[at][indices.ravel()] = other.places[at][..., : group.size, :].ravel()
    return maps


def _refuse_unlike(group: Group, other: Group | None, place: Place) -> None:
    name = f"{place[0]}[{place[1]}]"
    if other is None or set(group.places) != set(other.places):
        raise LandscapeError(f"The units of {name} belong to other layers in the wide network: the forms differ.")
    if group.inner or other.inner or group.copies != 1 or other.copies != 1:
        raise LandscapeError(f"The units of {name} hold others (heads, channel groups), which is not supported.")
    if group.size > other.size:
        raise LandscapeError(f"{name} has {group.size} units, and {other.size} in the network that should be wider.")
    if any(indices.shape[-1] != other.places[at].shape[-1] for at, indices in group.places.items()):
        raise LandscapeError(f"A unit of {name} has other numbers of entries in the two networks (sizes of images?).")


def _padded(name: str, tensor: Tensor, like: Tensor, maps: Mapping[Place, np.ndarray]) -> Tensor:
    if tensor.ndim != like.ndim:
        raise LandscapeError(f"'{name}' is {list(tensor.shape)}, and {list(like.shape)} in the wide network.")
    if not tensor.ndim:
        return tensor.clone()
    index = [maps.get((name, axis), np.arange(size)) for axis, size in enumerate(tensor.shape)]
    fits = all(i.max(initial=-1) < size for i, size in zip(index, like.shape, strict=True))
    free = [(name, axis) in maps for axis in range(tensor.ndim)]
    same = [a == b for a, b in zip(tensor.shape, like.shape, strict=True)]
    if not fits or not all(a or b for a, b in zip(free, same, strict=True)):
        raise LandscapeError(
            f"'{name}' is {list(tensor.shape)}, and {list(like.shape)} in the wide network, along an axis that is no "
            "hidden width."
        )
    result = torch.zeros_like(like)
    result[np.ix_(*index)] = tensor.to(like)
    return result
