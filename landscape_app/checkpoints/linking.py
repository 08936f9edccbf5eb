"""The checkpoints that the pages have chosen: what one chooses, the page Checkpoints shows, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landscape_app.state import State

CHOICES = {
    "surface": ("problem", "slice", "first", "second", "third"),
    "spectrum": ("problem", "checkpoint"),
    "trajectory": ("problem", "checkpoints", "chosen"),
    "connectivity": ("problem", "checkpoints"),
}
Chosen = tuple[str, tuple[str, ...]]


def chosen(state: State) -> dict[str, Chosen]:
    """For each page the problem and the names of the checkpoints that its choices are of."""
    run = state.trajectory
    picked = ()
    if run.chosen is not None and run.result is not None and run.chosen < run.result.sizes["checkpoint"]:
        picked = (str(run.result["name"].values[run.chosen]),)
    return {
        "surface": (state.problem, state.request().checkpoints if state.roles else ()),
        "spectrum": (state.spectrum.problem, (state.spectrum.checkpoint,)),
        "trajectory": (run.problem, picked or tuple(run.checkpoints)),
        "connectivity": (state.connectivity.problem, tuple(state.connectivity.checkpoints)),
    }


def follow(state: State) -> None:
    """Choose on the page Checkpoints what is chosen on the page that is looked at, whenever that changes."""

    def adopt(page: str, *_: Any) -> None:
        if state.page == page:
            state.checkpoints.take(*chosen(state)[page])

    for page, names in CHOICES.items():
        state.tasks[page].param.watch(partial(adopt, page), list(names), precedence=1)
    state.checkpoints.take(*chosen(state)["surface"])


def _plane(state: State, problem: str, names: Sequence[str]) -> None:
    _slice(state, problem, names, "random-plane" if len(names) == 1 else "plane")


def _line(state: State, problem: str, names: Sequence[str]) -> None:
    _slice(state, problem, names, "line")


def _slice(state: State, problem: str, names: Sequence[str], kind: str) -> None:
    state.problem = problem
    state.slice = kind  # before its checkpoints: a slice may bring its usual ones
    roles = ("first", "second", "third")
    rest = {"third": ""} if len(names) < 3 else {}
    state.param.update(**dict(zip(roles, names, strict=False)), **rest, fit_extent=True)


def _spectrum(state: State, problem: str, names: Sequence[str]) -> None:
    state.spectrum.problem = problem
    state.spectrum.param.update(checkpoint=names[0], at=None)


def _barriers(state: State, problem: str, names: Sequence[str]) -> None:
    state.connectivity.problem = problem
    state.connectivity.checkpoints = list(names)


def _run(state: State, problem: str, names: Sequence[str]) -> None:
    state.trajectory.problem = problem
    state.trajectory.checkpoints = list(names)


# What may be done with the chosen checkpoints: its page, how many it takes (least, most), and what it chooses there.
WAYS: dict[str, tuple[str, int, float, Callable[[State, str, Sequence[str]], None]]] = {
    "Plane": ("surface", 1, 3, _plane),
    "Line": ("surface", 2, 2, _line),
    "Spectrum": ("spectrum", 1, 1, _spectrum),
    "Barriers": ("connectivity", 2, float("inf"), _barriers),
    "Along these": ("trajectory", 2, float("inf"), _run),
}


def takes(way: str, count: int) -> bool:
    """Whether that many checkpoints are what a way needs."""
    _, least, most, _ = WAYS[way]
    return least <= count <= most


def go(state: State, way: str) -> None:
    """Look at the page of a way, with the chosen checkpoints chosen there; nothing is computed."""
    page, _, _, choose = WAYS[way]
    names = state.checkpoints.selected
    if takes(way, len(names)):
        choose(state, state.checkpoints.problem, names)
        state.page = page
