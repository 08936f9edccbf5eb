"""Widened networks compute what they did, and their matching is the rectangular assignment."""

import numpy as np
import pytest
import torch
import zoo
from models import classification, mlp
from scipy.optimize import linear_sum_assignment
from test_matching import digits_pair
from test_straight_through import trained
from torch import nn

from analysis import LandscapeError, Problem
from analysis.connectivity import barrier, find_symmetries, match_activations, match_weights, widened


def of_widths(*widths):
    problem = Problem(mlp(widths), "cross_entropy", classification())
    return problem, find_symmetries(problem)


def test_one_hidden_layer_is_the_rectangular_assignment():
    (narrow, few), (wide, many) = of_widths(6, 5, 3), of_widths(6, 9, 3)
    a, b = narrow.checkpoint(trained(1)), wide.checkpoint(trained(2, (6, 9, 3)))
    padded = widened(narrow, wide, a, symmetries=(few, many))
    assert narrow.measure(a)["loss"][0] == pytest.approx(wide.measure(padded)["loss"][0], rel=1e-6)
    matching = match_weights(many, padded, b, starts=["identity"])
    one, other = a.weights, b.weights
    similar = one["0.weight"] @ other["0.weight"].T + one["2.weight"].T @ other["2.weight"]
    similar = similar.double() + torch.outer(one["0.bias"], other["0.bias"])
    rows, columns = linear_sum_assignment(similar, maximize=True)
    np.testing.assert_array_equal(matching.permutation.indices["0.weight", 0][:5], columns[np.argsort(rows)])


def test_a_hidden_copy_is_found_again():
    (narrow, few), (wide, many) = of_widths(6, 8, 8, 3), of_widths(6, 20, 12, 3)
    a = narrow.checkpoint(trained(3, (6, 8, 8, 3)))
    padded = widened(narrow, wide, a, symmetries=(few, many))
    matching = match_weights(many, padded, many.random(1).apply(padded))
    assert (matching.checkpoint.weights - padded.weights).norm() == 0


def test_residual_networks_of_two_widths():
    narrow, a, _ = digits_pair("resnet16", split="test")
    wide, b, _ = digits_pair("resnet32", split="test")
    found = find_symmetries(wide)
    padded = widened(narrow, wide, a, symmetries=(find_symmetries(narrow), found))
    assert wide.measure(padded)["loss"][0] == pytest.approx(narrow.measure(a)["loss"][0], rel=1e-4)
    assert wide.with_batchnorm("frozen").measure(padded)["loss"][0] == pytest.approx(
        narrow.with_batchnorm("frozen").measure(a)["loss"][0], rel=1e-4
    )
    *_, naive = barrier(wide, b, padded, points=3, tolerance=0.5)
    *_, after = barrier(wide, b, match_activations(found, wide, b, padded).checkpoint, points=3, tolerance=0.5)
    assert float(after.loss_barrier) < 0.7 * float(naive.loss_barrier)


def image_problem(model):
    return Problem(model, "cross_entropy", (torch.randn(12, 1, 6, 6), torch.arange(12) % 3))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


def flat(channels, order):
    torch.manual_seed(channels)
    last = nn.Linear(16 * channels, 3)
    return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), order(), nn.Flatten(), last)


@pytest.mark.parametrize("order", [nn.Identity, ChannelsLast])
def test_a_flattened_image_keeps_its_places(order):
    narrow = image_problem(flat(3, order))
    wide = Problem(flat(5, order), "cross_entropy", narrow.data)
    a = narrow.checkpoint()
    padded = widened(narrow, wide, a, symmetries=(find_symmetries(narrow), find_symmetries(wide)))
    assert wide.measure(padded)["loss"][0] == pytest.approx(narrow.measure(a)["loss"][0], rel=1e-6)


class TwoLayers(nn.Module):
    def __init__(self, residual):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.residual = residual

    def forward(self, x):
        h = torch.relu(self.first(x))
        g = torch.relu(self.second(h))
        return self.last(g + h if self.residual else g)


def normed(width):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 3))


def test_what_cannot_be_widened_is_refused():
    (narrow, few), (wide, many) = of_widths(6, 5, 3), of_widths(6, 9, 3)
    with pytest.raises(LandscapeError, match="should be wider"):
        widened(wide, narrow, wide.checkpoint(), symmetries=(many, few))
    deeper, more = of_widths(6, 5, 5, 3)
    with pytest.raises(LandscapeError, match="in more than width"):
        widened(narrow, deeper, narrow.checkpoint(), symmetries=(few, more))
    forms = [Problem(TwoLayers(residual), "cross_entropy", classification()) for residual in (False, True)]
    with pytest.raises(LandscapeError, match="forms differ"):
        widened(*forms, forms[0].checkpoint(), symmetries=tuple(find_symmetries(p) for p in forms))
    problems = [Problem(normed(width), "cross_entropy", classification()) for width in (4, 7)]
    with pytest.raises(LandscapeError, match="LayerNorm"):
        widened(*problems, problems[0].checkpoint(), symmetries=tuple(find_symmetries(p) for p in problems))
    torch.manual_seed(0)
    tokens = zoo.tokens()
    heads = Problem(zoo.language_model().eval(), lambda output, target: output.mean(), (tokens, tokens))
    found = find_symmetries(heads)
    with pytest.raises(LandscapeError, match="hold others"):
        widened(heads, heads, heads.checkpoint(), symmetries=(found, found))
