"""Ways to evaluate: each gives the values of the plainest one, fits itself to memory, and says what it did."""

import os

import numpy as np
import pytest
import torch
from models import ConvBN, Tied, classification, mlp, mlp_problem, trained_conv_bn
from torch import nn

from analysis import LandscapeError, Line, Plane, Problem, ProblemError, Strategy, evaluate, provenance, surface
from analysis import data as data_module
from analysis import evaluate as evaluate_module
from analysis.evaluate import Evaluator
from analysis.precision import products_in
from analysis.replica import Replica

POINTS = np.random.default_rng(0).uniform(-1, 1, (7, 2))
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def strategy(**options) -> Strategy:
    return Strategy(**{"block": None, "threads": torch.get_num_threads(), **options})


def found(problem, subspace=None):
    evaluator = Evaluator(problem, subspace or Plane.random(problem.checkpoint()), strategy())
    return evaluator.first_layers(problem.blocks(None))


def same(one, other, rtol=1e-5):
    assert set(one) == set(other)
    for name in one:
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7, err_msg=name)


def rows(problem, at=POINTS, **options):
    evaluator = Evaluator(problem, Plane.random(problem.checkpoint()), strategy(**options))
    result = evaluator(at)
    assert evaluator.strategy == strategy(**options)
    return result


class Dead(nn.Module):
    """Its second layer sees zeros wherever it is looked at, but not everywhere."""

    def __init__(self):
        super().__init__()
        self.gate, self.out = nn.Linear(6, 4), nn.Linear(4, 3)
        nn.init.constant_(self.gate.bias, -100)

    def forward(self, x):
        return self.out(torch.relu(self.gate(x)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(self.layer(x))))


class Switch(nn.Module):
    """Which samples a layer sees, or whether it sees them at all, changes with the weights and with the batch."""

    def __init__(self):
        super().__init__()
        self.mask, self.turn = nn.Parameter(torch.linspace(0.4, 0.6, 6)[None]), nn.Linear(6, 6)
        self.masked, self.chosen, self.rest = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        if x[0, 0] > 0:
            x = self.turn(x)
        some = x[:, 0] > self.mask[0, 0]
        y = self.masked(x * (self.mask > 0.5))
        y = y + torch.where(some[:, None], self.chosen(x), 0)
        return y if y.mean() > 0 else y + self.rest(x.flip(0))


class Normalised(nn.Module):
    """Data pass a BatchNorm without weights before the first layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.norm(x))


class Tap(nn.Module):
    """Reads a number out of a tensor, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        y = self.fc(x)
        return y if y.abs().max().item() > 0 else y + 1


# --- first layers -----------------------------------------------------------------------------------------------


def test_layers_that_see_the_data_alone_are_found_and_no_others():
    assert found(mlp_problem()) == ("0",)
    assert found(Problem(ConvBN(), "cross_entropy", trained_conv_bn()[1:])) == ("conv",)
    assert found(Problem(Twice(), "cross_entropy", classification())) == ("layer",)
    assert found(Problem(Normalised(), "cross_entropy", classification())) == ("fc",)
    assert found(mlp_problem(dtype=torch.bfloat16)) == ()
    x, y = classification()
    tokens = torch.randint(0, 11, (8, 5))
    assert found(Problem(Tied(), "cross_entropy", (tokens, tokens))) == ()
    assert found(Problem(mlp(), lambda model, batch: model(batch[0] * 2).square().mean(), (x, y), metrics=[])) == ()


@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
def test_sums_of_held_products_are_the_layer(policy):
    net, x, y = trained_conv_bn()
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, batch_size=40, also={"other": (x[:30], y[:30])})
    same(rows(problem, reused=("conv",)), rows(problem))
    first = Problem(Normalised(), "cross_entropy", classification(), batchnorm=policy)
    same(rows(first, reused=("fc",)), rows(first))


@pytest.mark.parametrize("model", [Dead, Switch, Twice])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_layers_are_summed_only_where_they_see_what_the_products_are_of(model, scale):
    torch.manual_seed(0)
    x, y = classification(96)
    problem = Problem(model(), "cross_entropy", (x, y), dtype=torch.float64, batch_size=8)
    origin = problem.checkpoint()
    plane = Plane.along(
        origin, *(torch.manual_seed(s) and origin.weights.map(lambda _, t: torch.randn_like(t)) for s in (1, 2))
    )
    chosen = Evaluator(problem, plane, strategy()).first_layers({"": problem.blocks(None)[""][:1]})
    linear = [name for name, module in problem.model.named_modules() if isinstance(module, nn.Linear)]
    truth = Evaluator(problem, plane, strategy())(scale * POINTS)
    for names in (chosen, linear):
        same(Evaluator(problem, plane, strategy(reused=tuple(names)))(scale * POINTS), truth, rtol=1e-10)


