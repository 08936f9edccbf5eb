"""Train and record the sample checkpoints: ``python -m sample_checkpoints.train [--only NAME ...] [--check]``.

A new sample is one row of :data:`SAMPLES`, or a larger count in one. Training uses one thread and explicit
generators, so the same torch build on the same type of machine gives the same bits; elsewhere rounding
differs and training amplifies it.
"""

import argparse
import copy
import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sample_checkpoints import Digits, Text, load_data, manifest, path
from sample_checkpoints.models import build

SCHEMA = 2
# Away from the manifest's machine. Networks that learn wrong labels by heart amplify rounding most: with
# AVX2 in place of AVX-512 kernels their test accuracy moved by up to 2.5 points and their test loss by 12 %.
TOLERANCE = {"digits-noise20": {"accuracy": 0.05, "loss": 0.3}}
FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How a sample is trained: :mod:`torch.optim` class with its ``options``, learning rate, how long.

    ``schedule`` is ``"constant"``, or ``"cosine"`` from ``lr`` down to 0 at the end.
    """

    optimizer: str
    lr: float
    batch_size: int
    epochs: int
    schedule: str = "constant"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spawn:
    """From ``step`` on, a child draws its batches with a ``seed`` of its own."""

    step: int
    seed: int


@dataclass(frozen=True)
class Sample:
    """One run: constructor in ``models`` and its arguments, seed (init, batch order), recipe, name of the data.

    The network at the end is kept; ``keep`` names further steps, and makes the sample a folder of checkpoints.
    """

    name: str
    architecture: str
    args: Mapping[str, Any]
    seed: int
    recipe: Recipe
    data: str = "digits"
    spawn: Spawn | None = None
    keep: tuple[int, ...] = ()

    def file(self, step: int) -> str:
        """Return the name of the checkpoint at ``step``."""
        return f"{self.name}/step-{step:05d}.safetensors" if self.keep else f"{self.name}.safetensors"


def seeds(family: str, n: int, architecture: str, args: Mapping[str, Any], recipe: Recipe, **rest) -> list[Sample]:
    """Return samples ``family-s0``, ``family-s1``, ... that differ in nothing but their seed, 0 to ``n - 1``."""
    return [Sample(f"{family}-s{seed}", architecture, args, seed, recipe, **rest) for seed in range(n)]


MLP_RECIPE = Recipe("Adam", lr=2e-3, batch_size=128, epochs=40)
CNN_RECIPE = Recipe("Adam", lr=2e-3, batch_size=128, epochs=20)
TEXT_RECIPE = Recipe("Adam", lr=2e-3, batch_size=32, epochs=20, schedule="cosine")
SGD_RECIPE = Recipe("SGD", lr=0.05, batch_size=128, epochs=40, options={"momentum": 0.9})
NOISE_RECIPE = Recipe("SGD", lr=0.1, batch_size=32, epochs=60, schedule="cosine", options={"momentum": 0.9})

NOISE_MLP = {"widths": [64, 64, 64, 64, 10]}
SPAWN_STEPS = (0, 30, 100, 300, 1000)
# Dense at the start, where the loss changes most.
TRAJECTORY_STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192, 256, 320, 384)

SAMPLES = (
    *seeds("mlp512", 2, "mlp", {"widths": [64, 512, 512, 512, 10]}, MLP_RECIPE),
    *seeds("mlp128", 6, "mlp", {"widths": [64, 128, 128, 10]}, MLP_RECIPE),
    *seeds("resnet16", 3, "ResidualCNN", {"width": 16}, CNN_RECIPE),
    *seeds("resnet32", 2, "ResidualCNN", {"width": 32}, CNN_RECIPE),
    *seeds("tanh64", 2, "mlp", {"widths": [64, 64, 64, 10], "activation": "tanh"}, MLP_RECIPE),
    *seeds("gelu64", 2, "mlp", {"widths": [64, 64, 64, 10], "activation": "gelu"}, MLP_RECIPE),
    *seeds("chartransformer", 2, "CharTransformer", {"characters": 42, "context": 32}, TEXT_RECIPE, data="text"),
    Sample("trajectory-mlp64", "mlp", {"widths": [64, 64, 10]}, 0, SGD_RECIPE, keep=TRAJECTORY_STEPS),
    Sample("spawn-noise20", "mlp", NOISE_MLP, 0, NOISE_RECIPE, data="digits-noise20", keep=SPAWN_STEPS),
    *(
        Sample(f"spawn-noise20-k{k}-s{seed}", "mlp", NOISE_MLP, 0, NOISE_RECIPE, "digits-noise20", Spawn(k, seed))
        for k in SPAWN_STEPS
        for seed in (1, 2)
    ),
)


def train(sample: Sample, data: Digits | Text) -> dict[int, nn.Module]:
    """Return the networks that ``sample`` keeps, by step, in evaluation mode; the last is that of the end.

    All randomness (weights, then one permutation of ``data.x_train`` an epoch) comes from one generator seeded
    with ``sample.seed``, after a spawn from another one; the global generator is neither read nor moved. An
    epoch's last batch may be smaller.
    """
    generator = torch.Generator().manual_seed(sample.seed)
    recipe, n = sample.recipe, len(data.x_train)
    total = steps(recipe, n)
    kept = {}
    with _one_thread():
        model = build(sample.architecture, sample.args, generator=generator).train()
        optimizer = getattr(torch.optim, recipe.optimizer)(model.parameters(), lr=recipe.lr, **recipe.options)
        for step, batch in enumerate(_batches(sample, n, generator)):
            if step in sample.keep:
                kept[step] = copy.deepcopy(model).eval()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, total)
            optimizer.zero_grad()
            _cross_entropy(model(data.x_train[batch]), data.y_train[batch]).backward()
            optimizer.step()
    return kept | {total: model.eval()}


def evaluate(model: nn.Module, data: Digits | Text) -> dict[str, float]:
    """Return train and test loss (mean cross entropy, nats) and accuracy (0 to 1), to 6 digits."""
    figures = {}
    with torch.no_grad(), _one_thread():
        for part, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
            logits = model(x).double()
            figures[f"{part}_loss"] = float(f"{_cross_entropy(logits, y).item():.6g}")
            figures[f"{part}_accuracy"] = round((logits.argmax(-1) == y).double().mean().item(), 6)
    return figures


def steps(recipe: Recipe, n_train: int) -> int:
    """Return the number of optimiser steps that ``recipe`` takes on ``n_train`` images or windows."""
    return recipe.epochs * math.ceil(n_train / recipe.batch_size)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the learning rate of the step that follows ``step`` of ``total``.

    Source of the cosine: Loshchilov and Hutter (2017), SGDR, https://arxiv.org/abs/1608.03983, without restarts.
    """
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * step / total)) / 2
    if recipe.schedule == "constant":
        return recipe.lr
    raise ValueError(f"schedule is {recipe.schedule!r}; accepted are constant, cosine")


