"""A barrier is weighted negative curvature; an example's rise is deviation - jensen - target."""

import numpy as np
import pytest
import torch
from test_barrier import number
from test_matching import digits_pair
from torch import nn

from analysis import LandscapeError, Problem
from analysis.connectivity import barrier, example_barriers, path_curvature


def on_a_line(function, start, end, **options):
    problem = Problem(
        number(0.0), lambda model, batch: function(model.weight.sum()), (torch.zeros(3, 1),), dtype=torch.float64
    )
    *_, ds = path_curvature(problem, *(problem.checkpoint(number(v), name=str(v)) for v in (start, end)), **options)
    return ds


def test_a_double_well():
    ds = on_a_line(lambda w: (w**2 - 1) ** 2, -1.0, 1.0)
    w = 2 * ds.t - 1
    np.testing.assert_allclose(ds.curvature, 4 * (12 * w**2 - 4), atol=1e-10)
    assert float(ds.middle_rise_from_curvature) == pytest.approx(1.0, rel=1e-12)
    assert float(ds.middle_rise) == pytest.approx(1.0, rel=1e-12)
    assert float(ds.middle_rise_from_ends) == pytest.approx(4.0)  # 32 / 8 at both
    assert ds.attrs["status"] == "converged"
    assert ds.attrs["evaluations"] == 17  # of two halves of 8 intervals


def test_a_convex_loss_sags():
    ds = on_a_line(torch.exp, 0.0, 2.0)
    assert float(ds.middle_rise_from_curvature) == pytest.approx(np.e - (1 + np.e**2) / 2, rel=1e-9)
    assert float(ds.middle_rise_from_ends) == pytest.approx((1 - np.e**2) / 2 + (1 + np.e**2) / 4)


def test_a_kink_is_seen_by_the_losses_alone():
    ds = on_a_line(lambda w: torch.relu(w - 0.3) + 0 * w**2, 0.0, 1.0)
    assert float(ds.middle_rise_from_curvature) == 0
    assert float(ds.middle_rise) == pytest.approx(0.2 - 0.35)


def test_parameters_that_the_model_does_not_train_count_too():
    model = number(0.0).requires_grad_(False)
    problem = Problem(
        nn.Sequential(model, number(1.0)), lambda model, batch: model[0].weight.sum() ** 2, (torch.zeros(3, 1),)
    )
    a, b = (problem.checkpoint(nn.Sequential(number(v), number(1.0)), name=str(v)) for v in (0.0, 1.0))
    *_, ds = path_curvature(problem, a, b)
    assert float(ds.middle_rise_from_curvature) == pytest.approx(0.25 - 0.5)


@pytest.mark.parametrize("family", ["tanh64", "gelu64"])
def test_smooth_networks(family):
    problem, a, b = digits_pair(family)
    *_, ds = path_curvature(problem, a, b)
    assert ds.attrs["status"] == "converged"
    assert float(ds.middle_rise) > 0.1
    assert float(ds.middle_rise_from_curvature) == pytest.approx(float(ds.middle_rise), rel=1e-5)
    assert float(ds.curvature[0]) > 0 > float(ds.curvature.min())
    *_, path = barrier(problem, a, b, convention="mid", points=3)
    assert float(path.loss_barrier) == pytest.approx(float(ds.middle_rise), rel=1e-4)


def test_parts_of_each_example():
    problem, a, b = digits_pair("mlp128")
    t = 0.3
    ds = example_barriers(problem, a, b, t=t)
    x, y = (torch.cat(parts) for parts in zip(*problem.data.batches(), strict=True))
    losses = []
    for weights in (a.weights, b.weights, (1 - t) * a.weights + t * b.weights):
        model = torch.func.functional_call(problem.model, dict(weights), (x,))
        losses.append(nn.functional.cross_entropy(model.double(), y, reduction="none").detach())
    wanted = losses[2] - (1 - t) * losses[0] - t * losses[1]
    np.testing.assert_allclose(ds.rise, wanted, atol=1e-4)
    np.testing.assert_allclose(ds.rise, ds.deviation - ds.jensen - ds.target, atol=1e-12)
    assert float(ds.jensen.min()) >= -1e-12
    assert np.abs(ds.deviation).max() > 0.1
    np.testing.assert_array_equal(ds.label, y)
    *_, path = barrier(problem, a, b, convention="mid", points=3)
    middle = example_barriers(problem, a, b)
    assert float(middle.rise.mean()) == pytest.approx(float(path.loss_barrier), rel=1e-4)


def test_linear_logits_deviate_nowhere():
    torch.manual_seed(0)
    x = torch.randn(30, 5)
    problem = Problem(nn.Linear(5, 4), "cross_entropy", (x, torch.arange(30) % 4))
    a, b = (problem.checkpoint(nn.Linear(5, 4), name=name) for name in "ab")
    ds = example_barriers(problem, a, b)
    assert float(np.abs(ds.deviation).max()) < 1e-5
    np.testing.assert_allclose(ds.rise, -ds.jensen, atol=1e-5)
    assert float(ds.jensen.max()) > 0.01


def test_errors():
    problem, a, b = digits_pair("mlp128")
    residual, c, d = digits_pair("resnet16")
    with pytest.raises(LandscapeError, match="batch"):
        path_curvature(residual, c, d)
    with pytest.raises(LandscapeError, match="recalibrated"):
        example_barriers(residual.with_batchnorm("frozen"), c, d)
    with pytest.raises(LandscapeError, match="tolerance"):
        path_curvature(problem, a, b, tolerance=0)
    with pytest.raises(LandscapeError, match="same weights"):
        path_curvature(problem, a, a)
    with pytest.raises(LandscapeError, match=r"\[0, 1\]"):
        example_barriers(problem, a, b, t=2)
    data = problem.data.batches()[0]
    squared = Problem(problem.model, "mse", (data[0], torch.randn(len(data[0]), 10)))
    with pytest.raises(LandscapeError, match="cross entropy"):
        example_barriers(squared, a, b)
    smoothed = Problem(problem.model, nn.CrossEntropyLoss(label_smoothing=0.1), data)
    with pytest.raises(LandscapeError, match="smooths"):
        example_barriers(smoothed, a, b)
