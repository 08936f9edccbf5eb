"""Figures as files: the picture, and on request its caption and its numbers beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from analysis import LandscapeError, load, save
from analysis.files import whole_file
from landscape_app.figures.caption import described
from landscape_app.figures.draw import figure, kind_of_figure, one_of
from landscape_app.figures.style import style
from landscape_app.figures.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".pdf", ".svg", ".png")


def caption(
    ds: xr.Dataset | Mapping[str, xr.Dataset],
    *,
    width: str = "single",
    metric: str | None = None,
    pair: Sequence[str] | None = None,
) -> str:
    """What a figure of a result shows, and how it was computed; options as for `figure`. Raises LandscapeError."""
    ds = one_of(ds)
    kind = kind_of_figure(ds)
    return " ".join(described(ds, "path" if pair else kind, width, metric, pair).split())


def save_figure(
    ds: xr.Dataset | Mapping[str, xr.Dataset],
    path: str | Path,
    *,
    width: str = "single",
    scale: str | None = None,
    clip: float | None = None,
    metric: str | None = None,
    pair: Sequence[str] | None = None,
    beside: bool = False,
) -> list[Path]:
    """Write a result's figure as PDF, SVG or PNG, whichever the name says; its caption is in the file's metadata.

    beside: write the caption (.txt), the numbers (.csv) and the result (.nc), unless there are several, under the same
    name too. Other options: see `figure`. Returns the files that were written. Raises LandscapeError.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise LandscapeError(f"'{path.name}': give a name for the figure that ends in {', '.join(FORMATS)}.")
    alone, ds = isinstance(ds, xr.Dataset), one_of(ds)
    drawn = figure(ds, width=width, scale=scale, clip=clip, metric=metric, pair=pair)
    said = caption(ds, width=width, metric=metric, pair=pair)
    if beside and alone:
        _refuse_other(path.with_suffix(".nc"), ds)
    with whole_file(path, "surface.pdf", LandscapeError) as temporary:
        write(drawn, temporary, path.suffix[1:].lower(), ds.attrs["title"], said)
    written = _write_beside(ds, path, said, metric) if beside else []
    return [path, *written, *([save(ds, path.with_suffix(".nc"))] if beside and alone else [])]


def write(drawn: Figure, file: Any, kind: str, title: str, said: str) -> None:
    """Write a figure into a file or a buffer, with its caption in the metadata and without a date: equal figures are
    equal files.
    """
    title = title[:1].upper() + title[1:]
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"Title": title, "Subject": said, "CreationDate": None},
        "svg": {"Title": title, "Description": said, "Date": None},
        "png": {"Title": title, "Description": said},
    }
    with style():
        drawn.savefig(file, format=kind, metadata=metadata[kind])


def _write_beside(ds: xr.Dataset, path: Path, said: str, metric: str | None) -> list[Path]:
    text, numbers = path.with_suffix(".txt"), path.with_suffix(".csv")
    with whole_file(text, "surface.txt", LandscapeError) as temporary:
        temporary.write_text(f"{said}\n", encoding="utf-8")
    with whole_file(numbers, "surface.csv", LandscapeError) as temporary:
        table(ds, kind_of_figure(ds), metric).to_csv(temporary, index=False)
    return [text, numbers]


def _refuse_other(file: Path, ds: xr.Dataset) -> None:
    """A result is never written over another one: a figure's name may well be taken."""
    if file.exists() and not load(file).identical(ds.assign_attrs(load(file).attrs)):
        raise LandscapeError(f"'{file}' holds another result, and would be written over; give the figure another name.")
