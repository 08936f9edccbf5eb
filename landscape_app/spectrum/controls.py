"""The widgets of the Spectrum page."""

from __future__ import annotations

from typing import Any

import panel as pn

from landscape_app import look
from landscape_app.controls import button, field
from landscape_app.spectrum.state import RANDOM, Spectrum
from landscape_app.text import text


class SpectrumControls:
    """What to compute: the model, the weights, the matrix and what counts in it."""

    def __init__(self, state: Spectrum):
        self.state = state
        names = ("problem", "checkpoint", "matrix", "layer", "of_class", "batchnorm")
        more = ("largest", "smallest", "most_products", "probes", "degree", "seed")
        self.fields = {name: field(state, name) for name in (*names, *more)}
        self.place = look.html(visible=False)
        self.leave = small_button("Use the checkpoint itself", self._leave)
        self.place_box = look.column(self.place, self.leave, visible=False)
        first = [self.fields[n] for n in names[:2]]
        rest = [self.fields[n] for n in names[2:]]
        self.view = look.column(
            *first, self.place_box, *rest, look.fold("How many, and the density", *(self.fields[n] for n in more))
        )
        state.param.watch(self._arrange, ["problem", "at", "batchnorm"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        state = self.state
        self.fields["layer"].visible = len(state.param.layer.objects) > 1
        self.fields["of_class"].visible = len(state.param.of_class.objects) > 1
        self.fields["batchnorm"].visible = len(state.param.batchnorm.objects) > 1
        self.place_box.visible = self.place.visible = state.at is not None
        if state.at is not None:
            said = f"At the point <b>{text(state.at)}</b> of a surface, not at the checkpoint."
            self.place.object = f'<div class="ls at"><p>{said}</p></div>'

    def _leave(self, *_: Any) -> None:
        self.state.at = None


class LookControls:
    """How the densities are drawn."""

    def __init__(self, state: Spectrum):
        self.state = state
        self.fields = {
            "log_scale": field(state, "log_scale", width=118),
            "width": field(state, "width", width=230, throttled=False, show_value=False),
        }
        self.view = look.column(look.bar(*self.fields.values()))  # a bar itself cannot be hidden


class EigenvalueControls:
    """The chosen eigenvalue and what to do with it: what a tap does, for the keyboard."""

    def __init__(self, state: Spectrum, go: Any):
        self.state = state
        self.fields = {"pick": field(state, "pick", width=230), "second": field(state, "second", width=200)}
        self.go = button("Plane of this eigenvector", go)
        self.said = look.html()
        self.view = look.column(look.bar(*self.fields.values(), self.go), self.said)
        state.param.watch(self._arrange, ["chosen", "second", "result", "job", "shown"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        state, ready = self.state, self.state.along is not None
        self.go.disabled = not ready
        self.go.label = "Plane of this eigenvector" if state.second == RANDOM else "Plane of these eigenvectors"
        self.fields["second"].visible = state.chosen is not None
        said = ""
        if state.chosen is None:
            said = "Tap an eigenvalue, or choose it here, to look at the loss along its eigenvector."
        elif not ready and state.busy:
            said = "The eigenvectors are there once all eigenvalues of this part are found."
        elif not ready:
            said = "This session does not hold the eigenvectors of this result: compute it again to go along one."
        self.said.object = f'<p class="ls quiet">{text(said)}</p>' if said else ""


def small_button(label: str, does: Any) -> pn.widgets.Button:
    button = pn.widgets.Button(label=label, stylesheets=[look.STYLE], css_classes=["ls-small"], margin=0)
    button.on_click(does)
    return button
