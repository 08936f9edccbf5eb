"""The Spectrum page as objects, without a browser: requests, state, what is drawn and what is said."""

import time

import numpy as np
import pytest
import torch
from bokeh.events import Tap
from conftest import PAYLOAD
from models import classification, mlp_problem

from analysis import Problem, Project, load, provenance, save
from analysis.curvature.density import density
from analysis.curvature.eigenpairs import Eigenpairs
from analysis.curvature.operators import Curvature
from landscape_app import words as surface_words
from landscape_app.curve import Curve
from landscape_app.entries import kind_of
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState, Snapshot
from landscape_app.pages.spectrum import SpectrumPage
from landscape_app.pages.surface import SurfacePage
from landscape_app.picture import Parabola, parabola
from landscape_app.spectrum import picture, words
from landscape_app.spectrum.request import SpectrumRequest, Vectors, basis_bytes, kinked, layers_of


def smooth(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


@pytest.fixture(scope="module")
def project():
    problem = Problem(smooth(), "cross_entropy", classification(), name="small")
    return Project(problem, {"one": smooth(), "two": smooth(1)})


@pytest.fixture
def explorer(project):
    return Explorer(project)


def wait(explorer, task):
    until = time.monotonic() + 120
    while not task.job.state.final:
        assert time.monotonic() < until
        time.sleep(0.01)
        explorer.session.poll()
    assert task.job.state is not JobState.FAILED, task.job.details or task.job.reason


def computed(explorer, **choices):
    task = explorer.state.spectrum
    task.param.update(largest=3, smallest=2, degree=12, **choices)
    task.compute = True
    wait(explorer, task)
    return task


# ---- what is computed ------------------------------------------------------------------------------------


def dense(problem, checkpoint, **options):
    operator = Curvature(problem.with_dtype(torch.float64), checkpoint, **options)
    return np.linalg.eigvalsh((operator @ torch.eye(operator.shape[1], dtype=torch.float64)).numpy())


def test_every_result_on_the_way_is_whole_and_the_last_one_is_true(project):
    problem = next(iter(project.problems.values()))
    request = SpectrumRequest(problem.name, "one", largest=3, smallest=2, degree=12)
    vectors = Vectors()
    results = list(request.steps(project, vectors))
    first, last = next(ds for ds in results if ds.sizes["pair"]), results[-1]
    assert first.attrs["products"] <= 5
    for ds in results:
        for part in picture.spectra(ds):
            assert np.isfinite(part.bounds).all()
            words.findings(part), words.rows(part), words.warnings(ds)
    truth = dense(problem, project.checkpoint(problem.name, "one"))
    (part,) = picture.spectra(last)
    expected = [*truth[::-1][:3], *truth[:2]]
    assert (np.abs(part.values - expected) <= part.bounds).all()
    assert part.converged.all()
    assert part.verified
    assert last.attrs["status"] == "converged"
    assert sorted(vectors.found) == [(0, pair) for pair in range(5)]
    assert [ds.attrs["progress"] for ds in results] == sorted(ds.attrs["progress"] for ds in results)


def test_a_spectrum_comes_back_from_a_file_and_so_does_one_of_the_command_line(project, explorer, tmp_path):
    task = computed(explorer)
    file = save(task.result, tmp_path / "spectrum.nc")
    assert kind_of(load(file)) == "spectrum"
    other = Explorer(project)
    other.state.upload = ("spectrum.nc", file.read_bytes())
    assert other.state.refused == ("", "")
    assert (other.state.page, other.state.spectrum.computed) == ("spectrum", task.computed)
    assert words.message(other.state.spectrum).title == "Opened from a file"
    assert other.state.spectrum.along is None  # its vectors stayed behind
    problem = next(iter(project.problems.values()))
    search = Eigenpairs(Curvature(problem), largest=2, smallest=1)
    *_, found = search.steps()
    *_, sampled = density(search.operator, search, degree=6)
    extra = {name: sampled[name] for name in ("deflated", "deflated_residual", "node", "weight")}
    for ds in (found, found.assign(extra).assign_attrs(parameters=sampled.attrs["parameters"])):
        other.state.upload = ("cli.nc", save(ds, tmp_path / "cli.nc").read_bytes())
        assert other.state.refused == ("", "")
        assert other.state.spectrum.result.attrs["title"] == found.attrs["title"]


def test_each_class_and_each_layer_have_a_panel_with_common_axes(explorer):
    page = SpectrumPage(explorer.state)
    task = computed(explorer, of_class="each", matrix=("hessian", "ggn"))
    parts = task.parts
    classes = {part.panel for part in parts}
    assert len(parts) == 2 * len(classes)
    assert all(part.samples < part.all_samples for part in parts)
    assert any("biased outward" in line for line in words.warnings(task.result))
    shown = [panel for panel in page.plot.panels if panel.pane.visible]
    assert len(shown) == len(classes)
    assert len({id(panel.figure.x_range) for panel in shown}) == 1
    assert len({id(panel.figure.y_range) for panel in shown}) == 1
    assert all(panel.legend.visible for panel in shown)
    assert all(len(panel.curves["ggn"].data["x"]) for panel in shown)
    assert {part.ends.tolist().count("smallest") for part in parts if part.matrix == "ggn"} == {0}
    task = computed(explorer, of_class="", layer="each", matrix=("hessian",))
    assert [part.panel for part in task.parts] == layers_of(next(iter(explorer.state.project.problems.values())))
    task = computed(explorer, layer="")
    assert [panel.pane.visible for panel in page.plot.panels].count(True) == 1


def test_the_memory_that_is_promised_is_that_of_the_basis(project):
    problem = next(iter(project.problems.values()))
    operator = Curvature(problem)
    promised = basis_bytes(operator.shape[1], problem.dtype.itemsize, 5, 10)
    assert promised == Eigenpairs(operator, largest=3, smallest=2).bytes
    assert (words.size(25_300_000), words.size(900), words.size(3.2e9)) == ("25 MB", "0.9 kB", "3.2 GB")


def test_kinks_are_seen_in_the_network_itself():
    assert kinked(mlp_problem())
    assert not kinked(Problem(smooth(), "cross_entropy", classification()))


def test_more_products_go_on_where_fewer_ended(explorer):
    task = computed(explorer, most_products=12)
    assert task.result.attrs["status"] == "unconverged"
    assert "Allow more products to go on" in words.message(task).body
    spent = explorer.state.entries[0].kept["vectors"].searches
    assert list(spent) == [0]
    task = computed(explorer, most_products=1000)
    job = explorer.session.spectrum
    assert job._kept["vectors"].earlier is explorer.state.entries[0].kept["vectors"]
    assert task.result.attrs["status"] == "converged"
    assert explorer.state.entries[1].kept["vectors"].searches == {}
    *_, ds = Eigenpairs(Curvature(*whole(explorer)), largest=3, smallest=2).steps()
    np.testing.assert_array_equal(task.parts[0].values, ds["eigenvalue"].values)
    task = computed(explorer, seed=3)
    assert job._kept["vectors"].earlier is None  # other choices: from the beginning


def whole(explorer):
    project = explorer.state.project
    return project.problems["small"], project.checkpoint("small", explorer.state.spectrum.checkpoint)


# ---- what is chosen --------------------------------------------------------------------------------------


def test_choices_that_change_make_a_result_stale_and_come_back_with_it(explorer):
    task = computed(explorer)
    assert (task.stale, task.answered) == (False, True)
    task.layer = layers_of(next(iter(explorer.state.project.problems.values())))[0]
    assert task.stale
    explorer.state.show = 1
    assert (task.stale, task.layer, task.recalled) == (False, "", True)
    assert words.message(task).title == "Shown again"


def test_layers_and_classes_are_split_one_at_a_time(explorer):
    task = explorer.state.spectrum
    task.of_class = "each"
    task.layer = "each"
    assert (task.layer, task.of_class, task.request().each) == ("each", "", "layer")


def test_the_page_follows_the_surface_until_it_has_a_spectrum_of_its_own(explorer):
    state = explorer.state
    state.first = "two"
    assert state.spectrum.checkpoint == "two"
    computed(explorer)
    state.first = "one"
    assert state.spectrum.checkpoint == "two"


def test_both_pages_keep_one_list_and_each_its_own_job(explorer):
    state = explorer.state
    task = computed(explorer)
    state.param.update(resolution=51)
    state.compute = True
    wait(explorer, state)
    assert [entry.kind for entry in state.entries] == ["spectrum", "surface"]
    assert state.entries is task.entries
    assert (task.shown, state.shown) == (1, 2)
    assert "3 vectors" not in words.entry_line(state.entries[0])
    assert "5 vectors in memory" in words.entry_line(state.entries[0])
    assert set(state.param.other.objects) == {0}  # a spectrum is nothing to compare a surface with
    state.show = 1
    assert state.page == "spectrum"
    state.remove = 1
    assert (task.result, task.shown, state.shown, state.page) == (None, 0, 2, "spectrum")


# ---- what is drawn ---------------------------------------------------------------------------------------


def test_eigenvalues_have_their_bars_and_what_is_not_converged_is_marked(explorer):
    page = SpectrumPage(explorer.state)
    task = computed(explorer)
    (part,) = task.parts
    data = page.plot.panels[0].stems.data
    np.testing.assert_allclose(np.array(data["high"]) - data["low"], 2 * np.array(data["bound"]), atol=1e-12)
    assert set(data["dash"]) == {"solid"}
    assert len(data["x"]) == 5
    ds = task.result.copy(deep=True)
    ds["converged"][0, 1] = False
    task.result = ds
    data = page.plot.panels[0].stems.data
    assert data["dash"].count("dashed") == 1
    assert "not converged" in page.table.object
    assert len(data["x"]) == 5
    at, heights = picture.curve(part, picture.span([part]), 0.01)
    assert heights.sum() * (at[1] - at[0]) == pytest.approx(1, abs=0.02)


def test_another_bandwidth_or_scale_is_drawn_without_computing(explorer):
    page = SpectrumPage(explorer.state)
    task = computed(explorer)
    panel, job = page.plot.panels[0], explorer.session.spectrum.job
    before = np.array(panel.curves["hessian"].data["y"])
    task.width = -1.5
    assert not np.array_equal(panel.curves["hessian"].data["y"], before)
    high = panel.figure.y_range.end
    task.log_scale = False
    assert panel.figure.y_range.end != high
    assert explorer.session.spectrum.job is job
    assert page.plot.panels == [panel]


def test_a_tap_chooses_the_nearest_eigenvalue_and_the_list_does_the_same(explorer):
    page = SpectrumPage(explorer.state)
    task = computed(explorer)
    panel = page.plot.panels[0]
    data = panel.stems.data
    panel._tap(Tap(None, x=data["x"][0], y=data["top"][0]))
    assert task.chosen == task.pick == (data["part"][0], data["pair"][0])
    assert max(panel.stems.data["size"]) > min(panel.stems.data["size"])
    assert 'class="here"' in page.table.object
    task.pick = (0, 3)
    assert task.chosen == (0, 3)
    task.pick = ""
    assert task.chosen is None
    panel._tap(Tap(None, x=panel.figure.x_range.end, y=panel.figure.y_range.end))
    assert task.chosen is None


# ---- planes along eigenvectors ---------------------------------------------------------------------------


def test_an_eigenvalue_and_its_name_in_the_list_do_not_call_each_other_for_ever(explorer):
    task = computed(explorer)
    task.chosen = (0, 1)
    task.param.trigger("result")  # as a bound button does: every watcher is called, changed or not
    assert task.chosen == task.pick == (0, 1)


def test_the_plane_of_an_eigenvector_bends_as_its_eigenvalue_says_and_there_is_a_way_back(explorer):
    state, page = explorer.state, SurfacePage(explorer.state)
    task = computed(explorer)
    task.chosen = (0, 0)
    task.second = 1
    state.ask_plane()
    wait(explorer, state)
    assert (state.page, state.slice, state.shown) == ("surface", "eigenvectors", 2)
    assert state.computed == state.request()
    assert state.point == (0, 0)
    (part,) = task.parts
    for name, pair in (("a", 0), ("b", 1)):
        promise = parabola(state.result, name)
        assert promise.eigenvalue == pytest.approx(part.values[pair])
        line = state.result["loss"].sel({"b" if name == "a" else "a": 0}, method="nearest")
        t = state.result[name].values
        near = np.abs(t) < 0.1 * t.max()
        bend = 2 * np.polyfit(t[near], line.values[near], 2)[0]
        assert bend == pytest.approx(part.values[pair], rel=0.05)
    assert len(page.slices.slices["a"].parabola.data["t"])
    assert page.origin.visible
    assert "λ₁" in page.origin_text.object
    state.choose(*[ends / 2 for ends in (state.extent_a[1], state.extent_b[1])])
    assert not len(page.slices.slices["a"].parabola.data["t"])
    state.back()
    assert (state.page, task.shown) == ("spectrum", 1)


def test_without_its_vectors_a_spectrum_has_no_planes(explorer):
    task = computed(explorer)
    task.chosen = (0, 0)
    assert task.along is not None
    task.entries = tuple(entry.__class__(entry.number, entry.job, entry.request) for entry in task.entries)
    assert task.along is None
    explorer.state.ask_plane()
    assert explorer.state.job is None


def test_a_parabola_holds_up_to_the_first_place_that_is_off():
    t = np.linspace(-1, 1, 201)
    exact = Parabola(2.0, 0.0, 0.5, 1.0, "loss")
    assert exact.holds(t, exact(t)) == pytest.approx((-1, 1))
    low, high = exact.holds(t, exact(t) + np.where(t > 0, t**3, 0))
    assert low == pytest.approx(-1)
    assert high == pytest.approx(0.28, abs=0.02)  # t³ = (t / 2 + t² + t³) / 10


def test_the_spectrum_at_a_point_is_of_the_weights_there(explorer):
    state = explorer.state
    state.param.update(resolution=51)
    state.compute = True
    wait(explorer, state)
    assert state.place is None
    state.choose(0.4, -0.2)
    task = state.spectrum
    task.param.update(largest=2, smallest=1, degree=6)
    state.ask_spectrum()
    assert state.page == "spectrum"
    wait(explorer, task)
    a, b = state.point
    near = float(state.result["loss"].sel(a=a, b=b, method="nearest"))
    assert task.parts[0].loss == pytest.approx(near, rel=0.05)
    assert "(a = 0.4, b = −0.2)" in task.result.attrs["title"]
    assert provenance(task.result)["point"] == "a = 0.4, b = −0.2"
    task.at = None
    assert task.stale


# ---- words -----------------------------------------------------------------------------------------------


def test_every_state_of_the_job_has_words(explorer):
    task = explorer.state.spectrum
    assert "products of the matrix" in words.message(task).body
    assert "basis takes at most" in words.message(task).body
    task.job = Snapshot(JobState.QUEUED)
    assert words.message(task).title == "Waiting"
    task.job = Snapshot(JobState.RUNNING)
    assert words.message(task).title == "Starting"
    task.job = Snapshot(JobState.FAILED, reason="It broke.")
    assert words.message(task).tone == "bad"
    task.job = None
    task = computed(explorer)
    assert "no eigenvalue missing" in words.message(task).body
    task.job = Snapshot(JobState.CANCELLED, task.result)
    assert words.message(task).title == "Cancelled"
    said = words.findings(task.parts[0])
    for part in ("λmax = ", "λmin = ", "|λmin|/λmax", "trace about", "samples"):
        assert part in said


def test_names_of_others_are_text_never_html():
    problem = mlp_problem(name=PAYLOAD)
    explorer = Explorer(problem, {PAYLOAD: problem.model, "other": problem.model})
    page = SpectrumPage(explorer.state)
    computed(explorer)
    shown = [page.veil, page.findings, page.caption, page.table, page.provenance, page.warnings]
    shown += [row.said for row in page.results.rows.values()]
    assert PAYLOAD not in "".join(pane.object for pane in shown)


# ---- the softmax radius ----------------------------------------------------------------------------------


def test_the_softmax_radius_is_shaded_when_it_is_asked_for(explorer):
    state, page = explorer.state, SurfacePage(explorer.state)
    state.param.update(resolution=51, show_radius=True)
    state.compute = True
    wait(explorer, state)
    assert "Choose a point" in surface_words.radius(state)
    state.choose(0, 0)
    until = time.monotonic() + 60
    while state.radius is None:
        assert time.monotonic() < until
        time.sleep(0.01)
        explorer.session.poll()
    low, high = state.radius.ends["a"]
    assert low == pytest.approx(-high)
    assert len(page.slices.slices["a"].radius.data["left"]) == 1
    assert "Softmax radius: " in page.radius_text.object
    state.choose(0.5, 0)
    assert state.radius is None
    assert not page.slices.slices["a"].radius.data["left"]
    state.show_radius = False
    assert surface_words.radius(state) == ""
    curve = Curve()
    curve.figure.x_range.update(reset_start=-1, reset_end=1)
    curve.shade((-np.inf, 0.5))
    assert curve.radius.data == {"left": [-1], "right": [0.5]}
