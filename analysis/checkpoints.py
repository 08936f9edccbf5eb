"""Checkpoints: weights, the buffers that go with them, and what the file said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import CheckpointError, misplaced
from .files import whole_file
from .fitting import fit_state_dict
from .reading import CheckpointFile, StateDict, read_checkpoint
from .weights import Structure, Weights, digest


@dataclass(frozen=True)
class Checkpoint:
    """One state of a network.

    weights: the parameters, one entry a storage. buffers: the persistent rest (running statistics ...), which
    never moves along a direction. info: step, epoch, learning rate ... as the file states them.
    """

    weights: Weights
    buffers: Mapping[str, Tensor]
    name: str
    info: Mapping[str, int | float | str] = field(default_factory=dict)
    source: str = ""
    unused: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over parameters and buffers, as hex."""
        return digest({**self.weights, **self.buffers})

    def __repr__(self) -> str:
        return f"Checkpoint({self.name!r}, {self.weights.numel:,} parameters, {self.digest[:8]})"

    @classmethod
    def of(cls, model: nn.Module, name: str = "model") -> Checkpoint:
        """A copy of the module's current state. Raises CheckpointError if it holds NaN or infinite weights."""
        weights = Weights.of(model)
        state = persistent_state(model)
        buffers = {k: v.detach().clone() for k, v in state.items() if k not in _parameter_names(model)}
        return _finite(cls(weights, buffers, name))


def refuse_unread(*checkpoints: Any) -> None:
    """Raise CheckpointError for what is not a Checkpoint, saying how to come by one."""
    for given in checkpoints:
        if isinstance(given, Checkpoint):
            continue
        if isinstance(given, Weights):
            remedy = "problem.checkpoint(weights, buffers=checkpoint) adds what goes with them"
        else:
            named = f"'{given}'" if isinstance(given, (str, PurePath)) else "..."
            remedy = f"problem.checkpoint({named}) reads one from a path, a state dict or a module"
        raise CheckpointError(misplaced(given, "a checkpoint is", remedy))


def persistent_state(model: nn.Module) -> dict[str, Tensor]:
    """The module's state dict without extra state that is no tensor."""
    state = model.state_dict(keep_vars=True)
    return {k: v for k, v in state.items() if isinstance(v, Tensor) and not k.endswith("_extra_state")}


def _parameter_names(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters(remove_duplicate=False) if p.is_floating_point()}


def load_checkpoint(
    source: str | Path | CheckpointFile | Mapping[str, Tensor],
    model: nn.Module,
    *,
    key: str | None = None,
    name: str | None = None,
) -> Checkpoint:
    """Read a checkpoint that fits `model`, in the model's dtype, on its device.

    source: a file (.pt, .pth, .th, .ckpt, .bin, .safetensors), the index of shards or a folder with one of these, what
        `read_checkpoint` returned, or a state dict.
    key: which state dict of the file, where several fit (`landscape info FILE` lists them).

    Nothing in a file is ever executed. Names must agree, after common prefixes such as ``module.`` are taken
    off; a tied weight may be stored once. Raises CheckpointError, naming the first names that differ.
    """
    structure = Structure.of(model)
    state = persistent_state(model)
    if isinstance(source, Mapping):
        file: CheckpointFile | StateDict = StateDict(_tensors_only(source), "")
        label, origin, info = name or "state dict", "", {}
    else:
        if not isinstance(source, (str, Path, CheckpointFile)):
            refuse_unread(source)
        file = source if isinstance(source, CheckpointFile) else read_checkpoint(source)
        label, origin, info = name or file.name, str(file.source), dict(file.info)
    fitted = fit_state_dict(
        file,
        expected={k: v.shape for k, v in state.items()},
        aliases={k: v for k, v in structure.aliases.items() if k in state},
        optional=_countables(state),
        key=key,
    )
    weights = Weights(
        {k: _as(fitted.tensors[k], state[k], k) for k in structure.entries},
        structure,
    )
    buffers = {
        k: _as(fitted.tensors[k], v, k) if k in fitted.tensors else v.detach().clone()
        for k, v in state.items()
        if k not in structure.entries and k not in structure.aliases
    }
    if fitted.key and key is not None:
        label = name or f"{label} [{fitted.key}]"
    return _finite(Checkpoint(weights, buffers, label, info, origin, fitted.unused))


def save_checkpoint(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write a checkpoint as a state dict that the original class loads strictly; tied weights under all their names.

    path: .safetensors, with `info` as its metadata, or .pt or .pth, the state dict alone as torch.save writes it. The
    file appears whole or not at all.

    Raises CheckpointError for what is no checkpoint, another suffix, and a folder that does not exist or cannot be
    written to.
    """
    refuse_unread(checkpoint)
    path = Path(path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise CheckpointError(f"Cannot save a checkpoint as '{path.name}'; give a name in .safetensors, .pt or .pth.")
    state = {**checkpoint.weights, **{k: checkpoint.weights[k] for k in checkpoint.weights.structure.aliases}}
    return write_state({**state, **checkpoint.buffers}, path, checkpoint.info)


def write_state(state: Mapping[str, Tensor], path: Path, info: Mapping[str, int | float | str]) -> Path:
    """Write tensors to a .safetensors file, `info` as its metadata, or with torch.save. Raises CheckpointError."""
    own = {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    with whole_file(path, "merged.safetensors", CheckpointError) as temporary:
        if path.suffix == ".safetensors":
            save_file(own, temporary, metadata={key: str(value) for key, value in info.items()})
        else:
            torch.save(own, temporary)
    return path


def _tensors_only(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in state.items() if isinstance(v, Tensor)}


def _countables(state: Mapping[str, Tensor]) -> Collection[str]:
    return [name for name in state if name.rpartition(".")[2] == "num_batches_tracked"]


def _as(tensor: Tensor, like: Tensor, name: str) -> Tensor:
    if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
        raise CheckpointError(f"'{name}' is {tensor.dtype} in the checkpoint and {like.dtype} in the model.")
    return tensor.detach().to(device=like.device, dtype=like.dtype, copy=True)


def _finite(checkpoint: Checkpoint) -> Checkpoint:
    statistics = {k: v for k, v in checkpoint.buffers.items() if k.endswith(("running_mean", "running_var"))}
    for name, tensor in {**checkpoint.weights, **statistics}.items():  # masks may hold -inf
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"Checkpoint '{checkpoint.name}': '{name}' holds {bad} NaN or infinite values of {tensor.numel()}. "
                "The run has diverged, or the number format overflowed; choose an earlier step."
            )
    return checkpoint
