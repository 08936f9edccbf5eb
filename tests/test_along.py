"""Curvature along training against dense matrices, and the edge of stability."""

import json

import numpy as np
import pytest
import torch
from models import classification, mlp
from torch import nn

from analysis import LandscapeError, Problem, load, save
from analysis.checkpoints import Checkpoint
from analysis.curvature.along import along_training, with_learning_rate
from analysis.curvature.operators import Curvature, samples_by_class
from sample_checkpoints import load_digits, path
from sample_checkpoints.samples import made

DOUBLE = torch.float64


def last(*arguments, **options):
    *_, final = along_training(*arguments, **options)
    return final


def dense(problem, checkpoint=None, **options):
    operator = Curvature(problem, checkpoint, **options)
    return operator.matmat(torch.eye(operator.shape[1], dtype=operator.dtype)), operator


def descent(net, loss, rate, steps, every):
    """State dicts of full-batch gradient descent, and the loss at each step."""
    states, losses = [], []
    for step in range(steps + 1):
        if step % every == 0:
            states.append({name: value.detach().clone() for name, value in net.state_dict().items()})
        value = loss(net)
        for p, g in zip(net.parameters(), torch.autograd.grad(value, list(net.parameters())), strict=True):
            p.data -= rate * g
        losses.append(float(value.detach()))
    return states, np.array(losses)


@pytest.fixture(scope="module")
def run():
    x, y = classification()
    net = mlp((6, 8, 3))
    net[1] = nn.Tanh()
    states, _ = descent(net.double(), lambda f: nn.functional.cross_entropy(f(x.double()), y), 0.5, 60, 20)
    problem = Problem(net, "cross_entropy", (x, y), dtype=DOUBLE)
    points = [problem.checkpoint(state, name=f"at {20 * i}") for i, state in enumerate(states)]
    info = [{"step": 20 * i, "lr": "0.5"} for i in range(len(points))]  # numbers in safetensors are text
    return problem, [Checkpoint(c.weights, c.buffers, c.name, i) for c, i in zip(points, info, strict=True)]


@pytest.mark.parametrize("warm", [True, False])
def test_every_quantity_is_the_dense_one(run, warm):
    problem, points = run
    ds = last(problem, points, largest=2, smallest=1, tolerance=1e-4, trace_products=40, warm=warm)
    before = None
    for i, point in enumerate(points):
        matrix, operator = dense(problem, point)
        values, vectors = torch.linalg.eigh(matrix)
        own, g = ds.isel(checkpoint=i), operator.gradient
        truth = torch.stack([values[-1], values[-2], values[0]]).numpy()
        assert (np.abs(own.eigenvalue - truth) <= own.bound).all()
        assert own.converged.all()
        assert abs(float(own.trace) - float(matrix.trace())) < 5 * float(own.trace_se) + 1e-9
        assert float(own.gradient_norm) == pytest.approx(float(g.norm()))
        assert float(own.loss) == pytest.approx(problem.measure(point)["loss"][0])
        top = vectors[:, -2:]
        assert float(own.alignment) == pytest.approx(float((top.T @ g).square().sum() / g.square().sum()), abs=1e-3)
        if before is not None:
            assert float(own.overlap) == pytest.approx(float((top.T @ before).square().sum() / 2), abs=1e-3)
        assert float(own.stability) == pytest.approx(0.5 * truth[0] / 2, rel=1e-3)
        assert float(own.trace_stability) == pytest.approx(0.5 * float(own.trace) / 2)
        before = top
    assert np.isnan(ds.overlap[0])
    assert ds.step.values.tolist() == [0, 20, 40, 60]
    assert ds.name.values.tolist() == ["at 0", "at 20", "at 40", "at 60"]
    assert (ds.edge == 4).all()
    assert ds.end.values.tolist() == ["largest", "largest", "smallest"]


def test_a_learning_rate_that_is_given_counts_and_one_that_nobody_knows_is_nan(run):
    problem, points = run
    assert (last(problem, points[:1], trace_products=0, learning_rate=0.1).edge == 20).all()
    ds = last(problem, [problem.checkpoint()], trace_products=0)
    assert np.isnan(ds.edge).all()
    assert np.isnan(ds.step).all()
    assert np.isfinite(ds.eigenvalue).all()


def test_another_learning_rate_needs_no_other_computation(run):
    problem, points = run
    ds = last(problem, points[:2], trace_products=4)
    given = last(problem, points[:2], trace_products=4, learning_rate=0.1)
    for name in ("learning_rate", "edge", "stability", "trace_stability"):
        assert with_learning_rate(ds, 0.1)[name].identical(given[name])
    with pytest.raises(LandscapeError, match="learning rate is -1; expected a positive"):
        with_learning_rate(ds, -1)


