"""Curves: control points in closed form, a trained bend against its optimum, the plane that holds one."""

import numpy as np
import pytest
import torch
from models import trained_conv_bn
from scipy.optimize import minimize
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, CheckpointError, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import Curve, CurveSearch, barrier, barrier_height, curves
from analysis.replica import Replica


def at(x, y):
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[x, y]]))
    return Checkpoint.of(model, f"({x:.2g}, {y:.2g})")


def ring(**options):
    """Two points of a valley that is the unit circle, 120 degrees apart."""
    problem = Problem(
        nn.Linear(2, 1, bias=False),
        lambda model, batch: (model.weight.square().sum() - 1) ** 2,
        (torch.zeros(4, 2),),
        **options,
    )
    return problem, at(1.0, 0.0), at(-0.5, 0.75**0.5)


def test_points_of_a_quadratic_bezier_curve():
    a, m, b = at(0.0, 0.0), at(1.0, 2.0), at(4.0, 0.0)
    curve = Curve("bezier", (a, m, b))
    for t in (0.0, 0.3, 0.5, 1.0):
        wanted = (1 - t) ** 2 * a.weights["weight"] + 2 * t * (1 - t) * m.weights["weight"] + t**2 * b.weights["weight"]
        torch.testing.assert_close(curve.point(t)["weight"], wanted)
    np.testing.assert_allclose(Curve("bezier", (a, b)).shares(0.25), [0.75, 0.25])


def test_points_of_a_polygon():
    points = tuple(at(x, y) for x, y in ((0.0, 0.0), (1.0, 2.0), (2.0, -2.0), (4.0, 0.0)))
    curve = Curve("polygon", points)
    for i, point in enumerate(points):
        torch.testing.assert_close(curve.point(i / 3)["weight"], point.weights["weight"])
    torch.testing.assert_close(curve.point(0.5)["weight"], torch.tensor([[1.5, 0.0]]))
    np.testing.assert_allclose(curve.shares(1 / 6), [0.5, 0.5, 0, 0])


@pytest.mark.parametrize("kind", ["bezier", "polygon"])
def test_a_trained_bend_is_the_one_of_lowest_mean_loss(kind):
    problem, a, b = ring()
    search = CurveSearch(problem, a, b, kind=kind, steps=700, learning_rate=0.02, seed=1)
    *_, ds = search.steps()
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t, weights = (nodes + 1) / 2, weights / 2
    shares = np.array([search.curve.shares(x) for x in t])
    ends = [c.weights["weight"].double().numpy()[0] for c in (a, b)]

    def mean_loss(m):
        w = shares @ np.stack([ends[0], m, ends[1]])
        return float(weights @ (np.square(w).sum(1) - 1) ** 2)

    best = minimize(mean_loss, [0.5, 1.0], tol=1e-12)
    found = search.curve.points[1].weights["weight"].double().numpy()[0]
    np.testing.assert_allclose(found, best.x, atol=0.03)
    assert mean_loss(found) < best.fun + 1e-4
    assert np.mean(search.losses[-400:]) == pytest.approx(best.fun, rel=0.2)
    *_, straight = barrier(problem, a, b)
    assert float(straight.loss_barrier) == pytest.approx((0.25 - 1) ** 2, rel=1e-3)
    assert float(ds.loss_barrier) < 0.25 * float(straight.loss_barrier)
    w = search.curve.point(0.5)["weight"]
    assert float(ds.loss.sel(t=0.5)) == pytest.approx(float((w.square().sum() - 1) ** 2), abs=1e-6)


def test_several_bends_follow_the_valley_closer():
    problem, a, b = ring()
    heights = []
    for bends in (1, 3):
        *_, ds = CurveSearch(problem, a, b, kind="polygon", bends=bends, steps=300, learning_rate=0.02).steps()
        heights.append(float(ds.loss_barrier))
    assert heights[1] < 0.5 * heights[0]


