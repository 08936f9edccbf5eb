"""Addresses: what they say of the choices, and that they choose it again."""

from urllib.parse import parse_qs

import pytest
from conftest import PAYLOAD, FakeProject, plane_result

from landscape_app.links import Address, follow, written
from landscape_app.state import State

BATCHNORM = ("none", "frozen")


def state():
    return State(FakeProject(batchnorm=BATCHNORM))


def query(of):
    return written(of, state())


CHOICES = {
    "surface": {
        "problem": "letters", "slice": "line", "first": "two", "second": "one", "seed": 3, "normalisation": "layer",
        "fit_extent": False, "extent_a": (-0.5, 1.25), "resolution": 51, "tolerance": 0.0, "batchnorm": "frozen",
        "layers": ["a", "b"],
    },
    "spectrum": {
        "problem": "letters", "checkpoint": "one", "matrix": ("hessian", "ggn"), "layer": "each", "largest": 9,
        "smallest": 0, "probes": 0, "seed": 4,
    },
    "trajectory": {"problem": "letters", "matrix": "ggn", "largest": 1, "trace_products": 60},
    "connectivity": {"problem": "letters", "checkpoints": ["one", "three"], "matching": "none", "convention": "mid"},
}  # fmt: skip


def test_where_nothing_was_chosen_the_address_says_nothing():
    assert query(state()) == ""


@pytest.mark.parametrize("page", CHOICES)
def test_the_choices_of_each_page_come_back(page):
    here, there = state(), state()
    here.page = page
    task, chosen = here.tasks[page], CHOICES[page]
    for name, value in chosen.items():
        setattr(task, name, value)
    assert follow(there, query(here)) == []
    assert there.page == page
    assert {name: getattr(there.tasks[page], name) for name in chosen} == chosen
    assert there.tasks[page].request() == task.request()
    assert query(there) == query(here)


def test_only_what_was_chosen_is_said():
    here = state()
    here.seed = 5
    assert parse_qs(query(here)) == {"problem": ["digits"], "seed": ["5"]}


def test_each_wrong_value_is_named_and_the_others_are_taken():
    here = state()
    troubles = follow(here, "?seed=-1&resolution=52&slice=line&first=two&tolerance=no&fit_extent=perhaps&colour=red")
    assert (here.slice, here.first, here.seed, here.resolution) == ("line", "two", 0, 101)
    said = "\n".join(troubles)
    assert len(troubles) == 5
    assert "“52” is not on offer for “Points along each axis”, which has 51, 101, 151, 201." in said
    assert all(f"“{wrong}”" in said for wrong in ("-1", "no", "perhaps", "colour"))
    assert follow(state(), "page=nowhere") == [
        "There is no page “nowhere”: the pages are surface, spectrum, trajectory, connectivity."
    ]
    assert PAYLOAD in follow(state(), f"first={PAYLOAD.replace(' ', '%20').replace('=', '%3D')}")[0]


def test_how_a_result_is_drawn_is_chosen_once_it_is_there():
    here = state()
    assert follow(here, "metric=accuracy&log_scale=no&at_a=0.5&at_b=1.5&palette=magma") == []
    assert (here.metric, here.palette) == ("loss", "viridis")
    here.result = plane_result()
    assert (here.metric, here.log_scale, here.palette, here.point) == ("accuracy", False, "magma", (0.333, 1.5))
    here.metric = "loss"
    here.result = plane_result()
    assert here.metric == "loss"  # once: later the choice is the user's


def test_what_was_drawn_is_computed_at_once_and_nothing_else_is():
    asked = []
    for text in ("seed=2", "seed=2&drawn=yes", "slice=eigenvectors&drawn=yes", "page=spectrum&drawn=yes"):
        here = state()
        for kind, task in here.tasks.items():
            task.param.watch(lambda event, kind=kind: asked.append(kind), "compute")
        follow(here, text)
    assert asked == ["surface", "spectrum"]


def test_the_address_follows_the_choices_of_the_page_that_is_looked_at():
    here = state()
    address = Address(here, "seed=7&what=that")
    assert (here.seed, len(address.troubles)) == (7, 1)
    assert parse_qs(address.view.value) == {"problem": ["digits"], "seed": ["7"]}
    here.spectrum.largest = 8
    assert "largest" not in address.view.value
    here.page = "spectrum"
    assert parse_qs(address.view.value) == {"page": ["spectrum"], "problem": ["digits"], "largest": ["8"]}
