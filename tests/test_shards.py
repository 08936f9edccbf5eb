"""Checkpoints in shards and in folders: each tensor comes back, nothing outside is read, what is missing is named."""

import json
import os
import pathlib

import pytest
import torch
from models import Tied, mlp, mlp_problem
from safetensors.torch import save_file

from analysis import CheckpointError, Project, load_checkpoint, read_checkpoint


def shard(folder, state, kind="safetensors", parts=3, table=None):
    """Write a state dict as Hugging Face does; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    write, stem, suffix = {
        "safetensors": (lambda t, p: save_file(t, p, {"format": "pt"}), "model", ".safetensors"),
        "bin": (torch.save, "pytorch_model", ".bin"),
    }[kind]
    names = list(state)
    where = {}
    for i in range(parts):
        file = f"{stem}-{i + 1:05d}-of-{parts:05d}{suffix}"
        mine = names[i::parts]
        write({name: state[name].contiguous() for name in mine}, folder / file)
        where |= dict.fromkeys(mine, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table or where}))
    return index


def trainer_files(folder):
    """What a trainer leaves beside the weights."""
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin"):
        torch.save({"state": torch.ones(3)}, folder / name)
    (folder / "trainer_state.json").write_text("{}")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards_give_every_tensor(tmp_path, kind, given):
    model = mlp(seed=3)
    index = shard(tmp_path / "checkpoint-500", model.state_dict(), kind)
    trainer_files(index.parent)
    point = load_checkpoint(index if given == "index" else index.parent, mlp())
    assert point.name == "checkpoint-500"
    assert list(point.weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(point.weights[name], tensor)
    assert point.source.endswith(index.name if given == "index" else "checkpoint-500")


def test_a_tied_weight_lies_in_one_shard(tmp_path):
    model = Tied()
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    point = load_checkpoint(shard(tmp_path, state), Tied())
    assert torch.equal(point.weights["head.weight"], model.embedding.weight)


def test_the_safetensors_of_a_folder_count_before_the_pickles(tmp_path):
    shard(tmp_path, mlp(seed=1).state_dict(), "bin")
    shard(tmp_path, mlp(seed=2).state_dict(), "safetensors")
    assert torch.equal(load_checkpoint(tmp_path, mlp()).weights["0.weight"], mlp(seed=2)[0].weight)
    single = tmp_path / "single"
    single.mkdir()
    torch.save(mlp(seed=1).state_dict(), single / "pytorch_model.bin")
    save_file(mlp(seed=2).state_dict(), single / "model.safetensors")
    trainer_files(single)
    point = load_checkpoint(single, mlp())
    assert (point.name, float(point.weights["0.weight"][0, 0])) == ("single", mlp(seed=2)[0].weight[0, 0].item())


@pytest.mark.parametrize(
    "file",
    ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "..\\x.bin", "C:x.bin", "a\nb.bin"],
)
def test_an_index_names_files_of_its_own_folder_alone(tmp_path, file):
    folder = tmp_path / "in"
    save_file(mlp().state_dict(), tmp_path / "outside.safetensors")
    (folder / "sub").mkdir(parents=True)
    save_file(mlp().state_dict(), folder / "sub" / "x.safetensors")
    index = shard(folder, mlp().state_dict(), table={"0.weight": file})
    with pytest.raises(CheckpointError, match="in the same folder.*Nothing was read") as caught:
        read_checkpoint(index)
    assert str(caught.value).isprintable()


class Planted:
    def __reduce__(self):
        return os.system, ("touch planted",)


def test_no_code_in_a_shard_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    index = shard(tmp_path / "c", mlp().state_dict(), "bin", parts=2)
    evil = index.parent / "pytorch_model-00002-of-00002.bin"
    torch.save({**torch.load(evil), "planted": Planted(), "where": pathlib.Path("x")}, evil)
    found = read_checkpoint(index)
    assert any("system" in name for name in found.placeholders)
    assert not (tmp_path / "planted").exists()


def test_what_is_missing_is_named(tmp_path):
    index = shard(tmp_path / "c", mlp().state_dict())
    second = index.parent / "model-00002-of-00003.safetensors"
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(CheckpointError, match=r"incomplete: 1 of 3 shards are missing: 'model-00002-of-00003"):
        read_checkpoint(index.parent)
    second.write_bytes(kept[:-20])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.safetensors \(.*is damaged or cut short"):
        read_checkpoint(index)
    save_file({"other": torch.ones(2)}, second)
    with pytest.raises(CheckpointError, match=r"lacks '0.bias', '4.weight', which model.safetensors.index.json says"):
        read_checkpoint(index)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"shards without their index. Copy the file that ends in .index.json"):
        read_checkpoint(index.parent)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "[" * 10**5, '{"weight_map": {}}', '{"weight_map": {"w": 3}}', '{"weight_map": [1]}', "\x00\xff"],
)
def test_a_damaged_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not JSON|is no index of shards"):
        read_checkpoint(tmp_path)


def test_an_index_is_no_shard(tmp_path):
    index = shard(tmp_path, mlp().state_dict(), table={"0.weight": "model.safetensors.index.json"})
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        read_checkpoint(index)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "no weights. It holds nothing; expected is one file"),
        (["notes.txt"], "no weights. It holds 'notes.txt'"),
        (["optimizer.pt"], "no weights"),
        (["a.pt", "b.pt"], r"2 checkpoints: 'a.pt', 'b.pt'. Give one"),
        (["__0_0.distcp", ".metadata"], "distributed checkpoint. Convert it first"),
        (["a.safetensors.index.json", "b.safetensors.index.json"], "2 indices of shards"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_why(tmp_path, files, words):
    for name in files:
        (tmp_path / name).write_text("x")
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


def test_a_folder_of_steps_is_not_one_checkpoint(tmp_path):
    shard(tmp_path / "checkpoint-5", mlp().state_dict())
    with pytest.raises(CheckpointError, match="checkpoints in folders: 'checkpoint-5'. Give one of them"):
        read_checkpoint(tmp_path)


# --- folders of steps in projects -----------------------------------------------------------------------


def project(checkpoints):
    return Project(mlp_problem(name="p"), checkpoints)


def step(number):
    return {name: torch.full_like(tensor, float(number)) for name, tensor in mlp().state_dict().items()}


def test_steps_may_be_folders_and_stand_in_numeric_order(tmp_path):
    runs = tmp_path / "runs"
    shard(runs / "checkpoint-1000", step(1000))
    shard(runs / "checkpoint-500", step(500), "bin")
    (runs / "checkpoint-20").mkdir()
    save_file(step(20), runs / "checkpoint-20" / "model.safetensors")
    trainer_files(runs / "checkpoint-20")
    torch.save(step(3), runs / "checkpoint-3.pt")
    (runs / "logs").mkdir()
    names = ("checkpoint-3", "checkpoint-20", "checkpoint-500", "checkpoint-1000")
    for given in (runs, f"{runs}/*", [runs], [f"{runs}/checkpoint-*"]):
        opened = project(given)
        assert opened.checkpoint_names("p") == names
        for name in names:
            point = opened.checkpoint("p", name)
            assert point.name == name
            assert float(point.weights["0.weight"][0, 0]) == int(name.partition("-")[2])


@pytest.mark.parametrize(
    "names",
    [
        ("step_2.pt", "step_10.pt"),
        ("epoch=3.ckpt", "epoch=12.ckpt"),
        ("epoch=3-step=90.ckpt", "epoch=3-step=100.ckpt"),
        ("9.pth", "10.pth", "100.pth"),
    ],
)
def test_numbers_in_names_are_numbers(tmp_path, names):
    for name in reversed(names):
        torch.save(step(1), tmp_path / name)
    assert project(tmp_path).checkpoint_names("p") == tuple(name.rpartition(".")[0] for name in names)


def test_a_folder_of_one_sharded_checkpoint_is_that_checkpoint_after_its_steps(tmp_path):
    run = tmp_path / "final"
    shard(run, step(7))
    assert project(run).checkpoint_names("p") == ("final",)
    shard(run / "checkpoint-5", step(5))
    assert project(run).checkpoint_names("p") == ("checkpoint-5", "final")
    assert float(project(run).checkpoint("p", "final").weights["0.bias"][0]) == 7
    named = project({"one": run, "two": run / "checkpoint-5" / "model.safetensors.index.json"})
    assert [float(named.checkpoint("p", name).weights["0.bias"][0]) for name in ("one", "two")] == [7, 5]


def test_checkpoints_of_one_name_in_several_folders_are_all_kept(tmp_path):
    for number in (9, 10):
        (tmp_path / f"run-{number}").mkdir()
        torch.save(step(number), tmp_path / f"run-{number}" / "model.pt")
    for given in (f"{tmp_path}/*/model.pt", [tmp_path / "run-9" / "model.pt", tmp_path / "run-10" / "model.pt"]):
        opened = project(given)
        assert opened.checkpoint_names("p") == ("run-9/model.pt", "run-10/model.pt")
        assert float(opened.checkpoint("p", "run-9/model.pt").weights["0.bias"][0]) == 9


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    folder = tmp_path / "run [1]"
    folder.mkdir()
    torch.save(step(1), folder / "a.pt")
    assert project(folder).checkpoint_names("p") == project(folder / "a.pt").checkpoint_names("p") == ("a",)
    text = "import sys\nfrom models import mlp_problem\nproblem = mlp_problem()\ncheckpoints = '*.pt'\n"
    (folder / "my_project.py").write_text(text)
    from analysis import load_project

    assert load_project(folder / "my_project.py").checkpoint_names("Sequential") == ("a",)
