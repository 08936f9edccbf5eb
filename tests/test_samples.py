"""The shipped samples are what their manifest says, and training reproduces them."""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from sample_checkpoints import load_data, load_digits, load_text, manifest, noisy_labels, path
from sample_checkpoints.build_digits import split
from sample_checkpoints.models import CharTransformer, ResidualCNN, build, mlp
from sample_checkpoints.train import (
    FIGURES,
    SAMPLES,
    Recipe,
    check,
    close,
    evaluate,
    learning_rate,
    steps,
    train,
    write,
)

BY_NAME = {sample.name: sample for sample in SAMPLES}
TEST_ACCURACY = {"digits": 0.96, "digits-noise20": 0.8, "text": 0.6}


@pytest.fixture(scope="module")
def data():
    return load_digits()


@pytest.fixture(params=BY_NAME)
def sample(request):
    return BY_NAME[request.param]


def shortened(sample, epochs=2):
    return replace(sample, recipe=replace(sample.recipe, epochs=epochs))


def trained(sample, data):
    return list(train(sample, data).values())[-1]


def checkpoints(entry):
    return entry.get("trajectory", [entry])


def loaded(name, file=None):
    entry = manifest()["samples"][name]
    model = build(entry["architecture"], entry["args"])
    model.load_state_dict(safetensors.torch.load_file(path(file or entry["file"])), strict=True)
    return model.eval()


