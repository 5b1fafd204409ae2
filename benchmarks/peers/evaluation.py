"""mIoU of a folder of PNGs: by torchmetrics, and by a loop over images and classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.PngImagePlugin import PngImageFile

from aepsl.errors import AepslError

VOID = 255


def read(path: Path) -> np.ndarray:
    """A palette PNG as the usual data set classes read it, (H, W) uint8."""
    return np.array(PngImageFile(path))


def by_torchmetrics(ids: Sequence[str], truth: Path, predictions: Path, classes: int) -> np.ndarray:
    """IoU (1+C,) of JaccardIndex, updated image by image on the processor."""
    metric: Any = jaccard()(num_classes=1 + classes, ignore_index=VOID, average="none")
    for identifier in ids:
        target, guess = (torch.from_numpy(read(folder / f"{identifier}.png")).long() for folder in (truth, predictions))
        metric.update(guess[None], target[None])
    return np.asarray(metric.compute())


def jaccard() -> Any:
    """torchmetrics' class, or an error that says how to get it."""
    try:
        from torchmetrics.classification import MulticlassJaccardIndex
    except ImportError as error:
        raise AepslError(f"expected torchmetrics, found none that loads ({error}); run `make setup` or `pip install torchmetrics`") from error
    return MulticlassJaccardIndex


def by_a_loop(ids: Sequence[str], truth: Path, predictions: Path, classes: int) -> np.ndarray:
    """IoU (1+C,) from true positives, true and predicted pixels, class by class and image by image, as the scripts of the field count."""
    hit, true, predicted = (np.zeros(1 + classes) for _ in range(3))
    for identifier in ids:
        target, guess = (read(folder / f"{identifier}.png") for folder in (truth, predictions))
        valid = target < VOID
        for label in range(1 + classes):
            hit[label] += np.sum((target == label) * (guess == label) * valid)
            true[label] += np.sum((target == label) * valid)
            predicted[label] += np.sum((guess == label) * valid)
    return hit / np.maximum(true + predicted - hit, 1)
