"""What each ATen operation says of the atoms of its operands.

A rule gets the operation's arguments by name, with `Labelled` for tensors, and gives the labels of the result. The rule
for every operation is the same claim: if the operands move as their labels say, the result does, as its own labels say.
An operation without a rule freezes what it touches: every atom of its operands gets a colour of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .atoms import Relations
from .labels import (
    Group,
    Labelled,
    labelled,
    permuted,
    reshaped,
    shifted,
    squeezed,
    taken,
    transposed,
    unsqueezed,
)

Arguments = dict[str, Any]
Rule = Callable[["Speaker", Arguments, Any], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Speaker:
    """One operation of a trace, saying what it knows. `reason` is what reports call it."""

    def __init__(self, relations: Relations, name: str, reason: str):
        self.relations, self.name, self.reason = relations, name, reason

    def pin(self, group: Group | None, dims: Iterable[int] | None = None) -> None:
        """The places along some dims of a group (default: all) are told apart."""
        if group is not None:
            wanted = group[0] if dims is None else [d for d in group[0] if d in set(dims)]
            self.colour(group, [(d, np.arange(group[1].shape[group[0].index(d)])) for d in wanted])

    def colour(self, group: Group, colours: Iterable[tuple[int, np.ndarray]]) -> None:
        """The places along dims are told apart by colours (dim, [size]), which count together."""
        code = np.zeros((1,) * group[1].ndim, dtype=np.int64)
        for dim, values in colours:
            shape = [1] * group[1].ndim
            shape[group[0].index(dim)] = -1
            code = np.unique(code * (values.max() + 1) + values.reshape(shape), return_inverse=True)[1]
        if code.any():
            self.relations.mark(group[1], code, self.reason)

    def freeze(self, tensors: Iterable[Labelled]) -> None:
        for t in tensors:
            for group in t.groups:
                self.pin(group)

    def marginal(self, group: Group, keep: Iterable[int]) -> Group | None:
        """The blocks along the kept dims of a group, each of all atoms over the others."""
        dims, atoms = group
        axes = [axis for axis, dim in enumerate(dims) if dim in set(keep)]
        if len(axes) == len(dims):
            return group
        if not axes:
            return None
        front = np.moveaxis(atoms, axes, range(len(axes)))
        shape = front.shape[: len(axes)]
        blocks = self.relations.blocks(front.reshape(int(np.prod(shape)), -1)).reshape(shape)
        return tuple(dims[axis] for axis in axes), blocks

    def reduced(self, t: Labelled, dims: Iterable[int]) -> Labelled:
        """What is left after summing over dims, which keep length 1."""
        gone = {d % max(len(t.shape), 1) for d in dims}
        left = [self.marginal(group, set(group[0]) - gone) for group in t.groups]
        shape = [1 if d in gone else n for d, n in enumerate(t.shape)]
        return labelled(shape, [group for group in left if group is not None])

    def aligned(self, operands: Sequence[Labelled], shape: Sequence[int]) -> Labelled:
        """An elementwise operation with broadcasting."""
        ts = [shifted(t, len(shape)) for t in operands]
        groups = [group for t in ts for group in t.groups]
        told = [
            (dim, _values_along(t, dim))
            for t in ts
            for dim, size in enumerate(t.shape)
            if size > 1 and t.at(dim) is None and any(dim in dims for dims, _ in groups)
        ]
        for group in groups:
            self.colour(group, [(dim, colours) for dim, colours in told if dim in group[0]])
        rigid = {dim for dim, colours in told if len(set(colours.tolist())) == shape[dim]}
        result = []
        for family in _overlapping(groups):
            dims = set().union(*(g for g, _ in family))
            whole = next((group for group in family if set(group[0]) == dims), None)
            if whole is None:
                for group in family:
                    self.pin(group)
                continue
            for group in family:
                part = self.marginal(whole, group[0])
                if group is not whole and part is not None:
                    self.relations.align(part[1], group[1])
            if dims - rigid:
                result.append(whole)
        return labelled(shape, result)

    def product(self, x: Labelled, y: Labelled, shape: Sequence[int]) -> Labelled:
        """x [*batch, i, k] @ y [*batch, k, j] with broadcast batch dims."""
        gx, gy = x.at(-1), y.at(-2)
        k, m = len(x.shape) - 1, len(y.shape) - 2
        if gx is not None and gy is not None:
            batch = {d - len(x.shape) for d in gx[0] if d < k - 1} & {d - len(y.shape) for d in gy[0] if d < m}
            left = self.marginal(gx, {k, *(d + len(x.shape) for d in batch)})
            right = self.marginal(gy, {m, *(d + len(y.shape) for d in batch)})
            if left is not None and right is not None:
                self.relations.align(left[1], right[1])
        else:
            self.pin(gx, {k})
            self.pin(gy, {m})
        return self.aligned([self.reduced(x, [k]), self.reduced(y, [m])], shape)

    def reshape(self, t: Labelled, shape: Sequence[int]) -> Labelled:
        result, dropped = reshaped(t, shape)
        for group in dropped:
            self.pin(group)
        return result


def _values_along(t: Labelled, dim: int) -> np.ndarray:
    """Colours [size] along a rigid dim: equal where a known tensor's slices are equal."""
    if t.value is None:
        return np.arange(t.shape[dim])
    slices = t.value.detach().cpu().reshape(t.shape).movedim(dim, 0).reshape(t.shape[dim], -1)
    if bool((slices == slices[:1]).all()):
        return np.zeros(t.shape[dim], dtype=np.int64)
    slices = slices.double() if slices.is_floating_point() else slices
    return np.unique(slices.numpy(), axis=0, return_inverse=True)[1].ravel()


