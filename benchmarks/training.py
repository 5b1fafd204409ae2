"""A training step with its share of loading: stage classify against a plain loop, same network, crop, batch and number of worker processes.

The step is what a longer run takes more than a shorter one, so that starting costs neither side anything.
"""

import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.networks.files import load_classifier
from aepsl.parallel import usable_cores
from benchmarks import limits
from benchmarks.checkouts import CLASSIFY, DATA, Stages, prepared
from benchmarks.harness import row, tell
from benchmarks.peers import training as peers
from benchmarks.results import Row

# label: trunk, output stride, width, crop, batch, steps
NETWORKS = {"MobileNetV2": ("mobilenet_v2", 16, 1.0, 161, 8, 16), "VGG16 trunk, half width": ("vgg16", 8, 0.5, 129, 4, 6)}


def topic(quick: bool) -> Iterator[Row]:
    """A row per network."""
    torch.set_num_threads(1)
    cores = usable_cores()
    workers = 0 if quick or cores == 1 else 1
    for label, (trunk, stride, width, crop, batch, steps) in NETWORKS.items():
        if quick:
            width, crop, batch, steps = 0.1, 33, 2, 2
        with tempfile.TemporaryDirectory() as name:
            yield measured(Path(name), label, quick=quick, trunk=trunk, stride=stride, width=width, crop=crop, batch=batch, steps=steps,
                           workers=workers)


def measured(folder: Path, label: str, *, quick: bool, trunk: str, stride: int, width: float, crop: int, batch: int, steps: int, workers: int) -> Row:
    """Ours and the peer's step in turn."""
    repeats = 1 if quick else 3
    parameters = {
        "rounds": {"r1": "r0"}, "last_round": "r1", "data.shapes": {"seed": 1, "train": 8 if quick else 64, "val": 1, "size": 64 if quick else 512},
        "classify.network": {"trunk": trunk, "output_stride": stride, "width": width, "stages": None, "weights": "none", "frozen_stages": 0},
        "classify.training.unit": "iterations", "classify.training.batch": batch, "classify.training.crop": crop, "classify.training.lr": 0.001,
        "classify.training.length": 1.0,
        "compute.device": "cpu", "compute.workers": workers, "compute.threads": 1, "compute.precision": "float32"}
    work = prepared(folder / "ours", parameters)
    with Stages(work) as stages:
        stages(*DATA, CLASSIFY)
        index = read_index(work / "data/index.csv").split("train")
        pictures = ArchiveReader(work / "data/images.zip")
        (folder / "images").mkdir()
        files = []
        entries = {Path(entry).stem: entry for entry in pictures}
        for identifier in index.ids:
            files.append(folder / "images" / Path(entries[identifier]).name)
            files[-1].write_bytes(pictures.read(entries[identifier]))
        model, _ = load_classifier(work / "models/classifier/r1.pt", torch.device("cpu"))
        model = model.to(memory_format=torch.contiguous_format)
        data = peers.Folder(files, index.labels, crop)
        ours, theirs = [], []
        for _ in range(repeats):
            taken = []
            for length in (2, 2 + steps):
                work.set({"classify.training.length": float(length)})
                taken.append(stages(CLASSIFY)[1])
            ours.append((taken[1] - taken[0]) / steps)
            loop = peers.steps(model, data, batch=batch, workers=workers)
            next(islice(loop, 1, 2))
            start = time.perf_counter()
            next(islice(loop, steps - 1, steps))
            theirs.append((time.perf_counter() - start) / steps)
            loop.close()
    flops = 3 * limits.operations(model, (batch, 3, crop, crop))
    rate = limits.matrix_rate()
    times = [1000 * float(np.median(values)) for values in (ours, theirs)]
    return row(f"training step with loading, {label}, {batch} crops of {crop} px, one core and {workers} loading process", *times,
               unit="ms per step", aim=1.3, repeats=repeats,
               limit=f"A step is {flops / 1e9:.0f} GFLOP (forward, and twice that backward); at the {rate / 1e9:.0f} GFLOP/s of a matrix product "
                     f"on one core "
                     f"{1000 * flops / rate:.0f} ms, {100 * 1000 * flops / rate / times[0]:.0f} % of our time. Loading runs beside it in a process "
                     f"of its own on both "
                     "sides, so that where the network is the slower of the two only its own memory layout can make a difference.")


if __name__ == "__main__":
    tell(topic)
