"""Helpers that several tests share: throw-away checkouts of the pipeline, and ways to run it in them."""

import copy
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from aepsl.parallel import usable_cores

# A shell starts background jobs with Ctrl-C ignored, and what tests start, and interrupt, would inherit it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests fork: a child does not inherit the threads that torch, once imported, computes with, and would wait for them for ever.
os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
LONGEST = ("sharing", "docs", "pipeline", "faults", "report")
TRACKED = ("dvc.yaml", "params.yaml", "stages", "src", ".dvc/config", ".dvc/plots", ".dvcignore", ".gitignore")
# The whole method on a handful of images.
TINY: dict[str, Any] = {
    "rounds": {"r1": "r0", "r2": "r1"}, "last_round": "r2", "passes": ["s1", "s2"], "relabels": {"s2": "s1"}, "last_pass": "s2",
    "data.shapes": {"seed": 1, "train": 12, "val": 6, "size": 64},
    "saliency.size": 64,
    **{f"{stage}.{key}": value for stage in ("classify", "segment")
       for key, value in (("network.width", 0.1), ("training.length", 1.0), ("training.batch", 4), ("training.crop", 49))},
    "classify.held_out": 0.25, "classify.further_rounds.start": "previous", "mine.further_rounds.confident_share": 0.5, "segment.start": "classifier",
    "refine.custom.iterations": 2,
    "compute": {"device": "cpu", "devices": 1, "launcher": "", "precision": "float32", "compile": False, "inference_batch": 1, "scheduler": "",
                "workers": 0, "processes": 1, "threads": 1, "save_every": 60.0}}
# Imports are most of what so small a stage costs: run many in one process, exactly as `python -m stages.x …` would.
MANY_STAGES = """
import json, runpy, sys
for sys.argv in json.load(sys.stdin):
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def pytest_xdist_auto_num_workers() -> int:
    """Processes of ``pytest --numprocesses auto``. With more, what each has to make first for its tests would be most of the work."""
    return min(4, usable_cores())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that take longest first, so that of several processes none is at work alone in the end."""
    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


