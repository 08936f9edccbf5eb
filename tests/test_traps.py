"""What a hard look found: models, losses and data that once gave wrong numbers, each against the right one."""

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import Tied, classification, mlp, trained_conv_bn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from analysis import (
    Checkpoint,
    DataError,
    LandscapeError,
    Line,
    Plane,
    Problem,
    ProblemError,
    Strategy,
    evaluate,
    surface,
)

X, Y = classification(60)


def loss_at(problem: Problem, block: int | None) -> float:
    strategy = Strategy(block, torch.get_num_threads())
    *_, ds = evaluate(problem, Line.random(problem.checkpoint()), [[0.0]], strategy=strategy)
    return float(ds.loss[0])


class Forward(nn.Module):
    """A network with a forward of the test's own."""

    def __init__(self, function, **parts):
        super().__init__()
        self.net = mlp()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


UNTRACKED = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 3))
TRACKED = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (UNTRACKED, {}),
        (Forward(lambda self, x: self.net(x - x.mean(0))), {}),
        (TRACKED, {"batchnorm": "batch"}),
    ],
    ids=["untracked statistics", "centred by batch", "batch policy"],
)
def test_samples_that_see_each_other_stay_in_the_batches_as_given(model, options):
    problem = Problem(model, "cross_entropy", (X, Y), batch_size=20, **options)
    assert not problem.free_blocks
    with torch.no_grad():
        net = model.train() if options else model.eval()
        truth = np.mean([F.cross_entropy(net(X[i : i + 20]), Y[i : i + 20]).item() for i in (0, 20, 40)])
    assert loss_at(problem, 7) == loss_at(problem, None) == pytest.approx(truth, rel=1e-5)


def test_a_batch_mean_beside_a_sample_loss_keeps_the_batches():
    metric = {"spread": lambda o, t: o.std(0).mean()}
    problem = Problem(mlp(), "cross_entropy", (X, Y), metrics=metric, batch_size=20)
    assert not problem.free_blocks


def test_tensors_of_another_length_and_lists_of_names_are_not_cut():
    scale = torch.tensor([1.0, 2.0, 0.5])
    model = Forward(lambda self, x, s: self.net(x) * s)
    with torch.no_grad():
        truth = F.cross_entropy(mlp()(X) * scale, Y).item()
    problem = Problem(model, "cross_entropy", [(X, scale, Y)])
    assert loss_at(problem, 7) == pytest.approx(truth, rel=1e-6)
    zero_dim = Problem(
        model, "cross_entropy", [(X[:40], torch.tensor(2.0), Y[:40]), (X[40:], torch.tensor(2.0), Y[40:])]
    )
    with torch.no_grad():
        assert loss_at(zero_dim, 7) == pytest.approx(F.cross_entropy(mlp()(X) * 2, Y).item(), rel=1e-6)
    named = Forward(lambda self, x, names, **_: self.net(x) if len(names) == len(x) else 1 / 0)
    problem = Problem(named, "cross_entropy", [{"x": X, "names": [str(i) for i in range(60)], "y": Y}])
    assert loss_at(problem, 7) == pytest.approx(F.cross_entropy(mlp()(X), Y).item(), rel=1e-6)


