"""Computations in the background: a generator of results runs in a worker thread; the latest result is always at hand.

No part of a user interface is touched here. Whoever shows a job asks it for a `Snapshot` as often as it likes.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from landscape_app.text import explain

Steps = Callable[[], Generator[Any, None, None]]


class JobState(StrEnum):
    """Where a job stands. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        return self in (JobState.DONE, JobState.CANCELLED, JobState.FAILED)


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment.

    result: the latest result, None before the first; kept after a cancel and after a failure.
    version: how many results there have been. reason: what went wrong, for people; details: for developers.
    progress: 0 to 1. eta: seconds left, None while unknown. elapsed: seconds since the job began to run.
    """

    state: JobState
    result: Any = None
    version: int = 0
    progress: float = 0.0
    eta: float | None = None
    elapsed: float = 0.0
    reason: str = ""
    details: str = ""


class Job:
    """One generator of results, run by a worker thread and cancelled between its steps.

    The results may carry ``progress`` and ``eta_s`` in their ``attrs``, as those of `analysis` do.
    """

    def __init__(self, steps: Steps):
        self._steps = steps
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._now = Snapshot(JobState.QUEUED)
        self._started: float | None = None
        self._future: Future[None] | None = None

    def snapshot(self) -> Snapshot:
        """The job as it stands."""
        with self._lock:
            if self._started is None or self._now.state.final:
                return self._now
            elapsed = time.monotonic() - self._started
            eta = self._now.eta
            if eta is None and self._now.progress > 0:
                eta = elapsed * (1 - self._now.progress) / self._now.progress
            return replace(self._now, elapsed=elapsed, eta=eta)

    def cancel(self) -> None:
        """Stop after the step that is being computed; a queued job never starts. What there is so far is kept."""
        self._cancelled.set()
        queued = self._future is not None and self._future.cancel()
        with self._lock:
            if queued:
                self._now = replace(self._now, state=JobState.CANCELLED)
            elif not self._now.state.final:
                self._now = replace(self._now, state=JobState.CANCELLING)

    def wait(self, timeout: float | None = None) -> Snapshot:
        """Block until the job has ended, at most `timeout` seconds."""
        if self._future is not None and not self._future.cancelled():
            self._future.exception(timeout)
        return self.snapshot()

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Queue the job in `pool`. Called once."""
        self._future = pool.submit(self._run)

    def _run(self) -> None:
        with self._lock:
            self._started = time.monotonic()
            if self._now.state is JobState.QUEUED:
                self._now = replace(self._now, state=JobState.RUNNING)
        try:
            finished = self._iterate()
        except BaseException as error:  # user code may even call sys.exit()
            reason, details = explain(error)
            self._end(JobState.FAILED, reason=reason, details=details)
        else:
            self._end(JobState.DONE if finished else JobState.CANCELLED)

    def _iterate(self) -> bool:
        """Run the generator to its end, True, or close it early when cancelled, False."""
        if self._cancelled.is_set():
            return False
        with closing(self._steps()) as steps:
            while not self._cancelled.is_set():
                try:
                    result = next(steps)
                except StopIteration:
                    return True
                self._publish(result)
        return False

    def _publish(self, result: Any) -> None:
        facts = getattr(result, "attrs", {})
        with self._lock:
            self._now = replace(
                self._now,
                result=result,
                version=self._now.version + 1,
                progress=float(facts.get("progress", self._now.progress)),
                eta=_finite(facts.get("eta_s")),
            )

    def _end(self, state: JobState, **why: str) -> None:
        with self._lock:
            elapsed = time.monotonic() - (self._started or time.monotonic())
            progress = 1.0 if state is JobState.DONE else self._now.progress
            self._now = replace(self._now, state=state, elapsed=elapsed, eta=None, progress=progress, **why)


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else float(seconds)


class Runner:
    """Runs jobs, `workers` at a time; the others wait in the order in which they came."""

    def __init__(self, workers: int = 2):
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="landscape-job")
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()

    def submit(self, steps: Steps) -> Job:
        """Queue a computation. `steps` makes the generator; it is called in the worker thread."""
        job = Job(steps)
        self._jobs.add(job)
        job.start(self._pool)
        return job

    def close(self) -> None:
        """Cancel every job and take no more."""
        self._pool.shutdown(wait=False)
        for job in list(self._jobs):
            job.cancel()
