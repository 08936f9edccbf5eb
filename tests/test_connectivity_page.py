"""The Connectivity page as objects, without a browser: requests, state, what is drawn and what is said."""

import io
import re
import time

import numpy as np
import pytest
import torch
from bokeh.events import Tap
from bokeh.models import Text
from conftest import PAYLOAD
from models import classification
from safetensors.torch import load as tensors

from analysis import Problem, Project, load, save
from analysis.checkpoints import Checkpoint
from analysis.connectivity import average, barrier, barrier_matrix, find_symmetries, match_many
from landscape_app.connectivity import picture, words
from landscape_app.connectivity.request import ConnectivityRequest, Matched, report
from landscape_app.entries import kind_of
from landscape_app.explorer import Explorer
from landscape_app.jobs import JobState, Snapshot
from landscape_app.pages.connectivity import ConnectivityPage
from landscape_app.text import number

NAMES = ("one", "two", "three")


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))


def trained(seed, steps=60):
    model, (x, y) = net(seed), classification()
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        for p, g in zip(model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            p.data -= 0.5 * g
    return model


def made(names=NAMES, **options):
    x, y = classification()
    return Project(
        Problem(net(), "cross_entropy", (x, y), metrics=["accuracy"], **{"name": "small", **options}),
        {name: Checkpoint.of(trained(seed), name) for seed, name in enumerate(names)},
    )


@pytest.fixture(scope="module")
def project():
    return made()


@pytest.fixture
def explorer(project):
    return Explorer(project)


def wait(explorer, task, until=lambda task: task.job.state.final):
    late = time.monotonic() + 120
    while not until(task):
        assert time.monotonic() < late
        time.sleep(0.02)
        explorer.session.poll()
    assert task.job.state is not JobState.FAILED, task.job.details or task.job.reason


def computed(explorer, **choices):
    task = explorer.state.connectivity
    task.param.update(**choices)
    task.compute = True
    wait(explorer, task)
    return task


@pytest.fixture(scope="module")
def file(project, tmp_path_factory):
    """A finished result, saved by another session."""
    task = computed(Explorer(project))
    return save(task.result, tmp_path_factory.mktemp("saved") / "paths.nc")


def opened(explorer, file):
    explorer.state.upload = (file.name, file.read_bytes())
    assert explorer.state.refused == ("", "")
    return explorer.state.connectivity


@pytest.mark.parametrize("convention", ["sup", "mc"])
@pytest.mark.parametrize("matching", ["none", "weights", "activations"])
def test_paths_are_those_of_barrier_and_fill_up_pair_by_pair(project, matching, convention):
    problem, kept, counts = project.problems["small"], Matched(), []
    request = ConnectivityRequest("small", NAMES, matching, convention)
    for ds in request.steps(project, kept):
        counts.append(int(np.isfinite(ds["loss_barrier"].values).sum()))
        words.rows(ds, "loss"), words.notes(ds), words.findings(ds, "loss", 0, 1)
    assert counts == sorted(counts)
    assert ds.attrs["status"] == "done"
    assert counts[-1] == 3 * ds.sizes["stage"]
    own = [project.checkpoint("small", name) for name in NAMES]
    stages = [own]
    if matching != "none":
        permutations = match_many(find_symmetries(problem), own, method=matching, problem=problem)
        stages.append([p.apply(c) for p, c in zip(permutations, own, strict=True)])
        expected = problem.measure(average(problem, stages[1]))["loss"][0]
        assert float(ds["merged_loss"]) == pytest.approx(expected, rel=1e-5)
    for stage, checkpoints in enumerate(stages):
        *_, whole = barrier_matrix(problem, checkpoints, convention=convention)
        for name in ("loss", "accuracy"):
            heights = np.nan_to_num(picture.matrix(ds, stage, name))
            np.testing.assert_allclose(heights, whole[f"{name}_barrier"], rtol=1e-4, atol=1e-6)
        *_, path = barrier(problem, checkpoints[0], checkpoints[2], convention=convention)
        found = picture.path(ds, stage, "loss", 0, 2)
        np.testing.assert_array_equal(found.t, path["t"])
        np.testing.assert_allclose(found.values, path["loss"], rtol=1e-5)
        assert found.height == pytest.approx(float(path["loss_barrier"]), rel=1e-4, abs=1e-6)
        assert found.at == float(path["loss_barrier_at"])
    assert (ds.sizes["stage"] == 1) == (matching == "none")


def test_a_path_is_looked_at_from_either_end(explorer, file):
    ds = opened(explorer, file).result
    there, back = picture.path(ds, 0, "loss", 0, 2), picture.path(ds, 0, "loss", 2, 0)
    np.testing.assert_allclose(back.values, there.values[::-1])
    np.testing.assert_allclose(back.t, 1 - there.t[::-1])
    assert (back.height, back.at, back.ends) == (there.height, 1 - there.at, there.ends[::-1])
    assert back.top == pytest.approx(there.top)
    assert there.top - there.base == pytest.approx(there.height)


def test_a_pair_of_equal_weights_has_no_barrier():
    x, y = classification()
    models = {"one": trained(1), "again": trained(1)}
    project = Project(Problem(net(), "cross_entropy", (x, y), name="small"), models)
    *_, ds = ConnectivityRequest("small", ("one", "again")).steps(project)
    assert (ds["loss_barrier"].values == 0).all()
    assert (ds["distance"].values == 0).all()


def test_the_page_draws_the_path_the_chord_and_the_barriers(explorer, file):
    page, task = ConnectivityPage(explorer.state), opened(explorer, file)
    lines, heights = page.plot.path.lines.data, page.plot.path.heights.data
    assert lines["dash"] == ["dashed", "solid", "dotted"]
    assert list(lines["ys"][2]) == list(picture.path(task.result, 0, "loss", 0, 1).ends)
    before = picture.path(task.result, 0, "loss", 0, 1)
    assert heights["high"][0] - heights["low"][0] == pytest.approx(before.height)
    named = [item.label.value for item in page.plot.path.legend.items]
    assert re.fullmatch(r"As they are: [\d.]+ nats at t = 0\.\d+", named[0])
    assert f": {number(before.height)} nats at t = {number(before.at, 2)}" in named[0]
    assert named[1].startswith("Matched: ")
    assert named[2:] == ["Chord"]
    assert not page.plot.path.figure.select(Text)  # which would stand on the curves
    cells = [page.plot.matrices[stage].cells.data for stage in ("before", "after")]
    assert [len(c["x"]) for c in cells] == [6, 6]
    assert all(all(cell["shown"]) for cell in cells)
    scales = {(m.mapper.low, m.mapper.high) for m in page.plot.matrices.values() if m.box.visible}
    assert scales == {(0.0, float(task.result["loss_barrier"].max()))}
    task.metric = "accuracy"
    assert page.plot.path.figure.yaxis[0].axis_label == "Accuracy [fraction]"
    assert task.stale is False


def test_a_tap_on_a_cell_and_the_selectors_choose_the_pair(explorer, file):
    page, task = ConnectivityPage(explorer.state), opened(explorer, file)
    chart = page.plot.matrices["after"]
    for x, y, pair in ((2.2, 0.9, (1, 2)), (0.1, 2.4, (2, 0)), (1.0, 1.0, (2, 0)), (7, 0, (2, 0))):
        for callback in chart.figure._event_callbacks["tap"]:
            callback(Tap(None, x=x, y=y))
        assert (task.first, task.second) == pair
    assert (chart.here.data["y"], chart.here.data["x"]) == ([2], [0])
    assert "From three to one" in page.findings.object
    assert page.plot.path.figure.xaxis[0].axis_label == "t, the way from three (0) to one (1)"
    task.first = 0
    assert (task.first, task.second) == (0, 2)
    task.second = 0
    assert (task.first, task.second) == (2, 0)
    task.second = 1
    assert 'class="here"' in page.table.object
    assert "From three to two" in page.findings.object


def test_a_cancel_keeps_what_is_there(explorer):
    page, task = ConnectivityPage(explorer.state), explorer.state.connectivity
    assert "No path yet" in page.veil.object
    assert "all pairs of 3 checkpoints" in page.veil.object
    task.compute = True
    assert "on its way" in page.veil.object
    wait(explorer, task, lambda task: task.result is not None)
    task.cancel = True
    wait(explorer, task)
    if task.job.state is JobState.CANCELLED:  # else it was faster
        assert "of 6 paths" in words.message(task).body
        assert "partial" in words.entry_line(task.entry)
    assert not page.veil.visible
    assert page.below.visible


def test_unfinished_results_are_drawn_and_said(explorer, project):
    page, task = ConnectivityPage(explorer.state), explorer.state.connectivity
    for ds in ConnectivityRequest("small", NAMES).steps(project):
        task.result = ds
        assert words.ended(Snapshot(JobState.CANCELLED, ds)).title == "Cancelled"
        assert len(page.plot.matrices["before"].cells.data["x"]) == 6
    assert "Certificate" in page.symmetries.object


def test_paths_are_listed_saved_and_opened_again(explorer, project, file):
    state, task = explorer.state, opened(explorer, file)
    page = ConnectivityPage(state)
    assert kind_of(load(file)) == "connectivity"
    assert [entry.kind for entry in state.entries] == ["connectivity"]
    assert (state.page, task.computed) == ("connectivity", task.request())
    assert words.message(task).title == "Opened from a file"
    assert not page.downloads.matched.visible  # the file holds no weights
    task.matching = "weights"
    assert task.stale
    state.show = 1
    assert (task.stale, task.matching, task.recalled) == (False, "activations", True)
    task.checkpoints = ["one", "two"]
    task.compute = True
    wait(explorer, task)
    assert [entry.number for entry in state.entries] == [1, 2]
    assert not page.plot.pair[0].visible  # one pair needs no matrix
    state.remove = 2
    assert task.shown == 1
    lone = Explorer(project.problems["small"])  # one checkpoint, and no such page until it is needed
    pages = len(lone._view)
    opened(lone, file)
    assert len(lone._view) == pages + 1


def test_the_symmetries_are_said_in_words(explorer, file):
    page, task = ConnectivityPage(explorer.state), opened(explorer, file)
    facts = picture.symmetries(task.result)
    assert [group["structure"] for group in facts["groups"]] == ["S12"]
    assert facts["log10_size"] == pytest.approx(np.log10(479001600.0))
    assert facts["change"] <= 1e-10 < facts["control"]
    said = page.symmetries.object
    for part in ("1 group of units", "10^8.68 permutations", "0.weight[0]", "the output", "2.bias[0] (3)", "float64"):
        assert part in said
    untraced = facts | {"failure": "no graph", "groups": [], "change": None}
    assert "could not be traced" in words.symmetries(untraced)[0]
    assert ("aten.odd", "no rule for it, met 2 times: what it touches stays") in words.pinned(
        facts | {"unknown": {"aten.odd": 2}}
    )


class Residual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(5))

    def forward(self, x):
        x = self.layers[0](x)
        for layer in self.layers[1:-1]:
            x = x + layer(x.relu())
        return self.layers[-1](x)


