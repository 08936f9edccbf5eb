"""How far the singular vectors of two networks' layers point the same way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint, refuse_unread
from ..errors import LandscapeError
from ..provenance import versions


def singular_alignment(
    first: Checkpoint, second: Checkpoint, *, thresholds: Sequence[float] = (0.0, 0.3, 0.8)
) -> xr.Dataset:
    """The agreement of singular vectors, layer by layer: R = sum over i, j of (u_i · u'_j)(v_i · v'_j) / n.

    Over the singular vectors u, v of the first and u', v' of the second whose singular values are at least a threshold
    times the largest; n is the smaller of how many these are, so that R is 1 for equal layers and at most 1 (Ito,
    Yamada and Kumagai 2024, arXiv:2402.04051). Permutations change singular vectors and never singular values: what
    matching brings together are the vectors of the large ones. Weights of more than two dims count as matrices
    [outputs, rest].

    Returns a Dataset with the dims ``layer`` (weights of two dims or more) and ``threshold``: ``alignment`` and
    ``vectors`` (n) [layer, threshold]; ``cosine`` [layer], the inner product of the two weights over their norms;
    ``relative_distance`` [layer], |A - B| / |A|. Raises LandscapeError for thresholds outside [0, 1], checkpoints of
    different shapes, and layers that are zero.
    """
    refuse_unread(first, second)
    levels = np.asarray(thresholds, dtype=np.float64)
    if levels.ndim != 1 or not levels.size or not ((levels >= 0) & (levels <= 1)).all():
        raise LandscapeError(f"thresholds are {thresholds}; expected numbers in [0, 1].")
    apart = second.weights.to(torch.float64) - first.weights.to(torch.float64)
    names = [name for name, tensor in first.weights.items() if tensor.ndim > 1]
    if not names:
        raise LandscapeError("No parameter has two dims: there are no singular vectors to compare.")
    found: tuple[list, ...] = ([], [], [], [])
    for name in names:
        a, b = (c.weights[name].detach().double().flatten(1).cpu() for c in (first, second))
        if not a.any() or not b.any():
            raise LandscapeError(f"'{name}' is zero in one of the checkpoints: it has no singular vectors.")
        shares, counts = _agreement(a, b, levels)
        cosine = float((a * b).sum() / (a.norm() * b.norm()))
        for into, value in zip(found, (shares, counts, cosine, float(apart[name].norm() / a.norm())), strict=True):
            into.append(value)
    alignment, vectors, cosines, distances = (np.array(part) for part in found)
    both = ("layer", "threshold")
    return xr.Dataset(
        {
            "alignment": (both, alignment, {"long_name": "agreement of singular vectors"}),
            "vectors": (both, vectors, {"long_name": "singular vectors that count"}),
            "cosine": ("layer", cosines, {"long_name": "cosine between the weights"}),
            "relative_distance": ("layer", distances, {"long_name": "distance over the norm of the first"}),
        },
        coords={"layer": np.array(names, dtype=object), "threshold": levels},
        attrs={
            "title": f"singular vectors of {first.name} and {second.name}",
            "status": "done",
            "progress": 1.0,
            "provenance": json.dumps(
                {
                    "checkpoints": [{"name": c.name, "sha256": c.digest, **c.info} for c in (first, second)],
                    "thresholds": levels.tolist(),
                    "versions": versions(),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                }
            ),
        },
    )


def _agreement(a: torch.Tensor, b: torch.Tensor, levels: np.ndarray) -> tuple[list[float], list[int]]:
    """R and n at each threshold, of two matrices."""
    (u, s, v), (w, r, x) = (torch.linalg.svd(m, full_matrices=False) for m in (a, b))
    both = (u.T @ w) * (v @ x.T)
    shares, counts = [], []
    for level in levels:
        kept, other = (int((values >= level * values[0]).sum()) for values in (s, r))
        counts.append(min(kept, other))
        shares.append(float(both[:kept, :other].sum()) / counts[-1])
    return shares, counts
