"""Run a function over many items in several processes, of this machine or of a cluster, results in the order of the items."""

import hashlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property, partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

from aepsl.errors import AepslError
from aepsl.resume.interrupt import blocked

T = TypeVar("T")
R = TypeVar("R")
WINDOW = 32  # items per process drawn at a time
BATCH = 4  # items that a process is given at once
FAR_BATCH = 16  # the same for a worker of a cluster, which is given the function, and the index in it, again with each
ALONE = 1.0  # seconds of work for which no process is started: two that start take about as long
AHEAD = 2  # items that are read before they are needed
PATIENCE = 10  # seconds for a scheduler to answer, and for its first worker


def in_processes(function: Callable[[T], R], items: Iterable[T], *, processes: int = 0, alone: float = 0.0) -> Iterator[R]:
    """Yield ``function(item)`` for every item, in order. At most :data:`WINDOW` items per process are drawn ahead.

    Parameters
    ----------
    alone : seconds that this process works on its own before it starts others, see :data:`ALONE`. How far it then is depends on the clock:
        for what is computed alike with any number of threads, such as counts.
    function : picklable, at module level or a ``functools.partial`` of such.
    processes : how many; 0 = one per core this process may use, 1 = no process is started. Within :func:`cluster` its workers are
        used instead, however many there are.
    """
    if _cluster:
        yield from _on_cluster(_cluster[-1], function, iter(items))
        return
    count = processes or usable_cores()
    if count == 1:
        yield from map(function, items)
        return
    # joblib draws items as fast as workers finish, however slow the reader of the results: windows bound what is held.
    # loky limits each worker to its share of threads, and reports a worker that dies.
    remaining = iter(items)
    until = time.monotonic() + alone
    while time.monotonic() < until:
        if not (drawn := list(islice(remaining, 1))):
            return
        yield function(drawn[0])
    import joblib  # here and below: half of what a stage without a network imports, and little work does without it

    resource_tracker.ensure_running()  # joblib's workers want it; when it starts it unblocks the signals blocked below
    # A worker is given the function when it starts and not with every batch: what the function holds, an index or open archives, grows with the
    # number of images.
    with joblib.Parallel(n_jobs=count, return_as="generator", batch_size=BATCH, initializer=_begin, initargs=(os.getpid(), function)) as pool:
        while window := list(islice(remaining, WINDOW * count)):
            with blocked():  # Ctrl-C goes to every process of a terminal; workers would each print where it met them
                results: Any = pool(joblib.delayed(_call)(item) for item in window)
            yield from results


_given: list[Callable[[Any], Any]] = []  # in a worker: the function it was started for


def _begin(parent: int, function: Callable[[Any], Any]) -> None:
    end_with(parent)
    _given[:] = [function]


def _call(item: Any) -> Any:
    return _given[0](item)


