"""Small trained networks on small data, so that examples, tests and the first start need no download.

The data are 1797 handwritten digits of the UCI repository, 8×8 pixels each, and a story of 5800 characters
(see ``ATTRIBUTION.md``). The checkpoints were produced by ``python -m sample_checkpoints.train``;
``manifest.json`` records how, and what they reach.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Digits", "Text", "load_data", "load_digits", "load_text", "manifest", "noisy_labels", "path"]

_FOLDER = Path(__file__).parent
_CONTEXT = 32
_SHIPPED = ("*.npz", "*.txt", "*.md", "*.json", "*.safetensors", "*/*.safetensors")


class Digits(NamedTuple):
    """Split digits: ``x_train`` [1437, 64], ``x_test`` [360, 64] float32; ``y_train``, ``y_test`` int64."""

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor


class Text(NamedTuple):
    """Split text: ``x_train`` [1232, 32], ``x_test`` [27, 32] and their next characters ``y_*``, all int64.

    A character is its position in ``alphabet``.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    alphabet: str


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


def load_text() -> Text:
    """Return the story of ``text.txt`` cut into windows of 32 characters, ready for training.

    A row of ``x`` is one window and the same row of ``y`` the window one character later. The last 15 % of
    the story, cut without overlap, are the test part; in the part before it a window starts at every fourth
    character. A line break counts as a space.
    """
    text = " ".join(path("text.txt").read_text(encoding="utf-8").split())
    alphabet = "".join(sorted(set(text)))
    codes = torch.tensor([alphabet.index(character) for character in text])
    length = _CONTEXT + 1  # of x and y together
    cut = len(codes) - 1 - round(0.15 * len(codes) / _CONTEXT) * _CONTEXT
    train = codes[: cut + 1].unfold(0, length, 4)
    test = codes[cut:].unfold(0, length, _CONTEXT)
    x_train, y_train, x_test, y_test = (w.contiguous() for part in (train, test) for w in (part[:, :-1], part[:, 1:]))
    return Text(x_train, y_train, x_test, y_test, alphabet)


def noisy_labels(y: torch.Tensor, share: float = 0.2, seed: int = 0) -> torch.Tensor:
    """Return a copy of the labels ``y`` [n] in which ``share`` of them are wrong: exactly ``round(share * n)``.

    Which ones, and which of the other classes (0 to ``y.max()``, equally likely) they get, depends on
    ``seed`` alone.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(y), generator=generator)[: round(share * len(y))]
    classes = int(y.max()) + 1
    shift = torch.randint(1, classes, wrong.shape, generator=generator)
    noisy = y.clone()
    noisy[wrong] = (y[wrong] + shift) % classes
    return noisy


def load_data(name: str) -> Digits | Text:
    """Return the data that a manifest entry names: ``load_data(entry["data"])``.

    ``"digits-noise20"`` is the digits with :func:`noisy_labels` for training; their test labels are right.

    Raises:
        ValueError: an unknown name.
    """
    if name == "digits":
        return load_digits()
    if name == "digits-noise20":
        digits = load_digits()
        return digits._replace(y_train=noisy_labels(digits.y_train, share=0.2, seed=0))
    if name == "text":
        return load_text()
    raise ValueError(f"data is {name!r}; known are digits, digits-noise20, text")


def manifest() -> dict[str, Any]:
    """Return what is shipped and how it was made: the content of ``manifest.json``.

    ``samples`` maps a name to its file, SHA-256, data (see :func:`load_data`), architecture (constructor in
    :mod:`sample_checkpoints.models` and its arguments), seed, recipe, number of parameters, and the loss
    (mean cross entropy, nats) and accuracy (a share, 0 to 1) on the whole training and test part in
    evaluation mode. Two more keys where they apply:

    - ``spawn``: from ``step`` on, the batch order was drawn with another ``seed``; up to it, samples with the
      same ``seed``, data and recipe are one run.
    - ``trajectory``: every checkpoint of the run, in order, with its step, file, SHA-256, learning rate, loss
      and accuracy. The last is the one that the entry itself describes.

    ``data``, ``torch`` and ``machine`` say what all of them were trained on and with; ``schema`` is the
    version of this layout.
    """
    return json.loads(path("manifest.json").read_text(encoding="utf-8"))


def path(name: str) -> Path:
    """Return the path of a shipped file or of a trajectory's folder.

    ``name`` is that of a file (``"digits.npz"``), of a sample (``"mlp512-s0"``), of a trajectory
    (``"trajectory-mlp64"``: the folder, whose files in the order of their names are in the order of the
    steps), or of one of its checkpoints (``"trajectory-mlp64/step-00000"``).

    Raises:
        FileNotFoundError: nothing of that name is shipped; the message lists what is.
    """
    files = {file.relative_to(_FOLDER).as_posix() for kind in _SHIPPED for file in _FOLDER.glob(kind)}
    folders = {file.rpartition("/")[0] for file in files} - {""}
    for candidate in (name, f"{name}.safetensors"):
        if candidate in files | folders:
            return _FOLDER / candidate
    top = sorted(file for file in files | folders if "/" not in file)
    raise FileNotFoundError(f"no sample file is called {name!r}; shipped are {', '.join(top)}")
