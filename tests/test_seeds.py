"""Several random seeds at once, against quadratics whose every slice is known, and against one seed at a time."""

import numpy as np
import pytest
import torch
import xarray as xr
from models import linear_regression, mlp, mlp_problem

from analysis import LandscapeError, Line, Plane, Problem, load, of_seed, over_seeds, provenance, save, surface


def last(results):
    *_, ds = results
    return ds


def quadratic():
    model, x, y = linear_regression(torch.float64)
    problem = Problem(model, "mse", (x, y), dtype=torch.float64)
    return problem, x.numpy(), y.numpy()


def slice_of(space, x, y, *coordinates):
    """The mean squared error of a linear model on a grid of coordinates: |r0 + sum of c_i r_i|^2."""
    out = lambda w: x @ w["weight"].numpy().T + w["bias"].numpy()  # noqa: E731
    residual = out(space.origin.weights) - y
    for axis, c in zip(space.axes, coordinates, strict=True):
        residual = residual + c[..., None, None] * out(axis.weights)
    return (residual**2).mean((-1, -2))


def test_mean_and_spread_of_lines_on_a_quadratic():
    problem, x, y = quadratic()
    make = lambda seed: Line.random(problem.checkpoint(), seed=seed, include=("weight", "bias"))  # noqa: E731
    ds = last(over_seeds(problem, make, [3, 0, 7], resolution=31, extent=(-2, 1)))
    t = np.linspace(-2, 1, 31)
    truth = np.stack([slice_of(make(seed), x, y, t) for seed in (3, 0, 7)])
    assert ds.loss.dims == ("seed", "t")
    assert ds.seed.values.tolist() == [3, 0, 7]
    np.testing.assert_allclose(ds.loss, truth, rtol=1e-9)
    np.testing.assert_allclose(ds.loss_mean, truth.mean(0), rtol=1e-9)
    np.testing.assert_allclose(ds.loss_std, truth.std(0, ddof=1), rtol=1e-7, atol=1e-12)
    assert float(ds.loss_std.sel(t=0, method="nearest")) < 1e-9 < float(ds.loss_std.max())
    assert ds.attrs["status"] == "dense"
    assert ds.computed.values.all()
    assert ds.loss_mean.attrs["long_name"] == "mean over seeds of mean squared error"


