"""Eigenvalues, densities and traces against dense matrices."""

import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import classification, mlp, mlp_problem, trained_conv_bn
from scipy.stats import beta
from torch import nn

from analysis import LandscapeError, Problem, load, provenance, save
from analysis.curvature import eigenpairs
from analysis.curvature.density import density, effective_dimension, quadrature, smoothed, trace
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.krylov import Krylov
from analysis.curvature.operators import Curvature

DOUBLE = torch.float64
X = torch.zeros(2, 1)
CLUSTER = [0.6405, 0.64016, 0.64014, 0.64013, 0.6401, 0.55, *np.linspace(0.4, -0.3, 80), -0.64, -0.6405]
TRIPLE = [10.0, 10, 10, 9, 8, 7, 6, 5, *np.linspace(3, -0.5, 60), -1, -1, -2]


def half_the_mean(output, _):
    return output.mean() / 2


class Quadratic(nn.Module):
    def __init__(self, matrix):
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(matrix)))
        self.register_buffer("matrix", matrix)

    def forward(self, x):
        return (self.w @ self.matrix @ self.w).expand(len(x), 1)


class Diagonal(nn.Module):
    def __init__(self, diagonal):
        super().__init__()
        self.w = nn.Parameter(torch.ones(len(diagonal)))
        self.register_buffer("diagonal", diagonal)

    def forward(self, x):
        return (self.diagonal * self.w**2).sum().expand(len(x), 1)


def quadratic(spectrum, dtype=DOUBLE):
    """A problem whose Hessian has the given eigenvalues."""
    d = torch.tensor(np.asarray(spectrum), dtype=DOUBLE)
    q = torch.linalg.qr(torch.randn(len(d), len(d), generator=torch.Generator().manual_seed(0), dtype=DOUBLE))[0]
    matrix = (q * d) @ q.T
    return Problem(Quadratic((matrix + matrix.T) / 2), half_the_mean, (X, X), dtype=dtype)


def diagonal(spectrum, dtype=DOUBLE):
    """The same along the axes of the weights, for many of them."""
    return Problem(Diagonal(torch.tensor(spectrum, dtype=DOUBLE)), half_the_mean, (X, X), dtype=dtype)


def last(results):
    *_, result = results
    return result


def solved(problem, **options):
    solver = Eigenpairs(Curvature(problem), **options)
    return solver, last(solver.steps())


def truth(problem):
    operator = Curvature(problem.with_dtype(DOUBLE))
    matrix = operator.matmat(torch.eye(operator.shape[1], dtype=DOUBLE))
    return np.linalg.eigvalsh(((matrix + matrix.T) / 2).numpy())


@pytest.mark.parametrize("spectrum", [TRIPLE, CLUSTER, [2.0] * 30, [5.0] * 8 + [1.0] * 20, [1.0, -1.0]])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("seed", range(3))
def test_the_bar_of_each_rank_holds_its_eigenvalue(spectrum, dtype, seed):
    k = min(5, len(spectrum) // 2)
    _, ds = solved(quadratic(spectrum, dtype), largest=k, smallest=k, seed=seed)
    ordered = np.sort(spectrum)
    true = np.concatenate([ordered[::-1][:k], ordered[:k]])
    assert ds.attrs["status"] == "converged"
    assert (np.abs(ds.eigenvalue.values - true) <= ds.bound.values).all()
    assert ds.end.values.tolist() == ["largest"] * k + ["smallest"] * k


@pytest.mark.parametrize("seed", range(3))
def test_the_bars_hold_on_networks_in_both_precisions(seed):
    net = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    problem = Problem(net, "cross_entropy", classification(), dtype=DOUBLE)
    true = truth(problem)
    true = np.concatenate([true[::-1][:4], true[:4]])
    for dtype in (torch.float32, DOUBLE):
        _, ds = solved(problem.with_dtype(dtype), largest=4, smallest=4, seed=seed)
        assert (np.abs(ds.eigenvalue.values - true) <= ds.bound.values).all()
        assert (ds.gap_bound.values <= ds.bound.values).all()


def test_the_noise_is_measured_where_the_loss_has_tensors_of_its_own():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]))
    problem = Problem(nn.Linear(6, 3), loss, classification())
    _, ds = solved(problem, largest=2, smallest=0)
    assert abs(ds.eigenvalue.values - truth(problem)[::-1][:2]).max() <= ds.bound.values.max()


