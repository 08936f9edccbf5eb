"""One picture, or two side by side: what they share, and what each has of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import Range1d

from landscape_app import look, picture, plotting, relief, words
from landscape_app.difference import difference
from landscape_app.heatmap import Heatmap
from landscape_app.picture import Metric
from landscape_app.plot import Plot
from landscape_app.scales import Scale
from landscape_app.state import State
from landscape_app.text import text

Edit = Callable[[], None]  # of Bokeh models, for `plotting.change`


class Pair:
    """The state's result, and while it compares, the one beside it. Two of one quantity share a scale."""

    def __init__(self, state: State):
        self.state = state
        self.plot = Plot(state)
        self.beside: Plot | None = None  # made when the first comparison begins
        self.apart: Heatmap | None = None  # made when the first difference is looked at
        self.difference: tuple[xr.Dataset, Metric] | None = None  # that is drawn
        self.apart_text, self.apart_box = look.html(), look.column()
        self.apart_half = look.column(self.apart_text, self.apart_box, visible=False)
        self.captions = {"A": look.html(visible=False), "B": look.html()}
        self.pictures = look.facing(look.half(self.captions["A"], self.plot.view))
        self.compared = look.html(visible=False)
        self.plot.heatmap.on_tap(state.choose)

    @property
    def panes(self) -> list[pn.viewable.Viewable]:
        """For a notebook, which must be told of changes."""
        apart = [self.apart.pane] if self.apart else []
        return [*self.plot.panes, *(self.beside.panes if self.beside else ()), *apart]

    def draw(self) -> list[Edit]:
        """Show what the state has; returns what is left to do to the Bokeh models."""
        state, prepare = self.state, self._arrange()
        ds, other = state.drawn, state.beside
        if ds is None:
            return prepare
        if other is None or self.beside is None:
            scale = Scale.of(picture.spanned(ds, state.metric_shown), state.log_scale, state.clip_of(ds))
            return [self.plot.draw(ds, state.metric_shown, scale), *prepare, lambda: self._link(False)]
        shown = [(ds, state.metric_shown), (other, state.metric_beside)]
        scales = self._scales(shown)
        reaches = [relief.reach(*one, scale) for one, scale in zip(shown, scales, strict=True)]
        if state.same_quantity:
            reaches = [(min(low for low, _ in reaches), max(high for _, high in reaches))] * 2
        for name, (result, metric) in zip("AB", shown, strict=True):
            self.captions[name].object = _caption(name, result, metric)
        self.compared.object = f'<p class="ls quiet">{text(words.comparison(state))}</p>'
        together = state.same_axes
        drawn = [
            plot.draw(*one, scale, reach)
            for plot, one, scale, reach in zip((self.plot, self.beside), shown, scales, reaches, strict=True)
        ]
        return [*drawn, *prepare, lambda: self._link(together), *self._draw_difference(shown)]

    def _draw_difference(self, shown: list[tuple[xr.Dataset, Metric]]) -> list[Edit]:
        """A − B where it is asked for and means something; else why it does not."""
        state, self.difference = self.state, None
        self.apart_half.visible = state.difference
        if not state.difference:
            return []
        self.apart_box.visible = not state.indifferent
        if state.indifferent:
            self.apart_text.object = f'<p class="ls quiet" role="status">No difference: {text(state.indifferent)}</p>'
            return []
        (a, one), (b, other) = shown
        self.difference = ds, metric = difference(a, one, b, other)
        title, conditions = words.caption(a)
        beside = "" if a is b else f" − {' · '.join(words.caption(b))}"
        self.apart_text.object = (
            f'<div class="ls caption"><h2><b>A − B</b> {text(metric.label.removeprefix("A − B: "))}</h2>'
            f'<p class="quiet">{text(f"{title} · {conditions}{beside}")}</p>'
            f'<p class="quiet nums">{text(words.summary(ds, metric))}</p></div>'
        )
        if self.apart is None:
            self.apart = self._new_apart()
        plot, scale = self.apart, Scale.about_zero(metric.values)

        def edit() -> None:
            plot.draw(ds, metric, scale, "difference")
            plot.show(state.show_contours, samples=False)
            if not len(self.apart_box):
                self.apart_box.append(plot.pane)

        return [edit]

    def _new_apart(self) -> Heatmap:
        """It moves with the first picture."""
        first, made = self.plot.heatmap.figure, Heatmap()
        made.figure.update(x_range=first.x_range, y_range=first.y_range)
        made.hover.tooltips = [("A − B", "@raw{custom}"), *made.hover.tooltips[1:]]
        made.on_tap(self.state.choose)
        return made

    def point(self, point: tuple[float, float] | None) -> list[Edit]:
        """Mark a point of the first plane, and in the second where its coordinates can be read there."""
        edits = [self.plot.point(point)]
        if self.beside is not None:
            edits.append(self.beside.point(point if self.there(point) else None))
        if self.apart is not None:
            edits.append(partial(self.apart.point, point))
        return edits

    def there(self, point: tuple[float, float] | None) -> tuple[float, float] | None:
        """The point on the grid of the second picture, None where it means nothing there."""
        other = self.state.beside
        alike = point is not None and other is not None and self.state.same_axes
        return picture.on_grid(other, point) if alike else None

    def _arrange(self) -> list[Edit]:
        state, comparing = self.state, self.state.beside is not None
        edits: list[Edit] = []
        if comparing and self.beside is None:
            self.beside = Plot(state)
            self.beside.heatmap.on_tap(self._tap_beside)
            self.pictures.extend([look.half(self.captions["B"], self.beside.view), self.apart_half])
            edits.append(self._prepare_links)
        for half in self.pictures[1:2]:
            half.visible = comparing
        if not comparing:
            self.difference, self.apart_half.visible = None, False
        self.captions["A"].visible = self.compared.visible = comparing
        look.arrange(self.pictures, "ls-facing" if comparing else "ls-single")
        return edits

    def _scales(self, shown: list[tuple[xr.Dataset, Metric]]) -> list[Scale]:
        spanned = [picture.spanned(*one) for one in shown]
        if self.state.same_quantity:
            return [Scale.of(np.concatenate(spanned), self.state.log_scale, self.state.clip_of(shown[0][0]))] * 2
        logs = self.state.log_scale, self.state.other_log_scale
        clips = self.state.clip_of(shown[0][0]), None
        return [Scale.of(values, log, clip) for values, log, clip in zip(spanned, logs, clips, strict=True)]

    def _ranges(self) -> Iterator[tuple[Range1d, Range1d]]:
        if self.beside is None:
            return
        for one, other in ((self.plot.heatmap, self.beside.heatmap), (self.plot.curve, self.beside.curve)):
            yield one.figure.x_range, other.figure.x_range
        yield self.plot.heatmap.figure.y_range, self.beside.heatmap.figure.y_range

    def _prepare_links(self) -> None:
        for one, other in self._ranges():
            plotting.link(one, other)

    def _link(self, together: bool) -> None:
        for one, other in self._ranges():
            plotting.linked(one, other, together)

    def _tap_beside(self, a: float, b: float) -> None:
        if self.state.beside is not None and self.state.same_axes:
            self.state.choose(a, b)


def _caption(name: str, ds: xr.Dataset, metric: Metric) -> str:
    title, conditions = words.caption(ds)
    return (
        f'<div class="ls caption"><h2><b>{name}</b> {text(metric.label)}</h2>'
        f'<p class="quiet">{text(title)} · {text(conditions)}</p></div>'
    )
