"""A tiny pipeline that has run once, and its stages to be run again under a fault and compared with what they made then."""

import os
import re
import shutil
import time
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.conftest import TINY, Checkout, dvc_md5
from tests.faults.warm import Injection, Run, Warm, living

# Two rounds and two passes; every stage has several steps or images, so that it can be stopped between them.
SMALL: dict[str, Any] = {
    "rounds": {"r1": "r0", "r2": "r1"}, "last_round": "r2", "passes": ["s1", "s2"], "relabels": {"s2": "s1"}, "last_pass": "s2",
    "data.shapes": {"seed": 1, "train": 12, "val": 6, "size": 64}, "saliency.size": 64,
    **{f"{stage}.{key}": value for stage in ("classify", "segment")
       for key, value in (("network.width", 0.1), ("training.length", 4.0), ("training.batch", 3), ("training.crop", 49))},
    "segment.training.lr": 0.3, "predict.prohibit_below": 0.0,  # something else than background everywhere
    "classify.held_out": 0.25, "classify.further_rounds.start": "previous", "mine.further_rounds.confident_share": 0.5, "segment.start": "classifier",
    "refine.custom.iterations": 2,
    # Everything that can be kept is kept at once: so every run has something to go on from.
    "compute": TINY["compute"] | {"save_every": 0}}
# The images become a folder of a user's own, with test images: so download reads images, and export has something to export.
OWN: dict[str, Any] = {"data.source": "folder", "data.path": "own", "data.folder.test": "test"}
ARTEFACTS = ("data/", "models/", "metrics/", "report/")
STATE = "scratch/state"


@dataclass(frozen=True)
class Job:
    """A stage of dvc.yaml with its templates filled in, and the parameters it is run with where they are not the bench's."""

    name: str
    command: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def stage(self) -> str:
        return self.name.partition(":")[0]


class Step(NamedTuple):
    """A moment just before a stage changes the disk."""

    seconds: float  # since its start
    event: str
    path: str


def resolve(pipeline: dict[str, Any], params: dict[str, Any]) -> dict[str, Job]:
    """The stages by name, in the file's order; a check of what DVC makes of templates is in tests/pipeline/test_graph.py."""
    def fill(text: str, names: dict[str, Any]) -> str:
        return re.sub(r"\$\{([\w.]+)\}", lambda match: str(names[match[1]]), text)

    def path_of(entry: Any) -> str:
        return next(iter(entry)) if isinstance(entry, dict) else entry

    jobs = {}
    for stage, content in pipeline["stages"].items():
        each = content.get("foreach")
        chosen = params[each[2:-1]] if each else None
        pairs = [("", "")] if chosen is None else list(chosen.items()) if isinstance(chosen, dict) else [(item, item) for item in chosen]
        for key, item in pairs:
            names = {**params, "data.path": params["data"]["path"], "key": key, "item": item}
            body = content.get("do", content)
            name = f"{stage}@{key}" if key else stage
            outputs = [fill(path_of(entry), names) for kind in ("outs", "metrics", "plots") for entry in body.get(kind, ())]
            inputs = [fill(entry, names) for entry in body.get("deps", ())]
            jobs[name] = Job(name, fill(body["cmd"], names), tuple(path for path in inputs if path.startswith(ARTEFACTS)), tuple(outputs))
    made = [path for job in jobs.values() for path in job.outputs]
    # A folder as input means all that is made in it.
    return {name: replace(job, inputs=tuple(path for given in job.inputs for path in made if path == given or path.startswith(f"{given}/")))
            for name, job in jobs.items()}


def in_order(jobs: dict[str, Job]) -> list[Job]:
    """Every stage after those that make its inputs."""
    made = {path: job for job in jobs.values() for path in job.outputs}
    order: list[Job] = []

    def visit(job: Job) -> None:
        for path in job.inputs:
            visit(made[path])
        if job not in order:
            order.append(job)

    for job in jobs.values():
        visit(job)
    return order


def digest(path: Path) -> str | None:
    """What a file or folder holds; None = neither is there."""
    return dvc_md5(path) if path.exists() else None


