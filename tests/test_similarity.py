"""Linear CKA and correlations of units: closed forms, orthogonal maps, planted permutations."""

import numpy as np
import pytest
import torch
from models import classification, mlp, trained_conv_bn
from test_matching import digits_pair

from analysis import Checkpoint, LandscapeError, Problem, load, provenance, save
from analysis.connectivity import find_symmetries, linear_cka, match_activations, unit_correlations


def rotated(model, layer, seed=0):
    """A copy whose layer puts out what it did, turned and scaled."""
    generator = torch.Generator().manual_seed(seed)
    part = model.get_submodule(layer)
    q = torch.linalg.qr(torch.randn(len(part.bias), len(part.bias), generator=generator)).Q
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state[f"{layer}.weight"] = 3 * q @ part.weight.detach()
    state[f"{layer}.bias"] = 3 * q @ part.bias.detach() + 1
    return state


def by_hand(f, g):
    f, g = (x - x.mean(0) for x in (f, g))
    return np.linalg.norm(f.T @ g) ** 2 / (np.linalg.norm(f.T @ f) * np.linalg.norm(g.T @ g))


def features(model, x):
    found, hooks = {}, []
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)):
            keep = lambda m, a, out, name=name: found.update({name: out.detach().flatten(1).double().numpy()})  # noqa: E731
            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_cka_is_1_after_an_orthogonal_map_and_a_scale():
    model = mlp()
    problem = Problem(model, "cross_entropy", classification())
    a, b = problem.checkpoint(), problem.checkpoint(rotated(model, "0"), name="rotated")
    *_, ds = linear_cka(problem, a, b)
    assert float(ds.cka.sel(layer="0", other="0")) == pytest.approx(1, abs=1e-6)
    assert float(ds.cka.sel(layer="2", other="2")) < 0.99


@pytest.mark.parametrize("batch_size", [10, 64])
def test_cka_of_all_pairs_by_hand(batch_size, tmp_path):
    model, other = mlp(), mlp(seed=1)
    x, y = classification()
    problem = Problem(model, "cross_entropy", (x, y), batch_size=batch_size)
    a, b = problem.checkpoint(), problem.checkpoint(other, name="other")
    *_, ds = linear_cka(problem, a, b, samples=50)
    f, g = features(model, x[:50]), features(other, x[:50])
    wanted = [[by_hand(f[i], g[j]) for j in g] for i in f]
    assert list(ds.layer.values) == list(f)
    np.testing.assert_allclose(ds.cka, wanted, rtol=1e-5)
    assert ds.attrs["samples"] == provenance(ds)["samples"] == 50
    assert ds.attrs["status"] == "done"
    assert load(save(ds, tmp_path / "cka.nc")).equals(ds)


def test_cka_of_convolutions_counts_every_place():
    (model, x, y), other = trained_conv_bn(0), trained_conv_bn(1)[0]
    problem = Problem(model, "cross_entropy", (x, y), batchnorm="frozen")
    *_, ds = linear_cka(problem, problem.checkpoint(), problem.checkpoint(other, name="other"))
    f, g = features(model.eval(), x), features(other.eval(), x)
    wanted = [[by_hand(f[i], g[j]) for j in g] for i in f]
    np.testing.assert_allclose(ds.cka, wanted, rtol=1e-4)


def test_correlations_of_units_by_hand():
    model, other = mlp(), mlp(seed=1)
    x, y = classification()
    problem = Problem(model, "cross_entropy", (x, y))
    ds = unit_correlations(problem, problem.checkpoint(), problem.checkpoint(other, name="other"), "2")
    f, g = features(model, x)["2"], features(other, x)["2"]
    n = f.shape[1]
    np.testing.assert_allclose(ds.correlation, np.corrcoef(f.T, g.T)[:n, n:], atol=1e-6)
    assert (ds.semi_correlation >= ds.bipartite_correlation).all()
    np.testing.assert_allclose(np.diag(ds.aligned), ds.bipartite_correlation)
    assert sorted(ds.bipartite.values) == list(range(n))
    np.testing.assert_array_equal(ds.semi, ds.correlation.argmax("other"))


def test_a_permuted_copy_is_matched_exactly():
    problem, a, _ = digits_pair("mlp128")
    planted = find_symmetries(problem).random(3)
    ds = unit_correlations(problem, a, planted.apply(a), "fc1")
    np.testing.assert_array_equal(ds.bipartite, np.argsort(planted.indices["fc1.weight", 0]))
    np.testing.assert_allclose(ds.bipartite_correlation, 1, atol=1e-9)


def test_trained_networks_share_units_more_than_chance():
    problem, a, b = digits_pair("mlp128")
    matched = match_activations(find_symmetries(problem), problem, a, b).checkpoint
    for layer in ("fc1", "fc2"):
        before, after = (unit_correlations(problem, a, c, layer) for c in (b, matched))
        assert float(before.bipartite_correlation.mean()) == pytest.approx(float(after.bipartite_correlation.mean()))
        assert abs(np.diag(before.correlation).mean()) < 0.1
        assert np.diag(after.correlation).mean() > 0.5


def test_errors():
    problem, a, b = digits_pair("mlp128")
    with pytest.raises(LandscapeError, match=r"there are \['fc1', 'fc2', 'fc3'\]"):
        unit_correlations(problem, a, b, "fc9")
    with pytest.raises(LandscapeError, match="samples"):
        linear_cka(problem, a, b, samples=1)
    with pytest.raises(LandscapeError, match="same weights"):
        linear_cka(problem, a, Checkpoint(a.weights, a.buffers, "again"))
