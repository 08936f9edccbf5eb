"""Matching: planted symmetries are found, the ascent never falls, and networks become connected."""

import json
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from analysis import Checkpoint, LandscapeError, Problem
from analysis.connectivity import barrier, find_symmetries, match_activations, match_weights
from analysis.errors import SymmetryError
from sample_checkpoints import load_digits, manifest, path
from sample_checkpoints.models import build, mlp

PLANTED = {
    "residual mlp": (zoo.residual_mlp, lambda: zoo.vectors(width=10)),
    "tied lm": (lambda: zoo.language_model(), lambda: (zoo.tokens(),)),
    "resnet-20 option a": (zoo.resnet_a, lambda: (zoo.image(size=16, n=1),)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_elements_are_recovered_20_of_20(name):
    build_model, inputs = PLANTED[name]
    torch.manual_seed(0)
    model = build_model().eval()
    found = find_symmetries(model, inputs())
    start = Checkpoint.of(model)
    recovered = 0
    for seed in range(20):
        planted = found.random(seed).apply(start)
        matching = match_weights(found, start, planted, seed=seed)
        recovered += all(torch.equal(t, start.weights[k]) for k, t in matching.checkpoint.weights.items())
        assert matching.converged
    assert recovered == 20


@cache
def digits_pair(family, width_seeds=(0, 1), split="train"):
    entry = manifest()["samples"][f"{family}-s0"]
    data = load_digits()
    xy = (data.x_train, data.y_train) if split == "train" else (data.x_test, data.y_test)
    problem = Problem(build(entry["architecture"], entry["args"]), "cross_entropy", xy)
    return problem, *(problem.checkpoint(path(f"{family}-s{s}")) for s in width_seeds)


def test_one_hidden_layer_converges_in_one_sweep():
    a, b = (Checkpoint.of(mlp([12, 40, 5], generator=torch.Generator().manual_seed(s))) for s in (0, 1))
    found = find_symmetries(mlp([12, 40, 5]), (torch.randn(3, 12),))
    matching = match_weights(found, a, b, starts=["identity"])
    assert len(matching.history) == 2  # the start and one step; the second sweep finds nothing
    assert matching.sweeps == 2
    from scipy.optimize import linear_sum_assignment

    w = [
        (a.weights[n] @ b.weights[n].T if n != "fc2.weight" else a.weights[n].T @ b.weights[n])
        for n in ("fc1.weight", "fc2.weight")
    ]
    similar = sum(w).double() + torch.outer(a.weights["fc1.bias"], b.weights["fc1.bias"])
    assert np.array_equal(matching.permutation.indices["fc1.weight", 0], linear_sum_assignment(similar, True)[1])


def test_the_objective_never_falls_and_is_the_inner_product():
    problem, a, b = digits_pair("mlp128")
    matching = match_weights(find_symmetries(problem), a, b, seed=3, restarts=2)
    assert (np.diff(matching.history) > 0).all()
    product = sum(float((a.weights[n].double() * t.double()).sum()) for n, t in matching.checkpoint.weights.items())
    assert matching.objective == pytest.approx(product, rel=1e-12)
    assert matching.objective == pytest.approx(matching.history[-1], rel=1e-9)


@pytest.mark.parametrize("zero", [(True, False), (False, True), (True, True)])
def test_a_network_of_zeros_is_matched_as_it_is(zero):
    """No product has a size then, by which others could be judged."""
    found = find_symmetries(mlp([4, 8, 3]), (torch.randn(2, 4),))
    nets = [mlp([4, 8, 3], generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    for net in (net for net, empty in zip(nets, zero, strict=True) if empty):
        nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in net.parameters())), net.parameters())
    a, b = map(Checkpoint.of, nets)
    matching = match_weights(found, a, b)
    assert matching.objective == 0.0
    assert matching.converged
    assert all(torch.equal(t, b.weights[k]) for k, t in matching.checkpoint.weights.items())


def test_a_group_that_moves_a_tensor_along_both_axes():
    """There an assignment gains something else than the objective rises by, which is measured."""

    def make(seed):
        torch.manual_seed(seed)
        parts = {"a": nn.Linear(5, 12), "w": nn.Linear(12, 12), "b": nn.Linear(12, 3)}

        def forward(m, x):
            h = torch.relu(m.a(x))
            return m.b(torch.relu(h + m.w(h)))

        return zoo.Apply(forward, **parts)

    found = find_symmetries(make(0), (torch.randn(4, 5),))
    assert [sorted(group.places) for group in found.groups if {("w.weight", 0), ("w.weight", 1)} <= set(group.places)]
    a, b = (Checkpoint.of(make(seed)) for seed in (0, 1))
    matching = match_weights(found, a, b, restarts=5)
    assert (np.diff(matching.history) > 0).all()
    assert matching.objective == pytest.approx(matching.history[-1], rel=1e-9)
    planted = match_weights(found, a, found.random(3).apply(a))
    assert all(torch.equal(t, a.weights[k]) for k, t in planted.checkpoint.weights.items())


def test_matching_keeps_the_function_and_its_arguments():
    problem, a, b = digits_pair("resnet16")
    digests = a.digest, b.digest
    matching = match_weights(find_symmetries(problem), a, b)
    frozen = problem.with_batchnorm("frozen")
    assert frozen.measure(matching.checkpoint)["loss"][0] == pytest.approx(frozen.measure(b)["loss"][0], rel=1e-4)
    assert (a.digest, b.digest) == digests
    again = build("ResidualCNN", {"width": 16})
    again.load_state_dict({**matching.checkpoint.weights, **matching.checkpoint.buffers})


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3), (4, 5)])
def test_both_matchings_lower_the_barrier_of_small_networks_and_keep_their_outputs(seeds):
    problem, a, b = digits_pair("mlp128", seeds)
    found = find_symmetries(problem)
    matchings = match_weights(found, a, b, problem=problem), match_activations(found, problem, a, b)
    assert matchings[1].left == ()
    (*_, naive), *after = (barrier(problem, a, c) for c in (b, *(m.checkpoint for m in matchings)))
    for *_, matched in after:
        assert float(matched.loss_barrier) < 0.15 * float(naive.loss_barrier)
    x = torch.cat([x for x, _ in problem.data.batches()])
    before = torch.func.functional_call(problem.model, dict(b.weights), (x,))
    for matching in matchings:
        assert matching.permutation.moved
        outputs = torch.func.functional_call(problem.model, dict(matching.checkpoint.weights), (x,))
        assert float((outputs - before).abs().max()) < 1e-4


