"""Merging: common units around every cycle, statistics restored, and averages that load into the original class."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import Tied
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, CheckpointError, LandscapeError, Problem, load_checkpoint, save_checkpoint
from analysis.connectivity import (
    average,
    find_symmetries,
    match_many,
    match_weights,
    merge,
    recalibrated,
    repaired,
)
from sample_checkpoints import path
from sample_checkpoints.models import build, mlp


def some(count, widths=(12, 24, 24, 5)):
    return [Checkpoint.of(mlp(widths, generator=torch.Generator().manual_seed(s)), name=str(s)) for s in range(count)]


def equal(one, other):
    return all(torch.equal(t, other.weights[n]) for n, t in one.weights.items())


def test_every_cycle_closes_exactly():
    models = some(3)
    found = find_symmetries(mlp((12, 24, 24, 5)), (torch.randn(3, 12),))
    p = match_many(found, models)
    assert p[0] == found.identity()
    between = {(i, j): p[i].then(p[j].inverse()) for i in range(3) for j in range(3)}
    cycle = between[0, 1].then(between[1, 2]).then(between[2, 0])
    assert cycle == found.identity()
    assert equal(cycle.apply(models[0]), models[0])
    pairs = [match_weights(found, models[j], models[i]).permutation for i, j in ((0, 1), (1, 2), (2, 0))]
    assert pairs[0].then(pairs[1]).then(pairs[2]) != found.identity()  # matchings of pairs alone do not


def test_more_models_agree_better_than_each_with_the_first():
    models = some(4)
    found = find_symmetries(mlp((12, 24, 24, 5)), (torch.randn(3, 12),))

    def total(permutations):
        at = [p.apply(c).weights for p, c in zip(permutations, models, strict=True)]
        return sum(at[i].dot(at[j]) for i in range(4) for j in range(i))

    star = [found.identity(), *(match_weights(found, models[0], m).permutation for m in models[1:])]
    assert total(match_many(found, models)) > 1.01 * total(star)


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_merging_permuted_copies_gives_the_model_back(method):
    problem, a, _ = digits_pair("mlp128")
    found = find_symmetries(problem)
    copies = [a, *(found.random(seed).apply(a) for seed in (1, 2))]
    merged = merge(found, problem, copies, method=method)
    # units that never fire may stay exchanged in activations: they are zero or alike
    assert (merged.checkpoint.weights - a.weights).norm() < 1e-6 * a.weights.norm()
    assert problem.measure(merged.checkpoint)["loss"] == pytest.approx(problem.measure(a)["loss"], rel=1e-6)


def test_an_average_of_weights_by_hand():
    problem, a, b = digits_pair("mlp128")
    digests = a.digest, b.digest
    mean = average(problem, [a, b], shares=[0.25, 0.75])
    for name, tensor in mean.weights.items():
        torch.testing.assert_close(tensor, 0.25 * a.weights[name] + 0.75 * b.weights[name])
    assert (a.digest, b.digest) == digests


def of_layers(problem, checkpoint, names):
    """Mean and standard deviation of what layers put out, by a forward pass of torch alone."""
    model = build("mlp", {"widths": [64, 128, 128, 10]})
    model.load_state_dict({**checkpoint.weights, **checkpoint.buffers})
    kept = {}
    for name in names:
        getattr(model, name).register_forward_hook(lambda m, i, out, name=name: kept.update({name: out.double()}))
    with torch.no_grad():
        model(torch.cat([x for x, _ in problem.data.batches()]))
    return {name: (out.mean(0), out.std(0, unbiased=False)) for name, out in kept.items()}


def test_repair_restores_mean_and_standard_deviation():
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    mean = average(problem, [a, b], shares=[0.3, 0.7])
    better = repaired(found, problem, mean, [a, b], shares=[0.3, 0.7])
    layers = ("fc1", "fc2", "fc3")
    of_a, of_b, before, now = (of_layers(problem, c, layers) for c in (a, b, mean, better))
    for layer in layers[:2]:
        for which in (0, 1):
            wanted = 0.3 * of_a[layer][which] + 0.7 * of_b[layer][which]
            torch.testing.assert_close(now[layer][which], wanted, rtol=1e-4, atol=1e-5)
        assert (before[layer][1] < 0.9 * now[layer][1]).double().mean() > 0.5  # an average varies less
    assert torch.equal(better.weights["fc3.weight"], mean.weights["fc3.weight"])
    losses = [problem.measure(c)["loss"][0] for c in (mean, better)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("batch_size", [512, 100])
def test_running_statistics_are_averages_over_batches(batch_size):
    problem, a, b = digits_pair("resnet16")
    problem = Problem(problem.model, "cross_entropy", problem.data, batch_size=batch_size)
    again = recalibrated(problem, replace(a, buffers={k: 0 * v for k, v in a.buffers.items()}))
    model = build("ResidualCNN", {"width": 16})
    model.load_state_dict({**a.weights, **a.buffers})
    kept = []
    model.stem[0].register_forward_hook(lambda m, i, out: kept.append(out.double()))
    with torch.no_grad():
        for x, _ in problem.calibration.batches():
            model(x)
    assert {512: [512], 100: [86, 86, 86, 86, 86, 82]}[batch_size] == [len(out) for out in kept]
    shares = [len(out) / 512 for out in kept]
    for kind, of in (
        ("running_mean", lambda out: out.mean((0, 2, 3))),
        ("running_var", lambda out: out.var((0, 2, 3))),
    ):
        name = next(n for n in again.buffers if n.startswith("stem") and n.endswith(kind))
        wanted = sum(share * of(out) for share, out in zip(shares, kept, strict=True))
        torch.testing.assert_close(again.buffers[name], wanted.float(), rtol=1e-4, atol=1e-5)
    frozen, fresh = problem.with_batchnorm("frozen"), average(problem, [a, b])
    assert frozen.measure(fresh)["loss"][0] == pytest.approx(problem.measure(fresh)["loss"][0], rel=1e-5)


def test_merged_residual_networks(tmp_path):
    problem, a, b = digits_pair("resnet32", split="test")
    found = find_symmetries(problem)
    naive, merged = average(problem, [a, b]), merge(found, problem, [a, b], method="activations").checkpoint
    ends = np.mean([problem.measure(c)["loss"][0] for c in (a, b)])
    rise = [problem.measure(c)["loss"][0] - ends for c in (naive, merged)]
    assert rise[1] <= 0.15 * rise[0]  # measured: 0.09
    save_checkpoint(merged, tmp_path / "merged.pt")
    model = build("ResidualCNN", {"width": 32})
    model.load_state_dict(torch.load(tmp_path / "merged.pt"))
    x, y = (torch.cat(parts) for parts in zip(*problem.data.batches(), strict=True))
    with torch.no_grad():
        loss = float(nn.functional.cross_entropy(model.eval()(x), y))
    assert loss == pytest.approx(problem.measure(merged)["loss"][0], rel=1e-4)  # with the statistics in the file


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_a_saved_checkpoint_loads_into_the_original_class(tmp_path, suffix):
    model = Tied()
    checkpoint = replace(Checkpoint.of(model), info={"step": 3})
    file = save_checkpoint(checkpoint, tmp_path / f"c{suffix}")
    again = load_checkpoint(file, model)
    assert again.digest == checkpoint.digest
    assert dict(again.info) == ({"step": "3"} if suffix == ".safetensors" else {})
    state = torch.load(file) if suffix != ".safetensors" else __import__("safetensors.torch").torch.load_file(file)
    Tied().load_state_dict(state)  # strict: tied weights are there under both names


def test_errors(tmp_path):
    problem, a, b = digits_pair("mlp128")
    found = find_symmetries(problem)
    with pytest.raises(LandscapeError, match="two or more"):
        match_many(found, [a])
    with pytest.raises(LandscapeError, match="accepted are"):
        match_many(found, [a, b], method="ot")
    with pytest.raises(LandscapeError, match="problem="):
        match_many(found, [a, b], method="activations")
    with pytest.raises(LandscapeError, match="sum to 1"):
        merge(found, problem, [a, b], shares=[0.5, 0.6])
    with pytest.raises(LandscapeError, match="two or more"):
        average(problem, [a])
    for name, words in (("c.txt", "safetensors"), ("none/c.pt", "does not exist")):
        with pytest.raises(CheckpointError, match=words):
            save_checkpoint(a, tmp_path / name)
    assert path("mlp128-s0").is_file()
