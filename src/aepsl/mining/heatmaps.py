"""Class activation maps and the regions they point at (section 3.1; Zhou et al., CVPR 2016)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aepsl.networks.classifier import Classifier, Output, label_probabilities
from aepsl.networks.grid import from_grid
from aepsl.networks.trunks import as_input, resized


def class_heatmaps(model: Classifier, image: np.ndarray, classes: Sequence[int], *, scales: Sequence[float], flip: bool,
                   device: torch.device) -> np.ndarray:
    """Heatmaps of the given classes in the frame of the image, before normalisation.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB, mined regions already erased.
    classes : K class numbers, from 1.
    scales, flip : resized and mirrored copies whose heatmaps are averaged; ``[1.0]``, False = the paper's.

    Returns
    -------
    (K, H, W) float32.
    """
    height, width = image.shape[:2]
    total = torch.zeros(len(classes), height, width, device=device)
    rows = torch.tensor(list(classes), device=device) - 1
    with torch.inference_mode():
        inputs = as_input(image, model.trunk.preprocessing, device)
        for scale in scales:
            scaled = resized(inputs, scale)
            size = scaled.shape[2], scaled.shape[3]
            for view in (scaled, scaled.flip(3)) if flip else (scaled,):
                maps = from_grid(model.heatmaps(view.contiguous(memory_format=torch.channels_last))[:, rows], size, model.trunk.output_stride)
                maps = maps.flip(3) if view is not scaled else maps
                total += _to_size(maps, (height, width))[0]
    return (total / (len(scales) * (1 + flip))).cpu().numpy()


def _to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def normalise_heatmaps(heatmaps: np.ndarray, rule: str) -> np.ndarray:
    """Heatmaps (K, H, W) scaled to [0, 1], each by its own values.

    ``minmax``: (H − min) / (max − min). ``relu-max``: max(H, 0) / max. A map without contrast points nowhere: zeros.
    """
    low, high = heatmaps.min((1, 2), keepdims=True), heatmaps.max((1, 2), keepdims=True)
    base = low if rule == "minmax" else np.zeros_like(low)
    # The values of a constant map differ by rounding, some 1e-7 of their size, which must not be stretched to [0, 1].
    points = (high - low > 1e-5 * np.maximum(abs(low), abs(high))) & (high > base)
    return np.where(points, np.clip(heatmaps - base, 0, None) / np.where(points, high - base, 1), 0).astype(np.float32)


def confidences(model: Classifier, image: np.ndarray, *, scale: float, output: Output, device: torch.device) -> np.ndarray:
    """Class confidences p (C,) float32 of an image (H, W, 3) uint8 RGB resized by ``scale``: best the middle of the scales trained on."""
    with torch.inference_mode():
        inputs = resized(as_input(image, model.trunk.preprocessing, device), scale)
        logits = model(inputs.contiguous(memory_format=torch.channels_last))
        return label_probabilities(logits, output)[0].cpu().numpy()


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


def mine(heatmaps: np.ndarray, mined: dict[int, np.ndarray], number: int, *, rule: str, threshold: float) -> dict[int, np.ndarray]:
    """Add the regions above δ to what earlier rounds mined (Algorithm 1: F_i^c ∪= R).

    Parameters
    ----------
    heatmaps : (K, H, W) float32, before normalisation, in the order of the keys of ``mined``.
    mined : class number → (H, W) uint8, round that mined the pixel, 0 = none.
    number : this round, from 1.
    threshold : δ, a fraction of the normalised range.

    Returns
    -------
    The same mapping with this round's pixels added; a pixel keeps the round that found it first.
    """
    above = normalise_heatmaps(heatmaps, rule) > threshold
    return {label: np.where((region == 0) & above[place], number, region).astype(np.uint8)
            for place, (label, region) in enumerate(mined.items())}
