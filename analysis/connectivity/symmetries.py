"""Permutation symmetries of a module: what may be exchanged without changing its function, found and certified.

The units of a hidden layer can be exchanged with those of the layer after them (Hecht-Nielsen 1990, On the algebraic
structure of feedforward network weight spaces). Which axes of which parameters move together is read off the graph of
ATen operations; see `rules` for what each operation says and `atoms` for how that is solved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checkpoints import Checkpoint
from ..data import map_tensors, tensors_of
from ..errors import LandscapeError, SymmetryError
from ..measures import TARGET_KEYS, inputs_of
from ..precision import InDouble, in_double
from ..problem import Problem
from ..randomness import untouched_rng
from ..replica import _keywords
from ..weights import Structure
from .groups import Group, Permutation, Place, grouped
from .keeping import TOLERANCE, Example, Inputs, outputs_of, state_of
from .tracing import Trace, copied, moving_buffers, trace

VISIBLE = 1e-8  # smallest that counts as one
DECISIVE = 30  # times the rounding of single precision: what has no effect in float64 shows as at most 3
COARSE = 1e3  # times the rounding of single precision, where an output is smaller: in float64 it is all rounding
SAMPLES = 16
TRIALS = 3
SMALL = 4.0  # log10 of the size of a group


@dataclass(frozen=True)
class Certificate:
    """What was checked, in float64 and with all weights perturbed.

    change: largest change of an output, relative to its own size, over random elements of the group (at most 1e-10).
    control: smallest change when a (name, axis) is left out of the element of one group; to some 10 %, as changes
        that are far above the rounding of float32 are measured in it.
    """

    change: float
    control: float


@dataclass(frozen=True)
class Symmetries:
    """The permutation symmetries of one module.

    groups: independent groups of units; the symmetries are their product.
    sizes: the length of each (name, axis) of parameters and of the buffers that move.
    pinned: for (name, axis) with entries that stay, how many and the operation that told them apart.
    unknown: operations without a rule, and how often each froze something. failure: why nothing could be traced, or "".
    example: by which matchings are checked.
    """

    groups: tuple[Group, ...]
    sizes: Mapping[Place, int]
    pinned: Mapping[Place, tuple[int, str]]
    unknown: Mapping[str, int]
    failure: str
    share: float
    certificate: Certificate | None = field(default=None, compare=False)
    example: Example | None = field(default=None, compare=False, repr=False)

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

    def refuse_changed(self, before: Checkpoint, after: Checkpoint) -> None:
        """Raise SymmetryError where a permuted checkpoint computes something else on the inputs of the discovery."""
        if self.example is not None:
            self.example.refuse_changed(before, after)

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
    the result: fewer symmetries than there are, never one that is none. Parameters move, and buffers that are running
    statistics, that stand beside these in one module, or that are one number all over; other buffers are constants with
    the values that they have in `model`. Raises SymmetryError if the certificate fails, naming the group, and where
    nothing can be certified: outputs that are not finite, or not the same when called again,
    and LandscapeError for a module without inputs.
    """
    if isinstance(model, Problem):
        inputs, one = (_inputs(model, samples) for samples in (SAMPLES, 1))
        model = model.model
    elif not args and not kwargs and _wants_inputs(model):
        raise LandscapeError(
            f"{type(model).__name__} was given without inputs, and symmetries are found by calling it: pass a Problem, "
            "or the args and kwargs of one call, as in find_symmetries(model, (x,))."
        )
    else:
        inputs = one = tuple(args), dict(kwargs or {})
    model = copied(model).eval()
    inputs, one = (map_tensors(some, lambda t: t.detach().clone()) for some in (inputs, one))
    found = trace(model, *inputs)
    example = Example(copied(model), inputs, one)
    certifier = _Certifier(model, inputs, seed)
    sizes = {place: len(atoms) for place, atoms in found.slots.items()}
    structure = Structure.of(model)
    while True:
        groups, fixed = _solved(found)
        share = _share(groups, structure)
        result = Symmetries(tuple(groups), sizes, fixed, dict(found.unknown), found.failure, share, example=example)
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


def _inputs(problem: Problem, samples: int) -> Inputs:
    batch = problem.blocks(samples)[""][0]
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
    said = [mark for mark in relations.marks if mark.reason and (len(mark.atoms) == 1 or np.ptp(mark.colours))]
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


