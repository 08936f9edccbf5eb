"""From a module and its inputs to relations between atoms: the ATen graph, walked once with the rules."""

from __future__ import annotations

import copy
import operator
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from ..data import tensors_of
from ..weights import Structure
from .atoms import Relations
from .labels import Labelled
from .rules.pointwise import elementwise
from .rules.registry import RULES, Arguments, Later, Rule, Unfollowed, rigid, several, shape_of, unknown
from .rules.speaker import Speaker

STATISTICS = re.compile(r"(^|\.)(running_mean|running_var|_u|_v|weight_u|weight_v)$")
FILLED = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
SYMBOLS = torch.SymInt, torch.SymFloat, torch.SymBool  # numbers that the values decide

Slots = dict[tuple[str, int], np.ndarray]


@dataclass
class Trace:
    """What one run of a module says.

    slots: the atoms of each (name, axis) of a parameter or buffer. unknown: how often each operation that is not
    understood met something that could have moved. failure: why there is no graph at all, or "".
    """

    relations: Relations = field(default_factory=Relations)
    slots: Slots = field(default_factory=dict)
    unknown: Counter = field(default_factory=Counter)
    failure: str = ""


def trace(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    """Trace a module in evaluation mode. Raises nothing for models that cannot be traced: `failure` says why."""
    exported = _attempt(lambda: torch.export.export(model, tuple(args), dict(kwargs)))
    if isinstance(exported, str):
        return _frozen(model, exported)
    if _is_functional(exported.graph):
        found = _walked(exported, model)
        if not found.unknown:
            return found
    decomposed = _attempt(lambda: exported.run_decompositions({}))  # takes longer than export itself
    if isinstance(decomposed, str):
        return _frozen(model, decomposed)
    blocks = [str(node.target) for node in decomposed.graph.nodes if node.op == "get_attr"]
    if blocks:
        return _frozen(model, f"what is within blocks of the graph is not followed: {', '.join(blocks)}")
    return _walked(decomposed, model)


def _attempt(step: Callable[[], ExportedProgram]) -> ExportedProgram | str:
    """The program, or why there is none: export fails with errors of any kind."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return step()
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), "")
        return f"{type(error).__name__}: {first[:200]}"


def _frozen(model: nn.Module, failure: str) -> Trace:
    """Of a module without a graph: nothing moves."""
    found = Trace(failure=failure)
    speaker = Speaker(found.relations, "export", "torch.export, which failed")
    speaker.freeze(_state_labels(model, Structure.of(model), found).values())
    return found


def _is_functional(graph: fx.Graph) -> bool:
    """Whether a graph consists of operations, no blocks of them, that leave their operands as they are."""
    calls = [node.target for node in graph.nodes if node.op == "call_function" and node.target is not operator.getitem]
    return all(isinstance(call, torch._ops.OpOverload) and not call._schema.is_mutable for call in calls)


def _walked(program: ExportedProgram, model: nn.Module) -> Trace:
    """What the operations of a graph say, one after the other."""
    found = Trace()
    structure = Structure.of(model)
    labels = _state_labels(model, structure, found)
    signature = program.graph_signature
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    walker = _Walker(found, model)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            name = named.get(node.name)
            value = program.state_dict.get(name, program.constants.get(name)) if name is not None else None
            label = labels.get(structure.aliases.get(name, name)) if name is not None else None
            if label is not None and not node.users:
                label = None
            if label is None:
                label = rigid(node.meta.get("val"))
                if isinstance(label, Labelled) and isinstance(value, Tensor):
                    label = Labelled(label.shape, (), value)
            walker.results[node] = label
        elif node.op == "call_function":
            walker.results[node] = walker.call(node)
        elif node.op == "output":
            walker.output(node)
    _pin_unused(program, named, structure, labels, found)
    return found


def _state_labels(model: nn.Module, structure: Structure, found: Trace) -> dict[str, Labelled]:
    """Fresh atoms for each axis of each parameter and moving buffer; names of one storage have the same."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    tensors: dict[str, Tensor] = {name: parameters[name] for name in structure.entries}
    tensors |= moving_buffers(model)
    labels: dict[str, Labelled] = {}
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        known = first.setdefault(id(tensor), name)
        for axis, size in enumerate(tensor.shape):
            if size > 1:
                found.slots[name, axis] = found.slots[known, axis] if known != name else found.relations.new(size)
        groups = tuple(((axis,), found.slots[name, axis]) for axis, size in enumerate(tensor.shape) if size > 1)
        labels[name] = labels[known] if known != name else Labelled(tuple(tensor.shape), groups)
    return labels


def copied(model: nn.Module) -> nn.Module:
    """A copy, also of modules that hold computed tensors, as the old weight_norm does; deepcopy refuses these."""
    held = tensors_of([list(vars(module).values()) for module in model.modules()])
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in held if not t.is_leaf})


