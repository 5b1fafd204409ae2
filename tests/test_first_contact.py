"""What meets whoever comes to the project: `make`, `make demo`, and a machine that lacks something."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.conftest import ROOT, Checkout, lock
from tools import demo

SCREEN = 45  # lines of 80 columns
DVC = """Stage 'download' didn't change, skipping
Running stage 'classify@r1':
> python -m stages.classify --step r1 --out models/classifier/r1.pt
classify@r1: 120/500 steps, 8.1 steps/s, 47 s left
a warning of some package
Updating lock file 'dvc.lock'

Stage 'mine@r1' is cached - skipping run, checking out outputs
Running stage 'stop':
> python -m stages.stop --out metrics
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def course(folder: Path, out: io.StringIO) -> demo.Course:
    (folder / "runtime.csv").write_text("stage,count,unit,per_second\nclassify@r1,4000,images,201.4\nstop,0,images,0.0\n")
    return demo.Course(demo.Screen(out), 12, folder / "runtime.csv")


# ---- the demo

def test_a_stage_is_one_line_and_its_own_words_are_passed_on(tmp_path: Path) -> None:
    out = io.StringIO()
    told = course(tmp_path, out)
    for line in DVC.splitlines():
        told.read(line)
    told.finish()
    lines = [re.sub(r" +\d+\.\d s\b(?!t)", " 0.0 s", line) for line in out.getvalue().splitlines()]
    assert lines == ["      classify@r1    120/500 steps, 8.1 steps/s, 47 s left", "a warning of some package",
                     " 2/12 classify@r1 0.0 s  4000 images, 201.4/s", " 3/12 mine@r1        from the cache", " 4/12 stop 0.0 s"]
    assert told.same == 1


def test_on_a_terminal_the_last_line_tells_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: 0.0))
    out = Terminal()
    told = course(tmp_path, out)
    for line in DVC.splitlines()[:4]:
        told.read(line)
        told.tick()
    shown = out.getvalue().split("\r\x1b[K")
    assert shown[-1] == " 2/12 classify@r1        0 s  120/500 steps, 8.1 "
    assert all("\n" not in line for line in shown)


def test_a_failure_is_told_in_full_and_leaves_no_finished_stage(tmp_path: Path) -> None:
    out = io.StringIO()
    told = course(tmp_path, out)
    failure = ["classify@r1: params.yaml: 1 faulty parameter(s); mend them and run again", "  - seed: found -1",
               "ERROR: failed to reproduce 'classify@r1': failed to run: python -m stages.classify, exited with 1"]
    for line in [*DVC.splitlines()[:3], *failure]:
        told.read(line)
        told.tick()
    told.finish()
    assert out.getvalue().splitlines() == failure


@pytest.mark.parametrize(("status", "told"), [(-9, True), (137, True), (1, False)])
def test_a_stage_that_the_system_killed_gets_the_words_it_could_not_say(tmp_path: Path, status: int, told: bool) -> None:
    out = io.StringIO()
    course(tmp_path, out).read(f"ERROR: failed to reproduce 'mine@r1': failed to run: python -m stages.mine --step r1, exited with {status}")
    assert ("mine@r1 was killed" in out.getvalue() and "compute.processes: 1" in out.getvalue()) == told


