"""`landscape barrier`, `match`, `merge` and `symmetries`, run in this process on a small project."""

import re
from functools import cache

import numpy as np
import pytest
import torch
from models import classification, mlp
from test_cli import run

from analysis import load, load_checkpoint
from landscape_app import connecting

PROJECT = """
import torch
from test_cli_connectivity import trained
from analysis import Problem
from analysis.connectivity import find_symmetries
from models import classification, mlp

problem = Problem(mlp(), "cross_entropy", classification(), name="small")
one = problem.checkpoint(trained(1))
copy = find_symmetries(problem).random(3).apply(one)
checkpoints = {"one": trained(1), "copy": dict(copy.weights), "other": trained(2), "misfit": torch.nn.Linear(4, 2)}
"""


@cache
def trained(seed):
    model, (x, y) = mlp(seed=seed), classification()
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model


@pytest.fixture
def project(tmp_path):
    file = tmp_path / "my_project.py"
    file.write_text(PROJECT)
    return file


def heights(said, words):
    line = next(line for line in said.splitlines() if line.startswith(words))
    return float(re.search(r"barrier of loss (\S+)", line)[1])


def test_a_barrier_is_said_and_saved(capsys, project, tmp_path):
    out = tmp_path / "b.nc"
    status, said, _ = run(capsys, "barrier", project, "one", "copy", "--out", out, "--points", 9)
    assert status == 0
    ds = load(out)
    assert list(ds.marker_name.values) == ["one", "copy"]
    assert float(ds.loss_barrier) > 0.01
    assert f"barrier of loss {float(ds.loss_barrier):.3g} at" in said
    assert "barrier of accuracy" in said
    status, said, _ = run(capsys, "info", out)
    assert "barrier of loss" in said


def test_barriers_of_layers(capsys, project, tmp_path):
    out = tmp_path / "layers.nc"
    status, said, _ = run(capsys, "barrier", project, "one", "other", "--layers", "--out", out)
    assert status == 0
    ds = load(out)
    assert list(ds.layer.values) == ["0", "2", "4"]
    for into, name in enumerate(("one", "other")):
        assert f"{float(ds.loss_barrier[1, into]):.3g} in {name}" in said


def test_a_curve_is_trained_and_saved(capsys, project, tmp_path):
    out = tmp_path / "curve.nc"
    arguments = ["curve", project, "one", "other", "--out", out, "--steps", 200, "--learning-rate", 0.02]
    status, said, _ = run(capsys, *arguments)
    assert status == 0
    ds = load(out)
    assert ds.attrs["evaluations"] == 200
    assert heights(said, "Saved") == pytest.approx(float(ds.loss_barrier), rel=1e-2)
    straight = run(capsys, "barrier", project, "one", "other")[1]
    assert heights(said, "Saved") < 0.5 * heights(straight, "Done")


def test_all_pairs(capsys, project, tmp_path):
    out = tmp_path / "matrix.nc"
    status, said, _ = run(capsys, "matrix", project, "one", "copy", "other", "--out", out, "--points", 9)
    assert status == 0
    ds = load(out)
    assert list(ds.row_name.values) == ["one", "copy", "other"]
    for i, j, pair in ((0, 1, "one – copy"), (0, 2, "one – other"), (1, 2, "copy – other")):
        assert f"{pair} {float(ds.loss_barrier[i, j]):.3g}" in said
    alone = run(capsys, "barrier", project, "copy", "other", "--points", 9)[1]
    assert heights(alone, "Done") == pytest.approx(float(ds.loss_barrier[1, 2]), rel=1e-2)


def test_a_barrier_need_not_be_saved(capsys, project, tmp_path):
    status, said, _ = run(capsys, "barrier", project, "one", "other", "--convention", "mid")
    assert status == 0
    assert said.startswith("Done (barrier between one and other")
    assert not list(tmp_path.glob("*.nc"))


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_a_permuted_copy_is_brought_back(capsys, project, tmp_path, method):
    out = tmp_path / "matched.safetensors"
    status, said, _ = run(capsys, "match", project, "one", "copy", "--out", out, "--method", method)
    assert status == 0
    assert "certified" in said
    assert heights(said, "before") > 0.01
    assert "after: copy holds the same weights as one" in said
    found = load_checkpoint(out, mlp())
    for name, tensor in trained(1).state_dict().items():
        assert torch.equal(found.weights[name], tensor)
    assert found.info["by"] == method
    assert run(capsys, "barrier", project, "one", out)[0] == 2  # the same weights, read from the file


def test_matching_lowers_the_barrier(capsys, project, tmp_path):
    status, said, _ = run(capsys, "match", project, "one", "other", "--out", tmp_path / "m.pt")
    assert status == 0
    assert heights(said, "after") < 0.5 * heights(said, "before")
    again = run(capsys, "barrier", project, "one", tmp_path / "m.pt")[1]
    assert heights(again, "Done") == pytest.approx(heights(said, "after"), rel=1e-6)


