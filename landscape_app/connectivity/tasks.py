"""What a session computes about the pair of checkpoints that the Connectivity page looks at."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import param

from landscape_app.connectivity.of_pair import (
    CURVE,
    MATCHED,
    CurveRequest,
    LayersRequest,
    PairRequest,
    PlaneRequest,
    Trained,
)
from landscape_app.connectivity.request import NONE
from landscape_app.task import Task

if TYPE_CHECKING:
    from landscape_app.connectivity.state import Connectivity


class PairTask(Task):
    """A task about the chosen pair of the paths that are shown; it has no choices but those of their page."""

    def __init__(self, paths: Connectivity):
        self.paths = paths
        super().__init__(paths.project, paths.lock, paths.shelf)
        paths.param.watch(self._compare_with, ["result", "first", "second", "third", "updates"])

    def find(self) -> None:
        """It has no choices of its own for which checkpoints could come."""

    @property
    def ready(self) -> bool:
        return super().ready and not self.wants

    @property
    def wants(self) -> str:
        """What is missing before it can be computed, in words; '' if nothing is."""
        return "" if self.paths.ends else "Compute the paths first."

    @property
    def about(self) -> Any:
        """What a request has to agree with for its result to belong to the pair; None without a pair."""
        return self.request()

    def fits(self, request: Any) -> bool:
        """Whether a request is about the pair that is looked at."""
        return request is not None and request == self.about

    def own(self) -> dict[str, Any]:
        """The fields of its request that are no pair's."""
        return {}

    def request(self) -> PairRequest | None:
        paths = self.paths
        if paths.ends is None:
            return None
        (first, second), asked = paths.ends, paths.entry.request
        pair = {"problem": asked.problem, "first": first, "second": second, "batchnorm": asked.batchnorm}
        return self.asks(**pair, **self.own())

    asks: type[PairRequest] = PairRequest

    def restore(self, request: PairRequest) -> bool:
        self.paths.look_at(request.problem, request.first, request.second)
        return self.request() == request

    @param.depends("computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() is not None and self.request() != self.computed

    def _compare_with(self, *_: Any) -> None:
        self._compare()


class PlaneTask(PairTask):
    """The plane through the pair and the matched second, or the curve's bend."""

    kind = "plane"
    asks = PlaneRequest

    @property
    def wants(self) -> str:
        if super().wants:
            return super().wants
        if self.paths.third == CURVE:
            return "" if self.paths.curve.trained else "Train a curve between the two first."
        return "Nothing is matched: choose how, and compute the paths." if self.own()["matching"] == NONE else ""

    def own(self) -> dict[str, Any]:
        asked = self.paths.entry.request
        if self.paths.third == CURVE:
            curve = self.paths.curve.computed
            return {"matching": NONE, "third": CURVE, "updates": curve.updates if curve else 0}
        return {"checkpoints": asked.checkpoints, "matching": asked.matching}

    def keeper(self) -> dict[str, Any]:
        if self.paths.third == CURVE:
            return {"trained": self.paths.curve.trained}
        return {"matched": self.paths.matched}

    def restore(self, request: PairRequest) -> bool:
        self.paths.third = getattr(request, "third", MATCHED)
        return super().restore(request)


class CurveTask(PairTask):
    """A curve of low loss between the pair."""

    kind = "curve"
    asks = CurveRequest

    @property
    def about(self) -> Any:
        return self._usual(self.request())

    def fits(self, request: Any) -> bool:
        return request is not None and self._usual(request) == self.about

    @staticmethod
    def _usual(request: Any) -> Any:
        return replace(request, updates=CurveRequest.updates) if request is not None else None

    @property
    def trained(self) -> Trained | None:
        """The curve that is shown, None until it is trained in this session."""
        kept = self.entry.kept.get("trained") if self.entry else None
        return kept if self.result is not None and self.result.attrs["status"] == "done" else None

    def own(self) -> dict[str, Any]:
        return {"updates": self.paths.updates, "convention": self.paths.entry.request.convention}

    def keeper(self) -> dict[str, Any]:
        return {"trained": Trained()}

    def restore(self, request: PairRequest) -> bool:
        if getattr(request, "updates", None) in self.paths.param.updates.objects:
            self.paths.updates = request.updates
        return super().restore(request)


class LayersTask(PairTask):
    """The barriers of single layers between the pair."""

    kind = "layers"
    asks = LayersRequest
