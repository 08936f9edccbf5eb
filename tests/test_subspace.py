from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvBN, Tied, mlp
from torch import nn

from analysis import Checkpoint, LandscapeError, Line, Plane


def checkpoint(model: nn.Module, name: str = "model") -> Checkpoint:
    return Checkpoint.of(model, name)


def filters(weights, name):
    return weights.structure.entries[name].to_filters(weights[name].double())


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    kernel=st.integers(1, 3),
    seed=st.integers(0, 10**6),
)
def test_random_axes_are_filter_normalised_and_orthogonal_together(sizes, kernel, seed):
    g = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        *[nn.Conv2d(a, b, kernel) for a, b in pairwise(sizes)],
        nn.Linear(sizes[-1] + 2, 4),
    )
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    point = checkpoint(model)
    plane = Plane.random(point, seed=seed)
    for name, entry in point.weights.structure.entries.items():
        if entry.kind != "weight":
            continue
        own = filters(point.weights, name)
        if own.shape[1] == 1:
            own = own.reshape(1, -1)
        if own.numel() == 1:
            continue  # one number has no room for two orthogonal directions
        parts = [filters(axis.weights, name).reshape(own.shape) for axis in plane.axes]
        for part in parts:
            assert torch.allclose(part.norm(dim=1) / own.norm(dim=1), torch.ones(len(own)).double(), atol=1e-6)
        cosine = (parts[0] * parts[1]).sum(1) / own.norm(dim=1) ** 2
        assert cosine.abs().max() < 1e-6
    a, b = (axis.weights for axis in plane.axes)
    assert abs(a.dot(b)) / (a.norm() * b.norm()) < 1e-6


def test_biases_norms_and_frozen_parameters_stay_unless_asked():
    model = ConvBN()
    model.head.weight.requires_grad_(False)
    point = checkpoint(model)
    still = Plane.random(point)
    for axis in still.axes:
        moved = {name for name, tensor in axis.weights.items() if tensor.abs().sum() > 0}
        assert moved == {"conv.weight"}
    every = Line.random(point, include=("weight", "bias", "norm"), frozen=True)
    moved = {name for name, t in every.axes[0].weights.items() if t.abs().sum() > 0}
    zero = {name for name, t in point.weights.items() if t.abs().sum() == 0}
    assert moved == set(point.weights) - zero


def test_a_zero_filter_stays_and_divides_nothing():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight[1] = 0
    axis = Line.random(checkpoint(model)).axes[0].weights["weight"]
    assert torch.isfinite(axis).all()
    assert axis[1].abs().sum() == 0
    assert axis[0].norm() == pytest.approx(float(model.weight[0].detach().norm()), rel=1e-6)


def test_the_seed_decides_and_the_global_generator_does_not():
    point = checkpoint(mlp())
    torch.manual_seed(3)
    first = Plane.random(point, seed=5)
    torch.manual_seed(4)
    again, other = Plane.random(point, seed=5), Plane.random(point, seed=6)
    assert first.axes[1].weights.digest() == again.axes[1].weights.digest()
    assert first.axes[0].weights.digest() != other.axes[0].weights.digest()


def test_directions_are_gaussian_and_do_not_share_the_signs_of_the_weights():
    model = nn.Linear(400, 400, bias=False)
    nn.init.constant_(model.weight, 0.5)
    direction = Line.random(checkpoint(model)).axes[0].weights["weight"].double() / 0.5
    assert abs(float(direction.mean())) < 0.02
    assert float((direction**4).mean()) == pytest.approx(3.0, abs=0.1)  # kurtosis: 3 normal, 1.8 uniform


def test_tied_weights_move_once():
    point = checkpoint(Tied())
    axis = Line.random(point).axes[0].weights
    assert "head.weight" not in dict(axis.items())
    rows = axis["embedding.weight"].norm(dim=1) / point.weights["embedding.weight"].norm(dim=1)
    assert torch.allclose(rows, torch.ones_like(rows), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "two", "three"])
def test_project_undoes_point(dtype, kind):
    one, two, three = (checkpoint(mlp(seed=s).to(dtype), str(s)) for s in range(3))
    plane = {
        "random": lambda: Plane.random(one),
        "two": lambda: Plane.through(one, two),
        "three": lambda: Plane.through(one, two, three),
    }[kind]()
    eps = torch.finfo(dtype).eps
    rng = np.random.default_rng(0)
    for _ in range(5):
        c = rng.uniform(-2, 2, 2)
        weights = plane.point(*c)
        back, residual = plane.project(weights)
        for k, axis in enumerate(plane.axes):
            assert abs(back[k] - c[k]) <= 10 * eps * weights.norm() / axis.length
        assert residual <= 10 * eps * weights.norm()


def test_through_checkpoints_the_markers_lie_where_their_distances_say():
    one, two, three = (checkpoint(mlp(seed=s).double(), str(s)) for s in range(3))
    line = Line.through(one, two)
    assert torch.allclose(line.point(1.0).flatten(), two.weights.flatten(), atol=1e-14)
    plane = Plane.through(one, two, three)
    spots = np.array([plane.project(m)[0] for m in plane.markers])
    unit = (two.weights - one.weights).norm()
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        distance = (plane.markers[i].weights - plane.markers[j].weights).norm()
        assert np.linalg.norm(spots[i] - spots[j]) * unit == pytest.approx(distance, rel=1e-10)
    assert spots[2, 1] > 0
    assert max(plane.project(m)[1] for m in plane.markers) < 1e-12
    (a_low, a_high), (b_low, b_high) = plane.default_extent()
    assert (spots[:, 0] > a_low).all()
    assert (spots[:, 0] < a_high).all()
    assert (spots[:, 1] > b_low).all()
    assert (spots[:, 1] < b_high).all()


def test_a_residual_off_the_plane_is_the_distance():
    one, two = checkpoint(mlp(seed=0).double()), checkpoint(mlp(seed=1).double(), "b")
    plane = Plane.random(one)
    coordinates, residual = plane.project(two)
    rest = two.weights - plane.point(*coordinates)
    assert residual == pytest.approx(rest.norm(), rel=1e-10)
    for axis in plane.axes:
        assert abs(rest.dot(axis.weights)) < 1e-6 * rest.norm() * axis.length


def test_a_path_through_checkpoints_moves_frozen_parameters_too():
    first, second = mlp(seed=0), mlp(seed=1)
    for model in (first, second):
        model[0].weight.requires_grad_(False)
    line = Line.through(checkpoint(first), checkpoint(second, "b"))
    assert torch.allclose(line.point(1.0)["0.weight"], second[0].weight.detach(), atol=1e-6)


def test_what_spans_nothing_is_refused():
    one, two = checkpoint(mlp(seed=0)), checkpoint(mlp(seed=1), "two")
    with pytest.raises(LandscapeError, match="the same weights"):
        Line.through(one, one)
    middle = Checkpoint(Line.through(one, two).point(0.5), one.buffers, "middle")
    with pytest.raises(LandscapeError, match="lie on one line"):
        Plane.through(one, two, middle)
    with pytest.raises(LandscapeError, match=r"'2\.weight' is"):
        Line.through(one, checkpoint(mlp((6, 16, 8, 3)), "other"))
    frozen = mlp()
    frozen.requires_grad_(False)
    with pytest.raises(LandscapeError, match="No parameter would move"):
        Plane.random(checkpoint(frozen))
    with pytest.raises(LandscapeError, match="accepted are some of"):
        Plane.random(one, include=("filters",))
    with pytest.raises(LandscapeError, match="needs 2 coordinates"):
        Plane.random(one).point(1.0)
