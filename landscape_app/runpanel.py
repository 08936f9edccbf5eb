"""Compute and Cancel, how far the computation is, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn

from landscape_app import look, words
from landscape_app.jobs import JobState
from landscape_app.task import Task
from landscape_app.text import text

BUTTON_WIDTH = 172
WIDE = BUTTON_WIDTH - 12
GAP = 4
HALF = (WIDE - GAP) // 2
RESTS = (JobState.PAUSING, JobState.PAUSED)


class RunPanel:
    """The strip above a picture. It keeps its height whatever the job does; only a failure adds to it."""

    def __init__(
        self, state: Task, say: Callable[[Any], words.Message], verb: str = "Compute", again: str = "Compute again"
    ):
        self.state, self.say, self.verb, self.again = state, say, verb, again
        self.compute = _button(verb, "primary", lambda _: setattr(state, "compute", True))
        self.cancel = _button("Cancel", "default", lambda _: setattr(state, "cancel", True), HALF)
        self.pause = _button("Pause", "default", self._pause, HALF)
        self.headline = look.html()
        self.progress = look.html()
        self.trouble = look.html(visible=False)
        buttons = pn.Column(self.compute, pn.Row(self.cancel, self.pause, margin=0), width=BUTTON_WIDTH, margin=0)
        said = look.column(self.headline, self.progress)
        strip = pn.Row(buttons, said, sizing_mode="stretch_width", margin=0, min_height=62)
        self.view = look.column(strip, self.trouble)
        state.param.watch(
            self.show,
            ["job", "stale", "computed", "entries", "recalled", "trouble", "foreign", "outdated", *state.inputs],
        )
        self.show()

    def show(self, *_: object) -> None:
        """Say where the task stands now."""
        state = self.state
        said = self.say(state)
        failed = said.tone == "bad"
        self.compute.label = self.again if state.answered else "Continue" if state.earlier else self.verb
        self.compute.visible = not state.busy
        self.compute.disabled = not state.ready
        self.cancel.visible = self.pause.visible = state.busy
        if state.busy:
            self.pause.label = "Resume" if state.job.state in RESTS else "Pause"
            self.pause.disabled = state.job.state is JobState.CANCELLING
        said_of = "Choices changed since" if state.foreign is None else "Not of these choices"
        badge = f'<span class="badge">{said_of}</span>' if state.stale and not state.busy else ""
        self.headline.object = (
            f'<div class="ls status {said.tone}" role="status"><span class="dot"></span>'
            f"<strong>{text(said.title)}</strong>{badge}</div>"
        )
        old = state.shown in state.outdated and not state.busy
        body = "" if failed else f'<p class="quiet nums">{text(said.body)}</p>'
        body = f'<p class="warn">{text(words.OUTDATED)}</p>' if old else body
        self.progress.object = f'<div class="ls">{body}{self._bar()}</div>'
        self.trouble.visible = failed
        if failed:
            self.trouble.object = look.trouble(said.body, said.details)

    def _pause(self, *_: object) -> None:
        setattr(self.state, "resume" if self.state.job.state in RESTS else "pause", True)

    def _bar(self) -> str:
        job = self.state.job
        if not self.state.busy:
            return '<div class="bar idle"></div>'
        if job.result is None or job.state is JobState.CANCELLING:
            return '<div class="bar unknown" role="progressbar" aria-label="Computation"><i></i></div>'
        share = round(100 * job.progress)
        return (
            f'<div class="bar" role="progressbar" aria-label="Computation" aria-valuenow="{share}" aria-valuemin="0" '
            f'aria-valuemax="100"><i style="width:{share}%"></i></div>'
        )


def _button(label: str, color: str, does: Callable[[Any], None], width: int = WIDE) -> pn.widgets.Button:
    """A button that sets an event. One bound to it would trigger every watcher of what follows, changed or not."""
    margin = (4, 12 if width == WIDE else GAP, 4, 0)
    made = pn.widgets.Button(
        label=label, color=color, stylesheets=[look.STYLE], css_classes=["ls-run"], width=width, margin=margin
    )
    made.on_click(does)
    return made
