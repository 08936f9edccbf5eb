"""The ``landscape`` command: compute results, draw them, look into a file, start the dashboard."""

from __future__ import annotations

import argparse
import errno
import json
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from tqdm import tqdm

from analysis import Checkpoint, LandscapeError, Problem, Project, ProjectError, load, provenance, sharpness
from analysis.curvature import Curvature, Eigenpairs, along_training, density, samples_by_class
from analysis.curvature.operators import KINDS
from analysis.curvature.sharpness import GEOMETRIES
from analysis.directions import KINDS as KINDS_THAT_MOVE
from analysis.directions import NORMALISATIONS
from analysis.subspace import BASES, CENTRES, UNITS
from landscape_app import connecting, projects, publishing
from landscape_app.about import describe
from landscape_app.command import INTERRUPTED, check_out, computed, opened, under_policy
from landscape_app.request import SLICES, Request
from landscape_app.text import duration, number, percent
from landscape_app.trajectory import words as trajectory_words

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PLANES = ("random", "line", "through", "gradient", "trajectory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return options.run(options)
    except LandscapeError as error:
        print(f"landscape: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # of `landscape info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="landscape", description="Loss landscapes of your own PyTorch models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    surface = commands.add_parser("surface", help="compute a surface and save it as netCDF")
    surface.add_argument("project", metavar="PROJECT[:PROBLEM]", help="a project file, and which of its problems")
    surface.add_argument("--out", required=True, type=Path, metavar="FILE.nc", help="where to save the result")
    surface.add_argument(
        "--checkpoint", action="append", default=[], metavar="NAME", help="by name; may be repeated (default: the last)"
    )
    surface.add_argument(
        "--plane",
        choices=PLANES,
        default="random",
        help="random directions at one checkpoint; a line at one or between two; a plane through two or three; "
        "along the gradient at one; the principal plane of three or more in their order",
    )
    surface.add_argument(
        "--seed", type=int, nargs="+", default=[0], metavar="S", help="of the random directions (default 0), or several"
    )
    surface.add_argument("--seeds", type=int, metavar="N", help="so many seeds, from --seed on: their mean and spread")
    surface.add_argument(
        "--normalisation", choices=NORMALISATIONS, help="of random directions: by filter (default), layer or weight"
    )
    surface.add_argument(
        "--layers", nargs="+", metavar="PATTERN", help="parameters that random directions move, such as 'features.*'"
    )
    surface.add_argument(
        "--include", nargs="+", choices=KINDS_THAT_MOVE, metavar="KIND",
        help=f"what random directions move, of {', '.join(KINDS_THAT_MOVE)} (default: weight)",
    )  # fmt: skip
    surface.add_argument(
        "--frozen", action="store_true", help="random directions move what the model does not train too"
    )
    surface.add_argument("--centre", choices=CENTRES, help="origin of a plane through three (default: the first)")
    surface.add_argument("--basis", choices=list(BASES), help="axes of a plane through three (default gram-schmidt)")
    surface.add_argument("--units", choices=UNITS, help="what one unit is on a plane through three checkpoints")
    surface.add_argument("--resume", type=Path, metavar="FILE.nc", help="take over what an earlier result evaluated")
    surface.add_argument("--extent", type=float, nargs="+", metavar="LO HI", help="of each axis, or of all alike")
    surface.add_argument("--resolution", type=int, nargs="+", default=[101], metavar="N", help="points along each axis")
    surface.add_argument("--tolerance", type=float, default=0.01, help="interpolation error to stop at (default 0.01)")
    surface.add_argument("--batchnorm", metavar="POLICY", help="recalibrated, frozen or batch")
    surface.add_argument("--dense", action="store_true", help="evaluate each point and interpolate nothing")
    surface.set_defaults(run=_surface, parser=surface)

    spectrum = _at_checkpoint(commands, "spectrum", _spectrum, "compute eigenvalues of a curvature matrix")
    spectrum.add_argument("--kind", choices=list(KINDS), default="hessian", help="which matrix (default hessian)")
    spectrum.add_argument("--class", dest="label", type=int, metavar="C", help="samples of this class alone")
    spectrum.add_argument("--largest", type=int, default=5, metavar="K", help="so many from the top (default 5)")
    spectrum.add_argument("--smallest", type=int, default=1, metavar="K", help="so many from the bottom (default 1)")
    spectrum.add_argument(
        "--products", type=int, default=1000, metavar="N", help="at most, for the eigenvalues (default 1000)"
    )
    spectrum.add_argument(
        "--resume", type=Path, metavar="FILE.nc", help="go on from an unfinished result, with FILE.nc.run beside it"
    )
    spectrum.add_argument("--density", action="store_true", help="the density of all eigenvalues as well")
    spectrum.add_argument("--tolerance", type=float, default=1e-3, help="residual / eigenvalue (default 0.001)")
    spectrum.add_argument("--seed", type=int, default=0, metavar="S", help="of the random vectors (default 0)")

    run = _of_curvature(commands, "trajectory", _trajectory, "compute eigenvalues and trace along a run")
    run.add_argument(
        "--checkpoint", action="append", default=[], metavar="NAME", help="by name; may be repeated (default: all)"
    )
    run.add_argument("--kind", choices=list(KINDS), default="hessian", help="which matrix (default hessian)")
    run.add_argument("--largest", type=int, default=3, metavar="K", help="so many from the top (default 3)")
    run.add_argument("--smallest", type=int, default=1, metavar="K", help="so many from the bottom (default 1)")
    run.add_argument("--tolerance", type=float, default=1e-2, help="residual / eigenvalue (default 0.01)")
    run.add_argument(
        "--trace-products", type=int, default=20, metavar="N", help="for the trace at each (default 20; 0 for none)"
    )
    run.add_argument(
        "--learning-rate", type=float, metavar="ETA", help="of the run (default: what each checkpoint's file says)"
    )
    run.add_argument("--seed", type=int, default=0, metavar="S", help="of the random vectors (default 0)")

    sharp = _at_checkpoint(commands, "sharpness", _sharpness, "compute worst-case and average sharpness")
    sharp.add_argument(
        "--radius", type=float, nargs="+", default=[0.05, 0.1, 0.2], metavar="R", help="of the worst case"
    )
    sharp.add_argument(
        "--sigma", type=float, nargs="+", default=[0.005, 0.01, 0.02], metavar="S", help="of the average case"
    )
    sharp.add_argument(
        "--geometry", nargs="+", choices=list(GEOMETRIES), default=list(GEOMETRIES), help="(default: all three)"
    )
    sharp.add_argument("--seed", type=int, default=0, metavar="S", help="of the random vectors (default 0)")

    connecting.add(commands)
    publishing.add(commands)

    serve = commands.add_parser("serve", help="start the dashboard, with the shipped samples or your project")
    serve.add_argument("project", nargs="?", type=Path, metavar="PROJECT", help="a project file")
    serve.add_argument("--port", type=int, default=5006)
    serve.add_argument("--address", default="127.0.0.1", help="which network may reach it (default: this machine only)")
    serve.add_argument("--no-show", dest="show", action="store_false", help="do not open a browser")
    serve.set_defaults(run=_serve, parser=serve)

    info = commands.add_parser("info", help="say what is in a result, a checkpoint or a project file")
    info.add_argument("file", type=Path)
    info.set_defaults(run=_info, parser=info)
    return parser


def _at_checkpoint(commands: Any, name: str, run: Callable, words: str) -> argparse.ArgumentParser:
    """A command about the curvature at one checkpoint."""
    parser = _of_curvature(commands, name, run, f"{words} at a checkpoint")
    parser.add_argument("--checkpoint", metavar="NAME", help="by name (default: the last)")
    return parser


def _of_curvature(commands: Any, name: str, run: Callable, words: str) -> argparse.ArgumentParser:
    """A command about curvature, with the options that these share."""
    parser = commands.add_parser(name, help=f"{words} and save them as netCDF")
    parser.add_argument("project", metavar="PROJECT[:PROBLEM]", help="a project file, and which of its problems")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.nc", help="where to save the result")
    parser.add_argument("--layers", nargs="+", metavar="PATTERN", help="parameters that count, such as 'features.*'")
    parser.add_argument("--batchnorm", metavar="POLICY", help="recalibrated, frozen or batch")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _surface(options: argparse.Namespace) -> int:
    if not 0 < options.tolerance < 1:
        raise LandscapeError(
            f"--tolerance is {options.tolerance:g}; expected a fraction of the range between 0 and 1. "
            "--dense evaluates each point and interpolates nothing."
        )
    project, problem = opened(options.project)
    kind = _slice(options.plane, options.checkpoint)
    request = Request(
        problem=problem,
        slice=kind,
        checkpoints=tuple(options.checkpoint) or SLICES[kind].usual(project.checkpoint_names(problem)),
        seed=options.seed[0],
        seeds=_seeds(options.seed, options.seeds),
        extent=_pairs(options.extent),
        resolution=options.resolution[0] if len(options.resolution) == 1 else tuple(options.resolution),
        tolerance=0.0 if options.dense else options.tolerance,
        batchnorm=options.batchnorm,
        normalisation=options.normalisation,
        include=tuple(options.include) if options.include else None,
        layers=tuple(options.layers) if options.layers else None,
        frozen=options.frozen or None,
        centre=options.centre,
        basis=options.basis,
        units=options.units,
    )
    check_out(options.out)
    steps = request.steps(project, resume=load(options.resume) if options.resume else None)
    return computed(steps, options.out, request.problem, "evaluations", _said_of_surface)


def _said_of_surface(result: xr.Dataset) -> str:
    facts, loss = result.attrs, result["loss"]
    error = facts["interpolation_error"]
    known = percent(error) if np.isfinite(error) else "not known yet"
    said = f", interpolation error {known}" if facts["status"] != "dense" else ""
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}{said}"
    return f"{facts['title']}; {spent}; loss {number(loss.min())} to {number(loss.max())}"


def _spectrum(options: argparse.Namespace) -> int:
    check_out(options.out)
    problem, checkpoint = _problem_and_checkpoint(options)
    chosen = None
    if options.label is not None:
        parts = samples_by_class(problem)
        if options.label not in parts:
            raise LandscapeError(f"--class {options.label}: there are samples of the classes {list(parts)}.")
        chosen = parts[options.label]
    operator = Curvature(problem, checkpoint, kind=options.kind, layers=options.layers, samples=chosen)
    search = Eigenpairs(
        operator,
        largest=options.largest,
        smallest=options.smallest,
        tolerance=options.tolerance,
        most_products=options.products,
        seed=options.seed,
    )
    if options.resume is not None:
        search.resume(_run_of(options.resume))
    steps = _spectra(search, options.density, options.label)
    status = computed(steps, options.out, problem.name, "products", _said_of_spectrum)
    if search.status != "converged" and options.out.exists():
        search.save(_run_of(options.out))
        raised = "" if search.status == "running" else " and a larger --products"
        print(f"To go on from here: --resume {options.out}{raised}.")
    return status


def _run_of(result: Path) -> Path:
    """Where the search stands that a result is of."""
    return result.with_name(f"{result.name}.run")


def _spectra(search: Eigenpairs, with_density: bool, label: int | None) -> Iterator[xr.Dataset]:
    """Eigenvalues better and better, then with a density beside them that reuses their vectors."""
    more = {} if label is None else {"class": label}
    with closing(cast(Generator, search.steps())) as steps:
        for found in steps:
            said = json.dumps(provenance(found) | more)
            title = found.attrs["title"] + ("" if label is None else f", class {label}")
            status = "running" if with_density else found.attrs["status"]
            yield found.assign_attrs(provenance=said, title=title, status=status)
    if not with_density:
        return
    found = found.assign_attrs(provenance=said, title=title)
    with closing(cast(Generator, density(search.operator, search, seed=search.seed))) as steps:
        for part in steps:
            facts, done = found.attrs, part.attrs["status"] != "running"
            extra = {name: part[name] for name in ("deflated", "deflated_residual", "node", "weight")}
            yield found.assign(extra).assign_attrs(
                parameters=part.attrs["parameters"],
                products=facts["products"] + part.attrs["products"],
                elapsed_s=facts["elapsed_s"] + part.attrs["elapsed_s"],
                status=facts["status"] if done else "running",
                progress=part.attrs["progress"],
            )


def _said_of_spectrum(result: xr.Dataset) -> str:
    facts, ends = result.attrs, []
    for end in ("largest", "smallest"):
        own = result.isel(pair=result["end"].values == end)
        values = [
            f"{number(value, 4)} ± {number(bar, 1)}{'' if settled else ' (not converged)'}"
            for value, bar, settled in zip(own["eigenvalue"], own["bound"], own["converged"], strict=True)
        ]
        ends += [f"{end} {', '.join(values)}"] if values else []
    return f"{facts['title']}; {facts['products']:,} products in {duration(facts['elapsed_s'])}; {'; '.join(ends)}"


def _trajectory(options: argparse.Namespace) -> int:
    check_out(options.out)
    project, name, problem = _problem_of(options)
    names = options.checkpoint or project.checkpoint_names(name)
    steps = along_training(
        problem,
        [project.checkpoint(name, checkpoint) for checkpoint in names],
        kind=options.kind,
        largest=options.largest,
        smallest=options.smallest,
        tolerance=options.tolerance,
        trace_products=options.trace_products,
        learning_rate=options.learning_rate,
        layers=options.layers,
        seed=options.seed,
    )
    return computed(_told(steps), options.out, problem.name, "checkpoints", _said_of_trajectory)


def _told(steps: Iterator[xr.Dataset]) -> Iterator[xr.Dataset]:
    """A line for each checkpoint that is finished."""
    told = 0
    with closing(cast(Generator, steps)) as results:
        for ds in results:
            for place in range(told, ds.attrs["checkpoints"]):
                tqdm.write(trajectory_words.at(ds, place))
            told = ds.attrs["checkpoints"]
            yield ds


def _said_of_trajectory(result: xr.Dataset) -> str:
    facts = result.attrs
    spent = f"{facts['checkpoints']} checkpoints, {facts['products']:,} products in {duration(facts['elapsed_s'])}"
    return " ".join([f"{facts['title']}; {spent}.", *trajectory_words.findings(result)])


def _sharpness(options: argparse.Namespace) -> int:
    check_out(options.out)
    problem, checkpoint = _problem_and_checkpoint(options)
    steps = sharpness(
        problem,
        checkpoint,
        radii=options.radius,
        sigmas=options.sigma,
        geometries=options.geometry,
        layers=options.layers,
        seed=options.seed,
    )
    return computed(steps, options.out, problem.name, "evaluations", _said_of_sharpness)


def _said_of_sharpness(result: xr.Dataset) -> str:
    facts, largest = result.attrs, result.isel(radius=-1, sigma=-1)
    at = ", ".join(
        f"{name} R0 {number(own['zeroth_order'])}, R1 {number(own['first_order'])}"
        for name, own in ((str(g), largest.sel(geometry=g)) for g in result["geometry"].values)
    )
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}"
    return f"{facts['title']}; {spent}; at least, within radius {number(largest['radius'])}: {at}"


