"""The shipped samples as a project: the same contract that a `my_project.py` of your own follows."""

from functools import partial

from analysis import Problem
from sample_checkpoints import load_data, manifest, path
from sample_checkpoints.models import build

FAMILIES = {
    "mlp128": "MLP 2×128",
    "mlp512": "MLP 3×512",
    "tanh64": "MLP 2×64, tanh",
    "gelu64": "MLP 2×64, GELU",
    "resnet16": "Residual CNN, width 16",
    "resnet32": "Residual CNN, width 32",
    "chartransformer": "Character transformer",
    "trajectory-mlp64": "MLP 64, a training run",
    "spawn-noise20": "MLP 3×64, noisy labels, spawned pairs",
}


def made(family: str, split: str) -> Problem:
    """One family of samples on the test or the training data."""
    entry = _samples.get(family) or _samples[f"{family}-s0"]
    data = load_data(entry["data"])
    return Problem(
        build(entry["architecture"], entry["args"]),
        "cross_entropy",
        {"test": (data.x_test, data.y_test), "train": (data.x_train, data.y_train)}[split],
        metrics=["accuracy"] if entry["data"] == "text" else ["accuracy", "loss_per_class"],
        calibration=(data.x_train, data.y_train),
        name=f"{FAMILIES[family]} · {split}",
    )


problems = {}
checkpoints = {}
_samples = manifest()["samples"]
for family, title in FAMILIES.items():
    members = [name for name in _samples if name.startswith(f"{family}-")]
    for split in ("test", "train"):
        name = f"{title} · {split}"
        problems[name] = partial(made, family, split)
        checkpoints[name] = {member: path(member) for member in members} or path(family)
