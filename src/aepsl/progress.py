"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], *, total: int, label: str, unit: str = "image", every: float = 15.0) -> Iterator[T]:
    """Pass the items through and report on stderr.

    Parameters
    ----------
    total : number of items.
    label : what is going on, e.g. ``"mine r2"``.
    every : seconds between two lines where stderr is no terminal.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, unit=unit, dynamic_ncols=True, smoothing=0.05, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= every and done < total:
            last = now
            rate = done / (now - start)
            print(f"{label}: {done}/{total} {unit}s, {rate:.1f} {unit}s/s, {(total - done) / rate:.0f} s left", file=sys.stderr, flush=True)
