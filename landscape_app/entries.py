"""What a session has computed or opened, one entry a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import xarray as xr

from analysis import provenance
from landscape_app.jobs import JobState, Snapshot

OF_PAIR = ("plane", "curve", "layers")  # kinds of results about one pair of checkpoints
NAMES = {
    "surface": "Surface",
    "spectrum": "Spectrum",
    "trajectory": "Trajectory",
    "connectivity": "Paths",
    "plane": "Plane of a pair",
    "curve": "Curve",
    "layers": "Layers",
    "checkpoints": "Measures of checkpoints",
}
FROM_PYTHON = "added in Python"  # in place of the name of a file


@dataclass(frozen=True)
class Entry:
    """One result, and how it came about.

    number: 1 for the first of a session. job: the computation as it stands or ended; it has a result.
    request: what was asked for, None where a file does not say it all. file: where it was opened from, FROM_PYTHON, ''.
    kept: what its job kept in memory beside the result: the "vectors" of a spectrum, the "matched" checkpoints.
    cached: whether the server had it from another session, or from this page before it was loaded again.
    """

    number: int
    job: Snapshot
    request: Any = None
    file: str = ""
    since: datetime = field(default_factory=datetime.now)
    kept: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False

    @property
    def result(self) -> xr.Dataset:
        return self.job.result

    @property
    def kind(self) -> str:
        """Which task it answers, as `kind_of` has it."""
        return kind_of(self.result)

    @property
    def page(self) -> str:
        """The page that shows it."""
        return page_of(self.kind)

    @property
    def title(self) -> str:
        """Short, and different for each: '2 · Random plane at resnet16 · Residual CNN'."""
        title = self.result.attrs["title"]
        return f"{self.number} · {title[:1].upper()}{title[1:]} · {provenance(self.result)['problem']}"


@dataclass(frozen=True)
class Computation:
    """One job of a session, as the page Jobs lists it.

    number: 1 for the first. kind: of its results, as an Entry has it. job: without its result, which is the entry's.
    entry: number of its result, 0 while there is none. cached: whether the result was taken from the server's cache.
    """

    number: int
    kind: str
    request: Any
    job: Snapshot
    since: datetime
    entry: int = 0
    cached: bool = False

    @property
    def page(self) -> str:
        """The page that shows its result."""
        return page_of(self.kind)


def page_of(kind: str) -> str:
    """The page that shows results of a kind."""
    return "connectivity" if kind in OF_PAIR else kind


def checkpoints_of(request: Any) -> tuple[str, ...]:
    """Names of the checkpoints that a request is about; () for none."""
    own = [getattr(request, name) for name in ("checkpoint", "first", "second") if hasattr(request, name)]
    inner = [getattr(getattr(request, whole, None), part, None) for whole, part in WITHIN]
    found = [
        *getattr(request, "checkpoints", ()),
        *own,
        *(name for one in inner if one for name in checkpoints_of(one)),
    ]
    return tuple(dict.fromkeys(found))


WITHIN = (("along", "spectrum"), ("at", "surface"))  # requests within requests


def kind_of(ds: xr.Dataset) -> str:
    """ "surface", "spectrum", "trajectory" or "connectivity", each a page's; or one of OF_PAIR."""
    if ds.attrs.get("kind") == "plane":
        return "plane"
    if "layer" in ds.dims and "into" in ds.dims:
        return "layers"
    if "training_loss" in ds and "loss_barrier" in ds:
        return "curve"
    if {"stage", "pair", "place"} <= set(ds.dims):
        return "connectivity"
    if {"eigenvalue", "overlap"} <= set(ds.data_vars):
        return "trajectory"
    return "spectrum" if {"eigenvalue", "node"} & set(ds.data_vars) else "surface"


def numbered(entries: Iterable[Entry], number: int) -> Entry | None:
    """The entry of that number, None if there is none any more."""
    return next((entry for entry in entries if entry.number == number), None)


def unfinished(entries: Iterable[Entry], request: Any) -> Entry | None:
    """The latest computation of exactly this that was stopped on its way, with points that it evaluated."""
    ended = (JobState.CANCELLED, JobState.FAILED)
    found = [e for e in entries if e.request == request and e.job.state in ended and _to_go_on_from(e.result)]
    return found[-1] if found else None


def _to_go_on_from(ds: xr.Dataset) -> bool:
    return bool(ds.sizes.get("sample")) and "preview_of" not in ds.attrs


def answering(entries: Iterable[Entry], request: Any) -> Entry | None:
    """The latest finished computation of exactly this; what a file holds may have been computed otherwise."""
    found = [e for e in entries if e.request == request and not e.file and e.job.state is JobState.DONE]
    return found[-1] if found else None
