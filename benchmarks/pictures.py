"""Do pictures keep their promise? Each against the dense truth at its own 101 x 101 points.

For ten seeds and each kind of plane of the sample networks, one JSON line a picture: evaluations with those of the
checkpoints, the error that the result reports and the true one, both as fractions of the range on the worse of
the linear and the logarithmic scale. The last line sums up. Networks are evaluated on the whole test part of their
data. The truth of the larger ones is taken at every second or fourth point along each axis, for all points would take
hours, and the wider convolutional one is left out. ``--quick`` looks at one seed, at two kinds of plane of most
networks, and at every fourth point.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache

import numpy as np
import torch

from analysis import Checkpoint, Plane, Problem, surface
from analysis.evaluate import Evaluator
from sample_checkpoints import load_data, manifest, path
from sample_checkpoints.models import build

SEEDS = 10
SMALL = ("mlp128", "tanh64", "gelu64", "trajectory-mlp64", "spawn-noise20")
LARGE = ("mlp512", "resnet16", "chartransformer")
STRIDE = {"mlp512": 2, "chartransformer": 2, "resnet16": 4}
SEEDED = ("random filter-normalised", "two checkpoints", "random layer-normalised", "random weight-normalised")
KINDS = ("gradient", "gradient at another checkpoint", "three checkpoints", "principal directions")
Job = tuple[str, str, int, bool]


def run(quick: bool) -> None:
    """Print a row a picture, from as many processes of one thread as there are cores, and the summary."""
    work = list(jobs(quick))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = []
        for row in pool.map(check, work):
            print(json.dumps(row, ensure_ascii=False), flush=True)
            rows.append(row)
    print(json.dumps(summary(rows), ensure_ascii=False), flush=True)


def jobs(quick: bool) -> Iterator[Job]:
    """Family, kind of plane, seed, quick: the cheap ones first, and each seed of all before the next."""
    for families in (SMALL, LARGE):
        for seed in range(1 if quick else SEEDS):
            for family in families:
                few = quick and family not in ("mlp128", "trajectory-mlp64")
                for kind in (*SEEDED, *KINDS)[: 2 if few else None]:
                    spans = len(checkpoints(family)[1]) > 2 or kind not in KINDS[2:]
                    if spans and (seed == 0 or kind in SEEDED):
                        yield family, kind, seed, quick


@cache
def checkpoints(family: str) -> tuple[Problem, list[Checkpoint]]:
    """A family's problem and its checkpoints; those of a training run in their order."""
    samples = manifest()["samples"]
    members = [name for name in samples if name == family or name.startswith(f"{family}-")]
    entry = samples[members[0]]
    data = load_data(entry["data"])
    problem = Problem(
        build(entry["architecture"], entry["args"]),
        "cross_entropy",
        (data.x_test, data.y_test),
        calibration=(data.x_train, data.y_train),
        name=family,
    )
    files = sorted(path(family).iterdir()) if family in samples else [path(member) for member in members]
    return problem, [problem.checkpoint(file, name=file.stem) for file in files]


def plane(family: str, kind: str, seed: int) -> Plane:
    problem, points = checkpoints(family)
    first, *_, last = points
    if kind.startswith("random"):
        return Plane.random(first, seed, normalisation=kind.split()[1].removesuffix("-normalised"))
    return {
        "two checkpoints": lambda: Plane.through(first, points[1] if len(points) < 10 else last, seed=seed),
        "gradient": lambda: Plane.gradient(problem, first),
        "gradient at another checkpoint": lambda: Plane.gradient(problem, last),
        "three checkpoints": lambda: Plane.through(first, points[len(points) // 2], last),
        "principal directions": lambda: Plane.pca(points),
    }[kind]()


def check(job: Job) -> dict[str, object]:
    """One picture against the truth."""
    family, kind, seed, quick = job
    problem, _ = checkpoints(family)
    space, stride = plane(family, kind, seed), 4 if quick else STRIDE.get(family, 1)
    *_, ds = surface(problem, space)
    picture = ds.loss.transpose("b", "a").values[::stride, ::stride]
    grid = np.stack(np.meshgrid(ds.a[::stride], ds.b[::stride]), -1).reshape(-1, 2)
    truth = Evaluator(problem, space)(grid)["loss"][0].reshape(picture.shape)
    linear, log = (float(np.abs(f(picture) - f(truth)).max() / np.ptp(f(truth))) for f in (np.asarray, np.log))
    markers = ds.sizes["marker"] * (2 if "marker_loss_frozen" in ds else 1)
    evaluations, reported = ds.attrs["evaluations"] + markers, ds.attrs["interpolation_error"]
    return {
        "name": family,
        "plane": f"{kind}, seed {seed}" if kind in SEEDED else kind,
        "samples": problem.n,
        "truth_points": truth.size,
        "status": ds.attrs["status"],
        "evaluations": evaluations,
        "saved": round(ds.loss.size / evaluations, 1),
        "reported": float(f"{reported:.3g}"),
        "true_linear": float(f"{linear:.3g}"),
        "true_log": float(f"{log:.3g}"),
        "reported_over_true": round(reported / max(linear, log), 2),
    }


def summary(rows: list[dict]) -> dict[str, object]:
    ratios = np.array([row["reported_over_true"] for row in rows])
    worse = [max(row["true_linear"], row["true_log"]) for row in rows]
    return {
        "name": "summary",
        "pictures": len(rows),
        "converged": sum(row["status"] == "converged" for row in rows),
        "worst_true_linear": max(row["true_linear"] for row in rows),
        "worst_true_log": max(row["true_log"] for row in rows),
        "share_within_1_percent": round(float(np.mean(np.array(worse) <= 0.01)), 4),
        "reported_over_true": [ratios.min(), round(float(np.median(ratios)), 2), ratios.max()],
        "share_within_half_to_five": round(float(np.mean((ratios >= 0.5) & (ratios <= 5))), 4),
        "least_saved": {name: min(row["saved"] for row in rows if row["name"] == name) for name in (*SMALL, *LARGE)},
        "torch": torch.__version__,
    }
