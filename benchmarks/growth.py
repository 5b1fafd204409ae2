"""python -m benchmarks.growth [SIZES…]: how time and memory of every stage grow with the number of images.

Runs the whole pipeline by `dvc repro` on generated images of 48 pixels, with networks and trainings as small as they get, in a checkout of its own,
and notes of every stage the processor time (its own and its children's, so that other work on the machine does not matter), the wall time and the
peak memory. A stage's start-up, imports above all, is its time on the ten images of the smallest run. Sizes measured before stay in growth.json
until they are measured again.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aepsl.data.archive import parse_json
from benchmarks.results import GROWTH, SIZES_AIM, machine, write_growth
from tests.conftest import TINY, Checkout

START_UP = 10  # images of the run whose time counts as start-up
SIZES = (100, 1000, 10_000)
REPEATS = {START_UP: 3, 100: 1, 1000: 3}
# One process does everything, so that its time and memory are the stage's.
SMALL: dict[str, Any] = {**TINY, "saliency.size": 32, "saliency.superpixel": 50, "classify.training.crop": 33, "segment.training.crop": 33,
                         "classify.training.batch": 8, "segment.training.batch": 8, "predict.prohibit_below": 0.0}
# Stands before `python` on the path of `dvc repro`: runs the stage and notes what the kernel counted.
WATCH = """#!{python} -I
import json, os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn({python!r}, [{python!r}, *sys.argv[1:]], os.environ), 0)
with open({log!r}, "a") as log:
    log.write(json.dumps(dict(command=sys.argv[2:], cpu=usage.ru_utime + usage.ru_stime, wall=time.perf_counter() - start,
                              mib=usage.ru_maxrss / 1024)) + "\\n")
sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


def measured(folder: Path, images: int) -> tuple[Checkout, dict[str, dict[str, float]]]:
    """Run the pipeline on so many images in a fresh checkout: what every stage cost."""
    folder.mkdir()
    work = Checkout(folder, {**SMALL, "data.shapes": {"seed": 1, "train": images - images // 5, "val": images // 5, "size": 48}})
    log, watch = folder / ".watch/log", folder / ".watch/bin/python"
    watch.parent.mkdir(parents=True)
    watch.write_text(WATCH.format(python=sys.executable, log=str(log)))
    watch.chmod(0o755)
    environment = work.environment()
    environment["PATH"] = f"{watch.parent}{os.pathsep}{environment['PATH']}"
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "repro", "--quiet"]):
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return work, {stage_name(line["command"]): {key: round(line[key], 3) for key in ("cpu", "wall", "mib")} for line in lines}


def stage_name(command: Sequence[str]) -> str:
    """``mine@r1`` of ``stages.mine --step r1 …``."""
    step = command[command.index("--step") + 1] if "--step" in command else ""
    return "@".join(part for part in (command[0].removeprefix("stages."), step) if part)


def nothing_to_do(work: Checkout, repeats: int = 5) -> dict[str, float]:
    """Seconds, the best of some, of `dvc repro` and `dvc status` where all is up to date."""
    found = {}
    for name in ("repro", "status"):
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-m", "dvc", name, "--quiet"], cwd=work.folder, env=work.environment(), check=True)
            seconds.append(time.perf_counter() - start)
        found[name] = round(min(seconds), 2)
    return found


def exponent(points: Mapping[int, float]) -> float | None:
    """Slope of log seconds over log images, by least squares; None where a time is not above 0."""
    if len(points) < 2 or min(points.values()) <= 0:
        return None
    x, y = ([math.log(value) for value in values] for values in (points.keys(), points.values()))
    middle = statistics.mean(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def summary(runs: Mapping[int, Sequence[Mapping[str, Mapping[str, float]]]]) -> list[dict[str, Any]]:
    """One row per stage of runs by number of images: medians, exponents over the last step of sizes, of the whole time
    and of the part above the start-up, and memory ratio."""
    sizes = sorted(size for size in runs if size != START_UP)
    rows = []
    for stage in runs[sizes[-1]][0]:
        cpu, wall, mib = ({size: statistics.median(run[stage][key] for run in runs[size]) for size in sorted(runs)} for key in ("cpu", "wall", "mib"))
        above = {size: cpu[size] - cpu[START_UP] for size in sizes}
        clear = above[sizes[-2:][0]] >= SIZES_AIM["least_seconds"]
        rows.append({"stage": stage, "cpu": {str(size): round(value, 2) for size, value in cpu.items()},
                     "wall": {str(size): round(value, 2) for size, value in wall.items()},
                     "mib": {str(size): round(value, 1) for size, value in mib.items()},
                     "ms_per_image": round(1000 * above[sizes[-1]] / sizes[-1], 3),
                     "exponent_raw": _rounded(exponent({size: cpu[size] for size in sizes[-2:]})),
                     "exponent": _rounded(exponent({size: above[size] for size in sizes[-2:]}) if clear else None),
                     "memory_ratio": round(mib[sizes[-1]] / mib[sizes[-2]], 3) if len(sizes) > 1 else None})
    return rows


def beside(found: Sequence[Mapping[str, Any]], before: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[int, Sequence[Mapping[str, Any]]]:
    """What was measured before of the same stages as ``found``; a pipeline that has changed its stages is measured anew at every size."""
    return {size: runs for size, runs in before.items() if runs[0].keys() == found[0].keys()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def main() -> None:
    """Run the pipeline at all sizes, print and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=list(SIZES), help="numbers of images, rising")
    parser.add_argument("--repeats", type=int, default=0, help="runs of each size; 0 = more of the small ones")
    parser.add_argument("--out", default="benchmarks", help="folder of growth.json; its table goes into docs/performance.md where this is benchmarks")
    given = parser.parse_args()
    kept = Path(given.out) / GROWTH.name
    old = parse_json(kept.read_bytes()) if kept.is_file() else {"runs": {}, "no_op_seconds": {}}
    runs: dict[int, Sequence[Mapping[str, Any]]] = {int(size): each for size, each in old["runs"].items()}
    idle: dict[str, float] = old["no_op_seconds"]
    for size in (START_UP, *given.sizes):
        found = []
        for number in range(given.repeats or REPEATS.get(size, 1)):
            with tempfile.TemporaryDirectory() as name:
                work, costs = measured(Path(name) / "checkout", size)
                found.append(costs)
                print(f"{size} images, run {number + 1}: {sum(cost['cpu'] for cost in costs.values()):.0f} s of processor time", flush=True)
                if size >= max(runs, default=0):
                    idle = nothing_to_do(work)
        runs = {**beside(found, runs), size: found}
        sizes = sorted(each for each in runs if each != START_UP)
        if sizes:
            write_growth({"machine": machine(), "sizes": sizes, "start_up_images": START_UP, "no_op_seconds": idle, "rows": summary(runs),
                          "runs": {str(each): runs[each] for each in sorted(runs)}}, Path(given.out))


if __name__ == "__main__":
    main()
