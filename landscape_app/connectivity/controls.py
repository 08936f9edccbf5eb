"""The widgets of the Connectivity page."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn

from analysis import Checkpoint, save_checkpoint
from landscape_app import look
from landscape_app.connectivity import picture
from landscape_app.connectivity.request import NONE
from landscape_app.connectivity.state import Connectivity
from landscape_app.controls import field

WIDTHS = {"metric": 200, "first": 220, "second": 220}


class ConnectivityControls:
    """What to compute between which checkpoints."""

    def __init__(self, state: Connectivity):
        self.state = state
        names = ("problem", "checkpoints", "matching", "repair", "batchnorm", "convention")
        self.fields = {name: field(state, name) for name in names}
        more = look.fold("Convention", self.fields["convention"])
        self.view = look.column(*(self.fields[name] for name in names[:-1]), more)
        state.param.watch(self._arrange, ["problem", "matching"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        self.fields["repair"].visible = self.state.matching != NONE
        self.fields["batchnorm"].visible = len(self.state.param.batchnorm.objects) > 1


class PairControls:
    """The metric and the pair that are looked at: what a tap on a cell does, for the keyboard."""

    def __init__(self, state: Connectivity):
        self.fields = {name: field(state, name, width=width) for name, width in WIDTHS.items()}
        self.view = look.column(look.bar(*self.fields.values()))


class Downloads:
    """The matched checkpoint of the chosen pair and the merged one, as files; there while the session has them."""

    def __init__(self, state: Connectivity):
        self.state = state
        self.matched = _download("Save B matched to A", self._matched)
        self.merged = _download("Save the merged checkpoint", self._merged)
        self.view = look.column(look.bar(self.matched, self.merged))

    def arrange(self) -> None:
        """Offer what there is."""
        state, kept = self.state, self.state.matched
        self.matched.visible = kept is not None
        self.merged.visible = kept is not None and kept.merged is not None
        if state.result is not None:
            a, b = (picture.names(state.result)[i] for i in (state.first, state.second))
            self.matched.filename = _file_name(f"{b} matched to {a}")
            self.merged.filename = _file_name(f"merged {' '.join(picture.names(state.result))}")

    def _matched(self) -> io.BytesIO:
        with self.state.lock:
            kept = self.state.matched
            return _file(kept.to(self.state.first, self.state.second) if kept else None)

    def _merged(self) -> io.BytesIO:
        with self.state.lock:
            kept = self.state.matched
            return _file(kept.merged if kept else None)


def _file(checkpoint: Checkpoint | None) -> io.BytesIO:
    if checkpoint is None:
        return io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        return io.BytesIO(save_checkpoint(checkpoint, Path(folder) / "checkpoint.safetensors").read_bytes())


def _file_name(said: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', said).strip('-.')[:100]}.safetensors"


def _download(label: str, file: Callable[[], io.BytesIO]) -> pn.widgets.FileDownload:
    return pn.widgets.FileDownload(
        callback=file, filename="checkpoint.safetensors", label=label, stylesheets=[look.STYLE],
        css_classes=["ls-link"], margin=(6, 0), visible=False,
    )  # fmt: skip