def test_layers_whose_weights_are_no_parameters_are_not_summed():
    net = mlp()
    held = net[0].weight.data
    del net[0].weight
    net[0].register_buffer("weight", held)
    problem = Problem(net, "cross_entropy", classification())
    assert "0" not in found(problem)
    with pytest.raises(LandscapeError, match="held products"):
        rows(problem, reused=("0",))


def test_layers_whose_weights_the_model_changes_in_passing_are_not_trusted():
    class Rescaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            self.fc.weight.data.div_(self.fc.weight.data.norm())
            return self.fc(x)

    for model, trusted in ((Rescaled(), False), (nn.Sequential(nn.Linear(6, 3)), True)):
        problem = Problem(model, "cross_entropy", classification())
        evaluator = Evaluator(problem, Plane.random(problem.checkpoint()))
        assert found(problem)
        assert evaluator.trusted(strategy(reused=found(problem))) == trusted
        assert evaluator.strategy.reused


def test_held_products_are_in_the_precision_of_the_problem():
    with torch.autocast("cpu", torch.bfloat16):
        inside = rows(mlp_problem(), reused=("0",))
    same(inside, rows(mlp_problem()))


def test_held_products_are_exact_in_float64_on_lines_and_planes():
    problem = mlp_problem(dtype=torch.float64)
    for space, points in ((Plane.random, POINTS), (Line.random, POINTS[:, :1])):
        subspace = space(problem.checkpoint())
        reused = Evaluator(problem, subspace, strategy(reused=("0",)))(points)
        same(reused, Evaluator(problem, subspace, strategy())(points), rtol=1e-12)


def test_checkpoints_off_the_plane_do_not_use_its_products():
    problem = mlp_problem(dtype=torch.float64)
    points = [problem.checkpoint(mlp(seed=seed), name=str(seed)) for seed in range(5)]
    evaluator = Evaluator(problem, Plane.pca(points), strategy(reused=("0",)))
    evaluator(POINTS)
    for i, point in enumerate(points):
        assert evaluator.at_checkpoint(i)["loss"][0] == pytest.approx(problem.measure(point)["loss"][0], rel=1e-12)


def test_products_too_large_to_hold_are_not_held(monkeypatch):
    monkeypatch.setattr("analysis.reuse.HELD_BYTES", 3 * 64 * 16 * 4)  # 3 parts, 64 samples, 16 units of float32
    assert found(mlp_problem()) == ()
    monkeypatch.setattr("analysis.reuse.HELD_BYTES", 3 * 64 * 16 * 4 + 1)
    assert found(mlp_problem()) == ("0",)


def test_a_recorded_strategy_that_does_not_fit_is_refused():
    with pytest.raises(LandscapeError, match="nowhere"):
        rows(mlp_problem(), reused=("nowhere",))


# --- points together --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
@pytest.mark.parametrize("reused", [(), ("conv",)])
def test_points_together_have_the_values_of_points_alone(policy, reused):
    net, x, y = trained_conv_bn()
    options = {"metrics": ["accuracy", "loss_per_class"], "also": {"train": (x[:50], y[:50])}, "batch_size": 40}
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, **options)
    same(rows(problem, points=3, reused=reused), rows(problem))
    same(rows(problem, POINTS[::-1], points=4, reused=reused), rows(problem, POINTS[::-1]))


def test_tied_weights_and_losses_that_run_the_model_go_together():
    tokens = torch.randint(0, 11, (8, 5), generator=torch.Generator().manual_seed(0))
    tied = Problem(Tied(), "cross_entropy", (tokens, tokens), dtype=torch.float64)
    same(rows(tied, points=4), rows(tied), rtol=1e-11)
    x, y = classification()
    own = Problem(mlp(), lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), (x, y))
    same(rows(own, points=4), rows(own))


def test_points_together_leave_no_trace():
    problem = Problem(trained_conv_bn()[0], "cross_entropy", trained_conv_bn()[1:])
    evaluator = Evaluator(problem, Plane.random(problem.checkpoint()), strategy(points=4))
    alone = Evaluator(problem, Plane.random(problem.checkpoint()), strategy())
    evaluator(POINTS)
    assert evaluator.at_checkpoint(0) == alone.at_checkpoint(0)


