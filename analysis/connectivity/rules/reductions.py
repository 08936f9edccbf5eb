"""Rules of reductions along dims: sums, means, extrema, softmax, and sums that run along a dim."""

from __future__ import annotations

from typing import Any

from ..labels import Labelled, squeezed
from .pointwise import elementwise
from .registry import Arguments, Unfollowed, dims_of, rule, several, shape_of
from .speaker import Speaker


@rule("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp", "prod", "any", "all")
@rule("argmax", "argmin", "max", "min", "var_mean", "std_mean", "count_nonzero")
def _reduction(s: Speaker, a: Arguments, out: Any) -> Any:
    t = a["self"]
    if "other" in a:
        return elementwise(s, a, out)
    dims = dims_of(a.get("dim"), t)
    result = s.reduced(t, dims, ordered=s.name.startswith("arg"))  # an index says where
    result = result if len(shape_of(out)) == len(t.shape) else squeezed(result, dims)
    if not several(out):
        return result
    return [result, result if "mean" in s.name else Unfollowed((t,), out[1])]


@rule("softmax", "_softmax", "log_softmax", "_log_softmax", "_safe_softmax")
def _softmax(s: Speaker, a: Arguments, out: Any) -> Labelled:
    s.reduced(a["self"], [a["dim"]])
    return a["self"]


@rule("cumsum", "cumprod", "logcumsumexp")
def _cumulative(s: Speaker, a: Arguments, out: Any) -> Labelled:
    s.pin_along(a["self"], [a["dim"]])
    return a["self"]
