"""What can befall processes: a worker dies, memory runs out, two runs meet, the clock goes back, someone presses Ctrl-C."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.bench import STATE, Bench, assert_explained, gone
from tests.faults.reliability import record
from tests.faults.warm import Run, living

LONG = os.environ.get("AEPSL_FAULTS") == "long"
SLOW = ("slow_steps", {"seconds": 0.5})  # still at work when a fault comes, however late
POOLS = ("saliency", "merge", "relabel@s2", "refine") if LONG else ("refine",)
LOADERS = ("classify@r1", "segment@s1") if LONG else ("segment@s1",)
AGAIN = "run `dvc repro` again; what was finished is kept"


def workers(run: Run, named: str = "") -> list[int]:
    """The other living processes of a run's session whose command line holds ``named``."""
    found = []
    for number in living(run.pid):
        try:
            words = Path(f"/proc/{number}/cmdline").read_text()
        except OSError:
            continue
        if number != run.pid and named in words and "resource_tracker" not in words:
            found.append(number)
    return found


def await_workers(run: Run, named: str = "") -> list[int]:
    end = time.monotonic() + 300
    while not (found := workers(run, named)):
        assert time.monotonic() < end
        assert run.wait(0.005) is None, f"it ended before a worker was seen\n{run.said}"
    return found


# ---- workers


@pytest.mark.parametrize("name", POOLS)
def test_a_worker_of_the_pool_that_is_killed_is_explained_and_a_rerun_goes_on(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name], **{"compute.processes": 2})
    run = bench.start(job, inject=[SLOW])
    victims = await_workers(run, "loky")
    time.sleep(random.Random(name).uniform(0, 1.5))
    os.kill(victims[0], signal.SIGKILL)
    run.wait()
    bench.after_failure(job, run, "a worker process died", "lower compute.processes", AGAIN)
    bench.succeeds_again(job)
    record("worker_killed", {name: "explained, then the same bytes"})


@pytest.mark.parametrize("name", LOADERS)
def test_a_worker_that_loads_images_and_is_killed_is_explained_and_a_rerun_goes_on(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name], **{"compute.workers": 2})
    run = bench.start(job, inject=[SLOW])
    victims = await_workers(run)
    os.kill(victims[0], signal.SIGKILL)
    run.wait()
    bench.after_failure(job, run, "a worker process died", "compute.workers", AGAIN)
    bench.succeeds_again(job)
    record("worker_killed", {name: "explained, then the same bytes"})


@pytest.mark.parametrize(("name", "number"), [("refine", signal.SIGKILL), ("segment@s1", signal.SIGTERM),
                                              *([("refine", signal.SIGTERM), ("segment@s1", signal.SIGKILL)] if LONG else [])])
def test_no_worker_outlives_a_killed_stage(bench: Bench, name: str, number: int) -> None:
    job = bench.reset(bench.jobs[name], **{"compute.processes": 2, "compute.workers": 2})
    run = bench.start(job, inject=[SLOW])
    await_workers(run, "loky" if name == "refine" else "")
    run.kill(number)  # the stage alone, as `kill` and the kernel do it
    assert run.wait() == (-number if number == signal.SIGKILL else 128 + number), run.said
    assert gone(run.pid), workers(run)
    if number != signal.SIGKILL:  # who is killed without notice cannot keep what the workers then say
        assert "Traceback" not in run.said, run.said
    bench.succeeds_again(job)


@pytest.mark.parametrize(("name", "number"), [("refine", signal.SIGINT), ("segment@s1", signal.SIGTERM),
                                              *([("segment@s1", signal.SIGINT), ("refine", signal.SIGTERM)] if LONG else [])])
