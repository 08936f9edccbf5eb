"""The difference of two pictures of one plane: its values, when there is none, and its address, without a browser."""

import json

import numpy as np
import pytest
from conftest import FakeProject, line_result, plane_result

from analysis import Plane, Problem, Project, over_seeds, surface
from landscape_app import picture
from landscape_app.difference import difference, reason
from landscape_app.entries import Entry
from landscape_app.heatmap import COLOURS
from landscape_app.jobs import JobState, Snapshot
from landscape_app.links import follow, written
from landscape_app.pages.surface import SurfacePage
from landscape_app.scales import Scale
from landscape_app.seeds import MEAN, SPREAD, part
from landscape_app.state import State


def on_plane(values=None, axes="xy", **options):
    """A result that knows its axes by their content."""
    ds = plane_result(values, **options)
    facts = json.loads(ds.attrs["provenance"]) | {"axes": [{"sha256": axis} for axis in axes]}
    return ds.assign_attrs(provenance=json.dumps(facts))


def against(a, b, one="loss", other="loss"):
    return reason(a, picture.metric(a, one), b, picture.metric(b, other))


def entered(*results):
    state = State(FakeProject())
    page = SurfacePage(state)
    entries = tuple(Entry(i, Snapshot(JobState.DONE, ds, 1, elapsed=2.0)) for i, ds in enumerate(results, 1))
    last = entries[-1]
    state.param.update(entries=entries, result=last.result, shown=last.number, job=last.job, log_scale=False)
    return state, page


def test_two_results_on_one_plane_have_a_difference_and_others_say_why_not():
    a = on_plane()
    assert against(a, on_plane(2 * a["loss"].values)) == ""
    assert against(a, a, "per_class[0]", "loss") == ""
    assert "both pictures are the same" in against(a, a)
    assert against(a, a, "loss", "accuracy").startswith("A is in nats, B in fraction: ")
    assert "other weights" in against(a, on_plane(axes="xz"))
    assert "other weights" in against(a, on_plane(names=("one", "two"), over_seeds="mean of 0–2"))
    assert "other grids" in against(a, on_plane(shape=(5, 6)))
    assert "other grids" in against(a, on_plane().assign_coords(a=np.linspace(-1, 1.5, 4)))
    assert "do not say which weights" in against(a, plane_result())
    assert "of two planes" in against(line_result(), line_result())
    one, other = (on_plane(values).assign(loss_error=a["loss"]) for values in (None, 2 * a["loss"].values))
    assert "shares of the range of each" in against(one, other, "loss_error", "loss_error")
    facts = json.loads(a.attrs["provenance"]) | {"centre": "mean"}
    assert "other weights" in against(a, on_plane().assign_attrs(provenance=json.dumps(facts)))


def test_real_planes_are_told_apart_by_their_seed_and_two_data_sets_are_not():
    import torch

    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(3, 2), torch.randn(20, 3), torch.randint(0, 2, (20,))
    problems = {
        name: Problem(model, "cross_entropy", (x + i, y), name=name) for i, name in enumerate(("train", "test"))
    }
    project = Project(problems)

    def drawn(name, seed):
        checkpoint = project.checkpoint(name, "model as given")
        *_, ds = surface(problems[name], Plane.random(checkpoint, seed), resolution=9, dense=True)
        return ds

    a, b = drawn("train", 0), drawn("test", 0)
    assert against(a, b) == ""
    assert "other weights" in against(a, drawn("train", 1))
    ds, made = difference(a, picture.metric(a, "loss"), b, picture.metric(b, "loss"))
    np.testing.assert_array_equal(made.values, a["loss"].values - b["loss"].values)
    assert float(ds["marker_difference"][0]) == float(a["marker_loss"][0] - b["marker_loss"][0])
    make = lambda seed: Plane.random(project.checkpoint("train", "model as given"), seed)  # noqa: E731
    *_, several = over_seeds(problems["train"], make, [0, 1], resolution=9, dense=True)
    mean, spread = part(several, MEAN), part(several, SPREAD)
    assert "a spread over seeds" in against(mean, spread)
    assert "other weights" in against(part(several, 0), part(several, 1))
    assert "other weights" in against(mean, part(several, 0))
    assert against(part(several, 0), a) == ""


def test_a_scale_of_differences_has_zero_in_its_middle():
    scale = Scale.about_zero(np.array([-0.1, 0.4, np.nan, np.inf]))
    assert (scale.low, scale.high, scale.log) == (-0.4, 0.4, False)
    assert 0.0 in scale.ticks
    assert Scale.about_zero(np.array([np.nan])).high == 1.0
    middle = [int(COLOURS["difference"][127][i : i + 2], 16) for i in (1, 3, 5)]
    assert min(middle) > 240  # light, where nothing differs


def test_the_difference_is_drawn_beside_both_and_moves_with_them():
    state, page = entered(on_plane(), on_plane(3 + np.arange(20).reshape(5, 4)))
    state.param.update(other=1, compare=True)
    assert page.pair.apart is None  # nothing is made before it is needed
    state.difference = True
    apart, a = page.pair.apart, page.pair.plot.heatmap
    expected = 3 + np.arange(20).reshape(5, 4) - on_plane()["loss"].values
    np.testing.assert_allclose(apart.image.data["raw"][0], expected, rtol=1e-6)
    far = np.abs(expected).max()
    assert (apart.mapper.low, apart.mapper.high) == pytest.approx((-far, far))
    assert list(apart.mapper.palette) == list(COLOURS["difference"])
    assert apart.bar_title.text == "A − B: Loss (cross entropy) [nats]"
    assert apart.hover.tooltips[0] == ("A − B", "@raw{custom}")
    assert apart.figure.x_range is a.figure.x_range
    assert "least −" in page.pair.apart_text.object
    state.choose(0.4, 1.2)
    assert apart.cross.data == {"x": [0.333], "y": [1.0]}
    assert f"A − B: {expected[2, 2]:.3g} nats.".replace("-", "−") in page.point_text.object
    state.other_metric = "accuracy"
    assert "No difference: A is in nats, B in fraction" in page.pair.apart_text.object
    assert not page.pair.apart_box.visible
    assert "A − B" not in page.point_text.object
    state.other_metric = "per_class[0]"
    assert page.pair.apart_box.visible
    state.compare = False
    assert not page.pair.apart_half.visible


def test_what_is_compared_of_one_result_is_in_the_address_and_another_entry_is_not():
    state, _ = entered(on_plane(), on_plane())
    state.param.update(compare=True, difference=True)
    state.other_metric = "per_class[1]"
    said = written(state)
    assert {"compare=yes", "other_metric=per_class%5B1%5D", "difference=yes"} <= set(said.split("&"))
    there, told = State(FakeProject()), []
    SurfacePage(there)
    follow(there, said, told.append)
    assert not there.compare  # until there is a result
    entry = Entry(1, Snapshot(JobState.DONE, on_plane(), 1), there.request())
    there.param.update(entries=(entry,), shown=1, computed=entry.request, job=entry.job, result=entry.result)
    assert told == []
    assert (there.compare, there.other_metric, there.difference, there.other) == (True, "per_class[1]", True, 0)
    state.other = 1
    assert not {"compare", "other_metric", "difference"} & {
        part.partition("=")[0] for part in written(state).split("&")
    }
    state.compare = False
    assert "other_metric" not in written(state)
