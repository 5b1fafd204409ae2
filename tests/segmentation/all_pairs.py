"""The fully connected CRF without any approximation of its kernels, for images of some hundred pixels."""

import numpy as np
import torch

from aepsl.params import CrfSettings


def exact_marginals(unary: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Mean field with every pair of pixels summed, float64."""
    places = np.stack(np.mgrid[:image.shape[0], :image.shape[1]], -1).reshape(-1, 2)
    colours = image.reshape(-1, 3).astype(np.float64)
    pairs = np.zeros((len(places), len(places)))
    for weight, features in ((settings.spatial_weight, places / settings.spatial_xy),
                             (settings.bilateral_weight, np.hstack([places / settings.bilateral_xy, colours / settings.bilateral_rgb]))):
        kernel = np.exp(-((features[:, None] - features) ** 2).sum(-1) / 2)
        norm = 1 / np.sqrt(kernel.sum(1))
        pairs += weight * norm[:, None] * kernel * norm
    energies = torch.from_numpy(-unary.reshape(len(unary), -1).astype(np.float64))
    found = energies.softmax(0)
    for _ in range(settings.iterations):
        found = (energies + found @ torch.from_numpy(pairs).t()).softmax(0)
    return found.numpy().reshape(unary.shape)
