"""Do pictures keep their promise? Each against the dense truth at its own 101 x 101 points.

One JSON line a picture: evaluations, the error that the result reports, the true one, both as fractions of the
range on the worse of the linear and the logarithmic scale. ``--quick`` looks at one seed, and of the
convolutional net at every fourth point along each axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from analysis import Plane, Problem, Project, load_project, surface
from analysis.evaluate import Evaluator
from sample_checkpoints import path

SAMPLES = ("MLP 2×128 · test", "MLP 3×512 · test", "Residual CNN, width 16 · test")
SEEDS = 10


def run(quick: bool) -> None:
    project = load_project(path("mlp128-s0").parent / "samples.py")
    for name in SAMPLES:
        problem = project.problems[name]
        for kind, plane in planes(project, name, problem, 1 if quick else SEEDS):
            check(name, kind, problem, plane, stride=4 if quick and "CNN" in name else 1)


def planes(project: Project, name: str, problem: Problem, seeds: int) -> Iterator[tuple[str, Plane]]:
    points = [project.checkpoint(name, checkpoint) for checkpoint in project.checkpoint_names(name)]
    for seed in range(seeds):
        yield f"random, seed {seed}", Plane.random(points[0], seed)
        yield f"layer-normalised, seed {seed}", Plane.random(points[0], seed, normalisation="layer")
        yield f"two checkpoints, seed {seed}", Plane.through(points[0], points[1], seed=seed)
    if len(points) > 2:
        yield "three checkpoints", Plane.through(*points[:3])
        yield "principal directions", Plane.pca(points)


def check(name: str, kind: str, problem: Problem, plane: Plane, stride: int) -> None:
    *_, ds = surface(problem, plane)
    picture = ds.loss.transpose("b", "a").values[::stride, ::stride]
    grid = np.stack(np.meshgrid(ds.a[::stride], ds.b[::stride]), -1).reshape(-1, 2)
    truth = Evaluator(problem, plane)(grid)["loss"][0].reshape(picture.shape)
    shares = [float(np.abs(f(picture) - f(truth)).max() / np.ptp(f(truth))) for f in (np.asarray, np.log)]
    row = {
        "name": name,
        "plane": kind,
        "status": ds.attrs["status"],
        "evaluations": ds.attrs["evaluations"],
        "saved": round(ds.loss.size / ds.attrs["evaluations"], 1),
        "reported": round(ds.attrs["interpolation_error"], 5),
        "true_linear": round(shares[0], 5),
        "true_log": round(shares[1], 5),
        "reported_over_true": round(ds.attrs["interpolation_error"] / max(shares), 2),
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)
