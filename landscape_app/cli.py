"""The ``landscape`` command: compute a surface, look into a file, start the dashboard."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from analysis import LandscapeError, Project, ProjectError, load_project, save
from landscape_app import projects
from landscape_app.about import describe
from landscape_app.request import Request
from landscape_app.text import duration, number, percent

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PLANES = ("random", "line", "through", "gradient", "trajectory")
INTERRUPTED = 130


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
    surface.add_argument("--seed", type=int, default=0, help="of the random directions (default 0)")
    surface.add_argument("--extent", type=float, nargs="+", metavar="LO HI", help="of each axis, or of all alike")
    surface.add_argument("--resolution", type=int, nargs="+", default=[101], metavar="N", help="points along each axis")
    surface.add_argument("--tolerance", type=float, default=0.01, help="interpolation error to stop at (default 0.01)")
    surface.add_argument("--batchnorm", metavar="POLICY", help="recalibrated, frozen or batch")
    surface.add_argument("--dense", action="store_true", help="evaluate each point and interpolate nothing")
    surface.set_defaults(run=_surface, parser=surface)

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


def _surface(options: argparse.Namespace) -> int:
    file, _, wanted = options.project.partition(".py:")
    project = load_project(f"{file}.py" if wanted else file)
    problem = _problem(project, wanted)
    request = Request(
        problem=problem,
        slice=_slice(options.plane, options.checkpoint),
        checkpoints=tuple(options.checkpoint) or project.checkpoint_names(problem)[-_fewest(options.plane) :],
        seed=options.seed,
        extent=_pairs(options.extent),
        resolution=options.resolution[0] if len(options.resolution) == 1 else tuple(options.resolution),
        tolerance=0.0 if options.dense else options.tolerance,
        batchnorm=options.batchnorm,
    )
    if options.out.is_dir() or options.out.suffix not in (".nc", ".nc4", ".h5"):
        raise LandscapeError(f"--out {options.out}: give the name of a netCDF file, such as surface.nc.")
    if not options.out.parent.is_dir():
        raise LandscapeError(f"--out: the folder '{options.out.parent}' does not exist; create it first.")
    return _computed(request, project, options.out)


def _computed(request: Request, project: Project, out: Path) -> int:
    """Compute with a progress bar; what there is at Ctrl-C is saved all the same."""
    result, status = None, 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that runs out of time keeps what it has
    with closing(request.steps(project)) as steps, tqdm(unit=" evaluations", desc=request.problem) as bar:
        try:
            for result in steps:
                bar.total = result.attrs["planned_evaluations"]
                bar.update(result.attrs["evaluations"] - bar.n)
        except KeyboardInterrupt:
            status = INTERRUPTED
    if result is None:
        print("landscape: interrupted before the first value; nothing is saved.", file=sys.stderr)
        return status
    save(result, out)
    facts = result.attrs
    error = f", interpolation error {percent(facts['interpolation_error'])}" if facts["status"] != "dense" else ""
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}{error}"
    part = "Interrupted; what there is so far is saved" if status else "Saved"
    loss = result["loss"]
    print(f"{part}: {out} ({facts['title']}; {spent}; loss {number(loss.min())} to {number(loss.max())})")
    return status


def _problem(project: Project, wanted: str) -> str:
    names = list(project.problems)
    if not wanted and len(names) > 1:
        raise ProjectError(f"{project.name} has {len(names)} problems; name one after a colon: {', '.join(names)}.")
    if wanted and wanted not in names:
        raise ProjectError(f"{project.name} has no problem '{wanted}'; it has {', '.join(names)}.")
    return wanted or names[0]


def _slice(plane: str, checkpoints: Sequence[str]) -> str:
    if plane == "line":
        return "line" if len(checkpoints) > 1 else "random-line"
    return {"random": "random-plane", "through": "plane"}.get(plane, plane)


def _fewest(plane: str) -> int:
    return {"through": 2, "trajectory": 0}.get(plane, 1)  # the last 0 of a sequence are all of it


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
    arguments += ["--unused-session-lifetime", "5000", "--check-unused-sessions", "2000"]
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
