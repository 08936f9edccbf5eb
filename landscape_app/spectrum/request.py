"""What spectrum to compute: a curvature matrix at some weights, whole or in parts, named by plain values."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

from analysis import Checkpoint, LandscapeError, Problem, Weights, provenance
from analysis.curvature.density import density
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.operators import Curvature, samples_by_class
from analysis.data import tensors_of
from analysis.replica import Replica
from landscape_app.request import Request

MATRICES = {"hessian": "Hessian", "ggn": "Gauss-Newton", "fisher": "empirical Fisher"}
SPLITS = {"": "", "class": "each class", "layer": "each layer"}
UNITS = {"units": "loss / weight²"}
SEARCH_SHARE = 0.6  # of the progress of a part, for its eigenvalues; the rest is for its density
KINKED = ("relu", "maxpool", "max_pool", "hardtanh", "threshold", "abs", "clamp", "shrink")


@dataclass(frozen=True)
class Place:
    """A point of a line or plane: the weights there, with the buffers of its origin."""

    surface: Request
    point: tuple[float, ...]

    def __str__(self) -> str:
        named = zip("ab", self.point, strict=False)
        return ", ".join(f"{name} = {round(place, 4):g}" for name, place in named).replace("-", "−")


@dataclass(frozen=True)
class Vector:
    """A unit eigenvector as a displacement of the whole model, and the loss's slope along it."""

    weights: Weights
    slope: float


@dataclass
class Vectors:
    """The eigenvectors that a job has found so far, and where its searches stand; a worker adds to them.

    earlier: of a job that ended unfinished, whose searches this one takes up. searches: files of `Eigenpairs.save`, one
    a part, in a folder that goes with this object; none once all have converged.
    """

    found: dict[tuple[int, int], Vector] = field(default_factory=dict)
    earlier: Vectors | None = None
    searches: dict[int, Path] = field(default_factory=dict)
    _folder: TemporaryDirectory | None = None

    def keep(self, part: int, search: Eigenpairs) -> None:
        """Write down where the search of a part stands."""
        self._folder = self._folder or TemporaryDirectory(prefix="landscape-")
        self.searches[part] = Path(self._folder.name) / f"{part}.safetensors"
        search.save(self.searches[part])

    def take_up(self, part: int, search: Eigenpairs) -> None:
        """Let the search of a part begin where the earlier one stopped."""
        if self.earlier is not None and part in self.earlier.searches:
            search.resume(self.earlier.searches[part])

    def settled(self) -> None:
        """All searches have converged: there is nothing to go on from."""
        self.searches.clear()
        self._folder = None

    def get(self, part: int, pair: int) -> Vector | None:
        return self.found.get((part, pair))


@dataclass(frozen=True)
class Part:
    """One matrix of a request: what it is called, the picture that it is drawn in, and what counts in it."""

    label: str
    panel: str
    matrix: str
    layer: str
    of_class: int | None