def test_the_length_of_a_curve():
    from analysis.connectivity.curves import _length

    assert _length(Curve("polygon", (at(0.0, 0.0), at(3.0, 4.0), at(3.0, 0.0)))) == pytest.approx(9)
    assert _length(Curve("bezier", (at(0.0, 0.0), at(3.0, 4.0)))) == pytest.approx(5)
    parabola = Curve("bezier", (at(-1.0, 1.0), at(0.0, -1.0), at(1.0, 1.0)))  # y = x² from -1 to 1
    assert _length(parabola) == pytest.approx(np.sqrt(5) + np.arcsinh(2) / 2, rel=1e-5)


def test_the_plane_of_a_curve():
    a, m, b = at(0.0, 0.0), at(1.0, 2.0), at(4.0, 0.0)
    curve = Curve("bezier", (a, m, b))
    plane = curve.plane()
    for t in (0.0, 0.2, 0.7, 1.0):
        coordinates, residual = plane.project(curve.point(t))
        assert residual < 1e-6
        np.testing.assert_allclose(coordinates * 4, curve.point(t)["weight"][0], atol=1e-6)
    with pytest.raises(LandscapeError, match="one bend"):
        Curve("polygon", (a, m, m, b)).plane()
    with pytest.raises(LandscapeError, match="span no plane"):
        Curve("bezier", (a, at(2.0, 0.0), b)).plane()


def test_a_curve_joins_networks_that_a_line_does_not(tmp_path):
    problem, a, b = digits_pair("mlp128")
    digests = a.digest, b.digest
    search = CurveSearch(problem, a, b, steps=300)
    seen = list(search.steps())
    *_, straight = barrier(problem, a, b)
    assert float(straight.loss_barrier) > 0.4
    np.testing.assert_allclose(seen[0].loss, straight.loss.interp(t=seen[0].t), rtol=1e-4)
    assert float(seen[-1].loss_barrier) < 0.05 * float(straight.loss_barrier)
    assert [ds.attrs["status"] for ds in seen] == ["running"] * (len(seen) - 1) + ["done"]
    progress = [ds.attrs["progress"] for ds in seen]
    assert progress == sorted(progress)
    assert seen[-1].training_loss.sizes["step"] == 300
    assert seen[-1].attrs["length"] > seen[-1].attrs["distance"]
    assert provenance(seen[-1])["steps"] == 300
    assert (a.digest, b.digest) == digests
    for i, end in enumerate((a, b)):
        assert float(seen[-1].loss[-i]) == pytest.approx(problem.measure(end)["loss"][0], rel=1e-5)
    assert load(save(seen[-1], tmp_path / "curve.nc")).equals(seen[-1])


class Clock:
    """Looking at a place takes 0.2 s and a step of training 0.1 s, the first 2 s."""

    def __init__(self, monkeypatch):
        self.now, self.steps = 0.0, 0
        measure, descend = Replica.measure, Replica.loss_and_gradient

        def slow_measure(replica):
            self.now += 0.2
            return measure(replica)

        def slow_descend(replica, batches):
            self.now += 0.1 if self.steps else 2.0
            self.steps += 1
            return descend(replica, batches)

        monkeypatch.setattr(Replica, "measure", slow_measure)
        monkeypatch.setattr(Replica, "loss_and_gradient", slow_descend)
        monkeypatch.setattr(curves.time, "perf_counter", lambda: self.now)


def test_a_curve_that_was_not_looked_at_yet_has_no_barrier(monkeypatch):
    clock = Clock(monkeypatch)
    problem, a, b = ring()
    search = CurveSearch(problem, a, b, steps=500, learning_rate=0.02)
    seen = []
    for ds in search.steps():
        seen.append((clock.now, ds))
    straight = float(barrier_height(seen[0][1].t.values, seen[0][1].loss.values, seen[0][1].marker_loss.values)[0])
    looked = [ds for _, ds in seen if ds.attrs["looked_at_step"]]
    unseen = [ds for _, ds in seen if not ds.attrs["looked_at_step"]]
    assert len(unseen) > 20 < len(looked)
    assert unseen[0].attrs["evaluations"] == 0
    assert np.isfinite(unseen[0].loss).all()  # it begins as the straight line
    for ds in unseen:
        assert np.isnan([ds.loss_barrier, ds.loss_barrier_at]).all()
        assert ds.attrs["evaluations"] == 0 or np.isnan(ds.loss).all()
        assert ds.attrs["evaluations"] == 0 or not ds.computed.any()
        assert np.isfinite(ds.marker_loss).all()
    for ds in looked:
        assert ds.attrs["looked_at_step"] <= ds.attrs["evaluations"]
        assert float(ds.loss_barrier) < 0.7 * straight
        assert ds.computed.all()
    assert looked[-1].attrs["looked_at_step"] == 500


