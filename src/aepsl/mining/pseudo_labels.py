"""Pseudo-labels from mined regions and saliency (section 3.2)."""

from collections.abc import Collection

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader
from aepsl.data.index import Index
from aepsl.data.samples import read_mined


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

    >>> mined = {3: np.array([[True, True, False, False]])}
    >>> merge(mined, np.array([[0.9, 0.0, 0.9, 0.0]]), background_below=0.06).tolist()
    [[3, 255, 255, 0]]
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


def background_thresholds(index: Index, *, below: float, indoor_classes: Collection[str], below_outdoors: float) -> list[float]:
    """Saliency under which a pixel is background, per image: images with none of the indoor classes have their own."""
    indoor = [name in indoor_classes for name in index.classes]
    return [below if (labels & indoor).any() else below_outdoors for labels in index.labels]


def merge_stored(row: int, *, index: Index, mined: ArchiveReader, saliency: ArchiveReader, background_below: list[float],
                 rounds: int = 255) -> np.ndarray:
    """:func:`merge` for one row of the index, from the regions mined up to round ``rounds``: (H, W) uint8.

    Parameters
    ----------
    mined : entries ``<id>/<c>.png``, the round that mined the pixel, 0 = none.
    saliency : entries ``<id>.png``, saliency times 255.
    """
    regions = {label: (region > 0) & (region <= rounds) for label, region in read_mined(mined, index, row).items()}
    salient = saliency.mask(f"{index.ids[row]}.png") / 255
    return merge(regions, salient, background_below=background_below[row])