# Says that it is at work past Python's own buffer, which a signal that came while it is being emptied would find in use.
WORKER = """
import os, signal, sys, time
def stop(number, frame):
    print("saved", number, flush=True)
    sys.exit(254)
signal.signal(signal.SIGINT, stop); signal.signal(signal.SIGTERM, stop)
print("Running stage 'classify@r1':", flush=True)
os.write(1, b"at work\\n")
time.sleep(60)
"""
WATCHER = """
import sys
from pathlib import Path
from tools import demo
screen = demo.Screen(sys.stdout)
print("watching", flush=True)
sys.exit(demo.reproduce(screen, demo.Course(screen, 3, Path("none")), [sys.executable, "-c", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_what_is_at_work_once_and_its_status_comes_back(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WATCHER, WORKER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["watching\n", "at work\n"]
        process.send_signal(number)
        assert process.stdout.read().splitlines() == [f"saved {int(number)}"]
    assert process.returncode == 254


def test_stages_are_counted_as_dvc_counts_them(finished: Checkout) -> None:
    assert demo.total_of(yaml.safe_load((finished / "dvc.yaml").read_text()), finished.params) == len(lock(finished))


def test_the_demo_ends_with_the_scores_the_report_and_next_steps_on_one_screen(finished: Checkout, tmp_path: Path) -> None:
    work = finished.copy(tmp_path / "work")
    shutil.copytree(ROOT / "tools", work / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    ended = work.call("python", "-m", "tools.demo")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    stages = len(lock(work))
    assert re.fullmatch(rf"{stages} stages in \d+ s, {stages} of them unchanged", lines[0])
    assert stages + len(lines) <= SCREEN, "with a line for every stage, as in a first run"
    assert max(map(len, lines)) < 80
    text = ended.stdout
    assert [text.index(part) for part in ("mean IoU", "val, prediction", "round, %", "Report: report/", "  1. ", "  2. ", "  3. ")] == sorted(
        text.index(part) for part in ("mean IoU", "val, prediction", "round, %", "Report: report/", "  1. ", "  2. ", "  3. "))
    (work / "params.yaml").write_text("- nothing\n")
    failed = work.call("python", "-m", "tools.demo")
    assert failed.returncode == 255
    assert "params.yaml" in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr


def test_without_truth_the_demo_says_that_nothing_was_scored(tmp_path: Path) -> None:
    assert demo.scores(tmp_path) == ["There are no masks to score against; all else is done."]
    (tmp_path / "rounds.csv").write_text("round,mined_area,precision,recall,pseudo_label_miou\nr1,0.25,,,\n")
    (tmp_path / "val.json").write_text('{"miou": null, "note": "no masks"}')
    assert demo.scores(tmp_path)[-1].split() == ["r1", "25.0", "–", "–", "–"]


# ---- a machine or a folder that lacks something

def test_a_download_without_git_is_told_what_dvc_wants(tmp_path: Path) -> None:
    assert "expected the folder .dvc" in demo.obstacle(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    assert "`git init` here" in demo.obstacle(tmp_path)
    (tmp_path / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert demo.obstacle(tmp_path) == ""
    (tmp_path / ".dvc/config.local").unlink()
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert demo.obstacle(tmp_path) == ""


def test_a_stage_run_by_another_python_names_the_environment() -> None:
    """As `.venv/bin/dvc repro` without the environment active does; -S leaves the installed packages out."""
    ended = subprocess.run([sys.executable, "-S", "-m", "stages.merge"], cwd=ROOT, capture_output=True, text=True, check=False,
                           env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"})
    assert ended.returncode == 1
    told = re.sub(r"^\S+ \(Python [\d.]+\)", "PYTHON", ended.stderr)
    assert told.splitlines() == [
        "PYTHON is not the project's environment, it lacks numpy, PIL, pydantic, torch, tqdm, yaml.",
        "Run `source .venv/bin/activate`, then the command again; where there is no .venv yet, `make setup` makes it."]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The Makefile, and a folder ``bin`` with the tools that every machine has, but no Python."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "bin").mkdir()
    for name in ("make", "sh", "sed", "echo", "test"):
        if path := shutil.which(name):
            (tmp_path / "bin" / name).symlink_to(path)
    return tmp_path


def make(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=project, env={"PATH": str(project / "bin")}, capture_output=True, text=True, check=False)


def test_make_alone_lists_what_there_is_in_few_lines(project: Path) -> None:
    told = make(project)
    assert told.returncode == 0, told.stderr
    assert told.stdout == make(project, "help").stdout
    lines = told.stdout.splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    targets = set(re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text())[1].split()) - {"help"}
    assert {target for target in targets if not re.search(rf"\b{target}\b", told.stdout)} == set()


@pytest.mark.parametrize("version", ["3.14.0", None])
def test_without_a_python_that_suits_it_is_said_which_and_how_to_get_one(project: Path, version: str | None) -> None:
    if version:
        (project / "bin/python3").write_text(f'#!/bin/sh\nif [ "$1" = -V ]; then echo Python {version}; exit; fi\nexit 1\n')
        (project / "bin/python3").chmod(0o755)
    told = make(project, "demo")
    assert told.returncode
    assert told.stdout.startswith(f"make: expected Python 3.11, 3.12 or 3.13 on PATH, found {f'Python {version}' if version else 'none'}.\n")
    assert "apt-get install python3.12" in told.stdout
    assert "make demo PYTHON=/path/to/python3.12" in told.stdout
