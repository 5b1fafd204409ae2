"""Class probabilities of an image, with the classes it cannot hold prohibited (section 3.3, test time)."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from aepsl.networks.classifier import Output, label_probabilities
from aepsl.networks.grid import from_grid, to_grid
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import as_input, resized


def class_probabilities(model: Segmenter, image: np.ndarray, *, scales: Sequence[float], flip: bool, device: torch.device,
                        output: Output = "softmax") -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities at the network's stride and class confidences.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB.
    scales, flip : resized and mirrored copies, averaged; they are brought to the grid of scale 1.

    Returns
    -------
    f : (1+C, ⌈H/s⌉, ⌈W/s⌉) float32, soft max.
    v : (C,) float32, or None for a network without a classification branch.
    """
    height, width = image.shape[:2]
    stride = model.trunk.output_stride
    grids, confidences = [], []
    with torch.inference_mode():
        inputs = as_input(image, model.trunk.preprocessing, device)
        for scale in scales:
            scaled = resized(inputs, scale)
            size = scaled.shape[2], scaled.shape[3]
            for mirrored in (False, True) if flip else (False,):
                scores, class_scores = model((scaled.flip(3) if mirrored else scaled).contiguous(memory_format=torch.channels_last))
                probabilities = scores.softmax(1)
                if mirrored or size != (height, width):
                    full = from_grid(probabilities, size, stride)
                    full = full.flip(3) if mirrored else full
                    full = F.interpolate(full, (height, width), mode="bilinear", align_corners=False)
                    probabilities = to_grid(full.flatten(0, 1), stride)[None]
                grids.append(probabilities[0])
                if class_scores is not None:
                    confidences.append(label_probabilities(class_scores, output)[0])
    mean = torch.stack(grids).mean(0).cpu().numpy()
    return mean, torch.stack(confidences).mean(0).cpu().numpy() if confidences else None


def prohibit(probabilities: np.ndarray, possible: np.ndarray) -> np.ndarray:
    """Zero the scores of classes the image cannot hold.

    Parameters
    ----------
    probabilities : (1+C, h, w).
    possible : (C,) bool; background is always possible.
    """
    kept: np.ndarray = probabilities * np.concatenate([[True], possible])[:, None, None]
    return kept