def test_a_model_that_knows_float32_alone_has_a_bar_all_the_same():
    class Single(nn.Linear):
        def forward(self, x):
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return super().forward(x)

    problem = Problem(Single(6, 3), "cross_entropy", classification())
    _, ds = solved(problem, largest=2, smallest=0)
    assert ds.attrs["status"] == "converged"
    assert ds.attrs["noise"] > 0


def test_without_the_second_look_copies_are_missed():
    """The trap itself: all residuals are small, and the set is wrong."""
    problem = diagonal(TRIPLE)
    _, alone = solved(problem, smallest=0, verify=False, tolerance=1e-6)
    assert alone.converged.all()
    assert alone.eigenvalue.values[1] < 9.5
    _, looked = solved(problem, smallest=0, tolerance=1e-6)
    assert looked.eigenvalue.values == pytest.approx([10, 10, 10, 9, 8], abs=1e-8)
    assert looked.attrs["verified"] == 1


def test_vectors_are_orthonormal_and_belong_to_their_values():
    problem = mlp_problem(dtype=DOUBLE)
    operator = Curvature(problem)
    solver = Eigenpairs(operator, largest=3, smallest=2, tolerance=1e-8)
    ds = last(solver.steps())
    vectors = torch.stack([operator.from_weights(v) for v in solver.vectors])
    assert (vectors @ vectors.T - torch.eye(5)).abs().max() < 1e-12
    for value, residual, vector in zip(ds.eigenvalue.values, ds.residual.values, vectors, strict=True):
        true = float((operator.matvec(vector) - value * vector).norm())
        assert true == pytest.approx(residual, abs=1e-10)


def test_layers_alone_have_vectors_that_are_zero_elsewhere():
    solver, _ = solved(mlp_problem(), largest=1, smallest=0)
    part = Eigenpairs(Curvature(mlp_problem(), layers=["0.*"]), largest=1, smallest=0)
    last(part.steps())
    assert part.vectors[0]["2.weight"].abs().max() == 0 < solver.vectors[0]["2.weight"].abs().max()


@pytest.mark.parametrize("pause", [-1, 1000])
def test_the_first_products_give_results_with_bars_and_later_ones_do_at_intervals(pause, monkeypatch):
    monkeypatch.setattr(eigenpairs, "YIELD_SECONDS", pause)
    results = list(Eigenpairs(Curvature(mlp_problem())).steps())
    products = [ds.attrs["products"] for ds in results if ds.attrs["products"]]
    assert products == sorted(products)
    every = set(range(1, products[-1] + 1))
    assert set(products) == (every if pause < 0 else {1, 2, 3, 4, 5, products[-1]})
    assert all(np.isfinite(ds.bound.values).all() for ds in results)
    assert {ds.attrs["status"] for ds in results[:-1]} == {"running"}


def test_a_run_that_is_cut_short_says_so_and_goes_on_later(tmp_path, monkeypatch):
    monkeypatch.setattr(eigenpairs, "YIELD_SECONDS", -1)
    problem = mlp_problem(dtype=DOUBLE)
    whole, truth_ds = solved(problem, tolerance=1e-6)
    first = Eigenpairs(Curvature(problem), tolerance=1e-6)
    steps = first.steps()
    while first.products < 14:
        next(steps)
    steps.close()
    first.save(tmp_path / "run.safetensors")
    second = Eigenpairs(Curvature(problem), tolerance=1e-6)
    second.resume(tmp_path / "run.safetensors")
    for solver in (first, second):
        ds = last(solver.steps())
        assert np.array_equal(ds.eigenvalue.values, truth_ds.eigenvalue.values)
        assert ds.attrs["products"] == truth_ds.attrs["products"] == whole.products
    other = Eigenpairs(Curvature(problem), tolerance=1e-6, largest=2)
    with pytest.raises(LandscapeError, match="differs in largest"):
        other.resume(tmp_path / "run.safetensors")
    (tmp_path / "bad").write_bytes(b"no")
    with pytest.raises(LandscapeError, match="no saved run"):
        other.resume(tmp_path / "bad")


