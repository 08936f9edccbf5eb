"""Rules of docs/correctness.md that no other test shows, and that each test it names exists."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import classification, mlp, mlp_problem, trained_conv_bn
from test_surface import drawn, last
from torch import nn

from analysis import Checkpoint, Line, Plane, Problem, evaluate, load_checkpoint, provenance, surface

X, Y = classification(60)


def test_every_test_that_the_table_names_exists():
    folder = Path(__file__).parent
    named = re.findall(r"(test_\w+)::(test_\w+)", (folder.parent / "docs" / "correctness.md").read_text())
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"^def {test}\(", (folder / f"{file}.py").read_text(), re.M), f"{file}::{test}"


def number(value):
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_an_interpolation_from_2_to_4_goes_from_2_to_4():
    problem = Problem(number(2.0), lambda model, batch: model.weight.sum(), (torch.zeros(3, 1),), dtype=torch.float64)
    ends = [problem.checkpoint(number(value), name=str(value)) for value in (2.0, 4.0)]
    ds = last(surface(problem, Line.through(*ends), extent=(0, 1), resolution=5, dense=True))
    assert ds.loss.values.tolist() == [2.0, 2.5, 3.0, 3.5, 4.0]
    assert ds.t.values.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert ds.marker_loss.values.tolist() == [2.0, 4.0]


@pytest.mark.parametrize("dense", [True, False])
def test_a_value_that_was_evaluated_is_drawn_as_it_was(dense):
    problem = mlp_problem()
    plane = Plane.random(problem.checkpoint())
    ds = last(surface(problem, plane, resolution=33, dense=dense))
    drawn_here = ds.loss.values[ds.computed.values]
    b, a = np.nonzero(ds.computed.values)
    from analysis import Strategy

    strategy = Strategy.of(provenance(ds)["strategy"])
    points = np.stack([ds.a.values[a], ds.b.values[b]], -1)
    again = last(evaluate(problem, plane, points, strategy=strategy))
    assert np.array_equal(drawn_here, again.loss.values)
    assert len(drawn_here) >= 289


def test_a_loss_of_exactly_zero_is_kept():
    problem, plane = drawn(lambda u, v: u * u + v * v, dtype=torch.float64)
    for dense in (True, False):
        ds = last(surface(problem, plane, resolution=65, dense=dense))
        assert float(ds.loss.sel(a=0, b=0)) == 0.0
        assert np.isfinite(ds.loss).all()


def test_a_state_dict_in_another_order_lands_by_name():
    model = mlp((6, 6, 6, 6))
    state = model.state_dict()
    for order in (list(state), list(state)[::-1], sorted(state, key=hash)):
        point = load_checkpoint({name: state[name] for name in order}, mlp((6, 6, 6, 6), seed=9))
        assert list(point.weights) == list(state)
        assert all(torch.equal(point.weights[name], tensor) for name, tensor in state.items())


class Masked(nn.Module):
    """Integer and bool buffers that decide what comes out."""

    def __init__(self, order=(2, 0, 1), mask=(True, True, False)):
        super().__init__()
        self.net = mlp()
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("mask", torch.tensor(mask))

    def forward(self, x):
        return self.net(x)[:, self.order] * self.mask


def test_integer_and_bool_buffers_are_those_of_the_origin_everywhere():
    start, end = Masked(), Masked((0, 1, 2), (False, True, True))
    with torch.no_grad():
        end.net[0].weight += 0.3
    problem = Problem(start, "cross_entropy", (X, Y), dtype=torch.float64)
    line = Line.through(problem.checkpoint(), problem.checkpoint(end, name="end"))
    assert {"order", "mask"}.isdisjoint(line.axes[0].weights)
    ds = last(evaluate(problem, line, [0.0, 0.4, 1.0, 2.5]))
    picture = last(surface(problem, line, extent=(0, 1), resolution=3))  # measures both checkpoints first
    values = [
        *zip((0.0, 0.4, 1.0, 2.5), ds.loss.values, strict=True),
        *zip(picture.t, picture.loss.values, strict=True),
    ]
    for t, loss in ((float(t), float(loss)) for t, loss in values):
        by_hand = Masked().double()
        with torch.no_grad():
            by_hand.net[0].weight += t * (end.net[0].weight.double() - by_hand.net[0].weight)
            truth = F.cross_entropy(by_hand(X.double()), Y).item()
        assert loss == pytest.approx(truth, rel=1e-12)


def test_what_moves_is_recorded():
    problem = mlp_problem()
    options = {"include": ("weight", "bias"), "layers": ["2", "4.*"], "frozen": True, "normalisation": "layer"}
    plane = Plane.random(problem.checkpoint(), seed=4, **options)
    facts = provenance(last(surface(problem, plane, resolution=5)))
    assert facts["include"] == ["bias", "weight"]
    assert (facts["layers"], facts["frozen"], facts["normalisation"]) == (["2", "4.*"], True, "layer")
    assert facts["seed"] == 4
    assert [axis["length"] for axis in facts["axes"]] == [axis.length for axis in plane.axes]


def test_a_point_does_not_depend_on_how_many_came_before():
    problem = mlp_problem()
    line = Line.random(problem.checkpoint())
    way = np.random.default_rng(0).uniform(-30, 30, 400)
    ds = last(evaluate(problem, line, np.concatenate([[0.0, 0.7], way, [0.0, 0.7]])))
    assert ds.loss.values[-2:].tolist() == ds.loss.values[:2].tolist()
    assert ds.loss.values[0] == pytest.approx(problem.measure()["loss"][0], rel=1e-6)


def test_principal_directions_of_a_million_weights():
    base = Checkpoint.of(nn.Linear(1000, 1000, bias=False))
    g = torch.Generator().manual_seed(0)
    e1, e2 = (base.weights.unflatten(torch.randn(10**6, generator=g)) for _ in range(2))
    path = [(0, 0.5), (3, -0.5), (6, -0.5), (9, 0.5)]
    points = [Checkpoint(base.weights.add(e1, p).add(e2, q), {}, str(i)) for i, (p, q) in enumerate(path)]
    plane = Plane.pca(points)
    assert plane.facts["explained_variance"][:2] == pytest.approx([45 / 46, 1 / 46], abs=1e-3)
    assert max(plane.project(point)[1] for point in points) < 1e-2 * e1.norm()


def test_statistics_are_estimated_anew_far_from_the_checkpoint():
    net, x, y = trained_conv_bn()
    problem = Problem(net, "cross_entropy", (x, y), dtype=torch.float64, batch_size=96)
    line = Line.random(problem.checkpoint(), seed=1)
    far = (-4.0, 3.0)
    ds = last(evaluate(problem, line, far))
    stale = last(evaluate(problem.with_batchnorm("frozen"), line, far))
    for i, t in enumerate(far):
        by_hand = nn.Module.double(trained_conv_bn()[0])
        with torch.no_grad():
            for name, parameter in by_hand.named_parameters():
                parameter.copy_(line.point(t)[name])
            by_hand.bn.reset_running_stats()
            by_hand.bn.momentum = 1.0
            by_hand.train()(x.double())
            truth = F.cross_entropy(by_hand.eval()(x.double()), y).item()
        assert float(ds.loss[i]) == pytest.approx(truth, rel=1e-9)
        assert float(stale.loss[i]) != pytest.approx(truth, rel=1e-2)


def test_a_regulariser_is_a_metric_of_its_own():
    def penalised(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1]) + decay(model, batch)

    def decay(model, batch):
        return 0.1 * sum(p.square().sum() for p in model.parameters())

    problem = Problem(mlp(), "cross_entropy", (X, Y), metrics={"decay": decay, "penalised": penalised})
    line = Line.random(problem.checkpoint())
    ds = last(evaluate(problem, line, [0.0, 3.0]))
    with torch.no_grad():
        assert float(ds.loss[0]) == pytest.approx(F.cross_entropy(mlp()(X), Y).item(), rel=1e-6)
    for i, t in enumerate((0.0, 3.0)):
        assert float(ds.decay[i]) == pytest.approx(0.1 * line.point(t).norm() ** 2, rel=1e-6)
    assert ds.penalised.values == pytest.approx(ds.loss.values + ds.decay.values, rel=1e-6)
    assert float(ds.loss[1]) < float(ds.decay[1])


@pytest.mark.parametrize("c", [0.01, 7.0, 1000.0])
def test_relu_rescaling_changes_raw_curves_and_leaves_filter_normalised_ones(c):
    plain, rescaled = mlp().double(), mlp().double()
    with torch.no_grad():
        rescaled[0].weight *= c
        rescaled[0].bias *= c
        rescaled[2].weight /= c
    curves: dict[str, list[np.ndarray]] = {"filter": [], "layer": [], "raw": []}
    raw = torch.randn(plain[0].weight.numel() + 10**4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for net in (plain, rescaled):
        problem = Problem(net, "cross_entropy", (X.double(), Y), dtype=torch.float64)
        point = problem.checkpoint()
        lines = {kind: Line.random(point, seed=2, normalisation=kind) for kind in ("filter", "layer")}
        lines["raw"] = Line.along(point, point.weights.unflatten(raw[: point.weights.numel]))
        for kind, line in lines.items():
            curves[kind].append(last(evaluate(problem, line, np.linspace(-1, 1, 9))).loss.values)
    for kind in ("filter", "layer"):
        assert curves[kind][0] == pytest.approx(curves[kind][1], rel=1e-10)
        assert np.ptp(curves[kind][0]) > 0.03
    assert np.abs(curves["raw"][0] - curves["raw"][1]).max() > 0.003