@dataclass(frozen=True)
class SpectrumRequest:
    """All that determines a spectrum. Two equal requests on the same project give the same result.

    matrices: of MATRICES, drawn over one another. layer: the module whose parameters count, '' for all. of_class: the
    class whose samples count, None for all. each: "class" or "layer" for one spectrum of each, '' for one of all.
    largest, smallest: how many eigenvalues at each end. most_products: what those of each matrix may take. probes,
    degree: of the density, as in `analysis`; 0 probes leave it out. batchnorm: None keeps the problem's own policy.
    at: the point of a surface that is meant instead of the checkpoint itself.
    """

    problem: str
    checkpoint: str
    matrices: tuple[str, ...] = ("hessian",)
    layer: str = ""
    of_class: int | None = None
    each: str = ""
    largest: int = 5
    smallest: int = 2
    most_products: int = 1000
    probes: int = 1
    degree: int = 30
    seed: int = 0
    batchnorm: str | None = None
    at: Place | None = None

    def steps(self, project: Any, vectors: Vectors) -> Generator[xr.Dataset, None, None]:
        """The results, better and better. Loading starts with the first step. Raises LandscapeError."""
        problem, checkpoint = self.origin(project)
        runs: list[_Run] = []
        parts = self.parts(problem)
        labels = samples_by_class(problem) if any(part.of_class is not None for part in parts) else {}
        title = self._title(checkpoint)
        began, kinks = time.perf_counter(), kinked(problem)
        for i, part in enumerate(parts):
            operator = Curvature(
                problem,
                checkpoint,
                kind=part.matrix,
                layers=layer_names(problem, part.layer) if part.layer else None,
                samples=_samples(labels, part.of_class),
            )
            run = _Run(part, operator, self)
            vectors.take_up(i, run.pairs)
            runs.append(run)
            try:
                for _ in run.steps():
                    vectors.found |= {(i, pair): vector for pair, vector in enumerate(run.vectors)}
                    yield self._together(runs, len(parts), title, began, kinks, problem, checkpoint)
            finally:
                vectors.keep(i, run.pairs)
        if all(run.pairs.status == "converged" for run in runs):
            vectors.settled()
        yield self._together(runs, len(parts), title, began, kinks, problem, checkpoint, finished=True)

    def parts(self, problem: Problem) -> list[Part]:
        """The matrices, in the order in which they are computed."""
        splits: list[tuple[str, str, int | None]] = [("", self.layer, self.of_class)]
        if self.each == "class":
            splits = [(f"class {c}", self.layer, c) for c in samples_by_class(problem)]
        elif self.each == "layer":
            splits = [(layer, layer, self.of_class) for layer in layers_of(problem)]
        return [
            Part(_label(panel, matrix, self.matrices), panel, matrix, layer, of_class)
            for (panel, layer, of_class), matrix in itertools.product(splits, self.matrices)
        ]

    def origin(self, project: Any) -> tuple[Problem, Checkpoint]:
        """The problem under the policy that was asked for, and the weights where the spectrum is computed."""
        problem = project.problems[self.problem]
        if self.batchnorm is not None and self.batchnorm != problem.batchnorm:
            problem = problem.with_batchnorm(self.batchnorm)
        if self.at is None:
            return problem, project.checkpoint(self.problem, self.checkpoint)
        _, space = self.at.surface.opened(project)
        name = f"{space.origin.name} ({self.at})"
        return problem, Checkpoint(space.point(*self.at.point), space.origin.buffers, name)

    def held(self, project: Any) -> tuple[Problem, Checkpoint]:
        """The same for pictures: products hold re-estimated statistics of BatchNorm constant, so these do as well."""
        problem, checkpoint = self.origin(project)
        if problem.batchnorm != "recalibrated":
            return problem, checkpoint
        replica = Replica(problem)
        replica.load(checkpoint)
        replica.settle()
        settled = Checkpoint.of(replica.model)
        return problem.with_batchnorm("frozen"), replace(checkpoint, buffers=settled.buffers)

    def _title(self, checkpoint: Checkpoint) -> str:
        names = " and ".join(MATRICES[matrix] for matrix in self.matrices)
        of = [f"layer {self.layer}" if self.layer else "", SPLITS[self.each]]
        of += [f"class {self.of_class}" if self.of_class is not None else ""]
        return ", ".join([f"{names} spectrum at {checkpoint.name}", *filter(None, of)])

    def _together(
        self,
        runs: Sequence[_Run],
        planned: int,
        title: str,
        began: float,
        kinks: bool,
        problem: Problem,
        checkpoint: Checkpoint,
        finished: bool = False,
    ) -> xr.Dataset:
        """One Dataset of all parts so far; shorter ones are filled up with NaN."""
        known = [run for run in runs if run.found is not None]
        settled = all(run.found.attrs["status"] == "converged" for run in known)
        status = ("converged" if settled else "unconverged") if finished else "running"
        done = sum(run.progress for run in runs) / planned
        elapsed = time.perf_counter() - began
        facts = {
            **known[0].operator.provenance(),
            "checkpoints": [{"name": self.checkpoint, "sha256": checkpoint.digest}],
            "versions": provenance(known[0].found)["versions"],
            "created": provenance(known[0].found)["created"],
            "asked": {k: v for k, v in asdict(replace(self, at=None)).items() if k != "at"},
            **({"point": str(self.at), "surface": self.at.surface.slice} if self.at else {}),
        }
        for key in ("checkpoint", "matrix", "of", "parameters_counted", "samples_counted"):
            facts.pop(key, None)
        variables: dict[str, Any] = {}
        for name, dims, filling in COLUMNS:
            rows = [run.column(name) for run in known]
            variables[name] = (("part", *dims), _filled(rows, filling), {} if filling is False else UNITS)
        return xr.Dataset(
            variables,
            {
                "end": (("part", "pair"), _filled([run.ends for run in known], "")),
                "label": ("part", np.array([run.part.label for run in known], dtype=object)),
                "panel": ("part", np.array([run.part.panel for run in known], dtype=object)),
                "matrix": ("part", np.array([run.part.matrix for run in known], dtype=object)),
                **{
                    name: ("part", np.array([run.fact(name) for run in known]))
                    for name in ("parameters", "samples", "verified", "noise", "loss", "gradient_norm")
                },
            },
            attrs={
                "title": title,
                "status": status,
                "progress": 1.0 if finished else min(0.999, done),
                "eta_s": runs[-1].eta if planned == len(runs) and not finished else np.nan,
                "products": sum(run.products for run in runs),
                "parts": planned,
                "panels": planned // len(self.matrices),
                "basis_bytes": max(run.fact("basis_bytes") for run in known),
                "elapsed_s": elapsed,
                "kinks": int(kinks),
                "all_samples": problem.n,
                "provenance": json.dumps(facts),
            },
        )


