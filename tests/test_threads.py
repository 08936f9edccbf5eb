"""Events of one session are handled in their order; sessions do not wait for each other."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import panel as pn
import panel_material_ui as pmui
import pytest
import torch
from bokeh.document import Document
from panel.custom import DataEvent

from analysis import Problem
from landscape_app.explorer import Explorer
from landscape_app.threads import InOrder, keep_order


@pytest.fixture
def pool(monkeypatch):
    with ThreadPoolExecutor(4) as plain:
        monkeypatch.setattr(pn.state, "_thread_pool", plain)
        Explorer(Problem(torch.nn.Linear(2, 2), "cross_entropy", (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))))
        with pn.state._thread_pool as pool:
            yield pool


def test_a_file_is_whole_before_its_end_is_handled(pool, monkeypatch):
    chunks = pmui.FileInput._process_chunk
    slow = threading.Event()
    monkeypatch.setattr(pmui.FileInput, "_process_chunk", lambda *args: (slow.wait(0.05), chunks(*args)))
    document, widget, heard = Document(), pmui.FileInput(), []
    model = widget.get_root(document)
    widget.param.watch(lambda event: heard.append(event.new), "value")
    for file in (b"first", b"second"):
        chunk = {"name": "a", "chunk": 1, "total_chunks": 1, "mime_type": "", "data": file}
        widget._comm_event(document, DataEvent(model=model, data={"status": "upload_event", **chunk}))
        widget._comm_event(document, DataEvent(model=model, data={"status": "finished"}))
    pool.shutdown()
    assert heard == [b"first", b"second"]


class Context:
    destroyed = False


def test_nothing_is_handled_before_the_page_is_drawn(pool, monkeypatch):
    """What a page changes before Panel has heard that it is drawn is dropped."""
    document, heard, context = Document(), [], Context()
    document._session_context = lambda: context
    early = [pool.submit(lambda _, name=name: heard.append(name), document) for name in "ab"]
    time.sleep(0.05)
    assert heard == []
    monkeypatch.setattr(
        type(pn.state), "_on_load", lambda self, doc: (self._connected.update({doc: True}), heard.append("drawn"))
    )
    pool.submit(pn.state._on_load, document).result(20)
    for future in early:
        future.result(20)
    assert heard == ["drawn", "a", "b"]
    pool.submit(lambda _: heard.append("c"), document).result(20)
    assert heard == ["drawn", "a", "b", "c"]


def test_a_session_that_ended_before_it_was_drawn_is_forgotten(pool):
    document, context = Document(), Context()
    document._session_context = lambda: context
    pool.submit(lambda _: None, document)
    context.destroyed = True
    pool.submit(lambda _: None, Document()).result(20)
    assert document not in pool._lines


def test_sessions_run_side_by_side(pool):
    meet = threading.Barrier(2)
    futures = [pool.submit(lambda _: meet.wait(20), Document()) for _ in range(2)]
    assert sorted(future.result(30) for future in futures) == [0, 1]


def test_what_fails_is_told_and_what_comes_after_runs(pool):
    document = Document()
    first, second = pool.submit(lambda _: 1 / 0, document), pool.submit(lambda _: "well", document)
    with pytest.raises(ZeroDivisionError):
        first.result(20)
    assert second.result(20) == "well"
    assert pool.submit(len, "abc").result(20) == 3


def test_a_server_without_threads_stays_so(monkeypatch):
    monkeypatch.setattr(pn.state, "_thread_pool", None)
    keep_order()
    assert pn.state._thread_pool is None


def test_order_is_kept_once(pool):
    keep_order()
    assert pn.state._thread_pool is pool
    assert isinstance(pool, InOrder)
