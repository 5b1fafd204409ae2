"""How far a mean IoU could lie off because other images might have been drawn: the percentile bootstrap over images.

The images of a set are drawn anew, with replacement, as many as there are; the counts are added up and scored like the set
itself, a class that is absent from a resample not being counted in it. The interval holds the middle 95 % of 1000 such
scores (Efron, "Bootstrap Methods", Annals of Statistics 1979). It says nothing about another training: that takes other seeds.

Sets of equal size are drawn alike: two predictions of the same images are resampled in step.
"""

import math
from collections.abc import Iterator

import numpy as np

from aepsl.evaluation.confusion import Counted, VoidAs, mean_iou, mean_iou_of

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0  # the seed of the resampling alone; that of the training is in params.yaml
METHOD = {"method": "percentile bootstrap over images", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED}
BLOCK = 50  # resamples held at a time: 4 MB of weights for 10,582 images
EXACT = 2**53  # whole numbers up to here are float64 without loss, and so are their sums


def mean_and_interval(key: str, counted: Counted, *, void_as: VoidAs) -> dict[str, float | None]:
    """A mean IoU under its name in a metrics file, and the ends of its interval as ``<key>_low`` and ``<key>_high``."""
    low, high = mean_iou_interval(counted.images, void_as=void_as) or (None, None)
    return {key: mean_iou(counted.matrix, void_as=void_as)[0], f"{key}_low": low, f"{key}_high": high}


def mean_iou_interval(images: np.ndarray, *, void_as: VoidAs, resamples: int = RESAMPLES, level: float = LEVEL,
                      seed: int = SEED) -> tuple[float, float] | None:
    """Lower and upper end of the interval of the mean IoU.

    Parameters
    ----------
    images : (N, 4, 1+C) int64, :func:`~aepsl.evaluation.confusion.margins` of each image.
    resamples : how many sets are drawn.
    level : share of the resamples' scores that the interval holds.

    Returns
    -------
    None where nothing can be scored: no images, or void ones alone.
    """
    means = np.concatenate([np.empty(0), *(mean_iou_of(counts, void_as=void_as)[0] for counts in resampled(images, resamples, seed=seed))])
    means = means[~np.isnan(means)]  # a resample of void images alone has no score
    if not len(means):
        return None
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled(images: np.ndarray, resamples: int, *, seed: int = SEED) -> Iterator[np.ndarray]:
    """The counts of each resample, exact: blocks (b, …) int64 for images (N, …) int64, ``resamples`` in all; none without images."""
    flat = images.reshape(len(images), math.prod(images.shape[1:]))
    # A resample's sums are at most N times the largest count: below 2^53 float64 adds without rounding, in any order, and BLAS is faster.
    number = np.float64 if len(flat) * int(flat.max(initial=0)) < EXACT else np.int64
    table = flat.astype(number)
    rng = np.random.default_rng([seed])
    for start in range(0, resamples if len(flat) else 0, BLOCK):
        weights = np.stack([np.bincount(rng.integers(0, len(flat), len(flat)), minlength=len(flat))
                            for _ in range(min(BLOCK, resamples - start))])
        yield (weights.astype(number) @ table).astype(np.int64).reshape(-1, *images.shape[1:])
