"""Seventeen ways in which curvature tools are silently wrong: ours is right, or refuses with the reason.

Each was seen in a published tool. Truth is a dense matrix in float64, or a closed form.
"""

import numpy as np
import pytest
import torch
from models import classification, generator, mlp, mlp_problem, trained_conv_bn
from torch import nn
from torch.utils.data import DataLoader, Dataset

from analysis import LandscapeError, Line, Plane, Problem, ProblemError, provenance, surface
from analysis.curvature.density import density, quadrature, smoothed, trace
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.krylov import Krylov
from analysis.curvature.operators import Curvature
from analysis.curvature.trust import fraction_negative, parabola

DOUBLE = torch.float64


def last(steps):
    *_, final = steps
    return final


def dense(operator):
    return operator.matmat(torch.eye(operator.shape[1], dtype=operator.dtype))


def pairs(operator, **options):
    search = Eigenpairs(operator, **options)
    return last(search.steps()), search


def trained(net, x, y, steps=80):
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


class Function(nn.Module):
    """A function of some numbers as a model; the data play no part."""

    def __init__(self, function, *start):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(start, dtype=DOUBLE))
        self.function = function

    def forward(self, x):
        return self.function(self.w).expand(len(x))


def problem_of(function, *start):
    return Problem(Function(function, *start), lambda output, _: output.mean(), [(torch.ones(1), torch.ones(1))])


def of(function, *start):
    return Curvature(problem_of(function, *start).with_dtype(DOUBLE))


@pytest.fixture(scope="module")
def net():
    """A trained tanh net: its problem, and the eigenvalues and -vectors of its dense Hessian, ascending."""
    x, y = classification()
    model = mlp((6, 8, 3))
    model[1] = nn.Tanh()
    problem = Problem(trained(model, x, y), "cross_entropy", (x, y), dtype=DOUBLE)
    return problem, *torch.linalg.eigh(dense(Curvature(problem)))


def test_no_ghost_copies_among_eigenvalues(net):
    """1: copies of the largest eigenvalue, marked as converged, after many products without re-orthogonalisation."""
    problem, values, _ = net
    ds, _ = pairs(Curvature(problem), largest=10, smallest=5, tolerance=1e-9)
    assert ds.attrs["products"] > 50
    assert ds.converged.all()
    np.testing.assert_allclose(ds.eigenvalue, [*values.flip(0)[:10], *values[:5]], rtol=1e-8)


def test_no_ghost_copies_in_a_long_krylov_space(net):
    """2: a Krylov space as large as the matrix has each eigenvalue once, and one that ends early says so."""
    problem, values, vectors = net
    operator = Curvature(problem)
    krylov = Krylov(torch.randn(len(values), generator=generator(), dtype=DOUBLE), len(values), 1e-9)
    while not krylov.exhausted:
        krylov.add(operator.matvec(krylov.vector))
    np.testing.assert_allclose(krylov.ritz()[0], values, atol=1e-12)
    invariant = Krylov(vectors[:, -3:].sum(1), 10, 1e-9)
    for _ in range(3):
        invariant.add(operator.matvec(invariant.vector))
    np.testing.assert_allclose(invariant.ritz()[0], values[-3:], rtol=1e-9)
    assert invariant.ritz()[1].max() < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_both_ends_of_a_saddle(seed):
    """3: power iteration cannot tell +λ from -λ; f = ab has 1 and -1."""
    ds, _ = pairs(of(lambda w: w[0] * w[1], 0.0, 0.0), largest=1, smallest=1, seed=seed)
    np.testing.assert_allclose(ds.eigenvalue, [1, -1], rtol=1e-9)
    assert ds.end.values.tolist() == ["largest", "smallest"]


def test_both_ends_of_a_linear_network_without_output():
    """3: mixed pairs ±λ at the start of training."""
    x, y = classification()
    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)).double()
    nn.init.zeros_(model[1].weight)
    operator = Curvature(Problem(model, "cross_entropy", (x, y), dtype=DOUBLE))
    values = torch.linalg.eigvalsh(dense(operator))
    ds, _ = pairs(operator, largest=3, smallest=3, tolerance=1e-6)
    np.testing.assert_allclose(ds.eigenvalue, [*values.flip(0)[:3], *values[:3]], rtol=1e-5)


