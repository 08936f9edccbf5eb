"""The shipped samples are what their manifest says, and training reproduces them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from sample_checkpoints import load_digits, manifest, path
from sample_checkpoints.build_digits import split
from sample_checkpoints.models import ResidualCNN, build, mlp
from sample_checkpoints.train import SAMPLES, check, close, evaluate, steps, train, write

BY_NAME = {sample.name: sample for sample in SAMPLES}
FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


@pytest.fixture(scope="module")
def data():
    return load_digits()


@pytest.fixture(params=BY_NAME)
def sample(request):
    return BY_NAME[request.param]


def shortened(sample, epochs=2):
    return replace(sample, recipe=replace(sample.recipe, epochs=epochs))


def loaded(name):
    entry = manifest()["samples"][name]
    model = build(entry["architecture"], entry["args"])
    model.load_state_dict(safetensors.torch.load_file(path(name)), strict=True)
    return model.eval()


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn, the source of digits.npz, is missing")
    source = datasets.load_digits()
    with np.load(path("digits.npz")) as stored:
        assert stored["images"].dtype == stored["labels"].dtype == np.uint8
        np.testing.assert_array_equal(stored["images"], source.data)
        np.testing.assert_array_equal(stored["labels"], source.target)
        np.testing.assert_array_equal(stored["train"], split(source.target))


def test_the_split_is_stratified():
    with np.load(path("digits.npz")) as stored:
        labels, train_part = stored["labels"], stored["train"]
    assert (train_part.sum(), (~train_part).sum()) == (1437, 360)
    expected = np.bincount(labels) * 360 / 1797
    assert np.abs(np.bincount(labels[~train_part]) - expected).max() < 1


def test_pixels_are_centred_on_the_training_mean_and_keep_their_scale(data):
    assert data.x_train.shape == (1437, 64)
    assert data.x_test.shape == (360, 64)
    assert data.x_train.dtype == data.x_test.dtype == torch.float32
    assert data.y_train.dtype == data.y_test.dtype == torch.int64
    assert data.x_train.double().mean(0).abs().max() < 1e-7
    with np.load(path("digits.npz")) as stored:
        pixels, train_part = stored["images"].astype(float) / 16, stored["train"]
    expected = pixels[~train_part] - pixels[train_part].mean(axis=0)
    np.testing.assert_allclose(data.x_test.numpy(), expected, atol=1e-7)


def test_manifest_lists_every_sample_and_its_recipe(data):
    recorded = manifest()
    assert list(recorded["samples"]) == list(BY_NAME)
    for name, entry in recorded["samples"].items():
        sample = BY_NAME[name]
        assert (entry["architecture"], entry["args"]) == (sample.architecture, sample.args)
        assert entry["seed"] == sample.seed
        assert entry["recipe"]["lr"] == sample.recipe.lr
        assert entry["recipe"]["steps"] == steps(sample.recipe, len(data.x_train))


def test_manifest_hashes_match_the_files():
    recorded = manifest()
    for entry in (recorded["data"], *recorded["samples"].values()):
        assert hashlib.sha256(path(entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]


def test_checkpoint_reproduces_its_recorded_figures(sample, data):
    entry = manifest()["samples"][sample.name]
    model = loaded(sample.name)
    assert sum(p.numel() for p in model.parameters()) == entry["parameters"]
    figures = evaluate(model, data)
    assert {key: entry[key] for key in FIGURES} == pytest.approx(figures, abs=1e-4)
    assert figures["test_accuracy"] >= 0.96


def test_checkpoint_file_says_what_it_holds(sample):
    entry = manifest()["samples"][sample.name]
    with safetensors.safe_open(path(sample.name), framework="pt") as file:
        metadata = file.metadata()
    recipe = entry["recipe"]
    expected = {"name": sample.name, "step": recipe["steps"], "lr": recipe["lr"], "seed": entry["seed"]}
    assert metadata == {key: str(value) for key, value in expected.items()}


@pytest.mark.parametrize("name", ["mlp128-s0", "resnet16-s0"])
def test_training_depends_on_its_seed_alone(name, data):
    short = shortened(BY_NAME[name])
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train(short, data).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads

    torch.manual_seed(2)
    second = train(short, data).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)

    other = train(replace(short, seed=short.seed + 1), data).state_dict()
    weights = [key for key in first if first[key].ndim > 1]
    assert all(not torch.equal(first[key], other[key]) for key in weights)


def test_retraining_reproduces_the_recorded_test_figures(data):
    figures = evaluate(train(BY_NAME["mlp128-s0"], data), data)
    assert close(figures, manifest()["samples"]["mlp128-s0"])


def test_check_refuses_tensors_that_training_does_not_give(data, capsys):
    assert not check((shortened(BY_NAME["mlp128-s0"], epochs=1),), data)
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("accuracy", "loss", "good"), [(0.97, 0.1, True), (0.97, 0.112, False), (0.985, 0.1, False)])
def test_close_allows_one_point_and_ten_percent(accuracy, loss, good):
    recorded = {"test_accuracy": 0.97, "test_loss": 0.1}
    assert close({"test_accuracy": accuracy, "test_loss": loss}, recorded) is good


def test_writing_again_gives_the_same_bytes_and_keeps_the_others(tmp_path, data):
    first, second = (shortened(BY_NAME[name], epochs=1) for name in ("mlp128-s0", "mlp128-s1"))
    write((first, second), data, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert before.keys() == {"manifest.json", first.file, second.file}
    write((first,), data, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_writing_one_sample_refuses_to_mix_origins(tmp_path, data):
    first, second = (shortened(BY_NAME[name], epochs=1) for name in ("mlp128-s0", "mlp128-s1"))
    write((first, second), data, tmp_path)
    target = tmp_path / "manifest.json"
    target.write_text(json.dumps(json.loads(target.read_text()) | {"torch": "0.0"}))
    with pytest.raises(SystemExit, match=r"mlp128-s1.*without --only"):
        write((first,), data, tmp_path)


def test_state_dict_keys_are_stable():
    assert list(mlp([64, 8, 10]).state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert len(mlp([64, 8, 8, 10])) == 5
    keys = ResidualCNN(4).state_dict().keys()
    assert {
        "stem.conv.weight",
        "block2.shortcut.bn.running_mean",
        "block3.second.bn.bias",
        "head.weight",
    } <= keys
    assert "block1.shortcut.conv.weight" not in keys
    assert "block3.shortcut.conv.weight" not in keys


def test_weights_start_he_normal_and_biases_zero():
    model = mlp([512, 512, 10], generator=torch.Generator().manual_seed(0))
    assert model.fc1.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.01)
    assert not model.fc1.bias.any()
    cnn = ResidualCNN(32, generator=torch.Generator().manual_seed(0))
    assert cnn.block3.first.conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not cnn.head.bias.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp([64]), "output width"),
        (lambda: mlp([64, 10], "swish"), "relu, tanh, gelu"),
        (lambda: build("transformer", {}), "mlp, ResidualCNN"),
    ],
)
def test_models_say_what_they_accept(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_path_lists_what_is_shipped():
    assert path("mlp128-s0") == path("mlp128-s0.safetensors")
    with pytest.raises(FileNotFoundError, match=r"mlp1024.*digits\.npz.*mlp512-s0\.safetensors"):
        path("mlp1024")


def test_import_is_light():
    code = (
        "import sys, sample_checkpoints, sample_checkpoints.train\n"
        "sample_checkpoints.load_digits()\n"
        "print([name for name in ('sklearn', 'panel', 'holoviews', 'bokeh') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
