"""A picture of 101 x 101 points within 1 % of its range: ours against PyPI loss-landscapes' dense grid.

Both see the same model, data, metric and thread count, BatchNorm statistics frozen, in one process, interleaved. The
peer evaluates every point in turn. Its axes and spacing differ from ours, and each of its rows is shifted by one
cell, so values are compared only at the one point that both hold: the loss of the model itself.
"""

from __future__ import annotations

import copy
import time
from statistics import median

import loss_landscapes
import numpy as np
import torch
from loss_landscapes.metrics import Loss

from analysis import Checkpoint, Plane, Problem, load_project, surface
from analysis.evaluate import Evaluator
from benchmarks.row import emit
from sample_checkpoints import path

POINTS = 101
PEER = "loss-landscapes"
QUICK_STEPS = 15  # 225 points a block
SAMPLES = ("MLP 2×128 · test", "MLP 3×512 · test", "Residual CNN, width 16 · test")


def run(quick: bool) -> None:
    project = load_project(path("mlp128-s0").parent / "samples.py")
    for name in SAMPLES:
        problem = project.problems[name]
        checkpoint = project.checkpoint(name, project.checkpoint_names(name)[0])
        data = problem.data.blocks(problem.n)[0]
        policy = "frozen" if "frozen" in problem.batchnorm_choices else None
        compare(name, Problem(problem.model, "cross_entropy", data, metrics=[], batchnorm=policy), checkpoint, quick)


def compare(name: str, problem: Problem, checkpoint: Checkpoint, quick: bool) -> None:
    model = copy.deepcopy(problem.model).eval()
    for parameter_name, parameter in model.named_parameters():
        parameter.data.copy_(checkpoint.weights[parameter_name])
    for buffer_name, buffer in model.named_buffers():
        buffer.copy_(checkpoint.buffers[buffer_name])
    x, y = problem.data.blocks(problem.n)[0]
    metric = Loss(torch.nn.functional.cross_entropy, x, y)
    plane = Plane.random(checkpoint)
    _timed_ours(problem, plane)  # warm-up of both
    _timed_peer(model, metric, 5)

    ours, theirs = [], []
    steps = QUICK_STEPS if quick else POINTS
    for _ in range(3):
        seconds, ds = _timed_ours(problem, plane)
        ours.append(seconds)
        theirs.append(_timed_peer(model, metric, steps) * (POINTS / steps) ** 2)
        if not quick:
            break
    with torch.no_grad():
        own = float(torch.nn.functional.cross_entropy(model(x), y))
    emit(
        f"surface {POINTS}x{POINTS}: {name}",
        median(ours),
        PEER,
        median(theirs),
        metric="loss",
        peer_time=f"extrapolated from {3 * steps**2} interleaved points" if quick else "measured",
        ours_evaluations=ds.attrs["evaluations"],
        peer_evaluations=POINTS**2,
        ours_error=None if quick else _true_error(problem, plane, ds),
        ours_error_reported=round(ds.attrs["interpolation_error"], 5),
        peer_error="none between its own points",
        difference_at_the_model=abs(own - float(ds.loss.sel(a=0, b=0))),
    )


def _timed_ours(problem: Problem, plane: Plane):
    start = time.perf_counter()
    *_, ds = surface(problem, plane, resolution=POINTS)
    return time.perf_counter() - start, ds


def _timed_peer(model: torch.nn.Module, metric: Loss, steps: int) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        loss_landscapes.random_plane(model, metric, distance=1, steps=steps, deepcopy_model=True)
    return time.perf_counter() - start


def _true_error(problem: Problem, plane: Plane, ds) -> float:
    """Largest difference from the dense truth, as a fraction of the range, on the worse of two scales."""
    evaluator = Evaluator(problem, plane)
    grid = np.stack(np.meshgrid(ds.a, ds.b), -1).reshape(-1, 2)
    truth = evaluator(grid)["loss"][0].reshape(len(ds.b), len(ds.a))
    picture = ds.loss.transpose("b", "a").values
    shares = [np.abs(f(picture) - f(truth)).max() / np.ptp(f(truth)) for f in (np.asarray, np.log)]
    return round(float(max(shares)), 5)
