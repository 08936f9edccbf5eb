"""Star models: the minimum in closed form, and one of trained networks."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from models import classification, mlp
from test_barrier import number
from test_curves import at
from torch import nn

from analysis import CheckpointError, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import StarSearch, barrier, find_symmetries, match_weights
from sample_checkpoints import load_digits, path
from sample_checkpoints.models import build
from sample_checkpoints.train import MLP_RECIPE, Sample, train


def test_the_star_of_a_parabola_in_closed_form():
    """For L(w) = (w - 1)^2 the mean over t is least where star - 1 = -E[t (1 - t)] / E[(1 - t)^2] mean(source - 1)."""
    problem = Problem(
        number(0.0), lambda model, batch: (model.weight.sum() - 1) ** 2, (torch.zeros(4, 1),), dtype=torch.float64
    )
    sources = [problem.checkpoint(number(value), name=str(value)) for value in (0.0, 4.0)]
    search = StarSearch(problem, sources, steps=1500, learning_rate=0.02)
    *_, ds = search.steps()
    assert float(search.star.weights["weight"]) == pytest.approx(1 - (1 / 6) / (1 / 3) * 1.0, abs=0.05)
    np.testing.assert_allclose(ds.loss_barrier, 0, atol=1e-9)  # a convex loss has none
    assert ds.sizes["step"] == 1500


def test_a_star_sees_what_its_sources_do_not_see_of_each_other():
    """Three points of the valley |w| = 1: the star is nearer to each than the outer ones are to each other."""
    problem = Problem(
        nn.Linear(2, 1, bias=False), lambda model, batch: (model.weight.square().sum() - 1) ** 2, (torch.zeros(4, 2),)
    )
    sources = [at(1.0, 0.0), at(0.0, 1.0), at(2**-0.5, 2**-0.5)]
    search = StarSearch(problem, sources, steps=500, learning_rate=0.03)
    *_, ds = search.steps()
    *_, across = barrier(problem, sources[0], sources[1])
    assert float(ds.loss_barrier.max()) < 0.5 * float(across.loss_barrier)


def test_a_star_of_eight_networks_is_nearer_to_others_than_these_are_to_each_other(tmp_path):
    """The networks that it was not trained with, in units matched to it, on training and on test data."""
    data, args = load_digits(), {"widths": [64, 128, 128, 10]}
    train_part, test_part = (data.x_train, data.y_train), (data.x_test, data.y_test)
    problem = Problem(build("mlp", args), "cross_entropy", train_part, also={"test": test_part})
    networks = [problem.checkpoint(path(f"mlp128-s{seed}")) for seed in range(6)]
    for seed in range(6, 12):  # not shipped
        (network,) = train(Sample(f"mlp128-s{seed}", "mlp", args, seed, MLP_RECIPE), data).values()
        networks.append(problem.checkpoint(network, name=f"mlp128-s{seed}"))
    found = find_symmetries(problem)
    first, *others = networks[:8]
    sources = [first, *(match_weights(found, first, other).checkpoint for other in others)]
    digests = [c.digest for c in sources]
    epoch = -(-len(data.x_train) // 128)
    search = StarSearch(problem, sources, symmetries=found, steps=30 * epoch, batch_size=128, points=11)
    seen = list(search.steps())

    def mean_heights(pairs):
        matched = ((a, match_weights(found, a, b).checkpoint) for a, b in pairs)
        paths = [list(barrier(problem, *pair, points=21))[-1] for pair in matched]
        return [np.mean([float(ds[f"{loss}_barrier"]) for ds in paths]) for loss in ("loss", "loss_test")]

    held_out = networks[8:]
    to_star, across = (
        mean_heights([(search.star, other) for other in held_out]),
        mean_heights(combinations(held_out, 2)),
    )
    assert (np.array(to_star) < 0.75 * np.array(across)).all()
    assert seen[-1].loss_barrier.dims == ("source",)
    assert float(seen[-1].loss_barrier.mean()) < 0.75 * across[0]
    assert float(problem.measure(search.star)["accuracy_test"][0]) > 0.95
    assert [ds.attrs["status"] for ds in seen] == ["running"] * (len(seen) - 1) + ["done"]
    assert [c.digest for c in sources] == digests
    assert provenance(seen[-1])["star_sha256"] == search.star.digest
    assert load(save(seen[-1], tmp_path / "star.nc")).equals(seen[-1])


def test_sources_are_matched_to_the_star_anew_at_every_pass():
    """The last step begins a pass, and its rate is next to 0: the sources fit the star as it is then."""
    problem = Problem(mlp((6, 12, 3)), "cross_entropy", classification())
    found = find_symmetries(problem)
    sources = [problem.checkpoint(mlp((6, 12, 3), seed=seed), name=str(seed)) for seed in range(1, 4)]
    a_pass = problem.n // 16
    search = StarSearch(
        problem, sources, symmetries=found, steps=12 * a_pass + 1, learning_rate=0.1, batch_size=16, points=3
    )
    first = search.star
    list(search.steps())
    for source, now in zip(sources, search.sources, strict=True):
        assert not match_weights(found, search.star, now, starts=["identity"]).permutation.moved
        once = match_weights(found, first, source, starts=["identity"]).checkpoint
        assert (now.weights - once.weights).norm() > 0


def test_the_same_seed_gives_the_same_star_and_close_stops():
    problem = Problem(number(0.0), lambda model, batch: model.weight.sum() ** 2, (torch.zeros(4, 1),))
    sources = [problem.checkpoint(number(value), name=str(value)) for value in (0.0, 4.0)]
    stars = []
    for _ in range(2):
        search = StarSearch(problem, sources, steps=20, seed=3)
        list(search.steps())
        stars.append(search.star.weights.digest())
    assert stars[0] == stars[1]
    stopped = StarSearch(problem, sources, steps=10**6)
    steps = stopped.steps()
    while next(steps).sizes["step"] < 2:
        pass
    steps.close()
    assert 2 <= len(stopped.losses) < 10**6


def test_errors():
    problem = Problem(number(0.0), lambda model, batch: model.weight.sum() ** 2, (torch.zeros(4, 1),))
    a, b = (problem.checkpoint(number(value), name=str(value)) for value in (0.0, 4.0))
    bad = replace(b, weights=b.weights * float("nan"))
    for options, words in (
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"points": 4}, "odd"),
        ({"batch_size": -1}, "batch_size"),
    ):
        with pytest.raises(LandscapeError, match=words):
            StarSearch(problem, [a, b], **options)
    with pytest.raises(LandscapeError, match="two or more"):
        StarSearch(problem, [a])
    with pytest.raises(LandscapeError, match="same weights"):
        StarSearch(problem, [a, a])
    with pytest.raises(CheckpointError, match="NaN"):
        StarSearch(problem, [a, bad])
    with pytest.raises(LandscapeError, match="learning_rate smaller"):
        list(StarSearch(problem, [a, b], learning_rate=1e30).steps())
