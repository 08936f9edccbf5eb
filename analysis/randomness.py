"""The global random number generators, left as they were found."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from .errors import LandscapeError

_GENERATORS = threading.RLock()


def valid_seed(seed: object) -> int:
    """Raises LandscapeError for what is no whole number of at least 0."""
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise LandscapeError(f"seed is {seed!r}; expected a whole number of at least 0.")
    return int(seed)


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Restore the global generators of torch (CPU and CUDA), NumPy and Python on leaving.

    One thread at a time: they are the process's, and another would draw from them or put them back meanwhile. Never
    hold this open across a yield of results.
    """
    with _GENERATORS:
        state = rng_state()
        try:
            yield
        finally:
            set_rng_state(state)


def rng_state() -> tuple:
    """Where the global generators of torch (CPU and CUDA), NumPy and Python stand, for `set_rng_state`."""
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return torch.get_rng_state(), cuda_states, np.random.get_state(), random.getstate()  # noqa: NPY002


def set_rng_state(state: tuple) -> None:
    torch_state, cuda_states, numpy_state, python_state = state
    torch.set_rng_state(torch_state)
    if cuda_states:
        torch.cuda.set_rng_state_all(cuda_states)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)


def rng_fingerprint() -> int:
    """A number that changes when anything draws from the global generators of torch, NumPy or Python."""
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    numpy_state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    drawn = tuple(state.numpy().tobytes() for state in states)
    return hash((drawn, numpy_state["key"].tobytes(), numpy_state["pos"], random.getstate()))