def end_with(parent: int) -> None:
    """End this worker as soon as the process that started it has ended, even by SIGKILL: it would wait for work for five minutes more."""
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, Future[R]]]:
    """Yield every item, in order, with the result of ``read(item)`` to come. A thread reads the next :data:`AHEAD` while their user is at work.

    The items are drawn by the thread of the user. An exception of theirs is raised after those drawn before it.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()
    remaining = iter(items)
    fault: Exception | None = None
    pool = ThreadPoolExecutor(1, "aepsl")
    try:
        while True:
            try:
                for item in islice(remaining, AHEAD + 1 - len(waiting)):
                    waiting.append((item, pool.submit(read, item)))
            except Exception as error:
                remaining, fault = iter(()), error
            if waiting:
                yield waiting.popleft()
            elif fault is not None:
                raise fault
            else:
                return
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def loading_workers(wanted: int | str, *, threads: int, cores: int, gpu: bool) -> int:
    """Processes, or threads, that load images beside a network: ``compute.workers``, or for ``auto`` what the machine suggests.

    A GPU outruns any processor, so every core but one loads, 16 at most. On a processor loading is a small part of the work: the cores that
    the network's ``threads`` leave free load, two at most, and where none is free the network's process does.

    Parameters
    ----------
    threads : of the network on a processor; 0 = as many as there are cores.
    cores : this process's share of the machine's.
    """
    if not isinstance(wanted, str):
        return wanted
    return min(16, max(1, cores - 1)) if gpu else min(2, max(0, cores - (threads or cores)))


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- a cluster

_cluster: list["_Cluster"] = []  # the one in use: which machines do the work is no argument of the work


class _Cluster:
    """A Dask scheduler, connected to when it is first needed, and the checkout whose work it is given."""

    def __init__(self, address: str, root: Path) -> None:
        self.address, self.root = address, root

    @cached_property
    def code(self) -> str:
        return code_of(str(self.root))

    @cached_property
    def client(self) -> Any:
        try:
            import logging

            from distributed import Client
        except ImportError:
            raise AepslError('compute.scheduler: a Dask cluster needs the package distributed; `pip install "aepsl[cluster]"`, or empty the '
                             "parameter") from None
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it knows comes as an exception too
        try:
            client = Client(self.address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise AepslError(f"compute.scheduler: no Dask scheduler answers at {self.address} ({error}); start one (`dask scheduler`), correct the "
                             "address, or empty the parameter to use this machine") from None
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, TimeoutError):
            client.close(timeout=2)
            raise AepslError(f"compute.scheduler: the scheduler at {self.address} has no workers after {PATIENCE} s; start some in this checkout "
                             f"and its environment: `dask worker {self.address}`") from None
        return client


@contextmanager
def cluster(address: str, root: Path) -> Iterator[None]:
    """Let :func:`in_processes` use the workers of a Dask scheduler in this block; "" changes nothing.

    Workers must see the checkout by the same path and run in the same environment. Whoever may give work to a scheduler can run anything
    on its workers: it belongs into a network of your own. That Dask is not installed, that the scheduler does not answer, has no workers or
    is lost is an :class:`AepslError` of whoever asks for results.

    Parameters
    ----------
    address : such as "tcp://host:8786".
    root : the checkout.
    """
    if not address:
        yield
        return
    place = _Cluster(address, root)
    _cluster.append(place)
    try:
        yield
    finally:
        _cluster.remove(place)
        if "client" in vars(place):
            place.client.close(timeout=2)


def _on_cluster(place: _Cluster, function: Callable[[T], R], items: Iterator[T]) -> Iterator[R]:
    # Without joblib, whose backend for Dask waits for ever where a task fails before it begins, say for lack of a module.
    client = place.client
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    there = partial(_there, str(place.root), place.code, function)
    waiting: deque[Any] = deque()
    try:
        while True:
            while len(waiting) * FAR_BATCH < WINDOW * max(1, sum(client.ncores().values())) and (batch := list(islice(items, FAR_BATCH))):
                waiting.append(client.submit(there, batch, pure=False))
            if not waiting:
                return
            results: list[R] = waiting.popleft().result()
            yield from results
    except KilledWorker as error:
        raise AepslError(f"compute.scheduler: workers of {place.address} died again and again at the same images, often because memory ran out "
                         f"({str(error).splitlines()[0][:200]}): give them more, or fewer threads each. What was finished is kept") from None
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "deserialization" not in str(error):
            raise
        raise AepslError(f"compute.scheduler: {place.address} or one of its workers lacks a module of this project or has another version "
                         f"({str(error).splitlines()[0][:200]}); start the scheduler and the workers in this checkout and its environment") from None
    except CancelledError as error:
        raise AepslError(f"compute.scheduler: the connection to {place.address} was lost ({error or type(error).__name__}); start it and its workers "
                         "again, then run `dvc repro` again; what was finished is kept") from None


def _there(root: str, code: str, function: Callable[[T], R], items: list[T]) -> list[R]:
    """The work of some items, on a worker."""
    if Path.cwd() != Path(root):
        try:
            os.chdir(root)
        except OSError as error:
            raise AepslError(f"compute.scheduler: worker {os.uname().nodename} does not see {root} ({error.strerror}); workers need the checkout "
                             "and its data by the same path, a folder that all machines share") from None
    if _code_here(root) != code:
        raise AepslError(f"compute.scheduler: worker {os.uname().nodename} runs other code than {root} holds now; restart the workers")
    return list(map(function, items))


@cache
def _code_here(root: str) -> str:
    # Kept from the first call on: a worker goes on with the modules it has, however the files change.
    return code_of(root)


def code_of(root: str) -> str:
    """Digest of the project's code and of the Python that runs it."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(path for folder in ("src", "stages") for path in Path(root, folder).rglob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
