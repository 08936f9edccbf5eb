"""Jobs without any user interface: states, cancelling, failures."""

import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from analysis import LandscapeError
from landscape_app.jobs import JobState, Runner

WAIT = 10


def result(value, **attrs):
    return SimpleNamespace(value=value, attrs=attrs)


@pytest.fixture
def runner():
    made = Runner(workers=1)
    yield made
    made.close()


class Gate:
    """A generator that stops before each result until it is let on."""

    def __init__(self, count=3):
        self.count, self.closed_in, self.started = count, None, threading.Event()
        self.let = threading.Semaphore(0)

    def __call__(self):
        try:
            for i in range(self.count):
                self.started.set()
                assert self.let.acquire(timeout=WAIT)
                yield result(i)
        finally:
            self.closed_in = threading.current_thread().name


def test_the_last_result_of_a_finished_job_is_kept(runner):
    job = runner.submit(lambda: (result(i, progress=i / 4) for i in range(5)))
    now = job.wait(WAIT)
    assert now.state is JobState.DONE
    assert (now.result.value, now.version, now.progress) == (4, 5, 1.0)


def test_a_snapshot_shows_the_latest_result_while_the_job_runs(runner):
    gate = Gate()
    job = runner.submit(gate)
    assert gate.started.wait(WAIT)
    assert job.snapshot().state is JobState.RUNNING
    assert job.snapshot().result is None
    gate.let.release()
    while job.snapshot().version < 1:
        pass
    assert job.snapshot().result.value == 0
    gate.let.release(2)
    assert job.wait(WAIT).result.value == 2


def test_progress_and_time_left_come_from_the_result_or_are_estimated(runner):
    seen = []

    def steps():
        for attrs in (
            {"progress": 0.5, "eta_s": 7.0},
            {"progress": 0.5},
            {"progress": 0.5, "eta_s": float("nan")},
        ):
            yield result(0, **attrs)
            seen.append(job.snapshot())

    ready = threading.Event()
    job = runner.submit(lambda: (ready.wait(WAIT), steps())[1])
    ready.set()
    job.wait(WAIT)
    assert seen[0].eta == 7.0
    assert seen[1].eta == pytest.approx(seen[1].elapsed)
    assert seen[2].eta == pytest.approx(seen[2].elapsed)


def test_cancelling_closes_the_generator_in_its_own_thread_and_keeps_the_partial_result(runner):
    gate = Gate()
    job = runner.submit(gate)
    gate.let.release()
    while job.snapshot().version < 1:
        pass
    job.cancel()
    assert job.snapshot().state is JobState.CANCELLING
    gate.let.release()
    now = job.wait(WAIT)
    assert now.state is JobState.CANCELLED
    assert now.result.value == 1
    assert gate.closed_in.startswith("landscape-job")


def test_a_queued_job_can_be_cancelled_and_never_starts(runner):
    first, second = Gate(1), Gate(1)
    running, queued = runner.submit(first), runner.submit(second)
    assert first.started.wait(WAIT)
    assert queued.snapshot().state is JobState.QUEUED
    queued.cancel()
    assert queued.snapshot().state is JobState.CANCELLED
    assert running.snapshot().state is JobState.RUNNING
    first.let.release()
    assert running.wait(WAIT).state is JobState.DONE
    assert not second.started.is_set()


def test_cancelling_while_the_generator_is_being_made_stops_before_its_first_step(runner):
    making, go_on, stepped = threading.Event(), threading.Event(), threading.Event()

    def make():
        making.set()
        go_on.wait(WAIT)
        return (stepped.set() for _ in range(1))

    job = runner.submit(make)
    assert making.wait(WAIT)
    job.cancel()
    go_on.set()
    assert job.wait(WAIT).state is JobState.CANCELLED
    assert not stepped.is_set()


def test_an_error_of_ours_is_shown_by_its_text_alone(runner):
    def make():
        raise LandscapeError("The checkpoint does not fit; choose another.")

    now = runner.submit(make).wait(WAIT)
    assert now.state is JobState.FAILED
    assert (now.reason, now.details) == ("The checkpoint does not fit; choose another.", "")


def test_any_other_error_is_shown_with_its_type_and_traceback_and_keeps_the_partial_result(runner):
    def steps():
        yield result("kept")
        raise ZeroDivisionError("boom")

    now = runner.submit(steps).wait(WAIT)
    assert now.state is JobState.FAILED
    assert now.result.value == "kept"
    assert now.reason == "ZeroDivisionError: boom"
    assert "test_jobs.py" in now.details
    assert 'raise ZeroDivisionError("boom")' in now.details


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(("error", "named"), [(SystemExit(3), "SystemExit"), (Mute(), "Mute")])
def test_a_job_ends_whatever_the_users_code_raises(runner, error, named):
    def steps():
        yield result(0)
        raise error

    now = runner.submit(steps).wait(WAIT)
    assert now.state is JobState.FAILED
    assert named in now.reason


