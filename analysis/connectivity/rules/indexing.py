"""Rules of operations that pick entries along a dim: slices, splits, flips, lookups in tables."""

from __future__ import annotations

from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from ..labels import Labelled, labelled, squeezed
from .registry import Arguments, Later, dims_of, rule, shape_of, unknown
from .speaker import Speaker


@rule("select")
def _select(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    index = np.array([a["index"] % t.shape[a["dim"]]])
    return squeezed(s.taken(t, a["dim"], index), [a["dim"]])


@rule("slice", "narrow")
def _slice(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    if "length" in a:
        return s.taken(t, a["dim"], np.arange(t.shape[a["dim"]])[a["start"] :][: a["length"]])
    return s.taken(t, a["dim"], np.arange(t.shape[a["dim"]])[a["start"] : a["end"] : a["step"]])


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsafe_split", "unsafe_chunk")
def _split(s: Speaker, a: Arguments, out: Any) -> list[Later]:
    """The parts that are used; one that is not tells nothing apart."""
    t = a["self"]
    dim = a["dim"] % len(t.shape)
    whole = all(len(part.shape) == len(t.shape) for part in out)
    sizes = [part.shape[dim] if whole else 1 for part in out]

    def part(start: int, size: int) -> Labelled:
        piece = s.taken(t, dim, np.arange(start, start + size))
        return piece if whole else squeezed(piece, [dim])

    starts = accumulate(sizes, initial=0)
    return [Later(partial(part, start, size)) for start, size in zip(starts, sizes, strict=False)]


@rule("flip")
def _flip(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    for dim in dims_of(a["dims"], t):
        t = s.taken(t, dim, np.arange(t.shape[dim])[::-1])
    return t


@rule("roll")
def _roll(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t = a["self"]
    if not a["dims"]:
        return unknown(s, a, out)
    shifts, dims = ([v] if isinstance(v, int) else v for v in (a["shifts"], a["dims"]))
    for shift, dim in zip(shifts, dims, strict=True):
        t = s.taken(t, dim, np.roll(np.arange(t.shape[dim]), shift))
    return t


@rule("repeat_interleave")
def _repeat_interleave(s: Speaker, a: Arguments, out: Any) -> Labelled:
    if not isinstance(a.get("repeats"), int) or a.get("dim") is None:
        return unknown(s, a, out)
    return s.taken(a["self"], a["dim"], np.repeat(np.arange(a["self"].shape[a["dim"]]), a["repeats"]))


@rule("index_select")
def _index_select(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return _looked_up(s, a, out, a["self"], a["dim"], a["index"])


@rule("index")
def _index(s: Speaker, a: Arguments, out: Any) -> Labelled:
    """Indexing by one tensor of integers; by masks or by several, nothing is followed."""
    t, indices = a["self"], a["indices"]
    given = [i for i, index in enumerate(indices) if index is not None]
    index = indices[given[0]]
    if len(given) != 1 or (index.value is not None and index.value.dtype == torch.bool):
        return unknown(s, a, out)
    return _looked_up(s, a, out, t, given[0], index)


@rule("embedding")
def _embedding(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return _looked_up(s, a, out, a["weight"], 0, a["indices"])


def _looked_up(s: Speaker, a: Arguments, out: Any, t: Labelled, dim: int, index: Labelled) -> Labelled:
    """Entries along a dim of one operand, at places that are known, or else read from the inputs."""
    if index.groups:
        return unknown(s, a, out)
    dim %= len(t.shape)
    if index.value is not None:
        found = s.taken(t, dim, index.value.cpu().numpy().reshape(-1) % t.shape[dim])
    else:
        left = s.reduced(t, [dim], ordered=True)
        found = labelled((*t.shape[:dim], int(np.prod(index.shape)), *t.shape[dim + 1 :]), left.groups)
    return s.reshape(found, shape_of(out))