def test_the_time_left_is_said_once_steps_tell_it(monkeypatch):
    clock = Clock(monkeypatch)
    problem, a, b = ring()
    seen = [(clock.now, ds.attrs) for ds in CurveSearch(problem, a, b, steps=400).steps()]
    end = seen[-1][0]
    assert np.isnan(seen[0][1]["eta_s"])
    told = [(now, facts["eta_s"]) for now, facts in seen if np.isfinite(facts["eta_s"])]
    assert len(told) > 0.8 * len(seen)
    for now, eta in told:
        assert eta == pytest.approx(end - now, rel=0.35, abs=6.0)  # a look takes 5
    assert told[-1][1] == 0.0


def test_cancelled_where_it_is_and_the_same_again():
    problem, a, b = digits_pair("mlp128")
    searches = [CurveSearch(problem, a, b, steps=20, seed=5) for _ in range(2)]
    for search in searches:
        list(search.steps())
    digests = {search.curve.points[1].weights.digest() for search in searches}
    assert len(digests) == 1
    stopped = CurveSearch(problem, a, b, steps=100000)
    steps = stopped.steps()
    while next(steps).attrs["evaluations"] < 5:
        pass
    steps.close()
    assert 5 <= len(stopped.losses) < 100000
    assert stopped.curve.points[1].weights.digest() != searches[0].line.point(0.5).digest()


def test_batchnorm_is_trained_on_batches_and_looked_at_recalibrated():
    model, x, y = trained_conv_bn(0)
    other = trained_conv_bn(1)[0]
    problem = Problem(model, "cross_entropy", (x, y))
    a, b = problem.checkpoint(model), problem.checkpoint(other, name="other")
    search = CurveSearch(problem, a, b, steps=100, batch_size=32)
    *_, ds = search.steps()
    for i, end in enumerate((a, b)):
        assert float(ds.loss[-i]) == pytest.approx(problem.measure(end)["loss"][0], rel=1e-4)
    middle = Checkpoint(search.curve.point(0.5), a.buffers, "middle")
    assert float(ds.loss.sel(t=0.5)) == pytest.approx(problem.measure(middle)["loss"][0], rel=1e-4)
    near = Checkpoint((1 + 1e-6) * a.weights, a.buffers, "near")  # wherever it is looked at, the loss is that of a
    still = CurveSearch(problem, a, near, steps=120, batch_size=8, learning_rate=1e-9)
    list(still.steps())
    on_batches = Problem(model, "cross_entropy", (x, y), batch_size=8, batchnorm="batch").measure(a)["loss"][0]
    gap = abs(on_batches - problem.measure(a)["loss"][0])
    assert abs(np.mean(still.losses) - on_batches) < gap / 3
    with pytest.raises(LandscapeError, match="recalibrated"):
        CurveSearch(problem.with_batchnorm("frozen"), a, b)


def test_errors():
    problem, a, b = ring()
    for options, words in (
        ({"kind": "spline"}, "bezier"),
        ({"bends": 0}, "bends"),
        ({"steps": 0.5}, "steps"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"points": 4}, "odd"),
        ({"convention": "max"}, "sup"),
    ):
        with pytest.raises(LandscapeError, match=words):
            CurveSearch(problem, a, b, **options)
    with pytest.raises(LandscapeError, match="same weights"):
        CurveSearch(problem, a, a)
    with pytest.raises(LandscapeError, match="two or more"):
        Curve("bezier", (a,))
    with pytest.raises(LandscapeError, match=r"\[0, 1\]"):
        Curve("bezier", (a, b)).point(1.5)
    with pytest.raises(CheckpointError, match="The loss at checkpoint"):
        list(CurveSearch(problem, a, at(1e30, 0.0)).steps())
    with pytest.raises(LandscapeError, match="learning_rate smaller"):
        list(CurveSearch(problem, a, b, learning_rate=1e12).steps())
