"""What `panel serve landscape_app` does once, when the server starts and when it stops."""

import contextlib
import logging
import os

import torch
from tornado.websocket import WebSocketClosedError

from landscape_app.projects import open_project, project_path
from landscape_app.session import RUNNER

WRITERS = ("asyncio", "panel.io.document", "bokeh.server.views.ws")
CLOSED = "Failed sending message as connection was closed"


def worth_saying(record: logging.LogRecord) -> bool:
    """Whether a log record is more than this: a tab was closed while a picture was on its way to it."""
    error = record.exc_info[1] if record.exc_info else None
    return record.getMessage() != CLOSED and not isinstance(error, WebSocketClosedError)


def on_server_loaded(server_context: object) -> None:
    """Read the project before the first visitor comes; leave one core to the event loop.

    Torch on every core makes the page slower, and on a shared machine itself too.
    """
    for name in WRITERS:
        logging.getLogger(name).addFilter(worth_saying)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    with contextlib.suppress(BaseException):  # the page says what is wrong
        open_project(project_path())


def on_server_unloaded(server_context: object) -> None:
    """Cancel what is running, so that the process ends at once."""
    RUNNER.close()
