"""The address of the dashboard says what is chosen on the page that is looked at, and chooses it again when opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode

import panel as pn
import param

from landscape_app.state import COMPARING, THE_SAME, State
from landscape_app.task import Task

PAGE, DRAWN = "page", "drawn"
YES = {"yes": True, "no": False}
LOOKS = ("metric", "across", "log_scale", "clip", "log_steps", "at_a", "at_b", "first", "second")
OF_RESULTS = (*LOOKS, *COMPARING)
AUTOMATIC = ("log_scale", "log_steps", *COMPARING[1:-1])  # chosen by each result, until somebody chooses
REPLACE = "history.replaceState(null, '', location.pathname + (cb_obj.value ? '?' + cb_obj.value : ''))"

Tell = Callable[[str], Any]


class Address:
    """Keeps the browser's address to what is chosen, without a step in its history.

    view: goes into the page, where it is not seen. tell: is called with what the first query asked for and did not
    get, in words.
    """

    def __init__(self, state: State, query: str, tell: Tell):
        self.state = state
        self._untouched = written(state)
        self.view = pn.widgets.TextInput(visible=False)
        self.view.jscallback(value=REPLACE)
        follow(state, query, tell)
        state.param.watch(self._say, PAGE)
        for task in state.tasks.values():
            task.param.watch(self._say, [*task.inputs, *task.look, "computed", "job"])
        self._say()

    def _say(self, *_: object) -> None:
        with self.state.lock:
            said = written(self.state)
            self.view.value = "" if said == self._untouched else said


def written(state: State) -> str:
    """The query that leads to the page that is looked at: its choices, and whether their result is drawn.

    What has the value that it has whatever else is chosen, unless somebody chooses, is left out.
    """
    task = state.tasks.get(state.page)
    if task is None:
        return urlencode([(PAGE, state.page)])
    page = [] if state.page == type(state).page else [(PAGE, state.page)]
    said, exact = chosen(task)
    return urlencode([*page, *said, (DRAWN, "yes")] if exact and task.answered else [*page, *said])


def chosen(task: Task) -> tuple[list[tuple[str, str]], bool]:
    """The choices of a task as (name, text), and whether these say all of them."""
    said, exact = [], True
    for name in _used(task):
        value = getattr(task, name)
        automatic = name in AUTOMATIC and task.result is not None
        if value == type(task).param[name].default and not automatic:
            continue
        texts = list(_texts(value))
        exact &= bool(texts)
        said += [(name, each) for each in texts]
    return said, exact


def follow(state: State, query: str, tell: Tell) -> None:
    """Choose what a query says, each choice by itself, and tell in words what is not on offer.

    What depends on a result is chosen when it is there. With ``drawn=yes`` it is computed at once, if all else that
    is asked for is on offer.
    """
    asked = parse_qs(query.removeprefix("?"), keep_blank_values=True)
    page = asked.pop(PAGE, [state.page])[-1]
    if page not in state.param.page.objects:
        tell(f"There is no page “{page}”: the pages are {', '.join(state.param.page.objects)}.")
        return
    state.page = page
    task, drawn = state.tasks.get(page), asked.pop(DRAWN, ["no"])[-1]
    if task is None:
        for name in asked:
            tell(f"The address has “{name}”, which the page {page} does not know.")
        return
    later = {name: asked.pop(name) for name in task.look if name in asked and name in OF_RESULTS}
    troubles = choose(task, asked, f"The address has “{{}}”, which the page {page} does not know.")
    for trouble in troubles:
        tell(trouble)
    if later:
        _choose_later(task, later, tell)
    if drawn == "yes" and not troubles and not any(task.trouble):
        pn.state.execute(lambda: setattr(task, "compute", True), schedule=True)


def choose(task: Task, asked: dict[str, list[str]], unknown: str) -> list[str]:
    """Choose what is asked for, name to texts, each by itself; returns in words what is not on offer.

    unknown: what is said of a name that the task does not have.
    """
    known = [name for name in (*task.inputs, *task.look) if name in asked]
    troubles = [trouble for name in known if (trouble := _choose(task, name, asked[name]))]
    return troubles + [unknown.format(name) for name in asked if name not in known]


def _choose_later(task: Task, look: dict[str, list[str]], tell: Tell) -> None:
    """Choose how the first result is drawn, if it is the one that was asked for."""

    def choose(event: Any) -> None:
        if event.new is None:
            return
        task.param.unwatch(watcher)
        if task.computed is not None and task.computed == task.request():
            for name, texts in look.items():
                if trouble := _choose(task, name, texts):
                    tell(trouble)

    watcher = task.param.watch(choose, "result", precedence=1)


def _used(task: Task) -> Iterator[str]:
    """The choices that count: not those of an extent that is fitted, or of a checkpoint that the slice has not.

    Two metrics of one result can be compared again elsewhere; another entry of the session cannot.
    """
    places = ("first", "second", "third")
    for name in (*task.inputs, *task.look):
        if isinstance(task, State) and (
            (name.startswith("extent_") and task.fit_extent)
            or (name in places and name not in places[: len(task.roles)])
            or (name in COMPARING and (task.beside is None or task.other != THE_SAME))
            or (name == "other_log_scale" and task.same_quantity)
        ):
            continue
        yield name


def _texts(value: Any) -> Iterator[str]:
    """A value as the texts of a query, none where it cannot be said."""
    if isinstance(value, bool):
        yield "yes" if value else "no"
    elif isinstance(value, (str, int)):
        yield str(value)
    elif isinstance(value, float):
        yield repr(float(value))
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, tuple):
        parts = [text for each in value for text in _texts(each)]
        if len(parts) == len(value):
            yield ",".join(parts)


def _choose(task: Task, name: str, texts: list[str]) -> str:
    """Set a parameter to what a query's texts mean; returns in words why that cannot be, or ''."""
    parameter = task.param[name]
    try:
        setattr(task, name, _value(parameter, texts))
    except (ValueError, OverflowError, LookupError):
        reason = f"“{', '.join(texts)}” is not on offer for “{parameter.label}”"
        if isinstance(parameter, param.Selector) and 0 < len(parameter.objects) < 8:
            offered = [text for value in parameter.objects for text in _texts(value)]
            reason += f", which has {', '.join(offered)}"
        return f"{reason}."
    return ""


def _value(parameter: param.Parameter, texts: list[str]) -> Any:
    """What a query's texts mean for a parameter. Raises ValueError, OverflowError or LookupError for nonsense."""
    if isinstance(parameter, param.Selector):
        offered = {text: value for value in parameter.objects for text in [next(_texts(value), None)]}
        meant = [offered[text] for text in texts]
        return meant if isinstance(parameter, param.ListSelector) else meant[-1]
    text = texts[-1]
    if isinstance(parameter, param.Boolean):
        return YES[text]
    if isinstance(parameter, param.Integer):
        return int(text)
    if isinstance(parameter, param.Range):
        low, high = map(float, text.split(","))
        return low, high
    if isinstance(parameter, param.Number):
        return float(text)
    if isinstance(parameter, param.String):
        return text
    raise LookupError(text)  # what only the pages themselves may set
