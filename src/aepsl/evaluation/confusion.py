"""Counts of truth against prediction over a whole set, and the scores read from them.

One int64 matrix (1+C, 2+C): rows are true classes 0…C, columns predicted classes 0…C and, last, void (255). Pixels whose
truth is void are not counted at all. What a void *prediction* means is a choice that changes the score, so every
score names its policy:

``miss``        a pixel without an answer is missed by its true class and claimed by none; abstaining never helps.
``background``  no answer means background.
``left-out``    the pixel is removed; read the score with :func:`coverage` beside it.

Of a single image only the :func:`margins` are kept: 4 (1+C) numbers instead of (1+C)(2+C), 7 MB for 10,582 images of 20
classes and 98 MB for 20,210 of 150. Every score of a set follows from their sum, under every policy.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple, Self, TypeVar

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader
from aepsl.errors import AepslError
from aepsl.parallel import ALONE, in_processes
from aepsl.progress import progress

VoidAs = Literal["miss", "background", "left-out"]
CHUNK = 16  # images per task handed to a process
J = TypeVar("J")
R = TypeVar("R")


class Confusion:
    """A matrix that grows image by image and adds up over parts of the set.

    >>> counts = Confusion(classes=1).add(np.array([[0, 0, 1, 1, 255]]), np.array([[0, 1, 1, 255, 1]]))
    >>> counts.matrix.tolist()  # of the background one pixel found and one claimed by class 1; of class 1 one found and one without an answer
    [[1, 1, 0], [0, 1, 1]]
    >>> [round(mean_iou(counts.matrix, void_as=policy)[0], 3) for policy in ("miss", "left-out")]
    [0.417, 0.5]

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
        self._places = np.full(256, -1)  # of a value of a mask, among 0…C and void; -1 = none
        self._places[[*range(1 + classes), VOID]] = np.arange(2 + classes)

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
        ends, lengths = _runs(first.ravel(), second.ravel())
        places = []
        for mask, role in ((first, "truth"), (second, "prediction")):
            values = mask.ravel()[ends]
            places.append(self._places[values])
            if (beyond := places[-1] < 0).any():
                _refuse(np.unique(values[beyond]), self.classes, f"{name}: {role}")
        # The weights make it float64, which is exact: no image has 2^53 pixels.
        joint = np.bincount(places[0] * (2 + self.classes) + places[1], lengths, (2 + self.classes)**2).reshape(2 + self.classes, -1)
        self.matrix += joint[:-1].astype(np.int64)
        return self

    def merge(self, other: "Confusion") -> Self:
        """Add the counts of another part of the set."""
        if other.classes != self.classes:
            raise ValueError(f"expected counts of {self.classes} classes, got {other.classes}")
        self.matrix += other.matrix
        return self

    def __add__(self, other: "Confusion") -> "Confusion":
        return Confusion(self.classes).merge(self).merge(other)


def _runs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Last places and lengths of the runs in which two masks (N,) uint8 both stay as they are: objects make few of them, some 2 % of the pixels."""
    last = np.ones(first.size, bool)
    last[:-1] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    ends = np.flatnonzero(last)
    return ends, np.diff(ends, prepend=-1)


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


def margins(matrix: np.ndarray) -> np.ndarray:
    """What scores need of a matrix (..., 1+C, 2+C): pixels per class, (..., 4, 1+C) of its type.

    The four are: predicted as their true class; of the class and answered; predicted as the class; of the class and
    predicted void. The margins of a sum are the sum of the margins.
    """
    answered = matrix[..., :-1]
    return np.stack([np.diagonal(answered, axis1=-2, axis2=-1), answered.sum(-1), answered.sum(-2), matrix[..., -1]], -2)


def _tallies(counts: np.ndarray, void_as: VoidAs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels hit, true and predicted, each (..., 1+C), under a policy, of margins (..., 4, 1+C)."""
    hit, answered, predicted, void = np.moveaxis(counts, -2, 0)
    if void_as == "miss":
        return hit, answered + void, predicted
    if void_as == "background":
        background = np.arange(void.shape[-1]) == 0
        return hit + void * background, answered + void, predicted + void.sum(-1, keepdims=True) * background
    if void_as == "left-out":
        return hit, answered, predicted
    raise ValueError(f"expected void_as to be miss, background or left-out, got {void_as!r}")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64, NaN where the whole is 0."""
    ratio: np.ndarray = np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)
    return ratio


def iou(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Intersection over union per class, (..., 1+C) float64; NaN for a class that is neither in truth nor in prediction."""
    return _iou(margins(matrix), void_as)


