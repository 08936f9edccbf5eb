"""The explorer as one object, for a notebook cell or an app file of five lines."""

from __future__ import annotations

from typing import Any

import panel as pn

from analysis import Project
from landscape_app import look
from landscape_app.pages import PAGES
from landscape_app.session import Session
from landscape_app.state import State

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


class Explorer(pn.viewable.Viewer):
    """Loss landscapes of your model, interactively.

    problem_or_project: a Problem, a dict of name to Problem, or a Project. checkpoints: what a project file may
    name as its `checkpoints`; left out, the model as given is the one checkpoint.

        from landscape_app.explorer import Explorer
        Explorer(Problem(model, "cross_entropy", (x, y)), "runs/*.pt").servable()
    """

    def __init__(self, problem_or_project: Any, checkpoints: Any = None, **params: Any):
        super().__init__(**params)
        project = problem_or_project
        if not isinstance(project, Project):
            project = Project(problem_or_project, checkpoints)
        self.state = State(project)
        self.session = Session(self.state)
        most = max(len(project.checkpoint_names(name)) for name in project.problems)
        self._view = pn.Tabs(margin=0, sizing_mode="stretch_width", stylesheets=[look.STYLE])
        self._pages = [page for page in PAGES if page.needs <= most]
        self._view.extend((page.title, look.column()) for page in self._pages)
        self._build()
        self._view.param.watch(self._turned, "active")
        self._view.jscallback(active=TO_THE_TOP)
        self.state.param.watch(self._turn, "page")

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
            self._pages.append(page)
            self._view.append((page.title, look.column()))
        self._view.active = self._pages.index(page)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._view