def moving_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that symmetries move, which checkpoints may hold other values of: floating-point ones of the state
    that are running statistics, that stand beside these in one module (frozen norms), or that are one number all over
    (masks before pruning). Others are constants, whose values tell units apart.
    """
    state = model.state_dict(keep_vars=True)
    found = {}
    for name, tensor in state.items():
        if isinstance(tensor, nn.Parameter) or not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        beside = ".".join([*name.split(".")[:-1], "running_mean"])
        if STATISTICS.search(name) or beside in state or _uniform(tensor):
            found[name] = tensor
    return found


def _uniform(tensor: Tensor) -> bool:
    return tensor.numel() > 1 and bool(torch.isfinite(tensor).all() and (tensor == tensor.flatten()[0]).all())


def _pin_unused(
    program: Any, named: Mapping, structure: Structure, labels: Mapping[str, Labelled], found: Trace
) -> None:
    used = {
        id(labels.get(structure.aliases.get(named[node.name], named[node.name])))
        for node in program.graph.nodes
        if node.op == "placeholder" and node.users and node.name in named
    }
    Speaker(found.relations, "unused", "no use at all").freeze(t for t in labels.values() if id(t) not in used)


class _Walker:
    """The labels of each value of a graph."""

    def __init__(self, found: Trace, model: nn.Module):
        self.found = found
        self.results: dict[fx.Node, Any] = {}
        self.device = next(model.parameters()).device

    def call(self, node: fx.Node) -> Any:
        args: Any = fx.node.map_arg(node.args, self.results.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, self.results.__getitem__)
        out = node.meta.get("val")
        if node.target is operator.getitem:
            return self._item(args[0], args[1], node)
        name, bound, rule = str(node.target), {str(i): v for i, v in enumerate(args)} | dict(kwargs), None
        if isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema
            name = schema.name.split("::")[1]
            bound = {a.name: a.default_value for a in schema.arguments}
            bound |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | dict(kwargs)
            known = self._known(node.target, name, args, kwargs)
            if known is not None:
                return known
            rule = self._rule(node.target, name, out)
        if any(0 in t.shape for t in _leaves((args, kwargs, rigid(out))) if isinstance(t, Labelled)):
            rule = None
        speaker = Speaker(self.found.relations, name, f"{name} ({_where(node)})")
        result = _said(rule, speaker, bound, out)
        if speaker.froze:
            self.found.unknown[name] += 1
        return self._kept_together(result)

    def _rule(self, target: torch._ops.OpOverload, name: str, out: Any) -> Rule | None:
        rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
        alone = torch.Tag.pointwise in target.tags and torch.Tag.nondeterministic_seeded not in target.tags
        return elementwise if rule is None and alone and isinstance(out, Tensor) else rule

    def _kept_together(self, result: Any) -> Any:
        for t in _leaves(result):
            if isinstance(t, Labelled):
                for _, atoms in t.groups:
                    self.found.relations.keep_together(atoms)
        return result

    def _item(self, source: Any, index: int, node: fx.Node) -> Any:
        item = source[index]
        if not node.users:
            return None
        if isinstance(item, Later):
            return self._kept_together(item.result())
        if isinstance(item, Unfollowed):
            Speaker(self.found.relations, "getitem", f"a further result ({_where(node)})").freeze(item.operands)
            return rigid(item.out)
        return item

    def _known(self, target: Any, name: str, args: Any, kwargs: Any) -> Any:
        """The result of an operation on known tensors, or on none at all: computed."""
        if torch.Tag.nondeterministic_seeded in target.tags or any(
            isinstance(t, (Unfollowed, *SYMBOLS)) for t in _leaves((args, kwargs))
        ):
            return None
        tensors = [t for t in _leaves((args, kwargs)) if isinstance(t, Labelled)]
        if name in FILLED:
            values = [torch.empty(t.shape, device=self.device) for t in tensors]
        elif all(t.value is not None for t in tensors):
            values = [t.value for t in tensors if t.value is not None]
        else:
            return None
        if name.startswith("empty"):
            return None
        numbers = iter(values)
        fill = lambda v: torch.utils._pytree.tree_map(lambda t: next(numbers) if isinstance(t, Labelled) else t, v)  # noqa: E731
        with torch.no_grad():
            result = target(*fill(args), **fill(kwargs))
        return torch.utils._pytree.tree_map(
            lambda t: Labelled(tuple(t.shape), (), t) if isinstance(t, Tensor) else t, result
        )

    def output(self, node: fx.Node) -> None:
        speaker = Speaker(self.found.relations, "output", "the output")
        for t in _leaves(fx.node.map_arg(node.args, self.results.__getitem__)):
            if isinstance(t, Unfollowed):
                speaker.freeze(t.operands)
            elif isinstance(t, Labelled):
                speaker.freeze([t])


def _said(rule: Rule | None, speaker: Speaker, arguments: Arguments, out: Any) -> Any:
    """What a rule gives; as of an unknown operation where there is none, or none for such arguments."""
    if rule is not None:
        try:
            result = rule(speaker, arguments, out)
        except Exception:  # of any kind: the rule was not written for these arguments
            return unknown(speaker, arguments, out)
        parts, given = (list(v) if several(v) else [v] for v in (result, out))
        if all(t.shape == shape_of(of) for t, of in zip(parts, given, strict=True) if isinstance(t, Labelled)):
            return result
    return unknown(speaker, arguments, out)


def _leaves(values: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(values)


def _where(node: fx.Node) -> str:
    """The module that an operation belongs to."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return re.sub(r"\.slice\(.*?\)", "", str(stack[-1][0])) or "the model" if stack else node.name
