"""Disks that are full or read-only, and things in the way of an output: the stage says what and where, leaves nothing half-written, and a plain
rerun after the cause is gone gives the right bytes."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bench import Bench, Job, assert_explained
from tests.faults.reliability import record

LONG = os.environ.get("AEPSL_FAULTS") == "long"
TRAINING = ("classify@r1", "segment@s1")
BY_IMAGE = ("saliency", "mine@r2", "relabel@s2", "predict", "refine")
EVERY = ("download", "prepare", "weights", "saliency", "start", "classify@r1", "mine@r1", "classify@r2", "mine@r2", "merge", "segment@s1",
         "relabel@s2", "segment@s2", "predict", "refine", "export", "evaluate", *(("stop", "package", "rounds", "oracle", "gallery") if LONG else ()))
SOME = EVERY if LONG else ("prepare", "classify@r1")


class Disk:
    """A file system of four megabytes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")

    def leave(self, free: int) -> None:
        """Fill it up to ``free`` bytes."""
        with (self.folder / "filler").open("wb") as file:
            facts = os.statvfs(self.folder)
            file.write(bytes(max(0, facts.f_bavail * facts.f_frsize - free)))

    def empty(self) -> None:
        (self.folder / "filler").unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    yield disk
    disk.close()


def elsewhere(job: Job, folder: Path) -> Job:
    """The same stage, writing into another folder."""
    written = {*job.outputs, *(str(parent) for path in job.outputs for parent in Path(path).parents)} - set(job.inputs)
    words = job.command.split()
    moved = [f"{folder}/{word}" if word in written and words[place - 1].startswith("--") else word for place, word in enumerate(words)]
    return replace(job, command=" ".join(moved), outputs=tuple(f"{folder}/{path}" for path in job.outputs))