def test_what_cannot_go_together_goes_one_by_one_and_says_so():
    problem = Problem(Tap(), "cross_entropy", classification())
    evaluator = Evaluator(problem, Plane.random(problem.checkpoint()), strategy(points=4))
    same(evaluator(POINTS), rows(problem))
    assert evaluator.strategy == strategy(points=1)
    last = list(evaluate(problem, evaluator.subspace, POINTS, strategy=strategy(points=4)))[-1]
    assert Strategy.of(provenance(last)["strategy"]).points == 1


def test_batches_that_change_values_are_not_trusted():
    class Coupled(nn.Module):
        """Wrong under vmap: it looks at storage, not at values."""

        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            y = self.fc(x)
            return y * (2.0 if torch._C._functorch.is_batchedtensor(y) else 1.0)

    problem = Problem(Coupled(), "cross_entropy", classification())
    assert not Evaluator(problem, Plane.random(problem.checkpoint())).trusted(strategy(points=4))
    plain = mlp_problem()
    assert Evaluator(plain, Plane.random(plain.checkpoint())).trusted(strategy(points=4))


# --- memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch):
    """A machine on which a pass of more than 20 samples runs out of memory."""
    original = Replica._output

    def output(self, batch):
        if data_module.count(batch) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return original(self, batch)

    return lambda: monkeypatch.setattr(Replica, "_output", output)


def test_out_of_memory_halves_the_blocks_and_the_values_stay(small_memory):
    problem = mlp_problem(batch_size=16)
    plane = Plane.random(problem.checkpoint())
    plain = Evaluator(problem, plane, strategy(block=16))(POINTS)
    small_memory()
    evaluator = Evaluator(problem, plane, strategy(block=64, points=4, reused=()))
    same(evaluator(POINTS), plain)
    assert evaluator.strategy == strategy(block=16)
    last = list(surface(problem, plane, resolution=5, strategy=strategy(block=64)))[-1]
    assert provenance(last)["strategy"]["block"] == 16


def test_a_checkpoint_keeps_its_value_where_memory_runs_out_on_it(monkeypatch):
    problem = mlp_problem(dtype=torch.float64)
    line = Line.through(problem.checkpoint(), problem.checkpoint(mlp(seed=1), name="other"))
    evaluator = Evaluator(problem, line, strategy(points=4, reused=("0",)))
    original, calls = evaluator._replica.totals, []

    def totals(blocks):
        calls.append(blocks)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(blocks)

    monkeypatch.setattr(evaluator._replica, "totals", totals)
    assert evaluator.at_checkpoint(1)["loss"][0] == pytest.approx(
        problem.measure(line.markers[1])["loss"][0], rel=1e-12
    )
    assert len(calls) > 1


def test_the_measurement_stays_within_memory(small_memory):
    problem = mlp_problem(batch_size=16)
    small_memory()
    assert Evaluator(problem, Plane.random(problem.checkpoint())).strategy.block == 16


def test_batches_that_do_not_fit_and_cannot_be_cut_are_the_users(small_memory):
    problem = mlp_problem(batch_size=32)
    small_memory()
    with pytest.raises(torch.OutOfMemoryError):
        Evaluator(problem, Plane.random(problem.checkpoint()), strategy())(POINTS)


def test_data_beyond_the_memory_lie_on_disk_and_have_the_same_values(monkeypatch):
    x, y = classification(300)
    x = x.double()  # converted when used
    net, images, labels = trained_conv_bn()
    options = {"batch_size": 64, "also": {"few": (x[:10], y[:10])}}
    kept = [Problem(mlp(), "cross_entropy", (x, y), **options), Problem(net, "cross_entropy", (images, labels))]
    monkeypatch.setattr(data_module, "HOST_SHARE", 0.0)
    spooled = [Problem(mlp(), "cross_entropy", (x, y), **options), Problem(net, "cross_entropy", (images, labels))]
    for one, other in zip(kept, spooled, strict=True):
        assert other.streams
        assert not one.streams
        assert one.data.digest == other.data.digest
        for block in (None, 48):
            same(rows(one, block=block), rows(other, block=block), rtol=0 if block is None else 1e-6)
    gradient = spooled[0].gradient()
    assert torch.equal(gradient["0.weight"], kept[0].gradient()["0.weight"])
    folder = spooled[0].data._spool._folder.name
    assert os.listdir(folder)
    del spooled, other
    assert not os.path.exists(folder)


def test_data_that_do_not_fit_the_device_stay_on_the_host(monkeypatch):
    kept = mlp_problem()
    monkeypatch.setattr(data_module, "_room", lambda device: 10)
    streamed = mlp_problem(dtype=torch.float64)
    assert streamed.streams
    assert next(data_module.tensors_of(streamed.data.batches()[0])).dtype == torch.float32  # as given
    same(rows(streamed), rows(kept), rtol=1e-5)


