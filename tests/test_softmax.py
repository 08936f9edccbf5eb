"""The softmax convergence radius against closed forms, zeros found otherwise, and series that do diverge."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from models import Tied, classification, mlp, mlp_problem, trained_conv_bn
from torch import nn

from analysis import (
    LandscapeError,
    Line,
    Plane,
    Problem,
    evaluate,
    load,
    radius_band,
    save,
    softmax_radius,
    surface,
    with_radius,
)


def affine(classes, n=20, seed=0):
    """A linear classifier, a line through it, and its logits z + a t: [n, classes] each."""
    g = torch.Generator().manual_seed(seed)
    model = nn.Linear(4, classes).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64))
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    y = torch.randint(0, classes, (n,), generator=g)
    problem = Problem(model, "cross_entropy", (x, y), dtype=torch.float64)
    line = Line.random(problem.checkpoint(), include=("weight", "bias"), seed=seed)
    w, v = line.origin.weights, line.axes[0].weights
    z, a = ((x @ t["weight"].T + t["bias"]).numpy() for t in (w, v))
    return problem, line, z, a, y.numpy()


def test_two_classes_have_their_singularity_where_the_formula_says():
    problem, line, z, a, _ = affine(2)
    radii = softmax_radius(problem, line)
    delta, slope = z[:, 1] - z[:, 0], a[:, 1] - a[:, 0]
    root = (1j * np.pi - delta) / slope  # exp(z0 + a0 t) + exp(z1 + a1 t) = 0
    assert np.abs(np.exp(z[:, 0] + a[:, 0] * root) + np.exp(z[:, 1] + a[:, 1] * root)).max() < 1e-12
    assert radii.exact_radius_of_example.values[0] == pytest.approx(np.abs(root), rel=1e-12)
    assert float(radii.exact_radius[0]) == pytest.approx(np.abs(root).min(), rel=1e-12)
    assert radii.radius_of_example.values[0] == pytest.approx(np.pi / np.abs(slope), rel=1e-12)
    assert float(radii.distance[0]) == pytest.approx(float(radii.radius[0]) * line.axes[0].length, rel=1e-12)


def series(delta, slope, terms):
    """Taylor coefficients of log(1 + exp(-(delta + slope t))) about 0, from s' = slope s (1 - s)."""
    s = [1 / (1 + np.exp(delta))]  # the logistic function of -(delta + slope t)
    for n in range(terms):
        s.append(-slope * (s[n] - sum(s[k] * s[n - k] for k in range(n + 1))) / (n + 1))
    return np.array([np.log1p(np.exp(-delta)), *(-slope * s[n] / (n + 1) for n in range(terms))])


def test_the_taylor_series_of_the_loss_converges_within_the_radius_and_diverges_beyond():
    problem, line, z, a, y = affine(2, n=1, seed=3)
    radius = float(softmax_radius(problem, line).exact_radius[0])
    own = y[0]
    coefficients = series(z[0, own] - z[0, 1 - own], a[0, own] - a[0, 1 - own], 160)
    *_, true = evaluate(problem, line, np.array([0.0, 0.8, -0.8, 1.25, -1.25]) * radius)
    powers = np.arange(len(coefficients))

    def error(i, terms):
        t = float(true.t[i])
        return abs(float((coefficients[:terms] * t ** powers[:terms]).sum()) - float(true.loss[i]))

    for inside in (0, 1, 2):
        assert error(inside, 161) < 1e-12
    for outside in (3, 4):
        few, more, many = (max(error(outside, n) for n in range(k - 8, k)) for k in (40, 80, 160))
        assert more > 100 * few
        assert many > 100 * more > 1


def test_no_partition_function_vanishes_within_the_bound_of_many_classes():
    """The argument principle: the phase of the sum turns around no zero on a circle just within the bound."""
    for seed in range(10):
        problem, line, z, a, _ = affine(5, seed=seed)
        radii = softmax_radius(problem, line).radius_of_example.values[0]
        assert radii == pytest.approx(np.pi / np.ptp(a, 1), rel=1e-12)
        for i, radius in enumerate(radii):
            zeros = []
            for factor in (0.999, 30.0):
                t = factor * radius * np.exp(2j * np.pi * np.arange(20001) / 20000)
                exponents = z[i][:, None] + a[i][:, None] * t
                total = np.exp(exponents - exponents.real.max(0)).sum(0)
                zeros.append(round(np.angle(total[1:] / total[:-1]).sum() / (2 * np.pi)))
            assert zeros[0] == 0
            assert zeros[1] > 0


