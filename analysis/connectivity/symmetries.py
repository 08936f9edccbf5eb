"""Permutation symmetries of a module: what may be exchanged without changing its function, found and certified.

The units of a hidden layer can be exchanged with those of the layer after them (Hecht-Nielsen 1990, On the algebraic
structure of feedforward network weight spaces). Which axes of which parameters move together is read off the graph of
ATen operations; see `rules` for what each operation says and `atoms` for how that is solved.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..data import map_tensors, tensors_of
from ..errors import LandscapeError, SymmetryError
from ..measures import TARGET_KEYS, inputs_of
from ..problem import Problem
from ..randomness import untouched_rng
from ..replica import _keywords
from ..weights import Structure
from .groups import Group, Permutation, Place, grouped
from .tracing import STATISTICS, Trace, trace

TOLERANCE = 1e-10  # largest relative change of outputs in float64 that counts as none
VISIBLE = 1e-8  # smallest that counts as one
DECISIVE = 30  # times the rounding of single precision: what has no effect in float64 shows as at most 3
SAMPLES = 16
TRIALS = 3


@dataclass(frozen=True)
class Certificate:
    """What was checked, in float64 and with all weights perturbed.

    change: largest relative change of the outputs over random elements of the group (at most 1e-10).
    control: smallest change when a (name, axis) is left out of the element of one group; to some 10 %, as changes
        that are far above the rounding of float32 are measured in it.
    """

    change: float
    control: float


@dataclass(frozen=True)
class Symmetries:
    """The permutation symmetries of one module.

    groups: independent groups of units; the symmetries are their product.
    sizes: the length of each (name, axis) of parameters and running statistics.
    pinned: for (name, axis) with entries that stay, how many and the operation that told them apart.
    unknown: operations without a rule, and how often each froze something. failure: why nothing could be traced, or "".
    """

    groups: tuple[Group, ...]
    sizes: Mapping[Place, int]
    pinned: Mapping[Place, tuple[int, str]]
    unknown: Mapping[str, int]
    failure: str
    share: float
    certificate: Certificate | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return (
            f"Symmetries({len(self.groups)} groups, 10^{self.log10_size:.1f} elements, {self.share:.1%} of parameters)"
        )

    @property
    def log10_size(self) -> float:
        """log10 of the number of symmetries."""
        return sum(group.log10_size for group in self.groups)

    def random(self, seed: int = 0) -> Permutation:
        """An element drawn uniformly."""
        rng = np.random.default_rng(seed)
        drawn = Permutation.of(self.groups, self.sizes, lambda group, *_: rng.permutation(group.size))
        return self.identity().then(drawn)

    def identity(self) -> Permutation:
        return Permutation({place: np.arange(size) for place, size in self.sizes.items()})

    def table(self) -> str:
        """What is free, and what stays and why, for reading."""
        lines = [
            f"{len(self.groups)} groups, 10^{self.log10_size:.1f} symmetries, moving {self.share:.1%} of parameters"
        ]
        if self.failure:
            lines.append(f"not traced, so nothing is free: {self.failure}")
        for i, group in enumerate(self.groups):
            places = [f"{name}[{axis}]" for name, axis in group.all_places()]
            more = f" and {len(places) - 6} more" if len(places) > 6 else ""
            lines.append(f"{i:>3}  {group.structure:<20} {', '.join(places[:6])}{more}")
        by_reason: dict[str, list[str]] = {}
        for (name, axis), (count, reason) in self.pinned.items():
            by_reason.setdefault(reason, []).append(f"{name}[{axis}] ({count})")
        for reason, places in by_reason.items():
            more = f" and {len(places) - 4} more" if len(places) > 4 else ""
            lines.append(f"fixed by {reason}: {', '.join(places[:4])}{more}")
        for name, count in self.unknown.items():
            lines.append(f"no rule for {name} (met {count} times): what it touches is fixed")
        return "\n".join(lines)


def find_symmetries(
    model: nn.Module | Problem, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, seed: int = 0
) -> Symmetries:
    """The permutation symmetries of a module, certified on inputs.

    model: a Problem, which has inputs of its own, or a module with the args and kwargs of one call. The module is
        copied and looked at in evaluation mode.
    seed: of the elements that the certificate tries.

    An operation that is not understood, and a module that cannot be traced, freezes what it touches and is named in
    the result: fewer symmetries than there are, never one that is none. Parameters and running statistics move; other
    buffers are taken as constants. Raises SymmetryError if the certificate fails, naming the group, and
    LandscapeError for a module without inputs.
    """
    if isinstance(model, Problem):
        args, kwargs = _inputs(model)
        model = model.model
    elif not args and not kwargs and _wants_inputs(model):
        raise LandscapeError(
            f"{type(model).__name__} was given without inputs, and symmetries are found by calling it: pass a Problem, "
            "or the args and kwargs of one call, as in find_symmetries(model, (x,))."
        )
    model = copy.deepcopy(model).eval()
    inputs = map_tensors((tuple(args), dict(kwargs or {})), lambda t: t.detach().clone())
    found = trace(model, *inputs)
    certifier = _Certifier(model, inputs, seed)
    sizes = {place: len(atoms) for place, atoms in found.slots.items()}
    structure = Structure.of(model)
    while True:
        groups, fixed = _solved(found)
        result = Symmetries(tuple(groups), sizes, fixed, dict(found.unknown), found.failure, _share(groups, structure))
        if not groups:
            return result
        controls = [certifier.control(group, sizes) for group in groups]
        if None not in controls:
            return replace(result, certificate=Certificate(certifier.change(result), min(filter(None, controls))))
        for group in (group for group, control in zip(groups, controls, strict=True) if control is None):
            places = group.all_places()
            reason = (
                "no effect on these inputs" if len(places) > 1 else "being all that would move, which has no control"
            )
            for place, indices in places.items():
                found.relations.mark(found.slots[place][indices], indices, reason)


def _wants_inputs(model: nn.Module) -> bool:
    try:
        inspect.signature(model.forward).bind()
    except TypeError:
        return True
    return False


def _inputs(problem: Problem) -> tuple[tuple, dict]:
    batch = problem.blocks(SAMPLES)[""][0]
    batch = map_tensors(batch, lambda t: t.to(problem.device, problem.dtype if t.is_floating_point() else None))
    args, kwargs = inputs_of(batch)
    accepted = _keywords(problem.model)
    return tuple(args), {
        k: v for k, v in kwargs.items() if k not in TARGET_KEYS and (accepted is None or k in accepted)
    }


def _solved(found: Trace) -> tuple[list[Group], dict[Place, tuple[int, str]]]:
    """Groups, and for each place how many entries stay and why."""
    relations = found.relations
    while True:
        nodes = relations.solve(found.slots)
        groups, crossing = grouped(nodes, found.slots)
        if not crossing:
            break
        atoms = np.flatnonzero(np.isin(nodes.of, sorted(crossing)))
        relations.mark(atoms, nodes.of[atoms], "blocks that cross")
    reason = np.full(nodes.of.max(initial=0) + 1, -1)
    said = [mark for mark in relations.marks if mark.reason and (mark.colours != mark.colours[:1]).any()]
    for i, mark in reversed(list(enumerate(said))):
        reason[nodes.of[mark.atoms]] = i
    free: dict[Place, list[np.ndarray]] = {}
    for group in groups:
        for place, indices in group.all_places().items():
            free.setdefault(place, []).append(indices)
    fixed = {}
    for place, atoms in found.slots.items():
        stays = np.setdiff1d(np.arange(len(atoms)), np.concatenate(free.get(place, [np.zeros(0, dtype=int)])))
        if len(stays):
            reasons = reason[nodes.of[atoms[stays]]]
            named = [said[i].reason for i in reasons if i >= 0]
            fixed[place] = len(stays), max(set(named), key=named.count) if named else "what it is joined with"
    return groups, fixed


def _share(groups: Sequence[Group], structure: Structure) -> float:
    """The share of parameter entries that some symmetry moves."""
    free: dict[Place, set[int]] = {}
    for group in groups:
        for place, indices in group.all_places().items():
            free.setdefault(place, set()).update(indices.tolist())
    still = 0.0
    for name, entry in structure.entries.items():
        rest = 1.0
        for axis, size in enumerate(entry.shape):
            rest *= size - len(free.get((name, axis), ()))
        still += rest
    return 1 - still / max(structure.numel, 1)


class _InDouble(TorchDispatchMode):
    """Float32 that a forward asks for by name is float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        args = tuple(torch.float64 if a is torch.float32 else a for a in args)
        return func(*args, **kwargs)


