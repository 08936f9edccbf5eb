"""Matching by the loss itself: straight-through estimation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
from .damage import refuse_damaged, refuse_losses
from .layers import refuse_frozen
from .matching import Matching, match_weights, midpoint_loss
from .running import Progress, on_batches, shuffled, unpacked
from .symmetries import Symmetries


class StraightThrough:
    """A search for the symmetry of `moving` under which the loss half-way to `reference` is lowest.

    Free weights, those of `reference` to begin with, follow the gradient of the loss half-way between `reference` and
    the permuted copy of `moving` that is nearest to them, as if that copy followed them (Ainsworth, Hayase and
    Srinivasa 2023, arXiv:2209.04836, section 3.3; Bengio et al. 2013, arXiv:1308.3432). The nearest copy is that of
    weight matching, from the one before. It starts from `match_weights` and keeps the best that it meets, so that it
    is never worse at the middle. BatchNorm uses the statistics of each batch in a step, and the problem's policy where
    middles are compared.

    steps, learning_rate: of Adam. batch_size: samples a step; None is the problem's own. seed: of the batches and of
        the order of assignments.

    matching: the best so far; its `midpoint` is the loss there. Raises LandscapeError for bad arguments and frozen
    statistics that differ, SymmetryError for checkpoints of another model.
    """

    def __init__(
        self,
        symmetries: Symmetries,
        problem: Problem,
        reference: Checkpoint,
        moving: Checkpoint,
        *,
        steps: int = 200,
        learning_rate: float = 1e-2,
        batch_size: int | None = None,
        seed: int = 0,
    ):
        for name, value in {"steps": steps, "batch_size": batch_size or 1}.items():
            if not isinstance(value, int) or value < 1:
                raise LandscapeError(f"{name} is {value!r}; expected a whole number of at least 1.")
        if not 0 < learning_rate < np.inf:
            raise LandscapeError(f"learning_rate is {learning_rate}; expected a positive number.")
        refuse_damaged(reference, moving)
        self.line = Line.through(reference, moving)
        refuse_frozen(problem, reference, moving)
        symmetries.identity().apply(moving)
        self.symmetries, self.problem, self.reference, self.moving = symmetries, problem, reference, moving
        self._steps, self._rate, self._seed = steps, learning_rate, seed
        self._batch_size = batch_size or problem.batch_size
        self.matching: Matching | None = None

    def steps(self) -> Iterator[xr.Dataset]:
        """Search, a generator of Datasets; close it to keep what `matching` is.

        Yields Datasets with the dim ``step``, the first before any: ``midpoint``, the loss half-way to the permuted
        copy at that step, and ``best``, the lowest so far. Attributes: title, status ("running" or "done"), progress,
        evaluations (of gradients), planned_evaluations, elapsed_s, eta_s, provenance.
        """
        self.progress = Progress(self._steps)
        refuse_losses(self.problem, self.reference, self.moving)
        first = match_weights(self.symmetries, self.reference, self.moving, seed=self._seed, problem=self.problem)
        self.matching, self._midpoints = first, [first.midpoint]
        yield self._dataset("running")
        now = first
        for now in self._followed(first):
            self._midpoints.append(now.midpoint)
            if now.midpoint < self.matching.midpoint:
                self.symmetries.refuse_changed(self.moving, now.checkpoint)
                self.matching = now
            if self.progress.due():
                yield self._dataset("running")
        yield self._dataset("done")

    def _followed(self, now: Matching) -> Iterator[Matching]:
        """The nearest permuted copy after each step of the free weights."""
        replica = Replica(on_batches(self.problem))
        replica.load_buffers(self.reference)
        fixed = replica.pack(self.reference.weights)
        free = fixed.clone()
        optimiser = torch.optim.Adam([free], lr=self._rate)
        rng = np.random.default_rng(self._seed)
        for batch in shuffled(self.problem.data, self._batch_size, self._steps, rng):
            replica.flat.copy_((fixed + replica.pack(now.checkpoint.weights)) / 2)
            free.grad = replica.pack(replica.loss_and_gradient([batch])[1]) / 2
            optimiser.step()
            goal = replace(self.reference, weights=unpacked(replica, free, self.reference.weights))
            step = match_weights(self.symmetries, goal, now.checkpoint, starts=["identity"], seed=self._seed)
            if step.permutation.moved:
                now = self._moved(now, step)
            yield now

    def _moved(self, now: Matching, step: Matching) -> Matching:
        permutation = now.permutation.then(step.permutation)
        checkpoint = permutation.apply(self.moving)
        return replace(
            now,
            permutation=permutation,
            checkpoint=checkpoint,
            objective=self.reference.weights.dot(checkpoint.weights),
            history=(),
            sweeps=step.sweeps,
            converged=step.converged,
            start="straight-through",
            midpoint=midpoint_loss(self.problem, self.reference, checkpoint),
        )

    def _dataset(self, status: str) -> xr.Dataset:
        loss = self.problem.measures[0]
        values = np.array(self._midpoints)
        about = {"long_name": f"{loss.long_name} half-way", "units": loss.units}
        return xr.Dataset(
            {
                "midpoint": ("step", values, about),
                "best": ("step", np.fmin.accumulate(values), {**about, "long_name": "lowest so far"}),
            },
            coords={"step": np.arange(len(values))},
            attrs={
                "title": f"straight-through matching of {self.moving.name} to {self.reference.name}",
                **self.progress.attrs(status),
                "provenance": provenance_json(
                    self.problem,
                    self.line,
                    Strategy(None, torch.get_num_threads()).record(),
                    steps=self._steps,
                    learning_rate=self._rate,
                    batch_size=self._batch_size,
                    seed=self._seed,
                ),
            },
        )
