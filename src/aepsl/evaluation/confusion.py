"""Counts of truth against prediction over a whole set, and the scores read from them.

One int64 matrix (1+C, 2+C): rows are true classes 0…C, columns predicted classes 0…C and, last, void (255). Pixels whose
truth is void are not counted at all. What a void *prediction* means is a choice that changes the score, so every
score names its policy:

``miss``        a pixel without an answer is missed by its true class and claimed by none; abstaining never helps.
``background``  no answer means background.
``left-out``    the pixel is removed; read the score with :func:`coverage` beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, Self

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader, decode_indices
from aepsl.errors import AepslError
from aepsl.parallel import in_processes

VoidAs = Literal["miss", "background", "left-out"]
CHUNK = 16  # images per task handed to a process


class Confusion:
    """A matrix that grows image by image and adds up over parts of the set.

    Attributes
    ----------
    classes : C, number of object classes, at most 254.
    matrix : (1+C, 2+C) int64.
    """

    def __init__(self, classes: int) -> None:
        if not 1 <= classes < VOID:
            raise ValueError(f"expected 1 to {VOID - 1} classes, got {classes}")
        self.classes = classes
        self.matrix = np.zeros((1 + classes, 2 + classes), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray, *, name: str = "image") -> Self:
        """Count one image.

        Parameters
        ----------
        truth, prediction : (H, W) integers 0…C, 255 = void.
        name : what to call the image in an error.
        """
        if truth.shape != prediction.shape:
            raise AepslError(f"{name}: expected a prediction of the truth's size, height and width {truth.shape}, "
                             f"found {prediction.shape}; predict at the image's own size")
        first, second = (_bytes(mask, self.classes, f"{name}: {role}") for mask, role in ((truth, "truth"), (prediction, "prediction")))
        joint = np.bincount((first.astype(np.uint16) << 8 | second).ravel(), minlength=1 << 16).reshape(256, 256)
        columns = [*range(1 + self.classes), VOID]
        for counts, role in ((joint.sum(1), "truth"), (joint.sum(0), "prediction")):
            if counts[columns].sum() != truth.size:
                _refuse(np.setdiff1d(np.flatnonzero(counts), columns), self.classes, f"{name}: {role}")
        self.matrix += joint[:1 + self.classes, columns]
        return self

    def merge(self, other: "Confusion") -> Self:
        """Add the counts of another part of the set."""
        if other.classes != self.classes:
            raise ValueError(f"expected counts of {self.classes} classes, got {other.classes}")
        self.matrix += other.matrix
        return self

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.classes).merge(self).merge(other)


def _bytes(mask: np.ndarray, classes: int, name: str) -> np.ndarray:
    if mask.dtype == np.uint8:
        return mask
    beyond = (mask < 0) | (mask > VOID) | (mask != np.trunc(mask))
    if beyond.any():
        _refuse(np.unique(mask[beyond]), classes, name)
    return mask.astype(np.uint8)


def _refuse(values: np.ndarray, classes: int, name: str) -> None:
    raise AepslError(f"{name}: expected values 0 to {classes} and {VOID} for void, found {', '.join(str(value) for value in values[:8])}; "
                     "it was made for other classes, or written in another numbering")


def _tallies(matrix: np.ndarray, void_as: VoidAs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels hit, true and predicted, each (..., 1+C) int64, under a policy; leading axes pass through."""
    answered, void = matrix[..., :-1], matrix[..., -1]
    hit = np.diagonal(answered, axis1=-2, axis2=-1).copy()
    true, predicted = answered.sum(-1), answered.sum(-2)
    if void_as == "miss":
        true = true + void
    elif void_as == "background":
        true = true + void
        hit[..., 0] += void[..., 0]
        predicted[..., 0] += void.sum(-1)
    elif void_as != "left-out":
        raise ValueError(f"expected void_as to be miss, background or left-out, got {void_as!r}")
    return hit, true, predicted


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64, NaN where the whole is 0."""
    ratio: np.ndarray = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return ratio


def iou(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Intersection over union per class, (..., 1+C) float64; NaN for a class that is neither in truth nor in prediction."""
    hit, true, predicted = _tallies(matrix, void_as)
    return _ratio(hit, true + predicted - hit)


def precision(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Share of the pixels predicted as a class that are of it, (..., 1+C); NaN where none is predicted."""
    hit, _, predicted = _tallies(matrix, void_as)
    return _ratio(hit, predicted)


def recall(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Share of the pixels of a class that are predicted as it, (..., 1+C); NaN where there are none."""
    hit, true, _ = _tallies(matrix, void_as)
    return _ratio(hit, true)


def mean_iou(matrix: np.ndarray, *, void_as: VoidAs) -> tuple[float, int]:
    """Mean over the classes that occur in truth or prediction, background included, and how many those are."""
    values = iou(matrix, void_as=void_as)
    counted = ~np.isnan(values)
    return (float(values[counted].mean()) if counted.any() else float("nan")), int(counted.sum())


def pixel_accuracy(matrix: np.ndarray, *, void_as: VoidAs) -> float:
    """Share of pixels predicted as their class."""
    hit, true, _ = _tallies(matrix, void_as)
    return float(_ratio(hit.sum(-1), true.sum(-1)))


def coverage(matrix: np.ndarray) -> float:
    """Share of pixels that have an answer, void predictions being none."""
    return float(_ratio(matrix[..., :-1].sum((-1, -2)), matrix.sum((-1, -2))))


def summary(matrix: np.ndarray, names: Sequence[str], *, void_as: VoidAs) -> dict[str, object]:
    """All scores as a dictionary for a metrics file; ``names`` are the C object classes."""
    mean, counted = mean_iou(matrix, void_as=void_as)
    everything = ["background", *names]
    per_class = {name: dict(zip(everything, map(float, score(matrix, void_as=void_as)), strict=True))
                 for name, score in (("iou", iou), ("precision", precision), ("recall", recall))}
    return {"mean_iou": mean, "classes_counted": counted, "pixel_accuracy": pixel_accuracy(matrix, void_as=void_as),
            "coverage": coverage(matrix), "void_as": void_as, "pixels": int(matrix.sum()), **per_class}


def evaluate_masks(ids: Sequence[str], truth: ArchiveReader, predict: Callable[[str], np.ndarray], classes: int, *,
                   processes: int = 0) -> Confusion:
    """Count ``predict(id)`` against the entry ``<id>.png`` of the truth, over all ids.

    Parameters
    ----------
    predict : id → mask (H, W) uint8, 0…C and 255; picklable where more than one process is used.
    processes : how many; 0 = one per core. The counts do not depend on it.
    """
    total = Confusion(classes)
    for part in in_processes(partial(_count, truth=truth, predict=predict, classes=classes), chunks(ids), processes=processes):
        total.merge(part)
    return total


def chunks(ids: Sequence[str]) -> list[list[str]]:
    """The ids in runs of :data:`CHUNK`, so that a process returns counts once per run and not once per image."""
    return [list(ids[start:start + CHUNK]) for start in range(0, len(ids), CHUNK)]


def _count(ids: Iterable[str], *, truth: ArchiveReader, predict: Callable[[str], np.ndarray], classes: int) -> Confusion:
    counts = Confusion(classes)
    for identifier in ids:
        counts.add(decode_indices(truth.read(f"{identifier}.png")), predict(identifier), name=identifier)
    return counts
