"""Results that come back from files: read safely, checked, and asked for the choices that made them."""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import xarray as xr

from analysis import ResultError, load, provenance
from landscape_app import picture, seeds, words
from landscape_app.connectivity import picture as connectivity_picture
from landscape_app.connectivity import words as connectivity_words
from landscape_app.connectivity.bars import LayersChart
from landscape_app.connectivity.of_pair import CurveRequest, LayersRequest, PlaneRequest
from landscape_app.connectivity.plot import ConnectivityPlot
from landscape_app.connectivity.request import ConnectivityRequest
from landscape_app.curve import Curve
from landscape_app.entries import OF_PAIR, kind_of
from landscape_app.heatmap import Heatmap
from landscape_app.jobs import JobState, Snapshot
from landscape_app.request import RANDOM, SLICES, THROUGH, Request, directions
from landscape_app.scales import Scale
from landscape_app.spectrum import words as spectrum_words
from landscape_app.spectrum.picture import planned, spectra
from landscape_app.spectrum.plot import SpectrumPlot
from landscape_app.spectrum.request import SpectrumRequest
from landscape_app.trajectory import words as trajectory_words
from landscape_app.trajectory.plot import TrajectoryPlot
from landscape_app.trajectory.request import TrajectoryRequest

KINDS = {
    ("Line", "interpolation"): "line",
    ("Plane", "checkpoint"): "plane",
    ("Plane", "gradient"): "gradient",
    ("Plane", "trajectory"): "trajectory",
}
LONGEST_NAME = 80
ASKED = {
    "spectrum": SpectrumRequest,
    "trajectory": TrajectoryRequest,
    "connectivity": ConnectivityRequest,
    "plane": PlaneRequest,
    "curve": CurveRequest,
    "layers": LayersRequest,
}


def opened(name: str, content: bytes) -> xr.Dataset:
    """The result in a file that a browser sent. Raises ResultError if it is none, or cannot be shown."""
    name = re.sub(r"[^\w. ()-]", "_", Path(name).name)[-LONGEST_NAME:].lstrip(".") or "result.nc"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        ds = load(file)
    check(ds, name)
    return ds


def check(ds: xr.Dataset, name: str) -> None:
    """Raises ResultError if what is called `name` cannot be shown."""
    if "stage" not in ds.dims and "loss_barrier" in ds and kind_of(ds) not in OF_PAIR:
        raise ResultError(
            f"'{name}' is of `barrier` or `barrier_matrix`; the Connectivity page shows only paths that it computed "
            "itself. Draw this one with `landscape_app.notebook.view` or `landscape figure`."
        )
    try:
        _show(ds)
    except Exception as error:
        raise ResultError(
            f"'{name}' says that it is a result of this package, but it cannot be drawn: something is missing or "
            f"not as it should be ({type(error).__name__}: {error})."
        ) from error


def _show(ds: xr.Dataset) -> None:
    """Draw and say, unseen, what the page will."""
    if kind_of(ds) != "surface":
        shows = {
            "spectrum": _show_spectrum,
            "trajectory": _show_trajectory,
            "connectivity": _show_connectivity,
            "plane": _show_plane,
            "curve": _show_curve,
            "layers": _show_layers,
        }
        shows[kind_of(ds)](ds)
        return
    for part in seeds.parts(ds).values():
        _show_picture(seeds.part(ds, part))


def _show_picture(ds: xr.Dataset) -> None:
    words.caption(ds), words.explained(ds), words.ended(snapshot(ds))
    for key in picture.metrics(ds).values():
        words.summary(ds, picture.metric(ds, key))
    shown = picture.metric(ds, "loss")
    words.checkpoint_lines(ds, shown), words.provenance_rows(provenance(ds))
    scale = Scale.of(picture.spanned(ds, shown), log=False)
    if picture.dims(ds) == 2:
        Heatmap().draw(ds, shown, scale, "viridis")
    else:
        Curve().draw(ds, shown, scale)


