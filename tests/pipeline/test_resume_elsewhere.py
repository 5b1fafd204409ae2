"""An interrupted stage goes on in another checkout, such as DVC's temporary ones, where they share the root of the states."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PARAMETERS: dict[str, Any] = {"data.shapes": {"seed": 1, "train": 8, "val": 2, "size": 64}, "saliency.size": 64, "compute.processes": 1,
                              "compute.save_every": 0.0}
SALIENCY = {"images": "data/images.zip", "index": "data/index.csv", "out": "data/saliency.zip"}
OPTIONS = [word for name, value in SALIENCY.items() for word in (f"--{name}", value)]
# Runs the stage as `python -m stages.saliency …` would, and dies without a word before the sixth image is done.
DIES = """
import os, runpy, signal, sys
import aepsl.mining.saliency as module
compute, done = module.saliency, []
def saliency(*arguments, **settings):
    if len(done) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(None)
    return compute(*arguments, **settings)
module.saliency = saliency
sys.argv = ["stages.saliency", *sys.argv[1:]]
runpy.run_module("stages.saliency", run_name="__main__", alter_sys=True)
"""


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def dies(work: Any, root: Path) -> None:
    result = work.call("python", "-c", DIES, *OPTIONS, AEPSL_STATE=str(root), PYTHONPATH=f"{work.folder}:{work / 'src'}")
    assert result.returncode == -9, result.stderr
    assert not (work / "data/saliency.zip").exists()


@pytest.fixture(scope="module")
def prepared(checkout):
    """A committed checkout whose data are prepared."""
    work = checkout(PARAMETERS)
    succeed(work.call("git", "init", "--quiet"))
    succeed(work.call("python", "-m", "dvc", "repro", "prepare"))
    for command in (["add", "--all"], ["-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "Start"]):
        succeed(work.call("git", *command))
    return work


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory) -> bytes:
    """The artefact of a run that nothing interrupted."""
    work = prepared.copy(tmp_path_factory.mktemp("whole") / "checkout")
    succeed(work.stage("saliency", **SALIENCY))
    return (work / "data/saliency.zip").read_bytes()


def test_a_killed_stage_goes_on_in_another_checkout(prepared, whole: bytes, tmp_path: Path) -> None:
    first, second = (prepared.copy(tmp_path / name) for name in ("first", "second"))
    dies(first, tmp_path / "state")
    # A SIGKILL leaves the file that was being written, under its temporary name; the next run in that checkout removes it.
    assert list((first / "data").glob(".saliency.zip.*.tmp"))
    assert "saliency: goes on at 5 of 8" in succeed(second.call("python", "-m", "stages.saliency", *OPTIONS, AEPSL_STATE=str(tmp_path / "state")))
    assert (second / "data/saliency.zip").read_bytes() == whole
    assert list((tmp_path / "state").iterdir()) == []
    assert "goes on" not in succeed(first.stage("saliency", **SALIENCY))
    assert (first / "data/saliency.zip").read_bytes() == whole
    assert not list((first / "data").glob(".*"))


def test_a_temporary_experiment_goes_on_from_what_a_killed_stage_left(prepared, whole: bytes, tmp_path: Path) -> None:
    work = prepared.copy(tmp_path / "checkout")
    dies(work, tmp_path / "state")
    said = succeed(work.call("python", "-m", "dvc", "exp", "run", "--temp", "saliency", AEPSL_STATE=str(tmp_path / "state")))
    assert "saliency: goes on at 5 of 8" in said
    assert list((tmp_path / "state").iterdir()) == []
    cached = [path.read_bytes() for path in (work / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert whole in cached


def test_a_changed_parameter_starts_afresh_and_so_does_changed_code(prepared, whole: bytes, tmp_path: Path) -> None:
    work = prepared.copy(tmp_path / "checkout")
    dies(work, tmp_path / "state")
    work.set({"saliency.superpixel": 30})
    said = succeed(work.call("python", "-m", "stages.saliency", *OPTIONS, AEPSL_STATE=str(tmp_path / "state")))
    assert "saliency: starts afresh: what an interrupted run left in" in said
    assert "was for other parameters\n" in said
    assert "goes on" not in said
    assert (work / "data/saliency.zip").read_bytes() != whole
    work.set({"saliency.superpixel": 50})
    with (work / "src/aepsl/mining/saliency.py").open("a") as file:
        file.write("# another line\n")
    said = succeed(work.call("python", "-m", "stages.saliency", *OPTIONS, AEPSL_STATE=str(tmp_path / "state")))
    assert "was for other code\n" in said
    assert "goes on" not in said


def test_what_was_left_behind_is_listed_and_pruned(prepared, tmp_path: Path) -> None:
    work = prepared.copy(tmp_path / "checkout")
    dies(work, tmp_path / "state")
    listing = [sys.executable, "-m", "aepsl", "clean"]
    there = {"AEPSL_STATE": str(tmp_path / "state"), "PYTHONPATH": str(work / "src")}
    assert str(work.folder) in succeed(work.call(*listing, **there))
    assert "removed: 1 item" in succeed(work.call(*listing, "--prune", **there))
    assert list((tmp_path / "state").iterdir()) == []
