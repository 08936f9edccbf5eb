"""One row of a benchmark: the same keys for every suite."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _versioned(peer: str) -> str:
    try:
        return f"{peer} {version(peer)}"
    except PackageNotFoundError:
        return peer


def emit(name: str, ours_s: float, peer: str, peer_s: float, **more: Any) -> None:
    """Print a row as one JSON line. Times are medians in seconds; ratio is how many times faster ours is."""
    row = {
        "name": name,
        "ours_s": round(ours_s, 4),
        "peer": _versioned(peer),
        "peer_s": round(peer_s, 4),
        "ratio": round(peer_s / ours_s, 2),
        **more,
        "torch": torch.__version__,
        "device": device_name(),
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)
