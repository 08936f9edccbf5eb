"""Checkpoints of NaN weights, and of finite weights whose loss is NaN: refused by name, wherever they are handed in."""

import numpy as np
import pytest
import torch
import xarray as xr
from models import classification, mlp

from analysis import Checkpoint, CheckpointError, Problem
from analysis.connectivity import (
    CurveSearch,
    StarSearch,
    StraightThrough,
    average,
    barrier,
    barrier_matrix,
    dropout_path,
    example_barriers,
    find_symmetries,
    initialisation_line,
    layer_barriers,
    linear_cka,
    match_activations,
    match_many,
    match_weights,
    merge,
    path_curvature,
    repaired_barrier,
    singular_alignment,
    unit_correlations,
)
from landscape_app.connecting import _said_of_barrier

PROBLEM = Problem(mlp((6, 8, 3)), "cross_entropy", classification())
FOUND = find_symmetries(PROBLEM)


def sound(seed):
    return PROBLEM.checkpoint(mlp((6, 8, 3), seed=seed), name=f"sound {seed}")


def nan():
    weights = sound(2).weights.map(lambda name, t: t.clone().index_fill_(0, torch.tensor([1]), float("nan")))
    return Checkpoint(weights, {}, "damaged")


def overflowing():
    scale = {"0.weight": 1e20, "2.weight": 3e38}
    return Checkpoint(sound(2).weights.map(lambda name, t: t.sign() * scale.get(name, 1.0)), {}, "damaged")


PATHS = {
    "barrier": lambda a, b: barrier(PROBLEM, a, b),
    "barrier_matrix": lambda a, b: barrier_matrix(PROBLEM, [a, sound(3), b]),
    "repaired_barrier": lambda a, b: repaired_barrier(FOUND, PROBLEM, a, b),
    "initialisation_line": lambda a, b: initialisation_line(PROBLEM, a, b),
    "dropout_path": lambda a, b: dropout_path(PROBLEM, a, b),
    "layer_barriers": lambda a, b: layer_barriers(PROBLEM, a, b),
    "path_curvature": lambda a, b: path_curvature(PROBLEM, a, b),
    "example_barriers": lambda a, b: [example_barriers(PROBLEM, a, b)],
    "CurveSearch": lambda a, b: CurveSearch(PROBLEM, a, b, steps=2).steps(),
    "StarSearch": lambda a, b: StarSearch(PROBLEM, [a, sound(3), b], steps=2).steps(),
    "StraightThrough": lambda a, b: StraightThrough(FOUND, PROBLEM, a, b, steps=2).steps(),
    "average": lambda a, b: [average(PROBLEM, [a, b])],
    "merge": lambda a, b: [merge(FOUND, PROBLEM, [a, b])],
    "merge, activations": lambda a, b: [merge(FOUND, PROBLEM, [a, b], method="activations")],
}
OF_WEIGHTS = {
    "match_weights": lambda a, b: match_weights(FOUND, a, b),
    "match_weights, problem": lambda a, b: match_weights(FOUND, a, b, problem=PROBLEM),
    "match_activations": lambda a, b: match_activations(FOUND, PROBLEM, a, b),
    "match_many": lambda a, b: match_many(FOUND, [a, sound(3), b]),
    "singular_alignment": lambda a, b: singular_alignment(a, b),
    "unit_correlations": lambda a, b: unit_correlations(PROBLEM, a, b, "0"),
    "linear_cka": lambda a, b: list(linear_cka(PROBLEM, a, b)),
}


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("call", {**PATHS, **OF_WEIGHTS}.values(), ids={**PATHS, **OF_WEIGHTS})
def test_weights_that_are_not_finite_are_refused(call, flip):
    pair = (sound(1), nan())[:: -1 if flip else 1]
    with pytest.raises(CheckpointError, match=r"'damaged' holds NaN or infinite weights in \['0.weight'"):
        list(call(*pair))


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("call", PATHS.values(), ids=PATHS)
def test_a_loss_that_is_not_finite_is_refused(call, flip):
    damaged = overflowing()
    assert not np.isfinite(PROBLEM.measure(damaged)["loss"][0])
    pair = (sound(1), damaged)[:: -1 if flip else 1]
    with pytest.raises(CheckpointError, match="loss at checkpoint 'damaged' is nan"):
        list(call(*pair))


def test_a_height_that_is_nan_is_no_absence():
    facts = {"title": "t", "evaluations": 3, "elapsed_s": 1.0}
    values = {"loss_barrier": np.nan, "loss_barrier_at": 0.0, "accuracy_barrier": 0.0, "accuracy_barrier_at": 0.0}
    said = _said_of_barrier(xr.Dataset({k: ((), v) for k, v in values.items()}, attrs=facts))
    assert "no barrier of accuracy" in said
    assert "barrier of loss NaN" in said
    assert "no barrier of loss" not in said
