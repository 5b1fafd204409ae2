"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, label: str, unit: str = "image", done: int = 0, every: float = 15.0,
             shown: bool = True) -> Iterator[T]:
    """Pass the items through and report on stderr.

    Parameters
    ----------
    total : number of items.
    label : what is going on, e.g. ``"mine r2"``.
    done : items that an earlier run did, which ``items`` leaves out.
    every : seconds between two lines where stderr is no terminal.
    shown : report at all.
    """
    if not shown:
        yield from items
        return
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True, smoothing=0.05, leave=False)
        return
    units = unit if unit == "MiB" else f"{unit}s"
    start = last = time.monotonic()
    for reached, item in enumerate(items, done + 1):
        yield item
        now = time.monotonic()
        if now - last >= every and reached < total:
            last = now
            rate = (reached - done) / (now - start)
            print(f"{label}: {reached}/{total} {units}, {rate:.1f} {units}/s, {(total - reached) / rate:.0f} s left", file=sys.stderr, flush=True)