def write(samples: Sequence[Sample], folder: Path = FOLDER) -> None:
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
        data = load_data(sample.data)
        start = time.perf_counter()
        models = train(sample, data)
        seconds = time.perf_counter() - start
        checkpoints = [_checkpoint(sample, step, model, data) for step, model in models.items()]
        for record, content in checkpoints:
            (folder / record["file"]).parent.mkdir(exist_ok=True)
            (folder / record["file"]).write_bytes(content)
        entries[sample.name] = _entry(sample, models, [record for record, _ in checkpoints])
        print(f"{sample.name}: {seconds:.1f} s, {_summary(entries[sample.name])}", flush=True)
    everything = kept | entries
    ordered = {s.name: everything[s.name] for s in SAMPLES if s.name in everything}
    text = json.dumps(origin | {"samples": ordered}, indent=2)
    target.write_text(text + "\n", encoding="utf-8", newline="\n")


def check(samples: Sequence[Sample]) -> bool:
    """Retrain ``samples`` in memory, print a line each, return whether all agree with what is shipped.

    On the torch build and machine type of the manifest the tensors of every checkpoint must be identical.
    Elsewhere the test figures at the end must be close: see :func:`close`.
    """
    recorded = manifest()
    same_origin = all(recorded.get(key) == value for key, value in _origin().items())
    agree = True
    for sample in samples:
        data = load_data(sample.data)
        models = train(sample, data)
        difference = max(
            _max_difference(model.state_dict(), safetensors.torch.load_file(path(sample.file(step))))
            for step, model in models.items()
        )
        figures = evaluate(_last(models), data)
        entry, tolerance = recorded["samples"][sample.name], TOLERANCE.get(sample.data, {})
        good = difference == 0 if same_origin else close(figures, entry, **tolerance)
        agree &= good
        verdict = "identical" if difference == 0 else f"max abs difference {difference:.3g}"
        print(f"{sample.name}: {'ok' if good else 'FAILED'}, {verdict}; {_summary(figures)}", flush=True)
    if not same_origin:
        print("other data, torch or machine than the manifest's: judged by test accuracy and loss")
    return agree


