"""How two ways of doing the same work are timed: in turn, in one run, medians over repeats. And how a topic is run in a process of its own."""

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from benchmarks.results import Row

Clock = Literal["cpu", "wall"]
CLOCKS: dict[Clock, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()  # those that this process was started with


def seconds_of(work: Callable[[], object], clock: Clock) -> float:
    """What one call takes: of this process on a processor, or on the wall where disks or other processes work too."""
    gc.collect()
    read = CLOCKS[clock]
    start = read()
    work()
    return read() - start


def in_turn(ours: Callable[[], object], peer: Callable[[], object], *, repeats: int, clock: Clock) -> tuple[float, float]:
    """Median seconds of both, run alternately; which one goes first alternates too."""
    seconds: dict[Callable[[], object], list[float]] = {ours: [], peer: []}
    for number in range(repeats):
        for work in (ours, peer) if number % 2 == 0 else (peer, ours):
            seconds[work].append(seconds_of(work, clock))
    return statistics.median(seconds[ours]), statistics.median(seconds[peer])


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of some calls in seconds of processor time: what the hardware can do."""
    return min(seconds_of(work, "cpu") for _ in range(repeats))


def row(name: str, ours: float, peer: float, *, unit: str, aim: float | None, limit: str, equal: str = "", repeats: int = 1) -> Row:
    """A row of results.json; ``ours`` and ``peer`` are costs, so the ratio is peer over ours."""
    return {"name": name, "ours": float(f"{ours:.5g}"), "peer": float(f"{peer:.5g}"), "unit": unit, "ratio": round(peer / ours, 3), "aim": aim,
            "limit": limit, "equal": equal, "repeats": repeats}


def one_core() -> None:
    """Let this process, and all it starts, use one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def every_core() -> None:
    """Undo :func:`one_core`."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, CORES)


def tell(topic: Callable[[bool], Iterator[Row]]) -> None:
    """The command line of a topic: each row is written as soon as it is measured, so that a fault later on loses none."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a few small images: shows that everything runs, and measures nothing")
    parser.add_argument("--out", help="file to append rows to, one JSON object per line")
    given = parser.parse_args()
    for found in topic(given.quick):
        print(json.dumps(found, ensure_ascii=False), flush=True)
        if given.out:
            with Path(given.out).open("a") as out:
                out.write(json.dumps(found, ensure_ascii=False) + "\n")


def rows_in(path: Path) -> list[dict[str, Any]]:
    """What :func:`tell` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
