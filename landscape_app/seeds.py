"""A result over several seeds as one picture: their mean, their spread, or one of them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analysis import of_seed

MEAN, SPREAD = "mean", "spread"
Part = str | int  # MEAN, SPREAD, or the place of a seed


def parts(ds: xr.Dataset | None) -> dict[str, Part]:
    """What can be drawn of a result, by name; of one over no seeds only itself."""
    if ds is None or "seed" not in ds.dims:
        return {"Mean": MEAN}
    return {"Mean": MEAN, "Spread": SPREAD, **{f"Seed {seed}": i for i, seed in enumerate(ds["seed"].values.tolist())}}


def part(ds: xr.Dataset, which: Part) -> xr.Dataset:
    """That part of a result as a result of the usual form; one over no seeds is itself.

    Of the mean, ``<metric>_se`` is the standard deviation over the seeds, and ``<metric>_each`` [seed, ...] has the
    pictures that it is of. Only finished seeds count; until there is one, the first seed stands for the mean.
    """
    if "seed" not in ds.dims:
        return ds
    if isinstance(which, int):
        return of_seed(ds, which)
    finished = ~np.isin(ds["seed_status"].values.astype(str), ("running", "waiting"))
    if not finished.any():
        return of_seed(ds, 0)
    done = ds.isel(seed=finished)
    names = [str(n) for n in ds.data_vars if {f"{n}_mean", f"{n}_std", f"{n}_se"} <= set(ds.data_vars)]
    kept = [n for n in ds.data_vars if str(n).startswith(("sample_", "marker_")) and n != "sample_seed"]
    found = ds[kept].assign(computed=done["computed"].all("seed"))
    for name in names:
        facts = {key: value for key, value in ds[name].attrs.items() if key in ("long_name", "units")}
        values = ds[f"{name}_mean" if which == MEAN else f"{name}_std"]
        found[name] = values.dims, values.values, {**facts, "over": which}
        if which == MEAN:
            found[f"{name}_se"] = ds[f"{name}_std"]
            found[f"{name}_each"] = done[name].variable
        else:
            found[f"{name}_se"] = xr.full_like(ds[f"{name}_std"], np.nan)
    if which == SPREAD:  # no single evaluation has one
        found = found.isel(sample=slice(0)).drop_vars([f"marker_{name}" for name in names], errors="ignore")
    return found.assign_attrs(
        title=ds.attrs["title"].partition(", seeds ")[0],
        over_seeds=_said(done["seed"].values.tolist(), ds.sizes["seed"], which),
    )


def _said(seeds: list[int], of: int, which: Part) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]}, the first of {of}"
    named = f"seeds {listed(seeds)}" + (f" (of {of})" if len(seeds) < of else "")
    return f"standard deviation over {named}" if which == SPREAD else f"mean ± standard deviation over {named}"


def listed(seeds: list[int]) -> str:
    """'0–4' where they follow one another, else '7, 3'."""
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}–{seeds[-1]}"
    return ", ".join(map(str, seeds))
