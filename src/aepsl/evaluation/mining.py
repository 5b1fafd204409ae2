"""How good the mined regions are, round by round, and the single-round baseline that erasing has to beat.

Scores on ground truth, for analysis only: nothing here may choose a threshold or a number of rounds.

Mining is a ladder of nested region sets: up to round 1, up to round 2, …; and so is one heatmap under a falling
threshold. Both are counted the same way: each pixel carries, per class, the number of rungs whose region holds it, and
one histogram gives all rungs at once.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import VoidAs, chunks, mean_iou, over_chunks

Row = dict[str, float | int]


@dataclass
class RungCounts:
    """Counts over images for each of R nested region sets, the largest first. Sums of parts are the counts of the whole.

    Attributes
    ----------
    matrix : (R, 1+C, 2+C) int64, truth against the mask "claimed by one class = that class, by several = void, by none = background".
    claims, hits : (R, C) int64, pixels claimed for a class, and those that are of it; a pixel claimed by two classes counts in both.
    objects : (C,) int64, pixels of a class in images labelled with it.
    area : (R,) int64, pixels claimed by any class, void truth included: what can be known without truth.
    pixels : all pixels, void truth included.
    """

    matrix: np.ndarray
    claims: np.ndarray
    hits: np.ndarray
    objects: np.ndarray
    area: np.ndarray
    pixels: int

    @classmethod
    def empty(cls, rungs: int, classes: int) -> Self:
        matrix, claims = np.zeros((rungs, 1 + classes, 2 + classes), np.int64), np.zeros((rungs, classes), np.int64)
        return cls(matrix, claims, claims.copy(), np.zeros(classes, np.int64), np.zeros(rungs, np.int64), 0)

    def merge(self, other: "RungCounts") -> Self:
        """Add the counts of other images."""
        for mine, theirs in ((self.matrix, other.matrix), (self.claims, other.claims), (self.hits, other.hits),
                             (self.objects, other.objects), (self.area, other.area)):
            mine += theirs
        self.pixels += other.pixels
        return self

    def add(self, rungs: Mapping[int, np.ndarray], truth: np.ndarray, *, name: str = "image") -> Self:
        """Count one image.

        Parameters
        ----------
        rungs : class c of the image's labels → (H, W) integers 0…R, how many of the R region sets hold the pixel.
        truth : (H, W) uint8 mask; 255 is not counted, except in ``area``.
        """
        count, classes = self.claims.shape
        for label, plane in rungs.items():
            if plane.shape != truth.shape:
                raise AepslError(f"{name}: expected regions of the truth's size, height and width {truth.shape}, found {plane.shape} for "
                                 f"class {label}; they were mined on other images, run `dvc repro`")
        known = truth != VOID
        row = truth.astype(np.int64)[known]
        if row.size and row.max() > classes:
            raise AepslError(f"{name}: truth: expected values 0 to {classes} and {VOID}, found {row.max()}; it was made for other classes")
        # Per pixel: rungs of the class that claims it longest, which class that is, and rungs of the next.
        first, column, second = np.zeros((3, *truth.shape), np.int64)
        for label, plane in rungs.items():
            column[plane > first] = label
            second = np.maximum(second, np.minimum(first, plane))
            first = np.maximum(first, plane)
            self.claims[:, label - 1] += _held(plane[known], count)
            self.hits[:, label - 1] += _held(plane[truth == label], count)
            self.objects[label - 1] += np.count_nonzero(truth == label)
        self.area += _held(first.ravel(), count)
        self.pixels += truth.size
        first, column, second = first[known], column[known], second[known]
        # A rung k claims the pixel for one class alone if second ≤ k < first, for several if k < second.
        shape = self.matrix.shape
        claimed = _held_by(row, column, first, shape) - _held_by(row, column, second, shape)
        claimed += _held_by(row, np.full_like(row, 1 + classes), second, shape)
        claimed[:, :, 0] = np.bincount(row, minlength=1 + classes) - claimed[:, :, 1:].sum(2)
        self.matrix += claimed
        return self

    def rows(self, *, void_as: VoidAs = "miss") -> list[Row]:
        """One row per region set: area (share of all pixels), precision (share of the claims that hit an object of their class),
        recall (share of the labelled classes' object pixels that their class claims), mean IoU of the regions alone."""
        table: list[Row] = []
        for matrix, claims, hits, area in zip(self.matrix, self.claims.sum(1), self.hits.sum(1), self.area, strict=True):
            mean, counted = mean_iou(matrix, void_as=void_as)
            table.append({"area": _share(area, self.pixels), "precision": _share(hits, claims), "recall": _share(hits, self.objects.sum()),
                          "mean_iou": mean, "classes_counted": counted})
        return table


def _held(rungs: np.ndarray, count: int) -> np.ndarray:
    """(R,) how many of the pixels are held by region set k = 0…R-1, that is have more than k rungs."""
    held: np.ndarray = np.bincount(rungs, minlength=count + 1)[::-1].cumsum()[::-1][1:]
    return held


def _held_by(row: np.ndarray, column: np.ndarray, rungs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """:func:`_held` for each cell (row, column) of a matrix: (R, rows, columns)."""
    count, rows, columns = shape
    cells = np.bincount((rungs * rows + row) * columns + column, minlength=(count + 1) * rows * columns).reshape(count + 1, rows, columns)
    held: np.ndarray = cells[::-1].cumsum(0)[::-1][1:]
    return held


def _share(part: int, whole: int) -> float:
    return float(part) / float(whole) if whole else float("nan")


def mined_rounds(ids: Sequence[str], truth: ArchiveReader, mined: ArchiveReader, labels: np.ndarray, *, rounds: int,
                 void_as: VoidAs = "miss", processes: int = 0) -> list[Row]:
    """Scores of the regions mined up to each round: :meth:`RungCounts.rows` with ``round`` 1…``rounds`` in front.

    Parameters
    ----------
    truth : entries ``<id>.png``, masks.
    mined : entries ``<id>/<c>.png`` for the labelled classes, (H, W) uint8: the round that mined the pixel, 0 = none.
    labels : (N, C) bool, image labels of the ids.
    void_as : what a pixel claimed by several classes counts as in the mean IoU.
    """
    if not rounds:
        return []
    counts = RungCounts.empty(rounds, labels.shape[1])
    work = partial(_count_mined, truth=truth, mined=mined, rounds=rounds, classes=labels.shape[1])
    for part in over_chunks(work, _labelled(ids, labels), processes=processes, label="score the regions"):
        counts.merge(part)
    return [{"round": number, **row} for number, row in enumerate(counts.rows(void_as=void_as)[::-1], 1)]


def threshold_curve(ids: Sequence[str], truth: ArchiveReader, heatmaps: Callable[[str], Mapping[int, np.ndarray]], classes: int, *,
                    levels: int = 256, void_as: VoidAs = "miss", processes: int = 1) -> list[Row]:
    """Scores of one round's heatmaps under every threshold: the oracle baseline, since picking from it needs truth.

    Parameters
    ----------
    heatmaps : id → {class of the image's labels: (H, W) float32 in [0, 1], image frame, normalised by the erase rule}.
    levels : thresholds 0, 1/levels, …; a power of two makes them exact. A pixel is mined where its heat is above.
    void_as : what a pixel claimed by several classes counts as in the mean IoU.

    Returns
    -------
    Rows of :meth:`RungCounts.rows`, ``threshold`` in front, ascending.
    """
    counts = RungCounts.empty(levels, classes)
    work = partial(_count_heat, truth=truth, heatmaps=heatmaps, levels=levels, classes=classes)
    for part in over_chunks(work, chunks(ids), processes=processes, label="score every threshold"):
        counts.merge(part)
    return [{"threshold": level / levels, **row} for level, row in enumerate(counts.rows(void_as=void_as))]


def at_equal(curve: Sequence[Mapping[str, float | int]], key: str, value: float) -> Row:
    """The point of a threshold curve with a given area or recall: threshold, area, precision, recall and mean IoU, linear between rows.

    NaN throughout where no threshold of the curve reaches the value. Of rows that share it, as where a lower threshold adds
    nothing but false pixels, the most precise stands for the baseline.

    Parameters
    ----------
    key : ``area`` or ``recall``.
    """
    points = sorted((row[key], -row["precision"], place) for place, row in enumerate(curve) if row["precision"] == row["precision"])
    values, first = np.unique([point[0] for point in points], return_index=True)
    rows = [curve[points[place][2]] for place in first]
    reached = bool(len(values)) and values[0] <= value <= values[-1]
    return {name: float(np.interp(value, values, [row[name] for row in rows])) if reached else float("nan")
            for name in ("threshold", "area", "precision", "recall", "mean_iou")}


def best_single(curve: Sequence[Mapping[str, float | int]]) -> Row:
    """The highest mean IoU of a threshold curve and its threshold, the lowest of equal ones: an oracle, it is picked with the truth."""
    best = max((row for row in curve if row["mean_iou"] == row["mean_iou"]), key=lambda row: row["mean_iou"], default=None)
    return dict(best) if best else {"threshold": float("nan"), "mean_iou": float("nan"), "classes_counted": 0}


def erasing_gains(rounds: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, float | int]]) -> list[dict[str, Any]]:
    """What each round of erasing gains over one round with a lower threshold.

    Parameters
    ----------
    rounds : rows of :func:`mined_rounds`.
    curve : rows of :func:`threshold_curve` on the heatmaps of round 1 alone.

    Returns
    -------
    One row per round: its own scores, those of the curve at the same area and at the same recall (NaN where the curve does
    not reach), and the differences in precision.
    """
    table = []
    for row in rounds:
        area, recall = (at_equal(curve, key, row[key]) for key in ("area", "recall"))
        table.append({
            "round": row["round"], "area": row["area"], "precision": row["precision"], "recall": row["recall"], "miou": row["mean_iou"],
            "single_precision_at_equal_area": area["precision"], "single_recall_at_equal_area": area["recall"],
            "single_miou_at_equal_area": area["mean_iou"], "single_precision_at_equal_recall": recall["precision"],
            "gain_precision_at_equal_area": row["precision"] - area["precision"],
            "gain_precision_at_equal_recall": row["precision"] - recall["precision"]})
    return table


