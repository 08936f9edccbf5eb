"""Krylov bases: Lanczos with full re-orthogonalisation and thick restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import LandscapeError

FRESH = 2**32 - 1  # a seed that no start vector has, or a fresh direction would be that start again
CLEAN = 0.5  # a pass that takes less than this share of what it leaves leaves it orthogonal to rounding
CLOSE = 0.1  # a unit vector of which less is left lay among the others almost: what is left is cleared again
ROUNDED = 1e-3  # of the norm of the matrix: a product that is smaller is not held to its own size
COLUMNS = 2**15  # of the basis, turned or summed at a time: longer sums in float32 lose digits


class Krylov:
    """An orthonormal basis [vectors, n] of a Krylov space, and the matrix projected on it.

    The basis is kept orthogonal to `locked` [l, n], so that what is found lies in the complement of those. After the
    three-term recurrence every new vector is orthogonalised against all of them, and again where that changed it
    (Parlett, The Symmetric Eigenvalue Problem, section 6.9); restarts keep Ritz vectors (Wu and Simon 2000,
    thick-restart Lanczos). The basis has the dtype of `start`; a vector is made in float64 before it is put there, and
    what it has along the others is small by then, so that float32 is enough to take it away.

    size: vectors held at most, beside the locked ones. tolerance: the relative error of a product.
    norm: of the matrix as far as it is known; products of what is orthogonal to the locked vectors are rounded by it.
    """

    def __init__(self, start: Tensor, size: int, tolerance: float, locked: Tensor | None = None, norm: float = 0.0):
        n, count = len(start), 0 if locked is None else len(locked)
        self._whole = start.new_empty(count + min(size, n - count) + 1, n)  # the locked ones, and the basis behind them
        if locked is not None:
            self._whole[:count] = locked
        self._rest, self._rounded = start.new_empty(n, dtype=torch.float64), torch.empty_like(start)
        self._tolerance, self._norm = tolerance, norm
        self._generator = torch.Generator().manual_seed(FRESH)
        self._begin(count)
        self._put(0, start)

    def _begin(self, count: int) -> None:
        self.locked, self.basis = self._whole[:count], self._whole[count:]
        self.size = len(self.basis) - 1
        self.projected = np.zeros((self.size, self.size))
        self.beside = np.zeros((count, self.size))  # what products have along the locked vectors
        self.filled = 0
        self.restarted = False
        self.coupling = 0.0  # the norm of what the last product adds to the space
        self._expected = np.zeros(0)  # what the next product must have along the earlier vectors
        self._ritz: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def vector(self) -> Tensor:
        """The unit vector [n] whose product is wanted next."""
        return self.basis[self.filled]

    @property
    def full(self) -> bool:
        return self.filled == self.size

    @property
    def has_more(self) -> bool:
        """Whether the start vector has more to show: its products still leave the space."""
        return not self.filled or self.coupling > 0

    @property
    def exhausted(self) -> bool:
        """Whether the space is all there is."""
        return self.filled + len(self.locked) == self.basis.shape[1]

    def add(self, product: Tensor) -> None:
        """Take the product of `vector`. Raises LandscapeError if the matrix turns out not to be symmetric."""
        j, count = self.filled, len(self.locked)
        rest = self._rest.copy_(product)
        row = np.append(self._expected, self._dots(self.basis[j : j + 1], rest))
        first = 0 if np.count_nonzero(self._expected[:-1]) else max(0, j - 1)  # 0 for the kept vectors of a restart
        for i in range(first, j + 1):
            rest.add_(self.basis[i], alpha=-row[i])
        along, left = self._clear(rest, self._whole[: count + j + 1])
        row += along[count:]
        size = float(np.linalg.norm([*row, *along[:count], left]))
        self._check(row, size)
        self.projected[: j + 1, j] = self.projected[j, : j + 1] = row
        self.beside[:, j] = along[:count]
        self.coupling = left
        scale = max(np.abs(self.projected).max(), size)
        if self.coupling <= 64 * torch.finfo(torch.float64).eps * scale:
            self.coupling = 0.0  # an invariant space: go on in a fresh direction
        self.filled, self._ritz = self.filled + 1, None
        self._expected = np.zeros(self.filled)
        self._expected[-1] = self.coupling
        if self.exhausted:
            self.coupling = 0.0
        elif self.coupling:
            torch.div(rest, self.coupling, out=self.basis[self.filled])
        else:
            self._put(self.filled, self._random())

    def _clear(self, rest: Tensor, known: Tensor) -> tuple[np.ndarray, float]:
        """Take from a vector what it has along those known; that, and the norm of what is left."""
        total = np.zeros(len(known))
        for _ in range(3):
            part = self._dots(known, rest)
            rest -= torch.mv(known.T, known.new_tensor(part), out=self._rounded)
            left = float(rest.norm())
            total += part
            if np.linalg.norm(part) <= CLEAN * left:
                break
        return total, left

    def _dots(self, vectors: Tensor, vector: Tensor) -> np.ndarray:
        """The products [k] of vectors [k, n] of the basis with a vector [n]."""
        parts = zip(vectors.split(COLUMNS, 1), self._rounded.copy_(vector).split(COLUMNS), strict=True)
        return torch.stack([rows @ part for rows, part in parts]).double().sum(0).cpu().numpy()

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values [filled], ascending, their residual norms, and their coordinates [filled, filled] in columns."""
        if self._ritz is None:
            values, coordinates = np.linalg.eigh(self.projected[: self.filled, : self.filled])
            self._ritz = values, self.coupling * np.abs(coordinates[-1:]).sum(0), coordinates
        return self._ritz

    def chance_of_missing(self, value: float) -> float:
        """The chance that the matrix has an eigenvalue at `value`, outside of the Ritz values, or beyond it.

        The start has some mass on that eigenvector, and no measure with the moments seen so far has more there than
        Christoffel's function, 1 / sum of squares of the orthonormal polynomials (Szego, Orthogonal Polynomials, 3.4).
        The mass on a vector of a random start, about chi^2 / n, is seldom that small. 1 after a restart, which forgets
        the polynomials.
        """
        values, _, _ = self.ritz()
        if self.restarted or values[0] <= value <= values[-1]:
            return 1.0
        if self.coupling == 0:
            return 0.0
        diagonal = np.diag(self.projected)[: self.filled]
        couplings = np.append(np.diag(self.projected, 1)[: self.filled - 1], self.coupling)
        before, now, total = 0.0, 1.0, 1.0
        for i in range(self.filled):
            step = (value - diagonal[i]) * now - (couplings[i - 1] * before if i else 0.0)
            before, now = now, step / couplings[i]
            total += now * now
        left = self.basis.shape[1] - len(self.locked)
        return min(1.0, float(np.sqrt(2 * left / (np.pi * total))))

    def vectors(self, coordinates: np.ndarray) -> Tensor:
        """Vectors [k, n] from coordinates [filled, k]."""
        return torch.from_numpy(coordinates.T.copy()).to(self.basis) @ self.basis[: self.filled]

    def restart(self, keep: Sequence[int]) -> None:
        """Shrink to some Ritz vectors, by their places in `ritz()`."""
        values, _, coordinates = self.ritz()
        chosen, count = coordinates[:, list(keep)], len(keep)
        last = self.basis[self.filled].clone()
        self._turn(chosen)
        self.basis[count] = last
        self.projected[:] = 0
        self.projected[range(count), range(count)] = values[list(keep)]
        self.beside[:, :count] = self.beside[:, : self.filled] @ chosen
        self.filled, self.restarted, self._ritz = count, True, None
        self._expected = self.coupling * chosen[-1]

    def lock(self, keep: Sequence[int], start: Tensor) -> None:
        """Lock some Ritz vectors, by their places in `ritz()`, and begin in the complement, in the same memory."""
        self._norm = max(self._norm, float(np.abs(self.projected).max()))
        self._turn(self.ritz()[2][:, list(keep)])
        self._begin(len(self.locked) + len(keep))
        self._put(0, start)

    def _turn(self, chosen: np.ndarray) -> None:
        """Put vectors with the coordinates [filled, k] in the place of the first k, without a copy of them all."""
        rows = torch.from_numpy(chosen.T.copy()).to(self.basis)
        for part in self.basis.split(COLUMNS, 1):
            part[: len(rows)] = rows @ part[: self.filled]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Where it stands: its vectors, and its numbers, JSON-ready."""
        numbers = {
            "projected": self.projected[: self.filled, : self.filled].tolist(),
            "coupling": self.coupling,
            "restarted": self.restarted,
            "expected": self._expected.tolist(),
            "locked": len(self.locked),
            "beside": self.beside[:, : self.filled].tolist(),
        }
        return {"basis": self._whole[: len(self.locked) + self.filled + 1]}, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go back to where a Krylov space of the same size stood."""
        count = numbers["locked"]
        self._whole[: len(tensors["basis"])] = tensors["basis"]
        self._begin(count)
        self.filled = len(tensors["basis"]) - count - 1
        self.projected[: self.filled, : self.filled] = numbers["projected"]
        self.beside[:, : self.filled] = np.reshape(numbers["beside"], (count, self.filled))
        self.restarted = numbers["restarted"]
        self.coupling, self._expected = numbers["coupling"], np.array(numbers["expected"])

    def _check(self, row: np.ndarray, size: float) -> None:
        """The matrix is symmetric: what the product has along the earlier vectors is known from theirs."""
        wrong = float(np.abs(row[:-1] - self._expected).max(initial=0.0))
        scale = max(size, float(np.abs(self.projected).max()), ROUNDED * self._norm)
        if not np.isfinite(row).all():
            raise LandscapeError("A product holds NaN or infinity: the loss is not finite near this checkpoint.")
        if wrong > self._tolerance * scale:
            raise LandscapeError(
                f"The matrix is not symmetric, or not the same at each product: off by {wrong / scale:.2g} of its "
                f"norm, where {self._tolerance:.2g} would be rounding. The model keeps something between calls, or "
                "the dtype is too coarse for it. Try dtype=torch.float64."
            )

    def _random(self) -> Tensor:
        fresh = torch.randn(self.basis.shape[1], generator=self._generator, dtype=torch.float64)
        return fresh.to(self.basis)

    def _put(self, place: int, vector: Tensor) -> None:
        """A vector made orthogonal to all before it, at a place of the basis."""
        rest = self._rest.copy_(vector)
        rest /= rest.norm()
        for _ in range(2):
            left = self._clear(rest, self._whole[: len(self.locked) + place])[1]
            rest /= left
            if left > CLOSE:
                break
        self.basis[place] = rest
