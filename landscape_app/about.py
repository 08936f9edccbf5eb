"""What a file holds, in lines of text: a result, a checkpoint or a project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from analysis import LandscapeError, load, load_project, provenance, read_checkpoint
from landscape_app import picture, words


def describe(path: Path) -> Iterator[str]:
    """Lines that say what is in a file, whatever its kind. Raises LandscapeError."""
    if not path.exists():
        raise LandscapeError(f"There is no file '{path}'.")
    if path.suffix == ".py":
        return _project(path)
    return _result(path) if path.suffix in (".nc", ".h5") else _checkpoint(path)


def _result(path: Path) -> Iterator[str]:
    ds = load(path)
    title, conditions = words.caption(ds)
    yield title
    yield conditions
    shape = " × ".join(f"{ds.sizes[name]} {name}" for name in picture.axes(ds))
    yield f"{shape}; {ds.attrs['evaluations']:,} evaluations; status: {ds.attrs['status']}"
    for key in picture.metrics(ds).values():
        yield f"  {words.summary(ds, picture.metric(ds, key))}"
    yield "checkpoints"
    for name, said in words.checkpoint_lines(ds, picture.metric(ds, "loss")):
        yield f"  {name}: {said}"
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
