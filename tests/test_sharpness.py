"""Sharpness against closed forms: on a quadratic each maximum over a ball is a trust-region problem."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from models import classification, linear_regression, mlp, mlp_problem, trained_conv_bn
from scipy.optimize import brentq
from torch import nn

from analysis import LandscapeError, Problem, load, save
from analysis.curvature.operators import Curvature
from analysis.curvature.sharpness import GEOMETRIES, sharpness

DOUBLE = torch.float64


def last(*arguments, **options):
    *_, final = sharpness(*arguments, **options)
    return final


def largest_on_a_ball(slope, matrix, radius):
    """max slope'u + u'Mu / 2 with |u| <= radius, by the secular equation (Conn, Gould, Toint 2000, section 7.2)."""
    values, vectors = np.linalg.eigh(matrix)
    inside = vectors.T @ slope
    top = values[-1]
    size = lambda shift: np.linalg.norm(inside / (shift - values)) - radius  # noqa: E731
    if np.linalg.norm(inside) == 0:
        return top * radius**2 / 2
    shift = brentq(size, top + 1e-12, top + np.linalg.norm(inside) / radius + 1)
    u = inside / (shift - values)
    return inside @ u + values @ u**2 / 2


@pytest.fixture
def quadratic():
    """A linear regression away from its minimum: the problem, its gradient, its Hessian and its weights."""
    model, x, y = linear_regression(DOUBLE)
    problem = Problem(model, "half_squared_error", (x, y), dtype=DOUBLE)
    operator = Curvature(problem)
    matrix = operator.matmat(torch.eye(18, dtype=DOUBLE))
    return problem, operator.gradient, matrix, problem.checkpoint().weights


def scales(weights):
    """D of each geometry by hand, for a linear layer."""
    rows = weights["weight"].norm(dim=1, keepdim=True).expand(3, 5)
    return {
        "euclidean": torch.ones(18, dtype=DOUBLE),
        "filter": torch.cat([rows.flatten(), weights["bias"].abs()]),
        "adaptive": torch.cat([weights["weight"].abs().flatten(), weights["bias"].abs()]),
    }


def test_a_quadratic_gives_the_maxima_in_closed_form(quadratic):
    problem, gradient, matrix, weights = quadratic
    ds = last(problem, radii=(0.02, 0.3, 2.0), steps=60)
    for geometry, d in scales(weights).items():
        slope, bent = (d * gradient).numpy(), (d[:, None] * matrix * d).numpy()
        own = ds.sel(geometry=geometry)
        for radius in (0.02, 0.3, 2.0):
            rise = largest_on_a_ball(slope, bent, radius)
            steepest = slope @ slope + 2 * largest_on_a_ball(bent @ slope, bent @ bent, radius)
            assert float(own.zeroth_order.sel(radius=radius)) == pytest.approx(rise, rel=2e-3)
            assert float(own.first_order.sel(radius=radius)) == pytest.approx(radius * steepest**0.5, rel=2e-3)
        assert float(own.top_eigenvalue) == pytest.approx(np.linalg.eigvalsh(bent)[-1], rel=1e-3)
    assert float(ds.attrs["loss"]) == pytest.approx(problem.measure()["loss"][0])


def test_no_value_is_above_the_maximum(quadratic):
    problem, gradient, matrix, weights = quadratic
    ds = last(problem, radii=(0.3,), steps=2, starts=0)
    for geometry, d in scales(weights).items():
        most = largest_on_a_ball((d * gradient).numpy(), (d[:, None] * matrix * d).numpy(), 0.3)
        assert 0 < float(ds.zeroth_order.sel(geometry=geometry)[0]) <= most * (1 + 1e-9)
    assert "lower bound" in ds.zeroth_order.attrs["note"]
    assert "lower bound" in ds.first_order.attrs["note"]


def test_at_a_minimum_they_are_the_top_eigenvalue(quadratic):
    """R0 = radius² λ / 2 and R1 = radius² λ (methods 7)."""
    problem, gradient, matrix, weights = quadratic
    best = weights.unflatten(weights.flatten() - torch.linalg.solve(matrix, gradient))
    ds = last(problem, problem.checkpoint(dict(best)), radii=(0.1, 1.0), geometries=("euclidean",), steps=60)
    top = float(torch.linalg.eigvalsh(matrix)[-1])
    np.testing.assert_allclose(ds.zeroth_order[0], top * np.array([0.01, 1.0]) / 2, rtol=1e-3)
    np.testing.assert_allclose(ds.first_order[0], top * np.array([0.01, 1.0]), rtol=1e-3)


def test_the_average_on_a_quadratic_is_half_the_trace(quadratic):
    problem, _, matrix, weights = quadratic
    ds = last(problem, radii=(0.1,), steps=1, sigmas=(0.01, 0.5), draws=100)
    for geometry, d in scales(weights).items():
        own = ds.sel(geometry=geometry)
        truth = np.array([0.01, 0.5]) ** 2 * float((d**2 * matrix.diagonal()).sum()) / 2
        assert (np.abs(own.average - truth) < 4 * own.average_se).all()
        spread = 0.5**2 * float((d[:, None] * matrix * d).square().sum() / 2) ** 0.5 / 100**0.5
        assert float(own.average_se[1]) == pytest.approx(spread, rel=0.3)


def test_at_a_maximum_nothing_rises(quadratic):
    """The checkpoint itself is within each radius: R0 is 0 there, and R1 = radius² |λ|."""
    problem, gradient, matrix, weights = quadratic
    x, y = (problem.data.batches()[0][i] for i in range(2))
    best = weights.unflatten(weights.flatten() - torch.linalg.solve(matrix, gradient))
    turned = lambda output, target: -(output - target).square().sum(1).mean() / 2  # noqa: E731
    top = Problem(problem.model, turned, (x, y), metrics=[], dtype=DOUBLE)
    ds = last(top, top.checkpoint(dict(best)), radii=(0.1,), geometries=("euclidean",), steps=100)
    assert float(ds.zeroth_order[0, 0]) == pytest.approx(0, abs=1e-12)
    assert float(ds.first_order[0, 0]) == pytest.approx(0.01 * float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)
    assert float(ds.top_eigenvalue[0]) < 0


def test_chosen_layers_alone_move(quadratic):
    problem, gradient, matrix, weights = quadratic
    ds = last(problem, radii=(0.3,), layers=["bias"], steps=60)
    for geometry, d in scales(weights).items():
        d = d[15:]
        most = largest_on_a_ball((d * gradient[15:]).numpy(), (d[:, None] * matrix[15:, 15:] * d).numpy(), 0.3)
        assert float(ds.zeroth_order.sel(geometry=geometry)[0]) == pytest.approx(most, rel=2e-3)


def test_frozen_parameters_stay():
    net = mlp()
    net[0].requires_grad_(False)
    problem = Problem(net, "cross_entropy", classification(), dtype=DOUBLE)
    part = mlp_problem(dtype=DOUBLE)
    one = last(problem, radii=(0.1,), sigmas=(0.01,))
    other = last(part, radii=(0.1,), sigmas=(0.01,), layers=["2.*", "4.*"])
    np.testing.assert_allclose(one.zeroth_order, other.zeroth_order, rtol=1e-9)
    np.testing.assert_allclose(one.average, other.average, rtol=1e-9)


def trained(net, x, y, steps=80):
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


def tanh_net():
    net = mlp(seed=3)
    net[1] = nn.Tanh()
    return net


NETS = {
    "relu": lambda: Problem(mlp(), "cross_entropy", classification()),
    "trained": lambda: Problem(trained(mlp(), *classification()), "cross_entropy", classification()),
    "tanh": lambda: Problem(tanh_net(), "cross_entropy", classification(), dtype=DOUBLE),
    "conv": lambda: Problem(trained_conv_bn()[0], "cross_entropy", trained_conv_bn()[1:], batchnorm="frozen"),
    "recalibrated": lambda: Problem(trained_conv_bn()[0], "cross_entropy", trained_conv_bn()[1:]),
    "batch": lambda: Problem(trained_conv_bn()[0], "cross_entropy", trained_conv_bn()[1:], batchnorm="batch"),
}


@pytest.mark.parametrize("net", NETS)
def test_the_first_order_is_above_the_zeroth(net):
    """R0 <= R1 by the mean value theorem; and both grow with the radius."""
    ds = last(NETS[net](), radii=(0.02, 0.1, 0.5), sigmas=(0.01,), draws=2)
    assert (ds.zeroth_order > 0).all()
    assert (ds.zeroth_order <= ds.first_order * (1 + 1e-6)).all()
    for name in ("zeroth_order", "first_order"):
        assert (ds[name].diff("radius") > 0).all()


@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
def test_normalisation_is_that_of_the_curvature(policy):
    """Within a small radius the loss is the parabola of gradient and Hessian under the same policy."""
    net, x, y = trained_conv_bn()
    with torch.no_grad():
        net.bn.running_var *= 3  # stale
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, dtype=DOUBLE)
    operator = Curvature(problem)
    matrix = operator.matmat(torch.eye(operator.shape[1], dtype=DOUBLE)).numpy()
    ds = last(problem, radii=(0.01,), sigmas=(0.001,), geometries=("euclidean",), steps=60)
    most = largest_on_a_ball(operator.gradient.numpy(), (matrix + matrix.T) / 2, 0.01)
    assert float(ds.zeroth_order[0, 0]) == pytest.approx(most, rel=0.01)
    assert ds.attrs["loss"] == pytest.approx(problem.measure()["loss"][0], rel=1e-9)
    assert json.loads(ds.attrs["provenance"])["batchnorm"] == policy


def rescaled(net, factors):
    """The same function of another parametrisation: each hidden ReLU unit by its factor, the next layer by 1 / it."""
    with torch.no_grad():
        net[0].weight *= factors[:, None]
        net[0].bias *= factors
        net[2].weight /= factors
    return net


@pytest.mark.parametrize(("factors", "same"), [("layer", ("filter", "adaptive")), ("unit", ("adaptive",))])
def test_rescaling_of_relu_layers(factors, same):
    x, y = classification()
    by = torch.full((16,), 5.0) if factors == "layer" else torch.logspace(-1, 1, 16)
    options = {"radii": (0.05, 0.2), "sigmas": (0.05,)}
    plain = last(Problem(mlp(), "cross_entropy", (x, y), dtype=DOUBLE), **options)
    moved = last(Problem(rescaled(mlp().double(), by.double()), "cross_entropy", (x, y), dtype=DOUBLE), **options)
    for geometry in GEOMETRIES:
        for name in ("zeroth_order", "first_order", "average"):
            one, other = (ds[name].sel(geometry=geometry).values for ds in (plain, moved))
            if geometry in same:
                np.testing.assert_allclose(one, other, rtol=1e-5)
            elif geometry == "euclidean":
                assert (np.abs(one / other - 1) > 0.1).all()


def test_results_fill_up_and_can_be_stopped(tmp_path):
    net = mlp()
    before = [p.clone() for p in net.parameters()]
    problem = Problem(net, "cross_entropy", classification())
    results = list(sharpness(problem, radii=(0.05, 0.1), sigmas=(0.01,), geometries=("filter",)))
    assert [ds.attrs["status"] for ds in results[-2:]] == ["running", "done"]
    progress = [ds.attrs["progress"] for ds in results]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    for a, b in pairwise(results):
        for name in ("zeroth_order", "first_order"):
            assert (np.nan_to_num(a[name], nan=-np.inf) <= np.nan_to_num(b[name], nan=-np.inf)).all()
    assert load(save(results[-1], tmp_path / "s.nc")).identical(
        results[-1].assign_attrs(schema=load(tmp_path / "s.nc").attrs["schema"])
    )
    facts = json.loads(results[-1].attrs["provenance"])
    assert (facts["seed"], facts["radii"], facts["problem"]) == (0, [0.05, 0.1], "Sequential")
    again = list(sharpness(problem, radii=(0.05, 0.1), sigmas=(0.01,), geometries=("filter",)))[-1]
    assert again.zeroth_order.identical(results[-1].zeroth_order)
    steps = sharpness(problem)
    for _ in range(3):
        part = next(steps)
    steps.close()
    assert part.attrs["status"] == "running"
    assert np.isfinite(part.zeroth_order[0, 0])
    assert np.isnan(part.zeroth_order[2, 2])
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_a_loss_that_overflows_is_no_maximum_hidden():
    """Where the loss is infinite in the ball, the largest rise is infinite; where it is NaN, the rest still counts."""

    def wild(output, target):
        return torch.where(output.abs().amax() > 30, torch.nan, nn.functional.cross_entropy(output, target))

    ds = last(Problem(mlp(), wild, classification(), metrics=[]), radii=(0.1, 50.0), sigmas=(0.01,), steps=5)
    assert np.isfinite(ds.zeroth_order).all()


def test_bad_arguments():
    problem = mlp_problem()
    for options, words in (
        ({"radii": ()}, "expected positive numbers"),
        ({"sigmas": (0.0,)}, r"sigmas is \[0.0\]"),
        ({"geometries": ("filters",)}, "accepted are some of"),
        ({"draws": 1}, "draws 1"),
        ({"layers": ["nowhere"]}, "matches no parameter"),
    ):
        with pytest.raises(LandscapeError, match=words):
            sharpness(problem, **options)
    net = mlp()
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    with pytest.raises(LandscapeError, match="moves nothing"):
        last(Problem(net, "cross_entropy", classification()), geometries=("adaptive",))