class _Certifier:
    """Tries the symmetries of one module; what a group was seen to change is remembered."""

    def __init__(self, model: nn.Module, inputs: tuple[tuple, dict], seed: int):
        self.model, self.inputs, self.seed = model, inputs, seed  # the model is perturbed where it stands
        self.controls: dict[bytes, float | None] = {}

    @cached_property
    def perturbed(self) -> nn.Module:
        return _perturb(self.model, self.seed)

    @cached_property
    def double(self) -> _Run:
        """In float64."""
        model = copy.deepcopy(self.perturbed).double()
        return _Run(model, map_tensors(self.inputs, lambda t: t.double() if t.is_floating_point() else t), _InDouble)

    @cached_property
    def single(self) -> tuple[_Run, float] | None:
        """In float32, and the change that counts there; None for a module that is not for float32."""
        tensors = [*self.perturbed.parameters(), *tensors_of(self.inputs)]
        if any(t.dtype != torch.float32 for t in tensors if t.is_floating_point()):
            return None
        run = _Run(self.perturbed, self.inputs)
        rounding = self.double.difference(run.before)
        if not rounding <= 1e-2:  # it overflows, or nearly
            return None
        return run, DECISIVE * max(rounding, torch.finfo(torch.float32).eps / 2)

    def _seen(self, permutation: Permutation) -> float:
        """How much a permutation changes the outputs; in float32 where that is far more than its rounding."""
        if self.single is not None:
            run, decisive = self.single
            change = run.change(permutation)
            if change > decisive:
                return change
        return self.double.change(permutation)

    def change(self, found: Symmetries) -> float:
        """The largest change of the outputs over random elements; raises SymmetryError for one that is none."""
        worst = 0.0
        for seed in range(self.seed, self.seed + TRIALS):
            change = self.double.change(found.random(seed))
            if not change <= TOLERANCE:
                raise SymmetryError(self._culprit(found, seed, change))
            worst = max(change, worst)
        return worst

    def control(self, group: Group, sizes: Mapping[Place, int]) -> float | None:
        """How much an element of one group changes when a (name, axis) is left out; None if nothing whichever it is."""
        places = sorted(group.all_places().items())
        key = b"".join(f"{name}[{axis}]".encode() + indices.tobytes() for (name, axis), indices in places)
        if key not in self.controls:
            rng = np.random.default_rng(self.seed)
            element = Permutation.of([group], sizes, lambda g, *_: np.roll(np.arange(g.size), rng.integers(1, g.size)))
            weightiest = sorted(element.moved, key=lambda place: -self.double.state[place[0]].ndim)
            changes = (self._seen(element.without(place)) for place in weightiest)
            self.controls[key] = next((change for change in changes if not change <= VISIBLE), None)
        return self.controls[key]

    def _culprit(self, found: Symmetries, seed: int, change: float) -> str:
        rng = np.random.default_rng(seed)
        for i, group in enumerate(found.groups):
            element = Permutation.of([group], found.sizes, lambda g, *_: rng.permutation(g.size))
            alone = self.double.change(element)
            if not alone <= TOLERANCE:
                places = ", ".join(f"{name}[{axis}]" for name, axis in list(group.all_places())[:4])
                return (
                    f"Group {i} ({group.structure}: {places}) was taken for a symmetry and changes the outputs by "
                    f"{alone:.2g} of their largest. This is an error in the rules of this package: please report the "
                    "model."
                )
        return f"A symmetry changes the outputs by {change:.2g} of their largest, though no group does so alone."


