"""Every stage killed at random moments and at chosen steps, again and again, and run again: the same bytes, nothing left, little lost.

The short form kills each stage a few times, the long one (AEPSL_FAULTS=long) hundreds of times; AEPSL_KILLS chooses how many.
"""

import os
import random
import signal
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.faults.bench import Bench, Job, gone
from tests.faults.reliability import record
from tests.faults.warm import Injection

LONG = os.environ.get("AEPSL_FAULTS") == "long"
STAGES = ("download", "download:shapes", "prepare", "saliency", "classify@r1", "classify@r2", "mine@r1", "mine@r2", "merge", "segment@s1",
          "relabel@s2", "segment@s2", "predict", "refine", "export", "evaluate", *(("report",) if LONG else ()))
# Their work goes on where it was saved; the others take so little time that they begin again.
RESUMES = set(STAGES) - {"download", "prepare", "export", "evaluate"}
KILLS = int(os.environ.get("AEPSL_KILLS") or (256 if LONG else len(STAGES)))
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
EXPLAINED = {128 + signal.SIGTERM: "ended by SIGTERM", 128 + signal.SIGINT: "ended by SIGINT"}


@dataclass
class Counted:
    """What the kills of all stages came to."""

    tried: int = 0
    survived: int = 0
    resumed: int = 0  # runs that said they go on from what a killed one had saved
    by_signal: Counter[str] = field(default_factory=Counter)
    by_moment: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)  # seconds per kill


@pytest.fixture(scope="module")
def counted():
    counts = Counted()
    yield counts
    if counts.tried:
        record("kills", {"tried": counts.tried, "survived": counts.survived, "went_on": counts.resumed, "by_signal": dict(counts.by_signal),
                         "by_moment": dict(counts.by_moment), "seconds_lost_median": round(statistics.median(counts.lost), 3),
                         "seconds_lost_most": round(max(counts.lost), 3)})


def kill_once(bench: Bench, job: Job, rng: random.Random, moment: str, number: int) -> tuple[bool, float]:
    """Start the stage and kill it: whether it was killed before it had ended, and the seconds it ran."""
    inject: list[Injection] = []
    if moment != "time":
        inject = [(moment, {"step": rng.randint(1, len(bench.steps[job.name])), "number": number})]
    run = bench.start(job, inject=inject)
    if moment == "time":
        time.sleep(rng.uniform(0.5 * bench.steps[job.name][0].seconds, bench.seconds[job.name]))
        if number != signal.SIGKILL:
            run.await_handlers()
        run.kill(number)
    status = run.wait()
    assert status in (0, -number, 128 + number), f"{job.name}: status {status} after {signal.Signals(number).name} ({inject})\n{run.said}"
    assert "Traceback" not in run.said, run.said
    if status in EXPLAINED:
        assert EXPLAINED[status] in run.said
        assert "run `dvc repro` again and it goes on" in run.said or "before it began" in run.said
    assert gone(run.pid)
    return status != 0, run.seconds


@pytest.mark.parametrize("name", STAGES)
def test_a_killed_stage_goes_on_to_the_same_bytes(bench: Bench, counted: Counted, name: str) -> None:
    rng = random.Random(f"kill {name}")
    job = bench.jobs[name]
    quota = KILLS // len(STAGES) + (STAGES.index(name) < KILLS % len(STAGES))
    kinds = ["time", "die_at_step", "lose_power_at_step"]
    failures: list[str] = []
    done = 0
    while done < quota:
        bench.reset(job)
        kills, spent = 0, 0.0
        what: list[str] = []
        for _ in range(min(rng.choice((1, 1, 2, 3)), quota - done)):  # several in a row too
            moment = kinds[(done + kills) % len(kinds)]
            number = signal.SIGKILL if moment == "lose_power_at_step" else rng.choice(SIGNALS)
            killed, seconds = kill_once(bench, job, rng, moment, number)
            if not killed:
                break
            kills += 1
            spent += seconds
            what.append(f"{signal.Signals(number).name} ({moment})")
            counted.by_signal[signal.Signals(number).name] += 1
            counted.by_moment[moment] += 1
        saved = bench.saved()
        run = bench.start(job)
        run.wait()
        found = bench.problems(job, run)
        went_on = "goes on" in run.said
        if saved and name in RESUMES and not went_on:
            found.append(f"did not go on from {[path.name for path in saved]}: {run.said}")
        failures += [f"{name} after {', '.join(what)}: {line}" for line in found]
        done += max(kills, 1)
        counted.tried += kills
        counted.survived += kills if not found else 0
        counted.resumed += went_on
        if kills:
            counted.lost.append((spent + run.seconds - bench.seconds[name]) / kills)
    assert failures == []
