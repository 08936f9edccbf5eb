"""What the app says: plain sentences about what will happen, is happening and has happened. No HTML here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app import picture
from landscape_app.entries import FROM_PYTHON, Entry
from landscape_app.jobs import JobState, Snapshot
from landscape_app.request import SLICES
from landscape_app.seeds import listed
from landscape_app.state import State
from landscape_app.task import Task
from landscape_app.text import coordinate, duration, number, percent

ON_SLICE = 1e-3
OUTDATED = "The checkpoint file has changed since; Compute draws it anew."
UNLIKE = "The choices below do not describe this picture."
ONE_OF = {"checkpoints": "checkpoint", "axes": "axis"}
BATCHNORM = {
    "recalibrated": "recalibrated at each point",
    "frozen": "frozen at the checkpoint's",
    "batch": "of each batch",
}


@dataclass(frozen=True)
class Message:
    """tone: 'calm', 'busy', 'good', 'warn' or 'bad'. details: for developers, shown folded."""

    tone: str
    title: str
    body: str = ""
    details: str = ""


def message(state: State) -> Message:
    """Where the surface's task stands."""
    return standing(state, cost, _running, ended)


def standing(
    task: Task, cost: Callable[[Any], str], running: Callable[[Snapshot], Message], ended: Callable[[Snapshot], Message]
) -> Message:
    """Where a task stands. cost: before it has run; running, ended: what a job computes, and came to."""
    job = task.job
    if any(task.trouble) and not task.busy:
        reason, details = task.trouble
        return Message("bad", f"{task.problem} cannot be used", reason, details)
    if job is None:
        return Message("calm", "Ready", cost(task))
    if job.state in (JobState.DONE, JobState.CANCELLED):
        return recalled(task.entry, ended(job)) if task.recalled and task.entry else ended(job)
    says = {JobState.QUEUED: queued, JobState.RUNNING: running, JobState.CANCELLING: cancelling}
    says |= {JobState.PAUSING: pausing, JobState.PAUSED: partial(paused, running)}
    return says.get(job.state, failed)(job)


def promise(state: State) -> str:
    """What Compute will do."""
    request, kind = state.request(), SLICES[state.slice]
    names = [state.shelf.label(state.problem, name) for name in request.checkpoints]
    through = " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    if kind.all_from:
        through = f"its {len(names)} checkpoints"
    where = f"{'around' if len(kind.roles) == 1 else 'through'} {through}"
    if kind.along:
        where = f"along the {request.along.label}"
    where += f" for each of {len(request.seeds)} seeds" if request.seeds else ""
    return f"the loss of {state.problem} on a {kind.label.lower().split(' through')[0]} {where}"


def unlike(state: State) -> tuple[str, str]:
    """Whose picture is shown where the choices cannot say it: (that, and what they lack)."""
    request = state.entry.request if state.entry else None
    if request is None or not state.foreign:
        return UNLIKE, "It was made in a way that they do not offer. Compute draws what they say instead."
    names = ", ".join(request.checkpoints)
    axes = request.resolution if isinstance(request.resolution, tuple) else (request.resolution,)
    said = {
        "problem": f"the model and data “{request.problem}”",
        "slice": f"a {SLICES[request.slice].label.lower()}",
        "checkpoints": f"the checkpoint{'' if len(request.checkpoints) == 1 else 's'} {names}",
        "extent": "its extent",
        "resolution": f"{' × '.join(map(str, axes))} points{' along each axis' if len(axes) == 1 else ''}",
        "tolerance": f"an interpolation error of {percent(request.tolerance)}",
        "batchnorm": f"BatchNorm statistics {BATCHNORM.get(str(request.batchnorm), request.batchnorm)}",
        **dict.fromkeys(("seed", "seeds"), f"the seeds {', '.join(map(str, request.seeds or (request.seed,)))}"),
        **dict.fromkeys(("normalisation", "include", "layers", "frozen"), "its random directions"),
        **dict.fromkeys(("centre", "basis", "units"), "its centre, basis or units"),
    }
    lacking = dict.fromkeys(said.get(name, name) for name in state.foreign)
    return UNLIKE, f"They cannot say {'; '.join(lacking)}. Compute draws what they say instead."


def _also(problem: Any) -> dict[str, Any]:
    return getattr(problem, "also", {})


