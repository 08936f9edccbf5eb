"""Problems of every form that people bring, each against the loss computed by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import ConvBN, Tied, classification, linear_regression, mlp, mlp_problem, trained_conv_bn
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from analysis import DataError, LandscapeError, Line, Problem, ProblemError, surface

X, Y = classification()


def by_hand(model, x=X, y=Y):
    with torch.no_grad():
        return F.cross_entropy(model.eval()(x), y).item()


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], int(Y[i])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize(
    "data",
    [
        lambda: (X, Y),
        lambda: (X.numpy(), Y.numpy()),
        lambda: TensorDataset(X, Y),
        Pairs,
        Stream,
        lambda: DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True),
        lambda: [(X[:50], Y[:50]), (X[50:], Y[50:])],
        lambda: ((X[i : i + 9], Y[i : i + 9]) for i in range(0, 64, 9)),
        lambda: [[X[:3], Y[:3]], [X[3:], Y[3:]]],
    ],
    ids=[
        "tensors",
        "arrays",
        "TensorDataset",
        "Dataset",
        "iterable dataset",
        "loader",
        "batches",
        "generator",
        "lists",
    ],
)
@pytest.mark.parametrize(
    "loss", ["cross_entropy", nn.CrossEntropyLoss(), F.cross_entropy, lambda o, t: F.cross_entropy(o, t)]
)
def test_any_data_and_any_way_to_say_the_loss(data, loss):
    problem = Problem(mlp(), loss, data())
    value, error = problem.measure()["loss"]
    assert value == pytest.approx(by_hand(mlp()), rel=1e-6)
    assert problem.n == 64
    one_batch_mean = not problem.measures[0].per_sample and len(problem.data.batches()) == 1
    assert math.isnan(error) if one_batch_mean else error > 0


def test_the_standard_error_is_that_of_the_mean_over_samples():
    problem = mlp_problem()
    with torch.no_grad():
        each = F.cross_entropy(mlp()(X), Y, reduction="none").double()
        hits = (mlp()(X).argmax(1) == Y).double()
    found = problem.measure()
    assert found["loss"][1] == pytest.approx(float(each.std()) / 8, rel=1e-5)
    assert found["accuracy"] == pytest.approx((float(hits.mean()), float(hits.std()) / 8), rel=1e-5)


def test_loss_per_class():
    problem = mlp_problem(metrics=["loss_per_class"])
    means, errors = problem.measure()["loss_per_class"]
    for c in range(3):
        with torch.no_grad():
            each = F.cross_entropy(mlp()(X[c == Y]), Y[c == Y], reduction="none").double()
        assert means[c] == pytest.approx(float(each.mean()), rel=1e-5)
        assert errors[c] == pytest.approx(float(each.std()) / math.sqrt(len(each)), rel=0.05)


@pytest.mark.parametrize("name", ["mse", "half_squared_error", nn.MSELoss(), F.mse_loss, nn.HuberLoss()])
def test_regression(name):
    model, x, y = linear_regression()
    value, error = Problem(model, name, (x, y)).measure()["loss"]
    with torch.no_grad():
        squares = (model(x) - y).square()
        huber = F.huber_loss(model(x), y, reduction="none")
    truth = (
        0.5 * squares.sum(1)
        if name == "half_squared_error"
        else (huber if isinstance(name, nn.HuberLoss) else squares).mean(1)
    )
    assert value == pytest.approx(float(truth.mean()), rel=1e-5)
    assert error == pytest.approx(float(truth.double().std() / math.sqrt(len(x))), rel=1e-4)


def test_ragged_batches_are_weighted_by_their_samples():
    data = [(X[:60], Y[:60]), (X[60:], Y[60:])]
    value = Problem(mlp(), lambda o, t: F.cross_entropy(o, t), data).measure()["loss"][0]
    mean_of_means = (by_hand(mlp(), X[:60], Y[:60]) + by_hand(mlp(), X[60:], Y[60:])) / 2
    assert value == pytest.approx(by_hand(mlp()), rel=1e-6)
    assert abs(mean_of_means - value) > 1e-3


def test_weights_label_smoothing_and_ignored_targets_as_torch_does():
    y = Y.clone()
    y[::5] = -100
    for loss in (
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.2])),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        nn.NLLLoss(),
        nn.CrossEntropyLoss(),
    ):
        model = mlp() if not isinstance(loss, nn.NLLLoss) else nn.Sequential(mlp(), nn.LogSoftmax(1))
        with torch.no_grad():
            truth = loss(model(X), y).item()
        assert Problem(model, loss, (X, y), batch_size=10).measure()["loss"][0] == pytest.approx(truth, rel=1e-5)


def tokens(n=12, length=9, seed=0):
    t = torch.randint(0, 11, (n, length), generator=torch.Generator().manual_seed(seed))
    return t[:, :-1], t[:, 1:].clone()


def test_a_language_model_is_weighted_by_tokens_in_ragged_batches():
    x, y = tokens()
    y[0, 2:] = -100
    y[5:9, 6:] = -100
    model = Tied()
    with torch.no_grad():
        truth = F.cross_entropy(model(x).reshape(-1, 11), y.reshape(-1)).item()
        each = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none").double()
    batches = [(x[:1], y[:1]), (x[1:10, :7], y[1:10, :7]), (x[10:], y[10:])]
    whole = Problem(model, "cross_entropy", (x, y)).measure()
    assert whole["loss"][0] == pytest.approx(truth, rel=1e-6)
    counts = (y != -100).sum(1).double()
    residual = each.sum(1) - truth * counts
    se = float((residual.square().sum() * 12 / 11).sqrt() / counts.sum())
    assert whole["loss"][1] == pytest.approx(se, rel=1e-4)
    parts = [
        (F.cross_entropy(model(a).reshape(-1, 11), b.reshape(-1), reduction="sum"), (b != -100).sum())
        for a, b in batches
    ]
    ragged = Problem(model, "cross_entropy", batches).measure()["loss"][0]
    assert ragged == pytest.approx(float(sum(s.detach() for s, _ in parts) / sum(n for _, n in parts)), rel=1e-6)


def test_a_loss_of_model_and_batch_with_token_weights():
    x, y = tokens()
    model = Tied()

    def loss(model, batch):
        logits = model(batch["input"])
        each = F.cross_entropy(logits.transpose(1, 2), batch["target"], reduction="none")
        return each, torch.ones_like(each)

    def mean(model, batch):
        value = F.cross_entropy(model(batch["input"]).transpose(1, 2), batch["target"])
        return value, batch["target"].numel()

    truth = by_hand_lm(model, x, y)
    batches = [{"input": x[:2], "target": y[:2]}, {"input": x[2:], "target": y[2:]}]
    for function, reduction in ((loss, "none"), (mean, "mean")):
        value, error = Problem(model, function, batches, reduction=reduction).measure()["loss"]
        assert value == pytest.approx(truth, rel=1e-6)
        assert error > 0


def by_hand_lm(model, x, y):
    with torch.no_grad():
        return F.cross_entropy(model(x).transpose(1, 2), y).item()


class HuggingFace(nn.Module):
    """Takes keywords, returns an object with loss and logits, as transformers' models do."""

    def __init__(self):
        super().__init__()
        self.net = Tied()

    def forward(self, input_ids, labels=None, attention_mask=None):
        logits = self.net(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].reshape(-1, 11), labels[:, 1:].reshape(-1))
        return SimpleNamespace(loss=loss, logits=logits)