def close(
    figures: Mapping[str, float], recorded: Mapping[str, float], *, accuracy: float = 0.01, loss: float = 0.1
) -> bool:
    """Return whether a retrained sample matches the recorded one: test ``accuracy``, and ``loss`` as a share of it."""
    accuracy_error = abs(figures["test_accuracy"] - recorded["test_accuracy"])
    loss_error = abs(figures["test_loss"] - recorded["test_loss"])
    return accuracy_error <= accuracy and loss_error <= loss * recorded["test_loss"]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sample_checkpoints.train", description="Train the sample checkpoints."
    )
    names = [sample.name for sample in SAMPLES]
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=names, default=names, help="these samples alone")
    parser.add_argument("--check", action="store_true", help="retrain in memory and compare with the shipped files")
    options = parser.parse_args()
    chosen = [sample for sample in SAMPLES if sample.name in options.only]
    if options.check:
        return 0 if check(chosen) else 1
    write(chosen)
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


def _cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the mean over everything but the classes, which come last in ``logits``."""
    return cross_entropy(logits.flatten(0, -2), y.flatten())


def _batches(sample: Sample, n: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the indices of every batch of the run."""
    total = steps(sample.recipe, n)
    before = total if sample.spawn is None else sample.spawn.step
    yield from islice(_epochs(n, sample.recipe.batch_size, generator), before)
    if sample.spawn is not None:
        own = torch.Generator().manual_seed(sample.spawn.seed)
        yield from islice(_epochs(n, sample.recipe.batch_size, own), total - before)


def _epochs(n: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)


def _origin() -> dict[str, Any]:
    """What must agree for retraining to give the same bits; kernels differ by vector unit and by vendor."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "")  # older torch has it not
    return {
        "schema": SCHEMA,
        "data": [{"file": name, "sha256": _sha256(path(name).read_bytes())} for name in ("digits.npz", "text.txt")],
        "torch": str(torch.__version__),
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {cpu}".strip(),
    }


def _checkpoint(sample: Sample, step: int, model: nn.Module, data: Digits | Text) -> tuple[dict[str, Any], bytes]:
    """Return what the manifest says about one checkpoint, and the content of its file."""
    lr = learning_rate(sample.recipe, step, steps(sample.recipe, len(data.x_train)))
    metadata = {"name": sample.name, "step": step, "lr": lr, "seed": sample.seed}
    content = _serialised(model, {key: str(value) for key, value in metadata.items()})
    record = {"step": step, "lr": lr, "file": sample.file(step), "sha256": _sha256(content)}
    return record | evaluate(model, data), content


def _entry(sample: Sample, models: Mapping[int, nn.Module], checkpoints: list[dict[str, Any]]) -> dict[str, Any]:
    last = checkpoints[-1]
    figures = {key: last[key] for key in FIGURES}
    return {
        "file": last["file"],
        "sha256": last["sha256"],
        "data": sample.data,
        "architecture": sample.architecture,
        "args": dict(sample.args),
        "seed": sample.seed,
        **({"spawn": asdict(sample.spawn)} if sample.spawn else {}),
        "recipe": asdict(sample.recipe) | {"steps": last["step"]},
        "parameters": sum(p.numel() for p in _last(models).parameters()),
        **figures,
        **({"trajectory": checkpoints} if sample.keep else {}),
    }


def _last(models: Mapping[int, nn.Module]) -> nn.Module:
    return models[max(models)]


def _serialised(model: nn.Module, metadata: Mapping[str, str]) -> bytes:
    """Return the safetensors file of a network.

    safetensors writes its metadata in an order that changes from process to process; they are sorted here, so
    that the same weights make the same file.
    """
    content = safetensors.torch.save(model.state_dict(), dict(metadata))
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
    return ", ".join(f"{name.replace('_', ' ')} {figures[name]:.4g}" for name in FIGURES)


if __name__ == "__main__":
    raise SystemExit(main())
