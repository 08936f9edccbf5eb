"""Planes along eigenvectors, and the parabolas that the eigenvalues promise on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from analysis import Checkpoint, Plane
from landscape_app.spectrum.request import SpectrumRequest, Vector

LEAST_LOSS = 0.1
FARTHEST, NEAREST = 3.0, 0.02


@dataclass(frozen=True)
class Direction:
    """An eigenvector to go along. part, pair: its place in the result. The vector itself follows from the spectrum."""

    part: int
    pair: int
    label: str
    eigenvalue: float
    bound: float
    vector: Vector = field(compare=False, repr=False)


@dataclass(frozen=True)
class Along:
    """One or two eigenvectors of a spectrum, and its centre.

    loss: there. metric: what the spectrum is the curvature of, a key of `picture.metrics`. number: of the spectrum's
    entry in the session.
    """

    spectrum: SpectrumRequest
    directions: tuple[Direction, ...]
    loss: float
    metric: str = "loss"
    number: int = field(default=0, compare=False)

    @property
    def label(self) -> str:
        return " and ".join(direction.label for direction in self.directions)

    @property
    def reach(self) -> float:
        """How far to look either way: where the parabola has risen by a few times the loss."""
        steepest = max(abs(direction.eigenvalue) for direction in self.directions)
        far = 2 * np.sqrt(2 * max(self.loss, LEAST_LOSS) / max(steepest, 1e-12))
        return float(f"{np.clip(far, NEAREST, FARTHEST):.1g}")

    def plane(self, checkpoint: Checkpoint) -> Plane:
        """The plane; with one eigenvector, along a random direction too."""
        return Plane.along(
            checkpoint,
            *(direction.vector.weights for direction in self.directions),
            labels=[direction.label for direction in self.directions],
        )

    def with_parabolas(self, ds: xr.Dataset) -> xr.Dataset:
        """A result on the plane whose axes say, in their attributes, what parabola their eigenvalue promises."""
        axes = {
            name: ds[name].assign_attrs(
                eigenvalue=direction.eigenvalue,
                eigenvalue_bound=direction.bound,
                slope=direction.vector.slope,
                centre_loss=self.loss,
                parabola_of=self.metric,
            )
            for name, direction in zip("ab", self.directions, strict=False)
        }
        where = ds.attrs["title"].rpartition(" at ")[2]
        return ds.assign_coords(axes).assign_attrs(title=f"plane along the {self.label} at {where}")
