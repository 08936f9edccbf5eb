"""The same random line or plane for several seeds, and how much the pictures differ."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
import xarray as xr

from .errors import LandscapeError
from .evaluate import Strategy
from .problem import Problem
from .results import provenance
from .subspace import Subspace
from .surface import surface


def over_seeds(
    problem: Problem,
    make: Callable[[int], Subspace],
    seeds: Sequence[int],
    *,
    strategy: Strategy | None = None,
    resume: xr.Dataset | None = None,
    **options: Any,
) -> Iterator[xr.Dataset]:
    """Surfaces of one kind of line or plane for several seeds, and their mean and spread at each point.

    One random direction shows one slice; curves averaged over several, ten in Wu, Xia and Wang 2020 (Adversarial Weight
    Perturbation, arXiv:2004.05884), compare checkpoints. The seeds are computed one after the other, each as `surface`
    does, with the extent and the strategy of the first.

    make: the line or plane of a seed, as ``lambda seed: Plane.random(checkpoint, seed=seed)``.
    strategy and options (extent, resolution, tolerance, dense): those of `surface`.
    resume: an earlier result of this function, or of `surface` with one of the seeds.

    Yields Datasets whose pictures have the leading dim ``seed``: each metric and ``<metric>_se``, the standard error
    over the data, ``loss_error`` and the mask ``computed``, all [seed, ...]. ``<metric>_mean`` and ``<metric>_std``
    [...] are the mean and the sample standard deviation (n - 1) over the seeds that are finished; NaN for fewer than
    one and two of them. Evaluated points of all seeds are listed along ``sample``, with the place of their seed in
    ``sample_seed``. ``seed_status``, ``seed_evaluations`` and ``seed_interpolation_error`` [seed] are those of the
    surfaces. The checkpoints (``marker_...``) lie as in the first. `of_seed` gives back the result of one seed.

    Close the generator to cancel. Raises LandscapeError for bad arguments before anything is evaluated.
    """
    seeds = _valid_seeds(seeds)
    for name in (f"{metric}_{suffix}" for metric in problem.metrics for suffix in ("mean", "std")):
        if name in problem.metrics:
            raise LandscapeError(f"A metric is named '{name}', as its value over seeds would be; give it another name.")
    earlier = _earlier(resume, seeds)
    for seed in [seeds[0], *list(earlier)[:1]]:
        surface(problem, make(seed), strategy=strategy, resume=earlier.get(seed), **options)
    return _computed(problem, make, seeds, strategy, earlier, options)


def _valid_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    given = list(seeds) if isinstance(seeds, (Sequence, np.ndarray)) else []
    if not given or not all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s >= 0 for s in given):
        raise LandscapeError(f"seeds is {seeds!r}; expected whole numbers of at least 0, such as range(5).")
    return tuple(int(seed) for seed in given)


def _earlier(resume: xr.Dataset | None, seeds: Sequence[int]) -> dict[int, xr.Dataset]:
    """What an earlier result holds of the seeds. Raises LandscapeError if that is nothing."""
    if resume is None:
        return {}
    parts = [of_seed(resume, i) for i in range(resume.sizes["seed"])] if "seed" in resume.dims else [resume]
    found = {provenance(part).get("seed"): part for part in parts if part.sizes["sample"]}
    common = {seed: found[seed] for seed in seeds if seed in found}
    if not common:
        raise LandscapeError(
            f"The earlier result cannot be resumed: it holds values of the seeds {list(found)}, and wanted are "
            f"{list(seeds)}. Start anew, or name its seeds too."
        )
    return common


def _computed(
    problem: Problem,
    make: Callable[[int], Subspace],
    seeds: tuple[int, ...],
    strategy: Strategy | None,
    earlier: dict[int, xr.Dataset],
    options: dict[str, Any],
) -> Iterator[xr.Dataset]:
    started = time.perf_counter()
    done: list[xr.Dataset] = []
    for seed in seeds:
        steps = surface(problem, make(seed), strategy=strategy, resume=earlier.get(seed), **options)
        with closing(cast(Generator, steps)):
            for current in steps:
                yield _together(problem, seeds, [*done, current], time.perf_counter() - started)
        done.append(current)
        facts = provenance(current)
        strategy = Strategy.of(facts["strategy"])
        options = options | {"extent": facts["extent"]}


def _together(problem: Problem, seeds: tuple[int, ...], results: list[xr.Dataset], elapsed: float) -> xr.Dataset:
    """The results of the first seeds, the last of which may be unfinished, as one."""
    first, last, n = results[0], results[-1], len(seeds)
    finished = [ds for ds in results if ds.attrs["status"] != "running"]
    variables: dict[str, Any] = {}
    for name in [*(name for m in problem.measures for name in (m.name, f"{m.name}_se")), "loss_error"]:
        attrs = {k: v for k, v in first[name].attrs.items() if k in ("long_name", "units")}
        variables[name] = ("seed", *first[name].dims), _stacked([ds[name].values for ds in results], n, np.nan), attrs
    for measure in problem.measures:
        mean, spread = _mean_and_spread([ds[measure.name].values for ds in finished], first[measure.name].shape)
        dims, units = first[measure.name].dims, {"units": measure.units}
        variables[f"{measure.name}_mean"] = (
            dims,
            mean,
            {"long_name": f"mean over seeds of {measure.long_name}", **units},
        )
        words = f"standard deviation over seeds of {measure.long_name}"
        variables[f"{measure.name}_std"] = dims, spread, {"long_name": words, **units}
    variables["computed"] = (
        ("seed", *first["computed"].dims),
        _stacked([ds["computed"].values for ds in results], n, False),
        first["computed"].attrs,
    )
    counts = [ds.sizes["sample"] for ds in results]
    for name in (str(v) for v in first.data_vars):
        if name.startswith("sample_"):
            variables[name] = first[name].dims, np.concatenate([ds[name].values for ds in results])
        elif name.startswith("marker_"):
            variables[name] = first[name]
    variables["sample_seed"] = "sample", np.repeat(np.arange(len(results)), counts)
    waiting = n - len(results)
    statuses = [ds.attrs["status"] for ds in results] + ["waiting"] * waiting
    errors = [ds.attrs["interpolation_error"] for ds in results]
    variables["seed_status"] = "seed", np.array(statuses, dtype=object)
    variables["seed_evaluations"] = "seed", np.array(counts + [0] * waiting)
    variables["seed_interpolation_error"] = "seed", np.array(errors + [np.nan] * waiting)
    status = "running" if len(finished) < n else next(s for s in ("unconverged", "converged", "dense") if s in statuses)
    planned = sum(counts[:-1]) + last.attrs["planned_evaluations"] * (1 + waiting)
    progress = (len(results) - 1 + last.attrs["progress"]) / n
    facts = provenance(first) | {"seed": list(seeds), "axes": _axes_of(seeds, results)}
    attrs = first.attrs | {
        "title": f"{first.attrs['title']}, seeds {', '.join(map(str, seeds))}",
        "status": status,
        "progress": min(progress, 1.0 if status != "running" else 0.999),
        "evaluations": sum(counts),
        "planned_evaluations": sum(counts) if status != "running" else planned,
        "elapsed_s": elapsed,
        "eta_s": (planned - sum(counts)) * elapsed / max(sum(counts), 1) if status == "running" else 0.0,
        "interpolation_error": max(errors) if np.isfinite(errors).all() else np.nan,
        "provenance": json.dumps(facts),
    }
    return xr.Dataset(variables, {**first.coords, "seed": list(seeds)}, attrs)


def _stacked(parts: list[np.ndarray], n: int, filling: float | bool) -> np.ndarray:
    """[n, ...] with the parts first and the filling after them."""
    return np.stack([*parts, *[np.full_like(parts[0], filling)] * (n - len(parts))])


def _mean_and_spread(parts: list[np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sample standard deviation; from differences to the first, so that equal parts have no spread at all."""
    if not parts:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    with np.errstate(invalid="ignore"):
        away = np.stack(parts) - parts[0]
        mean = np.where(np.isfinite(parts[0]), parts[0] + away.mean(0), np.stack(parts).mean(0))
        spread = away.std(0, ddof=1) if len(parts) > 1 else np.full(shape, np.nan)
    return mean, spread