def cost(state: State) -> str:
    """How much Compute will evaluate."""
    kind = SLICES[state.slice]
    points = state.resolution**kind.dims * max(1, len(state.request().seeds))
    if any(state.trouble):
        return f"At most {points:,} points."
    problem = state.project.problems[state.problem]
    samples = [f"{problem.n:,} samples", *(f"{part.n:,} of {name}" for name, part in _also(problem).items())]
    each = f"each on {' and '.join(samples)}"
    if getattr(problem, "batchnorm", "") == "recalibrated":
        each += f", after {problem.calibration.n:,} for the BatchNorm statistics"
    if state.tolerance == 0:
        return f"{points:,} points, {each}."
    return f"At most {points:,} points, fewer where the surface is smooth, {each}."


def queued(job: Snapshot) -> Message:
    return Message("busy", "Waiting", "Queued behind another computation; it starts by itself.")


def _running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "Loading the checkpoints and measuring the fastest way to evaluate.")
    facts = job.result.attrs
    if "preview_of" in facts:
        rest = f" · {left(job.eta)}" if job.eta is not None else ""
        return Message("busy", "Preview", f"{_over_few(job.result)}, until there are points over all{rest}")
    planned = facts.get("planned_evaluations")
    done = f"{facts['evaluations']:,}" + (f" of {planned:,}" if planned else "") + " evaluations"
    error = facts.get("interpolation_error", np.nan)
    parts = [done, left(job.eta) if job.eta is not None else ""]
    parts.append(f"interpolation error {percent(error)}" if np.isfinite(error) else "")
    return Message("busy", "Refining", " · ".join(filter(None, parts)))


def _over_few(ds: xr.Dataset) -> str:
    """How much of the data a preview is over."""
    return f"over {provenance(ds)['data']['samples']:,} of {ds.attrs['preview_of']:,} samples"


def left(eta: float) -> str:
    return "less than 1 s left" if eta < 1 else f"about {duration(eta)} left"


def cancelling(job: Snapshot) -> Message:
    return Message("busy", "Stopping", "The step that is being computed finishes first.")


def pausing(job: Snapshot) -> Message:
    return Message("busy", "Pausing", "The step that is being computed finishes first.")


def paused(running: Callable[[Snapshot], Message], job: Snapshot) -> Message:
    """How far it was, and no time left: nothing runs."""
    far = running(replace(job, eta=None)).body if job.result is not None else "Nothing has been computed yet."
    return Message("warn", "Paused", far)


def _cancelled(job: Snapshot) -> Message:
    if job.result is None:
        return Message("warn", "Cancelled", "Nothing had been computed yet.")
    if "preview_of" in job.result.attrs:
        return Message("warn", "Cancelled", f"This is a preview {_over_few(job.result)}.")
    n = job.result.attrs["evaluations"]
    return Message("warn", "Cancelled", f"The picture shows what {_times(n)} gave in {duration(job.elapsed)}.")


def ended(job: Snapshot) -> Message:
    """What a computation came to."""
    return _done(job) if job.state is JobState.DONE else _cancelled(job)


def recalled(entry: Entry, end: Message) -> Message:
    if entry.file == FROM_PYTHON:
        return Message(end.tone, "Added in Python", end.body)
    if entry.file:
        return Message(end.tone, "Opened from a file", f"{entry.file}: {_lower(end.body)}")
    if entry.cached:
        return Message(
            end.tone, "Cached", f"Computed at {entry.since:%H:%M} and kept by the server: {_lower(end.body)}"
        )
    return Message(end.tone, "Shown again", f"Computed at {entry.since:%H:%M}: {_lower(end.body)}")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _done(job: Snapshot) -> Message:
    facts = job.result.attrs
    spent = f"{_times(facts['evaluations'])} in {duration(job.elapsed)}"
    error, asked = facts.get("interpolation_error", np.nan), facts.get("tolerance", np.nan)
    if facts["status"] == "converged":
        return Message("good", "Done", f"{spent}; interpolation error {percent(error)}, asked for {percent(asked)}.")
    if facts["status"] == "unconverged":
        why = f"interpolation did not get within {percent(asked)}, so what was in doubt was evaluated point by point"
        return Message("good", "Done", f"{spent}; {why}.")
    return Message("good", "Done", f"{spent}; each point was evaluated.")


def failed(job: Snapshot) -> Message:
    kept = " The picture shows what was computed before." if job.result is not None else ""
    return Message("bad", "This did not work", job.reason + kept, job.details)


def _times(n: int) -> str:
    return f"{n:,} evaluation{'' if n == 1 else 's'}"


def entry_line(entry: Entry) -> str:
    """A result in the list: whose it is, how it ended, what it cost, when."""
    facts = entry.result.attrs
    error = facts.get("interpolation_error", np.nan)
    running = not entry.job.state.final
    status = "partial" if facts["status"] == "running" and not running else facts["status"]
    if running and np.isfinite(entry.job.progress):
        status = f"running, {round(100 * entry.job.progress)} %"
    sure = facts["status"] in ("converged", "unconverged") or (running and np.isfinite(error))
    parts = [provenance(entry.result)["problem"], status, _times(facts["evaluations"])]
    parts += [f"interpolation error {percent(error)}"] if sure else []
    parts += [duration(entry.job.elapsed).replace(" ", "\xa0"), entry.file or f"{entry.since:%H:%M}"]
    return " · ".join(parts)


