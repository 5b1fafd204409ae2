"""One training loop for every network.

Order, augmentation and dropout depend on (seed, step) alone, so that an interrupted training goes on from a checkpoint as if nothing had
been. A loss that is not finite stops the training and names the images of the batch. Several processes take each its share of every
batch and go together what, up to the order of summation, one process goes alone.
"""

import math
import signal
from collections.abc import Callable, Iterable
from contextlib import ExitStack
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
    reached = first = 0
    if checkpoints and (saved := ranks.broadcast(checkpoints.latest() if ranks.main else None)):
        reached, curve, sums = saved["step"], saved["curve"], saved["sums"]
        first = reached
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        ranks.load_precision_state(saved.get("precision", {}))

    def content() -> dict[str, Any]:
        return {"curve": curve, "sums": sums, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "precision": ranks.precision_state()}

    plan = list(batches(len(samples), settings.batch, total, seed=seed, first=reached))
    shares = plan if ranks.size == 1 else [_own(batch, settings.accumulate, ranks) for batch in plan]
    loader = DataLoader(_Told(samples), batch_sampler=shares, collate_fn=_collate, num_workers=workers, pin_memory=device.type == "cuda",
                        persistent_workers=False, multiprocessing_context="fork" if workers else None)
    whole = True
    agreed = ExitStack()
    try:
        if ranks.size > 1:  # they must stop after the same batch, so each tells the others of a signal before it heeds it
            agreed.enter_context(held())
        with held():  # torch does not bear an exception while it starts its workers
            loaded = iter(loader)
        for step, batch in enumerate(progress(loaded, total=total, done=reached, label=label, unit="step", shown=ranks.main), reached):
            if isinstance(batch, AepslError):
                raise batch
            with held():
                whole = False
                factor = lr_factor(step, total, schedule=settings.schedule, lr_steps=settings.lr_steps, per_unit=per_unit)
                for group, lr in zip(optimiser.param_groups, base, strict=True):
                    group["lr"] = lr * factor
                ids = [samples.index.ids[row] for _, row in plan[step - first]]
                values, stop = _step(losses, optimiser, updates, batch, accumulate=settings.accumulate, device=device, seed=seed, step=step,
                                     done=step / total, ids=ids, share=share, ranks=ranks)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                if (step + 1) % per_epoch == 0 or step + 1 == total:
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


def _step(losses: nn.Module, optimiser: torch.optim.Optimizer, updates: Any, batch: dict[str, Any], *, accumulate: int, device: torch.device,
          seed: int, step: int, done: float, ids: list[str], share: Share, ranks: Ranks) -> tuple[dict[str, float], bool]:
    """One update from a batch in ``accumulate`` parts, whose gradients add up to that of the whole.

    ``batch`` holds this process's share of every part, ``ids`` are those of the whole batch. The terms that come back are of the whole
    batch, and beside them whether any process was asked to stop.
    """
    torch.manual_seed(seed * 1_000_003 + step)  # dropout
    optimiser.zero_grad(set_to_none=True)
    values: dict[str, float] = {}
    stop, first = False, 0
    for number, whole in enumerate(parts := _parts(len(ids), accumulate), 1):
        own = ranks.share(whole)
        part = slice(first, first := first + len(own))
        share.first, share.count, share.whole = own.start, len(own), whole
        images = batch["image"][part].to(device, non_blocking=True)
        mask = batch["mask"][part].to(device, non_blocking=True) if "mask" in batch else None
        with ranks.unshared(losses, number < len(parts)):
            terms = losses(images, batch["labels"][part].to(device), mask, done)
            loss = torch.stack(list(terms.values())).sum()
            told = torch.stack([value.detach() for value in (loss, *terms.values())])
            if ranks.size > 1:  # each process's means count by its images
                told = ranks.total(torch.cat([told * (len(own) / whole), told.new_tensor([bool(waiting())])]))
                stop = stop or bool(told[-1])
            told_loss, *told_terms = told[:1 + len(terms)].tolist()
            if not math.isfinite(told_loss):
                raise AepslError(f"the loss became {told_loss} at iteration {step + 1}; images of the batch: {', '.join(ids)}. "
                                 "Lower training.lr or look at these images")
            # Gradients are averaged over the processes; as many times their shares add up to the whole.
            ranks.backward(loss * (len(own) / len(ids) * ranks.size), losses)
        for name, value in zip(("loss", *terms), (told_loss, *told_terms), strict=True):
            values[name] = values.get(name, 0.0) + value * (whole / len(ids))
    updates.step()
    return values if len(values) > 2 else {"loss": values["loss"]}, stop


def _freeze_batch_norm(model: nn.Module) -> None:
    """Keep the statistics of the starting weights; scale and shift still learn."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
