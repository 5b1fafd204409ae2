"""One training loop for every network.

Order, augmentation and dropout depend on (seed, step) alone, so that an interrupted training goes on from a checkpoint as if nothing had
been. A loss that is not finite stops the training and names the images of the batch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from aepsl.data.samples import Samples, batches
from aepsl.errors import AepslError
from aepsl.params import Training
from aepsl.progress import progress
from aepsl.resume.interrupt import Interrupted, held
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.optimiser import lr_factor, make_optimiser

# (images (B, 3, H, W) uint8 on the device, labels (B, C) bool, mask (B, H, W) uint8 or None, share of the training done) → loss terms, to be summed
Terms = Callable[[Tensor, Tensor, Tensor | None, float], dict[str, Tensor]]


def train(model: nn.Module, last_layer: Iterable[nn.Parameter], samples: Samples, terms: Terms, *, settings: Training, seed: int,
          device: torch.device, workers: int = 0, checkpoints: Checkpoints | None = None, label: str = "training") -> list[dict[str, float]]:
    """Train in place and return the loss curve.

    Parameters
    ----------
    last_layer : the parameters that learn ``settings.last_layer_lr`` times faster.
    terms : the loss of a (micro-)batch as named terms; their sum is minimised, each a mean over the images.
    workers : processes that decode images; 0 = none. They do not change the result.
    checkpoints : where an interrupted run may have left off, and this one is saved.

    Returns
    -------
    One row per epoch: ``epoch``, ``lr``, ``loss`` and each term, averaged over the epoch's images.
    """
    per_epoch = max(1, len(samples) // settings.batch)
    per_unit = per_epoch if settings.unit == "epochs" else 1
    total = max(1, round(settings.length * per_unit))
    optimiser = make_optimiser(model, last_layer, settings)
    base = [group["lr"] for group in optimiser.param_groups]
    model.to(device).to(memory_format=torch.channels_last)
    model.train()
    if settings.batch_norm == "frozen":
        _freeze_batch_norm(model)
    curve: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    reached = 0
    if checkpoints and (saved := checkpoints.latest()):
        reached, curve, sums = saved["step"], saved["curve"], saved["sums"]
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])

    def content() -> dict[str, Any]:
        return {"curve": curve, "sums": sums, "model": model.state_dict(), "optimiser": optimiser.state_dict()}

    plan = list(batches(len(samples), settings.batch, total, seed=seed, first=reached))
    loader = DataLoader(_Told(samples), batch_sampler=plan, collate_fn=_collate, num_workers=workers, pin_memory=device.type == "cuda",
                        persistent_workers=False, multiprocessing_context="fork" if workers else None)
    whole = True
    try:
        with held():  # torch does not bear an exception while it starts its workers
            loaded = iter(loader)
        for step, batch in enumerate(progress(loaded, total=total, done=reached, label=label, unit="step"), reached):
            if isinstance(batch, AepslError):
                raise batch
            with held():
                whole = False
                factor = lr_factor(step, total, schedule=settings.schedule, lr_steps=settings.lr_steps, per_unit=per_unit)
                for group, lr in zip(optimiser.param_groups, base, strict=True):
                    group["lr"] = lr * factor
                values = _step(model, optimiser, batch, terms, accumulate=settings.accumulate, device=device, seed=seed, step=step, done=step / total)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                if (step + 1) % per_epoch == 0 or step + 1 == total:
                    steps = step % per_epoch + 1
                    means = {name: value / steps for name, value in sums.items()}
                    curve.append({"epoch": (step + 1) / per_epoch, "lr": settings.lr * factor} | means)
                    sums = {}
                reached, whole = step + 1, True
                if checkpoints:
                    checkpoints.offer(reached, content)
    except Interrupted:
        if checkpoints and whole:
            checkpoints.save(reached, content)
        raise
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


def _step(model: nn.Module, optimiser: torch.optim.Optimizer, batch: dict[str, Any], terms: Terms, *, accumulate: int,
          device: torch.device, seed: int, step: int, done: float) -> dict[str, float]:
    """One update from a batch in ``accumulate`` parts, whose gradients add up to that of the whole."""
    torch.manual_seed(seed * 1_000_003 + step)  # dropout
    optimiser.zero_grad(set_to_none=True)
    count = len(batch["id"])
    values: dict[str, float] = {}
    for part in torch.arange(count).tensor_split(min(accumulate, count)):
        images = batch["image"][part].to(device, non_blocking=True)
        mask = batch["mask"][part].to(device, non_blocking=True) if "mask" in batch else None
        share = len(part) / count
        losses = terms(images, batch["labels"][part].to(device), mask, done)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise AepslError(f"the loss became {loss.item()} at iteration {step + 1}; images of the batch: {', '.join(batch['id'])}. "
                             "Lower training.lr or look at these images")
        (loss * share).backward()
        for name, value in {"loss": loss, **losses}.items():
            values[name] = values.get(name, 0.0) + float(value.detach()) * share
    optimiser.step()
    return values if len(values) > 2 else {"loss": values["loss"]}


def _freeze_batch_norm(model: nn.Module) -> None:
    """Keep the statistics of the starting weights; scale and shift still learn."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