def test_a_dataset_that_changes_its_samples_is_not_bypassed():
    class Times10(TensorDataset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return 10 * x, y

    with torch.no_grad():
        truth = F.cross_entropy(mlp()(10 * X), Y).item()
    assert Problem(mlp(), "cross_entropy", Times10(X, Y)).measure()["loss"][0] == pytest.approx(truth, rel=1e-6)


def test_a_buffer_that_forward_replaces_is_put_back():
    def forward(self, x):
        self.k = self.k + 1
        return self.net(x) * self.k

    model = Forward(forward)
    model.register_buffer("k", torch.tensor(1.0))
    problem = Problem(model, "cross_entropy", (X, Y))
    with torch.no_grad():
        truth = F.cross_entropy(mlp()(X) * 2, Y).item()
    *_, ds = evaluate(problem, Line.random(problem.checkpoint()), [0.0, 0.0, 0.0])
    assert ds.loss.values == pytest.approx([truth] * 3, rel=1e-6)


def _cached(self, x):
    if getattr(self, "cache", None) is None:
        self.cache = self.net[0].weight * 2
    return self.net[1:](x @ self.cache.T)


def _recurrent(self, x):
    self.hidden = 0.5 * getattr(self, "hidden", 0) + self.net(x)
    return self.hidden


def _own_generator(self, x):
    self.rng = getattr(self, "rng", None) or np.random.default_rng(0)
    return self.net(x) + float(self.rng.normal()) * torch.arange(3)


@pytest.mark.parametrize("forward", [_cached, _recurrent, _own_generator])
def test_a_model_that_remembers_is_refused(forward):
    with pytest.raises(ProblemError, match="keeps something between calls"):
        Problem(Forward(forward), "cross_entropy", (X, Y))


def test_seed_covers_numpy_too():
    noisy = Forward(lambda self, x: self.net(x) + torch.as_tensor(np.random.randn(3), dtype=x.dtype))  # noqa: NPY002
    with pytest.raises(ProblemError, match="draws random numbers"):
        Problem(noisy, "cross_entropy", (X, Y))
    problem = Problem(noisy, "cross_entropy", (X, Y), seed=0)
    first = problem.measure()
    np.random.randn()  # noqa: NPY002
    assert problem.measure() == first


def test_accuracy_counts_what_the_loss_counts():
    y = Y.clone()
    y[::2] = 0
    problem = Problem(mlp(), nn.CrossEntropyLoss(ignore_index=0), (X, y), metrics=["accuracy", "loss_per_class"])
    found = problem.measure()
    counted = y != 0
    with torch.no_grad():
        hits = (mlp()(X).argmax(1) == y)[counted].double().mean()
        truth = F.cross_entropy(mlp()(X)[counted], y[counted]).item()
    assert found["accuracy"][0] == pytest.approx(float(hits), rel=1e-9)
    assert found["loss"][0] == pytest.approx(truth, rel=1e-6)
    assert np.isnan(found["loss_per_class"][0][0])
    ignored = Y.clone()
    ignored[:7] = -100
    per_class = Problem(mlp(), "cross_entropy", (X, ignored), metrics=["loss_per_class"]).measure()["loss_per_class"]
    with torch.no_grad():
        one = F.cross_entropy(mlp()(X)[ignored == 1], ignored[ignored == 1]).item()
    assert per_class[0][1] == pytest.approx(one, rel=1e-6)


def test_a_metric_is_treated_as_the_loss_is():
    batches = [(X[:20], torch.full((20,), -100)), (X[20:], Y[20:])]
    found = Problem(mlp(), "cross_entropy", batches, metrics={"ce": nn.CrossEntropyLoss()}).measure()
    assert found["ce"] == pytest.approx(found["loss"], rel=1e-9)


def test_what_has_no_weight_may_be_nan():
    batches = [(X[:20], torch.full((20,), -100)), (X[20:], Y[20:])]
    mean = lambda o, t: (F.cross_entropy(o, t), (t != -100).sum())  # noqa: E731
    truth = Problem(mlp(), "cross_entropy", batches).measure()["loss"][0]
    assert Problem(mlp(), mean, batches).measure()["loss"][0] == pytest.approx(truth, rel=1e-6)
    infinite = lambda o, t: (torch.where(t < 0, torch.inf, o.sum(1)), (t >= 0).float())  # noqa: E731
    assert np.isfinite(Problem(mlp(), infinite, batches, reduction="none").measure()["loss"][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_do_not_lose_digits_in_half_precision(dtype):
    x = torch.zeros(3, 6)
    problem = Problem(nn.Linear(6, 1), lambda o, t: torch.full((len(o), 1023), 2.0, dtype=dtype), (x, x[:, :1]),
                      reduction="none", dtype=dtype)  # fmt: skip
    assert problem.measure()["loss"] == (2.0, 0.0)
    wide = Problem(nn.Linear(6, 3000), "mse", (x, torch.full((3, 3000), 100.0)), dtype=dtype).measure()["loss"][0]
    assert wide == pytest.approx(1e4, rel=0.05)


def test_targets_in_uint8_above_155_count():
    model = nn.Linear(6, 200)
    y = torch.arange(100, 160).to(torch.uint8)
    with torch.no_grad():
        truth = F.cross_entropy(model(X), y.long()).item()
    for loss in ("cross_entropy", nn.CrossEntropyLoss()):
        assert Problem(model, loss, (X, y)).measure()["loss"][0] == pytest.approx(truth, rel=1e-6)


def test_each_measure_sees_the_batch_as_it_was():
    def takes_model(model, batch):
        x, y = batch
        return F.cross_entropy(model(x.mul_(2)), y)

    def takes_dict(model, batch):
        y = batch.pop("y")
        return F.cross_entropy(model(**batch), y)

    found = Problem(mlp(), takes_model, (X, Y), metrics={"again": takes_model}).measure()
    assert found["again"] == pytest.approx(found["loss"], nan_ok=True)
    model = Forward(lambda self, x: self.net(x))
    found = Problem(model, takes_dict, {"x": X, "y": Y}, metrics={"again": takes_dict}).measure()
    assert found["again"] == pytest.approx(found["loss"], nan_ok=True)
    spoiling = Problem(mlp(), lambda o, t: o.mul_(-1).mean(), (X, Y), metrics={"accuracy": None})
    with torch.no_grad():
        assert spoiling.measure()["accuracy"][0] == pytest.approx(float((mlp()(X).argmax(1) == Y).double().mean()))


def test_a_weight_layer_with_norm_in_its_name_moves():
    class NormalizedLinear(nn.Linear):
        pass

    axis = Line.random(Checkpoint.of(nn.Sequential(NormalizedLinear(6, 3), nn.LayerNorm([3])))).axes[0].weights
    assert axis["0.weight"].norm() > 0
    assert axis["1.weight"].norm() == 0


def test_parameters_that_share_memory_stay_tied_in_a_problem():
    model = nn.ModuleDict({"a": nn.Linear(6, 6, bias=False), "b": nn.Linear(6, 6, bias=False)})
    model["b"].weight = nn.Parameter(model["a"].weight.data)
    loss = lambda model, batch: model["b"](model["a"](batch[0])).square().mean()  # noqa: E731
    problem = Problem(model, loss, (X,))
    line = Line.random(problem.checkpoint())
    *_, ds = evaluate(problem, line, [0.0, 0.7])
    w = line.point(0.7)["a.weight"]
    assert float(ds.loss[1]) == pytest.approx(float((X @ w.T @ w.T).square().mean()), rel=1e-5)
    model["b"].weight = nn.Parameter(model["a"].weight.data.t())
    with pytest.raises(ProblemError, match="share memory in different forms"):
        Problem(model, loss, (X,))


def test_a_loss_on_the_callers_own_model_is_refused():
    model = mlp()
    with pytest.raises(ProblemError, match="through the variable 'model'"):
        Problem(model, lambda o, t: o.mean() + model[0].weight.sum(), (X, Y))


def test_autocast_of_the_caller_changes_nothing():
    problem = Problem(mlp(), "cross_entropy", (X, Y))
    before = problem.measure()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert problem.measure() == before


def test_inference_mode_is_refused_by_name():
    with torch.inference_mode(), pytest.raises(ProblemError, match="inference_mode"):
        Problem(mlp(), "cross_entropy", (X, Y))


def test_a_loss_module_is_a_copy_in_eval_mode_and_of_the_problems_dtype():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.drop = 0, nn.Dropout(0.9)

        def forward(self, output, target):
            self.calls += 1
            return F.cross_entropy(self.drop(output), target)

    loss = Counting()
    value = Problem(mlp(), loss, (X, Y)).measure()["loss"][0]
    with torch.no_grad():
        assert value == pytest.approx(F.cross_entropy(mlp()(X), Y).item(), rel=1e-6)
    assert loss.calls == 0
    assert loss.training
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    assert Problem(mlp(), weighted, (X, Y), dtype=torch.float64).measure()["loss"][0] > 0


def test_broadcasting_targets_are_refused():
    x = torch.randn(20, 6)
    for loss in (nn.MSELoss(), F.mse_loss, nn.HuberLoss(), "mse"):
        with pytest.raises(ProblemError, match="shapes must be equal"):
            Problem(nn.Linear(6, 1), loss, (x, x[:, 0]))


def test_lists_of_single_samples_are_refused():
    with pytest.raises(DataError, match="single samples"):
        Problem(mlp(), "cross_entropy", [(x, y) for x, y in zip(X, Y, strict=True)])


def test_nested_inputs():
    with torch.no_grad():
        truth = F.cross_entropy(mlp()(X + X), Y).item()
    keyed = Forward(lambda self, first, second: self.net(first + second))
    assert Problem(keyed, "cross_entropy", ({"first": X, "second": X}, Y)).measure()["loss"][0] == pytest.approx(truth)
    assert Problem(keyed, "cross_entropy", ((X, X), Y)).measure()["loss"][0] == pytest.approx(truth)
    found = Problem(Plain(), "cross_entropy", {"x": X, "y": Y}).measure()["loss"][0]
    assert found == pytest.approx(F.cross_entropy(mlp()(X), Y).item(), rel=1e-6)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        return self.net(x)


def test_a_causal_mask_may_hold_infinities():
    model = Forward(lambda self, x: self.net(x) + 0 * self.mask[0, 0])
    model.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))
    assert np.isfinite(Problem(model, "cross_entropy", (X, Y)).measure()["loss"][0])


def test_a_language_model_whose_vocabulary_is_its_length():
    model = Tied(vocabulary=8)
    tokens = torch.randint(0, 8, (20, 9), generator=torch.Generator().manual_seed(0))
    x, y = tokens[:, :-1], tokens[:, 1:]
    with torch.no_grad():
        truth = F.cross_entropy(model(x).reshape(-1, 8), y.reshape(-1)).item()
    assert Problem(model, "cross_entropy", (x, y)).measure()["loss"][0] == pytest.approx(truth, rel=1e-6)


def test_a_gradient_norm_is_a_metric():
    def gradient_norm(model, batch):
        x, y = batch
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        return sum(g.square().sum() for g in grads).sqrt()

    problem = Problem(mlp(), "cross_entropy", (X, Y), metrics={"gradient_norm": gradient_norm})
    assert problem.measure()["gradient_norm"][0] == pytest.approx(problem.gradient().norm(), rel=1e-5)
    *_, ds = surface(problem, Line.random(problem.checkpoint()), resolution=21)
    assert float(ds.gradient_norm.min()) > 0


def test_a_loaders_own_generator_is_left_alone():
    g = torch.Generator().manual_seed(5)
    before = g.get_state()
    Problem(mlp(), "cross_entropy", DataLoader(TensorDataset(X, Y), 16, shuffle=True, generator=g))
    assert torch.equal(g.get_state(), before)


def test_an_error_at_a_point_says_where():
    def fragile(output, target):
        if output.abs().max() > 50:
            raise RuntimeError("probabilities out of range")
        return F.cross_entropy(output, target)

    problem = Problem(mlp(), fragile, (X, Y))
    with pytest.raises(RuntimeError, match="out of range") as caught:
        list(surface(problem, Line.random(problem.checkpoint()), extent=(-50, 50)))
    assert "at the point t = " in caught.value.__notes__[0]


@pytest.mark.parametrize("name", ["a", "t", "class", "loss_se", "loss_frozen", "computed", "1st"])
def test_reserved_metric_names(name):
    with pytest.raises(ProblemError, match="A metric is named"):
        Problem(mlp(), "cross_entropy", (X, Y), metrics={name: lambda o, t: o.mean()})


@pytest.mark.parametrize(("option", "value"), [("batch_size", 0), ("samples", -5), ("samples", 2.5)])
def test_bad_numbers(option, value):
    with pytest.raises(LandscapeError, match=option):
        Problem(mlp(), "cross_entropy", (X, Y), **{option: value})


def test_frozen_policy_uses_each_checkpoints_own_statistics():
    one, x, y = trained_conv_bn(seed=0)
    two, _, _ = trained_conv_bn(seed=1)
    problem = Problem(one, "cross_entropy", (x, y), batchnorm="frozen")
    first, second = problem.checkpoint(one, name="one"), problem.checkpoint(two, name="two")
    *_, ds = surface(problem, Plane.through(first, second), resolution=9, dense=True)
    with torch.no_grad():
        truth = [F.cross_entropy(net.eval()(x), y).item() for net in (one, two)]
    assert ds.marker_loss.values == pytest.approx(truth, rel=1e-6)
    # the subspace keeps the origin's statistics, also after the markers were measured
    *_, at = evaluate(problem, Line.through(first, second), [0.0, 1.0])
    assert float(at.loss[0]) == pytest.approx(truth[0], rel=1e-6)
    mixed = {**two.state_dict(), **{k: v for k, v in one.state_dict().items() if "running" in k}}
    assert float(at.loss[1]) == pytest.approx(problem.measure(problem.checkpoint(mixed))["loss"][0], rel=1e-5)


def test_blocks_grow_from_the_users_batches_and_are_bounded_by_memory():
    from analysis.evaluate import Evaluator
    from analysis.strategy import BLOCK_BYTES

    x = torch.zeros(64, 2**17)
    problem = Problem(nn.Linear(2**17, 1), "mse", (x, x[:, :1]), batch_size=4)
    evaluator = Evaluator(problem, Line.random(problem.checkpoint()))
    assert 4 <= evaluator.strategy.block <= BLOCK_BYTES["cpu"] // (4 * 2**17) + 1


def test_the_picture_of_a_positive_loss_stays_positive():
    problem = Problem(mlp(), "cross_entropy", (X, Y))
    for seed in range(4):
        for ds in surface(problem, Line.random(problem.checkpoint(), seed=seed), extent=(-300, 300), resolution=301):
            assert not bool((ds.loss <= 0).any())


def test_aliasing_is_caught_off_the_grid():
    from test_surface import drawn, last

    problem, plane = drawn(lambda u, v: 1 + torch.sin(4 * torch.pi * u) ** 2, dtype=torch.float64)
    ds = last(surface(problem, plane))
    truth = 1 + np.sin(4 * np.pi * ds.a) ** 2 + 0 * ds.b
    error = float(np.abs(ds.loss - truth).max())
    assert error < 0.02 or ds.attrs["status"] == "unconverged"
    assert ds.attrs["interpolation_error"] > 0.2 * error


def test_small_wiggles_on_a_large_value_are_seen_in_float64():
    from test_surface import drawn, last

    problem, plane = drawn(lambda u, v: 1e6 + 1e-3 * torch.sin(7 * u) * torch.sin(5 * v), dtype=torch.float64)
    ds = last(surface(problem, plane))
    truth = 1e6 + 1e-3 * np.sin(7 * ds.a) * np.sin(5 * ds.b)
    assert float(np.abs(ds.loss - truth).max()) < 0.02e-3


def test_a_job_in_a_thread_leaves_the_callers_random_numbers_alone():
    problem = Problem(mlp(), "cross_entropy", (X, Y))
    plane = Plane.random(problem.checkpoint())
    torch.manual_seed(0)
    expected = [torch.randn(1).item() for _ in range(40)]
    stop = threading.Event()

    def work():
        while not stop.is_set():
            list(surface(problem, plane, resolution=9))

    worker = threading.Thread(target=work)
    worker.start()
    torch.manual_seed(0)
    drawn = []
    for _ in range(40):
        drawn.append(torch.randn(1).item())
        threading.Event().wait(0.005)
    stop.set()
    worker.join()
    assert drawn == expected


# --- mutants that once survived ----------------------------------------------------------------------------


def test_the_data_digest_sees_order_keys_and_every_value():
    def digest(data):
        return Problem(Plain(), lambda model, batch: model(batch["x"]).mean(), [data]).data.digest

    x = X.clone()
    x[[0, 1]] = x[[1, 0]]
    digests = {digest(d) for d in ({"x": X, "z": Y}, {"x": x, "z": Y}, {"x": X, "y": Y}, {"x": X, "z": Y, "s": 1.0})}
    assert len(digests) == 4


def test_the_code_digest_sees_an_edited_file(tmp_path):
    import importlib.util

    from analysis.provenance import code_digest

    digests = set()
    for body in ("(o - t).mean()", "(o + t).mean()"):
        path = tmp_path / "edited.py"
        path.write_text(f"def loss(o, t):\n    return {body}\n")
        spec = importlib.util.spec_from_file_location("edited", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        digests.add(code_digest(module.loss))
    assert len(digests) == 2
    names = {}
    for name in ("cross_entropy", "nll_loss"):
        exec(f"loss = lambda o, t: F.{name}(o, t)", {"F": F}, names)
        digests.add(code_digest(names["loss"]))
    assert len(digests) == 4


def test_filters_of_gpt2s_transposed_linear_layer():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))

    axis = Line.random(Checkpoint.of(Conv1D())).axes[0]
    own = axis.weights.structure.entries["weight"]
    assert own.to_filters(axis.weights["weight"]).shape == (3, 4)


