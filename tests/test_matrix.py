"""Barriers between all pairs, and spawned pairs whose barrier falls with the step at which they part."""

import numpy as np
import pytest
import torch
from test_barrier import number
from test_matching import digits_pair
from torch import nn

from analysis import CheckpointError, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import barrier, barrier_matrix, find_symmetries, match_many
from sample_checkpoints import load_data, manifest, path
from sample_checkpoints.models import build


def test_a_chain_of_wells():
    problem = Problem(
        number(0.0),
        lambda model, batch: torch.sin(torch.pi * model.weight.sum()) ** 2,
        (torch.zeros(3, 1),),
        dtype=torch.float64,
    )
    checkpoints = [problem.checkpoint(number(float(v)), name=str(v)) for v in (0, 1, 0.5, 0)]
    *_, ds = barrier_matrix(problem, checkpoints)
    x = np.linspace(0, 0.5, 20001)
    height = (np.sin(np.pi * x) ** 2 - 2 * x).max()
    wanted = np.array([[0, 1, height], [1, 0, height], [height, height, 0]])
    np.testing.assert_allclose(ds.loss_barrier[:3, :3], wanted, atol=1e-2 * height)
    assert float(ds.loss_barrier[0, 3]) == 0  # the same weights
    np.testing.assert_array_equal(ds.loss_barrier, ds.loss_barrier.values.T)
    assert float(ds.loss_barrier_at[0, 2] + ds.loss_barrier_at[2, 0]) == 1
    assert float(ds.distance[0, 1]) == 1
    assert list(ds.row_name.values) == ["0", "1", "0.5", "0"]


def test_it_fills_up_and_is_saved(tmp_path):
    problem, *three = digits_pair("mlp128", (0, 1, 2))
    seen = list(barrier_matrix(problem, three, points=5, tolerance=0.1))
    known = [int(np.isfinite(ds.loss_barrier).sum()) for ds in seen]
    assert known == sorted(known)
    assert (known[0], known[-1]) == (3, 9)
    assert [ds.attrs["status"] for ds in seen] == ["running"] * (len(seen) - 1) + ["done"]
    *_, alone = barrier(problem, three[0], three[2], points=5, tolerance=0.1)
    assert float(seen[-1].loss_barrier[0, 2]) == pytest.approx(float(alone.loss_barrier), rel=1e-5)
    assert float(seen[-1].accuracy_barrier[2, 0]) == pytest.approx(float(alone.accuracy_barrier), rel=1e-5)
    assert float(seen[-1].marker_loss[1]) == pytest.approx(problem.measure(three[1])["loss"][0])
    assert [c["sha256"] for c in provenance(seen[-1])["checkpoints"]] == [c.digest for c in three]
    assert load(save(seen[-1], tmp_path / "m.nc")).equals(seen[-1])
    found = find_symmetries(problem)
    permutations = match_many(found, three, method="activations", problem=problem)
    aligned = [p.apply(c) for p, c in zip(permutations, three, strict=True)]
    *_, after = barrier_matrix(problem, aligned, points=5, tolerance=0.1)
    off = ~np.eye(3, dtype=bool)
    assert after.loss_barrier.values[off].max() < 0.2 * seen[-1].loss_barrier.values[off].min()


def test_the_later_two_runs_part_the_lower_their_barrier():
    heights = []
    for k in (0, 30, 100, 300, 1000):
        entry = manifest()["samples"][f"spawn-noise20-k{k}-s1"]
        data = load_data(entry["data"])
        problem = Problem(build(entry["architecture"], entry["args"]), "cross_entropy", (data.x_train, data.y_train))
        pair = [problem.checkpoint(path(f"spawn-noise20-k{k}-s{s}")) for s in (1, 2)]
        *_, ds = barrier(problem, *pair)
        heights.append(float(ds.loss_barrier))
    assert (np.diff(heights) < 0).all()
    assert heights[-1] < 0.02 < 0.3 < heights[0]


class Quadrant(nn.Sequential):
    """Whether a point of the plane lies in one quadrant, in two layers of two units: f >= 0."""

    def __init__(self, kernels, biases):
        super().__init__(nn.Linear(2, 2), nn.PReLU(init=0.01), nn.Linear(2, 2), nn.PReLU(init=0.01), nn.Linear(2, 1))
        with torch.no_grad():
            for layer, kernel, bias in zip(list(self)[::2], kernels, biases, strict=True):
                layer.weight.copy_(torch.tensor(kernel))
                layer.bias.copy_(torch.tensor(bias))


def test_two_perfect_networks_that_no_permutation_connects():
    """The counterexample of Ainsworth, Hayase and Srinivasa 2023 (arXiv:2209.04836): a real barrier is reported."""
    out = [[-1.0, -1.0]]
    a = Quadrant([[[1.0, 0], [0, -1.0]], [[-1.0, 0], [0, 1.0]], out], [[1.0, 0], [1.0, 0], [0.0]])
    b = Quadrant([[[-1.0, 0], [0, 1.0]], [[1.0, 0], [0, -1.0]], out], [[0, 1.0], [0, 1.0], [0.0]])
    ticks = (torch.arange(64) + 0.5) / 32 - 1
    x = torch.cartesian_prod(ticks, ticks)
    y = (x >= 0).all(1)

    def wrong(output, target):
        return ((output[:, 0] >= 0) != target.bool()).double()

    problem = Problem(a, wrong, (x, y.float()), reduction="none")
    ends = problem.checkpoint(a, name="a"), problem.checkpoint(b, name="b")
    found = find_symmetries(problem)
    assert found.log10_size == pytest.approx(np.log10(4))
    elements = {}
    for seed in range(20):
        element = found.random(seed)
        elements[str(sorted((k, v.tolist()) for k, v in element.indices.items()))] = element
    assert len(elements) == 4
    heights = []
    for element in elements.values():
        *_, ds = barrier(problem, ends[0], element.apply(ends[1]), points=51)
        assert max(ds.marker_loss.values) < 0.02
        heights.append(float(ds.loss_barrier))
    assert min(heights) > 0.2
    assert max(heights) < 0.3


def test_errors():
    problem, a, b = digits_pair("mlp128")
    with pytest.raises(LandscapeError, match="two or more"):
        barrier_matrix(problem, [a])
    with pytest.raises(LandscapeError, match="odd"):
        barrier_matrix(problem, [a, b], points=4)
    damaged = b.weights.map(lambda name, t: t * float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        barrier_matrix(problem, [a, b, type(b)(damaged, b.buffers, "damaged")])
