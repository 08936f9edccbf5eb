"""Train and record the sample checkpoints: ``python -m sample_checkpoints.train [--only NAME] [--check]``.

A new sample is one row of :data:`SAMPLES`. Training uses one thread and one explicit generator, so the same
torch build on the same type of machine gives the same bits; elsewhere rounding differs and training
amplifies it.
"""

import argparse
import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sample_checkpoints import Digits, load_digits, manifest, path
from sample_checkpoints.models import build

SCHEMA = 1
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How a sample is trained: :mod:`torch.optim` class, constant ``lr``, other ``options``, how long."""

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One checkpoint: constructor in ``models`` and its arguments, seed (init, batch order), recipe."""

    name: str
    architecture: str
    args: Mapping[str, Any]
    seed: int
    recipe: Recipe

    @property
    def file(self) -> str:
        return f"{self.name}.safetensors"


MLP_RECIPE = Recipe("Adam", lr=2e-3, batch_size=128, epochs=40)
CNN_RECIPE = Recipe("Adam", lr=2e-3, batch_size=128, epochs=20)

SAMPLES = (
    Sample("mlp512-s0", "mlp", {"widths": [64, 512, 512, 512, 10]}, 0, MLP_RECIPE),
    Sample("mlp512-s1", "mlp", {"widths": [64, 512, 512, 512, 10]}, 1, MLP_RECIPE),
    Sample("mlp128-s0", "mlp", {"widths": [64, 128, 128, 10]}, 0, MLP_RECIPE),
    Sample("mlp128-s1", "mlp", {"widths": [64, 128, 128, 10]}, 1, MLP_RECIPE),
    Sample("resnet16-s0", "ResidualCNN", {"width": 16}, 0, CNN_RECIPE),
    Sample("resnet16-s1", "ResidualCNN", {"width": 16}, 1, CNN_RECIPE),
)


def train(sample: Sample, data: Digits) -> nn.Module:
    """Return the network of ``sample`` trained on ``data.x_train`` [n, 64], in evaluation mode.

    All randomness (weights, then one permutation an epoch) comes from one generator seeded with
    ``sample.seed``; the global generator is neither read nor moved. An epoch's last batch may be smaller.
    """
    generator = torch.Generator().manual_seed(sample.seed)
    recipe = sample.recipe
    with _one_thread():
        model = build(sample.architecture, sample.args, generator=generator).train()
        optimizer = getattr(torch.optim, recipe.optimizer)(model.parameters(), lr=recipe.lr, **recipe.options)
        for _ in range(recipe.epochs):
            for batch in torch.randperm(len(data.x_train), generator=generator).split(recipe.batch_size):
                optimizer.zero_grad()
                cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
                optimizer.step()
    return model.eval()


def evaluate(model: nn.Module, data: Digits) -> dict[str, float]:
    """Return train and test loss (mean cross entropy, nats) and accuracy (0 to 1), to 6 digits."""
    figures = {}
    with torch.no_grad(), _one_thread():
        for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
            logits = model(x).double()
            figures[f"{part}_loss"] = float(f"{cross_entropy(logits, y).item():.6g}")
            figures[f"{part}_accuracy"] = round((logits.argmax(1) == y).double().mean().item(), 6)
    return figures


def steps(recipe: Recipe, n_train: int) -> int:
    """Return the number of optimiser steps that ``recipe`` takes on ``n_train`` images."""
    return recipe.epochs * math.ceil(n_train / recipe.batch_size)


def write(samples: tuple[Sample, ...], data: Digits, folder: Path = FOLDER) -> None:
    """Train ``samples``, write their checkpoints and their entries in the manifest; other entries stay."""
    origin = _origin()
    target = folder / "manifest.json"
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"samples": {}}
    written = {sample.name for sample in samples}
    kept = {s.name: known["samples"][s.name] for s in SAMPLES if s.name in known["samples"].keys() - written}
    if kept and any(known.get(key) != value for key, value in origin.items()):
        raise SystemExit(
            f"the checkpoints that would stay ({', '.join(kept)}) come from other data, torch or machine "
            "than this one; train all, without --only"
        )

    entries = {}
    for sample in samples:
        model = train(sample, data)
        content = _serialised(sample, model, len(data.x_train))
        (folder / sample.file).write_bytes(content)
        entries[sample.name] = _entry(sample, model, content, data)
        print(f"{sample.name}: {_summary(entries[sample.name])}", flush=True)
    everything = kept | entries
    ordered = {s.name: everything[s.name] for s in SAMPLES if s.name in everything}
    text = json.dumps(origin | {"samples": ordered}, indent=2)
    target.write_text(text + "\n", encoding="utf-8", newline="\n")


