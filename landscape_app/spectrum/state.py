"""What a session has chosen and computed on the Spectrum page."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import param

from landscape_app.checkpoints.shelf import Shelf
from landscape_app.jobs import JobState
from landscape_app.spectrum.along import Along, Direction
from landscape_app.spectrum.picture import Spectrum as Part
from landscape_app.spectrum.picture import spectra
from landscape_app.spectrum.request import Place, SpectrumRequest, Vectors, classes_of, layers_of
from landscape_app.task import Task
from landscape_app.text import eigenvalue, explain

ALL = ""
EACH = "each"
RANDOM = -1
NONE = ""
BATCHNORM = {
    "recalibrated": "Those of the point, held",
    "frozen": "Frozen at the checkpoint's",
    "batch": "Of each batch",
}
MATRIX_CHOICES = {
    "Hessian": ("hessian",),
    "Gauss-Newton": ("ggn",),
    "Empirical Fisher": ("fisher",),
    "Hessian and Gauss-Newton": ("hessian", "ggn"),
}
INPUTS = (
    *("problem", "checkpoint", "at", "matrix", "layer", "of_class", "largest", "smallest", "most_products"),
    *("probes", "degree", "seed", "batchnorm"),
)


class Spectrum(Task):
    """The task of the Spectrum page: which matrix to look at, how it is drawn, which eigenvalue is chosen."""

    inputs = INPUTS
    look = ("log_scale", "width")
    kind = "spectrum"

    checkpoint = param.Selector(label="Checkpoint")
    at = param.Parameter(doc="The Place on a surface that is meant instead of the checkpoint, or None.")
    matrix = param.Selector(default=("hessian",), objects=MATRIX_CHOICES, label="Matrix")
    layer = param.Selector(default=ALL, objects={"All": ALL}, label="Parameters")
    of_class = param.Selector(default=ALL, objects={"All": ALL}, label="Samples")
    largest = param.Integer(default=5, bounds=(1, 20), label="Largest eigenvalues")
    smallest = param.Integer(default=2, bounds=(0, 20), label="Smallest eigenvalues")
    most_products = param.Integer(default=1000, bounds=(1, None), label="Products at most")
    probes = param.Integer(default=1, bounds=(0, 20), label="Random vectors of the density")
    degree = param.Integer(default=30, bounds=(5, 200), label="Products for each")
    seed = param.Integer(default=0, bounds=(0, None), label="Seed of the random vectors")
    batchnorm = param.Selector(label="BatchNorm statistics")

    log_scale = param.Boolean(default=True, label="Logarithmic")
    width = param.Number(default=-2.0, bounds=(-3.0, -1.0), step=0.05, label="Bandwidth")

    chosen = param.Parameter(default=None, doc="The chosen eigenvalue, (part, pair), or None.")
    pick = param.Selector(default=NONE, objects={"None": NONE}, label="Eigenvalue")  # the same, for its widget
    second = param.Selector(default=RANDOM, objects={"A random direction": RANDOM}, label="And along")

    def __init__(self, project: Any, lock: Any = None, shelf: Shelf | None = None, **params: Any):
        super().__init__(project, lock or threading.RLock(), shelf, **params)
        self.param.problem.objects = list(project.problems)
        self.problem = self.param.problem.objects[0]

    @property
    def bandwidth(self) -> float:
        """The standard deviation of a node in the density, as a share of the picture's width."""
        return float(10.0**self.width)

    @property
    def parts(self) -> list[Part]:
        """What the result holds."""
        return spectra(self.result) if self.result is not None else []

    def keeper(self) -> dict[str, Any]:
        return {"vectors": Vectors(earlier=self.unfinished)}

    @property
    def unfinished(self) -> Vectors | None:
        """Of the latest job that was cancelled, or allowed fewer products, but had the same choices otherwise."""
        request = self.request()
        for entry in reversed(self.entries):
            asked, vectors = entry.request, entry.kept.get("vectors")
            if vectors is None or not vectors.searches or not entry.job.state.final:
                continue
            fewer = asked.most_products < request.most_products
            cancelled = asked == request and entry.job.state is JobState.CANCELLED
            if cancelled or (fewer and replace(asked, most_products=request.most_products) == request):
                return vectors
        return None

    def request(self) -> SpectrumRequest:
        return SpectrumRequest(
            problem=self.problem,
            checkpoint=self.checkpoint,
            matrices=self.matrix,
            layer="" if self.layer == EACH else self.layer,
            of_class=self.of_class if isinstance(self.of_class, int) else None,
            each="layer" if self.layer == EACH else "class" if self.of_class == EACH else "",
            largest=self.largest,
            smallest=self.smallest,
            most_products=self.most_products,
            probes=self.probes,
            degree=self.degree,
            seed=self.seed,
            batchnorm=self.batchnorm,
            at=self.at,
        )

    def go(self, place: Place) -> None:
        """Compute the spectrum at a point of a surface, with what else is chosen."""
        self.problem = place.surface.problem
        names = place.surface.checkpoints or (place.surface.along.spectrum.checkpoint,)
        chosen = {"at": place, "checkpoint": names[0]}
        if place.surface.batchnorm in list(self.param.batchnorm.objects):
            chosen["batchnorm"] = place.surface.batchnorm
        self.param.update(**chosen)
        self.compute = True

    def visit(self, problem: str, checkpoint: str, matrix: str, batchnorm: str | None) -> None:
        """Compute the spectrum of a checkpoint: of the whole matrix, over all samples."""
        self.problem = problem
        chosen = {"checkpoint": checkpoint, "matrix": (matrix,), "layer": ALL, "of_class": ALL, "at": None}
        if batchnorm in list(self.param.batchnorm.objects):
            chosen["batchnorm"] = batchnorm
        self.param.update(**chosen)
        self.compute = True

    def restore(self, request: SpectrumRequest) -> bool:
        if request.problem not in self.param.problem.objects:
            return False
        self.problem = request.problem
        wanted = {
            "checkpoint": request.checkpoint,
            "matrix": request.matrices,
            "layer": EACH if request.each == "layer" else request.layer,
            "of_class": EACH if request.each == "class" else ALL if request.of_class is None else request.of_class,
            "batchnorm": request.batchnorm,
        }
        offered = {name: value for name, value in wanted.items() if value in list(self.param[name].objects)}
        for name in ("largest", "smallest", "most_products", "probes", "degree", "seed"):
            low, high = self.param[name].bounds
            value = getattr(request, name)
            if isinstance(value, int) and value >= low and (high is None or value <= high):
                offered[name] = value
        self.param.update(**offered, at=request.at)
        return self.request() == request

    def offer(self) -> None:
        try:
            problem = self.project.problems[self.problem]
            layers, classes = layers_of(problem), classes_of(problem)
        except BaseException as error:  # it is made now, by code of the user's own
            problem, layers, classes, self.trouble = None, [], [], explain(error)
        else:
            self.trouble = ("", "")
        names = list(self.project.checkpoint_names(self.problem))
        policies = problem.batchnorm_choices if problem else (self.batchnorm,)
        several = {"Each layer": EACH} if len(layers) > 1 else {}
        options = {
            "checkpoint": self.shelf.offered(self.problem, names),
            "layer": {"All": ALL, **several, **{f"Layer {name}": name for name in layers if len(layers) > 1}},
            "of_class": {"All": ALL, **({"Each class": EACH} if classes else {}), **{f"Class {c}": c for c in classes}},
            "batchnorm": {BATCHNORM.get(policy, policy): policy for policy in policies},
        }
        fresh = {
            "checkpoint": names[0],
            "layer": ALL,
            "of_class": ALL,
            "batchnorm": problem.batchnorm if problem else self.batchnorm,
        }
        kept = {k: getattr(self, k) if getattr(self, k) in options[k].values() else fresh[k] for k in options}
        here = self.at is not None and self.at.surface.problem == self.problem
        self.put_on_offer(options, **kept, at=self.at if here else None)

    @param.depends("checkpoint", watch=True)
    def _leave_the_point(self) -> None:
        if self.at is not None and self.checkpoint not in (
            *self.at.surface.checkpoints,
            *([self.at.surface.along.spectrum.checkpoint] if self.at.surface.along else []),
        ):
            self.at = None

    @param.depends("layer", "of_class", watch=True)
    def _split_once(self) -> None:
        """One grid has the layers, or the classes."""
        if self.layer == EACH and self.of_class == EACH:
            self.of_class = ALL

    @param.depends(*INPUTS, "computed", watch=True)
    def _compare(self) -> None:
        self.stale = self.computed is not None and self.request() != self.computed

    @param.depends("result", watch=True)
    def _offer_eigenvalues(self) -> None:
        parts = self.parts
        named = {name_of(parts, at): at for at in places(parts)}
        kept = self.chosen if self.chosen in named.values() else None
        self.put_on_offer({"pick": {"None": NONE, **named}}, chosen=kept, pick=kept or NONE)

    @param.depends("chosen", watch=True)
    def _say_which(self) -> None:
        pick = self.chosen or NONE
        if pick != self.pick and pick in list(self.param.pick.objects):
            self.pick = pick
        self._offer_second()

    @param.depends("pick", watch=True)
    def _choose(self) -> None:
        if self.chosen != (self.pick or None):
            self.chosen = self.pick or None

    def _offer_second(self) -> None:
        parts, offered = self.parts, {"A random direction": RANDOM}
        if self.chosen is not None:
            part, first = self.chosen
            others = [at for at in places(parts) if at[0] == part and at[1] != first]
            offered |= {name_of(parts, at): at[1] for at in others}
        self.put_on_offer({"second": offered}, second=self.second if self.second in offered.values() else RANDOM)

    @property
    def along(self) -> Along | None:
        """The chosen eigenvectors; None while none is chosen, or where the session does not have them."""
        entry = self.entry
        vectors = entry.kept.get("vectors") if entry else None
        if self.chosen is None or vectors is None or entry.request is None or entry.job.state not in ENDED:
            return None
        parts, (part, first) = self.parts, self.chosen
        pairs = [first, *([self.second] if self.second != RANDOM else [])]
        found = [vectors.get(part, pair) for pair in pairs]
        if part >= len(parts) or any(vector is None for vector in found):
            return None
        one = parts[part]
        directions = tuple(
            Direction(
                part, pair, f"eigenvector of {name_of(parts, (part, pair))}", float(one.values[pair]),
                float(one.bounds[pair]), vector,
            )
            for pair, vector in zip(pairs, found, strict=True)
        )  # fmt: skip
        label = entry.request.of_class
        label = label if label is not None or entry.request.each != "class" else int(one.panel.split()[-1])
        metric = "loss" if label is None else f"loss_per_class[{label}]"
        return Along(entry.request, directions, one.loss, metric, entry.number)


ENDED = (JobState.DONE, JobState.CANCELLED)


def places(parts: list[Part]) -> list[tuple[int, int]]:
    """Every eigenvalue of a result, (part, pair)."""
    return [(i, pair) for i, part in enumerate(parts) for pair in range(len(part.values))]


def symbol(part: Part, pair: int) -> str:
    """λ₁ is the largest; λₙ the smallest, λₙ₋₁ the next."""
    return eigenvalue(pair, int((part.ends == "largest").sum()))


def name_of(parts: list[Part], at: tuple[int, int]) -> str:
    """What an eigenvalue is called among all of a result."""
    part, pair = at
    name = symbol(parts[part], pair)
    return f"{name}, {parts[part].label}" if len(parts) > 1 else name
