"""The ``landscape`` command, run in this process on a small project."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import load
from landscape_app import cli
from landscape_app.projects import VARIABLE

PROJECT = """
import torch
from analysis import Problem

torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
problems = {"small": Problem(model, "cross_entropy", (x, y), name="small")}
checkpoints = {"misfit": torch.nn.Linear(4, 2), "start": torch.nn.Linear(3, 2), "end": model}
"""


@pytest.fixture
def project(tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(PROJECT)
    return file


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("plane", "checkpoints", "dims", "names"),
    [
        ("random", [], {"a": 9, "b": 9}, ["end"]),
        ("random", ["end"], {"a": 9, "b": 9}, ["end"]),
        ("line", [], {"t": 9}, ["end"]),
        ("line", ["start", "end"], {"t": 9}, ["start", "end"]),
        ("through", ["start", "end"], {"a": 9, "b": 9}, ["start", "end"]),
        ("gradient", ["end"], {"a": 9, "b": 9}, ["end"]),
    ],
)
def test_surface_saves_what_was_asked_for(capsys, project, tmp_path, plane, checkpoints, dims, names):
    out = tmp_path / "s.nc"
    chosen = [word for name in checkpoints for word in ("--checkpoint", name)]
    status, said, _ = run(
        capsys, "surface", project, "--out", out, "--plane", plane, *chosen, "--resolution", 9, "--dense"
    )
    assert status == 0
    assert f"Saved: {out}" in said
    ds = load(out)
    assert {d: ds.sizes[d] for d in dims} == dims
    assert ds.attrs["status"] == "dense"
    assert list(ds["marker_name"].values) == names


def test_a_trajectory_goes_through_all_checkpoints_unless_some_are_named(capsys, project, tmp_path):
    project.write_text(PROJECT.replace('"misfit": torch.nn.Linear(4, 2)', '"before": torch.nn.Linear(3, 2)'))
    options = ["--out", tmp_path / "s.nc", "--plane", "trajectory", "--resolution", 9, "--dense"]
    assert run(capsys, "surface", project, *options)[0] == 0
    assert list(load(tmp_path / "s.nc")["marker_name"].values) == ["before", "start", "end"]
    status, _, err = run(capsys, "surface", project, *options, "--checkpoint", "start", "--checkpoint", "end")
    assert (status, "3 or more checkpoints; 2 were chosen" in err) == (2, True)


def test_surface_takes_extent_resolution_and_seed(capsys, project, tmp_path):
    out = tmp_path / "s.nc"
    options = ["--extent", -0.5, 0.5, 0, 2, "--resolution", 5, 7, "--seed", 3, "--dense"]
    assert run(capsys, "surface", f"{project}:small", "--out", out, *options)[0] == 0
    ds = load(out)
    np.testing.assert_allclose(ds["a"], np.linspace(-0.5, 0.5, 5))
    np.testing.assert_allclose(ds["b"], np.linspace(0, 2, 7))
    assert '"seed": 3' in ds.attrs["provenance"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["surface", "none.py", "--out", "s.nc"], "There is no project file"),
        (["surface", "{project}:other", "--out", "s.nc"], "no problem 'other'; it has small"),
        (["surface", "{project}", "--out", "missing/s.nc"], "does not exist"),
        (["surface", "{project}", "--out", "s.nc", "--checkpoint", "nope"], "no checkpoint 'nope'"),
        (["surface", "{project}", "--out", "s.nc", "--checkpoint", "misfit"], "weight"),
        (["surface", "{project}", "--out", "s.nc", "--plane", "through", "--checkpoint", "end"], "2 or 3 checkpoints"),
        (["surface", "{project}", "--out", "s.nc", "--extent", "1"], "--extent takes"),
        (["surface", "{project}", "--out", "s.nc", "--batchnorm", "frozen"], "batchnorm"),
        (["info", "none.pt"], "There is no file"),
        (["serve", "none.py"], "There is no project file"),
    ],
)
def test_errors_are_one_message_and_status_2(capsys, monkeypatch, project, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *(a.format(project=project.name) for a in arguments))
    assert (status, out) == (2, "")
    message = [line for line in err.splitlines() if line.startswith("landscape: ")]
    assert len(message) == 1
    assert said in message[0]
    assert "Traceback" not in err
    assert not (tmp_path / "s.nc").exists()


def test_an_interrupted_surface_is_saved_as_far_as_it_got(capsys, monkeypatch, project, tmp_path):
    real = cli.Request.steps

    def interrupted(request, opened):
        yield next(real(request, opened))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Request, "steps", interrupted)
    out = tmp_path / "s.nc"
    status, said, _ = run(capsys, "surface", project, "--out", out)
    assert status == 130
    assert said.startswith("Interrupted")
    assert load(out).attrs["status"] == "running"


def test_info_on_each_kind_of_file(capsys, project, tmp_path):
    _, said, _ = run(capsys, "info", project)
    assert "my_project.py: project with 1 problem" in said
    assert "Linear, 8 parameters; 20 samples" in said
    assert "checkpoints: misfit, start, end" in said

    file = tmp_path / "c.pt"
    torch.save({"model": torch.nn.Linear(3, 2).state_dict(), "epoch": 7, "where": Path("x")}, file)
    _, said, _ = run(capsys, "info", file)
    assert "model: 2 tensors, 8 numbers" in said
    assert "epoch = 7" in said
    assert "not loaded" in said

    result = tmp_path / "s.nc"
    run(capsys, "surface", project, "--out", result, "--resolution", 5, "--dense")
    _, said, _ = run(capsys, "info", result)
    assert "5 a × 5 b; 25 evaluations; status: dense" in said
    assert "Loss (cross entropy)" in said
    assert "sha256: " in said


class Panel:
    """Stands in for the server: remembers how it was started."""

    def __init__(self, monkeypatch):
        import panel.command

        self.arguments = None
        monkeypatch.setattr(panel.command, "main", self)
        monkeypatch.setattr(sys, "argv", sys.argv)

    def __call__(self):
        self.arguments = sys.argv


def test_serve_listens_on_this_machine_only_and_names_the_project(capsys, monkeypatch, project):
    monkeypatch.setenv(VARIABLE, "")
    panel = Panel(monkeypatch)
    status, _, err = run(capsys, "serve", project, "--port", 5123)
    assert (status, err) == (0, "")
    said = " ".join(panel.arguments)
    assert "--address 127.0.0.1" in said
    assert "--port 5123" in said
    assert "--num-threads 4" in said
    assert said.endswith("--show")
    assert cli.os.environ[VARIABLE] == str(project)


def test_serve_warns_when_others_can_reach_it(capsys, monkeypatch):
    panel = Panel(monkeypatch)
    status, _, err = run(capsys, "serve", "--address", "0.0.0.0", "--no-show")
    assert status == 0
    assert "no password" in err
    assert "--show" not in panel.arguments


def test_help_needs_no_server_and_no_model():
    done = subprocess.run(
        [sys.executable, "-m", "landscape_app.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "surface" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["surface", "{project}", "--out", "."], "give the name of a netCDF file"),
        (["surface", "{project}", "--out", "s.png"], "give the name of a netCDF file"),
        (["surface", "{project}", "--out", "s.nc", "--chekpoint", "x"], "usage: landscape surface"),
    ],
)
def test_what_the_command_line_refuses_before_it_computes(capsys, project, words, message):
    with pytest.raises(SystemExit) as stop:
        sys.exit(cli.main([word.format(project=project) for word in words]))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_said_before_the_server_starts(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "is in use; choose another one with --port" in capsys.readouterr().err
