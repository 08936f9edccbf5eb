"""What goes wrong for people, each as they meet it: on the command line and in the page."""

import os
import pickle
import time

import numpy as np
import pytest
import torch
from models import mlp, mlp_problem
from safetensors.torch import save_file
from torch import nn

import analysis
from analysis import (
    CheckpointError,
    Curvature,
    LandscapeError,
    Line,
    Plane,
    Problem,
    ProjectError,
    along_training,
    connectivity,
    evaluate,
    over_seeds,
    save_checkpoint,
    sharpness,
    softmax_radius,
    surface,
)
from landscape_app import cli
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState
from landscape_app.projects import open_project
from landscape_app.text import explain

GOOD = """
import torch
from torch import nn
from analysis import Problem

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
x, y = torch.randn(30, 6), torch.randint(0, 3, (30,))
problem = Problem(model, {loss}, {data}, name="mine")
checkpoints = "checkpoint{suffix}"
"""


def project(folder, loss='"cross_entropy"', data="(x, y)", suffix=".pt", extra=""):
    path = folder / "my_project.py"
    path.write_text(extra + GOOD.format(loss=loss, data=data, suffix=suffix))
    return path


class Planted:
    def __reduce__(self):
        return os.system, ("touch planted_by_a_checkpoint",)


def corrupt(path):
    torch.save(mlp().state_dict(), path)
    content = bytearray(path.read_bytes())
    content[:200] = os.urandom(200)
    path.write_bytes(content)


def truncated(path):
    torch.save(mlp().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-400])


def truncated_safetensors(path):
    save_file(mlp().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-400])


def nan_weights(path):
    state = mlp().state_dict()
    state["2.weight"][0, 0] = np.nan
    torch.save(state, path)