class Bench:
    """The finished pipeline, and one stage of it at a time under a fault.

    ``store`` holds a copy of every artefact; the checkout's own are hard links to it, taken away and put back as the tests need.
    """

    def __init__(self, work: Checkout, warm: Warm, store: Path) -> None:
        self.work, self.warm, self.store = work, warm, store
        self.jobs: dict[str, Job] = {}
        self.expected: dict[str, str] = {}
        self.seconds: dict[str, float] = {}  # of an undisturbed run
        self.steps: dict[str, list[Step]] = {}

    # ---- making it

    def make(self, without: Collection[str] = ()) -> None:
        """Run the pipeline, its images first generated and then handed to it as a user's own folder, ``without`` some stages."""
        pipeline = yaml.safe_load((self.work / "dvc.yaml").read_text())
        shapes = dict(self.work.params)
        self.finish(Job("download", "python -m stages.download --out data/raw.zip", (), ("data/raw.zip",)))
        with zipfile.ZipFile(self.work / "data/raw.zip") as raw:
            raw.extractall(self.work / "own", [name for name in raw.namelist() if not name.startswith("Parts")])
        (self.work / "data/raw.zip").rename(self.store / "shapes.zip")
        lists = self.work / "own/ImageSets/Segmentation"
        for number, identifier in enumerate(sorted((lists / "val.txt").read_text().split())[:3]):
            shutil.copy(next((self.work / "own/JPEGImages").glob(f"{identifier}.*")), self.work / f"own/JPEGImages/test{number}.png")
        (lists / "test.txt").write_text("".join(f"test{number}\n" for number in range(3)))
        self.work.set(OWN)
        self.params = (self.work / "params.yaml").read_text()
        self.jobs = resolve(pipeline, self.work.params)
        for job in in_order(self.jobs):
            if job.name in without:
                del self.jobs[job.name]
                continue
            self.listed(job)
            for path in job.outputs:
                self.keep(path, self.work / path)
        self.jobs["download:shapes"] = Job("download:shapes", "python -m stages.download --out data/shapes.zip", (), ("data/shapes.zip",),
                                           {name: shapes["data"][name.partition(".")[2]] for name in ("data.source", "data.path")})
        self.keep("data/shapes.zip", self.store / "shapes.zip")
        self.listed(self.reset(self.jobs["download:shapes"]))

    def listed(self, job: Job) -> None:
        """Run a stage undisturbed and note the steps in which it changes the disk."""
        listing = self.store / "steps"
        listing.unlink(missing_ok=True)
        run = self.finish(job, inject=[("list_steps", {"into": str(listing)})])
        rows = [line.split(" ", 2) for line in listing.read_text().splitlines()]
        self.steps[job.name] = [Step(float(seconds), event, path) for seconds, event, path in rows]
        self.seconds[job.name] = run.seconds

    def keep(self, path: str, source: Path) -> None:
        self.expected[path] = str(digest(source))
        (self.store / path).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, self.store / path)

    def finish(self, job: Job, *, inject: Sequence[Injection] = (), **environment: str) -> Run:
        """Run a stage to its end, which must be a good one."""
        run = self.start(job, inject=inject, **environment)
        assert run.wait() == 0, f"{job.name}: status {run.status}\n{run.said}"
        return run

    # ---- one stage

    def start(self, job: Job, *, inject: Sequence[Injection] = (), **environment: str) -> Run:
        return self.warm.start(job.command, self.work.folder, inject=inject, **environment)

    def reset(self, job: Job, **parameters: Any) -> Job:
        """Everything as if all stages but this one, and those after it, had just run; returns the job."""
        for folder in (*ARTEFACTS, "scratch"):
            shutil.rmtree(self.work / folder, ignore_errors=True)
        needed = set(job.inputs)
        for path in sorted(needed):
            self.put_back(path)
        for path in job.outputs:
            (self.work / path).parent.mkdir(parents=True, exist_ok=True)  # as it would be where the artefact was before
        (self.work / "params.yaml").write_text(self.params)
        if job.parameters | parameters:
            self.work.set(job.parameters | parameters)
        return job

    def put_back(self, path: str) -> None:
        target = self.work / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (self.store / path).is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.store / path, target, copy_function=os.link)
            return
        target.unlink(missing_ok=True)
        os.link(self.store / path, target)

    # ---- what is left of it

    def saved(self) -> list[Path]:
        """Files in the state folder that hold work, named by its place: not locks, descriptions, files half-written or being removed."""
        return [path for path in (self.work / STATE).rglob("*") if path.is_file() and path.name[0].isdigit()
                and not path.relative_to(self.work / STATE).parts[0].startswith(".")]

    def outputs_as_before(self, job: Job) -> list[str]:
        """Outputs that differ from those of the undisturbed run."""
        return [f"{path}: {'missing' if found is None else 'other bytes'}" for path in job.outputs
                if (found := digest(self.work / path)) != self.expected[path]]

    def left_behind(self) -> list[str]:
        """Temporary files, and state that should be gone when a stage has succeeded."""
        found = [path for folder in (*ARTEFACTS, "scratch") for path in (self.work / folder).rglob("*") if path.name.endswith(".tmp")]
        state = list((self.work / STATE).rglob("*"))
        return [f"{path.relative_to(self.work.folder)}: left behind" for path in [*found, *state]]

    def damaged_inputs(self, job: Job) -> list[str]:
        return [f"{path}: an input was changed" for path in job.inputs if digest(self.work / path) != self.expected[path]]

    def problems(self, job: Job, run: Run) -> list[str]:
        """What is not as it should be after a run that had to succeed."""
        if run.status != 0:
            return [f"status {run.status}: {run.said}"]
        return [*self.outputs_as_before(job), *self.left_behind(), *self.damaged_inputs(job), *([] if gone(run.pid) else ["an orphaned process"])]

    def after_failure(self, job: Job, run: Run, *said: str) -> None:
        """A run that could not succeed: it says why, with these words, and leaves nothing half-written."""
        assert run.status == 1, f"status {run.status}\n{run.said}"
        assert_explained(run.said, *said)
        half = [line for line in self.outputs_as_before(job) if not line.endswith("missing")]
        temporary = [line for line in self.left_behind() if ".tmp" in line]
        assert half + temporary + self.damaged_inputs(job) == []
        assert gone(run.pid)

    def succeeds_again(self, job: Job, **environment: str) -> Run:
        """A plain rerun gives the right bytes and leaves nothing behind."""
        run = self.start(job, **environment)
        run.wait()
        assert self.problems(job, run) == []
        return run


def assert_explained(text: str, *said: str) -> None:
    missing = [words for words in said if words not in text]
    assert not missing, f"{missing} not in:\n{text}"
    assert "Traceback" not in text, text


def gone(session: int, patience: float = 120.0) -> bool:
    """Whether every process of a session ends within ``patience`` seconds; a worker that nobody ends would wait for work for 300."""
    end = time.monotonic() + patience
    while living(session):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
