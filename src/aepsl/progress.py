"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, label: str, unit: str = "image", done: int = 0, every: float | None = None,
             sizes: Iterable[int] | None = None, shown: bool = True) -> Iterator[T]:
    """Pass the items through and report on stderr.

    Parameters
    ----------
    total : number of items.
    label : what is going on, e.g. ``"mine r2"``.
    done : items that an earlier run did, which ``items`` leaves out.
    every : seconds between two lines where stderr is no terminal; by default 15, or what AEPSL_PROGRESS_EVERY says.
    sizes : for how many each counts where it stands for several, as a batch of images does; ``total`` is their sum.
    shown : report at all.
    """
    if not shown:
        yield from items
        return
    counts = itertools.repeat(1) if sizes is None else iter(sizes)
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True, smoothing=0.05, leave=False) as bar:
            for item in items:
                yield item
                bar.update(next(counts))
        return
    units = unit if unit == "MiB" else f"{unit}s"
    pause = pause_between_lines() if every is None else every
    start = last = time.monotonic()
    reached = done
    for item in items:
        yield item
        reached += next(counts)
        now = time.monotonic()
        if now - last >= pause and reached < total:
            last = now
            rate = (reached - done) / (now - start)
            print(f"{label}: {reached}/{total} {units}, {rate:.1f} {units}/s, {duration((total - reached) / rate)} left", file=sys.stderr, flush=True)


def pause_between_lines() -> float:
    """Seconds: AEPSL_PROGRESS_EVERY, which whoever shows the lines in one place sets, or 15."""
    try:
        return max(0.1, float(os.environ.get("AEPSL_PROGRESS_EVERY", "")))
    except ValueError:
        return 15.0


def duration(seconds: float) -> str:
    """As people say it: ``90 s``, ``25 min``, ``3 h 05 min``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
