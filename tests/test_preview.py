"""Where an evaluation takes long, the first picture is over a few samples, and says so."""

import numpy as np
import pytest
import torch
import xarray as xr
from models import mlp

from analysis import Problem, Project, surface
from landscape_app import request as asked
from landscape_app import words
from landscape_app.entries import Entry, unfinished
from landscape_app.jobs import JobState, Snapshot
from landscape_app.request import Request

RANDOM = Request("slow", "random-plane", ("first",), resolution=51)


@pytest.fixture
def problem():
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    return Problem(mlp(), "cross_entropy", (x, x[:, :3].argmax(1)), name="slow")


@pytest.fixture
def project(problem, monkeypatch):
    monkeypatch.setattr(asked, "SLOW_SECONDS", 0.0)
    return Project({"slow": problem}, {"slow": {"first": problem.checkpoint()}})


def test_a_preview_is_the_surface_of_a_few_samples_and_the_end_that_of_all(project, problem):
    results = list(RANDOM.steps(project, preview=True))
    previews = [ds for ds in results if "preview_of" in ds.attrs]
    assert previews == results[: len(previews)]
    assert {ds.attrs["status"] for ds in previews} == {"running"}
    assert {ds.attrs["preview_of"] for ds in previews} == {400}
    few, space = problem.with_samples(64), RANDOM.opened(project)[1]
    truth = {
        tuple(ds[f"sample_{axis}"].values[i] for axis in "ab"): ds["sample_loss"].values[i]
        for *_, ds in [surface(few, space, resolution=51)]
        for i in range(ds.sizes["sample"])
    }
    shown = previews[-1]
    for a, b, loss in zip(shown["sample_a"].values, shown["sample_b"].values, shown["sample_loss"].values, strict=True):
        assert loss == pytest.approx(truth[a, b], rel=1e-5)
    assert results[len(previews)].attrs["evaluations"] >= 25
    *_, without = RANDOM.steps(project)
    for name in ("loss", "loss_se", "accuracy", "sample_loss", "marker_loss"):
        np.testing.assert_allclose(results[-1][name], without[name], rtol=1e-5)


def test_no_preview_for_what_is_quick_small_or_goes_on(project, problem, monkeypatch):
    def none(**options):
        return all("preview_of" not in ds.attrs for ds in RANDOM.steps(project, **options))

    assert none()
    *_, earlier = RANDOM.steps(project)
    assert none(preview=True, resume=earlier)
    monkeypatch.setattr(asked, "SLOW_SECONDS", 1e9)
    assert none(preview=True)
    monkeypatch.setattr(asked, "SLOW_SECONDS", 0.0)
    assert not none(preview=True)
    few = Project({"slow": problem.with_samples(255)}, {"slow": {"first": problem.checkpoint()}})
    assert all("preview_of" not in ds.attrs for ds in RANDOM.steps(few, preview=True))


def test_a_cancelled_preview_says_what_it_is_and_nothing_goes_on_from_it(project, tmp_path):
    preview = next(ds for ds in RANDOM.steps(project, preview=True) if ds.sizes["sample"])
    job = Snapshot(JobState.CANCELLED, preview, version=1)
    assert words.ended(job).body == "This is a preview over 64 of 400 samples."
    assert unfinished([Entry(1, job, RANDOM)], RANDOM) is None
    preview.to_netcdf(tmp_path / "kept.nc")
    assert xr.load_dataset(tmp_path / "kept.nc").attrs["preview_of"] == 400
