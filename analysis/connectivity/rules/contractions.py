"""Rules of contractions: matrix products, linear layers, einsum, attention and convolutions."""

from __future__ import annotations

from string import ascii_letters
from typing import Any

import numpy as np

from ..labels import Labelled, labelled, squeezed, unsqueezed
from .registry import Arguments, present, rule, shape_of, unknown
from .speaker import Speaker


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def _matmul(s: Speaker, a: Arguments, out: Any) -> Labelled:
    y = a.get("other") or a.get("mat2") or a.get("vec") or a["tensor"]
    return _product(s, a["self"], y, shape_of(out))


def _product(s: Speaker, x: Labelled, y: Labelled, of: tuple[int, ...]) -> Labelled:
    """As torch.matmul: a vector is a row on the left and a column on the right."""
    shape, gone = list(of), []
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
    return s.aligned([s.product(x, y, shape_of(out)), a["self"]], shape_of(out))


@rule("linear")
def _linear(s: Speaker, a: Arguments, out: Any) -> Labelled:
    result = _product(s, a["input"], s.transposed(a["weight"], 0, 1), shape_of(out))
    return s.aligned([result, *present(a["bias"])], shape_of(out))


@rule("einsum")
def _einsum(s: Speaker, a: Arguments, out: Any) -> Labelled:
    """A product over all letters, summed over those that the output lacks."""
    terms, right = _letters(a["equation"].replace(" ", ""), [len(t.shape) for t in a["tensors"]])
    if any(len(set(term)) < len(term) for term in terms):
        return unknown(s, a, out)
    letters = [*right, *sorted(set("".join(terms)) - set(right))]
    sizes: dict[str, int] = {}
    for term, t in zip(terms, a["tensors"], strict=True):
        for letter, n in zip(term, t.shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 1))
    operands = []
    for term, t in zip(terms, a["tensors"], strict=True):
        t = s.permuted(t, [term.index(letter) for letter in letters if letter in term])
        for place, letter in enumerate(letters):
            t = t if letter in term else unsqueezed(t, place)
        operands.append(t)
    whole = s.aligned(operands, [sizes[letter] for letter in letters])
    summed = range(len(right), len(letters))
    return squeezed(s.reduced(whole, summed), summed)


def _letters(equation: str, dims: list[int]) -> tuple[list[str], str]:
    """The letters of each operand and of the output: those of dots and of an output that is not given, too."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    spare = [letter for letter in ascii_letters if letter not in equation]
    dotted = [n - len(term.replace("...", "")) if "..." in term else 0 for term, n in zip(terms, dims, strict=True)]
    dots = "".join(spare[: max(dotted)])
    terms = [term.replace("...", dots[len(dots) - n :]) for term, n in zip(terms, dotted, strict=True)]
    once = "".join(sorted(letter for letter in set(left) - {",", "."} if left.count(letter) == 1))
    return terms, right.replace("...", dots) if arrow else dots + once


@rule("scaled_dot_product_attention")
def _attention(s: Speaker, a: Arguments, out: Any) -> Labelled:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if a["dropout_p"]:
        return unknown(s, a, out)
    if a["enable_gqa"]:
        each = np.repeat(np.arange(k.shape[-3]), q.shape[-3] // k.shape[-3])
        k, v = s.taken(k, -3, each), s.taken(v, -3, each)
    scores = s.product(q, s.transposed(k, -1, -2), (*shape_of(out)[:-1], k.shape[-2]))
    scores = s.aligned([scores, *present(mask)], scores.shape)
    if a["is_causal"]:
        s.pin_along(scores, (-1, -2))
    s.reduced(scores, [-1])
    return s.product(scores, v, shape_of(out))


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def _convolution(s: Speaker, a: Arguments, out: Any) -> Labelled:
    x, w, groups = a["input"], a["weight"], a["groups"]
    is_transposed = a.get("transposed", "output_padding" in a)
    window = len(w.shape) - 2
    unbatched = len(x.shape) == window + 1
    x = unsqueezed(x, 0) if unbatched else x
    places = range(2, window + 2)
    x, w = (squeezed(s.reduced(t, places, ordered=True), places) for t in (x, w))
    shape = x.shape[0], shape_of(out)[0 if unbatched else 1]
    if groups == 1:
        result = s.product(x, w if is_transposed else s.transposed(w, 0, 1), shape)
    elif is_transposed or any(t is not None and len(t[0]) > 1 for t in (x.at(1), w.at(0), w.at(1))):
        s.freeze([x, w])
        result = Labelled(shape)
    else:
        result = _grouped(s, x, w, groups)
    result = s.aligned([result, *present(a["bias"])], result.shape)
    result = squeezed(result, [0]) if unbatched else result
    return Labelled(shape_of(out), result.groups)


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
