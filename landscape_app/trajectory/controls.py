"""The widgets of the Trajectory page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from landscape_app import look
from landscape_app.controls import button, field
from landscape_app.trajectory.state import Trajectory


class TrajectoryControls:
    """What to compute at each checkpoint."""

    def __init__(self, state: Trajectory):
        self.state = state
        names = ("problem", "checkpoints", "matrix", "batchnorm", "largest", "smallest", "trace_products", "seed")
        self.fields = {name: field(state, name) for name in names}
        more = look.fold("How many, and the trace", *(self.fields[name] for name in names[4:]))
        self.view = look.column(*(self.fields[name] for name in names[:4]), more)
        state.param.watch(self._arrange, ["problem", "matrix"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        self.fields["batchnorm"].visible = len(self.state.param.batchnorm.objects) > 1
        self.fields["smallest"].visible = self.state.matrix == "hessian"


class LookControls:
    """How the pictures are drawn; the learning rate moves lines and needs no computation."""

    def __init__(self, state: Trajectory):
        self.fields = {
            "learning_rate": field(state, "learning_rate", width=170, placeholder="From the files"),
            "log_scale": field(state, "log_scale", width=118),
            "log_steps": field(state, "log_steps", width=164),
        }
        self.view = look.column(look.bar(*self.fields.values()))  # a bar itself cannot be hidden


class CheckpointControls:
    """The chosen checkpoint and the way to its spectrum: what a tap does, for the keyboard."""

    def __init__(self, state: Trajectory, go: Callable[[], None]):
        self.state = state
        self.pick = field(state, "pick", width=230)
        self.go = button("Spectrum of this checkpoint", go)
        self.view = look.bar(self.pick, self.go)
        state.param.watch(self._arrange, ["chosen", "computed"])
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        self.go.disabled = self.state.chosen is None or self.state.computed is None
