"""What objects of connectivity say of themselves, and what is refused before anything is computed."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bokeh.events import Tap
from models import ConvBN, mlp, mlp_problem, trained_conv_bn

from analysis import LandscapeError, Problem, Project
from analysis.connectivity import barrier, find_symmetries, match_weights, merge
from analysis.replica import Replica
from landscape_app import words
from landscape_app.connecting import _certified
from landscape_app.pages.connectivity import ConnectivityPage
from landscape_app.state import State


def test_matchings_mergers_and_permutations_are_short_in_print():
    problem = mlp_problem()
    a, b = problem.checkpoint(mlp(seed=1), name="one"), problem.checkpoint(mlp(seed=2), name="two")
    found = find_symmetries(problem)
    matching = match_weights(found, a, b)
    moved = len(matching.permutation.moved)
    assert repr(matching.permutation) == f"Permutation(moves {moved} of 9 axes)"
    assert repr(matching).startswith("Matching('π(two)', objective ")
    assert "sweeps" in repr(matching)
    assert "not converged" in repr(replace(matching, converged=False))
    merger = merge(found, problem, [a, b])
    assert repr(merger) == f"Merger({merger.checkpoint!r}, of 2 aligned)"
    for said in (matching, merger, matching.permutation):
        assert len(repr(said)) < 200


def test_a_module_without_inputs_is_refused():
    with pytest.raises(LandscapeError, match=r"ConvBN.*Problem.*args"):
        find_symmetries(ConvBN())
    assert find_symmetries(ConvBN(), (torch.randn(2, 1, 6, 6),)).groups


def test_frozen_statistics_that_differ_are_refused_before_any_evaluation(monkeypatch):
    model, x, y = trained_conv_bn(0)
    problem = Problem(model, "cross_entropy", (x, y), batchnorm="frozen")
    a, b = problem.checkpoint(model), problem.checkpoint(trained_conv_bn(1)[0])
    monkeypatch.setattr(Replica, "totals", lambda *_: pytest.fail("evaluated"))
    with pytest.raises(LandscapeError, match=r"running statistics.*recalibrated"):
        barrier(problem, a, b)


def test_the_cost_of_a_point_counts_other_data_and_the_calibration():
    model, x, y = trained_conv_bn(0)
    problem = Problem(model, "cross_entropy", (x, y), also={"train": (x[:40], y[:40])}, calibration=(x[:50], y[:50]))
    state = State(Project(problem))
    said = "each on 96 samples and 40 of train, after 50 for the BatchNorm statistics."
    assert words.cost(state).endswith(said)


def test_the_certificate_is_said_in_words():
    said = _certified(find_symmetries(mlp_problem()))
    assert "leaving out one axis of one changes them by" in said


def test_a_tap_on_the_paths_moves_the_slider():
    page = SimpleNamespace(state=SimpleNamespace(t=0.5))
    for x, t in ((0.8123, 0.81), (-0.2, 0.0), (1.7, 1.0)):
        ConnectivityPage._rest(page, Tap(None, x=x, y=0.0))
        assert page.state.t == t
