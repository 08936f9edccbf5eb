"""What a session computes: how far each job is, and what became of it."""

from __future__ import annotations

from typing import Any

import panel as pn

from landscape_app import look
from landscape_app.entries import NAMES, Computation, checkpoints_of, numbered
from landscape_app.jobs import JobState
from landscape_app.listing import Listing
from landscape_app.pages.results import at
from landscape_app.request import SLICES
from landscape_app.spectrum.request import MATRICES
from landscape_app.state import State
from landscape_app.text import duration, text

title = "Jobs"
needs = 1

COLUMNS = [
    {"name": "what", "label": "Job"},
    {"name": "problem", "label": "Model and data"},
    {"name": "state", "label": "State"},
    {"name": "took", "label": "Ran for", "kind": "brief"},
    {"name": "left", "label": "Left", "kind": "brief"},
    {"name": "since", "label": "Asked for", "kind": "brief"},
]
TONES = {JobState.DONE: "good", JobState.PAUSED: "warn", JobState.CANCELLED: "warn", JobState.FAILED: "bad"}
UNDER_WAY = (JobState.RUNNING, JobState.PAUSING, JobState.PAUSED, JobState.CANCELLING)
OFFERED = {
    JobState.QUEUED: ("cancel", "pause"),
    JobState.RUNNING: ("cancel", "pause"),
    JobState.PAUSING: ("cancel", "resume"),
    JobState.PAUSED: ("cancel", "resume"),
}
MOST_NAMED = 4
EMPTY = "No job yet. What you compute on any page is listed here, while it runs and after."


def build(state: State) -> pn.viewable.Viewable:
    """The page: how many jobs run at a time, and the table."""
    return JobsPage(state).view


class JobsPage:
    """Follows the computations of the state while it is looked at."""

    def __init__(self, state: State):
        self.state = state
        self.table = Listing(self._act, label="Jobs", columns=COLUMNS, sort="since", empty=EMPTY)
        head = f'<div class="ls head"><h2>Jobs</h2><p class="quiet">{text(bound(state.workers))}</p></div>'
        self.view = look.column(look.column(look.html(head), self.table, kind="ls-card"), kind="ls-sheet")
        state.param.watch(self._follow, ["computations", "entries", "page"])
        self._follow()

    def _follow(self, *_: object) -> None:
        with self.state.lock:
            if self.state.page == title.lower():
                self.table.show([row(job, self.state) for job in self.state.computations])

    def _act(self, does: str, number: int) -> None:
        with self.state.lock:
            job = next((one for one in self.state.computations if one.number == number), None)
            if job is None:
                return
            if does in ("cancel", "pause", "resume") and not job.job.state.final:
                setattr(self.state.tasks[job.kind], does, True)  # a task has one job at a time
            elif does == "show":
                self.state.show = job.entry
            elif does == "detail":
                self.table.open(number, f'<div class="ls"><pre tabindex="0">{text(job.job.details)}</pre></div>')


def bound(workers: int) -> str:
    """How many jobs run at a time."""
    if not workers:
        return "Nobody computes here."
    said = "One job runs" if workers == 1 else f"{workers} jobs run"
    return f"{said} at a time, of all who use this server; the others wait in the order in which they came."


def row(job: Computation, state: State) -> dict[str, Any]:
    """A job as a row of the table."""
    now, entry = job.job, numbered(state.entries, job.entry)
    names = list(checkpoints_of(job.request))
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    said, note = standing(job, entry is not None or job.kind == "checkpoints")
    under_way = now.state in UNDER_WAY
    left = now.eta if under_way and now.state is not JobState.PAUSED else None
    cells = {
        "what": {"text": f"{job.number}. {asked(job)}", "note": ", ".join(names[:MOST_NAMED]) + more},
        "problem": {"text": "" if job.request is None else str(job.request.problem)},
        "state": {
            "text": said,
            "note": note,
            "tone": "good" if job.cached else TONES.get(now.state, "busy"),
            **({"share": round(100 * now.progress)} if under_way else {}),
        },
        "took": {
            "text": "—" if job.cached or not now.elapsed else duration(now.elapsed),
            "sort": 0 if job.cached else now.elapsed,
        },
        "left": {"text": "—" if left is None else f"about {duration(left)}", "sort": -1 if left is None else left},
        "since": {"text": at(job.since), "sort": job.since.timestamp()},
    }
    actions = [{"does": does, "label": does.title()} for does in OFFERED.get(now.state, ())]
    actions += [{"does": "show", "label": "Show result"}] if entry is not None else []
    actions += [{"does": "detail", "label": "Details"}] if now.details else []
    return {"id": job.number, "cells": cells, "actions": actions}


def standing(job: Computation, kept: bool) -> tuple[str, str]:
    """How a job stands, and what there is to say of it."""
    now = job.job
    if job.cached:
        return "cached", f"the server had it: computed in {duration(now.elapsed)} before"
    if now.state is JobState.QUEUED:
        return "queued", "waits behind other computations"
    if now.state is JobState.CANCELLING:
        return "stopping", "the step that is being computed finishes first"
    if now.state is JobState.PAUSING:
        return "pausing", "the step that is being computed finishes first"
    if now.state in (JobState.RUNNING, JobState.PAUSED):
        return f"{now.state}, {round(100 * now.progress)} %", ""
    part = "what there was is kept" if kept else "nothing is kept"
    if now.state is JobState.CANCELLED:
        return "cancelled", part
    if now.state is JobState.FAILED:
        return "failed", f"{now.reason} — {part}" if kept else now.reason
    return "done", "" if kept else "its result was deleted"


def asked(job: Computation) -> str:
    """What was asked for, in a few words."""
    request = job.request
    if job.kind == "surface":
        return SLICES[request.slice].label
    if job.kind == "spectrum":
        return f"{' and '.join(MATRICES[matrix] for matrix in request.matrices)} spectrum"
    return NAMES[job.kind]
