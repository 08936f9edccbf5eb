"""Surfaces against functions whose values are known in closed form."""

import numpy as np
import pytest
import torch
import xarray as xr
from models import Tied, linear_regression, mlp, mlp_problem, trained_conv_bn
from torch import nn

from analysis import Checkpoint, LandscapeError, Line, Plane, Problem, Strategy, evaluate, provenance, surface
from analysis.interpolation import disagreement


def last(results) -> xr.Dataset:
    *_, ds = results
    return ds


def affine_loss(output, target):
    return output.mean() + target.mean()


def closed_form_affine(x, y, plane, a, b):
    """loss = mean(x w' + bias) + mean(y), which is affine in the weights."""

    def value(w):
        return float((x.double() @ w["weight"].double().T + w["bias"].double()).mean())

    base = value(plane.origin.weights) + float(y.double().mean())
    slopes = [value(axis.weights) for axis in plane.axes]
    return base + slopes[0] * a + slopes[1] * b


def closed_form_quadratic(x, y, plane, a, b):
    """Mean squared error of a linear model: residual r0 + a r1 + b r2."""

    def output(w):
        return x.double() @ w["weight"].double().T + w["bias"].double()

    r0 = (output(plane.origin.weights) - y.double()).numpy()
    r1, r2 = (output(axis.weights).numpy() for axis in plane.axes)
    dot = lambda p, q: (p * q).mean()  # noqa: E731
    return (
        dot(r0, r0) + 2 * a * dot(r0, r1) + 2 * b * dot(r0, r2)
        + a * a * dot(r1, r1) + b * b * dot(r2, r2) + 2 * a * b * dot(r1, r2)
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("case", ["affine", "quadratic"])
@pytest.mark.parametrize(
    ("extent", "resolution"),
    [(((-1, 1), (-1, 1)), 21), (((-0.5, 1.5), (-1, 0.25)), (13, 29)), (((-2, 1), (0.5, 1)), (41, 7))],
)
@pytest.mark.parametrize("dense", [True, False])
def test_closed_forms(dtype, relative, case, extent, resolution, dense):
    model, x, y = linear_regression(dtype)
    loss, exact = {
        "affine": (affine_loss, closed_form_affine),
        "quadratic": ("mse", closed_form_quadratic),
    }[case]
    problem = Problem(model, loss, (x, y), dtype=dtype)
    plane = Plane.random(problem.checkpoint(), include=("weight", "bias"))
    ds = last(surface(problem, plane, extent=extent, resolution=resolution, dense=dense))
    truth = exact(x, y, plane, ds.a, ds.b).transpose(*ds.loss.dims)
    scale = float(np.abs(truth).max())
    assert float(np.abs(ds.loss - truth).max()) < relative * scale
    shape = (resolution,) * 2 if isinstance(resolution, int) else resolution
    assert dict(ds.loss.sizes) == {"a": shape[0], "b": shape[1]}
    assert (float(ds.a[0]), float(ds.a[-1])) == extent[0]
    assert (float(ds.b[0]), float(ds.b[-1])) == extent[1]
    few = ds.loss.size <= 289
    assert ds.attrs["status"] in (("dense",) if dense or few else ("converged", "unconverged"))


class TwoNumbers(nn.Module):
    """Its loss is any function of two parameters, so that a surface can be drawn on purpose."""

    def __init__(self):
        super().__init__()
        self.u, self.v = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))


def drawn(function, **options) -> tuple[Problem, Plane]:
    problem = Problem(
        TwoNumbers(), lambda model, batch: function(model.u[0], model.v[0]), (torch.zeros(4, 1),), **options
    )
    structure = problem.structure
    from analysis import Weights
    from analysis.subspace import Axis

    def axis(u, v):
        w = Weights({"u": torch.tensor([u]), "v": torch.tensor([v])}, structure)
        return Axis(w, f"({u}, {v})", "units", w.norm())

    point = problem.checkpoint()
    return problem, Plane(point, (axis(1.0, 0.0), axis(0.0, 1.0)), (point,), "drawn")