def _problem_of(options: argparse.Namespace) -> tuple[Project, str, Problem]:
    """A project, the name of one of its problems, and that problem under the policy that is asked for."""
    project, name = opened(options.project)
    return project, name, under_policy(project, name, options.batchnorm)


def _problem_and_checkpoint(options: argparse.Namespace) -> tuple[Problem, Checkpoint]:
    project, name, problem = _problem_of(options)
    return problem, project.checkpoint(name, options.checkpoint or project.checkpoint_names(name)[-1])


def _slice(plane: str, checkpoints: Sequence[str]) -> str:
    if plane == "line":
        return "line" if len(checkpoints) > 1 else "random-line"
    return {"random": "random-plane", "through": "plane"}.get(plane, plane)


def _seeds(named: Sequence[int], count: int | None) -> tuple[int, ...]:
    """The seeds of a result over several of them; none where there is only one."""
    if len(set(named)) < len(named):
        raise LandscapeError(f"--seed names {', '.join(map(str, named))}; a seed counts once.")
    if count is None:
        return tuple(named) if len(named) > 1 else ()
    if count < 2 or len(named) > 1:
        raise LandscapeError("--seeds takes a number of 2 or more, and --seed one number then: the first of the seeds.")
    return tuple(range(named[0], named[0] + count))