def _middle(problem, a, b):
    return problem.measure(Checkpoint(0.5 * (a.weights + b.weights), a.buffers, "middle"))["loss"][0]


def test_activation_matching_recovers_a_planted_element():
    problem, a, _ = digits_pair("mlp128")
    found = find_symmetries(problem)
    matching = match_activations(found, problem, a, found.random(3).apply(a))
    moved = [float((t - a.weights[n]).norm()) for n, t in matching.checkpoint.weights.items()]
    assert max(moved) < 1e-6  # units that never fire may stay exchanged: they are zero or alike


def test_restarts_are_chosen_by_the_loss_half_way():
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    chosen = match_weights(found, a, b, restarts=3, problem=problem)
    alone = [match_weights(found, a, b, starts=[start], problem=problem) for start in ("identity", "sorted")]
    assert chosen.midpoint <= min(m.midpoint for m in alone) + 1e-9
    assert chosen.midpoint == pytest.approx(_middle(problem, a, chosen.checkpoint), rel=1e-5)


SCRIPT = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from test_matching import matched_language_models
print(json.dumps(matched_language_models()))
"""


def matched_language_models():
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(zoo.language_model(swiglu=True).eval())
    found = find_symmetries(models[0], (zoo.tokens(),))
    m = match_weights(found, *map(Checkpoint.of, models), seed=4, restarts=2)
    return [[list(p), i.tolist()] for p, i in sorted(m.permutation.indices.items())]


def test_the_same_seed_gives_the_same_permutation_in_any_process():
    here = os.path.dirname(__file__)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)])}
    env.pop("OMP_NUM_THREADS", None)
    other = "2" if torch.get_num_threads() == 1 else "1"
    hashes = "77" if env.get("PYTHONHASHSEED") != "77" else "1"
    run = [sys.executable, "-c", SCRIPT, other]
    out = subprocess.run(run, env={**env, "PYTHONHASHSEED": hashes}, capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == matched_language_models()


def test_bad_arguments():
    a = Checkpoint.of(mlp([4, 6, 2]))
    found = find_symmetries(mlp([4, 6, 2]), (torch.randn(3, 4),))
    with pytest.raises(LandscapeError, match="problem="):
        match_weights(found, a, a, starts=["activations"])
    with pytest.raises(LandscapeError, match="identity"):
        match_weights(found, a, a, starts=["random"])
    with pytest.raises(SymmetryError, match="another model"):
        match_weights(found, a, Checkpoint.of(mlp([4, 8, 2])))
    with pytest.raises(SymmetryError, match="lacks"):
        match_weights(found, a, Checkpoint.of(nn.Linear(4, 2)))
