"""The commands about several checkpoints: barriers and curves between them, symmetries, matching and merging."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from analysis import Checkpoint, LandscapeError, Problem, Project, save_checkpoint
from analysis.connectivity import (
    CurveSearch,
    Matching,
    StraightThrough,
    Symmetries,
    average,
    barrier,
    barrier_matrix,
    find_symmetries,
    layer_barriers,
    match_activations,
    match_weights,
    merge,
)
from analysis.connectivity.barrier import CONVENTIONS
from analysis.connectivity.curves import KINDS as CURVES
from analysis.connectivity.merging import METHODS
from landscape_app.command import check_out, computed, followed, opened, under_policy
from landscape_app.text import duration, number

CHECKPOINTS = (".safetensors", ".pt", ".pth")


def add(commands: Any) -> None:
    """Add the commands to those of ``landscape``."""
    path = _about(
        commands, "barrier", _barrier, "compute the loss barrier on the straight line between two checkpoints"
    )
    path.add_argument("start", metavar="A", help="a checkpoint, by name or as a file")
    path.add_argument("end", metavar="B", help="another")
    path.add_argument("--out", type=Path, metavar="FILE.nc", help="save the path as netCDF")
    path.add_argument("--convention", choices=CONVENTIONS, default="sup", help="what is called a barrier (default sup)")
    path.add_argument("--points", type=int, default=25, metavar="N", help="an odd number of places (default 25)")
    path.add_argument("--tolerance", type=float, default=0.01, help="of the height, to refine to (default 0.01)")

    path.add_argument("--layers", action="store_true", help="of each layer alone, and of layers together, half-way")

    curve = _about(commands, "curve", _curve, "train a curve of low loss between two checkpoints, and save it")
    curve.add_argument("start", metavar="A", help="a checkpoint, by name or as a file")
    curve.add_argument("end", metavar="B", help="another")
    curve.add_argument("--out", required=True, type=Path, metavar="FILE.nc", help="save the losses along it as netCDF")
    curve.add_argument("--kind", choices=CURVES, default="bezier", help="of curve (default bezier)")
    curve.add_argument("--bends", type=int, default=1, metavar="N", help="points between its ends (default 1)")
    curve.add_argument("--steps", type=int, default=1000, metavar="N", help="of training (default 1000)")
    curve.add_argument("--learning-rate", type=float, default=5e-3, metavar="ETA", help="of Adam (default 0.005)")
    curve.add_argument(
        "--convention", choices=CONVENTIONS, default="sup", help="what is called a barrier (default sup)"
    )
    curve.add_argument("--seed", type=int, default=0, metavar="S", help="of places and batches (default 0)")

    matrix = _about(commands, "matrix", _matrix, "compute the loss barriers between all pairs of checkpoints")
    matrix.add_argument(
        "checkpoints", nargs="*", metavar="A B", help="by name or as files (default: all of the project)"
    )
    matrix.add_argument("--out", required=True, type=Path, metavar="FILE.nc", help="save the barriers as netCDF")
    matrix.add_argument(
        "--convention", choices=CONVENTIONS, default="sup", help="what is called a barrier (default sup)"
    )
    matrix.add_argument("--points", type=int, default=25, metavar="N", help="an odd number of places (default 25)")

    match = _about(commands, "match", _match, "permute the units of B to fit those of A, and save it")
    match.add_argument("reference", metavar="A", help="a checkpoint, by name or as a file")
    match.add_argument("moving", metavar="B", help="the one whose units move; its function stays")
    _adds_matching(match, (*METHODS, "straight-through"), "; straight-through follows the loss half-way")
    match.add_argument("--restarts", type=int, default=0, metavar="N", help="random starts of the weights method")
    match.add_argument("--steps", type=int, default=200, metavar="N", help="of straight-through (default 200)")

    merged = _about(commands, "merge", _merge, "average checkpoints in the units of the first, and save the average")
    merged.add_argument("checkpoints", nargs="+", metavar="A B", help="two or more, by name or as files")
    _adds_matching(merged, METHODS)
    merged.add_argument("--repair", action="store_true", help="restore the spread of activations (REPAIR)")

    report = _about(commands, "symmetries", _symmetries, "say which units of a model may be exchanged, and which not")
    report.add_argument("--seed", type=int, default=0, metavar="S", help="of the elements that are tried (default 0)")


def _about(commands: Any, name: str, run: Callable, words: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words)
    parser.add_argument("project", metavar="PROJECT[:PROBLEM]", help="a project file, and which of its problems")
    if name != "symmetries":
        parser.add_argument("--batchnorm", metavar="POLICY", help="recalibrated, frozen or batch")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _adds_matching(parser: argparse.ArgumentParser, methods: tuple[str, ...], more: str = "") -> None:
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help=f"to save: {', '.join(CHECKPOINTS)}")
    parser.add_argument(
        "--method",
        choices=methods,
        default="weights",
        help=f"what is compared: weights (default) or activations{more}",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the order of steps (default 0)")


def _barrier(options: argparse.Namespace) -> int:
    if options.out is not None:
        check_out(options.out)
    problem, start, end = _chosen(options, options.start, options.end)
    if options.layers:
        return computed(layer_barriers(problem, start, end), options.out, problem.name, "evaluations", _said_of_layers)
    steps = barrier(
        problem, start, end, convention=options.convention, points=options.points, tolerance=options.tolerance
    )
    return computed(steps, options.out, problem.name, "evaluations", _said_of_barrier)


def _said_of_layers(result: xr.Dataset) -> str:
    facts = result.attrs
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}"
    alone, control = result["loss_barrier"], result["loss_control"].mean("draw")
    first, second = (str(name) for name in result["into"].values)
    heights = [
        f"{layer}: {number(alone[i, 0])} in {first}, {number(alone[i, 1])} in {second} (as far at random "
        f"{number(control[i, 0])}, {number(control[i, 1])})"
        for i, layer in enumerate(result["layer"].values)
    ]
    return "; ".join([facts["title"], spent, "rise of loss half-way", *heights])


def _curve(options: argparse.Namespace) -> int:
    check_out(options.out)
    problem, start, end = _chosen(options, options.start, options.end)
    search = CurveSearch(
        problem,
        start,
        end,
        kind=options.kind,
        bends=options.bends,
        steps=options.steps,
        learning_rate=options.learning_rate,
        convention=options.convention,
        seed=options.seed,
    )
    return computed(search.steps(), options.out, problem.name, "evaluations", _said_of_barrier)


def _matrix(options: argparse.Namespace) -> int:
    check_out(options.out)
    project, name = opened(options.project)
    problem, *checkpoints = _chosen(options, *(options.checkpoints or project.checkpoint_names(name)))
    steps = barrier_matrix(problem, checkpoints, convention=options.convention, points=options.points)
    return computed(steps, options.out, problem.name, "evaluations", _said_of_matrix)


def _said_of_matrix(result: xr.Dataset) -> str:
    facts, heights = result.attrs, result["loss_barrier"]
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}"
    names, pairs = result["row_name"].values, zip(*np.triu_indices(len(heights), 1), strict=True)
    said = [f"{names[i]} – {names[j]} {number(heights[i, j])}" for i, j in pairs]
    return "; ".join([facts["title"], spent, f"barrier of loss: {', '.join(said)}"])


def _said_of_barrier(result: xr.Dataset) -> str:
    facts = result.attrs
    spent = f"{facts['evaluations']:,} evaluations in {duration(facts['elapsed_s'])}"
    heights = [
        f"barrier of {name} {number(height)} at t = {number(result[f'{name}_barrier_at'])}"
        if not (height := float(result[f"{name}_barrier"])) <= 0
        else f"no barrier of {name}"
        for name in _barriers(result)
    ]
    return "; ".join([facts["title"], spent, *heights])


def _barriers(result: xr.Dataset) -> list[str]:
    """Metrics of the whole data whose barrier a result holds."""
    found = [str(name).removesuffix("_barrier") for name in result.data_vars if str(name).endswith("_barrier")]
    return [name for name in found if not result[f"{name}_barrier"].ndim]


def _match(options: argparse.Namespace) -> int:
    check_out(options.out, CHECKPOINTS)
    problem, reference, moving = _chosen(options, options.reference, options.moving)
    symmetries = find_symmetries(problem)
    print(_certified(symmetries))
    status = 0
    if options.method == "straight-through":
        search = StraightThrough(symmetries, problem, reference, moving, steps=options.steps, seed=options.seed)
        _, status = followed(search.steps(), problem.name, "evaluations")
        if search.matching is None:
            return status
        matching = search.matching
    elif options.method == "weights":
        matching = match_weights(
            symmetries, reference, moving, seed=options.seed, restarts=options.restarts, problem=problem
        )
    else:
        matching = match_activations(symmetries, problem, reference, moving)
    print(_said_of_matching(matching, reference, moving))
    saved = replace(matching.checkpoint, info={**moving.info, "matched_to": reference.digest, "by": options.method})
    save_checkpoint(saved, options.out)
    print(f"Saved: {options.out} ({moving.name} in the units of {reference.name})")
    if status:
        return status
    for words, end in (("before", moving), ("after", matching.checkpoint)):
        if (end.weights - reference.weights).norm() == 0:
            print(f"{words}: {moving.name} holds the same weights as {reference.name}; there is no barrier")
            continue
        result, status = followed(barrier(problem, reference, end), words, "evaluations")
        if status or result is None:
            return status
        print(f"{words}: {_said_of_barrier(result)}")
    return 0


def _certified(found: Symmetries) -> str:
    whole = found.table().splitlines()[0]
    if found.certificate is None:
        return f"{whole}; nothing to certify"
    change, control = (number(v, 2) for v in (found.certificate.change, found.certificate.control))
    return (
        f"{whole}; certified: random permutations change the outputs by at most {change} of the largest, leaving out "
        f"one axis of one changes them by {control} or more"
    )


def _said_of_matching(matching: Matching, reference: Checkpoint, moving: Checkpoint) -> str:
    distances = [number((c.weights - reference.weights).norm()) for c in (moving, matching.checkpoint)]
    said = f"distance {distances[0]} before, {distances[1]} after; start: {matching.start}"
    if not matching.converged:
        said += "; stopped before no step was left"
    return said + (f"; left as they are: {', '.join(matching.left)}" if matching.left else "")


def _merge(options: argparse.Namespace) -> int:
    check_out(options.out, CHECKPOINTS)
    problem, *checkpoints = _chosen(options, *options.checkpoints)
    plain = average(problem, checkpoints)
    symmetries = find_symmetries(problem)
    print(_certified(symmetries))
    merged = merge(symmetries, problem, checkpoints, method=options.method, repair=options.repair, seed=options.seed)
    origin = {f"merged_{i}": checkpoint.digest for i, checkpoint in enumerate(checkpoints, 1)}
    save_checkpoint(replace(merged.checkpoint, info={**origin, "by": options.method}), options.out)
    named = [(c.name, c) for c in checkpoints] + [("average as they are", plain), ("merged", merged.checkpoint)]
    for name, checkpoint in named:
        values = ", ".join(f"{metric} {number(value)}" for metric, value in _measured(problem, checkpoint).items())
        print(f"{name}: {values}")
    print(f"Saved: {options.out} (average of {len(checkpoints)} checkpoints in the units of {checkpoints[0].name})")
    return 0


def _measured(problem: Problem, checkpoint: Checkpoint) -> dict[str, float]:
    classes = {measure.name: measure.classes for measure in problem.measures}
    return {name: value for name, (value, _) in problem.measure(checkpoint).items() if not classes[name]}


def _symmetries(options: argparse.Namespace) -> int:
    project, name = opened(options.project)
    found = find_symmetries(project.problems[name], seed=options.seed)
    said, *table = found.table().splitlines()
    print("\n".join([_certified(found) if found.certificate else said, *table]))
    return 0


def _chosen(options: argparse.Namespace, *names: str) -> Any:
    """The problem, and checkpoints of it. Raises LandscapeError."""
    project, name = opened(options.project)
    problem = under_policy(project, name, options.batchnorm)
    return problem, *(_checkpoint(project, name, wanted) for wanted in names)


def _checkpoint(project: Project, problem: str, wanted: str) -> Checkpoint:
    """One that the project names, or a file."""
    if wanted not in project.checkpoint_names(problem) and Path(wanted).suffix:
        if not Path(wanted).exists():
            raise LandscapeError(
                f"'{problem}' has no checkpoint '{wanted}', and there is no such file; it has "
                f"{', '.join(project.checkpoint_names(problem))}."
            )
        return project.problems[problem].checkpoint(wanted)
    return project.checkpoint(problem, wanted)
