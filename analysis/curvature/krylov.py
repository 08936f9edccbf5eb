"""Krylov bases: Lanczos with full re-orthogonalisation and thick restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import LandscapeError

FRESH = 2**32 - 1  # a seed that no start vector has, or a fresh direction would be that start again


class Krylov:
    """An orthonormal basis [vectors, n] of a Krylov space, and the matrix projected on it.

    The basis is kept orthogonal to `locked` [l, n], so that what is found lies in the complement of those. Every new
    vector is orthogonalised against all of them twice (Parlett, The Symmetric Eigenvalue Problem, section 6.9);
    restarts keep Ritz vectors (Wu and Simon 2000, thick-restart Lanczos).

    size: vectors held at most. tolerance: the relative error of a product.
    """

    def __init__(self, start: Tensor, size: int, tolerance: float, locked: Tensor | None = None):
        n = len(start)
        self.locked = start.new_zeros(0, n) if locked is None else locked
        self.size = min(size, n - len(self.locked))
        self.basis = torch.empty(self.size + 1, n, dtype=start.dtype, device=start.device)
        self.projected = np.zeros((self.size, self.size))
        self.filled = 0
        self.restarted = False
        self.coupling = 0.0  # the norm of what the last product adds to the space
        self._expected = np.zeros(0)  # what the next product must have along the earlier vectors
        self._tolerance = tolerance
        self._generator = torch.Generator().manual_seed(FRESH)
        self._put(0, start)

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
        j = self.filled
        product = product.to(self.basis)
        size = float(product.norm())
        known = self.basis[: j + 1]
        rest = product - self.locked.T @ (self.locked @ product)
        along = known @ rest
        rest = rest - known.T @ along
        rest -= self.locked.T @ (self.locked @ rest)
        again = known @ rest
        rest -= known.T @ again
        row = (along + again).double().cpu().numpy()
        self._check(row, size)
        self.projected[: j + 1, j] = self.projected[j, : j + 1] = row
        self.coupling = float(rest.norm())
        scale = max(np.abs(self.projected).max(), size)
        if self.coupling <= 64 * torch.finfo(self.basis.dtype).eps * scale:
            self.coupling = 0.0  # an invariant space: go on in a fresh direction
        self.filled += 1
        self._expected = np.zeros(self.filled)
        self._expected[-1] = self.coupling
        if self.exhausted:
            self.coupling = 0.0
        elif self.coupling:
            self.basis[self.filled] = rest / self.coupling
        else:
            self._put(self.filled, self._random())

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values [filled], ascending, their residual norms, and their coordinates [filled, filled] in columns."""
        values, coordinates = np.linalg.eigh(self.projected[: self.filled, : self.filled])
        return values, self.coupling * np.abs(coordinates[-1:]).sum(0), coordinates

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
        chosen = coordinates[:, list(keep)]
        vectors = self.vectors(chosen)
        last = self.basis[self.filled].clone()
        self.basis[: len(keep)] = vectors
        self.basis[len(keep)] = last
        self.projected[:] = 0
        self.projected[range(len(keep)), range(len(keep))] = values[list(keep)]
        self.filled, self.restarted = len(keep), True
        self._expected = self.coupling * chosen[-1]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Where it stands: its vectors, and its numbers, JSON-ready."""
        numbers = {
            "projected": self.projected[: self.filled, : self.filled].tolist(),
            "coupling": self.coupling,
            "restarted": self.restarted,
            "expected": self._expected.tolist(),
        }
        return {"basis": self.basis[: self.filled + 1]}, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go back to where a Krylov space of the same size stood."""
        self.filled = len(tensors["basis"]) - 1
        self.basis[: self.filled + 1] = tensors["basis"]
        self.projected[: self.filled, : self.filled] = numbers["projected"]
        self.restarted = numbers["restarted"]
        self.coupling, self._expected = numbers["coupling"], np.array(numbers["expected"])

    def _check(self, row: np.ndarray, size: float) -> None:
        """The matrix is symmetric: what the product has along the earlier vectors is known from theirs."""
        wrong = float(np.abs(row[:-1] - self._expected).max(initial=0.0))
        scale = max(size, float(np.abs(self.projected).max()))
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
        vector = vector / vector.norm()
        for _ in range(3):
            for others in (self.locked, self.basis[:place]):
                vector = vector - others.T @ (others @ vector)
            vector = vector / vector.norm()
        self.basis[place] = vector
