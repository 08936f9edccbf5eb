"""Curvature along training: the same quantities at each of a sequence of checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..checkpoints import Checkpoint
from ..errors import LandscapeError
from ..problem import Problem
from ..provenance import versions
from .density import trace
from .eigenpairs import YIELD_SECONDS, Eigenpairs
from .operators import KINDS, Curvature

EIGENVALUES = {"units": "loss / weight²"}


def along_training(
    problem: Problem,
    checkpoints: Sequence[Checkpoint],
    *,
    kind: str = "hessian",
    largest: int = 3,
    smallest: int = 1,
    tolerance: float = 1e-2,
    trace_products: int = 20,
    learning_rate: float | None = None,
    layers: Collection[str] | None = None,
    samples: Sequence[int] | np.ndarray | None = None,
    data: str = "",
    warm: bool = True,
    seed: int = 0,
) -> Iterator[xr.Dataset]:
    """Eigenvalues, trace and gradient at checkpoints of one run, a generator of Datasets that fill up.

    Eigenvalues are those of `Eigenpairs`, and options that the two share mean the same. Each search starts from the sum
    of the eigenvectors of the checkpoint before, unless `warm` is off: about a tenth fewer products where both ends
    are wanted, a fifth fewer for the largest alone.

    trace_products: what `trace` may spend at each checkpoint; 0 leaves it out.
    learning_rate: of the run; None takes what each checkpoint's file says (``lr`` or ``learning_rate``).

    Yields Datasets with the dim ``checkpoint``, NaN where not computed:
    ``eigenvalue``, ``bound`` and ``converged`` [checkpoint, pair], the largest from the top, then the smallest from the
        bottom (coordinate ``end``); |eigenvalue - true| <= bound.
    ``trace`` and ``trace_se``, ``loss``, ``gradient_norm``, ``products`` (for the eigenvalues) [checkpoint].
    ``alignment``: the share of the gradient's squared norm in the span of the `largest` eigenvectors (Gur-Ari,
        Roberts, Dyer 2018, arXiv:1812.04754). ``overlap``: the share of that span in the one of the checkpoint
        before, |V' V_before|² / k, 1 where they are one and about k / parameters by chance.
    ``edge``: 2 / learning rate, above which no eigenvalue stays under full-batch gradient descent on this loss
        (Cohen et al. 2021, arXiv:2103.00065); ``stability``: learning rate x largest eigenvalue / 2, 1 at the edge;
        ``trace_stability``: learning rate x trace / 2, at most 1 where SGD with batches of one is linearly stable
        (Wu and Su 2023, arXiv:2305.17490). Momentum and averaging over batches move these lines.
    Coordinates: ``step``, NaN where a file says none, and ``name``.

    Close the generator to cancel. Raises LandscapeError for bad arguments before anything is computed.
    """
    checkpoints = [problem.checkpoint(checkpoint) for checkpoint in checkpoints]
    if not checkpoints:
        raise LandscapeError("No checkpoint is given; pass those of a run, in their order.")
    if kind not in KINDS:
        raise LandscapeError(f"kind is {kind!r}; accepted are {list(KINDS)}.")
    if learning_rate is not None and not learning_rate > 0:
        raise LandscapeError(f"learning_rate is {learning_rate}; expected a positive number, or None.")
    if largest < 1:
        raise LandscapeError(f"largest is {largest}; expected 1 or more.")
    if trace_products < 4 and trace_products != 0:
        raise LandscapeError(f"trace_products is {trace_products}; expected 0 or at least 4.")
    options = {"kind": kind, "layers": layers, "samples": samples, "data": data}
    search = {"largest": largest, "smallest": smallest, "tolerance": tolerance, "seed": seed}
    Eigenpairs(Curvature(problem, checkpoints[0], **cast(Any, options)), **cast(Any, search))
    return _Run(problem, checkpoints, options, search, learning_rate).run(trace_products, warm)


def with_learning_rate(ds: xr.Dataset, rate: float | np.ndarray) -> xr.Dataset:
    """A result of `along_training` for another learning rate, of the run or [checkpoint]; nothing is computed again.

    Raises LandscapeError unless every rate is positive or NaN, which stands for one that nobody knows.
    """
    rates = np.broadcast_to(np.asarray(rate, dtype=float), ds.sizes["checkpoint"])
    if (rates <= 0).any():
        raise LandscapeError(f"The learning rate is {rates[rates <= 0][0]:g}; expected a positive number.")
    at, top = "checkpoint", ds["eigenvalue"].values[:, 0]
    return ds.assign(
        learning_rate=(at, rates.copy(), {"long_name": "learning rate"}),
        edge=(at, 2 / rates, {"long_name": "2 / learning rate", **EIGENVALUES}),
        stability=(at, rates * top / 2, {"long_name": "learning rate × largest eigenvalue / 2"}),
        trace_stability=(at, rates * ds["trace"].values / 2, {"long_name": "learning rate × trace / 2"}),
    )


class _Run:
    """What is known so far of each checkpoint."""

    def __init__(
        self,
        problem: Problem,
        checkpoints: Sequence[Checkpoint],
        options: dict[str, Any],
        search: dict[str, Any],
        learning_rate: float | None,
    ):
        self.problem, self.checkpoints, self.options, self.search = problem, checkpoints, options, search
        self.rates = np.array(
            [
                _fact(c, "lr", "learning_rate") if learning_rate is None else learning_rate  # as the file says
                for c in checkpoints
            ]
        )
        count, pairs = len(checkpoints), search["largest"] + search["smallest"]
        self.pairs = {name: np.full((count, pairs), np.nan) for name in ("eigenvalue", "bound")}
        self.converged = np.zeros((count, pairs), dtype=bool)
        scalars = ("trace", "trace_se", "loss", "gradient_norm", "alignment", "overlap", "products")
        self.scalars = {name: np.full(count, np.nan) for name in scalars}
        self.finished, self.products, self.status, self.said = 0, 0, "running", ""
        self.traced = 0

    def run(self, trace_products: int, warm: bool) -> Iterator[xr.Dataset]:
        self.began = self.shown = time.perf_counter()
        before = start = None
        for place, checkpoint in enumerate(self.checkpoints):
            operator = Curvature(self.problem, checkpoint, **self.options)
            if not place:
                self.said = self._provenance(operator, trace_products, warm)
            gradient = operator.gradient.double()
            self._put(place, loss=float(operator.loss), gradient_norm=operator.gradient_norm)
            search = Eigenpairs(operator, start=start, **self.search)
            yield from self._followed(search.steps(), place)
            yield self.dataset()
            self._put(place, products=search.products)
            top = _top(search)
            along = top @ gradient.to(top)
            size = float(gradient.square().sum())
            self._put(place, alignment=float(along.square().sum()) / size if size else np.nan)
            if before is not None:
                self._put(place, overlap=float((top @ before.T).square().sum()) / len(top))
            before = top
            start = _sum_of_found(search) if warm else None
            spent, self.traced = operator.products, 0
            if trace_products:
                yield from self._followed(trace(operator, trace_products, self.search["seed"]), place)
            self.finished, self.products = self.finished + 1, self.products + spent + self.traced
            yield self.dataset()
            del operator, search
        self.status = "done"
        yield self.dataset()

    def _followed(self, steps: Iterator[xr.Dataset], place: int) -> Generator[xr.Dataset, None, None]:
        """The whole, from time to time, as one part of it goes on."""
        with closing(cast(Generator, steps)):
            for part in steps:
                if "trace" in part:
                    self._put(place, trace=float(part.trace), trace_se=float(part.trace_se))
                    self.traced = part.attrs["products"]
                else:
                    found = part.sizes["pair"]
                    if found == self.converged.shape[1]:  # before that, places at the ends are not known yet
                        self.pairs["eigenvalue"][place], self.pairs["bound"][place] = part.eigenvalue, part.bound
                        self.converged[place] = part.converged
                if time.perf_counter() - self.shown > YIELD_SECONDS:
                    self.shown = time.perf_counter()
                    yield self.dataset()

    def _put(self, place: int, **values: float) -> None:
        for name, value in values.items():
            self.scalars[name][place] = value

    def dataset(self) -> xr.Dataset:
        loss = {"units": self.problem.measures[0].units}
        largest = self.search["largest"]
        s = {name: values.copy() for name, values in self.scalars.items()}
        at = "checkpoint"
        known = xr.Dataset(
            {
                "eigenvalue": (
                    (at, "pair"),
                    self.pairs["eigenvalue"].copy(),
                    {"long_name": "eigenvalue", **EIGENVALUES},
                ),
                "bound": ((at, "pair"), self.pairs["bound"].copy(), {"long_name": "error bound", **EIGENVALUES}),
                "converged": ((at, "pair"), self.converged.copy()),
                "trace": (at, s["trace"], {"long_name": "trace", **EIGENVALUES}),
                "trace_se": (at, s["trace_se"], {"long_name": "standard error of the trace", **EIGENVALUES}),
                "loss": (at, s["loss"], {"long_name": "loss", **loss}),
                "gradient_norm": (at, s["gradient_norm"], {"long_name": "norm of the gradient"}),
                "alignment": (at, s["alignment"], {"long_name": f"share of the gradient in the top {largest}"}),
                "overlap": (at, s["overlap"], {"long_name": f"overlap with the top {largest} before"}),
                "products": (at, s["products"], {"long_name": "products for the eigenvalues"}),
            },
            coords={
                "end": ("pair", np.array(["largest"] * largest + ["smallest"] * self.search["smallest"], dtype=object)),
                "step": (at, np.array([_fact(c, "step") for c in self.checkpoints]), {"long_name": "step"}),
                "name": (at, np.array([c.name for c in self.checkpoints], dtype=object)),
            },
            attrs={
                "title": f"{self.options['kind']} along {self.checkpoints[0].name} – {self.checkpoints[-1].name}",
                "status": self.status,
                "progress": 1.0 if self.status == "done" else min(0.999, self.finished / len(self.checkpoints)),
                "checkpoints": self.finished,
                "planned_checkpoints": len(self.checkpoints),
                "products": self.products,
                "elapsed_s": time.perf_counter() - self.began,
                "provenance": self.said,
            },
        )
        return with_learning_rate(known, self.rates)

    def _provenance(self, operator: Curvature, trace_products: int, warm: bool) -> str:
        facts = {key: value for key, value in operator.provenance().items() if key != "checkpoint"}
        every = [{"name": c.name, "sha256": c.digest, **c.info} for c in self.checkpoints]
        own = {"trace_products": trace_products, "warm_start": warm, "versions": versions()}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps({**facts, "checkpoints": every, **self.search, **own, "created": created})


def _top(search: Eigenpairs) -> Tensor:
    """The eigenvectors of the largest eigenvalues [k, n], largest first."""
    ordered = sorted(search.found, key=lambda pair: -pair.value)[: search.largest]
    return torch.stack([pair.vector for pair in ordered if pair.vector is not None]).double()


def _sum_of_found(search: Eigenpairs) -> Tensor:
    return torch.stack([pair.vector for pair in search.found if pair.vector is not None]).sum(0)


def _fact(checkpoint: Checkpoint, *names: str) -> float:
    """A number that the checkpoint's file states, or NaN."""
    for name in names:
        try:
            return float(checkpoint.info[name])
        except (KeyError, ValueError):
            continue
    return np.nan
