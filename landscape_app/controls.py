"""The widgets of a session's choices. Panel picks the widget classes, so a page's own design skins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn
import param
from bokeh.models import CustomJSTickFormatter

from landscape_app import look, words
from landscape_app.request import SLICES
from landscape_app.state import State
from landscape_app.task import Task
from landscape_app.text import text

BLANK = "return tick == null ? '' : String(tick);"  # else a number that is not there is written 0.0
PLACES = ("first", "second", "third")
DIRECTIONS = ("normalisation", "layers", "include", "frozen")


class SliceControls:
    """What to compute: the model, the slice through its checkpoints, and how finely."""

    def __init__(self, state: State):
        self.state = state
        precision = ("resolution", "tolerance", "fit_extent", "extent_a", "extent_b")
        shown = ("problem", "slice", *PLACES, "seed", "batchnorm")
        self.fields = {name: field(state, name) for name in (*shown, "seeds", *DIRECTIONS, *precision)}
        self.directions = look.fold("Directions", *(self.fields[name] for name in ("seeds", *DIRECTIONS)))
        self.unlike = look.html(visible=False)
        self.view = look.column(
            self.unlike,
            *(self.fields[name] for name in shown),
            self.directions,
            look.fold("Extent and precision", *(self.fields[name] for name in precision)),
        )
        state.param.watch(self._arrange, ["problem", "slice", "third", "seeds", "fit_extent", "along"])
        state.param.watch(self._say_unlike, ["foreign", "shown"])
        self._arrange()

    def _say_unlike(self, *_: Any) -> None:
        self.unlike.visible = self.state.foreign is not None
        if self.unlike.visible:
            said, why = map(text, words.unlike(self.state))
            self.unlike.object = (
                f'<div class="ls alert warn" role="status"><p>{said}</p><p class="quiet">{why}</p></div>'
            )

    def _arrange(self, *_: Any) -> None:
        """Show the choices that matter for this slice, called by their role in it."""
        state, kind = self.state, SLICES[self.state.slice]
        for i, place in enumerate(PLACES):
            self.fields[place].visible = i < len(kind.roles)
            if i < len(kind.roles):
                state.param[place].label = kind.roles[i]
        seeded = kind.seeded(len(state.request().checkpoints))
        self.fields["seed"].visible = self.directions.visible = seeded
        state.param.seed.label = "Seed of the directions" if state.seeds == 1 else "First seed of the directions"
        for name in DIRECTIONS:
            self.fields[name].visible = kind.aimless
        self.fields["layers"].visible = kind.aimless and len(state.param.layers.objects) > 1
        self.fields["include"].visible = kind.aimless and len(state.param.include.objects) > 1
        self.fields["frozen"].visible = kind.aimless and state.has_frozen
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
            "across": field(state, "across", width=110),
            "palette": field(state, "palette", width=100),
            "log_scale": field(state, "log_scale", width=112),
            "clip": field(state, "clip", width=110, **blank()),
            "show_contours": field(state, "show_contours", width=92),
            "show_samples": field(state, "show_samples", width=172),
            "relief": field(state, "relief", width=64),
            "compare": field(state, "compare", width=94),
        }
        self.fields["clip"][0].value = state.clip  # a widget makes a number of None
        self.view = look.bar(*self.fields.values())


class CompareControls:
    """What the picture beside the first shows; there while something is compared."""

    def __init__(self, state: State):
        self.state = state
        self.fields = {
            "other": field(state, "other", width=330),
            "other_metric": field(state, "other_metric", width=200),
            "other_across": field(state, "other_across", width=110),
            "other_log_scale": field(state, "other_log_scale", width=118),
            "difference": field(state, "difference", width=112),
        }
        self.view = look.column()
        state.param.watch(
            self._arrange, ["compare", "other", "other_metric", "other_across", "across", "metric", "result"]
        )
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        comparing = self.state.beside is not None
        self.view.visible = comparing
        if comparing and not len(self.view):
            self.view.append(look.bar(*self.fields.values()))
        self.fields["other_across"].visible = comparing and len(self.state.param.other_across.objects) > 1
        self.fields["other_log_scale"].visible = comparing and not self.state.same_quantity


class PointControls:
    """The chosen point of a plane by its coordinates: what a tap does, for the keyboard."""

    def __init__(self, state: State):
        self.fields = {name: field(state, name, width=150, **blank()) for name in ("at_a", "at_b")}
        for name, shown in self.fields.items():
            shown[0].value = getattr(state, name)  # a widget makes a number of None

    def step(self, a: float, b: float) -> None:
        """How far the arrow keys go. To be called once a picture is there."""
        for shown, size in zip(self.fields.values(), (a, b), strict=True):
            shown[0].step = size
            if shown[0].value is None:
                shown[0].param.trigger("value")  # a browser's number begins at 0 all the same


def blank() -> dict[str, Any]:
    """Options of a field of a number that may be missing."""
    return {"placeholder": "", "format": CustomJSTickFormatter(code=BLANK)}


def field(state: Task, name: str, width: int | None = None, **options: Any) -> pn.Param:
    """The widget of one parameter, as wide as its place or `width` pixels."""
    size: dict[str, Any] = {"sizing_mode": "stretch_width"} if width is None else {"width": width}
    made = pn.Param(
        state,
        parameters=[name],
        widgets={name: {"margin": (6, 0), **size, **options}},
        show_name=False,
        margin=0,
        **size,
    )
    if isinstance(state.param[name], param.Selector):
        state.param.watch(lambda _: _say_anew(made[0]), name, what="objects")
        if isinstance(made[0], pn.widgets.select.SingleSelectBase):
            _hear_what_is_offered(made[0])
    return made


def _hear_what_is_offered(choice: pn.widgets.select.SingleSelectBase) -> None:
    """A browser that is late may say a value that is gone: it is left out, for the present one is on its way there."""
    heard = choice._process_property_change

    def hear(news: dict[str, Any]) -> dict[str, Any]:
        said = news.get("value", "")
        if isinstance(said, list):
            gone = any(label not in choice.labels for label in said)
        else:
            gone = said not in ("", *choice.labels, *choice.unicode_values)
        return heard({key: value for key, value in news.items() if not (gone and key == "value")})

    choice._process_property_change = hear


def _say_anew(choice: pn.widgets.Select) -> None:
    """The browser knows a value by its label, and is told of another label only with a value."""
    offered = list(choice.options.values() if isinstance(choice.options, dict) else choice.options)
    if all(value in offered for value in (choice.value if isinstance(choice.value, list) else [choice.value])):
        choice.param.trigger("value")


def button(label: str, does: Callable[[], None]) -> pn.widgets.Button:
    """A button beside a picture."""
    made = pn.widgets.Button(label=label, stylesheets=[look.STYLE], css_classes=["ls-link"], margin=(6, 0))
    made.on_click(lambda _: does())
    return made
