"""Paths with known heights: dropout stability and its bound, the line from initialisation, REPAIR along the way."""

import copy
import math

import numpy as np
import pytest
import torch
from test_barrier import number
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import (
    barrier,
    dropout_curve,
    dropout_path,
    find_symmetries,
    initialisation_line,
    match_weights,
    repaired,
    repaired_barrier,
)
from sample_checkpoints import load_digits
from sample_checkpoints.models import mlp


def trained(width, seed):
    torch.manual_seed(seed)
    data, model = load_digits(), mlp([64, width, 10])
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data.x_train), data.y_train).backward()
        optimiser.step()
    return model


def one_hidden(width):
    data = load_digits()
    problem = Problem(mlp([64, width, 10]), "cross_entropy", (data.x_train, data.y_train), dtype=torch.float64)
    return problem, *(problem.checkpoint(trained(width, seed).double(), name=str(seed)) for seed in (0, 1))


@pytest.mark.parametrize("width", [15, 16])
def test_the_corners_of_a_dropout_path(width):
    problem, a, b = one_hidden(width)
    corners = dropout_curve(a, b).points
    assert corners[0] is a
    assert corners[-1] is b
    kept, x = (width + 1) // 2, problem.data.batches()[0][0]

    def output(checkpoint):
        model = mlp([64, width, 10]).double()
        model.load_state_dict(dict(checkpoint.weights))
        with torch.no_grad():
            return model(x)

    for corner, end, units in ((corners[1], a, slice(0, kept)), (corners[4], b, slice(kept, width))):
        w = end.weights
        hidden = torch.relu(x @ w["fc1.weight"].T + w["fc1.bias"])[:, units]
        scale = width / hidden.shape[1]
        torch.testing.assert_close(output(corner), scale * hidden @ w["fc2.weight"][:, units].T + w["fc2.bias"])
    torch.testing.assert_close(output(corners[2]), output(corners[1]))  # only what is switched off moves
    torch.testing.assert_close(output(corners[3]), output(corners[4]))


def test_a_dropout_path_stays_below_its_bound_which_falls_with_width(tmp_path):
    bounds = []
    for width in (16, 256):
        problem, a, b = one_hidden(width)
        *_, ds = dropout_path(problem, a, b)
        assert ds.sizes["t"] == 51
        assert ds.sizes["vertex"] == 6
        assert float(ds.loss.max()) <= float(ds.loss_bound) + 1e-9
        assert float(ds.loss[0]) == pytest.approx(problem.measure(a)["loss"][0], rel=1e-9)
        assert float(ds.loss[-1]) == pytest.approx(problem.measure(b)["loss"][0], rel=1e-9)
        np.testing.assert_allclose(ds.loss[10:21], ds.vertex_loss[1], rtol=1e-9)
        assert float(ds.vertex_loss[1]) == pytest.approx(problem.measure(dropout_curve(a, b).points[1])["loss"][0])
        bounds.append(float(ds.loss_bound))
    assert bounds[1] < 0.3 * bounds[0]
    assert load(save(ds, tmp_path / "dropout.nc")).equals(ds)


def test_other_networks_have_no_dropout_path():
    problem, a, b = digits_pair("mlp128")
    with pytest.raises(LandscapeError, match="two linear layers"):
        dropout_path(problem, a, b)
    with pytest.raises(LandscapeError, match="points"):
        dropout_path(problem, a, b, points=1)


