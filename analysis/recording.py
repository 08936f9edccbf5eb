"""Checkpoints of a training run, written as the explorer reads them: the weights, the step and the learning rate.

    recorder = Recorder("runs/mlp", every=100)
    for step, (x, y) in enumerate(loader):
        recorder(step, model, optimiser)
        ...
    recorder.save(step + 1, model, optimiser)

`LightningRecorder` does the same as a callback of PyTorch Lightning, which is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
import math
import sys
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .checkpoints import write_state
from .errors import CheckpointError

LIGHTNING = ("lightning.pytorch", "pytorch_lightning")


class Recorder:
    """Writes ``step-<n>.safetensors`` files to a folder, each whole or not at all, so that it can be watched meanwhile.

    folder: made if it does not exist. every: steps from one checkpoint to the next. Call it once a step, before the
    step is taken: then step 0 is the initialisation, and the learning rate is the one that the weights are moved with.

    Raises CheckpointError if `every` is not positive, and for a folder that cannot be written to.
    """

    def __init__(self, folder: str | Path, every: int = 100):
        if every < 1:
            raise CheckpointError(f"every is {every}; give the number of steps between checkpoints, 1 or more.")
        self.folder, self.every = Path(folder), every
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"Cannot make the folder '{folder}': {error.strerror}.") from error

    def __call__(self, step: int, model: nn.Module, optimizer: Optimizer | None = None) -> Path | None:
        """Write a checkpoint if it is time for one; returns its path, or None."""
        return self.save(step, model, optimizer) if step % self.every == 0 else None

    def save(self, step: int, model: nn.Module, optimizer: Optimizer | None = None) -> Path:
        """Write a checkpoint now, NaN weights too. optimizer: whose first group's learning rate goes along."""
        info: dict[str, int | float | str] = {"step": step}
        group = optimizer.param_groups[0] if optimizer is not None else {}
        for name in ("lr", "weight_decay", "momentum"):
            value = group.get(name)
            if value is not None and math.isfinite(float(value)):
                info[name] = float(value)
        state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
        return write_state(state, self.folder / f"step-{step}.safetensors", info)


@cache
def _lightning_recorder() -> type:
    modules = sorted(LIGHTNING, key=lambda name: name not in sys.modules)  # the one that the user has imported
    for name in modules:
        try:
            base = importlib.import_module(name).Callback
            break
        except ImportError:
            continue
    else:
        raise ImportError("LightningRecorder needs PyTorch Lightning: pip install lightning. Recorder needs nothing.")

    class LightningRecorder(base):  # type: ignore[misc, valid-type]
        """A `Recorder` as a callback: ``Trainer(callbacks=[LightningRecorder("runs/mlp", every=100)])``.

        Steps are the trainer's ``global_step``. The first state of the run and its last are written too; of several
        processes the first writes.
        """

        def __init__(self, folder: str | Path, every: int = 100):
            super().__init__()
            self.recorder = Recorder(folder, every)
            self.written = -1

        def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
            self._save(trainer, pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *batch: Any) -> None:
            if trainer.global_step % self.recorder.every == 0:
                self._save(trainer, pl_module)

        def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
            self._save(trainer, pl_module)

        def _save(self, trainer: Any, model: nn.Module) -> None:
            if trainer.is_global_zero and trainer.global_step != self.written:  # several batches may make one step
                self.written = trainer.global_step
                self.recorder.save(self.written, model, next(iter(trainer.optimizers), None))

    LightningRecorder.__module__, LightningRecorder.__qualname__ = __name__, "LightningRecorder"  # to be pickled
    return LightningRecorder


def __getattr__(name: str) -> Any:
    if name == "LightningRecorder":
        return _lightning_recorder()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
