"""The threads of a server: sessions side by side, and the events of one session in their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import panel as pn
from bokeh.document import Document


class InOrder(ThreadPoolExecutor):
    """Runs the callbacks of a session one at a time, in the order in which they were submitted.

    With a plain pool two events of a session are handled at once: the end of an upload before the file that it ends, so
    that the file is not heard of, or comes in place of the next one.
    """

    def __init__(self, max_workers: int | None = None):
        super().__init__(max_workers)
        self._lines: dict[Document, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._lines_lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        session = next((arg for arg in args if isinstance(arg, Document)), pn.state.curdoc)
        if session is None:
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        with self._lines_lock:
            idle = session not in self._lines
            self._lines.setdefault(session, deque()).append((future, lambda: fn(*args, **kwargs)))
        if idle:
            super().submit(self._work_off, session)
        return future

    def _work_off(self, session: Document) -> None:
        while True:
            with self._lines_lock:
                if not self._lines[session]:
                    del self._lines[session]
                    return
                future, work = self._lines[session].popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # it is the future's, as in any pool
                    future.set_exception(error)


def keep_order() -> None:
    """Give Panel's threads, where it has any, this order. Panel offers no way to choose its pool."""
    if pn.state._thread_pool is not None and not isinstance(pn.state._thread_pool, InOrder):
        pn.state._thread_pool = InOrder(pn.config.nthreads or None)