def test_multiple_and_clustered_eigenvalues_are_all_found():
    """4: a small residual does not certify the set: 10, 10, 10, 9, 8, where single vectors find 10, 9, 8, 7, 6."""
    spectrum = torch.tensor([10.0, 10, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1] + 40 * [0.5], dtype=DOUBLE)
    operator = of(lambda w: (spectrum * w * w).sum() / 2, *[0.0] * len(spectrum))
    ds, _ = pairs(operator, largest=5, smallest=0)
    np.testing.assert_allclose(ds.eigenvalue, [10, 10, 10, 9, 8], rtol=1e-3)
    assert ds.attrs["verified"]
    near = torch.cat([torch.tensor([0.6405, 0.64016, 0.64014, 0.64]), torch.linspace(-0.6, 0.6, 60)]).double()
    cluster = of(lambda w: (near * w * w).sum() / 2, *[0.0] * len(near))
    for seed in range(3):
        ds, _ = pairs(cluster, largest=4, smallest=0, seed=seed)
        assert (np.abs(ds.eigenvalue - near[:4].numpy()) < 1e-3).all()


def test_eigenvectors_are_orthonormal_sorted_and_fit_for_axes(net):
    """5: skewed, unsorted vectors as axes of a picture."""
    problem, _, _ = net
    for dtype, tolerance in ((DOUBLE, 1e-10), (torch.float32, 1e-5)):
        operator = Curvature(problem.with_dtype(dtype))
        ds, search = pairs(operator, largest=5, smallest=2)
        found = torch.stack([v.flatten().double() for v in search.vectors])
        assert (found @ found.T - torch.eye(7)).abs().max() < tolerance
        assert (np.diff(ds.eigenvalue[:5]) <= 0).all()
        assert (np.diff(ds.eigenvalue[5:]) >= 0).all()
        truth = dense(Curvature(problem))
        residuals = (found @ truth - torch.from_numpy(ds.eigenvalue.values)[:, None] * found).norm(dim=1)
        assert (residuals.numpy() <= ds.bound + 1e-12).all()
        Plane.along(problem.checkpoint(), *search.vectors[:2])


@pytest.mark.parametrize("size", [1e-3, 1e-6])
def test_small_hessians_keep_their_shape(net, size):
    """6: a constant added where a norm is divided by bends the spectra of well-trained networks."""
    problem, values, _ = net
    model, (x, y) = problem.model, classification()
    small = Problem(model, lambda o, t: size * nn.functional.cross_entropy(o, t), (x, y), metrics=[], dtype=DOUBLE)
    ds, _ = pairs(Curvature(small), largest=2, smallest=1, tolerance=1e-6)
    np.testing.assert_allclose(ds.eigenvalue, size * values[[-1, -2, 0]], rtol=1e-5)
    one = quadrature(last(density(Curvature(problem), deflate=3, degree=20)))
    other = quadrature(last(density(Curvature(small), deflate=3, degree=20)))
    np.testing.assert_allclose(other[0], size * one[0], atol=1e-6 * size * float(values[-1]))


def test_products_are_exact_along_the_lowest_eigenvector():
    """7: finite differences of gradients are off by the size of the eigenvalue itself there, on ReLU networks."""
    x, y = classification()
    model = trained(mlp(), x, y)
    truth = dense(Curvature(Problem(model, "cross_entropy", (x, y), dtype=DOUBLE)))
    values, vectors = torch.linalg.eigh(truth)
    own = Curvature(Problem(model, "cross_entropy", (x, y)))
    error = (own.matvec(vectors[:, 0].float()).double() - values[0] * vectors[:, 0]).norm()
    assert error < 1e-3 * values[0].abs()


