"""The script that stands for a page's request computes what the page computes, in an interpreter of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from analysis import LandscapeError, load, load_checkpoint, load_project, provenance
from landscape_app.connectivity.of_pair import CurveRequest, LayersRequest, PlaneRequest
from landscape_app.connectivity.request import ConnectivityRequest, Matched
from landscape_app.projects import SAMPLES
from landscape_app.request import Request
from landscape_app.script import script
from landscape_app.spectrum.along import Along, Direction
from landscape_app.spectrum.request import Place, SpectrumRequest, Vectors
from landscape_app.trajectory.request import TrajectoryRequest

NAME = 'a "problem" · {name}'
PROJECT = f"""
import torch
from analysis import Problem

generator = torch.Generator().manual_seed(0)
x, y = torch.randn(40, 1, 8, generator=generator), torch.randint(0, 3, (40,), generator=generator)

def net(seed):
    torch.manual_seed(seed)
    convolution = torch.nn.Sequential(torch.nn.Conv1d(1, 4, 3), torch.nn.BatchNorm1d(4), torch.nn.Tanh())
    return torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(24, 3))

problems = {{{NAME!r}: Problem(net(0), "cross_entropy", (x, y), metrics=["accuracy"], name={NAME!r})}}
checkpoints = {{name: net(seed) for seed, name in enumerate(["one", "two", "three's"])}}
"""
THREE = ("one", "two", "three's")


DRIVER = """
import os, runpy, sys, traceback
for folder in sys.argv[1:]:
    os.chdir(folder)
    try:
        runpy.run_path("script.py")
    except Exception:  # of any kind: the test that looks at this folder says it
        open("failure.txt", "w").write(traceback.format_exc())
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    where = tmp_path_factory.mktemp("project")
    (where / "my_project.py").write_text(PROJECT)
    return load_project(where / "my_project.py")


@pytest.fixture(scope="module")
def computed(project, tmp_path_factory):
    """Of each request: the result of the app, what its job kept, and the folder where its script has run."""
    everything = {}
    for name, request in requests(project).items():
        folder, kept = tmp_path_factory.mktemp("script"), KEPT.get(type(request), lambda: None)()
        ds = last(request.steps(project, *([kept] if kept is not None else [])))
        (folder / "my_project.py").write_text(PROJECT)
        (folder / "script.py").write_text(script(request, project, ds), encoding="utf-8")
        everything[name] = request, ds, kept, folder
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    folders = [str(folder) for *_, folder in everything.values()]
    subprocess.run([sys.executable, "-c", DRIVER, *folders], env=places, check=True)
    return everything


@pytest.fixture
def of(computed):
    """What was computed for a request; its script has run to its end."""

    def found(name):
        request, ds, kept, folder = computed[name]
        failure = folder / "failure.txt"
        assert not failure.exists(), f"{(folder / 'script.py').read_text()}\n{failure.read_text()}"
        return request, ds, kept, folder

    return found


def last(steps):
    *_, ds = steps
    return ds


def same_values(one, other):
    """The same bits in all that is not about the time it took."""
    assert set(one.data_vars) == set(other.data_vars)
    for name in one.data_vars:
        xr.testing.assert_equal(one[name].variable, other[name].variable)


SURFACES = {
    "random plane": Request(NAME, "random-plane", ("one",), seed=3, resolution=7, extent=((-1.0, 1.0), (-0.5, 0.5))),
    "options": Request(
        NAME, "random-plane", ("one",), resolution=(5, 7), tolerance=0, normalisation="layer",
        include=("bias", "weight"), layers=("2.*",),
    ),
    "refined line": Request(NAME, "line", ("one", "two"), tolerance=0.05),
    "random line": Request(NAME, "random-line", ("two",), resolution=9, batchnorm="frozen"),
    "seeds": Request(NAME, "random-line", ("one",), seeds=(0, 4), resolution=9),
    "plane": Request(NAME, "plane", THREE, resolution=7, centre="mean", basis="svd"),
    "plane through two": Request(NAME, "plane", THREE[:2], seed=2, resolution=5),
    "gradient": Request(NAME, "gradient", ("three's",), resolution=5),
    "trajectory": Request(NAME, "trajectory", THREE, resolution=5),
}  # fmt: skip


SPECTRA = {
    "whole": SpectrumRequest(NAME, "one", largest=2, smallest=1, degree=6),
    "parts": SpectrumRequest(
        NAME, "two", ("hessian", "ggn"), each="layer", largest=2, smallest=1, degree=5, seed=1, batchnorm="frozen"
    ),
    "class of a layer": SpectrumRequest(NAME, "one", of_class=1, layer="2", largest=2, probes=0, batchnorm="frozen"),
    "at a point": SpectrumRequest(
        NAME, "one", largest=1, smallest=0, probes=0, at=Place(SURFACES["random plane"], (0.5, 0.25))
    ),
}
TRAJECTORIES = {
    "run": TrajectoryRequest(NAME, THREE),
    "run, options": TrajectoryRequest(NAME, THREE[:2], "ggn", 2, 0, trace_products=0, seed=2),
}
PATHS = {
    "two": ConnectivityRequest(NAME, THREE[:2]),
    "three": ConnectivityRequest(NAME, THREE, matching="weights", convention="maxmean"),
    "as they are": ConnectivityRequest(NAME, THREE[:2], matching="none"),
    "repaired": ConnectivityRequest(NAME, THREE, repair=True),
}
OF_PAIR = {
    "the plane of a pair": PlaneRequest(NAME, THREE[2], THREE[1], checkpoints=THREE),
    "a curve": CurveRequest(NAME, *THREE[:2], updates=7, convention="mid"),
    "layers": LayersRequest(NAME, *THREE[:2]),
}
KEPT = {SpectrumRequest: Vectors, ConnectivityRequest: Matched}