class Checkout:
    """A copy of what git tracks, without data, in a folder of its own."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any]) -> None:
        self.folder = folder
        self.owner: dict[str, str] = {}  # variables of whoever works in it, such as HOME
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in TRACKED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, folder / name)
        shutil.copy(ROOT / "presets/shapes.yaml", folder / "params.yaml")
        self.set(parameters)

    def copy(self, folder: Path) -> "Checkout":
        """Another checkout with everything in it, artefacts and DVC's cache too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return self.at(folder)

    def at(self, folder: Path) -> "Checkout":
        """The same helpers for a checkout of the same owner that lies in another folder."""
        twin = copy.copy(self)
        twin.folder = folder
        return twin

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def params(self) -> dict[str, Any]:
        content: dict[str, Any] = yaml.safe_load((self / "params.yaml").read_text())
        return content

    def set(self, parameters: Mapping[str, Any]) -> None:
        """Change parameters by dotted path."""
        content = self.params
        for path, value in parameters.items():
            *groups, key = path.split(".")
            group = content
            for name in groups:
                group = group[name]
            group[key] = value
        (self / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def environment(self) -> dict[str, str]:
        """That of a command in the checkout: this interpreter first on the path, and nothing of this machine's settings."""
        here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1",
                **{f"DVC_{kind}_DIR": str(self / f".settings/{kind}") for kind in ("GLOBAL_CONFIG", "SYSTEM_CONFIG", "SITE_CACHE")}}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DVC", "GIT", "AEPSL"))}
        return inherited | here | self.owner

    def call(self, *command: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout."""
        return subprocess.run(command, cwd=self.folder, input=text, env=self.environment() | environment, capture_output=True, text=True,
                              timeout=3600, check=False)

    def stage(self, name: str, **options: str) -> subprocess.CompletedProcess[str]:
        """Run one stage; option ``mean_pixel`` is ``--mean-pixel``."""
        words = [word for option, value in options.items() for word in (f"--{option.replace('_', '-')}", value)]
        return self.call("python", "-m", f"stages.{name}", *words)

    def stages(self, commands: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run commands ``python -m stages.x …`` in one process, one after the other; the first fault ends it."""
        assert all(command.startswith("python -m stages.") for command in commands)
        return self.call("python", "-c", MANY_STAGES, text=json.dumps([command.split()[2:] for command in commands]), **environment)


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def running(output: str) -> list[str]:
    """The stages that DVC says it runs, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def lock(work: Checkout) -> dict[str, Any]:
    """The stages of a checkout's dvc.lock."""
    stages: dict[str, Any] = yaml.safe_load((work / "dvc.lock").read_text())["stages"]
    return stages


def dvc_md5(path: Path) -> str:
    """What dvc.lock says of a file or a folder: the MD5 of its bytes, or of the list of its files and theirs."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    files = sorted((file.relative_to(path).as_posix(), dvc_md5(file)) for file in path.rglob("*") if file.is_file())
    content = json.dumps([{"md5": digest, "relpath": name} for name, digest in files], sort_keys=True)
    return f"{hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()}.dir"


def commands(work: Checkout, *names: str) -> list[str]:
    """The commands of the named stages, or of all, in an order in which every input is there before it is read."""
    stages = lock(work)
    made_by = {out["path"]: name for name, stage in stages.items() for out in stage["outs"]}
    order: list[str] = []

    def visit(name: str) -> None:
        for dep in stages[name].get("deps", ()):
            if dep["path"] in made_by:
                visit(made_by[dep["path"]])
        if name not in order:
            order.append(name)

    for name in sorted(stages):
        visit(name)
    return [stages[name]["cmd"] for name in order if not names or name in names]


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Any]], Checkout]:
    """``checkout({dotted parameter: value, …})``: a fresh :class:`Checkout` of the shapes preset with these parameters changed."""
    def make(parameters: Mapping[str, Any]) -> Checkout:
        return Checkout(tmp_path_factory.mktemp("checkout"), parameters)
    return make


@pytest.fixture(scope="session")
def first_run(checkout: Callable[[Mapping[str, Any]], Checkout], tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, list[str]]:
    """A checkout in which ``dvc repro`` has run, and the stages in the order it ran them."""
    def made() -> tuple[Checkout, list[str]]:
        work = checkout(TINY)
        succeed(work.call("git", "init", "--quiet"))
        return work, running(succeed(work.call("python", "-m", "dvc", "repro")))

    if "PYTEST_XDIST_WORKER" not in os.environ:
        return made()
    # Of several processes that run tests the first makes it, and each takes a copy, for DVC locks what it works in.
    shared = tmp_path_factory.getbasetemp().parent / "first_run"
    with shared.with_suffix(".lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not (told := shared.with_suffix(".json")).exists():
            work, order = made()
            work.folder.rename(shared)
            told.write_text(json.dumps(order))
    order = json.loads(told.read_text())
    return checkout({}).at(shared).copy(tmp_path_factory.mktemp("first_run") / "checkout"), order


@pytest.fixture(scope="session")
def finished(first_run: tuple[Checkout, list[str]]) -> Checkout:
    """The checkout in which all has run; tests read it, or copy it and change the copy."""
    return first_run[0]


@pytest.fixture(scope="session")
def third_party() -> Callable[[str], Path]:
    """``third_party("fixtures/densecrf")``: real data or published results that lie beside the checkout, never in it; a test without them skips."""
    def find(name: str) -> Path:
        found = next((folder / "shared/data" / name for folder in ROOT.parents if (folder / "shared/data" / name).exists()), None)
        if found is None:
            pytest.skip(f"shared/data/{name} is in no folder above this checkout")
        return found
    return find