@pytest.mark.parametrize("saved", [False, True])
def test_more_products_go_on_from_where_fewer_ended(tmp_path, saved):
    problem = mlp_problem()
    whole, expected = solved(problem, tolerance=1e-5)
    assert whole.products > 50  # restarts and a second look among them
    search = Eigenpairs(Curvature(problem), tolerance=1e-5, most_products=0)
    for most in range(1, whole.products, 7):
        search.most_products = most
        ds = last(search.steps())
        assert ds.attrs["products"] == most
        assert ds.attrs["status"] == "unconverged"
        assert len(search.vectors) == min(most, 6)
        assert np.isfinite(ds.bound).all()
        if saved:
            search.save(tmp_path / "run.safetensors")
            search = Eigenpairs(Curvature(problem), tolerance=1e-5, most_products=most)
            search.resume(tmp_path / "run.safetensors")
            assert last(search.steps()).eigenvalue.identical(ds.eigenvalue)
    search.most_products = 1000
    ds = last(search.steps())
    assert (ds.attrs["products"], ds.attrs["status"]) == (whole.products, "converged")
    assert np.array_equal(ds.eigenvalue, expected.eigenvalue)
    assert np.array_equal(ds.bound, expected.bound)
    assert last(search.steps()).attrs["products"] == whole.products


def test_a_cancelled_run_goes_on_wherever_it_was_cancelled():
    problem = mlp_problem()
    whole, expected = solved(problem, tolerance=1e-5)
    search = Eigenpairs(Curvature(problem), tolerance=1e-5)
    while search.status == "running":
        steps = search.steps()
        ds = next(steps)
        steps.close()
    assert np.array_equal(ds.eigenvalue, expected.eigenvalue)
    assert ds.attrs["products"] == whole.products


def test_too_few_products_are_unconverged_with_wide_bars():
    problem = quadratic(TRIPLE)
    _, ds = solved(problem, most_products=8)
    assert ds.attrs["status"] == "unconverged"
    assert not ds.converged.all()


def test_the_basis_is_kept_where_it_fits(monkeypatch):
    operator = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(eigenpairs, "memory", lambda device: 4e9)
    assert eigenpairs.basis_home(operator, 10**9).type == "cuda"
    assert eigenpairs.basis_home(operator, 10**9 + 1).type == "cpu"


def test_the_basis_is_no_larger_than_stated_before_the_run():
    problem = mlp_problem()
    solver = Eigenpairs(Curvature(problem))
    assert solver.bytes == (solver.size + 7) * problem.structure.numel * 4
    next(solver.steps())
    assert solver._krylov._whole.nbytes <= solver.bytes


def test_bars_hold_for_many_parameters_in_float32():
    """Sums of so many products lose digits in float32: errors were twice the bar without sums in parts."""
    spectrum = np.random.default_rng(0).uniform(-0.5, 0.5, 2**20)
    spectrum[:6] = 10, 9.9, 9, 8, 7, -4
    spectrum = np.sort(spectrum.astype(np.float32).astype(float))
    ds = last(Eigenpairs(Curvature(diagonal(spectrum, torch.float32)), largest=3, smallest=1, tolerance=1e-6).steps())
    errors = np.abs(ds.eigenvalue.values - spectrum[[-1, -2, -3, 0]])
    assert ds.attrs["status"] == "converged"
    assert (errors <= ds.gap_bound.values / 2).all()


def test_results_are_saved_with_what_determines_them(tmp_path):
    _, ds = solved(mlp_problem(), largest=2, smallest=0)
    again = load(save(ds, tmp_path / "pairs.nc"))
    assert np.array_equal(again.eigenvalue, ds.eigenvalue)
    facts = provenance(again)
    assert facts["matrix"] == "Hessian"
    assert facts["samples_counted"] == 64


@pytest.mark.parametrize(
    "options", [{"largest": -1}, {"largest": 0, "smallest": 0}, {"largest": 10**6}, {"tolerance": 0}]
)
def test_bad_arguments(options):
    with pytest.raises(LandscapeError, match="expected|must be"):
        Eigenpairs(Curvature(mlp_problem()), **options)


