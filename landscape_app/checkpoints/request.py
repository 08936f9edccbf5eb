"""What to measure of checkpoints: whether each fits, its norm and distance, and its loss and metrics."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from analysis import Checkpoint, Problem
from analysis.measures import Measure
from landscape_app.text import explain

UNKNOWN, MISFIT, FITS = -1, 0, 1
NUMBERS = {
    "step": "training step",
    "epoch": "training epoch",
    "norm": "norm of the weights",
    "distance": "distance of the weights",
    "written": "when it was written",
}


@dataclass(frozen=True)
class MeasureRequest:
    """All that is measured. checkpoints: names. reference: the one that distances are counted from.

    evaluate: whether the loss and the metrics are, one pass over the data for each checkpoint.
    """

    problem: str
    checkpoints: tuple[str, ...]
    reference: str
    evaluate: bool = True

    def steps(self, project: Any, earlier: xr.Dataset | None = None) -> Generator[xr.Dataset, None, None]:
        """A row a checkpoint, which fill up. A checkpoint that cannot be read or does not fit is a row as well.

        earlier: a result of the same kind, whose rows of files that were not written since are taken over.
        """
        problem = project.problems[self.problem]
        rows = _taken(earlier, self, project)
        facts = problem.provenance()
        yield _dataset(self, problem, rows, facts)
        reference: Checkpoint | None = None
        for name in [name for name in (self.reference, *self.checkpoints) if name not in rows]:
            if name in rows:
                continue
            row: dict[str, Any] = {"fits": FITS, "reason": "", "written": project.modified(self.problem, name)}
            try:
                checkpoint = project.checkpoint(self.problem, name)
                if reference is None:
                    same = name == self.reference
                    reference = checkpoint if same else _read(project, self.problem, self.reference)
                row |= _row(problem, checkpoint, reference, self.evaluate)
            except Exception as error:  # of the user's own code, too: the next one may do
                row |= {"fits": MISFIT, "reason": explain(error)[0]}
            rows[name] = row
            yield _dataset(self, problem, rows, facts)


def measures(problem: Problem) -> list[Measure]:
    """Those that have one value a checkpoint."""
    return [measure for measure in problem.measures if not measure.classes]


def _read(project: Any, problem: str, name: str) -> Checkpoint | None:
    try:
        return project.checkpoint(problem, name)
    except Exception:  # its own row says why
        return None


def _row(problem: Problem, checkpoint: Checkpoint, reference: Checkpoint | None, evaluate: bool) -> dict[str, Any]:
    row = {**stated(checkpoint.info), "norm": checkpoint.weights.norm()}
    if reference is not None:
        row["distance"] = (checkpoint.weights - reference.weights).norm()
    if evaluate:
        found = problem.measure(checkpoint)
        for measure in measures(problem):
            row[measure.name], row[f"{measure.name}_se"] = map(float, found[measure.name])
    return row


def stated(info: Mapping[str, Any]) -> dict[str, float]:
    """The step and the epoch that a file states: in some they are text."""
    found = {}
    for name in ("step", "epoch"):
        with suppress(KeyError, TypeError, ValueError):
            found[name] = float(info[name])
    return found


def _taken(earlier: xr.Dataset | None, request: MeasureRequest, project: Any) -> dict[str, dict[str, Any]]:
    if earlier is None:
        return {}
    rows = {}
    for place, name in enumerate(earlier["name"].values.astype(str)):
        one = earlier.isel(checkpoint=place)
        row = {str(key): one[key].values.item() for key in earlier.data_vars}
        current = row["written"] == project.modified(request.problem, name)
        if row["fits"] != UNKNOWN and current and name in request.checkpoints:
            rows[name] = row
    return rows if request.reference in rows else {}


def _dataset(
    request: MeasureRequest, problem: Problem, rows: Mapping[str, Mapping[str, Any]], facts: dict[str, Any]
) -> xr.Dataset:
    names, along = request.checkpoints, "checkpoint"
    every = [rows.get(name, {}) for name in names]

    def numbers(name: str) -> np.ndarray:
        return np.array([row.get(name, np.nan) for row in every], dtype=np.float64)

    variables: dict[str, Any] = {
        "fits": (along, np.array([row.get("fits", UNKNOWN) for row in every], dtype=np.int8)),
        "reason": (along, np.array([row.get("reason", "") for row in every], dtype=object)),
    }
    variables |= {name: (along, numbers(name), {"long_name": said}) for name, said in NUMBERS.items()}
    for measure in measures(problem) if request.evaluate else ():
        about = {"long_name": measure.long_name, "units": measure.units}
        error = {**about, "long_name": f"standard error of {measure.long_name}"}
        variables |= {measure.name: (along, numbers(measure.name), about)}
        variables |= {f"{measure.name}_se": (along, numbers(f"{measure.name}_se"), error)}
    done = sum(name in rows for name in names)
    return xr.Dataset(
        variables,
        coords={"name": (along, np.array(names, dtype=object))},
        attrs={
            "title": f"measures of {len(names)} checkpoints",
            "status": "done" if done == len(names) else "running",
            "progress": done / len(names) if done < len(names) else 1.0,
            "measured": done,
            "planned": len(names),
            "provenance": json.dumps({**facts, "asked": asdict(request)}),
        },
    )
