"""The widgets of a session's choices. Panel picks the widget classes, so a page's own design skins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn
from bokeh.models import CustomJSTickFormatter

from landscape_app import look
from landscape_app.request import SLICES
from landscape_app.state import State
from landscape_app.task import Task

BLANK = "return tick == null ? '' : String(tick);"  # else a number that is not there is written 0.0
PLACES = ("first", "second", "third")


class SliceControls:
    """What to compute: the model, the slice through its checkpoints, and how finely."""

    def __init__(self, state: State):
        self.state = state
        names = ("problem", "slice", *PLACES, "seed", "fit_extent", "extent_a", "extent_b")
        names += ("resolution", "tolerance", "batchnorm")
        self.fields = {name: field(state, name) for name in names}
        shown = [self.fields[n] for n in ("problem", "slice", *PLACES, "seed", "batchnorm")]
        more = [self.fields[n] for n in ("resolution", "tolerance", "fit_extent", "extent_a", "extent_b")]
        self.view = look.column(*shown, look.fold("Extent and precision", *more))
        state.param.watch(self._arrange, ["problem", "slice", "third", "fit_extent", "along"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        """Show the choices that matter for this slice, called by their role in it."""
        state, kind = self.state, SLICES[self.state.slice]
        for i, place in enumerate(PLACES):
            self.fields[place].visible = i < len(kind.roles)
            if i < len(kind.roles):
                state.param[place].label = kind.roles[i]
        self.fields["seed"].visible = kind.seeded(len(state.request().checkpoints))
        self.fields["batchnorm"].visible = len(state.param.batchnorm.objects) > 1 and not kind.along
        own = not state.fit_extent
        self.fields["extent_a"].visible = own
        self.fields["extent_b"].visible = own and kind.dims == 2
        state.param.extent_a.label = "Extent of a" if kind.dims == 2 else "Extent of t"


class PictureControls:
    """How the result is shown."""

    def __init__(self, state: State):
        self.fields = {
            "metric": field(state, "metric", width=200),
            "palette": field(state, "palette", width=110),
            "log_scale": field(state, "log_scale", width=118),
            "show_contours": field(state, "show_contours", width=102),
            "show_samples": field(state, "show_samples", width=172),
            "relief": field(state, "relief", width=64),
            "compare": field(state, "compare", width=106),
        }
        self.view = look.bar(*self.fields.values())


class CompareControls:
    """What the picture beside the first shows; there while something is compared."""

    def __init__(self, state: State):
        self.state = state
        self.fields = {
            "other": field(state, "other", width=330),
            "other_metric": field(state, "other_metric", width=200),
            "other_log_scale": field(state, "other_log_scale", width=118),
        }
        self.view = look.column(look.bar(*self.fields.values()))
        state.param.watch(self._arrange, ["compare", "other", "other_metric", "metric", "result"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        comparing = self.state.beside is not None
        self.view.visible = comparing
        self.fields["other_log_scale"].visible = comparing and not self.state.same_quantity


class PointControls:
    """The chosen point of a plane by its coordinates: what a tap does, for the keyboard."""

    def __init__(self, state: State):
        blank = {"placeholder": "", "format": CustomJSTickFormatter(code=BLANK)}
        self.fields = {name: field(state, name, width=150, **blank) for name in ("at_a", "at_b")}
        for name, shown in self.fields.items():
            shown[0].value = getattr(state, name)  # a widget makes a number of None

    def step(self, a: float, b: float) -> None:
        """How far the arrow keys go. To be called once a picture is there."""
        for shown, size in zip(self.fields.values(), (a, b), strict=True):
            shown[0].step = size
            if shown[0].value is None:
                shown[0].param.trigger("value")  # a browser's number begins at 0 all the same


def field(state: Task, name: str, width: int | None = None, **options: Any) -> pn.Param:
    """The widget of one parameter, as wide as its place or `width` pixels."""
    size: dict[str, Any] = {"sizing_mode": "stretch_width"} if width is None else {"width": width}
    return pn.Param(
        state,
        parameters=[name],
        widgets={name: {"margin": (6, 0), **size, **options}},
        show_name=False,
        margin=0,
        **size,
    )


def button(label: str, does: Callable[[], None]) -> pn.widgets.Button:
    """A button beside a picture."""
    made = pn.widgets.Button(label=label, stylesheets=[look.STYLE], css_classes=["ls-link"], margin=(6, 0))
    made.on_click(lambda _: does())
    return made
