"""One training loop for every network.

Order, augmentation and dropout depend on (seed, step) alone, so that an interrupted training goes on from a checkpoint as if nothing had
been. A loss that is not finite stops the training and names the images of the batch: on a processor before its update, on a GPU a step
later, and nothing of it is saved. Several processes take each its share of every
batch and go together what, up to the order of summation, one process goes alone.
"""

import math
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing.context import ForkContext
from multiprocessing.sharedctypes import RawValue
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from aepsl.data.samples import Samples, batches
from aepsl.errors import AepslError
from aepsl.params import Training
from aepsl.progress import progress
from aepsl.ranks import ALONE, Ranks
from aepsl.resume.interrupt import Interrupted, held, waiting
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.optimiser import lr_factor, make_optimiser
from aepsl.training.together import Share, share_layers

# (images (B, 3, H, W) uint8 on the device, labels (B, C) bool, mask (B, H, W) uint8 or None, share of the training done) → loss terms, to be summed
Terms = Callable[[Tensor, Tensor, Tensor | None, float], dict[str, Tensor]]


def train(model: nn.Module, last_layer: Iterable[nn.Parameter], samples: Samples, terms: Terms, *, settings: Training, seed: int,
          device: torch.device, workers: int = 0, checkpoints: Checkpoints | None = None, ranks: Ranks = ALONE,
          label: str = "training") -> list[dict[str, float]]:
    """Train in place and return the loss curve.

    Parameters
    ----------
    last_layer : the parameters that learn ``settings.last_layer_lr`` times faster.
    terms : the loss of a (micro-)batch as named terms; their sum is minimised, each a mean over the images.
    workers : processes that decode images; 0 = none. They do not change the result.
    checkpoints : where an interrupted run may have left off, and this one is saved.
    ranks : the processes that train together; all end with the same network and the same curve.

    Returns
    -------
    One row per epoch: ``epoch``, ``lr``, ``loss`` and each term, averaged over the epoch's images.

    Raises
    ------
    AepslError : a loss is not finite, an image cannot be read, or there are fewer images in a part of a batch than processes.
    """
    least = (size := min(settings.batch, len(samples))) // min(settings.accumulate, max(1, size))
    if least < ranks.size:
        raise AepslError(f"training.batch: expected at least an image for each of {ranks.size} processes in every part of a batch, found {size} "
                         f"images in {min(settings.accumulate, size)} part(s); raise training.batch, lower training.accumulate or compute.devices")
    per_epoch = max(1, len(samples) // settings.batch)
    per_unit = per_epoch if settings.unit == "epochs" else 1
    total = max(1, round(settings.length * per_unit))
    optimiser = make_optimiser(model, last_layer, settings)
    base = [group["lr"] for group in optimiser.param_groups]
    model.to(device).to(memory_format=torch.channels_last)
    model.train()
    if settings.batch_norm == "frozen":
        _freeze_batch_norm(model)
    share = Share()
    if ranks.size > 1:
        share_layers(model, share, device)
    losses, updates = ranks.set_up(_Losses(model, terms), optimiser)
    curve: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    reports: deque[_Report] = deque()
    reached = 0
    if checkpoints and (saved := ranks.broadcast(checkpoints.latest() if ranks.main else None)):
        reached, curve, sums = saved["step"], saved["curve"], saved["sums"]
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        ranks.load_precision_state(saved.get("precision", {}))

    def settle(left: int = 0) -> None:
        """Take over what came of the steps, but for the last ones."""
        while len(reports) > left:
            for name, value in reports.popleft().values().items():
                sums[name] = sums.get(name, 0.0) + value

    def content() -> dict[str, Any]:
        settle()  # nothing is saved of a step whose loss may not be finite
        return {"curve": curve, "sums": sums, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "precision": ranks.precision_state()}

    order = partial(batches, len(samples), settings.batch, total, seed=seed, first=reached)
    loader = DataLoader(_Told(samples), batch_sampler=_Shares(order, settings.accumulate, ranks), collate_fn=_collate, num_workers=workers,
                        pin_memory=device.type == "cuda", prefetch_factor=(4 if device.type == "cuda" else 2) if workers else None,
                        multiprocessing_context=_Forking() if workers else None, worker_init_fn=_start_worker if workers else None)
    lag = _lag(device, ranks)
    whole = True
    agreed = ExitStack()
    try:
        if ranks.size > 1:  # they must stop after the same batch, so each tells the others of a signal before it heeds it
            agreed.enter_context(held())
        with held():  # torch does not bear an exception while it starts its workers
            loaded = iter(loader)
        shown = progress(loaded, total=total, done=reached, label=label, unit="step", shown=ranks.main)
        for step, (batch, keys) in enumerate(zip(shown, order(), strict=True), reached):
            if isinstance(batch, AepslError):
                raise batch
            with held():
                whole = False
                factor = lr_factor(step, total, schedule=settings.schedule, lr_steps=settings.lr_steps, per_unit=per_unit)
                for group, lr in zip(optimiser.param_groups, base, strict=True):
                    group["lr"] = lr * factor
                reports.append(_Report(step, [samples.index.ids[row] for _, row in keys]))
                stop = _step(losses, optimiser, updates, batch, report=reports[-1], accumulate=settings.accumulate, device=device, seed=seed,
                             done=step / total, share=share, ranks=ranks)
                settle(left=lag)
                if (step + 1) % per_epoch == 0 or step + 1 == total:
                    settle()
                    steps = step % per_epoch + 1
                    means = {name: value / steps for name, value in sums.items()}
                    curve.append({"epoch": (step + 1) / per_epoch, "lr": settings.lr * factor} | means)
                    sums = {}
                reached, whole = step + 1, True
                if stop:
                    raise Interrupted(waiting() or signal.SIGTERM)
                if checkpoints and ranks.main:
                    checkpoints.offer(reached, content)
        agreed.close()
    except Interrupted:
        if checkpoints and whole and ranks.main:
            checkpoints.save(reached, content)
        raise
    finally:
        agreed.close()
    model.eval()
    return curve


def _lag(device: torch.device, ranks: Ranks) -> int:
    """Steps that a device is asked to do before the loss of an earlier one is looked at: looking makes the processor wait."""
    return int(device.type == "cuda" and ranks.size == 1)


class _Told(Dataset[Any]):
    """Samples whose explained errors are handed over as they are: out of a worker process an exception would come wrapped in a traceback."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, key: tuple[int, int]) -> Any:
        try:
            return self._samples[key]
        except AepslError as error:
            return error


def _collate(samples: list[Any]) -> Any:
    if told := next((sample for sample in samples if isinstance(sample, AepslError)), None):
        return told
    batch = default_collate(samples)
    return batch | {"image": batch["image"].permute(0, 3, 1, 2)}  # (B, 3, H, W), channels last: no byte is moved


class _Forking(ForkContext):
    """Starts workers by fork; they are told by a mere byte that they are done.

    An event of multiprocessing has a lock, which a worker takes for every batch. One that is killed just then keeps it, and torch, which
    tells the others, would wait for it for ever.
    """

    def Event(self) -> Any:  # noqa: N802 - the name is multiprocessing's
        return _Flag()


class _Flag:
    """What torch needs of an event that is shared with forked processes."""

    def __init__(self) -> None:
        self._set = RawValue("b", 0)

    def set(self) -> None:
        self._set.value = 1

    def is_set(self) -> bool:
        return bool(self._set.value)


def _start_worker(number: int) -> None:
    sys.excepthook = _tell_unless_left


def _tell_unless_left(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report an error that ends a worker or one of its threads, but not that the main process let go of a batch it was being handed: it says why."""
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, traceback)