def _pairs(extent: Sequence[float] | None) -> tuple[tuple[float, float], ...] | tuple[float, float] | None:
    if extent is None:
        return None
    if len(extent) not in (2, 4):
        raise LandscapeError(f"--extent takes LO HI or LO HI LO HI; got {len(extent)} numbers.")
    return tuple(extent) if len(extent) == 2 else (tuple(extent[:2]), tuple(extent[2:]))


def _info(options: argparse.Namespace) -> int:
    print("\n".join(describe(options.file)))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from panel.command import main as panel

    if options.project is not None:
        if not options.project.is_file():
            raise ProjectError(f"There is no project file '{options.project}'.")
        os.environ[projects.VARIABLE] = str(options.project.resolve())
    if _taken(options.address, options.port):
        raise LandscapeError(f"Port {options.port} of {options.address} is in use; choose another one with --port.")
    if options.address not in LOOPBACK:
        print(
            f"landscape: listening on {options.address}: everyone who reaches this port can use the dashboard, "
            "and there is no password. Put it behind a proxy that has one.",
            file=sys.stderr,
        )
    app = Path(__file__).parent
    arguments = [
        "serve",
        str(app),
        "--port",
        str(options.port),
        "--address",
        options.address,
        "--num-threads",
        "4",
    ]
    arguments += ["--unused-session-lifetime", "15000", "--check-unused-sessions", "2000"]
    sys.argv = ["panel", *arguments, *(["--show"] if options.show else [])]  # panel's main reads no argument
    panel()
    return 0


def _taken(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


if __name__ == "__main__":
    sys.exit(main())
