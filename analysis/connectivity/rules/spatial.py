"""Rules of operations on the places of images and sequences: pooling, resizing, padding, pixel shuffle."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..labels import Labelled, labelled
from .registry import Arguments, rule, several, shape_of, unknown
from .speaker import Speaker


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
    window = int(re.findall(r"(\d)d", s.name)[0])
    kept = s.reduced(t, range(-window, 0), ordered=True)
    result = Labelled(shape_of(out), kept.groups)
    return [result for _ in out] if several(out) else result


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


@rule("pixel_shuffle")
def _pixel_shuffle(s: Speaker, a: Arguments, out: Any) -> Labelled:
    t, r = a["self"], a["upscale_factor"]
    if len(t.shape) != 4:
        return unknown(s, a, out)
    n, c, h, w = t.shape
    split = s.reshape(t, (n, c // r**2, r, r, h, w))
    return s.reshape(s.permuted(split, (0, 1, 4, 2, 5, 3)), shape_of(out))
