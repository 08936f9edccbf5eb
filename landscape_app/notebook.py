"""The explorer in a notebook.

    from landscape_app.notebook import Explorer, view

Importing this loads what the browser needs into the notebook, out of the installed packages: nothing comes from a
network. Do it in a cell before the first that displays something.

Panel leaves three things undone in a notebook, which are done here. What is sent before the browser is ready waits, and
arrives in its order. What the browser says is heard between cells: JupyterLab sends it to a thread beside the one that
runs them. What comes to a page later brings its style sheets along, instead of naming those of a network.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import holoviews as hv
import panel as pn
from bokeh.document import Document
from bokeh.document.events import ModelChangedEvent
from bokeh.model import Model
from bokeh.models import ImportedStyleSheet, UIElement
from panel import viewable
from panel.io import notebook

from landscape_app.explorer import Explorer
from landscape_app.views import View, view

__all__ = ["Explorer", "View", "view"]

MANAGER = notebook.JupyterCommManagerBinary
DIFF, RENDER_MODEL = notebook.diff, notebook.render_model


class _ToBrowser(MANAGER.server_comm):
    """Keeps what is sent until the browser has opened the connection, in a thread of its own."""

    def __init__(self, *options: Any, **more: Any):
        super().__init__(*options, **more)
        self._opening, self._waiting = threading.RLock(), []
        self._comm = self

    def init(self) -> None:
        with self._opening:
            super().init()
            for data, options in self._waiting:
                self._comm.send(data, **options)
            self._waiting = []

    def send(self, data: Any = None, **options: Any) -> None:
        with self._opening:
            if self._comm is self:
                self._waiting.append((data, options))
            else:
                self._comm.send(data, **options)

    def close(self) -> None:
        if self._comm is not self:
            super().close()


class _FromBrowser(MANAGER.client_comm):
    """Handles what the browser says in the thread that runs the cells."""

    def __init__(self, *options: Any, **more: Any):
        super().__init__(*options, **more)
        self._loop = asyncio.get_running_loop()

    def _handle_msg(self, message: Any) -> None:
        self._loop.call_soon_threadsafe(super()._handle_msg, message)


def _with_styles(document: Document | None, models: Iterable[Any]) -> None:
    """Put the style sheets that these models name into them. The document looks for its models once, not each time."""
    with document.models.freeze() if document else nullcontext():
        for model in [model for model in models if isinstance(model, UIElement)]:
            if any(isinstance(sheet, ImportedStyleSheet) for sheet in model.stylesheets):
                notebook.patch_inline_stylesheets(model)


def _diff(document: Document, *options: Any, **more: Any) -> Any:
    if any(type(event) is ModelChangedEvent for event in document.callbacks._held_events):
        _with_styles(document, document.models)
    return DIFF(document, *options, **more)


def _render_model(model: Model, *options: Any, **more: Any) -> Any:
    _with_styles(model.document, model.references())
    return RENDER_MODEL(model, *options, **more)


hv.extension("bokeh", inline=True, logo=False)
pn.extension(inline=True)
notebook.diff = _diff
notebook.render_model = hv.plotting.renderer.render_model = _render_model
viewable.patch_inline_stylesheets = lambda model: None  # each time all models are looked for: `_with_styles` does not
MANAGER.server_comm, MANAGER.client_comm = _ToBrowser, _FromBrowser