def test_planes_that_are_not_square():
    problem, x, y = quadratic()
    make = lambda seed: Plane.random(problem.checkpoint(), seed=seed)  # noqa: E731
    ds = last(over_seeds(problem, make, range(2), resolution=(7, 5), extent=((-1, 1), (0, 2))))
    a, b = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(0, 2, 5))
    truth = np.stack([slice_of(make(seed), x, y, a, b) for seed in (0, 1)])
    assert ds.loss.dims == ("seed", "b", "a")
    np.testing.assert_allclose(ds.loss, truth, rtol=1e-9)
    np.testing.assert_allclose(ds.loss_mean, truth.mean(0), rtol=1e-9)
    np.testing.assert_allclose(ds.loss_std, truth.std(0, ddof=1), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("seeds", [[4, 4], [1, 1, 1], [2] * 7])
def test_identical_seeds_have_no_spread(seeds):
    problem = mlp_problem()
    ds = last(over_seeds(problem, lambda s: Line.random(problem.checkpoint(), seed=s), seeds, resolution=9))
    assert (ds.loss_std == 0).all()
    assert (ds.loss_mean == ds.loss[0]).all()


def test_each_seed_is_what_it_is_alone(tmp_path):
    problem = mlp_problem(metrics=["accuracy", "loss_per_class"])
    make = lambda seed: Line.random(problem.checkpoint(), seed=seed)  # noqa: E731
    ds = last(over_seeds(problem, make, [1, 5]))
    back = load(save(ds, tmp_path / "s.nc"))
    xr.testing.assert_identical(back.drop_attrs(), ds.drop_attrs())
    for place, seed in enumerate((1, 5)):
        alone, mine = last(surface(problem, make(seed))), of_seed(back, place)
        assert set(mine.data_vars) == set(alone.data_vars)
        for name in alone.data_vars:
            assert mine[name].dims == alone[name].dims
            if alone[name].dtype == object:
                assert (mine[name].values == alone[name].values).all()
            else:
                np.testing.assert_allclose(mine[name], alone[name], rtol=1e-5, atol=1e-6)
        theirs, ours = provenance(alone), provenance(mine)
        assert {k: ours[k] for k in ("seed", "axes", "checkpoints", "extent")} == {
            k: theirs[k] for k in ("seed", "axes", "checkpoints", "extent")
        }
        for fact in ("title", "status", "evaluations"):
            assert mine.attrs[fact] == alone.attrs[fact]
    facts = provenance(ds)
    assert facts["seed"] == [1, 5]
    assert [axis["seed"] for axis in facts["axes"]] == [1, 5]
    assert len({axis["sha256"] for axis in facts["axes"]}) == 2


def test_results_on_the_way_are_valid_and_a_cancel_keeps_them(tmp_path):
    problem = mlp_problem()
    make = lambda seed: Plane.random(problem.checkpoint(), seed=seed)  # noqa: E731
    results = over_seeds(problem, make, range(3), resolution=15)
    seen, progress = [], []
    for ds in results:
        assert ds.sizes["seed"] == 3
        finished = int((ds.seed_status.values != "running").sum() - (ds.seed_status.values == "waiting").sum())
        assert bool(np.isnan(ds.loss_mean).all()) == (finished == 0)
        assert bool(np.isnan(ds.loss_std).all()) == (finished < 2)
        progress.append(ds.attrs["progress"])
        done, rest = ds.attrs["evaluations"], ds.attrs["planned_evaluations"] - ds.attrs["evaluations"]
        assert rest > 0
        assert ds.attrs["eta_s"] == pytest.approx(ds.attrs["elapsed_s"] * rest / done)
        seen.append((ds, ds.copy(deep=True)))
        if finished == 2:
            break
    results.close()
    assert next(results, None) is None
    assert progress == sorted(progress)
    assert ds.attrs["status"] == "running"
    for ds, kept in seen:
        assert ds.identical(kept)
    save(ds, tmp_path / "part.nc")
    assert load(tmp_path / "part.nc").sizes["seed"] == 3


def test_resume_evaluates_only_what_is_missing(monkeypatch):
    from analysis.evaluate import Evaluator
    from analysis.surface import CHECKS

    problem = mlp_problem()
    make = lambda seed: Line.random(problem.checkpoint(), seed=seed)  # noqa: E731
    whole = last(over_seeds(problem, make, [0, 1, 2]))
    part = last(over_seeds(problem, make, [0, 2]))
    one = last(surface(problem, make(1)))
    calls = []
    original = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", lambda self, c: (calls.append(len(c)), original(self, c))[1])
    for earlier, missing in [(whole, []), (part, [1]), (one, [0, 2])]:
        calls.clear()
        resumed = last(over_seeds(problem, make, [0, 1, 2], resume=earlier))
        anew = sum(int(whole.seed_evaluations.sel(seed=seed)) for seed in missing)
        checks = CHECKS[1] * (3 - len(missing))  # off the grid, where a resumed picture is checked again
        assert anew <= sum(calls) <= anew + checks
        np.testing.assert_allclose(resumed.loss, whole.loss, rtol=1e-5)


def test_the_extent_is_that_of_the_first_seed():
    problem = mlp_problem()
    ends = [problem.checkpoint(mlp(seed=seed), name=str(seed)) for seed in (1, 2, 3)]
    make = lambda seed: Plane.through(problem.checkpoint(), ends[0], ends[1 + seed])  # noqa: E731
    assert make(0).default_extent() != make(1).default_extent()
    ds = last(over_seeds(problem, make, [0, 1], resolution=9))
    alone = last(surface(problem, make(0), resolution=9))
    assert ds.a.values.tolist() == alone.a.values.tolist()
    second = last(surface(problem, make(1), resolution=9, extent=make(0).default_extent(9)))
    np.testing.assert_allclose(ds.loss[1], second.loss, rtol=1e-5)


def test_infinities_are_kept_and_spread_nowhere_else():
    from test_surface import drawn

    problem, plane = drawn(lambda u, v: torch.where(u > 0.5, torch.inf, 1 + u * u))
    ds = last(over_seeds(problem, lambda seed: plane, [0, 1], resolution=9))
    beyond = ds.a.values > 0.5
    assert np.isinf(ds.loss_mean.values[:, beyond]).all()
    assert np.isfinite(ds.loss_mean.values[:, ~beyond]).all()
    assert (ds.loss_std.values[:, ~beyond] == 0).all()


def test_what_is_refused():
    problem = mlp_problem()
    make = lambda seed: Line.random(problem.checkpoint(), seed=seed)  # noqa: E731
    for seeds in ([], 3, [0.5], [-1], [True]):
        with pytest.raises(LandscapeError, match="expected whole numbers of at least 0"):
            over_seeds(problem, make, seeds)
    with pytest.raises(LandscapeError, match="tolerance is 2"):
        over_seeds(problem, make, [0], tolerance=2)
    ds = last(over_seeds(problem, make, [0, 1], resolution=9))
    with pytest.raises(LandscapeError, match=r"holds values of the seeds \[0, 1\], and wanted are \[5\]"):
        over_seeds(problem, make, [5], resume=ds)
    with pytest.raises(LandscapeError, match="differs in data"):
        over_seeds(mlp_problem(samples=20), make, [5, 1], resume=ds)
    with pytest.raises(LandscapeError, match="place is 2; the result holds 2 seeds"):
        of_seed(ds, 2)
    with pytest.raises(LandscapeError, match="no dim 'seed'"):
        of_seed(of_seed(ds, 0), 0)
    clash = mlp_problem(metrics={"loss_mean": lambda o, t: o.mean()})
    with pytest.raises(LandscapeError, match="A metric is named 'loss_mean'"):
        over_seeds(clash, make, [0])
