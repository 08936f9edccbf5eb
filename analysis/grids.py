"""Nested grids of samples: what a surface knows, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import maximum_filter

from .evaluate import Rows, store
from .interpolation import LINEAR, Method
from .subspace import Extent


class SampleGrid:
    """Samples on a grid of nodes: metrics [*nodes, ...].

    `known` marks evaluated nodes; the others hold predictions if the grid is `filled`, NaN otherwise.
    """

    def __init__(self, extent: Extent, shape: Sequence[int], filled: bool = False):
        # symmetric in the ends, so that an extent symmetric about 0 has a node at exactly 0
        self.nodes = tuple(
            (low * np.arange(n - 1, -1, -1) + high * np.arange(n)) / (n - 1)
            for (low, high), n in zip(extent, shape, strict=True)
        )
        self.shape = tuple(shape)
        self.size = int(np.prod(shape))
        self.known = np.zeros(self.shape, dtype=bool)
        self.filled = filled
        self._flat: Rows = {}

    def coordinates(self, where: np.ndarray) -> np.ndarray:
        """Coordinates [points, axes] of the nodes of a mask, in C order."""
        return np.stack([axis[where] for axis in np.meshgrid(*self.nodes, indexing="ij")], -1)

    def nearest(self, points: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Index grid of the node nearest to each point of a grid of coordinates, one array an axis."""
        return np.ix_(*(np.abs(have[:, None] - want).argmin(0) for have, want in zip(self.nodes, points, strict=True)))

    def store(self, where: np.ndarray, rows: Rows) -> None:
        """Write rows at flat node numbers [points]."""
        store(self._flat, self.size, where, rows)
        self.known.reshape(-1)[where] = True

    @property
    def rows(self) -> Rows:
        """Each metric's means and standard errors, [*nodes, ...]."""
        shaped = lambda values: values.reshape(*self.shape, *values.shape[1:])  # noqa: E731
        return {name: (shaped(means), shaped(errors)) for name, (means, errors) in self._flat.items()}

    def halved(self, extent: Extent, methods: Mapping[str, Method]) -> SampleGrid:
        """The next nested grid: what was evaluated here, and predictions everywhere else."""
        finer = SampleGrid(extent, [2 * n - 1 for n in self.shape], filled=True)
        for name, (means, errors) in self.rows.items():
            means, errors = methods[name](self.nodes, means, finer.nodes), LINEAR(self.nodes, errors, finer.nodes)
            flat = (finer.size, *means.shape[len(self.shape) :])
            finer._flat[name] = means.reshape(flat), errors.reshape(flat)
        evaluated = np.flatnonzero(self.known)
        numbers = np.arange(finer.size).reshape(finer.shape)[_even(finer.shape)].reshape(-1)[evaluated]
        finer.store(numbers, {n: (m[evaluated], e[evaluated]) for n, (m, e) in self._flat.items()})
        return finer


def _even(shape: Sequence[int]) -> tuple[slice, ...]:
    """Where the nodes of a grid lie in the next nested one, of the given shape."""
    return tuple(slice(0, n, 2) for n in shape)


def spread(coarse: np.ndarray) -> np.ndarray:
    """Values of a grid's nodes on the next nested grid: each node takes the largest of those next to it."""
    finer = np.zeros([2 * n - 1 for n in coarse.shape])
    finer[_even(finer.shape)] = coarse
    return maximum_filter(finer, size=3)


def peaks(values: np.ndarray, count: int) -> np.ndarray:
    """Mask of the largest values, no two of them side by side: `count` at most, positive ones only."""
    left, chosen = values.copy(), np.zeros(values.shape, dtype=bool)
    for _ in range(count):
        at = np.unravel_index(left.argmax(), left.shape)
        if left[at] <= 0:
            break
        chosen[at] = True
        left[tuple(slice(max(0, i - 1), i + 2) for i in at)] = 0
    return chosen


def like(mask: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mask with trailing dims of length 1, to select among values [*mask.shape, ...]."""
    return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))
