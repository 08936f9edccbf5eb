"""The ``landscape`` command, run in this process on a small project."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import load, load_project
from landscape_app import __main__, cli
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

    def interrupted(request, opened, resume=None):
        yield next(real(request, opened, resume))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.Request, "steps", interrupted)
    out = tmp_path / "s.nc"
    status, said, _ = run(capsys, "surface", project, "--out", out)
    assert status == 130
    assert said.startswith("Interrupted")
    assert "interpolation error not known yet; loss" in said
    assert load(out).attrs["status"] == "running"


def test_ctrl_c_while_it_imports_ends_it_quietly(capsys, monkeypatch):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "landscape_app.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "landscape_app.cli")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert __main__.main() == 130
    assert capsys.readouterr() == ("", "")


def test_checkpoints_in_a_folder_are_named_in_numeric_order(capsys, tmp_path):
    for step in (100, 20, 3):
        torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / f"step-{step}.pt")
    status, _, err = run(capsys, "info", tmp_path)
    assert (status, "'step-3.pt', 'step-20.pt', 'step-100.pt'" in err) == (2, True)


def test_an_interrupted_surface_is_continued(capsys, monkeypatch, project, tmp_path):
    from analysis.evaluate import Evaluator

    out, whole = tmp_path / "s.nc", tmp_path / "whole.nc"
    assert run(capsys, "surface", project, "--out", whole, "--seed", 3)[0] == 0
    real, original, counts = cli.Request.steps, Evaluator.__call__, []

    def interrupted(request, opened, resume=None):
        for ds in real(request, opened, resume):
            yield ds
            if ds.attrs["evaluations"] >= 20:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli.Request, "steps", interrupted)
        assert run(capsys, "surface", project, "--out", out, "--seed", 3)[0] == 130
    kept = load(out).attrs["evaluations"]
    assert kept < load(whole).attrs["evaluations"]
    monkeypatch.setattr(Evaluator, "__call__", lambda self, c: (counts.append(len(c)), original(self, c))[1])
    assert run(capsys, "surface", project, "--out", out, "--seed", 3, "--resume", out)[0] == 0
    assert sum(counts) == load(whole).attrs["evaluations"] - kept
    np.testing.assert_allclose(load(out).loss, load(whole).loss, rtol=1e-5)
    assert load(out).attrs["status"] == load(whole).attrs["status"]

    for options, words in [
        (["--seed", 4], "differs in axes, seed"),
        (["--seed", 3, "--checkpoint", "start"], "differs in checkpoints, axes"),
        (["--seed", 3, "--normalisation", "layer"], "differs in kind, axes, normalisation"),
        (["--seeds", 2, "--seed", 7], r"holds values of the seeds [3], and wanted are [7, 8]"),
    ]:
        status, _, err = run(capsys, "surface", project, "--out", tmp_path / "no.nc", "--resume", out, *options)
        assert (status, words in err) == (2, True), err
    project.write_text(
        PROJECT.replace("(20, 3)", "(21, 3)").replace("(20,)", "(21,)").replace("torch.randn(20", "torch.randn(21")
    )
    status, _, err = run(capsys, "surface", project, "--out", tmp_path / "no.nc", "--resume", out, "--seed", 3)
    assert (status, "data" in err) == (2, True), err
    assert not (tmp_path / "no.nc").exists()


@pytest.mark.parametrize(
    ("options", "seeds"), [(["--seeds", 2], [0, 1]), (["--seeds", 2, "--seed", 5], [5, 6]), (["--seed", 7, 3], [7, 3])]
)
@pytest.mark.parametrize("plane", ["line", "random"])
def test_several_seeds(capsys, project, tmp_path, options, seeds, plane):
    out = tmp_path / "s.nc"
    more = ["--plane", plane, "--resolution", 7, "--dense"]
    status, said, _ = run(capsys, "surface", project, "--out", out, *more, *options)
    assert status == 0
    assert f"seeds {seeds[0]}, {seeds[1]}" in said
    ds = load(out)
    assert ds.seed.values.tolist() == seeds
    assert ds.loss.dims == (("seed", "t") if plane == "line" else ("seed", "b", "a"))
    for place, seed in enumerate(seeds):
        run(capsys, "surface", project, "--out", tmp_path / "one.nc", *more, "--seed", seed)
        np.testing.assert_allclose(ds.loss[place], load(tmp_path / "one.nc").loss, rtol=1e-5)
    _, said, _ = run(capsys, "info", out)
    assert f"seed {seeds[1]}: Loss (cross entropy)" in said


def test_options_of_random_directions_and_of_planes_through_three(capsys, project, tmp_path):
    from analysis import provenance

    project.write_text(PROJECT.replace('"misfit": torch.nn.Linear(4, 2)', '"before": torch.nn.Linear(3, 2)'))
    out = tmp_path / "s.nc"
    small = ["--out", out, "--resolution", 5, "--dense"]
    assert run(capsys, "surface", project, *small, "--normalisation", "layer", "--layers", "weight")[0] == 0
    facts = provenance(load(out))
    assert (facts["normalisation"], facts["layers"]) == ("layer", ["weight"])
    assert run(capsys, "surface", project, *small, "--include", "weight", "bias", "--frozen")[0] == 0
    facts = provenance(load(out))
    assert (facts["include"], facts["frozen"]) == (["bias", "weight"], True)
    three = ["--plane", "through", *(w for n in ("before", "start", "end") for w in ("--checkpoint", n))]
    assert run(capsys, "surface", project, *small, *three, "--basis", "affine", "--centre", "mean")[0] == 0
    ds = load(out)
    assert (provenance(ds)["basis"], provenance(ds)["centre"]) == ("affine", "mean")
    assert ds.marker_a.values == pytest.approx([-1, 1, 0], abs=1e-5)
    assert ds.marker_b.values == pytest.approx([-1, 0, 1], abs=1e-5)
    for options, words in [
        ([*three, "--layers", "weight"], "no option layers; it takes centre, basis, units"),
        (["--basis", "svd"], "no option basis; it takes normalisation, include, layers, frozen"),
        ([*three, "--seeds", "2"], "has no random direction"),
        (["--plane", "gradient", "--seeds", "2"], "has no random direction"),
        (["--layers", "conv.*"], "'conv.*' matches no parameter"),
        (["--seeds", "1"], "--seeds takes a number of 2 or more"),
        (["--seeds", "2", "--seed", "1", "2"], "--seeds takes a number of 2 or more"),
        (["--resume", "none.nc"], "There is no result file 'none.nc'"),
    ]:
        status, _, err = run(capsys, "surface", project, *small, *options)
        assert (status, words in err) == (2, True), err


def test_further_data_sets_of_a_project_are_in_the_file(capsys, project, tmp_path):
    project.write_text(PROJECT.replace('name="small")', 'name="small", also={"train": (x[:7], y[:7])})'))
    assert run(capsys, "surface", project, "--out", tmp_path / "s.nc", "--resolution", 5, "--dense")[0] == 0
    assert {"loss", "loss_train", "accuracy_train"} <= set(load(tmp_path / "s.nc").data_vars)


@pytest.fixture
def curved(tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(
        PROJECT.replace(
            "torch.nn.Linear(3, 2)\nx", "torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())\nx"
        ).replace('"misfit": torch.nn.Linear(4, 2), "start": torch.nn.Linear(3, 2)', '"start": model')
    )
    return file


def dense_hessian(file, **options):
    from analysis import Curvature, load_project

    operator = Curvature(load_project(file).problems["small"].with_dtype(torch.float64), **options)
    return torch.linalg.eigvalsh(operator.matmat(torch.eye(operator.shape[1], dtype=torch.float64)))


def test_a_spectrum_of_what_was_asked_for(capsys, curved, tmp_path):
    from analysis import provenance
    from analysis.curvature import quadrature, samples_by_class

    out = tmp_path / "s.nc"
    status, said, _ = run(capsys, "spectrum", curved, "--out", out, "--largest", 2, "--smallest", 2)
    ds, values = load(out), dense_hessian(curved)
    assert status == 0
    assert said.startswith(f"Saved: {out} (hessian eigenvalues at end; {ds.attrs['products']} products in")
    assert f"largest {values[-1]:.4g} ± " in said
    assert "; smallest " in said
    assert "not converged" not in said
    assert (np.abs(ds.eigenvalue - values[[-1, -2, 0, 1]].numpy()) <= ds.bound).all()
    assert ds.attrs["status"] == "converged"

    options = ["--class", 1, "--kind", "ggn", "--layers", "0.weight", "--checkpoint", "start", "--largest", 1]
    assert run(capsys, "spectrum", f"{curved}:small", "--out", out, *options, "--density")[0] == 0
    from analysis import load_project

    chosen = samples_by_class(load_project(curved).problems["small"])[1]
    values = dense_hessian(curved, kind="ggn", layers=["0.weight"], samples=chosen)
    ds = load(out)
    assert float(ds.eigenvalue[0]) == pytest.approx(float(values[-1]), rel=1e-3)
    nodes, weights = quadrature(ds)
    assert weights.sum() == pytest.approx(1)
    assert nodes.max() == pytest.approx(float(values[-1]), rel=1e-3)
    facts = provenance(ds)
    assert (facts["class"], facts["samples_counted"], facts["of"]["kind"]) == (1, len(chosen), "ggn")
    assert ds.attrs["title"] == "ggn eigenvalues at start, class 1"
    assert ds.attrs["status"] == "converged"


def test_a_spectrum_goes_on_from_where_it_ended(capsys, monkeypatch, curved, tmp_path):
    out, options = tmp_path / "s.nc", ["--largest", 2, "--smallest", 2, "--tolerance", 1e-6]
    assert run(capsys, "spectrum", curved, "--out", tmp_path / "whole.nc", *options)[0] == 0
    assert not (tmp_path / "whole.nc.run").exists()
    _, said, _ = run(capsys, "spectrum", curved, "--out", out, *options, "--products", 3)
    assert "(not converged)" in said
    assert f"--resume {out} and a larger --products." in said
    status, said, _ = run(capsys, "spectrum", curved, "--out", out, *options, "--resume", out)
    assert status == 0
    assert "--resume" not in said
    ds, whole = load(out), load(tmp_path / "whole.nc")
    assert np.array_equal(ds.eigenvalue, whole.eigenvalue)
    assert ds.attrs["products"] == whole.attrs["products"]
    assert "holds no saved run" in run(capsys, "spectrum", curved, "--out", out, "--resume", tmp_path / "x.nc")[2]


def test_sharpness_of_what_was_asked_for(capsys, curved, tmp_path):
    from analysis import Curvature, load_project

    out = tmp_path / "s.nc"
    options = ["--radius", 0.001, 0.1, "--sigma", 0.01, "--geometry", "euclidean", "filter"]
    status, said, _ = run(capsys, "sharpness", curved, "--out", out, *options)
    assert status == 0
    assert "within radius 0.1: euclidean R0 " in said
    ds = load(out)
    assert ds.geometry.values.tolist() == ["euclidean", "filter"]
    slope = float(Curvature(load_project(curved).problems["small"]).gradient.norm())
    assert float(ds.first_order[0, 0]) == pytest.approx(0.001 * slope, rel=1e-2)
    assert (ds.zeroth_order < ds.first_order).all()
    _, said, _ = run(capsys, "info", out)
    assert "sharpness at end" in said
    assert "worst-case rise of the loss [2 geometry × 2 radius]: " in said
    assert "sha256: " in said


def test_a_trajectory_through_all_checkpoints_or_those_that_are_named(capsys, curved, tmp_path):
    from analysis.curvature import along_training

    out = tmp_path / "t.nc"
    options = ["--largest", 2, "--trace-products", 8, "--learning-rate", 0.5]
    status, said, _ = run(capsys, "trajectory", curved, "--out", out, *options)
    ds, values = load(out), dense_hessian(curved)
    assert status == 0
    first, *_, end, last = said.splitlines()
    assert first.startswith("start: loss ")
    assert f"; λ₁ {values[-1]:.4g} ± " in end
    assert "η λ₁ / 2 " in end
    assert last.startswith(f"Saved: {out} (hessian along start – end; 2 checkpoints, {ds.attrs['products']} products")
    assert "of 2 / η = 4 (η = 0.5)" in last
    assert ds["name"].values.tolist() == ["start", "end"]
    assert (np.abs(ds["eigenvalue"].values - values[[-1, -2, 0]].numpy()) <= ds["bound"].values).all()
    project = load_project(curved)
    *_, same = along_training(
        project.problems["small"], [project.checkpoint("small", "end")], largest=1, smallest=0, trace_products=0
    )
    options = ["--checkpoint", "end", "--largest", 1, "--smallest", 0, "--trace-products", 0]
    assert run(capsys, "trajectory", f"{curved}:small", "--out", out, *options)[0] == 0
    ds = load(out)
    for name in same.data_vars:
        assert ds[name].identical(same[name]), name
    _, said, _ = run(capsys, "info", out)
    assert "hessian along end" in said
    assert "eigenvalue [1 checkpoint × 1 pair]: " in said


@pytest.mark.parametrize(
    ("command", "steps"),
    [("spectrum", "_spectra"), ("sharpness", "sharpness"), ("trajectory", "along_training")],
)
def test_interrupted_curvature_is_saved_as_far_as_it_got(capsys, monkeypatch, curved, tmp_path, command, steps):
    real, out = getattr(cli, steps), tmp_path / "s.nc"

    def interrupted(*arguments, **options):
        yield next(iter(real(*arguments, **options)))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, steps, interrupted)
    status, said, _ = run(capsys, command, curved, "--out", out)
    assert status == 130
    assert said.startswith(f"Interrupted; what there is so far is saved: {out}")
    assert load(out).attrs["status"] == "running"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["spectrum", "--class", "7"], "--class 7: there are samples of the classes [0, 1]"),
        (["spectrum", "--largest", "90"], "together they must be 1 to 8"),
        (["spectrum", "--layers", "conv.*"], "'conv.*' matches no parameter"),
        (["spectrum", "--checkpoint", "nope"], "no checkpoint 'nope'"),
        (["spectrum", "--batchnorm", "frozen"], "batchnorm"),
        (["sharpness", "--radius", "-1"], "radii is [-1.0]"),
        (["trajectory", "--learning-rate", "-1"], "expected a positive number"),
        (["trajectory", "--checkpoint", "nope"], "no checkpoint 'nope'"),
    ],
)
def test_errors_of_curvature_commands(capsys, curved, tmp_path, arguments, said):
    command, *options = arguments
    status, out, err = run(capsys, command, curved, "--out", tmp_path / "s.nc", *options)
    assert (status, out) == (2, "")
    message = [line for line in err.splitlines() if line.startswith("landscape: ")]
    assert len(message) == 1
    assert said in message[0]
    assert not (tmp_path / "s.nc").exists()


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
        (["surface", "{project}", "--out", "s.nc", "--tolerance", "0"], "--tolerance is 0; expected a fraction"),
        (["surface", "{project}", "--out", "s.nc", "--tolerance", "-1"], "--tolerance is -1; expected a fraction"),
        (["surface", "{project}", "--out", "s.nc", "--seed", "2", "2"], "a seed counts once"),
        (["surface", "{project}", "--out", "s.nc", "--seed", "-1"], "seed is -1; expected a whole number"),
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
