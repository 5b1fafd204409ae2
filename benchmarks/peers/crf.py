"""The dense CRF as the field calls it: pydensecrf, all classes, one image after the other."""

from typing import Any

import numpy as np

from aepsl.params import CrfSettings
from aepsl.segmentation.densecrf import require_densecrf


def refine(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Labels (H, W) uint8 of an image (H, W, 3) uint8 with class probabilities (1+C, H, W) float32."""
    densecrf: Any = require_densecrf()
    count, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(-np.log(np.clip(probabilities, 1e-5, 1)).reshape(count, -1)))
    crf.addPairwiseGaussian(sxy=settings.spatial_xy, compat=settings.spatial_weight)
    crf.addPairwiseBilateral(sxy=settings.bilateral_xy, srgb=settings.bilateral_rgb, rgbim=np.ascontiguousarray(image),
                             compat=settings.bilateral_weight)
    marginals = np.array(crf.inference(settings.iterations)).reshape(count, height, width)
    labels: np.ndarray = marginals.argmax(0).astype(np.uint8)
    return labels