def test_axes_are_not_transposed_on_a_grid_that_is_not_square():
    problem, plane = drawn(lambda u, v: 10 * u + v)
    ds = last(surface(problem, plane, extent=((0, 2), (0, 4)), resolution=(3, 5), dense=True))
    assert ds.loss.dims == ("b", "a")
    for i in range(3):
        for j in range(5):
            assert float(ds.loss.sel(a=i, b=j)) == 10 * i + j
    assert ds.sample_a.values.tolist() == [0.0] * 5 + [1.0] * 5 + [2.0] * 5
    assert (ds.sample_loss == 10 * ds.sample_a + ds.sample_b).all()


def test_the_centre_is_the_checkpoints_own_loss():
    model, x, y = trained_conv_bn()
    for policy in ("frozen", "recalibrated", "batch"):
        problem = Problem(model, "cross_entropy", (x, y), batchnorm=policy)
        ds = last(surface(problem, Plane.random(problem.checkpoint()), resolution=11))
        own, error = problem.measure()["loss"]
        assert float(ds.loss.sel(a=0, b=0)) == pytest.approx(own, rel=1e-6)
        assert bool(ds.computed.sel(a=0, b=0))
        assert float(ds.marker_loss[0]) == pytest.approx(own, rel=1e-6)
        assert float(ds.loss_se.sel(a=0, b=0)) == pytest.approx(error, rel=1e-4)
        with torch.no_grad():
            eager = nn.functional.cross_entropy(model.eval()(x), y).item()
        if policy == "frozen":
            assert own == pytest.approx(eager, rel=1e-6)
        else:
            assert float(ds.marker_loss_frozen[0]) == pytest.approx(eager, rel=1e-6)


def test_the_adaptive_picture_agrees_with_the_dense_one():
    problem = mlp_problem()
    plane = Plane.random(problem.checkpoint(), seed=3)
    dense = last(surface(problem, plane, dense=True))
    adaptive = last(surface(problem, plane, tolerance=0.01))
    assert adaptive.attrs["status"] == "converged"
    assert adaptive.attrs["evaluations"] <= dense.attrs["evaluations"] / 30
    for scale in (lambda v: v, np.log):
        truth, picture = scale(dense.loss), scale(adaptive.loss)
        error = float(np.abs(truth - picture).max() / (truth.max() - truth.min()))
        assert error < 0.01
        assert adaptive.attrs["interpolation_error"] > 0.5 * error
    assert adaptive.attrs["interpolation_error"] <= 0.01
    known = adaptive.computed
    assert float(np.abs(dense.loss - adaptive.loss).where(known).max()) < 1e-6


def test_a_line_agrees_with_the_plane_it_lies_in():
    problem = mlp_problem()
    point = problem.checkpoint()
    other = Checkpoint.of(mlp(seed=1), "other")
    line = last(surface(problem, Line.through(point, other), extent=(0, 1), resolution=41, dense=True))
    plane = last(
        surface(problem, Plane.through(point, other), extent=((0, 1), (-0.1, 0.1)), resolution=(41, 3), dense=True)
    )
    assert np.allclose(line.loss, plane.loss.sel(b=0), rtol=1e-5)
    assert line.marker_t.values == pytest.approx([0, 1], abs=1e-6)
    assert float(line.loss[-1]) == pytest.approx(float(line.marker_loss[1]), rel=1e-5)
    assert line.marker_name.values.tolist() == ["Sequential", "other"]


def test_what_does_not_converge_is_declared_and_computed_all_the_same():
    problem, plane = drawn(lambda u, v: 2 + torch.sin(40 * u) * torch.sin(37 * v), dtype=torch.float64)
    ds = last(surface(problem, plane, resolution=41))
    assert ds.attrs["status"] == "unconverged"
    assert bool(ds.computed.all())
    truth = 2 + np.sin(40 * ds.a) * np.sin(37 * ds.b)
    assert float(np.abs(ds.loss - truth).max()) < 1e-6


