from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ConvBN, Tied, mlp, trained_conv_bn
from torch import nn

from analysis import Checkpoint, LandscapeError, Line, Plane, Problem


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
    with pytest.raises(LandscapeError, match="span no plane"):
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


@pytest.mark.parametrize("normalisation", ["layer", "weight"])
def test_layer_and_weight_normalisation(normalisation):
    point = checkpoint(mlp())
    plane = Plane.random(point, normalisation=normalisation)
    for name, tensor in point.weights.items():
        parts = [axis.weights[name].double() for axis in plane.axes]
        if tensor.ndim < 2:
            assert all(part.abs().sum() == 0 for part in parts)
            continue
        for part in parts:
            assert float(part.norm() / tensor.norm()) == pytest.approx(1, abs=1e-6)
        assert abs(float((parts[0] * parts[1]).sum())) < 1e-6 * float(tensor.norm()) ** 2
    if normalisation == "weight":
        w, d = point.weights["2.weight"].flatten(), plane.axes[0].weights["2.weight"].flatten()
        assert np.corrcoef(w.abs(), d.abs())[0, 1] > 0.4  # large weights move far
        assert abs(np.corrcoef(w, d)[0, 1]) < 0.2  # and in either direction


def test_a_subset_of_layers():
    point = checkpoint(mlp())
    for layers in ("2", ["2.*"], ["2.weight"]):
        axis = Line.random(point, layers=layers).axes[0].weights
        assert {name for name, t in axis.items() if t.abs().sum() > 0} == {"2.weight"}
    with pytest.raises(LandscapeError, match="'7' matches no parameter"):
        Line.random(point, layers=["7"])
    with pytest.raises(LandscapeError, match="accepted are"):
        Line.random(point, normalisation="unit")


def test_relu_rescaling_leaves_filter_normalised_curves_unchanged():
    """Rescaling a layer by c and the next by 1/c changes no function and no filter-normalised picture."""
    from analysis import Problem, evaluate

    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randint(0, 3, (40,), generator=torch.Generator().manual_seed(1))
    model, rescaled = mlp().double(), mlp().double()
    with torch.no_grad():
        rescaled[0].weight *= 7
        rescaled[0].bias *= 7
        rescaled[2].weight /= 7
    coordinates = np.linspace(-1, 1, 9)[:, None]
    curves = []
    for net in (model, rescaled):
        problem = Problem(net, "cross_entropy", (x, y), dtype=torch.float64)
        *_, ds = evaluate(problem, Line.random(problem.checkpoint(), seed=2), coordinates)
        curves.append(ds.loss.values)
    assert curves[0] == pytest.approx(curves[1], rel=1e-12)
    assert np.ptp(curves[0]) > 0.03


def test_pca_against_the_svd_of_the_whole_trajectory():
    base = checkpoint(mlp().double())
    g = torch.Generator().manual_seed(0)
    path = torch.cumsum(torch.randn(12, base.weights.numel, generator=g, dtype=torch.float64), 0)
    points = [
        Checkpoint(base.weights.unflatten(base.weights.flatten() + row), {}, f"step {i}") for i, row in enumerate(path)
    ]
    plane = Plane.pca(points)
    centred = path - path.mean(0)
    _, values, rows = torch.linalg.svd(centred, full_matrices=False)
    for axis, row in zip(plane.axes, rows[:2], strict=True):
        assert abs(float(axis.weights.flatten() @ row)) == pytest.approx(1, abs=1e-9)
        assert axis.length == pytest.approx(1, abs=1e-12)
    share = (values**2 / (values**2).sum()).numpy()
    assert plane.facts["explained_variance"] == pytest.approx(share, abs=1e-9)
    spots = [plane.project(point) for point in points]
    for (spot, residual), row in zip(spots, path, strict=True):
        away = row - path[-1]
        inside = rows[:2] @ away
        assert np.abs(spot) == pytest.approx(np.abs(inside.numpy()), abs=1e-8)
        assert residual == pytest.approx(float((away - rows[:2].T @ inside).norm()), abs=1e-8)
    assert spots[0][0][0] < 0
    (low, high), _ = plane.default_extent()
    assert low < min(s[0][0] for s in spots) < max(s[0][0] for s in spots) < high
    with pytest.raises(LandscapeError, match="3 or more"):
        Plane.pca(points[:2])
    line = Line.through(points[0], points[-1])
    straight = [Checkpoint(line.point(t), {}, str(t)) for t in (0.0, 0.3, 1.0)]
    with pytest.raises(LandscapeError, match="one line"):
        Plane.pca(straight)


