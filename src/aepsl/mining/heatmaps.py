"""Class activation maps and the regions they point at (section 3.1; Zhou et al., CVPR 2016)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aepsl.networks.classifier import Classifier, Output, label_probabilities
from aepsl.networks.inference import as_batch, mean_of_views, seen_in, sent


def batch_heatmaps(model: Classifier, images: Tensor, classes: Sequence[Sequence[int]], *, scales: Sequence[float], flip: bool) -> Tensor:
    """Heatmaps of given classes of several images in the frame of the images, before normalisation.

    Parameters
    ----------
    images : (B, H, W, 3) uint8 RGB, mined regions already erased, on the model's device.
    classes : of each image, numbers from 1.
    scales, flip : resized and mirrored copies whose heatmaps are averaged; ``[1.0]``, False = the paper's.

    Returns
    -------
    (B, K, H, W) float32, K the longest of the B lists; what lies behind the end of a shorter one means nothing.
    """
    most = max(map(len, classes))
    rows = sent(np.array([[*(label - 1 for label in own), *[0] * (most - len(own))] for own in classes], np.int64).reshape(-1, most), images.device)
    grids, views = [], []
    for inputs, seen in seen_in(images, model.trunk.preprocessing, scales, flip=flip):
        grids += model.heatmaps(inputs, rows.repeat(len(seen), 1)).split(len(images))
        views += seen
    return mean_of_views(grids, views, (images.shape[1], images.shape[2]), stride=model.trunk.output_stride)


def class_heatmaps(model: Classifier, image: np.ndarray, classes: Sequence[int], *, scales: Sequence[float], flip: bool,
                   device: torch.device) -> np.ndarray:
    """:func:`batch_heatmaps` of one image (H, W, 3) uint8: (K, H, W) float32, in the order of ``classes``."""
    with torch.inference_mode():
        return batch_heatmaps(model, as_batch(image, device), [classes], scales=scales, flip=flip)[0].cpu().numpy()


def normalised(heatmaps: Tensor, rule: str) -> Tensor:
    """Heatmaps (…, H, W) scaled to [0, 1], each by its own values.

    ``minmax``: (H − min) / (max − min). ``relu-max``: max(H, 0) / max. A map without contrast points nowhere: zeros.
    """
    low, high = (values.to(heatmaps.dtype) for values in (heatmaps.amin((-2, -1), keepdim=True), heatmaps.amax((-2, -1), keepdim=True)))
    base = low if rule == "minmax" else torch.zeros_like(low)
    # The values of a constant map differ by rounding, some 1e-7 of their size, which must not be stretched to [0, 1].
    points = (high - low > 1e-5 * torch.maximum(low.abs(), high.abs())) & (high > base)
    scaled = (heatmaps - base).clamp_(min=0).div_(torch.where(points, high - base, 1))
    return scaled.mul_(points)


def normalise_heatmaps(heatmaps: np.ndarray, rule: str) -> np.ndarray:
    """:func:`normalised` of an array (K, H, W)."""
    scaled: np.ndarray = normalised(torch.from_numpy(np.asarray(heatmaps, np.float32)), rule).numpy()
    return scaled


def on_grid(maps: Tensor, stride: int) -> Tensor:
    """Normalised heatmaps (…, H, W) in [0, 1] on every ``stride``-th pixel, to be stored: (…, ⌈H / stride⌉, ⌈W / stride⌉) uint8, times 255.

    The network tells no more than that, and full-size floats would be some hundred times as many bytes.
    """
    return (maps[..., ::stride, ::stride] * 255).round().to(torch.uint8)


def batch_confidences(model: Classifier, images: Tensor, *, scale: float, output: Output) -> Tensor:
    """Class confidences p (B, C) float32 of images (B, H, W, 3) uint8 RGB resized by ``scale``: best the middle of the scales trained on."""
    [(inputs, _)] = seen_in(images, model.trunk.preprocessing, [scale], flip=False)
    return label_probabilities(model(inputs), output)


def confidences(model: Classifier, image: np.ndarray, *, scale: float, output: Output, device: torch.device) -> np.ndarray:
    """:func:`batch_confidences` of one image (H, W, 3) uint8: (C,)."""
    with torch.inference_mode():
        return batch_confidences(model, as_batch(image, device), scale=scale, output=output)[0].cpu().numpy()


def most_confident(confidences: np.ndarray, labels: np.ndarray, *, share: float) -> np.ndarray:
    """Which classes of which images a later round may still mine, (N, C) bool: per class, the images most confident of it.

    Once an object is erased its classifier doubts the class, and the heatmap that is left points at context. A share of
    each class rather than one threshold for all: classifiers are surest of frequent classes, which alone would grow.

    Parameters
    ----------
    confidences : (N, C) p of the images as erased so far.
    labels : (N, C) bool.
    share : of the images labelled with a class, 0 < share ≤ 1; 1 = all, as in the paper. Never less than one image; ties all count.
    """
    wanted = np.zeros_like(labels)
    for column, own in enumerate(labels.T):
        if own.any():
            least = np.sort(confidences[own, column])[::-1][int(np.ceil(share * own.sum())) - 1]
            wanted[:, column] = own & (confidences[:, column] >= least)
    return wanted


def added(above: np.ndarray, mined: dict[int, np.ndarray], number: int) -> dict[int, np.ndarray]:
    """Add the regions of a round to what earlier rounds mined (Algorithm 1: F_i^c ∪= R).

    Parameters
    ----------
    above : (K, H, W) bool, where the heatmap of each key of ``mined`` is above δ.
    mined : class number → (H, W) uint8, round that mined the pixel, 0 = none.
    number : this round, from 1.

    Returns
    -------
    The same mapping with this round's pixels added; a pixel keeps the round that found it first.
    """
    return {label: np.where((region == 0) & above[place], number, region).astype(np.uint8)
            for place, (label, region) in enumerate(mined.items())}


def mine(heatmaps: np.ndarray, mined: dict[int, np.ndarray], number: int, *, rule: str, threshold: float) -> dict[int, np.ndarray]:
    """:func:`added` of the regions of heatmaps (K, H, W) float32, before normalisation, above δ: a fraction of the normalised range."""
    return added(normalise_heatmaps(heatmaps, rule) > threshold, mined, number)