class ToyForCausalLM(HuggingFace):
    pass


def test_hugging_face_style_dict_batches():
    ids = torch.randint(0, 11, (10, 6), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    labels[:4, 3:] = -100
    model = ToyForCausalLM()
    batches = [{"input_ids": ids[:4], "labels": labels[:4]}, {"input_ids": ids[4:], "labels": labels[4:]}]
    with torch.no_grad():
        truth = model(ids, labels).loss.item()
    assert Problem(model, "model", batches).measure()["loss"][0] == pytest.approx(truth, rel=1e-6)
    explicit = Problem(
        model, lambda model, batch: (model(**batch).loss, (batch["labels"][:, 1:] != -100).sum()), batches
    )
    assert explicit.measure()["loss"][0] == pytest.approx(truth, rel=1e-6)


def test_several_inputs_and_several_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x, shift):
            return self.net(x + shift), shift

    shift = torch.ones(64, 1) * 0.1
    problem = Problem(Two(), "cross_entropy", (X, shift, Y))
    assert problem.measure()["loss"][0] == pytest.approx(by_hand(mlp(), X + 0.1), rel=1e-6)
    both = Problem(Two(), lambda out, t: F.cross_entropy(out[0], t) + out[1].mean(), (X, shift, Y))
    assert both.measure()["loss"][0] == pytest.approx(by_hand(mlp(), X + 0.1) + 0.1, rel=1e-6)


