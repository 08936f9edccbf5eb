"""Eigenvalues at both ends of a curvature matrix, each with bars that hold, and a second look for missed ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import LandscapeError
from ..provenance import versions
from ..weights import Weights
from .krylov import Krylov
from .operators import Curvature, memory

BASIS_SHARE = 1 / 4  # of a GPU's memory, for a basis
MISSED = 1e-3  # the chance that is left of an eigenvalue hiding from the second look
OUTERMOST = {"largest": -1, "smallest": 0}  # among ascending values
SIGNS = {"largest": 1, "smallest": -1}
SAFETY = 4.0  # the float noise of any vector against that of the one measured (up to 2.3 seen)
YIELD_SECONDS = 0.2
SHOWN_FIRST = 5  # products that each give a result, however quick they are
NOISE_SAMPLES = 16, 64  # at least, at most, and a sixteenth of all between: float64 is dear in convolutions
SLACK = 1e-2  # of the innermost wanted eigenvalue: by how much all that is set aside may hide another one
LAYOUT = 2  # of a saved run
STATE = ("_stage", "products", "noise", "status", "verified", "_slack")  # of a run, beside its vectors


@dataclass(eq=False)
class Pair:
    """A Ritz value, the norm of its residual, and its vector [n] where it is locked."""

    value: float
    residual: float
    vector: Tensor | None = None


class Eigenpairs:
    """The largest and smallest algebraic eigenvalues of a matrix, by thick-restart Lanczos.

    Both ends come from one Krylov space. It stops when each wanted pair has a residual norm of `tolerance` times its
    value (or at the float noise of the products). A Krylov space from one vector holds one copy of a multiple
    eigenvalue, and may miss one of a cluster, with all residuals small. So it looks again, from a fresh vector in the
    complement of what was found, until an eigenvalue beyond the wanted ones would have shown with all but a chance of
    1/1000. The Ritz vectors next to the wanted ones are set aside with them, which widens the gap: an eigenvalue beyond
    `edge` leaves one in the complement of theirs beyond edge - sum of residual² / (edge - value), by Haynsworth's
    inertia formula.

    operator: a square Curvature. largest, smallest: how many at each end.
    most_products: where to stop at the latest; what is not converged by then is marked.
    verify: whether to look again. seed: of the random start. start: a vector [n] to start from, such as a sum of
        earlier eigenvectors.

    bytes: memory of the basis, the only thing that grows with the number of parameters. It has the operator's dtype;
    from a GPU it moves to the host where it would take more than a quarter of the memory there.

    Raises LandscapeError for bad arguments.
    """

    def __init__(
        self,
        operator: Curvature,
        *,
        largest: int = 5,
        smallest: int = 1,
        tolerance: float = 1e-3,
        most_products: int = 1000,
        verify: bool = True,
        seed: int = 0,
        start: Tensor | None = None,
    ):
        n = operator.shape[1]
        if operator.rows != operator.columns:
            raise LandscapeError("Eigenvalues need a square matrix: the same layers as rows and columns.")
        if min(largest, smallest) < 0 or not 0 < largest + smallest <= n:
            raise LandscapeError(
                f"largest is {largest} and smallest is {smallest}; together they must be 1 to {n}, the parameters."
            )
        if not 0 < tolerance < 1:
            raise LandscapeError(f"tolerance is {tolerance}; expected a fraction of the eigenvalue between 0 and 1.")
        if start is not None and not (start.shape == (n,) and 0 < float(start.norm()) < np.inf):
            raise LandscapeError(f"start must be a vector [{n}] of finite numbers that are not all zero.")
        self.operator, self.tolerance, self.verify = operator, tolerance, verify
        self.largest, self.smallest = largest, smallest
        self.most_products, self.seed = most_products, seed
        wanted = largest + smallest
        self.size = min(n, 2 * max(2 * wanted + 10, 20))
        self.bytes = (self.size + wanted + 1) * n * operator.dtype.itemsize
        self.dtype, self.device = operator.dtype, basis_home(operator, self.bytes)
        self._start = start
        self._krylov: Krylov | None = None
        self._stage = "search"
        self._cut: tuple[list[Pair], Krylov] | None = None  # what to go on from, where the products were used up
        self._probe: Tensor | None = None
        self._began = self._shown = time.perf_counter()
        self.products = 0
        self.noise = np.nan
        self.found: list[Pair] = []
        self._slack: dict[str, float] = {}  # by how much what is set aside may hide an eigenvalue at each end
        self._others: list[Pair] = []  # seen beside those that were found
        self._showing: list[Pair] = []
        self.status = "running"
        self.verified = False

    def steps(self) -> Iterator[xr.Dataset]:
        """Run: a Dataset after each of the first products, then several a second, each with what is known so far.

        Close the generator to cancel; called again, it goes on from where it was. So it does after it has ended
        unconverged, if `most_products` has been raised since.
        """
        if self.status == "unconverged" and self.products < self.most_products:
            self._take_up()
        if self.status != "running":
            yield self.dataset()
            return
        wanted = self.largest, self.smallest
        if self._stage == "search":
            self._krylov = self._krylov or self._new_krylov(self._start)
            if not (yield from self._lanczos(self._krylov, wanted, self._all_small)):
                self._cut = [], self._krylov
            self._krylov, self._stage = self._lock(self._krylov, wanted), "noise"
        if self._stage == "noise":
            yield from self._measure_noise()
            self._stage = "verify"
        while self._looks_again and self.products < self.most_products:
            self._krylov = self._krylov or self._new_krylov(None)
            settled = yield from self._lanczos(self._krylov, (1, 1), self._nothing_missed)
            doubtful = settled and any(self._in_doubt(self._krylov, side) for side in self._sides)
            if not settled:
                self._cut = self.found.copy(), self._krylov
            taken, self._krylov = self._take_missed(self._krylov), None
            if self._cut is None:
                self._slack = {}
            if not (taken or doubtful):
                self.verified = settled
                break
        self.status = "converged" if all(self._small(p) for p in self.found) and self._settled else "unconverged"
        yield self.dataset()

    def _take_up(self) -> None:
        """Go back to where the products were used up."""
        self.status = "running"
        if self._cut is not None:
            (self.found, self._krylov), self._cut = self._cut, None
            self._others = self._others if self.found else []
            self._stage = "verify" if self.found else "search"
            self._show(self._krylov)

    @property
    def _looks_again(self) -> bool:
        return self.verify and self._cut is None and len(self.found) < self.operator.shape[1]

    def save(self, path: str | Path) -> None:
        """Keep where the run stands, basis and all, as safetensors, for `resume`."""
        found, krylov = self._cut or (self.found, self._krylov)
        tensors = {f"found.{i}": p.vector for i, p in enumerate(found) if p.vector is not None}
        state: dict[str, Any] = {name: getattr(self, name) for name in STATE}
        if self._cut is not None:
            state |= {"status": "running", "_stage": "verify" if found else "search"}
        state["found"] = [(p.value, p.residual) for p in found]
        state["others"] = [(p.value, p.residual) for p in self._others if found]
        state |= {"of": self._identity(), "layout": LAYOUT}
        if self._probe is not None:
            tensors["probe"] = self._probe
        if krylov is not None:
            own, state["krylov"] = krylov.state()
            tensors |= own
        save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"state": json.dumps(state)})

    def resume(self, path: str | Path) -> None:
        """Take up a saved run of the same matrix. Raises LandscapeError if the file is of another one or damaged."""
        try:
            with safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name).to(self.device, self.dtype) for name in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise LandscapeError(
                f"'{path}' holds no saved run of eigenvalues ({type(error).__name__}: {error})."
            ) from error
        if state.get("layout") != LAYOUT:
            raise LandscapeError(f"'{path}' was saved by another version of this package: start the run anew.")
        if state["of"] != self._identity():
            differing = [key for key, value in self._identity().items() if state["of"].get(key) != value]
            raise LandscapeError(f"'{path}' is a run of another matrix: it differs in {', '.join(differing)}.")
        for name in STATE:
            setattr(self, name, state[name])
        self.found = [Pair(v, r, tensors[f"found.{i}"]) for i, (v, r) in enumerate(state["found"])]
        self._others = [Pair(v, r) for v, r in state["others"]]
        self._probe = tensors.get("probe")
        if "krylov" in state:
            self._krylov = self._new_krylov(None)
            self._krylov.restore(tensors, state["krylov"])
            self._show(self._krylov)

    def _identity(self) -> dict[str, Any]:
        """What a saved run must have in common with this one."""
        facts = {k: v for k, v in self.operator.provenance().items() if k not in ("problem", "device")}
        ends = {"largest": self.largest, "smallest": self.smallest, "seed": self.seed}
        return json.loads(json.dumps({**facts, **ends}))

    @property
    def _settled(self) -> bool:
        return self.verified or not self.verify or len(self.found) == self.operator.shape[1]

    @property
    def vectors(self) -> list[Weights]:
        """Unit eigenvectors in the order of the Dataset's pairs, as displacements of the whole model's weights."""
        return [self.operator.to_weights(p.vector) for p in self._ordered() if p.vector is not None]

    @property
    def locked(self) -> Tensor | None:
        """The vectors found so far [found, n], or None."""
        return torch.stack([p.vector for p in self.found if p.vector is not None]) if self.found else None

    # --- the run ------------------------------------------------------------------------------------------------

    def _new_krylov(self, start: Tensor | None) -> Krylov:
        start = self._random() if start is None else start.to(self.device, self.dtype)
        return Krylov(start, self.size - len(self.found), 1e4 * self.operator.problem.eps, self.locked, self._scale())

    def _random(self) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.seed + len(self.found))
        start = torch.randn(self.operator.shape[1], generator=generator, dtype=torch.float64)
        return start.to(self.device, self.dtype)

    def _lanczos(
        self, krylov: Krylov, wanted: tuple[int, int], finished: Callable[[Krylov], bool]
    ) -> Generator[xr.Dataset, None, bool]:
        """Returns whether it is finished; else the products are used up."""
        stop = krylov.filled > 0 and (finished(krylov) or krylov.exhausted)
        while not stop and self.products < self.most_products:
            if krylov.full:
                krylov.restart(_kept(krylov.filled, wanted))
            product = yield from self._product(krylov.vector)
            if self.products == 2 and self.operator.dtype != torch.float64:
                self._probe = krylov.vector.clone()
            krylov.add(product)
            self._show(krylov)
            stop = finished(krylov) or krylov.exhausted
            if self.products <= SHOWN_FIRST or time.perf_counter() - self._shown > YIELD_SECONDS:
                self._shown = time.perf_counter()
                yield self.dataset()
        return stop

    def _show(self, krylov: Krylov) -> None:
        values, residuals, _ = krylov.ritz()
        self._showing = [Pair(float(v), float(r)) for v, r in zip(values, residuals, strict=True)]

    def _product(self, vector: Tensor) -> Generator[xr.Dataset, None, Tensor]:
        product = yield from heartbeats(self.operator.steps(vector), self.dataset)
        self.products += 1
        return product

    def _lock(self, krylov: Krylov, wanted: tuple[int, int]) -> Krylov | None:
        """Take what was found, and begin the second look where there will be one, in the same memory."""
        values, residuals, coordinates = krylov.ritz()
        places = _ends(len(values), wanted)
        every = [Pair(float(v), float(r)) for v, r in zip(values, residuals, strict=True)]
        self.found = [every[i] for i in places]
        self._others = [pair for i, pair in enumerate(every) if i not in places]
        self._showing = []
        looks_again = self._looks_again
        if looks_again:
            beside, self._slack = self._set_aside(every, places)
            krylov.lock([*places, *beside], self._random())
            vectors = krylov.locked[: len(places)].clone()
        else:
            vectors = krylov.vectors(coordinates[:, places])
        for pair, vector in zip(self.found, vectors, strict=True):
            pair.vector = vector
        return krylov if looks_again else None

    def _set_aside(self, every: list[Pair], found: list[int]) -> tuple[list[int], dict[str, float]]:
        """Places of Ritz values next to the wanted ones, and what all of them together may hide at each end."""
        edges = {side: self._edge(side).value for side in self._sides}
        chosen: list[int] = []
        slack = dict.fromkeys(edges, 0.0)
        inside = [i for i in range(len(every)) if i not in found]
        for i in sorted(inside, key=lambda i: min(abs(edge - every[i].value) for edge in edges.values())):
            gaps = {side: abs(edge - every[i].value) for side, edge in edges.items()}
            wider = {s: slack[s] + every[i].residual ** 2 / max(gap, 1e-300) for s, gap in gaps.items()}
            if all(wider[side] <= SLACK * abs(edge) for side, edge in edges.items()):
                chosen, slack = [*chosen, i], wider
        return chosen[: max(0, self.size // 2 - len(found))], slack

    def _measure_noise(self) -> Iterator[xr.Dataset]:
        """What the rounding of a product amounts to, by one product in float64.

        It is taken along the second Lanczos vector, which is made of the largest pairs, over some of the samples: the
        mean over fewer rounds no better. Where the model cannot compute in float64, a multiple of the rounding unit
        stands for it.
        """
        eps, scale = self.operator.problem.eps, self._scale()
        self.noise = 64 * eps * scale
        if self._probe is None:
            return
        least, most = NOISE_SAMPLES
        few = self.operator.on_fewer(min(most, max(least, self.operator.samples // 16)))
        try:
            exact = few.in_float64()
        except Exception:  # a model or a loss of the user's own that computes in one dtype only
            return
        rounded = yield from heartbeats(few.steps(self._probe), self.dataset)
        true = yield from heartbeats(exact.steps(self._probe), self.dataset)
        self.noise = SAFETY * max(float((rounded.double() - true).norm()), eps * scale)

    def _take_missed(self, krylov: Krylov) -> bool:
        """Put what the second look found among the others, if it belongs there."""
        coordinates, taken = krylov.ritz()[2], False
        for side in self._sides:
            pair = self._extreme(krylov, side)
            if self._past(krylov, side, self._edge(side).value) and not self._in_doubt(krylov, side):
                pair.vector = krylov.vectors(coordinates[:, [OUTERMOST[side]]])[0]
                self.found.append(pair)
                taken = True
            else:
                self._others.append(pair)
        self._showing = []
        return taken

    def _extreme(self, krylov: Krylov, side: str) -> Pair:
        """The outermost pair of the complement, with its residual in the whole space."""
        values, residuals, coordinates = krylov.ritz()
        place = OUTERMOST[side]
        beside = np.linalg.norm(krylov.beside[:, : krylov.filled] @ coordinates[:, place])
        return Pair(float(values[place]), float(np.hypot(residuals[place], beside)))

    # --- what counts as done ------------------------------------------------------------------------------------

    def _scale(self) -> float:
        return max((abs(p.value) for p in (*self.found, *self._showing)), default=0.0)

    def _small(self, pair: Pair) -> bool:
        floor = 64 * self.operator.problem.eps * self._scale()
        return pair.residual <= max(self.tolerance * abs(pair.value), floor)

    def _all_small(self, krylov: Krylov) -> bool:
        wanted = self.largest, self.smallest
        pairs = self._showing
        return len(pairs) >= sum(wanted) and all(self._small(pairs[i]) for i in _ends(len(pairs), wanted))

    @property
    def _sides(self) -> list[str]:
        return ["largest"] * (self.largest > 0) + ["smallest"] * (self.smallest > 0)

    def _edge(self, side: str) -> Pair:
        """The innermost of the wanted pairs at one end."""
        ordered = sorted(self.found, key=lambda p: p.value)
        return ordered[-self.largest] if side == "largest" else ordered[self.smallest - 1]

    def _nothing_missed(self, krylov: Krylov) -> bool:
        """Whether each end of the complement is settled: a pair was missed, or surely none is."""
        return all(self._end_settled(krylov, side) for side in self._sides)

    def _end_settled(self, krylov: Krylov, side: str) -> bool:
        """A converged pair beyond the wanted ones was missed; surely none is if it would have been seen by now.

        Where the extreme pair of the complement is converged and lies inside, what may hide is within the tolerance.
        """
        near = self._near(krylov, side)
        if near and self._past(krylov, side, self._line(side, near)):
            return True
        return krylov.chance_of_missing(self._line(side, near)) < MISSED or (near and krylov.restarted)

    def _in_doubt(self, krylov: Krylov, side: str) -> bool:
        """Whether a pair shows that may or may not be beyond, for what is set aside: a look without that will tell."""
        if not (self._slack and self._near(krylov, side) and self._past(krylov, side, self._line(side, True))):
            return False
        return not (self._past(krylov, side, self._edge(side).value) and self._small(self._extreme(krylov, side)))

    def _near(self, krylov: Krylov, side: str) -> bool:
        """Whether the outermost pair of the complement is converged there."""
        values, residuals, _ = krylov.ritz()
        place = OUTERMOST[side]
        return self._small(Pair(float(values[place]), float(residuals[place])))

    def _line(self, side: str, near: bool) -> float:
        """What no eigenvalue of the complement lies beyond, where none was missed."""
        edge = self._edge(side).value
        return edge + SIGNS[side] * (near * self.tolerance * abs(edge) - self._slack.get(side, 0.0))

    def _past(self, krylov: Krylov, side: str, line: float) -> bool:
        return SIGNS[side] * (krylov.ritz()[0][OUTERMOST[side]] - line) > 0

    # --- results ------------------------------------------------------------------------------------------------

    def _ordered(self) -> list[Pair]:
        """The wanted pairs: the largest from the top, then the smallest from the bottom."""
        known = self.found or self._showing
        ordered = sorted(known, key=lambda p: p.value)
        top = ordered[::-1][: self.largest]
        low = [p for p in ordered if p not in top][: self.smallest]
        return [*top, *low]

    def dataset(self) -> xr.Dataset:
        """What is known now (see `analysis.curvature`)."""
        pairs = self._ordered()
        values = np.array([p.value for p in pairs])
        residuals = np.array([p.residual for p in pairs])
        every = [*self.found, *self._showing, *self._others]
        noise = self.noise if np.isfinite(self.noise) else 64 * self.operator.problem.eps * self._scale()
        gaps = np.array([_gap(pair, every) for pair in pairs])
        with np.errstate(divide="ignore", invalid="ignore"):
            sharp = np.minimum(residuals, np.where(gaps > 0, residuals**2 / gaps, np.inf))
        ends = ["largest"] * min(self.largest, len(pairs))
        ends += ["smallest"] * (len(pairs) - len(ends))
        units = {"units": "loss / weight²"}
        return xr.Dataset(
            {
                "eigenvalue": ("pair", values, {"long_name": "eigenvalue", **units}),
                "residual": ("pair", residuals, {"long_name": "norm of the residual", **units}),
                "bound": ("pair", residuals + noise, {"long_name": "residual and float noise", **units}),
                "gap_bound": ("pair", sharp + noise, {"long_name": "residual²/gap and float noise", **units}),
                "converged": ("pair", np.array([self._small(p) for p in pairs], dtype=bool)),
            },
            coords={"end": ("pair", np.array(ends, dtype=object))},
            attrs={
                "title": f"{self.operator.kind} eigenvalues at {self.operator.checkpoint.name}",
                "status": self.status,
                "progress": 1.0 if self.status != "running" else min(0.999, self.products / self.most_products),
                "products": self.products,
                "noise": noise,
                "verified": int(self.verified),
                "basis_bytes": self.bytes,
                "tolerance": self.tolerance,
                "elapsed_s": time.perf_counter() - self._began,
                "loss": float(self.operator.loss),
                "gradient_norm": self.operator.gradient_norm,
                "provenance": self._provenance(),
            },
        )

    def _provenance(self) -> str:
        if not hasattr(self, "_said"):
            facts = {
                **self.operator.provenance(),
                "seed": self.seed,
                "versions": versions(),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            self._said = json.dumps(facts)
        return self._said


def basis_home(operator: Curvature, size: int) -> torch.device:
    """Where a basis of so many bytes is kept: beside the operator, or on the host."""
    return operator.device if size <= BASIS_SHARE * memory(operator.device) else torch.device("cpu")


def _ends(count: int, wanted: tuple[int, int]) -> list[int]:
    """Places of the largest and the smallest among ascending values."""
    top = list(range(max(0, count - wanted[0]), count))
    return top + [i for i in range(min(wanted[1], count)) if i not in top]


def _kept(count: int, wanted: tuple[int, int]) -> list[int]:
    """Places of the Ritz vectors that survive a restart: the wanted ones, and some beside them at each end."""
    spare = (count - sum(wanted)) // 2
    more = [w + spare * w // max(1, sum(wanted)) if w else 0 for w in wanted]
    return sorted(_ends(count, (min(more[0], count - 1), min(more[1], max(0, count - 1 - more[0])))))


def _gap(pair: Pair, every: list[Pair]) -> float:
    """The distance between a pair's interval and the nearest other's."""
    return min((abs(pair.value - p.value) - pair.residual - p.residual for p in every if p is not pair), default=np.inf)


def heartbeats(
    steps: Generator[None, None, Tensor], dataset: Callable[[], xr.Dataset]
) -> Generator[xr.Dataset, None, Tensor]:
    """A product that may take long: the present Dataset again every fifth of a second, so that it can be cancelled."""
    waited = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        if time.perf_counter() - waited > YIELD_SECONDS:
            waited = time.perf_counter()
            yield dataset()
