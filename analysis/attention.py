"""Attention that can be differentiated twice, in threads beside one another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch.nn.attention import SDPBackend, sdpa_kernel

_LOCK = threading.Lock()
_INSIDE: list[ExitStack] = []  # one entry a thread that is inside; the first holds torch's setting


@contextmanager
def twice_differentiable_attention() -> Iterator[None]:
    """Scaled dot-product attention by its formula: the other kernels have no second derivatives.

    The choice is the process's: it is made by the first thread that comes, and taken back by the last that goes.
    """
    with _LOCK:
        setting = _INSIDE[0] if _INSIDE else ExitStack()
        if not _INSIDE:
            setting.enter_context(sdpa_kernel(SDPBackend.MATH))
        _INSIDE.append(setting)
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE.remove(setting)
            if not _INSIDE:
                setting.close()
