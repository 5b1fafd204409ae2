"""The index: which images there are, their split, size and image-level labels. The only labels training may read."""

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError

SPLITS = ("train", "val", "test")
FIXED = ("id", "split", "width", "height")


@dataclass(frozen=True)
class Index:
    """One row per image, sorted by id.

    Attributes
    ----------
    classes : names of the C object classes; class c of a mask is ``classes[c - 1]``, 0 is background.
    ids : N distinct strings.
    splits : N strings out of :data:`SPLITS`.
    sizes : (N, 2) int, width and height in pixels of the original image.
    labels : (N, C) bool, image-level labels; all False where unknown (test).
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, *names: str) -> "Index":
        """The rows of the named splits."""
        return self.take([row for row, split in enumerate(self.splits) if split in names])

    def hold_out(self, share: float) -> tuple["Index", "Index"]:
        """Two parts, the second with about ``share`` of the images; which image goes where depends on its id alone."""
        held = [int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") < share * 2**64 for identifier in self.ids]
        fit, out = ([row for row, is_out in enumerate(held) if is_out == part] for part in (False, True))
        return self.take(fit), self.take(out)

    def take(self, rows: Sequence[int]) -> "Index":
        """The given rows, in that order."""
        return Index(self.classes, tuple(self.ids[row] for row in rows), tuple(self.splits[row] for row in rows),
                     self.sizes[list(rows)].reshape(-1, 2), self.labels[list(rows)].reshape(-1, len(self.classes)))


def write_index(index: Index, path: str | os.PathLike[str]) -> None:
    """Write the index as CSV: id, split, width, height, then one 0/1 column per class, in class order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIXED, *index.classes])
    for row, identifier in enumerate(index.ids):
        writer.writerow([identifier, index.splits[row], *index.sizes[row].tolist(), *index.labels[row].astype(int).tolist()])
    write_atomically(path, buffer.getvalue().encode())


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read an index written by :func:`write_index`."""
    try:
        rows = list(csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; `dvc repro prepare` makes it") from None
    if not rows or tuple(rows[0][:4]) != FIXED:
        raise AepslError(f"{path}: expected a header starting with {','.join(FIXED)}, found {rows[:1]}; run `dvc repro -f prepare`")
    header, body = rows[0], rows[1:]
    short = [number for number, row in enumerate(body, 2) if len(row) != len(header)]
    if short:
        raise AepslError(f"{path}: expected {len(header)} columns, line {short[0]} has another number; run `dvc repro -f prepare`")
    try:
        sizes = np.array([row[2:4] for row in body], int).reshape(-1, 2)
        labels = np.array([row[4:] for row in body], int).reshape(-1, len(header) - 4).astype(bool)
    except ValueError as error:
        raise AepslError(f"{path}: expected whole numbers behind id and split, found another value ({error}); run `dvc repro -f prepare`") from None
    return Index(tuple(header[4:]), tuple(row[0] for row in body), tuple(row[1] for row in body), sizes, labels)
