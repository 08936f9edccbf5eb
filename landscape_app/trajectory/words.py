"""What the Trajectory page and `landscape trajectory` say. No HTML here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.entries import Entry
from landscape_app.jobs import JobState, Snapshot
from landscape_app.spectrum.request import MATRICES, basis_bytes
from landscape_app.spectrum.words import HELD, size
from landscape_app.text import duration, number, percent
from landscape_app.trajectory import picture
from landscape_app.trajectory.state import Trajectory
from landscape_app.words import Message, left, standing

FEW, MANY = 4, 30  # products for each eigenvalue that is wanted, about: the smallest take the most
HEADERS = ("Checkpoint", "Step", "Loss", "Largest", "Smallest", "Trace", "Gradient", "Overlap", "η λ₁ / 2")


def message(state: Trajectory) -> Message:
    """Where the trajectory's task stands."""
    return standing(state, cost, _running, ended)


def promise(state: Trajectory) -> str:
    """What Compute will do."""
    names = [state.shelf.label(state.problem, name) for name in state.request().checkpoints]
    return f"the {MATRICES[state.matrix]} of {state.problem} at {len(names)} checkpoints, {names[0]} to {names[-1]}"


def cost(state: Trajectory) -> str:
    """What Compute will take: products, and the memory of the basis."""
    if any(state.trouble):
        return ""
    problem, request = state.project.problems[state.problem], state.request()
    parameters = max(1, sum(e.shape.numel() for e in problem.structure.entries.values() if not e.frozen))
    wanted = min(request.largest + request.smallest, parameters)
    low, high = (times * wanted + request.trace_products for times in (FEW, MANY))
    return (
        f"About {low:,} to {high:,} products of the matrix at each of {len(request.checkpoints)} checkpoints, each as "
        f"dear as 2 to 3 gradients over {problem.n:,} samples; the basis takes at most "
        f"{size(basis_bytes(parameters, problem.dtype.itemsize, wanted, 0))}."
    )


def _running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "Loading the checkpoints; the first products come next.")
    facts = job.result.attrs
    rest = f" · {left(job.eta)}" if job.eta is not None else ""
    title = f"At {job.result['name'].values[min(facts['checkpoints'], facts['planned_checkpoints'] - 1)]}"
    return Message("busy", title, f"{_done(facts)} · {facts['products']:,} products{rest}")


def _done(facts: dict) -> str:
    return f"{facts['checkpoints']} of {facts['planned_checkpoints']} checkpoints"


def ended(job: Snapshot) -> Message:
    """What a computation came to."""
    if job.result is None:
        return Message("warn", "Cancelled", "Nothing had been computed yet.")
    facts = job.result.attrs
    spent = f"{facts['products']:,} products in {duration(job.elapsed)}"
    if job.state is JobState.CANCELLED:
        return Message("warn", "Cancelled", f"The pictures show {_done(facts)}: {spent}.")
    open_ = int((~job.result["converged"].values).sum())
    if open_:
        some = "one eigenvalue is" if open_ == 1 else f"{open_} eigenvalues are"
        return Message(
            "warn", "Done", f"{facts['checkpoints']} checkpoints, {spent}; {some} not converged, and marked."
        )
    return Message("good", "Done", f"{facts['checkpoints']} checkpoints, {spent}; all eigenvalues converged.")


def entry_line(entry: Entry) -> str:
    """A trajectory in the list: whose it is, how it ended, what it cost."""
    facts, job = entry.result.attrs, entry.job
    status = facts["status"]
    if status == "running":
        status = "partial" if job.state.final else "running"
    parts = [provenance(entry.result)["problem"], status, _done(facts), f"{facts['products']:,} products"]
    parts += [duration(job.elapsed).replace(" ", "\xa0"), entry.file or f"{entry.since:%H:%M}"]
    return " · ".join(parts)


def caption(ds: xr.Dataset) -> tuple[str, str]:
    """What the pictures are, and under which conditions."""
    facts, title = provenance(ds), ds.attrs["title"]
    batchnorm = facts.get("batchnorm")
    conditions = [facts["problem"], facts.get("loss", ""), f"{facts['samples_counted']:,} samples"]
    conditions += [f"{facts['parameters_counted']:,} parameters", HELD.get(batchnorm, "")]
    return title[:1].upper() + title[1:], " · ".join(filter(None, conditions))