class _Certifier:
    """Tries the symmetries of one module; what a group was seen to change is remembered."""

    def __init__(self, model: nn.Module, inputs: Inputs, seed: int):
        self.model, self.inputs, self.seed = model, inputs, seed  # the model is perturbed where it stands
        self.controls: dict[bytes, float | None] = {}
        self.names = _names(model)

    @cached_property
    def perturbed(self) -> nn.Module:
        return _perturb(self.model, self.seed, self.names)

    @cached_property
    def double(self) -> _Run:
        """In float64."""
        model = copied(self.perturbed).double()
        run = _Run(model, map_tensors(self.inputs, in_double), self.names, InDouble)
        for i, output in enumerate(run.before):
            if output.isnan().any():
                raise SymmetryError(
                    f"Output {i + 1} of {len(run.before)}, {list(output.shape)}, holds NaN, behind which a change would"
                    " not show. Pass inputs on which all outputs are numbers, or a module that gives only those that "
                    "are (their weights are perturbed by some 30 %)."
                )
        if not any(run.sizes):
            raise SymmetryError(
                "The outputs hold no number other than 0, so that nothing can be certified. Pass inputs on which the "
                "module gives others."
            )
        return run

    @cached_property
    def single(self) -> tuple[_Run, float] | None:
        """In float32, and the change that counts there; None for a module that is not for float32."""
        tensors = [*self.perturbed.parameters(), *tensors_of(self.inputs)]
        if any(t.dtype != torch.float32 for t in tensors if t.is_floating_point()):
            return None
        run = _Run(self.perturbed, self.inputs, self.names)
        self.double.all_rounding(run.before)
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
        for element in self._elements(found):
            change = self.double.change(element)
            if not change <= TOLERANCE:
                raise SymmetryError(self._culprit(found, change))
            worst = max(change, worst)
        return worst

    def _elements(self, found: Symmetries) -> Iterator[Permutation]:
        """Random elements; of a small group, in which these may all be none, what generates it: a cycle and a swap."""
        yield from (found.random(seed) for seed in range(self.seed, self.seed + TRIALS))
        for group in found.groups:
            if group.log10_size < SMALL:
                yield from _generators(group, found.sizes)

    def control(self, group: Group, sizes: Mapping[Place, int]) -> float | None:
        """How much an element of one group changes when a (name, axis) is left out; None if nothing whichever it is."""
        places = sorted(group.all_places().items())
        key = b"".join(f"{name}[{axis}]".encode() + indices.tobytes() for (name, axis), indices in places)
        if key not in self.controls:
            rng = np.random.default_rng(self.seed)
            element = Permutation.of([group], sizes, lambda g, *_: np.roll(np.arange(g.size), rng.integers(1, g.size)))
            moved = [place for place in element.moved if place[0] in self.double.state]
            weightiest = sorted(moved, key=lambda place: -self.double.state[place[0]].ndim)
            changes = (self._seen(element.without(place)) for place in weightiest)
            self.controls[key] = next((change for change in changes if not change <= VISIBLE), None)
        return self.controls[key]

    def _culprit(self, found: Symmetries, change: float) -> str:
        again = self.double.change(found.identity())
        if not again <= TOLERANCE:
            return (
                f"{type(self.model).__name__} does not give the same outputs twice: called again with the same weights "
                f"and inputs, they change by {again:.2g} of their largest. Pass a module that keeps nothing between "
                "calls and draws no random numbers in evaluation mode."
            )
        for i, group in enumerate(found.groups):
            alone = max(self.double.change(element) for element in _generators(group, found.sizes))
            if not alone <= TOLERANCE:
                places = ", ".join(f"{name}[{axis}]" for name, axis in list(group.all_places())[:4])
                return (
                    f"Group {i} ({group.structure}: {places}) was taken for a symmetry and changes the outputs by "
                    f"{alone:.2g} of their largest. This is an error in the rules of this package: please report the "
                    "model."
                )
        return f"A symmetry changes the outputs by {change:.2g} of their largest, though no group does so alone."


def _generators(group: Group, sizes: Mapping[Place, int]) -> list[Permutation]:
    """A cycle and a swap of its units, and of those within."""
    cycle = Permutation.of([group], sizes, lambda g, *_: np.roll(np.arange(g.size), 1))
    swap = Permutation.of([group], sizes, lambda g, *_: np.array([1, 0, *range(2, g.size)]))
    return [cycle, swap]


def _perturb(model: nn.Module, seed: int, names: Sequence[str]) -> nn.Module:
    """Add noise to the weights and moving buffers of a module: fresh ones (zeros, ones) would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    state = state_of(model)
    with torch.no_grad():
        for name in names:
            tensor = state[name]
            if isinstance(tensor, nn.Parameter):
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.add_(noise.mul_(0.3 * tensor.std(unbiased=False) + 0.02))
            else:
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.mul_(1 + 0.3 * noise).add_(0.0 if name.endswith(("_u", "_v")) else 0.1 * noise)
    return model


def _names(model: nn.Module) -> list[str]:
    """Of what symmetries may move: parameters and buffers, each under its first name."""
    buffers: dict[int, str] = {}
    for name, tensor in moving_buffers(model).items():
        buffers.setdefault(id(tensor), name)
    return [*Structure.of(model).entries, *buffers.values()]


class _Run:
    """A module on some inputs: what symmetries move in it (`state`), and its outputs (`before`)."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        names: Sequence[str],
        mode: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.model, self.inputs, self.mode = model, inputs, mode
        state = state_of(model)
        self.state = {name: state[name].detach() for name in names}
        self.before = self._outputs(self.state)
        self.sizes = [float(t[t.isfinite()].abs().max()) if t.isfinite().any() else 0.0 for t in self.before]

    def change(self, permutation: Permutation) -> float:
        """The largest change of an output, relative to the largest entry of that output."""
        moved = {name: self.state[name] for name, _ in permutation.moved if name in self.state}
        return self.difference(self._outputs({**self.state, **permutation.tensors(moved)}))

    def difference(self, after: Sequence[Tensor]) -> float:
        """The largest difference of other outputs, each relative to its largest entry; nan and inf are handed on."""
        apart = self._apart(after)
        return float(np.max([d / size if size else d and np.inf for d, size in zip(apart, self.sizes, strict=True)]))

    def all_rounding(self, single: Sequence[Tensor]) -> None:
        """An output that is far below its rounding in single precision is no more than rounding in this one, too."""
        apart = np.nan_to_num(self._apart(single), posinf=0)
        self.sizes = [max(size, COARSE * d) for size, d in zip(self.sizes, apart, strict=True)]

    def _apart(self, after: Sequence[Tensor]) -> list[float]:
        pairs = zip(self.before, after, strict=True)
        return [float(torch.where(a == b, 0.0, (a - b).abs()).max()) for a, b in pairs]  # infinite ones may be equal

    def _outputs(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        args, kwargs = self.inputs
        with torch.no_grad(), untouched_rng(), self.mode():
            torch.manual_seed(0)
            output = torch.func.functional_call(self.model, dict(state), args, kwargs)
        return outputs_of(output)