# --- precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.02), (torch.float16, 2e-3), (torch.float32, 1e-6)])
def test_each_precision_is_as_near_as_it_can_be(dtype, error):
    exact = rows(mlp_problem(dtype=torch.float64))["loss"][0]
    rounded = rows(mlp_problem(dtype=dtype))["loss"][0]
    assert 0 < np.abs(rounded - exact).max() < error * np.ptp(exact) * 2


def test_tf32_is_set_for_the_pass_and_put_back():
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.allow_tf32
    cuda = torch.device("cuda")
    with products_in(True, cuda):
        assert matmul.fp32_precision == conv.fp32_precision == "tf32"
        with products_in(False, cuda):
            assert matmul.fp32_precision == conv.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
    with pytest.raises(ZeroDivisionError), products_in(True, cuda):
        1 / 0  # noqa: B018
    assert (matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.allow_tf32) == before
    with products_in(True, torch.device("cpu")):
        assert (matmul.fp32_precision, conv.fp32_precision) == before[:2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ProblemError, match="Pass 'cpu'"):
        mlp_problem(device="cuda")
    with pytest.raises(ProblemError, match="nonsense"):
        mlp_problem(device="nonsense")


# --- CUDA -------------------------------------------------------------------------------------------------------


@gpu
@pytest.mark.parametrize("policy", ["frozen", "recalibrated", "batch"])
def test_cuda_gives_the_values_of_the_cpu(policy):
    net, x, y = trained_conv_bn()
    options = {"batchnorm": policy, "dtype": torch.float64, "metrics": ["accuracy", "loss_per_class"]}
    here = Problem(net, "cross_entropy", (x, y), **options)
    there = Problem(net, "cross_entropy", (x, y), device="cuda", **options)
    for points, reused in ((1, ()), (1, ("conv",)), (4, ()), (4, ("conv",))):
        same(rows(there, points=points, reused=reused), rows(here), rtol=1e-10)
    *_, drawn = surface(there, Plane.random(there.checkpoint()))
    *_, truth = surface(here, Plane.random(here.checkpoint()))
    np.testing.assert_allclose(drawn.loss, truth.loss, rtol=1e-8)
    assert provenance(drawn)["device"] == "cuda"


@gpu
def test_a_chunk_waits_for_the_device_once():
    problem = mlp_problem(device="cuda")
    evaluator = Evaluator(problem, Plane.random(problem.checkpoint()), strategy())
    evaluator(POINTS)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        totals = evaluator._now(POINTS)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    same(evaluate_module.as_rows(evaluator._replica.report(totals)), rows(problem))


@gpu
def test_float32_products_are_exact_unless_tf32_is_asked_for():
    x, y = classification(512)
    exact = rows(Problem(mlp((6, 256, 256, 3)), "cross_entropy", (x, y), dtype=torch.float64))["loss"][0]
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        off, on = (
            rows(Problem(mlp((6, 256, 256, 3)), "cross_entropy", (x, y), device="cuda", tf32=tf32))["loss"][0]
            for tf32 in (False, True)
        )
    finally:
        torch.backends.cuda.matmul.fp32_precision = "none"
    assert np.abs(off / exact - 1).max() < 1e-5 < np.abs(on / exact - 1).max() < 1e-2


@gpu
def test_the_device_running_out_of_memory_is_survived():
    problem = Problem(mlp((6, 4096, 4096, 3)), "cross_entropy", classification(8192), device="cuda", batch_size=256)
    plane = Plane.random(problem.checkpoint())
    plain = Evaluator(problem, plane, strategy(block=256))(POINTS)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**29) / total)
    try:
        evaluator = Evaluator(problem, plane, strategy(block=8192, points=64))
        same(evaluator(POINTS), plain)
        assert evaluator.strategy.points < 64
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@gpu
def test_data_larger_than_the_device_allows_are_streamed(monkeypatch):
    resident = mlp_problem(device="cuda")
    monkeypatch.setattr(data_module, "DEVICE_SHARE", 0.0)
    streamed = mlp_problem(device="cuda")
    assert streamed.streams
    same(rows(streamed), rows(resident), rtol=1e-6)


def test_no_points_are_refused():
    problem = mlp_problem()
    with pytest.raises(LandscapeError, match="expected finite numbers"):
        evaluate(problem, Line.random(problem.checkpoint()), np.zeros((0, 1)))
