"""Checkpoints that appear in a folder while a network is trained are offered, once they are all there."""

import os
import shutil
import threading
import time

import pytest
import torch
from models import classification, mlp

from analysis import Problem, Project, project
from analysis.reading import is_whole
from analysis.recording import Recorder
from landscape_app.explorer import Explorer


@pytest.fixture
def clock(monkeypatch):
    """Time as the project sees it, which passes only when a test says so."""
    now = [100.0]
    monkeypatch.setattr(project.time, "monotonic", lambda: now[0])

    def tick(seconds=2.0):
        now[0] += seconds

    return tick


@pytest.fixture
def run(tmp_path):
    """A run that has begun: its folder, its recorder and a project that watches it."""
    recorder = Recorder(tmp_path / "run")
    recorder.save(0, mlp())
    return recorder, Project(Problem(mlp(), "cross_entropy", classification(), name="small"), tmp_path / "run")


def names(watched):
    watched.refresh()
    return watched.checkpoint_names("small")


def test_a_new_step_is_offered_once_it_has_settled(run, clock):
    recorder, watched = run
    assert watched.watched
    assert names(watched) == ("step-0",)
    for step in (10, 9):
        recorder.save(step, mlp(seed=step))
    assert names(watched) == ("step-0",)
    clock(0.5)
    assert names(watched) == ("step-0",)
    clock()
    assert names(watched) == ("step-0", "step-9", "step-10")
    found = watched.checkpoint("small", "step-9")
    assert all(torch.equal(found.weights[key], value) for key, value in mlp(seed=9).state_dict().items())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_is_half_written_is_not_offered_however_long_it_rests(run, clock, tmp_path, suffix):
    recorder, watched = run
    whole = Recorder(tmp_path / "elsewhere").save(5, mlp(seed=5))
    if suffix == ".pt":
        whole = whole.with_suffix(".pt")
        torch.save({"model": mlp(seed=5).state_dict(), "lr": 0.1}, whole)
    content, target = whole.read_bytes(), recorder.folder / f"step-5{suffix}"
    for share in (0, 5, 50, len(content) // 2, len(content) - 1):
        target.write_bytes(content[:share])
        for _ in range(3):
            clock()
            assert names(watched) == ("step-0",), share
    target.write_bytes(content)
    assert not is_whole(target.with_name("none.pt"))
    names(watched)
    clock()
    assert names(watched) == ("step-0", "step-5")


def test_names_stay_and_what_is_deleted_goes(run, clock, tmp_path):
    recorder, _ = run
    watched = Project(Problem(mlp(), "cross_entropy", classification(), name="small"), [str(tmp_path / "*" / "*")])
    assert watched.checkpoint_names("small") == ("step-0",)
    other = Recorder(tmp_path / "zoo")
    other.save(0, mlp(seed=3))
    recorder.save(1, mlp(seed=4))
    names(watched)
    clock()
    assert names(watched) == ("step-0", "step-1", "zoo/step-0.safetensors")
    assert watched.checkpoint("small", "step-0").source == str(recorder.folder / "step-0.safetensors")
    (recorder.folder / "step-0.safetensors").unlink()
    assert names(watched) == ("step-1", "zoo/step-0.safetensors")
    shutil.rmtree(recorder.folder)
    shutil.rmtree(other.folder)
    assert names(watched) == ("step-1", "zoo/step-0.safetensors")  # there is nothing else to offer


def test_a_folder_of_shards_is_offered_when_all_are_there(clock, tmp_path):
    from safetensors.torch import save_file

    Recorder(tmp_path / "checkpoint-1").save(1, mlp())
    watched = Project(Problem(mlp(), "cross_entropy", classification(), name="small"), tmp_path)
    state = mlp(seed=2).state_dict()
    shards = {
        f"model-0000{i}-of-00002.safetensors": part for i, part in enumerate((list(state)[:2], list(state)[2:]), 1)
    }
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    table = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(f'{{"weight_map": {table}}}'.replace("'", '"'))
    for shard, part in shards.items():
        names(watched)
        clock()
        assert names(watched) == ("checkpoint-1",)
        save_file({name: state[name] for name in part}, folder / shard)
    names(watched)
    clock()
    assert names(watched) == ("checkpoint-1", "checkpoint-2")


@pytest.mark.parametrize(
    "content", [b'{"cfg": {"lr": 1}}', b"\x02" + b"\0" * 7 + b"[]", b"\x07" + b"\0" * 7 + b'{"a":1}']
)
def test_a_file_of_another_kind_is_not_whole_and_stops_nothing(content, run, clock):
    recorder, watched = run
    (recorder.folder / "other.safetensors").write_bytes(content)
    names(watched)
    clock()
    assert names(watched) == ("step-0",)


def test_what_is_named_one_by_one_is_not_watched(tmp_path):
    path = Recorder(tmp_path).save(0, mlp())
    problem = Problem(mlp(), "cross_entropy", classification(), name="small")
    assert not Project(problem, path).watched
    assert not Project(problem, {"a": tmp_path}).watched
    assert not Project(problem).watched
    assert Project(problem, {"small": str(tmp_path / "*.safetensors")}).watched


def test_the_explorer_offers_new_steps_and_the_pages_that_they_make_possible(run, clock):
    recorder, watched = run
    explorer = Explorer(watched)
    state = explorer.state
    assert list(state.param.first.objects) == ["step-0"]
    assert list(explorer._view._names) == ["Surface", "Spectrum", "Checkpoints", "Results", "Jobs"]
    state.seed = 5
    state.page = "results"
    recorder.save(10, mlp(seed=1))
    explorer.session.watch()
    clock()
    explorer.session.watch()
    assert list(state.param.first.objects) == ["step-0", "step-10"]
    assert (state.first, state.seed) == ("step-0", 5)  # what was chosen stays
    assert list(state.spectrum.param.checkpoint.objects) == ["step-0", "step-10"]
    assert list(explorer._view._names) == [
        "Surface",
        "Spectrum",
        "Trajectory",
        "Connectivity",
        "Checkpoints",
        "Results",
        "Jobs",
    ]
    assert (state.page, explorer._view.active) == ("results", 5)  # what is looked at stays
    assert state.trajectory.request().checkpoints == ("step-0", "step-10")
    state.trajectory.computed = state.trajectory.request()
    assert not state.trajectory.stale
    recorder.save(20, mlp(seed=2))
    explorer.session.watch()
    clock()
    explorer.session.watch()
    assert state.trajectory.stale  # the run has gone on since


def test_a_checkpoint_that_was_written_again_is_computed_again(run):
    recorder, watched = run
    explorer = Explorer(watched)
    state, session = explorer.state, explorer.session

    def compute(seed):
        state.param.update(slice="random-line", seed=seed)
        state.compute = True
        while state.busy:
            time.sleep(0.01)
            session.poll()
        return state.result

    first, path = compute(0), recorder.folder / "step-0.safetensors"
    compute(1)
    assert compute(0) is first
    recorder.save(0, mlp(seed=7))
    os.utime(path, (time.time() + 1, time.time() + 1))
    compute(1)
    again = compute(0)
    assert float(again.marker_loss[0]) != float(first.marker_loss[0])


def test_sessions_may_look_while_checkpoints_are_written(run):
    recorder, watched = run
    until, failed = time.monotonic() + 0.5, []

    def look():
        try:
            while time.monotonic() < until:
                watched.refresh()
                assert "step-0" in watched.checkpoint_names("small")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(1, 10):
        recorder.save(step, mlp(seed=step))
    for thread in threads:
        thread.join()
    assert not failed
    time.sleep(project.SETTLED)
    assert names(watched) == tuple(f"step-{step}" for step in range(10))
