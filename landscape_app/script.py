"""What a page computed as a Python script: the shortest that gives the same numbers with the public `analysis` API."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from analysis import Project, Strategy, provenance
from landscape_app.connectivity.of_pair import CURVE, CurveRequest, PairRequest, PlaneRequest
from landscape_app.connectivity.request import NONE, POINTS, ConnectivityRequest
from landscape_app.projects import SAMPLES
from landscape_app.request import RANDOM, SLICES, THROUGH, Request
from landscape_app.spectrum.request import DEFLATED, Part, SpectrumRequest, layer_names
from landscape_app.trajectory.request import TrajectoryRequest

Asked = Request | SpectrumRequest | TrajectoryRequest | ConnectivityRequest | PairRequest


def script(request: Asked, project: Project, result: xr.Dataset | None = None) -> str:
    """A script that computes what was asked for, and saves it as netCDF.

    The project is read from its file, which has to lie in the folder where the script runs; one without a file is
    expected under the name ``project``. result: of the request, whose strategy of evaluation the script takes over:
    then a surface has the same bits. Raises LandscapeError for a request that does not fit the project.
    """
    written = _Script(project)
    if isinstance(request, Request):
        written.surface(request, result)
    elif isinstance(request, SpectrumRequest):
        written.spectrum(request)
    elif isinstance(request, TrajectoryRequest):
        written.trajectory(request)
    elif isinstance(request, PairRequest):
        written.pair(request, result)
    else:
        written.connectivity(request)
    return written.text()


class _Script:
    """Lines of a script, and the names that they import, as they come up."""

    def __init__(self, project: Project):
        self.project = project
        self.names: dict[str, set[str]] = {}
        self.lines: list[str] = []

    def text(self) -> str:
        modules = sorted(self.names, key=lambda module: (module != "itertools", module))
        imports = [
            f"from {module} import {', '.join(sorted(self.names[module], key=_as_sorted))}" for module in modules
        ]
        return "\n".join([*imports, "", *self.lines, ""])

    def use(self, name: str, module: str = "analysis") -> str:
        """A name as the lines write it, imported."""
        self.names.setdefault(module, set()).add(name)
        return name

    def write(self, *lines: str) -> None:
        self.lines += lines

    # ---- what all begin with ------------------------------------------------------------------------------

    def problem(self, name: str, batchnorm: str | None) -> None:
        path = self.project.path
        if path is not None and path.resolve() == SAMPLES.resolve():
            self.write(f"project = {self.use('load_project')}({self.use('SAMPLES', 'landscape_app.projects')})")
        elif path is not None:
            self.write(f"project = {self.use('load_project')}({_text(path.name)})")
        else:
            self.write("# project: the analysis.Project with this problem and these checkpoints")
        policy = ""
        if batchnorm is not None and batchnorm != self.project.problems[name].batchnorm:
            policy = f".with_batchnorm({_text(batchnorm)})"
        self.write(f"problem = project.problems[{_text(name)}]{policy}")

    def checkpoint(self, problem: str, name: str) -> None:
        self.write(f"checkpoint = project.checkpoint({_text(problem)}, {_text(name)})")

    def checkpoints(self, problem: str, names: tuple[str, ...]) -> None:
        every = names == tuple(self.project.checkpoint_names(problem)) and len(names) > 3 and not self.project.watched
        among = f"project.checkpoint_names({_text(problem)})" if every else _value(names)
        self.write(f"checkpoints = [project.checkpoint({_text(problem)}, name) for name in {among}]")

    # ---- surfaces -----------------------------------------------------------------------------------------

    def surface(self, request: Request, result: xr.Dataset | None) -> None:
        space = self.subspace(request)
        names = ("extent", "resolution", *(["tolerance"] if request.tolerance else []))
        options = _arguments({name: getattr(request, name) for name in names}, Request)
        options += ["dense=True"] if request.tolerance == 0 else []
        if result is not None:
            self.write(f"strategy = {self.strategy(Strategy.of(provenance(result)['strategy']))}")
            options.append("strategy=strategy")
        if request.seeds:
            call = [self.use("over_seeds") + "(problem", f"lambda seed: {space}", _value(request.seeds)]
        else:
            self.write(f"{_space_name(request)} = {space}")
            call = [self.use("surface") + "(problem", _space_name(request)]
        self.write(f"*_, ds = {', '.join([*call, *options])})", f'{self.use("save")}(ds, "surface.nc")')

    def strategy(self, strategy: Strategy) -> str:
        plain = _arguments(strategy.record() | {"reused": strategy.reused}, Strategy)
        return f"{self.use('Strategy')}({', '.join(plain)})"

    def subspace(self, request: Request) -> str:
        """Writes what a line or plane goes through; returns the expression for it, in terms of `seed` if over seeds."""
        if request.along:
            return self._along(request)
        kind, names = SLICES[request.slice], request.checkpoints
        self.problem(request.problem, request.batchnorm)
        if len(names) == 1:
            self.checkpoint(request.problem, names[0])
        else:
            self.checkpoints(request.problem, names)
        through = "checkpoint" if len(names) == 1 else "*checkpoints"
        made = self.use("Line" if kind.dims == 1 else "Plane")
        seed = "seed=seed" if request.seeds else f"seed={request.seed}"
        given = [f"{name}={_value(value)}" for name, value in request.given((*RANDOM, *THROUGH)).items()]
        if kind.aimless:
            return f"{made}.random({', '.join([through, seed, *given])})"
        if request.slice == "gradient":
            return f"{made}.gradient(problem, checkpoint)"
        if request.slice == "trajectory":
            return f"{made}.pca(checkpoints)"
        seeded = [seed] if kind.dims == 2 and kind.seeded(len(names)) else []
        return f"{made}.through({', '.join([through, *seeded, *given])})"

    def _along(self, request: Request) -> str:
        """A plane along eigenvectors; its picture holds what the products held of BatchNorm."""
        along = request.along
        self.place(along.spectrum)
        parts = along.spectrum.parts(self.project.problems[along.spectrum.problem])
        vectors = []
        for part in dict.fromkeys(direction.part for direction in along.directions):
            name = f"search{part}" if len({d.part for d in along.directions}) > 1 else "search"
            self.search(along.spectrum, parts[part], name)
            self.write(f"for _ in {name}.steps():", "    pass")
            vectors += [(d, f"{name}.vectors[{d.pair}]") for d in along.directions if d.part == part]
        vectors.sort(key=lambda one: along.directions.index(one[0]))
        policy = along.spectrum.batchnorm or self.project.problems[along.spectrum.problem].batchnorm
        if policy == "recalibrated":
            self.write(f"checkpoint = {self.use('recalibrated', 'analysis.connectivity')}(problem, checkpoint)")
            self.write('problem = problem.with_batchnorm("frozen")')
        labels = [direction.label for direction in along.directions]
        named = f"labels={_value(labels)}"
        return f"{self.use('Plane')}.along({', '.join(['checkpoint', *(vector for _, vector in vectors), named])})"

    # ---- curvature ----------------------------------------------------------------------------------------

    def place(self, request: SpectrumRequest) -> None:
        """The problem, and the checkpoint or the point of a surface where a spectrum is."""
        if request.at is None:
            self.problem(request.problem, request.batchnorm)
            self.checkpoint(request.problem, request.checkpoint)
            return
        there = request.at.surface
        space, name = self.subspace(there), _space_name(there)
        self.write(f"{name} = {space}")
        usual = there.batchnorm or self.project.problems[there.problem].batchnorm
        if there.along or (request.batchnorm or self.project.problems[request.problem].batchnorm) != usual:
            policy = request.batchnorm or self.project.problems[request.problem].batchnorm
            self.write(f"problem = problem.with_batchnorm({_text(policy)})")
        point = ", ".join(repr(float(value)) for value in request.at.point)
        weights = f"{name}.point({point}), {name}.origin.buffers"
        self.write(f"checkpoint = {self.use('Checkpoint')}({weights}, {_text(f'at {request.at}')})")

    def search(self, request: SpectrumRequest, part: Part, name: str) -> None:
        problem = self.project.problems[request.problem]
        layers = layer_names(problem, part.layer) if part.layer else None
        options = ["problem", "checkpoint"]
        options += [f"kind={_text(part.matrix)}"] if part.matrix != "hessian" else []
        options += [f"layers={_value(layers)}"] if layers else []
        if part.of_class is not None:
            options.append(f"samples={self.use('samples_by_class', 'analysis.curvature')}(problem)[{part.of_class}]")
        entries = problem.structure.entries
        names = [n for n in (layers or entries) if not entries[n].frozen]
        size = sum(entries[n].shape.numel() for n in names)
        largest = min(request.largest, size)
        smallest = min(request.smallest, size - largest) if part.matrix == "hessian" else 0
        counts = f"largest={largest}, smallest={smallest}, most_products={request.most_products}, seed={request.seed}"
        self.write(
            f"operator = {self.use('Curvature')}({', '.join(options)})",
            f"{name} = {self.use('Eigenpairs')}(operator, {counts})",
        )

    def spectrum(self, request: SpectrumRequest) -> None:
        self.place(request)
        parts = request.parts(self.project.problems[request.problem])
        for i, part in enumerate(parts):
            suffix = f"-{i}" if len(parts) > 1 else ""
            if suffix:
                self.write("", f"# {part.label}".replace("\n", " "))
            self.search(request, part, "search")
            self.write("*_, eigenvalues = search.steps()", f'{self.use("save")}(eigenvalues, "eigenvalues{suffix}.nc")')
            if request.probes:
                options = f"deflate={DEFLATED}, probes={request.probes}, degree={request.degree}, seed={request.seed}"
                made = f"{self.use('density', 'analysis.curvature')}(operator, search, {options})"
                self.write(f"*_, spectrum = {made}", f'save(spectrum, "density{suffix}.nc")')

    def trajectory(self, request: TrajectoryRequest) -> None:
        self.problem(request.problem, request.batchnorm)
        self.checkpoints(request.problem, request.checkpoints)
        names = ("largest", "smallest", "trace_products", "seed")
        options = _arguments({name: getattr(request, name) for name in names}, TrajectoryRequest)
        options = [f"kind={_text(request.matrix)}"] * (request.matrix != "hessian") + options
        made = ", ".join(["problem", "checkpoints", *options])
        self.write(f"*_, ds = {self.use('along_training')}({made})", f'{self.use("save")}(ds, "trajectory.nc")')

    # ---- connectivity -------------------------------------------------------------------------------------

    def connectivity(self, request: ConnectivityRequest) -> None:
        self.problem(request.problem, request.batchnorm)
        self.checkpoints(request.problem, request.checkpoints)
        usual = ConnectivityRequest.convention
        convention = [f"convention={_text(request.convention)}"] if request.convention != usual else []
        self._paths("checkpoints", "before", len(request.checkpoints), [*convention, f"points={POINTS}"])
        if request.matching == NONE:
            return
        for name in ("find_symmetries", "match_many", "average"):
            self.use(name, "analysis.connectivity")
        method = _text(request.matching)
        self.write(
            "symmetries = find_symmetries(problem)",
            f"permutations = match_many(symmetries, checkpoints, method={method}, problem=problem)",
            "pairs = zip(permutations, checkpoints, strict=True)",
            "matched = [permutation.apply(checkpoint) for permutation, checkpoint in pairs]",
        )
        self._paths("matched", "after", len(request.checkpoints), [*convention, f"points={POINTS}"])
        merged = "average(problem, matched)"
        if request.repair:
            options = [*convention, f"points={POINTS}"]
            self._paths("matched", "repaired", len(request.checkpoints), options, "repaired_barrier", "symmetries")
            merged = f"{self.use('repaired', 'analysis.connectivity')}(symmetries, problem, {merged}, matched)"
        self.use("save_checkpoint")
        self.write(f'save_checkpoint({merged}, "merged.safetensors")')

    def pair(self, request: PairRequest, result: xr.Dataset | None) -> None:
        """The plane, the curve or the layers between two checkpoints."""
        self.problem(request.problem, request.batchnorm)
        if isinstance(request, PlaneRequest) and request.third != CURVE:
            self.matched_plane(request, result)
            return
        self.checkpoints(request.problem, (request.first, request.second))
        if isinstance(request, PlaneRequest | CurveRequest):
            search = self.use("CurveSearch", "analysis.connectivity")
            options = [f"steps={request.updates}"]
            if isinstance(request, CurveRequest) and request.convention != CurveRequest.convention:
                options.append(f"convention={_text(request.convention)}")
            self.write(f"search = {search}({', '.join(['problem', '*checkpoints', *options])})")
            self.write("*_, ds = search.steps()")
            if isinstance(request, PlaneRequest):
                self.write("plane = search.curve.plane()")
                self.over_plane(result)
        else:
            self.write(f"*_, ds = {self.use('layer_barriers', 'analysis.connectivity')}(problem, *checkpoints)")
        self.write(f'{self.use("save")}(ds, "{request.kind}.nc")')

    def over_plane(self, result: xr.Dataset | None) -> None:
        options = ["problem", "plane"]
        if result is not None:
            options.append(f"strategy={self.strategy(Strategy.of(provenance(result)['strategy']))}")
        self.write(f"*_, ds = {self.use('surface')}({', '.join(options)})")

    def matched_plane(self, request: PlaneRequest, result: xr.Dataset | None) -> None:
        self.checkpoints(request.problem, request.checkpoints)
        for name in ("find_symmetries", "match_many"):
            self.use(name, "analysis.connectivity")
        a, b = (request.checkpoints.index(name) for name in (request.first, request.second))
        back = f".then(permutations[{a}].inverse())" if a else ""
        self.write(
            "symmetries = find_symmetries(problem)",
            f"permutations = match_many(symmetries, checkpoints, method={_text(request.matching)}, problem=problem)",
            f"matched = permutations[{b}]{back}.apply(checkpoints[{b}])",
            f"plane = {self.use('Plane')}.through(checkpoints[{a}], checkpoints[{b}], matched)",
        )
        self.over_plane(result)
        self.write(f'{self.use("save")}(ds, "plane.nc")')

    def _paths(
        self, checkpoints: str, name: str, count: int, options: list[str], function: str = "barrier", *first: str
    ) -> None:
        barrier, save = self.use(function, "analysis.connectivity"), self.use("save")
        if count == 2:
            made = ", ".join([*first, "problem", f"*{checkpoints}", *options])
            self.write(f"*_, path = {barrier}({made})", f'{save}(path, "{name}.nc")')
            return
        pairs = self.use("combinations", "itertools")
        made = ", ".join([*first, "problem", "a", "b", *options])
        self.write(
            f"for i, (a, b) in enumerate({pairs}({checkpoints}, 2)):",
            f"    *_, path = {barrier}({made})",
            f'    {save}(path, f"{name}-{{i}}.nc")',
        )


def _space_name(request: Request) -> str:
    return "line" if SLICES[request.slice].dims == 1 else "plane"


def _arguments(given: dict[str, Any], usual: type) -> list[str]:
    """Keyword arguments, without those that are as usual for a class whose fields have these names."""
    known = {name: getattr(usual, name, _Nothing) for name in given}
    return [f"{name}={_value(value)}" for name, value in given.items() if value != known[name]]


class _Nothing:
    """Equal to no default."""


def _value(value: Any) -> str:
    """A plain value as Python writes it, strings in double quotes."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(_value, value))
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _as_sorted(name: str) -> tuple[bool, str]:
    """Classes before functions, as import sorters have them."""
    return not name[0].isupper(), name