def _perturb(model: nn.Module, seed: int) -> nn.Module:
    """Add noise to the weights and running statistics of a module: fresh ones (zeros, ones) would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    structure = Structure.of(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in structure.entries:
            p = parameters[name]
            noise = torch.randn(p.shape, generator=generator).to(p)
            p.add_(noise.mul_(0.3 * p.std(unbiased=False) + 0.02))
        for name, buffer in _statistics(model).items():
            noise = torch.rand(buffer.shape, generator=generator).to(buffer)
            buffer.mul_(1 + 0.3 * noise).add_(0.1 * noise if "running" in name else 0.0)
    return model


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that symmetries move."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: t
        for name, t in model.state_dict().items()
        if STATISTICS.search(name) and t.is_floating_point() and name not in parameters
    }


class _Run:
    """A module on some inputs: what symmetries move in it (`state`), and its outputs (`before`)."""

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[tuple, dict],
        mode: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.model, self.inputs, self.mode = model, inputs, mode
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.state = {name: parameters[name].detach() for name in Structure.of(model).entries} | _statistics(model)
        self.before = self._outputs(self.state)

    def change(self, permutation: Permutation) -> float:
        """The largest change of an output, relative to the largest output."""
        moved = {name: self.state[name] for name, _ in permutation.moved}
        return self.difference(self._outputs({**self.state, **permutation.tensors(moved)}))

    def difference(self, after: Sequence[Tensor]) -> float:
        """The largest difference of other outputs, relative to the largest output."""
        scale = max((float(t.abs().max()) for t in self.before if t.numel()), default=0.0)
        if not self.before or not np.isfinite(scale) or scale == 0:
            raise SymmetryError(
                "The outputs hold no finite number other than 0, so that nothing can be certified. Pass inputs on "
                "which the module gives finite outputs."
            )
        pairs = zip(self.before, after, strict=True)
        return max(float((a - b).abs().max()) for a, b in pairs if a.numel()) / scale

    def _outputs(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        args, kwargs = self.inputs
        with torch.no_grad(), untouched_rng(), self.mode():
            torch.manual_seed(0)
            output = torch.func.functional_call(self.model, dict(state), args, kwargs)
        return [t.double() for t in tensors_of(output) if not t.is_complex()]