def test_three_equal_logits_have_their_zero_at_two_thirds():
    model = nn.Linear(1, 3, bias=False).double()
    nn.init.zeros_(model.weight)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    problem = Problem(model, "cross_entropy", (x, y), dtype=torch.float64)
    point = problem.checkpoint()
    slopes = point.weights.unflatten(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    line = Line.along(point, slopes)
    unit = 5**-0.5  # 1 + x + x^2 vanishes at the third roots of unity
    assert float(softmax_radius(problem, line).radius[0]) == pytest.approx(np.pi / (2 * unit), rel=1e-12)
    zero = 2j * np.pi / 3 / unit
    assert abs(sum(np.exp(k * unit * zero) for k in range(3))) < 1e-12
    assert abs(zero) > float(softmax_radius(problem, line).radius[0])


def test_temperature_stretches_the_radius():
    problem, line, z, a, _ = affine(2)
    cool, warm = (softmax_radius(problem, line, temperature=t) for t in (1.0, 3.0))
    assert warm.radius.values == pytest.approx(3 * cool.radius.values)
    delta, slope = (z[:, 1] - z[:, 0]) / 3, (a[:, 1] - a[:, 0]) / 3
    assert warm.exact_radius_of_example.values[0] == pytest.approx(np.hypot(delta, np.pi) / np.abs(slope))


def slopes_by_differences(problem, space, at, axis, logits):
    h = 1e-5
    step = np.eye(len(at))[axis] * h
    ends = [logits(space.point(*(np.array(at) + sign * step))) for sign in (1, -1)]
    return (ends[0] - ends[1]).numpy() / (2 * h)


@pytest.mark.parametrize("at", [(), (0.3, -0.2)])
def test_slopes_of_a_network_at_any_point_of_a_plane(at):
    problem = mlp_problem(dtype=torch.float64)
    plane = Plane.random(problem.checkpoint())
    radii = softmax_radius(problem, plane, *at)
    x = classification()[0].double()
    logits = lambda w: torch.func.functional_call(problem.model, dict(w), x).detach()  # noqa: E731
    for axis in (0, 1):
        a = slopes_by_differences(problem, plane, at or (0, 0), axis, logits)
        assert radii.radius_of_example.values[axis] == pytest.approx(np.pi / np.ptp(a, 1), rel=1e-6)
    assert radii.at.values.tolist() == list(at or (0, 0))
    assert radii.axis.values.tolist() == ["a", "b"]
    assert radii.sizes["example"] == 64
    assert (radii.radius_quantile.sel(quantile=0.0) == radii.radius).all()
    assert (radii.radius_quantile.diff("quantile") >= 0).all()


@pytest.mark.parametrize("policy", ["frozen", "batch"])
def test_batchnorm_is_differentiated_as_the_policy_says(policy):
    net, x, y = trained_conv_bn()
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, dtype=torch.float64, batch_size=96)
    line = Line.random(problem.checkpoint())
    model = problem.model
    model.bn.train(policy == "batch")
    logits = lambda w: torch.func.functional_call(model, dict(w), x.double()).detach()  # noqa: E731
    a = slopes_by_differences(problem, line, (0.0,), 0, logits)
    radii = softmax_radius(problem, line)
    assert radii.radius_of_example.values[0] == pytest.approx(np.pi / np.ptp(a, 1), rel=1e-6)
    assert np.isfinite(softmax_radius(problem.with_batchnorm("recalibrated"), line).radius.values).all()


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix = nn.Embedding(7, 8), nn.Linear(8, 24)
        self.head = nn.Linear(8, 7)

    def forward(self, tokens):
        q, k, v = self.mix(self.embed(tokens))[:, None].chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])


