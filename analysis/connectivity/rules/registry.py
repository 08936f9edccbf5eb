"""Which rule speaks for which operation, and what rules share to read arguments and to give results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils._pytree import tree_leaves

from ..labels import Labelled
from .speaker import Speaker

Arguments = dict[str, Any]
Rule = Callable[[Speaker, Arguments, Any], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """A decorator: this function is the rule of the operations of these names."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def present(*tensors: Any) -> list[Labelled]:
    """Those of some optional arguments that are given."""
    return [t for t in tensors if isinstance(t, Labelled)]


def operands(a: Arguments) -> Iterator[Labelled]:
    """All tensors among the arguments."""
    yield from present(*tree_leaves(a))


def shape_of(out: Any) -> tuple[int, ...]:
    """The shape of a result, 0 where the values decide how long a dim is; of several results, that of the first."""
    return tuple(n if isinstance(n, int) else 0 for n in (out[0] if several(out) else out).shape)


def several(out: Any) -> bool:
    return isinstance(out, (tuple, list))


def dims_of(dim: Any, t: Labelled) -> list[int]:
    """An argument that names one dim, several or (None or []) all of a tensor's."""
    if dim is None or dim == []:
        return list(range(len(t.shape)))
    return [d % max(len(t.shape), 1) for d in ([dim] if isinstance(dim, int) else dim)]


@dataclass(frozen=True)
class Unfollowed:
    """A further result that is rarely used; whoever uses it freezes what it came from."""

    operands: tuple[Labelled, ...]
    out: Any


@dataclass(frozen=True)
class Later:
    """One of several results, of which the rule speaks only if it is used."""

    result: Callable[[], Labelled]


def with_rest(result: Labelled, a: Arguments, out: Any) -> Any:
    """A result, with what else the operation returns."""
    if not several(out):
        return result
    return [result, *(Unfollowed(tuple(operands(a)), part) for part in out[1:])]


def unknown(s: Speaker, a: Arguments, out: Any) -> Any:
    """An operation that is not understood: what it touches stays."""
    s.freeze(operands(a))
    return rigid(out)


def rigid(out: Any) -> Any:
    """Results along which nothing moves."""
    if several(out):
        return [rigid(part) for part in out]
    return Labelled(shape_of(out)) if hasattr(out, "shape") else out
