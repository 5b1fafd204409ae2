"""Networks at work on many images: loaded ahead, given to the network in batches of one size, results in the order of the rows.

Which images share a batch follows from their row numbers and sizes alone, so neither a start in the middle, after an interruption or as the
share of one process among several, nor the number of workers changes a result. Images of different sizes never share a batch: padding would
reach into them through the network's windows.
"""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aepsl.data.samples import Photographs
from aepsl.errors import AepslError, printable
from aepsl.networks.classifier import Classifier
from aepsl.networks.devices import pick_device, pick_precision
from aepsl.networks.grid import from_grid
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, normalise, resized
from aepsl.params import Compute
from aepsl.resume.interrupt import held

R = TypeVar("R")
Model = TypeVar("Model", Classifier, Segmenter)
# images (B, H, W, 3) uint8 RGB on the device, their rows → tensors (B, …)
Network = Callable[[Tensor, list[int]], Sequence[Tensor]]
View = tuple[tuple[int, int], bool]  # (height, width) in pixels of a resized copy of the image, and whether it is mirrored

GPU_BATCH = 16
WINDOW = 16  # batches' worth of consecutive rows among which images of one size are looked for
AHEAD = 2  # batches loaded before they are needed


@dataclass(frozen=True)
class Engine:
    """How a network is run.

    Attributes
    ----------
    batch : most images that it is given at once.
    precision : of the trunk; what follows it, sums over views included, is float32.
    compiled : by torch.compile.
    workers : threads that load images and encode results beside the network; 0 = none. Decoding, filling and encoding release Python's lock.
    """

    device: torch.device
    batch: int = 1
    precision: torch.dtype = torch.float32
    compiled: bool = False
    workers: int = 0


def engine_for(compute: Compute) -> Engine:
    """The engine that ``compute`` asks for."""
    device = pick_device(compute.device)
    return Engine(device, compute.inference_batch or (1 if device.type == "cpu" else GPU_BATCH), pick_precision(compute.precision, device),
                  compute.compile, compute.loaders)


# --- the network

class FastTrunk(Trunk):
    """A trunk that only infers: batch norm folded into the convolutions, channels last, mixed precision; float32 comes out."""

    def __init__(self, trunk: Trunk, engine: Engine) -> None:
        super().__init__()
        self.channels, self.output_stride, self.preprocessing = trunk.channels, trunk.output_stride, trunk.preprocessing
        self._folded = folded(trunk).to(device=engine.device).to(memory_format=torch.channels_last)
        self._precision = engine.precision
        # One kernel for all sizes: with one for each, the last bits would depend on which came first.
        self._run: Any = torch.compile(self._folded, dynamic=True) if engine.compiled else self._folded
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self._precision, enabled=self._precision != torch.float32):
            features: Tensor = self._run(images) if self._run is self._folded else self._compiled(images)
        return features.float()

    def _compiled(self, images: Tensor) -> Tensor:
        from torch._dynamo.exc import TorchDynamoException  # takes a second, which only torch.compile is worth

        try:
            features: Tensor = self._run(images)
        except TorchDynamoException as error:
            reason = printable(" ".join(str(error).split()), 300)
            print(f"compute.compile: torch.compile cannot compile the network here ({reason}); it runs uncompiled. On a processor it needs a C++ "
                  "compiler (g++); set compute.compile: false to be rid of this line", file=sys.stderr, flush=True)
            self._run = self._folded
            features = self._folded(images)
        return features


def ready(model: Model, engine: Engine) -> Model:
    """A copy of a model, on the engine's device, whose trunk is a :class:`FastTrunk`; the model itself stays as it is."""
    fast = copy.deepcopy(model)
    fast.trunk = FastTrunk(fast.trunk, engine)
    return fast.to(engine.device).eval()


def folded(trunk: Trunk) -> Trunk:
    """A copy of a trunk, equal up to rounding, in which every batch norm is part of the convolution registered before it, which it follows."""
    trunk = copy.deepcopy(trunk).eval()
    for module in list(trunk.modules()):
        for (name, before), (own, layer) in pairwise(list(module.named_children())):
            if isinstance(before, nn.Conv2d) and isinstance(layer, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(before, layer))
                setattr(module, own, nn.Identity())
    return trunk.requires_grad_(False)


# --- back from the grids of resized and mirrored views

