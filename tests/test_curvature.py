"""Curvature against dense matrices in float64 and closed forms."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from models import ConvBN, Tied, classification, generator, linear_regression, mlp, mlp_problem, trained_conv_bn
from torch import nn
from torch.func import functional_call

from analysis import LandscapeError, Problem
from analysis.curvature import operators
from analysis.curvature.operators import Curvature, samples_by_class

DOUBLE = torch.float64


def dense(operator):
    return operator.matmat(torch.eye(operator.shape[1], dtype=operator.dtype))


def hessian(model, loss, names=None):
    """Of a function of named parameters, by brute force in float64."""
    parameters = {n: p.detach().double() for n, p in model.named_parameters()}
    names = names or list(parameters)
    sizes = [parameters[n].numel() for n in names]

    def value(vector):
        parts = vector.split(sizes)
        moved = {n: part.view(parameters[n].shape) for n, part in zip(names, parts, strict=True)}
        return loss(lambda *inputs: functional_call(model.double(), {**parameters, **moved}, inputs))

    point = torch.cat([parameters[n].flatten() for n in names])
    return torch.autograd.functional.hessian(value, point)


def tanh_net(seed=0):
    net = mlp((6, 8, 3), seed)
    net[1] = nn.Tanh()
    return net


@pytest.fixture
def both():
    x, y = classification(70)
    problem = Problem(tanh_net(), "cross_entropy", (x, y), dtype=DOUBLE, batch_size=32)  # a ragged last batch
    truth = hessian(tanh_net(), lambda net: nn.functional.cross_entropy(net(x.double()), y))
    return problem, truth


def close(operator, truth, tolerance=1e-12):
    assert (dense(operator) - truth).abs().max() <= tolerance * truth.abs().max()


def test_the_hessian_is_the_dense_one(both):
    problem, truth = both
    close(Curvature(problem), truth)


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_graphs_are_kept_while_memory_allows_and_built_anew_otherwise(both, share, monkeypatch):
    problem, truth = both
    monkeypatch.setattr(operators, "GRAPH_SHARE", share)
    operator = Curvature(problem)
    assert operator.keeps_graphs == (share > 0)
    close(operator, truth)


def test_blocks_weigh_by_their_samples(both, monkeypatch):
    problem, truth = both
    monkeypatch.setattr(operators, "LARGEST_BLOCK", 32)  # 32, 32, 6
    operator = Curvature(problem)
    assert len(operator._blocks) == 3
    close(operator, truth)


def test_loss_and_gradient_are_the_problems_own(both):
    problem, _ = both
    for kind in ("hessian", "ggn", "fisher"):
        operator = Curvature(problem, kind=kind)
        assert float(operator.loss) == pytest.approx(problem.measure()["loss"][0], rel=1e-12)
        assert (operator.gradient - problem.gradient().flatten()).abs().max() < 1e-14


def test_parts_are_the_dense_ones_parts(both):
    problem, truth = both
    whole = Curvature(problem)
    slices = whole.layer_slices()
    first, last = slices["0.weight"], slices["2.weight"]
    close(Curvature(problem, layers=["0.weight"]), truth[first, first])
    close(
        Curvature(problem, layers="2.*", columns=["0.weight"]),
        torch.cat([truth[last, first], truth[slices["2.bias"], first]]),
    )
    block = Curvature(problem, layers=["2.weight"], columns=["0.weight"])
    close(block.transposed(), truth[first, last])
    v = torch.randn(block.shape[1], dtype=DOUBLE, generator=generator())
    assert np.allclose(block.to_scipy() @ v.numpy(), truth[last, first] @ v)
    assert np.allclose(block.to_scipy().rmatvec(np.ones(block.shape[0])), truth[first, last].sum(1))


def test_classes_and_samples_are_their_own_problems(both):
    problem, _ = both
    x, y = classification(70)
    parts = samples_by_class(problem)
    total = 0
    for c, chosen in parts.items():
        assert set(y[chosen].tolist()) == {c}
        truth = hessian(tanh_net(), lambda net, i=chosen: nn.functional.cross_entropy(net(x[i].double()), y[i]))
        own = Curvature(problem, samples=chosen)
        close(own, truth)
        total = total + dense(own) * len(chosen) / 70
    close(Curvature(problem), total)


def test_gauss_newton_and_fisher_are_the_dense_ones(both):
    problem, _ = both
    x, y = classification(70)
    net = tanh_net().double()
    parameters = dict(net.named_parameters())

    def outputs(values):
        return functional_call(net, dict(zip(parameters, values, strict=True)), (x.double(),))

    jacobian = torch.cat(
        [j.flatten(2) for j in torch.autograd.functional.jacobian(lambda *v: outputs(v), tuple(parameters.values()))], 2
    )
    p = outputs(parameters.values()).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    truth = torch.einsum("nkp,nkl,nlq->pq", jacobian, middle, jacobian) / 70
    close(Curvature(problem, kind="ggn"), truth.detach())
    g = torch.einsum("nkp,nk->np", jacobian, p - nn.functional.one_hot(y, 3))
    close(Curvature(problem, kind="fisher"), (g.T @ g / 70).detach())


def test_gauss_newton_and_tangent_kernel_have_the_same_spectrum():
    """For half the squared error, J'J / n and JJ' / n (methods 18)."""
    x, y = classification(30)
    net = tanh_net().double()
    target = nn.functional.one_hot(y, 3).double()
    problem = Problem(net, "half_squared_error", (x.double(), target), dtype=DOUBLE)
    matrix = dense(Curvature(problem, kind="ggn"))
    rows = []
    for i in range(30):
        for k in range(3):
            g = torch.autograd.grad(net(x.double())[i, k], list(net.parameters()))
            rows.append(torch.cat([part.flatten() for part in g]))
    jacobian = torch.stack(rows)
    kernel = torch.linalg.eigvalsh(jacobian @ jacobian.T / 30)
    top = torch.linalg.eigvalsh(matrix)
    shared = min(len(kernel), len(top))
    assert (kernel[-shared:] - top[-shared:]).abs().max() < 1e-10


def test_a_linear_model_has_the_textbook_hessian():
    model, x, y = linear_regression(DOUBLE)
    problem = Problem(model, "half_squared_error", (x, y), dtype=DOUBLE)
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=DOUBLE)], 1)
    second = ones.T @ ones / len(x)
    operator = Curvature(problem)
    truth = torch.block_diag(*[second[:5, :5]] * 3)
    weights = operator.layer_slices()["weight"]
    assert (dense(operator)[weights, weights] - truth).abs().max() < 1e-13
    close(Curvature(problem, kind="ggn"), dense(operator))


@pytest.mark.parametrize(("data", "net"), [(25, (25, 5, 10, 10)), (10, (10, 4, 6))])
def test_ranks_of_deep_linear_networks_are_the_formulas(data, net):
    """Singh, Bachmann, Hofmann 2021, arXiv:2106.16225: rank of the outer-product part and of the Hessian."""
    torch.manual_seed(0)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(net)]
    n = 50
    x, y = torch.randn(n, net[0]).double(), torch.randint(0, net[-1], (n,))
    target = torch.randn(n, net[-1]).double()
    problem = Problem(nn.Sequential(*layers), "half_squared_error", (x, target), dtype=DOUBLE)
    del y
    r, k, hidden = net[0], net[-1], net[1:-1]
    q, s = min(r, k, *hidden), min(r, k)
    outer = (r + k - q) * q
    functional = 2 * q * sum(hidden) + 2 * q * s - len(layers) * q * q
    rank = lambda m: int(torch.linalg.matrix_rank(m, hermitian=True, rtol=1e-10))  # noqa: E731
    assert rank(dense(Curvature(problem, kind="ggn"))) == outer
    matrix = dense(Curvature(problem))
    assert rank((matrix + matrix.T) / 2) == functional + outer + q * (q - 2 * s)


# --- models of every kind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
def test_batchnorm_is_explicit(policy):
    net, x, y = trained_conv_bn()
    x = x.double()
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, batch_size=40, dtype=DOUBLE)
    operator = Curvature(problem)
    own = trained_conv_bn()[0].double()
    if policy == "recalibrated":
        own.bn.reset_running_stats()
        own.bn.momentum = None
        own.train()
        sizes = [32, 32, 32]  # at most 40, as even as can be
        for part in x.split(sizes):
            own(part)
    own.train(policy == "batch")
    cuts = [40, 40, 16] if policy == "batch" else [96]
    mean = lambda f: sum(  # noqa: E731
        nn.functional.cross_entropy(f(a), b, reduction="sum") for a, b in zip(x.split(cuts), y.split(cuts), strict=True)
    )
    own.bn.momentum = 0.0
    close(operator, hessian(own, lambda f: mean(f) / 96), 1e-10)


def test_attention_and_tied_weights():
    tokens = torch.randint(0, 11, (8, 5), generator=generator())
    tied = Problem(Tied(), "cross_entropy", (tokens, tokens), dtype=DOUBLE)
    model = tied.model
    truth = hessian(model, lambda f: nn.functional.cross_entropy(f(tokens).transpose(1, 2), tokens))
    close(Curvature(tied), truth, 1e-10)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    x = torch.randn(4, 5, 8, generator=generator(), dtype=DOUBLE)
    problem = Problem(layer, "mse", (x, x * 2), dtype=DOUBLE)
    matrix = dense(Curvature(problem, layers=["self_attn.*"]))
    assert (matrix - matrix.T).abs().max() < 1e-12 * matrix.abs().max()


def test_unused_and_frozen_parameters():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(4, 4)
            self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)

        def forward(self, x):
            return self.used(x) * self.fixed

    problem = Problem(Spare(), "cross_entropy", classification(), dtype=DOUBLE)
    operator = Curvature(problem)
    slices = operator.layer_slices()
    matrix = dense(operator)
    assert "fixed" not in slices
    assert matrix[slices["spare.weight"]].abs().max() == 0 < matrix[slices["used.weight"]].abs().max()
    assert "fixed" in Curvature(problem, frozen=True).layer_slices()
    with pytest.raises(LandscapeError, match="frozen"):
        Curvature(problem, layers=["fixed"])


def test_in_place_models_are_right_at_every_product():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            out = self.a(x)
            out += x
            return self.b(torch.relu_(out))

    x, y = classification()
    problem = Problem(InPlace(), "cross_entropy", (x, y), dtype=DOUBLE)
    close(Curvature(problem), hessian(problem.model, lambda f: nn.functional.cross_entropy(f(x.double()), y)))


def test_a_custom_loss_and_its_reduction():
    x, y = classification()
    weighted = lambda output, target: nn.functional.cross_entropy(output, target, reduction="none") ** 2  # noqa: E731
    problem = Problem(tanh_net(), weighted, (x, y), reduction="none", dtype=DOUBLE)
    truth = hessian(tanh_net(), lambda f: weighted(f(x.double()), y).mean())
    close(Curvature(problem), truth, 1e-10)


def test_the_users_model_is_untouched_and_two_operators_do_not_meet():
    net, x, y = trained_conv_bn()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    grads = [p.grad.clone() for p in net.parameters()]
    one = Curvature(Problem(net, "cross_entropy", (x, y)))
    v = torch.randn(one.shape[1], generator=generator())
    first = one.matvec(v)
    other = Curvature(Problem(net, "cross_entropy", (x[:20], y[:20])))
    other.matvec(v)
    assert torch.equal(one.matvec(v), first)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    assert net.training


def test_float32_is_near_float64(both):
    problem, truth = both
    rough = Curvature(problem.with_dtype(torch.float32))
    assert rough.dtype == torch.float32
    close(rough, truth.float(), 1e-5)
    close(rough.in_float64(), truth, 1e-6)


def test_bad_arguments():
    problem = mlp_problem()
    for options, words in (
        ({"kind": "hesian"}, "accepted are"),
        ({"layers": ["nowhere"]}, "matches no parameter"),
        ({"data": "test"}, "the problem has"),
        ({"samples": []}, "No sample"),
        ({"samples": [64]}, "indices from 0 to 63"),
    ):
        with pytest.raises(LandscapeError, match=words):
            Curvature(problem, **options)
    with pytest.raises(LandscapeError, match=r"expected \["):
        Curvature(problem).matvec(torch.ones(3))
    own = Problem(mlp(), lambda model, batch: model(batch[0]).square().mean(), classification(), metrics=[])
    with pytest.raises(LandscapeError, match="Gauss-Newton"):
        Curvature(own, kind="ggn")
    with pytest.raises(LandscapeError, match="Fisher"):
        Curvature(own, kind="fisher")
    with pytest.raises(LandscapeError, match="whole batches"):
        Curvature(Problem(ConvBN(), "cross_entropy", trained_conv_bn()[1:], batchnorm="batch"), samples=[1, 2])


def test_a_matrix_that_changes_between_products_is_refused():
    operator = Curvature(mlp_problem(dtype=DOUBLE))
    steps, calls = operator.steps, []

    def drifting(vector):
        calls.append(1)
        result = yield from steps(vector)
        return result * len(calls)

    operator.steps = drifting
    with pytest.raises(LandscapeError, match="Two products disagree"):
        operator.matvec(torch.ones(operator.shape[1], dtype=DOUBLE))


@pytest.mark.parametrize("loss", ["mse", "weighted"])
def test_fisher_weighs_samples_as_the_loss_does(loss):
    """Means over outputs, class weights: sum of w g g' over sum of w, with g the gradient of one sample's mean loss."""
    x, y = classification(40)
    table = torch.tensor([0.0, 1.0, 3.0], dtype=DOUBLE)
    target = torch.randn(40, 3, generator=generator(), dtype=DOUBLE) if loss == "mse" else y
    weights = torch.ones(40, dtype=DOUBLE) if loss == "mse" else table[y]
    problem = Problem(tanh_net(), nn.CrossEntropyLoss(table) if loss != "mse" else loss, (x, target), dtype=DOUBLE)
    net, truth = tanh_net().double(), 0
    single = nn.functional.mse_loss if loss == "mse" else nn.functional.cross_entropy
    for a, b, w in zip(x.double(), target, weights, strict=True):
        parts = torch.autograd.grad(single(net(a[None]), b[None]), list(net.parameters()))
        g = torch.cat([part.flatten() for part in parts])
        truth = truth + w * g[:, None] * g / weights.sum()
    close(Curvature(problem, kind="fisher"), truth)


def test_gauss_newton_of_a_loss_that_looks_at_several_outputs_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            y = self.fc(x)
            return y, y.sin()

    data = classification(70)[0], torch.zeros(70, 3)
    both = Problem(Two(), lambda output, target: (output[0] - target).square().mean() + output[1].mean(), data)
    with pytest.raises(LandscapeError, match="others too"):
        Curvature(both, kind="ggn")
    first = Problem(Two(), "mse", data, dtype=DOUBLE)
    close(Curvature(first, kind="ggn"), dense(Curvature(first)))


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_random_layers_draw_the_same_in_each_product_and_leave_the_generators(share, monkeypatch):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tanh_net()

        def forward(self, x):
            return self.net(nn.functional.dropout(x, 0.5, training=True))

    monkeypatch.setattr(operators, "GRAPH_SHARE", share)
    problem = Problem(Noisy(), "cross_entropy", classification(70), seed=0, dtype=DOUBLE, batch_size=32)
    before = torch.get_rng_state()
    gradient = problem.gradient().flatten()
    operator = Curvature(problem)
    v = torch.randn(operator.shape[1], dtype=DOUBLE, generator=generator())
    assert torch.equal(operator @ v, operator @ v)
    assert float(operator.loss) == pytest.approx(problem.measure()["loss"][0], rel=1e-12)
    assert torch.equal(problem.gradient().flatten(), gradient)
    assert (operator.gradient - gradient).abs().max() < 1e-14
    moved = problem.checkpoint()
    ahead, behind = (
        problem.gradient(type(moved)(moved.weights.add(operator.to_weights(v), s), moved.buffers, "moved")).flatten()
        for s in (1e-5, -1e-5)
    )
    assert ((ahead - behind) / 2e-5 - operator @ v).norm() < 1e-7 * (operator @ v).norm()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_with_class_weights_follows_the_dtype():
    problem = Problem(tanh_net(), nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0])), classification(70))
    fine = problem.with_dtype(DOUBLE)
    assert fine.measure()["loss"][0] == pytest.approx(problem.measure()["loss"][0], rel=1e-6)
    assert problem.dtype == torch.float32
    assert Curvature(problem).in_float64().dtype == DOUBLE


@pytest.mark.parametrize("kind", ["hessian", "ggn", "fisher"])
def test_nothing_is_held_when_an_operator_is_gone(kind):
    problem = Problem(tanh_net(), "cross_entropy", classification(70))
    operator = Curvature(problem, kind=kind)
    operator @ torch.ones(operator.shape[1])
    gone = weakref.ref(operator._replica.parameters["0.weight"]), weakref.ref(operator._replica.flat)
    del operator
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_samples_of_data_on_disk_are_those_in_memory(monkeypatch):
    def operator():
        problem = Problem(tanh_net(), "cross_entropy", classification(70), dtype=DOUBLE, batch_size=32)
        return Curvature(problem, samples=[3, 40, 41, 69])

    inside = operator()
    monkeypatch.setattr("analysis.data.HOST_SHARE", 0)
    outside = operator()
    assert outside.problem.streams
    close(outside, dense(inside))
