"""What this machine can do at best, measured beside the work: the denominators of results.json's limits."""

import hashlib
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.data import compressed_rows
from benchmarks.harness import best


def inflate_seconds(files: Sequence[Path]) -> float:
    """Seconds zlib alone takes for the rows of these PNGs."""
    rows = [compressed_rows(path.read_bytes()) for path in files]
    return best(lambda: [zlib.decompress(part) for part in rows], 3)


def matrix_rate(threads: int = 1, side: int = 1024) -> float:
    """Floating-point operations per second of float32 matrix products, a multiplication and an addition counted as two."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    one, other = torch.rand(side, side), torch.rand(side, side)
    seconds = best(lambda: one @ other, 7) if threads == 1 else _wall(lambda: one @ other)
    torch.set_num_threads(before)
    return 2 * side**3 / seconds


def copy_rate(megabytes: int = 256) -> float:
    """Bytes per second that a copy in memory moves, reading and writing counted."""
    source = np.ones(megabytes << 20, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / best(lambda: np.copyto(target, source), 7)


def md5_rate(megabytes: int = 64) -> float:
    """Bytes per second of MD5, by which DVC names content."""
    data = bytes(megabytes << 20)
    return len(data) / best(lambda: hashlib.md5(data, usedforsecurity=False).digest(), 7)


def write_rate(folder: Path, megabytes: int = 64) -> float:
    """Bytes per second written to a file and brought to the disk by fsync."""
    data = os.urandom(megabytes << 20)

    def write() -> None:
        with (folder / "written").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    rate = len(data) / _wall(write, 3)
    (folder / "written").unlink()
    return rate


def operations(model: torch.nn.Module, shape: Sequence[int]) -> float:
    """Floating-point operations of the convolutions and matrix products of one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(*shape))
    return float(counter.get_total_flops())


def _wall(work: Callable[[], object], repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