@pytest.fixture
def moved(bench: Bench) -> Iterator[Any]:
    """``moved(name, folder)``: a stage, ready to be run, whose outputs go into the folder."""
    added: list[str] = []

    def make(name: str, folder: Path) -> Job:
        job = bench.reset(bench.jobs[name])
        there = elsewhere(job, folder)
        for path, original in zip(there.outputs, job.outputs, strict=True):
            bench.expected[path] = bench.expected[original]
            added.append(path)
        return there
    yield make
    for path in added:
        del bench.expected[path]


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_is_named_and_once_there_is_space_the_stage_goes_on(bench: Bench, moved: Any, disk: Disk, name: str) -> None:
    job = moved(name, disk.folder)
    sizes = [(bench.store / path).stat().st_size for path in bench.jobs[name].outputs]
    disk.leave(sum(sizes) // 2 if min(sizes) > 8192 else 0)
    run = bench.start(job)
    run.wait()
    bench.after_failure(job, run, str(disk.folder), "the disk is full: free some space", "run `dvc repro` again")
    assert any(Path(path).name in run.said for path in job.outputs), run.said
    disk.empty()
    saved = bench.saved()
    run = bench.succeeds_again(job)
    assert not saved or "goes on" in run.said
    record("disk_full", {name: "explained, then the same bytes"})


@pytest.mark.parametrize("name", ["merge", "segment@s1"])
def test_a_disk_that_fills_at_the_last_moment_is_explained(bench: Bench, name: str) -> None:
    """Where nothing can be mounted: the disk takes every byte and refuses at the flush."""
    job = bench.reset(bench.jobs[name])
    run = bench.start(job, inject=[("full_at_fsync", {"suffix": Path(job.outputs[0]).suffix, "folder": job.outputs[0].partition("/")[0]})])
    run.wait()
    bench.after_failure(job, run, Path(job.outputs[0]).name, "the disk is full")
    bench.succeeds_again(job)


@pytest.mark.parametrize("name", TRAINING + BY_IMAGE if LONG else ("classify@r1", "refine"))
def test_a_file_that_grows_beyond_the_limit_is_explained(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    limit = (bench.store / job.outputs[0]).stat().st_size // 2
    run = bench.start(job, inject=[("limit_file_size", {"most": limit})])
    run.wait()
    bench.after_failure(job, run, Path(job.outputs[0]).name, "ulimit -f")
    bench.succeeds_again(job)


@pytest.mark.parametrize("name", TRAINING + BY_IMAGE if LONG else ("classify@r1", "saliency"))
def test_work_goes_on_where_its_state_cannot_be_kept(bench: Bench, disk: Disk, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    disk.leave(16384)  # enough to begin with
    run = bench.start(job, AEPSL_STATE=str(disk.folder / "state"))
    run.wait()
    assert bench.problems(job, run) == []
    assert_explained(run.said, str(disk.folder), "cannot keep", "an interruption would lose")
    disk.empty()
    disk.remount("ro")
    bench.reset(job)
    run = bench.start(job, AEPSL_STATE=str(disk.folder / "other"))
    run.wait()
    assert bench.problems(job, run) == []
    assert_explained(run.said, str(disk.folder / "other"), "cannot keep the state of this run there", "AEPSL_STATE names another folder")


@pytest.mark.parametrize("name", SOME)
def test_a_read_only_file_system_is_named(bench: Bench, moved: Any, disk: Disk, name: str) -> None:
    job = moved(name, disk.folder)
    disk.remount("ro")
    run = bench.start(job)
    run.wait()
    bench.after_failure(job, run, str(disk.folder), "read-only", "mount it for writing")
    disk.remount("rw")
    bench.succeeds_again(job)
    record("read_only", {name: "explained, then the same bytes"})


@pytest.mark.parametrize("name", SOME)
def test_a_folder_without_permission_is_named(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    folder = bench.work / str(Path(job.outputs[-1]).parent)
    folder.chmod(0o555)
    try:
        run = bench.start(job, inject=[("heed_permissions", {})])
        run.wait()
    finally:
        folder.chmod(0o755)
    assert run.status == 1
    assert_explained(run.said, str(Path(job.outputs[-1]).parent), "you may not", "ls -l")
    assert [line for line in bench.left_behind() if ".tmp" in line] == []
    bench.succeeds_again(job)
    record("no_permission", {name: "explained, then the same bytes"})


@pytest.mark.parametrize("name", SOME)
def test_a_file_where_the_folder_should_be_is_named(bench: Bench, moved: Any, tmp_path: Path, name: str) -> None:
    job = moved(name, tmp_path / "there")
    (tmp_path / "there").write_text("a file")
    run = bench.start(job)
    run.wait()
    bench.after_failure(job, run, str(tmp_path / "there"), "move it away")
    (tmp_path / "there").unlink()
    bench.succeeds_again(job)


@pytest.mark.parametrize("name", SOME)
def test_a_folder_where_the_output_should_be_is_named(bench: Bench, name: str) -> None:
    job = bench.reset(bench.jobs[name])
    folder = bench.work / job.outputs[0]
    (folder / "something").mkdir(parents=True)
    run = bench.start(job)
    run.wait()
    assert run.status == 1
    assert_explained(run.said, job.outputs[0], "a folder is where a file belongs", "move it away")
    assert [line for line in bench.left_behind() if ".tmp" in line] == []
    (folder / "something").rmdir()
    folder.rmdir()
    bench.succeeds_again(job)


def test_a_table_of_costs_that_cannot_be_written_does_not_lose_a_finished_stage(bench: Bench) -> None:
    job = bench.reset(bench.jobs["merge"])
    (bench.work / "metrics/runtime.csv").mkdir(parents=True)
    run = bench.start(job)
    run.wait()
    assert bench.problems(job, run) == []
    assert_explained(run.said, "metrics/runtime.csv", "the stage itself is finished")


@pytest.mark.parametrize("number", [1, 99999999])
def test_what_a_killed_process_left_beside_an_output_is_swept(bench: Bench, number: int) -> None:
    """Process 1 is alive, but it is not at work here: numbers are used again, in containers after every start."""
    job = bench.reset(bench.jobs["merge"])
    (bench.work / f"data/labels/.s1.zip.{number}.tmp").write_bytes(b"half")
    bench.succeeds_again(job)