def findings(ds: xr.Dataset) -> list[str]:
    """The run in sentences: how its largest eigenvalue went, and how near the edge of stability it came."""
    here = np.flatnonzero(np.isfinite(ds["eigenvalue"].values[:, 0]))
    if not here.size:
        return []
    top = ds["eigenvalue"].values[here, 0]
    peak = int(np.argmax(top))
    said = [
        f"λ₁ goes from {number(top[0], 4)} at {where(ds, here[0])} to {number(top[-1], 4)} at {where(ds, here[-1])}; "
        f"it is largest, {number(top[peak], 4)}, at {where(ds, here[peak])}."
    ]
    share = ds["stability"].values[here]
    if not np.isfinite(share).any():
        return [*said, "No file says the learning rate: give it for the line 2 / η."]
    highest = int(np.nanargmax(share))
    edge, rate = (number(ds[name].values[here[highest]]) for name in ("edge", "learning_rate"))
    said.append(
        f"Beside the edge of stability it is highest at {where(ds, here[highest])}: {percent(share[highest])} "
        f"of 2 / η = {edge} (η = {rate}), above which full-batch gradient descent without momentum is not stable."
    )
    unknown = int((~np.isfinite(share)).sum())
    if unknown:
        said.append(f"The learning rate at {unknown} of the {here.size} checkpoints is not known: give one for all.")
    return said


def misread(state: Trajectory) -> list[str]:
    """What to say of a learning rate that is typed in and is none."""
    given = state.learning_rate.strip()
    if not given or state.rate is not None:
        return []
    return [f"The learning rate '{given}' is no positive number, such as 0.05: those of the files are shown."]


def where(ds: xr.Dataset, place: int) -> str:
    """A checkpoint in a sentence: its step where the files say it, else its name."""
    return f"step {ds['step'].values[place]:,.0f}" if picture.stepped(ds) else str(ds["name"].values[place])


def at(ds: xr.Dataset, place: int) -> str:
    """One checkpoint in one sentence."""
    (row,) = rows(ds, [place])
    symbols = {"Largest": "λ₁", "Smallest": "λₙ"}
    named = zip(HEADERS[2:], row[2:], strict=True)
    said = [f"{symbols.get(name, name[:1].lower() + name[1:])} {value}" for name, value in named if value]
    return f"{row[0]}: {'; '.join(said)}."


def rows(ds: xr.Dataset, places: Iterable[int]) -> list[tuple[str, ...]]:
    """Lines of the table, by HEADERS; '' where nothing is known."""
    values = {name: variable.values for name, variable in ds.variables.items()}
    top = int((values["end"] == "largest").sum())
    ends = (0, top if ds.sizes["pair"] > top else None)
    return [
        (
            str(values["name"][i]),
            f"{values['step'][i]:,.0f}" if np.isfinite(values["step"][i]) else "",
            _known(values["loss"][i], 3),
            *("" if pair is None else _eigenvalue(values, i, pair) for pair in ends),
            _plus_minus(values["trace"][i], values["trace_se"][i], 3),
            *(_known(values[name][i], 2) for name in ("alignment", "overlap", "stability")),
        )
        for i in places
    ]


def _known(value: float, digits: int) -> str:
    return number(value, digits) if np.isfinite(value) else ""


def _plus_minus(value: float, error: float, digits: int) -> str:
    return _known(value, digits) + (f" ± {number(error, 1)}" if np.isfinite(error) else "")


def _eigenvalue(values: Mapping[Any, np.ndarray], place: int, pair: int) -> str:
    said = _plus_minus(values["eigenvalue"][place, pair], values["bound"][place, pair], 4)
    return said + (" (not converged)" if said and not values["converged"][place, pair] else "")


def notes(ds: xr.Dataset) -> list[str]:
    """What the pictures do not say."""
    facts, said = provenance(ds), []
    top = int((ds["end"].values == "largest").sum())
    by_chance = top / facts["parameters_counted"]
    said.append(
        f"Gradient: the share of its squared length in the span of the top {top} eigenvectors. Overlap: the share of "
        f"that span in the one of the checkpoint before; 1 where it stays, about {number(by_chance, 1)} by chance."
    )
    if not (ds["converged"].values | np.isnan(ds["eigenvalue"].values)).all():
        said.append("Open circles are not converged: each bar holds an eigenvalue, but which one may still change.")
    if np.isfinite(ds["edge"].values).any():
        said.append(
            "η trace / 2 is at most 1 where SGD with batches of one sample is linearly stable. Momentum and larger "
            "batches move both limits."
        )
    if not picture.stepped(ds):
        said.append("The files do not say at which steps they were kept: the checkpoints stand one after another.")
    return said
