"""Where a number came from: digests of the code that defines it, and the versions that ran it."""

from __future__ import annotations

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.loss import _Loss

from .weights import hash_tensor

DISTRIBUTION = "landscape-explorer"


@cache
def versions() -> dict[str, str]:
    """Versions of this package and of what computes, by name."""
    found = {"python": sys.version.split()[0], "torch": str(torch.__version__)}
    for name in (DISTRIBUTION, "numpy", "scipy", "xarray"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def code_digest(*objects: Any) -> str:
    """SHA-256 over the user's own source that defines the given modules, functions and values.

    Of each class or function outside installed packages the whole source file counts, so that an edited
    function that a loss calls counts too; source typed into a session counts by itself.
    """
    texts = {text for obj in objects for text in _sources(obj)}
    hasher = hashlib.sha256()
    for text in sorted(texts):
        hasher.update(text.encode())
    return hasher.hexdigest()


def _sources(obj: Any) -> Iterator[str]:
    if isinstance(obj, nn.Module):
        yield repr(obj)
        for name, module in obj.named_modules():
            yield _source(type(module))
            plain = sorted((k, v) for k, v in vars(module).items() if _plain(v) and k != "training")
            yield f"{name}: {_state(module)} {plain}"
    elif isinstance(obj, Mapping):
        for name, value in obj.items():
            yield str(name)
            yield from _sources(value)
    elif isinstance(obj, partial):
        yield from _sources([obj.func, obj.args, obj.keywords])
    elif _plain(obj):
        yield repr(obj)
    elif callable(obj):
        yield _source(obj)
        cells = getattr(obj, "__closure__", None) or ()
        yield from _sources([cell.cell_contents for cell in cells if _plain(cell.cell_contents)])
        yield from _sources([*(getattr(obj, "__defaults__", None) or ())])
        yield str(sorted((k, v) for k, v in getattr(obj, "__dict__", {}).items() if _plain(v)))
    elif isinstance(obj, Iterable):
        for value in obj:
            yield from _sources(value)


def _state(module: nn.Module) -> str:
    """Digest of the buffers that a checkpoint does not hold, or of all that a loss with weights holds."""
    hasher = hashlib.sha256()
    for name, buffer in module._buffers.items():
        if buffer is not None and (name in module._non_persistent_buffers_set or isinstance(module, _Loss)):
            hash_tensor(hasher, buffer, name)
    return hasher.hexdigest()


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, complex, str, bytes))


def _source(obj: Any) -> str:
    target = obj if inspect.isclass(obj) or inspect.isroutine(obj) else type(obj)
    name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    try:
        file = Path(inspect.getsourcefile(target) or "")
    except TypeError:
        return name
    if _installed(file):
        return name
    if file.is_file():
        return name + file.read_text(encoding="utf-8", errors="replace")
    try:
        return name + inspect.getsource(target)
    except (OSError, TypeError):
        return name + _bytecode(getattr(target, "__code__", None))


def _bytecode(code: CodeType | None) -> str:
    if code is None:
        return ""
    constants = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()}{code.co_names}{constants}"


def _installed(file: Path) -> bool:
    places = {sysconfig.get_path(key) for key in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(file.is_relative_to(place) for place in places if place)