def _axes_of(seeds: Sequence[int], results: list[xr.Dataset]) -> list[dict[str, Any]]:
    return [{"seed": seed, **axis} for seed, ds in zip(seeds, results, strict=False) for axis in provenance(ds)["axes"]]


def of_seed(ds: xr.Dataset, place: int) -> xr.Dataset:
    """The result of one seed out of a result over seeds, as `surface` gives it.

    place: which of the seeds, from 0. Raises LandscapeError if there is no such seed.
    """
    if "seed" not in ds.dims or not 0 <= place < ds.sizes["seed"]:
        held = f"{ds.sizes['seed']} seeds" if "seed" in ds.dims else "no dim 'seed'"
        raise LandscapeError(f"place is {place}; the result holds {held}.")
    kept = [str(n) for n in ds.data_vars if not str(n).startswith("seed_") and n != "sample_seed"]
    kept = [n for n in kept if not (n.endswith(("_mean", "_std")) and n.rpartition("_")[0] in ds)]
    one = ds[kept].isel(seed=place, sample=np.flatnonzero(ds["sample_seed"].values == place)).drop_vars("seed")
    facts = provenance(ds)
    seed, dims = facts["seed"][place], len({"t", "a", "b"} & set(map(str, ds.dims)))
    axes = facts["axes"][place * dims : (place + 1) * dims]
    own = [{key: value for key, value in axis.items() if key != "seed"} for axis in axes]
    return one.assign_attrs(
        title=ds.attrs["title"].partition(", seeds ")[0],
        status=str(ds["seed_status"].values[place]),
        evaluations=int(ds["seed_evaluations"][place]),
        interpolation_error=float(ds["seed_interpolation_error"][place]),
        provenance=json.dumps(facts | {"seed": seed, "axes": own}),
    )
