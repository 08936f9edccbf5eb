import math

import pytest
import torch
from models import ConvBN, Tied, linear_regression, mlp
from torch import nn

from analysis import LandscapeError, ProblemError, Weights
from analysis.weights import Structure


def test_arithmetic_is_that_of_one_vector():
    first, second = Weights.of(mlp(seed=0)), Weights.of(mlp(seed=1))
    a, b = first.flatten().double(), second.flatten().double()
    assert torch.equal((first + second).flatten(), (first.flatten() + second.flatten()))
    assert torch.allclose((first - 2.5 * second).flatten().double(), a - 2.5 * b, atol=1e-6)
    assert first.dot(second) == pytest.approx(float(a @ b), rel=1e-12)
    assert first.norm() == pytest.approx(float(a.norm()), rel=1e-12)
    assert torch.equal(first.unflatten(first.flatten())["2.weight"], first["2.weight"])


def test_inner_products_do_not_lose_digits():
    model = nn.Linear(1000, 1000, bias=False)
    nn.init.constant_(model.weight, 0.1)
    w = Weights.of(model)
    value = float(model.weight.detach().double()[0, 0])
    assert w.dot(w) == pytest.approx(value**2 * 1e6, rel=1e-10)


def test_of_copies_and_leaves_the_model():
    model = mlp()
    before = model[0].weight.detach().clone()
    weights = Weights.of(model)
    weights["0.weight"].add_(1)
    assert torch.equal(model[0].weight.detach(), before)


def test_tied_weights_are_one_entry_with_an_alias():
    weights = Weights.of(Tied())
    assert "embedding.weight" in weights
    assert list(weights).count("head.weight") == 0
    assert weights.structure.aliases == {"head.weight": "embedding.weight"}
    assert torch.equal(weights["head.weight"], weights["embedding.weight"])
    assert weights.numel == sum(p.numel() for p in Tied().parameters())


def test_parameters_that_share_memory_are_one_entry():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3, bias=False)})
    model["b"].weight = nn.Parameter(model["a"].weight.data)
    assert list(Weights.of(model)) == ["a.weight"]


@pytest.mark.parametrize(
    ("module", "name", "filters", "size"),
    [
        (nn.Linear(5, 7), "weight", 7, 5),
        (nn.Conv2d(4, 6, 3), "weight", 6, 36),
        (nn.Conv2d(4, 6, 3, groups=2), "weight", 6, 18),
        (nn.ConvTranspose2d(4, 6, 3), "weight", 6, 36),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), "weight", 6, 18),
        (nn.Embedding(9, 5), "weight", 9, 5),
        (nn.MultiheadAttention(8, 2), "in_proj_weight", 24, 8),
    ],
)
def test_a_filter_is_one_output_unit(module, name, filters, size):
    entry = Structure.of(module).entries[name]
    tensor = dict(module.named_parameters())[name].detach()
    matrix = entry.to_filters(tensor)
    assert matrix.shape == (filters, size)
    assert torch.equal(entry.from_filters(matrix), tensor)


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_what_makes_an_output(groups):
    """Scaling one filter scales one output channel and no other."""
    conv = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    entry = Structure.of(conv).entries["weight"]
    x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    before = conv(x).detach()
    for unit in range(6):
        scaled = entry.to_filters(conv.weight.detach()).clone()
        scaled[unit] *= 3
        after = torch.func.functional_call(conv, {"weight": entry.from_filters(scaled)}, x).detach()
        changed = (after - before).abs().amax((0, 2, 3)) > 1e-6
        assert changed.nonzero().flatten().tolist() == [unit]


def test_kinds_and_frozen_flags():
    model = ConvBN()
    model.head.weight.requires_grad_(False)
    entries = Structure.of(model).entries
    assert entries["conv.weight"].kind == "weight"
    assert entries["conv.bias"].kind == "bias"
    assert entries["bn.weight"].kind == entries["bn.bias"].kind == "norm"
    assert entries["head.weight"].frozen
    assert not entries["conv.weight"].frozen


def test_names_and_shapes_must_agree():
    with pytest.raises(LandscapeError, match=r"missing \['4\.weight', '4\.bias'\]"):
        Weights.of(mlp()) + Weights.of(mlp((6, 16, 16)))
    with pytest.raises(LandscapeError, match=r"'2\.weight' is \[8, 16\]"):
        Weights.of(mlp()) + Weights.of(mlp((6, 16, 8, 3)))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.LazyLinear(3), "not initialised"),
        (nn.Linear(2, 2, device="meta"), "meta device"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
        (nn.Flatten(), "no floating-point parameters"),
    ],
)
def test_what_cannot_move_is_refused_by_name(model, words):
    with pytest.raises(ProblemError, match=words):
        Weights.of(model)


def test_digest_depends_on_values_names_and_dtype():
    model, _, _ = linear_regression()
    weights = Weights.of(model)
    assert weights.digest() == Weights.of(model).digest()
    assert (weights + weights).digest() != weights.digest()
    assert weights.to(torch.float64).digest() != weights.digest()
    assert not math.isnan(weights.norm())
