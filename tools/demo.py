"""``dvc repro`` in few lines: one per stage, then the scores and what to do next. ``make demo``.

What a stage says besides its progress is passed on, whole; so are DVC's complaints, and its exit status. Ctrl-C and SIGTERM go to DVC and the stage
that is at work, which saves what it has.
"""

import csv
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any, TextIO

from aepsl.params import parse_yaml
from aepsl.report.run import write_run

ROOT = Path(__file__).resolve().parents[1]
# Lines of DVC that say what this module says otherwise.
RUNS = re.compile(r"Running stage '([^']+)'(?: with command)?:")
CACHED = re.compile(r"Stage '([^']+)' is cached - skipping run")
SAME = re.compile(r"Stage '([^']+)' didn't change, skipping")
CHATTER = re.compile(r"|> python -m stages\..*|(Updating|Generating) lock file .*|Use `dvc push` .*|Data and pipelines are up to date\.")
# Lines of aepsl.progress: "mine@r1: regions: 2/5 images, 0.1 images/s, 30 s left".
PROGRESS = re.compile(r"[^:]+(?:: [^:]+)?: (\d+/\d+ \w+, .* left)")
FAILED = re.compile(r"ERROR: failed to reproduce '([^']+)'(?:.*, exited with (-?\d+)$)?")
KILLED = ("{stage} was killed without a chance to say why, most often by the system because memory ran out: set compute.processes: 1 and "
          "compute.workers: 0\nin params.yaml, raise training.accumulate, or close other programs; then run it again, what was finished is kept.")


def total_of(pipeline: dict[str, Any], params: dict[str, Any]) -> int:
    """How many stages there are, those of a foreach counted one by one."""
    return sum(len(params[stage["foreach"].strip("${}")]) if "foreach" in stage else 1 for stage in pipeline["stages"].values())


class Screen:
    """Lines, one by one; on a terminal also a last one that changes."""

    def __init__(self, out: TextIO) -> None:
        self.out, self.live, self.shown = out, out.isatty(), False

    def line(self, text: str) -> None:
        self.clear()
        print(text, file=self.out, flush=True)

    def status(self, text: str) -> None:
        if self.live:
            self.clear()
            self.out.write(text[:shutil.get_terminal_size().columns - 1])
            self.out.flush()
            self.shown = True

    def clear(self) -> None:
        if self.shown:
            self.out.write("\r\x1b[K")
            self.shown = False


class Course:
    """Reads what DVC and the stages print, and tells how far they are."""

    def __init__(self, screen: Screen, total: int, runtime: Path) -> None:
        self.screen, self.total, self.runtime = screen, total, runtime
        self.number = self.same = 0
        self.stage = self.failed = self.progress = ""
        self.since = time.monotonic()

    def read(self, line: str) -> None:
        if found := RUNS.match(line) or CACHED.match(line) or SAME.match(line):
            self.finish()
            self.number += 1
            if found.re is RUNS:
                self.stage, self.progress, self.since = found[1], "", time.monotonic()
            elif found.re is CACHED:
                self.screen.line(f"{self.place} {found[1]:<14} from the cache")
            else:
                self.same += 1
        elif found := PROGRESS.fullmatch(line):
            self.progress = found[1]
            if not self.screen.live:
                self.screen.line(f"{' ' * len(self.place)} {self.stage:<14} {self.progress}")
        elif found := FAILED.match(line):
            self.failed, self.stage = found[1], ""
            self.screen.line(line)
            if found[2] in ("-9", "137"):
                self.screen.line(KILLED.format(stage=found[1]))
        elif not CHATTER.fullmatch(line):
            self.screen.line(line)

    @property
    def place(self) -> str:
        return f"{self.number:>{len(str(self.total))}}/{self.total}"

    def tick(self) -> None:
        if self.stage:
            self.screen.status(f"{self.place} {self.stage:<14} {time.monotonic() - self.since:5.0f} s  {self.progress or 'starting'}")

    def finish(self) -> None:
        """The stage at work has ended well."""
        if self.stage:
            self.screen.line(f"{self.place} {self.stage:<14} {time.monotonic() - self.since:5.1f} s{self.rate()}")
        self.stage = ""

    def rate(self) -> str:
        """What the stage itself noted."""
        try:
            with self.runtime.open(encoding="utf-8", newline="") as file:
                row = next(row for row in csv.DictReader(file) if row["stage"] == self.stage)
            return f"  {row['count']} {row['unit']}, {row['per_second']}/s" if int(row["count"]) else ""
        except (OSError, StopIteration, KeyError, ValueError, csv.Error):
            return ""