def comparison(state: State) -> str:
    """What two pictures side by side have in common, and what not."""
    a, b = state.metric_shown, state.metric_beside
    if state.same_quantity:
        said = f"Both pictures share one scale for the {a.short[:1].lower()}{a.short[1:]}."
    else:
        said = f"A shows {a.title}, B shows {b.title}: different quantities, each on its own scale."
    if state.same_axes:
        return f"{said} They zoom together, and a point is chosen in both."
    if picture.dims(state.drawn) == picture.dims(state.beside):
        return f"{said} Their axes differ, so each has its own range, and a point is chosen in A only."
    return f"{said} One is a line, the other a plane."


def summary(ds: xr.Dataset, metric: picture.Metric) -> str:
    """The plot in one sentence, for those who cannot see it: the extremes, and where they are.

    Of the picture once all of it is known; until then of the evaluated points, whose places are exact.
    """
    names = picture.axes(ds)
    if picture.whole(ds, metric):
        values, errors = metric.values.ravel(), metric.se.ravel()
        places = np.meshgrid(*[ds[n].values for n in names])
    else:
        values, errors = metric.samples, np.full(metric.samples.shape, np.nan)
        places = [ds[f"sample_{n}"].values for n in names]
    finite = np.where(np.isfinite(values), values, np.nan)
    if np.isnan(finite).all():
        return f"{metric.title}: no finite value yet."
    sentences = []
    for word, at in (("least", np.nanargmin), ("most", np.nanargmax)):
        i = int(at(finite))
        where = ", ".join(f"{n} = {coordinate(p.ravel()[i])}" for n, p in zip(names, places, strict=True))
        sentences.append(f"{word} {_plus_minus(values[i], errors[i])} at {where}")
    bad = int((~np.isfinite(metric.samples)).sum())
    if bad:
        sentences.append(f"{bad:,} evaluated point{'' if bad == 1 else 's'} not finite")
    return f"{metric.title}: {'; '.join(sentences)}."


def at_point(ds: xr.Dataset, metric: picture.Metric, point: tuple[float, float]) -> str:
    """What is known at a point of a plane: the metric that is shown, then the others that have one value."""
    row, column = picture.nearest(ds, point)
    shown = [metric]
    shown += [picture.metric(ds, key) for key in picture.metrics(ds).values() if "[" not in key and key != metric.name]
    computed = bool(ds["computed"].values[row, column])
    said = []
    for one in shown:
        value, error = one.values[row, column], one.se[row, column]
        known = computed or np.isfinite(value)
        units = f" {one.units}" if known and one.units not in ("", "fraction") else ""
        said.append(f"{one.label} {_plus_minus(value, error) if known else 'not known yet'}{units}")
    where = ", ".join(f"{name}\xa0=\xa0{coordinate(place)}" for name, place in zip("ab", point, strict=True))
    origin = "evaluated, " if computed else "interpolated, " if np.isfinite(metric.values[row, column]) else ""
    return f"{'; '.join(said)} — {origin}at {where}."


def apart(ds: xr.Dataset, metric: picture.Metric, point: tuple[float, float]) -> str:
    """A − B at a point of both planes."""
    value = metric.values[picture.nearest(ds, point)]
    units = f" {metric.units}" if metric.units not in ("", "fraction") else ""
    return f"A − B: {number(value)}{units}." if np.isfinite(value) else "A − B: not known yet."


def _plus_minus(value: float, error: float) -> str:
    return f"{number(value)} ± {number(error, 2)}" if np.isfinite(error) else number(value)


def caption(ds: xr.Dataset) -> tuple[str, str]:
    """What the picture is, and under which conditions: what must stand beside it when it is shown to others."""
    facts = provenance(ds)
    title = ds.attrs["title"]
    seed, batchnorm = facts.get("seed"), facts["batchnorm"]
    conditions = [facts["problem"], f"{facts['data']['samples']:,} samples"]
    over = ds.attrs.get("over_seeds", "")
    if isinstance(seed, list):
        over = over or f"seeds {listed(seed)}"
    conditions += [over or f"seed {seed}"] if seed is not None else []
    conditions += [f"BatchNorm statistics {BATCHNORM[batchnorm]}"] if batchnorm in BATCHNORM else []
    return title[:1].upper() + title[1:], " · ".join(conditions)


