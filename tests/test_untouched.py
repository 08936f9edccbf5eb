"""The caller's model, data and random state are bit-identical afterwards, whatever happened."""

import random
import threading

import numpy as np
import pytest
import torch
from models import ConvBN, classification, mlp, trained_conv_bn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from analysis import (
    Checkpoint,
    Curvature,
    Eigenpairs,
    Line,
    Plane,
    Problem,
    Strategy,
    Weights,
    along_training,
    evaluate,
    load_checkpoint,
    over_seeds,
    sharpness,
    softmax_radius,
    surface,
)
from analysis.attention import twice_differentiable_attention
from analysis.curvature import density, trace


class Snapshot:
    """Everything of a model and of the global random state that a computation could leave changed."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.before = self.take()

    def take(self) -> list:
        m = self.model
        state = [(k, v.clone(), v.data_ptr(), v._version) for k, v in m.state_dict(keep_vars=True).items()]
        grads = [None if p.grad is None else p.grad.clone() for p in m.parameters()]
        flags = [(p.requires_grad, p.dtype, p.device) for p in m.parameters()]
        modes = [module.training for module in m.modules()]
        hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in m.modules()]
        rng = [torch.get_rng_state(), np.random.get_state(), random.getstate()]  # noqa: NPY002
        return [state, grads, flags, modes, hooks, rng, torch.is_grad_enabled(), torch.get_num_threads()]

    def assert_unchanged(self) -> None:
        after = self.take()
        for (name, a, pointer, version), (name_, b, pointer_, version_) in zip(self.before[0], after[0], strict=True):
            assert name == name_
            assert torch.equal(a, b), name
            assert (pointer, version) == (pointer_, version_), name
        for a, b in zip(self.before[1], after[1], strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)
        assert self.before[2:5] == after[2:5]
        torch_, numpy_, python_ = self.before[5]
        assert torch.equal(torch_, after[5][0])
        assert numpy_[2] == after[5][1][2]
        assert np.array_equal(numpy_[1], after[5][1][1])
        assert python_ == after[5][2]
        assert self.before[6:] == after[6:]


@pytest.fixture
def model():
    """A model in the middle of training: mixed modes, gradients, a frozen layer."""
    net, x, y = trained_conv_bn()
    nn.functional.cross_entropy(net(x), y).backward()
    net.head.bias.requires_grad_(False)
    net.train()
    net.bn.eval()
    return net, x, y


def loader(x, y):
    return DataLoader(TensorDataset(x, y), batch_size=20, shuffle=True)


class Stop(Exception):
    pass


def computations(tmp_path):
    """name -> (build, run): every public computation, given a problem and a checkpoint."""
    return {
        "surface": lambda p, c: surface(p, Plane.random(c), resolution=9),
        "dense surface": lambda p, c: surface(p, Line.random(c), resolution=9, dense=True),
        "evaluate": lambda p, c: evaluate(p, Plane.random(c), np.zeros((5, 2))),
        "measure": lambda p, c: iter([p.measure(c)]),
        "gradient": lambda p, c: iter([p.gradient(c)]),
        "planes": lambda p, c: iter([Plane.gradient(p, c), Line.random(c), Plane.along(c, p.gradient(c))]),
        "seeds": lambda p, c: over_seeds(p, lambda seed: Line.random(c, seed=seed), [0, 1], resolution=9),
        "softmax radius": lambda p, c: iter([softmax_radius(p, Plane.random(c), 0.1, 0.2)]),
        "eigenvalues": lambda p, c: Eigenpairs(Curvature(p, c), largest=2).steps(),
        "density": lambda p, c: density(Curvature(p, c), deflate=2, degree=5),
        "trace": lambda p, c: trace(Curvature(p, c), 10),
        "sharpness": lambda p, c: sharpness(p, c, radii=[0.1], sigmas=[0.01], steps=2, draws=2),
        "along training": lambda p, c: along_training(p, [c, p.checkpoint()], trace_products=4),
        "checkpoint": lambda p, c: iter([load_checkpoint(dict(p.model.state_dict()), p.model)]),
        "project": lambda p, c: iter([Plane.random(c).project(c)]),
        "weights": lambda p, c: iter([Weights.of(p.model).norm()]),
    }


@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
@pytest.mark.parametrize("name", list(computations(None)))
def test_after_success(model, policy, name, tmp_path):
    net, x, y = model
    snapshot = Snapshot(net)
    problem = Problem(net, "cross_entropy", loader(x, y), batchnorm=policy)
    for _ in computations(tmp_path)[name](problem, problem.checkpoint(net)):
        pass
    snapshot.assert_unchanged()


@pytest.mark.parametrize("name", ["surface", "dense surface", "evaluate", "measure", "seeds"])
def test_after_an_exception_in_the_users_loss(model, name, tmp_path):
    net, x, y = model
    calls = []

    def loss(output, target):
        calls.append(1)
        if len(calls) > 12:
            raise Stop
        return nn.functional.cross_entropy(output, target)

    snapshot = Snapshot(net)
    problem = Problem(net, loss, loader(x, y))
    calls += [1] * 10
    with pytest.raises(Stop):
        for _ in computations(tmp_path)[name](problem, problem.checkpoint()):
            pass
    snapshot.assert_unchanged()


def test_after_an_exception_while_the_problem_is_made(model):
    net, x, y = model

    def loss(output, target):
        raise Stop

    snapshot = Snapshot(net)
    with pytest.raises(Stop):
        Problem(net, loss, loader(x, y))
    snapshot.assert_unchanged()


@pytest.mark.parametrize(
    "name",
    [
        "surface",
        "dense surface",
        "evaluate",
        "seeds",
        "eigenvalues",
        "density",
        "trace",
        "sharpness",
        "along training",
    ],
)
def test_after_a_cancel(model, name, tmp_path):
    net, x, y = model
    snapshot = Snapshot(net)
    problem = Problem(net, "cross_entropy", loader(x, y))
    results = computations(tmp_path)[name](problem, problem.checkpoint())
    next(results)
    snapshot.assert_unchanged()  # also between two results
    results.close()
    snapshot.assert_unchanged()
    assert next(results, None) is None


def test_the_callers_data_are_untouched_by_a_model_that_writes_into_its_input():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 3))
    x, y = classification()
    kept = x.clone()
    problem = Problem(model, "cross_entropy", (x, y))
    truth = nn.functional.cross_entropy(model(x.clone()), y).item()
    first, second = problem.measure()["loss"][0], problem.measure()["loss"][0]
    assert torch.equal(x, kept)
    assert first == second == pytest.approx(truth, rel=1e-6)
    assert float(problem.data.batches()[0][0].min()) < 0


def test_later_changes_of_the_callers_model_and_data_change_nothing():
    model = mlp()
    x, y = classification()
    problem = Problem(model, "cross_entropy", (x, y))
    before = problem.measure()["loss"]
    with torch.no_grad():
        model[0].weight.zero_()
    x.zero_()
    assert problem.measure()["loss"] == before


def test_results_do_not_change_after_they_were_yielded():
    problem = Problem(mlp(), "cross_entropy", classification())
    seen = []
    for ds in surface(problem, Plane.random(problem.checkpoint()), resolution=15, dense=True):
        seen.append((ds, ds.copy(deep=True)))
    for ds, kept in seen:
        assert ds.identical(kept)


def test_two_jobs_at_once_on_one_model_give_the_numbers_of_one_after_the_other():
    net, x, y = trained_conv_bn()
    problem = Problem(net, "cross_entropy", (x, y), dtype=torch.float64)
    other = problem.with_batchnorm("frozen")
    point = problem.checkpoint()

    def jobs():
        return [
            surface(problem, Plane.random(point, seed=1), resolution=15, dense=True, strategy=strategy),
            surface(other, Plane.random(point, seed=2), resolution=15, dense=True, strategy=strategy),
            surface(problem, Line.random(point, seed=3), resolution=99, dense=True, strategy=strategy),
        ]

    strategy = Strategy(96, torch.get_num_threads())

    def run(results, into, index):
        for ds in results:
            into[index] = ds

    serial, parallel = {}, {}
    for i, job in enumerate(jobs()):
        run(job, serial, i)
    threads = [threading.Thread(target=run, args=(job, parallel, i)) for i, job in enumerate(jobs())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in serial:
        assert np.array_equal(serial[i].loss, parallel[i].loss)
        assert serial[i].loss.std() > 0


def test_seeded_draws_are_left_alone_by_problems_that_are_made_in_another_thread():
    model = nn.Sequential(nn.Linear(6, 8), _Noise(), nn.Linear(8, 3))
    problem = Problem(model, "cross_entropy", classification(), seed=0)
    expected, stop, made = problem.measure(), threading.Event(), []
    other = mlp()  # what it draws itself nobody can hold back

    def make():
        while not stop.is_set():
            made.append(Problem(other, "cross_entropy", classification()))

    making = threading.Thread(target=make)
    making.start()
    try:
        while len(made) < 3:
            assert problem.measure() == expected
    finally:
        stop.set()
        making.join()


class _Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_attention_has_its_kernels_back_after_threads_that_overlap():
    before = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    first, second = twice_differentiable_attention(), twice_differentiable_attention()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not torch.backends.cuda.flash_sdp_enabled()  # the second is still inside
    second.__exit__(None, None, None)
    assert (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()) == before


def test_a_generator_holds_no_context_while_it_is_suspended():
    problem = Problem(mlp(), "cross_entropy", classification())
    results = surface(problem, Plane.random(problem.checkpoint()), resolution=9)
    next(results)
    assert torch.is_grad_enabled()
    w = torch.ones(2, requires_grad=True)
    (w * 2).sum().backward()
    assert w.grad is not None


def test_stale_statistics_of_one_point_do_not_reach_the_next():
    """Points are independent: any order gives the same numbers under every policy."""
    net, x, y = trained_conv_bn()
    for policy in ("frozen", "recalibrated", "batch"):
        problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy)
        plane = Plane.random(problem.checkpoint())
        coordinates = np.array([[0.0, 0.0], [1.0, 0.5], [-0.4, 0.2]])
        strategy = Strategy(None, torch.get_num_threads())
        *_, forwards = evaluate(problem, plane, coordinates, strategy=strategy)
        *_, backwards = evaluate(problem, plane, coordinates[::-1], strategy=strategy)
        assert np.array_equal(forwards.loss.values, backwards.loss.values[::-1])


def test_copies_share_no_memory_with_the_model():
    net = ConvBN()
    point = Checkpoint.of(net)
    pointers = {v.data_ptr() for v in net.state_dict().values()}
    assert not pointers & {t.data_ptr() for t in [*point.weights.values(), *point.buffers.values()]}
    problem = Problem(net, "cross_entropy", (torch.randn(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)))
    assert not pointers & {v.data_ptr() for v in problem.model.state_dict().values()}
    assert problem.checkpoint().weights.digest() == point.weights.digest()
