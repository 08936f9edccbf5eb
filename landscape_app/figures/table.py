"""The numbers of a figure as a table: one row a point, an eigenvalue, a checkpoint or a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from landscape_app import picture

if TYPE_CHECKING:
    import pandas as pd


def table(ds: xr.Dataset, kind: str, metric: str | None) -> pd.DataFrame:
    """All that has one value in each row. metric: one of a class, `name[class]`, goes along."""
    rows = _rows(ds, kind)
    if kind == "layers":
        ds = ds.mean("draw", keep_attrs=True)
    columns: dict[str, xr.DataArray] = {}
    for name, values in {**ds.coords, **ds.data_vars}.items():
        if set(values.dims) <= set(rows) and values.dims and name not in rows:
            columns[str(name)] = values
    for name in [str(name) for name in ds.data_vars if kind == "layers" and "order" in ds[name].dims]:
        columns |= {f"{name}[{order}]": ds[name].sel(order=order, drop=True) for order in ds["order"].values}
    name, bracket, index = (metric or "").rstrip("]").partition("[")
    for one in (name, f"{name}_se") if bracket else ():
        classes = set(ds[one].dims) - set(rows)
        columns[f"{one}[{index}]"] = ds[one].isel(dict.fromkeys(classes, int(index)))
    plain = {name: values.drop_vars(list(values.coords)) for name, values in columns.items()}
    coordinates = {name: ds[name].values for name in rows if name in ds.coords}
    frame = xr.Dataset(plain, coordinates).to_dataframe(dim_order=list(rows)).reset_index()
    numbers = [name for name in _measured(ds, kind) if name in frame]
    return frame.dropna(subset=numbers, how="all") if numbers else frame


def _rows(ds: xr.Dataset, kind: str) -> tuple[str, ...]:
    """The dims whose places are rows, slowest first."""
    if kind == "surface":
        return (*(["seed"] if "seed" in ds.dims else []), *reversed(picture.axes(ds)))
    if kind == "spectrum":
        return ("part", "pair") if "part" in ds.dims else ("pair",)
    if kind == "trajectory":
        return "checkpoint", "pair"
    if kind == "layers":
        return "layer", "into"
    if "stage" in ds.dims:
        return "stage", "pair", "place"
    return ("row", "column") if kind == "matrix" else ("t",)


def _measured(ds: xr.Dataset, kind: str) -> list[str]:
    """Columns one of which a row has to have: results of different lengths are filled up with NaN."""
    return {"spectrum": ["eigenvalue"], "trajectory": ["eigenvalue"], "path": ["loss"]}.get(kind, [])