def test_any_callable_is_a_metric():
    problem = mlp_problem(metrics={"margin": lambda o, t: o.topk(2).values.diff().abs().mean(), "accuracy": None})
    with torch.no_grad():
        truth = mlp()(X).topk(2).values.diff().abs().mean().item()
    assert problem.metrics == ("loss", "margin", "accuracy")
    assert problem.measure()["margin"][0] == pytest.approx(truth, rel=1e-5)
    norm = mlp_problem(metrics={"l2": lambda model, batch: sum(p.square().sum() for p in model.parameters())})
    assert norm.measure()["l2"][0] == pytest.approx(
        float(sum(p.detach().square().sum() for p in mlp().parameters())), rel=1e-6
    )


def test_a_loss_that_needs_gradients_of_the_inputs_works():
    def physics(model, batch):
        (x,) = batch
        x.requires_grad_(True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.square().mean()

    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    y = x.clone().requires_grad_(True)
    truth = torch.autograd.grad(net(y).sum(), y)[0].square().mean().item()
    problem = Problem(net, physics, (x,))
    assert problem.measure()["loss"][0] == pytest.approx(truth, rel=1e-6)
    assert problem.measure()["loss"][0] == pytest.approx(truth, rel=1e-6)
    assert not x.requires_grad


def test_weight_norm_parametrisation_is_supported():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))
    problem = Problem(model, "cross_entropy", (X, Y))
    assert problem.measure()["loss"][0] == pytest.approx(by_hand(model), rel=1e-6)
    assert "parametrizations.weight.original1" in problem.checkpoint().weights


def test_wrapped_models_are_unwrapped():
    assert Problem(nn.DataParallel(mlp()), "cross_entropy", (X, Y)).measure()["loss"][0] == pytest.approx(
        by_hand(mlp())
    )


# --- BatchNorm -------------------------------------------------------------------------------------------


def test_batchnorm_policies_by_hand():
    model, x, y = trained_conv_bn()
    model.eval()
    problem = Problem(model, "cross_entropy", (x, y), batchnorm="frozen")
    assert problem.measure()["loss"][0] == pytest.approx(by_hand(model, x, y), rel=1e-6)

    import copy

    fresh = copy.deepcopy(model)
    fresh.bn.reset_running_stats()
    fresh.bn.momentum = None
    fresh.train()
    with torch.no_grad():
        fresh(x)
    recalibrated = problem.with_batchnorm("recalibrated").measure()["loss"][0]
    assert recalibrated == pytest.approx(by_hand(fresh, x, y), rel=1e-5)

    with torch.no_grad():
        halves = [F.cross_entropy(copy.deepcopy(model).train()(x[i : i + 48]), y[i : i + 48]).item() for i in (0, 48)]
    batch = Problem(model, "cross_entropy", (x, y), batchnorm="batch", batch_size=48).measure()["loss"][0]
    assert batch == pytest.approx(np.mean(halves), rel=1e-5)
    assert len({problem.measure()["loss"][0], recalibrated, batch}) == 3


