"""Points of planes and curves as checkpoints: files that the original class loads, with the loss of the picture."""

import numpy as np
import pytest
import torch
from models import ConvBN, Tied, trained_conv_bn
from safetensors.torch import load_file
from torch import nn

from analysis import CheckpointError, Plane, Problem, Weights, evaluate, save_checkpoint
from analysis.connectivity import Curve


def drawn(problem, space, *at):
    (ds,) = [ds for ds in evaluate(problem, space, np.array([at])) if ds.attrs["status"] == "done"]
    return float(ds.loss[0])


def strictly_loaded(path, fresh, x, y):
    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    fresh.load_state_dict(state, strict=True)
    with torch.no_grad():
        return float(nn.functional.cross_entropy(fresh.eval()(x), y))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_point_of_a_plane_is_saved_as_a_checkpoint_with_the_loss_that_the_picture_shows(suffix, tmp_path):
    model, x, y = trained_conv_bn()
    other = trained_conv_bn(seed=1)[0]
    for policy in ("recalibrated", "frozen"):
        problem = Problem(model, "cross_entropy", (x, y), calibration=(x[:50], y[:50]), batchnorm=policy)
        plane = Plane.random(problem.checkpoint(other), seed=3)
        made = problem.checkpoint(plane.point(0.7, -0.4), buffers=plane.origin, name="there")
        path = save_checkpoint(made, tmp_path / f"{policy}{suffix}")
        found = strictly_loaded(path, ConvBN(), x, y)
        assert found == pytest.approx(drawn(problem, plane, 0.7, -0.4), rel=1e-5)
        assert problem.measure(made)["loss"][0] == pytest.approx(found, rel=1e-5)
        assert made.name == "there"


def test_a_point_of_a_curve_is_saved_with_tied_weights(tmp_path):
    tokens = torch.arange(22).reshape(2, 11) % 11
    problem = Problem(Tied(), "cross_entropy", (tokens, tokens))
    a, b, c = (problem.checkpoint(trained) for trained in (Tied(), Tied(), Tied()))
    curve = Curve("bezier", (a, b, c))
    made = problem.checkpoint(curve.point(0.3))
    Tied().load_state_dict(torch.load(save_checkpoint(made, tmp_path / "x.pt"), weights_only=True), strict=True)
    assert all(torch.equal(made.weights[name], tensor) for name, tensor in curve.point(0.3).items())


@pytest.mark.parametrize("policy", ["frozen", "batch"])
def test_weights_alone_are_refused_where_no_statistics_are_estimated_anew(policy):
    model, x, y = trained_conv_bn()
    problem = Problem(model, "cross_entropy", (x, y), batchnorm=policy)
    with pytest.raises(CheckpointError, match=r"bn\.running_mean.*buffers=plane\.origin"):
        problem.checkpoint(Plane.random(problem.checkpoint()).point(0, 0))


def test_buffers_go_with_weights_alone():
    model, x, y = trained_conv_bn()
    problem = Problem(model, "cross_entropy", (x, y))
    with pytest.raises(CheckpointError, match="buffers"):
        problem.checkpoint(model, buffers=problem.checkpoint())
    with pytest.raises(CheckpointError, match="checkpoint is needed"):
        problem.checkpoint(problem.checkpoint().weights, buffers="x.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        problem.checkpoint(Weights.of(nn.Linear(2, 2)))
