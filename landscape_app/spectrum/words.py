"""What the Spectrum page says: what will happen, is happening and has happened. No HTML here."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app.entries import Entry
from landscape_app.jobs import JobState, Snapshot
from landscape_app.spectrum import picture
from landscape_app.spectrum.picture import Spectrum as Part
from landscape_app.spectrum.request import DEFLATED, MATRICES, basis_bytes, classes_of, layer_names, layers_of
from landscape_app.spectrum.state import ALL, EACH, Spectrum, symbol
from landscape_app.text import duration, number
from landscape_app.words import Message, left, standing

HELD = {"recalibrated": "BatchNorm statistics re-estimated at the point and held", "frozen": "", "batch": ""}
FEW, MANY = 4, 20  # products for each eigenvalue that is wanted, about


def message(state: Spectrum) -> Message:
    """Where the spectrum's task stands."""
    return standing(state, cost, _running, ended)


def promise(state: Spectrum) -> str:
    """What Compute will do."""
    names = " and the ".join(MATRICES[matrix] for matrix in state.matrix)
    called = state.shelf.label(state.problem, state.checkpoint)
    where = called if state.at is None else f"the point {state.at} of a surface around {called}"
    return f"the {names} spectrum of {state.problem} at {where}"


def cost(state: Spectrum) -> str:
    """What Compute will take: products, and the memory of the basis."""
    if any(state.trouble):
        return ""
    problem, request = state.project.problems[state.problem], state.request()
    sizes = [_parameters(problem, layer) for layer in _layers(state)]
    times = len(sizes) * len(state.matrix) * (max(1, len(classes_of(problem))) if state.of_class == EACH else 1)
    wanted = min(request.largest + request.smallest, max(sizes))
    sampled = DEFLATED + request.probes * request.degree if request.probes else 0
    low, high = FEW * wanted + sampled, MANY * wanted + sampled
    each = f" for each of {times} spectra" if times > 1 else ""
    room = size(basis_bytes(max(sizes), problem.dtype.itemsize, wanted, request.degree))
    data = f"{problem.n:,} samples" if state.of_class in (ALL, EACH) else "the samples of that class"
    return (
        f"About {low:,} to {high:,} products of the matrix{each}, each as dear as 2 to 3 gradients over {data}; "
        f"the basis takes at most {room}."
    )


def _layers(state: Spectrum) -> list[str]:
    if state.layer == EACH:
        return layers_of(state.project.problems[state.problem])
    return [state.layer]


def _parameters(problem, layer: str) -> int:
    entries = problem.structure.entries
    names = layer_names(problem, layer) if layer else entries
    return max(1, sum(entries[name].shape.numel() for name in names if not entries[name].frozen))


