"""All that a session has computed or opened, in one table."""

from __future__ import annotations

import io
from datetime import datetime
from functools import partial
from typing import Any

import panel as pn

from analysis import provenance
from landscape_app import archive, look
from landscape_app.entries import FROM_PYTHON, NAMES, Entry, numbered
from landscape_app.findings import file_name, netcdf, provenance_html
from landscape_app.jobs import JobState
from landscape_app.listing import Listing
from landscape_app.resultlist import SAYS, Files
from landscape_app.state import THE_SAME, State
from landscape_app.text import duration, text

title = "Results"
needs = 1

COLUMNS = [
    {"name": "title", "label": "Result"},
    {"name": "kind", "label": "Kind"},
    {"name": "problem", "label": "Model and data"},
    {"name": "checkpoints", "label": "Checkpoints"},
    {"name": "status", "label": "Status"},
    {"name": "when", "label": "When", "kind": "brief"},
    {"name": "took", "label": "Took", "kind": "brief"},
]
MOST_NAMED = 4
EMPTY = (
    "Nothing yet. What you compute or open on any page is listed here until you leave; a saved session brings it back."
)
HEAD = """<div class="ls head"><h2>Results</h2>
<p class="quiet">Tick some to compare, download or delete them.</p></div>"""
SESSION = "landscape-session.zip"


def build(state: State) -> pn.viewable.Viewable:
    """The page: what to do with the results that are ticked, and the table."""
    return ResultsPage(state).view


class ResultsPage:
    """Follows the entries of the state while it is looked at."""

    def __init__(self, state: State):
        self.state = state
        self._made: dict[int, tuple[Entry, bool, dict[str, Any]]] = {}  # rows, for as long as they are true
        self._sure: list[int] = []  # numbers of those that Delete was pressed for once
        self.table = Listing(self._act, label="Results", columns=COLUMNS, sort="when", selectable=True, empty=EMPTY)
        self.files = Files(state, title.lower())
        self.compare = _button("Compare", self._compare)
        self.delete = _button("Delete", self._delete)
        self.download = _download("Download", self._file)
        self.save = _download("Save session", lambda: archive.packed(state), filename=SESSION)
        self.said = look.html()
        self.bar = look.column(self.compare, self.download, self.delete, self.save, self.said, kind="ls-sheet-bar")
        look.arrange(self.files.view, "ls-sheet-file")
        card = look.column(look.html(HEAD), self.bar, self.table, self.files.view, kind="ls-card")
        self.view = look.column(card, kind="ls-sheet")
        state.param.watch(self._follow, ["entries", "outdated", "page"])
        self.table.param.watch(self._arrange, "selected")
        self._follow()
        self._arrange()

    @property
    def chosen(self) -> list[Entry]:
        """The entries that are ticked."""
        found = (numbered(self.state.entries, number) for number in sorted(self.table.selected))
        return [entry for entry in found if entry is not None]

    def _follow(self, *_: object) -> None:
        with self.state.lock:
            if self.state.page == title.lower():
                before, kept = self.table.selected, {entry.number for entry in self.state.entries}
                self._made = {number: made for number, made in self._made.items() if number in kept}
                self.table.show([self._row(entry) for entry in self.state.entries])
                self.save.disabled = not self.state.entries
                if self.table.selected == before:
                    self._arrange()  # what is ticked may be finished now

    def _row(self, entry: Entry) -> dict[str, Any]:
        outdated = entry.number in self.state.outdated
        known = self._made.get(entry.number)
        if known is None or known[0] is not entry or known[1] != outdated:
            self._made[entry.number] = known = (entry, outdated, row(entry, outdated))
        return known[2]

    def _arrange(self, *_: object) -> None:
        """What can be done with what is ticked."""
        chosen = self.chosen
        surfaces = all(entry.kind == self.state.kind for entry in chosen)
        if self._sure != [entry.number for entry in chosen]:
            self._sure, self.delete.label = [], "Delete"
        self.compare.disabled = not (surfaces and len(chosen) in (1, 2))
        self.delete.disabled = not any(entry.job.state.final for entry in chosen)
        self.download.disabled = not chosen
        self.download.filename = file_name(chosen[0].result) if len(chosen) == 1 else "landscape-results.zip"
        said = f"{len(chosen)} ticked" if chosen else ""
        if chosen and self.compare.disabled:
            said += "; one or two surfaces can be compared"
        self.said.object = f'<p class="ls quiet nums" role="status">{text(said)}</p>'

    def _act(self, does: str, number: int) -> None:
        with self.state.lock:
            entry = numbered(self.state.entries, number)
            if entry is None:
                return
            if does == "show":
                self.state.show = number
            else:
                said = f'<p class="quiet nums">{text(SAYS[entry.kind](entry))}</p>'
                self.table.open(number, f'<div class="ls">{said}{provenance_html(entry.result, folded=False)}</div>')

    def _compare(self) -> None:
        state, numbers = self.state, [entry.number for entry in self.chosen]
        with state.lock:
            if self.compare.disabled or not numbers:
                return
            if len(numbers) == 2 or state.result is None:
                state.show = numbers[0]
            other = numbers[-1]
            state.param.update(other=THE_SAME if other == state.shown else other, compare=True)
            state.page = state.kind

    def _delete(self) -> None:
        """Several are asked about once more: nothing brings them back."""
        with self.state.lock:
            numbers = [entry.number for entry in self.chosen]
            if len(numbers) > 1 and self._sure != numbers:
                self._sure, self.delete.label = numbers, f"Delete all {len(numbers)} for good"
            else:
                self.state.remove = tuple(numbers)

    def _file(self) -> io.BytesIO:
        chosen = self.chosen
        return netcdf(chosen[0].result) if len(chosen) == 1 else archive.files(tuple(chosen))