@pytest.mark.parametrize("policy", ["recalibrated", "frozen", "batch"])
def test_units_that_are_normalised_alone_have_a_dropout_path(policy):
    layers = (nn.Linear(64, 16), nn.ReLU(), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 10))
    data = load_digits()
    problem = Problem(nn.Sequential(*layers), "cross_entropy", (data.x_test, data.y_test), batchnorm=policy)
    *_, ds = dropout_path(problem, *_two_of(*layers))
    assert float(ds.loss.max()) <= float(ds.loss_bound) + 1e-6


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(64, 8), nn.ReLU(), nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 10)),
        (nn.Linear(64, 8), nn.Softmax(1), nn.Linear(8, 10)),
        (nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), nn.Tanh()),
        (nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10), nn.LayerNorm(10, elementwise_affine=False)),
    ],
    ids=["norm over units", "softmax over units", "bend after the outputs", "norm after the outputs"],
)
def test_networks_whose_path_has_no_bound_are_refused(layers):
    data = load_digits()
    problem = Problem(nn.Sequential(*layers), "cross_entropy", (data.x_test, data.y_test))
    with pytest.raises(LandscapeError, match="two linear layers.*CurveSearch"):
        dropout_path(problem, *_two_of(*layers))


def _two_of(*layers):
    for seed in (0, 1):
        torch.manual_seed(seed)
        yield Checkpoint.of(nn.Sequential(*(layer.apply(_anew) for layer in copy.deepcopy(layers))), str(seed))


def _anew(module):
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()


def on_a_line(function, points):
    problem = Problem(
        number(0.0), lambda model, batch: function(model.weight.sum()), (torch.zeros(3, 1),), dtype=torch.float64
    )
    *_, ds = initialisation_line(
        problem, *(problem.checkpoint(number(v), name=str(v)) for v in (0.0, 1.0)), points=points
    )
    return ds


def test_rises_on_the_line_from_initialisation_are_counted():
    falling = on_a_line(lambda w: (w - 1) ** 2, 51)
    assert int(falling.loss_increases) == 0
    assert float(falling.loss_largest_rise) == 0
    wave = on_a_line(lambda w: torch.cos(4 * math.pi * w) - 3 * w, 41)  # falls and rises twice
    values = np.cos(4 * np.pi * np.linspace(0, 1, 41)) - 3 * np.linspace(0, 1, 41)
    np.testing.assert_allclose(wave.loss, values, atol=1e-12)
    assert int(wave.loss_increases) == int((np.diff(values) > 0).sum()) == 16
    assert float(wave.loss_largest_rise) == pytest.approx(
        max(values[j] - values[i] for i in range(41) for j in range(i, 41))
    )


def test_a_trained_network_is_reached_without_a_rise():
    data = load_digits()
    torch.manual_seed(0)
    initial = mlp([64, 32, 10])
    problem = Problem(initial, "cross_entropy", (data.x_train, data.y_train))
    *_, ds = initialisation_line(problem, problem.checkpoint(), problem.checkpoint(trained(32, 0), name="trained"))
    assert int(ds.loss_increases) == 0
    assert provenance(ds)["checkpoints"][1]["name"] == "trained"
    with pytest.raises(LandscapeError, match="points"):
        initialisation_line(problem, problem.checkpoint(), problem.checkpoint(trained(32, 0)), points=1)


def test_every_place_of_a_repaired_path_is_repaired():
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    matched = match_weights(found, a, b).checkpoint
    *_, ds = repaired_barrier(found, problem, a, matched, points=5)
    for t in (0.0, 0.25, 0.5, 1.0):
        mixed = Checkpoint((1 - t) * a.weights + t * matched.weights, a.buffers, "mixed")
        wanted = repaired(found, problem, mixed, (a, matched), shares=(1 - t, t)) if 0 < t < 1 else (a, matched)[int(t)]
        assert float(ds.loss.sel(t=t)) == pytest.approx(problem.measure(wanted)["loss"][0], rel=1e-4)
    *_, plain = barrier(problem, a, matched, points=5, tolerance=0.9)
    assert abs(float(ds.loss.sel(t=0.5)) - float(plain.loss.sel(t=0.5))) > 1e-4
    with pytest.raises(LandscapeError, match="odd"):
        repaired_barrier(found, problem, a, matched, points=4)
    with pytest.raises(LandscapeError, match="sup"):
        repaired_barrier(found, problem, a, matched, convention="max")