def _show_spectrum(ds: xr.Dataset) -> None:
    parts = spectra(ds)
    spectrum_words.caption(ds), spectrum_words.ended(snapshot(ds)), spectrum_words.warnings(ds)
    for part in parts:
        spectrum_words.findings(part), spectrum_words.rows(part)
    words.provenance_rows(provenance(ds))
    plot = SpectrumPlot(lambda part, pair: None)
    plot.prepare(planned(ds))
    plot.draw(parts, log=True, width=0.01, chosen=None)


def _show_trajectory(ds: xr.Dataset) -> None:
    said = trajectory_words
    said.caption(ds), said.ended(snapshot(ds)), said.findings(ds), said.notes(ds)
    for place in range(ds.sizes["checkpoint"]):
        said.at(ds, place)
    words.provenance_rows(provenance(ds))
    TrajectoryPlot(lambda place: None).draw(ds, log=True, log_steps=False, chosen=None)


def _show_connectivity(ds: xr.Dataset) -> None:
    said, own = connectivity_words, connectivity_picture
    said.caption(ds), said.ended(snapshot(ds)), said.notes(ds), words.provenance_rows(provenance(ds))
    facts = own.symmetries(ds)
    if facts is not None:
        said.symmetries(facts), said.free(facts), said.pinned(facts)
    plot = ConnectivityPlot(lambda a, b: None)
    for metric in own.metrics(ds).values():
        said.rows(ds, metric), said.findings(ds, metric, 0, 1)
        plot.draw(ds, metric, 0, 1)


def _show_plane(ds: xr.Dataset) -> None:
    connectivity_picture.tracks(ds), connectivity_words.pair_caption(ds)
    _show_picture(ds)


def _show_curve(ds: xr.Dataset) -> None:
    connectivity_words.pair_caption(ds), words.provenance_rows(provenance(ds))
    for metric in connectivity_picture.metrics(ds).values():
        connectivity_picture.path(connectivity_picture.as_paths(ds), 0, metric, 0, 1)


def _show_layers(ds: xr.Dataset) -> None:
    connectivity_words.pair_caption(ds), words.provenance_rows(provenance(ds))
    for metric in connectivity_picture.layer_metrics(ds).values():
        LayersChart().draw(ds, metric, together=False)


def snapshot(ds: xr.Dataset) -> Snapshot:
    """A result as the computation that it came from left it."""
    state = JobState.CANCELLED if ds.attrs["status"] == "running" else JobState.DONE
    return Snapshot(state, ds, version=1, progress=float(ds.attrs["progress"]), elapsed=float(ds.attrs["elapsed_s"]))


def request_of(ds: xr.Dataset) -> Any:
    """What would compute a result again, None where the choices of the page cannot say it."""
    facts = provenance(ds)
    if kind_of(ds) != "surface":
        return _asked(facts, ASKED[kind_of(ds)])
    kind = _slice_of(facts)
    if kind is None:
        return None
    shape, seed = set(facts["resolution"]), facts.get("seed", 0)
    aimless = {name: facts[name] for name in RANDOM if name in facts} if SLICES[kind].aimless else {}
    return Request(
        problem=facts["problem"],
        slice=kind,
        checkpoints=tuple(checkpoint["name"] for checkpoint in facts["checkpoints"]),
        seed=seed[0] if isinstance(seed, list) else seed,
        seeds=tuple(seed) if isinstance(seed, list) else (),
        extent=tuple((low, high) for low, high in facts["extent"]),
        resolution=shape.pop() if len(shape) == 1 else tuple(facts["resolution"]),
        tolerance=0.0 if ds.attrs["status"] == "dense" else facts["tolerance"],
        batchnorm=facts["batchnorm"],
        **{name: facts.get(name) for name in THROUGH},
        **directions(**aimless),
    )


def _slice_of(facts: dict[str, Any]) -> str | None:
    if str(facts.get("kind")).startswith("random "):
        return {"Plane": "random-plane", "Line": "random-line"}.get(facts["subspace"])
    return KINDS.get((facts.get("subspace"), facts.get("kind")))


def _asked(facts: dict[str, Any], kind: type[Any]) -> Any:
    """The request that a page wrote down, None in a result of the command line."""
    asked = facts.get("asked")
    if not isinstance(asked, dict) or "point" in facts:
        return None
    known = {field.name for field in fields(kind)} - {"at"}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in asked.items() if k in known})
