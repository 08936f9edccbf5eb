"""The explorer as one object, for a notebook cell or an app file of five lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import panel as pn
import xarray as xr

from analysis import Project
from landscape_app import look
from landscape_app.layout import LayoutOnce
from landscape_app.pages import PAGES
from landscape_app.session import Session
from landscape_app.state import State
from landscape_app.tabs import TabKeys
from landscape_app.threads import keep_order

TO_THE_TOP = """
const rise = root => {
  for (const node of root.querySelectorAll("*")) {
    if (node.scrollTop && node.clientHeight > innerHeight / 2) node.scrollTop = 0;
    if (node.shadowRoot) rise(node.shadowRoot);
  }
};
scrollTo(0, 0);
rise(document);
"""


@dataclass(frozen=True)
class Selection:
    """What is chosen on the page that is looked at.

    page: "surface", "spectrum", "trajectory", "connectivity", "checkpoints", or without choices "results" or "jobs".
    problem: its name. checkpoints: names of those that the choices are of; of a trajectory the chosen one, of
    connectivity the pair whose path is drawn, of the table of checkpoints the chosen rows. point: the chosen place
    (a, b) of a plane, in the units of its axes. eigenvalue: the chosen one. None for what is not chosen.
    """

    page: str
    problem: str
    checkpoints: tuple[str, ...] = ()
    point: tuple[float, float] | None = None
    eigenvalue: float | None = None


class Explorer(pn.viewable.Viewer):
    """Loss landscapes of your model, interactively.

    problem_or_project: a Problem, a dict of name to Problem, or a Project. checkpoints: what a project file may
    name as its `checkpoints`; left out, the model as given is the one checkpoint.

        from landscape_app.explorer import Explorer
        Explorer(Problem(model, "cross_entropy", (x, y)), "runs/*.pt").servable()

    As the last line of a notebook's cell (see `landscape_app.notebook`) it is shown there; displayed again, it moves to
    the new cell. It is driven from Python as well: `state` has the choices of the page Surface as parameters, and
    `state.spectrum`, `state.trajectory`, `state.connectivity` and `state.checkpoints` those of the others. Setting one
    shows in the browser; ``explorer.state.compute = True`` computes. `state.shelf` has labels, colours and pins.
    """

    def __init__(self, problem_or_project: Any, checkpoints: Any = None, **params: Any):
        super().__init__(**params)
        keep_order()
        project = problem_or_project
        if not isinstance(project, Project):
            project = Project(problem_or_project, checkpoints)
        self.state = State(project)
        self.session = Session(self.state)
        self._view = pn.Tabs(margin=0, sizing_mode="stretch_width", stylesheets=[look.STYLE])
        self._all = look.column(self._view, *(kind(height=0, margin=0) for kind in (TabKeys, LayoutOnce)))
        self._pages: list[Any] = []
        self._offer()
        self._build()
        self._view.param.watch(self._turned, "active")
        self._view.jscallback(active=TO_THE_TOP)
        self.state.param.watch(self._turn, "page")
        self.state.param.watch(self._offer, "found")

    @property
    def result(self) -> xr.Dataset | None:
        """The result on the page that is looked at, as far as it is computed; None before the first."""
        task = self.state.tasks.get(self.state.page)
        return task.result if task else None

    @property
    def results(self) -> list[xr.Dataset]:
        """All results of the session, the oldest first."""
        return [entry.result for entry in self.state.entries]

    @property
    def selection(self) -> Selection:
        """What is chosen on the page that is looked at."""
        state, page = self.state, self.state.page
        task = state.tasks.get(page)
        if task is None:
            return Selection(page, state.problem)
        if page == "spectrum":
            part, pair = task.chosen or (0, None)
            value = None if pair is None else float(task.parts[part].values[pair])
            return Selection(page, task.problem, (task.checkpoint,), eigenvalue=value)
        if page == "surface":
            return Selection(page, task.problem, task.request().checkpoints, task.point)
        if page == "checkpoints":
            return Selection(page, task.problem, tuple(task.selected))
        names = [] if task.result is None else [str(name) for name in task.result["name"].values]
        chosen = (task.chosen,) if page == "trajectory" else (task.first, task.second)
        return Selection(page, task.problem, tuple(names[place] for place in chosen if place is not None and names))

    def add(self, ds: xr.Dataset) -> None:
        """Put a result that was computed in Python among the Results, and show it.

        Raises ResultError for what is no result, and for one that no page can show.
        """
        self.session.add(ds)

    def _offer(self, *_: Any) -> None:
        """Have a page for all that the project has enough checkpoints for."""
        project = self.state.project
        most = max(len(project.checkpoint_names(name)) for name in project.problems)
        for page in PAGES:
            if page.needs <= most and page not in self._pages:
                self._add(page)

    def _add(self, page: Any) -> None:
        """Put a page where it belongs among the others; the one that is looked at stays."""
        place = sum(PAGES.index(other) < PAGES.index(page) for other in self._pages)
        shifts = bool(self._pages) and place <= self._view.active
        self._pages.insert(place, page)
        self._view.insert(place, (page.title, look.column()))
        if shifts:
            self._view.active += 1

    def _build(self) -> None:
        """Make the page that is looked at, if this is the first time: what nobody sees costs nothing."""
        place = self._view.active
        if not self._view[place].objects:
            self._view[place].append(self._pages[place].build(self.state))

    def _turned(self, *_: Any) -> None:
        with self.state.lock:
            self.state.page = self._pages[self._view.active].title.lower()
            self._build()

    def _turn(self, *_: Any) -> None:
        page = next(page for page in PAGES if page.title.lower() == self.state.page)
        if page not in self._pages:  # a saved result of a page that this project has no use for
            self._add(page)
        self._view.active = self._pages.index(page)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._all