def test_oblique_axes_are_refused():
    from analysis.subspace import Axis

    point = Problem(mlp(), "cross_entropy", (X, Y)).checkpoint()
    one, two = (Line.random(point, seed=s).axes[0].weights for s in (0, 1))
    bent = one + two
    with pytest.raises(LandscapeError, match="oblique: cos = 0.7"):
        Plane(point, (Axis(one, "1", "", one.norm()), Axis(bent, "2", "", bent.norm())), (point,), "bent")


def test_the_first_level_has_square_cells():
    problem = Problem(mlp(), "cross_entropy", (X, Y))
    for ds in surface(problem, Plane.random(problem.checkpoint()), extent=((-4, 4), (-1, 1))):
        if ds.sizes["sample"] >= 15:
            break
    first = {(float(a), float(b)) for a, b in zip(ds.sample_a[:27], ds.sample_b[:27], strict=True)}
    assert len({a for a, _ in first}) > 2 * len({b for _, b in first})


def test_a_network_that_returns_nan_is_not_right_by_accident():
    x = X.clone()
    x[Y == 0] = torch.nan
    model = mlp()
    found = Problem(model, "cross_entropy", (x, Y), metrics=["accuracy", "loss_per_class"]).measure()
    good = Y != 0
    with torch.no_grad():
        hits = (model(X[good]).argmax(1) == Y[good]).sum()
        one = F.cross_entropy(model(X[Y == 1]), Y[Y == 1]).item()
    assert found["accuracy"][0] == pytest.approx(float(hits) / 60)
    assert np.isnan(found["loss"][0])
    assert found["loss_per_class"][0][1] == pytest.approx(one, rel=1e-6)


def test_the_callers_gradients_are_not_kept_in_the_copy():
    model = mlp()
    model(X).sum().backward()
    problem = Problem(model, "cross_entropy", (X, Y))
    assert all(p.grad is None for p in problem.model.parameters())


def test_the_logarithm_is_chosen_where_it_predicts_better():
    from test_surface import drawn, last

    problem, plane = drawn(lambda u, v: torch.exp(4 * u + 3 * v * v), dtype=torch.float64)
    ds = last(surface(problem, plane))
    assert ds.loss.attrs["interpolation"] == "cubic spline of the logarithm"
    assert float(np.abs(np.log(ds.loss) - (4 * ds.a + 3 * ds.b**2)).max()) < 1e-6