def test_nan_and_infinity_are_kept_where_the_loss_returned_them():
    def walls(u, v):
        return torch.where(u > 0.5, torch.inf, torch.where(v > 0.5, torch.nan, u * u + v * v))

    problem, plane = drawn(walls, dtype=torch.float64)
    ds = last(surface(problem, plane, resolution=21))
    u, v = np.meshgrid(ds.a, ds.b)
    truth = np.where(u > 0.5, np.inf, np.where(v > 0.5, np.nan, u * u + v * v))
    assert np.array_equal(np.isinf(ds.loss), np.isinf(truth))
    assert np.array_equal(np.isnan(ds.loss), np.isnan(truth))
    walls_here = (np.abs(u - 0.55) < 0.1) | (np.abs(v - 0.55) < 0.1) & (u <= 0.5)
    assert bool(ds.computed.values[walls_here].all())
    assert np.nanmax(np.abs(np.where(np.isinf(truth), 0, ds.loss - truth))) < 0.01 * np.nanmax(
        truth[np.isfinite(truth)]
    )


def kinked(seed):
    """Like the loss of a ReLU net: the mean of many hinges."""
    g = np.random.default_rng(seed)
    angle, offset = torch.tensor(g.uniform(0, 2 * np.pi, 200)), torch.tensor(g.uniform(-1.2, 1.2, 200))
    return lambda u, v: 0.3 + torch.relu(angle.cos() * u[..., None] + angle.sin() * v[..., None] - offset).mean(-1)


def waves(seed):
    """The exponential of waves of all directions."""
    g = np.random.default_rng(seed)
    k, phase, size = (
        torch.tensor(g.normal(0, 2, (2, 12))),
        torch.tensor(g.uniform(0, 6, 12)),
        torch.tensor(g.normal(size=12)),
    )
    return lambda u, v: (size * torch.sin(k[0] * u[..., None] + k[1] * v[..., None] + phase)).sum(-1).div(2).exp()


def cross_entropy(seed):
    """That of one sample under a linear model."""
    g = np.random.default_rng(seed)
    w, b = torch.tensor(g.normal(0, 4, (2, 10))), torch.tensor(g.normal(0, 2, 10))
    return lambda u, v: 0.01 - (w[0] * u[..., None] + w[1] * v[..., None] + b).log_softmax(-1)[..., 0]


def true_error(ds, function) -> float:
    """The largest error of the picture as a fraction of the range, on the worse of both scales."""
    truth = function(*(torch.tensor(axis) for axis in np.meshgrid(ds.a, ds.b))).numpy()
    scales = (lambda v: v, np.log) if truth.min() > 0 else (lambda v: v,)
    return max(float(np.abs(f(ds.loss.values) - f(truth)).max() / np.ptp(f(truth))) for f in scales)


@pytest.mark.parametrize("family", [kinked, waves, cross_entropy])
@pytest.mark.parametrize("seed", range(8))
def test_the_stated_error_is_near_the_true_one(family, seed):
    function = family(seed)
    problem, plane = drawn(function, dtype=torch.float64)
    ds = last(surface(problem, plane))
    error = true_error(ds, function)
    assert ds.attrs["status"] == "converged"
    assert error < 0.01
    assert 0.5 * error < ds.attrs["interpolation_error"] < 5 * error
    assert ds.attrs["evaluations"] <= 101**2 / 15


@pytest.mark.parametrize("least", [1e-4, 1e-6])
@pytest.mark.parametrize("seed", [0, 1, 4, 5])
def test_the_stated_error_holds_where_a_smooth_loss_almost_vanishes(seed, least):
    g = np.random.default_rng(seed)
    (a, b), (k, m) = g.uniform(-0.6, 0.6, 2), g.uniform(1, 3, 2)
    function = lambda u, v: least + 2 - torch.cos(k * (u - a)) - torch.cos(m * (v - b))  # noqa: E731
    problem, plane = drawn(function, dtype=torch.float64)
    ds = last(surface(problem, plane))
    error = true_error(ds, function)
    assert ds.attrs["status"] == "converged"
    assert error < 0.01
    assert 0.5 * error < ds.attrs["interpolation_error"]


def bowl(seed):
    return lambda u, v: 0.5 + u * u + 0.5 * v * v


