"""Pseudo-labels from mined regions and saliency (section 3.2)."""

import numpy as np

from aepsl.data.archive import VOID


def merge(mined: dict[int, np.ndarray], saliency: np.ndarray, *, background_below: float) -> np.ndarray:
    """S = F ∪ B with three kinds of ignored pixel.

    Parameters
    ----------
    mined : class number → (H, W) bool, regions mined for it.
    saliency : (H, W) in [0, 1].
    background_below : saliency under which a pixel counts as background.

    Returns
    -------
    (H, W) uint8: c where class c alone claims the pixel, 0 where none does and saliency is low, otherwise 255, that is
    where several classes claim it, where a mined pixel has low saliency, and where nothing claims it.
    """
    low = saliency < background_below
    claims = np.zeros(saliency.shape, np.uint8)
    label = np.zeros(saliency.shape, np.uint8)
    for number, region in mined.items():
        claims += region
        label[region] = number
    pseudo = np.full(saliency.shape, VOID, np.uint8)
    pseudo[(claims == 1) & ~low] = label[(claims == 1) & ~low]
    pseudo[(claims == 0) & low] = 0
    return pseudo
