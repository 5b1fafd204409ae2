"""When to stop erasing, told without truth.

The paper stops by eye, after three rounds. Here every round leaves two margins: how far the held-out accuracy of its classifier
lies above always guessing the most frequent class, and how much more salient its newly mined pixels are than those left
over. A round is useful while it keeps half of each margin of round 1 and still mines something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

KEPT = 0.5  # share of round 1's margins that a useful round keeps
LEAST_AREA = 0.005  # share of the pixels that a useful round adds


@dataclass
class SaliencySums:
    """Saliency of the pixels that each of R rounds mined first, and of all pixels; sums over images.

    Attributes
    ----------
    mined : (R, 2) float64, sum of saliency and number of pixels mined in round r + 1.
    everything : (2,) float64, the same over all pixels.
    """

    mined: np.ndarray
    everything: np.ndarray

    @classmethod
    def empty(cls, rounds: int) -> Self:
        return cls(np.zeros((rounds, 2)), np.zeros(2))

    def add(self, mined: Mapping[int, np.ndarray], saliency: np.ndarray) -> Self:
        """Add an image.

        Parameters
        ----------
        mined : class number → (H, W) uint8, the round that mined the pixel, 0 = none.
        saliency : (H, W) in [0, 1].
        """
        # A pixel of several classes counts for the round that erased it, the first.
        first = np.min([np.where(region > 0, region, 255) for region in mined.values()], axis=0) if mined else np.full(saliency.shape, 255)
        for number in range(1, len(self.mined) + 1):
            new = first == number
            self.mined[number - 1] += saliency[new].sum(dtype=np.float64), np.count_nonzero(new)
        self.everything += saliency.sum(dtype=np.float64), saliency.size
        return self

    def merge(self, other: "SaliencySums") -> Self:
        """Add the sums of other images."""
        self.mined += other.mined
        self.everything += other.everything
        return self

    def rows(self) -> list[dict[str, float]]:
        """One row per round: ``new_area`` (share of all pixels), ``mined_area`` up to it, mean saliency of the pixels it added
        (``new_saliency``) and of those that are still not mined after it (``rest_saliency``)."""
        table = []
        for number in range(1, len(self.mined) + 1):
            new, rest = self.mined[number - 1], self.everything - self.mined[:number].sum(0)
            table.append({"new_area": _ratio(new[1], self.everything[1]), "mined_area": 1 - _ratio(rest[1], self.everything[1]),
                          "new_saliency": _ratio(*new), "rest_saliency": _ratio(*rest)})
        return table


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def margins(row: Mapping[str, Any]) -> list[float]:
    """A round's margins: held-out accuracy above chance (where some images are held out), saliency of the new pixels above the rest."""
    saliency = row["new_saliency"] - row["rest_saliency"]
    return [saliency] if row.get("held_out_accuracy") is None else [row["held_out_accuracy"] - row["chance"], saliency]


def last_useful_round(rows: Sequence[Mapping[str, Any]]) -> int:
    """Number of the last useful round, 0 = none.

    Parameters
    ----------
    rows : one per round, as :meth:`SaliencySums.rows` with ``held_out_accuracy`` and ``chance`` of its classifier beside it.
        Without held-out images (None) saliency alone decides.

    Rounds after one that is not useful are not asked: they erase what it mined wrongly.
    """
    for number, row in enumerate(rows):
        kept = [margin >= KEPT * first and margin > 0 for margin, first in zip(margins(row), margins(rows[0]), strict=True)]
        if not (all(kept) and row["new_area"] >= LEAST_AREA):
            return number
    return len(rows)
