"""Rules of operations on each entry alone. Most need none of their own: what ATen tags as pointwise is elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..labels import Labelled
from .registry import Arguments, operands, rule, several, shape_of, unknown
from .speaker import Speaker


def elementwise(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.aligned(list(operands(a)), shape_of(out))


@rule("copy")
def _copy(s: Speaker, a: Arguments, out: Any) -> Labelled:
    return s.aligned([a["src"]], shape_of(out))


@rule("clone", "contiguous", "alias", "detach", "to", "_to_copy", "lift_fresh_copy", "lift_fresh", "type_as", "dropout")
@rule("feature_dropout", "alpha_dropout", "native_dropout", "_assert_tensor_metadata")
def _same(s: Speaker, a: Arguments, out: Any) -> Any:
    if a.get("train"):
        return unknown(s, a, out)
    t = a.get("self") or a.get("input")
    if several(out):
        return [t for _ in out]
    return t if out is not None else None


@rule("glu")
def _glu(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t, half = a["self"], a["self"].shape[a["dim"]] // 2
    parts = [s.taken(t, a["dim"], np.arange(half) + start) for start in (0, half)]
    return s.aligned(parts, shape_of(out))


@rule("prelu", "_prelu_kernel")
def _prelu(s: Speaker, a: Arguments, out: Any) -> Labelled:
    weight = a["weight"]
    if len(weight.shape) > 1:
        return s.aligned([a["self"], weight], shape_of(out))
    return s.per_channel(a["self"], [weight], 1 if len(a["self"].shape) > 1 else 0)
