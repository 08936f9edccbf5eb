"""What a session has chosen on the page Checkpoints, and what it has measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import param
import xarray as xr

from landscape_app.checkpoints.request import MeasureRequest
from landscape_app.checkpoints.shelf import Shelf
from landscape_app.jobs import JobState
from landscape_app.task import Task
from landscape_app.text import explain

IN_ORDER = ""


class Checkpoints(Task):
    """The task of the page Checkpoints: which rows are shown and chosen, and the job that measures all of them.

    What it measures stands in the table, one result a problem, and is no entry among the others.
    """

    inputs = ("problem", "reference", "evaluate")
    look = ("query", "sort", "descending", "selected")
    kind = "checkpoints"

    reference = param.Selector(label="Distance from")
    evaluate = param.Boolean(default=True, label="Loss and metrics")

    query = param.String(default="", label="Search")
    sort = param.String(default=IN_ORDER, label="Sorted by")
    descending = param.Boolean(default=False, label="Descending")
    selected = param.ListSelector(default=[], objects=[], label="Chosen")  # in the order in which they were chosen

    def __init__(self, project: Any, lock: Any, shelf: Shelf | None = None, **params: Any):
        self._measured: dict[str, tuple[MeasureRequest, xr.Dataset]] = {}
        super().__init__(project, lock, shelf, **params)
        self.param.problem.objects = list(project.problems)
        self.problem = self.param.problem.objects[0]

    def request(self) -> MeasureRequest:
        names = tuple(self.project.checkpoint_names(self.problem))
        return MeasureRequest(self.problem, names, self.reference, self.evaluate)

    def offer(self) -> None:
        try:
            self.project.problems[self.problem]
        except BaseException as error:  # it is made now, by code of the user's own
            self.trouble = explain(error)
        else:
            self.trouble = ("", "")
        names = list(self.project.checkpoint_names(self.problem))
        named = self.shelf.offered(self.problem, names)
        self.put_on_offer(
            {"reference": named, "selected": named},
            reference=self.reference if self.reference in names else names[0],
            selected=[name for name in self.selected if name in names],
        )

    def take(self, problem: str, names: Sequence[str]) -> None:
        """Choose what another page has chosen; of a page that has chosen none, the problem."""
        if problem in self.param.problem.objects:
            self.problem = problem
            self.selected = [name for name in names if name in self.param.selected.objects] or self.selected

    @param.depends("result", watch=True)
    def _keep(self) -> None:
        if self.result is not None and self.computed is not None:
            self._measured[self.computed.problem] = self.computed, self.result

    @param.depends(*inputs, "computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() != self.computed

    @property
    def measured(self) -> xr.Dataset | None:
        """What was measured of the chosen problem's checkpoints, as far as it is."""
        return self._measured[self.problem][1] if self.problem in self._measured else None

    @property
    def measured_from(self) -> str:
        """The checkpoint that the measured distances are counted from."""
        return self._measured[self.problem][0].reference if self.problem in self._measured else ""

    @property
    def answered(self) -> bool:
        done = self.job is not None and self.job.state is JobState.DONE
        return done and self.computed is not None and not self.stale

    def keeper(self) -> dict[str, Any]:
        """What need not be measured once more."""
        asked, ds = self._measured.get(self.problem, (None, None))
        same = asked is not None and asked.reference == self.reference and (asked.evaluate or not self.evaluate)
        return {"earlier": ds if same and not self.answered else None}

    def restore(self, request: MeasureRequest) -> bool:
        if request.problem not in self.param.problem.objects:
            return False
        self.problem, self.evaluate = request.problem, request.evaluate
        if request.reference in self.param.reference.objects:
            self.reference = request.reference
        return self.request() == request
