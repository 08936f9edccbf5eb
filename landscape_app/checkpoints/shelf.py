"""What a session calls its checkpoints, in which colours it draws them, and which of them come first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import param
import xarray as xr

from analysis import provenance
from landscape_app.colours import ACCENT, CHECKPOINTS

LONGEST = 60
WHERE = r"(?P<before>(?:\b(?:at|along|between|and|through|to|of|from)|[,–]) )"  # stands before a name in a title
NAMED = {"marker_name": "marker", "name": "checkpoint"}


class Shelf(param.Parameterized):
    """Labels, colours and pins of a project's checkpoints, by `key`; whatever has none keeps its name.

    A label is for people: requests, addresses and files go on with the name. Change it by `rename`, `paint` and `pin`.
    """

    labels = param.Dict(default={}, doc="What a checkpoint is called instead of its name.")
    colours = param.Dict(default={}, doc="The colours that somebody chose, as #rrggbb of the palette.")
    pins = param.List(default=[], doc="Those that come first.")

    def __init__(self, project: Any, **params: Any):
        self.project = project
        self._places: dict[str, dict[str, int]] = {}  # of each problem's checkpoints, as they came
        super().__init__(**params)

    def record(self) -> dict[str, Any]:
        """Labels, colours and pins as plain values, for `restore`."""
        return {"labels": dict(self.labels), "colours": dict(self.colours), "pins": list(self.pins)}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over what a `record` says; what is no text, or no colour of the palette, is left out."""
        labels, colours = (_texts(record.get(part)) for part in ("labels", "colours"))
        pins = [pin for pin in record.get("pins") or () if isinstance(pin, str)]
        self.param.update(
            labels={**self.labels, **{key: clean for key, label in labels.items() if (clean := _clean(label))}},
            colours={**self.colours, **{k: c for k, c in colours.items() if c in CHECKPOINTS.values()}},
            pins=list(dict.fromkeys([*self.pins, *pins])),
        )

    def key(self, problem: str, name: str) -> str:
        """What a checkpoint is known by: two problems share the one that both read from the same file."""
        return f"{self.project.source(problem, name) or problem}: {name}"

    def rename(self, problem: str, name: str, label: str) -> None:
        """Call a checkpoint otherwise; an empty label, or its name, resets it."""
        label = _clean(label)
        self.labels = _with(self.labels, self.key(problem, name), "" if label == name else label)

    def paint(self, problem: str, name: str, colour: str) -> None:
        """Draw a checkpoint in a colour of the palette; an empty one resets it. Raises ValueError for another."""
        if colour and colour not in CHECKPOINTS.values():
            raise ValueError(f"{colour!r} is no colour of checkpoints; accepted are {', '.join(CHECKPOINTS.values())}.")
        self.colours = _with(self.colours, self.key(problem, name), colour)

    def pin(self, problem: str, name: str, on: bool) -> None:
        """Let a checkpoint come first, or no more."""
        key = self.key(problem, name)
        self.pins = [*(pinned for pinned in self.pins if pinned != key), *([key] if on else [])]

    def pinned(self, problem: str, name: str) -> bool:
        return self.key(problem, name) in self.pins

    def label(self, problem: str, name: str) -> str:
        """What a checkpoint is called: its label, with its name where another is called the same."""
        label = self.labels.get(self.key(problem, name), name)
        others = [other for other in self._names(problem) if other != name] if label != name else []
        taken = any(label in (other, self.labels.get(self.key(problem, other))) for other in others)
        return f"{label} ({name})" if taken else label

    def colour(self, problem: str, name: str) -> str:
        """The colour of a checkpoint: the chosen one, or the next of the palette when it was first seen."""
        own = self.colours.get(self.key(problem, name))
        if own is not None:
            return own
        palette = list(CHECKPOINTS.values())
        places = self._places.setdefault(problem, {})
        for known in (*self._names(problem), name):
            places.setdefault(known, len(places))
        return palette[places[name] % len(palette)]

    def offered(self, problem: str, names: Sequence[str]) -> dict[str, str]:
        """Choices for a widget: label to name, the pinned ones first."""
        first = sorted(names, key=lambda name: not self.pinned(problem, name))
        return {self.label(problem, name): name for name in first}

    def dressed(self, ds: xr.Dataset, problem: str | None = None) -> xr.Dataset:
        """A result as it is to be shown: checkpoints by their labels, with a variable of colours beside each name.

        Among more checkpoints than there are colours, only those have their own that somebody gave them.
        """
        problem = problem or _problem(ds)
        if problem not in self.project.problems:
            return ds
        for variable, dim in NAMED.items():
            if variable not in ds.variables or ds[variable].dims != (dim,):
                continue
            names = [str(name) for name in ds[variable].values]
            labels = np.array([self.label(problem, name) for name in names], dtype=object)
            colours = np.array(self.drawn(problem, names), dtype=object)
            renamed = {variable: (dim, labels, ds[variable].attrs)}
            ds = ds.assign_coords(renamed) if variable in ds.coords else ds.assign(renamed)
            ds = ds.assign_coords({f"{dim}_colour": (dim, colours)})
        return ds.assign_attrs(title=self.titled(ds, problem)) if "title" in ds.attrs else ds

    def drawn(self, problem: str, names: Sequence[str]) -> list[str]:
        """The colours in a picture of these checkpoints."""
        if len(names) <= len(CHECKPOINTS):
            return [self.colour(problem, name) for name in names]
        return [self.colours.get(self.key(problem, name), ACCENT) for name in names]

    def titled(self, ds: xr.Dataset, problem: str | None = None) -> str:
        """The title of a result, with labels for names."""
        title, problem = str(ds.attrs["title"]), problem or _problem(ds)
        if not self.labels or problem not in self.project.problems:
            return title
        labels = {name: self.label(problem, name) for name in self._names(problem)}
        renamed = sorted((name for name, label in labels.items() if label != name), key=len, reverse=True)
        if not renamed:
            return title
        pattern = rf"{WHERE}(?P<name>{'|'.join(map(re.escape, renamed))})(?![\w-]|\.\w| checkpoints)"
        return re.sub(pattern, lambda found: found["before"] + labels[found["name"]], title)

    def _names(self, problem: str) -> tuple[str, ...]:
        return self.project.checkpoint_names(problem) if problem in self.project.problems else ()


def colours(ds: xr.Dataset, dim: str) -> list[str]:
    """The colours of the checkpoints along a dimension: those of a dressed result, else the accent."""
    if f"{dim}_colour" in ds.coords:
        return [str(colour) for colour in ds[f"{dim}_colour"].values]
    return [ACCENT] * ds.sizes[dim]


def _problem(ds: xr.Dataset) -> str:
    """The problem that a result is of, as a project calls it if a page asked for it."""
    facts = provenance(ds)
    return facts["asked"]["problem"] if isinstance(facts.get("asked"), dict) else facts.get("problem", "")


def _clean(label: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in label).split())[:LONGEST].strip()


def _texts(value: Any) -> dict[str, str]:
    given = value if isinstance(value, Mapping) else {}
    return {key: text for key, text in given.items() if isinstance(key, str) and isinstance(text, str)}


def _with(held: Mapping[str, str], key: str, value: str) -> dict[str, str]:
    kept = {k: v for k, v in held.items() if k != key}
    return {**kept, key: value} if value else kept