def test_a_signal_to_all_processes_ends_a_stage_and_its_workers_in_one_line(bench: Bench, name: str, number: int) -> None:
    """As a terminal sends Ctrl-C, and the scheduler of a cluster SIGTERM."""
    job = bench.reset(bench.jobs[name], **{"compute.processes": 2, "compute.workers": 2})
    run = bench.start(job, inject=[SLOW])
    await_workers(run, "loky" if name == "refine" else "")
    time.sleep(random.Random(name).uniform(0, 1))
    run.kill(number, group=True)
    assert run.wait() == 128 + number, run.said
    assert gone(run.pid)
    assert_explained(run.said, f"{name}: ended by {signal.Signals(number).name}; run `dvc repro` again and it goes on")
    bench.succeeds_again(job)


# ---- memory


@pytest.mark.parametrize("name", ["saliency", "segment@s1", "predict", "refine"] if LONG else ["segment@s1", "predict"])
def test_memory_that_runs_out_is_explained_and_a_rerun_goes_on(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    run = bench.start(job, inject=[("memory_runs_out", {"after": 4})])
    run.wait()
    bench.after_failure(job, run, "memory ran out: lower compute.processes or compute.workers", AGAIN)
    assert bench.saved()
    assert "goes on" in bench.succeeds_again(job).said


@pytest.mark.parametrize("name", ["classify@r1", "refine"] if LONG else ["refine"])
@pytest.mark.parametrize("room", [1 << 20, 8 << 20, 24 << 20] if LONG else [1 << 20])
def test_a_limit_of_memory_is_explained(bench: Bench, name: str, room: int) -> None:
    job = bench.reset(bench.jobs[name])
    run = bench.start(job, inject=[("limit_memory", {"room": room})])
    if run.wait() != 0:  # a library may not say what it lacked, and print more on its way out; none of it goes without a sentence of ours
        assert f"\n{name}: " in run.said, run.said
        assert bench.outputs_as_before(job) == [f"{path}: missing" for path in job.outputs]
    bench.succeeds_again(job)


# ---- two runs at once


@pytest.mark.parametrize("name", ["segment@s1", "classify@r2"] if LONG else ["segment@s1"])
def test_a_second_run_of_a_stage_is_refused_and_the_first_one_finishes(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    first = bench.start(job, inject=[SLOW])
    end = time.monotonic() + 300
    while not bench.saved():
        assert time.monotonic() < end
        assert first.wait(0.01) is None, first.said
    first.kill(signal.SIGSTOP)  # so slow that it is still there when the next one comes
    second = bench.start(job)
    second.wait()
    first.kill(signal.SIGCONT)
    assert second.status == 1
    assert_explained(second.said, f"another run of {name} is at work in this checkout: process {first.pid} since", "Wait for it to end")
    first.wait()
    assert bench.problems(job, first) == []


# ---- clocks


@pytest.mark.parametrize(("name", "every"), [
    ("saliency", 0), ("segment@s1", 60),
    *([("saliency", 60), ("segment@s1", 0), ("mine@r2", 0), ("mine@r2", 60), ("export", 0)] if LONG else [])])
def test_a_clock_that_goes_back_changes_nothing(bench: Bench, name: str, every: float) -> None:
    job = bench.reset(bench.jobs[name], **{"compute.save_every": every})
    tomorrow = time.time() + 86400
    for path in job.inputs:
        bench.put_back(path)
        content = (bench.work / path).read_bytes()
        (bench.work / path).unlink()
        (bench.work / path).write_bytes(content)
        os.utime(bench.work / path, (tomorrow, tomorrow))
    killed = [("die_at_step", {"step": 20, "number": signal.SIGTERM})] if every == 0 else []
    run = bench.start(job, inject=[("clock_goes_back", {"seed": 1}), *killed])
    assert run.wait() in (0, 128 + signal.SIGTERM), run.said
    assert "Traceback" not in run.said, run.said
    run = bench.start(job, inject=[("clock_goes_back", {"seed": 2})])
    run.wait()
    assert bench.problems(job, run) == []
    assert not list((bench.work / STATE).glob("*"))