def test_recalibration_uses_the_calibration_data_weighted_by_batch():
    model, x, y = trained_conv_bn()
    calibration = [(x[:60], y[:60]), (x[60:70, :, :5], y[60:70])]
    problem = Problem(model, "cross_entropy", (x, y), calibration=calibration)
    with torch.no_grad():
        means = [model.conv(b[0]).mean((0, 2, 3)) for b in calibration]
    from analysis.replica import Replica

    replica = Replica(problem)
    replica.load(problem.checkpoint())
    replica.measure()
    assert torch.allclose(replica.model.bn.running_mean, (60 * means[0] + 10 * means[1]) / 70, atol=1e-6)


def test_the_policy_is_recalibrated_by_default_and_none_without_statistics():
    model, x, y = trained_conv_bn()
    assert Problem(model, "cross_entropy", (x, y)).batchnorm == "recalibrated"
    assert mlp_problem().batchnorm == "none"
    assert Problem(nn.Sequential(nn.LayerNorm(6), mlp()), "cross_entropy", (X, Y)).batchnorm == "none"
    with pytest.raises(ProblemError, match=r"accepted for .* are \['none'\]"):
        mlp_problem(batchnorm="frozen")
    with pytest.raises(ProblemError, match="recalibrated"):
        Problem(model, "cross_entropy", (x, y), batchnorm="eval")


def test_dropout_is_off_and_a_layer_that_still_draws_is_named_or_seeded():
    model, x, y = trained_conv_bn()
    with_dropout = ConvBN(dropout=0.5)
    with_dropout.load_state_dict(model.state_dict())
    assert Problem(with_dropout, "cross_entropy", (x, y)).measure() == Problem(model, "cross_entropy", (x, y)).measure()

    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    noisy = nn.Sequential(mlp(), Noisy())
    with pytest.raises(ProblemError, match=r"'1' \(Noisy\) draws random numbers"):
        Problem(noisy, "cross_entropy", (X, Y))
    seeded = Problem(noisy, "cross_entropy", (X, Y), seed=0)
    assert seeded.measure() == seeded.measure()
    assert seeded.measure()["loss"][0] != Problem(noisy, "cross_entropy", (X, Y), seed=1).measure()["loss"][0]


# --- data frozen once ------------------------------------------------------------------------------------


def test_a_shuffling_augmenting_loader_is_drawn_once():
    class Augmented(Pairs):
        def __getitem__(self, i):
            return X[i] + torch.randn(6), int(Y[i])

    torch.manual_seed(0)
    loader = DataLoader(Augmented(), batch_size=16, shuffle=True)
    problem = Problem(mlp(), "cross_entropy", loader)
    assert problem.measure() == problem.measure()
    torch.manual_seed(1)
    other = Problem(mlp(), "cross_entropy", loader)
    assert other.data.digest != problem.data.digest


def test_the_digest_is_of_the_data():
    assert mlp_problem().data.digest == mlp_problem().data.digest
    changed = X.clone()
    changed[3, 2] += 1e-3
    assert Problem(mlp(), "cross_entropy", (changed, Y)).data.digest != mlp_problem().data.digest


def test_the_gradient_norm_is_that_of_the_mean_over_all_data():
    """The residual r of a linear model: the gradient of the mean square is 2 mean(r x), in ragged batches too."""
    model, x, y = linear_regression(torch.float64)
    options = {"metrics": ["gradient_norm"], "dtype": torch.float64, "batch_size": 7}
    problem = Problem(model, "mse", (x, y), also={"half": (x[::2], y[::2])}, **options)
    values = problem.measure()
    for name, (inputs, targets) in {"": (x, y), "_half": (x[::2], y[::2])}.items():
        residual = (model(inputs) - targets).detach()
        truth = [2 * residual.T @ inputs / residual.numel(), 2 * residual.sum(0) / residual.numel()]
        norm = torch.cat([part.flatten() for part in truth]).norm().item()
        assert values[f"gradient_norm{name}"][0] == pytest.approx(norm, rel=1e-12)
        assert np.isnan(values[f"gradient_norm{name}"][1])
    *_, ds = surface(problem, Line.random(problem.checkpoint()), resolution=5)
    assert float(ds.gradient_norm.sel(t=0)) == pytest.approx(values["gradient_norm"][0], rel=1e-12)
    assert ds.gradient_norm.attrs["long_name"] == "norm of the gradient"


