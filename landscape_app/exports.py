"""One result as files: the figure of a paper, its numbers, an interactive page, the Python that computes it again."""

from __future__ import annotations

import io
from typing import Any

import panel as pn
import xarray as xr

from landscape_app import look
from landscape_app.connectivity import picture as connectivity
from landscape_app.connectivity.tasks import PairTask
from landscape_app.entries import Entry
from landscape_app.findings import file_name
from landscape_app.state import State
from landscape_app.text import explain

FIGURES = ("pdf", "svg", "png")
LABELS = {"pdf": "PDF", "svg": "SVG", "png": "PNG", "csv": "CSV", "html": "HTML", "py": "Python"}


class Exports:
    """Downloads of one entry, made when they are first looked at. A figure is drawn as the page shows the result."""

    def __init__(self, state: State, entry: Entry):
        self.state, self.entry = state, entry
        self.view = look.bar()
        look.arrange(self.view, "ls-bar", "ls-close")
        self.view.visible = False
        self.refused = look.html(visible=False)

    def turn(self) -> None:
        """Show what was hidden, hide what was shown."""
        if not self.view.objects:
            kinds = [kind for kind in LABELS if kind != "py" or self.entry.request is not None]
            self.view.objects = [self._download(kind) for kind in kinds]
        self.view.visible = not self.view.visible
        self.refused.visible = False

    def sent(self, kind: str) -> io.BytesIO:
        """The entry as a file of that kind for the browser; where that fails, the page says why."""
        self.refused.visible = False
        try:
            return self.file(kind)
        except Exception as error:  # of any kind: the page says it, and the log
            self.refused.param.update(object=look.trouble(*explain(error), title=f"No {LABELS[kind]}"), visible=True)
            raise

    def file(self, kind: str) -> io.BytesIO:
        """The entry as a file of that kind."""
        ds = self.entry.result
        if kind in FIGURES:
            return self._figure(ds, kind)
        if kind == "csv":
            from landscape_app.figures.draw import kind_of_figure
            from landscape_app.figures.table import table

            text = table(ds, kind_of_figure(ds), self._look().get("metric")).to_csv(index=False)
        elif kind == "html":
            from landscape_app.report import report

            text = report([ds])
        else:
            from landscape_app.script import script

            text = script(self.entry.request, self.state.project, ds)
        return io.BytesIO(text.encode())

    def _figure(self, ds: xr.Dataset, kind: str) -> io.BytesIO:
        from landscape_app.figures import caption, figure
        from landscape_app.figures.save import write

        made, drawn = io.BytesIO(), self._look()
        said = caption(ds, metric=drawn.get("metric"), pair=drawn.get("pair"))
        write(figure(ds, **drawn), made, kind, ds.attrs["title"], said)
        made.seek(0)
        return made

    def _look(self) -> dict[str, Any]:
        """How the page draws the result, where it shows this one: options of `figure`."""
        task: Any = self.state.tasks[self.entry.kind]
        if task.shown != self.entry.number:
            return {}
        if task is self.state.connectivity:
            names = connectivity.names(task.result)
            return {"metric": task.metric, "pair": (names[task.first], names[task.second])}
        if isinstance(task, PairTask):
            return {"metric": task.paths.metric} if f"marker_{task.paths.metric}" in task.result else {}
        scale = {"scale": "log" if task.log_scale else "linear"}
        if task is not self.state:
            return scale
        clip = self.state.clip_of(task.drawn)
        return {"metric": task.metric, **scale, **({} if clip is None else {"clip": clip})}

    def _download(self, kind: str) -> pn.widgets.FileDownload:
        return pn.widgets.FileDownload(
            callback=lambda: self.sent(kind), filename=f"{file_name(self.entry.result).removesuffix('.nc')}.{kind}",
            label=LABELS[kind], stylesheets=[look.STYLE], css_classes=["ls-small"], margin=0,
        )  # fmt: skip
