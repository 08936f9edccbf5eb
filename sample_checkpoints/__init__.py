"""Small trained networks on the 8×8 digits, so that examples, tests and the first start need no download.

The data are 1797 handwritten digits of the UCI repository (see ``ATTRIBUTION.md``). The checkpoints were
produced by ``python -m sample_checkpoints.train``; ``manifest.json`` records how, and what they reach.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Digits", "load_digits", "manifest", "path"]

_FOLDER = Path(__file__).parent


class Digits(NamedTuple):
    """Split digits: ``x_train`` [1437, 64], ``x_test`` [360, 64] float32; ``y_train``, ``y_test`` int64."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


def load_digits() -> Digits:
    """Return the 8×8 digits with their fixed split, ready for training.

    A row of ``x`` is one image, 8 rows of 8 pixels: ink from 0 (none) to 1 (all sixteen cells of the pixel),
    less the mean of that pixel over the training images. ``y`` is the digit, 0 to 9. Every class has the same
    share of both parts, to within one image.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49.
    """
    with np.load(path("digits.npz")) as stored:
        ink, labels, train = stored["images"] / np.float32(16), stored["labels"], stored["train"]
    x = torch.from_numpy(ink - ink[train].mean(axis=0, dtype=np.float64).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    part = torch.from_numpy(train)
    return Digits(x_train=x[part], y_train=y[part], x_test=x[~part], y_test=y[~part])


def manifest() -> dict[str, Any]:
    """Return what is shipped and how it was made: the content of ``manifest.json``.

    ``samples`` maps a name to its file, SHA-256, architecture (constructor in
    :mod:`sample_checkpoints.models` and its arguments), seed, recipe, number of parameters, and the loss
    (mean cross entropy, nats) and accuracy (a share, 0 to 1) on the training and the test images in
    evaluation mode. ``data``, ``torch`` and ``machine`` say what all of them were trained on and with;
    ``schema`` is the version of this layout.
    """
    return json.loads(path("manifest.json").read_text(encoding="utf-8"))


def path(name: str) -> Path:
    """Return the path of a shipped file, by its name (``"digits.npz"``) or a sample's (``"mlp512-s0"``).

    Raises:
        FileNotFoundError: nothing of that name is shipped; the message lists what is.
    """
    for candidate in (_FOLDER / name, _FOLDER / f"{name}.safetensors"):
        if candidate.is_file():
            return candidate
    shipped = sorted(file.name for file in _FOLDER.iterdir() if file.is_file() and file.suffix != ".py")
    raise FileNotFoundError(f"no sample file is called {name!r}; shipped are {', '.join(shipped)}")
