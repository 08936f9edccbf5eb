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

from analysis import LandscapeError, Line, Plane, Problem, ProjectError
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


def test_labels_that_the_model_does_not_know_are_said_with_their_range():
    with pytest.raises(IndexError) as caught:
        Problem(nn.Linear(6, 3), "cross_entropy", (torch.randn(8, 6), torch.arange(8)))
    assert "int64 [8] from 0 to 7" in "".join(caught.value.__notes__)
