"""A session as one file: a zip of its choices and of each of its results, which another session opens again."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import xarray as xr

from analysis import ResultError, save
from landscape_app import links, saved
from landscape_app.entries import Entry
from landscape_app.findings import file_name
from landscape_app.state import State
from landscape_app.text import explain

SCHEMA = "landscape-session/1"
INDEX = "session.json"
MOST_RESULTS, MOST_BYTES = 1000, 4 * 1024**3  # that are unpacked


@dataclass(frozen=True)
class Held:
    """What a file holds that could be read.

    results: (number, result, when it was computed) each. shown: kind of task to the number that it showed. choices:
    kind to names to texts, as an address has them. shelf: labels, colours and pins of checkpoints. troubles: what could
    not be read, in words.
    """

    page: str
    results: list[tuple[int, xr.Dataset, datetime]] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)
    choices: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    shelf: dict[str, Any] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def packed(state: State) -> io.BytesIO:
    """The session as a file."""
    index: dict[str, Any] = {
        "schema": SCHEMA,
        "page": state.page,
        "choices": {kind: _lists(links.chosen(task)[0]) for kind, task in state.tasks.items()},
        "shown": {kind: task.shown for kind, task in state.tasks.items() if task.shown},
        "shelf": state.shelf.record(),
        "results": [_about(entry) for entry in state.entries],
    }
    return _zipped(state.entries, {INDEX: json.dumps(index, indent=1).encode()})


def files(entries: tuple[Entry, ...]) -> io.BytesIO:
    """Several results as one file."""
    return _zipped(entries, {})


def holds(content: bytes) -> bool:
    """Whether a file is of this kind, rather than one result."""
    return content.startswith(b"PK")


def opened(content: bytes) -> Held:
    """What a file holds. Raises ResultError if it is no session; a part that is wrong is told among its troubles."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        index = json.loads(archive.read(INDEX))
        schema = index["schema"]
    except Exception as error:
        raise ResultError(
            f"This zip file holds no '{INDEX}' that can be read ({type(error).__name__}), so it is no session that was "
            "saved here. Open one, or the .nc file of a result."
        ) from error
    if schema != SCHEMA:
        raise ResultError(f"This session was saved as {schema!r}; {SCHEMA!r} can be opened. Save it again from there.")
    listed = index.get("results")
    parts = listed if isinstance(listed, list) else []
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if len(parts) > MOST_RESULTS or sum(sizes.values()) > MOST_BYTES:
        raise ResultError(
            f"This session has {len(parts):,} results of {sum(sizes.values()) / 1e9:.1f} GB; at most {MOST_RESULTS:,} "
            f"of {MOST_BYTES / 1e9:.1f} GB are opened at once. Open its .nc files one by one."
        )
    held = Held(str(index.get("page")), shelf=_dict(index.get("shelf")))
    for part in parts:
        try:
            name = str(part["file"])
            ds = saved.opened(name, archive.read(name))
            held.results.append((int(part["number"]), ds, datetime.fromisoformat(part["since"])))
        except Exception as error:
            held.troubles.append(_said(part, error))
    for kind, number in _dict(index.get("shown")).items():
        if isinstance(number, int):
            held.shown[kind] = number
    for kind, chosen in _dict(index.get("choices")).items():
        held.choices[kind] = {
            name: [str(text) for text in texts]
            for name, texts in _dict(chosen).items()
            if isinstance(texts, list) and texts
        }
    return held


def _said(part: Any, error: Exception) -> str:
    name = part.get("file") if isinstance(part, dict) else part
    if isinstance(error, KeyError) and name is not None:
        return f"'{name}' is listed in the session, but is not in its file or lacks its number or time."
    return explain(error)[0]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _lists(said: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, text in said:
        found.setdefault(name, []).append(text)
    return found


def _about(entry: Entry) -> dict[str, Any]:
    return {"number": entry.number, "file": _name(entry), "since": entry.since.isoformat(), "from": entry.file}


def _name(entry: Entry) -> str:
    return f"{entry.number}-{file_name(entry.result)}"


def _zipped(entries: tuple[Entry, ...], more: dict[str, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive, tempfile.TemporaryDirectory() as folder:
        for name, content in more.items():
            archive.writestr(name, content)
        for entry in entries:
            archive.write(save(entry.result, Path(folder) / "result.nc"), _name(entry))
    made.seek(0)
    return made