def test_of_many_places_some_are_named_and_the_others_counted():
    facts = report(find_symmetries(Residual(), (torch.randn(4, 8),)))
    ((structure, moves),) = words.free(facts)
    assert structure == "S8"
    assert moves.endswith("and 4 more")
    assert moves.count("[") == 8


def test_the_matched_and_the_merged_checkpoint_are_saved(explorer, project):
    page, task = ConnectivityPage(explorer.state), computed(explorer)
    x, _ = classification()
    task.param.update(first=1, second=2)
    assert page.downloads.matched.filename == "three-matched-to-two.safetensors"
    model = net()
    state = tensors(page.downloads.matched.callback().getvalue())
    model.load_state_dict(state, strict=True)
    torch.testing.assert_close(model(x), trained(2)(x), atol=1e-4, rtol=1e-4)
    two = project.checkpoint("small", "two").weights
    apart = sum(float(((state[name] - two[name]) ** 2).sum()) for name in state) ** 0.5
    assert apart == pytest.approx(float(task.result["distance"][1, 2]), rel=1e-4)
    merged = page.downloads.merged.callback()
    assert isinstance(merged, io.BytesIO)
    model.load_state_dict(tensors(merged.getvalue()), strict=True)
    loss = torch.nn.functional.cross_entropy(model(x), classification()[1]).detach()
    assert float(loss) == pytest.approx(float(task.result["merged_loss"]), rel=1e-4)