@pytest.mark.parametrize("policy", ["recalibrated", "frozen", "batch"])
def test_the_gradient_norm_holds_statistics_as_the_gradient_does(policy):
    net, x, y = trained_conv_bn()
    problem = Problem(net, "cross_entropy", (x, y), batchnorm=policy, metrics=["accuracy", "gradient_norm"])
    assert problem.measure()["gradient_norm"][0] == pytest.approx(problem.gradient().norm(), rel=1e-5)
    assert problem.measure()["loss"] == Problem(net, "cross_entropy", (x, y), batchnorm=policy).measure()["loss"]


def test_the_gradient_norm_of_a_loss_that_runs_the_model_beside_a_metric_of_its_output():
    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    metrics = {"gradient_norm": None, "spread": lambda output, target: output.std(1)}
    problem = Problem(mlp(), loss, (X, Y), reduction="none", metrics=metrics)
    assert problem.measure()["gradient_norm"][0] == pytest.approx(problem.gradient().norm(), rel=1e-5)
    assert problem.measure()["spread"][0] > 0


def test_samples_are_those_of_each_data_set():
    problem = Problem(mlp(), "cross_entropy", (X, Y), also={"train": (X, Y)}, samples=20)
    assert (problem.n, problem.also["train"].n) == (20, 20)
    with pytest.raises(LandscapeError, match="seed is -1"):
        Problem(mlp(), "cross_entropy", (X, Y), seed=-1)


def test_a_number_of_samples():
    problem = mlp_problem(samples=20)
    assert problem.n == 20
    assert problem.measure() == mlp_problem(samples=20).measure()
    chosen = {tuple(row.tolist()) for row in problem.data.batches()[0][0]}
    assert chosen <= {tuple(row.tolist()) for row in X}
    assert chosen != {tuple(row.tolist()) for row in X[:20]}
    assert Problem(mlp(), "cross_entropy", DataLoader(TensorDataset(X, Y), 16), samples=20).n == 20


def test_the_same_problem_on_fewer_samples():
    model, x, y = trained_conv_bn()
    problem = Problem(model, "cross_entropy", (x, y), also={"more": (x[:50], y[:50])}, calibration=(x + 1, y))
    before = problem.measure()
    few = problem.with_samples(20)
    chosen, calibration = few.data.batches()[0], few.calibration.batches()[0]
    assert len(chosen[0]) == len(calibration[0]) == few.also["more"].n == 20
    by_other_means = Problem(model, "cross_entropy", chosen, also={"more": few.also["more"]}, calibration=calibration)
    assert few.measure() == by_other_means.measure() != before
    assert problem.n == len(x)
    assert problem.measure() == before


