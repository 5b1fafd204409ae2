"""How well a classifier does on images that it did not learn from: half of what tells when to stop, see ``stop``."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from aepsl.mining.heatmaps import confidences
from aepsl.networks.classifier import Classifier


@dataclass(frozen=True)
class HeldOut:
    """How a classifier does on images it was not trained on, as erased as those it was.

    Attributes
    ----------
    accuracy : share of the images whose highest score is one of their classes.
    chance : the same share for always naming the class that most of them hold.
    """

    accuracy: float
    chance: float


def held_out_accuracy(model: Classifier, photographs: Iterable[np.ndarray], labels: np.ndarray, *, scale: float,
                      device: torch.device) -> HeldOut | None:
    """Score a classifier on whole images; None without images.

    Parameters
    ----------
    photographs : N images (H, W, 3) uint8 RGB, mined regions erased.
    labels : (N, C) bool.
    scale : resize factor, the middle of those it was trained on.
    """
    right = [bool(own[confidences(model, image, scale=scale, output="softmax", device=device).argmax()])
             for image, own in zip(photographs, labels, strict=True)]
    return HeldOut(float(np.mean(right)), float(labels.mean(0).max())) if right else None