@pytest.mark.parametrize(
    ("base", "seed"), [*((bowl, seed) for seed in range(20)), *((kinked, seed) for seed in range(6))]
)
def test_a_bump_of_width_005_is_resolved_or_declared(base, seed):
    """Its width is the standard deviation of a Gaussian; from a seventh of the range of the base on."""
    g = np.random.default_rng(seed)
    centre, height = g.uniform(-1, 1, 2), 10 ** g.uniform(-0.7, 1)
    flat = base(seed)

    def bumpy(u, v):
        far = ((u - centre[0]) ** 2 + (v - centre[1]) ** 2) / (2 * 0.05**2)
        return flat(u, v) + height * torch.exp(-far)

    problem, plane = drawn(bumpy, dtype=torch.float64)
    ds = last(surface(problem, plane))
    assert ds.attrs["status"] in ("converged", "unconverged")
    assert true_error(ds, bumpy) < 0.01
    assert ds.attrs["interpolation_error"] <= 0.01
    assert ds.attrs["evaluations"] < 1500  # refined about the bump, not everywhere


def folded(u, v):
    """Refined in several rounds."""
    return (u - 0.13).abs() + (3 * v + u).abs()


@pytest.mark.parametrize("function", [kinked(0), waves(0), cross_entropy(0), folded])
def test_the_error_about_each_point_holds_there_and_nowhere_exceeds_what_is_stated(function):
    problem, plane = drawn(function, dtype=torch.float64)
    *before, ds = surface(problem, plane)
    assert all(bool((one.loss_error.isnull() | one.computed).all()) for one in before)
    truth, known = last(surface(problem, plane, dense=True)), ds.computed.values
    assert (truth.loss_error == 0).all()
    missed = disagreement(ds.loss.values, truth.loss.values)
    about = ds.loss_error.values
    assert about.max() <= ds.attrs["interpolation_error"]
    assert (about[known] == 0).all()
    assert (missed <= about)[~known].mean() > 0.99


def test_waves_that_vanish_at_every_node_are_found_between_them():
    function = lambda u, v: 1 + 0.3 * torch.sin(8 * torch.pi * u) * torch.sin(8 * torch.pi * v)  # noqa: E731
    problem, plane = drawn(function, dtype=torch.float64)
    ds = last(surface(problem, plane))
    assert true_error(ds, function) < 0.01
    assert ds.attrs["interpolation_error"] <= 0.01


@pytest.mark.parametrize("seed", range(6))
def test_the_stated_error_is_not_below_the_true_one_where_a_loss_has_kinks(seed):
    g = np.random.default_rng(seed)
    normals, places, heights = g.normal(size=(60, 2)), torch.tensor(g.uniform(-1, 1, 60)), g.normal(size=60)
    normals = torch.tensor(normals / np.linalg.norm(normals, axis=1, keepdims=True))

    def function(u, v):
        distances = normals[:, 0] * u[..., None] + normals[:, 1] * v[..., None] - places
        return 3 + u * u + 0.5 * v * v + 0.1 * (torch.tensor(heights) * distances.relu()).sum(-1)

    problem, plane = drawn(function, dtype=torch.float64)
    ds = last(surface(problem, plane))
    assert true_error(ds, function) <= ds.attrs["interpolation_error"] <= 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_loss_converges_to_its_rounding(dtype):
    problem, plane = drawn(lambda u, v: 2.3 + 1e-9 * torch.sin(1e4 * u + 3e3 * v), dtype=dtype)
    if dtype == torch.float64:
        problem, plane = drawn(lambda u, v: 2.3 + 0 * u, dtype=dtype)
    ds = last(surface(problem, plane))
    assert ds.attrs["status"] == "converged"
    assert ds.attrs["evaluations"] < 340
    assert 0 < ds.attrs["interpolation_error"] < 0.01
    assert float(np.abs(ds.loss - 2.3).max()) < 4 * torch.finfo(dtype).eps * 2.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_noise_of_coarse_arithmetic_is_in_the_stated_error(dtype):
    problem = mlp_problem(dtype=dtype)
    plane = Plane.random(problem.checkpoint())
    ds = last(surface(problem, plane, resolution=41))
    truth = last(surface(problem, plane, resolution=41, dense=True)).loss.values
    assert np.abs(ds.loss.values - truth).max() / np.ptp(truth) < ds.attrs["interpolation_error"] < 0.2