def explained(ds: xr.Dataset) -> str:
    """How much of a trajectory its plane shows; nothing for a slice of another kind."""
    shares = provenance(ds).get("explained_variance")
    if not shares:
        return ""
    farthest = float(ds["marker_residual"].values.max())
    off = f"lie up to {number(farthest)} off the plane" if farthest >= ON_SLICE else "lie in the plane"
    return f"The two axes hold {percent(sum(shares[:2]))} of the variance; checkpoints {off}."


def checkpoint_lines(ds: xr.Dataset, metric: picture.Metric) -> list[tuple[str, str]]:
    """Each checkpoint on the picture: (name, the metric at its true weights, where it is drawn, how far off)."""
    lines = []
    for i, value in enumerate(picture.at_checkpoints(ds, metric)):
        where = ", ".join(f"{n} = {coordinate(ds[f'marker_{n}'].values[i])}" for n in picture.axes(ds))
        own = f"{metric.short} {number(value, 4)}; " if np.isfinite(value) else ""
        lines.append((str(ds["marker_name"].values[i]), f"{own}{where}; {off_slice(ds, i)}"))
    return lines


def classifies(ds: xr.Dataset) -> bool:
    """Whether a softmax radius can be asked for: the loss is a cross entropy."""
    return "cross entropy" in ds["loss"].attrs.get("long_name", "")


def origin(ds: xr.Dataset) -> str:
    """What the plane of an eigenvector is of."""
    named = [str(ds[name].attrs["long_name"]) for name in "ab" if picture.parabola(ds, name)]
    first = picture.parabola(ds, "a")
    return f"Along the {' and the '.join(named)}, λ = {_plus_minus(first.eigenvalue, first.bound)}."


def promised(ds: xr.Dataset, metric: picture.Metric, point: tuple[float, float]) -> list[str]:
    """How far the parabolas of a plane's eigenvalues hold, on the slices through its centre."""
    said = []
    row, column = picture.nearest(ds, point)
    for at, (name, cut) in enumerate({"a": (row, slice(None)), "b": (slice(None), column)}.items()):
        one = picture.parabola(ds, name)
        if one is None or one.metric != metric.key:
            continue
        if abs(point[1 - at]) > picture.spacing(ds)[1 - at] / 2:
            said.append(f"Along {name}: the parabola is of the slice through the centre; go to {'ba'[at]} = 0 for it.")
            continue
        low, high = one.holds(ds[name].values, metric.values[cut])
        said.append(
            f"Along {name}: with λ = {_plus_minus(one.eigenvalue, one.bound)} the parabola (dashed) stays within "
            f"10 % of the loss's change where it is shaded, from {number(low, 2)} to {number(high, 2)}."
        )
    return said


def radius(state: State) -> str:
    """The softmax radius in words, where it is wanted."""
    if not state.show_radius or state.result is None:
        return ""
    if state.entry is None or state.entry.request is None:
        return "The softmax radius needs the model: it is known for what this session computes."
    if state.alone is None:
        return "The softmax radius is that of one seed: choose one over the picture."
    if state.radius_asked is None:
        return "" if picture.dims(state.result) == 1 or state.point else "Choose a point for its softmax radius."
    known = state.radius
    if known is None:
        return "The softmax radius is being computed."
    if known.reason:
        return known.reason
    said = ", ".join(f"{number((high - low) / 2)} along {name}" for name, (low, high) in known.ends.items())
    return f"Softmax radius: {said}. Within it, the Taylor series about this point converges for every example."


def off_slice(ds: xr.Dataset, marker: int) -> str:
    """How far a checkpoint lies from where it is drawn, in weight space."""
    distance = float(ds["marker_residual"].values[marker])
    return "in the slice" if distance < ON_SLICE else f"{number(distance)} off the slice"


def provenance_rows(facts: dict[str, Any], depth: int = 0) -> list[tuple[int, str, str]]:
    """A provenance record as lines: (depth, what, value). Hashes are kept whole."""
    rows: list[tuple[int, str, str]] = []
    for key, value in facts.items():
        what = str(key).replace("_", " ")
        if isinstance(value, dict):
            rows += [(depth, what, ""), *provenance_rows(value, depth + 1)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for i, item in enumerate(value, 1):
                rows += [(depth, f"{ONE_OF.get(what, what)} {i}", ""), *provenance_rows(item, depth + 1)]
        else:
            rows.append((depth, what, "all" if key == "layers" and value is None else _plain(value)))
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(f"({_plain(v)})" if isinstance(v, list) else _plain(v) for v in value)
    if isinstance(value, float):
        return number(value, 6)
    return f"{value:,}" if isinstance(value, int) else str(value)