def check(samples: tuple[Sample, ...], data: Digits) -> bool:
    """Retrain ``samples`` in memory, print a line each, return whether all agree with what is shipped.

    On the torch build and machine type of the manifest the tensors must be identical. Elsewhere the test
    figures must be close: see :func:`close`.
    """
    recorded = manifest()
    same_origin = all(recorded.get(key) == value for key, value in _origin().items())
    agree = True
    for sample in samples:
        model = train(sample, data)
        shipped = safetensors.torch.load_file(path(sample.file))
        difference = _max_difference(model.state_dict(), shipped)
        figures = evaluate(model, data)
        good = difference == 0 if same_origin else close(figures, recorded["samples"][sample.name])
        agree &= good
        verdict = "identical" if difference == 0 else f"max abs difference {difference:.3g}"
        print(f"{sample.name}: {'ok' if good else 'FAILED'}, {verdict}; {_summary(figures)}", flush=True)
    if not same_origin:
        print("other data, torch or machine than the manifest's: judged by test accuracy and loss")
    return agree


def close(figures: Mapping[str, float], recorded: Mapping[str, float]) -> bool:
    """Return whether a retrained sample matches the recorded one: test accuracy to 1 point, loss to 10 %."""
    accuracy = abs(figures["test_accuracy"] - recorded["test_accuracy"])
    loss = abs(figures["test_loss"] - recorded["test_loss"])
    return accuracy <= 0.01 and loss <= 0.1 * recorded["test_loss"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sample_checkpoints.train", description="Train the sample checkpoints."
    )
    parser.add_argument("--only", metavar="NAME", choices=[s.name for s in SAMPLES], help="this sample alone")
    parser.add_argument("--check", action="store_true", help="retrain in memory and compare with the shipped files")
    options = parser.parse_args()
    chosen = tuple(s for s in SAMPLES if options.only in (None, s.name))
    data = load_digits()
    if options.check:
        return 0 if check(chosen, data) else 1
    write(chosen, data)
    return 0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are split over threads, so their number would change the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _origin() -> dict[str, Any]:
    """What must agree for retraining to give the same bits; kernels differ by vector unit and by vendor."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")  # older torch has it not
    return {
        "schema": SCHEMA,
        "data": {"file": "digits.npz", "sha256": _sha256(path("digits.npz").read_bytes())},
        "torch": str(torch.__version__),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {cpu}".strip(),
    }


def _entry(sample: Sample, model: nn.Module, content: bytes, data: Digits) -> dict[str, Any]:
    return {
        "file": sample.file,
        "sha256": _sha256(content),
        "architecture": sample.architecture,
        "args": dict(sample.args),
        "seed": sample.seed,
        "recipe": asdict(sample.recipe) | {"steps": steps(sample.recipe, len(data.x_train))},
        "parameters": sum(p.numel() for p in model.parameters()),
        **evaluate(model, data),
    }


def _serialised(sample: Sample, model: nn.Module, n_train: int) -> bytes:
    """Return the safetensors file of a trained sample.

    safetensors writes its metadata in an order that changes from process to process; they are sorted here, so
    that the same weights make the same file.
    """
    metadata = {
        "name": sample.name,
        "step": str(steps(sample.recipe, n_train)),
        "lr": str(sample.recipe.lr),
        "seed": str(sample.seed),
    }
    content = safetensors.torch.save(model.state_dict(), metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _max_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    if ours.keys() != theirs.keys():
        raise ValueError(f"the shipped tensors have other names: {sorted(ours.keys() ^ theirs.keys())}")
    return max((ours[key].double() - theirs[key].double()).abs().max().item() for key in ours)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _summary(figures: Mapping[str, float]) -> str:
    names = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return ", ".join(f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
