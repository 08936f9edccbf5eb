"""Runs what a session asks for: takes requests from the state, gives them to the runner, brings results back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

import panel as pn
import xarray as xr

from analysis import ResultError, radius_band, softmax_radius
from landscape_app import archive, links, saved
from landscape_app.cache import Cache, stamps_of
from landscape_app.checkpoints.state import Checkpoints
from landscape_app.connectivity.tasks import PairTask
from landscape_app.entries import FROM_PYTHON, Computation, Entry, answering, checkpoints_of, numbered
from landscape_app.jobs import Job, JobState, Runner, Snapshot, Steps
from landscape_app.request import Request, going_on
from landscape_app.state import Radii, State
from landscape_app.task import Task
from landscape_app.text import explain

POLL_MS = 200
FIRST_POLL_MS = 50  # until there is a result
WATCH_MS = 2000
MOST_JOBS = 200  # that are listed
RUNNER = Runner(workers=2)
CACHE = Cache()


class Session:
    """Between one state and a runner. Only this object changes results, entries and jobs of the state.

    A worker never touches the state: the session asks for the job's snapshot, in its own thread. cache: where finished
    results are looked for and kept; None is the server's for a page that is served, and nowhere else.
    """

    def __init__(self, state: State, runner: Runner = RUNNER, cache: Cache | None = None):
        self.state, self.runner = state, runner
        self.page = Page()
        state.workers = runner.workers
        self.cache = cache or (CACHE if self.page.served else Cache(most=0))
        self._made = self._begun = 0  # entries, computations
        kinds = {PairTask: PairRun, Checkpoints: MeasureRun}
        self.runs = {
            kind: next((run for own, run in kinds.items() if isinstance(task, own)), Run)(self, task)
            for kind, task in state.tasks.items()
        }
        self.surface, self.spectrum, self.trajectory, self.connectivity, *_ = self.runs.values()
        for asked, does in (("show", self._show), ("remove", self._remove), ("upload", self._open)):
            state.param.watch(partial(self.do, does), asked)
        self.radius = Radius(self)
        self._names = self._checkpoints()
        self._watch: Any = None
        if state.project.watched:
            self._begin_to_watch()
        pn.state.on_session_destroyed(self._leave)

    def poll(self) -> None:
        """Bring the state up to date with the jobs."""
        for run in (*self.runs.values(), self.radius):
            run.poll()

    def watch(self) -> None:
        """Offer checkpoints that have come to the folders of the project, and no more those that have gone.

        Mark the results whose checkpoints have been written again.
        """
        project = self.state.project
        if project.watched:
            project.refresh()
        names = self._checkpoints()
        outdated = frozenset(entry.number for entry in self.state.entries if _outdated(entry, project))
        with self.state.lock, self.page.drawn_on():
            if self.page.left:
                return
            if outdated != self.state.outdated:
                for task in self.state.tasks.values():
                    task.outdated = outdated
            if names != self._names:
                for task in self.state.tasks.values():
                    task.find()
                self.state.found = self._names = names

    def _begin_to_watch(self) -> None:
        if self._watch is None:
            self._watch = pn.state.add_periodic_callback(self.watch, WATCH_MS)

    def _checkpoints(self) -> dict[str, tuple[str, ...]]:
        project = self.state.project
        return {name: project.checkpoint_names(name) for name in project.problems}

    def do(self, does: Callable[[], None], *_: Any) -> None:
        with self.state.lock:
            does()

    def next(self) -> int:
        """The number of a new entry."""
        self._made += 1
        return self._made

    def keep(self, entry: Entry) -> None:
        """Put an entry among the others, in place of an earlier state of itself."""
        kept = [e for e in self.state.entries if e.number != entry.number]
        self._enter(tuple(sorted([*kept, entry], key=lambda e: e.number)))
        self._begin_to_watch()

    def begin(self, kind: str, request: Any, since: datetime) -> Computation:
        """List a new job."""
        self._begun += 1
        self.note(begun := Computation(self._begun, kind, request, Snapshot(JobState.QUEUED), since))
        return begun

    def note(self, job: Computation) -> None:
        """Put a job into the list, in place of an earlier state of itself."""
        others = [one for one in self.state.computations if one.number != job.number]
        noted = sorted([*others, replace(job, job=replace(job.job, result=None))], key=lambda one: one.number)
        self.state.computations = tuple(noted[-MOST_JOBS:])

    def _enter(self, entries: tuple[Entry, ...]) -> None:
        for run in self.runs.values():
            run.task.entries = entries

    def _show(self) -> None:
        entry, self.state.show = numbered(self.state.entries, self.state.show), None
        if entry is not None:
            self._bring(entry)

    def _bring(self, entry: Entry) -> None:
        self.state.refused = ("", "")
        self.runs[entry.kind].bring(entry)
        self.state.page = entry.page

    def _remove(self) -> None:
        state = self.state
        asked, state.remove = state.remove, None
        asked = asked if isinstance(asked, tuple) else (asked,)
        busy = {run.number for run in self.runs.values() if run.task.busy}
        gone = {entry.number for entry in state.entries if entry.number in asked} - busy
        if not gone:
            return
        self._enter(tuple(entry for entry in state.entries if entry.number not in gone))
        for run in self.runs.values():
            if run.task.shown in gone:
                run.forget()

    def _open(self) -> None:
        state = self.state
        if state.upload is None:
            return
        (name, content), state.upload = state.upload, None
        try:
            if archive.holds(content):
                self._restore(archive.opened(content), name)
                return
            ds = saved.opened(name, content)
            request = saved.request_of(ds)
        except Exception as error:
            state.refused = explain(error)
            return
        self._take(ds, request, name)

    def _restore(self, held: archive.Held, file: str) -> None:
        """Take the results and choices of a saved session, and say what of it could not be."""
        state, numbers, troubles = self.state, {}, list(held.troubles)
        state.shelf.restore(held.shelf)
        for was, ds, since in held.results:
            try:
                entry = Entry(self.next(), saved.snapshot(ds), saved.request_of(ds), file=file, since=since)
            except Exception as error:
                troubles.append(explain(error)[0])
                continue
            numbers[was] = entry.number
            self.keep(entry)
        for kind, number in held.shown.items():
            if number in numbers and kind in self.runs and not self.runs[kind].task.busy:
                self.runs[kind].bring(numbered(state.entries, numbers[number]))
        for kind, asked in held.choices.items():
            if kind in state.tasks:
                troubles += links.choose(state.tasks[kind], asked, "The session chooses “{}”, which is not known here.")
        if held.page in state.param.page.objects:
            state.page = held.page
        count = f"{len(numbers)} result{'' if len(numbers) == 1 else 's'} of '{file}'"
        state.refused = (f"{count} opened, but not all of it:", "\n".join(troubles)) if troubles else ("", "")

    def add(self, ds: Any) -> None:
        """Put a result that was computed elsewhere among the others and show it. Raises ResultError."""
        if not isinstance(ds, xr.Dataset):
            raise ResultError(f"This is a {type(ds).__name__}; expected a result of this package, an xarray.Dataset.")
        saved.check(ds, ds.attrs.get("title", "what was added"))
        with self.state.lock:
            self._take(ds, saved.request_of(ds), FROM_PYTHON)

    def _take(self, ds: Any, request: Any, file: str) -> None:
        entry = Entry(self.next(), saved.snapshot(ds), request, file=file)
        self.state.refused = ("", "")
        self.keep(entry)
        self._bring(entry)

    def _leave(self, _: Any) -> None:
        """The page is gone; a poll that is under way in another thread ends before its plots go too."""
        with self.state.lock:
            self.page.left = True
        if self._watch is not None:
            self._watch.stop()
        for run in (*self.runs.values(), self.radius):
            run.leave()


def _outdated(entry: Entry, project: Any) -> bool:
    """Whether a checkpoint that an entry was computed from has been written again since."""
    request = entry.request
    if request is None or request.problem not in project.problems:
        return False
    used = set(checkpoints_of(request)) & set(project.checkpoint_names(request.problem))
    return any(project.modified(request.problem, name) > entry.since.timestamp() for name in used)


class Page:
    """The page of a session, as far as another thread must know whether it is still there."""

    def __init__(self) -> None:
        self.left = False
        self._document = pn.state.curdoc
        self.served = self._document is not None and self._document.session_context is not None

    @contextmanager
    def drawn_on(self) -> Iterator[None]:
        """What fails because the server takes the page's models apart meanwhile, fails quietly."""
        try:
            yield
        except Exception:  # of any kind: whatever of Bokeh was in use when it was taken apart
            context = self._document.session_context if self.served else None  # none once all is taken apart
            if not (self.left or (self.served and (context is None or context.destroyed))):
                raise


