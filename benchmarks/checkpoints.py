"""python -m benchmarks.checkpoints: which share of a training's time goes into checkpoints, at the shipped ``compute.save_every``.

Measured inside one run, so the load of the machine does not matter: seconds spent in saving over seconds of training. MobileNetV2 as in
presets/voc-animals.yaml is trained for some minutes; for VGG16, whose steps take long here, one checkpoint is timed and set against the least
time between two.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import Index
from aepsl.data.samples import Augmentation, Photographs, Samples
from aepsl.networks.classifier import Classifier, squared_label_loss
from aepsl.networks.trunks import build_trunk, normalise
from aepsl.params import load_params
from aepsl.resume.state import State
from aepsl.training.checkpoints import COST, Checkpoints
from aepsl.training.loop import train
from tests.faults.reliability import record

CLASSES = ("a", "b", "c", "d", "e", "f")


class Timed(Checkpoints):
    """Checkpoints that count what they cost."""

    seconds, saved = 0.0, 0

    def save(self, step: int, content: Callable[[], dict[str, Any]]) -> None:
        start = time.perf_counter()
        super().save(step, content)
        self.seconds += time.perf_counter() - start
        self.saved += 1


def samples(folder: Path, crop: int, count: int = 40) -> Samples:
    """Noise of the size of photographs; the label is whatever it is."""
    rng = np.random.default_rng(0)
    with ArchiveWriter(folder / "images.zip") as archive:
        for number in range(count):
            archive.add(f"{number}.png", encode_mask(rng.integers(0, 256, (192, 256), np.uint8)))
    ids = tuple(str(number) for number in range(count))
    labels = np.eye(len(CLASSES), dtype=bool)[rng.integers(0, len(CLASSES), count)]
    index = Index(CLASSES, ids, ("train",) * count, np.tile([256, 192], (count, 1)), labels)
    return Samples(Photographs(ArchiveReader(folder / "images.zip"), index), Augmentation(crop, (0.5, 1.5), True, (120, 110, 100)), seed=0)


def mobilenet(minutes: float) -> dict[str, float]:
    """Share of the training time, over ``minutes`` at least."""
    params = load_params("presets/voc-animals.yaml")
    network, settings = params.classify.network, params.classify.training
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Classifier(build_trunk(network.trunk, output_stride=network.output_stride, width=network.width, stages=None), len(CLASSES))
        data = samples(folder, settings.crop)

        def terms(pictures: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
            inputs = normalise(pictures, "imagenet").contiguous(memory_format=torch.channels_last)
            return {"classification": squared_label_loss(model(inputs), labels, output="softmax")}

        def run(iterations: int, every: float) -> tuple[float, Timed]:
            saving = Timed(State(folder / "state", every), label="benchmark")
            chosen = settings.model_copy(update={"unit": "iterations", "length": float(iterations), "lr": 1e-4})
            start = time.perf_counter()
            train(model, model.last_layer_parameters(), data, terms, settings=chosen, seed=0, device=torch.device("cpu"), checkpoints=saving,
                  label="benchmark")
            return time.perf_counter() - start, saving

        pace = run(10, 3600)[0] / 10
        seconds, saving = run(round(60 * minutes / pace), params.compute.save_every)
    return {"training_seconds": round(seconds, 1), "saved": saving.saved, "saving_seconds": round(saving.seconds, 3),
            "share": saving.seconds / seconds}


def vgg() -> dict[str, float]:
    """Seconds of one checkpoint of VGG16 with its momentum, and the share it may take by its least distance to the next."""
    every = load_params("presets/voc2012-paper.yaml").compute.save_every
    with tempfile.TemporaryDirectory() as name:
        model = Classifier(build_trunk("vgg16", output_stride=8, width=1.0, stages=None), 20)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        saving = Timed(State(Path(name), every), label="benchmark")
        for step in range(3):
            saving.save(step, lambda: {"curve": [], "sums": {}, "model": model.state_dict(), "optimiser": optimiser.state_dict()})
        size = max(path.stat().st_size for path in Path(name).rglob("*.pt"))
    cost = saving.seconds / saving.saved
    return {"checkpoint_mb": round(size / 1e6, 1), "seconds_per_checkpoint": round(cost, 3), "share": cost / max(every, cost / COST)}


def main() -> None:
    """Measure both, print them, and add them to the file that AEPSL_RELIABILITY names, if it names one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the training of MobileNetV2")
    torch.set_num_threads(1)
    measured = {"mobilenet_v2": mobilenet(parser.parse_args().minutes), "vgg16": vgg()}
    print(json.dumps(measured, indent=1))
    record("checkpoints", measured)
    record("checkpoint_overhead", max(part["share"] for part in measured.values()))


if __name__ == "__main__":
    main()
