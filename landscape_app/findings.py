"""What a picture says in words and numbers: a sentence, the checkpoints, where it came from, the file."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
import xarray as xr

from analysis import provenance, save
from landscape_app import look, words
from landscape_app.checkpoints.shelf import colours
from landscape_app.state import State
from landscape_app.text import text

MOST_LISTED = 6
HASHES = ("sha256", "code")


class Findings:
    """Beside and beneath a picture, for every metric that it can show."""

    def __init__(self, state: State):
        self.state = state
        self.sentence = look.html()
        self.caption = look.html()
        self.checkpoints = look.html()
        self.provenance = look.html()
        self.download = download(lambda: self.state.result, "Download result (netCDF)", "ls-link", margin=(16, 0))
        self.view = look.column(self.caption, self.checkpoints, self.download, self.provenance, visible=False)

    def draw(self, ds: xr.Dataset | None) -> None:
        """Show a result, or none."""
        self.view.visible = self.sentence.visible = ds is not None
        if ds is None:
            return
        metric = self.state.metric_shown
        self.sentence.object = f'<p class="ls quiet nums">{text(words.summary(ds, metric))}</p>'
        title, conditions = words.caption(ds)
        explained = words.explained(ds)
        more = f'<p class="nums">{text(explained)}</p>' if explained else ""
        self.caption.object = (
            f'<div class="ls"><h2>{text(title)}</h2><p class="quiet">{text(conditions)}</p>{more}</div>'
        )
        self.checkpoints.object = _checkpoints(words.checkpoint_lines(ds, metric), colours(ds, "marker"))
        record = provenance_html(ds)
        if record != self.provenance.object:
            self.provenance.object = record
        self.download.filename = file_name(self.state.result)


def download(result: Callable[[], xr.Dataset], label: str, kind: str, **options: Any) -> pn.widgets.FileDownload:
    """A button that gives a result as a netCDF file, made when it is asked for."""

    return pn.widgets.FileDownload(
        callback=lambda: netcdf(result()), filename="surface.nc", label=label, stylesheets=[look.STYLE],
        css_classes=[kind], **options,
    )  # fmt: skip


def netcdf(ds: xr.Dataset) -> io.BytesIO:
    """A result as a file."""
    with tempfile.TemporaryDirectory() as folder:
        return io.BytesIO(save(ds, Path(folder) / "surface.nc").read_bytes())


def file_name(ds: xr.Dataset) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', ds.attrs['title']).strip('-')}.nc"


def _checkpoints(lines: list[tuple[str, str]], spots: list[str]) -> str:
    listed = [
        f'<dt style="--spot: {spot}">{text(name)}</dt><dd>{text(said)}</dd>'
        for (name, said), spot in zip(lines, spots, strict=True)
    ]
    if len(listed) > MOST_LISTED + 1:
        half = MOST_LISTED // 2
        between = f'<dt class="more">and {len(listed) - 2 * half} more</dt>'
        listed = [*listed[:half], between, *listed[-half:]]
    return f'<div class="ls"><dl class="items">{"".join(listed)}</dl></div>'


def provenance_html(ds: xr.Dataset, folded: bool = True) -> str:
    """Where a result comes from, behind a line that opens it or at once."""
    lines = []
    for depth, what, value in words.provenance_rows(provenance(ds)):
        if not value:
            lines.append(f'<dt class="group">{text(what)}</dt>')
        else:
            kind = ' class="hash"' if what in HASHES else ""
            lines.append(f"<dt{' class=in' if depth else ''}>{text(what)}</dt><dd{kind}>{text(value)}</dd>")
    record = f'<dl class="facts">{"".join(lines)}</dl>'
    return f'<div class="ls">{look.folded("Where this comes from", record) if folded else record}</div>'