def along(project):
    """A request for a plane along two eigenvectors, as the Spectrum page makes it."""
    spectrum, vectors = SpectrumRequest(NAME, "one", largest=2, smallest=1, probes=0), Vectors()
    found = last(spectrum.steps(project, vectors))
    values, bounds = found["eigenvalue"].values[0], found["bound"].values[0]
    directions = tuple(Direction(0, i, f"eigenvector {i}", values[i], bounds[i], vectors.get(0, i)) for i in (2, 0))
    chosen = Along(spectrum, directions, loss=float(found["loss"][0]))
    return Request(NAME, "eigenvectors", (), resolution=5, extent=((-0.2, 0.2), (-0.1, 0.1)), along=chosen)


def requests(project):
    return {**SURFACES, "eigenvectors": along(project), **SPECTRA, **TRAJECTORIES, **PATHS, **OF_PAIR}


@pytest.mark.parametrize("name", [*SURFACES, "eigenvectors"])
def test_a_surface_has_the_same_bits(of, name):
    _, ds, _, folder = of(name)
    again = load(folder / "surface.nc")
    same_values(again, ds)
    assert again.attrs["status"] == ds.attrs["status"]


@pytest.mark.parametrize("name", SPECTRA)
def test_a_spectrum_has_the_same_bits(of, name):
    request, ds, _, folder = of(name)
    for i in range(ds.sizes["part"]):
        suffix = f"-{i}" if ds.sizes["part"] > 1 else ""
        found, one = load(folder / f"eigenvalues{suffix}.nc"), ds.isel(part=i)
        known = np.isfinite(one["eigenvalue"].values)
        np.testing.assert_array_equal(found["eigenvalue"], one["eigenvalue"][known])
        np.testing.assert_array_equal(found["bound"], one["bound"][known])
        if request.probes:
            sampled = load(folder / f"density{suffix}.nc")
            assert sampled["node"].size
            np.testing.assert_array_equal(sampled["node"], one["node"][:, : sampled.sizes["step"]])
            np.testing.assert_array_equal(sampled["weight"], one["weight"][:, : sampled.sizes["step"]])


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_trajectory_has_the_same_bits(of, name):
    _, ds, _, folder = of(name)
    same_values(load(folder / "trajectory.nc"), ds)


@pytest.mark.parametrize("name", OF_PAIR)
def test_what_is_about_a_pair_is_the_same(of, name):
    request, ds, _, folder = of(name)
    same_values(load(folder / f"{request.kind}.nc"), ds)


@pytest.mark.parametrize("name", PATHS)
def test_paths_are_the_same_but_for_rounding(of, project, name):
    """Each path is evaluated by the strategy that is fastest then, which a result of several paths does not record."""
    _, ds, matched, folder = of(name)
    for s, stage in enumerate(ds["stage"].values):
        for p in range(ds.sizes["pair"]):
            path = load(folder / (f"{stage}.nc" if ds.sizes["pair"] == 1 else f"{stage}-{p}.nc"))
            known = np.isfinite(ds["t"].values[s, p])
            at, own = path["t"].values, ds["t"].values[s, p][known]
            _, here, there = np.intersect1d(at, own, return_indices=True)  # about a maximum rounding decides
            assert len(here) > 0.6 * max(len(at), len(own))
            losses = ds["loss"].values[s, p][known][there]
            np.testing.assert_allclose(path["loss"].values[here], losses, rtol=1e-5)
            np.testing.assert_allclose(path["loss_barrier"], ds["loss_barrier"].values[s, p], atol=1e-5)
    if matched.merged is not None:
        merged = load_checkpoint(folder / "merged.safetensors", project.problems[NAME].model)
        assert (merged.weights - matched.merged.weights).norm() == 0


def test_the_shortest_script_is_short(project):
    assert script(Request(NAME, "random-plane", ("one",)), project) == (
        "from analysis import Plane, load_project, save, surface\n"
        "\n"
        'project = load_project("my_project.py")\n'
        'problem = project.problems["a \\"problem\\" · {name}"]\n'
        'checkpoint = project.checkpoint("a \\"problem\\" · {name}", "one")\n'
        "plane = Plane.random(checkpoint, seed=0)\n"
        "*_, ds = surface(problem, plane)\n"
        'save(ds, "surface.nc")\n'
    )


def test_the_samples_are_named_wherever_they_lie():
    samples = load_project(SAMPLES)
    request = Request("MLP 2×64, tanh · test", "random-line", ("tanh64-s0",))
    text = script(request, samples)
    assert "from landscape_app.projects import SAMPLES\n" in text
    assert "load_project(SAMPLES)" in text
    assert str(SAMPLES.parent) not in text


def test_a_request_that_does_not_fit_the_project(project):
    with pytest.raises(LandscapeError, match="There is no layer 'none'"):
        script(SpectrumRequest(NAME, "one", layer="none"), project)


def test_the_strategy_is_the_one_that_was_recorded(project):
    request = SURFACES["gradient"]
    ds = last(request.steps(project))
    recorded = provenance(ds)["strategy"]
    text = script(request, project, ds)
    assert f"block={recorded['block']}, threads={recorded['threads']}" in text