def _overlapping(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups in families that share dims."""
    families: list[list[Group]] = []
    for group in groups:
        mine: list[list[Group]] = []
        others: list[list[Group]] = []
        for family in families:
            (mine if any(set(g[0]) & set(group[0]) for g in family) else others).append(family)
        families = [*others, [*(g for family in mine for g in family), group]]
    return families


def _shape(out: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in out.shape)


def _dims(dim: Any, t: Labelled) -> list[int]:
    every = list(range(len(t.shape)))
    if dim is None or dim == []:
        return every
    return [d % max(len(t.shape), 1) for d in ([dim] if isinstance(dim, int) else dim)]


def _present(*tensors: Any) -> list[Labelled]:
    return [t for t in tensors if isinstance(t, Labelled)]


def _per_channel(s: Speaker, x: Labelled, parameters: Sequence[Any], dim: int = 1) -> Labelled:
    """x with vectors of the channels applied along a dim."""
    after = len(x.shape) - dim - 1
    columns = []
    for p in _present(*parameters):
        for _ in range(after):
            p = unsqueezed(p, len(p.shape))
        columns.append(p)
    return s.aligned([x, *columns], x.shape)


def elementwise(s: Speaker, a: Arguments, out: Any) -> Any:
    return s.aligned(list(_tensors(a)), _shape(out))


@dataclass(frozen=True)
class Unfollowed:
    """A further result that is rarely used; whoever uses it freezes what it came from."""

    operands: tuple[Labelled, ...]
    out: Any


@rule("copy")
def _copy(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.aligned([a["src"]], _shape(out))


@rule("clone", "contiguous", "alias", "detach", "to", "_to_copy", "lift_fresh_copy", "lift_fresh", "type_as", "dropout")
@rule("feature_dropout", "alpha_dropout", "native_dropout", "_assert_tensor_metadata")
def _same(s: Speaker, a: Arguments, out: Any) -> Any:
    t = a.get("self") or a.get("input")
    if isinstance(out, (tuple, list)):
        return [t for _ in out]
    return t if out is not None else None


@rule("linear")
def _linear(s: Speaker, a: Arguments, out: Any) -> Labelled:
    x, shape = a["input"], _shape(out)
    flat = len(x.shape) == 1
    result = s.product(unsqueezed(x, 0) if flat else x, transposed(a["weight"], 0, 1), (1, *shape) if flat else shape)
    result = squeezed(result, [0]) if flat else result
    return s.aligned([result, *_present(a["bias"])], shape)


@rule("einsum")
def _einsum(s: Speaker, a: Arguments, out: Any) -> Labelled:
    """A product over all letters, summed over those that the output lacks."""
    equation = a["equation"].replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if "->" not in equation or "." in equation or any(len(set(term)) < len(term) for term in terms):
        return unknown(s, a, out)
    letters = [*right, *sorted(set(left) - set(right) - {","})]
    sizes = {
        letter: n for term, t in zip(terms, a["tensors"], strict=True) for letter, n in zip(term, t.shape, strict=True)
    }
    operands = []
    for term, t in zip(terms, a["tensors"], strict=True):
        t = permuted(t, [term.index(letter) for letter in letters if letter in term])
        for place, letter in enumerate(letters):
            t = t if letter in term else unsqueezed(t, place)
        operands.append(t)
    whole = s.aligned(operands, [sizes[letter] for letter in letters])
    summed = range(len(right), len(letters))
    return squeezed(s.reduced(whole, summed), summed)


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def _matmul(s: Speaker, a: Arguments, out: Any) -> Labelled:
    x, y = a["self"], a.get("other") or a.get("mat2") or a.get("vec") or a["tensor"]
    shape, gone = list(_shape(out)), []
    if len(y.shape) == 1:
        y = unsqueezed(y, 1)
        shape.append(1)
        gone.append(-1)
    if len(x.shape) == 1:
        x = unsqueezed(x, 0)
        shape.insert(len(shape) - 1, 1)
        gone.append(-2)
    return squeezed(s.product(x, y, shape), gone)


@rule("addmm", "baddbmm")
def _addmm(s: Speaker, a: Arguments, out: Any) -> Labelled:
    x, y = a.get("mat1") or a["batch1"], a.get("mat2") or a["batch2"]
    return s.aligned([s.product(x, y, _shape(out)), a["self"]], _shape(out))


@rule("scaled_dot_product_attention")
def _attention(s: Speaker, a: Arguments, out: Any) -> Labelled:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if a["enable_gqa"]:
        each = np.repeat(np.arange(k.shape[-3]), q.shape[-3] // k.shape[-3])
        k, v = taken(k, -3, each), taken(v, -3, each)
    scores = s.product(q, transposed(k, -1, -2), (*_shape(out)[:-1], k.shape[-2]))
    scores = s.aligned([scores, *_present(mask)], scores.shape)
    if a["is_causal"]:
        for dim in (-1, -2):
            s.pin(scores.at(dim), {dim % len(scores.shape)})
    s.reduced(scores, [-1])
    return s.product(scores, v, _shape(out))


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def _convolution(s: Speaker, a: Arguments, out: Any) -> Labelled:
    x, w, groups = a["input"], a["weight"], a["groups"]
    is_transposed = a.get("transposed", "output_padding" in a)
    window = len(w.shape) - 2
    unbatched = len(x.shape) == window + 1
    x = unsqueezed(x, 0) if unbatched else x
    for t in (x, w):
        for dim in range(2, len(t.shape)):
            s.pin(t.at(dim), {dim})
    x, w = s.reduced(x, range(2, len(x.shape))), s.reduced(w, range(2, len(w.shape)))
    x, w = squeezed(x, range(2, window + 2)), squeezed(w, range(2, window + 2))
    shape = _shape(out)[1:] if not unbatched else _shape(out)
    if groups == 1:
        result = s.product(x, w if is_transposed else transposed(w, 0, 1), (x.shape[0], shape[0]))
    elif is_transposed or any(t is not None and len(t[0]) > 1 for t in (x.at(1), w.at(0), w.at(1))):
        s.freeze([x, w])
        result = Labelled((x.shape[0], shape[0]))
    else:
        result = _grouped(s, x, w, groups)
    result = s.aligned([result, *_present(a["bias"])], result.shape)
    result = squeezed(result, [0]) if unbatched else result
    return Labelled(_shape(out), result.groups)


def _grouped(s: Speaker, x: Labelled, w: Labelled, groups: int) -> Labelled:
    """x [n, in] and w [out, in / groups]: a group's inputs meet its outputs only, at one place of w for all groups."""
    each, outputs = x.shape[1] // groups, w.at(0)
    s.pin(w.at(1))
    if x.at(1) is None:
        if outputs is not None:
            s.colour(outputs, [(0, np.arange(w.shape[0]) // (w.shape[0] // groups))])
    elif outputs is None:
        s.pin(x.at(1), {1})
    else:
        left, right = x.at(1)[1].reshape(groups, each), outputs[1].reshape(groups, -1)  # type: ignore[index]
        s.pin(((0, 1), left), {1})
        s.relations.align(s.relations.blocks(left), s.relations.blocks(right))
    batch = [group for group in x.groups if group[0] == (0,)]
    labels = [] if outputs is None else [((1,), outputs[1])]
    return labelled((x.shape[0], w.shape[0]), [*batch, *labels])


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
@rule("cudnn_batch_norm", "_batch_norm_no_update", "instance_norm")
def _batch_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    s.reduced(x, [d for d in range(len(x.shape)) if d != 1])
    result = _per_channel(s, x, [a.get("weight"), a.get("bias"), a.get("running_mean"), a.get("running_var")])
    return _first(result, a, out)


def _first(result: Labelled, a: Arguments, out: Any) -> Any:
    """A result, with what else the operation returns."""
    if not isinstance(out, (tuple, list)):
        return result
    return [result, *(Unfollowed(tuple(_tensors(a)), part) for part in out[1:])]


def _tensors(a: Arguments) -> Iterator[Labelled]:
    for value in a.values():
        yield from _present(*(value if isinstance(value, (list, tuple)) else [value]))


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def _layer_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    s.reduced(x, range(len(x.shape) - len(a["normalized_shape"]), len(x.shape)))
    return _first(s.aligned([x, *_present(a.get("weight"), a.get("bias"))], x.shape), a, out)


@rule("group_norm", "native_group_norm")
def _group_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    x = a["input"]
    groups = a["num_groups"] if "num_groups" in a else a["group"]
    split = s.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    s.reduced(split, range(2, len(split.shape)))
    return _first(_per_channel(s, x, [a.get("weight"), a.get("bias")]), a, out)


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def _softmax(s: Speaker, a: Arguments, out: Any) -> Labelled:
    s.reduced(a["self"], [a["dim"]])
    return a["self"]


@rule("cumsum", "cumprod", "logcumsumexp")
def _cumulative(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    group = t.at(a["dim"])
    s.pin(group, {a["dim"] % len(t.shape)})
    return t


@rule("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod", "any", "all")
@rule("argmax", "argmin", "max", "min", "var_mean", "std_mean", "count_nonzero")
def _reduction(s: Speaker, a: Arguments, out: Any) -> Any:
    t = a["self"]
    if "other" in a:
        return elementwise(s, a, out)
    dims = _dims(a.get("dim"), t)
    several = isinstance(out, (tuple, list))
    shape = _shape(out[0] if several else out)
    if s.name.startswith("arg"):
        for dim in dims:  # an index says where
            s.pin(t.at(dim), {dim})
    result = s.reduced(t, dims)
    result = result if len(shape) == len(t.shape) else squeezed(result, dims)
    if not several:
        return result
    return [result, result if "mean" in s.name else Unfollowed((t,), out[1])]


@rule(
    *(f"{kind}_pool{n}d" for kind in ("avg", "max", "adaptive_avg", "adaptive_max", "_adaptive_avg") for n in (1, 2, 3))
)
@rule(*(f"max_pool{n}d_with_indices" for n in (1, 2, 3)), *(f"upsample_{k}" for k in ("nearest1d", "nearest2d")))
@rule("upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d")
@rule(
    "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "reflection_pad1d", "reflection_pad2d", "replication_pad2d"
)
def _spatial(s: Speaker, a: Arguments, out: Any) -> Any:
    t = a.get("self") or a["input"]
    several = isinstance(out, (tuple, list))
    shape = _shape(out[0] if several else out)
    window = int(re.findall(r"(\d)d", s.name)[0])
    first = len(t.shape) - window
    for dim in range(first, len(t.shape)):
        s.pin(t.at(dim), {dim})
    kept = s.reduced(t, range(first, len(t.shape)))
    result = Labelled(shape, kept.groups)
    return [result for _ in out] if several else result


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "view_copy")
def _view(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.reshape(a["self"], _shape(out))


@rule("permute", "permute_copy")
def _permute(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return permuted(a["self"], [d % len(a["self"].shape) for d in a["dims"]])


@rule("transpose", "swapaxes", "swapdims")
def _transpose(s: Speaker, a: Arguments, out: Any) -> Labelled:
    first, second = (a[f"dim{i}"] if f"dim{i}" in a else a[f"axis{i}"] for i in (0, 1))
    return transposed(a["self"], first, second)


@rule("t", "numpy_T", "mT")
def _t(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return transposed(a["self"], 0, 1) if len(a["self"].shape) == 2 else a["self"]


@rule("movedim")
def _movedim(s: Speaker, a: Arguments, out: Any) -> Labelled:
    n = len(a["self"].shape)
    source, destination = ([d % n for d in ([v] if isinstance(v, int) else v)] for v in (a["source"], a["destination"]))
    rest = iter(d for d in range(n) if d not in source)
    back = dict(zip(destination, source, strict=True))
    return permuted(a["self"], [back[d] if d in back else next(rest) for d in range(n)])


@rule("unsqueeze")
def _unsqueeze(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return unsqueezed(a["self"], a["dim"])


@rule("squeeze")
def _squeeze(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    return squeezed(t, [d for d in _dims(a.get("dim"), t) if t.shape[d] == 1])


@rule("select")
def _select(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    index = np.array([a["index"] % t.shape[a["dim"]]])
    return squeezed(taken(t, a["dim"], index), [a["dim"]])


@rule("slice", "narrow")
def _slice(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    if "length" in a:
        return taken(t, a["dim"], np.arange(t.shape[a["dim"]])[a["start"] :][: a["length"]])
    return taken(t, a["dim"], np.arange(t.shape[a["dim"]])[a["start"] : a["end"] : a["step"]])


@rule("index_select")
def _index_select(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return _looked_up(s, a["self"], a["dim"], a["index"])


def _looked_up(s: Speaker, t: Labelled, dim: int, index: Labelled) -> Labelled:
    """Entries [n] along a dim, at places that are known, or else read from the data."""
    if index.value is not None:
        return taken(t, dim, index.value.cpu().numpy().reshape(-1) % t.shape[dim])
    s.pin(t.at(dim), {dim % len(t.shape)})
    group = t.at(dim)
    result = s.reduced(t, [dim]) if group is not None else t
    shape = (*t.shape[: dim % len(t.shape)], *index.shape, *t.shape[dim % len(t.shape) + 1 :])
    return labelled(shape, result.groups)


@rule("index")
def _index(s: Speaker, a: Arguments, out: Any) -> Labelled:
    """Indexing by one tensor of integers; by masks or by several, nothing is followed."""
    t, indices = a["self"], a["indices"]
    given = [i for i, index in enumerate(indices) if index is not None]
    index = indices[given[0]]
    if len(given) != 1 or index.groups or (index.value is not None and index.value.dtype == torch.bool):
        return unknown(s, a, out)
    flat = Labelled((int(np.prod(index.shape)),), (), index.value)
    return s.reshape(_looked_up(s, t, given[0], flat), _shape(out))


@rule("embedding")
def _embedding(s: Speaker, a: Arguments, out: Any) -> Labelled:
    weight, indices = a["weight"], a["indices"]
    if indices.groups:
        return unknown(s, a, out)
    flat = Labelled((int(np.prod(indices.shape)),), (), indices.value)
    return s.reshape(_looked_up(s, weight, 0, flat), _shape(out))


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsafe_split", "unsafe_chunk")
def _split(s: Speaker, a: Arguments, out: Any) -> list[Labelled]:
    t = a["self"]
    dim = a["dim"] % len(t.shape)
    whole = all(len(part.shape) == len(t.shape) for part in out)
    parts, start = [], 0
    for part in out:
        size = part.shape[dim] if whole else 1
        piece = taken(t, dim, np.arange(start, start + size))
        parts.append(piece if whole else squeezed(piece, [dim]))
        start += size
    return parts


@rule("flip")
def _flip(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    for dim in _dims(a["dims"], t):
        t = taken(t, dim, np.arange(t.shape[dim])[::-1])
    return t


@rule("roll")
def _roll(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    if not a["dims"]:
        return unknown(s, a, out)
    shifts, dims = ([v] if isinstance(v, int) else v for v in (a["shifts"], a["dims"]))
    for shift, dim in zip(shifts, dims, strict=True):
        t = taken(t, dim, np.roll(np.arange(t.shape[dim]), shift))
    return t


@rule("repeat_interleave")
def _repeat_interleave(s: Speaker, a: Arguments, out: Any) -> Labelled:
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        return unknown(s, a, out)
    return taken(a["self"], a["dim"], np.repeat(np.arange(a["self"].shape[a["dim"]]), a["repeats"]))


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return Labelled(_shape(out), shifted(a["self"], len(_shape(out))).groups)


@rule("repeat", "tile")
def _repeat(s: Speaker, a: Arguments, out: Any) -> Labelled:
    shape = _shape(out)
    t = shifted(a["self"], len(shape))
    for dim, (before, after) in enumerate(zip(t.shape, shape, strict=True)):
        if t.at(dim) is not None:
            t = taken(t, dim, np.tile(np.arange(before), after // before))
    return labelled(shape, t.groups)


@rule("cat", "concat", "concatenate")
def _cat(s: Speaker, a: Arguments, out: Any) -> Labelled:
    shape = _shape(out)
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
    dim = a["dim"] % len(_shape(out))
    return _cat(s, {"tensors": [unsqueezed(t, dim) for t in a["tensors"]], "dim": dim}, out)


@rule("pad", "constant_pad_nd")
def _pad(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t, widths = a["self"], a["pad"]
    if a.get("mode", "constant") != "constant":
        return unknown(s, a, out)
    for i, (low, high) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        dim = len(t.shape) - 1 - i
        if not low and not high:
            continue
        group, size = t.at(dim), t.shape[dim] + low + high
        groups = [g for g in t.groups if dim not in g[0]]
        if group is not None and len(group[0]) == 1 and low >= 0 and high >= 0:
            zeros = s.relations.new(low + high)
            s.relations.mark(zeros, np.zeros(1), s.reason)
            groups.append(((dim,), np.concatenate([zeros[:low], group[1], zeros[low:]])))
        else:
            s.pin(group)
        t = labelled([size if d == dim else n for d, n in enumerate(t.shape)], groups)
    return t


@rule("glu")
def _glu(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t, half = a["self"], a["self"].shape[a["dim"]] // 2
    parts = [taken(t, a["dim"], np.arange(half) + start) for start in (0, half)]
    return s.aligned(parts, _shape(out))


@rule("prelu", "_prelu_kernel")
def _prelu(s: Speaker, a: Arguments, out: Any) -> Labelled:
    weight = a["weight"]
    if len(weight.shape) > 1:
        return s.aligned([a["self"], weight], _shape(out))
    return _per_channel(s, a["self"], [weight], 1 if len(a["self"].shape) > 1 else 0)


@rule("pixel_shuffle")
def _pixel_shuffle(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t, r = a["self"], a["upscale_factor"]
    if len(t.shape) != 4:
        return unknown(s, a, out)
    n, c, h, w = t.shape
    split = s.reshape(t, (n, c // r**2, r, r, h, w))
    return s.reshape(permuted(split, (0, 1, 4, 2, 5, 3)), _shape(out))


@rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(s: Speaker, a: Arguments, out: Any) -> Any:
    s.reduced(a["v"], [d for d in range(len(a["v"].shape)) if d != a["dim"]])
    return _first(s.aligned([a["v"], a["g"]], a["v"].shape), a, out)


@rule("view_as_complex")
def _view_as_complex(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    group, last = t.at(-1), len(t.shape) - 1
    if group is not None:
        s.pin(group, {last})
        s.relations.align(*(group[1].take([i], group[0].index(last)) for i in (0, 1)))
    return squeezed(taken(t, -1, np.array([0])), [-1])


@rule("view_as_real")
def _view_as_real(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return Labelled(_shape(out), a["self"].groups)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(s: Speaker, a: Arguments, out: Any) -> Any:
    """Layers of recurrent cells: the gates of a unit move together, and with its state."""
    if "input" not in a:  # packed sequences
        return unknown(s, a, out)
    x, parameters = a["input"], a["params"]
    each, both = 4 if a["has_biases"] else 2, 2 if a["bidirectional"] else 1
    states = a["hx"] if isinstance(a["hx"], (list, tuple)) else [a["hx"]]
    plain = all(len(dims) == 1 for dims, _ in x.groups) and not any(t.groups for t in states)
    if not plain or len(parameters) != a["num_layers"] * both * each or any(len(p.groups) < 1 for p in parameters):
        return unknown(s, a, out)
    last, units = len(x.shape) - 1, []
    for layer in range(a["num_layers"]):
        cells = [parameters[each * (both * layer + i) :][:each] for i in range(both)]
        for w_in, w_state, *biases in cells:
            unit = w_state.at(1)[1]
            for p in (w_in, w_state, *biases):
                s.relations.align(p.at(0)[1].reshape(-1, len(unit)), unit)
            for state in states:
                s.relations.mark(unit, _values_along(state, len(state.shape) - 1), s.reason)
            inputs = Labelled((1, x.shape[-1]), tuple(((1,), atoms) for dims, atoms in x.groups if dims == (last,)))
            s.product(inputs, transposed(w_in, 0, 1), (1, w_in.shape[0]))
            units.append(unit)
        rest = [group for group in x.groups if group[0] != (last,)]
        x = labelled((*x.shape[:-1], len(unit) * both), [*rest, ((last,), np.concatenate(units[-both:]))])
    final = [labelled(_shape(state), [((0, len(state.shape) - 1), np.stack(units))]) for state in out[1:]]
    return [x, *final]


def unknown(s: Speaker, a: Arguments, out: Any) -> Any:
    """An operation that is not understood: what it touches stays."""
    s.freeze(_tensors(a))
    return rigid(out)


def rigid(out: Any) -> Any:
    """Results along which nothing moves."""
    if isinstance(out, (tuple, list)):
        return [rigid(part) for part in out]
    return Labelled(_shape(out)) if hasattr(out, "shape") else out