def test_models_that_work_in_place_are_right_at_every_product():
    """8: products that are wrong from the second call on."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            out = self.a(x)
            out += x
            return self.b(torch.tanh_(out))

    x, y = classification()
    operator = Curvature(Problem(InPlace(), "cross_entropy", (x, y), dtype=DOUBLE))
    v = torch.randn(operator.shape[1], generator=generator(), dtype=DOUBLE)
    assert torch.equal(operator.matvec(v), operator.matvec(v))
    ds, _ = pairs(operator, largest=3, smallest=1)
    values = torch.linalg.eigvalsh(dense(operator))
    assert (np.abs(ds.eigenvalue - values[[-1, -2, -3, 0]].numpy()) <= ds.bound + 1e-12).all()


def test_a_ragged_last_batch_weighs_what_it_holds(net):
    """9: the mean of batch means."""
    problem, values, _ = net
    x, y = classification()
    batches = [(x[i : i + 25], y[i : i + 25]) for i in range(0, 64, 25)]  # 25, 25, 14
    ragged = Problem(problem.model, "cross_entropy", batches, dtype=DOUBLE)
    ds, _ = pairs(Curvature(ragged), largest=1, smallest=1, tolerance=1e-6)
    np.testing.assert_allclose(ds.eigenvalue, values[[-1, 0]], rtol=1e-5)


def test_two_operators_on_one_model_do_not_meet():
    """10: gradients of one left in the model of the other."""
    x, y = classification()
    model = mlp()
    nn.functional.cross_entropy(model(x), y).backward()
    kept = [p.grad.clone() for p in model.parameters()]
    alone = [pairs(Curvature(Problem(model, "cross_entropy", (x[s], y[s]))))[0] for s in (slice(32), slice(32, 64))]
    both = [Curvature(Problem(model, "cross_entropy", (x[s], y[s]))) for s in (slice(32), slice(32, 64))]
    for operator, ds in zip(both, alone, strict=True):
        assert pairs(operator)[0].eigenvalue.identical(ds.eigenvalue)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept, strict=True))


def test_data_that_are_drawn_anew_each_time_are_drawn_once():
    """11: noise in the data leaves no fixed matrix, and numbers all the same."""

    class Noisy(Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, i):
            x, y = classification()
            return x[i] + torch.randn(6), y[i]

    problem = Problem(mlp(), "cross_entropy", DataLoader(Noisy(), batch_size=20, shuffle=True), dtype=DOUBLE)
    first, second = (pairs(Curvature(problem))[0] for _ in range(2))
    assert first.eigenvalue.identical(second.eigenvalue)
    assert first.attrs["loss"] == pytest.approx(problem.measure()["loss"][0], rel=1e-12)


def test_a_model_that_draws_random_numbers_is_refused_or_draws_the_same():
    """11: noise in the model."""

    class Drawing(nn.Linear):
        def forward(self, x):
            return super().forward(x + torch.randn_like(x))

    with pytest.raises(ProblemError, match="draws random numbers"):
        Problem(Drawing(6, 3), "cross_entropy", classification())
    problem = Problem(Drawing(6, 3), "cross_entropy", classification(), seed=0, dtype=DOUBLE)
    state = torch.get_rng_state()
    first, second = (pairs(Curvature(problem))[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.eigenvalue.identical(second.eigenvalue)
    assert first.attrs["loss"] == pytest.approx(problem.measure()["loss"][0], rel=1e-12)


def test_the_batchnorm_mode_is_chosen_and_recorded():
    """12: evaluation and training mode have other eigenvalues, and a tool answers one of them without a word."""
    model, x, y = trained_conv_bn()
    statistics = model.bn.running_mean.clone()
    tops = {}
    for policy in ("frozen", "recalibrated", "batch"):
        problem = Problem(model, "cross_entropy", (x, y), batchnorm=policy, batch_size=96, dtype=DOUBLE)
        operator = Curvature(problem)
        ds, _ = pairs(operator, largest=1, smallest=0, tolerance=1e-6)
        tops[policy] = float(ds.eigenvalue[0])
        assert tops[policy] == pytest.approx(float(torch.linalg.eigvalsh(dense(operator))[-1]), rel=1e-5)
        assert provenance(ds)["batchnorm"] == policy
    assert abs(tops["frozen"] / tops["batch"] - 1) > 0.01
    assert model.training
    assert torch.equal(model.bn.running_mean, statistics)


def test_signs_within_the_noise_are_not_counted(net):
    """13: in float32 the signs of small eigenvalues are rounding: 16 of them are 0 exactly."""
    problem, values, _ = net
    n = len(values)
    rough = Curvature(problem.with_dtype(torch.float32))
    ds, search = pairs(rough, largest=n // 2, smallest=n - n // 2, verify=False, tolerance=1e-6)
    noise = ds.attrs["noise"]
    assert 1e-9 < noise / float(values[-1]) < 1e-4
    share = fraction_negative(last(density(rough, search)), noise)
    zero = int((values.abs() < 1e-12 * values[-1]).sum())
    assert zero >= 9  # the softmax does not see what moves all outputs alike
    sure = int((values < -2 * noise).sum()), int((values < 0).sum())
    assert sure[0] / n - 1e-9 <= share.negative <= sure[1] / n + 1e-9
    assert share.undecided * n >= zero - 1e-9
    assert sum(share) == pytest.approx(1)
    assert fraction_negative(last(density(rough, search)), 0.0).undecided < share.undecided
    with pytest.raises(LandscapeError, match="noise is -1"):
        fraction_negative(last(density(rough, search)), -1)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda w: 1.5 * w[0] ** 2 + w[0] ** 4 + w[1] ** 2, (0.1 * 1.5) ** 0.5),
        (lambda w: 1.5 * w[0] ** 2 + 0.15 * w[0] ** 3 + w[1] ** 2, 1.0),
        (lambda w: 1.5 * w[0] ** 2 + torch.relu(w[0] - 0.2) + w[1] ** 2, 0.2 / 0.6 + 0.2),
        (lambda w: 1.5 * w[0] ** 2 + w[1] ** 2, 2.0),
    ],
)
def test_a_slice_says_where_its_parabola_ends(function, expected):
    """14: kinks and higher orders: a product sees neither."""
    if expected > 0.5 and expected < 0.6:  # 1.5 t² / 10 = t - 0.2
        expected = min(np.roots([0.15, -1.0, 0.2]))
    problem = problem_of(function, 0.0, 0.0).with_dtype(DOUBLE)
    ds, search = pairs(Curvature(problem), largest=1, smallest=0, tolerance=1e-9)
    assert float(ds.eigenvalue[0]) == pytest.approx(3)
    line = Line.along(problem.checkpoint(), search.vectors[0], labels=["eigenvector 1"])
    drawn = last(surface(problem, line, extent=(-2, 2), resolution=401, dense=True))
    assert parabola(drawn, float(ds.eigenvalue[0])) == pytest.approx(expected, abs=0.0101)


def test_a_slope_belongs_to_the_parabola_and_other_slices_are_refused():
    """14: away from a minimum."""
    problem = problem_of(lambda w: 0.7 * w[0] + 1.5 * w[0] ** 2 + w[1] ** 2, 0.0, 0.0).with_dtype(DOUBLE)
    operator = Curvature(problem)
    ds, search = pairs(operator, largest=1, smallest=0, tolerance=1e-9)
    line = Line.along(problem.checkpoint(), search.vectors[0])
    drawn = last(surface(problem, line, extent=(-1, 1), resolution=101, dense=True))
    slope = float(search.locked[0] @ operator.gradient)
    assert parabola(drawn, 3.0, slope) == 1
    assert parabola(drawn, 3.0) == 0
    for given, eigenvalue, words in (
        (ds, 3.0, "A line through"),
        (drawn, 0.0, "finite numbers other than 0"),
        (last(surface(problem, line, extent=(1, 2), resolution=5, dense=True)), 3.0, "not evaluated at the checkpoint"),
    ):
        with pytest.raises(LandscapeError, match=words):
            parabola(given, eigenvalue)


def test_a_density_is_weighted(net):
    """15: unweighted histograms of Ritz values, complex weights."""
    problem, values, _ = net
    nodes, weights = quadrature(last(density(Curvature(problem), deflate=5, probes=8, degree=30)))
    assert nodes.dtype == weights.dtype == np.float64
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    assert values[0] - 1e-9 <= nodes.min() <= nodes.max() <= values[-1] + 1e-9
    assert len(values) * (nodes * weights).sum() == pytest.approx(float(values.sum()), rel=0.1)
    cut = float(values[-1]) / 20
    low = float((values.abs() < cut).double().mean())
    assert weights[np.abs(nodes) < cut].sum() == pytest.approx(low, abs=0.08)
    assert abs((np.abs(nodes) < cut).mean() - low) > 0.1  # what counting nodes would say
    at = np.linspace(-1, 3, 4001) * float(values[-1])
    drawn = smoothed(last(density(Curvature(problem))), at, cut)
    assert np.trapezoid(drawn, at) == pytest.approx(1, abs=1e-3)


def test_a_parameter_that_is_not_used_has_no_curvature():
    """16: obscure errors where the loss does not depend on a parameter."""

    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    x, y = classification()
    whole = Curvature(Problem(Spare(), "cross_entropy", (x, y), dtype=DOUBLE))
    used = Curvature(whole.problem, layers=["used"])
    values = torch.linalg.eigvalsh(dense(used))
    ds, search = pairs(whole, largest=3, smallest=0, tolerance=1e-6)
    np.testing.assert_allclose(ds.eigenvalue, values.flip(0)[:3], rtol=1e-5)
    assert all(v["spare.weight"].abs().max() < 1e-6 for v in search.vectors)
    found = last(trace(whole, 2 * whole.shape[1]))
    assert float(found.trace) == pytest.approx(float(values.sum()), rel=1e-6)
    assert float(found.layer_trace.sel(layer="spare.weight")) == 0


def test_what_is_not_converged_is_marked_and_its_bars_hold():
    """17: unconverged numbers without a sign."""
    problem = mlp_problem(dtype=DOUBLE)
    values = torch.linalg.eigvalsh(dense(Curvature(problem))).numpy()
    ds, _ = pairs(Curvature(problem), largest=5, smallest=5, most_products=15, tolerance=1e-6)
    assert ds.attrs["status"] == "unconverged"
    assert not ds.attrs["verified"]
    assert not ds.converged.all()
    nearest = np.abs(ds.eigenvalue.values[:, None] - values).min(1)
    assert (nearest <= ds.bound).all()


def test_rounding_of_the_loss_does_not_end_a_parabola():
    """14: in float32 the loss itself is known to 1e-7 alone: a million times what the first point adds to it."""
    problem = problem_of(lambda w: 100 + 1.5 * w[0] ** 2 + w[1] ** 2, 0.0, 0.0)
    line = Line.along(problem.checkpoint(), problem.checkpoint().weights.unflatten(torch.tensor([1.0, 0.0])))
    drawn = last(surface(problem, line, extent=(-0.1, 0.1), resolution=101, dense=True))
    assert parabola(drawn, 3.0) == pytest.approx(0.1)