def precision(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Share of the pixels predicted as a class that are of it, (..., 1+C); NaN where none is predicted."""
    hit, _, predicted = _tallies(margins(matrix), void_as)
    return _ratio(hit, predicted)


def recall(matrix: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """Share of the pixels of a class that are predicted as it, (..., 1+C); NaN where there are none."""
    hit, true, _ = _tallies(margins(matrix), void_as)
    return _ratio(hit, true)


def _iou(counts: np.ndarray, void_as: VoidAs) -> np.ndarray:
    hit, true, predicted = _tallies(counts, void_as)
    return _ratio(hit, true + predicted - hit)


def mean_iou(matrix: np.ndarray, *, void_as: VoidAs) -> tuple[float, int]:
    """Mean over the classes that occur in truth or prediction, background included, and how many those are."""
    mean, counted = mean_iou_of(margins(matrix), void_as=void_as)
    return float(mean), int(counted)


def mean_iou_of(counts: np.ndarray, *, void_as: VoidAs) -> tuple[np.ndarray, np.ndarray]:
    """:func:`mean_iou` of many sets at once, (...) float64 and (...) int64, from their margins (..., 4, 1+C)."""
    values = _iou(counts, void_as)
    counted = ~np.isnan(values)
    number: np.ndarray = counted.sum(-1)
    return _ratio(np.where(counted, values, 0).sum(-1), number), number


def pixel_accuracy(matrix: np.ndarray, *, void_as: VoidAs) -> float:
    """Share of pixels predicted as their class."""
    hit, true, _ = _tallies(margins(matrix), void_as)
    return float(_ratio(hit.sum(-1), true.sum(-1)))


def coverage(matrix: np.ndarray) -> float:
    """Share of pixels that have an answer, void predictions being none."""
    return float(_ratio(matrix[..., :-1].sum((-1, -2)), matrix.sum((-1, -2))))


def convention(matrix: np.ndarray, names: Sequence[str], *, void_as: VoidAs) -> dict[str, object]:
    """What a mean IoU has to say beside its value: the policy, and which classes it is the mean of; ``names`` are all 1+C."""
    absent = np.isnan(iou(matrix, void_as=void_as))
    return {"void_as": void_as, "classes_counted": int((~absent).sum()),
            "classes_not_counted": [name for name, missing in zip(names, absent, strict=True) if missing]}


class Counted(NamedTuple):
    """Counts over a set of N images, and what the bootstrap needs of each.

    Attributes
    ----------
    matrix : (1+C, 2+C) int64, of :class:`Confusion`.
    images : (N, 4, 1+C) int64, :func:`margins` of each image, in the order of the ids; they add up to those of the matrix.
    """

    matrix: np.ndarray
    images: np.ndarray

    def per_class(self, *, void_as: VoidAs) -> dict[str, np.ndarray]:
        """Columns (1+C,): true pixels, images they occur in, IoU, precision and recall."""
        true = self.images[:, 1] + self.images[:, 3]
        return {"pixels": true.sum(0), "images": (true > 0).sum(0),
                **{score.__name__: score(self.matrix, void_as=void_as) for score in (iou, precision, recall)}}


def evaluate_masks(ids: Sequence[str], truth: ArchiveReader, predict: Callable[[str], np.ndarray], classes: int, *,
                   processes: int = 0) -> Counted:
    """Count ``predict(id)`` against the entry ``<id>.png`` of the truth, over all ids; without ids, everything is 0.

    Parameters
    ----------
    predict : id → mask (H, W) uint8, 0…C and 255; picklable where more than one process is used.
    processes : how many; 0 = one per core. The counts do not depend on it.
    """
    total, images = Confusion(classes), [np.zeros((0, 4, 1 + classes), np.int64)]
    for part, each in over_chunks(partial(_count, truth=truth, predict=predict, classes=classes), chunks(ids), processes=processes, label="score"):
        total.merge(part)
        images.append(each)
    return Counted(total.matrix, np.concatenate(images))


def chunks(ids: Sequence[str]) -> list[list[str]]:
    """The ids in runs of :data:`CHUNK`, so that a process returns counts once per run and not once per image."""
    return [list(ids[start:start + CHUNK]) for start in range(0, len(ids), CHUNK)]


def over_chunks(function: Callable[[list[J]], R], jobs: Sequence[list[J]], *, processes: int, label: str) -> Iterator[R]:
    """``function(job)`` of every job, a list of images each, in order and with progress by images."""
    results = in_processes(function, jobs, processes=processes, alone=ALONE)
    return progress(results, total=sum(map(len, jobs)), sizes=map(len, jobs), label=label)


def _count(ids: Iterable[str], *, truth: ArchiveReader, predict: Callable[[str], np.ndarray], classes: int) -> tuple[Confusion, np.ndarray]:
    total, images = Confusion(classes), []
    for identifier in ids:
        image = Confusion(classes).add(truth.mask(f"{identifier}.png"), predict(identifier), name=identifier)
        total.merge(image)
        images.append(margins(image.matrix))
    return total, np.stack(images)
