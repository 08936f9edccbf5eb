"""What `panel serve landscape_app` does once, when the server starts and when it stops."""

import contextlib
import os

import torch

from landscape_app.projects import open_project, project_path
from landscape_app.session import RUNNER


def on_server_loaded(server_context: object) -> None:
    """Read the project before the first visitor comes; leave one core to the event loop.

    Torch on every core makes the page slower, and on a shared machine itself too.
    """
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    with contextlib.suppress(BaseException):  # the page says what is wrong
        open_project(project_path())


def on_server_unloaded(server_context: object) -> None:
    """Cancel what is running, so that the process ends at once."""
    RUNNER.close()