def test_what_is_left_after_a_sharp_point_was_evaluated_is_stated():
    cone = lambda u, v: 0.05 + torch.sqrt(u * u + v * v)  # noqa: E731
    problem, plane = drawn(cone, dtype=torch.float64)
    ds = last(surface(problem, plane))
    assert ds.attrs["status"] == "unconverged"
    assert bool(ds.computed.sel(a=slice(-0.03, 0.03), b=slice(-0.03, 0.03)).all())
    assert true_error(ds, cone) < ds.attrs["interpolation_error"] < 0.01
    assert ds.attrs["evaluations"] < 1500


def test_the_cells_of_a_long_picture_are_about_square_and_no_more():
    problem, plane = drawn(lambda u, v: torch.exp(u) + torch.sin(v), dtype=torch.float64)
    ds = last(surface(problem, plane, extent=((-1, 1), (-0.5, 0.5))))
    first = ds.sample_a.values[:24], ds.sample_b.values[:24]
    assert [len(np.unique(np.round(axis, 9))) for axis in first] == [6, 4]
    assert ds.attrs["evaluations"] <= 340


def test_every_result_on_the_way_is_valid_and_savable(tmp_path):
    from analysis import load, save

    problem = mlp_problem(metrics=["accuracy", "loss_per_class"])
    seen = []
    for ds in surface(problem, Plane.random(problem.checkpoint())):
        save(ds, tmp_path / "r.nc")
        back = load(tmp_path / "r.nc")
        xr.testing.assert_identical(back.drop_attrs(), ds.drop_attrs())
        assert back.attrs["provenance"] == ds.attrs["provenance"]
        assert bool((ds.loss.notnull() | ~ds.computed).all())
        assert set(ds.data_vars) >= {
            "loss",
            "loss_se",
            "accuracy",
            "loss_per_class",
            "computed",
            "marker_loss",
        }
        seen.append((ds.attrs["evaluations"], ds.attrs["status"], ds.sizes["sample"]))
    assert [s[0] for s in seen] == sorted(s[0] for s in seen)
    assert all(evaluations == samples for evaluations, _, samples in seen)
    assert [s[1] for s in seen[:-1]] == ["running"] * (len(seen) - 1)
    assert seen[-1][1] == "converged"


def test_provenance_says_what_determines_the_picture():
    problem = mlp_problem(name="mine")
    plane = Plane.random(problem.checkpoint(), seed=7)
    facts = provenance(last(surface(problem, plane, extent=(-0.5, 0.5), resolution=11)))
    assert facts["problem"] == "mine"
    assert facts["data"] == {"samples": 64, "sha256": problem.data.digest, "largest_batch": 64}
    assert facts["checkpoints"][0]["sha256"] == problem.checkpoint().digest
    assert (facts["seed"], facts["normalisation"], facts["batchnorm"]) == (7, "filter", "none")
    assert facts["extent"] == [[-0.5, 0.5], [-0.5, 0.5]]
    assert facts["strategy"]["threads"] == torch.get_num_threads()
    assert facts["versions"]["torch"] == torch.__version__


def test_two_runs_with_the_recorded_strategy_are_bit_identical():
    model, x, y = trained_conv_bn()
    for policy in ("frozen", "recalibrated"):
        problem = Problem(model, "cross_entropy", (x, y), batchnorm=policy)
        plane = Plane.random(problem.checkpoint())
        first = last(surface(problem, plane, resolution=21))
        record = Strategy.of(provenance(first)["strategy"])
        second = last(surface(problem, plane, resolution=21, strategy=record))
        xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())
        assert provenance(second)["strategy"] == provenance(first)["strategy"]


def test_blocks_of_any_size_give_the_same_mean():
    problem = mlp_problem(dtype=torch.float64)
    plane = Plane.random(problem.checkpoint())
    coordinates = np.array([[0.0, 0.0], [0.3, -0.7]])
    threads = torch.get_num_threads()
    values = [
        last(evaluate(problem, plane, coordinates, strategy=Strategy(block, threads))).loss.values
        for block in (1, 7, 64, None)
    ]
    for other in values[1:]:
        assert other == pytest.approx(values[0], rel=1e-12)


