"""Class probabilities of an image, with the classes it cannot hold prohibited (section 3.3, test time)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aepsl.networks.classifier import Output, label_probabilities
from aepsl.networks.inference import View, as_batch, mean_of_views, seen_in
from aepsl.networks.segmenter import Segmenter


def batch_probabilities(model: Segmenter, images: Tensor, *, scales: Sequence[float], flip: bool,
                        output: Output = "softmax") -> tuple[Tensor, Tensor | None]:
    """Probabilities at the network's stride and class confidences of several images.

    Parameters
    ----------
    images : (B, H, W, 3) uint8 RGB, on the model's device.
    scales, flip : resized and mirrored copies, averaged; they are brought to the grid of scale 1.

    Returns
    -------
    f : (B, 1+C, ⌈H/s⌉, ⌈W/s⌉) float32, soft max.
    v : (B, C) float32, or None for a network without a classification branch.
    """
    grids: list[Tensor] = []
    views: list[View] = []
    confidences: list[Tensor] = []
    for inputs, seen in seen_in(images, model.trunk.preprocessing, scales, flip=flip):
        scores, class_scores = model(inputs)
        grids += scores.softmax(1).split(len(images))
        views += seen
        if class_scores is not None:
            confidences += label_probabilities(class_scores, output).split(len(images))
    stride = model.trunk.output_stride
    mean = mean_of_views(grids, views, (images.shape[1], images.shape[2]), stride=stride, step=stride)
    return mean, torch.stack(confidences).mean(0) if confidences else None


def class_probabilities(model: Segmenter, image: np.ndarray, *, scales: Sequence[float], flip: bool, device: torch.device,
                        output: Output = "softmax") -> tuple[np.ndarray, np.ndarray | None]:
    """:func:`batch_probabilities` of one image (H, W, 3) uint8: f (1+C, ⌈H/s⌉, ⌈W/s⌉) and v (C,) or None."""
    with torch.inference_mode():
        mean, confidences = batch_probabilities(model, as_batch(image, device), scales=scales, flip=flip, output=output)
    return mean[0].cpu().numpy(), None if confidences is None else confidences[0].cpu().numpy()


def prohibit(probabilities: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Zero the scores of classes the image cannot hold.

    Parameters
    ----------
    probabilities : (1+C, h, w).
    possible : (C,) bool; background is always possible.
    """
    kept: np.ndarray = probabilities * np.concatenate([[True], possible])[:, None, None]
    return kept
