"""From samples to a Dataset: the picture that interpolates them, and all that is known beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from .evaluate import Rows, store
from .grids import SampleGrid, like
from .interpolation import CUBIC, LINEAR, Method, candidates
from .measures import Measure
from .problem import Problem
from .replica import as_rows
from .subspace import Extent, Subspace


class Drawing:
    """What a surface knows, as xarray Datasets (their variables: see `analysis.results`).

    picture: the grid of the points to draw, [*shape]; those that are evaluated themselves are stored in it.
    methods: how to interpolate each metric; errors: the estimated largest error of each, a fraction of its range.
    local: that of the loss about each point of the picture; NaN until the surface is finished.
    """

    def __init__(self, problem: Problem, subspace: Subspace, extent: Extent, shape: tuple[int, ...]):
        self.problem, self.subspace, self.extent = problem, subspace, extent
        self.picture = SampleGrid(extent, shape)
        self.methods: dict[str, Method] = {}
        self.errors = {measure.name: np.nan for measure in problem.measures}
        self.local = np.full(shape, np.nan)
        self._chunks: list[tuple[np.ndarray, Rows]] = []
        self._markers = _places(subspace)
        self._marker_rows: Rows = {}
        self._drawn: tuple[tuple, dict[str, Any]] | None = None

    def add(self, coordinates: np.ndarray, rows: Rows) -> None:
        """Remember evaluated points, coordinates [points, axes], and their metrics."""
        self._chunks.append((coordinates, rows))
        for name, (means, _) in rows.items():
            if name in self.methods and self.methods[name].log and (means <= 0).any():
                self.methods[name] = CUBIC  # there is no logarithm any more

    def add_marker(self, number: int, values: dict[str, tuple[Any, Any]]) -> None:
        """Remember the metrics, name to (mean, standard error), of a checkpoint itself."""
        store(self._marker_rows, len(self.subspace.markers), slice(number, number + 1), as_rows([values]))
        for name, pair in self._marker_rows.items():
            for suffix, array in zip(("", "_se"), pair, strict=True):
                dims = ("marker", "class") if array.ndim > 1 else ("marker",)
                self._markers[f"marker_{name}{suffix}"] = dims, array.copy()

    def method(self, measure: Measure, shown: SampleGrid | None) -> Method:
        """How to interpolate a metric: as decided, or the first choice before anything was."""
        if measure.name in self.methods:
            return self.methods[measure.name]
        known = shown.rows[measure.name][0] if shown is not None and shown.rows else np.ones(1)
        return candidates(known, measure.smooth)[0]

    def dataset(self, shown: SampleGrid | None, **attrs: Any) -> xr.Dataset:
        """The picture as interpolated from a grid of samples, with everything that was evaluated."""
        names = self.subspace.names
        samples = self._samples()
        ds = xr.Dataset(
            {**self._picture(shown), **samples, **self._markers},
            coords={
                name: (name, nodes, {"long_name": axis.label, "units": axis.units})
                for name, nodes, axis in zip(names, self.picture.nodes, self.subspace.axes, strict=True)
            },
            attrs={
                "title": self.subspace.title,
                "evaluations": len(samples["sample_loss"][1]),
                "interpolation_error": self.errors["loss"],
                "equal_aspect": int(self.subspace.equal_aspect),
                **attrs,
            },
        )
        return ds.transpose(*reversed(names), "sample", "marker", ..., missing_dims="ignore")

    def shared(self, grid: SampleGrid) -> tuple[tuple, tuple]:
        """Index grids of the points that the picture shares with a grid of samples: in the picture, in the grid."""
        here, there = [], []
        for mine, theirs, (low, high) in zip(self.picture.nodes, grid.nodes, self.extent, strict=True):
            same = np.abs(mine[:, None] - theirs) < 1e-9 * (high - low)
            i, j = np.nonzero(same)
            here.append(i)
            there.append(j)
        return np.ix_(*here), np.ix_(*there)

    def _picture(self, shown: SampleGrid | None) -> dict[str, Any]:
        """The picture's variables; drawn anew only if a sample that it shows is new."""
        counted = (shown.filled, shown.known.sum()) if shown is not None else ()
        state = (id(shown), *counted, self.picture.known.sum(), *self.errors.values(), id(self.local))
        if self._drawn is None or self._drawn[0] != state:
            self._drawn = state, self._draw(shown)
        return self._drawn[1]

    def _draw(self, shown: SampleGrid | None) -> dict[str, Any]:
        names = self.subspace.names
        variables: dict[str, Any] = {}
        for measure in self.problem.measures:
            method = self.method(measure, shown)
            attrs = {"long_name": measure.long_name, "units": measure.units}
            facts: dict[str, Any] = {"interpolation": method.name, "interpolation_error": self.errors[measure.name]}
            dims = (*names, "class") if measure.classes else names
            for part, (name, more) in enumerate(
                [
                    (measure.name, facts),
                    (f"{measure.name}_se", {"long_name": f"standard error of {measure.long_name}"}),
                ]
            ):
                values, known = self._shown(shown, measure, method if part == 0 else LINEAR, part)
                variables[name] = dims, values, {**attrs, **more}
        about = {"long_name": "estimated interpolation error of loss", "units": "of the range"}
        variables["loss_error"] = names, np.where(known, 0.0, self.local), about
        variables["computed"] = names, known, {"long_name": "evaluated at exactly this point"}
        return variables

    def _shown(
        self, shown: SampleGrid | None, measure: Measure, method: Method, part: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A metric's means (part 0) or errors (1) on the picture, and where they are evaluated, not interpolated."""
        picture = self.picture
        values = np.full((*picture.shape, *([measure.classes] if measure.classes else [])), np.nan)
        known = picture.known.copy()
        if shown is not None and shown is not picture:
            samples = shown.rows[measure.name][part]
            if shown.filled:
                values = method(shown.nodes, samples, picture.nodes)
            else:
                values = samples[shown.nearest(picture.nodes)]
            here, there = self.shared(shown)
            values[here] = np.where(like(shown.known[there], samples[there]), samples[there], values[here])
            known[here] |= shown.known[there]
        if picture.rows:
            own = picture.rows[measure.name][part]
            values = np.where(like(picture.known, own), own, values)
        return values, known

    def _samples(self) -> dict[str, Any]:
        names = self.subspace.names
        coordinates = np.concatenate([np.empty((0, len(names))), *(c for c, _ in self._chunks)])
        variables: dict[str, Any] = {f"sample_{name}": ("sample", coordinates[:, i]) for i, name in enumerate(names)}
        for measure in self.problem.measures:
            dims = ("sample", "class") if measure.classes else ("sample",)
            none = np.empty((0, measure.classes) if measure.classes else 0)
            for part, suffix in enumerate(("", "_se")):
                values = np.concatenate([none, *(rows[measure.name][part] for _, rows in self._chunks)])
                variables[f"sample_{measure.name}{suffix}"] = dims, values
        return variables


def _places(subspace: Subspace) -> dict[str, Any]:
    """Where the subspace's checkpoints lie in it, and how far from it."""
    spots = [subspace.project(marker) for marker in subspace.markers]
    variables: dict[str, Any] = {
        "marker_name": ("marker", np.array([marker.name for marker in subspace.markers], dtype=object))
    }
    for i, name in enumerate(subspace.names):
        variables[f"marker_{name}"] = "marker", np.array([spot[i] for spot, _ in spots])
    attrs = {"long_name": "distance from the subspace", "units": "weight space"}
    variables["marker_residual"] = "marker", np.array([residual for _, residual in spots]), attrs
    return variables
