import subprocess
import sys

import pytest
import xarray as xr
from models import mlp_problem

from analysis import Line, ResultError, load, save, surface


@pytest.fixture
def result():
    problem = mlp_problem()
    *_, ds = surface(problem, Line.random(problem.checkpoint()), resolution=21)
    return ds


def test_round_trip(result, tmp_path):
    path = save(result, tmp_path / "r.nc")
    back = load(path)
    xr.testing.assert_equal(back, result)
    assert back.loss.attrs == pytest.approx(result.loss.attrs, nan_ok=True)
    assert back.marker_name.values.tolist() == ["Sequential"]
    assert back.computed.dtype == bool


def test_a_failed_save_leaves_the_old_file_and_nothing_else(result, tmp_path):
    path = save(result, tmp_path / "r.nc")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(result.assign_attrs(bad={"nested": 1}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r.nc"]


def test_saving_nowhere(result, tmp_path):
    with pytest.raises(ResultError, match="does not exist"):
        save(result, tmp_path / "no" / "r.nc")


def test_files_that_are_no_results(result, tmp_path):
    with pytest.raises(ResultError, match="There is no result file"):
        load(tmp_path / "none.nc")
    (tmp_path / "text.nc").write_text("hello")
    with pytest.raises(ResultError, match="cannot be read as netCDF"):
        load(tmp_path / "text.nc")
    whole = save(result, tmp_path / "r.nc").read_bytes()
    (tmp_path / "cut.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultError, match="cut short"):
        load(tmp_path / "cut.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ResultError, match="not a result of this package"):
        load(tmp_path / "other.nc")


def test_the_backend_imports_nothing_of_the_app():
    code = (
        "import sys, analysis\n"
        "bad = {'landscape_app', 'panel', 'holoviews', 'bokeh', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
