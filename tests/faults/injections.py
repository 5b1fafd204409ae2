"""Faults put into a run from inside, before the stage begins: each a function that the forked child calls (see warm.py)."""

import ctypes
import errno
import os
import resource
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

# What changes the disk, as the interpreter reports it just before it happens. Writes themselves are not reported: see `steps`.
CHANGES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": 1, "os.link": 2, "fcntl.flock": 0, "aepsl.write": 1, "aepsl.fsync": 1}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def steps(act: Any) -> None:
    """Call ``act(number, event, path)`` just before every step that changes the disk: the moments at which a kill can leave another state."""
    count = 0
    asleep = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, asleep
        if asleep:
            return
        if event == "open":
            path, mode, flags = arguments
            if not ((isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & WRITING)):
                return
        elif event in CHANGES:
            path = arguments[0] if CHANGES[event] else ""
        else:
            return
        path = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
        if "__pycache__" in path or path.startswith(("/dev/", "/proc/", "/sys/")):
            return
        count += 1
        asleep = True
        try:
            act(count, event, path)
        finally:
            asleep = False

    fsync, writestr = os.fsync, zipfile.ZipFile.writestr

    def reported_fsync(descriptor: int) -> None:
        sys.audit("aepsl.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def reported_writestr(archive: zipfile.ZipFile, *arguments: Any, **named: Any) -> None:
        sys.audit("aepsl.write", str(archive.filename))
        writestr(archive, *arguments, **named)

    os.fsync, zipfile.ZipFile.writestr = reported_fsync, reported_writestr  # type: ignore[assignment,method-assign]
    sys.addaudithook(hook)


def list_steps(into: str) -> None:
    """Write one line per step: seconds since now, event and path."""
    descriptor = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    begin = time.monotonic()
    steps(lambda number, event, path: os.write(descriptor, f"{time.monotonic() - begin:.4f} {event} {path}\n".encode()))


def die_at_step(step: int, number: int) -> None:
    """Send this process the signal just before its ``step``-th step, counted from 1."""
    def act(count: int, event: str, path: str) -> None:
        if count == step:
            os.kill(os.getpid(), number)
    steps(act)


def die_after_renames(times: int, folder: str, marks: list[str], number: int) -> None:
    """Send this process the signal once so many files under ``folder`` with these marks in their paths have got their names."""
    renamed = 0

    def act(count: int, event: str, path: str) -> None:
        nonlocal renamed
        if renamed == times:
            os.kill(os.getpid(), number)
        renamed += event == "os.rename" and folder in path and all(mark in path for mark in marks)
    steps(act)


def lose_power_at_step(step: int, number: int) -> None:
    """Kill this process before its ``step``-th step and tear what no fsync had brought to the disk: every such file loses its second half."""
    begin = time.time_ns()
    synced: dict[int, tuple[int, int]] = {}  # inode: size and date when it was brought to the disk
    fsync = os.fsync

    def remembered(descriptor: int) -> None:
        fsync(descriptor)
        facts = os.fstat(descriptor)
        synced[facts.st_ino] = facts.st_size, facts.st_mtime_ns

    def act(count: int, event: str, path: str) -> None:
        if count != step:
            return
        for folder in ("data", "models", "metrics", "report", "scratch"):
            for file in Path(folder).rglob("*"):
                facts = file.stat()
                if file.is_file() and facts.st_mtime_ns > begin - 20_000_000 and synced.get(facts.st_ino) != (facts.st_size, facts.st_mtime_ns):
                    os.truncate(file, facts.st_size // 2)
        os.kill(os.getpid(), number)

    os.fsync = remembered  # type: ignore[assignment]
    steps(act)


def full_at_fsync(suffix: str, folder: str) -> None:
    """The disk turns out to be full when a file of this kind below ``folder`` is brought to it."""
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.suffix == ".tmp" and suffix in path.suffixes and folder in path.parts[-4:]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    os.fsync = refuse  # type: ignore[assignment]


def limit_file_size(most: int) -> None:
    """No file may grow beyond ``most`` bytes; the interpreter ignores the signal and reports an error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def heed_permissions() -> None:
    """Give up what lets a superuser write where the mode forbids it."""
    if os.geteuid() == 0:
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None, use_errno=True).capset(header, nothing):
            raise OSError(ctypes.get_errno(), "capset")


def slow_steps(seconds: float) -> None:
    """Every update of a training takes so much longer, and so does every image that another process works on."""
    import joblib
    import torch

    step, delayed = torch.optim.SGD.step, joblib.delayed

    def slow(*arguments: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return step(*arguments, **named)

    def delayed_further(function: Any) -> Any:
        def work(item: Any) -> Any:
            time.sleep(seconds)
            return function(item)

        return delayed(work)

    torch.optim.SGD.step, joblib.delayed = slow, delayed_further  # type: ignore[method-assign]


def memory_runs_out(after: int) -> None:
    """There is no more memory after so many images or updates: numpy and Pillow say so in Python's way, torch in its own."""
    import torch
    from PIL import Image

    count = 0

    def failing(function: Any, error: BaseException) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise error
            return function(*arguments, **named)
        return call

    torch.optim.SGD.step = failing(torch.optim.SGD.step, RuntimeError(  # type: ignore[method-assign]
        "[enforce fail at alloc_cpu.cpp:116] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."))
    Image.Image.convert = failing(Image.Image.convert, MemoryError())  # type: ignore[method-assign]


def limit_memory(room: int) -> None:
    """No more address space than now and ``room`` bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))


def clock_goes_back(seed: int) -> None:
    """All clocks jump, mostly back, by up to a day whenever they are read, even the one that must not."""
    import random

    rng = random.Random(seed)
    for name in ("time", "monotonic", "perf_counter"):
        real = getattr(time, name)
        setattr(time, name, lambda real=real: real() - rng.choice((0, 0, 3600, 86400)) * rng.random())
