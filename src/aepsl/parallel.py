"""Run a function over many items in several processes, results in the order of the items."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, TypeVar

import joblib

from aepsl.resume.interrupt import blocked

T = TypeVar("T")
R = TypeVar("R")
WINDOW = 32  # items per process drawn at a time


def in_processes(function: Callable[[T], R], items: Iterable[T], *, processes: int = 0) -> Iterator[R]:
    """Yield ``function(item)`` for every item, in order. At most :data:`WINDOW` items per process are drawn ahead.

    Parameters
    ----------
    function : picklable, at module level or a ``functools.partial`` of such.
    processes : how many; 0 = one per core this process may use, 1 = no process is started.
    """
    count = processes or usable_cores()
    if count == 1:
        yield from map(function, items)
        return
    # joblib draws items as fast as workers finish, however slow the reader of the results: windows bound what is held.
    # loky limits each worker to its share of threads, and reports a worker that dies.
    remaining = iter(items)
    resource_tracker.ensure_running()  # joblib's workers want it; when it starts it unblocks the signals blocked below
    with joblib.Parallel(n_jobs=count, return_as="generator", batch_size=4, initializer=end_with, initargs=(os.getpid(),)) as pool:
        while window := list(islice(remaining, WINDOW * count)):
            with blocked():  # Ctrl-C goes to every process of a terminal; workers would each print where it met them
                results: Any = pool(joblib.delayed(function)(item) for item in window)
            yield from results


def end_with(parent: int) -> None:
    """End this worker as soon as the process that started it has ended, even by SIGKILL: it would wait for work for five minutes more."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