def test_along_directions_and_the_gradient():
    from models import mlp_problem

    problem = mlp_problem(dtype=torch.float64)
    point = problem.checkpoint()
    gradient = problem.gradient(point)
    x, y = problem.data.batches()[0]
    weights = {name: t.clone().requires_grad_(True) for name, t in point.weights.items()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(problem.model, weights, x), y)
    for mine, truth in zip(gradient.values(), torch.autograd.grad(loss, list(weights.values())), strict=True):
        assert torch.allclose(mine, truth, atol=1e-12)
    line = Line.gradient(problem, point)
    assert line.axes[0].length == pytest.approx(1)
    assert line.axes[0].weights.dot(gradient) == pytest.approx(-gradient.norm())
    h = 1e-5
    slope = (
        problem.measure(Checkpoint(line.point(h), point.buffers, ""))["loss"][0]
        - problem.measure(Checkpoint(line.point(-h), point.buffers, ""))["loss"][0]
    ) / (2 * h)
    assert slope == pytest.approx(-gradient.norm(), rel=1e-6)
    plane = Plane.gradient(problem, point)
    assert abs(plane.axes[0].weights.dot(plane.axes[1].weights)) < 1e-12
    with pytest.raises(LandscapeError, match="span no plane"):
        Plane.along(point, gradient, 2.0 * gradient)
    with pytest.raises(LandscapeError, match="span no plane"):
        Line.along(point, gradient.zeros())


# --- the options of planes through three checkpoints -------------------------------------------------------


