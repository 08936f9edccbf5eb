"""The barrier between two checkpoints: closed forms, damaged ends, and the shipped networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, CheckpointError, LandscapeError, Problem, provenance, save
from analysis.connectivity import barrier, barrier_height, find_symmetries, match_activations, match_weights
from sample_checkpoints import load_digits
from sample_checkpoints.models import build


def number(value):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def on_a_line(function, start, end, **options):
    """The last dataset along a path of one weight, whose loss is a function of it."""
    problem = Problem(
        number(0.0), lambda model, batch: function(model.weight.sum()), (torch.zeros(3, 1),), dtype=torch.float64
    )
    ends = [problem.checkpoint(number(value), name=str(value)) for value in (start, end)]
    *_, ds = barrier(problem, *ends, **options)
    return ds


def test_a_double_well():
    ds = on_a_line(lambda w: (w**2 - 1) ** 2, -1.0, 1.0)
    assert float(ds.loss_barrier) == pytest.approx(1.0, rel=1e-12)
    assert float(ds.loss_barrier_at) == 0.5
    np.testing.assert_allclose(ds.loss, (4 * ds.t * (1 - ds.t)) ** 2, atol=1e-12)
    assert ds.attrs["status"] == "done"
    assert ds.attrs["progress"] == 1.0


def test_conventions_differ_for_unequal_ends():
    heights = {
        c: float(on_a_line(lambda w: w**2, 0.0, 2.0, convention=c).loss_barrier)
        for c in ("sup", "maxmean", "mid", "mc")
    }
    assert heights == pytest.approx({"sup": 0.0, "maxmean": 2.0, "mid": -1.0, "mc": 2.0}, abs=1e-12)
    bump = on_a_line(lambda w: w + 3 * (w * (2 - w)), 0.0, 2.0)  # a line and a parabola of height 3
    assert float(bump.loss_barrier) == pytest.approx(3.0, rel=1e-9)


def test_a_maximum_between_the_points_is_found():
    ds = on_a_line(lambda w: torch.exp(-(((w - 0.537) / 0.02) ** 2)), 0.0, 1.0, tolerance=1e-3)
    assert float(ds.loss_barrier) == pytest.approx(1.0, abs=2e-3)
    assert float(ds.loss_barrier_at) == pytest.approx(0.537, abs=1e-3)
    assert (np.diff(ds.t) > 0).all()


def test_every_dataset_is_complete_and_in_order():
    problem, a, b = digits_pair("mlp128")
    seen = list(barrier(problem, a, b, points=9))
    assert seen[-1].attrs["status"] == "done"
    assert {ds.attrs["status"] for ds in seen[:-1]} == {"running"}
    progress = [ds.attrs["progress"] for ds in seen]
    assert progress == sorted(progress)
    for ds in seen:
        assert (np.diff(ds.t) > 0).all()
        assert np.isfinite(ds.loss).all()
    first = problem.measure(a)["loss"][0]
    assert float(seen[-1].marker_loss[0]) == pytest.approx(first, rel=1e-6)
    assert float(seen[-1].loss[0]) == pytest.approx(first, rel=1e-6)
    assert [c["name"] for c in provenance(seen[-1])["checkpoints"]] == [a.name, b.name]
    x, middle = float(seen[-1].t[4]), Checkpoint(0.5 * (a.weights + b.weights), a.buffers, "middle")
    assert float(seen[-1].loss.sel(t=0.5)) == pytest.approx(problem.measure(middle)["loss"][0], rel=1e-5), x


def test_several_data_sets_at_once():
    data = load_digits()
    args = {"widths": [64, 128, 128, 10]}
    problem = Problem(
        build("mlp", args),
        "cross_entropy",
        (data.x_test, data.y_test),
        also={"train": (data.x_train, data.y_train)},
    )
    _, a, b = digits_pair("mlp128")
    *_, ds = barrier(problem, a, b, points=9)
    alone, _, _ = digits_pair("mlp128")
    *_, train = barrier(alone, a, b, points=9)
    assert float(ds.loss_train_barrier) == pytest.approx(float(train.loss_barrier), rel=0.01)
    assert float(ds.accuracy_train_barrier) > 0
    assert float(ds.loss_barrier) != float(ds.loss_train_barrier)


def test_a_damaged_end_raises():
    problem, a, b = digits_pair("mlp128")
    damaged = b.weights.map(lambda name, t: t.clone().index_fill_(0, torch.tensor([0]), float("nan")))
    with pytest.raises(CheckpointError, match="NaN or infinite weights"):
        barrier(problem, a, replace(b, weights=damaged))
    huge = b.weights.map(lambda name, t: torch.full_like(t, 1e30))
    with pytest.raises(CheckpointError, match="loss at checkpoint"):
        list(barrier(problem, a, replace(b, weights=huge)))


def test_a_loss_that_is_not_finite_on_the_way_is_an_infinite_barrier():
    ds = on_a_line(lambda w: 1 / (w - 0.5).abs() + 0 * w, 0.0, 1.0)
    assert float(ds.loss_barrier) == np.inf


def test_frozen_statistics_of_another_network_are_no_path():
    problem, a, b = digits_pair("resnet16", split="test")
    with pytest.raises(LandscapeError, match="recalibrated"):
        list(barrier(problem.with_batchnorm("frozen"), a, b, points=3))
    *_, ds = barrier(problem, a, b, points=3)
    assert provenance(ds)["batchnorm"] == "recalibrated"


def test_bad_arguments():
    problem, a, b = digits_pair("mlp128")
    for options, words in (
        ({"convention": "max"}, "sup"),
        ({"points": 4}, "odd"),
        ({"tolerance": 0}, "between 0 and 1"),
    ):
        with pytest.raises(LandscapeError, match=words):
            barrier(problem, a, b, **options)
    with pytest.raises(LandscapeError, match="same weights"):
        barrier(problem, a, a)
    with pytest.raises(LandscapeError, match=r"\[n\]"):
        barrier_height([0, 1], [1, 2, 3], [1, 2])
    with pytest.raises(LandscapeError, match="0.5"):
        barrier_height([0, 1], [1, 2], [1, 2], "mid")


def test_wide_networks_are_connected_after_matching(tmp_path):
    problem, a, b = digits_pair("mlp512")
    *_, naive = barrier(problem, a, b, points=9)
    found = find_symmetries(problem)
    *_, matched = barrier(problem, a, match_activations(found, problem, a, b).checkpoint, points=9)
    starts = ["identity", "activations"]
    *_, weights = barrier(problem, a, match_weights(found, a, b, starts=starts, problem=problem).checkpoint, points=9)
    assert float(naive.loss_barrier) >= 0.6
    assert float(matched.loss_barrier) <= 0.02
    assert float(weights.loss_barrier) <= 0.05
    save(matched, tmp_path / "matched.nc")