class Run:
    """The job of one task, and its entry."""

    def __init__(self, session: Session, task: Task):
        self.session, self.task, self.lock = session, task, session.state.lock
        self.job: Job | None = None
        self.number = 0  # of the job's entry
        self._request: Any = None
        self._kept: Any = None  # what the job keeps beside its results
        self._since = datetime.now()
        self._stamps: Any = None  # of the checkpoints when the job began
        self._listed: Computation | None = None
        self._seen = 0
        self._followed = False  # whether the job's results are shown as they come
        self._timer: Any = None
        for asked, does in (
            ("compute", self._start),
            ("cancel", partial(self._tell, Job.cancel)),
            ("pause", partial(self._tell, Job.pause)),
            ("resume", partial(self._tell, Job.resume)),
        ):
            task.param.watch(partial(session.do, does), asked)

    def poll(self) -> None:
        with self.lock, self.session.page.drawn_on():
            if self.job is not None and not self.session.page.left:
                self._bring_news()
                if self._timer is not None and self.job.snapshot().version:
                    self._timer.period = POLL_MS

    def bring(self, entry: Entry) -> None:
        """Show an entry, and restore the choices that made it."""
        task = self.task
        self._followed = task.busy and entry.number == self.number
        news = {} if task.busy else {"job": entry.job}
        restored = entry.request is not None and task.restore(entry.request)
        news |= {"result": entry.result, "computed": entry.request if restored else None}
        news |= {"foreign": None if restored else task.lacks(entry.request)}
        task.param.update(**news, shown=entry.number, recalled=not self._followed)

    def forget(self) -> None:
        """Show the latest of the other results, or none."""
        task = self.task
        others = [entry for entry in task.entries if entry.kind == task.kind]
        if others:
            self.bring(others[-1])
        else:
            task.param.update(result=None, computed=None, foreign=None, shown=0, **({} if task.busy else {"job": None}))

    def leave(self) -> None:
        self._stop_polling()
        if self.job is not None:
            self.job.cancel()

    def _bring_news(self) -> None:
        task, now = self.task, self.job.snapshot()
        news: dict[str, Any] = {"job": now}
        if now.result is not None and (now.version != self._seen or now.state.final):
            self._seen = now.version
            entry = Entry(self.number, now, self._request, since=self._since, kept=self._kept)
            self.session.keep(entry)
            self.session.cache.keep(self.session.state.project, entry, self._stamps)
            if self._followed:
                news |= {"result": now.result, "computed": self._request, "foreign": None}
                news |= {"shown": self.number, "recalled": False}
        self._list(now)
        if now.state.final:
            self._stop_polling()
            if not self._followed and now.state is not JobState.FAILED and task.entry:
                news["job"] = task.entry.job  # what is said is about what is shown
        task.param.update(**news)

    def _start(self) -> None:
        """Show what was computed before; go on with what was stopped; compute what was not, or is shown already."""
        task = self.task
        if task.busy:
            return
        request, project = task.request(), self.session.state.project
        known = answering(task.entries, request)
        if known and not task.answered and not _outdated(known, project):
            self.bring(known)
            return
        self.session.state.refused = ("", "")
        if not task.answered and (found := self.session.cache.find(project, request)):
            self._take(found)
            return
        earlier = task.earlier
        self.number = earlier.number if earlier and not earlier.file else self.session.next()
        self._request, self._since, self._seen, self._followed = request, datetime.now(), 0, True
        self._kept = kept = task.keeper()
        self._stamps = stamps_of(project, request)
        self._listed = self.session.begin(task.kind, request, self._since)
        anew = lambda: task.steps(request, **kept)  # noqa: E731
        self._begin(partial(going_on, request, project, earlier.result) if earlier else anew)

    def _begin(self, steps: Steps) -> None:
        self.job = self.session.runner.submit(steps)
        self.poll()
        if self._timer is None and self.task.busy:
            self._timer = pn.state.add_periodic_callback(self.poll, FIRST_POLL_MS)

    def _take(self, found: Entry) -> None:
        """Show a result of the server's cache."""
        entry, session = replace(found, number=self.session.next()), self.session
        session.keep(entry)
        listed = session.begin(self.task.kind, entry.request, datetime.now())
        session.note(replace(listed, job=entry.job, entry=entry.number, cached=True))
        self.bring(entry)

    def _list(self, now: Snapshot) -> None:
        """Follow the job in the list: its state always, how far it is only while somebody looks."""
        listed, state = self._listed, self.session.state
        if listed is None or (listed.job.state is now.state and state.page != "jobs"):
            return
        kept = numbered(state.entries, self.number) is not None
        self._listed = replace(listed, job=now, entry=self.number if kept else 0)
        self.session.note(self._listed)

    def _tell(self, does: Callable[[Job], None]) -> None:
        if self.job is not None:
            does(self.job)
            self.poll()

    def _stop_polling(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None


class PairRun(Run):
    """The job of a task about a pair: what is known of the pair that is looked at is shown, and nothing else."""

    task: PairTask

    def __init__(self, session: Session, task: PairTask):
        super().__init__(session, task)
        self._about: Any = None
        task.paths.param.watch(partial(session.do, self._follow), ["result", "first", "second", "third"])
        task.paths.curve.param.watch(partial(session.do, self._follow), "computed")  # a plane may hold it

    def bring(self, entry: Entry) -> None:
        super().bring(entry)
        self._about = self.task.about

    def forget(self) -> None:
        task = self.task
        known = [entry for entry in task.entries if entry.kind == task.kind and task.fits(entry.request)]
        if known:
            self.bring(known[-1])
            return
        self._followed = task.busy and task.fits(self._request)
        job = {} if task.busy else {"job": None}
        task.param.update(result=None, computed=None, foreign=None, shown=0, **job)

    def _follow(self) -> None:
        """Another pair is looked at."""
        if self.task.about != self._about:
            self._about = self.task.about
            self.forget()


class MeasureRun(Run):
    """The job that measures checkpoints: its result stands in their table, and is no entry."""

    def _bring_news(self) -> None:
        now = self.job.snapshot()
        news = {} if now.result is None else {"result": now.result, "computed": self._request}
        self._list(now)
        if now.state.final:
            self._stop_polling()
        self.task.param.update(job=now, **news)

    def _start(self) -> None:
        task = self.task
        if task.busy:
            return
        self._request = request = task.request()
        project, kept = self.session.state.project, task.keeper()
        self._listed = self.session.begin(task.kind, request, datetime.now())
        self._begin(lambda: request.steps(project, **kept))


class Radius:
    """The softmax radius about the chosen point, computed while it is wanted; the latest wish counts."""

    def __init__(self, session: Session):
        self.session, self.state = session, session.state
        self._job: Job | None = None
        self._asked: Radii | None = None
        self._timer: Any = None
        self.state.param.watch(partial(session.do, self._start), ["show_radius", "point", "shown", "job", "across"])

    def poll(self) -> None:
        with self.state.lock, self.session.page.drawn_on():
            now = self._job.snapshot() if self._job and not self.session.page.left else None
            if now is None or not now.state.final:
                return
            self._stop()
            if now.state is JobState.DONE:
                self.state.radii = replace(self._asked, ends=now.result)
            elif now.state is JobState.FAILED:
                self.state.radii = replace(self._asked, reason=now.reason)

    def leave(self) -> None:
        self._stop()

    def _start(self) -> None:
        state, asked = self.state, self.state.radius_asked
        if asked is None or state.radius is not None or (asked == self._asked and self._job is not None):
            return
        self._stop()
        project = state.project
        self._asked, self._job = asked, self.session.runner.submit(lambda: _radii(asked.request, project, asked.point))
        self._timer = pn.state.add_periodic_callback(self.poll, POLL_MS)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        if self._job is not None:
            self._job.cancel()
        self._timer = self._job = None


def _radii(
    request: Request, project: Any, point: tuple[float, ...]
) -> Generator[dict[str, tuple[float, float]], None, None]:
    problem, space = request.opened(project)
    found = softmax_radius(problem, space, *point)
    yield {name: radius_band(found, name) for name in space.names}
