"""Straight-through matching against every permutation of a small network, and on residual networks."""

from itertools import permutations

import numpy as np
import pytest
import torch
from models import classification, mlp
from test_matching import digits_pair

from analysis import LandscapeError, Problem, load, provenance, save
from analysis.connectivity import Permutation, StraightThrough, find_symmetries, match_weights


def trained(seed, widths=(6, 5, 3)):
    model, (x, y) = mlp(widths, seed=seed), classification()
    optimiser = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(80):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


def middle(problem, a, b):
    return problem.measure(type(a)(0.5 * (a.weights + b.weights), a.buffers, "middle"))["loss"][0]


def test_among_all_permutations_it_finds_one_of_the_best():
    gains = []
    for seed in range(2):
        problem = Problem(mlp((6, 5, 3)), "cross_entropy", classification())
        a, b = (problem.checkpoint(trained(s), name=str(s)) for s in (2 * seed, 2 * seed + 1))
        found = find_symmetries(problem)
        every = []
        for order in permutations(range(5)):
            moved = {("0.weight", 0), ("0.bias", 0), ("2.weight", 1)}
            element = Permutation({p: np.array(order) for p in moved})
            every.append(middle(problem, a, element.apply(b)))
        search = StraightThrough(found, problem, a, b, steps=80, learning_rate=0.03)
        *_, ds = search.steps()
        best = search.matching.midpoint
        assert best == pytest.approx(middle(problem, a, search.matching.checkpoint), rel=1e-6)
        assert best == pytest.approx(float(ds.best[-1]))
        assert np.mean(np.array(every) < best - 1e-6) < 0.05
        gains.append(match_weights(found, a, b, problem=problem).midpoint - best)
    assert min(gains) >= 0
    assert max(gains) > 0  # weight matching alone stops at a worse one somewhere


def test_it_lowers_the_middle_of_residual_networks(tmp_path):
    problem, a, b = digits_pair("resnet16", split="test")
    digests = a.digest, b.digest
    found = find_symmetries(problem)
    search = StraightThrough(found, problem, a, b, steps=15)
    seen = list(search.steps())
    assert float(seen[-1].best[-1]) < 0.9 * float(seen[0].midpoint[0])
    assert middle(problem, a, search.matching.checkpoint) == pytest.approx(float(seen[-1].best[-1]), rel=1e-4)
    assert [ds.attrs["status"] for ds in seen] == ["running"] * (len(seen) - 1) + ["done"]
    assert seen[-1].sizes["step"] == 16
    assert provenance(seen[-1])["learning_rate"] == 0.01
    assert (a.digest, b.digest) == digests
    frozen = problem.with_batchnorm("frozen")
    assert frozen.measure(search.matching.checkpoint)["loss"][0] == pytest.approx(
        frozen.measure(b)["loss"][0], rel=1e-4
    )
    assert load(save(seen[-1], tmp_path / "s.nc")).equals(seen[-1])


def test_cancelled_it_keeps_the_best_and_the_seed_decides():
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    stopped = StraightThrough(found, problem, a, b, steps=10**6)
    steps = stopped.steps()
    next(steps)
    next(steps)
    steps.close()
    assert np.isfinite(stopped.matching.midpoint)
    runs = [StraightThrough(found, problem, a, b, steps=4, seed=3) for _ in range(2)]
    for run in runs:
        list(run.steps())
    assert runs[0].matching.permutation == runs[1].matching.permutation


def test_errors():
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    for options, words in (
        ({"steps": 0}, "steps"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"learning_rate": -1}, "rate"),
    ):
        with pytest.raises(LandscapeError, match=words):
            StraightThrough(found, problem, a, b, **options)
    with pytest.raises(LandscapeError, match="same weights"):
        StraightThrough(found, problem, a, a)