def part_recall(ids: Sequence[str], truth: ArchiveReader, mined: ArchiveReader, labels: np.ndarray, parts: Callable[[str], np.ndarray], *,
                rounds: int, names: Sequence[str] = ("head", "body"), processes: int = 0) -> list[Row]:
    """Share of each part's pixels that is mined, for the part's own class, up to each round.

    Parameters
    ----------
    parts : id → (H, W) uint8, k = part ``names[k-1]`` of an object, 0 = none.

    Returns
    -------
    One row per round: ``round``, then one share per part.
    """
    held = np.zeros((len(names), rounds), np.int64)
    total = np.zeros(len(names), np.int64)
    work = partial(_count_parts, truth=truth, mined=mined, parts=parts, rounds=rounds, kinds=len(names))
    for some_held, some_total in over_chunks(work, _labelled(ids, labels), processes=processes, label="score the parts"):
        held += some_held
        total += some_total
    return [{"round": number, **{name: _share(held[kind, rounds - number], total[kind]) for kind, name in enumerate(names)}}
            for number in range(1, rounds + 1)]


Job = list[tuple[str, list[int]]]


def _labelled(ids: Sequence[str], labels: np.ndarray) -> list[Job]:
    """Ids with their class numbers, in chunks."""
    classes = {identifier: (np.flatnonzero(row) + 1).tolist() for identifier, row in zip(ids, labels, strict=True)}
    return [[(identifier, classes[identifier]) for identifier in chunk] for chunk in chunks(ids)]


