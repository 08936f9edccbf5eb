"""One session's state: what is chosen, how it is drawn and what came out. The only thing that views share."""

from __future__ import annotations

from typing import Any

import param

from landscape_app.jobs import Snapshot
from landscape_app.picture import axes, dims, extent, metric, metric_label, metrics, on_grid, spans_decades
from landscape_app.request import SLICES, Request

NO_CHECKPOINT = ""
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


INPUTS = (
    *("problem", "slice", "first", "second", "third", "seed", "fit_extent", "extent_a", "extent_b"),
    *("resolution", "tolerance", "batchnorm"),
)


class State(param.Parameterized):
    """What a session has chosen and computed. Views and jobs read it and write it; none knows another."""

    problem = param.Selector(label="Model and data")
    slice = param.Selector(default="random-plane", objects={s.label: key for key, s in SLICES.items()}, label="Slice")
    first = param.Selector(label="Checkpoint")
    second = param.Selector(label="Second")
    third = param.Selector(label="Third")
    seed = param.Integer(default=0, bounds=(0, None), label="Seed of the directions")
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
    log_scale = param.Boolean(default=True, label="Logarithmic")
    palette = param.Selector(default="viridis", objects=PALETTES, label="Colours")
    show_contours = param.Boolean(default=True, label="Contours")
    show_samples = param.Boolean(default=False, label="Evaluated points")

    point = param.Parameter(doc="The chosen point (a, b) of a plane's picture, on its grid, or None.")
    at_a = param.Number(default=None, allow_None=True, label="a")  # of the point, for widgets
    at_b = param.Number(default=None, allow_None=True, label="b")

    inputs = INPUTS

    compute = param.Event(label="Compute")
    cancel = param.Event(label="Cancel")

    result = param.Parameter(doc="The latest result, an xarray.Dataset, or None.")
    computed = param.Parameter(doc="The Request that `result` answers.")
    job = param.Parameter(doc="Snapshot of the current or last job, or None before the first.")
    stale = param.Boolean(default=False, doc="Whether the choices have changed since `result` was computed.")

    def __init__(self, project: Any, **params: Any):
        self.project = project
        self._log_scales = {"loss": True}
        names = list(project.problems)
        super().__init__(**params)
        self.param.problem.objects = names
        self.problem = names[0]

    @property
    def busy(self) -> bool:
        """Whether a job is queued, running or being cancelled."""
        return isinstance(self.job, Snapshot) and not self.job.state.final

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
        return Request(
            problem=self.problem,
            slice=self.slice,
            checkpoints=checkpoints,
            seed=self.seed if kind.seeded(len(checkpoints)) else 0,
            extent=None if self.fit_extent else (self.extent_a, self.extent_b)[: kind.dims],
            resolution=self.resolution,
            tolerance=self.tolerance,
            batchnorm=self.batchnorm,
        )

    @param.depends("problem", watch=True)
    def _offer(self) -> None:
        """Offer what the problem has; keep the choices that it has too."""
        problem = self.project.problems[self.problem]
        names = list(self.project.checkpoint_names(self.problem))
        named = {name: name for name in names}
        options = {
            "first": named,
            "second": named,
            "third": {"None: a random direction": NO_CHECKPOINT, **named},
            "slice": {s.label: key for key, s in SLICES.items() if s.needs <= len(names)},
            "batchnorm": {BATCHNORM.get(policy, policy): policy for policy in problem.batchnorm_choices},
        }
        fresh = {
            "first": names[0],
            "second": names[min(1, len(names) - 1)],
            "third": NO_CHECKPOINT,
            "slice": "random-plane",
            "batchnorm": problem.batchnorm,
        }
        # widgets set a value of their own when the options change: what is kept is decided before
        kept = {k: getattr(self, k) if getattr(self, k) in options[k].values() else fresh[k] for k in options}
        for name, offered in options.items():
            self.param[name].objects = offered
        self.param.update(**kept)
        if self.result is None:
            loss = problem.measures[0]
            self._offer_metrics({metric_label(loss.name, loss.long_name): loss.name})

    @param.depends(*INPUTS, "computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() != self.computed

    def choose(self, a: float, b: float) -> None:
        """Choose the point of the plane that is nearest to (a, b); one beyond the picture changes nothing."""
        if self.result is not None and dims(self.result) == 2:
            self.point = on_grid(self.result, (a, b)) or self.point

    @param.depends("result", watch=True)
    def _keep_the_point(self) -> None:
        ds, point = self.result, self.point
        if point is not None:
            self.point = on_grid(ds, point) if ds is not None and dims(ds) == 2 else None

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

    @param.depends("result", watch=True)
    def _offer_what_was_measured(self) -> None:
        if self.result is not None:
            self._offer_metrics(metrics(self.result))

    def _offer_metrics(self, offered: dict[str, str]) -> None:
        kept = self.metric if self.metric in offered.values() else "loss"
        if offered != dict(self.param.metric.names or {}):
            self.param.metric.objects = offered
        self.metric = kept

    @param.depends("metric", watch=True)
    def _choose_scale(self) -> None:
        """Each metric keeps its own scale; at first logarithmic if it spans decades."""
        if self.result is not None:
            fresh = spans_decades(metric(self.result, self.metric))
            self.log_scale = self._log_scales.setdefault(self.metric, fresh)

    @param.depends("log_scale", watch=True)
    def _remember_scale(self) -> None:
        self._log_scales[self.metric] = self.log_scale

    @param.depends("fit_extent", watch=True)
    def _start_from_the_picture(self) -> None:
        """The extent to change by hand is at first the one that is shown."""
        ds = self.result
        if self.fit_extent or ds is None or dims(ds) != SLICES[self.slice].dims:
            return
        for name, axis in zip(("extent_a", "extent_b"), axes(ds), strict=False):
            self.param.update(**{name: extent(ds, axis)})