def test_results_fill_up_and_can_be_stopped(run, tmp_path):
    problem, points = run
    filled, progress = [], []
    for ds in along_training(problem, points):
        filled.append(int(np.isfinite(ds.trace).sum() + np.isfinite(ds.eigenvalue).all("pair").sum()))
        progress.append(ds.attrs["progress"])
    assert filled == sorted(filled)
    assert progress == sorted(progress)
    assert (filled[-1], progress[-1], ds.attrs["status"]) == (8, 1.0, "done")
    assert ds.attrs["checkpoints"] == ds.attrs["planned_checkpoints"] == 4
    assert ds.attrs["products"] >= ds.products.sum()
    facts = json.loads(ds.attrs["provenance"])
    assert [c["name"] for c in facts["checkpoints"]] == ds.name.values.tolist()
    assert len({c["sha256"] for c in facts["checkpoints"]}) == 4
    save(ds, tmp_path / "a.nc")
    assert load(tmp_path / "a.nc").eigenvalue.identical(ds.eigenvalue)
    steps = along_training(problem, points)
    for part in steps:
        if np.isfinite(part.trace[1]):
            break
    steps.close()
    assert part.attrs["status"] == "running"
    assert np.isfinite(part.eigenvalue[1]).all()
    assert np.isnan(part.eigenvalue[2:]).all()


def test_bad_arguments(run):
    problem, points = run
    for given, options, words in (
        ([], {}, "No checkpoint"),
        (points, {"largest": 0}, "expected 1 or more"),
        (points, {"learning_rate": -1.0}, "positive number"),
        (points, {"trace_products": 2}, "0 or at least 4"),
        (points, {"tolerance": 2}, "tolerance is 2"),
        (points, {"kind": "hessien"}, "accepted are"),
        (points, {"smallest": 1000}, "together they must be"),
    ):
        with pytest.raises(LandscapeError, match=words):
            along_training(problem, given, **options)


# --- what papers found ------------------------------------------------------------------------------------------


def digits(n, width=32):
    data = load_digits()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10))
    for layer in (net[0], net[2]):
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return net, data.x_train[:n], nn.functional.one_hot(data.y_train[:n], 10).float()


@pytest.mark.parametrize(("rate", "steps", "reached"), [(0.4, 3000, True), (0.2, 1500, False)])
def test_gradient_descent_trains_at_the_edge_of_stability(rate, steps, reached):
    """Cohen et al. 2021, arXiv:2103.00065: the top eigenvalue rises to 2 / learning rate and stays there."""
    net, x, y = digits(300)
    problem = Problem(net, "half_squared_error", (x, y), metrics=[])
    states, losses = descent(net, lambda f: (f(x) - y).square().sum(1).mean() / 2, rate, steps, 100)
    points = [problem.checkpoint(state) for state in states]
    ds = last(problem, points[-10:], largest=1, smallest=0, learning_rate=rate, trace_products=0)
    near = float(ds.stability.mean())
    up = (np.diff(losses) > 0).mean()
    if reached:
        assert 0.95 <= near <= 1.08
        assert up > 0.05
    else:
        assert near < 0.6
        assert up == 0
    assert ds.converged.all()


def test_a_batch_has_a_wider_spectrum_than_all_data():
    """Granziol, Zohren, Roberts 2022, arXiv:2006.09092: both ends move outward, in the mean over batches."""
    problem = made("trajectory-mlp64", "train")
    point = problem.checkpoint(path("trajectory-mlp64/step-00480"))
    random = np.random.default_rng(0)

    def ends(size):
        own = random.choice(problem.n, size, replace=False)
        return last(problem, [point], samples=own, largest=1, smallest=1, trace_products=0).eigenvalue.values[0]

    high, low = np.array([np.mean([ends(n) for _ in range(5)], 0) for n in (8, 128, 1437)]).T
    assert high[0] > 2 * high[2]
    assert (np.diff(high) < 0).all()
    assert (np.diff(low) > 0).all()


def test_class_spectra_average_to_the_whole():
    """Class-wise Hessians (methods 9): their traces and smallest eigenvalues bound those of the whole."""
    problem = Problem(mlp((6, 5, 3)), "cross_entropy", classification(), dtype=DOUBLE)
    parts = samples_by_class(problem)
    assert sum(map(len, parts.values())) == problem.n
    options = {"largest": 1, "smallest": 1, "tolerance": 1e-6, "trace_products": 2 * problem.structure.numel}
    whole = last(problem, [problem.checkpoint()], **options)
    of = {c: last(problem, [problem.checkpoint()], samples=chosen, **options) for c, chosen in parts.items()}
    share = {c: len(chosen) / problem.n for c, chosen in parts.items()}
    mean = lambda name: sum(share[c] * ds[name].values.ravel() for c, ds in of.items())  # noqa: E731
    assert mean("loss") == pytest.approx(whole.loss.values, rel=1e-12)
    assert mean("trace") == pytest.approx(whole.trace.values, rel=1e-6)
    assert float(whole.eigenvalue[0, 0]) <= mean("eigenvalue")[0]
    assert float(whole.eigenvalue[0, 1]) >= mean("eigenvalue")[1]
