"""Weights: the parameters of a network as one vector with names.

Everything that moves a network is written in the algebra of this file; no other file loops over parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .errors import LandscapeError, ProblemError, misplaced

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Entry:
    """What a direction must know of one parameter.

    kind: "weight" (moves in random directions), or "bias" or "norm" (at rest in them by default).
    frozen: the model does not train it.
    output_axis, groups: which axis counts output units, so that a filter is one output unit.
    """

    shape: torch.Size
    kind: str = "weight"
    frozen: bool = False
    output_axis: int = 0
    groups: int = 1

    def to_filters(self, tensor: Tensor) -> Tensor:
        """The parameter as a matrix [filters, entries of a filter]; `from_filters` is the inverse."""
        if self.kind != "weight" or tensor.ndim < 2:
            return tensor.reshape(1, -1)
        if self.output_axis == 0:
            return tensor.reshape(self.shape[0], -1)
        return self._grouped(tensor).reshape(self.groups * self.shape[1], -1)

    def from_filters(self, matrix: Tensor) -> Tensor:
        if self.kind != "weight" or len(self.shape) < 2 or self.output_axis == 0:
            return matrix.reshape(self.shape)
        inputs, outputs, *kernel = self.shape
        split = matrix.reshape(self.groups, outputs, inputs // self.groups, *kernel)
        return split.transpose(1, 2).reshape(self.shape)

    def _grouped(self, tensor: Tensor) -> Tensor:
        """[in, out / groups, *kernel] to [groups, out / groups, in / groups, *kernel]."""
        inputs, outputs, *kernel = self.shape
        return tensor.reshape(self.groups, inputs // self.groups, outputs, *kernel).transpose(1, 2)


@dataclass(frozen=True)
class Structure:
    """Names, shapes and roles of a network's floating-point parameters, one entry a storage.

    aliases maps each further name of a tied parameter to its canonical (first) name.
    """

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Structure:
        """Read the structure of a module. Raises ProblemError for what cannot move in a straight line."""
        owners = {
            f"{prefix}.{name}" if prefix else name: (module, name)
            for prefix, module in model.named_modules(remove_duplicate=False)
            for name, _ in module.named_parameters(recurse=False)
        }
        entries: dict[str, Entry] = {}
        aliases: dict[str, str] = {}
        seen: dict[object, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            _refuse(name, parameter)
            if not parameter.is_floating_point():
                continue
            key = _storage(parameter)
            if key in seen:
                aliases[name] = seen[key]
                continue
            seen[key] = name
            entries[name] = _entry(*owners[name], parameter)
        if not entries:
            raise ProblemError(
                f"{type(model).__name__} has no floating-point parameters: there is no weight space to look at. "
                "Pass a module that holds nn.Parameters."
            )
        parameters = dict(model.named_parameters(remove_duplicate=False))
        _refuse_overlap({name: parameters[name] for name in entries})
        return cls(entries, aliases)

    @property
    def numel(self) -> int:
        return sum(entry.shape.numel() for entry in self.entries.values())


def _refuse_overlap(parameters: Mapping[str, Tensor]) -> None:
    """Two parameters that share some memory, but not all in one form, cannot move each on its own."""
    spans = sorted(
        (p.untyped_storage().data_ptr(), p.storage_offset(), p.storage_offset() + _reach(p), name)
        for name, p in parameters.items()
        if p.numel()
    )
    for (storage, _, end, name), (other_storage, start, _, other) in pairwise(spans):
        if storage == other_storage and start < end:
            raise ProblemError(
                f"Parameters '{name}' and '{other}' share memory in different forms (a transpose or a part). Tie them "
                "in forward, or with torch.nn.utils.parametrize."
            )


def _reach(tensor: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _storage(tensor: Tensor) -> object:
    if tensor.numel() == 0 or tensor.device.type == "meta":
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _refuse(name: str, parameter: Tensor) -> None:
    reason = None
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        reason = "is not initialised yet (a lazy module); run one batch through the model first"
    elif parameter.device.type == "meta":
        reason = "is on the meta device and holds no values; materialise the model first"
    elif parameter.is_quantized:
        reason = "is quantised; pass the floating-point model"
    elif parameter.is_complex():
        reason = "is complex; only real floating-point parameters are supported"
    elif parameter.layout != torch.strided or type(parameter).__name__ == "DTensor":
        reason = f"is stored as {type(parameter).__name__} ({parameter.layout}); gather it to a dense tensor"
    if reason:
        raise ProblemError(f"Parameter '{name}' {reason}.")


def _entry(module: nn.Module, name: str, parameter: Tensor) -> Entry:
    kind = "weight" if parameter.ndim > 1 else "bias"
    if isinstance(module, NORMS) or ("Norm" in type(module).__name__ and parameter.ndim < 2):
        kind = "norm"
    axis, groups = 0, 1
    if kind == "weight" and isinstance(module, nn.modules.conv._ConvTransposeNd):
        axis, groups = 1, module.groups
    elif kind == "weight" and type(module).__name__ == "Conv1D" and not isinstance(module, nn.Conv1d):
        axis = 1  # the transposed linear layer of GPT-2
    return Entry(parameter.shape, kind, not parameter.requires_grad, axis, groups)


class Weights(Mapping[str, Tensor]):
    """A point, or a displacement, in a network's weight space: named tensors with vector arithmetic.

    Immutable by convention: every operation returns new tensors. Sums of two Weights need the same names
    in the same order. Inner products and norms are float64, whatever the dtype of the tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor], structure: Structure):
        self._tensors = dict(tensors)
        self.structure = structure
        _same_names(self._tensors, structure.entries, "the given tensors", "the model")

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """A copy of the module's current parameters."""
        structure = Structure.of(model)
        parameters = dict(model.named_parameters(remove_duplicate=False))
        return cls({name: parameters[name].detach().clone() for name in structure.entries}, structure)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self.structure.aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Weights({len(self)} tensors, {self.numel:,} numbers, |w| = {self.norm():.6g})"

    @property
    def numel(self) -> int:
        return self.structure.numel

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Weights:
        return Weights({name: function(name, tensor) for name, tensor in self.items()}, self.structure)

    def to(self, *args, **kwargs) -> Weights:
        """Another dtype or device, as Tensor.to."""
        return self.map(lambda _, tensor: tensor.to(*args, **kwargs))

    def zeros(self) -> Weights:
        return self.map(lambda _, tensor: torch.zeros_like(tensor))

    def __add__(self, other: Weights) -> Weights:
        return self.add(other)

    def __sub__(self, other: Weights) -> Weights:
        return self.add(other, scale=-1.0)

    def __mul__(self, factor: float) -> Weights:
        return self.map(lambda _, tensor: tensor * factor)

    __rmul__ = __mul__

    def add(self, other: Weights, scale: float = 1.0) -> Weights:
        """self + scale * other."""
        refuse_unnamed(other)
        _same_names(other, self, "the second weights", "the first")
        return self.map(lambda name, tensor: torch.add(tensor, other[name], alpha=scale))

    def dot(self, other: Weights) -> float:
        """Inner product over all entries, accumulated in float64."""
        refuse_unnamed(other)
        _same_names(other, self, "the second weights", "the first")
        return sum(
            float(torch.dot(tensor.flatten().double(), other[name].flatten().double())) for name, tensor in self.items()
        )

    def norm(self) -> float:
        return self.dot(self) ** 0.5

    def flatten(self) -> Tensor:
        """One vector [numel], in the order of the names."""
        return torch.cat([tensor.flatten() for tensor in self.values()])

    def unflatten(self, vector: Tensor) -> Weights:
        """The inverse of `flatten`, for any vector [numel]."""
        if vector.shape != (self.numel,):
            raise LandscapeError(f"A vector of shape [{self.numel}] is needed; got {list(vector.shape)}.")
        parts = iter(vector.split([tensor.numel() for tensor in self.values()]))
        return self.map(lambda _, tensor: next(parts).view(tensor.shape))

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values, as hex."""
        return digest(self)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors: names, dtypes, shapes and bytes, in order."""
    hasher = hashlib.sha256()
    for name, tensor in tensors.items():
        hash_tensor(hasher, tensor, name)
    return hasher.hexdigest()