CHECKPOINTS = {
    "corrupt": (corrupt, ".pt", "checkpoint.pt"),
    "truncated": (truncated, ".pt", "cut short"),
    "truncated safetensors": (truncated_safetensors, ".safetensors", "checkpoint.safetensors"),
    "empty": (lambda path: path.write_bytes(b""), ".pt", "is empty"),
    "text": (lambda path: path.write_text("hello"), ".ckpt", "is not a checkpoint"),
    "no tensors": (lambda path: torch.save({"epoch": 3}, path), ".pt", "holds no state dict"),
    "mismatched": (lambda path: torch.save(torch.nn.Linear(6, 3).state_dict(), path), ".pt", "does not fit the model"),
    "wrong shape": (lambda path: torch.save(mlp((6, 8, 16, 3)).state_dict(), path), ".pt", "[8, 6] in the file"),
    "NaN weights": (nan_weights, ".pt", "'2.weight' holds 1 NaN or infinite"),
    "malicious": (lambda path: torch.save({"model": Planted()}, path), ".pt", "holds no state dict"),
    "malicious pickle": (lambda path: path.write_bytes(pickle.dumps(Planted())), ".pt", "is a pickle"),
}
PROJECTS = {
    "no such module": ({"extra": "import no_such_module\n"}, "line 1: ModuleNotFoundError"),
    "a typing error": ({"extra": "def broken(:\n"}, "SyntaxError"),
    "an exception": ({"extra": "value = 1 / 0\n"}, "line 1: ZeroDivisionError"),
    "no samples": ({"data": "(x[:0], y[:0])"}, "hold no samples"),
    "no batches": ({"data": "[]"}, "hold no samples"),
    "a loss that returns a vector": (
        {"loss": "lambda o, t: nn.functional.cross_entropy(o, t, reduction='none')"},
        "returned a tensor of shape [30]",
    ),
    "data of another width": ({"data": "(x[:, :5], y)"}, "first batch"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, tmp_path, monkeypatch, capsys):
    damage, suffix, words = CHECKPOINTS[name]
    monkeypatch.chdir(tmp_path)
    damage(tmp_path / f"checkpoint{suffix}")
    path = project(tmp_path, suffix=suffix)

    assert cli.main(["surface", str(path), "--out", "s.nc"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert not (tmp_path / "s.nc").exists()

    explorer = Explorer(open_project(path))
    state = explorer.state
    state.compute = True
    until = time.monotonic() + 60
    while not state.job.state.final:
        assert time.monotonic() < until
        time.sleep(0.01)
        explorer.session.poll()
    assert state.job.state is JobState.FAILED
    assert words in state.job.reason
    assert "Traceback" not in state.job.reason
    assert not (tmp_path / "planted_by_a_checkpoint").exists()


@pytest.mark.parametrize("name", PROJECTS)
def test_projects(name, tmp_path, monkeypatch, capsys):
    options, words = PROJECTS[name]
    monkeypatch.chdir(tmp_path)
    torch.save(mlp().state_dict(), "checkpoint.pt")
    path = project(tmp_path, **options)

    assert cli.main(["surface", str(path), "--out", "s.nc"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said

    with pytest.raises(ProjectError) as caught:  # what the page shows instead of the explorer
        open_project(path)
    reason, details = explain(caught.value)
    assert words in reason
    assert "my_project.py" in details


@pytest.mark.parametrize("given", ["runs/epoch_21.safetensors", nn.Linear(2, 2), {"weight": torch.ones(2)}])
@pytest.mark.parametrize(
    "made",
    [
        lambda given, point, problem: Plane.random(given),
        lambda given, point, problem: Line.through(point, given),
        lambda given, point, problem: Plane.through(given, point),
        lambda given, point, problem: Plane.pca([point, given, point]),
        lambda given, point, problem: Plane.along(given),
        lambda given, point, problem: Plane.gradient(problem, given),
    ],
    ids=["random", "line", "through", "pca", "along", "gradient"],
)
def test_what_is_not_yet_read_is_no_checkpoint(given, made):
    problem = mlp_problem()
    with pytest.raises(LandscapeError, match=r"problem\.checkpoint"):
        made(given, problem.checkpoint(), problem)


PAIRS = {  # public functions of checkpoints, and how each is called with something in the place of one
    "analysis.save_checkpoint": lambda g, p, s, c, d: save_checkpoint(g, "x.pt"),
    "connectivity.Curve": lambda g, p, s, c, d: connectivity.Curve("bezier", (c, g)),
    "connectivity.CurveSearch": lambda g, p, s, c, d: connectivity.CurveSearch(p, c, g),
    "connectivity.StarSearch": lambda g, p, s, c, d: connectivity.StarSearch(p, [c, g]),
    "connectivity.StraightThrough": lambda g, p, s, c, d: connectivity.StraightThrough(s, p, c, g),
    "connectivity.average": lambda g, p, s, c, d: connectivity.average(p, [c, g]),
    "connectivity.barrier": lambda g, p, s, c, d: connectivity.barrier(p, g, c),
    "connectivity.barrier_matrix": lambda g, p, s, c, d: connectivity.barrier_matrix(p, [c, g]),
    "connectivity.dropout_curve": lambda g, p, s, c, d: connectivity.dropout_curve(c, g),
    "connectivity.dropout_path": lambda g, p, s, c, d: connectivity.dropout_path(p, g, c),
    "connectivity.example_barriers": lambda g, p, s, c, d: connectivity.example_barriers(p, c, g),
    "connectivity.initialisation_line": lambda g, p, s, c, d: connectivity.initialisation_line(p, g, c),
    "connectivity.layer_barriers": lambda g, p, s, c, d: connectivity.layer_barriers(p, c, g),
    "connectivity.layers_of": lambda g, p, s, c, d: connectivity.layers_of(g),
    "connectivity.linear_cka": lambda g, p, s, c, d: connectivity.linear_cka(p, g, c),
    "connectivity.match_activations": lambda g, p, s, c, d: connectivity.match_activations(s, p, c, g),
    "connectivity.match_many": lambda g, p, s, c, d: connectivity.match_many(s, [c, d, g]),
    "connectivity.match_weights": lambda g, p, s, c, d: connectivity.match_weights(s, g, c),
    "connectivity.merge": lambda g, p, s, c, d: connectivity.merge(s, p, [g, c]),
    "connectivity.path_curvature": lambda g, p, s, c, d: connectivity.path_curvature(p, g, c),
    "connectivity.recalibrated": lambda g, p, s, c, d: connectivity.recalibrated(p, g),
    "connectivity.repaired": lambda g, p, s, c, d: connectivity.repaired(s, p, c, [d, g]),
    "connectivity.repaired_barrier": lambda g, p, s, c, d: connectivity.repaired_barrier(s, p, g, c),
    "connectivity.singular_alignment": lambda g, p, s, c, d: connectivity.singular_alignment(c, g),
    "connectivity.unit_correlations": lambda g, p, s, c, d: connectivity.unit_correlations(p, c, g, "0"),
    "connectivity.widened": lambda g, p, s, c, d: connectivity.widened(p, p, g, symmetries=(s, s)),
    "connectivity.with_layers": lambda g, p, s, c, d: connectivity.with_layers(c, g, ["0"]),
}


def takes_checkpoints(function):
    said = {k: str(v) for of in (function, function.__init__) for k, v in getattr(of, "__annotations__", {}).items()}
    return any("Checkpoint" in v and "None" not in v for k, v in said.items() if k != "return")


def test_the_table_holds_all_functions_of_checkpoints():
    found = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in (analysis, connectivity)
        for name in module.__all__
        if takes_checkpoints(getattr(module, name))
    }
    results = {"connectivity.Matching", "connectivity.Merger", "analysis.Line", "analysis.Plane"}  # those made above
    readers = {"analysis.along_training", "analysis.load_checkpoint"}  # they read what they are given
    assert found - results - readers == set(PAIRS)


@pytest.fixture(scope="module")
def pair():
    problem = mlp_problem()
    first, second = problem.checkpoint(mlp(seed=1), name="first"), problem.checkpoint(mlp(seed=2), name="second")
    return problem, connectivity.find_symmetries(problem), first, second


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_checkpoints_say_what_else_was_given(name, pair):
    first = pair[2]
    with pytest.raises(CheckpointError, match=r"'ck/seed0\.pt' is a str .* problem\.checkpoint\('ck/seed0\.pt'\)"):
        PAIRS[name]("ck/seed0.pt", *pair)
    with pytest.raises(CheckpointError, match=r"Weights.* problem\.checkpoint\(weights, buffers=checkpoint\)"):
        PAIRS[name](first.weights, *pair)
    with pytest.raises(CheckpointError, match="Plane.* checkpoint"):
        PAIRS[name](Plane.random(first), *pair)


@pytest.mark.parametrize(
    "called",
    [
        lambda problem, given: surface(problem, given),
        lambda problem, given: evaluate(problem, given, np.zeros((1, 2))),
        lambda problem, given: softmax_radius(problem, given),
        lambda problem, given: over_seeds(problem, lambda seed: given, range(2)),
    ],
    ids=["surface", "evaluate", "softmax_radius", "over_seeds"],
)
def test_functions_of_a_line_or_plane_say_what_else_was_given(called):
    problem = mlp_problem()
    with pytest.raises(LandscapeError, match=r"Checkpoint.* Plane\.random\(checkpoint\)"):
        called(problem, problem.checkpoint())
    with pytest.raises(LandscapeError, match=r"'runs/1\.pt' is a str .* Plane\.random\(checkpoint\)"):
        called(problem, "runs/1.pt")


@pytest.mark.parametrize(
    "called",
    [
        lambda problem, given: Plane.along(problem.checkpoint(), given),
        lambda problem, given: Plane.random(problem.checkpoint()).project(given),
        lambda problem, given: problem.checkpoint().weights + given,
        lambda problem, given: Curvature(problem).from_weights(given),
    ],
    ids=["along", "project", "sum", "from_weights"],
)
def test_functions_of_weights_say_what_else_was_given(called):
    problem = mlp_problem()
    for given in (torch.ones(3), "runs/1.pt", problem):
        with pytest.raises(LandscapeError, match=r"is a \w+ where weights are needed"):
            called(problem, given)


@pytest.mark.parametrize(
    "called",
    [
        lambda problem, given: problem.checkpoint(given),
        lambda problem, given: problem.measure(given),
        lambda problem, given: problem.gradient(given),
        lambda problem, given: Curvature(problem, given),
        lambda problem, given: sharpness(problem, given),
        lambda problem, given: along_training(problem, [given]),
    ],
    ids=["checkpoint", "measure", "gradient", "Curvature", "sharpness", "along_training"],
)
def test_what_cannot_be_read_as_a_checkpoint_is_said(called):
    problem = mlp_problem()
    for given in (Plane.random(problem.checkpoint()), 3, [problem.checkpoint()]):
        with pytest.raises(CheckpointError, match=r"is a \w+ where a checkpoint is needed"):
            called(problem, given)


def test_labels_that_the_model_does_not_know_are_said_with_their_range():
    with pytest.raises(IndexError) as caught:
        Problem(nn.Linear(6, 3), "cross_entropy", (torch.randn(8, 6), torch.arange(8)))
    assert "int64 [8] from 0 to 7" in "".join(caught.value.__notes__)
