"""The table of checkpoints: what is known of each, in which order, and which columns there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import Problem, provenance
from analysis.shards import numeric
from landscape_app.checkpoints.linking import chosen
from landscape_app.checkpoints.request import FITS, MISFIT, UNKNOWN, measures, stated
from landscape_app.entries import Entry
from landscape_app.picture import metric_label

if TYPE_CHECKING:
    from landscape_app.state import State

Value = float | int | str


@dataclass(frozen=True)
class Column:
    """key: of a row's values. units: or what else stands beneath its label. more: what its heading does not say.

    number: whether its values are.
    """

    key: str
    label: str
    units: str = ""
    more: str = ""
    number: bool = True


@dataclass(frozen=True)
class Row:
    """One checkpoint. values: by the keys of columns, without what is not known. reason: why it does not fit."""

    name: str
    label: str
    colour: str
    pinned: bool
    chosen: bool
    values: Mapping[str, Value]
    errors: Mapping[str, float]
    reason: str = ""

    @property
    def words(self) -> str:
        """What a search looks through."""
        texts = (self.label, self.name, *(v for v in self.values.values() if isinstance(v, str)), self.reason)
        return " ".join(texts).casefold()


NAME = Column("name", "Checkpoint", number=False)
FIRST = (
    Column("step", "Step"),
    Column("epoch", "Epoch"),
    Column("file", "File", number=False),
    Column("size", "Size"),
    Column("written", "Written"),
    Column("fits", "Model", more="Whether it fits the model.", number=False),
    Column("norm", "Norm", more="Euclidean norm of all its weights."),
)
PAGES = Column("pages", "Chosen on", number=False)
SAYS = {FITS: "fits", MISFIT: "does not fit"}


def columns(state: State, rows: Iterable[Row]) -> list[Column]:
    """Those that at least one row has something for."""
    task = state.checkpoints
    known = {key for row in rows for key in row.values}
    apart = state.shelf.label(task.problem, task.measured_from or task.reference)
    distance = Column("distance", "Distance", f"from {apart}", more=f"Euclidean distance of all weights from {apart}.")
    problem = problem_of(state)
    measured = [
        Column(m.name, metric_label(m.name, m.long_name), "" if m.units in ("", "1", "fraction") else m.units)
        for m in (measures(problem) if problem else ())
    ]
    return [NAME, *(column for column in (*FIRST, distance, *measured, PAGES) if column.key in known)]


def problem_of(state: State) -> Problem | None:
    """The chosen problem; None if it cannot be made."""
    return None if any(state.checkpoints.trouble) else state.project.problems[state.checkpoints.problem]


def rows(state: State) -> list[Row]:
    """A row for each checkpoint of the chosen problem, in the project's order."""
    task, shelf, project = state.checkpoints, state.shelf, state.project
    found = known(state)
    pages = {page: names for page, (problem, names) in chosen(state).items() if problem == task.problem}
    made = []
    for name in project.checkpoint_names(task.problem):
        values, errors, reason = found.get(name, ({}, {}, ""))
        source = project.source(task.problem, name)
        about: dict[str, Value] = {}
        if source is not None:
            about = {"file": source.name}
            about |= {k: v for k, v in (("size", project.size(task.problem, name)),) if v}
            about |= {k: v for k, v in (("written", project.modified(task.problem, name)),) if v}
        here = [page.capitalize() for page, names in pages.items() if name in names]
        about |= {"pages": ", ".join(here)} if here else {}
        made.append(
            Row(
                name=name,
                label=shelf.label(task.problem, name),
                colour=shelf.colour(task.problem, name),
                pinned=shelf.pinned(task.problem, name),
                chosen=name in task.selected,
                values={**about, **values},
                errors=errors,
                reason=reason,
            )
        )
    return made


Known = dict[str, tuple[dict[str, Value], dict[str, float], str]]


def known(state: State) -> Known:
    """What the session has measured of each checkpoint: by the results of the pages, and by the job of this one.

    Results under another BatchNorm policy than the problem's own say nothing here, nor do those of files that were
    written again since.
    """
    task, project, problem = state.checkpoints, state.project, problem_of(state)
    found: Known = {}
    if problem is None:
        return found
    wanted = [m.name for m in measures(problem)]
    for entry in state.entries:
        for name, values in _of_entry(entry, task.problem, problem, wanted):
            if project.modified(task.problem, name) <= entry.since.timestamp():
                found.setdefault(name, ({}, {}, ""))[0].update(values)
    ds = task.measured
    for place, name in enumerate(ds["name"].values.astype(str) if ds is not None else ()):
        one = {str(key): ds[key].values[place] for key in ds.data_vars}
        if one["fits"] == UNKNOWN or one["written"] != project.modified(task.problem, name):
            continue
        values, errors, _ = found.get(name, ({}, {}, ""))
        keys = ("step", "epoch", "norm", "distance", *(key for key in wanted if key in one))
        values |= {key: float(one[key]) for key in keys if np.isfinite(one[key])}
        values |= {"fits": SAYS[int(one["fits"])]}
        errors |= {key: float(one[f"{key}_se"]) for key in keys if f"{key}_se" in one and np.isfinite(one[key])}
        found[name] = values, errors, str(one["reason"])
    return found


def _of_entry(
    entry: Entry, problem_name: str, problem: Problem, wanted: Sequence[str]
) -> Iterator[tuple[str, dict[str, Value]]]:
    """What a result says of the checkpoints themselves, by their names."""
    ds, request = entry.result, entry.request
    if request is None or entry.file or request.problem != problem_name:
        return
    if getattr(request, "batchnorm", None) not in (None, problem.batchnorm):
        return
    for fact in provenance(ds).get("checkpoints", ()):
        yield str(fact["name"]), dict(stated(fact))
    for named, prefix, dim in (("marker_name", "marker_", "marker"), ("name", "marker_", "checkpoint")):
        if named in ds.variables and entry.kind != "plane":  # whose third point is no checkpoint
            for place, name in enumerate(ds[named].values.astype(str)):
                yield name, dict(_finite(ds, prefix, dim, wanted, place))
    if entry.kind == "trajectory":
        for place, name in enumerate(ds["name"].values.astype(str)):
            yield name, dict(_finite(ds, "", "checkpoint", ("step", *wanted), place))


def _finite(ds: Any, prefix: str, dim: str, wanted: Sequence[str], place: int) -> Iterator[tuple[str, float]]:
    for key in wanted:
        if f"{prefix}{key}" in ds and ds[f"{prefix}{key}"].dims == (dim,):
            value = float(ds[f"{prefix}{key}"].values[place])
            if np.isfinite(value):
                yield key, value


def arranged(found: Sequence[Row], query: str = "", sort: str = "", descending: bool = False) -> list[Row]:
    """The rows that have all words of a query, by a column: the pinned ones first, those without a value last."""
    wanted = query.casefold().split()
    shown = [row for row in found if all(word in row.words for word in wanted)]
    if sort:
        have = [row for row in shown if sort == "name" or sort in row.values]
        have.sort(key=lambda row: _order(row.label if sort == "name" else row.values[sort]), reverse=descending)
        shown = [*have, *(row for row in shown if row not in have)]
    return sorted(shown, key=lambda row: not row.pinned)


def _order(value: Value) -> Any:
    return numeric(value.casefold()) if isinstance(value, str) else value