def row(entry: Entry, outdated: bool) -> dict[str, Any]:
    """An entry as a row of the table."""
    ds, job = entry.result, entry.job
    facts = provenance(ds)
    made = ds.attrs["title"]
    names = [str(one["name"]) for one in facts.get("checkpoints", ()) if "name" in one]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    said, tone, note = status(entry, outdated)
    cells = {
        "title": {"text": f"{entry.number}. {made[:1].upper()}{made[1:]}", "sort": f"{made} {entry.number}"},
        "kind": {"text": NAMES[entry.kind]},
        "problem": {"text": str(facts["problem"])},
        "checkpoints": {"text": ", ".join(names[:MOST_NAMED]) + more},
        "status": {"text": said, "tone": tone, "note": note},
        "when": {"text": at(entry.since), "sort": entry.since.timestamp()},
        "took": {"text": duration(job.elapsed), "sort": job.elapsed},
    }
    actions = [{"does": "show", "label": "Show"}, {"does": "detail", "label": "Details"}]
    return {"id": entry.number, "cells": cells, "actions": actions}


def status(entry: Entry, outdated: bool) -> tuple[str, str, str]:
    """How a result stands: (in a word or two, its tone, where it came from or why it is not to be trusted)."""
    job, facts = entry.job, entry.result.attrs
    count = next((f", {facts[unit]:,} {unit}" for unit in ("evaluations", "products") if unit in facts), "")
    if not job.state.final:
        return f"running, {round(100 * job.progress)} %", "busy", ""
    ended = "done" if job.state is JobState.DONE else f"{job.state}{count}"
    source = "" if not entry.file else FROM_PYTHON if entry.file == FROM_PYTHON else f"opened from {entry.file}"
    note = "kept by the server" if entry.cached else source
    if outdated:
        note = " · ".join(filter(None, ["its checkpoint file has changed since", note]))
        return f"outdated ({ended})", "warn", note
    return ended, "good" if job.state is JobState.DONE else "warn", note


def at(when: datetime) -> str:
    """14:02, or with its day if that is not today."""
    return f"{when:%H:%M:%S}" if when.date() == datetime.now().date() else f"{when:%Y-%m-%d %H:%M}"


def _button(label: str, does: Any) -> pn.widgets.Button:
    made = pn.widgets.Button(label=label, stylesheets=[look.STYLE], css_classes=["ls-link"], margin=0)
    made.on_click(lambda _: does())
    return made


def _download(label: str, file: Any, **options: Any) -> pn.widgets.FileDownload:
    return pn.widgets.FileDownload(
        callback=partial(file), label=label, stylesheets=[look.STYLE], css_classes=["ls-link"], margin=0, **options
    )