class _Shares:
    """This process's share of every batch, made as it is asked for: a list of them all would grow with the length of the training."""

    def __init__(self, order: Callable[[], Iterator[list[tuple[int, int]]]], accumulate: int, ranks: Ranks) -> None:
        self._order, self._accumulate, self._ranks = order, accumulate, ranks

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._order():
            yield batch if self._ranks.size == 1 else _own(batch, self._accumulate, self._ranks)


class _Report:
    """The loss and its terms of a step, on their way from the device: a GPU goes on meanwhile."""

    def __init__(self, step: int, ids: list[str]) -> None:
        self.step, self.ids = step, ids
        self._parts: list[tuple[dict[str, float], float]] = []
        self._awaited: list[tuple[list[str], Tensor, float, Any]] = []

    def add(self, names: list[str], told: Tensor, weight: float) -> None:
        """Add the values of a part of the batch, which counts by ``weight``; those of a GPU are not waited for.

        Raises
        ------
        AepslError : the loss, if it is here already, is not finite.
        """
        if told.device.type == "cuda":
            here = torch.empty(told.shape, dtype=told.dtype, pin_memory=True).copy_(told, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(told.device))
            self._awaited.append((names, here, weight, arrived))
        else:
            self._take(names, told, weight)

    def values(self) -> dict[str, float]:
        """The loss, and its terms if there are several, over the batch.

        Raises
        ------
        AepslError : the loss is not finite; names the images.
        """
        for names, here, weight, arrived in self._awaited:
            arrived.synchronize()
            self._take(names, here, weight)
        self._awaited = []
        values: dict[str, float] = {}
        for part, weight in self._parts:
            for name, value in part.items():
                values[name] = values.get(name, 0.0) + value * weight
        return values if len(values) > 2 else {"loss": values["loss"]}

    def _take(self, names: list[str], told: Tensor, weight: float) -> None:
        part = dict(zip(names, told.tolist(), strict=True))
        if not math.isfinite(part["loss"]):
            raise AepslError(f"the loss became {part['loss']} at iteration {self.step + 1}; images of the batch: {', '.join(self.ids)}. "
                             "Lower training.lr or look at these images")
        self._parts.append((part, weight))


