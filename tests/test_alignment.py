"""Singular vectors: closed forms, what a permutation can and cannot change, and what matching brings together."""

import numpy as np
import pytest
import torch
from test_matching import digits_pair
from torch import nn

from analysis import Checkpoint, LandscapeError, load, save
from analysis.connectivity import barrier, find_symmetries, match_weights, singular_alignment


def of(matrix):
    model = nn.Linear(matrix.shape[1], matrix.shape[0]).double()
    with torch.no_grad():
        model.weight.copy_(matrix)
    return Checkpoint.of(model)


def test_a_rotated_layer():
    """Of diag(3, 2, 1) and the same with its two largest left vectors turned by an angle."""
    angle = 0.4
    c, s = np.cos(angle), np.sin(angle)
    turn = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]).float()
    a, b = of(torch.diag(torch.tensor([3.0, 2.0, 1.0]))), of(turn @ torch.diag(torch.tensor([3.0, 2.0, 1.0])))
    ds = singular_alignment(a, b, thresholds=[0, 0.5, 1])
    np.testing.assert_allclose(ds.alignment[0], [(2 * c + 1) / 3, c, c], atol=1e-6)
    np.testing.assert_array_equal(ds.vectors[0], [3, 2, 1])
    assert float(ds.cosine[0]) == pytest.approx((13 * c + 1) / 14)
    equal = singular_alignment(a, a)
    np.testing.assert_allclose(equal.alignment, 1)
    np.testing.assert_allclose(equal.relative_distance, 0)


def polar(matrix, level):
    """The matrix with each singular value from a part of the largest on set to 1, and the rest to 0."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    kept = values >= (level * values[-1].sqrt()) ** 2
    return matrix @ (vectors[:, kept] / values[kept].sqrt()) @ vectors[:, kept].T, int(kept.sum())


def test_the_agreement_is_an_inner_product_of_layers_with_equal_singular_values():
    """Sum of (u . u')(v . v') = <U V^T, U' V'^T>; with the singular values as factors it is <A, B>, as in `cosine`."""
    _, a, b = digits_pair("mlp128")
    levels = (0.05, 0.3, 0.8)
    ds = singular_alignment(a, b, thresholds=levels)
    for layer in ("fc1.weight", "fc2.weight", "fc3.weight"):
        one, other = a.weights[layer].double(), b.weights[layer].double()
        for level in levels:
            (p, n), (q, m) = polar(one, level), polar(other, level)
            here = ds.sel(layer=layer, threshold=level)
            assert int(here.vectors) == min(n, m)
            assert float(here.alignment) == pytest.approx(float((p * q).sum()) / min(n, m), rel=1e-5)
        (u, s, v), (w, r, x) = (torch.linalg.svd(matrix, full_matrices=False) for matrix in (one, other))
        total = torch.einsum("i,j,ij,ij->", s, r, u.T @ w, v @ x.T)
        assert float(ds.cosine.sel(layer=layer)) * float(s.norm() * r.norm()) == pytest.approx(float(total), rel=1e-5)


def test_a_permutation_keeps_singular_values():
    problem, _, b = digits_pair("mlp128")
    moved = find_symmetries(problem).random(0).apply(b)
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        before, after = (torch.linalg.svdvals(c.weights[name]) for c in (b, moved))
        torch.testing.assert_close(after, before, rtol=2e-5, atol=2e-6)


def test_matching_turns_the_large_singular_vectors_and_hardly_shortens_the_way(tmp_path):
    problem, a, b = digits_pair("mlp128")
    matched = match_weights(find_symmetries(problem), a, b, problem=problem).checkpoint
    reduction = 1 - (a.weights - matched.weights).norm() / (a.weights - b.weights).norm()
    assert 0.1 < reduction < 0.25
    heights = []
    for end in (b, matched):
        *_, path = barrier(problem, a, end)
        heights.append(float(path.loss_barrier))
    assert heights[1] < 0.15 * heights[0]
    naive, after = (singular_alignment(a, end) for end in (b, matched))
    assert (after.alignment.sel(threshold=0.3) > naive.alignment.sel(threshold=0.3) + 0.1).all()
    assert float(after.alignment.sel(threshold=0.8)[1]) > float(after.alignment.sel(threshold=0)[1])
    assert load(save(after, tmp_path / "a.nc")).equals(after)


def test_errors():
    _, a, b = digits_pair("mlp128")
    for thresholds in ([], [1.5], [[0.1]]):
        with pytest.raises(LandscapeError, match=r"\[0, 1\]"):
            singular_alignment(a, b, thresholds=thresholds)
    with pytest.raises(LandscapeError, match="is zero"):
        singular_alignment(a, Checkpoint(a.weights.zeros(), {}, "zero"))
    norm = Checkpoint.of(nn.LayerNorm(3))
    with pytest.raises(LandscapeError, match="two dims"):
        singular_alignment(norm, norm)
