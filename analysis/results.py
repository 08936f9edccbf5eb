"""Results: one xarray schema, with provenance, saved to netCDF and read back.

A result's picture lies on named coordinates. Beside each metric stand its standard error over the data,
``<metric>_se``, and one mask ``computed``: True where the value was evaluated at exactly that point, False
where it was interpolated or is not known yet (NaN). NaN and inf where ``computed`` is True are what the loss
returned. ``loss_error`` is the estimated interpolation error about each point, a fraction of the range of the loss: 0
where it is computed, NaN elsewhere until the last result. The evaluated points are listed along ``sample``, the
checkpoints along ``marker``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from .errors import ResultError
from .files import whole_file
from .provenance import versions

if TYPE_CHECKING:
    from .problem import Problem
    from .subspace import Subspace

SCHEMA = "landscape/1"


def provenance_json(problem: Problem, subspace: Subspace, strategy: Mapping[str, Any], **more: Any) -> str:
    """All that determines the values, as one JSON string (netCDF attributes do not nest)."""
    return json.dumps(
        {
            **problem.provenance(),
            **subspace.provenance(),
            "strategy": dict(strategy),
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        }
    )


def provenance(ds: xr.Dataset) -> dict[str, Any]:
    """The provenance of a result as nested Python objects."""
    return json.loads(ds.attrs["provenance"])


def save(ds: xr.Dataset, path: str | Path) -> Path:
    """Write a result as netCDF-4. The file appears whole or not at all.

    Raises ResultError if the folder does not exist or cannot be written to.
    """
    path = Path(path)
    with whole_file(path, "surface.nc", ResultError) as temporary:
        ds.assign_attrs(schema=SCHEMA).to_netcdf(temporary, engine="h5netcdf")
    return path


def load(path: str | Path) -> xr.Dataset:
    """Read a result into memory. Raises ResultError if the file is not one that `save` wrote."""
    path = Path(path)
    if not path.is_file():
        raise ResultError(f"There is no result file '{path}'.")
    try:
        ds = xr.load_dataset(path, engine="h5netcdf")
    except Exception as error:
        raise ResultError(
            f"'{path.name}' ({path.stat().st_size:,} bytes) cannot be read as netCDF: it is damaged, cut short, or "
            f"another kind of file ({type(error).__name__})."
        ) from error
    if ds.attrs.get("schema") != SCHEMA:
        raise ResultError(
            f"'{path.name}' is a netCDF file, but not a result of this package (schema "
            f"{ds.attrs.get('schema')!r}; expected {SCHEMA!r})."
        )
    return ds