def test_the_time_of_an_evaluation_is_that_of_the_tries_for_so_many_samples(monkeypatch):
    model, x, y = trained_conv_bn()
    clock = iter([5.0, 5.3])  # three tries on 64 samples, of which 64 are recalibrated on
    monkeypatch.setattr("analysis.trial.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    problem = Problem(model, "cross_entropy", (x.repeat(20, 1, 1, 1), y.repeat(20)))
    assert problem.conduct.seconds == pytest.approx(0.1 * (20 * len(x) + 512) / 128)


def test_a_first_try_takes_few_samples():
    seen = []

    class Counting(nn.Linear):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    Problem(Counting(6, 3), "cross_entropy", (X.repeat(10, 1), Y.repeat(10)))
    assert seen[0] == 256  # so that what fails or does not fit into memory does so now
    assert max(seen[1:]) == 64


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "hold no samples"),
        ((X[:0], Y[:0]), "hold no samples"),
        (DataLoader(TensorDataset(X[:0], Y[:0])), "hold no samples"),
        (X, "The data are a Tensor"),
        (None, "The data are a NoneType"),
        ("data.pt", "The data are a str"),
        ((X, Y[:5]), "different numbers of samples"),
        ([("a", "b")], "no tensor with a sample dimension"),
    ],
)
def test_data_that_cannot_be_used(data, words):
    with pytest.raises(DataError, match=words):
        Problem(mlp(), "cross_entropy", data)


# --- losses that cannot be drawn -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options", "words"),
    [
        (
            lambda o, t: F.cross_entropy(o, t, reduction="none"),
            {},
            r"shape \[64\].*expected a scalar.*reduction='none'",
        ),
        (lambda o, t: o, {"reduction": "none"}, None),
        (lambda o, t: o.mean(), {"reduction": "none"}, r"expected \[64, \.\.\.\]"),
        (lambda o, t: "low", {}, "returned a str"),
        (lambda o, t: None, {}, "returned a NoneType"),
        ("crossentropy", {}, "Unknown loss 'crossentropy'; accepted names"),
        (42, {}, "'loss' is a int; pass a function"),
        (nn.CrossEntropyLoss(reduction="sum"), {}, "pass the same loss with reduction='mean'"),
        ("cross_entropy", {"reduction": "sum"}, "accepted are 'mean' and 'none'"),
        ("mse", {}, "shapes must be equal"),
        ("model", {}, "reads output.loss"),
        ("cross_entropy", {"metrics": ["f1"]}, "Unknown metric 'f1'"),
        ("cross_entropy", {"metrics": {"loss": len}}, "A metric is named 'loss'"),
        ("cross_entropy", {"dtype": torch.int64}, "floating-point dtype"),
    ],
)
def test_bad_losses(loss, options, words):
    if words is None:
        assert Problem(mlp(), loss, (X, Y), **options).measure()["loss"][1] > 0
        return
    with pytest.raises(ProblemError, match=words):
        Problem(mlp(), loss, (X, Y), **options)


def test_bad_models():
    with pytest.raises(ProblemError, match="The model is a function"):
        Problem(by_hand, "cross_entropy", (X, Y))
    with pytest.raises(ProblemError, match="TorchScript"):
        Problem(torch.jit.trace(mlp(), X), "cross_entropy", (X, Y))
    with pytest.raises(ProblemError, match="needs batches"):
        Problem(mlp(), "cross_entropy", [X])
    with pytest.raises(ProblemError, match="fit both"):
        Problem(nn.Linear(4, 4), "cross_entropy", (torch.zeros(3, 4, 4), torch.zeros(3, 4, dtype=torch.int64)))


def test_the_users_own_exception_comes_through():
    def broken(output, target):
        return output.mean() / undefined_name  # noqa: F821

    with pytest.raises(NameError, match="undefined_name"):
        Problem(mlp(), broken, (X, Y))


def test_the_code_digest_follows_what_determines_values():
    from functools import partial

    from analysis.provenance import code_digest

    def scaled(factor):
        return lambda output, target: factor * F.cross_entropy(output, target)

    class Sloped(nn.Module):
        def __init__(self, slope):
            super().__init__()
            self.slope = slope

    assert code_digest(scaled(2.0)) == code_digest(scaled(2.0))
    assert code_digest(scaled(2.0)) != code_digest(scaled(3.0))
    assert code_digest(partial(F.mse_loss, reduction="mean")) != code_digest(partial(F.mse_loss, reduction="sum"))
    assert code_digest(Sloped(1.0)) != code_digest(Sloped(2.0))
    assert code_digest(nn.CrossEntropyLoss()) != code_digest(nn.CrossEntropyLoss(label_smoothing=0.1))