def barrier(model, start, end, x, y):
    """Largest height of the loss over the chord between its ends, on 21 points."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    with torch.no_grad():
        states = [{key: torch.lerp(start[key], end[key], share) for key in start} for share in t.tolist()]
        loss = torch.stack([cross_entropy(functional_call(model, state, (x,)).double(), y) for state in states])
    return (loss - torch.lerp(loss[0], loss[-1], t)).max().item()


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


def test_text_windows_hold_the_story_and_what_follows_each_character():
    text = load_text()
    story = " ".join(path("text.txt").read_text(encoding="utf-8").split())

    def spelled(codes):
        return ["".join(text.alphabet[code] for code in row) for row in codes.tolist()]

    cut = len(story) - 27 * 32 - 1
    for x, y, starts in (
        (text.x_train, text.y_train, range(0, cut - 31, 4)),
        (text.x_test, text.y_test, range(cut, len(story) - 1, 32)),
    ):
        assert spelled(x) == [story[i : i + 32] for i in starts]
        assert spelled(y) == [story[i + 1 : i + 33] for i in starts]


def test_a_fifth_of_the_noisy_labels_is_wrong(data):
    before = data.y_train.clone()
    noisy = noisy_labels(data.y_train)
    assert torch.equal(data.y_train, before)
    assert (noisy != before).sum() == round(0.2 * 1437)
    shifts = torch.bincount((noisy - before) % 10, minlength=10)[1:]
    assert shifts.min() > 15
    assert shifts.max() < 50
    assert torch.equal(noisy, noisy_labels(before))
    assert not torch.equal(noisy, noisy_labels(before, seed=1))
    assert torch.equal(noisy_labels(before, share=0), before)


def test_data_by_name(data):
    noisy = load_data("digits-noise20")
    assert torch.equal(noisy.x_train, data.x_train)
    assert torch.equal(noisy.y_train, noisy_labels(data.y_train))
    assert torch.equal(noisy.y_test, data.y_test)
    with pytest.raises(ValueError, match=r"'mnist'.*digits, digits-noise20, text"):
        load_data("mnist")


def test_manifest_lists_every_sample_and_its_recipe():
    recorded = manifest()
    assert list(recorded["samples"]) == list(BY_NAME)
    for name, entry in recorded["samples"].items():
        sample = BY_NAME[name]
        assert (entry["architecture"], entry["args"]) == (sample.architecture, sample.args)
        assert (entry["data"], entry["seed"]) == (sample.data, sample.seed)
        assert entry.get("spawn") == (sample.spawn and asdict(sample.spawn))
        total = steps(sample.recipe, len(load_data(sample.data).x_train))
        assert entry["recipe"] == asdict(sample.recipe) | {"steps": total}


def test_manifest_hashes_match_the_files():
    recorded = manifest()
    files = [*recorded["data"], *(each for entry in recorded["samples"].values() for each in checkpoints(entry))]
    for file in files:
        assert hashlib.sha256(path(file["file"]).read_bytes()).hexdigest() == file["sha256"], file["file"]


def test_nothing_is_shipped_that_the_manifest_does_not_list():
    listed = {each["file"] for entry in manifest()["samples"].values() for each in checkpoints(entry)}
    folder = path("manifest.json").parent
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*.safetensors")} == listed


def test_checkpoint_reproduces_its_recorded_figures(sample):
    entry, data = manifest()["samples"][sample.name], load_data(sample.data)
    for recorded in checkpoints(entry):
        model = loaded(sample.name, recorded["file"])
        figures = evaluate(model, data)
        assert {key: recorded[key] for key in FIGURES} == pytest.approx(figures, abs=1e-4)
    assert {key: entry[key] for key in FIGURES} == pytest.approx(figures, abs=1e-4)
    assert sum(p.numel() for p in model.parameters()) == entry["parameters"]
    assert figures["test_accuracy"] >= TEST_ACCURACY[sample.data]


def test_checkpoint_file_says_what_it_holds(sample):
    entry = manifest()["samples"][sample.name]
    total = entry["recipe"]["steps"]
    for recorded in checkpoints(entry):
        with safetensors.safe_open(path(recorded["file"]), framework="pt") as file:
            metadata = file.metadata()
        step = recorded.get("step", total)
        lr = learning_rate(sample.recipe, step, total)
        expected = {"name": sample.name, "step": step, "lr": lr, "seed": entry["seed"]}
        assert metadata == {key: str(value) for key, value in expected.items()}


def test_trajectory_files_are_in_the_order_of_the_steps():
    entry = manifest()["samples"]["trajectory-mlp64"]
    recorded = [(each["step"], path(each["file"])) for each in entry["trajectory"]]
    assert [file for _, file in sorted(recorded)] == sorted(path("trajectory-mlp64").iterdir())
    assert len(recorded) >= 25
    assert (recorded[0][0], recorded[-1][0]) == (0, entry["recipe"]["steps"])
    loss = [each["train_loss"] for each in entry["trajectory"]]
    assert loss == sorted(loss, reverse=True)


def test_trajectory_starts_at_the_initial_weights_and_follows_the_gradient(data):
    sample = BY_NAME["trajectory-mlp64"]
    generator = torch.Generator().manual_seed(sample.seed)
    model = build(sample.architecture, sample.args, generator=generator)
    start, first = (safetensors.torch.load_file(path(f"{sample.name}/step-{step:05d}")) for step in (0, 1))
    batch = torch.randperm(len(data.x_train), generator=generator)[: sample.recipe.batch_size]
    cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(start[name], p.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(first[name], (p - sample.recipe.lr * p.grad).detach(), rtol=0, atol=1e-6)


def test_children_share_the_prefix_and_part_after_it():
    parent = shortened(replace(BY_NAME["spawn-noise20"], keep=(30,)), epochs=1)
    runs = [parent, *(replace(parent, spawn=BY_NAME[f"spawn-noise20-k30-s{seed}"].spawn) for seed in (1, 2))]
    data = load_data(parent.data)
    (trunk, end), *children = ([m.state_dict() for m in train(run, data).values()] for run in runs)
    for at_spawn, _ in children:
        assert all(torch.equal(trunk[key], at_spawn[key]) for key in trunk)
    ends = [end, *(child for _, child in children)]
    for a, b in combinations(ends, 2):
        assert all(not torch.equal(a[key], b[key]) for key in trunk)


def test_the_later_the_spawn_the_lower_the_barrier():
    data = load_data("digits-noise20")
    heights = []
    for k in (0, 30, 100, 300, 1000):
        one, other = (loaded(f"spawn-noise20-k{k}-s{seed}") for seed in (1, 2))
        heights.append(barrier(one, one.state_dict(), other.state_dict(), data.x_train, data.y_train))
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > 0.3
    assert heights[-1] < 0.02


def test_cosine_schedule_falls_from_the_learning_rate_to_zero():
    recipe = Recipe("SGD", lr=0.4, batch_size=1, epochs=1, schedule="cosine")
    rates = [learning_rate(recipe, step, 6) for step in (0, 2, 3, 4, 6)]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1, 0])
    assert learning_rate(replace(recipe, schedule="constant"), 5, 6) == 0.4
    with pytest.raises(ValueError, match=r"'linear'.*constant, cosine"):
        learning_rate(replace(recipe, schedule="linear"), 5, 6)


@pytest.mark.parametrize("name", ["mlp128-s0", "resnet16-s0", "spawn-noise20-k0-s1"])
def test_training_depends_on_its_seed_alone(name):
    short = shortened(BY_NAME[name])
    data = load_data(short.data)
    torch.manual_seed(1)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = trained(short, data).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads

    torch.manual_seed(2)
    second = trained(short, data).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)

    other = trained(replace(short, seed=short.seed + 1), data).state_dict()
    weights = [key for key in first if first[key].ndim > 1]
    assert all(not torch.equal(first[key], other[key]) for key in weights)


def test_retraining_reproduces_the_recorded_test_figures(data):
    figures = evaluate(trained(BY_NAME["mlp128-s0"], data), data)
    assert close(figures, manifest()["samples"]["mlp128-s0"])


def test_check_refuses_tensors_that_training_does_not_give(capsys):
    assert not check([shortened(BY_NAME["mlp128-s0"], epochs=1)])
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("accuracy", "loss", "good"), [(0.97, 0.1, True), (0.97, 0.112, False), (0.985, 0.1, False)])
def test_close_allows_one_point_and_ten_percent(accuracy, loss, good):
    recorded = {"test_accuracy": 0.97, "test_loss": 0.1}
    assert close({"test_accuracy": accuracy, "test_loss": loss}, recorded) is good


def test_writing_again_gives_the_same_bytes_and_keeps_the_others(tmp_path):
    first = shortened(BY_NAME["mlp128-s0"], epochs=1)
    second = replace(shortened(BY_NAME["trajectory-mlp64"], epochs=1), keep=(0, 2))
    write([first, second], tmp_path)
    before = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*.*")}
    ends = [f"trajectory-mlp64/step-{step:05d}.safetensors" for step in (0, 2, 12)]
    assert before.keys() == {"manifest.json", "mlp128-s0.safetensors", *ends}
    write([first], tmp_path)
    assert {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*.*")} == before


def test_writing_one_sample_refuses_to_mix_origins(tmp_path):
    first, second = (shortened(BY_NAME[name], epochs=1) for name in ("mlp128-s0", "mlp128-s1"))
    write([first, second], tmp_path)
    target = tmp_path / "manifest.json"
    target.write_text(json.dumps(json.loads(target.read_text()) | {"torch": "0.0"}))
    with pytest.raises(SystemExit, match=r"mlp128-s1.*without --only"):
        write([first], tmp_path)


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


def test_transformer_sees_no_later_character():
    model = CharTransformer(5, context=6, width=8, heads=2, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[0, 1, 2, 3, 4, 0], [0, 1, 2, 4, 4, 0]])
    one, other = model(x)
    torch.testing.assert_close(one[:3], other[:3], rtol=0, atol=0)
    assert ((one[3:] - other[3:]).abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(model(x[:, :4])[0], one[:4])


def test_transformer_attention_is_that_of_torch():
    model = CharTransformer(5, context=6, width=8, heads=2, generator=torch.Generator().manual_seed(0))
    attention, x = model.blocks[0].attention, torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    layers = (attention.query, attention.key, attention.value)
    q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in layers)
    mixed = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(x), attention.out(mixed))


def test_transformer_reads_and_writes_with_one_embedding():
    model = CharTransformer(5, context=6, width=8, heads=2, generator=torch.Generator().manual_seed(0))
    assert [key for key, value in model.state_dict().items() if 5 in value.shape] == ["embedding.weight"]
    x = torch.tensor([[0, 1, 0, 2]])
    before = model(x)
    with torch.no_grad():
        model.embedding.weight[4] *= 2  # a character that x does not hold: only its logit can change
    torch.testing.assert_close(model(x), before * torch.tensor([1, 1, 1, 1, 2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp([64]), "output width"),
        (lambda: mlp([64, 10], "swish"), "relu, tanh, gelu"),
        (lambda: build("transformer", {}), "mlp, ResidualCNN, CharTransformer"),
    ],
)
def test_models_say_what_they_accept(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_path_lists_what_is_shipped():
    assert path("mlp128-s0") == path("mlp128-s0.safetensors")
    assert path("trajectory-mlp64/step-00000") == path("trajectory-mlp64") / "step-00000.safetensors"
    with pytest.raises(FileNotFoundError, match=r"mlp1024.*digits\.npz.*mlp512-s0\.safetensors.*trajectory-mlp64$"):
        path("mlp1024")


@pytest.mark.parametrize("name", ["", ".", "../README.md", "__pycache__", "train.py", "trajectory-mlp64/step-99999"])
def test_path_gives_what_is_shipped_alone(name):
    with pytest.raises(FileNotFoundError):
        path(name)


def test_import_is_light():
    code = (
        "import sys, sample_checkpoints, sample_checkpoints.train\n"
        "sample_checkpoints.load_digits()\n"
        "print([name for name in ('sklearn', 'panel', 'holoviews', 'bokeh') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