def size(bytes_: float) -> str:
    """Memory as people say it: '25 MB'."""
    power = min(3, max(1, int(np.log10(max(bytes_, 1)) // 3)))
    amount = bytes_ / 1000**power
    return f"{number(amount, 2 if amount < 100 else 4)} {('kB', 'MB', 'GB')[power - 1]}"


def _running(job: Snapshot) -> Message:
    if job.result is None:
        return Message("busy", "Starting", "Loading the checkpoint and its gradient; the first products come next.")
    ds, parts = job.result, picture.spectra(job.result)
    last = parts[-1]
    settled = f"{int(last.converged.sum())} of {len(last.values)} eigenvalues converged"
    known = f"{ds.attrs['products']:,} products · {settled}"
    place = f"{len(parts)} of {ds.attrs['parts']}: {last.label} · " if ds.attrs["parts"] > 1 else ""
    told = np.isfinite(float(ds.attrs.get("eta_s", np.nan)))
    rest = f" · {left(job.eta)}" if told and job.eta is not None else ""
    title = "Sampling the density" if last.density_known else "Finding eigenvalues"
    if not last.density_known and last.converged.all() and len(last.values):
        title = "Looking for missed ones"
    return Message("busy", title, place + known + rest)


def ended(job: Snapshot) -> Message:
    """What a computation came to."""
    if job.result is None:
        return Message("warn", "Cancelled", "Nothing had been computed yet.")
    spent = f"{job.result.attrs['products']:,} products in {duration(job.elapsed)}"
    if job.state is JobState.CANCELLED:
        rest = "the bars hold, but eigenvalues may be missing"
        return Message("warn", "Cancelled", f"The picture shows what {spent} gave: {rest}.")
    parts = picture.spectra(job.result)
    open_ = sum(int((~part.converged).sum()) for part in parts)
    if open_:
        some = "one eigenvalue is" if open_ == 1 else f"{open_} eigenvalues are"
        return Message("warn", "Done", f"{spent}; {some} not converged, and marked. Allow more products to go on.")
    unsure = [part for part in parts if len(part.values) and not part.verified]
    if unsure:
        return Message("warn", "Done", f"{spent}; a second look for missed eigenvalues did not come to its end.")
    return Message("good", "Done", f"{spent}; a second look found no eigenvalue missing.")


def entry_line(entry: Entry) -> str:
    """A spectrum in the list: whose it is, how it ended, what it cost, what is kept."""
    ds, job = entry.result, entry.job
    status = ds.attrs["status"]
    if status == "running":
        status = "partial" if job.state.final else f"running, {round(100 * job.progress)} %"
    parts = [provenance(ds)["problem"], status, f"{ds.attrs['products']:,} products"]
    vectors = entry.kept.get("vectors")
    count = len(vectors.found) if vectors else 0
    parts += [f"{count} vector{'' if count == 1 else 's'} in memory"] if count else []
    parts += [duration(job.elapsed).replace(" ", "\xa0"), entry.file or f"{entry.since:%H:%M}"]
    return " · ".join(parts)


def caption(ds: xr.Dataset) -> tuple[str, str]:
    """What the picture is, and under which conditions."""
    facts = provenance(ds)
    title, batchnorm = ds.attrs["title"], facts.get("batchnorm")
    conditions = [facts["problem"], facts.get("loss", "")]
    parts = picture.spectra(ds)
    counted = {part.samples for part in parts}
    samples = f"{parts[0].samples:,}" if len(counted) == 1 else f"{min(counted):,} to {max(counted):,}"
    conditions += [f"{samples} of {parts[0].all_samples:,} samples"]
    conditions += [f"{parts[0].parameters:,} parameters"] if len({p.parameters for p in parts}) == 1 else []
    conditions += [HELD[batchnorm]] if HELD.get(batchnorm) else []
    return title[:1].upper() + title[1:], " · ".join(filter(None, conditions))


def findings(part: Part) -> str:
    """The spectrum in one sentence."""
    said = []
    top, low = part.values[part.ends == "largest"], part.values[part.ends == "smallest"]
    if top.size:
        said.append(f"λmax = {plus_minus(part, int(np.argmax(part.values)))}")
    if low.size:
        said.append(f"λmin = {plus_minus(part, int(np.argmin(part.values)))}")
    if top.size and low.size and part.values.max() > 0:
        ratio = abs(part.values.min()) / part.values.max()
        said.append(f"|λmin|/λmax = {number(ratio, 2)}")
    trace, error = part.trace
    if np.isfinite(trace):
        known = f" ± {number(error, 2)}" if np.isfinite(error) else " (one random vector: its error is not known)"
        said.append(f"trace about {number(trace)}{known}")
    said.append(f"on {part.samples:,} of {part.all_samples:,} samples")
    return f"{part.label}: {'; '.join(said)}."


def warnings(ds: xr.Dataset) -> list[str]:
    """What a spectrum does not say, or says too loudly."""
    parts, said = picture.spectra(ds), []
    if any(part.samples < part.all_samples for part in parts):
        said.append(
            "Computed on a subset of the samples: largest eigenvalues are biased outward against those of all samples."
        )
    if ds.attrs.get("kinks"):
        said.append(
            "The network has kinks (ReLU, max pooling ...), which no product of the matrix sees: over a finite step "
            "the loss may bend more than its eigenvalues say."
        )
    if any(part.matrix != "hessian" for part in parts):
        said.append("Gauss-Newton and Fisher matrices have no negative eigenvalues: only the largest are looked for.")
    if any(not part.converged.all() for part in parts):
        said.append("Open circles are not converged: each bar holds an eigenvalue, but which one may still change.")
    return said


def plus_minus(part: Part, pair: int) -> str:
    return f"{number(part.values[pair], 4)} ± {number(part.bounds[pair], 1)}"


def rows(part: Part) -> list[tuple[str, str, str, str, str]]:
    """The table: name, value, bar, residual, how sure it is."""
    found = []
    for pair in range(len(part.values)):
        sure = "verified" if part.converged[pair] and part.verified else "converged"
        found.append(
            (
                symbol(part, pair),
                number(part.values[pair], 5),
                f"± {number(part.bounds[pair], 2)}",
                number(part.residuals[pair], 2),
                sure if part.converged[pair] else "not converged",
            )
        )
    return found