def _rounds_left(job: Job, mined: ArchiveReader, rounds: int) -> Iterator[tuple[str, dict[int, np.ndarray]]]:
    """Id → class → (H, W) in how many of the sets "up to round R, …, up to round 1" the pixel is: mined in round r, it is in R + 1 - r."""
    for identifier, classes in job:
        regions = {label: mined.mask(f"{identifier}/{label}.png").astype(np.int64) for label in classes}
        last = max((int(region.max()) for region in regions.values()), default=0)
        if last > rounds:
            raise AepslError(f"{mined.path}: {identifier}: expected rounds up to {rounds}, found {last}; run `dvc repro`")
        yield identifier, {label: np.where(region > 0, rounds + 1 - region, 0) for label, region in regions.items()}


def _count_mined(job: Job, *, truth: ArchiveReader, mined: ArchiveReader, rounds: int, classes: int) -> RungCounts:
    counts = RungCounts.empty(rounds, classes)
    for identifier, rungs in _rounds_left(job, mined, rounds):
        counts.add(rungs, truth.mask(f"{identifier}.png"), name=identifier)
    return counts


def _count_heat(ids: Iterable[str], *, truth: ArchiveReader, heatmaps: Callable[[str], Mapping[int, np.ndarray]], levels: int,
                classes: int) -> RungCounts:
    counts = RungCounts.empty(levels, classes)
    for identifier in ids:
        heats = heatmaps(identifier)
        for label, heat in heats.items():
            if not (heat.min(initial=0) >= 0 and heat.max(initial=0) <= 1):
                raise ValueError(f"{identifier}: expected the heatmap of class {label} in [0, 1], got {heat.min()} to {heat.max()}")
        rungs = {label: np.ceil(heat * np.float32(levels)).astype(np.int64) for label, heat in heats.items()}  # thresholds k/levels < heat
        counts.add(rungs, truth.mask(f"{identifier}.png"), name=identifier)
    return counts


def _count_parts(job: Job, *, truth: ArchiveReader, mined: ArchiveReader, parts: Callable[[str], np.ndarray], rounds: int,
                 kinds: int) -> tuple[np.ndarray, np.ndarray]:
    held, total = np.zeros((kinds, rounds), np.int64), np.zeros(kinds, np.int64)
    for identifier, rungs in _rounds_left(job, mined, rounds):
        mask, part = truth.mask(f"{identifier}.png"), parts(identifier)
        for kind in range(kinds):
            for label, plane in rungs.items():
                own = (part == kind + 1) & (mask == label)
                held[kind] += _held(plane[own], rounds)
                total[kind] += np.count_nonzero(own)
    return held, total
