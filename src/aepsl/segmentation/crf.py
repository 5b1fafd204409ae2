"""From class probabilities on the network's grid to a mask of the image, with or without the fully connected CRF.

The CRF is that of Krähenbühl and Koltun ("Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011) as implemented by pydensecrf, with its defaults: Potts compatibility, symmetric normalisation.
"""


import numpy as np
import torch

from aepsl.errors import AepslError
from aepsl.networks.grid import from_grid
from aepsl.params import CrfSettings
from aepsl.segmentation.densecrf import require_densecrf

LEAST_PROBABILITY = 1e-5  # the logarithm needs a floor; half precision holds no less without loss

PRESETS: dict[str, CrfSettings] = {
    # The model definition of the DeepLab-LargeFOV release (method section 5): AE-PSL builds on it.
    "deeplab": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=121, bilateral_rgb=5, spatial_weight=3, spatial_xy=3),
    # DeepLabV2, ResNet-101.
    "deeplab-v2": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=67, bilateral_rgb=3, spatial_weight=3, spatial_xy=1),
    # SEC (Kolesnikov and Lampert, 2016) and PSA (Ahn and Kwak, 2018).
    "psa": CrfSettings(iterations=10, bilateral_weight=10, bilateral_xy=80, bilateral_rgb=13, spatial_weight=3, spatial_xy=3),
    # AFA (Ru et al., 2022).
    "afa": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=64, bilateral_rgb=5, spatial_weight=3, spatial_xy=3),
}


def upsample(probabilities: np.ndarray, size: tuple[int, int], *, stride: int) -> np.ndarray:
    """Probabilities (1+C, h, w) of any float type on a grid of the given stride → (1+C, H, W) float32, image frame, bilinear.

    Parameters
    ----------
    size : (H, W) of the image.
    stride : pixels between two cells of the grid; 1 leaves the values as they are.
    """
    grid = torch.from_numpy(np.asarray(probabilities, np.float32, copy=True))
    return from_grid(grid[None], size, stride)[0].numpy()


def argmax_mask(probabilities: np.ndarray, size: tuple[int, int], *, stride: int) -> np.ndarray:
    """The most probable class of each pixel, (H, W) uint8; background where all are prohibited. Parameters as of :func:`upsample`."""
    mask: np.ndarray = upsample(_checked(probabilities), size, stride=stride).argmax(0).astype(np.uint8)
    return mask


def refine(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings, *, stride: int) -> np.ndarray:
    """The most probable class of each pixel after the fully connected CRF.

    Parameters
    ----------
    image : (H, W, 3) uint8, RGB.
    probabilities : (1+C, h, w) float16 or float32 on a grid of the given stride. They need not add up to 1: a class
        whose plane is zero everywhere is prohibited, and no pixel can become that class.

    Returns
    -------
    (H, W) uint8, image frame.
    """
    size = (image.shape[0], image.shape[1])
    present = np.flatnonzero(_checked(probabilities).any((1, 2)))
    if len(present) < 2:
        return np.full(size, present[0] if len(present) else 0, np.uint8)
    share = upsample(probabilities[present], size, stride=stride)
    share /= np.maximum(share.sum(0), LEAST_PROBABILITY)
    # Where prohibition and half precision left nothing, every class gets the floor: the neighbours decide.
    marginals = mean_field(-np.log(np.maximum(share, LEAST_PROBABILITY)), image, settings)
    mask: np.ndarray = present[marginals.argmax(0)].astype(np.uint8)
    return mask


def mean_field(unary: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Marginals (K, H, W) float32 of the CRF with unary energies (K, H, W) on an image (H, W, 3) uint8 RGB, K ≥ 2."""
    densecrf = require_densecrf()
    count, height, width = unary.shape
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f"expected an image ({height}, {width}, 3) uint8 for the unary energies, got {image.shape} {image.dtype}")
    crf = densecrf.DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(count, -1), np.float32))
    if settings.spatial_weight:
        crf.addPairwiseGaussian(sxy=settings.spatial_xy, compat=settings.spatial_weight)
    if settings.bilateral_weight:
        crf.addPairwiseBilateral(sxy=settings.bilateral_xy, srgb=settings.bilateral_rgb, rgbim=np.array(image, order="C"),
                                 compat=settings.bilateral_weight)
    return np.asarray(crf.inference(settings.iterations), np.float32).reshape(count, height, width)


def _checked(probabilities: np.ndarray) -> np.ndarray:
    if not np.isfinite(probabilities).all():
        raise AepslError("expected finite class probabilities, found NaN or infinity; the network they come from diverged, train it again")
    return probabilities


def crf_settings(name: str, custom: CrfSettings) -> CrfSettings | None:
    """The settings of a preset, of ``custom``, or None for ``none``."""
    return {"none": None, "custom": custom}[name] if name in ("none", "custom") else PRESETS[name]


def final_mask(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings | None, *, stride: int) -> np.ndarray:
    """The mask (H, W) uint8 of an image: by :func:`refine`, or by the arg max alone where there are no settings."""
    if settings is None:
        return argmax_mask(probabilities, image.shape[:2], stride=stride)
    return refine(image, probabilities, settings, stride=stride)
