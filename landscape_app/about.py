"""What a file holds, in lines of text: a result, a checkpoint or a project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from analysis import LandscapeError, load, load_project, of_seed, provenance, read_checkpoint
from landscape_app import picture, words
from landscape_app.text import number


def describe(path: Path) -> Iterator[str]:
    """Lines that say what is in a file, whatever its kind. Raises LandscapeError."""
    if not path.exists():
        raise LandscapeError(f"There is no file '{path}'.")
    if path.suffix == ".py":
        return _project(path)
    return _result(path) if path.suffix in (".nc", ".h5") else _checkpoint(path)


def _result(path: Path) -> Iterator[str]:
    ds = load(path)
    if "sample" not in ds.dims:
        yield from _numbers(ds)
        return
    title, conditions = words.caption(ds)
    yield title
    yield conditions
    shape = " × ".join(f"{ds.sizes[name]} {name}" for name in picture.axes(ds))
    yield f"{shape}; {ds.attrs['evaluations']:,} evaluations; status: {ds.attrs['status']}"
    views = [of_seed(ds, i) for i in range(ds.sizes["seed"])] if "seed" in ds.dims else [ds]
    for view in (view for view in views if view.attrs["status"] != "waiting"):
        of = f"seed {provenance(view)['seed']}: " if len(views) > 1 else ""
        for key in picture.metrics(view).values():
            yield f"  {of}{words.summary(view, picture.metric(view, key))}"
    yield "checkpoints"
    for name, said in words.checkpoint_lines(views[0], picture.metric(views[0], "loss")):
        yield f"  {name}: {said}"
    yield "provenance"
    for depth, what, value in words.provenance_rows(provenance(ds)):
        yield f"  {'  ' * depth}{what}{': ' if value else ''}{value}"


def _numbers(ds: xr.Dataset) -> Iterator[str]:
    """Of a result that is no picture, such as a spectrum."""
    yield ds.attrs["title"]
    yield f"status: {ds.attrs['status']}"
    for name, variable in ds.data_vars.items():
        dims = " × ".join(f"{size} {dim}" for dim, size in variable.sizes.items())
        known = variable.values[~np.isnan(variable.values)] if variable.dtype.kind == "f" else variable.values
        values = f"{number(known.min())} to {number(known.max())}" if known.size else "not computed"
        yield f"  {variable.attrs.get('long_name', name)} [{dims}]: {values}"
    yield "provenance"
    for depth, what, value in words.provenance_rows(provenance(ds)):
        yield f"  {'  ' * depth}{what}{': ' if value else ''}{value}"


def _checkpoint(path: Path) -> Iterator[str]:
    file = read_checkpoint(path)
    count = len(file.state_dicts)
    yield f"{path.name}: checkpoint with {count} state dict{'' if count == 1 else 's'}"
    for key, state in file.state_dicts.items():
        tensors = state.tensors
        numbers = sum(t.numel() for t in tensors.values())
        yield f"  {key or '(top level)'}: {len(tensors):,} tensors, {numbers:,} numbers"
    for name, value in file.info.items():
        yield f"  {name} = {value}"
    if file.placeholders:
        yield f"  not loaded (inert): {', '.join(file.placeholders)}"


def _project(path: Path) -> Iterator[str]:
    project = load_project(path)
    yield f"{path.name}: project with {len(project.problems)} problem{'' if len(project.problems) == 1 else 's'}"
    for name, problem in project.problems.items():
        yield f"{name}"
        yield f"  {type(problem.model).__name__}, {problem.structure.numel:,} parameters; {problem.n:,} samples"
        yield f"  metrics: {', '.join(problem.metrics)}; BatchNorm: {problem.batchnorm}"
        yield f"  checkpoints: {', '.join(project.checkpoint_names(name))}"
