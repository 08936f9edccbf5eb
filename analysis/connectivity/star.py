"""Star models: one network that straight lines of low loss join to many others.

Sonthalia, Rubinstein, Abbasnejad and Oh 2024, Do deep neural network solutions form a star domain?, arXiv:2403.07968.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
import xarray as xr

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..replica import Replica
from ..results import provenance_json
from ..strategy import Strategy
from ..subspace import Line
from .barrier import barrier
from .damage import refuse_damaged
from .layers import refuse_frozen
from .matching import match_weights
from .merging import average
from .running import Progress, on_batches, shuffled, unpacked
from .symmetries import Symmetries


class StarSearch:
    """A search for the star model of several checkpoints: it lowers the mean of L((1 - t) star + t source) over t in
    [0, 1] and the sources.

    Each step draws one t, one source and one batch, and moves the star by Adam along the gradient there, of which it
    has the share 1 - t. The learning rate falls to 0 as a cosine. It starts at the mean of the sources. BatchNorm uses
    the statistics of each batch in a step, and the problem's policy where barriers are measured.

    symmetries: with them each source is matched by weights to the star at the start of every pass through the data;
        without, sources stay as they are: bring them to common units first, as `match_many` does.
    steps, learning_rate: of Adam. batch_size: samples a step; None is the problem's own. points: of each barrier.
    seed: of t, the sources and the batches.

    star: as it is now. sources: as they are now, in the units of the star. Raises LandscapeError for bad arguments,
    fewer than two sources or equal ones, and frozen statistics that differ, CheckpointError for damaged weights.
    """

    def __init__(
        self,
        problem: Problem,
        sources: Sequence[Checkpoint],
        *,
        symmetries: Symmetries | None = None,
        steps: int = 1000,
        learning_rate: float = 5e-3,
        batch_size: int | None = None,
        points: int = 25,
        seed: int = 0,
    ):
        for name, value in {"steps": steps, "batch_size": batch_size or 1}.items():
            if not isinstance(value, int) or value < 1:
                raise LandscapeError(f"{name} is {value!r}; expected a whole number of at least 1.")
        if not 0 < learning_rate < np.inf:
            raise LandscapeError(f"learning_rate is {learning_rate}; expected a positive number.")
        if not isinstance(points, int) or points < 3 or points % 2 == 0:
            raise LandscapeError(f"points is {points!r}; expected an odd number of at least 3.")
        if len(sources) < 2:
            raise LandscapeError(f"A star has two or more sources; got {len(sources)}.")
        refuse_damaged(*sources)
        for other in sources[1:]:
            refuse_frozen(problem, sources[0], other)
        self.line = Line.through(sources[0], sources[1])
        self.problem, self.symmetries = problem, symmetries
        self.sources = tuple(sources)
        self.star = replace(average(problem, self.sources), name="star")
        self.losses: list[float] = []
        self._planned, self._rate, self._points, self._seed = steps, learning_rate, points, seed
        self._batch_size = batch_size or problem.batch_size

    def steps(self) -> Iterator[xr.Dataset]:
        """Train, then measure the barrier from the star to each source, a generator of Datasets; close it to stop.

        Yields Datasets with ``training_loss`` [step], of one batch at one place each, and for each loss and accuracy
        ``<metric>_barrier`` [source], NaN until it is measured. Attributes: title, status ("running" or "done"),
        progress, evaluations (gradients, then places of paths), planned_evaluations, elapsed_s, eta_s, provenance.

        Raises LandscapeError where training diverges.
        """
        measures = [m for m in self.problem.measures if m.name.startswith(("loss", "accuracy")) and not m.classes]
        self.heights = {m.name: np.full(len(self.sources), np.nan) for m in measures}
        self.progress = Progress(self._planned + self._points * len(self.sources))
        yield self._dataset("running")
        for _ in self._trained():
            if self.progress.due():
                yield self._dataset("running")
        for i, source in enumerate(self.sources):
            with closing(cast(Generator, barrier(self.problem, self.star, source, points=self._points))) as paths:
                for path in paths:  # noqa: B007
                    if self.progress.due():
                        yield self._dataset("running")
            for name, heights in self.heights.items():
                heights[i] = float(path[f"{name}_barrier"])
        yield self._dataset("done")

    def _trained(self) -> Generator[None, None, None]:
        """Take one step after the other."""
        replica = Replica(on_batches(self.problem))
        replica.load_buffers(self.sources[0])
        free = replica.pack(self.star.weights)
        optimiser = torch.optim.Adam([free], lr=self._rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self._planned)
        rng = np.random.default_rng(self._seed)
        a_pass = max(1, self.problem.n // self._batch_size)
        for step, batch in enumerate(shuffled(self.problem.data, self._batch_size, self._planned, rng)):
            if step % a_pass == 0:
                self._match()
                packed = [replica.pack(source.weights) for source in self.sources]
            t, source = rng.random(), packed[rng.integers(len(packed))]
            replica.flat.copy_((1 - t) * free + t * source)
            loss, weights = replica.loss_and_gradient([batch])
            gradient = replica.pack(weights)
            if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
                raise LandscapeError(
                    f"Training the star diverged at step {step + 1}: its loss there is {loss}. Use a learning_rate "
                    f"smaller than {self._rate}."
                )
            self.losses.append(loss)
            free.grad = (1 - t) * gradient
            optimiser.step()
            schedule.step()
            self.star = replace(self.star, weights=unpacked(replica, free, self.sources[0].weights))
            yield

    def _match(self) -> None:
        if self.symmetries is None:
            return
        matched = (match_weights(self.symmetries, self.star, s, starts=["identity"]) for s in self.sources)
        self.sources = tuple(
            replace(matching.checkpoint, name=source.name)
            for matching, source in zip(matched, self.sources, strict=True)
        )

    def _dataset(self, status: str) -> xr.Dataset:
        loss = self.problem.measures[0]
        variables: dict[str, Any] = {
            "training_loss": ("step", np.array(self.losses), {"long_name": "of one batch", "units": loss.units})
        }
        for name, heights in self.heights.items():
            variables[f"{name}_barrier"] = "source", heights.copy(), {"long_name": f"barrier of {name} to the star"}
        return xr.Dataset(
            variables,
            coords={"source": np.array([source.name for source in self.sources], dtype=object)},
            attrs={
                "title": f"star of {len(self.sources)} checkpoints",
                **self.progress.attrs(status),
                "provenance": provenance_json(
                    self.problem,
                    self.line,
                    Strategy(None, torch.get_num_threads()).record(),
                    sources=[{"name": source.name, "sha256": source.digest} for source in self.sources],
                    star_sha256=self.star.digest,
                    matched=self.symmetries is not None,
                    steps=self._planned,
                    learning_rate=self._rate,
                    batch_size=self._batch_size,
                    points=self._points,
                    seed=self._seed,
                ),
            },
        )
