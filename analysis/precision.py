"""float32 products on a GPU, exact to float32 or in TF32 whatever the process has set, and float64 all through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TF32_EPS = 2.0**-11
DOUBLE = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64),
    **dict.fromkeys((torch.complex32, torch.complex64), torch.complex128),
}
_SETTING = threading.RLock()  # the switches are the process's; kernels read them when they are launched


@contextmanager
def products_in(tf32: bool, device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions of float32 tensors on a GPU in TF32 or not; the settings come back after."""
    if device.type != "cuda":
        yield
        return
    with _SETTING:
        before = [(place, name, getattr(place, name)) for place, name in _switches()]
        try:
            for place, name, _ in before:
                setattr(place, name, ("tf32" if tf32 else "ieee") if name == "fp32_precision" else tf32)
            yield
        finally:
            for place, name, value in before:
                setattr(place, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Where torch keeps the choice: until 2.8 one flag for products and one for cuDNN, then one an operation."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return [(place, "fp32_precision") for place in (matmul, cudnn.conv, cudnn.rnn)]  # type: ignore[attr-defined]
    return [(matmul, "allow_tf32"), (cudnn, "allow_tf32")]


def in_double(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in double precision, if it holds numbers that have one."""
    return tensor.to(DOUBLE.get(tensor.dtype, tensor.dtype))


class InDouble(TorchDispatchMode):
    """A lower precision that a forward asks for by name is double precision."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        args = [DOUBLE.get(a, a) if isinstance(a, torch.dtype) else a for a in args]
        kwargs = {k: DOUBLE.get(a, a) if isinstance(a, torch.dtype) else a for k, a in (kwargs or {}).items()}
        return func(*args, **kwargs)
