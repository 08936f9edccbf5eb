"""What the Connectivity page says. No HTML here."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.connectivity import picture
from landscape_app.connectivity.request import AFTER, MATCHINGS, NONE, POINTS
from landscape_app.connectivity.state import Connectivity
from landscape_app.entries import Entry
from landscape_app.jobs import JobState, Snapshot
from landscape_app.picture import metric_label
from landscape_app.text import duration, number, percent
from landscape_app.words import BATCHNORM, Message, left, standing

HEADERS = ("From A", "To B", "As they are", "at t", "Matched", "at t", "Distance", "Distance, matched")
COUNTED = {
    "sup": "The barrier is the largest height over the chord, the line between the checkpoints' own values; 0 or more.",
    "maxmean": "The barrier is the largest height over the mean of the two checkpoints.",
    "mid": "The barrier is the height half-way over the mean of the two checkpoints.",
    "mc": "The barrier is the mean of the two checkpoints less the value farthest from it: below 0 for a rise.",
}


def message(state: Connectivity) -> Message:
    """Where the task stands."""
    if not state.busy and not any(state.trouble) and len(state.request().checkpoints) < 2:
        return Message("warn", "Choose two or more checkpoints", "A path leads from one to another.")
    return standing(state, cost, _running, ended)


def promise(state: Connectivity) -> str:
    """What Compute will do."""
    names = state.request().checkpoints
    between = " and ".join(names) if len(names) == 2 else f"all pairs of {len(names)} checkpoints"
    how = "" if state.matching == NONE else f", as they are and {MATCHINGS[state.matching]}"
    return f"the straight path between {between}{how}"


def cost(state: Connectivity) -> str:
    """What Compute will take."""
    if any(state.trouble):
        return ""
    problem, request = state.project.problems[state.problem], state.request()
    n = len(request.checkpoints)
    paths = n * (n - 1) // 2 * (1 if state.matching == NONE else 2)
    some = f"{paths} paths of about {POINTS + 4} points" if paths > 1 else f"A path of about {POINTS + 4} points"
    matching = "" if state.matching == NONE else " Between them the symmetries are found and certified once."
    return f"{some}, each on {problem.n:,} samples.{matching}"


def _running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "Loading the checkpoints; the first path comes next.")
    facts = job.result.attrs
    rest = f" · {left(job.eta)}" if job.eta is not None else ""
    return Message("busy", facts["doing"] or "Starting", f"{_done(facts)} · {_evaluations(facts)}{rest}")


def _done(facts: dict) -> str:
    return f"{facts['paths']} of {facts['planned_paths']} paths"


def _evaluations(facts: dict) -> str:
    return f"{facts['evaluations']:,} evaluations"


def ended(job: Snapshot) -> Message:
    """What a computation came to."""
    if job.result is None:
        return Message("warn", "Cancelled", "Nothing had been computed yet.")
    facts = job.result.attrs
    spent = f"{_evaluations(facts)} in {duration(job.elapsed)}"
    if job.state is JobState.CANCELLED:
        return Message("warn", "Cancelled", f"The pictures show {_done(facts)}: {spent}.")
    paths = f"{facts['paths']} path{'' if facts['paths'] == 1 else 's'}"
    return Message("good", "Done", f"{paths}, {spent}.")


def entry_line(entry: Entry) -> str:
    """A result in the list: whose it is, how it ended, what it cost."""
    facts, job = entry.result.attrs, entry.job
    status = facts["status"]
    if status == "running":
        status = "partial" if job.state.final else "running"
    parts = [provenance(entry.result)["problem"], status, _done(facts), _evaluations(facts)]
    parts += [duration(job.elapsed).replace(" ", "\xa0"), entry.file or f"{entry.since:%H:%M}"]
    return " · ".join(parts)


def caption(ds: xr.Dataset) -> tuple[str, str]:
    """What the pictures are, and under which conditions."""
    facts, title = provenance(ds), ds.attrs["title"]
    conditions = [facts["problem"], facts["loss"], f"{facts['data']['samples']:,} samples"]
    batchnorm = facts["batchnorm"]
    conditions += [f"BatchNorm statistics {BATCHNORM[batchnorm]}"] if batchnorm in BATCHNORM else []
    return title[:1].upper() + title[1:], " · ".join(conditions)


def findings(ds: xr.Dataset, metric: str, a: int, b: int) -> list[str]:
    """The chosen path in sentences: its barrier before and after matching, and what the average came to."""
    paths = [picture.path(ds, i, metric, a, b) for i in range(ds.sizes["stage"])]
    known = [path for path in paths if path is not None and not np.isnan(path.height)]
    if not known:
        return []
    names, units = picture.names(ds), picture.units(ds, metric)
    label = metric_label(metric, ds[metric].attrs["long_name"])
    label = label[:1].lower() + label[1:]
    said = [
        f"From {names[a]} to {names[b]} the barrier of the {label} is {_height(known[0], units)} as they are"
        + (
            f", and {_height(known[1], units)} {MATCHINGS[ds.attrs['matching']]}{_share(known)}."
            if len(known) > 1
            else "."
        )
    ]
    distance = ds["distance"].values[:, picture.pair(ds, a, b)]
    if len(known) > 1:
        said.append(f"Matching brings their weights from {number(distance[0])} apart to {number(distance[1])}.")
    merged = float(ds[f"merged_{metric}"])
    if np.isfinite(merged):
        own = ds[f"marker_{metric}"].values
        every = "both" if len(names) == 2 else f"all {len(names)}"
        said.append(
            f"The average of {every} in common units has a {label} of {_value(merged, units)}; the checkpoints have "
            f"{number(own.min())} to {_value(own.max(), units)}."
        )
    return said


def _height(path: picture.Path, units: str) -> str:
    return f"{_value(path.height, units)} at t = {number(path.at, 2)}"


def _share(paths: list[picture.Path]) -> str:
    before, after = paths[0].height, paths[1].height
    return f", {percent(after / before)} of it" if np.isfinite([before, after]).all() and before > 0 <= after else ""


def _value(value: float, units: str) -> str:
    return f"{number(value)} {units}" if units else number(value)


def rows(ds: xr.Dataset, metric: str) -> list[tuple[str, ...]]:
    """Lines of the table of all pairs, by HEADERS; '' where nothing is known."""
    names = picture.names(ds)
    heights, places = ds[f"{metric}_barrier"].values, ds[f"{metric}_barrier_at"].values
    distance, after = ds["distance"].values, AFTER in picture.stages(ds)
    found = []
    for p, (a, b) in enumerate(zip(ds["first"].values, ds["second"].values, strict=True)):
        stages = [(_known(heights[s, p]), _known(places[s, p], 2)) for s in range(1 + after)]
        stages += [("", "")] * (2 - len(stages))
        apart = [_known(distance[s, p]) for s in range(1 + after)] + [""] * (not after)
        found.append((names[a], names[b], *stages[0], *stages[1], *apart))
    return found


def _known(value: float, digits: int = 3) -> str:
    return "" if np.isnan(value) else number(value, digits)


def notes(ds: xr.Dataset) -> list[str]:
    """What the pictures do not say."""
    said = [COUNTED[ds.attrs["convention"]]]
    if any(name.startswith("accuracy") for name in picture.metrics(ds).values()):
        said.append("That of an accuracy says how far it falls.")
    if AFTER in picture.stages(ds):
        said.append("Matching exchanges units within a network: each keeps its function, and its loss, exactly.")
        if ds.sizes["checkpoint"] > 2:
            said.append(f"All are brought to the units of {picture.names(ds)[0]}, so that every cycle of pairs closes.")
            said.append("Both matrices share one scale of colours.")
    return said


def symmetries(facts: dict[str, Any]) -> list[str]:
    """What may be exchanged, and how that was checked."""
    if facts["failure"]:
        return [f"The model could not be traced, so nothing is free: {facts['failure']}"]
    groups = len(facts["groups"])
    said = [
        f"{groups} group{'' if groups == 1 else 's'} of units may be exchanged: 10^{number(facts['log10_size'], 4)} "
        f"permutations leave the function as it is. They move {percent(facts['share'])} of the parameters. Sn stands "
        "for all permutations of n units; S4[S16] for those of 4 units that hold 16 each."
    ]
    if facts["change"] is not None:
        change, control = facts["change"], facts["control"]
        proof = f"Certificate: random permutations change the outputs by at most {number(change, 2)} of the largest"
        if control is not None:
            proof += f"; leaving out one axis of one changes them by {number(control, 2)} or more"
        said.append(f"{proof} (in float64, all weights perturbed).")
    return said


def free(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the table of what may be exchanged: the structure of a group, and what it moves."""
    return [(group["structure"], ", ".join(group["moves"])) for group in facts["groups"]]


def pinned(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of the table of what stays: the operation that pins, and what it pins."""
    fixed = [(reason, ", ".join(places)) for reason, places in facts["fixed"].items()]
    return fixed + [
        (name, f"no rule for it, met {count} times: what it touches stays") for name, count in facts["unknown"].items()
    ]
