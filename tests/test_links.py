"""Addresses: what they say of the choices, and that they choose it again."""

from urllib.parse import parse_qs

import pytest
from conftest import PAYLOAD, FakeProject, plane_result

from landscape_app.entries import Entry
from landscape_app.jobs import JobState, Snapshot
from landscape_app.links import Address, follow, written
from landscape_app.state import State


def state():
    """Of a project whose problems differ in their checkpoints, though not in all."""
    project = FakeProject(batchnorm=("none", "frozen"))
    names = {"digits": ("one", "two", "three"), "letters": ("two", "four", "one", "five", "six")}
    project.checkpoint_names = names.__getitem__
    return State(project)


def opened(query):
    here, told = state(), []
    follow(here, query, told.append)
    return here, told


def shown(here, ds=None):
    """The state, with the finished result of what it asks for."""
    ds, task = plane_result() if ds is None else ds, here
    entry = Entry(1, Snapshot(JobState.DONE, ds, 1, elapsed=2.0), task.request())
    task.param.update(entries=(entry,), shown=1, computed=task.request(), job=entry.job, result=ds)
    return here


CHOICES = {
    "surface": [
        {
            "problem": "letters", "slice": "line", "first": "two", "second": "one", "seed": 3, "fit_extent": False,
            "extent_a": (-2 / 7, 9 / 7), "resolution": 51, "tolerance": 0.0, "batchnorm": "frozen",
        },
        {"slice": "line", "first": "three", "second": "one"},  # the last is what another slice begins with
        {"slice": "plane", "first": "three", "second": "two", "third": "one"},
        {"normalisation": "layer", "layers": ["a", "b"], "seeds": 4},
    ],
    "spectrum": [
        {
            "problem": "letters", "checkpoint": "one", "matrix": ("hessian", "ggn"), "layer": "each", "largest": 9,
            "smallest": 0, "probes": 0, "seed": 4,
        },
        {"problem": "letters"},
    ],
    "trajectory": [{"problem": "letters", "matrix": "ggn", "largest": 1, "trace_products": 60}],
    "connectivity": [
        {"problem": "letters", "checkpoints": ["one", "five"], "matching": "none", "convention": "mid"},
        {"checkpoints": ["two", "three"]},
        {"repair": True, "t": 0.25, "third": "curve", "updates": 100, "together": True},
    ],
}  # fmt: skip


def test_where_nothing_was_chosen_the_address_says_nothing():
    assert Address(state(), "", print).view.value == ""


@pytest.mark.parametrize(("page", "chosen"), [(page, one) for page, all_of in CHOICES.items() for one in all_of])
def test_the_choices_of_each_page_come_back(page, chosen):
    here = state()
    here.problem = "letters"  # what was chosen before changes nothing of what the address means
    here.seed = 5
    here.problem = "digits"
    here.seed = 0
    here.page = page
    task = here.tasks[page]
    for name, value in chosen.items():
        setattr(task, name, value)
    there, told = opened(written(here))
    assert told == []
    assert there.page == page
    assert {name: getattr(there.tasks[page], name) for name in chosen} == chosen
    assert there.tasks[page].request() == task.request()
    assert written(there) == written(here)


def test_each_wrong_value_is_named_and_the_others_are_taken():
    wrong = "seed=-1&resolution=52&tolerance=no&fit_extent=perhaps&colour=red&palette=plaid&seeds=1000000000"
    here, told = opened(f"?{wrong}&slice=line&first=two&normalisation=layer&seed=1{'0' * 400}")
    assert (here.slice, here.first, here.normalisation) == ("line", "two", "layer")
    assert (here.seed, here.seeds, here.resolution) == (10**400, 1, 101)
    assert len(told) == 6
    said = "\n".join(told)
    assert "“52” is not on offer for “Points along each axis”, which has 51, 101, 151, 201." in said
    assert all(f"“{value}”" in said for value in ("no", "perhaps", "colour", "plaid", "1000000000"))
    assert opened("page=nowhere")[1] == [
        "There is no page “nowhere”: the pages are surface, spectrum, trajectory, connectivity, checkpoints, results, "
        "jobs."
    ]
    assert PAYLOAD in opened(f"first={PAYLOAD.replace(' ', '%20').replace('=', '%3D')}")[1][0]


@pytest.mark.parametrize("name", ["at", "result", "project", "lock", "compute", "job"])
def test_what_only_the_app_sets_is_not_taken_from_an_address(name):
    here, told = opened(f"page=spectrum&{name}=foo")
    assert getattr(here.spectrum, name) != "foo"
    assert len(told) == 1


LOOK = "metric=accuracy&log_scale=yes&at_a=0.5&at_b=1.5&palette=magma"


def test_how_a_result_is_drawn_is_chosen_once_it_is_there():
    here, told = opened(LOOK)
    assert told == []
    assert (here.metric, here.palette) == ("loss", "magma")
    shown(here)
    assert (here.metric, here.log_scale, here.palette, here.point) == ("accuracy", True, "magma", (0.333, 1.5))
    assert {*LOOK.split("&")} - {"at_a=0.5"} < {*written(here).split("&")}  # on the grid of the picture
    here.metric = "loss"
    shown(here)
    assert here.metric == "loss"  # once: later the choice is the user's


def test_another_result_is_drawn_as_usual_and_a_look_that_it_has_not_is_told():
    here, _ = opened(LOOK)
    here.seed = 9
    here.param.update(result=plane_result(), computed=None)
    assert here.metric == "loss"
    here, told = opened("metric=beauty")
    shown(here)
    offered = "loss, accuracy, per_class[0], per_class[1], loss_se, accuracy_se"
    assert told == [f"“beauty” is not on offer for “Show”, which has {offered}."]


def test_what_was_drawn_is_computed_at_once_and_nothing_else_is(monkeypatch):
    asked = []
    monkeypatch.setattr("landscape_app.links.pn.state.execute", lambda does, schedule: does())
    for query in ("seed=2", "seed=2&drawn=yes", "slice=eigenvectors&drawn=yes", "page=spectrum&drawn=yes"):
        here = state()
        for kind, task in here.tasks.items():
            task.param.watch(lambda event, kind=kind: asked.append(kind), "compute")
        follow(here, query, print)
    assert asked == ["surface", "spectrum"]
    here = shown(state())
    assert written(here).endswith("drawn=yes")
    here.seed = 1
    assert "drawn" not in written(here)


def test_the_address_follows_the_choices_of_the_page_that_is_looked_at():
    here, told = state(), []
    address = Address(here, "seed=7&what=that", told.append)
    assert (here.seed, len(told)) == (7, 1)
    assert parse_qs(address.view.value)["seed"] == ["7"]
    here.spectrum.largest = 8
    assert "largest" not in address.view.value
    here.page = "spectrum"
    assert parse_qs(address.view.value)["largest"] == ["8"]
    assert "seed" not in address.view.value