class _Losses(nn.Module):
    """The loss terms as a module that holds the network, which is what can be trained by several processes, or in another precision."""

    def __init__(self, model: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.model = model
        self._terms = terms

    def forward(self, images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        return self._terms(images, labels, mask, done)


def _parts(count: int, accumulate: int) -> list[int]:
    """How many of ``count`` images are in each part of a batch."""
    return [len(part) for part in torch.arange(count).tensor_split(min(accumulate, count))]


def _own(batch: list[tuple[int, int]], accumulate: int, ranks: Ranks) -> list[tuple[int, int]]:
    """This process's share of every part of a batch."""
    own, first = [], 0
    for part in _parts(len(batch), accumulate):
        own += [batch[first + place] for place in ranks.share(part)]
        first += part
    return own


def _step(losses: nn.Module, optimiser: torch.optim.Optimizer, updates: Any, batch: dict[str, Any], *, report: _Report, accumulate: int,
          device: torch.device, seed: int, done: float, share: Share, ranks: Ranks) -> bool:
    """One update from a batch in ``accumulate`` parts, whose gradients add up to that of the whole.

    ``batch`` holds this process's share of every part, ``report`` takes the terms of the whole batch. Tells whether any process was asked
    to stop.
    """
    torch.manual_seed(seed * 1_000_003 + report.step)  # dropout
    optimiser.zero_grad(set_to_none=True)
    count = len(report.ids)
    stop, first = False, 0
    for number, whole in enumerate(parts := _parts(count, accumulate), 1):
        own = ranks.share(whole)
        part = slice(first, first := first + len(own))
        share.first, share.count, share.whole = own.start, len(own), whole
        images, labels = (batch[name][part].to(device, non_blocking=True) for name in ("image", "labels"))
        mask = batch["mask"][part].to(device, non_blocking=True) if "mask" in batch else None
        with ranks.unshared(losses, number < len(parts)):
            terms = losses(images, labels, mask, done)
            loss = torch.stack(list(terms.values())).sum()
            told = torch.stack([value.detach() for value in (loss, *terms.values())])
            if ranks.size > 1:  # each process's means count by its images
                told = ranks.total(torch.cat([told * (len(own) / whole), told.new_tensor([bool(waiting())])]))
                stop = stop or bool(told[-1])
            report.add(["loss", *terms], told[:1 + len(terms)], whole / count)
            # Gradients are averaged over the processes; as many times their shares add up to the whole.
            ranks.backward(loss * (len(own) / count * ranks.size), losses)
    updates.step()
    return stop


def _freeze_batch_norm(model: nn.Module) -> None:
    """Keep the statistics of the starting weights; scale and shift still learn."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
