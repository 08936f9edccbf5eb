"""One session's state: what is chosen, how it is drawn and what came out. The only thing that views share."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import param

from analysis.weights import Structure
from landscape_app.checkpoints.linking import follow
from landscape_app.checkpoints.state import Checkpoints
from landscape_app.connectivity.state import Connectivity
from landscape_app.difference import reason
from landscape_app.entries import Entry, numbered, unfinished
from landscape_app.picture import (
    Metric,
    alike,
    axes,
    dims,
    extent,
    metric,
    metric_label,
    on_grid,
    parabola,
    quantity,
    shows,
    spans_decades,
    subspace,
)
from landscape_app.request import SLICES, Request, directions
from landscape_app.seeds import MEAN, SPREAD, part, parts
from landscape_app.spectrum.request import Place, layers_of
from landscape_app.spectrum.state import Spectrum
from landscape_app.task import Task
from landscape_app.text import explain
from landscape_app.trajectory.state import Trajectory

NO_CHECKPOINT = ""
THE_SAME = 0
EXTENT_LIMIT = 3.0
PALETTES = {"Viridis": "viridis", "Cividis": "cividis", "Magma": "magma"}
TOLERANCES = {
    "0.3 % of the range": 0.003,
    "1 % of the range": 0.01,
    "3 % of the range": 0.03,
    "Every point": 0.0,
}
BATCHNORM = {
    "recalibrated": "Recalibrated at each point",
    "frozen": "Frozen at the checkpoint's",
    "batch": "Of each batch",
}


NORMALISATION = {"By filter": "filter", "By layer": "layer", "By weight": "weight"}
KINDS = {"Weights": "weight", "Biases": "bias", "Scales and shifts of normalisation": "norm"}

COMPARING = ("compare", "other_metric", "other_across", "other_log_scale", "difference")  # of one result
INPUTS = (
    *("problem", "slice", "first", "second", "third", "seed", "seeds", "normalisation", "layers", "include", "frozen"),
    *("fit_extent", "extent_a", "extent_b", "resolution", "tolerance", "batchnorm"),
)


@dataclass(frozen=True)
class Radii:
    """The softmax radius about a point of an entry's line or plane: what was asked for, and (low, high) of each axis.

    request: of the line or plane itself. reason: why there are none.
    """

    number: int
    request: Request
    point: tuple[float, ...]
    ends: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""


class State(Task):
    """What a session has chosen and computed. Views and jobs read it and write it; none knows another."""

    slice = param.Selector(default="random-plane", objects={s.label: key for key, s in SLICES.items()}, label="Slice")
    first = param.Selector(label="Checkpoint")
    second = param.Selector(label="Second")
    third = param.Selector(label="Third")
    seed = param.Integer(default=0, bounds=(0, None), label="Seed of the directions")
    seeds = param.Integer(default=1, bounds=(1, 100), label="Number of seeds")
    normalisation = param.Selector(default="filter", objects=NORMALISATION, label="Normalisation")
    layers = param.ListSelector(default=[], objects=[], label="Layers that move (none: all)")
    include = param.ListSelector(default=["weight"], objects={"Weights": "weight"}, label="Parameters that move")
    frozen = param.Boolean(default=False, label="Frozen parameters move too")
    fit_extent = param.Boolean(default=True, label="Fit the extent to the checkpoints")
    extent_a = param.Range(
        default=(-1.0, 1.0), softbounds=(-EXTENT_LIMIT, EXTENT_LIMIT), step=0.05, label="Extent of a"
    )
    extent_b = param.Range(
        default=(-1.0, 1.0), softbounds=(-EXTENT_LIMIT, EXTENT_LIMIT), step=0.05, label="Extent of b"
    )
    resolution = param.Selector(default=101, objects=[51, 101, 151, 201], label="Points along each axis")
    tolerance = param.Selector(default=0.01, objects=TOLERANCES, label="Interpolation error")
    batchnorm = param.Selector(label="BatchNorm statistics")

    metric = param.Selector(default="loss", objects={"Loss": "loss"}, label="Show")
    across = param.Selector(default=MEAN, objects=parts(None), label="Over seeds")
    log_scale = param.Boolean(default=True, label="Logarithmic")
    clip = param.Number(default=None, allow_None=True, label="Clip above")  # of planes, in their units
    palette = param.Selector(default="viridis", objects=PALETTES, label="Colours")
    show_contours = param.Boolean(default=True, label="Contours")
    show_samples = param.Boolean(default=False, label="Evaluated points")
    relief = param.Boolean(default=False, label="3-D")

    compare = param.Boolean(default=False, label="Compare")
    other = param.Selector(default=THE_SAME, objects={"The same result": THE_SAME}, label="Beside it")
    other_metric = param.Selector(default="loss", objects={"Loss": "loss"}, label="Show")
    other_across = param.Selector(default=MEAN, objects=parts(None), label="Over seeds")
    other_log_scale = param.Boolean(default=True, label="Logarithmic")
    difference = param.Boolean(default=False, label="Difference")

    point = param.Parameter(doc="The chosen point (a, b) of a plane's picture, on its grid, or None.")
    at_a = param.Number(default=None, allow_None=True, label="a")  # of the point, for widgets
    at_b = param.Number(default=None, allow_None=True, label="b")

    view = param.Parameter(doc="(low, high) of each axis of the part of the picture that is looked at, None for all.")

    inputs = INPUTS
    look = (
        *("across", "metric", "log_scale", "clip", "palette", "show_contours", "show_samples", "relief"),
        *("at_a", "at_b", *COMPARING),
    )
    kind = "surface"

    page = param.Selector(
        default="surface",
        objects=["surface", "spectrum", "trajectory", "connectivity", "checkpoints", "results", "jobs"],
        doc="The page that is looked at.",
    )
    found = param.Parameter(doc="Names of each problem's checkpoints, once others than at first were found.")
    show = param.Parameter(doc="Number of the entry to show again; None once it is.")
    remove = param.Parameter(doc="Number of the entry to forget, or several in a tuple; None once they are.")
    file = param.Bytes(default=None, allow_None=True, label="Open a saved result or session")
    upload = param.Parameter(doc="A saved result or session to open: (file name, its bytes); None once it is.")
    refused = param.Parameter(default=("", ""), doc="Why a file was not opened: (reason, details).")
    workers = param.Integer(default=0, doc="How many jobs run at a time; 0 while nobody runs any.")
    computations = param.Parameter(default=(), doc="The jobs of the session, a Computation each, the oldest first.")

    along = param.Parameter(doc="The eigenvectors of a spectrum that a plane may lie along, an Along, or None.")
    show_radius = param.Boolean(default=False, label="Softmax radius")
    radii = param.Parameter(doc="The softmax radii that were computed last, a Radii, or None.")

    def __init__(self, project: Any, **params: Any):
        self._log_scales = {("loss", False): True}
        self._clips: dict[tuple[str, bool], float | None] = {}
        self._parts: list[tuple[Any, Any, Any]] = []  # of results over seeds: (result, which part, the part)
        self._shown = 0  # before it changes
        self._metric = "loss"  # before it changes
        self._slice = "random-plane"  # with checkpoints, the one before
        self.has_frozen = False  # whether the model has parameters that it does not train
        self._compared = (False, THE_SAME)  # compare and other, before they change
        self._subspace: tuple[object, ...] | None = None  # that `point` was chosen on
        self._frame: list[tuple[str, tuple[float, float]]] | None = None  # that `view` is a part of
        names = list(project.problems)
        lock = threading.RLock()  # a server may run the callbacks of one session in several threads
        super().__init__(project, lock, **params)
        self.param.problem.objects = names
        self.problem = names[0]
        self.spectrum = Spectrum(project, self.lock, self.shelf)
        self.trajectory = Trajectory(project, self.lock, self.shelf)
        self.connectivity = Connectivity(project, self.lock, self.shelf)
        self.checkpoints = Checkpoints(project, self.lock, self.shelf)
        self._lead()
        follow(self)

    @param.depends("problem", "first", watch=True)
    def _lead(self) -> None:
        """Until there is a result of their own, the other pages ask about what this one does."""
        spectrum = getattr(self, "spectrum", None)
        for task in (getattr(self, "trajectory", None), getattr(self, "connectivity", None)):
            if task is not None and task.fresh and self.problem in task.param.problem.objects:
                task.problem = self.problem
        if spectrum is not None and spectrum.fresh:
            spectrum.problem = self.problem
            if self.first in spectrum.param.checkpoint.objects:
                spectrum.checkpoint = self.first

    @property
    def tasks(self) -> dict[str, Task]:
        """The task of each page and those about a pair of checkpoints, by what their results are called."""
        paths = self.connectivity
        tasks = (self, self.spectrum, self.trajectory, paths, paths.plane, paths.curve, paths.layers, self.checkpoints)
        return {task.kind: task for task in tasks}

    @property
    def roles(self) -> tuple[str, ...]:
        """What the checkpoints of the current slice are called."""
        return SLICES[self.slice].roles

    def request(self) -> Request:
        """What the choices ask for now."""
        kind = SLICES[self.slice]
        chosen = (self.first, self.second, self.third)[: len(kind.roles)]
        checkpoints = tuple(name for name in chosen if name)
        if kind.all_from:
            checkpoints = tuple(self.project.checkpoint_names(self.problem))
        seeded = kind.seeded(len(checkpoints))
        return Request(
            problem=self.problem,
            slice=self.slice,
            checkpoints=checkpoints,
            seed=self.seed if seeded else 0,
            seeds=tuple(range(self.seed, self.seed + self.seeds)) if seeded and self.seeds > 1 else (),
            extent=None if self.fit_extent else (self.extent_a, self.extent_b)[: kind.dims],
            resolution=self.resolution,
            tolerance=self.tolerance,
            batchnorm=self.batchnorm,
            along=self.along if kind.along else None,
            **(directions(self.normalisation, self.include, self.layers, self.frozen) if kind.aimless else {}),
        )

    def offer(self) -> None:
        try:
            problem = self.project.problems[self.problem]
        except BaseException as error:  # it is made now, by code of the user's own
            problem, self.trouble = None, explain(error)
        else:
            self.trouble = ("", "")
        names = list(self.project.checkpoint_names(self.problem))
        policies = problem.batchnorm_choices if problem else (self.batchnorm,)
        named = self.shelf.offered(self.problem, names)
        options = {
            "first": named,
            "second": named,
            "third": {"None: a random direction": NO_CHECKPOINT, **named},
            "slice": self._slices(len(names)),
            "batchnorm": {BATCHNORM.get(policy, policy): policy for policy in policies},
        }
        usual = self._usual(self.slice if self.slice in options["slice"].values() else "random-plane")
        fresh = {
            "first": usual.get("first", names[-1]),
            "second": usual.get("second", names[-1]),
            "third": NO_CHECKPOINT,
            "slice": "random-plane",
            "batchnorm": problem.batchnorm if problem else self.batchnorm,
        }
        kept = {k: getattr(self, k) if getattr(self, k) in options[k].values() else fresh[k] for k in options}
        self.put_on_offer(options, **kept)
        self._offer_directions(problem)
        if self.result is None and problem:
            loss = problem.measures[0]
            self._offer_metrics({metric_label(loss.name, loss.long_name): loss.name})

    def _offer_directions(self, problem: Any) -> None:
        """What may move along random directions; what the problem has not is no longer chosen."""
        structure = problem.structure if problem else Structure({})
        kinds = {entry.kind for entry in structure.entries.values()}
        offered = {
            "include": {label: kind for label, kind in KINDS.items() if kind in kinds | {"weight"}},
            "layers": {name: name for name in (layers_of(problem) if problem else ())},
        }
        kept = {name: [v for v in getattr(self, name) if v in options.values()] for name, options in offered.items()}
        self.put_on_offer(offered, layers=kept["layers"], include=kept["include"] or ["weight"])
        self.has_frozen = any(entry.frozen for entry in structure.entries.values())
        self.frozen = self.frozen and self.has_frozen

    def _usual(self, kind: str) -> dict[str, str]:
        names = self.project.checkpoint_names(self.problem)
        return dict(zip(("first", "second"), SLICES[kind].usual(names) if SLICES[kind].roles else (), strict=False))

    @param.depends("slice", watch=True)
    def _follow(self) -> None:
        """Checkpoints that nobody chose are the usual ones of another slice too."""
        if not self.roles:
            return
        before, self._slice = self._usual(self._slice), self.slice
        if all(getattr(self, place) == name for place, name in before.items()):
            self.param.update(**self._usual(self.slice))

    def _slices(self, checkpoints: int) -> dict[str, str]:
        here = self.along is not None and self.along.spectrum.problem == self.problem
        return {s.label: key for key, s in SLICES.items() if s.needs <= checkpoints and (here or not s.along)}

    @param.depends("along", watch=True)
    def _offer_along(self) -> None:
        offered = self._slices(len(self.project.checkpoint_names(self.problem)))
        self.put_on_offer({"slice": offered}, slice=self.slice if self.slice in offered.values() else "random-plane")

    @property
    def earlier(self) -> Entry | None:
        return unfinished(self.entries, self.request())

    def lacks(self, request: Request | None) -> tuple[str, ...] | None:
        if request is None:
            return ()
        if request.problem != self.problem:
            return ("problem",)
        ours = self.request()
        return tuple(f.name for f in fields(Request) if getattr(ours, f.name) != getattr(request, f.name)) or None

    @param.depends(*INPUTS, "along", "computed", "foreign", watch=True)
    def _compare(self) -> None:
        changed = self.computed is not None and self.request() != self.computed
        self.stale = self.foreign is not None or changed

    @property
    def drawn(self) -> Any:
        """What the first picture is drawn of: the result, or what is chosen of one over seeds, dressed."""
        return self.shown_as(self._part(self.result, self.across))

    def _part(self, ds: Any, which: Any) -> Any:
        """The part of a result, the same object as long as the result is."""
        if ds is None or "seed" not in ds.dims:
            return ds
        found = next((made for whole, key, made in self._parts if whole is ds and key == which), None)
        if found is None:
            found = part(ds, which)
            self._parts = [*self._parts[-3:], (ds, which, found)]
        return found

    @param.depends("result", watch=True)
    def _offer_parts(self) -> None:
        offered = parts(self.result)
        kept = self.across if self.across in offered.values() else MEAN
        self.put_on_offer({"across": offered}, across=kept)

    @property
    def alone(self) -> Request | None:
        """What was asked for of the one line or plane that is drawn; None where that is several, or not known."""
        request = self.entry.request if self.entry else None
        if request is None or not request.seeds:
            return request
        if not isinstance(self.across, int):
            return None
        return replace(request, seed=request.seeds[self.across], seeds=())

    def choose(self, a: float, b: float) -> None:
        """Choose the point of the plane that is nearest to (a, b); one beyond the picture changes nothing."""
        if self.result is not None and dims(self.result) == 2:
            self.point = on_grid(self.result, (a, b)) or self.point

    def look_at(self, *ends: tuple[float, float]) -> None:
        """Note to which (low, high) the axes of the picture were zoomed."""
        ds = self.result
        if ds is None or None in sum(ends, ()):
            return
        whole = [extent(ds, name) for name in axes(ds)]
        seen = [(min(pair), max(pair)) for pair in ends[: len(whole)]]
        near = [
            bool(np.allclose(one, other, atol=(other[1] - other[0]) / 100, rtol=0))
            for one, other in zip(seen, whole, strict=True)
        ]
        self.view = None if all(near) else tuple(map(_rounded, seen))

    def ask_view(self) -> None:
        """Compute the part of the picture that is looked at, in the resolution of the whole."""
        if self.view is None or self.busy or self.stale or self.computed is None:
            return
        ends = dict(zip(("extent_a", "extent_b"), self.view, strict=False))
        self.fit_extent = False
        self.param.update(**ends)
        self.compute = True

    @param.depends("result", watch=True)
    def _look_anew(self) -> None:
        """What was zoomed is shown in full where the next picture has another frame."""
        frame = [(name, extent(self.result, name)) for name in axes(self.result)] if self.result is not None else None
        if frame != self._frame:
            self._frame, self.view = frame, None

    @param.depends("result", "across", watch=True)
    def _keep_the_point(self) -> None:
        """A point stays while its coordinates mean the same weights, and the picture reaches there."""
        ds, before = self.drawn, self._subspace
        self._subspace = subspace(ds) if ds is not None else None
        if self.point is not None:
            here = self._subspace == before and dims(ds) == 2
            self.point = on_grid(ds, self.point) if here else None
        if self.point is None and ds is not None and parabola(ds, "a") is not None:
            self.point = on_grid(ds, (0.0, 0.0))

    @param.depends("point", watch=True)
    def _say_where(self) -> None:
        a, b = self.point or (None, None)
        self.param.update(at_a=a, at_b=b)

    @param.depends("at_a", "at_b", watch=True)
    def _go_there(self) -> None:
        """One coordinate alone goes to the middle of the other; an emptied one takes the point away."""
        at = (self.at_a, self.at_b)
        if at == (self.point or (None, None)):
            return
        if None in at and self.point is not None:
            self.point = None
        elif self.result is not None and dims(self.result) == 2:
            reach = [extent(self.result, name) for name in "ab"]
            self.choose(
                *(
                    min(max(sum(ends) / 2 if place is None else place, ends[0]), ends[1])
                    for place, ends in zip(at, reach, strict=True)
                )
            )
        self._say_where()

    @property
    def place(self) -> Place | None:
        """The chosen point as a place for a spectrum; None where it is not known what weights are there."""
        request = self.alone
        if request is None or self.point is None:
            return None
        return Place(replace(request, extent=None, resolution=101, tolerance=0.01), self.point)

    @property
    def radius_asked(self) -> Radii | None:
        """Whose softmax radius is wanted now, as Radii without ends; None for that of nothing."""
        entry, request = self.entry, self.alone
        if not self.show_radius or entry is None or request is None or not entry.job.state.final:
            return None
        point = (0.0,) if dims(self.result) == 1 else self.point
        return Radii(entry.number, request, point) if point is not None else None

    @property
    def radius(self) -> Radii | None:
        """The softmax radius that belongs to what is shown, None until it is known."""
        asked, known = self.radius_asked, self.radii
        fits = asked and known and asked == replace(known, ends=asked.ends, reason="")
        return known if fits else None

    def ask_spectrum(self) -> None:
        """Compute the spectrum at the chosen point."""
        if self.place is not None:
            self.page = "spectrum"
            self.spectrum.go(self.place)

    def ask_spectrum_along(self) -> None:
        """Compute the spectrum of the checkpoint that is chosen along a run."""
        request, place = self.trajectory.computed, self.trajectory.chosen
        if request is not None and place is not None and not self.spectrum.busy:
            self.page = "spectrum"
            self.spectrum.visit(request.problem, request.checkpoints[place], request.matrix, request.batchnorm)

    def ask_plane(self) -> None:
        """Compute the plane along the chosen eigenvectors."""
        along = self.spectrum.along
        if along is None or self.busy:
            return
        reach = along.reach
        self.page = "surface"
        self.problem = along.spectrum.problem
        self.along = along
        self.param.update(slice="eigenvectors", fit_extent=False, metric="loss")
        self.param.update(extent_a=(-reach, reach), extent_b=(-reach, reach))
        self.compute = True

    def back(self) -> None:
        """Look at the spectrum again that the plane's eigenvectors are of."""
        origin = self.computed.along if self.computed is not None else self.along
        if origin is not None and numbered(self.entries, origin.number) is not None:
            self.show = origin.number
        self.page = "spectrum"

    def steps(self, request: Request, **kept: Any) -> Any:
        return request.steps(self.project, preview=True, **kept)

    def restore(self, request: Request) -> bool:
        """Choose again what a request asked for, as far as it is on offer; returns whether all of it is."""
        if request.problem not in self.param.problem.objects:
            return False
        self.problem = request.problem
        if request.along is not None:
            self.along = request.along
        kind = SLICES[request.slice]
        if request.slice in list(self.param.slice.objects):
            self.slice = request.slice  # before its checkpoints: see `_follow`
        chosen = {"resolution": request.resolution, "tolerance": request.tolerance}
        if not kind.all_from:
            given = (*request.checkpoints, NO_CHECKPOINT)
            chosen |= dict(zip(("first", "second", "third")[: len(kind.roles)], given, strict=False))
        if request.batchnorm is not None:
            chosen["batchnorm"] = request.batchnorm
        offered = {name: value for name, value in chosen.items() if value in list(self.param[name].objects)}
        offered["fit_extent"] = request.extent is None
        if kind.seeded(len(request.checkpoints)):
            offered |= {"seed": request.seed, "seeds": max(1, len(request.seeds))}
        if kind.aimless:
            offered |= self._restored_directions(request)
        self.param.update(**offered)
        self.param.update(**dict(zip(("extent_a", "extent_b"), request.extent or (), strict=False)))
        return self.request() == request

    def _restored_directions(self, request: Request) -> dict[str, Any]:
        """Patterns of layers that a file or a command line gave are on offer then."""
        patterns = {pattern: pattern for pattern in request.layers or ()}
        self.param.layers.objects = {**dict(self.param.layers.names or {}), **patterns}
        kinds = [kind for kind in request.include or ("weight",) if kind in list(self.param.include.objects)]
        return {
            "normalisation": request.normalisation or "filter",
            "layers": list(patterns),
            "include": kinds,
            "frozen": bool(request.frozen) and self.has_frozen,
        }

    @property
    def beside(self) -> Any:
        """The result of the picture beside the first, None while nothing is compared."""
        if not self.compare or self.result is None:
            return None
        return self.shown_as(self._part(self._result_beside, self.other_across))

    @property
    def _result_beside(self) -> Any:
        entry = numbered(self.entries, self.other)
        return entry.result if entry else self.result

    @property
    def metric_shown(self) -> Metric:
        """What the picture shows; the loss while a new result does not have what was chosen."""
        return _metric(self.drawn, self.metric)

    def clip_of(self, ds: Any) -> float | None:
        """As what larger values of a result are drawn, None for all as they are: those of a line, and spreads."""
        return self.clip if dims(ds) == 2 and self.metric_shown.over != "spread" else None

    @property
    def metric_beside(self) -> Metric:
        """What the picture beside it shows."""
        return _metric(self.beside, self.other_metric)

    @property
    def same_quantity(self) -> bool:
        """Whether both pictures show the same quantity, and so share a scale."""
        return quantity(self.drawn, self.metric_shown) == quantity(self.beside, self.metric_beside)

    @property
    def indifferent(self) -> str:
        """Why what is beside the first picture has no difference to it, in words; '' if it has one."""
        return reason(self.drawn, self.metric_shown, self.beside, self.metric_beside)

    @property
    def same_axes(self) -> bool:
        """Whether a place in one picture is one in the other, so that they move together."""
        return alike(self.drawn, self.beside)

    @param.depends("entries", "shown", watch=True)
    def _offer_others(self) -> None:
        others = {"The same result": THE_SAME}
        surfaces = [entry for entry in self.entries if entry.kind == self.kind]
        others |= {entry.title: entry.number for entry in surfaces if entry.number != self.shown}
        before, self._shown = self._shown, self.shown
        kept = before if self.other == self.shown else self.other  # the two change places
        kept = kept if kept in others.values() else THE_SAME
        self.put_on_offer({"other": others}, other=kept)

    @param.depends("compare", "other", "result", watch=True)
    def _offer_other_parts(self) -> None:
        """At first the spread beside the mean of the same result, or the mean of another."""
        if not self.compare or self.result is None:
            return
        ds, chosen = self._result_beside, (self.compare, self.other)
        offered, kept = parts(ds), self.other_across
        if chosen != self._compared:
            kept = SPREAD if ds is self.result and self.across != SPREAD else MEAN
        kept = kept if kept in offered.values() else MEAN
        self.put_on_offer({"other_across": offered}, other_across=kept)

    @param.depends("compare", "other", "result", "across", "other_across", watch=True)
    def _offer_other_metrics(self) -> None:
        """At first another metric of the same picture, or the same metric of another."""
        ds, chosen = self.beside, (self.compare, self.other)
        if ds is None:
            return
        offered, kept = list(shows(ds).values()), self.other_metric
        if ds is self.drawn:
            apart = [key for key in offered if key != self.metric]
            kept = kept if kept in apart else (apart or offered)[0]
        elif chosen != self._compared or kept not in offered:
            kept = self.metric if self.metric in offered else "loss"
        self._compared = chosen
        self.put_on_offer({"other_metric": shows(ds)}, other_metric=kept)

    @param.depends("metric", watch=True)
    def _keep_comparing(self) -> None:
        """Another result goes along with a new metric if it showed the same; of one result, two metrics swap."""
        before, self._metric = self._metric, self.metric
        ds = self.beside
        if ds is self.drawn and self.other_metric == self.metric and before in shows(ds).values():
            self.other_metric = before
        elif ds is not None and ds is not self.drawn and self.other_metric == before:
            self.other_metric = self.metric if self.metric in shows(ds).values() else before

    @param.depends("other_metric", "other_across", watch=True)
    def _choose_other_scale(self) -> None:
        if self.beside is not None:
            fresh = spans_decades(self.metric_beside)
            self.other_log_scale = self._log_scales.setdefault(_quantity(self.metric_beside), fresh)

    @param.depends("other_log_scale", watch=True)
    def _remember_other_scale(self) -> None:
        if self.beside is not None:
            self._log_scales[_quantity(self.metric_beside)] = self.other_log_scale

    @param.depends("result", "across", watch=True)
    def _offer_what_was_measured(self) -> None:
        if self.result is not None:
            self._offer_metrics(shows(self.drawn))

    def _offer_metrics(self, offered: dict[str, str]) -> None:
        self.put_on_offer({"metric": offered}, metric=self.metric if self.metric in offered.values() else "loss")

    @param.depends("metric", "across", watch=True)
    def _choose_scale(self) -> None:
        """Each metric keeps its own scale; at first logarithmic if it spans decades."""
        if self.result is not None:
            fresh = spans_decades(self.metric_shown)
            quantity = _quantity(self.metric_shown)
            self.param.update(log_scale=self._log_scales.setdefault(quantity, fresh), clip=self._clips.get(quantity))

    @param.depends("log_scale", "clip", watch=True)
    def _remember_scale(self) -> None:
        if self.result is not None:
            self._log_scales[_quantity(self.metric_shown)] = self.log_scale
            self._clips[_quantity(self.metric_shown)] = self.clip

    @param.depends("fit_extent", watch=True)
    def _start_from_the_picture(self) -> None:
        """The extent to change by hand is at first the one that is shown."""
        ds = self.result
        if self.fit_extent or ds is None or dims(ds) != SLICES[self.slice].dims:
            return
        for name, axis in zip(("extent_a", "extent_b"), axes(ds), strict=False):
            self.param.update(**{name: extent(ds, axis)})


def _rounded(ends: tuple[float, float]) -> tuple[float, float]:
    """To a thousandth of their distance or less, in as few digits as that takes."""
    digits = 3 - math.floor(math.log10(ends[1] - ends[0]))
    return round(ends[0], digits), round(ends[1], digits)


def _metric(ds: Any, key: str) -> Metric:
    return metric(ds, key if key in shows(ds).values() else "loss")


def _quantity(shown: Metric) -> tuple[str, bool]:
    """What keeps a choice of scale: a metric, or its spread over seeds."""
    return shown.key, shown.over == "spread"