def test_a_tied_language_model_and_frozen_layers_draw():
    model = Tied()
    model.mix.weight.requires_grad_(False)
    tokens = torch.randint(0, 11, (20, 9), generator=torch.Generator().manual_seed(0))
    problem = Problem(model, "cross_entropy", (tokens[:, :-1], tokens[:, 1:]))
    plane = Plane.random(problem.checkpoint())
    ds = last(evaluate(problem, plane, [[0.0, 0.0], [0.4, -0.3]]))
    import copy

    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter.copy_(plane.point(0.4, -0.3)[name])
        logits = moved(tokens[:, :-1])
    assert torch.equal(moved.head.weight, moved.embedding.weight)
    assert torch.equal(moved.mix.weight, model.mix.weight)
    truth = nn.functional.cross_entropy(logits.reshape(-1, 11), tokens[:, 1:].reshape(-1)).item()
    assert float(ds.loss[1]) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extent": (1, -1)}, "low < high"),
        ({"extent": (0, np.nan)}, "low < high"),
        ({"resolution": 1}, "at least 2"),
        ({"resolution": (5, 5, 5)}, "one an axis"),
        ({"tolerance": 0}, "between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(options, words):
    problem = mlp_problem()
    with pytest.raises(LandscapeError, match=words):
        surface(problem, Plane.random(problem.checkpoint()), **options)


def test_a_checkpoint_of_another_model_is_refused():
    problem = mlp_problem()
    stranger = Checkpoint.of(mlp((6, 16, 8, 3)), "stranger")
    with pytest.raises(LandscapeError, match="'stranger' does not belong to the model"):
        next(surface(problem, Plane.random(stranger)))


def test_a_strategy_of_other_threads_is_refused():
    problem = mlp_problem()
    with pytest.raises(LandscapeError, match="set_num_threads"):
        next(surface(problem, Plane.random(problem.checkpoint()), strategy=Strategy(None, 999)))


@pytest.mark.parametrize("width", [1e-9, 1e9])
def test_resume_tells_points_apart_at_any_scale(width):
    problem = mlp_problem(dtype=torch.float64)
    origin = problem.checkpoint()
    line = Line.along(origin, problem.gradient(origin) * (1.0 if width < 1 else 1e-9))
    options = {"extent": (0.0, width), "strategy": Strategy(None, torch.get_num_threads())}
    earlier = last(surface(problem, line, resolution=5, **options))
    whole = last(surface(problem, line, resolution=9, **options))
    resumed = last(surface(problem, line, resolution=9, **options, resume=earlier))
    np.testing.assert_array_equal(resumed.loss, whole.loss)


def test_resume_evaluates_only_what_is_missing_and_gives_the_same_result(tmp_path):
    from analysis import load, save

    problem = mlp_problem()
    plane = Plane.random(problem.checkpoint())
    strategy = Strategy(96, torch.get_num_threads())
    whole = last(surface(problem, plane, strategy=strategy))
    results = surface(problem, plane, strategy=strategy)
    for partial in results:
        if partial.attrs["evaluations"] > 100:
            break
    results.close()
    kept = load(save(partial, tmp_path / "partial.nc"))
    calls = []
    from analysis.replica import Replica

    original = Replica.totals
    Replica.totals = lambda self, blocks: (calls.append(1), original(self, blocks))[1]
    try:
        resumed = last(surface(problem, plane, strategy=strategy, resume=kept))
    finally:
        Replica.totals = original
    assert resumed.attrs["evaluations"] == whole.attrs["evaluations"]
    assert len(calls) == whole.attrs["evaluations"] - kept.attrs["evaluations"] + 1  # and the marker
    xr.testing.assert_identical(resumed.loss.drop_attrs(), whole.loss.drop_attrs())
    calls.clear()
    Replica.totals = lambda self, blocks: (calls.append(1), original(self, blocks))[1]
    try:
        again = last(surface(problem, plane, strategy=strategy, resume=whole))
    finally:
        Replica.totals = original
    assert len(calls) == 1  # the marker: the checks are taken over too
    xr.testing.assert_identical(again.loss, whole.loss)
    finer = last(surface(problem, plane, resolution=51, tolerance=0.001, resume=whole))
    assert finer.attrs["evaluations"] >= whole.attrs["evaluations"]


def test_resuming_something_else_is_refused_by_what_differs():
    problem = mlp_problem()
    ds = last(surface(problem, Plane.random(problem.checkpoint()), resolution=11))
    with pytest.raises(LandscapeError, match="differs in axes, seed"):
        surface(problem, Plane.random(problem.checkpoint(), seed=1), resume=ds)
    with pytest.raises(LandscapeError, match="differs in data"):
        surface(mlp_problem(samples=30), Plane.random(problem.checkpoint()), resume=ds)


def test_a_trajectory_shows_true_losses_and_residuals():
    problem = mlp_problem(dtype=torch.float64)
    start, g = problem.checkpoint(), torch.Generator().manual_seed(0)
    points = [start]
    for i in range(6):
        step = points[-1].weights.map(lambda _, t: 0.05 * torch.randn(t.shape, generator=g, dtype=t.dtype))
        points.append(Checkpoint(points[-1].weights + step, {}, f"step {i}"))
    plane = Plane.pca(points)
    ds = last(surface(problem, plane, resolution=21))
    for i, point in enumerate(points):
        assert float(ds.marker_loss[i]) == pytest.approx(problem.measure(point)["loss"][0], rel=1e-12)
        assert float(ds.marker_residual[i]) == pytest.approx(plane.project(point)[1], rel=1e-9)
    assert float(ds.marker_residual[:-1].max()) > 0.01
    assert float(ds.marker_residual[-1]) < 1e-12


def test_the_ends_of_a_line_are_points_of_its_picture():
    problem = mlp_problem()
    point, other = problem.checkpoint(), Checkpoint.of(mlp(seed=1), "other")
    ds = last(surface(problem, Line.through(point, other)))
    for t in (0, 1):
        nearest = ds.sel(t=t, method="nearest")
        assert float(nearest.t) == pytest.approx(t, abs=1e-7)
    plane = last(surface(problem, Plane.through(point, other), resolution=41))
    assert np.abs(plane.a.values - 1).min() < 1e-7
    assert np.abs(plane.b.values).min() < 1e-7


def test_a_complete_first_level_is_not_shown_as_tiles():
    """Tiles stand for nodes that are not interpolated yet; once the level is complete it is."""
    problem = mlp_problem()
    splines = 0
    for ds in surface(problem, Plane.random(problem.checkpoint())):
        flat = float((ds.loss.diff("a") == 0).mean())
        if ds.attrs["evaluations"] > 25:
            assert flat < 0.05
            splines += 1
    assert splines


def test_a_loss_that_is_nowhere_finite_is_an_error():
    nowhere = lambda output, _: output.mean() * torch.nan  # noqa: E731
    problem = Problem(nn.Linear(2, 1), nowhere, (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(LandscapeError, match="nothing to draw"):
        last(surface(problem, Plane.random(problem.checkpoint())))


def _dip(model, batch):
    t = model.weight[0, 0] - 1
    return 0.1 * torch.exp(3 * t * t) - 0.3 * torch.exp(-(((t - 0.21875) / 0.03) ** 2))


@pytest.mark.parametrize("beside", [False, True], ids=["loss", "metric"])
def test_a_value_below_zero_that_comes_late_ends_the_logarithm_not_the_surface(beside):
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    rough = lambda model, batch: (model.weight[0, 0] - 1.21).abs().sqrt() + 0.01  # noqa: E731
    given = {"metrics": {"margin": _dip}} if beside else {}
    problem = Problem(model, rough if beside else _dip, (torch.ones(4, 1), torch.ones(4)), **given)
    *_, ds = surface(problem, Line.random(problem.checkpoint()))
    name = "margin" if beside else "loss"
    assert float(ds[name].min()) < -0.1
    assert "logarithm" not in ds[name].attrs["interpolation"]


@pytest.mark.parametrize("options", [{"resolution": 9}, {"dense": True, "resolution": 21}])
def test_a_loss_that_is_nowhere_finite_is_an_error_on_every_grid(options):
    nowhere = lambda output, _: output.mean() * torch.nan  # noqa: E731
    problem = Problem(nn.Linear(2, 1), nowhere, (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(LandscapeError, match="nothing to draw"):
        list(surface(problem, Plane.random(problem.checkpoint()), **options))