def hash_tensor(hasher, tensor: Tensor, name: str = "") -> None:
    dense = tensor.detach().cpu().contiguous()
    hasher.update(f"{name}:{dense.dtype}:{list(dense.shape)};".encode())
    hasher.update(dense.reshape(-1).view(torch.uint8).numpy().data)


def refuse_unnamed(*given: Any) -> None:
    """Raise LandscapeError for what is not Weights."""
    for each in given:
        if not isinstance(each, Weights):
            remedy = "checkpoint.weights, plane.point(...) and problem.gradient(...) are such"
            raise LandscapeError(misplaced(each, "weights are", remedy))


def _same_names(given: Mapping, expected: Mapping, given_as: str, expected_as: str) -> None:
    if list(given) == list(expected):
        for name, tensor in given.items():
            if tensor.shape != expected[name].shape:
                raise LandscapeError(
                    f"'{name}' is {list(tensor.shape)} in {given_as} and {list(expected[name].shape)} in {expected_as}."
                )
        return
    missing = [name for name in expected if name not in given][:3]
    extra = [name for name in given if name not in expected][:3]
    if not missing and not extra:
        raise LandscapeError(f"The names of {given_as} and of {expected_as} are the same but in another order.")
    raise LandscapeError(f"Names differ between {given_as} and {expected_as}: missing {missing}, unexpected {extra}.")
