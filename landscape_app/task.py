"""What one page asks for and what came of it: the part of the state that its job runs by."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_
from typing import Any

import param

from landscape_app.checkpoints.shelf import Shelf
from landscape_app.entries import Entry, numbered
from landscape_app.jobs import JobState, Snapshot

NO_WIDTH = "\u200b"


class Task(param.Parameterized):
    """Choices, a job and its result. Views read and write it; only the session changes its results, entries and job.

    inputs: names of the parameters that are choices. look: of those that say how a result is drawn. kind: of its
    results, as an Entry has it.
    """

    inputs: tuple[str, ...] = ()
    look: tuple[str, ...] = ()
    kind = ""
    needs = 1  # checkpoints of a problem, at least
    problem = param.Selector(label="Model and data")

    compute = param.Event(label="Compute")
    cancel = param.Event(label="Cancel")
    pause = param.Event(label="Pause")
    resume = param.Event(label="Resume")

    entries = param.Parameter(default=(), doc="Every result of the session, an Entry each, the oldest first.")
    shown = param.Integer(default=0, doc="Number of the entry that `result` is of, 0 for none.")
    recalled = param.Boolean(default=False, doc="Whether it was taken from the entries, not just computed.")
    trouble = param.Parameter(default=("", ""), doc="Why the chosen problem cannot be used: (reason, details).")

    result = param.Parameter(doc="The latest result, an xarray.Dataset, or None.")
    computed = param.Parameter(doc="The request that `result` answers.")
    job = param.Parameter(doc="Snapshot of the current or last job, or None before the first.")
    stale = param.Boolean(default=False, doc="Whether the choices are not those that `result` was computed for.")
    outdated = param.Parameter(
        default=frozenset(), doc="Numbers of the entries whose checkpoint file has been written again since."
    )
    foreign = param.Parameter(doc="What the choices cannot say of how `result` was made, as `lacks` has it, or None.")

    def __init__(self, project: Any, lock: Any, shelf: Shelf | None = None, **params: Any):
        self.project, self.lock = project, lock
        self.shelf = Shelf(project) if shelf is None else shelf
        self._dressed: list[tuple[Any, Any]] = []  # results, and as they are shown
        super().__init__(**params)
        self.shelf.param.watch(lambda *_: self.find(), ["labels", "pins"])

    @param.depends("problem", watch=True)
    def _offer_of_problem(self) -> None:
        self.offer()

    def _compare(self) -> None:
        """Find out whether the choices are those that the result was computed for."""
        raise NotImplementedError  # each page's own

    def offer(self) -> None:
        """Offer what the problem has; keep the choices that it has too."""
        raise NotImplementedError  # each page's own

    def put_on_offer(self, offered: Mapping[str, Mapping[str, Any]], **chosen: Any) -> None:
        """Offer choices, label to value, and choose among them.

        What was chosen before stays on offer until then, under its label: a widget whose value is gone chooses another
        one by itself, and a browser that is told of several labels one after another may say an earlier one again.
        """
        for name, options in offered.items():
            now, before = getattr(self, name), dict(self.param[name].names or {})
            moves = chosen.get(name, now) != now
            gone = {
                f"{label}{NO_WIDTH if label in options else ''}": value
                for label, value in before.items()
                if value in (now if isinstance(now, list) else [now])
                and (value not in options.values() or (moves and options.get(label) != value))
            }
            self._offer(name, {**options, **gone})
        self.param.update(**chosen)
        for name, options in offered.items():
            self._offer(name, options)

    def _offer(self, name: str, options: Mapping[str, Any]) -> None:
        if list(options.items()) != list(dict(self.param[name].names or {}).items()):  # in their order
            self.param[name].objects = options

    def find(self) -> None:
        """Offer the checkpoints that have come, and no more those that have gone."""
        names = self.project.problems
        able = [name for name in names if len(self.project.checkpoint_names(name)) >= self.needs] or list(names)
        if able != list(self.param.problem.objects):
            self.param.problem.objects = able
        if self.problem in able:
            self.offer()
            self._compare()
            self.param.trigger("trouble")  # for what is said of the choices
        else:
            self.problem = able[0]

    def shown_as(self, ds: Any) -> Any:
        """A result as it is shown, see `Shelf.dressed`: the same object until something is called otherwise."""
        if ds is None:
            return None
        key = ds, self.shelf.labels, self.shelf.colours  # each is replaced as a whole
        found = next((made for known, made in self._dressed if all(map(is_, known, key))), None)
        if found is None:
            said = ds.attrs.get("provenance")
            asked = [e.request for e in self.entries if e.result is ds or e.result.attrs["provenance"] == said]
            found = self.shelf.dressed(ds, getattr(asked[-1], "problem", None) if asked else None)
            self._dressed = [*self._dressed[-3:], (key, found)]
        return found

    @property
    def busy(self) -> bool:
        """Whether a job is queued, running, paused or being cancelled."""
        return isinstance(self.job, Snapshot) and not self.job.state.final

    @property
    def fresh(self) -> bool:
        """Whether nothing was asked for or opened yet."""
        return self.job is None and self.result is None

    @property
    def entry(self) -> Entry | None:
        """The entry that is shown."""
        return numbered(self.entries, self.shown)

    @property
    def ready(self) -> bool:
        """Whether what is chosen can be computed at all."""
        return not any(self.trouble)

    @property
    def answered(self) -> bool:
        """Whether what is shown is the finished answer to the choices."""
        job = self.entry.job if self.entry else None
        return job is not None and job.state is JobState.DONE and self.computed is not None and not self.stale

    @property
    def earlier(self) -> Entry | None:
        """An unfinished result of what the choices ask for, which Compute goes on from."""
        return None

    def lacks(self, request: Any) -> tuple[str, ...] | None:
        """Which fields of a request the choices cannot say, now that it is restored; () where there is no request."""
        return None

    def request(self) -> Any:
        """What the choices ask for now."""
        raise NotImplementedError  # each page's own

    def steps(self, request: Any, **kept: Any) -> Any:
        """The results of a request, as a job runs it. kept: of `keeper`."""
        return request.steps(self.project, **kept)

    def keeper(self) -> dict[str, Any]:
        """What its next job fills beside its results, as options of the request's `steps`."""
        return {}

    def restore(self, request: Any) -> bool:
        """Choose again what a request asked for, as far as it is on offer; returns whether all of it is."""
        raise NotImplementedError  # each page's own
