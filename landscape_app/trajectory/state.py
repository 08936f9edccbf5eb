"""What a session has chosen and computed on the Trajectory page."""

from __future__ import annotations

from typing import Any

import numpy as np
import param
import xarray as xr

from analysis.curvature import with_learning_rate
from landscape_app.checkpoints.shelf import Shelf
from landscape_app.spectrum.state import BATCHNORM
from landscape_app.task import Task
from landscape_app.text import explain
from landscape_app.trajectory import picture
from landscape_app.trajectory.request import TrajectoryRequest

NONE = -1
MATRIX_CHOICES = {"Hessian": "hessian", "Gauss-Newton": "ggn", "Empirical Fisher": "fisher"}
TRACES = {"Leave it out": 0, "20 products": 20, "60 products": 60, "200 products": 200}


class Trajectory(Task):
    """The task of the Trajectory page: which matrix to follow, how it is drawn, which checkpoint is chosen."""

    inputs = ("problem", "checkpoints", "matrix", "largest", "smallest", "trace_products", "seed", "batchnorm")
    look = ("log_scale", "log_steps", "learning_rate")
    kind = "trajectory"
    needs = 2

    checkpoints = param.ListSelector(default=[], objects=[], label="Checkpoints (none: all)")
    matrix = param.Selector(default="hessian", objects=MATRIX_CHOICES, label="Matrix")
    largest = param.Integer(default=3, bounds=(1, 10), label="Largest eigenvalues")
    smallest = param.Integer(default=1, bounds=(0, 10), label="Smallest eigenvalues")
    trace_products = param.Selector(default=20, objects=TRACES, label="Trace")
    seed = param.Integer(default=0, bounds=(0, None), label="Seed of the random vectors")
    batchnorm = param.Selector(label="BatchNorm statistics")

    log_scale = param.Boolean(default=True, label="Logarithmic")
    log_steps = param.Boolean(default=False, label="Logarithmic steps")
    learning_rate = param.String(default="", label="Learning rate η")

    chosen = param.Integer(default=None, allow_None=True, doc="Place of the chosen checkpoint in the run, or None.")
    pick = param.Selector(default=NONE, objects={"None": NONE}, label="Checkpoint")  # the same, for its widget

    def __init__(self, project: Any, lock: Any, shelf: Shelf | None = None, **params: Any):
        self._spaced: Any = None  # the steps whose spacing chose the scale
        super().__init__(project, lock, shelf, **params)
        several = [name for name in project.problems if len(project.checkpoint_names(name)) > 1]
        self.param.problem.objects = several or list(project.problems)
        self.problem = self.param.problem.objects[0]

    def request(self) -> TrajectoryRequest:
        names = tuple(self.project.checkpoint_names(self.problem))
        return TrajectoryRequest(
            problem=self.problem,
            checkpoints=tuple(name for name in names if name in self.checkpoints) or names,
            matrix=self.matrix,
            largest=self.largest,
            smallest=self.smallest if self.matrix == "hessian" else 0,
            trace_products=self.trace_products,
            seed=self.seed,
            batchnorm=self.batchnorm,
        )

    def restore(self, request: TrajectoryRequest) -> bool:
        if request.problem not in self.param.problem.objects:
            return False
        self.problem = request.problem
        own = {"matrix": request.matrix, "trace_products": request.trace_products, "batchnorm": request.batchnorm}
        offered = {name: value for name, value in own.items() if value in list(self.param[name].objects)}
        names = self.project.checkpoint_names(request.problem)
        some = request.checkpoints if request.checkpoints != tuple(names) else ()
        offered["checkpoints"] = [name for name in names if name in some]
        for name in ("largest", "smallest", "seed"):
            value, (low, high) = getattr(request, name), self.param[name].bounds
            if isinstance(value, int) and value >= low and (high is None or value <= high):
                offered[name] = value
        self.param.update(**offered)
        return self.request() == request

    @property
    def drawn(self) -> xr.Dataset | None:
        """The result with the learning rate that is typed in, if one is."""
        if self.result is None or self.rate is None:
            return self.result
        return with_learning_rate(self.result, self.rate)

    @property
    def rate(self) -> float | None:
        """The learning rate that is typed in; None for those of the files, and for what is no positive number."""
        try:
            rate = float(self.learning_rate)
        except ValueError:
            return None
        return rate if 0 < rate < np.inf else None

    def offer(self) -> None:
        try:
            problem = self.project.problems[self.problem]
        except BaseException as error:  # it is made now, by code of the user's own
            problem, self.trouble = None, explain(error)
        else:
            self.trouble = ("", "")
        policies = problem.batchnorm_choices if problem else (self.batchnorm,)
        kept = self.batchnorm if self.batchnorm in policies else policies[0]
        if problem and self.batchnorm not in policies:
            kept = problem.batchnorm
        names = self.project.checkpoint_names(self.problem)
        self.put_on_offer(
            {
                "batchnorm": {BATCHNORM.get(p, p): p for p in policies},
                "checkpoints": self.shelf.offered(self.problem, names),
            },
            batchnorm=kept,
            checkpoints=[name for name in self.checkpoints if name in names],
        )
        self._offer_checkpoints()

    @param.depends(*inputs, "computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() != self.computed

    @param.depends("result", watch=True)
    def _offer_checkpoints(self) -> None:
        ds = self.result
        known = picture.known(ds) if ds is not None else []
        named = {str(self.shown_as(ds)["name"].values[i]): i for i in known} if ds is not None else {}
        kept = self.chosen if self.chosen in named.values() else None
        pick = NONE if kept is None else kept
        self.put_on_offer({"pick": {"None": NONE, **named}}, chosen=kept, pick=pick)
        if ds is not None and not np.array_equal(ds["step"].values, self._spaced, equal_nan=True):
            self._spaced = ds["step"].values
            self.log_steps = picture.widening(ds)

    @param.depends("chosen", watch=True)
    def _say_which(self) -> None:
        pick = NONE if self.chosen is None else self.chosen
        if pick != self.pick and pick in list(self.param.pick.objects):
            self.pick = pick

    @param.depends("pick", watch=True)
    def _choose(self) -> None:
        chosen = None if self.pick == NONE else self.pick
        if self.chosen != chosen:
            self.chosen = chosen
