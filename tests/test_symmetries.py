"""Permutation symmetries: found in networks of many kinds, and certified."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from analysis import Checkpoint, Problem
from analysis.connectivity import find_symmetries
from analysis.connectivity.rules.registry import RULES
from analysis.errors import SymmetryError


@pytest.mark.parametrize("name", zoo.ZOO)
def test_symmetries_of_the_zoo_keep_the_function(name):
    model, inputs, share = zoo.make(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = find_symmetries(model, inputs)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if share is not None:
        assert found.share >= share, found.table()
        assert found.certificate.change <= 1e-10
        assert found.certificate.control > 1e-6
    # the certificate's claim, checked here anew: the module's own forward with a permuted state dict
    model = model.double()
    inputs = [t.double() if t.is_floating_point() else t for t in inputs]
    before = _leaves(model(*inputs))
    for seed in range(7, 11):
        model.load_state_dict({**model.state_dict(), **found.random(seed).tensors(model.state_dict())})
        for first, second in zip(before, _leaves(model(*inputs)), strict=True):
            assert (second - first).abs().max() <= 1e-10 * first.abs().max()


def _leaves(output):
    return [output] if isinstance(output, torch.Tensor) else list(output)


def log_factorial(n):
    return math.lgamma(n + 1) / math.log(10)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mlp", 2 * log_factorial(16)),
        ("residual mlp", log_factorial(64) + 2 * log_factorial(128)),
        # the stream, and each block with 4 heads of 4 + 4 entries and 32 hidden units
        ("vit", log_factorial(16) + 2 * (log_factorial(4) + 8 * log_factorial(4) + log_factorial(32))),
        # norms of queries and keys tie the entries of all heads: a direct product
        ("vit, query norms", log_factorial(16) + 2 * (log_factorial(4) * 2 + 4 * log_factorial(4) + log_factorial(32))),
        ("group norm", log_factorial(4) * 5 + log_factorial(12)),
        ("group norm, grouped", 3 * log_factorial(2) + 4 * log_factorial(4) + log_factorial(6)),
        ("softmax in groups", log_factorial(4) + 4 * log_factorial(3)),
        ("experts", log_factorial(4) + log_factorial(5) + log_factorial(7)),
        ("lstm", log_factorial(8) + log_factorial(6)),
        ("sorting", log_factorial(8)),
        ("picked by slice", log_factorial(8)),
        ("picked by step", log_factorial(7) + log_factorial(2)),
        ("routed", 4 * log_factorial(8)),
        ("joined, rolled", log_factorial(6)),
        ("rows and columns", 2 * log_factorial(3)),
        ("linear", 0),
    ],
)
def test_the_size_of_the_group(name, size):
    model, inputs, _ = zoo.make(name)
    assert find_symmetries(model, inputs).log10_size == pytest.approx(size)


def test_what_is_fixed_is_named_with_the_operation():
    model, inputs, _ = zoo.make("sorting")
    found = find_symmetries(model, inputs)
    assert found.unknown == {"sort": 1}
    count, reason = found.pinned["a.weight", 0]
    assert count == 9
    assert reason.startswith("sort")
    assert "no rule for sort" in found.table()
    assert found.pinned["c.weight", 0] == (3, "the output")


def test_a_unit_that_is_picked_stays_whatever_the_inputs_say():
    """No sample shows that the unit counts: the graph does."""
    model, inputs, _ = zoo.make("gated far away")
    found = find_symmetries(model, inputs)
    assert [group.size for group in found.groups] == [8]
    assert 0 not in found.groups[0].places["a.weight", 0]
    count, reason = found.pinned["a.weight", 0]
    assert count == 1
    assert reason.startswith("slice")
    moved = found.random(1).tensors(model.state_dict())
    far = torch.full((3, 6), 9.0)
    torch.testing.assert_close(torch.func.functional_call(model, moved, far), model(far))


@pytest.mark.parametrize(
    ("name", "operation", "kept"),
    [
        ("chosen by mask", "index", "c.weight"),
        ("chosen by nonzero", "nonzero", "c.weight"),
        ("size of nonzero", "nonzero", "c.weight"),
        ("unique", "_unique2", "c.weight"),
        ("lstm with projection", "lstm", "part.weight_hh_l0"),
        ("transposed, grouped", "conv", "part.weight"),
        ("einsum, diagonal", "einsum", "part.weight"),
    ],
)
def test_what_is_not_understood_is_named_and_the_rest_moves(name, operation, kept):
    model, inputs, _ = zoo.make(name)
    found = find_symmetries(model, inputs)
    assert any(operation in unknown for unknown in found.unknown), found.unknown
    assert not found.failure
    assert 9 in [group.size for group in found.groups]
    assert not any(kept == place[0] for group in found.groups for place in group.all_places())


@pytest.mark.parametrize("name", ["einsum, implicit", "einsum, dots"])
def test_every_spelling_of_einsum_is_understood(name):
    model, inputs, _ = zoo.make(name)
    found = find_symmetries(model, inputs)
    assert not found.unknown
    assert [group.size for group in found.groups] == [9, 4, 5]


def test_dropout_that_is_always_on_stays_and_is_named():
    parts = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2)}
    model = zoo.Apply(lambda m, x: m.b(nn.functional.dropout(m.a(x), 0.5, True)), **parts)
    found = find_symmetries(model, (torch.randn(5, 4),))
    assert not found.groups
    assert "dropout" in " ".join(found.unknown)


class Counting(nn.Module):
    """A forward that depends on how often it ran."""

    def __init__(self, buffer):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
        if buffer:
            self.register_buffer("calls", torch.zeros(()))
        else:
            self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.b(torch.relu(self.a(x))) * self.calls


@pytest.mark.parametrize("buffer", [True, False])
def test_a_module_that_changes_by_itself_is_an_error_that_says_so(buffer):
    with pytest.raises(SymmetryError, match="twice") as raised:
        find_symmetries(Counting(buffer), (torch.randn(5, 4),))
    assert "report" not in str(raised.value)


def test_what_would_move_alone_stays_and_says_so():
    """Left out of an element, nothing of the element is left that a control could see."""
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2), "c": nn.Linear(6, 1, bias=False)}
    model = zoo.Apply(lambda m, x: m.b(torch.tanh(m.a(x))) * m.c.weight.sum(), **parts)
    found = find_symmetries(model, (torch.randn(5, 4),))
    assert [group.size for group in found.groups] == [8]
    assert found.pinned["c.weight", 1] == (6, "being all that would move, which has no control")
    assert "fixed by being all that would move, which has no control: c.weight[1] (6)" in found.table()


@pytest.mark.parametrize("name", ["data dependent", "packed", "conditional"])
def test_a_module_that_cannot_be_traced_is_frozen_and_says_so(name):
    model, inputs, _ = zoo.make(name)
    found = find_symmetries(model, inputs)
    assert found.groups == ()
    assert found.failure in found.table()
    assert found.failure


def test_parameters_that_the_inputs_do_not_reach_stay():
    model, inputs, _ = zoo.make("char transformer")  # 5 of 8 positions are used
    found = find_symmetries(model, inputs)
    assert found.pinned["position.weight", 0][0] == 8


def test_a_wrong_rule_is_an_error_that_names_the_group(monkeypatch):
    monkeypatch.setitem(RULES, "cumsum", lambda s, a, out: a["self"])
    model, inputs, _ = zoo.make("cumulative")
    with pytest.raises(SymmetryError, match=r"a\.weight\[0\]"):
        find_symmetries(model, inputs)


@dataclass
class Pair:
    good: torch.Tensor
    bad: torch.Tensor


torch.export.register_dataclass(Pair)

OUTPUTS = {
    "dataclass": lambda good, bad: (good, Pair(good, bad)),
    "large": lambda good, bad: (1e12 * good, bad),
    "complex": lambda good, bad: (good, torch.complex(bad, bad)),
    "complex by name": lambda good, bad: (good, bad.to(torch.complex64)),
    "nested": lambda good, bad: {"good": good, "more": [good, (bad, None, "text")]},
}


def with_outputs(give):
    """Of two outputs the second depends on the order of the units."""

    def run(m, x):
        h = torch.relu(m.a(x))
        return give(h.sum(1, keepdim=True), m.b(torch.cumsum(h, 1)))

    return zoo.Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3))


@pytest.mark.parametrize("name", OUTPUTS)
def test_each_output_counts_by_its_own_size(name, monkeypatch):
    torch.manual_seed(0)
    model, x = with_outputs(OUTPUTS[name]), torch.randn(4, 6)
    assert find_symmetries(model, (x,)).groups == ()
    monkeypatch.setitem(RULES, "cumsum", lambda s, a, out: a["self"])
    with pytest.raises(SymmetryError, match=r"a\.weight\[0\]"):
        find_symmetries(model, (x,))


def beside(value, within):
    """The second of two outputs holds a value beside what depends on the order of the units, or not."""

    def run(m, x):
        h = torch.relu(m.a(x))
        y = m.b(torch.cumsum(h, 1) if within else h)
        return y, torch.cat([y, torch.full_like(y[:, :1], value)], 1)

    return zoo.Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3))


def test_an_output_with_nan_is_refused():
    with pytest.raises(SymmetryError, match=r"Output 2 of 2, \[4, 4\], holds NaN"):
        find_symmetries(beside(math.nan, False), (torch.randn(4, 6),))


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_masked_outputs_are_compared_where_they_are_numbers(value, monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    assert find_symmetries(beside(value, False), (x,)).certificate.change <= 1e-10
    monkeypatch.setitem(RULES, "cumsum", lambda s, a, out: a["self"])
    with pytest.raises(SymmetryError, match=r"a\.weight\[0\]"):
        find_symmetries(beside(value, True), (x,))


def test_an_output_that_is_all_rounding_is_none():
    torch.manual_seed(0)
    parts = {"a": nn.Linear(6, 9), "b": nn.Linear(9, 3)}

    def run(m, x):
        h = torch.tanh(m.a(x))
        return m.b(h), h.softmax(1).sum(1) - 1

    found = find_symmetries(zoo.Apply(run, **parts), (torch.randn(4, 6),))
    assert [group.size for group in found.groups] == [9]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_forward_in_half_precision_is_certified_in_double(dtype):
    torch.manual_seed(0)
    parts = {"a": nn.Linear(6, 9), "b": nn.Linear(9, 3, dtype=dtype)}
    found = find_symmetries(zoo.Apply(lambda m, x: m.b(torch.relu(m.a(x)).to(dtype)), **parts), (torch.randn(4, 6),))
    assert [group.size for group in found.groups] == [9]
    assert found.certificate.change < 1e-14


@pytest.mark.parametrize("seed", range(8))
def test_a_wrong_group_of_two_is_found_whatever_is_drawn(seed, monkeypatch):
    """Three random elements of it are all none for one seed in eight."""
    monkeypatch.setitem(RULES, "cumsum", lambda s, a, out: a["self"])
    torch.manual_seed(0)
    model = zoo.Apply(lambda m, x: m.b(torch.cumsum(m.a(x), 1)), a=nn.Linear(4, 2), b=nn.Linear(2, 3))
    with pytest.raises(SymmetryError, match=r"a\.weight\[0\]"):
        find_symmetries(model, (torch.randn(5, 4),), seed=seed)


def test_a_permutation_outside_of_the_group_changes_the_outputs():
    model, inputs, _ = zoo.make("vit")
    found = find_symmetries(model, inputs)
    with torch.no_grad():  # scales of 1 and biases of 0 would hide what is left out
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    element, state = found.random(1), model.state_dict()
    for place in [p for p in element.moved if p[0].endswith("weight")]:
        moved = element.without(place).tensors(state)
        outputs = torch.func.functional_call(model, moved, inputs)
        assert (outputs - model(*inputs)).abs().max() > 1e-5, place


def test_a_small_effect_counts():
    """Below the rounding of float32, in which large effects are measured, and far above that of float64."""
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2)}
    model = zoo.Apply(lambda m, x: 1 + 1e-7 * m.b(torch.tanh(m.a(x))), **parts)
    found = find_symmetries(model, (torch.randn(5, 4),))
    assert [group.size for group in found.groups] == [8]
    assert 1e-8 < found.certificate.control < 1e-6


def test_rounding_is_no_effect():
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 8), "b": nn.Linear(8, 2), "c": nn.Linear(4, 2)}

    def forward(m, x):
        y = m.b(torch.tanh(m.a(x)))
        return m.c(x) + ((y + 3) - 3 - y)

    found = find_symmetries(zoo.Apply(forward, **parts), (torch.randn(5, 4),))
    assert not found.groups
    assert found.pinned["a.weight", 0] == (8, "no effect on these inputs")


def test_permuted_doubles_are_those_of_index_select():
    model, inputs, _ = zoo.make("residual mlp")
    element = find_symmetries(model, inputs).random()
    state = {name: t.double() for name, t in model.state_dict().items()}
    moved = element.tensors(state)
    for name, tensor in state.items():
        for axis in range(tensor.ndim):
            if (name, axis) in element.indices:
                tensor = tensor.index_select(axis, torch.from_numpy(element.indices[name, axis]))
        assert torch.equal(moved[name], tensor)
        assert moved[name] is not state[name]


def test_constant_outputs_certify_nothing():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(SymmetryError, match="holds NaN"):
        find_symmetries(model, (torch.full((2, 4), float("nan")),))


def test_permutations_form_a_group():
    model, inputs, _ = zoo.make("vit")
    found = find_symmetries(model, inputs)
    p, q = found.random(1), found.random(2)
    state = model.state_dict()
    one_by_one = q.tensors(p.tensors(state))
    assert all(torch.equal(t, one_by_one[k]) for k, t in p.then(q).tensors(state).items())
    assert p.then(p.inverse()) == found.identity() != p
    assert found.random(1) == p


def test_a_permuted_checkpoint_loads_into_the_class():
    model, inputs, _ = zoo.make("resnet option b")
    problem = Problem(model, "cross_entropy", (inputs[0], torch.tensor([0, 1, 2])), batchnorm="frozen")
    found = find_symmetries(problem)
    start = problem.checkpoint()
    moved = found.random().apply(start)
    assert moved.digest != start.digest
    assert start.digest == Checkpoint.of(model).digest
    again, _, _ = zoo.make("resnet option b", seed=5)
    again.load_state_dict({**moved.weights, **moved.buffers})
    torch.testing.assert_close(again(*inputs), model(*inputs))
    assert problem.measure(moved)["loss"][0] == pytest.approx(problem.measure(start)["loss"][0], rel=1e-5)


def test_a_permutation_of_another_model_is_refused():
    model, inputs, _ = zoo.make("mlp")
    element = find_symmetries(model, inputs).random()
    with pytest.raises(SymmetryError, match="another model"):
        element.apply(Checkpoint.of(zoo.mlp([6, 8, 8, 3])))
    with pytest.raises(SymmetryError, match="lacks"):
        element.apply(Checkpoint.of(nn.Linear(6, 3)))


def test_a_draw_is_uniform_within_heads():
    model, inputs, _ = zoo.make("vit")
    found = find_symmetries(model, inputs)
    rows = np.stack([found.random(seed).indices["blocks.0.attention.qkv.weight", 0][:16] for seed in range(300)])
    heads = rows.reshape(300, 4, 4) // 4
    assert (heads == heads[:, :, :1]).all()
    for entry in range(16):
        counts = np.bincount(rows[:, entry], minlength=16)
        assert counts.min() > 4
        assert counts.max() < 45