DEFLATED = 20  # products that the space beside the eigenvectors costs, which counts exactly in the density
COLUMNS: tuple[tuple[str, tuple[str, ...], Any], ...] = (
    ("eigenvalue", ("pair",), np.nan),
    ("residual", ("pair",), np.nan),
    ("bound", ("pair",), np.nan),
    ("gap_bound", ("pair",), np.nan),
    ("converged", ("pair",), False),
    ("deflated", ("ritz",), np.nan),
    ("node", ("probe", "step"), np.nan),
    ("weight", ("probe", "step"), np.nan),
)


class _Run:
    """The computation of one part: its eigenvalues, then its density."""

    def __init__(self, part: Part, operator: Curvature, request: SpectrumRequest):
        self.part, self.operator, self.request = part, operator, request
        n = operator.shape[1]
        largest = min(request.largest, n)
        smallest = min(request.smallest, n - largest) if part.matrix == "hessian" else 0  # no others go below 0
        self.pairs = Eigenpairs(
            operator, largest=largest, smallest=smallest, most_products=request.most_products, seed=request.seed
        )
        self.found: xr.Dataset | None = None
        self.density: xr.Dataset | None = None
        self.vectors: list[Vector] = []
        self.progress = 0.0
        self.eta = np.nan
        self.taken_up = 0  # products of an earlier job

    def steps(self) -> Generator[None, None, None]:
        self.taken_up = self.pairs.products
        with closing(self.pairs.steps()) as steps:
            for self.found in steps:
                share = float(self.found["converged"].mean()) if self.found.sizes["pair"] else 0.0
                self.progress = max(self.progress, 0.9 * SEARCH_SHARE * share)
                if self.pairs.found and self.found.attrs["status"] != "running":
                    self._take_vectors()
                yield
        self.progress = SEARCH_SHARE
        if not self.request.probes:
            self.progress = 1.0
            return
        began = time.perf_counter()
        sampled = density(
            self.operator,
            self.pairs,
            deflate=DEFLATED,
            probes=self.request.probes,
            degree=self.request.degree,
            seed=self.request.seed,
        )
        with closing(sampled) as steps:
            for self.density in steps:
                share = self.density.attrs["progress"]
                self.progress = SEARCH_SHARE + (1 - SEARCH_SHARE) * share
                self.eta = (time.perf_counter() - began) * (1 - share) / share if share else np.nan
                yield

    def _take_vectors(self) -> None:
        gradient = self.operator.gradient.double()
        self.vectors = [
            Vector(weights, float(gradient @ self.operator.from_weights(weights).double()))
            for weights in self.pairs.vectors
        ]

    @property
    def products(self) -> int:
        return self.operator.products + self.taken_up

    @property
    def ends(self) -> np.ndarray:
        return self.found["end"].values

    def column(self, name: str) -> np.ndarray:
        if name in self.found:
            return self.found[name].values
        if self.density is not None:
            return self.density[name].values
        return np.empty((0,) if name == "deflated" else (0, 0))

    def fact(self, name: str) -> Any:
        if name == "parameters":
            return self.operator.shape[1]
        return self.operator.samples if name == "samples" else self.found.attrs[name]


