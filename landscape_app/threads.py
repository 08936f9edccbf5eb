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
    """Runs the callbacks of a session one at a time, in their order, once Panel knows that its page is there.

    With a plain pool two events of a session are handled at once: the end of an upload before the file that it ends, so
    that the file is not heard of, or comes in place of the next one. And what changes before Panel has heard that the
    page is drawn never reaches it (`panel.io.document._drain_unconnected_events`): an early click shows nothing.
    """

    def __init__(self, max_workers: int | None = None):
        super().__init__(max_workers)
        self._lines: dict[Document, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._at_work: set[Document] = set()
        self._lines_lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        session = next((arg for arg in args if isinstance(arg, Document)), pn.state.curdoc)
        if session is None:
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        work = future, lambda: fn(*args, **kwargs)
        with self._lines_lock:
            for gone in [one for one in self._lines if one not in self._at_work and _ended(one)]:
                del self._lines[gone]
            line = self._lines.setdefault(session, deque())
            drawn = fn == pn.state._on_load
            line.appendleft(work) if drawn else line.append(work)
            begins = session not in self._at_work and (drawn or _known(session))
            if begins:
                self._at_work.add(session)
        if begins:
            super().submit(self._work_off, session)
        return future

    def _work_off(self, session: Document) -> None:
        while True:
            with self._lines_lock:
                if not self._lines[session]:
                    del self._lines[session]
                    self._at_work.remove(session)
                    return
                future, work = self._lines[session].popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # it is the future's, as in any pool
                    future.set_exception(error)


def _known(session: Document) -> bool:
    """Whether changes reach the page: Panel has heard that it is drawn, or there is no page."""
    return session.session_context is None or bool(pn.state._connected.get(session))


def _ended(session: Document) -> bool:
    return session.session_context is not None and session.session_context.destroyed


def keep_order() -> None:
    """Give Panel's threads, where it has any, this order. Panel offers no way to choose its pool."""
    # Panel unlocks this for each change and locks it after that, while another thread may be about to change it
    pn.state.param.busy.readonly = pn.state.param.busy.constant = False
    if pn.state._thread_pool is not None and not isinstance(pn.state._thread_pool, InOrder):
        pn.state._thread_pool = InOrder(pn.config.nthreads or None)
