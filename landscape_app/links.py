"""The address of the dashboard says what is chosen on the page that is looked at, and chooses it again when opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode

import panel as pn
import param

from landscape_app.state import State
from landscape_app.task import Task

PAGE, DRAWN = "page", "drawn"
YES = {"yes": True, "no": False}
REPLACE = "history.replaceState(null, '', location.pathname + (cb_obj.value ? '?' + cb_obj.value : ''))"


class Address:
    """Keeps the browser's address to what is chosen, without a step in its history.

    view: goes into the page, where it is not seen. troubles: what the first query asked for and did not get, in words.
    """

    def __init__(self, state: State, query: str):
        self.state, self._fresh = state, State(state.project)
        self.view = pn.widgets.TextInput(visible=False)
        self.view.jscallback(value=REPLACE)
        self.troubles = follow(state, query)
        state.param.watch(self._say, PAGE)
        for task in state.tasks.values():
            task.param.watch(self._say, [*task.inputs, *task.look, "computed", "job"])
        self._say()

    def _say(self, *_: object) -> None:
        with self.state.lock:
            self.view.value = written(self.state, self._fresh)


def written(state: State, fresh: State) -> str:
    """The query that leads to the page that is looked at.

    It says what a session in which nobody chose anything, `fresh`, has otherwise, and whether that is drawn.
    """
    task, other = state.tasks[state.page], fresh.tasks[state.page]
    other.problem = task.problem
    said: list[tuple[str, str]] = [] if state.page == State.page else [(PAGE, state.page)]
    exact = True
    for name in _used(task):
        value = getattr(task, name)
        if name != "problem" and value == getattr(other, name):
            continue
        texts = list(_texts(value))
        exact &= bool(texts) or value == []
        said += [(name, each) for each in texts]
    if len(said) == 1 and said[0] == ("problem", next(iter(state.project.problems))):
        said = []
    if exact and task.answered:
        said.append((DRAWN, "yes"))
    return urlencode(said)


def follow(state: State, query: str) -> list[str]:
    """Choose what a query says, each choice by itself; returns in words what is not on offer.

    How a picture is drawn is chosen when it is there. With ``drawn=yes`` it is computed at once, if all else that
    is asked for is on offer.
    """
    asked = parse_qs(query.removeprefix("?"), keep_blank_values=True)
    troubles = []
    page = asked.pop(PAGE, [State.page])[-1]
    if page in state.tasks:
        state.page = page
    else:
        troubles.append(f"There is no page “{page}”: the pages are {', '.join(state.tasks)}.")
    task, drawn = state.tasks[state.page], asked.pop(DRAWN, ["no"])[-1]
    for name in task.inputs:
        if name in asked:
            troubles += _choose(task, name, asked.pop(name))
    look = {name: asked.pop(name) for name in task.look if name in asked}
    troubles += [f"The address has “{name}”, which the page {state.page} does not know." for name in asked]
    if look:
        _later(task, look)
    if drawn == "yes" and not troubles and not any(task.trouble):
        pn.state.execute(lambda: setattr(task, "compute", True), schedule=True)
    return troubles


def _later(task: Task, look: dict[str, list[str]]) -> None:
    """Choose how a result is drawn once there is one: what is on offer depends on it."""

    def choose(event: Any) -> None:
        if event.new is not None:
            task.param.unwatch(watcher)
            for name, texts in look.items():
                _choose(task, name, texts)

    watcher = task.param.watch(choose, "result", precedence=1)


def _used(task: Task) -> Iterator[str]:
    for name in (*task.inputs, *task.look):
        if not (name.startswith("extent_") and task.fit_extent):
            yield name


def _texts(value: Any) -> Iterator[str]:
    """A value as the texts of a query, none where it cannot be said."""
    if isinstance(value, bool):
        yield "yes" if value else "no"
    elif isinstance(value, (str, int)):
        yield str(value)
    elif isinstance(value, float):
        yield f"{value:.6g}"
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, tuple):
        parts = [text for each in value for text in _texts(each)]
        if len(parts) == len(value):
            yield ",".join(parts)


def _choose(task: Task, name: str, texts: list[str]) -> list[str]:
    parameter = task.param[name]
    try:
        setattr(task, name, _value(parameter, texts))
    except (ValueError, StopIteration):
        reason = f"“{', '.join(texts)}” is not on offer for “{parameter.label}”"
        if isinstance(parameter, param.Selector) and 0 < len(parameter.objects) < 8:
            offered = [text for value in parameter.objects for text in _texts(value)]
            reason += f", which has {', '.join(offered)}"
        return [f"{reason}."]
    return []


def _value(parameter: param.Parameter, texts: list[str]) -> Any:
    """What a query's texts mean for a parameter. Raises ValueError or StopIteration where they mean nothing."""
    if isinstance(parameter, param.Selector):
        meant = [next(v for v in parameter.objects if text in _texts(v)) for text in texts]
        return meant if isinstance(parameter, param.ListSelector) else meant[-1]
    text = texts[-1]
    if isinstance(parameter, param.Boolean):
        if text not in YES:
            raise ValueError(text)
        return YES[text]
    if isinstance(parameter, param.Integer):
        return int(text)
    if isinstance(parameter, param.Range):
        low, high = map(float, text.split(","))
        return low, high
    if isinstance(parameter, param.Number):
        return float(text)
    return text
