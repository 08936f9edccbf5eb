"""What a session has chosen and computed on the Connectivity page."""

from __future__ import annotations

from typing import Any

import param

from landscape_app.checkpoints.shelf import Shelf
from landscape_app.connectivity import picture
from landscape_app.connectivity.of_pair import CURVE, MATCHED, CurveRequest
from landscape_app.connectivity.request import NONE, ConnectivityRequest, Matched
from landscape_app.connectivity.tasks import CurveTask, LayersTask, PlaneTask
from landscape_app.task import Task
from landscape_app.text import explain

AT_FIRST = 4  # checkpoints that are chosen, at most
MATCHING_CHOICES = {"None": "none", "By weights": "weights", "By activations": "activations"}
CONVENTIONS = {
    "Highest over the chord": "sup",
    "Highest over the mean of the ends": "maxmean",
    "Half-way, over the mean of the ends": "mid",
    "Mean of the ends less the farthest": "mc",
}
THIRDS = {"Matched B": MATCHED, "The bend of the curve": CURVE}
UPDATES = {f"{count:,}": count for count in (100, 300, 1000, 3000, 10_000)}
BARS = {"Each layer alone": False, "Layers together": True}
BATCHNORM = {
    "recalibrated": "Recalibrated at each point",
    "frozen": "Frozen at the first checkpoint's",
    "batch": "Of each batch",
}


class Connectivity(Task):
    """The task of the Connectivity page: which checkpoints, how they are matched, and which pair is looked at."""

    inputs = ("problem", "checkpoints", "matching", "repair", "convention", "batchnorm")
    look = ("metric", "first", "second", "t", "third", "updates", "together")
    kind = "connectivity"
    needs = 2

    checkpoints = param.ListSelector(default=[], objects=[], label="Checkpoints")
    matching = param.Selector(default="activations", objects=MATCHING_CHOICES, label="Matching")
    repair = param.Boolean(default=False, label="Repair activations (REPAIR)")
    convention = param.Selector(default="sup", objects=CONVENTIONS, label="What is called a barrier")
    batchnorm = param.Selector(label="BatchNorm statistics")

    metric = param.Selector(default="loss", objects={"Loss": "loss"}, label="Show")
    first = param.Selector(default=0, objects={"A": 0, "B": 1}, label="From A")
    second = param.Selector(default=1, objects={"A": 0, "B": 1}, label="To B")

    t = param.Number(default=0.5, bounds=(0.0, 1.0), step=0.01, label="t, the place on the paths")
    third = param.Selector(default=MATCHED, objects=THIRDS, label="Plane through A, B and")
    updates = param.Selector(default=CurveRequest.updates, objects=UPDATES, label="Steps of training")
    together = param.Selector(default=False, objects=BARS, label="Layers")

    def __init__(self, project: Any, lock: Any, shelf: Shelf | None = None, **params: Any):
        self._pair = (0, 1)  # first and second, before they change
        self._named: list[str] = []  # the checkpoints that they are on offer of
        super().__init__(project, lock, shelf, **params)
        self.plane, self.curve, self.layers = PlaneTask(self), CurveTask(self), LayersTask(self)
        several = [name for name in project.problems if len(project.checkpoint_names(name)) > 1]
        self.param.problem.objects = several or list(project.problems)
        self.problem = self.param.problem.objects[0]

    def request(self) -> ConnectivityRequest:
        return ConnectivityRequest(
            problem=self.problem,
            checkpoints=tuple(n for n in self.project.checkpoint_names(self.problem) if n in self.checkpoints),
            matching=self.matching,
            convention=self.convention,
            batchnorm=self.batchnorm,
            repair=self.repair and self.matching != NONE,
        )

    def keeper(self) -> dict[str, Any]:
        return {"matched": Matched()}

    @property
    def matched(self) -> Matched | None:
        """What the shown result's job has brought to common units; None where this session has not."""
        kept = self.entry.kept.get("matched") if self.entry else None
        return kept if kept is not None and kept.permutations else None

    def restore(self, request: ConnectivityRequest) -> bool:
        if request.problem not in self.param.problem.objects:
            return False
        self.problem = request.problem
        own = {"matching": request.matching, "convention": request.convention, "batchnorm": request.batchnorm}
        offered: dict[str, Any] = {k: value for k, value in own.items() if value in list(self.param[k].objects)}
        offered["checkpoints"] = [n for n in request.checkpoints if n in list(self.param.checkpoints.objects)]
        self.param.update(**offered, repair=request.repair)
        return self.request() == request

    @property
    def ends(self) -> tuple[str, str] | None:
        """The names of the pair that is looked at; None where it is not known what made its paths."""
        if self.result is None or self.entry is None or self.entry.request is None:
            return None
        if self.entry.request.problem not in self.project.problems:
            return None
        found = picture.names(self.result)
        return (found[self.first], found[self.second]) if max(self.first, self.second) < len(found) else None

    def look_at(self, problem: str, first: str, second: str) -> None:
        """Look at a pair by its names, if the paths that are shown have it."""
        if self.ends is not None and self.entry.request.problem == problem:
            found = picture.names(self.result)
            if {first, second} <= set(found):
                self.choose(found.index(first), found.index(second))

    def choose(self, a: int, b: int) -> None:
        """Look at the path from one checkpoint of the result to another."""
        if self.result is not None and a != b and {a, b} <= set(range(self.result.sizes["checkpoint"])):
            self.param.update(first=a, second=b)

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
        names = list(self.project.checkpoint_names(self.problem))
        chosen = [name for name in self.checkpoints if name in names]
        self.put_on_offer(
            {
                "batchnorm": {BATCHNORM.get(p, p): p for p in policies},
                "checkpoints": self.shelf.offered(self.problem, names),
            },
            batchnorm=kept,
            checkpoints=chosen if len(chosen) > 1 else names[-AT_FIRST:],
        )
        self._offer_pairs_and_metrics()

    @param.depends(*inputs, "computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() != self.computed

    @param.depends("result", watch=True)
    def _offer_pairs_and_metrics(self) -> None:
        if self.result is None:
            return
        names = picture.names(self.result)
        named = {name: i for i, name in enumerate(picture.names(self.shown_as(self.result)))}
        kept = {"first": self.first, "second": self.second} if names == self._named else {"first": 0, "second": 1}
        self._named = names
        if named != dict(self.param.first.names):
            self.put_on_offer({"first": named, "second": named}, **kept)
        offered = picture.metrics(self.result)
        self.put_on_offer({"metric": offered}, metric=self.metric if self.metric in offered.values() else "loss")

    @param.depends("first", "second", watch=True)
    def _keep_apart(self) -> None:
        """The same checkpoint at both ends: the other takes the place that this one left."""
        now, before = (self.first, self.second), self._pair
        if now[0] == now[1]:
            now = (now[0], before[0]) if now[1] == before[1] else (before[1], now[1])
        self._pair = now
        if now != (self.first, self.second):
            self.param.update(first=now[0], second=now[1])
