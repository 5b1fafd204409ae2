"""Networks and CRF on a CUDA device: images per second, memory, share of the measured matrix-product rate, what loading costs.

Gives no row where there is no such device; ``measured`` and its helpers take any device, so that a processor can test them.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aepsl.networks.classifier import Classifier, squared_label_loss
from aepsl.networks.trunks import build_trunk
from aepsl.segmentation import crf, masks
from aepsl.segmentation.presets import PRESETS
from benchmarks import limits
from benchmarks.crf import STRIDE, scores
from benchmarks.data import photographs
from benchmarks.harness import row, seconds_of, tell
from benchmarks.peers import crf as peers
from benchmarks.results import Row

CLASSES = 20
# label: trunk, output stride, side of the image, batch
NETWORKS = {"VGG16 LargeFOV, 321 px, batch 30": ("vgg16", 8, 321, 30), "MobileNetV2, 321 px, batch 30": ("mobilenet_v2", 16, 321, 30),
            "ResNet-50, 321 px, batch 30": ("resnet50", 16, 321, 30)}


def topic(quick: bool) -> Iterator[Row]:
    """A row for training and inference of each network, and for the CRF at each batch."""
    if not torch.cuda.is_available():
        print("gpu: expected a CUDA device, found none; no rows", file=sys.stderr)
        return
    device = torch.device("cuda")
    for label, (trunk, stride, side, batch) in NETWORKS.items():
        yield from networks(label, trunk, stride, side, batch, device=device, dtype=torch.bfloat16, steps=3 if quick else 30)
    yield from crf_rows(device, sizes=(1, 8) if quick else (1, 8, 32))


def networks(label: str, trunk: str, stride: int, side: int, batch: int, *, device: torch.device, dtype: torch.dtype, steps: int) -> Iterator[Row]:
    """Ours (mixed precision, channels_last, uint8 sent to the device) against float32 NCHW; images come from the host at every step."""
    torch.manual_seed(0)
    model = Classifier(build_trunk(trunk, output_stride=stride, width=1.0, stages=None), CLASSES).to(device)
    host = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
    host = host.pin_memory() if device.type == "cuda" else host
    labels = torch.eye(CLASSES, dtype=torch.bool)[torch.arange(batch) % CLASSES].to(device)
    flops = limits.operations(model.to("cpu"), (1, 3, side, side)) * batch
    model.to(device)
    ceiling = matrix_rate(device, dtype)
    for what, factor in (("training", 3), ("inference", 1)):
        rates, memory = {}, {}
        for way, (precision, layout, moved) in {"ours": (dtype, torch.channels_last, True), "on device": (dtype, torch.channels_last, False),
                                                "peer": (torch.float32, torch.contiguous_format, True)}.items():
            model = model.to(memory_format=layout)
            model.train(what == "training")
            step = step_of(model, host, labels, device, precision, layout, training=what == "training", moved=moved)
            rates[way], memory[way] = measured(step, device, steps)
        yield row(f"{what}, {label}, on {name_of(device)}", 1000 * rates["ours"] / batch, 1000 * rates["peer"] / batch, unit="ms per image", aim=None,
                  limit=f"{batch / rates['ours']:.0f} images/s with {memory['ours'] / 2**30:.1f} GiB; {factor * flops / rates['ours'] / 1e12:.1f} "
                        f"TFLOP/s, "
                        f"{100 * factor * flops / rates['ours'] / ceiling:.0f} % of the {ceiling / 1e12:.0f} TFLOP/s of a matrix product of the "
                        f"same type; "
                        f"{100 * rates['on device'] / rates['ours']:.0f} % of the rate with data already on the device.")


def step_of(model: nn.Module, host: Tensor, labels: Tensor, device: torch.device, dtype: torch.dtype, layout: torch.memory_format, *, training: bool,
            moved: bool) -> Callable[[], object]:
    """One step of training or inference; ``moved``: its images come from the host."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    there = host.to(device)

    def step() -> None:
        images = (host.to(device, non_blocking=True) if moved else there).float().div(255).contiguous(memory_format=layout)
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32), torch.set_grad_enabled(training):
            logits = model(images)
        if training:
            optimiser.zero_grad(set_to_none=True)
            squared_label_loss(logits.float(), labels, output="softmax").backward()
            optimiser.step()

    return step


def measured(step: Callable[[], object], device: torch.device, steps: int) -> tuple[float, int]:
    """Seconds per step, and the most bytes the device held."""
    cuda = device.type == "cuda"
    for _ in range(3):
        step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps, torch.cuda.max_memory_allocated() if cuda else 0


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Operations per second of matrix products of this type on the device."""
    side = side or (8192 if device.type == "cuda" else 256)
    one, other = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / measured(lambda: one @ other, device, 10)[0]


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"


def crf_rows(device: torch.device, *, sizes: Sequence[int], base: int = 24, crop: int | None = None) -> Iterator[Row]:
    """The CRF of our own, so many images at once, against pydensecrf on one core."""
    cells = None if crop is None else math.ceil(crop / STRIDE)
    images = [(image[:crop, :crop], scores(mask, number)[:, :cells, :cells]) for number, (image, mask) in enumerate(photographs(base)[:4])]
    settings = PRESETS["deeplab"]
    image, grid = images[0]
    alone = seconds_of(lambda: peers.refine(np.ascontiguousarray(image), masks.upsample(grid, image.shape[:2], stride=STRIDE), settings), "cpu")
    for batch in sizes:
        pictures, grids = (np.stack([pair[place] for pair in (images * batch)[:batch]]) for place in range(2))

        def refine(pictures: np.ndarray = pictures, grids: np.ndarray = grids) -> object:
            return crf.refine_batch(pictures, grids, settings, stride=STRIDE, device=device)

        seconds, memory = measured(refine, device, 3)
        yield row(f"dense CRF, 500×375, 21 classes, batch {batch}, on {name_of(device)}", 1000 * seconds / batch, 1000 * alone, unit="ms per image",
                  aim=100, limit=f"{memory / 2**30:.1f} GiB on the device.")


if __name__ == "__main__":
    tell(topic)
