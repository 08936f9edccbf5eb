"""Rules of operations that keep entries and change their places or the shape: views, transposes, joins, complex."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..labels import Group, Labelled, labelled, shifted, squeezed, unsqueezed
from .registry import Arguments, dims_of, rule, shape_of, unknown
from .speaker import Speaker


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "view_copy")
def _view(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.reshape(a["self"], shape_of(out))


@rule("permute", "permute_copy")
def _permute(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.permuted(a["self"], [d % len(a["self"].shape) for d in a["dims"]])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(s: Speaker, a: Arguments, out: Any) -> Labelled:
    first, second = (a[f"dim{i}"] if f"dim{i}" in a else a[f"axis{i}"] for i in (0, 1))
    return s.transposed(a["self"], first, second)


@rule("t", "numpy_T")
def _reversed(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.permuted(a["self"], range(len(a["self"].shape))[::-1])


@rule("mT")
def _matrix_transposed(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.transposed(a["self"], -1, -2)


@rule("movedim")
def _movedim(s: Speaker, a: Arguments, out: Any) -> Labelled:
    n = len(a["self"].shape)
    source, destination = ([d % n for d in ([v] if isinstance(v, int) else v)] for v in (a["source"], a["destination"]))
    rest = iter(d for d in range(n) if d not in source)
    back = dict(zip(destination, source, strict=True))
    return s.permuted(a["self"], [back[d] if d in back else next(rest) for d in range(n)])


@rule("unsqueeze")
def _unsqueeze(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return unsqueezed(a["self"], a["dim"])


@rule("squeeze")
def _squeeze(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    return squeezed(t, [d for d in dims_of(a.get("dim"), t) if t.shape[d] == 1])


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return Labelled(shape_of(out), shifted(a["self"], len(shape_of(out))).groups)


@rule("repeat", "tile")
def _repeat(s: Speaker, a: Arguments, out: Any) -> Labelled:
    shape = shape_of(out)
    t = shifted(a["self"], len(shape))
    for dim, (before, after) in enumerate(zip(t.shape, shape, strict=True)):
        if t.at(dim) is not None:
            t = s.taken(t, dim, np.tile(np.arange(before), after // before))
    return labelled(shape, t.groups)


@rule("cat", "concat", "concatenate")
def _cat(s: Speaker, a: Arguments, out: Any) -> Labelled:
    shape = shape_of(out)
    tensors = [t for t in a["tensors"] if len(t.shape) == len(shape)]
    dim = a["dim"] % len(shape)
    found = {group[0] if (group := t.at(dim)) is not None else (dim,) for t in tensors}
    if len(found) > 1:
        return unknown(s, a, out)
    dims = found.pop()
    own: list[Group] = []
    if any(t.at(dim) is not None for t in tensors):
        own = [(dims, np.concatenate([_atoms(s, t, dim) for t in tensors], dims.index(dim)))]
    others = [
        Labelled(
            tuple(1 if d in dims else n for d, n in enumerate(t.shape)), tuple(g for g in t.groups if dim not in g[0])
        )
        for t in tensors
    ]
    rest = s.aligned(others, [1 if d in dims else n for d, n in enumerate(shape)])
    return labelled(shape, [*own, *rest.groups])


def _atoms(s: Speaker, t: Labelled, dim: int) -> np.ndarray:
    """The atoms along a dim; where it is rigid, fresh ones that are told apart."""
    group = t.at(dim)
    if group is not None:
        return group[1]
    fresh = s.relations.new(t.shape[dim])
    s.relations.mark(fresh, np.arange(t.shape[dim]), s.reason)
    return fresh


@rule("stack")
def _stack(s: Speaker, a: Arguments, out: Any) -> Labelled:
    dim = a["dim"] % len(shape_of(out))
    return _cat(s, {"tensors": [unsqueezed(t, dim) for t in a["tensors"]], "dim": dim}, out)


@rule("view_as_complex")
def _view_as_complex(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    group, last = t.at(-1), len(t.shape) - 1
    if group is not None:
        s.pin(group, {last})
        s.relations.align(*(group[1].take([i], group[0].index(last)) for i in (0, 1)))
    return squeezed(s.taken(t, -1, np.array([0])), [-1])


@rule("view_as_real")
def _view_as_real(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return Labelled(shape_of(out), a["self"].groups)