def lines_of(pipe: IO[str]) -> Iterator[str | None]:
    """Its lines as they come, and None twice a second while none does."""
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def drain() -> None:
        for line in pipe:
            waiting.put(line.rstrip("\n"))
        waiting.put(None)

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    while True:
        try:
            line = waiting.get(timeout=0.5)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def reproduce(screen: Screen, course: Course, command: list[str]) -> int:
    """Run the command, pass signals on to it and all it started, and return its status."""
    # DVC starts the `python` that is first on PATH: this one.
    own = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
    own |= {"AEPSL_PROGRESS_EVERY": "1"} if screen.live else {}
    # In a group of its own, so that a signal comes to each of it once, from here.
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0,
                          env={"PYTHONUNBUFFERED": "1"} | os.environ | own) as process:
        assert process.stdout is not None

        def pass_on(number: int, frame: FrameType | None) -> None:
            if process.poll() is None:
                os.killpg(process.pid, number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, pass_on)
        for line in lines_of(process.stdout):
            if line is not None:
                course.read(line)
            course.tick()
        status = process.wait()
    if status == 0:
        course.finish()
    screen.clear()
    return status if status >= 0 else 128 - status


# ---- afterwards

SCORES = (("val, prediction", "miou"), ("val, before the CRF", "miou_before_crf"), ("train, pseudo-labels", "pseudo_label_miou"))
ROUND = ("mined_area", "precision", "recall", "pseudo_label_miou")


def percent(value: Any) -> str:
    """A share, which a CSV holds as text, or a dash."""
    return f"{100 * float(value):.1f}" if value not in (None, "") else "–"


def scores(metrics: Path) -> list[str]:
    """The headline numbers and the rounds as a table; what could not be scored stays out."""
    read: dict[str, Any] = {}
    for path in (metrics / "val.json", metrics / "pseudo_labels.json"):
        read |= json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    table = [f"{'mean IoU, %':<22}{'':>6}   95 % interval"]
    table += [f"{what:<22}{percent(read[key]):>6}   {percent(read[f'{key}_low'])} to {percent(read[f'{key}_high'])}"
              for what, key in SCORES if read.get(key) is not None]
    if len(table) == 1:
        table = ["There are no masks to score against; all else is done."]
    if (path := metrics / "rounds.csv").exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = [(row["round"], *(percent(row[name]) for name in ROUND)) for row in csv.DictReader(file)]
        table += ["", *(f"{name:<22}{area:>6}{precision:>12}{recall:>9}{label:>20}"
                        for name, area, precision, recall, label in [("round, %", "area", "precision", "recall", "pseudo-label mIoU"), *rows])]
    return table


def next_steps(root: Path) -> list[str]:
    report = "report/index.html" if (root / "report/index.html").exists() else "report/train.png, report/val.png"
    return [f"Report: {report}", "", "Next, after `source .venv/bin/activate`:",
            "  1. open the report: what every round mined, and where it goes wrong",
            "  2. dvc exp run -S last_round=r1, then dvc metrics diff: what erasing brings",
            "  3. docs/tutorial.md: the same on photographs of your own"]


def obstacle(root: Path) -> str:
    """What keeps DVC from starting here, and what to do; "" = nothing."""
    if not (root / ".dvc").is_dir():
        return f"{root}: expected the folder .dvc, which belongs to the project; get it whole: git clone"
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=root, capture_output=True, text=True, check=False)
    if inside.returncode and "no_scm = true" not in "".join(path.read_text() for path in root.glob(".dvc/config*")):
        if "dubious ownership" in inside.stderr:
            return f"git does not trust this folder, because someone else owns it: git config --global --add safe.directory {root}"
        return ("no git repository, as after a download of a zip; DVC wants one: `git init` here, or, to do without branches and experiments, "
                "`.venv/bin/dvc config --local core.no_scm true`")
    return ""


def main() -> int:
    if fault := obstacle(ROOT):
        print(f"make: {fault}", file=sys.stderr)
        return 1
    try:
        total = total_of(*(parse_yaml((ROOT / name).read_bytes()) for name in ("dvc.yaml", "params.yaml")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # DVC says what is wrong
        total = 0
    screen = Screen(sys.stdout)
    course = Course(screen, total, ROOT / "metrics/runtime.csv")
    began = time.monotonic()
    status = reproduce(screen, course, [sys.executable, "-m", "dvc", "repro"])
    if status:
        return status
    if (ROOT / "report/index.html").exists():  # what came after the stage that wrote it is known only now
        write_run(ROOT / "report/run.js", root=ROOT, runtime_csv=ROOT / "metrics/runtime.csv")
    print(f"{course.number} stages in {time.monotonic() - began:.0f} s, {course.same} of them unchanged", "", *scores(ROOT / "metrics"), "",
          *next_steps(ROOT), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
