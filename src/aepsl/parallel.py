"""Run a function over many items in several processes, results in the order of the items."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import joblib

T = TypeVar("T")
R = TypeVar("R")


def in_processes(function: Callable[[T], R], items: Iterable[T], *, processes: int = 0) -> Iterator[R]:
    """Yield ``function(item)`` for every item, in order. Items are drawn and results held a few at a time.

    Parameters
    ----------
    function : picklable, at module level or a ``functools.partial`` of such.
    processes : how many; 0 = one per core this process may use, 1 = no process is started.
    """
    count = processes or usable_cores()
    if count == 1:
        yield from map(function, items)
        return
    # loky limits each worker to its share of threads, and reports a worker that dies.
    results: Any = joblib.Parallel(n_jobs=count, return_as="generator", pre_dispatch="4*n_jobs", batch_size=4)(
        joblib.delayed(function)(item) for item in items)
    yield from results


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
