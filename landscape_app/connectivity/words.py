"""What the Connectivity page says. No HTML here."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.connectivity import picture
from landscape_app.connectivity.of_pair import CURVE
from landscape_app.connectivity.request import AFTER, BEFORE, MATCHINGS, NONE, POINTS, REPAIRED
from landscape_app.connectivity.state import Connectivity
from landscape_app.connectivity.tasks import PairTask
from landscape_app.entries import Entry, kind_of
from landscape_app.jobs import JobState, Snapshot
from landscape_app.picture import metric_label
from landscape_app.text import duration, number, percent
from landscape_app.words import BATCHNORM, Message, left, standing
from landscape_app.words import ended as surface_ended

HEADERS = ("From A", "To B")
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
    names = [state.shelf.label(state.problem, name) for name in state.request().checkpoints]
    between = " and ".join(names) if len(names) == 2 else f"all pairs of {len(names)} checkpoints"
    repaired = " and repaired" if state.repair else ""
    how = "" if state.matching == NONE else f", as they are and {MATCHINGS[state.matching]}{repaired}"
    return f"the straight path between {between}{how}"


def cost(state: Connectivity) -> str:
    """What Compute will take."""
    if any(state.trouble):
        return ""
    problem, request = state.project.problems[state.problem], state.request()
    n = len(request.checkpoints)
    paths = n * (n - 1) // 2 * (1 if state.matching == NONE else 3 if state.repair else 2)
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
    if not known or BEFORE not in picture.stages(ds):
        return []
    names, units = picture.names(ds), picture.units(ds, metric)
    label = metric_label(metric, ds[metric].attrs["long_name"])
    label = label[:1].lower() + label[1:]
    said = [
        f"From {names[a]} to {names[b]} the barrier of the {label} is {height(known[0], units)} as they are"
        + (
            f", and {height(known[1], units)} {MATCHINGS[ds.attrs['matching']]}{_share(known)}."
            if len(known) > 1
            else "."
        )
    ]
    if len(known) > 2:
        said.append(f"With activations repaired it is {height(known[2], units)}{_share(known[::2])}.")
    distance = ds["distance"].values[:, picture.pair(ds, a, b)]
    if len(known) > 1:
        said.append(f"Matching brings their weights from {number(distance[0])} apart to {number(distance[1])}.")
    merged = float(ds[f"merged_{metric}"])
    if np.isfinite(merged):
        own = ds[f"marker_{metric}"].values
        repaired = ", repaired," if REPAIRED in picture.stages(ds) else ""
        every = "both" if len(names) == 2 else f"all {len(names)}"
        said.append(
            f"The average of {every} in common units{repaired} has a {label} of {_value(merged, units)}; the "
            f"checkpoints have {number(own.min())} to {_value(own.max(), units)}."
        )
    return said


def height(path: picture.Path, units: str) -> str:
    """The barrier of a path, and where it is."""
    where = f" at t = {number(path.at, 2)}" if path.height else ""
    return f"{_value(path.height, units)}{where}"


def _share(paths: list[picture.Path]) -> str:
    before, after = paths[0].height, paths[1].height
    return f", {percent(after / before)} of it" if np.isfinite([before, after]).all() and before > 0 <= after else ""


def _value(value: float, units: str) -> str:
    return f"{number(value)} {units}" if units else number(value)


def headers(ds: xr.Dataset) -> tuple[str, ...]:
    """Of the table of all pairs."""
    stages = picture.stages(ds)
    heights = [word for stage in stages for word in (picture.SAYS[stage], "at t")]
    return (*HEADERS, *heights, "Distance", *(["Distance, matched"] if AFTER in stages else []))


def rows(ds: xr.Dataset, metric: str) -> list[tuple[str, ...]]:
    """Lines of the table of all pairs, by `headers`; '' where nothing is known."""
    names, stages = picture.names(ds), range(ds.sizes["stage"])
    heights, places = ds[f"{metric}_barrier"].values, ds[f"{metric}_barrier_at"].values
    found = []
    for p, (a, b) in enumerate(zip(ds["first"].values, ds["second"].values, strict=True)):
        known = [word for s in stages for word in (_known(heights[s, p]), _known(places[s, p], 2))]
        apart = [_known(value) for value in ds["distance"].values[:2, p]]
        found.append((names[a], names[b], *known, *apart))
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
            said.append("The matrices share one scale of colours.")
        said += repair(ds)
    return said


def repair(ds: xr.Dataset) -> list[str]:
    """What REPAIR does here, or why it does nothing; nothing where it was not asked for."""
    layers = int(ds.attrs.get("repaired_layers", -1))
    if layers > 0:
        return [
            f"REPAIR rescales the units of {layers} layer{'' if layers == 1 else 's'}, at each place, until they have "
            "the mean and spread that they have in the ends: averaged units vary less."
        ]
    if layers == 0:
        return [
            "REPAIR has nothing to rescale here: it needs a linear or convolutional layer with a bias whose units may "
            "be exchanged. What stands before a BatchNorm has its statistics estimated anew in any case."
        ]
    return []


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


# ---- about one pair -------------------------------------------------------------------------------------------------


def pair_message(task: PairTask) -> Message:
    """Where a task about the chosen pair stands."""
    gone = task.job is None or (task.result is None and task.job.state is JobState.DONE)
    if not task.busy and (task.wants or gone):
        return Message("calm", "Not yet" if task.wants else "Ready", task.wants or pair_promise(task))
    return standing(task, pair_promise, _pair_running, pair_ended)


def pair_promise(task: PairTask) -> str:
    """What it will compute, and what that takes."""
    request: Any = task.request()
    if request is None:
        return ""
    a, b, samples = request.first, request.second, f"{task.project.problems[request.problem].n:,} samples"
    if request.kind == "plane":
        third = "the bend of the curve" if request.third == CURVE else f"π({b}), the second in the units of the first"
        return f"The loss over the plane through {a}, {b} and {third}: at most 10,201 points, coarse first."
    if request.kind == "curve":
        return (
            f"From {a} to {b} through one bend, by {request.updates:,} steps of Adam that lower the mean loss along it."
        )
    return f"Each layer of {a} half-way to that of {b}, and the other way round, beside random moves; {samples} each."


def _pair_running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "Loading the checkpoints; the first values come next.")
    facts = job.result.attrs
    doing = {"plane": "Refining", "curve": "Training", "layers": "Computing"}[kind_of(job.result)]
    rest = f" · {left(job.eta)}" if job.eta is not None else ""
    of = f" of {facts['planned_evaluations']:,}" if facts.get("planned_evaluations") else ""
    return Message("busy", doing, f"{facts['evaluations']:,}{of} {_counted(job.result)}{rest}")


def pair_ended(job: Snapshot) -> Message:
    """What a computation about a pair came to."""
    if job.result is None or kind_of(job.result) == "plane":
        return surface_ended(job)
    spent = f"{job.result.attrs['evaluations']:,} {_counted(job.result)} in {duration(job.elapsed)}"
    if job.state is JobState.CANCELLED:
        kept = "the curve is where it was then" if kind_of(job.result) == "curve" else "bars that are missing stay so"
        return Message("warn", "Cancelled", f"After {spent}; {kept}.")
    return Message("good", "Done", f"{spent}.")


def _counted(ds: xr.Dataset) -> str:
    return "steps" if kind_of(ds) == "curve" else "evaluations"


def pair_entry_line(entry: Entry) -> str:
    """A result about a pair in the list: whose it is, how it ended, what it cost."""
    facts, job = entry.result.attrs, entry.job
    status = facts["status"]
    if status == "running":
        status = "partial" if job.state.final else "running"
    parts = [provenance(entry.result)["problem"], status, f"{facts['evaluations']:,} {_counted(entry.result)}"]
    parts += [duration(job.elapsed).replace(" ", "\xa0"), entry.file or f"{entry.since:%H:%M}"]
    return " · ".join(parts)


def pair_caption(ds: xr.Dataset) -> str:
    """What a result about a pair shows, in a sentence or two."""
    kind, title = kind_of(ds), ds.attrs["title"]
    said = f"{title[:1].upper()}{title[1:]}. "
    if kind == "curve":
        facts = ds.attrs
        return f"{said}It is {number(facts['length'])} long; its ends are {number(facts['distance'])} apart."
    if kind == "layers":
        return (
            f"{said}Bars are the mean over the two ways round, lines reach from the least to the most: for each layer "
            "half-way to the other's over the mean of the two networks, beside random moves of that layer as long."
        )
    return f"{said}True angles and distances, in units of the distance between A and B."


def curve_found(ds: xr.Dataset, metric: str) -> str:
    """The barrier along the curve, in a sentence, and of which state of it."""
    path = picture.path(picture.as_paths(ds), 0, metric, 0, 1)
    if path is None or np.isnan(path.height):
        return "The curve was not looked at since its training began: its barrier is not known yet."
    looked, planned = (ds.attrs.get(name, 0) for name in ("looked_at_step", "planned_evaluations"))
    then = f" after {looked:,} of {planned:,} steps" if looked < planned else ""
    return f"Along the curve the barrier{then} is {height(path, picture.units(ds, metric))}."
