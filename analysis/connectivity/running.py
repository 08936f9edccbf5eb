"""How far a computation of known length has come."""

from __future__ import annotations

import time
from typing import Any

from ..evaluate import YIELD_SECONDS


class Progress:
    """Counts evaluations; `planned` may grow."""

    def __init__(self, planned: int):
        self.planned, self.done = planned, 0
        self.began = self.shown = time.perf_counter()

    def due(self) -> bool:
        """Whether it is time to show what there is; counts one evaluation."""
        self.done += 1
        now = time.perf_counter()
        if now - self.shown < YIELD_SECONDS:
            return False
        self.shown = now
        return True

    def attrs(self, status: str = "running") -> dict[str, Any]:
        """The attributes that every result has."""
        elapsed = time.perf_counter() - self.began
        left = max(self.planned - self.done, 0) * elapsed / max(self.done, 1)
        return {
            "status": status,
            "progress": min(0.999, self.done / max(self.planned, 1)) if status == "running" else 1.0,
            "evaluations": self.done,
            "planned_evaluations": max(self.planned, self.done),
            "elapsed_s": elapsed,
            "eta_s": left if status == "running" else 0.0,
        }