@pytest.mark.parametrize("model", [Attention(), Tied(7)])
def test_each_token_that_counts_is_an_example(model):
    tokens = torch.randint(0, 7, (10, 6), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1).clone()
    targets[:, -1] = -100
    problem = Problem(model, "cross_entropy", (tokens, targets), dtype=torch.float64)
    line = Line.random(problem.checkpoint())
    radii = softmax_radius(problem, line)
    assert radii.sizes["example"] == 50
    logits = lambda w: torch.func.functional_call(problem.model, dict(w), tokens).detach()[:, :-1]  # noqa: E731
    a = slopes_by_differences(problem, line, (0.0,), 0, logits)
    assert radii.radius_of_example.values[0] == pytest.approx(np.pi / np.ptp(a, -1).ravel(), rel=1e-5)


def test_a_direction_that_moves_no_logit_against_another_has_no_radius():
    problem, line, *_ = affine(3)
    same = line.origin.weights.unflatten(torch.cat([torch.zeros(12), torch.ones(3)]).double())
    radii = softmax_radius(problem, Line.along(line.origin, same))
    assert np.isinf(radii.radius.values).all()
    assert np.isinf(radii.radius_quantile.values).all()
    assert radius_band(radii, "t") == (-np.inf, np.inf)


def test_the_band_of_a_slice_and_its_way_into_files(tmp_path):
    problem, line, *_ = affine(2)
    radii = softmax_radius(problem, line, 0.5)
    radius = float(radii.radius[0])
    assert radius_band(radii, "t") == pytest.approx((0.5 - radius, 0.5 + radius))
    low, high = radius_band(radii, "t", exact=True)
    assert high - low == pytest.approx(2 * float(radii.exact_radius[0]))
    *_, ds = surface(problem, line, resolution=9)
    marked = with_radius(ds, radii)
    assert "softmax_low" not in ds.t.attrs
    back = load(save(marked, tmp_path / "s.nc"))
    assert (back.t.attrs["softmax_low"], back.t.attrs["softmax_high"]) == pytest.approx(radius_band(radii, "t"))
    xr.testing.assert_equal(load(save(radii, tmp_path / "r.nc")), radii)
    other = softmax_radius(problem, Line.random(line.origin, seed=9))
    with pytest.raises(LandscapeError, match="different lines or planes"):
        with_radius(ds, other)


def test_a_trained_network_keeps_its_accuracy_within_the_radius():
    """The headline of the paper on 8 x 8 digits, downhill and in random directions: no failure below the radius."""
    from analysis import load_project
    from sample_checkpoints import path

    name = "MLP 2×128 · train"
    project = load_project(path("mlp128-s0").parent / "samples.py")
    problem = project.problems[name]
    point = project.checkpoint(name, "mlp128-s0")
    for line in [Line.gradient(problem, point), *(Line.random(point, seed=seed) for seed in range(4))]:
        radius = float(softmax_radius(problem, line).radius[0])
        *_, ds = evaluate(problem, line, np.array([0.0, 0.1, 0.3, 0.7, 0.99, 30.0]) * radius)
        assert (ds.accuracy.values[1:5] == ds.accuracy.values[0]).all()
        assert ds.accuracy.values[5] < ds.accuracy.values[0] - 0.02


def test_what_has_no_radius_is_refused():
    x, y = classification()
    regression = Problem(mlp(), "mse", (x, F.one_hot(y, 3).float()))
    with pytest.raises(LandscapeError, match="needs a cross entropy over classes"):
        softmax_radius(regression, Line.random(regression.checkpoint()))
    problem, line, *_ = affine(3)
    with pytest.raises(LandscapeError, match="needs 1 coordinates"):
        softmax_radius(problem, line, 1.0, 2.0)
    with pytest.raises(LandscapeError, match="temperature is 0"):
        softmax_radius(problem, line, temperature=0)
    with pytest.raises(LandscapeError, match="axis is 'a'; there are"):
        radius_band(softmax_radius(problem, line), "a")
    with pytest.raises(LandscapeError, match="known for two classes; there are 3"):
        radius_band(softmax_radius(problem, line), "t", exact=True)
