"""Barriers of single layers: by hand, on linear networks, and against random moves of the same length."""

import numpy as np
import pytest
import torch
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import barrier, layer_barriers, layers_of, with_layers
from sample_checkpoints.models import build


@pytest.fixture(scope="module")
def result():
    problem, a, b = digits_pair("mlp128")
    seen = list(layer_barriers(problem, a, b, draws=3))
    return problem, a, b, seen


def loss_of(problem, state):
    model = build("mlp", {"widths": [64, 128, 128, 10]}).double()
    model.load_state_dict({k: v.double() for k, v in state.items()})
    x, y = (torch.cat(parts) for parts in zip(*problem.data.batches(), strict=True))
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x.double()), y))


def test_each_layer_by_hand(result):
    problem, a, b, (*_, ds) = result
    mean = (loss_of(problem, a.weights) + loss_of(problem, b.weights)) / 2
    for into, (d, other) in enumerate(((a, b), (b, a))):
        for layer in ("fc1", "fc2", "fc3"):
            state = {k: (t + other.weights[k]) / 2 if k.startswith(layer) else t for k, t in d.weights.items()}
            wanted = loss_of(problem, state) - mean
            assert float(ds.loss_barrier.sel(layer=layer).isel(into=into)) == pytest.approx(wanted, abs=1e-5)
        state = {k: t if k.startswith("fc1") else (t + other.weights[k]) / 2 for k, t in d.weights.items()}
        here = ds.loss_cumulative.sel(order="deep", layer="fc2").isel(into=into)
        assert float(here) == pytest.approx(loss_of(problem, state) - mean, abs=1e-5)


def test_all_layers_together_are_the_barrier_at_the_middle(result):
    problem, a, b, (*_, ds) = result
    *_, whole = barrier(problem, a, b, convention="mid", points=3)
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(
            ds[f"{metric}_cumulative"].isel(layer=-1).sel(order="shallow"), whole[f"{metric}_barrier"], atol=1e-5
        )
        np.testing.assert_allclose(
            ds[f"{metric}_cumulative"].sel(order="deep").isel(layer=-1), whole[f"{metric}_barrier"], atol=1e-5
        )


def test_single_layers_rise_less_than_all_and_more_than_random_moves(result):
    *_, ds = result[-1]
    full = float(ds.loss_cumulative.sel(order="shallow").isel(layer=-1, into=0))
    assert float(ds.loss_barrier.max()) < 0.75 * full  # measured in the literature's setting: 0.32 to 0.54
    first = ds.sel(layer="fc1")
    assert float(first.loss_control.mean()) < 0.5 * float(first.loss_barrier.mean())


def test_controls_move_as_far_as_half_way(result):
    from analysis.connectivity.layers import _Layers
    from analysis.subspace import Line

    problem, a, b, (*_, ds) = result
    moved = _Layers(problem, Line.through(a, b), 1, 0)._elsewhere(a, "fc2", 1, 0) - a.weights
    apart = torch.cat([(b.weights[n] - a.weights[n]).flatten() for n in ("fc2.weight", "fc2.bias")]).norm()
    assert moved.norm() == pytest.approx(float(apart) / 2, rel=1e-5)
    assert moved["fc1.weight"].norm() == 0
    assert float(ds.distance.sel(layer="fc2")) == pytest.approx(float(apart), rel=1e-5)


def test_every_dataset_is_complete(result, tmp_path):
    problem, a, b, seen = result
    assert seen[-1].attrs["status"] == "done"
    assert all(np.isfinite(v).all() for v in seen[-1].data_vars.values())
    assert {ds.attrs["status"] for ds in seen[:-1]} <= {"running"}
    assert seen[-1].attrs["evaluations"] == seen[-1].attrs["planned_evaluations"]
    assert provenance(seen[-1])["draws"] == 3
    again = load(save(seen[-1], tmp_path / "layers.nc"))
    np.testing.assert_array_equal(again.loss_control, seen[-1].loss_control)
    *_, second = layer_barriers(problem, a, b, draws=3)
    np.testing.assert_array_equal(second.loss_control, seen[-1].loss_control)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(4))).double()


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_one_layer_of_a_linear_network_has_no_barrier(loss):
    x = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = {"mse": x.flip(1), "cross_entropy": x.argmax(1)}[loss]
    problem = Problem(linear(0), loss, (x, y), dtype=torch.float64)
    a, b = (problem.checkpoint(linear(seed), name=str(seed)) for seed in (1, 2))
    for layer in layers_of(a):
        *_, ds = barrier(problem, a, with_layers(a, b, [layer]))
        assert float(ds.loss_barrier) <= 1e-9


def test_two_layers_of_a_linear_network_may_have_one():
    model = linear(0)
    for layer in model:
        nn.init.eye_(layer.weight)
    x = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = Problem(model, "half_squared_error", (x, x), dtype=torch.float64)
    a = problem.checkpoint()
    negated = Checkpoint(-1.0 * a.weights, a.buffers, "negated")
    *_, ds = barrier(problem, a, with_layers(a, negated, ["1", "2"]))  # the same function, through zero
    assert float(ds.loss_barrier) == pytest.approx(float(x.square().sum(1).mean()) / 2, rel=1e-9)


def test_errors():
    problem, a, b = digits_pair("mlp128")
    with pytest.raises(LandscapeError, match=r"there are \['fc1', 'fc2', 'fc3'\]"):
        with_layers(a, b, ["fc9"])
    with pytest.raises(LandscapeError, match="draws"):
        layer_barriers(problem, a, b, draws=-1)
    with pytest.raises(LandscapeError, match="same weights"):
        layer_barriers(problem, a, a)
    residual, c, d = digits_pair("resnet16")
    with pytest.raises(LandscapeError, match="recalibrated"):
        layer_barriers(residual.with_batchnorm("frozen"), c, d)
