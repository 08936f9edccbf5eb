"""Matching: the symmetry of one checkpoint that brings it nearest to another.

Weight matching maximises the inner product of all parameters over the group of symmetries, by coordinate ascent with a
linear assignment for each group of units; activation matching maximises the correlation of units over data. Both:
Ainsworth, Hayase and Srinivasa 2023, Git Re-Basin, arXiv:2209.04836; activations: Li et al. 2016, Convergent Learning,
arXiv:1511.07543.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..replica import Replica
from .activations import correlated
from .ascent import Ascent, Climb
from .assignment import GRID
from .damage import refuse_damaged
from .groups import Permutation
from .orders import orders_of
from .products import arrays_of, inner_product
from .symmetries import Symmetries

STARTS = ("identity", "sorted", "activations")


@dataclass(frozen=True)
class Matching:
    """A permutation of the second checkpoint, and how it was found.

    objective: the inner product of all parameters of the first and the permuted second, recomputed at the end.
    history: the objective at the start and after each accepted step; it never falls. sweeps: over all groups, the last
        without a step if `converged`. start: of the ascent that won. midpoint: the loss half-way, where restarts were
        chosen by it, or NaN. left: groups that the method has nothing to say of, as text.
    """

    permutation: Permutation
    checkpoint: Checkpoint
    objective: float
    history: tuple[float, ...] = ()
    sweeps: int = 0
    converged: bool = True
    start: str = "identity"
    midpoint: float = float("nan")
    left: tuple[str, ...] = ()

    def __repr__(self) -> str:
        ended = "" if self.converged else ", not converged"
        return f"Matching({self.checkpoint.name!r}, objective {self.objective:.6g}, {self.sweeps} sweeps{ended})"


def match_weights(
    symmetries: Symmetries,
    reference: Checkpoint,
    moving: Checkpoint,
    *,
    seed: int = 0,
    restarts: int = 0,
    starts: Sequence[str] | None = None,
    problem: Problem | None = None,
) -> Matching:
    """The symmetry of `moving` with the largest inner product with `reference` that coordinate ascent finds.

    Each step is one linear assignment over a group (over heads, with one for the entries of each pair of heads within),
    with all others held, and counts only where the objective in float64 rises. Starts: "identity"; "sorted", which
    compares rows with their entries in order of size and so does not depend on the other groups (it finds planted
    symmetries); "activations", the result of `match_activations`; and `restarts` random elements. Default: all, the
    last but with a problem only. Groups are visited in an order that `seed` draws.

    problem: chooses among the starts by the loss half-way between the two; otherwise the largest objective wins, which
        does not rank starts as the loss does.

    Raises LandscapeError for bad arguments, SymmetryError for checkpoints of another model, and where the permuted copy
    computes something else than `moving` (which buffers can cause that the symmetries took for constants).
    """
    refuse_damaged(reference, moving)
    if starts is None:
        starts = STARTS if problem is not None else STARTS[:2]
    if restarts < 0 or not set(starts) <= set(STARTS) or (not starts and not restarts):
        raise LandscapeError(
            f"starts are {list(starts)} with {restarts} restarts; accepted are some of {list(STARTS)}, and 0 or more."
        )
    if "activations" in starts and problem is None:
        raise LandscapeError("The start 'activations' needs the data of a problem: pass problem=, or leave it out.")
    identity = symmetries.identity()
    for checkpoint in (reference, moving):
        identity.check(checkpoint)
    ascent = Ascent(symmetries, reference, moving)
    found = []
    for number, start in enumerate([*starts, *(f"random {i + 1}" for i in range(restarts))]):
        rng = np.random.default_rng([seed, number])
        if start == "identity":
            first = orders_of(symmetries, identity)
        elif start == "sorted":
            first = ascent.sorted_start()
        elif start == "activations" and problem is not None:
            first = orders_of(symmetries, correlated(symmetries, problem, reference, moving)[0])
        else:
            first = orders_of(symmetries, symmetries.random(int(rng.integers(2**31))))
        found.append(ascent.run(first, start, rng))
    if problem is None:
        step = GRID * ascent.scale or 1.0
        best = max(found, key=lambda climb: round(climb.history[-1] / step))
        return _kept(symmetries, moving, _matching(ascent, best))
    matchings = [_matching(ascent, climb) for climb in found]
    middles = [midpoint_loss(problem, reference, m.checkpoint) for m in matchings]
    matchings = [replace(m, midpoint=middle) for m, middle in zip(matchings, middles, strict=True)]
    return _kept(symmetries, moving, min(matchings, key=lambda m: (not np.isfinite(m.midpoint), m.midpoint)))


def _matching(ascent: Ascent, climb: Climb) -> Matching:
    return Matching(*ascent.checked(climb), climb.history, climb.sweeps, climb.converged, climb.start)


def _kept(symmetries: Symmetries, moving: Checkpoint, matching: Matching) -> Matching:
    """The matching, which raises SymmetryError where it changes what the checkpoint computes."""
    symmetries.refuse_changed(moving, matching.checkpoint)
    return matching


def midpoint_loss(problem: Problem, a: Checkpoint, b: Checkpoint) -> float:
    """The problem's loss half-way between two checkpoints, with the buffers of the first."""
    replica = Replica(problem)
    replica.load(a)
    replica.flat.copy_((replica.pack(a.weights) + replica.pack(b.weights)) / 2)
    return replica.measure()["loss"][0]


def match_activations(symmetries: Symmetries, problem: Problem, reference: Checkpoint, moving: Checkpoint) -> Matching:
    """The symmetry of `moving` under which its units correlate most with those of `reference`.

    Correlations are over the problem's data, and over places of an image or a sequence, of what enters the linear and
    convolutional modules that read a group of units (after the nonlinearity, as they are used), or, of groups that none
    reads, of what such modules put out; one assignment for each group. Groups that no such module shows stay as they
    are and are listed in `left`. Raises SymmetryError as `match_weights` does.
    """
    refuse_damaged(reference, moving)
    for checkpoint in (reference, moving):
        symmetries.identity().check(checkpoint)
    permutation, left = correlated(symmetries, problem, reference, moving)
    checkpoint = permutation.apply(moving)
    a, b = (arrays_of(c.weights) for c in (reference, checkpoint))
    names = tuple("{}: {}[{}]".format(group.structure, *min(group.all_places())) for group in left)
    matching = Matching(permutation, checkpoint, inner_product(a, b, a), sweeps=1, start="activations", left=names)
    return _kept(symmetries, moving, matching)