def _filled(rows: list[np.ndarray], filling: Any) -> np.ndarray:
    """Rows of different lengths as one array, the shorter ones filled up."""
    shape = [max(row.shape[axis] for row in rows) for axis in range(rows[0].ndim)]
    dtype = object if filling == "" else bool if filling is False else np.float64
    whole = np.full((len(rows), *shape), filling, dtype=dtype)
    for i, row in enumerate(rows):
        whole[(i, *(slice(size) for size in row.shape))] = row
    return whole


def _label(panel: str, matrix: str, matrices: tuple[str, ...]) -> str:
    name = MATRICES[matrix][:1].upper() + MATRICES[matrix][1:]
    return " · ".join(filter(None, [panel, name if len(matrices) > 1 or not panel else ""]))


def _samples(labels: dict[int, np.ndarray], of_class: int | None) -> np.ndarray | None:
    if of_class is None:
        return None
    if of_class not in labels:
        raise LandscapeError(f"There is no sample of class {of_class}; there are the classes {list(labels)}.")
    return labels[of_class]


def layers_of(problem: Problem) -> list[str]:
    """The modules that own parameters which the model trains, in its own order."""
    entries = problem.structure.entries
    return list(dict.fromkeys(_owner(name) for name, entry in entries.items() if not entry.frozen))


def layer_names(problem: Problem, layer: str) -> list[str]:
    """The parameters of one of `layers_of`. Raises LandscapeError if there are none."""
    names = [name for name in problem.structure.entries if _owner(name) == layer]
    if not names:
        raise LandscapeError(f"There is no layer '{layer}' with parameters; there are {layers_of(problem)}.")
    return names


def _owner(name: str) -> str:
    return name.rpartition(".")[0] or name


def classes_of(problem: Problem) -> list[int]:
    """The classes that samples can be told apart by, [] where there are none."""
    if not getattr(problem, "free_blocks", False) or not problem.measures[0].classifies:
        return []
    try:
        return list(samples_by_class(problem))
    except LandscapeError:
        return []


def kinked(problem: Problem) -> bool:
    """Whether the model's output goes through something with kinks, such as ReLU."""
    replica = Replica(problem)
    replica.load(problem.checkpoint())
    with replica.own_context(grad=True):
        outputs = tensors_of(replica.output(replica.here(problem.data.batches()[0])))
    waiting = [leaf.grad_fn for leaf in outputs if leaf.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if any(kind in node.name().lower() for kind in KINKED):
            return True
        fresh = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= fresh
        waiting += fresh
    return False


def basis_bytes(parameters: int, itemsize: int, wanted: int, degree: int) -> int:
    """Memory of the largest basis, of numbers of `itemsize` bytes: that of `Eigenpairs`, and that of the density."""
    search = 2 * max(2 * wanted + 10, 20) + wanted + 1
    return itemsize * parameters * max(min(search, parameters + wanted + 1), DEFLATED + degree + 1 + wanted)