def test_a_loss_that_is_not_finite_is_an_error():
    kink = lambda output, _: (output.mean() - output.mean().detach()).abs().sqrt()  # noqa: E731
    problem = Problem(nn.Linear(2, 1), kink, (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(LandscapeError, match="NaN"):
        solved(problem, largest=1, smallest=0)


# --- density and trace ------------------------------------------------------------------------------------------


def test_the_nodes_are_the_spectrum_where_there_are_enough_of_them():
    spectrum = [4.0, 3, 2, 1, 0.5, -1]
    ds = last(density(Curvature(quadratic(spectrum)), deflate=0, degree=6))
    nodes, weights = quadrature(ds)
    assert np.sort(nodes) == pytest.approx(np.sort(spectrum), abs=1e-10)
    assert weights.sum() == pytest.approx(1)
    many = last(density(Curvature(quadratic(spectrum)), deflate=2, degree=4, probes=400))
    assert many.deflated.size == 2
    nodes, weights = quadrature(many)
    assert (weights * nodes).sum() == pytest.approx(np.mean(spectrum), abs=0.02)
    assert weights.sum() == pytest.approx(1)


def test_deflation_makes_one_probe_better():
    spectrum = np.concatenate([np.linspace(1, 5, 10), np.linspace(-0.1, 0.1, 150)])
    operator = Curvature(quadratic(spectrum))
    errors = {}
    for deflate in (0, 20):
        means = [mean(last(density(operator, deflate=deflate, degree=40 - deflate, seed=s))) for s in range(10)]
        errors[deflate] = np.median(np.abs(np.array(means) - spectrum.mean()))
    assert errors[20] < errors[0] / 5


def mean(ds):
    nodes, weights = quadrature(ds)
    return (nodes * weights).sum()


def test_smoothing_integrates_to_one_and_the_effective_dimension_is_the_sum():
    spectrum = [4.0, 3, 2, 1, 0.5, -1]
    ds = last(density(Curvature(quadratic(spectrum)), deflate=6))
    at = np.linspace(-5, 8, 4001)
    assert np.trapezoid(smoothed(ds, at, 0.2), at) == pytest.approx(1, abs=1e-6)
    true = sum(s / (s + 0.3) for s in spectrum if s > 0)
    assert effective_dimension(ds, 0.3) == pytest.approx(true, rel=1e-3)
    with pytest.raises(LandscapeError, match="positive"):
        effective_dimension(ds, 0)


def test_earlier_pairs_are_deflated_and_cost_nothing_again():
    operator = Curvature(quadratic(TRIPLE))
    pairs = Eigenpairs(operator, largest=5, smallest=2)
    last(pairs.steps())
    before = operator.products
    ds = last(density(operator, pairs, deflate=0, degree=12))
    assert operator.products - before == 12 == ds.attrs["products"]
    assert np.sort(ds.deflated.values)[-3:] == pytest.approx([10, 10, 10])


def test_the_trace_is_exact_for_low_rank_and_within_its_error_otherwise():
    low = [5.0, 3, -2] + [0.0] * 60
    ds = last(trace(Curvature(quadratic(low)), 12))
    assert float(ds.trace) == pytest.approx(6, abs=1e-8)
    spectrum = np.concatenate([[30, 10, 5], np.linspace(-0.2, 0.4, 100)])
    operator = Curvature(quadratic(spectrum))
    z = [
        (float(d.trace) - spectrum.sum()) / float(d.trace_se) for d in (last(trace(operator, 30, s)) for s in range(12))
    ]
    assert abs(np.mean(z)) < 1
    assert np.mean(np.abs(z) < 2) > 0.8
    full = last(trace(operator, 300, seed=1))
    assert float(full.trace) == pytest.approx(spectrum.sum(), rel=1e-10)
    assert float(full.frobenius) == pytest.approx(np.linalg.norm(spectrum), rel=0.2)


def test_layers_have_their_own_traces():
    operator = Curvature(mlp_problem(dtype=DOUBLE))
    matrix = operator.matmat(torch.eye(operator.shape[1], dtype=DOUBLE))
    ds = last(trace(operator, 600))
    for name, part in operator.layer_slices().items():
        true, found = float(matrix[part, part].trace()), ds.sel(layer=name)
        assert abs(float(found.layer_trace) - true) < 5 * float(found.layer_trace_se)
    assert float(ds.trace) == pytest.approx(float(matrix.trace()), rel=1e-4)


class Twice(nn.Module):
    """A ReLU network that uses one matrix twice on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.again(self.again(self.first(x).relu()).relu()))


def smooth(activation):
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 3))


def silent():
    """A smooth network whose only parameters are zero, as biases and adapters are at first."""
    model = smooth(nn.Tanh).requires_grad_(False)
    nn.init.zeros_(model[0].bias.requires_grad_(True))
    return model


def conv_bn_problem(**options):
    model, x, y = trained_conv_bn()
    return Problem(model, "cross_entropy", (x, y), dtype=DOUBLE, **options)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (lambda: mlp_problem(dtype=DOUBLE), "ggn"),
        (mlp_problem, "ggn"),
        (lambda: Problem(mlp(), "mse", (classification()[0], torch.ones(64, 3)), dtype=DOUBLE), "ggn"),
        (lambda: conv_bn_problem(batchnorm="frozen"), "ggn"),
        (conv_bn_problem, "ggn"),
        (lambda: conv_bn_problem(batchnorm="batch"), "hessian"),
        (lambda: Problem(smooth(nn.Tanh), "cross_entropy", classification(), dtype=DOUBLE), "hessian"),
        (lambda: Problem(smooth(nn.GELU), "cross_entropy", classification()), "hessian"),
        (lambda: Problem(silent(), "cross_entropy", classification(), dtype=DOUBLE), "hessian"),
        (lambda: Problem(Twice(), "cross_entropy", classification(), dtype=DOUBLE), "hessian"),
        (lambda: Problem(mlp(), lambda model, batch: ((model(batch[0]) - 1) ** 2).mean(), classification()), "hessian"),
    ],
)
def test_the_trace_is_that_of_the_gauss_newton_matrix_only_where_that_is_exact(problem, kind):
    operator = Curvature(problem())
    other = operator.of_same_trace()
    assert other.kind == kind
    true = float(operator.matmat(torch.eye(operator.shape[1], dtype=operator.dtype)).trace())
    if kind == "ggn":
        found = float(other.matmat(torch.eye(other.shape[1], dtype=other.dtype)).trace())
        assert found == pytest.approx(true, rel=1e-10 if operator.dtype == DOUBLE else 1e-5)
    ds = last(trace(operator, 60))
    assert ds.attrs["trace_of"] == kind
    assert ds.attrs["products"] == min(60, 2 * operator.shape[1])
    assert abs(float(ds.trace) - true) < 5 * float(ds.trace_se) + 1e-9


@pytest.mark.parametrize(
    "call", [lambda o: trace(o, 3), lambda o: density(o, degree=0), lambda o: density(o, deflate=-1)]
)
def test_bad_budgets(call):
    with pytest.raises(LandscapeError, match="expected"):
        call(Curvature(mlp_problem()))


def test_a_model_of_one_dtype_has_bars_all_the_same():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(torch.tanh(x.float()))

    problem = Problem(Single(), "cross_entropy", classification())
    _, ds = solved(problem, largest=2, smallest=0)
    plain = Problem(nn.Sequential(nn.Tanh(), problem.model.fc), "cross_entropy", classification())
    assert ds.attrs["status"] == "converged"
    assert (np.abs(ds.eigenvalue.values - truth(plain)[::-1][:2]) <= ds.bound.values).all()


def test_a_run_saved_before_its_first_product_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(eigenpairs, "YIELD_SECONDS", -1)  # each block of the data is followed by a Dataset
    problem = mlp_problem(dtype=DOUBLE)
    ran = Eigenpairs(Curvature(problem))
    assert next(ran.steps()).attrs["products"] == 0
    ran.save(tmp_path / "run.safetensors")
    again = Eigenpairs(Curvature(problem))
    again.resume(tmp_path / "run.safetensors")
    assert np.array_equal(last(again.steps()).eigenvalue.values, solved(problem)[1].eigenvalue.values)


def test_a_run_saved_by_another_version_is_refused_in_words(tmp_path, monkeypatch):
    ran = Eigenpairs(Curvature(mlp_problem()))
    next(ran.steps())
    monkeypatch.setattr(eigenpairs, "LAYOUT", 1)
    ran.save(tmp_path / "run.safetensors")
    monkeypatch.undo()
    with pytest.raises(LandscapeError, match="another version"):
        ran.resume(tmp_path / "run.safetensors")


def test_a_matrix_that_is_not_symmetric_is_refused():
    matrix = torch.randn(20, 20, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    krylov = Krylov(torch.ones(20, dtype=DOUBLE), 10, 1e-6)
    krylov.add(matrix @ krylov.vector)
    with pytest.raises(LandscapeError, match="not symmetric"):
        krylov.add(matrix @ krylov.vector)
    with pytest.raises(LandscapeError, match="not finite"):
        krylov.add(matrix @ krylov.vector * torch.nan)


@pytest.mark.parametrize("seed", range(3))
def test_a_fresh_direction_is_not_the_start_again(seed):
    start = torch.randn(30, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    krylov = Krylov(start, 10, 1e-6)
    krylov.add(2 * krylov.vector)
    assert abs(float(start @ krylov._random() / start.norm() ** 2)) < 0.9
    assert float(krylov.vector @ krylov.basis[0]) == pytest.approx(0, abs=1e-15)


def test_a_run_on_other_samples_is_not_taken_up(tmp_path):
    problem = Problem(nn.Linear(6, 3), "cross_entropy", classification())
    ran = Eigenpairs(Curvature(problem, samples=range(10)), largest=2)
    next(ran.steps())
    ran.save(tmp_path / "run.safetensors")
    Eigenpairs(Curvature(problem, samples=range(10)), largest=2).resume(tmp_path / "run.safetensors")
    with pytest.raises(LandscapeError, match="samples_sha256"):
        Eigenpairs(Curvature(problem, samples=range(10, 20)), largest=2).resume(tmp_path / "run.safetensors")


def test_the_chance_of_missing_is_that_of_a_start_with_so_little_mass():
    n, steps, value = 50, 6, 1.3
    spectrum = torch.linspace(-1, 1, n, dtype=DOUBLE)
    start = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    krylov = Krylov(start, 20, 1e-9)
    for _ in range(steps):
        krylov.add(spectrum * krylov.vector)
    mass = (start / start.norm()).numpy()
    powers = np.polynomial.chebyshev.chebvander
    triangle = np.linalg.qr(mass[:, None] * powers(spectrum.numpy(), steps))[1]
    christoffel = 1 / np.square(np.linalg.solve(triangle.T, powers(np.array([value]), steps)[0])).sum()
    exact = beta.cdf(christoffel, 0.5, (n - 1) / 2)
    assert exact < krylov.chance_of_missing(value) < 1.1 * exact


def test_standard_errors_of_a_trace_are_its_errors_and_there_is_no_bias():
    spectrum = np.linspace(-1, 2, 12)
    operator = Curvature(quadratic(spectrum))
    runs = [last(trace(operator, 8, seed=seed)) for seed in range(300)]
    truths = {"trace": spectrum.sum(), "frobenius": np.linalg.norm(spectrum), "layer_trace": spectrum.sum()}
    for name, true in truths.items():
        errors = np.array([float(run[name].squeeze()) - true for run in runs])
        stated = np.array([float(run[f"{name}_se"].squeeze()) for run in runs])
        assert 0.7 < np.sqrt(np.mean(errors**2) / np.mean(stated**2)) < 1.4, name
        if name != "frobenius":  # a root of a mean is biased
            assert abs(errors.mean()) < 3.5 * errors.std() / np.sqrt(len(runs)), name


@pytest.mark.parametrize("start", [torch.zeros(21), torch.ones(20), torch.full((21,), torch.nan)])
def test_a_start_that_leads_nowhere_is_refused(start):
    operator = Curvature(Problem(nn.Linear(6, 3), "cross_entropy", classification()))
    with pytest.raises(LandscapeError, match=r"vector \[21\]"):
        Eigenpairs(operator, start=start)


@pytest.mark.parametrize("seed", range(5))
def test_the_gap_is_that_to_the_next_eigenvalue_even_if_it_was_not_asked_for(seed):
    spectrum = [1.0, 0.9, *np.linspace(0.5, -0.3, 60), -1]
    _, ds = solved(quadratic(spectrum), largest=1, smallest=1, tolerance=0.05, seed=seed)
    residual, sharp = float(ds.residual[0]), float(ds.gap_bound[0]) - ds.attrs["noise"]
    assert residual > 1e-6
    assert sharp >= 0.99 * min(residual, residual**2 / 0.1)  # the other end is 2 away


def test_what_is_set_aside_hides_no_more_than_it_says(monkeypatch):
    """In the one vector beside a Krylov space, the largest eigenvalue is seen lower by exactly the slack."""
    monkeypatch.setattr(eigenpairs, "SLACK", np.inf)
    operator = Curvature(quadratic([1.0, *np.linspace(0.9, -0.3, 7)]))
    krylov = Krylov(torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=DOUBLE), 7, 1e-9)
    while not krylov.full:
        krylov.add(operator.matvec(krylov.vector))
    last_vector = krylov.vector.clone()
    search = Eigenpairs(operator, largest=1, smallest=0)
    search.found = [eigenpairs.Pair(1.0, 0.0)]
    search.size = 100
    every = [eigenpairs.Pair(v, r) for v, r in zip(*krylov.ritz()[:2], strict=True)]
    beside, slack = search._set_aside(every, [])
    assert sorted(beside) == list(range(7))
    assert slack["largest"] == pytest.approx(1 - float(last_vector @ operator.matvec(last_vector)), rel=1e-9)
    assert slack["largest"] > 0.01


@pytest.mark.parametrize("aside", [0, 4])
def test_a_locked_space_and_its_complement_have_the_whole_spectrum(aside):
    spectrum = np.array([3.0, 2, 1, 0.5, 0.1, 0, -0.2, -1])
    operator = Curvature(quadratic(spectrum))
    start = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    krylov = Krylov(start, 8, 1e-9)
    while not krylov.exhausted:
        krylov.add(operator.matvec(krylov.vector))
    krylov.lock(range(8 - aside, 8), start)
    while not krylov.exhausted:
        krylov.add(operator.matvec(krylov.vector))
    assert krylov.ritz()[0] == pytest.approx(np.sort(spectrum)[: 8 - aside], abs=1e-12)
    assert np.abs(krylov.beside).max(initial=0) < 1e-12
    whole = torch.cat([krylov.locked, krylov.basis[: krylov.filled]])
    assert (whole @ whole.T - torch.eye(8)).abs().max() < 1e-13


def test_one_pass_keeps_a_long_basis_orthogonal_though_products_are_rounded():
    spectrum = 2.0 ** -np.arange(60)
    operator = Curvature(quadratic(spectrum, torch.float32))
    start = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    krylov = Krylov(start, 40, 1e-2)
    while not krylov.full:
        krylov.add(operator.matvec(krylov.vector))
    basis = krylov.basis
    assert (basis @ basis.T - torch.eye(41)).abs().max() < 1e-13


def test_pairs_that_were_missed_have_the_residual_of_the_whole_space():
    """They are found in the complement of others that are not exact."""
    problem = quadratic(TRIPLE)
    for seed in range(3):
        search, _ = solved(problem, largest=3, smallest=0, tolerance=0.1, seed=seed)
        for pair in search.found:
            true = float((search.operator.matvec(pair.vector) - pair.value * pair.vector).norm())
            assert pair.residual == pytest.approx(true, rel=1e-6, abs=1e-12)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from Linux")
def test_repeated_searches_leave_no_memory_behind():
    """From the 20th search to the 120th the resident size rises by less than one search's basis, in the median."""
    problem, sizes = Problem(mlp((6, 200, 3)), "cross_entropy", classification()), []
    for _ in range(120):
        search = Eigenpairs(Curvature(problem), largest=1, smallest=0, most_products=5)
        last(search.steps())
        sizes.append(resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[1]))
    assert np.median(sizes[90:]) - np.median(sizes[20:50]) < search.bytes