def test_other_data_sets_are_drawn_beside():
    x, y = classification()
    explorer = Explorer(made(NAMES[:2], also={"train": (x[:20], y[:20])}))
    page, task = ConnectivityPage(explorer.state), computed(explorer, matching="none")
    assert picture.siblings(task.result, "loss") == {"loss_train": "train data"}
    assert picture.siblings(task.result, "loss_train") == {"loss": "main data"}
    named = [item.label.value.partition(":")[0] for item in page.plot.path.legend.items]
    assert named == ["As they are", "As they are, train data", "Chord"]
    assert page.plot.path.lines.data["dash"] == ["dashed", "dashed", "dotted", "dotted"]


def test_what_is_asked_for_has_words(explorer):
    task = explorer.state.connectivity
    assert task.checkpoints == list(NAMES)
    assert "6 paths of about 29 points" in words.message(task).body
    task.checkpoints = ["one"]
    assert words.message(task).title == "Choose two or more checkpoints"
    task.compute = True
    late = time.monotonic() + 60
    while not task.job.state.final and time.monotonic() < late:
        time.sleep(0.02)
        explorer.session.poll()
    assert "got 'one' alone" in task.job.reason
    task.param.update(checkpoints=["one", "two"], matching="none")
    assert words.promise(task) == "the straight path between one and two"
    assert "A path of about 29 points" in words.cost(task)


def test_names_of_others_are_text_never_html():
    explorer = Explorer(made([f"{PAYLOAD}{i}" for i in range(3)], name=PAYLOAD))
    page = ConnectivityPage(explorer.state)
    assert PAYLOAD not in page.veil.object
    computed(explorer)
    shown = [page.veil, page.findings, page.caption, page.table, page.provenance, page.notes, page.symmetries]
    shown += [page.run_panel.headline, page.run_panel.progress]
    shown += [row.said for row in page.results.rows.values()]
    assert PAYLOAD not in "".join(pane.object for pane in shown)
    assert PAYLOAD not in page.downloads.matched.filename
