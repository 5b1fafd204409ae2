"""`dvc repro` as a whole: killed with everything it started, killed alone, run twice at once, and over damaged artefacts."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bench import STATE, Bench, digest, gone
from tests.faults.reliability import record
from tests.faults.warm import living

LONG = os.environ.get("AEPSL_FAULTS") == "long"
# DVC rewrites these two files in place: a kill at that moment leaves them empty, and this is what the next run says.
TORN = (TORN_LOCKS, TORN_RECORD) = ("Unable to read RWLock-file", "dvc.lock' validation failed")
TARGET = "refine" if LONG else "predict"
CHAIN = ("predict", "refine") if LONG else ("predict",)  # what is run to reproduce it, as it is asked for otherwise
OTHERWISE: dict[str, Any] = {"predict.scales": [1.0, 0.75]}
READ, WRITTEN = "models/segmenter/s2.pt", "data/scores.zip"
# As a module that every interpreter imports first: the stage is stopped when it has its lock and reads its input, so slow that it is still there
# when the next one comes.
STOPS = f"""
import os, signal, sys
def stop(event, arguments):
    global left
    if left and event == "open" and str(arguments[0]) == "{READ}":
        left = False
        os.kill(os.getpid(), signal.SIGSTOP)
left = "stages.predict" in sys.orig_argv
sys.addaudithook(stop)
"""


class Project:
    """The bench's pipeline under DVC and git, finished, then with another prediction asked for."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.work = bench.work
        self.bench = bench
        for path in bench.expected:
            if path != "data/shapes.zip":
                bench.put_back(path)
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        (self.work / "params.yaml").write_text(bench.params)
        # What it will give: by a run that nobody disturbs.
        self.work.set(OTHERWISE)
        self.wanted: dict[str, str | None] = {}
        for name in CHAIN:
            job = bench.jobs[name]
            bench.finish(job)
            self.wanted |= {path: digest(self.work / path) for path in job.outputs}
        assert self.wanted[WRITTEN] != bench.expected[WRITTEN]  # masks of so small a network may stay as they are
        for path in self.wanted:
            bench.put_back(path)
        (self.work / "params.yaml").write_text(bench.params)
        self.succeed("git", "init", "--quiet")
        made = [name for name, job in bench.jobs.items() if ":" not in name and all((self.work / path).exists() for path in job.outputs)]
        self.succeed(sys.executable, "-m", "dvc", "commit", "--force", *made)
        self.lock = (self.work / "dvc.lock").read_bytes()

    def succeed(self, *command: str) -> str:
        result = self.work.call(*command)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    def reset(self) -> None:
        """All finished, and another prediction asked for."""
        shutil.rmtree(self.work / "scratch", ignore_errors=True)
        for path in self.wanted:
            (self.work / path).unlink(missing_ok=True)
            shutil.copy(self.bench.store / path, self.work / path)
        (self.work / "dvc.lock").write_bytes(self.lock)
        (self.work / "params.yaml").write_text(self.bench.params)
        self.work.set(OTHERWISE)

    def repro(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "dvc", "repro", "--no-run-cache", *(options or (TARGET,))], cwd=self.work.folder,
                                env=self.work.environment() | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                start_new_session=True)

    def finish(self) -> str:
        """`dvc repro` to its end, which must be a good one with the right bytes."""
        started = self.repro()
        said, _ = started.communicate(timeout=300)
        if torn := [words for words in TORN if words in said]:  # what docs/reliability.md says of each
            if torn == [TORN_LOCKS]:
                (self.work / ".dvc/tmp/rwlock").unlink()
            else:
                (self.work / "dvc.lock").write_bytes(self.lock)
            started = self.repro()
            said = f"{torn[0]}\n{started.communicate(timeout=300)[0]}"
        assert started.returncode == 0, said
        assert {path: digest(self.work / path) for path in self.wanted} == self.wanted, said
        assert not list((self.work / STATE).glob("*"))
        assert not list((self.work / "data").rglob("*.tmp"))
        return said

    def stopping(self, folder: Path) -> tuple[subprocess.Popen[str], int]:
        """`dvc repro`, and the process of its stage predict, which is stopped once it has locked its outputs."""
        (folder / "sitecustomize.py").write_text(STOPS)
        running = self.repro(PYTHONPATH=str(folder))
        number = self.await_stage(running, "predict")
        while Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        return running, number

    def await_stage(self, running: subprocess.Popen[str], name: str) -> int:
        """The process of a stage, once it has locked its outputs."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            with contextlib.suppress(OSError, IndexError):
                number = int((self.work / f"scratch/locks/{name}.lock").read_text().split()[1])
                if number in living(running.pid):
                    return number
            assert running.poll() is None
            time.sleep(0.01)
        raise AssertionError(f"{name} did not begin")


@pytest.fixture(scope="module")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(bench, tmp_path_factory.mktemp("project"))


@pytest.fixture
def project(finished: Project) -> Iterator[Project]:
    finished.reset()
    yield finished
    shutil.rmtree(finished.work / "scratch", ignore_errors=True)


@pytest.mark.parametrize("number", range(12 if LONG else 1))
def test_dvc_and_all_it_started_killed_at_a_random_moment(project: Project, number: int) -> None:
    rng = random.Random(f"dvc {number}")
    signals = [rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)) for _ in range(rng.choice((1, 2)) if LONG else 1)]
    for signum in signals:
        running = project.repro()
        time.sleep(rng.uniform(1, 10))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signum)
        running.communicate(timeout=300)
        assert gone(running.pid)
    said = project.finish()
    torn = [words for words in TORN if words in said]
    found = f"the same bytes, once what DVC had left was mended: {torn[0]}" if torn else "the same bytes"
    record("dvc_kills", {f"{number}: " + ", ".join(signum.name for signum in signals): found})


def test_a_table_of_locks_that_a_kill_left_empty_is_named_by_dvc_and_removing_it_mends(project: Project) -> None:
    (project.work / ".dvc/tmp/rwlock").write_text("")
    broken = project.repro()
    said, _ = broken.communicate(timeout=300)
    assert broken.returncode != 0
    assert f"{TORN_LOCKS} '.dvc/tmp/rwlock'" in said
    assert TORN_LOCKS in project.finish()


def test_a_record_that_a_kill_left_empty_is_named_by_dvc_and_restoring_it_mends(project: Project) -> None:
    (project.work / "dvc.lock").write_text("")
    broken = project.repro()
    said, _ = broken.communicate(timeout=300)
    assert broken.returncode != 0
    assert TORN_RECORD in said
    assert TORN_RECORD in project.finish()


def test_dvc_killed_alone_leaves_its_stage_at_work_and_the_next_run_says_so(project: Project, tmp_path: Path) -> None:
    project.work.set({"compute.save_every": 60})
    running, orphan = project.stopping(tmp_path)
    running.terminate()
    running.wait(timeout=300)
    second = project.repro()
    said, _ = second.communicate(timeout=300)
    assert second.returncode != 0
    assert f"another run of predict is at work in this checkout: process {orphan} since" in said, said
    assert "Wait for it to end, or end it" in said
    os.kill(orphan, signal.SIGCONT)
    assert gone(running.pid)
    project.finish()
    record("dvc_killed_alone", {"predict": "refused with an explanation, then the same bytes"})


@pytest.mark.skipif(not LONG, reason="long form only: the stage's own refusal is tested in tests/faults/test_processes.py")
def test_a_second_dvc_repro_at_the_same_time_is_told_who_is_at_work(project: Project, tmp_path: Path) -> None:
    first, stage = project.stopping(tmp_path)
    second = project.repro()
    said, _ = second.communicate(timeout=300)
    os.kill(stage, signal.SIGCONT)
    assert second.returncode != 0
    assert str(first.pid) in said, said
    assert "is busy" in said or "another DVC process" in said, said
    first_said, _ = first.communicate(timeout=300)
    assert first.returncode == 0, first_said
    assert {path: digest(project.work / path) for path in project.wanted} == project.wanted


DAMAGED = ("data/mined/r1.zip", "data/labels/s2.zip", "data/scores.zip", "models/segmenter/s1.pt", "data/saliency.zip", "data/images.zip")


def test_damaged_artefacts_are_noticed_or_made_again_by_dvc_repro(project: Project) -> None:
    """Truncated, emptied, exchanged, gone: DVC takes them from its cache or runs what makes them; the end is the same."""
    work = project.work
    for path in DAMAGED:
        (work / path).unlink()
    shutil.copy(project.bench.store / "data/mined/r2.zip", work / "data/mined/r1.zip")
    shutil.copy(project.bench.store / "data/labels/s1.zip", work / "data/labels/s2.zip")
    (work / "data/scores.zip").write_bytes((project.bench.store / "data/scores.zip").read_bytes()[:1000])
    (work / "models/segmenter/s1.pt").write_bytes(b"")
    (work / "data/images.zip").write_bytes((project.bench.store / "data/images.zip").read_bytes()[::-1])
    (work / "params.yaml").write_text(project.bench.params)
    said = project.succeed(sys.executable, "-m", "dvc", "repro", "evaluate" if LONG else "refine")
    assert {path: digest(work / path) for path in DAMAGED} == {path: project.bench.expected[path] for path in DAMAGED}, said


def test_bit_rot_that_dvc_does_not_see_is_refused_by_the_stage_that_reads_it(project: Project) -> None:
    """DVC looks at size and date alone where it has seen a file before."""
    path = project.work / READ
    before = path.stat()
    whole = path.read_bytes()
    with path.open("r+b") as file:  # the same inode, and an entry's bytes
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    running = project.repro()
    said, _ = running.communicate(timeout=300)
    assert running.returncode != 0, said
    assert f"{READ}: expected what segment@s2 made" in said, said
    assert f"rm {READ} && dvc checkout {READ}" in said
    path.unlink()
    project.succeed(sys.executable, "-m", "dvc", "checkout", READ)
    assert path.read_bytes() == whole
    if LONG:
        project.finish()