def test_models_with_integer_parameters_and_shared_buffers():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()
            self.order = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
            self.register_buffer("scale", torch.tensor(2.0))
            self.register_buffer("same", self.scale)

        def forward(self, x):
            return self.net(x)[:, self.order] * self.same

    problem = Problem(Odd(), "cross_entropy", (X, Y))
    with torch.no_grad():
        truth = F.cross_entropy(mlp()(X)[:, [2, 0, 1]] * 2, Y).item()
    assert problem.measure()["loss"][0] == pytest.approx(truth, rel=1e-6)
    assert set(problem.checkpoint().buffers) == {"order", "scale", "same"}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_class_targets_of_any_integer_type(dtype):
    problem = Problem(mlp(), "cross_entropy", (X, Y.to(dtype)), metrics=["accuracy", "loss_per_class"])
    assert problem.measure()["loss"][0] == pytest.approx(by_hand(mlp()), rel=1e-6)


def test_several_data_sets_in_one_pass():
    half, rest = (X[:30], Y[:30]), (X[30:], Y[30:])
    problem = Problem(mlp(), "cross_entropy", half, also={"train": rest}, metrics=["accuracy", "loss_per_class"])
    names = ("loss", "accuracy", "loss_per_class", "loss_train", "accuracy_train", "loss_per_class_train")
    assert problem.metrics == names
    found = problem.measure()
    assert found["loss"][0] == pytest.approx(by_hand(mlp(), *half), rel=1e-6)
    assert found["loss_train"][0] == pytest.approx(by_hand(mlp(), *rest), rel=1e-6)
    from analysis import Plane, evaluate, surface

    plane = Plane.random(problem.checkpoint())
    *_, ds = surface(problem, plane, resolution=11)
    other = Problem(mlp(), "cross_entropy", rest)
    *_, alone = evaluate(other, plane, np.stack([ds.sample_a, ds.sample_b], -1))
    assert ds.sample_loss_train.values == pytest.approx(alone.loss.values, rel=1e-5)
    assert problem.provenance()["also"]["train"]["sha256"] == other.data.digest


class Centred(nn.Module):
    """A sample's output depends on the others of its batch."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x - x.mean(0) + 1)


def test_batches_of_one_sample_are_not_joined_where_samples_are_coupled():
    assert Problem(Centred(), "cross_entropy", classification(), batch_size=1).conduct.couples_samples
    assert Problem(mlp(), "cross_entropy", classification(), batch_size=1).free_blocks


def test_coupled_samples_are_found_out_under_each_policy():
    net = nn.Sequential(nn.BatchNorm1d(6), Centred())
    problem = Problem(net, "cross_entropy", classification(), batchnorm="batch")
    assert not problem.with_batchnorm("frozen").free_blocks
    plain = Problem(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), "cross_entropy", classification())
    assert plain.with_batchnorm("batch").with_batchnorm("frozen").free_blocks


def test_a_model_that_takes_batches_of_one_size_keeps_them():
    class Eight(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x.reshape(8, 6))

    x, y = classification()
    problem = Problem(Eight(), "cross_entropy", (x[:16], y[:16]), batch_size=8)
    assert problem.conduct.couples_samples
    assert np.isfinite(problem.measure()["loss"][0])


def test_two_metrics_of_one_name_are_refused():
    x, y = classification()
    own = {"loss_train": lambda output, target: output.mean()}
    with pytest.raises(ProblemError, match="would be called loss_train"):
        Problem(mlp(), "cross_entropy", (x, y), metrics=own, also={"train": (x, y)})
    with pytest.raises(ProblemError, match="would be called accuracy"):
        Problem(mlp(), "cross_entropy", (x, y), metrics=["accuracy", "accuracy"])
    for name in ("error", "se"):
        with pytest.raises(ProblemError, match=f"would be called loss_{name}"):
            Problem(mlp(), "cross_entropy", (x, y), also={name: (x, y)})