def test_naive_and_matched_paths_come_into_one_figure(capsys, project, tmp_path):
    run(capsys, "match", project, "one", "other", "--out", tmp_path / "m.pt")
    files = [tmp_path / f"{name}.nc" for name in ("naive", "matched", "elsewhere")]
    for file, end in zip(files, ("other", tmp_path / "m.pt", "copy"), strict=True):
        assert run(capsys, "barrier", project, "one", end, "--out", file, "--points", 9)[0] == 0
    out = tmp_path / "both.svg"
    status, said, _ = run(capsys, "figure", *files[:2], "--out", out, "--beside")
    assert status == 0
    assert f"Saved: {out}, " in said
    assert "(paths between one and other: naive, matched)" in said
    drawn = out.read_text()
    words = (tmp_path / "both.txt").read_text()
    for file in files[:2]:
        assert f">{file.stem}</text>" in drawn
        assert f"{file.stem}: {float(load(file).loss_barrier):.3g} nats at t = " in words
    assert run(capsys, "figure", *files, "--out", out)[0] == 2
    assert "not the same pair" in run(capsys, "figure", files[0], files[2], "--out", out)[2]
    assert "called alike" in run(capsys, "figure", files[0], files[0], "--out", out)[2]


def test_straight_through_matching_starts_from_the_weights(capsys, project, tmp_path):
    out, by_weights = tmp_path / "s.safetensors", tmp_path / "w.pt"
    search = ("--method", "straight-through", "--steps", 5)
    status, _, errors = run(capsys, "match", project, "one", "other", "--out", out, *search)
    assert status == 0
    assert "5/5 [" in errors
    assert load_checkpoint(out, mlp()).info["by"] == "straight-through"
    run(capsys, "match", project, "one", "other", "--out", by_weights)
    half = [run(capsys, "barrier", project, "one", file, "--convention", "mid")[1] for file in (out, by_weights)]
    assert heights(half[0], "Done") <= heights(half[1], "Done")
    with pytest.raises(SystemExit):
        run(capsys, "merge", project, "one", "other", "--out", out, "--method", "straight-through")


def test_three_are_merged(capsys, project, tmp_path):
    out = tmp_path / "merged.pt"
    status, said, _ = run(capsys, "merge", project, "one", "copy", "copy", "--out", out, "--repair")
    assert status == 0
    losses = {line.partition(":")[0]: float(re.search(r": loss (\S+),", line)[1]) for line in said.splitlines()[1:-1]}
    assert losses["merged"] == pytest.approx(losses["one"], rel=1e-3)
    assert losses["average as they are"] > losses["one"] + 0.05
    mlp().load_state_dict(torch.load(out))


def test_symmetries_are_listed(capsys, project):
    status, said, _ = run(capsys, "symmetries", project)
    assert status == 0
    assert "2 groups, 10^26.6 symmetries" in said  # 16! squared
    assert "certified" in said
    assert "S16" in said
    assert "0.weight[0]" in said
    assert "fixed by" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["barrier", "{project}", "one", "nope"], "no checkpoint 'nope'"),
        (["barrier", "{project}", "one", "nope.pt"], "no such file; it has one, copy"),
        (["barrier", "{project}", "one", "misfit"], "weight"),
        (["barrier", "{project}", "one", "one"], "same weights"),
        (["barrier", "{project}", "one", "copy", "--points", "4"], "odd"),
        (["barrier", "{project}", "one", "copy", "--out", "b.pt"], "netCDF"),
        (["curve", "{project}", "one", "copy", "--out", "c.pt"], "netCDF"),
        (["curve", "{project}", "one", "copy", "--out", "c.nc", "--bends", "0"], "bends"),
        (["matrix", "{project}", "one", "--out", "m.nc"], "two or more"),
        (["matrix", "{project}", "--out", "m.nc"], "weight"),
        (["match", "{project}", "one", "copy", "--out", "m.nc"], "checkpoint file, such as result.safetensors"),
        (["match", "{project}", "one", "copy", "--out", "none/m.pt"], "does not exist"),
        (["merge", "{project}", "one", "--out", "m.pt"], "two or more"),
        (["symmetries", "none.py"], "There is no project file"),
    ],
)
def test_errors_are_one_message_and_status_2(capsys, monkeypatch, project, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *(a.format(project=project.name) for a in arguments))
    assert (status, out) == (2, "")
    message = [line for line in err.splitlines() if line.startswith("landscape: ")]
    assert len(message) == 1
    assert words in message[0]
    assert not list(tmp_path.glob("*.pt"))


def test_an_interrupted_barrier_is_saved_as_far_as_it_got(capsys, monkeypatch, project, tmp_path):
    real = connecting.barrier

    def interrupted(*args, **options):
        yield next(real(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(connecting, "barrier", interrupted)
    out = tmp_path / "b.nc"
    status, said, _ = run(capsys, "barrier", project, "one", "copy", "--out", out)
    assert (status, said.startswith("Interrupted")) == (130, True)
    assert np.isfinite(load(out).loss).all()
