"""What the commands of the command line share: projects, output files, progress."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import cast

import xarray as xr
from tqdm import tqdm

from analysis import LandscapeError, Problem, Project, ProjectError, load_project, save

INTERRUPTED = 130
NETCDF = (".nc", ".nc4", ".h5")


def check_out(out: Path, suffixes: Sequence[str] = NETCDF) -> None:
    """Refuse a name that nothing can be saved under, before anything is computed."""
    if out.is_dir() or out.suffix not in suffixes:
        kind = "netCDF" if suffixes == NETCDF else "checkpoint"
        raise LandscapeError(f"--out {out}: give the name of a {kind} file, such as result{suffixes[0]}.")
    if not out.parent.is_dir():
        raise LandscapeError(f"--out: the folder '{out.parent}' does not exist; create it first.")


def computed(
    results: Iterator[xr.Dataset], out: Path | None, name: str, unit: str, said: Callable[[xr.Dataset], str]
) -> int:
    """Compute with a progress bar and save; what there is at Ctrl-C is saved all the same. Returns the exit status."""
    result, status = followed(results, name, unit)
    if result is None:
        print("landscape: interrupted before the first value; nothing is saved.", file=sys.stderr)
        return status
    if out is not None:
        save(result, out)
    if status:
        done = f"Interrupted; what there is so far is saved: {out}" if out else "Interrupted"
    else:
        done = f"Saved: {out}" if out else "Done"
    print(f"{done} ({said(result)})")
    return status


def followed(results: Iterator[xr.Dataset], name: str, unit: str) -> tuple[xr.Dataset | None, int]:
    """The last of some results, with a progress bar, and the exit status: `INTERRUPTED` after Ctrl-C."""
    result, status = None, 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that runs out of time keeps what it has
    with closing(cast(Generator, results)) as steps, tqdm(unit=f" {unit}", desc=name) as bar:
        try:
            for result in steps:
                bar.total = result.attrs.get(f"planned_{unit}")
                bar.update(result.attrs[unit] - bar.n)
        except KeyboardInterrupt:
            status = INTERRUPTED
    return result, status


def opened(given: str) -> tuple[Project, str]:
    """A project, and the name of one of its problems."""
    file, _, wanted = given.partition(".py:")
    project = load_project(f"{file}.py" if wanted else file)
    return project, _problem(project, wanted)


def under_policy(project: Project, name: str, batchnorm: str | None) -> Problem:
    """One of a project's problems, under the BatchNorm policy that was asked for."""
    problem = project.problems[name]
    return problem if batchnorm is None else problem.with_batchnorm(batchnorm)


def _problem(project: Project, wanted: str) -> str:
    names = list(project.problems)
    if not wanted and len(names) > 1:
        raise ProjectError(f"{project.name} has {len(names)} problems; name one after a colon: {', '.join(names)}.")
    if wanted and wanted not in names:
        raise ProjectError(f"{project.name} has no problem '{wanted}'; it has {', '.join(names)}.")
    return wanted or names[0]
