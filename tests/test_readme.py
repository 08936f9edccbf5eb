"""The README's Python runs as it stands, on a model, checkpoints and data of the reader's own."""

import re
from pathlib import Path

import pytest
import torch
from models import classification, mlp

from landscape_app import cli

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in ("run", "runs"):
        Path(where).mkdir()
        torch.save(mlp(seed=2).state_dict(), Path(where) / "final.pt")
    Path("my_training_code.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.utils.data import TensorDataset\n"
        "class MyNet(nn.Sequential):\n    def __init__(self):\n        super().__init__(nn.Linear(6, 16), nn.ReLU(), "
        "nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))\n"
        "test_set = TensorDataset(torch.randn(50, 6), torch.randint(0, 3, (50,)))\n"
    )
    return tmp_path


def test_five_lines(folder, capsys):
    x, y = classification()
    exec(BLOCKS[0], {"model": mlp(), "x": x, "y": y})
    assert "converged" in capsys.readouterr().out
    from analysis import load, provenance

    ds = load("surface.nc")
    assert ds.attrs["status"] == "converged"
    assert provenance(ds)["checkpoints"][0]["name"] == "final"


def test_curvature(folder, capsys):
    from analysis import Problem

    problem = Problem(mlp(), "cross_entropy", classification())
    names = {"problem": problem, "checkpoint": problem.checkpoint()}
    exec(BLOCKS[1], names)
    assert names["line"].axes[0].label == "eigenvector 1"
    assert names["ds"].attrs["status"] == "done"
    assert capsys.readouterr().out


def test_connectivity(folder, capsys):
    from analysis import Problem, load_checkpoint

    problem = Problem(mlp(), "cross_entropy", classification())
    a, b = (problem.checkpoint(mlp(seed=seed), name=str(seed)) for seed in (1, 2))
    exec(BLOCKS[2], {"problem": problem, "a": a, "b": b})
    assert capsys.readouterr().out
    assert load_checkpoint("merged.safetensors", mlp()).weights.numel == a.weights.numel


def test_a_project_file(folder):
    from analysis import load_project

    Path("my_project.py").write_text(BLOCKS[3])
    project = load_project("my_project.py")
    (name,) = project.problems
    assert project.checkpoint_names(name) == ("final",)
    assert project.problems[name].n == 50


def test_an_app_file_of_ones_own(folder):
    import panel as pn

    from analysis import Problem

    problem = Problem(mlp(), "cross_entropy", classification())
    exec(BLOCKS[4], {"problem": problem})
    assert pn.state.curdoc is None


def test_in_a_notebook(folder):
    from analysis import Problem

    names = {"problem": Problem(mlp(), "cross_entropy", classification())}
    exec(BLOCKS[5], names)
    assert names["explorer"].selection.checkpoints == ("final",)


def test_while_you_train(folder):
    model, (x, y) = mlp(), classification()
    names = {"model": model, "loader": [(x, y)] * 3, "loss": torch.nn.functional.cross_entropy}
    exec(BLOCKS[6], {**names, "optimizer": torch.optim.SGD(model.parameters(), 0.1)})
    assert sorted(file.name for file in Path("runs/mlp").iterdir()) == ["step-0.safetensors", "step-3.safetensors"]


def test_a_figure(folder):
    from conftest import plane_result

    from analysis import save

    save(plane_result(), "surface.nc")
    exec(BLOCKS[7], {})
    assert {file.suffix for file in folder.glob("surface.*")} == {".nc", ".pdf", ".txt", ".csv"}


def test_the_commands_are_the_ones_that_exist(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    for command in re.findall(r"^landscape (\w+)", README, flags=re.M):
        assert command in text
