"""What must stand under a figure: what it shows, and all that is needed to compute it again. Plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from analysis import provenance
from landscape_app import picture
from landscape_app.connectivity import picture as connectivity
from landscape_app.connectivity.request import MATCHINGS, NONE
from landscape_app.connectivity.words import COUNTED, height
from landscape_app.figures.draw import barrier_metric, places_of
from landscape_app.figures.paths import shown_paths
from landscape_app.picture import metric_label
from landscape_app.seeds import listed
from landscape_app.spectrum import words as spectrum_words
from landscape_app.spectrum.picture import spectra
from landscape_app.text import number, percent
from landscape_app.trajectory import picture as trajectory
from landscape_app.words import BATCHNORM, explained

HASH = 12  # letters of a digest: enough to tell it from all others
MOST_NAMED = 6
CHARTS = {
    "eigenvalues": "eigenvalues with error bars, and 2 / learning rate where it is known",
    "stability": "learning rate times the largest eigenvalue, and times the trace, as shares of their limit of 2",
    "trace": "trace with its standard error",
    "vectors": "share of the gradient in the top eigenvectors, and overlap of these with those before",
    "loss": "loss",
}


def described(ds: xr.Dataset, kind: str, width: str, metric: str | None, pair: Sequence[str] | None) -> str:
    """The caption of a figure of that kind and width; of barriers, of a metric and a pair."""
    title = ds.attrs["title"]
    heights = _heights(ds, metric, pair) if kind == "path" else ()
    said = [f"{title[:1].upper()}{title[1:]}.", *heights, *SHOWN[kind](ds, width), *_computed(ds)]
    return " ".join(said)


def _of_surface(ds: xr.Dataset, _: str) -> Iterator[str]:
    if picture.dims(ds) == 2:
        yield "Contours lie at the ticks of the colour bar; circles are the checkpoints."
        if "seed" in ds.dims:
            yield "One picture is the mean over the seeds, the other their standard deviation."
        length = picture.unit_length(ds)
        if length is not None:
            yield f"One unit of an axis is a distance of {number(length, 4)} in weight space."
    elif "seed" in ds.dims:
        yield "The band is one standard deviation over the seeds; a thin line is one seed; circles are the checkpoints."
    else:
        yield "The band is one standard error of the mean over the samples; circles are the checkpoints."
    yield explained(ds)


def _of_spectrum(ds: xr.Dataset, _: str) -> Iterator[str]:
    yield "Stems are eigenvalues with error bars, their heights only tell them apart; open heads did not converge."
    parts = spectra(ds)
    if any(part.density_known for part in parts):
        yield "Curves are the density of all eigenvalues (stochastic Lanczos quadrature), smoothed by 1 % of the width."
    for part in parts:
        yield spectrum_words.findings(part)


def _of_trajectory(ds: xr.Dataset, width: str) -> Iterator[str]:
    charts = [name for name, chart in trajectory.charts(ds, log=True).items() if chart.curves]
    listed_ = (f"({letter}) {CHARTS[name]}" for letter, name in zip("abcdefg", charts, strict=False))
    yield f"{'; '.join(listed_)}." if len(charts) > 1 and width == "double" else f"Shown are {CHARTS['eigenvalues']}."


def _of_barriers(ds: xr.Dataset, _: str) -> Iterator[str]:
    yield COUNTED[ds.attrs["convention"]]
    if ds.attrs.get("matching", NONE) != NONE:
        yield f"“Matched” are networks whose hidden units are {MATCHINGS[ds.attrs['matching']]}."


def _of_path(ds: xr.Dataset, width: str) -> Iterator[str]:
    yield "Bands are one standard error of the mean over the samples; dotted is the chord."
    yield from _of_barriers(ds, width)


def _heights(given: xr.Dataset, metric: str | None, pair: Sequence[str] | None) -> Iterator[str]:
    """The barrier of each line, and where it is."""
    ds = connectivity.as_paths(given)
    chosen = barrier_metric(ds, metric)
    units = connectivity.units(ds, chosen)
    found = [
        f"{one.label}: {height(one.path, units)}"
        for one in shown_paths(ds, chosen, places_of(ds, pair))
        if np.isfinite(one.path.height)
    ]
    if found:
        label = metric_label(chosen, ds[chosen].attrs["long_name"])
        yield f"Barrier of the {label[:1].lower()}{label[1:]}: {'; '.join(found)}."


def _of_layers(ds: xr.Dataset, _: str) -> Iterator[str]:
    yield "Each layer alone, half-way to the other network's, over the mean of the two; grey: as far at random."
    yield f"Bars are means over the two ways round (and {ds.sizes['draw']} draws), lines reach from least to most."


SHOWN = {
    "surface": _of_surface,
    "spectrum": _of_spectrum,
    "trajectory": _of_trajectory,
    "path": _of_path,
    "matrix": _of_barriers,
    "layers": _of_layers,
}


def _computed(ds: xr.Dataset) -> Iterator[str]:
    """Sentences that say how it was computed; what the record does not hold is left out."""
    facts = provenance(ds)
    yield _model(facts)
    yield _data(facts)
    yield _checkpoints(facts, [str(name) for name in ds["name"].values] if "name" in ds.coords else [])
    yield _directions(facts)
    yield _training(facts)
    policy = facts.get("batchnorm")
    if policy is not None:
        said = BATCHNORM.get(policy, "the model has none" if policy == "none" else policy)
        yield f"BatchNorm statistics: {said}{_calibration(facts)}."
    yield _grid(facts)
    yield _effort(ds)
    if "dtype" in facts:
        yield f"Arithmetic: {facts['dtype']} on {facts.get('device', 'cpu')}{_strategy(facts)}."
    versions = ", ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    if versions:
        yield f"Computed{' on ' + facts['created'][:10] if 'created' in facts else ''} with {versions}."


def _model(facts: dict[str, Any]) -> str:
    size = f", {facts['parameters']:,} parameters" if "parameters" in facts else ""
    code = f", code sha256 {facts['code'][:HASH]}" if "code" in facts else ""
    return f"Problem “{facts['problem']}”: {facts.get('model', 'model')}{size}{code}."


def _data(facts: dict[str, Any]) -> str:
    data = facts["data"]
    counted = facts.get("samples_counted", data["samples"])
    of = f"{counted:,} of {data['samples']:,}" if counted != data["samples"] else f"{counted:,}"
    loss = f" of the {facts['loss']}" if "loss" in facts else ""
    more = [
        f"{name}: {part['samples']:,}, sha256 {part['sha256'][:HASH]}" for name, part in facts.get("also", {}).items()
    ]
    also = f" (also {'; '.join(more)})" if more else ""
    return f"Means{loss} over {of} samples, data sha256 {data['sha256'][:HASH]}{also}."


def _calibration(facts: dict[str, Any]) -> str:
    part = facts.get("calibration")
    if not part:
        return ""
    batches = f"{part['batches']} batch{'' if part['batches'] == 1 else 'es'}"
    return f" on {part['samples']:,} samples in {batches}, sha256 {part['sha256'][:HASH]}"


def _checkpoints(facts: dict[str, Any], names: list[str]) -> str:
    found = facts.get("checkpoints") or ([facts["checkpoint"]] if "checkpoint" in facts else [])
    names = names if len(names) == len(found) else [one["name"] for one in found]
    said = [f"{name} (sha256 {one['sha256'][:HASH]})" for name, one in zip(names, found, strict=True)]
    if not said:
        return ""
    if len(said) > MOST_NAMED:
        return f"{len(said)} checkpoints, from {said[0]} to {said[-1]}."
    return f"Checkpoint{'' if len(said) == 1 else 's'}: {', '.join(said)}."


def _directions(facts: dict[str, Any]) -> str:
    said = []
    if facts.get("kind"):
        said.append(f"{facts.get('subspace', 'slice').lower()} of kind “{facts['kind']}”")
    if facts.get("normalisation"):
        said.append(f"normalised by {facts['normalisation']}")
    seed = facts.get("seed")
    if seed is not None:
        said.append(f"seeds {listed(seed)}" if isinstance(seed, list) else f"seed {seed}")
    said += [f"{name} {', '.join(facts[key])}" for key, name in MOVED.items() if facts.get(key)]
    said += ["what the model does not train too"] if facts.get("frozen") else []
    if facts.get("stochastic_seed") is not None:
        said.append(f"random layers seeded with {facts['stochastic_seed']}")
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


MOVED = {"include": "moving", "layers": "in layers"}


def _training(facts: dict[str, Any]) -> str:
    """How a curve was trained."""
    if not {"bends", "steps", "learning_rate"} <= set(facts):
        return ""
    bends = f"{facts['bends']} bend{'' if facts['bends'] == 1 else 's'}"
    size = f", batches of {facts['batch_size']:,}" if facts.get("batch_size") else ""
    return (
        f"{bends}, trained by {facts['steps']:,} steps of Adam (learning rate {number(facts['learning_rate'])}{size})."
    )


def _grid(facts: dict[str, Any]) -> str:
    if not facts.get("resolution") or not facts.get("extent"):
        return ""
    points = " × ".join(f"{count:,}" for count in facts["resolution"])
    return f"{points} points over {' × '.join(f'[{number(a)}, {number(b)}]' for a, b in facts['extent'])}."


def _strategy(facts: dict[str, Any]) -> str:
    """What a sum's last bits depend on."""
    found = facts.get("strategy", {})
    block = f", in blocks of {found['block']:,} samples" if found.get("block") else ""
    threads = found.get("threads", facts.get("threads"))
    return block + (f", {threads} thread{'' if threads == 1 else 's'}" if threads else "")


def _effort(ds: xr.Dataset) -> str:
    attrs = ds.attrs
    said = [f"{int(attrs[name]):,} {words}" for name, words in EFFORT.items() if name in attrs]
    error = attrs.get("interpolation_error", np.nan)
    if np.isfinite(error) and attrs["status"] != "dense":
        said.append(f"interpolation error {percent(error)} of the range")
    elif attrs["status"] == "dense":
        said.append("each point evaluated")
    if attrs["status"] == "running":
        said.append(f"unfinished ({percent(attrs['progress'])})")
    elif attrs["status"] == "unconverged":
        said.append("not converged")
    return f"{'; '.join(said)}."


EFFORT = {"evaluations": "evaluations", "products": "products of the matrix with a vector"}
