"""The shipped samples as a project: the same contract that a `my_project.py` of your own follows."""

from analysis import Problem
from sample_checkpoints import load_digits, manifest, path
from sample_checkpoints.models import build

TITLES = {"mlp128": "MLP 2×128", "mlp512": "MLP 3×512", "resnet16": "Residual CNN, width 16"}

_digits = load_digits()
_samples = manifest()["samples"]

problems = {}
checkpoints = {}
for family, title in TITLES.items():
    members = {name: entry for name, entry in _samples.items() if name.rpartition("-")[0] == family}
    first = next(iter(members.values()))
    for split, x, y in (
        ("test", _digits.x_test, _digits.y_test),
        ("train", _digits.x_train, _digits.y_train),
    ):
        name = f"{title} · {split}"
        problems[name] = Problem(
            build(first["architecture"], first["args"]),
            "cross_entropy",
            (x, y),
            metrics=["accuracy", "loss_per_class"],
            calibration=(_digits.x_train, _digits.y_train),
            name=name,
        )
        checkpoints[name] = {name: path(name) for name in members}
