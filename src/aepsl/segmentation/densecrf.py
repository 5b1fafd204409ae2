"""The CRF as pydensecrf computes it; the one place that imports that package, which must be compiled and may be missing."""

from typing import Any

import numpy as np

from aepsl.errors import AepslError
from aepsl.params import CrfSettings


def require_densecrf() -> Any:
    """The module pydensecrf.densecrf, or an error that says how to get it."""
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise AepslError(f"refine.backend: expected the package pydensecrf, found none that loads ({error}); set refine.backend to torch, or run "
                         "`make setup` or `pip install pydensecrf2` where there are Python 3.11 or 3.12, its headers and a C++ compiler") from error
    return densecrf


def marginals(unary: np.ndarray, image: np.ndarray, settings: CrfSettings) -> np.ndarray:
    """Marginals (K, H, W) float32 from unary energies (K, H, W) and an image (H, W, 3) uint8 RGB, K ≥ 2."""
    count, height, width = unary.shape
    crf = require_densecrf().DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(count, -1), np.float32))
    if settings.spatial_weight:
        crf.addPairwiseGaussian(sxy=settings.spatial_xy, compat=settings.spatial_weight)
    if settings.bilateral_weight:
        crf.addPairwiseBilateral(sxy=settings.bilateral_xy, srgb=settings.bilateral_rgb, rgbim=np.array(image, order="C"),
                                 compat=settings.bilateral_weight)
    return np.asarray(crf.inference(settings.iterations), np.float32).reshape(count, height, width)