def test_closing_the_runner_cancels_what_runs_and_what_waits():
    runner, first, second = Runner(workers=1), Gate(), Gate()
    jobs = [runner.submit(first), runner.submit(second)]
    assert first.started.wait(WAIT)
    runner.close()
    first.let.release()
    assert [job.wait(WAIT).state for job in jobs] == [JobState.CANCELLED] * 2
    with pytest.raises(RuntimeError):
        runner.submit(first)


def reach(job, state):
    deadline = time.monotonic() + WAIT
    while job.snapshot().state is not state:
        assert time.monotonic() < deadline, job.snapshot()
        time.sleep(0.002)


def test_a_paused_job_lets_another_one_run_and_goes_on_in_its_own_thread(runner):
    threads, gate = [], Gate()

    def steps():
        for step in gate():
            threads.append(threading.current_thread())
            yield step

    job = runner.submit(steps)
    assert gate.started.wait(WAIT)
    job.pause()
    assert job.snapshot().state is JobState.PAUSING
    gate.let.release()
    reach(job, JobState.PAUSED)
    assert job.snapshot().result.value == 0
    assert runner.submit(lambda: iter_of(result("other"))).wait(WAIT).result.value == "other"
    before = job.snapshot().elapsed
    time.sleep(0.1)
    assert job.snapshot().elapsed == before
    gate.let.release(2)
    job.resume()
    now = job.wait(WAIT)
    assert (now.state, now.result.value, now.version) == (JobState.DONE, 2, 3)
    assert now.elapsed < before + 0.1
    assert len(set(threads)) == 1


def iter_of(*results):
    yield from results


def test_what_goes_on_waits_for_its_turn(runner):
    first, second = Gate(2), Gate(1)
    job = runner.submit(first)
    assert first.started.wait(WAIT)
    job.pause()
    first.let.release()
    reach(job, JobState.PAUSED)
    other = runner.submit(second)
    assert second.started.wait(WAIT)
    job.resume()
    assert job.snapshot().state is JobState.QUEUED
    second.let.release()
    first.let.release()
    assert (other.wait(WAIT).state, job.wait(WAIT).state) == (JobState.DONE, JobState.DONE)


def test_a_job_that_is_paused_before_its_turn_keeps_its_place_and_is_overtaken(runner):
    first, order = Gate(1), []
    running = runner.submit(first)
    paused, behind = (runner.submit(lambda name=name: iter_of(order.append(name))) for name in ("paused", "behind"))
    paused.pause()
    assert paused.snapshot().state is JobState.PAUSED
    first.let.release()
    assert running.wait(WAIT).state is JobState.DONE
    assert behind.wait(WAIT).state is JobState.DONE
    assert order == ["behind"]
    paused.resume()
    assert paused.wait(WAIT).state is JobState.DONE
    assert order == ["behind", "paused"]


def test_a_pause_is_taken_back_before_the_step_has_ended(runner):
    gate = Gate(2)
    job = runner.submit(gate)
    assert gate.started.wait(WAIT)
    job.pause()
    job.resume()
    assert job.snapshot().state is JobState.RUNNING
    gate.let.release(2)
    assert job.wait(WAIT).version == 2


def test_a_paused_job_is_cancelled_and_keeps_what_there_was(runner):
    gate = Gate()
    job = runner.submit(gate)
    assert gate.started.wait(WAIT)
    job.pause()
    gate.let.release()
    reach(job, JobState.PAUSED)
    job.cancel()
    now = job.wait(WAIT)
    assert (now.state, now.result.value) == (JobState.CANCELLED, 0)
    assert gate.closed_in
    job.pause()
    job.resume()
    assert job.snapshot().state is JobState.CANCELLED


def test_the_time_left_after_a_pause_is_estimated_from_the_time_at_work(runner):
    let = threading.Semaphore(0)

    def steps():
        for share in (0.25, 0.5, 0.75):
            let.acquire(timeout=WAIT)
            yield result(0, progress=share, eta_s=1000.0)

    job = runner.submit(steps)
    job.pause()
    let.release()
    reach(job, JobState.PAUSED)
    job.resume()
    let.release()
    while job.snapshot().version < 2:
        time.sleep(0.002)
    now = job.snapshot()
    assert now.eta == pytest.approx(now.elapsed, rel=1e-6)
    let.release()
    job.wait(WAIT)


def test_a_process_ends_though_a_job_is_paused():
    code = """
import threading
from landscape_app.jobs import JobState, Runner
def steps():
    while True:
        yield None
job = Runner(workers=1).submit(steps)
job.pause()
while job.snapshot().state is not JobState.PAUSED:
    pass
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_jobs_need_no_user_interface():
    code = "import landscape_app.jobs, sys; sys.exit(any(m in sys.modules for m in ('panel', 'bokeh', 'param')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
