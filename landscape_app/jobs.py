"""Computations in the background: a generator of results runs in a worker thread; the latest result is always at hand.

No part of a user interface is touched here. Whoever shows a job asks it for a `Snapshot` as often as it likes.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable, Generator
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
    PAUSING = "pausing"
    PAUSED = "paused"
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
    progress: 0 to 1. eta: seconds left, None while unknown. elapsed: seconds that the job has run, pauses left out.
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
    """One generator of results, run by a thread of its own when it is its turn; paused and cancelled between its steps.

    The results may carry ``progress`` and ``eta_s`` in their ``attrs``, as those of `analysis` do.
    """

    def __init__(self, steps: Steps, turns: _Turns):
        self._steps, self._turns, self._changed = steps, turns, turns.changed
        self._cancelled = self._held = False
        self._now = Snapshot(JobState.QUEUED)
        self._since: float | None = None  # when it began to run, or went on
        self._ran: float | None = None  # seconds before that; None until it has run
        self._ended = threading.Event()

    def snapshot(self) -> Snapshot:
        """The job as it stands."""
        with self._changed:
            if self._ran is None or self._now.state.final:
                return self._now
            elapsed, eta, progress = self._elapsed(), self._now.eta, self._now.progress
            if eta is None and progress > 0:
                eta = elapsed * (1 - progress) / progress
            return replace(self._now, elapsed=elapsed, eta=eta)

    def cancel(self) -> None:
        """Stop after the step that is being computed; a queued job never starts. What there is so far is kept."""
        with self._changed:
            self._cancelled = True
            if not self._now.state.final:
                self._stand(JobState.CANCELLED if self._ran is None else JobState.CANCELLING)

    def pause(self) -> None:
        """Rest after the step that is being computed; another job takes the turn."""
        with self._changed:
            if self._now.state in (JobState.QUEUED, JobState.RUNNING):
                self._held = True
                self._stand(JobState.PAUSED if self._now.state is JobState.QUEUED else JobState.PAUSING)

    def resume(self) -> None:
        """Go on with the next step when it is this job's turn again."""
        with self._changed:
            self._held = False
            if self._now.state is JobState.PAUSING:
                self._stand(JobState.RUNNING)
            elif self._now.state is JobState.PAUSED:
                self._turns.queue(self)
                self._stand(JobState.QUEUED)

    def wait(self, timeout: float | None = None) -> Snapshot:
        """Block until the job has ended, at most `timeout` seconds."""
        self._ended.wait(timeout)
        return self.snapshot()

    def start(self) -> None:
        """Queue the job. Called once."""
        self._turns.queue(self)
        threading.Thread(target=self._run, name="landscape-job").start()

    def _run(self) -> None:
        try:
            finished = self._iterate()
        except BaseException as error:  # user code may even call sys.exit()
            reason, details = explain(error)
            self._end(JobState.FAILED, reason=reason, details=details)
        else:
            self._end(JobState.DONE if finished else JobState.CANCELLED)

    def _iterate(self) -> bool:
        """Run the generator to its end, True, or close it early when cancelled, False."""
        if not self._begin():
            return False
        with closing(self._steps()) as steps:
            while self._goes_on():
                try:
                    result = next(steps)
                except StopIteration:
                    return True
                self._publish(result)
        return False

    def _begin(self) -> bool:
        """Wait for the turn; whether there is one."""
        with self._changed:
            if not self._turns.take(self, lambda: self._cancelled):
                return False
            self._ran, self._since = self._ran or 0.0, time.monotonic()
            self._stand(JobState.RUNNING)
            return True

    def _goes_on(self) -> bool:
        """Whether there is to be another step; a paused job waits here."""
        with self._changed:
            if self._held and not self._cancelled:
                self._rest()
                self._stand(JobState.PAUSED)
                return self._begin()
            return not self._cancelled and threading.main_thread().is_alive()

    def _rest(self) -> None:
        """Give the turn back."""
        if self._since is not None:
            self._ran, self._since = self._elapsed(), None
            self._turns.give()

    def _elapsed(self) -> float:
        return (self._ran or 0.0) + (0.0 if self._since is None else time.monotonic() - self._since)

    def _stand(self, state: JobState) -> None:
        self._now = replace(self._now, state=state)
        if state.final:
            self._ended.set()
        self._changed.notify_all()

    def _publish(self, result: Any) -> None:
        facts = getattr(result, "attrs", {})
        with self._changed:
            self._now = replace(
                self._now,
                result=result,
                version=self._now.version + 1,
                progress=float(facts.get("progress", self._now.progress)),
                eta=None if self._ran else _finite(facts.get("eta_s")),  # the steps count pauses as work
            )

    def _end(self, state: JobState, **why: str) -> None:
        with self._changed:
            self._rest()
            progress = 1.0 if state is JobState.DONE else self._now.progress
            self._now = replace(self._now, elapsed=self._ran or 0.0, eta=None, progress=progress, **why)
            self._stand(state)


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or not math.isfinite(seconds) else float(seconds)


class _Turns:
    """Who may run: so many jobs at a time, in the order in which they asked. All is done holding `changed`."""

    def __init__(self, workers: int):
        self.changed = threading.Condition()
        self._free = workers
        self._line: list[Job] = []

    def queue(self, job: Job) -> None:
        with self.changed:
            if job not in self._line:  # one that was paused while it waited keeps its place
                self._line.append(job)

    def take(self, job: Job, gone: Callable[[], bool]) -> bool:
        """Wait until it is this job's turn, True, or it is gone or the process about to end, False."""
        while not gone() and threading.main_thread().is_alive():
            waiting = [one for one in self._line if not one._held]
            if self._free and waiting and waiting[0] is job:
                self._line.remove(job)
                self._free -= 1
                return True
            self.changed.wait(1)
        self._line = [one for one in self._line if one is not job]
        self.changed.notify_all()
        return False

    def give(self) -> None:
        self._free += 1
        self.changed.notify_all()


class Runner:
    """Runs jobs, `workers` at a time; the others wait in the order in which they came."""

    def __init__(self, workers: int = 2):
        self.workers = workers
        self._turns = _Turns(workers)
        self._jobs: weakref.WeakSet[Job] = weakref.WeakSet()
        self._closed = False

    def submit(self, steps: Steps) -> Job:
        """Queue a computation. `steps` makes the generator; it is called in the job's thread.

        Raises RuntimeError once the runner is closed.
        """
        if self._closed:
            raise RuntimeError("This runner is closed and takes no more jobs.")
        job = Job(steps, self._turns)
        self._jobs.add(job)
        job.start()
        return job

    def close(self) -> None:
        """Cancel every job and take no more."""
        self._closed = True
        for job in list(self._jobs):
            job.cancel()