@lru_cache(128)
def placement(side: int, scaled: int, stride: int, mirrored: bool, step: int, device: torch.device) -> Tensor:
    """Matrix (⌈side / step⌉, cells) float32 that takes values on a view's grid to every ``step``-th pixel of a side of the image.

    Both resamplings on the way, :func:`~aepsl.networks.grid.from_grid` to the pixels of the view and bilinear to those of the image, are
    linear and act on each side alone: their product is small, and what lies between them need not be computed.

    Parameters
    ----------
    side, scaled : length in pixels of the image and of the view.
    stride : of the grid.
    mirrored : the view is, left to right.
    """
    cells = -(-scaled // stride)
    full = from_grid(torch.eye(cells, dtype=torch.float64)[None, :, None], (1, scaled), stride)  # (1, cells, 1, scaled)
    full = full.flip(3) if mirrored else full
    full = full if scaled == side else F.interpolate(full, (1, side), mode="bilinear", align_corners=False)
    return full[0, :, 0, ::step].T.float().contiguous().to(device)


def mean_of_views(grids: Sequence[Tensor], views: Sequence[View], size: tuple[int, int], *, stride: int,
                  step: int = 1) -> Tensor:
    """The mean of grid maps of several views, on every ``step``-th pixel of the image: (B, K, ⌈H / step⌉, ⌈W / step⌉) float32.

    Parameters
    ----------
    grids : one (B, K, h, w) float32 per view, not mirrored back.
    size : (H, W) of the image.
    """
    device = grids[0].device
    with torch.autocast(device.type, enabled=False):
        wide: dict[int, Tensor] = {}
        for grid, ((height, width), mirrored) in zip(grids, views, strict=True):
            placed = grid @ placement(size[1], width, stride, mirrored, step, device).T  # (B, K, h, W)
            wide[height] = wide[height] + placed if height in wide else placed
        down = torch.cat([placement(size[0], height, stride, False, step, device) for height in wide], 1)
        return down @ torch.cat(list(wide.values()), 2) / len(grids)


def as_batch(image: np.ndarray, device: torch.device) -> Tensor:
    """An image (H, W, 3) uint8 RGB as a batch of one, (1, H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(image))[None].to(device)


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """A small array on the device; unlike a plain copy this does not wait until a GPU has done what it was asked before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def seen_in(images: Tensor, preprocessing: str, scales: Sequence[float], *, flip: bool) -> Iterator[tuple[Tensor, list[View]]]:
    """The views of images (B, H, W, 3) uint8: inputs for a network, and the size of each view in them with whether it is mirrored.

    On a processor every view comes alone, (B, 3, h, w), for there two at once are slower; elsewhere with its mirror image, (2B, 3, h, w).
    """
    inputs = normalise(images.permute(0, 3, 1, 2), preprocessing)
    for scale in scales:
        view = resized(inputs, scale)
        size = view.shape[2], view.shape[3]
        if not flip:
            yield view, [(size, False)]
        elif images.device.type == "cpu":
            yield view, [(size, False)]
            yield view.flip(3), [(size, True)]
        else:
            yield torch.cat([view, view.flip(3)]), [(size, False), (size, True)]


# --- many images

def batches(sizes: Sequence[tuple[int, int]], rows: range, batch: int, wanted: Sequence[bool] | None = None) -> Iterator[list[int]]:
    """The batches that hold the given rows, each of images of one size, in a fixed order.

    Parameters
    ----------
    sizes : of all images; what shares a batch does not depend on ``rows``, so at their ends there may be other rows in a batch.
    wanted : which images are to be run at all; None = all.
    """
    span = WINDOW * batch if batch > 1 else 1
    for start in range(rows.start // span * span, rows.stop, span):
        groups: dict[tuple[int, int], list[int]] = {}
        for row in range(start, min(start + span, len(sizes))):
            if wanted is None or wanted[row]:
                groups.setdefault(sizes[row], []).append(row)
        chunks = [group[first:first + batch] for group in groups.values() for first in range(0, len(group), batch)]
        yield from sorted(chunk for chunk in chunks if any(row in rows for row in chunk))


def over(photographs: Photographs, rows: range, network: Network, finish: Callable[..., R], *, engine: Engine,
         wanted: Sequence[bool] | None = None) -> Iterator[R]:
    """Run a network over images and yield ``finish(row, …)`` for every row, in order.

    Parameters
    ----------
    rows : of the photographs.
    network : what is run on a batch; see :data:`Network`.
    finish : is given a row and its part of what ``network`` returned as arrays; NumPy's work, not torch's, for it may run in a thread.
    wanted : rows for which the network is run; for others ``finish`` is given the row alone. None = all.

    Memory holds a few batches of images, and results of at most :data:`WINDOW` batches that wait for an earlier row.
    """
    sizes = [(int(width), int(height)) for width, height in photographs.index.sizes]
    plan = batches(sizes, rows, engine.batch, wanted)
    on_gpu = engine.device.type == "cuda"
    finished: dict[int, Future[R]] = {}
    emitted = rows.start
    pool: Executor = ThreadPoolExecutor(engine.workers, "aepsl") if engine.workers else _Here()

    def given(results: "_Results") -> Iterator[R]:
        """Hand the results of a batch to ``finish``, and yield what is complete; slower finishing than running is waited for."""
        for place, row in enumerate(results.rows):
            if row in rows:
                finished[row] = submit(finish, row, *(array[place] for array in results.arrays()))
        yield from emit(2 * engine.batch + engine.workers)

    def emit(waiting: int) -> Iterator[R]:
        nonlocal emitted
        while emitted < rows.stop:
            if wanted is not None and not wanted[emitted] and emitted not in finished:
                finished[emitted] = submit(finish, emitted)
            if emitted not in finished or (not finished[emitted].done() and len(finished) <= waiting):
                return
            yield finished.pop(emitted).result()
            emitted += 1

    def submit(function: Callable[..., Any], *values: Any) -> Future[Any]:
        with held():  # a thread that is being started does not bear an exception
            return pool.submit(function, *values)

    try:
        loading: deque[tuple[list[int], Future[Tensor]]] = deque()
        running: deque[_Results] = deque()
        for chunk in plan:
            loading.append((chunk, submit(load, photographs, sizes, chunk, on_gpu)))
            if len(loading) > (AHEAD if engine.workers else 0):
                running.append(_run(network, *loading.popleft(), engine))
            while len(running) > on_gpu:  # on a GPU the next batch is under way before the results of this one are waited for
                yield from given(running.popleft())
        while loading or running:
            if loading:
                running.append(_run(network, *loading.popleft(), engine))
            while len(running) > (on_gpu and bool(loading)):
                yield from given(running.popleft())
        yield from emit(0)
    except Exception:
        yield from emit(0)  # what was finished before the fault is whole, and kept
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def load(photographs: Photographs, sizes: Sequence[tuple[int, int]], rows: Sequence[int], pinned: bool) -> Tensor:
    """The photographs of some rows, of one size, as (B, H, W, 3) uint8."""
    width, height = sizes[rows[0]]
    pixels = torch.empty(len(rows), height, width, 3, dtype=torch.uint8, pin_memory=pinned)
    for place, row in enumerate(rows):
        image = photographs[row]
        if image.shape != (height, width, 3):
            raise AepslError(f"{printable(photographs.index.ids[row])}: expected a photograph of {width}×{height} pixels, as the index says, found "
                             f"{image.shape[1]}×{image.shape[0]}; they belong to different data, run `dvc repro`")
        pixels[place].numpy()[:] = image
    return pixels


def _run(network: Network, rows: list[int], loaded: "Future[Tensor]", engine: Engine) -> "_Results":
    pixels = loaded.result()
    try:
        with torch.inference_mode():
            return _Results(rows, network(pixels.to(engine.device, non_blocking=True), rows))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        less = f"lower compute.inference_batch (it is {engine.batch})" if len(rows) > 1 else "use a smaller scale or a device with more memory"
        raise AepslError(f"compute.inference_batch: memory of {engine.device} ran out with {len(rows)} image(s) of "
                         f"{pixels.shape[2]}×{pixels.shape[1]} pixels at a time; {less}. Then run `dvc repro` again; what was finished is kept"
                         ) from error


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the processor had too little memory."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


class _Results:
    """What a network returned for a batch, on its way to the processor's memory in one transfer per tensor."""

    def __init__(self, rows: list[int], tensors: Iterable[Tensor]) -> None:
        self.rows = rows
        self._copied: Any = None
        self._tensors = [tensor.detach() for tensor in tensors]
        if self._tensors and self._tensors[0].is_cuda:
            device = self._tensors[0].device
            self._tensors = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                             for tensor in self._tensors]
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))

    def arrays(self) -> list[np.ndarray]:
        if self._copied is not None:
            self._copied.synchronize()
        return [tensor.cpu().numpy() for tensor in self._tensors]


class _Here(Executor):
    """Does everything at once in the thread that asks for it."""

    def submit(self, function: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*values, **named))
        except Exception as error:
            future.set_exception(error)
        return future