def triple(dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    points = [3 + torch.randn(12, generator=g, dtype=torch.float64) for _ in range(3)]
    base = checkpoint(nn.Linear(3, 4, bias=False).to(dtype))
    names = ("one", "two", "three")
    made = [Checkpoint(base.weights.unflatten(p.to(dtype)), {}, n) for p, n in zip(points, names, strict=True)]
    return made, torch.stack(points)


def coordinates(plane, points):
    return np.array([plane.project(point)[0] for point in points])


@pytest.mark.parametrize("basis", ["gram-schmidt", "svd", "affine"])
@pytest.mark.parametrize("centre", ["first", "mean", "min-norm"])
@pytest.mark.parametrize("units", [None, "pair", "norm", "rms"])
def test_every_option_describes_the_same_plane(basis, centre, units):
    made, points = triple()
    if basis == "affine" and units:
        with pytest.raises(LandscapeError, match="an affine basis has its own"):
            Plane.through(*made, centre=centre, basis=basis, units=units)
        return
    plane = Plane.through(*made, centre=centre, basis=basis, units=units)
    spots = coordinates(plane, made)
    for spot, point, row in zip(spots, made, points, strict=True):
        assert plane.project(point)[1] < 1e-12
        assert torch.allclose(plane.point(*spot).flatten(), row, atol=1e-12)
    origin = plane.origin.weights.flatten()
    if centre == "first":
        assert torch.equal(origin, points[0])
    elif centre == "mean":
        assert torch.allclose(origin, points.mean(0), atol=1e-12)
    else:
        directions = (points[1:] - points[0]).T
        nearest = points[0] - directions @ torch.linalg.lstsq(directions, points[0][:, None]).solution[:, 0]
        assert torch.allclose(origin, nearest, atol=1e-12)
    assert plane.equal_aspect == (basis != "affine")
    off = np.array([0.3, -0.7])
    assert plane.project(plane.point(*off))[0] == pytest.approx(off, abs=1e-12)


@pytest.mark.parametrize(("units", "length"), [("norm", 1.0), ("rms", (12 / 2) ** 0.5), ("pair", None)])
@pytest.mark.parametrize("basis", ["gram-schmidt", "svd"])
def test_units_of_an_orthonormal_basis(basis, units, length):
    made, points = triple()
    plane = Plane.through(*made, centre="mean", basis=basis, units=units)
    length = length or float((points[1] - points[0]).norm())
    spots = coordinates(plane, made)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        away = points[i] - points[j]
        assert np.linalg.norm(spots[i] - spots[j]) * length == pytest.approx(float(away.norm()), rel=1e-12)
        if units == "rms":
            rms = np.sqrt(np.mean((spots[i] - spots[j]) ** 2))
            assert rms == pytest.approx(float(away.square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize("centre", ["first", "mean", "min-norm"])
def test_the_svd_basis_against_the_svd_of_whole_vectors(centre):
    for seed in range(5):
        made, points = triple(seed=seed)
        plane = Plane.through(*made, centre=centre, basis="svd")
        origin = plane.origin.weights.flatten()
        left = torch.linalg.svd((points[1:] - origin).T, full_matrices=False).U
        for axis, column in zip(plane.axes, left.T, strict=True):
            assert abs(float(axis.weights.flatten() @ column)) == pytest.approx(1, abs=1e-12)
        spots = coordinates(plane, made)
        assert (spots[0] < spots.mean(0)).all()


def test_the_affine_basis_places_the_checkpoints():
    made, points = triple()
    first = Plane.through(*made, basis="affine")
    assert coordinates(first, made) == pytest.approx(np.array([[0, 0], [1, 0], [0, 1]]), abs=1e-12)
    mean = Plane.through(*made, centre="mean", basis="affine")
    assert coordinates(mean, made) == pytest.approx(np.array([[-1, -1], [1, 0], [0, 1]]), abs=1e-12)
    one, two = points[1] - points[0], points[2] - points[0]
    angle = np.degrees(np.arccos(float(one @ two / (one.norm() * two.norm()))))
    assert first.facts["angle_degrees"] == pytest.approx(angle, rel=1e-12)
    assert first.provenance()["basis"] == "affine"
    outside = Checkpoint(made[0].weights * 2.0, {}, "outside")
    spot, residual = first.project(outside)
    rest = outside.weights - first.point(*spot)
    assert residual == pytest.approx(rest.norm(), rel=1e-12)
    assert max(abs(rest.dot(axis.weights)) for axis in first.axes) < 1e-10


def test_a_surface_on_an_oblique_plane_about_the_mean():
    from models import mlp_problem

    from analysis import surface

    problem = mlp_problem(dtype=torch.float64)
    made = [problem.checkpoint(mlp(seed=s), name=str(s)) for s in range(3)]
    plane = Plane.through(*made, centre="mean", basis="affine")
    *_, ds = surface(problem, plane, extent=((-1, 1), (-1, 1)), resolution=3, dense=True)
    for spot, point in zip([(-1, -1), (1, 0), (0, 1)], made, strict=True):
        found = float(ds.loss.sel(a=spot[0], b=spot[1], method="nearest"))
        assert found == pytest.approx(problem.measure(point)["loss"][0], rel=1e-9)


def test_options_that_do_not_fit_are_refused():
    made, _ = triple()
    for option, value in [("centre", "middle"), ("basis", "pca"), ("units", "metres")]:
        with pytest.raises(LandscapeError, match=f"{option} is '{value}'; accepted are"):
            Plane.through(*made, **{option: value})
    with pytest.raises(LandscapeError, match="need three checkpoints"):
        Plane.through(*made[:2], centre="mean")
    half = made[0].weights.unflatten(made[1].weights.flatten() * -2.0)
    with pytest.raises(LandscapeError, match="parallel"):  # zero lies between the second and the third
        Plane.through(made[0], made[1], Checkpoint(half, {}, "beyond"), centre="min-norm", basis="affine")


def test_a_kind_may_be_named_alone_and_seeds_are_checked():
    made, _ = triple()
    alone = Plane.random(made[0], include="weight")
    assert alone.provenance() == Plane.random(made[0], include=("weight",)).provenance()
    for seed in (-1, 1.5, None, True):
        with pytest.raises(LandscapeError, match=f"seed is {seed}; expected a whole number of at least 0"):
            Line.random(made[0], seed=seed)


def test_a_plane_of_a_frozen_model_needs_two_directions():
    net, x, y = trained_conv_bn()
    frozen = Problem(net.requires_grad_(False), "cross_entropy", (x, y)).checkpoint()
    direction = frozen.weights
    with pytest.raises(LandscapeError, match="every parameter is frozen: give a second direction"):
        Plane.along(frozen, direction)
    assert Line.along(frozen, direction).axes


def test_buffers_are_those_of_the_first_about_any_centre():
    made = [checkpoint(ConvBN(), str(i)) for i in range(3)]
    made[0].buffers["bn.running_mean"].fill_(3.0)
    plane = Plane.through(*made, centre="mean")
    assert plane.origin.buffers["bn.running_mean"].tolist() == [3.0] * 4
    assert plane.provenance()["buffers"] == "of 0"


def test_the_gradient_says_that_statistics_are_held():
    net, x, y = trained_conv_bn()
    for policy, held in (("recalibrated", True), ("frozen", False)):
        problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy)
        label = Line.gradient(problem, problem.checkpoint()).axes[0].label
        assert ("statistics held" in label) == held
