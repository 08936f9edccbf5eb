"""Weight matching of the shipped pairs against PyPI rebasin, in one process, and what discovery and assignments cost.

Both get the same two trained networks and look at the weights alone. Both results are judged with our `barrier`, on the
training data, BatchNorm recalibrated at each point. Where rebasin's permuted network is another function than it
was (`peer_change`), its `peer_barrier` is over a chord that ends in that function; `peer_rise` is over the chord
between the two original networks. Times are CPU seconds of one thread.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rebasin import PermutationCoordinateDescent
from scipy.optimize import linear_sum_assignment
from torch import nn

from analysis import Checkpoint, Problem, load_project
from analysis.connectivity import assignment, barrier, find_symmetries, match_weights
from benchmarks.networks import resnet50
from benchmarks.row import emit
from sample_checkpoints import path
from sample_checkpoints.models import CharTransformer, mlp

PAIRS = ("MLP 2×128", "MLP 3×512", "MLP 2×64, tanh", "MLP 2×64, GELU", "Residual CNN, width 16",
         "Residual CNN, width 32", "Character transformer")  # fmt: skip
QUICK = ("MLP 2×128", "Residual CNN, width 16")


def run(quick: bool) -> None:
    torch.set_num_threads(1)
    find_symmetries(mlp([4, 4, 2]), (torch.zeros(1, 4),))  # loads what torch.export needs
    project = load_project(path("mlp128-s0").parent / "samples.py")
    for title in QUICK if quick else PAIRS:
        name = f"{title} · train"
        ends = (project.checkpoint(name, member) for member in project.checkpoint_names(name)[:2])
        compare(title, project.problems[name], *ends)
    assignments(1024 if quick else 4096)
    discovery("ResNet-50", resnet50(), torch.randn(2, 3, 64, 64), bar=30.0)
    if not quick:
        transformer = CharTransformer(1000, context=32, width=768, heads=12, layers=12)
        discovery("transformer of 12 layers, width 768", transformer, torch.randint(0, 1000, (1, 32)), bar=20.0)


def compare(title: str, problem: Problem, a: Checkpoint, b: Checkpoint) -> None:
    """One pair, before and after."""
    x = problem.data.batches()[0][0]
    symmetries, discovery_s = _timed(lambda: find_symmetries(problem))
    ours, ours_s = _timed(lambda: match_weights(symmetries, a, b))
    chosen, chosen_s = _timed(lambda: match_weights(symmetries, a, b, problem=problem, restarts=4))
    first, second = (_module(problem, c) for c in (a, b))
    before = second(x)
    torch.manual_seed(0)  # of its order of steps
    peer, setup_s = _timed(lambda: PermutationCoordinateDescent(first, second, x[:16]))
    _, peer_s = _timed(peer.rebasin)
    permuted = problem.checkpoint(second, name="rebasin")
    naive = _path(problem, a, b)
    theirs = _path(problem, a, permuted)
    own = naive.marker_loss.values
    emit(
        f"matching: {title}",
        ours_s,
        "rebasin",
        peer_s,
        barrier=_height(naive),
        ours_barrier=_height(_path(problem, a, ours.checkpoint)),
        peer_barrier=_height(theirs),
        peer_rise=round(float((theirs.loss - (1 - theirs.t) * own[0] - theirs.t * own[1]).max()), 4),
        ours_change=_change(before, _module(problem, ours.checkpoint)(x)),
        peer_change=_change(before, second(x)),
        ours_discovery_s=round(discovery_s, 4),
        peer_discovery_s=round(setup_s, 4),
        chosen_by_midpoint_s=round(chosen_s, 4),
        chosen_by_midpoint_barrier=_height(_path(problem, a, chosen.checkpoint)),
    )


def assignments(width: int) -> None:
    """A layer so wide that the assignments are what it costs, beside scipy's own time on the same matrices."""
    a, b = (mlp([64, width, 10], generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    symmetries = find_symmetries(a, (torch.randn(2, 64),))
    seen: list[np.ndarray] = []

    def noted(cost: np.ndarray, maximize: bool) -> Any:
        seen.append(cost.copy())
        return linear_sum_assignment(cost, maximize=maximize)

    options = {"starts": ["identity"]}
    ours, ours_s = _timed(lambda: match_weights(symmetries, Checkpoint.of(a), Checkpoint.of(b), **options))
    assignment.linear_sum_assignment = noted
    try:
        match_weights(symmetries, Checkpoint.of(a), Checkpoint.of(b), **options)
    finally:
        assignment.linear_sum_assignment = linear_sum_assignment
    _, scipy_s = _timed(lambda: [linear_sum_assignment(cost, maximize=True) for cost in seen])
    emit(
        f"assignments: a layer of {width}", ours_s, "scipy", scipy_s, sweeps=ours.sweeps, assignments=len(seen),
        over_the_solver=round(ours_s / scipy_s, 3),
    )  # fmt: skip


def discovery(name: str, model: nn.Module, x: torch.Tensor, bar: float) -> None:
    found, seconds = _timed(lambda: find_symmetries(model.eval(), (x,)))
    certificate = found.certificate
    emit(
        f"discovery: {name}",
        seconds,
        f"a bar of {bar:g} s",
        bar,
        parameters=sum(p.numel() for p in model.parameters()),
        groups=len(found.groups),
        log10_size=round(found.log10_size, 1),
        moved=round(found.share, 4),
        ours_change=certificate.change,
        control=certificate.control,
    )


def _module(problem: Problem, checkpoint: Checkpoint) -> nn.Module:
    """The network at a checkpoint, for calls without gradients."""
    model = copy.deepcopy(problem.model).eval().requires_grad_(False)
    model.load_state_dict({**checkpoint.weights, **checkpoint.buffers}, strict=False)
    return model


def _path(problem: Problem, a: Checkpoint, b: Checkpoint) -> Any:
    *_, ds = barrier(problem, a, b)
    return ds


def _height(path: Any) -> float:
    return round(float(path.loss_barrier), 4)


def _change(before: torch.Tensor, after: torch.Tensor) -> float:
    """The largest change of an output over the largest output."""
    return float((after - before).abs().max() / before.abs().max())


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = function()
    return found, time.process_time() - start
