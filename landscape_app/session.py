"""Runs what a session asks for: takes requests from the state, gives them to the runner, brings results back."""

from __future__ import annotations

from typing import Any

import panel as pn

from landscape_app.jobs import Job, Runner
from landscape_app.request import Request
from landscape_app.state import State

POLL_MS = 200
RUNNER = Runner(workers=2)


class Session:
    """Between one state and a runner. Only this object changes `result`, `computed` and `job` of the state.

    A worker never touches the state: the session asks for the job's snapshot, in its own thread.
    """

    def __init__(self, state: State, runner: Runner = RUNNER):
        self.state, self.runner = state, runner
        self._job: Job | None = None
        self._request: Request | None = None
        self._seen = 0
        self._timer: Any = None
        state.param.watch(self._start, "compute")
        state.param.watch(self._cancel, "cancel")
        pn.state.on_session_destroyed(self._leave)

    def poll(self) -> None:
        """Bring the state up to date with the job."""
        if self._job is None:
            return
        now = self._job.snapshot()
        news: dict[str, Any] = {"job": now}
        if now.version != self._seen:
            self._seen = now.version
            news |= {"result": now.result, "computed": self._request}
        self.state.param.update(**news)
        if now.state.final:
            self._stop_polling()

    def _start(self, _: Any) -> None:
        if self.state.busy:
            return
        request, project = self.state.request(), self.state.project
        self._request, self._seen = request, 0
        self._job = self.runner.submit(lambda: request.steps(project))
        self.poll()
        if self._timer is None and self.state.busy:
            self._timer = pn.state.add_periodic_callback(self.poll, POLL_MS)

    def _cancel(self, _: Any) -> None:
        if self._job is not None:
            self._job.cancel()
            self.poll()

    def _stop_polling(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _leave(self, _: Any) -> None:
        if self._job is not None:
            self._job.cancel()
