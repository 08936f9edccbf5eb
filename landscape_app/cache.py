"""Finished results that the sessions of one server share: a page that is loaded again has them at once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from landscape_app.entries import Entry, checkpoints_of
from landscape_app.jobs import JobState

MOST, MOST_BYTES = 100, 512 * 1024**2
Stamps = tuple[tuple[str, float], ...]  # name of each checkpoint of a request, and when its file was written


@dataclass(frozen=True)
class _Kept:
    project: weakref.ref[Any]
    stamps: Stamps
    entry: Entry
    size: int


class Cache:
    """Results by project, request and the times of its checkpoint files. Those that were not asked for longest go."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES):
        self.most, self.most_bytes = most, most_bytes
        self._kept: list[_Kept] = []  # what was asked for last is last
        self._lock = threading.Lock()

    def find(self, project: Any, request: Any) -> Entry | None:
        """The finished result of exactly this, from checkpoint files that are still the same."""
        stamps = stamps_of(project, request)
        with self._lock:
            for one in self._kept if stamps is not None else ():
                if one.project() is project and one.stamps == stamps and one.entry.request == request:
                    self._kept = [*(other for other in self._kept if other is not one), one]
                    return replace(one.entry, cached=True)
        return None

    def keep(self, project: Any, entry: Entry, stamps: Stamps | None) -> None:
        """Keep a result that is done. stamps: of its request when it began; it is left out if a file changed since."""
        if entry.job.state is not JobState.DONE or stamps is None or stamps != stamps_of(project, entry.request):
            return
        new = _Kept(weakref.ref(project), stamps, entry, _bytes(entry.result) + _bytes(entry.kept))
        with self._lock:
            others = (one for one in self._kept if one.project() is not None)
            kept = [one for one in others if one.project() is not project or one.entry.request != entry.request]
            kept = [*kept, new][max(0, len(kept) + 1 - self.most) :]
            while kept and sum(one.size for one in kept) > self.most_bytes:
                kept = kept[1:]
            self._kept = kept


def stamps_of(project: Any, request: Any) -> Stamps | None:
    """When each checkpoint of a request was written; None for a request whose result only its own session can say.

    Eigenvectors are known by their place in a session. Models in memory may change unseen, except those of a project
    file, which nothing but the server holds.
    """
    at = getattr(request, "at", None)
    if request is None or getattr(at.surface if at else request, "along", None) is not None:
        return None
    known = project.checkpoint_names(request.problem)
    stamps = tuple((name, project.modified(request.problem, name)) for name in checkpoints_of(request) if name in known)
    return stamps if project.path is not None or all(time for _, time in stamps) else None


def _bytes(value: Any) -> int:
    """About how much memory arrays and tensors take, wherever they lie in a value."""
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (tuple, list)):
        return sum(map(_bytes, value))
    return sum(_bytes(getattr(value, f.name)) for f in fields(value)) if is_dataclass(value) else 0
