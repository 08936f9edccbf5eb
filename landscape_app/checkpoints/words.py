"""What the page Checkpoints says. No HTML here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from landscape_app.checkpoints.request import FITS, MISFIT
from landscape_app.checkpoints.rows import Column, Row, Value
from landscape_app.checkpoints.state import Checkpoints
from landscape_app.jobs import JobState, Snapshot
from landscape_app.spectrum.words import size
from landscape_app.text import duration, number
from landscape_app.words import Message, left, standing

MOST_NAMED = 4
BUTTONS = {
    "Plane": "Plane",
    "Line": "Line between these",
    "Spectrum": "Spectrum here",
    "Barriers": "Barriers between these",
    "Along these": "Trajectory along these",
}
PLANES = {1: "Plane at this one", 2: "Plane through these", 3: "Plane through these"}


def message(task: Checkpoints) -> Message:
    """Where the measuring stands."""
    return standing(task, cost, _running, _ended)


def cost(task: Checkpoints) -> str:
    """What Measure all will read and evaluate."""
    if any(task.trouble):
        return ""
    names = task.request().checkpoints
    held = sum(task.project.size(task.problem, name) for name in names)
    read = f"Reads {_count(len(names))}{f', {size(held)}' if held else ''}"
    if not task.evaluate:
        return f"{read}: whether each fits, its step, norm and distance."
    samples = task.project.problems[task.problem].n
    return f"{read}, and evaluates each once on {samples:,} samples."


def _running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "The first checkpoint is being read.")
    done, planned = job.result.attrs["measured"], job.result.attrs["planned"]
    rest = f" · {left(job.eta)}" if job.eta is not None and done else ""
    return Message("busy", "Measuring", f"{done:,} of {_count(planned)}{rest}")


def _ended(job: Snapshot) -> Message:
    if job.result is None:
        return Message("warn", "Cancelled", "Nothing had been measured yet.")
    done, planned = job.result.attrs["measured"], job.result.attrs["planned"]
    misfits = int((job.result["fits"].values == MISFIT).sum())
    fit = int((job.result["fits"].values == FITS).sum())
    said = f"{_count(done)} in {duration(job.elapsed)}"
    if job.state is JobState.CANCELLED:
        return Message("warn", "Cancelled", f"{done:,} of {_count(planned)} in {duration(job.elapsed)}; these stay.")
    if misfits:
        return Message("warn", "Done", f"{said}: {fit:,} fit the model, {misfits:,} do not.")
    return Message("good", "Done", f"{said}; {'it fits' if done == 1 else 'all fit'} the model.")


def _count(n: int) -> str:
    return f"{n:,} checkpoint{'' if n == 1 else 's'}"


def selection(labels: Sequence[str], hidden: int) -> str:
    """Which rows are chosen, in the order in which they were."""
    if not labels:
        return "Choose rows to look at them on another page."
    named = labels if len(labels) <= MOST_NAMED + 1 else [*labels[:MOST_NAMED], f"{len(labels) - MOST_NAMED} more"]
    said = f"Chosen: {' and '.join(filter(None, (', '.join(named[:-1]), named[-1])))}"
    return f"{said} ({hidden:,} not shown)." if hidden else f"{said}."


def shown(count: int, rows: Sequence[Row]) -> str:
    """How many rows there are."""
    if len(rows) < count:
        return f"{len(rows):,} of {_count(count)}"
    return _count(count)


def empty(query: str) -> str:
    """In place of rows."""
    return f"No checkpoint has “{query}” in its label, name, file or pages."


def way(key: str, count: int) -> str:
    """What the button of a way says where so many rows are chosen."""
    return PLANES.get(count, "Plane through these") if key == "Plane" else BUTTONS[key]


def cell(column: Column, row: Row) -> str:
    """A value as the table has it."""
    value = row.values.get(column.key)
    if value is None:
        return ""
    if column.key in SAYS:
        return SAYS[column.key](value)
    if isinstance(value, str):
        return value
    error = row.errors.get(column.key)
    return number(value, 4) if error is None else _plus_minus(float(value), error)


def _plus_minus(value: float, error: float) -> str:
    """Both to the second digit of the error."""
    if not 1e-6 < error < 1e4:
        return f"{number(value, 4)} ± {number(error, 2)}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def _when(value: Value) -> str:
    return datetime.fromtimestamp(float(value)).strftime("%Y-%m-%d %H:%M")


SAYS = {
    "written": _when,
    "size": lambda value: size(float(value)),
    "step": lambda value: f"{float(value):,.10g}",
    "epoch": lambda value: f"{float(value):,.10g}",
}
